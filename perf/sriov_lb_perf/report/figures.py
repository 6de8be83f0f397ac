# SPDX-License-Identifier: Apache-2.0
"""Figures as plotly's JSON, each with the words and the table that say the same.

Plain dictionaries: plotly.py's classes would validate them in seconds where milliseconds do.
The two VIPs differ in colour, in marker and in dash, so that neither colour vision nor a colour
printer is needed (Okabe and Ito's palette).
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..model import in_a_sentence
from ..results.store import number
from . import units

COLOUR = {"A": "#0072B2", "B": "#D55E00"}
MARKER = {"A": "circle", "B": "diamond"}
DASH = {"A": "dash", "B": "solid"}
WORDS = {
    "faster": "#00704A",
    "slower": "#A8322A",
    "equivalent": "#4A4A4A",
    "could not tell": "#8A6D00",
    "not tested": "#6B6B6B",
}
FONT = "system-ui, -apple-system, 'Segoe UI', 'Liberation Sans', sans-serif"


@dataclass(frozen=True)
class Figure:
    """A plot, what it shows in a sentence, and its numbers as a table."""

    identifier: str
    title: str
    summary: str
    data: list[dict]
    layout: dict
    columns: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)

    def spec(self) -> dict[str, Any]:
        return {"id": self.identifier, "data": self.data, "layout": self.layout}


def layout(x: Mapping, y: Mapping, **more) -> dict:
    """What all figures share."""
    axis = {"gridcolor": "#E3E3E3", "zeroline": False, "linecolor": "#888", "automargin": True}
    return {
        "font": {"family": FONT, "size": 13, "color": "#1B1B1B"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "#FFFFFF",
        "margin": {"l": 56, "r": 12, "t": 12, "b": 58},
        "height": more.pop("height", 340),
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "hoverlabel": {"font": {"family": FONT}},
        "xaxis": {**axis, **x},
        "yaxis": {**axis, **y},
        **more,
    }


def role(document: Mapping, side: str) -> str:
    return {"sriov": "SR-IOV"}.get(
        document["targets"][side]["role"], document["targets"][side]["role"]
    )


def label(document: Mapping, metric: Mapping) -> str:
    """A metric's title; where several stages have one of that title, with the stage's."""
    same = [m for m in document["metrics"] if m["title"] == metric["title"] and m["tested"]]
    if len({m["stage"] for m in same}) < 2:
        return metric["title"]
    stage = next((s for s in document["stages"] if s["name"] == metric["stage"]), None)
    return f"{metric['title']} ({stage['title'] if stage else metric['stage']})"


def summary(document: Mapping) -> list[tuple[str, ...]]:
    """A header and a row per tested metric, as a person reads it: both VIPs, ratio, the smallest
    effect that the run would have found, verdict."""
    roles = (document["targets"][side]["role"] for side in ("A", "B"))
    return [
        ("metric", *roles, "ratio (95 %)", "could have seen", "verdict"),
        *(
            (
                label(document, metric),
                *(
                    units.quantity(metric["values"][side]["value"], metric["unit"])
                    for side in ("A", "B")
                ),
                units.ratio(metric["ratio"]),
                units.resolution(metric),
                metric["verdict"],
            )
            for metric in document["metrics"]
            if metric["tested"]
        ),
    ]


def forest(document: Mapping) -> Figure | None:
    """Every tested metric's ratio with its interval, turned so that right is better."""
    margin = document["profile"]["margin"]
    rows, table = [], []
    for metric in document["metrics"]:
        if not metric["tested"] or metric["ratio"] is None:
            continue
        figures = [number(metric["ratio"][key]) for key in ("estimate", "low", "high")]
        if metric["better"] == "lower":
            figures = [1 / figures[0], 1 / figures[2], 1 / figures[1]]
        rows.append((metric, figures))
        table.append(
            [label(document, metric), units.ratio(metric["ratio"]), metric["verdict"]]
        )
    if not rows:
        return None
    data = []
    for word, colour in WORDS.items():
        chosen = [(m, f) for m, f in rows if m["verdict"] == word]
        if not chosen:
            continue
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": word,
                "x": [f[0] for _, f in chosen],
                "y": [_wrap(label(document, m)) for m, _ in chosen],
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": [f[2] - f[0] for _, f in chosen],
                    "arrayminus": [f[0] - f[1] for _, f in chosen],
                    "thickness": 2,
                    "width": 6,
                },
                "marker": {"color": colour, "size": 11},
                "hovertemplate": "%{y}: %{x:.3f}<extra>" + word + "</extra>",
            }
        )
    low = min(f[1] for _, f in rows) / 1.1
    high = max(f[2] for _, f in rows) * 1.1
    low, high = min(low, 0.8), max(high, 1.25)
    few = (0.01, 0.1, 1, 10, 100)
    some = (0.1, 0.3, 1, 3, 10)
    many = (0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 4)
    span = high / low
    ticks = few if span > 100 else some if span > 8 else many
    ticks = [t for t in ticks if low <= t <= high]
    # Neighbours closer than a label is wide are left out.
    while len(ticks) > 6:
        ticks = ticks[::2] if 1 in ticks[::2] else ticks[1::2]
    order = [_wrap(label(document, metric)) for metric, _ in rows][::-1]
    return Figure(
        "forest",
        "How many times better",
        f"Ratio of the {role(document, 'B')} to the {role(document, 'A')} VIP with its 95 % "
        "interval, turned so that right of 1 is better for every metric. Grey: too small to "
        f"matter (within {margin:.0%}).",
        data,
        layout(
            {
                "type": "log",
                "range": [math.log10(low), math.log10(high)],
                "tickvals": ticks,
                "ticktext": [f"{t:g}" for t in ticks],
                "title": {"text": "times better"},
            },
            {"categoryorder": "array", "categoryarray": order, "ticks": ""},
            height=110 + sum(16 + 15 * (text.count("<br>") + 1) for text in order),
            shapes=[
                {
                    "type": "rect", "xref": "x", "yref": "paper", "layer": "below",
                    "x0": 1 / (1 + margin), "x1": 1 + margin, "y0": 0, "y1": 1,
                    "fillcolor": "#EDEDED", "line": {"width": 0},
                },
                {
                    "type": "line", "xref": "x", "yref": "paper", "x0": 1, "x1": 1,
                    "y0": 0, "y1": 1, "line": {"color": "#555", "width": 1},
                },
            ],
        ),
        ["Metric", "Ratio (95 % interval)", "Verdict"],
        table,
    )  # fmt: skip


