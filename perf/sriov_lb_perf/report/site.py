# SPDX-License-Identifier: Apache-2.0
"""The static site of a history: index, trends with change points, a page per run, comparisons.

::

    SITE/index.html         newest run, what moved, all runs
    SITE/trends-SERIES.html each metric over time
    SITE/compare.html       any two runs side by side
    SITE/runs/ID/           a run: its page (index.html), result.json, raw data
    SITE/latest.json|csv|xml, metrics.txt   the newest result in other formats
    SITE/plotly.min.js

Everything is written beside and renamed, so a reader never gets half a page.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import errors
from ..history.store import History, Point
from ..results import export, store
from ..results.store import number, write_atomically
from . import figures, page, units

LOG = logging.getLogger(__name__)

#: Runs shown on the index and the trends, and kept as pages.
SHOWN = 366


def publish(history: History, folder: Path, conclusion: str = "") -> Path:
    """Write the whole site; returns its index.

    :param conclusion: what the night came to, in a sentence.
    :raises PerfError: the folder cannot be written.
    """
    script = folder / "plotly.min.js"
    text = page.plotly_script().encode()
    if not script.is_file() or script.stat().st_size != len(text):
        write_atomically(script, text)
    runs = history.runs(last=SHOWN)
    kept = {run["id"] for run in runs if _copy_run(run, folder)}
    gone = [run["id"] for run in runs if run["id"] not in kept]
    if gone:
        LOG.warning("of %d runs the page cannot be had, such as %s", len(gone), gone[-1])
    made = page.environment()
    made.filters.update(figure=_figure)
    series = []
    for name in history.series():
        mine = [run for run in runs if run["series"] == name]
        if not mine:
            continue
        changes = history.changes(name)
        metrics = _told_apart(history.metrics(name))
        plots = [
            plot
            for metric in metrics
            for plot in _trends(metric, history.points(name, metric["metric"], SHOWN), changes)
        ]
        titles = {metric["metric"]: metric["title"] for metric in metrics}
        entry = {
            "name": name,
            "file": f"trends-{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)}.html",
            "runs": mine[::-1],
            "changes": [
                {
                    **c,
                    "title": titles.get(c["metric"], c["metric"]),
                    "beside": history.changed_with(c["since"]),
                    "percent": (c["after"] / c["before"] - 1) * 100,
                }
                for c in changes
            ][::-1],
        }
        series.append(entry)
        _write(
            made, folder / entry["file"], "trends.html.j2",
            series=entry, figures=plots, specs=[plot.spec() for plot in plots], kept=kept,
        )  # fmt: skip
    newest = runs[-1] if runs else None
    _write(
        made, folder / "index.html", "index.html.j2",
        series=series, newest=newest, kept=kept, conclusion=conclusion,
    )  # fmt: skip
    table = [_comparable(history, run) for run in runs[::-1]]
    # Most nights are on the same machines: each set of facts is there once.
    sets = [tuple(history.facts(run["n"]).items()) for run in runs[::-1]]
    distinct = list(dict.fromkeys(sets))
    for entry, facts in zip(table, sets, strict=True):
        entry["facts"] = distinct.index(facts)
    _write(
        made, folder / "compare.html", "compare.html.j2",
        runs=table, facts=[dict(facts) for facts in distinct],
    )  # fmt: skip
    if newest is not None:
        _latest(newest, folder)
    return folder / "index.html"


def _told_apart(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """With the stage's name in titles that several stages have."""
    titles = [metric["title"] for metric in metrics]
    return [
        {**metric, "title": f"{metric['title']} ({metric['metric'].partition('.')[0]})"}
        if titles.count(metric["title"]) > 1
        else metric
        for metric in metrics
    ]


def _write(made, path: Path, template: str, **values) -> None:
    write_atomically(path, made.get_template(template).render(**values).encode())


def _copy_run(run: Mapping[str, Any], folder: Path) -> bool:
    """A run's page, result and raw data into the site; False when its folder is gone.

    Raw data is linked where the file system can, copied where not. The page loads the site's
    plotly instead of its own: a year of pages would take 2 GB otherwise.
    """
    source, target = Path(run["folder"]), folder / "runs" / run["id"]
    mine, theirs = target / "index.html", source / "report.html"
    try:
        changed = theirs.stat().st_mtime
        if mine.is_file() and mine.stat().st_mtime >= changed:
            return True
        _link(source / "result.json", target / "result.json")
        for path in sorted((source / "raw").glob("*")):
            _link(path, target / "raw" / path.name)
        text = page.with_plotly_from(theirs.read_text(encoding="utf-8"), "../../plotly.min.js")
        # Last: its being there says that the rest is.
        write_atomically(mine, text.encode())
    except OSError as error:
        if mine.is_file():
            return True
        LOG.debug("the page of run %s cannot be had: %s", run["id"], error)
        return False
    return True


