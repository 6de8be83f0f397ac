# SPDX-License-Identifier: Apache-2.0
"""ICMP and ICMPv6: by type, by code, and by what errors quote."""

from __future__ import annotations

import struct

from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    in6_chksum,
)
from scapy.packet import Packet, Raw
from scapy.utils import checksum

from sriov_lb_tests.packets.catalogue.case import (
    DAMAGE,
    Context,
    Expected,
    Need,
    Registry,
    denied,
    network,
    pick,
)

ACCEPT, DROP = Expected.ACCEPT, Expected.DROP
NOTHING = "policy: everything else"
ERRORS = "policy: errors about flows"
UNFIT = "policy: ICMP errors that fit no flow"
NEIGHBOURS = "policy: neighbour discovery"
PORTS = "policy: what every OpenStack port lets in"
MAC = "02:00:5e:10:00:01"


def fill(registry: Registry) -> None:
    if registry.version == 4:
        _v4(registry)
    else:
        _v6(registry)
    _flow_errors(registry)


def _raw(context: Context, identity, kind: int, code: int, rest: bytes, **fields) -> Packet:
    """An ICMP message of any type, with a right checksum."""
    if context.version == 4:
        return network(context, identity, **fields) / ICMP(type=kind, code=code) / Raw(rest)
    header = network(context, identity, nh=58, **fields)
    body = struct.pack(">BBH", kind, code, 0) + rest
    check = in6_chksum(58, header, body)
    return header / Raw(body[:2] + struct.pack(">H", check) + body[4:])


def _identified(context: Context, identity, kind: int, code: int) -> Packet:
    """A message with an identifier of its own after the checksum, whatever its type has there: two
    that share one are one flow to conntrack."""
    rest = struct.pack(">HH", identity.port, identity.sequence) + identity.tag
    if context.version == 6:
        return _raw(context, identity, kind, code, rest)
    body = struct.pack(">BBH", kind, code, 0) + rest
    return network(context, identity, proto=1) / Raw(
        body[:2] + struct.pack(">H", checksum(body)) + body[4:]
    )


def _unknown_quote(context: Context, identity) -> bytes:
    """A packet the amphora never sent."""
    inner = pick(context.version, IP, IPv6)(src=context.vip, dst=context.allowed)
    return bytes(inner / TCP(sport=context.tcp_port, dport=identity.port ^ 0x5555))[:64]


def _message(rest: str = "tag"):
    def make(kind, code=0):
        def build(c, i):
            if rest == "quote":
                return _raw(c, i, kind, code, b"\0" * _unused(c) + _unknown_quote(c, i))
            return _identified(c, i, kind, code)

        return build

    return make


def _unused(context: Context) -> int:
    """Bytes between checksum and quote; scapy's ICMP header holds them for IPv4."""
    return 0 if context.version == 4 else 4


