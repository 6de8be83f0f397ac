# SPDX-License-Identifier: Apache-2.0
"""Latency distributions: counted with numpy, stored and exchanged in HdrHistogram's format.

hdrhistogram's own ``record_value`` costs 1.3 us a value; numpy bins a million values in 35 ms
into the same buckets. So the layout is HdrHistogram's (3 significant digits, so at most 64 ns
at 100 us), and the package is used for what it alone can do: the V2 encoding.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

LOWEST = 1  # ns
HIGHEST = 3_600 * 10**9  # ns: one hour
DIGITS = 3
_HALF_BITS = 10  # 2^11 sub-buckets hold 3 significant digits
_HALF = 1 << _HALF_BITS
_BUCKETS = (HIGHEST >> (_HALF_BITS + 1)).bit_length() + 1
SIZE = (_BUCKETS + 1) * _HALF


def index_of(values: np.ndarray) -> np.ndarray:
    """Index of the bucket of each value (int64 ns, 0 ≤ value ≤ HIGHEST)."""
    values = np.asarray(values, dtype=np.int64)
    # frexp is exact below 2^53 ns (104 days): the exponent is the bit length.
    length = np.frexp(np.maximum(values, 2 * _HALF - 1).astype(np.float64))[1]
    bucket = length - (_HALF_BITS + 1)
    return bucket * _HALF + (values >> bucket)


def _edges() -> tuple[np.ndarray, np.ndarray]:
    """Lowest value of each bucket, and the bucket's width, in ns."""
    index = np.arange(SIZE, dtype=np.int64)
    bucket = np.maximum((index >> _HALF_BITS) - 1, 0)
    sub = index - bucket * _HALF
    return sub << bucket, np.int64(1) << bucket


_LOW, _WIDTH = _edges()
MIDDLE = _LOW + (_WIDTH - 1) / 2.0


class Histogram:
    """Counts of durations in ns, and of requests that were lost.

    A lost request has an infinite duration (RFC 7679): it is part of every percentile, so a
    percentile that falls among the lost ones is ``inf``.
    """

    __slots__ = ("counts", "lost")

    def __init__(self, counts: np.ndarray | None = None, lost: int = 0) -> None:
        self.counts = np.zeros(SIZE, dtype=np.int64) if counts is None else counts
        self.lost = lost

    @classmethod
    def of(cls, values: Iterable[int] | np.ndarray, lost: int = 0) -> Histogram:
        """Of durations in ns. Negative ones (a clock that stepped) are a ValueError."""
        values = np.asarray(values, dtype=np.int64)
        if values.size and values.min() < 0:
            raise ValueError(f"a duration of {values.min()} ns: a clock went backwards")
        values = np.minimum(values, HIGHEST)
        return cls(np.bincount(index_of(values), minlength=SIZE).astype(np.int64), lost)

    @classmethod
    def of_sparse(cls, parts: Sequence[Mapping]) -> Histogram:
        """Of the agent's sparse form, ``{"shift": s, "bins": [[index, count], …]}`` each.

        A bin is taken to be at its middle.
        """
        total = cls()
        for part in parts:
            if not part["bins"]:
                continue
            bins = np.array(part["bins"], dtype=np.int64)
            shift = part["shift"]
            values = np.minimum((bins[:, 0] << shift) + (1 << shift >> 1), HIGHEST)
            np.add.at(total.counts, index_of(values), bins[:, 1])
        return total

    def __len__(self) -> int:
        return int(self.counts.sum()) + self.lost

    def __add__(self, other: Histogram) -> Histogram:
        return Histogram(self.counts + other.counts, self.lost + other.lost)

    def add(self, other: Histogram) -> None:
        self.counts += other.counts
        self.lost += other.lost

    def percentile(self, q: float) -> float:
        """The value (ns) that ``q`` percent of all, lost ones included, do not exceed.

        NaN when there is none at all.
        """
        return float(self.percentiles([q])[0])

    def percentiles(self, qs: Sequence[float]) -> np.ndarray:
        """Like :meth:`percentile`, for many."""
        total = len(self)
        if not total:
            return np.full(len(qs), np.nan)
        running = np.cumsum(self.counts)
        # The smallest rank that covers q percent; the tolerance keeps 99.9 % of 1000 at 999.
        ranks = np.maximum(1, np.ceil(np.asarray(qs) / 100.0 * total - 1e-9))
        at = np.searchsorted(running, ranks)
        values = np.full(len(qs), np.inf)
        finite = at < SIZE
        values[finite] = MIDDLE[at[finite]]
        return values

    @property
    def minimum(self) -> float:
        """Smallest duration, ns; NaN when there is none."""
        filled = np.flatnonzero(self.counts)
        return float(_LOW[filled[0]]) if filled.size else math.nan

    @property
    def maximum(self) -> float:
        """Largest finite duration, ns; NaN when there is none."""
        filled = np.flatnonzero(self.counts)
        return float(_LOW[filled[-1]] + _WIDTH[filled[-1]] - 1) if filled.size else math.nan

    def mean(self) -> float:
        """Mean of the finite durations, ns."""
        total = int(self.counts.sum())
        return float((self.counts * MIDDLE).sum() / total) if total else math.nan

    def stretch(self) -> tuple[np.ndarray, np.ndarray]:
        """(values in ns, counts) of the buckets that hold something."""
        filled = np.flatnonzero(self.counts)
        return MIDDLE[filled], self.counts[filled]

    def encode(self) -> str:
        """HdrHistogram's V2 encoding, as text. Lost requests are not part of that format."""
        import ctypes

        from hdrh.histogram import HdrHistogram

        out = HdrHistogram(LOWEST, HIGHEST, DIGITS)
        data = np.zeros(out.counts_len, dtype=np.int64)
        data[: min(SIZE, out.counts_len)] = self.counts[: out.counts_len]
        ctypes.memmove(out.counts, data.ctypes.data, data.nbytes)
        filled = np.flatnonzero(data)
        if filled.size:
            out.set_internal_tacking_values(int(filled[0]), int(filled[-1]), int(data.sum()))
        return out.encode().decode("ascii")

    @classmethod
    def decode(cls, text: str, lost: int = 0) -> Histogram:
        """The reverse of :meth:`encode`.

        :raises ValueError: it is not such a text, or has another resolution.
        """
        from hdrh.histogram import HdrHistogram

        try:
            found = HdrHistogram.decode(text.encode("ascii"))
        except Exception as error:  # hdrh raises its own, zlib's and base64's errors
            raise ValueError(f"not an HdrHistogram V2 text: {error}") from error
        if found.significant_figures != DIGITS or found.lowest_trackable_value != LOWEST:
            raise ValueError(
                f"histogram with {found.significant_figures} digits from "
                f"{found.lowest_trackable_value}; expected {DIGITS} from {LOWEST}"
            )
        counts = np.zeros(SIZE, dtype=np.int64)
        data = np.ctypeslib.as_array(found.counts)[:SIZE]
        counts[: len(data)] = data
        return cls(counts, lost)


def merge(parts: Iterable[Histogram]) -> Histogram:
    """The sum of many."""
    total = Histogram()
    for part in parts:
        total.add(part)
    return total
