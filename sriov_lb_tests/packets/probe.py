# SPDX-License-Identifier: Apache-2.0
"""Probes: packets that carry who sent them, so that an answer can only be theirs.

A :class:`Probe` is a recipe without addresses of the link and without identity; ``frames(link,
identity)`` makes bytes of it. Each time a probe is sent it gets a new :class:`Identity`, which it
carries as TCP sequence number, IP identification or IPv6 flow label, source port, and (where
the packet has one) as payload.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import random
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass

from netaddr import IPAddress
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

#: First bytes of every payload of ours.
MAGIC = b"SLB1"
_TAG = struct.Struct(">4sIIH")


@dataclass(frozen=True)
class Identity:
    """Who a frame is.

    :param run: 32 bits of the run's id.
    :param nonce: 32 bits, new for every frame.
    :param sequence: 1 to 65535, counts the frames of one vantage: the IPv4 identification, and part
        of the IPv6 flow label, so that no two of 65,535 frames in a row share one.
    :param port: source port (or echo identifier), not used twice within 20,000 probes.
    """

    run: int
    nonce: int
    sequence: int
    port: int

    @property
    def flow_label(self) -> int:
        """20 bits; kernels draw theirs at random, so the constant part tells ours from them."""
        return 0x50000 | self.sequence

    @property
    def tag(self) -> bytes:
        """14 bytes of payload."""
        return _TAG.pack(MAGIC, self.run, self.nonce, self.sequence)


class Identities:
    """A source of identities for one run; thread-safe."""

    FIRST_PORT, PORTS = 30000, 20000

    def __init__(self, run_id: str, *, seed: int | None = None) -> None:
        self.run = int.from_bytes(hashlib.sha256(run_id.encode()).digest()[:4], "big")
        self._random = random.Random(seed)
        self._numbers = itertools.count(self._random.randrange(self.PORTS))
        self._lock = threading.Lock()

    def next(self) -> Identity:
        with self._lock:
            number = next(self._numbers)
            return Identity(
                run=self.run,
                nonce=self._random.getrandbits(32),
                sequence=1 + number % 0xFFFF,
                port=self.FIRST_PORT + number % self.PORTS,
            )


@dataclass(frozen=True)
class Link:
    """Addresses of the link: whose frame it is and who is to receive it; a VLAN tag and an
    ethertype other than the payload's, where they are given."""

    source: str
    destination: str
    vlan: int | None = None
    ethertype: int | None = None

    def header(self) -> Packet:
        header = Ether(src=self.source, dst=self.destination)
        if self.vlan is not None:
            header = header / Dot1Q(vlan=self.vlan)
        if self.ethertype is not None:
            header.lastlayer().type = self.ethertype
        return header


@dataclass(frozen=True)
class Probe:
    """A packet class aimed at something.

    :param title: what it is in words, without addresses: ``TCP SYN``.
    :param destination: address, text.
    :param source: address, text; None takes the vantage's own.
    :param port: destination port, None where there is none.
    :param build: from probe and identity to one or more packets, network layer upwards (then
        Ethernet is put before them) or with an Ethernet header of their own.
    :param play: whether the vantage may answer ARP and ND for the source, so that answers find
        their way back. Never for somebody else's address.
    :param expects_answer: whether acceptance shows as an answer at all.
    :param relink: changes the link addresses, for frames to other MACs or with VLAN tags.
    :param asks: builds the packet that answers refer to, where that is not what is sent (a packet
        that goes out in fragments).
    """

    title: str
    destination: str
    build: Callable[[Probe, Identity], Packet | list[Packet]]
    source: str | None = None
    port: int | None = None
    play: bool = True
    expects_answer: bool = True
    relink: Callable[[Link], Link] | None = None
    asks: Callable[[Probe, Identity], Packet] | None = None

    @property
    def version(self) -> int:
        return IPAddress(self.destination).version

    def at(self, source: str) -> Probe:
        """The same probe from another source."""
        return dataclasses.replace(self, source=source)

    def frames(self, link: Link, identity: Identity) -> list[bytes]:
        """The probe as frames, in the order in which they are to be sent."""
        return self._framed(self.build, link, identity)

    def questions(self, link: Link, identity: Identity) -> list[bytes]:
        """The frames that answers refer to: those sent, or the one they are pieces of."""
        return self._framed(self.asks or self.build, link, identity)

    def _framed(self, build, link: Link, identity: Identity) -> list[bytes]:
        built = build(self, identity)
        packets = built if isinstance(built, list) else [built]
        link = self.relink(link) if self.relink else link
        return [
            bytes(packet if isinstance(packet, Ether) else link.header() / _owned(packet, link))
            for packet in packets
        ]

    def __str__(self) -> str:
        where = (
            self.destination
            if self.version == 4 or self.port is None
            else (f"[{self.destination}]")
        )
        port = "" if self.port is None else f":{self.port}"
        return f"{self.title} to {where}{port} from {self.source or 'the vantage itself'}"