def _wrap(text: str) -> str:
    """In lines short enough to stand beside a figure on a telephone."""
    return "<br>".join(textwrap.wrap(text, 16))


def by_percentile(document: Mapping, stage: Mapping, histogram: str) -> Figure | None:
    """The HDR plot: latency against percentile, the tail stretched."""
    sides = stage["curves"].get(histogram)
    if not sides:
        return None
    finite = [
        number(value)
        for curve in sides.values()
        for _, value in curve["percentiles"]
        if math.isfinite(number(value))
    ]
    divisor, unit = units.scale_for(finite, "ns")
    data, table = [], {}
    deepest = 1.0
    for side, curve in sides.items():
        xs, ys, texts = [], [], []
        for q, value in curve["percentiles"]:
            value = number(value)
            table.setdefault(q, {})[side] = value
            if not math.isfinite(value):
                continue
            # The last point (100 %) stands where the sample ends: at 1 - 1/n.
            depth = curve["count"] if q >= 100 else 1 / (1 - q / 100)
            deepest = max(deepest, depth)
            xs.append(depth)
            ys.append(value / divisor)
            texts.append("largest" if q >= 100 else f"{q:.5g} %")
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": role(document, side),
                "x": xs,
                "y": ys,
                "text": texts,
                "line": {"color": COLOUR[side], "dash": DASH[side], "width": 2.5},
                "hovertemplate": "%{text}: %{y:.4g} " + unit + "<extra>%{fullData.name}</extra>",
            }
        )
    ticks = [(1, "0 %"), (2, "50 %"), (10, "90 %"), (100, "99 %"), (1e3, "99.9 %"),
             (1e4, "99.99 %"), (1e5, "99.999 %")]  # fmt: skip
    ticks = [(at, text) for at, text in ticks if at <= deepest * 1.5]
    wanted = [50.0, 90.0, 99.0, 99.9, 99.99]
    rows = []
    for want in wanted:
        near = min(table, key=lambda q: abs(q - want)) if table else None
        if near is not None and abs(near - want) < 1e-3 * (100 - want) + 1e-9:
            rows.append([f"{want:g} %", *(units.quantity(table[near].get(s), "ns") for s in sides)])
    rows.append(["largest", *(units.quantity(table[100.0].get(s), "ns") for s in sides)])
    rows.append(["requests", *(f"{sides[s]['count']:,}" for s in sides)])
    rows.append(["lost", *(f"{sides[s]['lost']:,}" for s in sides)])
    return Figure(
        f"percentiles-{stage['name']}-{histogram}",
        "Latency by percentile",
        "Each line gives, for a share of the requests, the latency none of them exceeded. The "
        "axis is stretched to the right, where the slowest requests are.",
        data,
        layout(
            {
                "type": "log",
                "tickvals": [at for at, _ in ticks],
                "ticktext": [text for _, text in ticks],
                "title": {"text": "share of requests"},
            },
            {"type": "log", "title": {"text": unit}, "dtick": "D2" if _narrow(finite) else 1},
        ),
        ["Share of requests", *(role(document, side) for side in sides)],
        rows,
    )


