# SPDX-License-Identifier: Apache-2.0
"""Ratios of paired runs and goals, in words for a table."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from sriov_lb_perf.statistics.estimates import Interval, interval


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """Ours over theirs, paired by round: Hodges-Lehmann with its 95 % bootstrap interval."""
    logs = [math.log(a / b) for a, b in zip(ours, theirs, strict=True)]
    return interval(logs).map(math.exp)


def shown(found: Interval) -> str:
    """Such as "1.08 (0.97 – 1.21)"; fewer digits where they mean nothing."""
    digits = 2 if found.estimate < 10 else 1
    return "{:.{d}f} ({:.{d}f} – {:.{d}f})".format(
        found.estimate, found.low, found.high, d=digits
    )


def in_words(found: Interval) -> str:
    """Ours beside another tool's, where more is better."""
    if found.contains(1.0):
        return "on a par"
    return "faster" if found.low > 1 else "slower"


def least(found: Interval, goal: float) -> tuple[str, bool]:
    """(in words whether a ratio is at least ``goal``, whether the goal counts as reached).

    A goal of 1 is reached by a ratio that cannot be told from it, and called so; any other by
    the estimate, and it is said where the interval leaves that open.
    """
    if found.low >= goal:
        word, reached = "reached", True
    elif found.high < goal:
        word, reached = "missed", False
    elif goal == 1.0:
        word, reached = "on a par", True
    else:
        reached = found.estimate >= goal
        word = ("reached" if reached else "missed") + ", not beyond doubt"
    return f"at least {goal:g}: {word}", reached


def most(value: float, goal: float, text: str) -> tuple[str, bool]:
    """(in words whether a figure is at most ``goal``, whether it is).

    :param text: the goal as a person writes it, such as ``100 µs``.
    """
    reached = value <= goal
    return f"at most {text}: {'reached' if reached else 'missed'}", reached


#: Seconds in one of wrk2's units.
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


def wrk2_latency(said: str, q: float) -> float:
    """A percentile, µs, of what ``wrk2 --latency`` prints: from the intended time.

    :raises ValueError: it is not there.
    """
    found = re.search(rf"^\s*{q:.3f}%\s+([\d.]+)(us|ms|s|m)\s*$", said, re.M)
    if found is None:
        raise ValueError(f"no {q:g}th percentile in: {said[-500:]!r}")
    return float(found[1]) * _UNITS[found[2]] * 1e6
