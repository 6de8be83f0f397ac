# SPDX-License-Identifier: Apache-2.0
"""The highest rate that meets a goal, by MLRsearch (IETF bmwg, "Multiple Loss Ratio Search").

A plain bisection believes every trial; on a shared machine one bad second then costs the result
half of its value. MLRsearch repeats trials, lets a stated share of them exceed the goal, and
reports a rate that holds up under repetition, with the bounds it lies between.
"""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from .. import errors
from ..model import Metric, Sample, Stage, Trial
from ..targets import Pair
from .base import Crew, generator_faults, health_of
from .load import _Swarmed

#: Share of the trials at one rate that may miss the goal.
EXCEED = 0.5
#: Trials at one rate that a bound rests on.
REPEATS = 3


@dataclass(frozen=True)
class Goal:
    """What a rate must keep.

    :param failed: share of requests that may fail, get no answer or never be sent.
    :param p99: ns, by which 99 % must be answered, counted from their intended time; None: any.
    """

    failed: float
    p99: float | None = None

    def describe(self) -> str:
        text = f"at most {self.failed:.3%} failed"
        return text if self.p99 is None else f"{text}, p99 at most {self.p99 / 1e6:g} ms"


@dataclass(frozen=True)
class Outcome:
    """One open-loop trial at one rate.

    :param planned: requests the schedule held.
    :param good: valid answers.
    :param p99: ns from the intended time, lost ones infinite.
    :param trouble: why the generator itself may have been the limit; "" when it was not.
    """

    planned: int
    good: int
    p99: float
    trouble: str = ""


@dataclass
class Found:
    """What a search came to; rates in 1/s.

    :param rate: the conditional throughput; NaN when even the lowest rate missed the goal.
    :param low, high: the bounds it lies between; None: there was none within the limits.
    :param ended: "" when the search ended by itself.
    """

    rate: float
    low: float | None
    high: float | None
    ended: str = ""
    trials: list[dict] = field(default_factory=list)

    @property
    def trouble(self) -> str:
        """The generator's, where the upper bound rests on it: then the bound is its own.

        The first trials are far above what anything can do; their trouble is of no interest.
        """
        return next(
            (
                t["trouble"]
                for t in self.trials
                if t["trouble"] and not t["met"] and self.high is not None
                and math.isclose(t["rate"], self.high, rel_tol=1e-6)
            ),
            "",
        )  # fmt: skip


def search(
    measure: Callable[[float, float], Outcome],
    goal: Goal,
    *,
    lowest: float,
    highest: float,
    trial: float = 1.0,
    width: float = 0.02,
    seconds: float = 60.0,
) -> Found:
    """The highest rate between ``lowest`` and ``highest`` that meets ``goal``.

    :param measure: called with (seconds, requests/s).
    :param trial: length of one trial, s.
    :param width: relative distance of the bounds to stop at.
    :param seconds: the search is given up after this long; what is known by then is returned.
    :raises MissingPackage: MLRsearch is not installed.
    """
    try:
        mlr = importlib.import_module("MLRsearch")
    except ImportError as error:
        raise errors.MissingPackage(f"A rate search needs MLRsearch: {error}.") from error
    trials: list[dict] = []

    class Measurer(mlr.AbstractMeasurer):
        def measure(self, intended_duration: float, intended_load: float):
            outcome = measure(intended_duration, intended_load)
            late = goal.p99 is not None and not outcome.p99 <= goal.p99
            # One ratio is all MLRsearch looks at: a trial that is too late has lost everything.
            good = 0 if late else outcome.good
            lost = (outcome.planned - good) / max(1, outcome.planned)
            trials.append(
                {
                    "rate": intended_load,
                    "seconds": intended_duration,
                    "planned": outcome.planned,
                    "good": outcome.good,
                    "p99": outcome.p99,
                    "met": lost <= goal.failed,
                    "trouble": outcome.trouble,
                }
            )
            return mlr.MeasurementResult(
                intended_duration=intended_duration,
                intended_load=intended_load,
                offered_count=outcome.planned,
                forwarding_count=good,
            )

    config = mlr.Config()
    config.goals = [
        mlr.SearchGoal(
            loss_ratio=goal.failed,
            exceed_ratio=EXCEED,
            relative_width=width,
            initial_trial_duration=trial,
            final_trial_duration=trial,
            duration_sum=REPEATS * trial,
            preceding_targets=2,
            expansion_coefficient=4,
            fail_fast=False,
        )
    ]
    # The library's own order: the lower limit is checked against the present upper one.
    config.min_load, config.max_load = lowest, highest
    config.search_duration_max = seconds
    config.warmup_duration = 0.0
    try:
        result = next(
            iter(mlr.MultipleLossRatioSearch(config=config).search(Measurer(), debug=_quiet)
                 .values())
        )  # fmt: skip
    except RuntimeError as error:
        # What MLRsearch raises when its time is up.
        return _so_far(trials, f"the search was given up after {seconds:g} s ({error})")
    low = _load(result.relevant_lower_bound)
    high = _load(result.relevant_upper_bound)
    throughput = result.conditional_throughput
    rate = math.nan if throughput is None else float(throughput)
    return Found(rate, low, high, "", trials)