def _narrow(values) -> bool:
    return bool(values) and max(values) / max(min(values), 1e-9) < 300


def distribution(document: Mapping, stage: Mapping, histogram: str) -> Figure | None:
    """How often which latency came up."""
    sides = stage["curves"].get(histogram)
    if not sides or not any(curve["density"] for curve in sides.values()):
        return None
    values = [edge for curve in sides.values() for edge, _ in curve["density"]]
    divisor, unit = units.scale_for(values, "ns")
    data = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": role(document, side),
            "x": [edge / divisor for edge, _ in curve["density"]],
            "y": [share * 100 for _, share in curve["density"]],
            "fill": "tozeroy",
            "fillcolor": COLOUR[side] + "22",
            "line": {"color": COLOUR[side], "dash": DASH[side], "width": 2, "shape": "hvh"},
            "hovertemplate": "about %{x:.3g} "
            + unit
            + ": %{y:.2f} %<extra>%{fullData.name}</extra>",
        }
        for side, curve in sides.items()
    ]
    rows = []
    for side, curve in sides.items():
        edge, share = max(curve["density"], key=lambda pair: pair[1])
        # What is kept is the upper edge; all bins are equally wide on a logarithmic axis.
        width = curve["density"][1][0] / curve["density"][0][0]
        middle = edge / math.sqrt(width)
        rows.append([role(document, side), units.quantity(middle, "ns"), units.percent(share)])
    return Figure(
        f"distribution-{stage['name']}-{histogram}",
        "Distribution",
        "How many of the requests took how long; both axes of one histogram with bins that grow "
        "with the latency.",
        data,
        layout(
            {"type": "log", "title": {"text": unit}, "dtick": "D2" if _narrow(values) else 1},
            {"title": {"text": "% of requests"}, "rangemode": "tozero"},
        ),
        ["VIP", "Most frequent latency", "Share in that bin"],
        rows,
    )


def _principal(document: Mapping, stage: Mapping) -> Mapping | None:
    """The metric a stage is about: its rate, or its median."""
    found = [m for m in document["metrics"] if m["stage"] == stage["name"] and m["tested"]]
    return found[0] if found else None


def _trial_value(trial: Mapping, metric: Mapping) -> float:
    name = metric["name"]
    if name in trial["values"]:
        return number(trial["values"][name])
    for percentiles in trial["percentiles"].values():
        if name in percentiles:
            return number(percentiles[name])
    return math.nan


