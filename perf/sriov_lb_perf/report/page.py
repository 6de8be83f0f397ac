# SPDX-License-Identifier: Apache-2.0
"""The page of one run: one HTML file that needs nothing else, on screen and on paper."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import markupsafe

from .. import errors
from ..results.store import number, write_atomically
from . import figures, units

#: What a substrate that is no hardware means for the reader.
SUBSTRATES = {
    "macvlan": "macvlan stands in for the VF. Differences between the paths are real; absolute "
    "figures are of this machine, and nothing here certifies a NIC.",
    "igb": "The VF is one of an emulated NIC. Its speed means nothing.",
    "none": "No VF takes part: the two addresses were given as they are.",
    "unknown": "What plays the VF was not stated.",
}

WORDS = {
    "faster": "good",
    "slower": "bad",
    "mixed": "unclear",
    "equivalent": "neutral",
    "could not tell": "unclear",
    "not tested": "untested",
    "supported": "good",
    "contradicted": "bad",
}


def plotly_script() -> str:
    """plotly.js itself.

    :raises MissingPackage: plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise errors.MissingPackage(f"The report needs plotly: {error}.") from error
    return get_plotlyjs()


#: Where a page holds plotly, and what it lets scripts come from.
PLOTLY = '<script id="plotly">'
INLINE = "script-src 'unsafe-inline'"


def with_plotly_from(text: str, source: str) -> str:
    """A page with plotly loaded from ``source`` instead of being in it.

    A page of another version of this tool, without that mark, is left as it is.
    """
    start = text.find(PLOTLY)
    if start < 0:
        return text
    end = text.index("</script>", start)
    text = f'{text[:start]}<script src="{source}">{text[end:]}'
    # Opened from disk, a page's own origin is no origin.
    return text.replace(INLINE, f"{INLINE} 'self' file:", 1)


def script_safe(value: Any) -> markupsafe.Markup:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    text = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return markupsafe.Markup(text)