def _v4(registry: Registry) -> None:
    plain, quoting = _message(), _message("quote")

    def add(name, description, build, expected, reason, source, **more):
        registry.add("icmp", name, description, build, expected, reason, source, **more)

    strict = {
        0: "echo reply", 1: "unassigned", 5: "redirect", 6: "alternate host", 7: "unassigned",
        8: "echo request", 9: "router advertisement", 10: "router solicitation",
        13: "timestamp request", 14: "timestamp reply", 15: "information request",
        16: "information reply", 17: "address mask request", 18: "address mask reply",
        30: "traceroute", 37: "domain name request", 40: "Photuris", 42: "extended echo request",
        43: "extended echo reply", 253: "experiment", 255: "reserved",
    }  # fmt: skip
    for kind, what in strict.items():
        add(f"type-{kind}", f"ICMP {what} (type {kind})", plain(kind), DROP,
            "nothing asks for it; ping is dropped by design" if kind == 8 else
            "nothing asks for it", NOTHING, shows=kind == 8)  # fmt: skip
    for kind, what in ((4, "source quench"),):
        add(f"type-{kind}", f"ICMP {what} quoting no flow", quoting(kind), DROP,
            "obsolete (RFC 6633)", NOTHING)  # fmt: skip
    for code in range(16):
        add(f"unreachable-{code}", f"ICMP unreachable code {code} quoting no flow",
            quoting(3, code), DROP, "an error about nothing: harmless, not promised", UNFIT,
            also=[ACCEPT])  # fmt: skip
    for kind, what in ((11, "time exceeded"), (12, "parameter problem")):
        for code in (0, 1):
            add(f"type-{kind}-{code}", f"ICMP {what} code {code} quoting no flow",
                quoting(kind, code), DROP, "an error about nothing", UNFIT,
                also=[ACCEPT])  # fmt: skip
    add("unreachable-empty", "ICMP unreachable that quotes nothing",
        lambda c, i: network(c, i) / ICMP(type=3, code=1), DROP, "an error about nothing", UNFIT,
        also=[ACCEPT])  # fmt: skip
    add("unreachable-half", "ICMP unreachable that quotes half a header",
        lambda c, i: _raw(c, i, 3, 1, _unknown_quote(c, i)[:10]), DROP, "an error about nothing",
        UNFIT, also=[ACCEPT])  # fmt: skip
    add("unreachable-checksum", "ICMP unreachable with a wrong checksum",
        lambda c, i: network(c, i) / ICMP(type=3, code=1, chksum=1) / Raw(_unknown_quote(c, i)),
        DROP, "it is damaged", UNFIT, also=[ACCEPT])  # fmt: skip
    add("echo-denied", "ping from a denied source",
        lambda c, i: network(c, i, source=c.denied) / ICMP(id=i.port, seq=1), DROP,
        "ping is dropped by design", NOTHING, sender=denied, shows=True)  # fmt: skip
    add("echo-own", "ping to the amphora's own address",
        lambda c, i: network(c, i, destination=c.own) / ICMP(id=i.port, seq=1), DROP,
        "ping is dropped by design", NOTHING, needs=[Need.OWN])  # fmt: skip
    add("echo-checksum", "ping with a wrong checksum",
        lambda c, i: network(c, i) / ICMP(id=i.port, seq=1, chksum=1), DROP, "it is damaged",
        NOTHING)  # fmt: skip
    add("echo-huge", "ping with 1,400 bytes",
        lambda c, i: network(c, i) / ICMP(id=i.port, seq=1) / Raw(i.tag * 100), DROP,
        "ping is dropped by design", NOTHING)  # fmt: skip
    add("truncated", "three bytes of ICMP",
        lambda c, i: network(c, i, proto=1) / Raw(b"\x03\x00\x00"), DROP, "it is damaged",
        NOTHING, also=[ACCEPT])  # fmt: skip
    add("of-the-other-family", "ICMPv6 neighbour solicitation in IPv4",
        lambda c, i: network(c, i, proto=58) / Raw(b"\x87\0\0\0" + bytes(20)), DROP,
        "protocol 58 belongs to IPv6", NOTHING)  # fmt: skip


