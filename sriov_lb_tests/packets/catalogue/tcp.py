# SPDX-License-Identifier: Apache-2.0
"""TCP: requests to connect, segments out of state, lies in the header."""

from __future__ import annotations

from scapy.layers.inet import TCP
from scapy.packet import Raw

from sriov_lb_tests.packets.catalogue.case import (
    DAMAGE,
    Expected,
    Need,
    Registry,
    allowed,
    denied,
    network,
    tcp,
)

ACCEPT, DROP = Expected.ACCEPT, Expected.DROP
PROMISE = "policy: listener"
NOTHING = "policy: everything else"
BEYOND = "policy: listener, beyond its promise"

#: Flag combinations that begin no connection, and whether conntrack takes them for a new flow all
#: the same (it picks up a bare ACK: net.netfilter.nf_conntrack_tcp_loose).
STRAY = {
    "A": True, "PA": True, "AU": True, "SA": False, "R": False, "RA": False, "F": False,
    "FA": False, "SF": False, "SR": False, "SFA": False, "SRA": False, "RF": False, "FRA": False,
    "": False, "P": False, "U": False, "PU": False, "FPU": False, "SFPU": False, "SFRPAU": False,
    "SFRPAUEC": False, "SPU": True, "SP": True, "SU": True,
}  # fmt: skip
_BEGINS = {"SP", "SU", "SPU"}


def fill(registry: Registry) -> None:
    _requests(registry)
    _stray(registry)
    _lies(registry)
    _in_flow(registry)


def _syn(registry, name, description, expected, reason, source, *, shows=None, also=(), needs=(),
         sender=allowed, payload=None, dport=None, flags="S", closed=None, unseen="",
         **fields):  # fmt: skip
    def port(c):
        return dport(c) if callable(dport) else c.tcp_port if dport is None else dport

    def build(c, i):
        values = {k: (v(c) if callable(v) else v) for k, v in fields.items()}
        header = network(c, i, source=sender(c)) / tcp(c, i, flags, dport=port(c), **values)
        return header / Raw(payload(i)) if payload else header

    if closed is None:
        closed = expected is DROP and dport is not None and source == NOTHING
    if shows is None:
        # A listening socket answers requests and ACKs; a closed port answers all but resets.
        asks = "A" in flags or ("S" in flags and "F" not in flags)
        shows = "R" not in flags and (bool(closed) or asks)
    registry.add(
        "tcp", name, description, build, expected, reason, source, shows=shows, also=also,
        needs=needs, sender=sender, closed=(lambda c: (6, port(c))) if closed else None,
        unseen=unseen,
    )  # fmt: skip