def environment() -> jinja2.Environment:
    """The templates with their filters; everything is escaped unless marked safe."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("sriov_lb_perf.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters.update(
        quantity=units.quantity,
        ratio=units.ratio,
        percent=units.percent,
        resolution=units.resolution,
        probability=units.probability,
        script_safe=script_safe,
        tone=lambda word: WORDS.get(word, "neutral"),
        clock=clock,
    )
    return made


def clock(text: str | None) -> str:
    """An ISO time for people: seconds, UTC."""
    return "–" if not text else text[:19].replace("T", " ") + " UTC"


def render(document: Mapping[str, Any]) -> str:
    """The page of a result document."""
    stages = []
    for stage in document["stages"]:
        plots = [
            figures.over_time(document, stage),
            figures.block_pairs(document, stage),
        ]
        for histogram in _histograms(stage):
            plots += [
                figures.by_percentile(document, stage, histogram),
                figures.distribution(document, stage, histogram),
            ]
        metrics = [m for m in document["metrics"] if m["stage"] == stage["name"]]
        trials = [t for t in document["trials"] if t["stage"] == stage["name"]]
        stages.append(
            {
                **stage,
                "metrics": metrics,
                "figures": [plot for plot in plots if plot is not None],
                "notes": sorted({note for t in trials for note in t["notes"]}),
                "health": _health(trials),
                "failed": _failed(trials),
                "trials": trials,
            }
        )
    top = [figures.forest(document), figures.load_against_latency(document)]
    shown = [plot for plot in top if plot is not None]
    everything = shown + [plot for stage in stages for plot in stage["figures"]]
    gates = document["gates"]
    return environment().get_template("report.html.j2").render(
        run=document,
        a=figures.role(document, "A"),
        b=figures.role(document, "B"),
        tested=[
            {**m, "label": figures.label(document, m)} for m in document["metrics"] if m["tested"]
        ],
        top=shown,
        stages=stages,
        gates_failed=[gate for gate in gates if gate["passed"] is False],
        gates_unknown=[gate for gate in gates if gate["passed"] is None],
        gates_passed=[gate for gate in gates if gate["passed"]],
        substrate=document["environment"].get("substrate", "unknown"),
        substrate_note=SUBSTRATES.get(document["environment"].get("substrate", "unknown"), ""),
        environment=flatten(_plain_environment(document)),
        differences=document["environment"].get("differences", []),
        unread=_unread(document),
        clock_step=document["environment"].get("tester", {}).get("clock_step_s"),
        facts=_facts(document),
        specs=[plot.spec() for plot in everything],
        plotly=markupsafe.Markup(plotly_script().replace("</script", "<\\/script")),
        margin=document["profile"]["margin"],
        raw=_raw(document),
    )


def _histograms(stage: Mapping) -> list[str]:
    """Which distributions are shown, the interesting one first."""
    wanted = ("latency", "response", "handshake", "tls", "first_byte", "last_byte")
    shown = {
        "http-latency": ("latency",), "udp-latency": ("latency",),
        "connect-latency": ("latency", "first_byte"), "connection-rate": ("last_byte", "tls"),
    }  # fmt: skip
    return [
        name for name in shown.get(stage["engine"], wanted) if name in stage["curves"]
    ]


def _health(trials) -> dict[str, dict[str, float]]:
    """Per side the largest shares any trial of a stage saw."""
    found = {}
    for side in ("A", "B"):
        mine = [t["health"] for t in trials if t["side"] == side]
        if mine:
            lags = [number(h["lag_p99"]) for h in mine if h["lag_p99"] is not None]
            found[side] = {
                "cpu": max(h["cpu"] for h in mine),
                "waiting": max(h["waiting"] for h in mine),
                "steal": max(h["steal"] for h in mine),
                "lag": max(lags) if lags else None,
            }
    return found


def _failed(trials) -> dict[str, dict[str, int]]:
    """Per side what failed, over all trials of a stage."""
    found: dict[str, dict[str, int]] = {"A": {}, "B": {}}
    for trial in trials:
        for what, count in trial["failed"].items():
            mine = found[trial["side"]]
            mine[what] = mine.get(what, 0) + count
    return found


def flatten(value: Any, path: str = "") -> list[tuple[str, str]]:
    """Nested facts as rows (path, value)."""
    if isinstance(value, Mapping):
        return [row for key in value for row in flatten(value[key], f"{path}{key}: ")]
    if isinstance(value, list):
        if all(not isinstance(each, Mapping | list) for each in value):
            return [(path.rstrip(": "), ", ".join(map(str, value)) or "–")]
        return [
            row
            for index, each in enumerate(value)
            for row in flatten(each, f"{path}{_label(each, index)}: ")
        ]
    return [(path.rstrip(": "), "–" if value is None else str(value))]


def _label(value: Any, index: int) -> str:
    return str(value.get("name", index + 1)) if isinstance(value, Mapping) else str(index + 1)


def _plain_environment(document: Mapping) -> dict:
    """Without what has tables of its own."""
    own = ("amphorae", "differences")
    return {name: value for name, value in document["environment"].items() if name not in own}


def _unread(document: Mapping) -> list[str]:
    """Why the amphorae, or one of them, are not known; empty where they are."""
    amphorae = document["environment"].get("amphorae", {})
    listed = [each for side in amphorae.values() for each in side]
    if not listed:
        return ["No amphora was named for this run, so what differs inside is not known."]
    return [f"Amphora {each['name']}: {each['failed']}" for each in listed if each["failed"]]


def _facts(document: Mapping) -> list[tuple[str, str, str, bool]]:
    """What is known of the two VIPs, side by side: (fact, A, B, whether it differs)."""
    sides = []
    for side in ("A", "B"):
        target = {k: v for k, v in document["targets"][side].items() if k != "role"}
        rows = dict(flatten({**target.pop("facts"), **target}))
        for amphora in document["environment"].get("amphorae", {}).get(side, ()):
            name = f"amphora {amphora['name']}"
            rows |= dict(flatten(amphora["facts"], f"{name}: "))
            rows |= {f"{name}, during the run: {k}": _during(k, v) for k, v in
                     amphora["during"].items()}  # fmt: skip
            rows |= dict(flatten(amphora.get("changed", {}), f"{name}, at the end: "))
        sides.append(rows)
    names = list(dict.fromkeys([*sides[0], *sides[1]]))
    rows = [(name, sides[0].get(name, "–"), sides[1].get(name, "–")) for name in names]
    return [(*row, row[1] != row[2]) for row in rows]


def _during(name: str, value: Any) -> str:
    if value is None:
        return "–"
    return units.percent(value) if "share" in name else units.digits(value)


def _raw(document: Mapping) -> list[str]:
    files = set()
    for trial in document["trials"]:
        if "hlog" in trial["raw"]:
            files.add(trial["raw"]["hlog"]["file"])
        files |= {trial["raw"][kind] for kind in ("npz", "json") if kind in trial["raw"]}
    return sorted(files)


def write(folder: Path, document: Mapping[str, Any]) -> Path:
    """report.html in the run's folder; returns its path."""
    path = folder / "report.html"
    write_atomically(path, render(document).encode())
    return path
