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

clock = time.perf_counter_ns


class Counts:
    """A histogram that costs one list increment per value in the hot path.

    ``fine[v >> FINE_SHIFT] += 1`` is written out in the loops; what does not fit raises
    IndexError there and goes to ``over``.
    """

    def __init__(self) -> None:
        self.fine = [0] * FINE_BINS
        self.over = array.array("q")

    def add(self, value: int) -> None:
        if 0 <= value >> FINE_SHIFT < FINE_BINS:
            self.fine[value >> FINE_SHIFT] += 1
        else:
            self.over.append(value)

    def clear(self) -> None:
        self.fine[:] = [0] * FINE_BINS
        del self.over[:]

    def take(self) -> list:
        """The two sparse histograms of what came in since the last call."""
        fine = [[i, n] for i, n in enumerate(self.fine) if n]
        coarse = collections.Counter(v >> COARSE_SHIFT for v in self.over)
        self.clear()
        return [
            {"shift": FINE_SHIFT, "bins": fine},
            {"shift": COARSE_SHIFT, "bins": sorted(map(list, coarse.items()))},
        ]


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
