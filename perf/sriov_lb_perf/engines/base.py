# SPDX-License-Identifier: Apache-2.0
"""The protocol of everything that measures, and the machines it measures from."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .. import errors
from ..clients import Client, Generator
from ..model import Health, Metric, Sample, Stage, Trial
from ..swarm.control import Swarm
from ..targets import Pair, Target, at_path


class Engine(Protocol):
    """One way of measuring.

    Life: ``configure`` once per stage, then ``measure`` once per trial. A measurement warms up,
    runs for the stage's time and not longer, and says how its own health was; it never says
    anything about the other VIP.
    """

    #: As profiles call it.
    name: str

    #: What of a :class:`~sriov_lb_perf.targets.Target` it needs beside the URL; "": nothing.
    needs: str

    def metrics(self, stage: Stage) -> list[Metric]:
        """What samples of this stage will carry."""
        ...

    def unfit(self, stage: Stage, pair: Pair) -> str | None:
        """Why this stage cannot be run on these targets; None when it can."""
        ...

    def configure(self, stage: Stage, pair: Pair, crew: Crew) -> None:
        """Get ready. :raises PerfError: it cannot."""
        ...

    def measure(self, trial: Trial, pair: Pair, crew: Crew) -> Sample:
        """One trial. :raises PerfError: it could not be finished."""
        ...


@dataclass(frozen=True)
class Limits:
    """When a sample may not support a claim.

    :param cpu: share of a core from which on a generator counts as the bottleneck.
    :param steal: share of the client's CPUs taken by its hypervisor.
    :param failed: share of failed requests (RFC 9411: 0.00001).
    :param lag: 99th percentile of a generator's own lag as a share of the reported p99.
    :param missed: share of an open-loop schedule not sent.
    :param steady: how far the rate of a part of a closed-loop trial may be from the whole's, as
        a share of it (RFC 9411, section 7.2.3.3: 0.05); None: it may do what it likes.
    """

    cpu: float = 0.90
    steal: float = 0.10
    failed: float = 0.00001
    lag: float = 0.10
    missed: float = 0.001
    steady: float | None = None


#: Seconds that the first answer of a URL may take.
PATIENCE = 5.0


def fetch(url: str, prober: Generator) -> dict[str, Any]:
    """What one GET comes to, whatever its status.

    :raises TargetFailed: no answer within :data:`PATIENCE`.
    """
    job = {"job": "fetch", "url": url, "timeout": PATIENCE}
    return prober.job(job, seconds=PATIENCE + 1)


class Crew:
    """The clients of a run: connections to them, the swarm on them, and a prober.

    Use as a context manager. Nothing is started before it is needed.
    """

    def __init__(
        self,
        clients: Iterable[Client],
        folder: Path,
        *,
        limits: Limits | None = None,
        web_port: int | None = None,
    ) -> None:
        self.clients = tuple(clients)
        self.folder = folder
        self.limits = limits or Limits()
        self._web_port = web_port
        self._stack = contextlib.ExitStack()
        self.hosts: dict[str, Any] = {}
        self._swarm: Swarm | None = None
        self._prober: Generator | None = None
        #: URL -> bytes of its body when it was first seen in this run.
        self.lengths: dict[str, int] = {}

    def __enter__(self) -> Crew:
        try:
            for client in self.clients:
                host = client.open(self.folder / "host-keys")
                self._stack.callback(host.close)
                self.hosts[client.name] = host
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_exc) -> None:
        self._stack.close()

    def client(self, name: str) -> Client:
        return next(client for client in self.clients if client.name == name)

    @property
    def swarm(self) -> Swarm:
        """The locust processes; started at the first call."""
        if self._swarm is None:
            generators = {}
            try:
                for client in self.clients:
                    generators[client.name] = Generator.start(client, self.hosts[client.name])
            except errors.PerfError:
                for generator in generators.values():
                    generator.close()
                raise
            swarm = Swarm(generators, self.folder / "logs", web_port=self._web_port)
            self._swarm = self._stack.enter_context(swarm)
        return self._swarm

    @property
    def prober(self) -> Generator:
        """An engine of its own on the first client, so that probing and load do not share a
        process."""
        if self._prober is None:
            client = self.clients[0]
            self._prober = Generator.start(client, self.hosts[client.name])
            self._stack.callback(self._prober.close)
        return self._prober

    def length_of(self, url: str) -> int:
        """Bytes that every answer of ``url`` is to have: those it had when it was first seen.

        :raises TargetFailed: it does not answer, or not with 200 and a length.
        """
        if url not in self.lengths:
            answer = fetch(url, self.prober)
            if answer["status"] != 200 or answer["length"] is None:
                raise errors.TargetFailed(
                    f"{url} answers status {answer['status']}, Content-Length "
                    f"{answer['length']}; expected 200 with a length."
                )
            self.lengths[url] = answer["length"]
        return self.lengths[url]

    def jobs(self, job: Mapping, shared: Mapping[str, int | float]) -> dict[str, dict]:
        """``job`` for every worker, with the amounts in ``shared`` divided among them.

        Whole numbers are divided without loss: the first workers get one more.
        """
        found = {}
        count = len(self.clients)
        for index, client in enumerate(self.clients):
            mine = dict(job)
            for name, amount in shared.items():
                if isinstance(amount, int):
                    part = amount // count + (1 if index < amount % count else 0)
                    mine[name] = max(1, part)
                else:
                    mine[name] = amount / count
            if client.cpu is not None:
                mine["cpu"] = client.cpu
            if client.sources:
                mine["sources"] = list(client.sources)
            found[client.name] = mine
        return found


def lacking(pair: Pair, what: str, words: str) -> str | None:
    """Why a stage cannot be run that needs ``what`` of both VIPs; None when they have it.

    :param words: what a user would have to name, and where.
    """
    without = [vip for vip in (pair.reference, pair.candidate) if not getattr(vip, what)]
    if not without:
        return None
    told = dict.fromkeys(vip.lacks[what] for vip in without if what in vip.lacks)
    if told:
        return "; ".join(told)
    return words.format(vips=" and ".join(vip.role for vip in without))


def unfit_size(stage: Stage, pair: Pair) -> str | None:
    """Why the size of object that a stage asks for cannot be had; None when it can."""
    size = stage.parameters.get("object")
    if size is None:
        return None
    for vip in (pair.reference, pair.candidate):
        if size not in vip.objects:
            return vip.lacks.get("objects") or (
                f"no object of {size} bytes is known on the VIP of {vip.role} (`objects` in the "
                "target file)"
            )
    return None


def sized(url: str, stage: Stage, target: Target) -> str:
    """``url``, or the object of the size that the stage asks for on the same listener."""
    size = stage.parameters.get("object")
    return url if size is None else at_path(url, target.objects[size])


def expected_length(url: str, stage: Stage, crew: Crew) -> int:
    """Bytes that each answer is to have in a stage: the object's size, where it asks for one."""
    size = stage.parameters.get("object")
    return crew.length_of(url) if size is None else size


