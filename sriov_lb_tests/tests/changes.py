# SPDX-License-Identifier: Apache-2.0
"""A change of a load balancer, watched: probes at 1 kHz while it goes on, agreement after it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any

from sriov_lb_tests.packets.probe import Probe, tcp_syn
from sriov_lb_tests.policy.intervals import canonical, network
from sriov_lb_tests.tests import base, scene
from sriov_lb_tests.tests.agreement import Agrees
from sriov_lb_tests.tests.away import Away
from sriov_lb_tests.tests.looks import Looks
from sriov_lb_tests.tests.own import NEVER, WEB, Own
from sriov_lb_tests.verdicts.model import Broken

#: Probes of each stream a second, and how many have to leave for silence to prove something: on a
#: busy machine some are too late to be sent at all.
RATE, LEAST = 1200, 1000

#: Seconds that no change takes: then the prober ends by itself, and its silence proves nothing.
LONGEST = 3600.0

#: How much later than ACTIVE an answer may be and still belong to a packet sent before it:
#: the clocks' difference and the way there and back, seconds.
IN_FLIGHT = 0.05


def too_slow(report: Any) -> str:
    """Why a prober's silence proves nothing: it sent too little; "" when it did not."""
    if report.rate >= LEAST:
        return ""
    return (
        f"only {report.rate:.0f} probes a second could be sent, not {LEAST}: this machine or the "
        "client was too busy."
    )


