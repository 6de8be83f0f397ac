# SPDX-License-Identifier: Apache-2.0
"""Probing at 1 kHz while something is changed: what passed that may not, and how long what must
pass did not.

::

    with vantage.prober(
        {"allowed": tcp_syn(vip, 80, source=good), "denied": tcp_syn(vip, 80, source=bad)},
        forbidden={"denied"},
        flows={"kept": Connection(vip, 80, source=bad)},
    ) as probing:
        change_the_listener()
        probing.mark("listener changed")
    report = probing.report
    assert not report.problem, report.problem            # no control, no verdict
    assert not report.witnesses, str(report)
    print(report.streams["allowed"].interruptions, report.flows["kept"].state)

At every slot of the schedule one probe of each stream leaves, within microseconds of each other, so
each forbidden probe has an allowed one beside it. All times are nanoseconds of the guest's clock;
those of answers are the kernel's. What is shorter than a slot cannot be seen.
"""

from __future__ import annotations

import array
import itertools
import secrets
import statistics
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from netaddr import IPAddress

from sriov_lb_tests import errors
from sriov_lb_tests.packets.answers import read
from sriov_lb_tests.packets.probe import Link, Probe
from sriov_lb_tests.wire import agent_prober as guest
from sriov_lb_tests.wire.agent import Refused, pack_frames, unpack_records
from sriov_lb_tests.wire.capture import Frame

if TYPE_CHECKING:
    from sriov_lb_tests.wire.vantage import Vantage

KINDS = {
    guest.OTHER: "other answer",
    guest.SYN_ACK: "SYN-ACK",
    guest.RESET: "RST",
    guest.ICMP_ERROR: "ICMP error",
    guest.DATAGRAM: "UDP answer",
}
#: Answers by which an allowed stream counts as served.
SERVED = (guest.SYN_ACK, guest.DATAGRAM, guest.OTHER)

#: Source ports of the prober: below those of other probes and of the kernel.
FIRST_PORT, PORTS, PORTS_OF_ONE = 1100, 28_000, 8192
#: Frames in turn, for probes that the agent does not patch.
RING = 128
#: A sender that sent nothing for so many slots was late.
HOLE = 3
#: Where nothing is sent to: the MAC of a target that nobody answers for yet.
NOBODY = "00:00:00:00:00:00"


@dataclass(frozen=True)
class Connection:
    """A TCP connection by the guest's kernel that is kept while probing: what becomes of it?

    :param source: local address; one that the guest does not own is given to it meanwhile.
    :param payload: what is sent ``rate`` times a second, each time after the last was answered; by
        default an HTTP request, since most listeners speak HTTP.
    """

    destination: str
    port: int
    source: str | None = None
    payload: bytes = b"GET / HTTP/1.1\r\nHost: probe\r\n\r\n"
    rate: float = 50.0


@dataclass(frozen=True)
class Interruption:
    """A time in which probes of an allowed stream were sent and nothing was answered.

    :param start_ns: when the first probe that got no answer in time was sent.
    :param end_ns: when service was there again (arrival of the next answer less the usual round
        trip); when the last probe was sent, if it never was.
    :param probes: probes sent within it.
    :param unsent: seconds between two of these in which the sender itself was late.
    :param over: False when the stream was still silent at the end.

    It ends with its last probe where the sender was late after that one: what nobody asked for is
    no silence.
    """

    start_ns: int
    end_ns: int
    probes: int
    unsent: float = 0.0
    over: bool = True

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9


@dataclass(frozen=True)
class Witness:
    """A forbidden probe that was answered by its target."""

    stream: str
    probe: Probe
    number: int
    text: str
    sent_ns: int
    answered_ns: int
    sent: bytes
    answer: bytes

    def __str__(self) -> str:
        return (
            f"{self.probe}, probe {self.number} of {self.stream}, was answered with {self.text} "
            f"after {(self.answered_ns - self.sent_ns) / 1e6:.2f} ms"
        )


@dataclass(frozen=True)
class Lag:
    """How late probes left, seconds; ``left_out`` slots were too late to be used at all."""

    median: float
    p99: float
    worst: float
    left_out: int


