# SPDX-License-Identifier: Apache-2.0
"""Store a night's run, say whether anything moved, publish."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .history import changes
from .history.changes import Change, Gone
from .history.store import History, default_series
from .report import site
from .results import export
from .results.store import write_atomically

NOTHING_MOVED, REGRESSION, COULD_NOT_TELL = 0, 1, 2


@dataclass
class Night:
    """What a night came to.

    :param fresh: change points that this run made visible.
    :param known: those found on earlier nights.
    :param dead: metrics whose figure has been infinite for long enough to be sure.
    """

    status: int
    sentence: str
    fresh: list[Change] = field(default_factory=list)
    known: list[Mapping[str, Any]] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    dead: list[Gone] = field(default_factory=list)


@contextlib.contextmanager
def held(path: Path) -> Iterator[History]:
    """The history with its lock, for the whole night: two nightlies never interleave.

    :raises Busy: another one is at work. Found before anything is measured.
    """
    with History(path, writing=True) as history:
        yield history


def conclude(
    history: History,
    document: Mapping[str, Any],
    folder: Path,
    *,
    series: str | None = None,
    least_change: float = 0.02,
    confirm: int = changes.CONFIRM,
) -> Night:
    """Store the run and look for change points.

    :param least_change: relative size below which a change is not reported.
    :param confirm: runs that must stand after a change.
    """
    series = series or default_series(document)
    n = history.add(document, folder, series)
    sound = changes.sound_runs(history, series)
    needed = max(changes.LEAST, 2 * confirm)
    if not document["verdict"]["sound"]:
        why = document["reason"] or "a gate failed"
        return Night(
            COULD_NOT_TELL, f"Could not tell: this run is not used for trends ({why})."
        )
    if sound < needed:
        return Night(
            COULD_NOT_TELL,
            f"Could not tell: {sound} of at least {needed} sound runs of series {series} so far.",
        )
    known = history.changes(series)
    found = changes.of_series(history, series, least_change=least_change, confirm=confirm)
    added = history.add_changes(series, [vars(change) for change in found], n)
    places = {(each["metric"], each["what"], each["since"]) for each in added}
    fresh = [c for c in found if (c.metric, c.what, c.since) in places]
    worse = [change for change in fresh if change.regression and change.what != "normal"]
    hints = _hints(history, series)
    for since in sorted({change.since for change in fresh}):
        hints += _beside(history, since)
    stages = {stage["name"] for stage in document["profile"]["stages"]}
    gone = changes.without_a_figure(history, series, n, stages)
    # As a change of level, this is told when enough nights confirm it, and once.
    dead = [each for each in gone if each.infinite and each.nights == confirm]
    if worse or dead:
        words = [*map(str, worse), *(f"regression: {each}" for each in dead)]
        return Night(REGRESSION, "; ".join(words) + ".", fresh, known, hints, dead)
    if gone:
        return Night(
            COULD_NOT_TELL,
            f"Could not tell: tonight there is no figure of {'; '.join(map(str, gone))}. A stage "
            "that is no longer wanted can be taken out of the profile.",
            fresh, known, hints,
        )  # fmt: skip
    if fresh:
        return Night(
            NOTHING_MOVED,
            "No regression; what moved: " + "; ".join(map(str, fresh)) + ".",
            fresh, known, hints,
        )  # fmt: skip
    return Night(NOTHING_MOVED, f"Nothing moved in {sound} sound runs.", [], known, hints)


def _beside(history: History, n: int) -> list[str]:
    """What was changed when figures moved: for people to look at first, no verdict."""
    changed = history.changed_with(n)
    if not changed:
        return []
    words = "; ".join(f"{name} {was} -> {now}" for name, was, now in changed[:6])
    more = f"; and {len(changed) - 6} more" if len(changed) > 6 else ""
    (run,) = [run["id"] for run in history.runs() if run["n"] == n]
    return [f"with run {run} these changed too: {words}{more}"]


def _hints(history: History, series: str) -> list[str]:
    """Odd figures of tonight: for people to look at, no verdict."""
    found = []
    for metric in history.metrics(series):
        away = changes.odd_night(history.points(series, metric["metric"]), "ratio")
        if away is not None:
            found.append(
                f"{metric['title']}: tonight's ratio is {away:+.0f} median deviations off; one "
                "night alone is no verdict"
            )
    return found


def publish(
    history: History, document: Mapping[str, Any], night: Night, folder: Path
) -> Path:
    """Write the site, with tonight's regressions as JUnit failures; returns its index."""
    words = " ".join([night.sentence, *(f"Note: {hint}." for hint in night.hints)])
    index = site.publish(history, folder, words)
    moved = {c.metric: str(c) for c in night.fresh if c.regression and c.what != "normal"}
    moved |= {each.metric: f"regression: {each}" for each in night.dead}
    write_atomically(folder / "latest.xml", export.junit(document, moved).encode())
    series = history.run(document["id"])["series"]
    text = export.open_metrics(document, series, night.status)
    write_atomically(folder / "metrics.txt", text.encode())
    return index