def _v6(registry: Registry) -> None:
    plain, quoting = _message(), _message("quote")

    def add(name, description, build, expected, reason, source, **more):
        registry.add("icmp", name, description, build, expected, reason, source, **more)

    for kind, what in (
        (1, "unreachable"), (2, "packet too big"), (3, "time exceeded"), (4, "parameter problem"),
    ):  # fmt: skip
        for code in range(8 if kind == 1 else 3 if kind == 4 else 1):
            add(f"type-{kind}-{code}", f"ICMPv6 {what} code {code} quoting no flow",
                quoting(kind, code), DROP, "an error about nothing: harmless, not promised", UNFIT,
                also=[ACCEPT])  # fmt: skip
    strict = {
        0: "reserved", 5: "unassigned error", 100: "private error", 127: "reserved error",
        128: "echo request", 129: "echo reply", 137: "redirect", 138: "router renumbering",
        139: "node information query", 140: "node information answer",
        141: "inverse neighbour solicitation", 142: "inverse neighbour advertisement",
        144: "home agent discovery", 145: "home agent answer", 146: "mobile prefix solicitation",
        147: "mobile prefix advertisement", 148: "certification path", 149: "certification answer",
        151: "multicast router advertisement", 152: "multicast router solicitation",
        153: "multicast router termination", 154: "fast handover", 155: "RPL", 157: "DAR",
        158: "DAC", 160: "extended echo request", 161: "extended echo reply", 200: "private",
        201: "private", 255: "reserved",
    }  # fmt: skip
    for kind, what in strict.items():
        add(f"type-{kind}", f"ICMPv6 {what} (type {kind})", plain(kind), DROP,
            "nothing asks for it; ping is dropped by design" if kind == 128 else
            "nothing asks for it", NOTHING, shows=kind == 128)  # fmt: skip
    for kind, what in (
        (130, "listener query"), (131, "listener report"), (132, "listener done"),
        (133, "router solicitation"), (143, "listener report version 2"),
    ):  # fmt: skip
        add(f"type-{kind}", f"ICMPv6 {what} (type {kind})", plain(kind), DROP,
            "security groups let it in, no promise needs it", PORTS, also=[ACCEPT])  # fmt: skip

    def solicitation(c, i, **fields):
        header = network(c, i, **{"hlim": 255, **fields})
        return header / ICMPv6ND_NS(tgt=c.vip) / ICMPv6NDOptSrcLLAddr()

    def nobody(c, i):
        # Advertisements say for which address they are, not for which question.
        return network(c, i, nh=59)

    add("solicitation", "neighbour solicitation for the VIP", solicitation, ACCEPT,
        "without it no IPv6 packet arrives", NEIGHBOURS, sender=None, shows=True)  # fmt: skip
    add("solicitation-hop-limit", "neighbour solicitation from beyond a router (hop limit 64)",
        lambda c, i: solicitation(c, i, hlim=64), ACCEPT,
        "the kernel discards it after the filter (RFC 4861)", PORTS, also=[DROP],
        sender=None, asks=nobody)  # fmt: skip
    add("solicitation-denied", "neighbour solicitation from a denied source",
        lambda c, i: solicitation(c, i, source=c.denied), ACCEPT,
        "CIDRs speak of listeners, not of neighbours", NEIGHBOURS, sender=None)  # fmt: skip
    add("solicitation-duplicate", "duplicate address detection for the VIP",
        lambda c, i: network(c, i, source="::", hlim=255) / ICMPv6ND_NS(tgt=c.vip), ACCEPT,
        "the owner has to defend its address (RFC 4862)", NEIGHBOURS, sender=None)  # fmt: skip
    add("solicitation-checksum", "neighbour solicitation with a wrong checksum",
        lambda c, i: network(c, i, hlim=255) / ICMPv6ND_NS(tgt=c.vip, cksum=1), DROP,
        "it is damaged", PORTS, also=[ACCEPT], sender=None, asks=nobody, unseen=DAMAGE)  # fmt: skip
    add("solicitation-code", "neighbour solicitation with code 7",
        lambda c, i: network(c, i, hlim=255) / ICMPv6ND_NS(tgt=c.vip, code=7), ACCEPT,
        "the kernel's part (RFC 4861, section 7.1.1)", NEIGHBOURS, sender=None,
        asks=nobody)  # fmt: skip
    add("advertisement", "neighbour advertisement for an address nobody has",
        lambda c, i: network(c, i, hlim=255)
        / ICMPv6ND_NA(tgt="2001:db8:ffff::1", R=0, S=1) / ICMPv6NDOptDstLLAddr(lladdr=MAC), ACCEPT,
        "without answers the amphora finds nobody", NEIGHBOURS, sender=None)  # fmt: skip
    add("router-advertisement", "router advertisement with lifetime 0",
        lambda c, i: network(c, i, hlim=255, source="fe80::1")
        / ICMPv6ND_RA(routerlifetime=0), ACCEPT, "as security groups let it in", PORTS,
        also=[DROP], sender=None)  # fmt: skip
    add("echo-denied", "ping from a denied source",
        lambda c, i: network(c, i, source=c.denied) / ICMPv6EchoRequest(id=i.port), DROP,
        "ping is dropped by design", NOTHING, sender=denied, shows=True)  # fmt: skip
    add("echo-own", "ping to the amphora's own address",
        lambda c, i: network(c, i, destination=c.own) / ICMPv6EchoRequest(id=i.port), DROP,
        "ping is dropped by design", NOTHING, needs=[Need.OWN])  # fmt: skip
    add("echo-checksum", "ping with a wrong checksum",
        lambda c, i: network(c, i) / ICMPv6EchoRequest(id=i.port, cksum=1), DROP,
        "it is damaged", NOTHING)  # fmt: skip
    add("truncated", "three bytes of ICMPv6",
        lambda c, i: network(c, i, nh=58) / Raw(b"\x01\x00\x00"), DROP, "it is damaged",
        NOTHING, also=[ACCEPT])  # fmt: skip
    add("of-the-other-family", "ICMP unreachable of IPv4 in IPv6",
        lambda c, i: network(c, i, nh=1) / Raw(bytes(ICMP(type=3, code=1)) + bytes(28)), DROP,
        "protocol 1 belongs to IPv4", NOTHING)  # fmt: skip


