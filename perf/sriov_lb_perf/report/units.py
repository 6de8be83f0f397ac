# SPDX-License-Identifier: Apache-2.0
"""Figures for people: units chosen by size, never more digits than mean something."""

from __future__ import annotations

import math

from ..results.store import number

SCALES = {
    "ns": ((1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns")),
    "bit/s": ((1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s"), (1.0, "bit/s")),
    "1/s": ((1.0, "/s"),),
    "share": ((0.01, "%"),),
    "1": ((1.0, ""),),
}

#: What a figure that is not there looks like.
ABSENT = "–"


def scale_for(values, unit: str) -> tuple[float, str]:
    """(divisor, unit name) that suits the median size of ``values``."""
    sizes = sorted(abs(v) for v in map(number, values) if math.isfinite(v) and v)
    size = sizes[len(sizes) // 2] if sizes else 0.0
    for divisor, name in SCALES[unit]:
        if size >= divisor:
            return divisor, name
    return SCALES[unit][-1]


def digits(value: float, significant: int = 3) -> str:
    """With thousands separated, and that many significant digits where there is a fraction."""
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if math.isnan(value):
        return ABSENT
    if value == 0:
        return "0"
    decimals = max(0, significant - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(decimals, 6)}f}"


def quantity(value, unit: str) -> str:
    """Such as "538 µs" or "24,600 /s"."""
    value = number(value)
    if not math.isfinite(value):
        return digits(value)
    divisor, name = scale_for([value], unit)
    return f"{digits(value / divisor)} {name}".strip()


def ratio(interval) -> str:
    """Such as "1.86 (1.75 to 1.98)"."""
    if interval is None:
        return ABSENT
    parts = [number(interval[key]) for key in ("estimate", "low", "high")]
    return "{} ({} to {})".format(*(digits(part) for part in parts))


def percent(value, signed: bool = False) -> str:
    """A share as a percentage."""
    value = number(value)
    if not math.isfinite(value):
        return digits(value)
    if abs(value) >= 10:
        return "> 1,000 %"
    sign = "+" if signed and value > 0 else ""
    return f"{sign}{digits(value * 100, 2 if abs(value) < 0.1 else 3)} %"


def resolution(metric) -> str:
    """The smallest effect a run would have found in a metric, such as "4.2 % (31 µs)"."""
    share = number(metric["smallest_effect"])
    text = percent(share)
    size = share * number(metric["values"]["A"]["value"])
    if metric["unit"] == "ns" and math.isfinite(size) and share < 10:
        text += f" ({quantity(size, 'ns')})"
    return text


def probability(value) -> str:
    """A p value."""
    value = number(value)
    if math.isnan(value):
        return ABSENT
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
