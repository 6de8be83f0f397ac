# SPDX-License-Identifier: Apache-2.0
"""Runs the stages of a profile: blocks of interleaved trials, one after the other."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .. import errors
from ..engines.base import Crew, Engine
from ..engines.registry import make
from ..model import REFERENCE, SIDES, Metric, Sample, Stage, Trial
from ..profiles import START_OVERHEAD, Profile, block_seconds, seconds_of
from ..statistics.estimates import MIN_BLOCKS, interval
from ..targets import Pair
from .blocks import blocks_of, complete_blocks
from .plan import orders


@dataclass
class StageRun:
    """One stage as it was run (or why it was not)."""

    stage: Stage
    metrics: list[Metric] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    skipped: str = ""
    stopped: str = ""  # by which rule the number of blocks was reached

    def blocks_done(self) -> int:
        return len(complete_blocks(self.samples))


#: Called after each trial, each finished block and each stage; may raise to end the run.
Listener = Callable[[str, StageRun, Sample | None], None]


def run_profile(
    profile: Profile,
    pair: Pair,
    crew: Crew,
    *,
    seed: int,
    listener: Listener,
    runs: list[StageRun],
) -> None:
    """Fill ``runs`` stage by stage; what is in it when an exception leaves is kept.

    :param listener: told "trial", "block" and "stage".
    :raises BadTarget: a stage that is not optional cannot be run; nothing was measured.
    :raises PerfError: a trial could not be finished.
    """
    number = 0
    begun = time.monotonic()
    engines = [(stage, make(stage.engine)) for stage in profile.stages]
    reasons = {stage.name: engine.unfit(stage, pair) for stage, engine in engines}
    for name, reason in reasons.items():
        if reason and name not in profile.optional:
            raise errors.BadTarget(
                f"Stage {name!r} of profile {profile.name} cannot be run: {reason}."
            )
    for place, (stage, engine) in enumerate(engines):
        run = StageRun(stage)
        if reasons[stage.name]:
            run.skipped = reasons[stage.name]
            runs.append(run)
            listener("stage", run, None)
            continue
        run.metrics = engine.metrics(stage)
        runs.append(run)
        engine.configure(stage, pair, crew)
        rate = background_rate(stage, runs)
        # When the last spare block has to begin, for the stages that follow to have their time.
        later = [other for other, _ in engines[place + 1 :] if not reasons[other.name]]
        latest = profile.time_limit - START_OVERHEAD - sum(map(seconds_of, later))
        latest -= block_seconds(stage)
        for block, order in enumerate(orders(seed, stage.name, stage.limit, stage.rounds)):
            for position, side in enumerate(order):
                number += 1
                trial = Trial(number, stage, side, block, position, rate)
                sample = engine.measure(trial, pair, crew)
                run.samples.append(sample)
                listener("trial", run, sample)
            listener("block", run, None)
            if done(run, block + 1, spare=time.monotonic() - begun <= latest):
                break
        listener("stage", run, None)


def background_rate(stage: Stage, runs: Sequence[StageRun]) -> float | None:
    """Requests/s offered beside a probe: a share of the slower VIP's median request rate.

    The same absolute rate for both VIPs: at "50 % of its own maximum" each, the faster one would
    be asked for more and its latency would not be comparable.
    """
    if not stage.load:
        return None
    rates = [run for run in runs if run.stage.engine == "http-rate" and run.samples]
    # That of objects of the same size, where there is one: larger ones take longer.
    size = stage.parameters.get("object")
    rates.sort(key=lambda run: run.stage.parameters.get("object") == size)
    if not rates:
        raise errors.BadProfile(
            f"Stage {stage.name!r} needs a measured request rate and there is none."
        )
    # A rate that the generator limited is no maximum of the VIP; without any other it has to do.
    good = [s for s in rates[-1].samples if not s.void]
    medians = [
        statistics.median(
            [s.values["rate"] for s in good if s.trial.side == side]
            or [s.values["rate"] for s in rates[-1].samples if s.trial.side == side]
        )
        for side in SIDES
    ]
    rate = stage.load * min(medians)
    if rate <= 0:
        raise errors.TargetFailed(
            f"Stage {stage.name!r}: one VIP answered no request at all in the request-rate stage."
        )
    return rate


def done(run: StageRun, finished: int, *, spare: bool = False) -> bool:
    """Whether enough blocks were made.

    The sequential rule looks at the width of the intervals only, never at the effect, and is part
    of the profile. It stops a little more often where blocks scatter less than they should by
    chance: a test at 5 % errs in up to 6.5 % then (tests/unit/perf/test_statistics.py).

    :param spare: whether there is time for a block more than ``most``.
    """
    stage = run.stage
    if finished >= (stage.limit if spare else stage.most):
        if stage.until is None:
            rule = "as fixed"
        elif finished < stage.limit:
            rule = "as many as there was time for"
        else:
            rule = "the most allowed"
        run.stopped = f"{finished} blocks, {rule}"
        return True
    if stage.until is None or finished < max(stage.blocks, MIN_BLOCKS):
        return False
    for metric in run.metrics:
        if not metric.claim:
            continue
        logs = blocks_of(metric.name, metric, run.samples).logs()
        if len(logs) < MIN_BLOCKS or not all(map(math.isfinite, logs)):
            return False
        found = interval(logs)
        if math.expm1((found.high - found.low) / 2) > stage.until:
            return False
    run.stopped = f"{finished} blocks: all intervals within {stage.until:.1%}"
    return True


def side_name(pair: Pair, side: str) -> str:
    return pair.reference.role if side == REFERENCE else pair.candidate.role


__all__ = ["Engine", "Listener", "StageRun", "background_rate", "done", "run_profile", "side_name"]