def _requests(registry: Registry) -> None:
    def syn(*arguments, **more):
        _syn(registry, *arguments, **more)

    syn("syn-open", "SYN to the listener from an allowed source", ACCEPT,
        "the listener promises it", PROMISE)
    syn("syn-everybody", "SYN to a listener without CIDRs", ACCEPT,
        "a listener without CIDRs is open to all", PROMISE,
        needs=[Need.OPEN_LISTENER], dport=lambda c: c.open_port)
    syn("syn-everybody-denied", "SYN to a listener without CIDRs from the denied source", ACCEPT,
        "CIDRs of one listener close no other", PROMISE, needs=[Need.OPEN_LISTENER],
        sender=denied, dport=lambda c: c.open_port)
    syn("syn-denied", "SYN to the listener from a source that is not allowed", DROP,
        "any allowed CIDR closes the listener to everybody else", NOTHING, sender=denied)
    syn("syn-closed", "SYN to a port without listener", DROP, "no listener asks for it", NOTHING,
        dport=lambda c: c.closed_port)
    for distance, name in ((1, "next"), (-1, "previous"), (256, "far"), (1024, "farther")):
        syn(f"syn-{name}-port", f"SYN to the listener's port {distance:+}", DROP,
            "a rule whose port is wrong by one, or by a byte, would show", NOTHING,
            dport=lambda c, d=distance: (c.tcp_port + d) & 0xFFFF)
    syn("syn-swapped-port", "SYN to the listener's port with its bytes exchanged", DROP,
        "a rule with the wrong byte order would show", NOTHING,
        dport=lambda c: (c.tcp_port >> 8) | (c.tcp_port & 0xFF) << 8)
    syn("syn-from-port", "SYN from the listener's port to a closed one", DROP,
        "a rule that looks at the source port would show", NOTHING,
        sport=lambda c: c.tcp_port, dport=lambda c: c.closed_port)
    for port, what in (
        (0, "port 0"), (22, "ssh"), (53, "DNS"), (179, "BGP"), (1025, "haproxy peers"),
        (9443, "the amphora agent"), (9101, "metrics"), (9102, "metrics inside"),
        (5555, "heartbeats"), (8080, "an alternative HTTP port"), (65535, "the last port"),
    ):  # fmt: skip
        syn(f"syn-{port}", f"SYN to {what}", DROP, "no listener asks for it", NOTHING, dport=port)
    syn("syn-udp-port", "SYN to the port of a UDP listener", DROP,
        "a listener is of one protocol", NOTHING, needs=[Need.UDP_LISTENER],
        dport=lambda c: c.udp_port)
    syn("syn-ecn", "SYN that offers ECN", ACCEPT, "RFC 3168 is part of TCP", PROMISE, flags="SEC")
    syn("syn-data", "SYN that carries data", ACCEPT, "RFC 9293 permits it", PROMISE,
        payload=lambda i: i.tag)
    syn("syn-source-port-0", "SYN from port 0", ACCEPT, "no CIDR speaks of ports", PROMISE, sport=0)
    syn("syn-source-port-low", "SYN from port 7", ACCEPT, "no CIDR speaks of ports", PROMISE,
        sport=7)
    syn("syn-window-0", "SYN with window 0", ACCEPT, "a request to connect", PROMISE,
        window=0)
    syn("syn-sequence-0", "SYN with sequence number 0", ACCEPT, "a request to connect", PROMISE,
        seq=0)
    syn("syn-sequence-last", "SYN with the last sequence number", ACCEPT, "a request to connect",
        PROMISE, seq=0xFFFFFFFF)
    syn("syn-acknowledgement", "SYN with a number in the unused ACK field", ACCEPT,
        "without the ACK flag the field means nothing", PROMISE, ack=0x12345678)
    for name, options in (
        ("mss-tiny", [("MSS", 1)]),
        ("mss-huge", [("MSS", 65535)]),
        ("timestamps", [("Timestamp", (1, 0))]),
        ("sack", [("SAckOK", b"")]),
        ("window-scale", [("WScale", 14)]),
        ("window-scale-too-big", [("WScale", 99)]),
        ("fast-open", [(34, b"")]),
        ("unknown", [(200, b"ab")]),
        ("experimental", [(253, b"\xf9\x89")]),
        ("padding", [("NOP", None)] * 8),
        ("full", [("NOP", None)] * 40),
        ("mptcp", [(30, b"\x01\x81" + bytes(8))]),
    ):
        syn(f"syn-option-{name}", f"SYN with TCP option {name}", ACCEPT,
            "options do not change who may connect", PROMISE, options=options)
    syn("syn-option-length-lie", "SYN with an option that claims to be longer than the header",
        ACCEPT, "a receiver ignores what it cannot read", BEYOND, also=[DROP],
        options=[(8, b"")], dataofs=6, unseen=DAMAGE)  # fmt: skip


def _stray(registry: Registry) -> None:
    for flags, loose in STRAY.items():
        name, text = flags.lower() or "null", flags or "no flags"
        if flags in _BEGINS:
            expected, also = ACCEPT, ()
            reason, source = "SYN without FIN, RST and ACK asks for a connection", PROMISE
        else:
            expected, also = (ACCEPT, [DROP]) if loose else (DROP, [ACCEPT])
            reason = "an allowed source, but no request to connect: nothing is promised"
            source = BEYOND
        _syn(registry, f"stray-open-{name}", f"segment without connection to the listener: {text}",
             expected, reason, source, also=also, flags=flags)
        _syn(registry, f"stray-denied-{name}", f"segment from a denied source: {text}", DROP,
             "flags do not open what CIDRs close", NOTHING, flags=flags, sender=denied)
    for flags in ("A", "PA", "SA", "RA", "F", "FA", "", "FPU", "SF"):
        name, text = flags.lower() or "null", flags or "no flags"
        _syn(registry, f"stray-closed-{name}", f"segment without connection to a closed port: "
             f"{text}", DROP, "no listener asks for it", NOTHING, flags=flags,
             dport=lambda c: c.closed_port)  # fmt: skip
    _syn(registry, "stray-answer", "SYN-ACK that pretends to come from a member", DROP,
         "an answer needs a question", NOTHING, flags="SA", sport=80,
         dport=lambda c: 43210)  # fmt: skip