@dataclass
class StreamReport:
    """What became of one stream.

    :param sent: probes that left. :param answered: of these, answered as allowed traffic is.
    :param answers: answers by kind. :param first_ns, last_ns: of the answers, 0 without any.
    :param served_ns: of the first answer that allowed traffic gets, 0 without any.
    :param interruptions: silences of at least the prober's ``floor``, oldest first.
    :param longest, total: seconds; of all silences, also shorter ones.
    :param round_trip: median seconds from sending to the answer.
    """

    name: str
    probe: Probe
    forbidden: bool
    sent: int = 0
    answered: int = 0
    answers: dict[str, int] = field(default_factory=dict)
    first_ns: int = 0
    last_ns: int = 0
    served_ns: int = 0
    interruptions: list[Interruption] = field(default_factory=list)
    longest: float = 0.0
    total: float = 0.0
    round_trip: float | None = None
    refused: int = 0

    @property
    def lost(self) -> int:
        return self.sent - self.answered


@dataclass(frozen=True)
class FlowReport:
    """What became of a kept connection.

    :param state: ``open``, ``silent`` (open, but the last ping stays unanswered), ``closed by the
        other side``, ``reset by the other side``, ``not connected: …``, ``ended: …``.
    :param pings: pairs ``(sent_ns, answered_ns)``, 0 for no answer.
    :param ended_ns: when the connection ended, 0 if it did not.
    :param longest: the longest wait for an answer, seconds; to the end for one that never came.
    """

    name: str
    connection: Connection
    state: str
    pings: tuple[tuple[int, int], ...]
    ended_ns: int
    longest: float

    @property
    def answered(self) -> int:
        return sum(1 for _, answer in self.pings if answer)

    @property
    def last_ns(self) -> int:
        """Arrival of the last answer, 0 if there was none."""
        return max((answer for _, answer in self.pings), default=0)


@dataclass
class ProberReport:
    """Everything a run of the prober saw; ``str()`` is for people.

    :param problem: why nothing follows from a silence (no control was answered, frames of the
        capture were lost); "" when the run is conclusive. Witnesses hold in any case.
    :param rate: slots a second that were really used. :param cpu: share of a core that it took.
    :param offset_ns: guest's clock minus the tester's; ``± offset_error_ns``.
    :param marks: what the tester said happened, in the guest's time.
    :param moves: ``(ns, target, MAC)`` as it was heard, when it was to be followed.
    """

    streams: dict[str, StreamReport]
    flows: dict[str, FlowReport]
    witnesses: list[Witness]
    problem: str
    lag: Lag
    rate: float
    cpu: float
    started_ns: int
    ended_ns: int
    offset_ns: int
    offset_error_ns: int
    marks: list[tuple[str, int]]
    moves: list[tuple[int, str, str]] = field(default_factory=list)
    pcap: Path | None = None

    @property
    def seconds(self) -> float:
        return (self.ended_ns - self.started_ns) / 1e9

    @property
    def unproven(self) -> float:
        """Seconds in which an allowed stream was silent: silence of others proves nothing then."""
        return max((s.total for s in self.streams.values() if not s.forbidden), default=0.0)

    def when(self, ns: int) -> str:
        """A time in words: since the start, and since the last mark before it."""
        text = f"at {(ns - self.started_ns) / 1e9:.3f} s"
        before = [(name, at) for name, at in self.marks if at <= ns]
        if before:
            name, at = before[-1]
            text += f" ({(ns - at) / 1e9:.3f} s after {name!r})"
        return text

    def __str__(self) -> str:
        lines = []
        if self.problem:
            lines.append(f"Inconclusive: {self.problem}")
        for witness in self.witnesses[:10]:
            lines.append(f"May not pass, and did: {witness} {self.when(witness.sent_ns)}.")
        if len(self.witnesses) > 10:
            lines.append(f"… and {len(self.witnesses) - 10} more.")
        for stream in self.streams.values():
            what = "forbidden" if stream.forbidden else "allowed"
            kinds = ", ".join(f"{count} {kind}" for kind, count in stream.answers.items())
            lines.append(
                f"{stream.name} ({what}): {stream.sent} sent, answers: {kinds or 'none'}"
                + ("." if stream.forbidden else f"; longest interruption "
                   f"{stream.longest * 1e3:.1f} ms, {stream.total * 1e3:.1f} ms in all.")
            )  # fmt: skip
            for one in stream.interruptions[:10]:
                end = "" if one.over else ", and not over at the end"
                lines.append(
                    f"  no answer for {one.seconds * 1e3:.1f} ms {self.when(one.start_ns)}{end}"
                )
        for flow in self.flows.values():
            ended = f" {self.when(flow.ended_ns)}" if flow.ended_ns else ""
            lines.append(
                f"connection {flow.name}: {flow.state}{ended}; {flow.answered} of "
                f"{len(flow.pings)} pings answered, longest wait {flow.longest * 1e3:.1f} ms."
            )
        lines.append(
            f"{self.rate:.0f} slots/s for {self.seconds:.2f} s, {self.cpu:.0%} of a core; lag "
            f"median {self.lag.median * 1e6:.0f} us, p99 {self.lag.p99 * 1e6:.0f} us, worst "
            f"{self.lag.worst * 1e3:.1f} ms, {self.lag.left_out} slots left out."
        )
        if self.pcap:
            lines.append(f"Evidence: {self.pcap}")
        return "\n".join(lines)


