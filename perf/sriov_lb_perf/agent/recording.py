# SPDX-License-Identifier: Apache-2.0
"""What is taken down while a job runs, at the least cost."""

from __future__ import annotations

import array
import base64
import collections
import gc
import sys
import time
import zlib

FINE_SHIFT = 9  # 512 ns: below the 1 us asked for at 100 us
FINE_BINS = 1 << 14  # 8.4 ms of fine bins; slower responses go to a list, binned coarser
COARSE_SHIFT = 13  # 8 us, at most 0.1 % of a value beyond the fine bins
COARSE_BITS = 11  # of a longer one, as many are kept: 0.1 % again, so few bins however many values

clock = time.perf_counter_ns


class Counts:
    """A histogram that costs one list increment per value in the hot path.

    ``fine[v >> FINE_SHIFT] += 1`` is written out in the loops; what does not fit raises
    IndexError there and goes to ``over``, which is emptied at each report. :meth:`add` needs no
    such emptying.
    """

    def __init__(self) -> None:
        self.fine = [0] * FINE_BINS
        self.over = array.array("q")
        self._coarse = collections.defaultdict(int)  # (shift, value >> shift) -> count

    def add(self, value: int) -> None:
        if 0 <= value >> FINE_SHIFT < FINE_BINS:
            self.fine[value >> FINE_SHIFT] += 1
        else:
            self._add_coarse(value)

    def _add_coarse(self, value: int) -> None:
        shift = max(COARSE_SHIFT, value.bit_length() - COARSE_BITS)
        self._coarse[shift, value >> shift] += 1

    def clear(self) -> None:
        self.fine[:] = [0] * FINE_BINS
        del self.over[:]
        self._coarse.clear()

    def take(self) -> list:
        """The sparse histograms of what came in since the last call, one for each width."""
        for value in self.over:
            self._add_coarse(value)
        parts = {FINE_SHIFT: [[i, n] for i, n in enumerate(self.fine) if n]}
        for (shift, index), count in sorted(self._coarse.items()):
            parts.setdefault(shift, []).append([index, count])
        self.clear()
        return [{"shift": shift, "bins": bins} for shift, bins in parts.items()]


def pack(values: array.array) -> str:
    """Raw int64 times as text: little-endian, zlib, base64."""
    if sys.byteorder == "big":
        values = array.array("q", values)
        values.byteswap()
    return base64.b64encode(zlib.compress(values.tobytes(), 1)).decode("ascii")


class quiet_gc:
    """No garbage collection while times are taken: a collection is a pause of milliseconds."""

    def __enter__(self):
        gc.collect()
        gc.disable()

    def __exit__(self, *exc):
        gc.enable()
