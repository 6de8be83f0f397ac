# SPDX-License-Identifier: Apache-2.0
"""A change of a load balancer, watched: probes at 1 kHz while it goes on, agreement after it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sriov_lb_tests.packets.probe import Probe
from sriov_lb_tests.tests import base, scene
from sriov_lb_tests.tests.agreement import Agrees
from sriov_lb_tests.tests.own import NEVER, WEB, Own
from sriov_lb_tests.verdicts.model import Broken

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
    ) -> Any:
        """Carry out a change while the prober runs, then look whether all agree.

        :param act: the change; returns when the API says that it is done.
        :param ports: that were served before.
        :param opens: streams that may not pass before and have to after it.
        :param closes: streams that pass before and may not once the API says ACTIVE.
        :param flows: connections (:class:`sriov_lb_tests.wire.prober.Connection`) to keep.
        :param web: whether the listener ``web`` is there, before and after, for everybody it
            is open to.
        :return: what ``act`` returned.
        """
        allowed, forbidden = self.streams()
        if not web:
            allowed = {}
        streams = {**allowed, **(opens or {}), **(closes or {}), **forbidden}
        record = Change(step)
        self.changes.append(record)
        vantage = self.client.vantage
        with vantage.prober(
            streams, forbidden=set(forbidden), flows=flows, rate=RATE, title=step
        ) as probing:
            probing.mark("asked for")
            started = time.monotonic()
            done = act()
            record.api = time.monotonic() - started
            probing.mark("ACTIVE")
            # What is in force now shows in the probes that leave while this is asked.
            control = self.own.syn(self.own.versions[0], NEVER)
            vantage.ask(control, tries=1)
        report = probing.report
        self.keep(f"change-{len(self.changes):02d}.txt", f"{step}\n\n{report}")
        self.evidence(report.pcap)
        self._read(record, report, allowed, opens or {}, closes or {})
        self._judge(step, report, allowed, closes or {})
        if agree:
            settled = self.agrees(self.own.bare, step, ports=ports)
            record.agreed = settled.first.seconds
        return done

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
        if longest is not None:
            words += f", allowed traffic interrupted {longest * 1000:.0f} ms"
        for name, state in record.connections.items():
            words += f", connection {name}: {state}"
        self.seen[record.step] = words

    def _judge(self, step: str, report: Any, allowed, closes) -> None:
        if report.witnesses:
            raise Broken(
                f"{step}: while it went on, load balancer {self.own.bare.name} let in what may not "
                f"pass: {report.witnesses[0]} {report.when(report.witnesses[0].sent_ns)}. "
                f"{report}"
            )
        active = dict(report.marks)["ACTIVE"]
        for name in closes:
            last = report.streams[name].last_ns
            late = (last - active) / 1e9 - report.offset_error_ns / 1e9
            if late > IN_FLIGHT:
                raise Broken(
                    f"{step}: {report.streams[name].probe} may not pass once the API says ACTIVE, "
                    f"and was answered {late:.2f} s after that. {report}"
                )
        dead = [name for name in allowed if not report.streams[name].answered]
        if dead:
            base.inconclusive(f"{step}: the control {dead[0]} never was answered. {report}")