def interruptions(
    sent: Sequence[int], answers: Mapping[int, int], period_ns: float
) -> list[Interruption]:
    """Silences of a stream, however short, oldest first.

    :param sent: time of sending by number; 0 was not sent.
    :param answers: time of the (first) answer by number.
    :param period_ns: of the schedule.

    Between two answers that follow each other, the silence begins with the first probe sent after
    all that are answered so far (or with the first answer, if that came later), and ends a usual
    round trip before the second. So late answers are silence as lost ones are, and a sender that
    pauses is not.
    """
    order = [number for number, at in enumerate(sent) if at]
    if not order:
        return []
    trips = [answers[n] - sent[n] for n in order if n in answers]
    usual = int(statistics.median(trips)) if trips else 0
    found: list[Interruption] = []
    position, last = 0, 0  # in order: the first probe after all that are answered so far

    def silence(until: int, over: bool) -> None:
        stop = position
        unsent = 0.0
        while stop < len(order) and sent[order[stop]] < until:
            if stop > position:
                gap = sent[order[stop]] - sent[order[stop - 1]]
                unsent += gap - period_ns if gap > HOLE * period_ns else 0
            stop += 1
        if stop == position:
            return
        latest = sent[order[stop - 1]]
        if until - latest > HOLE * period_ns:
            # Nobody asked any more: how much longer it was silent is not known.
            until = int(latest + period_ns)
        # Answers that come late, but one after the other as they should, are one silence: the one
        # before the first of them.
        start = max(sent[order[position]], int(last + period_ns) - usual if last else 0)
        if until <= start:
            return
        found.append(Interruption(start, until, stop - position, unsent / 1e9, over))

    ranks = {number: rank for rank, number in enumerate(order)}
    for number, at in sorted(answers.items(), key=lambda item: item[1]):
        if number not in ranks:
            continue
        silence(at - usual, True)
        position = max(position, ranks[number] + 1)
        last = at
    if position < len(order):
        until = sent[order[-1]] + int(period_ns)
        if not last or until - sent[order[position]] > period_ns:
            silence(until, False)
    return [one for one in found if one.seconds * 1e9 >= period_ns / 2]


def _frames_of(probe: Probe, link: Link, identities) -> tuple[list[bytes], bool]:
    """Frames of a stream, and whether the agent may patch the (only) one."""
    if probe.asks is not None:
        raise ValueError(f"{probe} goes out in pieces: the prober takes probes of one frame")
    first, second = identities.next(), identities.next()
    built = [probe.frames(link, identity) for identity in (first, second)]
    if any(len(frames) != 1 for frames in built):
        raise ValueError(f"{probe} has {len(built[0])} frames: the prober takes probes of one")
    try:
        ports = {guest.Patch(frames[0], 0, 1, 0).upper for frames in built}
        at = ports.pop()
        mine = [int.from_bytes(frames[0][at : at + 2], "big") for frames in built]
        if mine == [first.port, second.port]:
            return built[0], True
    except Refused:
        pass  # neither TCP nor UDP: sent as built, each with its own identity
    more = [probe.frames(link, identities.next())[0] for _ in range(RING - 2)]
    return [frames[0] for frames in built] + more, False