def health_of(reports: Mapping[str, Mapping], limits: Limits) -> Health:
    """The generators' own words about themselves, and what follows from them.

    :param reports: worker -> final report of the agent.
    """
    health = machine_of(reports, limits)
    busy = []
    for own in health.details:
        health.cpu = max(health.cpu, own["cpu_share"])
        if own["cpu_share"] >= limits.cpu:
            busy.append(
                f"the generator on {own['client']} used {own['cpu_share']:.0%} of its core"
            )
    health.bottleneck[:0] = busy
    return health


def machine_of(reports: Mapping[str, Mapping], limits: Limits) -> Health:
    """The part of :func:`health_of` that is not the generator's own CPU time."""
    health = Health()
    for name, report in reports.items():
        own = dict(report.get("health") or {})
        if not own:
            continue
        own["client"] = name
        health.details.append(own)
        health.waiting = max(health.waiting, own.get("waiting_for_cpu_share") or 0.0)
        health.steal = max(health.steal, own["machine_steal_share"])
        if own["machine_steal_share"] > limits.steal:
            health.bottleneck.append(
                f"{own['machine_steal_share']:.0%} of the CPU of {name} was stolen"
            )
        if own["backlog_drops"]:
            health.bottleneck.append(
                f"{own['backlog_drops']} packets were dropped in the backlog of {name}"
            )
        if own["clock_step_ns"]:
            health.bottleneck.append(
                f"the clock of {name} stepped by {own['clock_step_ns'] / 1e6:+.1f} ms"
            )
    return health


def generator_faults(reports: Mapping[str, Mapping]) -> list[str]:
    """Events that are the client's fault, never the VIP's."""
    found = []
    for name, report in reports.items():
        for kind, text in (("ports", "ephemeral ports"), ("descriptors", "descriptors")):
            count = (report.get("events") or {}).get("error: " + kind, 0)
            if count:
                found.append(f"client {name} ran out of {text} {count} times")
    return found


def failures(reports: Iterable[Mapping]) -> dict[str, int]:
    """What went wrong on the target's side, over all workers."""
    total: dict[str, int] = {}
    for report in reports:
        for what, count in (report.get("failed") or {}).items():
            total[what] = total.get(what, 0) + count
        for what, count in (report.get("events") or {}).items():
            if what in ("error: reset", "error: connect"):
                total[what[7:]] = total.get(what[7:], 0) + count
            # In a closed loop a request is under way on every connection, always.
            if what == "closed by the target" and "requests" in report:
                words = "closed without an answer"
                total[words] = total.get(words, 0) + count
        if report.get("unanswered"):
            total["unanswered for 1 s"] = total.get("unanswered for 1 s", 0) + report["unanswered"]
    return total


def members(reports: Iterable[Mapping]) -> dict[str, int]:
    """Responses by the beginning of their body: which member answered."""
    total: dict[str, int] = {}
    for report in reports:
        for variant in report.get("variants") or ():
            head = variant["head"]
            text = "(not told apart)" if head is None else head.split("\n", 1)[0][:60]
            if variant.get("length") is not None:
                text += f" [{variant['length']} bytes]"
            total[text] = total.get(text, 0) + variant["count"]
    return total


def failed_share_void(failed: Mapping[str, int], good: int, limits: Limits) -> list[str]:
    """A void reason when more than the allowed share failed."""
    bad = sum(failed.values())
    if bad and bad / (bad + good) > limits.failed:
        named = ", ".join(f"{count} x {what}" for what, count in sorted(failed.items()))
        return [f"{bad} of {bad + good} requests failed ({named})"]
    return []


def percentile_metrics(
    histogram: str, percentiles: Iterable[float], expected: float, title: str
) -> list[Metric]:
    """Metrics for percentiles of a histogram.

    Only percentiles with at least ten durations beyond them in a block are tested; the others
    are shown.

    :param expected: durations in the histogram of one block and VIP.
    """
    found = []
    for q in percentiles:
        beyond = expected * (1 - q / 100)
        found.append(
            Metric(
                name=f"p{q:g}",
                title=f"{title}, {percentile_name(q)}",
                unit="ns",
                better="lower",
                histogram=histogram,
                percentile=q,
                claim=beyond >= 10,
                note="" if beyond >= 10 else "too few samples in a block to be tested",
            )
        )
    return found


def percentile_name(q: float) -> str:
    return "median" if q == 50 else f"{q:g}th percentile"


def finite(value: float) -> bool:
    return not (math.isnan(value) or math.isinf(value))