def _owned(packet: Packet, link: Link) -> Packet:
    """ARP and ND with the sender's own MAC, unless the packet names one: anything else would
    lead the answers, and all that follows, astray."""
    for layer, field in ((ARP, "hwsrc"), (ICMPv6NDOptSrcLLAddr, "lladdr")):
        if layer in packet and field not in packet[layer].fields:
            packet[layer].setfieldval(field, link.source)
    return packet


def network(probe: Probe, identity: Identity, **fields) -> Packet:
    """The IP or IPv6 header of a probe; ``fields`` override."""
    if probe.version == 4:
        values = {"src": probe.source, "dst": probe.destination, "id": identity.sequence}
        return IP(**{**values, **fields})
    values = {"src": probe.source, "dst": probe.destination, "fl": identity.flow_label}
    return IPv6(**{**values, **fields})


def tcp_syn(
    destination: str, port: int, *, source: str | None = None, source_port: int | None = None
) -> Probe:
    """A plain SYN: acceptance shows as SYN-ACK, a closed port behind the firewall as RST."""

    def build(probe: Probe, identity: Identity) -> Packet:
        sport = identity.port if source_port is None else source_port
        header = TCP(sport=sport, dport=port, seq=identity.nonce, flags="S", window=64240)
        header.options = [("MSS", 1460 if probe.version == 4 else 1440)]
        return network(probe, identity) / header

    return Probe("TCP SYN", destination, build, source, port)


def tcp_segment(
    destination: str, port: int, flags: str, *, source: str | None = None, payload: bool = False
) -> Probe:
    """Any other TCP segment without a connection; ``flags`` as scapy writes them (``SA``)."""

    def build(probe: Probe, identity: Identity) -> Packet:
        acknowledged = identity.nonce ^ 0x5A5A5A5A if "A" in flags else 0
        header = TCP(
            sport=identity.port, dport=port, seq=identity.nonce, ack=acknowledged, flags=flags
        )
        packet = network(probe, identity) / header
        return packet / Raw(identity.tag) if payload else packet

    return Probe(f"TCP segment with flags {flags or 'none'}", destination, build, source, port)


def udp(destination: str, port: int, *, source: str | None = None, payload: bytes = b"") -> Probe:
    """A datagram with our tag: acceptance shows as an answer, or as port unreachable."""

    def build(probe: Probe, identity: Identity) -> Packet:
        header = UDP(sport=identity.port, dport=port)
        return network(probe, identity) / header / Raw(identity.tag + payload)

    return Probe("UDP datagram", destination, build, source, port)


def icmp_echo(destination: str, *, source: str | None = None) -> Probe:
    """A ping. To an SR-IOV VIP it is dropped by design: never a sign of life."""

    def build(probe: Probe, identity: Identity) -> Packet:
        fields = {"id": identity.port, "seq": identity.sequence}
        echo = ICMP(type=8, **fields) if probe.version == 4 else ICMPv6EchoRequest(**fields)
        if probe.version == 4:
            return network(probe, identity) / echo / Raw(identity.tag)
        echo.data = identity.tag
        return network(probe, identity) / echo

    return Probe("ICMP echo request", destination, build, source)


def reset_for(frame: bytes) -> bytes | None:
    """The RST that ends the half-open connection whose SYN-ACK is ``frame``; else None."""
    ether = Ether(frame)
    if TCP not in ether or not ether[TCP].flags.S or not ether[TCP].flags.A:
        return None
    answer = ether[TCP]
    header = TCP(sport=answer.dport, dport=answer.sport, seq=answer.ack, flags="R")
    below = ether[IP] if IP in ether else ether[IPv6]
    back = IP if IP in ether else IPv6
    packet = Ether(src=ether.dst, dst=ether.src) / back(src=below.dst, dst=below.src) / header
    return bytes(packet)


def syn_ack_sequence(frame: bytes) -> int:
    """The sequence number of a SYN-ACK."""
    return Ether(frame)[TCP].seq


def segment_frame(link: Link, source: str, destination: str, **fields) -> bytes:
    """One TCP segment as a frame; ``fields`` as scapy's TCP has them."""
    header = IP if IPAddress(destination).version == 4 else IPv6
    return bytes(link.header() / header(src=source, dst=destination) / TCP(**fields))
