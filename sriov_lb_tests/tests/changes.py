# SPDX-License-Identifier: Apache-2.0
"""A change of a load balancer, watched: probes at 1 kHz while it goes on, agreement after it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

from sriov_lb_tests.packets.probe import Probe
from sriov_lb_tests.tests import base, scene
from sriov_lb_tests.tests.agreement import Agrees
from sriov_lb_tests.tests.away import Away
from sriov_lb_tests.tests.own import NEVER, WEB, Own
from sriov_lb_tests.verdicts.model import Broken, Inconclusive

#: Probes of each stream a second.
RATE = 1000

#: How much later than ACTIVE an answer may be and still belong to a packet sent before it:
#: the clocks' difference and the way there and back, seconds.
IN_FLIGHT = 0.05


@dataclass
class Change:
    """What a change did, for the evidence.

    :param api: seconds from the request until the API said ACTIVE.
    :param interrupted: the longest time without an answer, by allowed stream, seconds.
    :param silent: seconds in all without an answer, by allowed stream.
    :param took_effect: for streams that began or ceased to pass: seconds from the request to the
        first, or last, answer.
    :param away: the longest time in which a client's kernel could not connect, seconds; measured
        where the VIP moves to another MAC.
    :param connections: what became of connections that were open.
    :param rate: slots a second really used; ``lag`` the 99th percentile of lateness, seconds.
    """

    step: str
    api: float = 0.0
    probes: int = 0
    interrupted: dict[str, float] = field(default_factory=dict)
    silent: dict[str, float] = field(default_factory=dict)
    took_effect: dict[str, float] = field(default_factory=dict)
    connections: dict[str, str] = field(default_factory=dict)
    away: float | None = None
    rate: float = 0.0
    lag: float = 0.0
    agreed: float | None = None


class Changes(Agrees):
    """For test classes that have a load balancer of their own, in ``own``."""

    own: Own

    def begin(self) -> None:
        """To be called in setUp."""
        self.changes: list[Change] = []

    @property
    def client(self) -> scene.Client:
        return scene.of(self.stage).client

    def streams(self) -> tuple[dict[str, Probe], dict[str, Probe]]:
        """(allowed, forbidden) for as long as the listener ``web`` stays as it is."""
        allowed, forbidden = {}, {}
        for version in self.own.versions:
            allowed[f"allowed IPv{version}"] = self.own.syn(version, WEB)
            forbidden[f"denied IPv{version}"] = self.own.syn(version, WEB, "denied")
        forbidden["no listener"] = self.own.syn(self.own.versions[0], NEVER)
        return allowed, forbidden

    def change(
        self,
        step: str,
        act: Callable[[], Any],
        *,
        ports: Iterable[int] = (),
        opens: Mapping[str, Probe] | None = None,
        closes: Mapping[str, Probe] | None = None,
        flows: Mapping[str, Any] | None = None,
        web: bool = True,
        agree: bool = True,
        moves: bool = False,
    ) -> Any:
        """Carry out a change while the prober runs, then look whether all agree.

        :param act: the change; returns when the API says that it is done.
        :param ports: that were served before.
        :param opens: streams that may not pass before and have to after it.
        :param closes: streams that pass before and may not once the API says ACTIVE.
        :param flows: connections (:class:`sriov_lb_tests.wire.prober.Connection`) to keep.
        :param web: whether the listener ``web`` is there, before and after, for everybody it
            is open to.
        :param moves: whether the VIP moves to another MAC, where the prober's frames do not
            follow: then a client's kernel tells how long it was away.
        :return: what ``act`` returned.
        """
        allowed, forbidden = self.streams()
        if not web:
            allowed = {}
        streams = {**allowed, **(opens or {}), **(closes or {}), **forbidden}
        record = Change(step)
        self.changes.append(record)
        vantage, name = self.client.vantage, self.own.bare.name
        # What is in force once it is done shows in the probes that leave while this is asked.
        control = self.own.syn(self.own.versions[0], NEVER)
        version = self.own.versions[0]
        where = self.own.vip(version), WEB, self.client.allowed(version)
        watch = Away(vantage, *where) if moves else nullcontext()
        with watch as away, vantage.prober(
            streams, forbidden=set(forbidden), flows=flows, rate=RATE, title=step, follow=moves
        ) as probing:
            probing.mark("asked for")
            started = time.monotonic()
            done = act()
            record.api = time.monotonic() - started
            probing.mark("ACTIVE")
            vantage.ask(control, tries=1)
        report = probing.report
        self.keep(f"change-{len(self.changes):02d}.txt", f"{step}\n\n{report}")
        self.evidence(report.pcap)
        record.away = away.longest if away is not None else None
        self._read(record, report, allowed, opens or {}, closes or {})
        problem = self._problem(step, name, report, opens or {}, closes or {})
        if agree:
            self._agree(step, record, ports, problem)
        if problem:
            raise Broken(problem)
        dead = [stream for stream in allowed if not report.streams[stream].answered]
        if dead:
            base.inconclusive(f"{step}: the control {dead[0]} never was answered. {report}")
        return done

    def _agree(self, step: str, record: Change, ports: Iterable[int], problem: str) -> None:
        try:
            settled = self.agrees(self.own.bare, step, ports=ports)
        except AssertionError as error:
            # What the three say comes first; what the prober saw explains it.
            raise Broken("\n".join(filter(None, (str(error), problem)))) from error
        except Inconclusive:
            if problem:  # what passed is proof enough
                raise Broken(problem) from None
            raise
        record.agreed = settled.first.seconds

    def _read(self, record: Change, report: Any, allowed, opens, closes) -> None:
        asked = dict(report.marks)["asked for"]
        for name, stream in report.streams.items():
            record.probes += stream.sent
            if name in allowed:
                record.interrupted[name] = round(stream.longest, 4)
                record.silent[name] = round(stream.total, 4)
            elif name in opens and stream.first_ns:
                record.took_effect[f"{name} opened"] = (stream.first_ns - asked) / 1e9
            elif name in closes and stream.last_ns:
                record.took_effect[f"{name} closed"] = (stream.last_ns - asked) / 1e9
        record.connections = {name: flow.state for name, flow in report.flows.items()}
        record.rate, record.lag = report.rate, report.lag.p99
        self.keep("changes.json", [asdict(one) for one in self.changes])
        longest = max(record.interrupted.values(), default=None)
        words = f"API {record.api:.1f} s"
        if record.away is not None:
            words += f", a client could not connect for {record.away:.1f} s"
        elif longest is not None:
            words += f", allowed traffic interrupted {longest * 1000:.0f} ms"
        for name, state in record.connections.items():
            words += f", connection {name}: {state}"
        self.seen[record.step] = words

    def _problem(self, step: str, name: str, report: Any, opens: Any, closes: Any) -> str:
        """What passed and may not have, or the other way round, as a sentence; "" for nothing."""
        if report.witnesses:
            first = report.witnesses[0]
            return (
                f"{step}: while it went on, load balancer {name} let in what may not pass: {first} "
                f"{report.when(first.sent_ns)}.\n{report}"
            )
        active = dict(report.marks)["ACTIVE"]
        for stream in closes:
            late = (report.streams[stream].last_ns - active - report.offset_error_ns) / 1e9
            if late > IN_FLIGHT:
                return (
                    f"{step}: {report.streams[stream].probe} may not pass once the API says "
                    f"ACTIVE, and was answered {late:.2f} s after that.\n{report}"
                )
        for stream in opens:
            first = report.streams[stream].first_ns
            late = (first - active - report.offset_error_ns) / 1e9
            if not first or late > IN_FLIGHT:
                when = f"was first answered {late:.2f} s after that" if first else "was not"
                return (
                    f"{step}: {report.streams[stream].probe} has to pass once the API says "
                    f"ACTIVE, and {when}.\n{report}"
                )
        return ""