def raw_places(trial: Mapping) -> str:
    """Where a trial's raw data is: files, and lines of files that many trials share."""
    raw = trial["raw"]
    places = []
    if "hlog" in raw:
        lines = ", ".join(f"{line} ({name})" for name, line in raw["hlog"]["lines"].items())
        plural = "line" if len(raw["hlog"]["lines"]) == 1 else "lines"
        places.append(f"{raw['hlog']['file']} {plural} {lines}")
    places += [raw[kind] for kind in ("npz", "json") if kind in raw]
    return "; ".join(places) or "none but result.json"


def over_time(document: Mapping, stage: Mapping) -> Figure | None:
    """Every trial where it stood in the run."""
    trials = [t for t in document["trials"] if t["stage"] == stage["name"]]
    metric = _principal(document, stage) or next(
        (m for m in document["metrics"] if m["stage"] == stage["name"]), None
    )
    if metric is None or not trials:
        return None
    values = [_trial_value(trial, metric) for trial in trials]
    divisor, unit = units.scale_for(values, metric["unit"])
    data = []
    for side in ("A", "B"):
        for void in (False, True):
            chosen = [
                (trial, value)
                for trial, value in zip(trials, values, strict=True)
                if trial["side"] == side and bool(trial["void"]) == void and math.isfinite(value)
            ]
            if not chosen:
                continue
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": role(document, side) + (", not valid" if void else ""),
                    "x": [trial["started"] for trial, _ in chosen],
                    "y": [value / divisor for _, value in chosen],
                    "text": [
                        f"trial {t['number']}, block {t['block'] + 1}"
                        + ("<br>" + "; ".join(t["void"])[:90] if void else "")
                        for t, _ in chosen
                    ],
                    "marker": {
                        "color": COLOUR[side],
                        "symbol": MARKER[side] + ("-open" if void else ""),
                        "size": 9,
                    },
                    "hovertemplate": "%{text}<br>%{y:.4g} "
                    + unit
                    + "<extra>%{fullData.name}</extra>",
                }
            )
    good = [v for v in values if math.isfinite(v) and v > 0]
    wide = bool(good) and max(good) / min(good) > 20
    return Figure(
        f"time-{stage['name']}",
        f"Trials over time: {in_a_sentence(metric['title'])}",
        "Each mark is one trial, where it stood in the run. The VIPs take turns, so something "
        "that disturbs the machine for a while disturbs both."
        + ("" if data else " No trial has a finite figure; the numbers name their raw data."),
        data,
        layout(
            {"title": {"text": "seconds since the start"}},
            {"title": {"text": unit}, "type": "log" if wide else "linear",
             **({} if wide else {"rangemode": "tozero"})},
        ),
        ["Trial", "VIP", "Block", metric["title"], "Valid", "Raw data"],
        [
            [
                str(t["number"]), role(document, t["side"]), str(t["block"] + 1),
                units.quantity(v, metric["unit"]),
                "no: " + "; ".join(t["void"]) if t["void"] else "yes",
                raw_places(t),
            ]
            for t, v in zip(trials, values, strict=True)
        ],
    )  # fmt: skip


