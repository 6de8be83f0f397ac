# SPDX-License-Identifier: Apache-2.0
"""Load profiles: YAML in ``scenarios/profiles/``, checked before anything is started."""

from __future__ import annotations

import importlib.resources
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from . import errors
from .agent.schedule import RAW_LIMIT
from .engines.base import Limits
from .engines.probe import DEFAULT_CONNECTIONS, LONGER, LatencyProbe
from .engines.registry import make
from .model import Stage
from .swarm.station import REPORT_INTERVAL

#: Seconds between two trials: connections are opened, processes are told, locust reports.
TRIAL_OVERHEAD = 0.11
#: A probe is told directly.
PROBE_OVERHEAD = 0.02
#: Seconds at the end of a block: what was measured so far is written.
BLOCK_OVERHEAD = 0.4
#: A load beside a probe ends after it, and is over when its worker has said so.
LOAD_OVERHEAD = LONGER + REPORT_INTERVAL
#: Requests per connection that a probe's warm-up has to have: they leave at random times, and each
#: connection is to have had one.
WARM = 1.5
#: Of a request that a probe keeps: up to six times, which compress to about half.
RAW_BYTES = 24
#: Seconds to start agents and locust, to look at the amphorae, and to analyse in the end.
START_OVERHEAD = 12.0
#: iperf3 starts a process and talks to its server before and after.
IPERF_OVERHEAD = 0.75


@dataclass(frozen=True)
class ClaimSpec:
    """A published claim, to be judged on the first of ``metrics`` that was measured."""

    text: str
    source: str
    metrics: tuple[str, ...]
    ratio: float
    better: str