def _lies(registry: Registry) -> None:
    def wrong(c, i):
        whole = network(c, i) / tcp(c, i)
        correct = type(whole)(bytes(whole))[TCP].chksum
        return network(c, i) / tcp(c, i, chksum=correct ^ 0x5555)

    def add(name, description, build, also=(ACCEPT,), expected=DROP,
            reason="no connection can come of it"):  # fmt: skip
        registry.add("tcp", name, description, build, expected, reason, BEYOND, also=also,
                     unseen=DAMAGE)  # fmt: skip

    add("checksum-wrong", "SYN with a wrong checksum", wrong)
    add("checksum-zero", "SYN with checksum 0", lambda c, i: network(c, i) / tcp(c, i, chksum=0))
    for size in (0, 1, 4, 8, 13, 19):
        add(f"truncated-{size}", f"the first {size} bytes of a SYN",
            lambda c, i, n=size: network(c, i, **_proto(c, 6)) / Raw(bytes(tcp(c, i))[:n]))
    add("offset-4", "SYN whose header claims to be 16 bytes long",
        lambda c, i: network(c, i) / tcp(c, i, dataofs=4))
    add("offset-0", "SYN whose header claims to be empty",
        lambda c, i: network(c, i) / tcp(c, i, dataofs=0))
    add("offset-15", "SYN whose header claims to be longer than the packet",
        lambda c, i: network(c, i) / tcp(c, i, dataofs=15))
    registry.add("tcp", "reserved-bits", "SYN with all reserved bits set",
                 lambda c, i: network(c, i) / tcp(c, i, reserved=7), ACCEPT,
                 "reserved bits are ignored by receivers (RFC 9293)", BEYOND, also=[DROP],
                 shows=True, unseen="the policy reads no reserved bits")  # fmt: skip
    registry.add("tcp", "checksum-wrong-denied", "SYN with a wrong checksum, denied source",
                 lambda c, i: network(c, i, source=c.denied) / tcp(c, i, chksum=1), DROP,
                 "nothing opens what CIDRs close", NOTHING, sender=denied)  # fmt: skip


def _proto(context, number: int) -> dict:
    return {"proto": number} if context.version == 4 else {"nh": number}


def _in_flow(registry: Registry) -> None:
    def segment(flags="A", shift=0, acknowledged=0, payload=b"", port=None):
        def build(c, i):
            flow = c.flow
            header = TCP(
                sport=flow.port if port is None else port,
                dport=flow.target_port,
                seq=(flow.sequence + shift) % 2**32,
                ack=(flow.acknowledgement + acknowledged) % 2**32,
                flags=flags,
                window=64240,
            )
            packet = network(c, i, source=flow.source) / header
            return packet / Raw(payload) if payload else packet

        return build

    def nobody(c, i):
        # All of these share one connection: which of them an ACK answers cannot be told.
        return network(c, i, **_proto(c, 59))

    def add(name, description, build, expected, reason, source, **more):
        registry.add("tcp", name, description, build, expected, reason, source, **more,
                     needs=[Need.FLOW], sender=lambda c: c.flow.source, asks=nobody)  # fmt: skip

    flow = "policy: established flows"
    add("flow-keepalive", "a keep-alive of a live connection", segment(shift=-1), ACCEPT,
        "what was let in goes on", flow)  # fmt: skip
    add("flow-acknowledgement", "a bare ACK of a live connection", segment(), ACCEPT,
        "what was let in goes on", flow)  # fmt: skip
    add("flow-syn", "a SYN on the four-tuple of a live connection", segment("S"), ACCEPT,
        "RFC 5961 answers it with a challenge ACK", flow)  # fmt: skip
    unsure = "policy: flows without a listener's promise"
    odd = {"also": [ACCEPT], "unseen": "conntrack looks at its numbers"}
    add("flow-far-ahead", "a segment far outside of the window", segment(shift=2**30), DROP,
        "it belongs to no known state of the connection", unsure, **odd)  # fmt: skip
    add("flow-reset-blind", "a RST whose number is outside of the window",
        segment("R", shift=2**30), DROP, "RFC 5961: a blind reset may end nothing", unsure,
        **odd)  # fmt: skip
    add("flow-future-ack", "an ACK of data that was never sent", segment(acknowledged=2**30), DROP,
        "it belongs to no known state of the connection", unsure, **odd)  # fmt: skip
    add("flow-other-port", "a data segment from the port beside a live connection's",
        lambda c, i: segment("PA", payload=i.tag, port=c.flow.port ^ 1)(c, i), ACCEPT,
        "a stray segment of an allowed source", BEYOND, also=[DROP])  # fmt: skip
    registry.add(
        "tcp", "flow-stolen", "a data segment on a live connection's ports from a denied source",
        lambda c, i: network(c, i, source=c.denied)
        / TCP(sport=c.flow.port, dport=c.flow.target_port, seq=c.flow.sequence,
              ack=c.flow.acknowledgement, flags="PA") / Raw(i.tag),
        DROP, "a flow is both addresses, not only its ports", NOTHING, needs=[Need.FLOW],
        sender=denied,
    )  # fmt: skip
