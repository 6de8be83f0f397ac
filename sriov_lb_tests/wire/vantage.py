# SPDX-License-Identifier: Apache-2.0
"""A place on the network from which probes are sent: host, interface, evidence folder.

The façade for tests; the package's docstring shows it in use.
"""

from __future__ import annotations

import ipaddress
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sriov_lb_tests import errors
from sriov_lb_tests.packets.catalogue.case import Flow
from sriov_lb_tests.packets.probe import (
    Identities,
    Link,
    Probe,
    reset_for,
    segment_frame,
    syn_ack_sequence,
    tcp_syn,
)
from sriov_lb_tests.wire.capture import Captured, Frame
from sriov_lb_tests.wire.exchange import Observation, Sent, Verdict, judge, prepare, settle
from sriov_lb_tests.wire.host import Host, Interface
from sriov_lb_tests.wire.pcap import Archive
from sriov_lb_tests.wire.prober import Prober
from sriov_lb_tests.wire.sweep import SweepReport, sweep

__all__ = ["HttpAnswer", "Observation", "Vantage", "Verdict"]


@dataclass(frozen=True)
class HttpAnswer:
    """Status, headers (names in lower case), body, seconds from connect to the last byte."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float

    @property
    def text(self) -> str:
        return self.body.decode(errors="replace")


class Vantage:
    """Sends probes from one interface of a host and says what became of them.

    :param host: where; its agent is used, in the namespace ``netns`` of the host if given.
    :param interface: name of the interface there.
    :param artefacts: folder for pcap files, made if missing.
    :param run_id: carried (hashed) in every probe; a random one by default.
    :param next_hop: address of the router for destinations that are not on the link; by default
        every destination is taken to be on the link.
    :param timeout: seconds to wait for a control, and for the answer to a probe without one.
    :param attempts: how often each probe is sent in one go; one lost frame is no drop.
    :param quiet: seconds of silence after which a probe counts as not answered; the control's
        answer after that is what gives the silence its meaning.
    """

    def __init__(
        self,
        host: Host,
        interface: str,
        *,
        artefacts: Path | str,
        run_id: str | None = None,
        next_hop: str | None = None,
        netns: str | None = None,
        timeout: float = 0.4,
        quiet: float = 0.2,
        attempts: int = 3,
    ) -> None:
        self.host = host
        self.archive = Archive(Path(artefacts))
        self.identities = Identities(run_id or secrets.token_hex(8))
        self.next_hop, self.netns = next_hop, netns
        self.timeout, self.quiet, self.attempts = timeout, quiet, attempts
        self.agent = host.open_agent(netns=netns)
        self._played: set[str] = set()
        try:
            found = self.agent.interfaces()
            if interface not in found:
                raise errors.SendFailed(
                    f"{host.name} has no interface {interface}; it has {', '.join(sorted(found))}."
                )
            self.interface: Interface = found[interface]
        except BaseException:
            self.agent.close()
            raise

    @property
    def name(self) -> str:
        return f"{self.host.name} {self.interface.name}"

    def close(self) -> None:
        """End the agent: played addresses fall silent, added addresses go."""
        self.agent.close()

    def __enter__(self) -> Vantage:
        return self

    def __exit__(self, *_exc) -> None:
        self.close()

    # addresses

    def refresh(self) -> Interface:
        """Read the interface again, after its addresses changed."""
        self.interface = self.agent.interfaces()[self.interface.name]
        return self.interface

    def play(self, *addresses: str) -> None:
        """Answer ARP and ND for these addresses, so that answers to them come here.

        For crafted sources this happens by itself; a router that nobody else plays has to be
        asked for. The guest's kernel knows nothing of them: it sends no RST on their behalf.
        """
        new = [address for address in addresses if address not in self._played]
        if new:
            self.agent.call("claim", interface=self.interface.name, addresses=new)
            self._played.update(new)

    def stop_playing(self, *addresses: str) -> None:
        """The inverse of :meth:`play`."""
        for address in addresses:
            self._played.discard(address)
        self.agent.call("release", interface=self.interface.name, addresses=list(addresses))

    @contextmanager
    def address(self, address: str):
        """Give the guest's own kernel an address (``192.0.2.7/24``) while the block runs."""
        arguments = {"interface": self.interface.name, "address": address}
        self.agent.call("add_address", **arguments)
        self.refresh()
        try:
            yield
        finally:
            self.agent.call("delete_address", **arguments)
            self.refresh()

    def resolve(self, destination: str) -> str:
        """The MAC to which frames for ``destination`` go, asked for on the wire.

        :raises ControlFailed: nobody answered.
        """
        target = destination
        if self.next_hop and ipaddress.ip_address(self.next_hop).version == (
            ipaddress.ip_address(destination).version
        ):
            target = self.next_hop
        try:
            return self.agent.resolve(self.interface.name, target)
        except errors.AgentFailed as error:
            if self.agent.closed:
                raise
            raise errors.ControlFailed(
                f"Nobody answers for {target} on the link of {self.name}: {error.message}"
            ) from error

    def home(self, probe: Probe) -> tuple[Probe, bool]:
        """The probe with a source, and whether somebody has to play that source."""
        if probe.source is None:
            own = self.interface.address(probe.version)
            if own is None:
                raise errors.SendFailed(
                    f"{self.name} has no IPv{probe.version} address, and {probe} names no source.",
                    remedy="Name a source, or give the interface an address.",
                )
            return probe.at(own), False
        source = ipaddress.ip_address(probe.source)
        crafted = probe.play and not self.interface.owns(probe.source)
        ours_to_play = not (
            source.is_multicast
            or source.is_loopback
            or source.is_unspecified
            or probe.source in (probe.destination, "255.255.255.255")
        )
        return probe, crafted and ours_to_play

    def _at_home(self, probe: Probe) -> Probe:
        """The probe with a source; a source that is not the guest's own is played."""
        probe, crafted = self.home(probe)
        if crafted:
            self.play(probe.source)
        return probe

    def link(self, destination: str) -> Link:
        """Link addresses of frames to ``destination``.

        :raises ControlFailed: nobody answers for it.
        """
        found = self._link(destination)
        if isinstance(found, errors.ControlFailed):
            raise found
        return found

    # questions

    def ask(
        self,
        probe: Probe,
        *,
        control: Probe | None = None,
        attempts: int | None = None,
        tries: int = 2,
    ) -> Observation:
        """What becomes of a probe.

        :param control: a probe that differs from this one in what is under test and that must be
            answered; without it silence is INCONCLUSIVE.
        :param attempts: of this probe; None: as many as of any.
        :param tries: how often everything is repeated while it is INCONCLUSIVE for want of an
            answered control.
        """
        return self.ask_all([(probe, control)], attempts=attempts, tries=tries)[0]

    def ask_all(
        self,
        questions: Sequence[tuple[Probe, Probe | None]],
        *,
        attempts: int | None = None,
        tries: int = 2,
        group: int = 32,
    ) -> list[Observation]:
        """Many questions, at most ``group`` between two sendings of their controls.

        :return: observations in the order of the questions.
        """
        attempts = attempts or self.attempts
        found: list[Observation] = []
        for start in range(0, len(questions), group):
            batch = [
                (self._at_home(probe), control and self._at_home(control))
                for probe, control in questions[start : start + group]
            ]
            results = self._observe(batch, attempts)
            for _ in range(tries - 1):
                again = [
                    number
                    for number, seen in enumerate(results)
                    if seen.verdict is Verdict.INCONCLUSIVE and seen.control is not None
                ]
                if not again:
                    break
                repeated = self._observe([batch[number] for number in again], attempts)
                for number, seen in zip(again, repeated, strict=True):
                    results[number] = seen
            found.extend(results)
        return found

    def _observe(
        self, questions: Sequence[tuple[Probe, Probe | None]], attempts: int
    ) -> list[Observation]:
        links: dict[str, Link | errors.ControlFailed] = {}
        for probe, control in questions:
            for one in (probe, control):
                if one is not None and one.destination not in links:
                    links[one.destination] = self._link(one.destination)
        reachable = [
            (number, probe, control)
            for number, (probe, control) in enumerate(questions)
            if all(isinstance(links[p.destination], Link) for p in (probe, control) if p)
        ]
        results: dict[int, Observation] = {}
        now = time.time_ns()
        for number, (probe, control) in enumerate(questions):
            dead = [links[p.destination] for p in (probe, control) if p]
            dead = [link for link in dead if not isinstance(link, Link)]
            if dead:
                text = f"{probe} could not be sent. {dead[0].message}"
                results[number] = Observation(
                    probe, Verdict.INCONCLUSIVE, text, (), (), control, now, now, None
                )
        if reachable:
            sent = self._exchange(reachable, links, attempts)
            results.update(sent)
        return [results[number] for number in range(len(questions))]

    def _link(self, destination: str) -> Link | errors.ControlFailed:
        address = ipaddress.ip_address(destination)
        if destination == "255.255.255.255":
            return Link(self.interface.mac, "ff:ff:ff:ff:ff:ff")
        if address.is_multicast:
            low = address.packed[-4:]
            if address.version == 4:
                mac = bytes([0x01, 0x00, 0x5E, low[1] & 0x7F, low[2], low[3]])
            else:
                mac = b"\x33\x33" + low
            return Link(self.interface.mac, mac.hex(":"))
        try:
            return Link(self.interface.mac, self.resolve(destination))
        except errors.ControlFailed as error:
            return error

    def _exchange(self, reachable, links, attempts: int) -> dict[int, Observation]:
        controls = list(dict.fromkeys(control for _, _, control in reachable if control))

        def ready(probe: Probe) -> Sent:
            return prepare(probe, links[probe.destination], self.identities)

        before = {control: ready(control) for control in controls}
        after = {control: ready(control) for control in controls}
        subjects = {
            number: [ready(probe) for _ in range(attempts)] for number, probe, _ in reachable
        }
        frames: list[bytes] = []

        def wave(group: Iterable[Sent], timeout: float, gap: float) -> dict:
            indices, awaited = [], []
            for one in group:
                start = len(frames)
                frames.extend(one.frames)
                indices.extend(range(start, len(frames)))
                if one.probe.expects_answer:
                    awaited.append(len(frames) - 1)
            # Without frames there is nothing to wait for.
            wait = timeout if indices else 0.0
            return {"frames": indices, "await": awaited, "timeout": wait, "gap": gap}

        # Interleaved, so that one burst of loss does not take all attempts of one probe.
        woven = [subjects[n][turn] for turn in range(attempts) for n in subjects]
        alone = any(control is None for _, _, control in reachable)
        waves = [
            wave(before.values(), self.timeout, 0.0),
            wave(woven, self.timeout if alone else self.quiet, 0.0005),
            wave(after.values(), self.timeout, 0.0),
        ]
        everything = [*before.values(), *woven, *after.values()]
        sources = {one.probe.source for one in everything if one.probe.source}
        targets = {one.probe.destination for one in everything}
        started = time.time_ns()
        report, seen = self.agent.exchange(
            self.interface.name, frames, waves, match={"addresses": sorted(sources | targets)}
        )
        ended = time.time_ns()
        if report["dropped"]:
            raise errors.CaptureFailed(f"{self.name} lost {report['dropped']} frames of a capture.")
        settle(everything, seen)
        title = str(reachable[0][1]) if len(reachable) == 1 else f"{len(reachable)} probes"
        pcap = self.archive.keep(title, seen)
        self._tidy(everything)
        results = {}
        for number, probe, control in reachable:
            verdict, text = judge(
                subjects[number],
                [before[control]] if control else [],
                [after[control]] if control else [],
            )
            answers = tuple(a for one in subjects[number] for a in one.answers)
            delays = [
                one.answers[0].ns - one.sent_ns
                for one in subjects[number]
                if one.answers and one.sent_ns
            ]
            results[number] = Observation(
                probe=probe,
                verdict=verdict,
                explanation=text,
                identities=tuple(one.identity for one in subjects[number]),
                answers=tuple(sorted(answers, key=lambda answer: answer.ns)),
                control=control,
                started_ns=started,
                ended_ns=ended,
                seconds=min(delays) / 1e9 if delays else None,
                pcap=pcap,
            )
        return results

    # connections without a kernel

    def open_flow(self, destination: str, port: int, *, source: str) -> Flow:
        """A TCP connection from a played source, kept by nobody but the target.

        The guest's kernel does not know of it; whoever opened it sends on it as he likes and ends
        it with :meth:`close_flow`.

        :raises ControlFailed: the target did not answer the SYN.
        """
        probe = self._at_home(tcp_syn(destination, port, source=source))
        link = self._link(destination)
        if not isinstance(link, Link):
            raise link
        sent = prepare(probe, link, self.identities)
        wave = {"frames": [0], "await": [0], "timeout": self.timeout, "gap": 0.0}
        _, seen = self.agent.exchange(
            self.interface.name, sent.frames, [wave], match={"addresses": [source]}
        )
        settle([sent], seen)
        self.archive.keep(f"open {probe}", seen)
        answer = next((one for one in sent.answers if one.text == "SYN-ACK"), None)
        if answer is None:
            raise errors.ControlFailed(f"No connection: {probe} got no SYN-ACK.")
        flow = Flow(
            source=source,
            port=sent.identity.port,
            target_port=port,
            sequence=(sent.identity.nonce + 1) % 2**32,
            acknowledgement=syn_ack_sequence(answer.frame) + 1,
        )
        self.agent.send(self.interface.name, [self._flow_frame(destination, link, flow, "A")])
        return flow

    def close_flow(self, destination: str, flow: Flow) -> None:
        """Reset the connection."""
        link = self._link(destination)
        if isinstance(link, Link):
            frame = self._flow_frame(destination, link, flow, "RA")
            self.agent.send(self.interface.name, [frame])

    @staticmethod
    def _flow_frame(destination: str, link: Link, flow: Flow, flags: str) -> bytes:
        return segment_frame(
            link,
            flow.source,
            destination,
            sport=flow.port,
            dport=flow.target_port,
            seq=flow.sequence,
            ack=flow.acknowledgement,
            flags=flags,
        )

    def _tidy(self, everything: Sequence[Sent]) -> None:
        """Reset the half-open connections our SYNs left in the target."""
        resets = [
            reset_for(answer.frame)
            for one in everything
            if one.probe.source and not self.interface.owns(one.probe.source)
            for answer in one.answers
            if answer.text == "SYN-ACK"
        ]
        frames = [frame for frame in resets if frame]
        if frames:
            self.agent.send(self.interface.name, frames)

    # many probes

    def prober(self, streams: Mapping[str, Probe], **options) -> Prober:
        """Probe at 1 kHz while the ``with`` block runs; see :class:`.prober.Prober`."""
        return Prober(self, streams, **options)

    def sweep(
        self,
        probe: Probe,
        *,
        control: Probe,
        ports: tuple[int, int] = (0, 65535),
        attempts: int = 1,
        rate: float | None = None,
        limit: float = 30.0,
    ) -> SweepReport:
        """What each port of the probe's destination is; see :mod:`.sweep`.

        :param probe: a ``tcp_syn`` or ``udp`` probe; its port is of no matter.
        :param control: a probe that has to be answered, to the same address: TCP or UDP.
        :param ports: first and last.
        :param attempts: how often every silent port is asked at least, without any loss.
        :param rate: frames a second at most; None is as fast as they go.
        :param limit: seconds after which what is silent stays undecided.
        """
        return sweep(
            self, probe, control=control, ports=ports, attempts=attempts, rate=rate, limit=limit
        )

    def agent_part(self, part: str):
        """The agent, with that part of it there."""
        self.agent.extend(part)
        return self.agent

    # plain sending and capturing

    def send(self, frames: Sequence[bytes], schedule=None, *, title: str = "sent") -> dict:
        """Send prepared frames and keep them as a pcap; see :meth:`AgentSession.send`."""
        done = self.agent.send(self.interface.name, frames, schedule)
        gap = (done["ended_ns"] - done["started_ns"]) // max(len(frames), 1)
        self.archive.keep(
            title,
            [Frame(done["started_ns"] + n * gap, 4, len(f), f) for n, f in enumerate(frames)],
        )
        return done

    @contextmanager
    def capture(self, match: dict | None = None, *, title: str = "captured"):
        """Capture while the block runs, then keep the frames as a pcap.

        Yields a :class:`Captured` whose ``frames`` are there after the block.
        """
        captured: Captured | None = None
        try:
            with self.agent.capture(self.interface.name, match) as captured:
                yield captured
        finally:
            if captured is not None:
                self.archive.keep(title, captured.frames)

    # by the guest's own kernel

    def connect(
        self, destination: str, port: int, *, source: str | None = None, timeout: float = 3.0
    ) -> str:
        """A TCP connection by the guest's kernel: ``connected``, ``refused``, ``silent`` or
        ``unreachable: …``."""
        done, _ = self.agent.call(
            "connect",
            wait=timeout + 30,
            address=destination,
            port=port,
            source=source,
            timeout=timeout,
        )
        return done["outcome"]

    def http(
        self,
        destination: str,
        port: int,
        path: str = "/",
        *,
        method: str = "GET",
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        source: str | None = None,
        timeout: float = 5.0,
        tls: bool = False,
    ) -> HttpAnswer:
        """One HTTP(S) request on a connection of its own, by the guest's kernel.

        :raises AgentFailed: no answer (refused, timed out, not HTTP).
        """
        done, content = self.agent.call(
            "http",
            body,
            wait=timeout * 2 + 30,
            address=destination,
            port=port,
            path=path,
            method=method,
            headers=headers,
            source=source,
            timeout=timeout,
            tls=tls,
        )
        lowered = {name.lower(): value for name, value in done["headers"].items()}
        return HttpAnswer(done["status"], lowered, content, done["seconds"])

    def http_or_why(
        self, destination: str, port: int, **options: Any
    ) -> tuple[HttpAnswer | None, str]:
        """The answer to a request and "", or None and why there is none.

        :param options: as for :meth:`http`.
        :raises AgentFailed: nothing was asked: the agent is gone.
        """
        try:
            return self.http(destination, port, **options), ""
        except errors.AgentFailed as error:
            if self.agent.closed:
                raise
            return None, error.message
