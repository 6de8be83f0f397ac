# SPDX-License-Identifier: Apache-2.0
"""The words everything else is written in: Metric, Stage, Trial, Sample, Health."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .histogram import Histogram

REFERENCE, CANDIDATE = "A", "B"  # the normal VIP, the SR-IOV VIP
SIDES = (REFERENCE, CANDIDATE)
#: The metric of a stage that tells whether its trials had settled when their warm-up was over: by
#: which share of it a figure was larger in the first half of a trial than in the second.
SETTLING = "settling"


@dataclass(frozen=True)
class Metric:
    """Something a stage measures.

    :param name: within the stage, such as ``p99``.
    :param unit: of the stored value: ``1/s``, ``ns``, ``bit/s``, ``1``.
    :param better: ``higher`` or ``lower``.
    :param histogram: name of the sample's histogram it is read from; None: a plain value.
    :param percentile: which one of that histogram.
    :param claim: whether a verdict is given on it (False: shown, never tested).
    """

    name: str
    title: str
    unit: str
    better: str
    histogram: str | None = None
    percentile: float | None = None
    claim: bool = True
    note: str = ""


@dataclass(frozen=True)
class Stage:
    """One kind of trial, repeated for both VIPs in balanced blocks.

    :param blocks: fixed number, or the least number when ``until`` is set.
    :param most: the largest number of blocks.
    :param spare: the largest number where earlier stages left time over; 0: ``most`` is.
    :param until: stop once the 95 % interval's half-width (relative) of every claimed metric
        is at most this; None: the number of blocks is fixed.
    :param rounds: how often a block repeats its four trials. A machine has phases of some hundred
        milliseconds to seconds; trials shorter than those meet the same ones through both VIPs.
    :param load: background load as a share of the slower VIP's measured maximum; 0: idle.
    """

    name: str
    title: str
    engine: str
    seconds: float
    warmup: float
    blocks: int
    most: int
    until: float | None = None
    load: float = 0.0
    parameters: Mapping[str, Any] = field(default_factory=dict)
    rounds: int = 1
    spare: int = 0

    @property
    def limit(self) -> int:
        """The largest number of blocks there can be."""
        return max(self.most, self.spare)

    @property
    def trials(self) -> int:
        """In one block, of both VIPs."""
        return 4 * self.rounds

    @property
    def trial_seconds(self) -> float:
        """Time on the wire of one trial, s."""
        return self.seconds + self.warmup


@dataclass(frozen=True)
class Trial:
    """One bounded measurement of one VIP.

    :param number: in the order of the run, from 1.
    :param side: :data:`REFERENCE` or :data:`CANDIDATE`.
    :param block: number of the block within the stage, from 0.
    :param position: place in the block, from 0; four make a round.
    """

    number: int
    stage: Stage
    side: str
    block: int
    position: int
    rate: float | None = None  # background requests/s, where the stage has a load


@dataclass
class Health:
    """How the generator and its machine were while a sample was taken.

    Shares of the busiest generator process, 0 to 1 (of one core); ``steal`` of the machine.
    ``bottleneck`` says why the sample may describe the generator rather than the VIP.
    """

    cpu: float = 0.0
    waiting: float = 0.0
    steal: float = 0.0
    lag_p99: float | None = None  # ns, intended to actual send
    bottleneck: list[str] = field(default_factory=list)
    details: list[dict] = field(default_factory=list)  # one per generator process


@dataclass
class Sample:
    """What one trial came to.

    :param values: metric name -> value in the metric's unit.
    :param histograms: name -> durations.
    :param failed: what went wrong on the target's side -> count.
    :param void: reasons why nothing may be claimed from it; empty when it is good.
    :param broke: whether one of them is that the target failed, and not the instrument.
    :param raw: arrays kept as they are, name -> numpy array.
    :param seconds: intervals of the trial, ``[{"t": s, "done": n}, …]``.
    """

    trial: Trial
    started: float
    window: float
    requests: int
    values: dict[str, float]
    histograms: dict[str, Histogram] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    members: dict[str, int] = field(default_factory=dict)
    health: Health = field(default_factory=Health)
    void: list[str] = field(default_factory=list)
    broke: bool = False
    notes: list[str] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)
    series: list[dict] = field(default_factory=list)


def in_a_sentence(title: str) -> str:
    """A title where it is not the first word: without its capital, unless of "TCP" or "UDP"."""
    return title if title[1:2].isupper() else title[:1].lower() + title[1:]