def block_pairs(document: Mapping, stage: Mapping) -> Figure | None:
    """The ratio of each block, with the estimate and its interval."""
    metric = _principal(document, stage)
    if metric is None or metric["ratio"] is None:
        return None
    ratios = []
    for block in metric["blocks"]:
        a, b = number(block["A"]), number(block["B"])
        ratios.append(b / a if a > 0 and math.isfinite(a) and math.isfinite(b) else math.nan)
    shown = [(i + 1, r) for i, r in enumerate(ratios) if math.isfinite(r)]
    if not shown:
        return None
    interval = {key: number(metric["ratio"][key]) for key in ("estimate", "low", "high")}
    return Figure(
        f"blocks-{stage['name']}",
        f"Block by block: {in_a_sentence(metric['title'])}",
        f"Each mark is one block: {role(document, 'B')} over "
        f"{role(document, 'A')}. The band is the 95 % interval of the estimate (line).",
        [
            {
                "type": "scatter",
                "mode": "markers",
                "name": "ratio of a block",
                "x": [i for i, _ in shown],
                "y": [r for _, r in shown],
                "marker": {"color": "#333", "size": 9},
                "hovertemplate": "block %{x}: %{y:.3f}<extra></extra>",
            }
        ],
        layout(
            {"title": {"text": "block"}, "dtick": 1 if len(ratios) <= 20 else None},
            {"title": {"text": "ratio"}},
            showlegend=False,
            height=280,
            shapes=[
                {
                    "type": "rect", "xref": "paper", "yref": "y", "x0": 0, "x1": 1,
                    "y0": interval["low"], "y1": interval["high"], "layer": "below",
                    "fillcolor": COLOUR["B"] + "22", "line": {"width": 0},
                },
                {
                    "type": "line", "xref": "paper", "yref": "y", "x0": 0, "x1": 1,
                    "y0": interval["estimate"], "y1": interval["estimate"],
                    "line": {"color": COLOUR["B"], "width": 2},
                },
                {
                    "type": "line", "xref": "paper", "yref": "y", "x0": 0, "x1": 1, "y0": 1,
                    "y1": 1, "line": {"color": "#555", "width": 1, "dash": "dot"},
                },
            ],
        ),
        ["Block", role(document, "A"), role(document, "B"), "Ratio"],
        [
            [
                str(i + 1),
                units.quantity(block["A"], metric["unit"]),
                units.quantity(block["B"], metric["unit"]),
                units.digits(r),
            ]
            for i, (block, r) in enumerate(zip(metric["blocks"], ratios, strict=True))
        ],
    )  # fmt: skip


def load_against_latency(document: Mapping) -> Figure | None:
    """Median and 99th percentile at each background load."""
    # Those with objects of another size than the rest are no points of one line.
    stages = [
        s
        for s in document["stages"]
        if s["engine"] == "http-latency" and s["curves"] and "object" not in s["parameters"]
    ]
    if len({stage["load"] for stage in stages}) < 2:
        return None
    stages.sort(key=lambda stage: stage["load"])
    values, rows = [], []
    lines: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for stage in stages:
        rates = [t["load_rate"] for t in document["trials"] if t["stage"] == stage["name"]]
        rate = (rates[0] or 0.0) if rates else 0.0
        row = [f"{stage['load']:.0%} ({rate:,.0f} /s)"]
        for name in ("p50", "p99"):
            metric = next(
                (m for m in document["metrics"] if m["id"] == f"{stage['name']}.{name}"), None
            )
            for side in ("A", "B"):
                value = number(metric["values"][side]["value"]) if metric else math.nan
                row.append(units.quantity(value, "ns"))
                if math.isfinite(value):
                    lines.setdefault((side, name), []).append((rate, value))
                    values.append(value)
        rows.append(row)
    divisor, unit = units.scale_for(values, "ns")
    names = {"p50": "median", "p99": "99 %"}
    data = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": f"{role(document, side)}, {names[name]}",
            "x": [x for x, _ in points],
            "y": [y / divisor for _, y in points],
            "line": {"color": COLOUR[side], "dash": "solid" if name == "p50" else "dot"},
            "marker": {"symbol": MARKER[side], "size": 9},
            "hovertemplate": "%{x:,.0f} /s: %{y:.4g} " + unit + "<extra>%{fullData.name}</extra>",
        }
        for (side, name), points in sorted(lines.items())
    ]
    return Figure(
        "load",
        "Latency under load",
        "Latency of the probe beside a background load. Both VIPs carry the same number of "
        "requests per second, a share of what the slower one can do.",
        data,
        layout(
            {"title": {"text": "background requests per second"}, "rangemode": "tozero"},
            {"title": {"text": unit}, "type": "log"},
        ),
        [
            "Load",
            *(f"{role(document, s)}, {names[n]}" for n in ("p50", "p99") for s in ("A", "B")),
        ],
        rows,
    )
