# SPDX-License-Identifier: Apache-2.0
"""Packets of the policy as probes on the wire, and what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from scapy.layers.inet import ICMP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, ICMPv6ND_NS, ICMPv6NDOptSrcLLAddr
from scapy.layers.l2 import ARP
from scapy.layers.sctp import SCTP, SCTPChunkInit
from scapy.packet import Raw

from sriov_lb_tests.agreement.questions import Question
from sriov_lb_tests.agreement.subject import Seat
from sriov_lb_tests.amphora import Stage
from sriov_lb_tests.packets.probe import Identity, Probe, network
from sriov_lb_tests.policy import packet as headers
from sriov_lb_tests.policy.model import Promise
from sriov_lb_tests.policy.packet import Packet
from sriov_lb_tests.wire.exchange import Observation, Verdict
from sriov_lb_tests.wire.vantage import Vantage

#: The source port that stands for "any" in packets of the policy.
ANY_PORT = 40000

#: Conntrack states that one packet alone can have.
SENDABLE = frozenset({"new", "untracked"})


def sendable(packet: Packet, vip_interface: str) -> bool:
    """Whether a host on the VIP network can send it, without a flow it belongs to."""
    return (
        packet.interface == vip_interface
        and not packet.leaving
        and packet.state in SENDABLE
        and not packet.extra
    )


def probe_for(packet: Packet) -> Probe:
    """A packet of the policy as a probe."""

    def build(probe: Probe, identity: Identity):
        ttl = {"ttl" if packet.version == 4 else "hlim": packet.hop_limit}
        sport = identity.port if packet.sport in (0, ANY_PORT) else packet.sport
        if packet.protocol == headers.TCP:
            body = TCP(
                sport=sport, dport=packet.dport, seq=identity.nonce, flags=packet.tcp_flags
            )
        elif packet.protocol == headers.UDP:
            body = UDP(sport=sport, dport=packet.dport) / Raw(identity.tag)
        elif packet.protocol == headers.SCTP:
            begin = SCTPChunkInit(init_tag=identity.nonce or 1)
            body = SCTP(sport=sport, dport=packet.dport) / begin
        else:
            number = {"proto" if packet.version == 4 else "nh": packet.protocol}
            raw = bytes(identity.tag)
            if packet.icmp_type == 8 and packet.protocol == headers.ICMP:
                return network(probe, identity, **ttl) / _echo(ICMP(type=8), identity)
            if packet.icmp_type == 128 and packet.protocol == headers.ICMPV6:
                return network(probe, identity, **ttl) / _echo(ICMPv6EchoRequest(), identity)
            if packet.protocol in (headers.ICMP, headers.ICMPV6):
                raw = bytes([packet.icmp_type, packet.icmp_code, 0, 0]) + raw
            return network(probe, identity, **number, **ttl) / Raw(raw)
        return network(probe, identity, **ttl) / body

    flags = [n for bit, n in enumerate(headers.FLAG_NAMES) if packet.tcp_flags >> bit & 1]
    name = headers.PROTOCOL_NAMES.get(packet.protocol, f"protocol {packet.protocol}")
    title = f"TCP {'+'.join(flags).upper()}" if packet.protocol == headers.TCP else name
    if packet.protocol in (headers.ICMP, headers.ICMPV6):
        title = f"{name} type {packet.icmp_type}"
    port = packet.dport if packet.protocol in headers.WITH_PORTS else None
    return Probe(title, packet.destination, build, packet.source, port)


def _echo(message, identity: Identity):
    message.id, message.seq = identity.port, identity.sequence
    return message


def link_probe(vip: str, source: str, mac: str) -> Probe:
    """Ask for the MAC of a VIP: answered as long as the link is alive, whatever is filtered."""
    if ":" not in vip:
        return Probe(
            "ARP request", vip, lambda p, i: ARP(op=1, hwsrc=mac, psrc=source, pdst=vip), source
        )

    def build(probe: Probe, identity: Identity):
        asked = ICMPv6ND_NS(tgt=vip) / ICMPv6NDOptSrcLLAddr(lladdr=mac)
        return network(probe, identity, hlim=255) / asked

    return Probe("neighbour solicitation", vip, build, source)


@dataclass(frozen=True)
class Answered:
    """A question with what became of its packet.

    :param passed: whether it came through the filter; None when nobody can tell.
    :param served: whether somebody answered it as it asked (a SYN-ACK to a SYN).
    """

    question: Question
    observation: Observation
    passed: bool | None
    served: bool

    @property
    def right(self) -> bool | None:
        """Whether that is what the policy says; None when nobody can tell."""
        if self.passed is None:
            return None
        if self.question.promise is Promise.FORBIDDEN:
            return not self.passed
        if self.question.promise is Promise.REQUIRED:
            return self.passed and (self.served or not self.question.shows)
        return True

    def __str__(self) -> str:
        return f"{self.question.why}: {self.observation}"


def send(
    asked: Sequence[Question],
    vantage: Vantage,
    own: Sequence[str],
    seats: Sequence[Seat] = (),
    *,
    attempts: int = 3,
) -> list[Answered]:
    """Put questions to the wire. Sources that are not the vantage's own are played meanwhile.

    :param own: the vantage's own addresses; one of each IP version is the source of link controls.
    :param seats: amphorae in which frames are counted; the counts decide where they are there.
    """
    controls = {
        version: next((text for text in own if (":" in text) == (version == 6)), None)
        for version in (4, 6)
    }
    pairs = []
    for one in asked:
        packet = one.packet
        if one.control is not None:
            control: Probe | None = probe_for(one.control)
        elif controls[packet.version]:
            source = controls[packet.version]
            control = link_probe(packet.destination, source, vantage.interface.mac)
        else:
            control = None
        pairs.append((probe_for(packet), control))
    # One object for each control, so that one sending of it serves all its questions.
    pairs = _shared(pairs)
    with ExitStack() as stack:
        mac = vantage.interface.mac
        counts = [stack.enter_context(seat.inside.counting(mac)) for seat in seats]
        try:
            seen = vantage.ask_all(pairs, attempts=attempts)
        finally:
            # Whoever gets such an address tomorrow is not to find it taken.
            crafted = {one.packet.source for one in asked} - set(own)
            vantage.stop_playing(*sorted(crafted))
    found = []
    for one, observation in zip(asked, seen, strict=True):
        passed = _passed(one, observation)
        reached = [
            count.of(identity, one.packet.version)
            for count in counts
            for identity in observation.identities
        ]
        if any(stages[Stage.PASSED_FILTER] for stages in reached):
            passed = True
        elif passed is None and any(stages[Stage.REACHED_FILTER] for stages in reached):
            passed = False
        served = observation.verdict is Verdict.ACCEPTED
        found.append(Answered(one, observation, passed, served))
    return found


def _shared(pairs: list[tuple[Probe, Probe | None]]) -> list[tuple[Probe, Probe | None]]:
    known: dict[str, Probe] = {}
    return [(probe, control and known.setdefault(str(control), control))
            for probe, control in pairs]  # fmt: skip


def _passed(question: Question, seen: Observation) -> bool | None:
    if seen.verdict in (Verdict.ACCEPTED, Verdict.REJECTED):
        # Answered by the load balancer itself: it came through, even if nobody listens.
        own = any(answer.sender == question.packet.destination for answer in seen.answers)
        return True if own else None
    if seen.verdict is Verdict.DROPPED and question.shows:
        return False
    return None
