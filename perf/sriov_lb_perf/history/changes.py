# SPDX-License-Identifier: Apache-2.0
"""Change points: since when a figure is another one.

The partition is made by jumpavg (FD.io CSIT): the grouping of the series that can be described
in the fewest bits. It needs no threshold, and a single odd night does not make it report: a
change counts when enough runs stand after it and it is large enough to matter.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from .. import errors
from .store import WATCHED, History, Point

#: Runs that must stand on either side of a change.
CONFIRM = 3
#: Sound runs below which nothing is said.
LEAST = 6
#: Of so many runs at most; the partition takes cubic time.
WINDOW = 180


@dataclass(frozen=True)
class Change:
    """A figure moved.

    :param metric: such as ``latency.p50``.
    :param what: ``ratio`` (SR-IOV over normal), ``sriov`` or ``normal``.
    :param since: number of the first run after the change; ``run`` is its id.
    :param before: median of the group before, ``after``: of the group after.
    """

    metric: str
    title: str
    unit: str
    better: str
    what: str
    since: int
    run: str
    before: float
    after: float

    @property
    def factor(self) -> float:
        return self.after / self.before

    @property
    def regression(self) -> bool:
        """For the ratio and the SR-IOV VIP: did it get worse. The normal VIP alone: likewise."""
        return (self.factor < 1) == (self.better == "higher")

    def __str__(self) -> str:
        percent = (self.factor - 1) * 100
        subject = {"ratio": "ratio SR-IOV / normal", "sriov": "SR-IOV VIP", "normal": "normal VIP"}
        kind = "regression" if self.regression else "improvement"
        if self.what == "normal":  # It is not what the nightly is for, so neither is its status.
            kind = "worse" if self.regression else "better"
        return (
            f"{kind}: {self.title} [{self.metric}] ({subject[self.what]}) {percent:+.1f} % since "
            f"run {self.run}"
        )


def partition(values: Sequence[float]) -> list[int]:
    """Indices at which a new group begins (0 is left out).

    :raises MissingPackage: jumpavg is not installed.
    """
    try:
        import jumpavg
    except ImportError as error:
        raise errors.MissingPackage(f"Change points need jumpavg: {error}.") from error
    if len(values) < 2:
        return []
    starts, at = [], 0
    for group in jumpavg.classify(list(values)):
        starts.append(at)
        at += len(group.run_list)
    return starts[1:]


def find(
    points: Sequence[Point], what: str, *, least_change: float, confirm: int = CONFIRM
) -> list[tuple[Point, float, float]]:
    """(first point after, median before, median after) of each change in a series.

    Only sound runs with a finite figure take part.

    :param least_change: relative size below which a change is not reported, such as 0.02.
    """
    good = [
        point
        for point in points[-WINDOW:]
        if point.sound and math.isfinite(getattr(point, what)) and getattr(point, what) > 0
    ]
    values = [getattr(point, what) for point in good]
    if len(values) < LEAST:
        return []
    edges = [0, *partition(values), len(values)]
    # A group of a night or two is no level but an odd night: without it, look again.
    while odd := {
        at
        for start, end in itertools.pairwise(edges)
        if end - start < confirm
        for at in range(start, end)
    }:
        good = [point for at, point in enumerate(good) if at not in odd]
        values = [getattr(point, what) for point in good]
        if len(values) < LEAST:
            return []
        edges = [0, *partition(values), len(values)]
    found = []
    for i in range(1, len(edges) - 1):
        before = statistics.median(values[edges[i - 1] : edges[i]])
        after = statistics.median(values[edges[i] : edges[i + 1]])
        if abs(math.log(after / before)) >= math.log1p(least_change):
            found.append((good[edges[i]], before, after))
    return found


def of_series(
    history: History, series: str, *, least_change: float, confirm: int = CONFIRM
) -> list[Change]:
    """All change points of all metrics of a series."""
    found = []
    for metric in history.metrics(series):
        points = history.points(series, metric["metric"])
        for what in WATCHED:
            found += [
                Change(
                    metric["metric"], metric["title"],
                    metric["unit"] if what != "ratio" else "1", metric["better"], what,
                    point.n, point.run, before, after,
                )
                for point, before, after in find(
                    points, what, least_change=least_change, confirm=confirm
                )
            ]  # fmt: skip
    return found


@dataclass(frozen=True)
class Gone:
    """A metric that sound runs had a ratio of, and that has none now.

    :param last: id of the last sound run that had one; ``since``: of the first that had not.
    :param nights: sound runs without one, the newest included.
    :param infinite: in all of them the SR-IOV VIP's own figure is infinite, as a percentile is
        when that share of the requests got no answer.
    """

    metric: str
    title: str
    last: str
    since: str
    nights: int
    infinite: bool

    def __str__(self) -> str:
        if self.infinite:
            return (
                f"{self.title} [{self.metric}] is infinite at the SR-IOV VIP since run "
                f"{self.since}: requests get no answer"
            )
        return f"{self.title} (run {self.last} was the last to have one)"


def without_a_figure(history: History, series: str, n: int, stages: Collection[str]) -> list[Gone]:
    """What run ``n`` has no ratio of although sound runs before it had: the VIP failed, it was not
    measured, or too few blocks of it are left.

    :param stages: that the profile of run ``n`` has: what a profile no longer asks for is not gone.
    """
    gone = []
    sound = [run for run in history.runs(series) if run["sound"] and run["n"] <= n]
    for metric in history.metrics(series):
        if not any(metric["metric"].startswith(f"{stage}.") for stage in stages):
            continue
        points = {point.n: point for point in history.points(series, metric["metric"])}
        told = [
            at for at, run in enumerate(sound)
            if run["n"] in points and math.isfinite(points[run["n"]].ratio)
        ]  # fmt: skip
        if not told or told[-1] == len(sound) - 1:
            continue
        since = sound[told[-1] + 1 :]
        infinite = all(
            run["n"] in points and math.isinf(points[run["n"]].sriov) for run in since
        )
        gone.append(
            Gone(
                metric["metric"], metric["title"], sound[told[-1]]["id"], since[0]["id"],
                len(since), infinite,
            )
        )  # fmt: skip
    return gone


def sound_runs(history: History, series: str) -> int:
    """How many runs of a series may be used for trends."""
    return sum(bool(run["sound"]) for run in history.runs(series))


def odd_night(points: Sequence[Point], what: str) -> float | None:
    """How many median absolute deviations the newest figure lies from the 30 before, when that
    is more than four; else None. A hint for people, never a verdict."""
    good = [getattr(p, what) for p in points if p.sound and math.isfinite(getattr(p, what))]
    if len(good) < LEAST + 1:
        return None
    before, newest = sorted(good[-31:-1]), good[-1]
    middle = before[len(before) // 2]
    spread = sorted(abs(value - middle) for value in before)[len(before) // 2] * 1.4826
    if not spread:
        return None
    away = (newest - middle) / spread
    return away if abs(away) > 4 else None
