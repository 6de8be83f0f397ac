# SPDX-License-Identifier: Apache-2.0
"""Sets of integers as sorted, disjoint, non-adjacent closed intervals: the canonical form.

Two ways to write one set (two halves, or the whole; a prefix, or a range) get one form, which
keeps the proof small: what is equal becomes identical.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable

Intervals = tuple[tuple[int, int], ...]


def canonical(pairs: Iterable[tuple[int, int]]) -> Intervals:
    """Sort and merge; ``(low, high)`` are inclusive."""
    merged: list[list[int]] = []
    for low, high in sorted(pairs):
        if low > high:
            raise ValueError(f"an interval from {low} to {high}")
        if merged and low <= merged[-1][1] + 1:
            merged[-1][1] = max(merged[-1][1], high)
        else:
            merged.append([low, high])
    return tuple((low, high) for low, high in merged)


def everything(version: int) -> Intervals:
    """All addresses of an IP version."""
    return ((0, (1 << (32 if version == 4 else 128)) - 1),)


def complement(intervals: Intervals, width: int) -> Intervals:
    """Everything of ``width`` bits that is not in ``intervals``."""
    found, start = [], 0
    for low, high in intervals:
        if low > start:
            found.append((start, low - 1))
        start = high + 1
    if start < 1 << width:
        found.append((start, (1 << width) - 1))
    return tuple(found)


def contains(intervals: Intervals, value: int) -> bool:
    """Binary search."""
    first, last = 0, len(intervals)
    while first < last:
        middle = (first + last) // 2
        low, high = intervals[middle]
        if value < low:
            last = middle
        elif value > high:
            first = middle + 1
        else:
            return True
    return False


@functools.lru_cache(maxsize=65536)
def address(text: str) -> tuple[int, int]:
    """``(version, number)`` of an address.

    :raises ValueError: it is none.
    """
    if ":" in text:
        return 6, int(ipaddress.IPv6Address(text))
    return 4, int(ipaddress.IPv4Address(text))


@functools.lru_cache(maxsize=65536)
def network(text: str) -> tuple[int, tuple[int, int]]:
    """``(version, (first, last))`` of an address or CIDR; host bits are ignored."""
    base, _, length = text.partition("/")
    version, number = address(base)
    width = 32 if version == 4 else 128
    free = width - int(length) if length else 0
    if not 0 <= free <= width:
        raise ValueError(f"{text} is not a network")
    low = number >> free << free
    return version, (low, low | ((1 << free) - 1))


def text_of(number: int, version: int) -> str:
    """An address from its number."""
    kind = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address
    return str(kind(number))


def describe(intervals: Intervals, version: int, limit: int = 6) -> str:
    """Addresses of one family as CIDRs, for people."""
    names: list[str] = []
    for low, high in intervals:
        kind = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address
        names += [str(n) for n in ipaddress.summarize_address_range(kind(low), kind(high))]
    more = f", … ({len(names)} in all)" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