def _link(source: Path, target: Path) -> None:
    """The same file at ``target``, by a link or by a copy.

    :raises OSError: there is no such file, or no room for it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
            raise
        shutil.copyfile(source, target)


def _latest(run: Mapping[str, Any], folder: Path) -> None:
    """The newest result in other formats."""
    try:
        document = store.load(Path(run["folder"]))
    except errors.BadResult as error:
        LOG.warning("the newest result cannot be exported: %s", error)
        return
    write_atomically(folder / "latest.json", (Path(run["folder"]) / "result.json").read_bytes())
    write_atomically(folder / "latest.csv", export.csv_text(document).encode())
    write_atomically(folder / "latest.xml", export.junit(document).encode())
    write_atomically(folder / "metrics.txt", export.open_metrics(document, run["series"]).encode())


def _figure(value: float | None, unit: str) -> str:
    return units.quantity(value, unit)


def _trends(metric: Mapping, points: list[Point], changes) -> list[figures.Figure]:
    """Two plots a metric: both VIPs, and their ratio with its interval."""
    mine = [c for c in changes if c["metric"] == metric["metric"]]
    return [_values(metric, points, mine), _ratios(metric, points, mine)]


def _marks(points: list[Point], changes, whats: tuple[str, ...]) -> list[dict]:
    """Vertical lines where something changed."""
    place = {point.n: i for i, point in enumerate(points)}
    return [
        {
            "type": "line", "xref": "x", "yref": "paper", "y0": 0, "y1": 1,
            "x0": place[c["since"]] - 0.5, "x1": place[c["since"]] - 0.5,
            "line": {"color": "#A8322A", "width": 2, "dash": "dot"},
        }
        for c in changes
        if c["what"] in whats and c["since"] in place
    ]  # fmt: skip


def _axis(points: list[Point]) -> dict:
    """Runs in order, labelled by date."""
    step = max(1, len(points) // 8)
    at = list(range(0, len(points), step))
    return {
        "tickvals": at,
        "ticktext": [points[i].started[:10] for i in at],
        "title": {"text": "run"},
    }


def _values(metric: Mapping, points: list[Point], changes) -> figures.Figure:
    every = [getattr(p, side) for p in points for side in ("normal", "sriov")]
    divisor, unit = units.scale_for([v for v in every if math.isfinite(v)], metric["unit"])
    data = []
    for side, key in (("normal", "A"), ("sriov", "B")):
        shown = [
            (i, p) for i, p in enumerate(points) if p.sound and math.isfinite(getattr(p, side))
        ]
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": {"sriov": "SR-IOV"}.get(side, side),
                "x": [i for i, _ in shown],
                "y": [getattr(p, side) / divisor for _, p in shown],
                "text": [p.started[:16].replace("T", " ") for _, p in shown],
                "line": {"color": figures.COLOUR[key], "dash": figures.DASH[key], "width": 1.5},
                "marker": {"symbol": figures.MARKER[key], "size": 6},
                "hovertemplate": "%{text}<br>%{y:.4g} " + unit + "<extra>%{fullData.name}</extra>",
            }
        )
    return figures.Figure(
        "values-" + metric["metric"].replace(".", "-"),
        metric["title"],
        "Both VIPs over the sound runs. A dotted vertical line marks a change.",
        data,
        figures.layout(
            _axis(points),
            {"title": {"text": unit}, "rangemode": "tozero"},
            shapes=_marks(points, changes, ("normal", "sriov")),
            height=280,
        ),
    )


def _band(shown: list[tuple[int, Point]]) -> list[dict]:
    """The intervals as one band: hundreds of error bars take a browser a second and hide the
    points."""
    common = {
        "type": "scatter",
        "mode": "lines",
        "x": [i for i, _ in shown],
        "line": {"width": 0},
        "hoverinfo": "skip",
    }
    return [
        {**common, "name": "low", "y": [p.low for _, p in shown]},
        {
            **common,
            "name": "high",
            "y": [p.high for _, p in shown],
            "fill": "tonexty",
            "fillcolor": "rgba(51, 51, 51, 0.18)",
        },
    ]


def _ratios(metric: Mapping, points: list[Point], changes) -> figures.Figure:
    shown = [(i, p) for i, p in enumerate(points) if p.sound and math.isfinite(p.ratio)]
    return figures.Figure(
        "ratio-" + metric["metric"].replace(".", "-"),
        f"{metric['title']}: SR-IOV over normal",
        "The ratio of each sound run with its 95 % interval "
        + ("(higher is better)." if metric["better"] == "higher" else "(lower is better)."),
        [
            *_band(shown),
            {
                "type": "scatter",
                "mode": "markers",
                "name": "ratio",
                "x": [i for i, _ in shown],
                "y": [p.ratio for _, p in shown],
                "text": [p.started[:16].replace("T", " ") for _, p in shown],
                "marker": {"color": "#333", "size": 5},
                "hovertemplate": "%{text}<br>%{y:.3f}<extra></extra>",
            },
        ],
        figures.layout(
            _axis(points),
            {"title": {"text": "ratio"}},
            showlegend=False,
            shapes=_marks(points, changes, ("ratio",)),
            height=280,
        ),
        ["Run", "normal", "SR-IOV", "Ratio (95 %)", "Sound", "Verdict"],
        [
            [
                p.started[:16].replace("T", " "),
                units.quantity(p.normal, metric["unit"]),
                units.quantity(p.sriov, metric["unit"]),
                units.ratio({"estimate": p.ratio, "low": p.low, "high": p.high}),
                "yes" if p.sound else "no",
                p.verdict,
            ]
            for p in points[::-1]
        ],
    )


def _comparable(history: History, run: Mapping[str, Any]) -> dict[str, Any]:
    """A run for the page that compares any two: figures as numbers and as text."""
    return {
        "id": run["id"],
        "label": f"{run['started'][:16].replace('T', ' ')} · {run['series']}"
        + ("" if run["sound"] else " · not sound"),
        "figures": {
            row["metric"]: {
                "title": row["title"],
                **{
                    key: [_finite(row[key]), units.quantity(row[key], row["unit"])]
                    for key in ("normal", "sriov")
                },
                "ratio": [_finite(row["ratio"]), units.digits(number(row["ratio"]))],
            }
            for row in history.figures(run["n"])
        },
    }


def _finite(value: Any) -> float | None:
    found = number(value)
    return found if math.isfinite(found) else None
