# SPDX-License-Identifier: Apache-2.0
"""Reading answers: which frame answers which probe, and what the answer means.

A frame counts as an answer only when it refers to the very frame that was sent: a SYN-ACK or RST
by its acknowledgement number, an ICMP error by what it quotes, an echo reply by identifier and
sequence, a datagram by both ports. A late answer to an older probe is nobody's.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from scapy.layers.inet import ICMP, IP, TCP, UDP, ICMPerror, IPerror, TCPerror, UDPerror
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6ND_NA,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPerror6,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet


class Fate(enum.Enum):
    """What became of one frame, as far as its sender can see."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    SILENT = "silent"


@dataclass(frozen=True)
class Answer:
    """One answer.

    :param fate: ACCEPTED or REJECTED.
    :param text: ``SYN-ACK``, ``RST``, ``ICMP unreachable code 13`` …
    :param sender: address it came from.
    :param ns: kernel time of arrival.
    :param frame: its bytes.
    """

    fate: Fate
    text: str
    sender: str
    ns: int
    frame: bytes


_V6_ERRORS = (ICMPv6DestUnreach, ICMPv6PacketTooBig, ICMPv6TimeExceeded, ICMPv6ParamProblem)


def _network(packet: Packet) -> Packet | None:
    if IP in packet:
        return packet[IP]
    return packet[IPv6] if IPv6 in packet else None


def _tcp(sent: Packet, got: Packet) -> tuple[Fate, str] | None:
    mine, theirs = sent[TCP], got[TCP]
    if (theirs.sport, theirs.dport) != (mine.dport, mine.sport):
        return None
    length = len(bytes(mine.payload)) + int(bool(mine.flags.S)) + int(bool(mine.flags.F))
    expected = (mine.seq + length) & 0xFFFFFFFF
    refers = theirs.flags.A and theirs.ack == expected
    # To a segment with ACK, a reset takes its sequence number from there (RFC 9293, 3.10.7).
    if theirs.flags.R:
        if refers or (mine.flags.A and theirs.seq == mine.ack):
            return Fate.REJECTED, "RST"
        return None
    # A SYN that carries data may have only the SYN acknowledged.
    if theirs.flags.S and theirs.flags.A and (refers or theirs.ack == (mine.seq + 1) % 2**32):
        return Fate.ACCEPTED, "SYN-ACK"
    # Only an ACK of exactly this segment is its answer; a connection sends others of its own.
    if refers:
        return Fate.ACCEPTED, "ACK"
    return None


def _quotes(sent: Packet, got: Packet) -> str | None:
    """How an ICMP error that quotes ``sent`` reads; None when it quotes something else."""
    mine = _network(sent)
    if ICMP in got and IPerror in got:
        quoted, text = got[IPerror], f"ICMP type {got[ICMP].type} code {got[ICMP].code}"
        if not isinstance(mine, IP) or quoted.id != mine.id:
            return None
    elif IPerror6 in got:
        quoted = got[IPerror6]
        error = next((got[kind] for kind in _V6_ERRORS if kind in got), None)
        if error is None or not isinstance(mine, IPv6):
            return None
        text = f"ICMPv6 type {error.type} code {error.code}"
    else:
        return None
    if (quoted.src, quoted.dst) != (mine.src, mine.dst):
        return None
    for layer, copy in ((TCP, TCPerror), (UDP, UDPerror)):
        if layer in sent and copy in got:
            same = (got[copy].sport, got[copy].dport) == (sent[layer].sport, sent[layer].dport)
            return text if same else None
    if ICMP in sent and ICMPerror in got:
        return text if got[ICMPerror].id == sent[ICMP].id else None
    return text


def _reading(sent: Packet, got: Packet) -> tuple[Fate, str] | None:
    if ARP in sent and ARP in got:
        asked = got[ARP].op == 2 and got[ARP].psrc == sent[ARP].pdst
        return (Fate.ACCEPTED, "ARP reply") if asked else None
    mine, theirs = _network(sent), _network(got)
    if mine is None or theirs is None:
        return None
    quoted = _quotes(sent, got)
    if quoted:
        return Fate.REJECTED, quoted
    if ICMPv6ND_NA in got:
        # Solicited or not, it names the target that was asked for.
        named = getattr(sent.lastlayer(), "tgt", None) or getattr(mine.payload, "tgt", None)
        match = named is not None and got[ICMPv6ND_NA].tgt == named
        return (Fate.ACCEPTED, "neighbour advertisement") if match else None
    if TCP in sent and TCP in got and theirs.dst == mine.src:
        return _tcp(sent, got)
    if UDP in sent and UDP in got and theirs.dst == mine.src:
        ports = (got[UDP].sport, got[UDP].dport) == (sent[UDP].dport, sent[UDP].sport)
        return (Fate.ACCEPTED, "UDP answer") if ports else None
    if ICMP in sent and ICMP in got and got[ICMP].type == 0:
        same = (got[ICMP].id, got[ICMP].seq) == (sent[ICMP].id, sent[ICMP].seq)
        return (Fate.ACCEPTED, "echo reply") if same else None
    if ICMPv6EchoReply in got:
        echo, reply = sent.lastlayer(), got[ICMPv6EchoReply]
        same = (getattr(echo, "id", None), getattr(echo, "seq", None)) == (reply.id, reply.seq)
        return (Fate.ACCEPTED, "echo reply") if same else None
    return None


def read(sent: bytes, ns: int, got: bytes) -> Answer | None:
    """``got`` as an answer to ``sent``, or None when it is none."""
    reply = Ether(got)
    found = _reading(Ether(sent), reply)
    if found is None:
        return None
    below = _network(reply)
    sender = below.src if below is not None else reply[ARP].psrc
    return Answer(found[0], found[1], sender, ns, got)