def _quiet(_text: str) -> None:
    """MLRsearch tells its every step."""


def _load(bound) -> float | None:
    return None if bound is None else float(bound)


def _so_far(trials: list[dict], why: str) -> Found:
    """Bounds from the trials alone: a rate holds if no more than :data:`EXCEED` of them missed."""
    by_rate: dict[float, list[bool]] = {}
    for each in trials:
        by_rate.setdefault(each["rate"], []).append(each["met"])
    missed = [r for r, met in by_rate.items() if met.count(False) > EXCEED * len(met)]
    high = min(missed, default=None)
    held = [r for r in by_rate if r not in missed and (high is None or r < high)]
    low = max(held, default=None)
    return Found(math.nan if low is None else low, low, high, why, trials)


class RateSearch(_Swarmed):
    """The highest rate of an open loop that meets a stated goal.

    One trial is one whole search, bounded by the stage's seconds. Parameters: ``highest`` (1/s),
    ``lowest`` (1/s, a hundredth of it), ``failed`` (share, RFC 9411's 0.00001), ``p99`` (s,
    none), ``trial`` (s, 1), ``width`` (0.02), ``connections`` (64).
    """

    name = "rate-search"

    def metrics(self, stage: Stage) -> list[Metric]:
        goal = _goal(stage)
        return [Metric("rate", f"Highest rate with {goal.describe()}", "1/s", "higher")]

    def measure(self, trial: Trial, pair: Pair, crew: Crew) -> Sample:
        stage, parameters = trial.stage, trial.stage.parameters
        url = self._url(stage, pair.side(trial.side))
        reports = {}

        def measure(seconds: float, rate: float) -> Outcome:
            warmup = 0.1
            job = {
                "job": "open", "url": url, "length": self._length, "warmup": warmup,
                "raw": False, "grace": 0.5,
            }  # fmt: skip
            jobs = crew.jobs(job, {"connections": int(parameters.get("connections", 64))})
            share = rate / len(jobs)
            for each in jobs.values():
                each["schedule"] = [[share, share, seconds + warmup]]
            done = crew.swarm.run(jobs, seconds + warmup + 0.5)
            reports.update(done.reports)
            health = health_of(done.reports, crew.limits)
            trouble = [*health.bottleneck, *generator_faults(done.reports)]
            planned = sum(each["planned"] for each in done.reports.values())
            unsent = sum(each["unsent_by_own_fault"] for each in done.reports.values())
            if unsent > crew.limits.missed * planned:
                trouble.append(f"the generator did not send {unsent} of {planned} requests")
            histogram = done.histograms["response"]
            good = sum(each["answered"] for each in done.reports.values())
            histogram.lost = planned - good
            return Outcome(planned, good, histogram.percentile(99), "; ".join(trouble))

        started = time.time()
        highest = float(parameters["highest"])
        found = search(
            measure,
            _goal(stage),
            lowest=float(parameters.get("lowest", highest / 100)),
            highest=highest,
            trial=float(parameters.get("trial", 1.0)),
            width=float(parameters.get("width", 0.02)),
            seconds=stage.seconds,
        )
        void = []
        if found.ended:
            void.append(found.ended)
        if math.isnan(found.rate):
            void.append("even the lowest rate tried misses the goal")
        if found.trouble:
            void.append(f"in a trial that missed the goal {found.trouble}")
        if found.high is None and not found.ended:
            void.append(
                f"the goal is met at the highest rate tried ({highest:g}/s): the profile is the "
                "limit"
            )
        return Sample(
            trial=trial,
            started=started,
            window=time.time() - started,
            requests=sum(each["good"] for each in found.trials),
            values={"rate": found.rate},
            health=health_of(reports, crew.limits),
            void=void,
            series=found.trials,
            raw={"search": found.trials},
        )


def _goal(stage: Stage) -> Goal:
    parameters = stage.parameters
    p99 = parameters.get("p99")
    return Goal(float(parameters.get("failed", 0.00001)), None if p99 is None else p99 * 1e9)