def _flow_errors(registry: Registry) -> None:
    """Errors that quote what the amphora sent on a live connection."""

    def quote(c: Context) -> bytes:
        inner = pick(c.version, IP, IPv6)(src=c.vip, dst=c.flow.source)
        segment = TCP(
            sport=c.flow.target_port,
            dport=c.flow.port,
            seq=c.flow.acknowledgement,
            ack=c.flow.sequence,
            flags="A",
        )
        return bytes(inner / segment)

    def error(kind, code, rest=b""):
        def build(c, i):
            middle = b"" if c.version == 4 else rest.rjust(4, b"\0")
            if c.version == 4:
                number = int.from_bytes(rest.rjust(2, b"\0")[-2:], "big")
                header = network(c, i) / ICMP(type=kind, code=code)
                if kind == 3 and code == 4:
                    header[ICMP].nexthopmtu = number
                return header / Raw(quote(c))
            return _raw(c, i, kind, code, middle + quote(c))

        return build

    def add(name, description, build, expected, reason, source, **more):
        registry.add("icmp", f"flow-{name}", description, build, expected, reason, source, **more,
                     needs=[Need.FLOW], sender=None)  # fmt: skip

    known = "path MTU discovery and unreachability of known flows"
    mtu = struct.pack(">H", 1400)
    if registry.version == 4:
        for code in (0, 1, 2, 3, 4, 13):
            add(f"unreachable-{code}", f"ICMP unreachable code {code} quoting a live connection",
                error(3, code, mtu), ACCEPT, known, ERRORS)  # fmt: skip
        add("time-exceeded", "ICMP time exceeded quoting a live connection", error(11, 0), ACCEPT,
            known, ERRORS)  # fmt: skip
        add("parameter-problem", "ICMP parameter problem quoting a live connection", error(12, 0),
            ACCEPT, known, ERRORS)  # fmt: skip
        for kind, what in ((4, "source quench"), (5, "redirect")):
            add(what.replace(" ", "-"), f"ICMP {what} quoting a live connection", error(kind, 0),
                ACCEPT, "conntrack relates it; nobody was promised it",
                "policy: flows without a listener's promise", also=[DROP])  # fmt: skip
    else:
        for kind, what, rest in (
            (1, "unreachable", b""),
            (2, "packet too big", struct.pack(">I", 1400)),
            (3, "time exceeded", b""),
            (4, "parameter problem", b""),
        ):
            add(what.replace(" ", "-"), f"ICMPv6 {what} quoting a live connection",
                error(kind, 0, rest), ACCEPT, known, ERRORS)  # fmt: skip