@dataclass
class Change:
    """What a change did, for the evidence.

    :param api: seconds from the request until the API said ACTIVE.
    :param interrupted: the longest time without an answer, by allowed stream, seconds.
    :param silent: seconds in all without an answer, by allowed stream.
    :param took_effect: for streams that began or ceased to pass: seconds from the request to the
        first, or last, answer.
    :param away: the longest time in which a client's kernel could not connect, seconds; measured
        where the VIP moves to another MAC. ``blind``: why it saw nothing of the rest.
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
    blind: str = ""
    rate: float = 0.0
    lag: float = 0.0
    agreed: float | None = None


class Broke:
    """Keeps what breaks in the block, so that what a prober saw meanwhile is judged first.

    ::

        broke = Broke()
        with vantage.prober(streams, ...) as probing:
            with broke:
                act()
        ...                 # what probing.report says is a failure, whatever broke
        broke.conclude()
    """

    def __init__(self) -> None:
        self.error: Exception | None = None

    def __bool__(self) -> bool:
        return self.error is not None

    def __enter__(self) -> Broke:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        if self.error is None:
            self.error = error
        else:
            # The first one is what the test is about.
            notes = getattr(self.error, "__notes__", [])
            self.error.__notes__ = [*notes, f"Then: {error}"]
        return True

    def conclude(self) -> None:
        """Raise the first that broke."""
        if self.error is not None:
            raise self.error


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

    def towards(self, port: int, which: str = "allowed") -> dict[str, Probe]:
        """SYNs to a port of each VIP, by name, from the client's ``allowed`` or ``denied`` address.

        They open with a listener, close with it, or guard it.
        """
        return {
            f"{which} IPv{v} to {port}": self.own.syn(v, port, which) for v in self.own.versions
        }

    def strangers(self, port: int) -> dict[str, Probe]:
        """The same from addresses of the VIP network that nobody has: neither of the client's, so
        they guard what is open to both. None of an IP version in which there is no such address."""
        reach = self.reach(self.subject(self.own.bare), self.client.vantage)
        ours = [network(text) for text in self.own.cidrs("both")]
        found = {}
        for version in self.own.versions:
            wanted = canonical(pair for of, pair in ours if of == version)
            source = next(reach.sources(version, wanted, inside=False), None)
            self.seen[f"a stranger's address, IPv{version}"] = source or "none is free"
            if source is not None:
                probe = tcp_syn(self.own.vip(version), port, source=source)
                found[f"stranger IPv{version} to {port}"] = probe
        return found

    def change(
        self,
        step: str,
        act: Callable[[], Any],
        *,
        ports: Iterable[int] = (),
        opens: Mapping[str, Probe] | None = None,
        closes: Mapping[str, Probe] | None = None,
        guards: Mapping[str, Probe] | None = None,
        flows: Mapping[str, Any] | None = None,
        web: bool = True,
        agree: bool = True,
        moves: bool = False,
        about: Callable[[Any], Callable[[Any], str]] = lambda report: lambda witness: "",
        refusing: Iterable[str] = (),
        only: Iterable[str] | None = None,
        building: bool = False,
    ) -> Any:
        """Carry out a change while the prober runs, then look whether all agree.

        :param act: the change; returns when the API says that it is done.
        :param ports: that were served before.
        :param opens: streams that may not pass before and have to after it.
        :param closes: streams that pass before and may not once the API says ACTIVE.
        :param guards: streams that may not pass, before, meanwhile and after: who is shut out of
            the port that is changed.
        :param flows: connections (:class:`sriov_lb_tests.wire.prober.Connection`) to keep.
        :param web: whether the listener ``web`` is there, before and after, for everybody it
            is open to.
        :param moves: whether the VIP moves to another MAC, where the prober's frames do not
            follow: then a client's kernel tells how long it was away.
        :param about: from the prober's report to words about a forbidden packet that passed, put
            after what became of it; asked once the change is done.
        :param refusing: names of ``opens`` that may be answered by a reset before: their port may
            be open, as long as nobody serves it.
        :param only: ids of the amphorae to enter afterwards, when others are dead.
        :param building: the load balancer is asked for, and ``act`` waits for it: nobody answers
            for its VIPs yet. Probes of a VIP leave from when somebody does.
        :return: what ``act`` returned.
        """
        opens, closes, guards = opens or {}, closes or {}, guards or {}
        allowed, forbidden = self.streams()
        parts = [allowed if web else {}, opens, closes, guards, forbidden]
        allowed, forbidden = parts[0], {**forbidden, **guards}
        streams = {name: probe for part in parts for name, probe in part.items()}
        if len(streams) < sum(map(len, parts)):
            raise ValueError(f"{step}: a stream of one name is to do two things")
        record = Change(step)
        self.changes.append(record)
        vantage, name = self.client.vantage, self.own.asked.name
        # What is in force once it is done shows in the probes that leave while this is asked.
        control = self.own.syn(self.own.versions[0], NEVER)
        version = self.own.versions[0]
        where = self.own.vip(version), WEB, self.client.allowed(version)
        watch = Away(vantage, *where) if moves else nullcontext()
        done, broke, carried_out = None, Broke(), False
        with watch as away, vantage.prober(
            streams, forbidden=set(forbidden), flows=flows, rate=RATE, title=step,
            lasting=LONGEST, follow=moves or building, absent=building,
        ) as probing:  # fmt: skip
            # What passes before the change, and what does not, is seen first.
            with broke:
                vantage.ask(control, tries=1)
            probing.mark("asked for")
            started = time.monotonic()
            if not broke:
                with broke:
                    done, carried_out = act(), True
            record.api = time.monotonic() - started
            probing.mark("ACTIVE")
            with broke:
                vantage.ask(control, tries=1)
        report = probing.report
        self.keep(f"change-{len(self.changes):02d}.txt", f"{step}\n\n{report}")
        self.evidence(report.pcap)
        if away is not None:
            record.away = away.longest
            record.blind = away.failed.message if away.failed is not None else ""
        self._read(record, report, allowed, opens, closes)
        looks = Looks()
        with looks:
            # Of a change that was not carried out only what may never pass is judged. Of one that
            # was, and not watched to the end, nobody knows what opened.
            wanted = ({} if broke else opens, closes if carried_out else {})
            found = self._findings(step, name, report, *wanted, about(report), refusing)
            if found:
                raise Broken("\n".join([*found, str(report)]), findings=found)
        with looks:
            broke.conclude()
            self._conclusive(step, report, closes)
        with looks:
            if record.blind:
                base.inconclusive(f"{step}: for how long a client could not connect was not seen "
                                  f"to the end: {record.blind}")  # fmt: skip
        if agree:
            with looks:
                found = self.agrees(self.own.bare, step, ports=ports, only=only)
                record.agreed = found.first.seconds
        looks.conclude()
        return done

    def _read(self, record: Change, report: Any, allowed, opens, closes) -> None:
        asked = dict(report.marks)["asked for"]
        for name, stream in report.streams.items():
            record.probes += stream.sent
            if name in allowed:
                record.interrupted[name] = round(stream.longest, 4)
                record.silent[name] = round(stream.total, 4)
            elif name in opens and stream.served_ns:
                record.took_effect[f"{name} opened"] = (stream.served_ns - asked) / 1e9
            elif name in closes and stream.last_ns:
                record.took_effect[f"{name} closed"] = (stream.last_ns - asked) / 1e9
        record.connections = {name: flow.state for name, flow in report.flows.items()}
        record.rate, record.lag = report.rate, report.lag.p99
        self.keep("changes.json", [asdict(one) for one in self.changes])
        longest = max(record.interrupted.values(), default=None)
        words = f"API {record.api:.1f} s"
        if record.away is not None:
            words += f", a client could not connect for {record.away:.1f} s"
            words += " (not seen to the end)" if record.blind else ""
        elif longest is not None:
            words += f", allowed traffic interrupted {longest * 1000:.0f} ms"
        for name, state in record.connections.items():
            words += f", connection {name}: {state}"
        self.seen[record.step] = words

    def _findings(
        self,
        step: str,
        name: str,
        report: Any,
        opens: Any,
        closes: Any,
        about: Callable[[Any], str] = lambda witness: "",
        refusing: Iterable[str] = (),
    ) -> list[str]:
        """What passed and may not have, or the other way round, a sentence for each kind."""
        found = []
        for did, witnesses in _by_gravity(report.witnesses, about):
            first = witnesses[0]
            more = f" (the first of {len(witnesses)})" if len(witnesses) > 1 else ""
            found.append(
                f"{step}: while it went on, load balancer {name} {did}: {first} "
                f"{report.when(first.sent_ns)}{more}."
            )
        asked, active = (dict(report.marks)[mark] for mark in ("asked for", "ACTIVE"))
        for stream in closes:
            late = (report.streams[stream].last_ns - active - report.offset_error_ns) / 1e9
            if late > IN_FLIGHT:
                found.append(
                    f"{step}: {report.streams[stream].probe} may not pass once the API says "
                    f"ACTIVE, and was answered {late:.2f} s after that."
                )
        for stream in opens:
            probe, first = report.streams[stream].probe, report.streams[stream].served_ns
            # A reset says that it came through, too.
            began = first if stream in refusing else report.streams[stream].first_ns
            early = (asked - report.offset_error_ns - began) / 1e9
            late = (first - active - report.offset_error_ns) / 1e9
            if began and early > IN_FLIGHT:
                found.append(
                    f"{step}: {probe} may not pass before that is asked for, and was answered "
                    f"{early:.2f} s before it."
                )
            if not first or late > IN_FLIGHT:
                when = f"was first answered {late:.2f} s after that" if first else "was not"
                found.append(
                    f"{step}: {probe} has to pass once the API says ACTIVE, and {when}."
                )
        return found

    def _conclusive(self, step: str, report: Any, closes: Any) -> None:
        """Silence proves something: what has to pass did, all the while.

        :raises Inconclusive: it does not.
        """
        if report.problem:
            base.inconclusive(f"{step}: {report.problem} {report}")
        asked = dict(report.marks)["asked for"]
        for stream in closes:
            if not 0 < report.streams[stream].served_ns < asked:
                base.inconclusive(
                    f"{step}: {report.streams[stream].probe} did not pass before either, so that "
                    f"it does not afterwards proves nothing. {report}"
                )
        slow = too_slow(report)
        if slow:
            base.inconclusive(f"{step}: {slow}")


#: What an answer to a forbidden packet says became of it, worst first. An amphora that says that
#: it does not find the destination did not let the packet in: it took it for one to be passed on
#: (RFC 4443 section 3.1, RFC 792), which its filter for what comes in never sees.
ROUTED = ("ICMPv6 type 1 code 3", "ICMP type 3 code 1")
REFUSED = ("RST", "ICMPv6 type 1 code 4", "ICMP type 3 code 3")


def _by_gravity(
    witnesses: Iterable[Any], about: Callable[[Any], str]
) -> list[tuple[str, list[Any]]]:
    """Witnesses by what became of the packet, in words, the worst kind first."""
    served, refused, routed = (
        "let in what may not pass",
        "let in what may not pass, to where nobody listens",
        "took what may not pass for something to be forwarded",
    )
    kinds: dict[str, dict[str, list[Any]]] = {served: {}, refused: {}, routed: {}}
    for one in witnesses:
        kind = routed if one.text in ROUTED else refused if one.text in REFUSED else served
        kinds[kind].setdefault(about(one), []).append(one)
    return [
        (did + words, found) for did, some in kinds.items() for words, found in some.items()
    ]