@dataclass(frozen=True)
class Profile:
    """What a comparison measures, for how long, and how it decides."""

    name: str
    title: str
    note: str
    time_limit: float
    margin: float
    alpha: float
    limits: Limits
    void_share: float
    claims: tuple[ClaimSpec, ...]
    stages: tuple[Stage, ...]
    optional: frozenset[str]
    source: Mapping[str, Any]

    @property
    def needs(self) -> frozenset[str]:
        """What its stages need of a target beside its URL, by the target's own names."""
        found = {make(stage.engine).needs for stage in self.stages}
        if self.sizes:
            found.add("objects")
        return frozenset(found - {""})

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes of objects that its stages ask for, bytes."""
        asked = (stage.parameters.get("object") for stage in self.stages)
        return tuple(sorted({size for size in asked if size is not None}))

    @property
    def room(self) -> int:
        """What its probes keep of every request at most, compressed, bytes."""
        kept = sum(
            stage.limit * stage.trials * stage.seconds * float(stage.parameters.get("rate", 0))
            for stage in self.stages
        )
        return int(kept * RAW_BYTES)

    def planned_seconds(self) -> float:
        """The longest this profile takes but for spare blocks, s."""
        return START_OVERHEAD + sum(map(seconds_of, self.stages))

    def most_seconds(self) -> float:
        """The longest this profile can take, s."""
        if any(stage.spare for stage in self.stages):
            return self.time_limit
        return self.planned_seconds()


def seconds_of(stage: Stage) -> float:
    """The longest a stage takes but for spare blocks, s."""
    return stage.most * block_seconds(stage)


def block_seconds(stage: Stage) -> float:
    """The longest a block of a stage can take, s."""
    return stage.trials * (stage.trial_seconds + overhead(stage)) + BLOCK_OVERHEAD


def probes(stage: Stage) -> bool:
    """Whether its engine keeps the times of each of its requests."""
    return isinstance(make(stage.engine), LatencyProbe)


def overhead(stage: Stage) -> float:
    """Seconds a trial takes beside its own time."""
    if stage.engine == "iperf3":
        return IPERF_OVERHEAD
    if stage.engine == "connections-held":
        # They are opened at a stated rate, and may take five seconds more.
        wanted = stage.parameters.get("connections", 1000)
        return TRIAL_OVERHEAD + wanted / stage.parameters.get("opening", 2000.0) + 5.0
    if stage.engine == "rate-search":
        # The trial that is under way when its time is up is finished.
        return TRIAL_OVERHEAD + stage.parameters.get("trial", 1.0) + 1.0
    if probes(stage) and not stage.load:
        return PROBE_OVERHEAD
    return TRIAL_OVERHEAD + (LOAD_OVERHEAD if stage.load else 0.0)


def folder():
    """Where the profiles are, in a checkout and in an installed package."""
    return importlib.resources.files("sriov_lb_tests").joinpath("scenarios", "profiles")


def names() -> list[str]:
    """Of the profiles that come with the project."""
    return sorted(
        entry.name[:-5] for entry in folder().iterdir() if entry.name.endswith(".yaml")
    )


def load(name_or_path: str) -> Profile:
    """A profile by name, or from a file (anything with a slash or ending in .yaml).

    :raises BadProfile: unknown, breaks the schema, or cannot finish in its time.
    """
    if "/" in name_or_path or name_or_path.endswith((".yaml", ".yml")):
        source, origin = Path(name_or_path), name_or_path
        if not source.is_file():
            raise errors.BadProfile(f"There is no profile file {name_or_path}.")
    else:
        source = folder().joinpath(f"{name_or_path}.yaml")
        origin = f"profile {name_or_path}"
        if not source.is_file():
            raise errors.BadProfile(
                f"There is no profile {name_or_path!r}; there are: {', '.join(names())}.",
                remedy="Name one of these, or give the path of a YAML file.",
            )
    try:
        data = yaml.safe_load(source.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise errors.BadProfile(f"{origin} is not YAML: {error}") from error
    return from_mapping(data, origin)


def from_mapping(data: Any, origin: str) -> Profile:
    """A parsed profile; ``origin`` is for messages."""
    schema = json.loads(folder().joinpath("profile.schema.json").read_text())
    checker = jsonschema.Draft202012Validator(schema)
    problems = sorted(checker.iter_errors(data), key=lambda p: list(map(str, p.absolute_path)))
    if problems:
        lines = "; ".join(
            f"{'/'.join(map(str, p.absolute_path)) or '(top)'}: {p.message}" for p in problems
        )
        raise errors.BadProfile(f"{origin} breaks its schema: {lines}.")
    stages = tuple(_stage(entry) for entry in data["stages"])
    given = [stage.name for stage in stages]
    twice = sorted({name for name in given if given.count(name) > 1})
    if twice:
        raise errors.BadProfile(f"{origin}: stage name {', '.join(twice)} is used twice.")
    limits = dict(data.get("limits", {}))
    void_share = limits.pop("void", 0.5)
    profile = Profile(
        name=data["name"],
        title=data["title"],
        note=data.get("note", ""),
        time_limit=data["time_limit"],
        margin=data["margin"],
        alpha=data.get("alpha", 0.05),
        limits=Limits(**limits),
        void_share=void_share,
        claims=tuple(
            ClaimSpec(c["text"], c["source"], tuple(c["metric"]), c["ratio"], c["better"])
            for c in data.get("claims", ())
        ),
        stages=stages,
        optional=frozenset(e["name"] for e in data["stages"] if e.get("optional")),
        source=data,
    )
    _check(profile, origin)
    return profile


def _stage(entry: Mapping) -> Stage:
    blocks = entry["blocks"]
    fixed = isinstance(blocks, int)
    return Stage(
        name=entry["name"],
        title=entry["title"],
        engine=entry["engine"],
        seconds=float(entry["seconds"]),
        warmup=float(entry["warmup"]),
        blocks=blocks if fixed else blocks["least"],
        most=blocks if fixed else blocks["most"],
        until=None if fixed else blocks["until"],
        spare=0 if fixed else blocks.get("spare", 0),
        load=float(entry.get("load", 0.0)),
        parameters=entry.get("parameters", {}),
        rounds=entry.get("rounds", 1),
    )


def _check_warm(stage: Stage, rate: float, where: str) -> None:
    """The first request of a connection is another thing than the later ones.

    The connection that was free longest is taken, so all of them are used in turn, and for its
    first request a load balancer opens a connection to a member: through the lab's, with 32
    connections and a warm-up of 0.05 s at 250 requests/s, the median of the first 0.1 s that
    counted was 1.6 times that of the rest.
    """
    connections = stage.parameters.get("connections", DEFAULT_CONNECTIONS)
    sent = stage.warmup * rate
    if sent >= WARM * connections:
        return
    remedy = f"Raise warmup to {math.ceil(100 * WARM * connections / rate) / 100:g} s"
    if sent >= WARM:
        remedy += f", or lower connections to {int(sent / WARM)}"
    raise errors.BadProfile(
        f"{where}: {sent:.0f} requests leave in its warm-up ({rate:g}/s for {stage.warmup:g} s), "
        f"too few to have used each of its {connections} connections: their first requests, "
        "which take longer, would count.",
        remedy=f"{remedy}.",
    )


def _check(profile: Profile, origin: str) -> None:
    """What a schema cannot say."""
    for stage in profile.stages:
        if stage.engine == "iperf3" and (stage.seconds % 1 or stage.warmup % 1):
            raise errors.BadProfile(
                f"{origin}, stage {stage.name}: iperf3 takes whole seconds, and seconds is "
                f"{stage.seconds:g}, warmup {stage.warmup:g}."
            )
        rate = stage.parameters.get("rate", 0)
        if probes(stage) and rate * stage.trial_seconds > RAW_LIMIT:
            raise errors.BadProfile(
                f"{origin}, stage {stage.name}: rate {rate:g} for {stage.trial_seconds:g} s "
                f"(seconds and warmup) is {rate * stage.trial_seconds:,.0f} requests a trial; a "
                f"probe keeps the times of {RAW_LIMIT:,} at most.",
                remedy=f"Lower rate to {int(RAW_LIMIT / stage.trial_seconds)} or less, or use "
                "shorter trials and more blocks.",
            )
        if stage.engine == LatencyProbe.name:
            _check_warm(stage, rate, f"{origin}, stage {stage.name}")
    seconds = profile.planned_seconds()
    if seconds > profile.time_limit:
        longest = max(profile.stages, key=seconds_of)
        raise errors.BadProfile(
            f"{origin} cannot finish in its time: its trials take up to {seconds:.0f} s, "
            f"time_limit is {profile.time_limit:g} s; the longest stage is {longest.name!r} "
            f"({longest.most} blocks of {longest.trials} trials of {longest.trial_seconds:g} s).",
            remedy="Raise time_limit, or use fewer blocks or shorter trials.",
        )
    measured = set()
    rate_seen = False
    for stage in profile.stages:
        if stage.most < stage.blocks:
            raise errors.BadProfile(
                f"{origin}, stage {stage.name}: most ({stage.most}) is less than least "
                f"({stage.blocks})."
            )
        if stage.spare and stage.spare <= stage.most:
            raise errors.BadProfile(
                f"{origin}, stage {stage.name}: spare ({stage.spare}) is not more than most "
                f"({stage.most})."
            )
        highest = stage.parameters.get("highest")
        if highest is not None and stage.parameters.get("lowest", 0) >= highest:
            raise errors.BadProfile(
                f"{origin}, stage {stage.name}: lowest ({stage.parameters['lowest']:g}) is not "
                f"below highest ({highest:g})."
            )
        if stage.load and not rate_seen:
            raise errors.BadProfile(
                f"{origin}, stage {stage.name}: load {stage.load:g} is a share of the measured "
                "maximum, but no http-rate stage comes before it."
            )
        rate_seen = rate_seen or stage.engine == "http-rate"
        measured |= {f"{stage.name}.{metric.name}" for metric in make(stage.engine).metrics(stage)}
    for claim in profile.claims:
        # Each of them: a misspelt one would be passed over for the next without a word.
        unknown = [name for name in claim.metrics if name not in measured]
        if unknown:
            raise errors.BadProfile(
                f"{origin}, claim {claim.text!r}: unknown metric {', '.join(unknown)}; this "
                f"profile measures {', '.join(sorted(measured))}."
            )