class Prober:
    """A run of the prober; made by :meth:`Vantage.prober`. It has an agent of its own, so the
    vantage stays free for other questions.

    :param streams: probes of one frame each, by name.
    :param forbidden: names of those of which none may be answered.
    :param flows: connections to keep, by name.
    :param rate: slots a second; at each, one probe of every stream leaves.
    :param lasting: seconds after which it ends by itself.
    :param floor: seconds from which on a silence is listed as an interruption.
    :param follow: send to where the target is now: a VIP that moves to another port is announced
        with another MAC, and asked for while it is silent.
    :param absent: a target may have nobody who answers for it yet: its probes leave from when
        somebody does. Needs ``follow``.
    """

    def __init__(
        self,
        vantage: Vantage,
        streams: Mapping[str, Probe],
        *,
        forbidden: Collection[str] = (),
        flows: Mapping[str, Connection] | None = None,
        rate: float = 1000.0,
        lasting: float = 600.0,
        floor: float = 0.01,
        follow: bool = False,
        absent: bool = False,
        title: str = "prober",
    ) -> None:
        unknown = set(forbidden) - set(streams)
        if unknown or not streams:
            raise ValueError(f"no streams called {sorted(unknown)}; there are {sorted(streams)}")
        if absent and not follow:
            raise ValueError("who does not follow a target never learns that it is there")
        self.vantage, self.probes, self.forbidden = vantage, dict(streams), set(forbidden)
        self.flows, self.rate, self.lasting = dict(flows or {}), rate, lasting
        self.floor, self.follow, self.absent, self.title = floor, follow, absent, title
        self.report: ProberReport | None = None
        self._agent = None
        self._hows: list[dict] = []
        self._frames: list[list[bytes]] = []
        self._marks: list[tuple[str, int]] = []
        self._offset = (0, 0)

    # life

    def start(self) -> Prober:
        """Connect the flows and begin to send.

        :raises ControlFailed: nobody answers for a destination on the link.
        :raises AgentFailed: the agent refused, or the guest cannot run one.
        """
        vantage = self.vantage
        self._agent = agent = vantage.host.open_agent(netns=vantage.netns)
        try:
            agent.extend("agent_prober")
            self._offset = clock_offset(agent)
            given = self._give_addresses(agent)
            self._prepare(given)
            flows = [
                {
                    "address": one.destination,
                    "port": one.port,
                    "source": one.source,
                    "payload": one.payload.hex(),
                    "rate": one.rate,
                }
                for one in self.flows.values()
            ]
            agent.call(
                "prober_start",
                pack_frames([frame for frames in self._frames for frame in frames]),
                wait=30.0 + 4 * len(flows),
                interface=vantage.interface.name,
                streams=self._hows,
                flows=flows,
                rate=self.rate,
                lasting=self.lasting,
                follow=self.follow,
            )
        except BaseException:
            agent.close()
            raise
        return self

    def mark(self, name: str) -> None:
        """Something happened just now; the report tells times since the last mark."""
        self._marks.append((name, time.time_ns() + self._offset[0]))

    def stop(self, linger: float = 0.3) -> ProberReport:
        """End it; the report is also in ``report``."""
        assert self._agent is not None, "it was not started"
        try:
            head, body = self._agent.call("prober_stop", wait=60.0 + linger, linger=linger)
        finally:
            self._agent.close()
        self.report = self._read(head, body)
        return self.report

    def __enter__(self) -> Prober:
        return self.start()

    def __exit__(self, kind, error, _trace) -> None:
        if error is None:
            self.stop()
            return
        try:
            self.stop()
        except errors.WireError as second:
            # The first one is what the test is about.
            error.__notes__ = [*getattr(error, "__notes__", []), f"The prober: {second}"]

    # before

    def _give_addresses(self, agent) -> set[str]:
        """Sources of flows that the guest's kernel does not own become its own meanwhile."""
        given: set[str] = set()
        for flow in self.flows.values():
            source = flow.source
            if source and source not in given and not self.vantage.interface.owns(source):
                width = 32 if IPAddress(source).version == 4 else 128
                agent.call(
                    "add_address",
                    interface=self.vantage.interface.name,
                    address=f"{source}/{width}",
                )
                given.add(source)
        return given

    def _prepare(self, given: set[str]) -> None:
        share = min(PORTS // len(self.probes), PORTS_OF_ONE)
        firsts = itertools.count(FIRST_PORT, share)
        links: dict[str, Link] = {}
        for name, probe in self.probes.items():
            probe, crafted = self.vantage.home(probe)
            self.probes[name] = probe
            if probe.destination not in links:
                links[probe.destination] = self._link(probe.destination)
            link = links[probe.destination]
            frames, patch = _frames_of(probe, link, self.vantage.identities)
            absent = link.destination == NOBODY
            if absent and not patch:
                raise ValueError(f"{probe} cannot wait for its target: it is neither TCP nor UDP")
            how = {
                "frames": len(frames),
                "forbidden": name in self.forbidden,
                "patch": patch,
                "absent": absent,
                "play": [probe.source] if crafted and probe.source not in given else [],
                # The kernel resets what it does not know, on addresses of its own.
                "reset": probe.source not in given
                and not self.vantage.interface.owns(probe.source),
            }
            if patch:
                how.update(first=next(firsts), ports=share, key=secrets.randbits(31))
            self._hows.append(how)
            self._frames.append(frames)

    def _link(self, destination: str) -> Link:
        try:
            return self.vantage.link(destination)
        except errors.ControlFailed:
            if not self.absent:
                raise
            return Link(self.vantage.interface.mac, NOBODY)

    # after

    def _read(self, head: Mapping, body: bytes) -> ProberReport:
        position = 0

        def take(kind: str, count: int) -> array.array:
            nonlocal position
            found = array.array(kind)
            size = count * found.itemsize
            found.frombytes(body[position : position + size])
            position += size
            return found

        raw = [
            (
                take("q", entry["sent"]),
                take("q", entry["answers"]),
                take("I", entry["answers"]),
                take("B", entry["answers"]),
            )
            for entry in head["streams"]
        ]
        pings = [take("q", entry["pings"]) for entry in head["flows"]]
        kept = [Frame(*record) for record in unpack_records(body[position:])]

        streams: dict[str, StreamReport] = {}
        witnesses: list[Witness] = []
        evidence: list[Frame] = []
        period_ns = head["period"] * 1e9
        for index, (name, probe) in enumerate(self.probes.items()):
            entry = head["streams"][index]
            mine, kept = kept[: len(entry["kept"])], kept[len(entry["kept"]) :]
            sent, ns, numbers, kinds = raw[index]
            stream = StreamReport(name, probe, name in self.forbidden)
            stream.sent = sum(1 for at in sent if at)
            stream.refused = entry["errors"]
            counted = Counter(kinds)
            stream.answers = {KINDS[k]: counted[k] for k in sorted(counted)}
            if len(ns):
                stream.first_ns, stream.last_ns = min(ns), max(ns)
            served: dict[int, int] = {}
            for at, number, kind in zip(ns, numbers, kinds, strict=True):
                if kind in SERVED:
                    served[number] = min(at, served.get(number, at))
            stream.answered = len(served)
            stream.served_ns = min(served.values(), default=0)
            trips = [at - sent[number] for number, at in served.items() if sent[number]]
            stream.round_trip = statistics.median(trips) / 1e9 if trips else None
            pairs = list(zip(entry["kept"], mine, strict=True))
            if stream.forbidden:
                witnesses += self._witnesses(index, name, probe, sent, pairs)
            else:
                found = interruptions(sent, served, period_ns)
                stream.interruptions = [one for one in found if one.seconds >= self.floor]
                stream.longest = max((one.seconds for one in found), default=0.0)
                stream.total = sum(one.seconds for one in found)
            for number, frame in pairs:
                if sent[number]:
                    data = self._sent(index, number)
                    evidence.append(Frame(sent[number], 4, len(data), data))
                evidence.append(frame)
            streams[name] = stream
        # Of the stream whose target was there first.
        absent, first = min((entry["absent"], n) for n, entry in enumerate(head["streams"]))
        lag, rate, ended = _lag(head, raw[first][0], absent)
        over = head["slots"] >= int(self.rate * self.lasting)
        flows = {
            name: _flow_report(name, one, entry, list(times), ended)
            for (name, one), entry, times in zip(
                self.flows.items(), head["flows"], pings, strict=True
            )
        }
        offset, uncertain = self._offset
        report = ProberReport(
            streams=streams,
            flows=flows,
            witnesses=sorted(witnesses, key=lambda one: one.answered_ns),
            problem=_problem(streams.values(), head["dropped"], self.lasting if over else 0.0),
            lag=lag,
            rate=rate,
            cpu=head["cpu"],
            started_ns=head["start_ns"],
            ended_ns=ended,
            offset_ns=offset,
            offset_error_ns=uncertain,
            marks=list(self._marks),
            moves=[tuple(move) for move in head["moves"]],
        )
        report.pcap = self.vantage.archive.keep(self.title, evidence)
        return report

    def _sent(self, index: int, number: int) -> bytes:
        """The frame that went out as that number."""
        how, frames = self._hows[index], self._frames[index]
        if not how["patch"]:
            return frames[number % len(frames)]
        patch = guest.Patch(frames[0], how["first"], how["ports"], how["key"])
        return bytes(patch.at(number))

    def _witnesses(self, index, name, probe, sent, pairs) -> list[Witness]:
        found = []
        for number, frame in pairs:
            if not sent[number]:
                continue
            data = self._sent(index, number)
            answer = read(data, frame.ns, frame.data)
            if answer is not None and answer.sender != probe.destination:
                continue  # a router's word: the packet did not pass
            text = answer.text if answer else "a segment that is no answer to a first SYN"
            found.append(
                Witness(name, probe, number, text, sent[number], frame.ns, data, frame.data)
            )
        return found


def _flow_report(
    name: str, one: Connection, entry: Mapping, times: list[int], last_ns: int
) -> FlowReport:
    pairs = tuple(zip(times[::2], times[1::2], strict=True))
    state, ended = entry["state"], entry["ended_ns"]
    waits = [(answer - sent) / 1e9 for sent, answer in pairs if answer]
    if pairs and not pairs[-1][1]:
        until = ended or last_ns
        waits.append(max(0.0, (until - pairs[-1][0]) / 1e9))
        if state == "open":
            state = "silent"
    return FlowReport(name, one, state, pairs, ended, max(waits, default=0.0))


def _lag(head: Mapping, first: Sequence[int], absent: int) -> tuple[Lag, float, int]:
    """Lateness, slots a second and the end, of a stream that had no target for ``absent`` slots."""
    period, start = head["period"] * 1e9, head["start_ns"]
    late = sorted(at - start - n * period for n, at in enumerate(first) if at)
    if not late:
        return Lag(0.0, 0.0, 0.0, len(first) - absent), 0.0, start
    ended = max(first)
    lag = Lag(
        max(0.0, late[len(late) // 2]) / 1e9,
        max(0.0, late[int(len(late) * 0.99)]) / 1e9,
        max(0.0, late[-1]) / 1e9,
        len(first) - absent - len(late),
    )
    lasting = max(ended - start + (1 - absent) * period, period) / 1e9
    return lag, len(late) / lasting, ended


def _problem(streams: Iterable[StreamReport], dropped: int, over: float) -> str:
    """Why nothing follows from a silence; ``over``: seconds until it ended by itself, or 0."""
    allowed = [stream for stream in streams if not stream.forbidden]
    if not allowed:
        return "no stream was allowed, so there was no control."
    dead = [stream.name for stream in allowed if not stream.answered]
    if dead:
        return f"the control {', '.join(dead)} never was answered."
    if dropped:
        return f"the capture lost {dropped} frames."
    if over:
        return f"it ended by itself, after {over:g} s: nobody looked at what came then."
    return ""


def clock_offset(agent) -> tuple[int, int]:
    """``(guest's clock minus the tester's, how far that may be off)``, ns; best of five."""
    found = []
    for _ in range(5):
        before = time.time_ns()
        hello, _ = agent.call("hello")
        after = time.time_ns()
        found.append(((after - before) // 2, hello["clock_ns"] - (before + after) // 2))
    error, offset = min(found)
    return offset, error
