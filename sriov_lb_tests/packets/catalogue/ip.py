# SPDX-License-Identifier: Apache-2.0
"""The network header: options, extension headers, fragments, lengths and checksums that lie."""

from __future__ import annotations

from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import (
    HAO,
    HBHOptUnknown,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    Jumbo,
    Pad1,
    PadN,
    RouterAlert,
)
from scapy.layers.ipsec import AH
from scapy.packet import Packet, Raw

from sriov_lb_tests.packets.catalogue.case import (
    DAMAGE,
    KERNEL,
    Context,
    Expected,
    Registry,
    allowed,
    denied,
    network,
    pick,
    tcp,
)
from sriov_lb_tests.packets.probe import Identity

ACCEPT, DROP, BEFORE = Expected.ACCEPT, Expected.DROP, Expected.BEFORE_FILTER
PROMISE, NOTHING = "policy: listener", "policy: everything else"
BEYOND = "policy: listener, beyond its promise"
HOPS = "the policy reads the hop limit of neighbour discovery alone"
OPTIONS = "the policy reads no options"
PIECE = "it is a piece of a packet"
BROKEN = {"lost": KERNEL, "unseen": DAMAGE}


def fill(registry: Registry) -> None:
    if registry.version == 4:
        _header4(registry)
        _options4(registry)
    else:
        _header6(registry)
        _extensions(registry)
    _fragments(registry)


def _syn(context: Context, identity: Identity, **fields) -> Packet:
    return network(context, identity, **fields) / tcp(context, identity)


def _header4(registry: Registry) -> None:
    def add(name, description, build, expected, reason, source, **more):
        registry.add("ip", name, description, build, expected, reason, source, **more)

    for name, fields, what in (
        ("ttl-1", {"ttl": 1}, "TTL 1"),
        ("ttl-255", {"ttl": 255}, "TTL 255"),
        ("dont-fragment", {"flags": "DF"}, "DF set"),
        ("evil", {"flags": "evil"}, "the reserved flag set (RFC 3514)"),
        ("dscp-ef", {"tos": 46 << 2}, "DSCP EF"),
        ("dscp-all", {"tos": 0xFC}, "all DSCP bits"),
        ("ecn-ce", {"tos": 3}, "congestion experienced"),
    ):
        add(name, f"SYN with {what}", lambda c, i, f=fields: _syn(c, i, **f), ACCEPT,
            "no CIDR speaks of it", PROMISE, shows=True)  # fmt: skip
    add("ttl-0", "SYN with TTL 0", lambda c, i: _syn(c, i, ttl=0), ACCEPT,
        "a receiver looks at the TTL only when it forwards (RFC 1122)", BEYOND, also=[DROP],
        shows=True, unseen=HOPS)  # fmt: skip
    broken = "a damaged header reaches no filter"
    kernel = "Linux ip_rcv()"
    add("checksum", "SYN with a wrong header checksum", lambda c, i: _syn(c, i, chksum=1), BEFORE,
        broken, kernel, **BROKEN)  # fmt: skip
    add("length-long", "SYN whose total length exceeds the frame",
        lambda c, i: _syn(c, i, len=400), BEFORE, broken, kernel, **BROKEN)  # fmt: skip
    add("length-short", "SYN whose total length ends inside of the TCP header",
        lambda c, i: _syn(c, i, len=30), DROP, "half a TCP header", BEYOND,
        also=[ACCEPT], unseen=DAMAGE)  # fmt: skip
    add("length-header", "SYN whose total length ends with the IP header",
        lambda c, i: _syn(c, i, len=20), DROP, "no TCP header at all", BEYOND,
        also=[ACCEPT], unseen=DAMAGE)  # fmt: skip
    add("length-tiny", "SYN whose total length is 10", lambda c, i: _syn(c, i, len=10), BEFORE,
        broken, kernel, **BROKEN)  # fmt: skip
    add("header-4", "SYN whose header claims 16 bytes", lambda c, i: _syn(c, i, ihl=4), BEFORE,
        broken, kernel, lost=KERNEL)  # fmt: skip
    add("header-15", "SYN whose header claims 60 bytes", lambda c, i: _syn(c, i, ihl=15), BEFORE,
        broken, kernel, lost=KERNEL)  # fmt: skip
    for version in (0, 5, 6, 15):
        add(f"version-{version}", f"IPv4 frame whose version says {version}",
            lambda c, i, v=version: _syn(c, i, version=v), BEFORE, broken, kernel,
            lost=KERNEL)  # fmt: skip


def _options4(registry: Registry) -> None:
    def add(name, options, expected, reason, source, *, also=(), shows=False):
        padded = options + b"\0" * (-len(options) % 4)
        registry.add(
            "ip", f"option-{name}", f"SYN with IP option {name}",
            lambda c, i: network(c, i, options=[Raw(padded)]) / tcp(c, i), expected, reason,
            source, also=also, shows=shows, unseen=OPTIONS,
        )  # fmt: skip

    fine = "options do not change who may connect"
    for name, options in (
        ("nop", b"\x01" * 4),
        ("end", b"\0" * 4),
        ("record-route", b"\x07\x0f\x04" + b"\0" * 12),
        ("timestamp", b"\x44\x0c\x05\0" + b"\0" * 8),
        ("router-alert", b"\x94\x04\0\0"),
        ("unknown", b"\x5e\x04ab"),
        ("stream", b"\x88\x04\0\x01"),
    ):
        add(name, options, ACCEPT, fine, BEYOND, also=[DROP], shows=True)
    routed = "source routes are refused (net.ipv4.conf.*.accept_source_route)"
    hop = b"\xc6\x33\x64\x01"
    add("loose-source-route", b"\x83\x07\x04" + hop, BEFORE, routed, "RFC 7126", also=[ACCEPT])
    add("strict-source-route", b"\x89\x07\x04" + hop, BEFORE, routed, "RFC 7126", also=[ACCEPT])
    for name, options in (
        ("length-0", b"\x07\x00\x04\x00"),
        ("length-1", b"\x07\x01\x04\x00"),
        ("length-lie", b"\x07\x28\x04\x00"),
        ("record-route-pointer", b"\x07\x07\x01\0\0\0\0"),
        ("two-source-routes", b"\x83\x07\x04" + hop + b"\x89\x07\x04" + hop),
    ):
        add(name, options, BEFORE, "a damaged option reaches no filter", "Linux ip_options_compile")


def _header6(registry: Registry) -> None:
    def add(name, description, build, expected, reason, source, **more):
        registry.add("ip", name, description, build, expected, reason, source, **more)

    for name, fields, what in (
        ("hop-limit-1", {"hlim": 1}, "hop limit 1"),
        ("hop-limit-255", {"hlim": 255}, "hop limit 255"),
        ("traffic-class", {"tc": 0xB8}, "traffic class EF"),
        ("ecn-ce", {"tc": 3}, "congestion experienced"),
    ):
        add(name, f"SYN with {what}", lambda c, i, f=fields: _syn(c, i, **f), ACCEPT,
            "no CIDR speaks of it", PROMISE, shows=True)  # fmt: skip
    add("hop-limit-0", "SYN with hop limit 0", lambda c, i: _syn(c, i, hlim=0), ACCEPT,
        "a receiver looks at the hop limit only when it forwards", BEYOND, also=[DROP],
        shows=True, unseen=HOPS)  # fmt: skip
    broken, kernel = "a damaged header reaches no filter", "Linux ip6_rcv_core()"
    add("length-long", "SYN whose payload length exceeds the frame",
        lambda c, i: _syn(c, i, plen=400), BEFORE, broken, kernel, **BROKEN)  # fmt: skip
    add("length-short", "SYN whose payload length ends inside of the TCP header",
        lambda c, i: _syn(c, i, plen=10), DROP, "half a TCP header", BEYOND,
        also=[ACCEPT], unseen=DAMAGE)  # fmt: skip
    add("length-zero", "SYN whose payload length is 0", lambda c, i: _syn(c, i, plen=0), DROP,
        "no TCP header at all", BEYOND, also=[ACCEPT], unseen=DAMAGE)  # fmt: skip
    for version in (0, 4, 5, 15):
        add(f"version-{version}", f"IPv6 frame whose version says {version}",
            lambda c, i, v=version: _syn(c, i, version=v), BEFORE, broken, kernel,
            lost=KERNEL)  # fmt: skip


def _extensions(registry: Registry) -> None:
    def both(name, description, headers, *, expected=ACCEPT, reason="", source=PROMISE, also=(),
             shows=True, lost=""):  # fmt: skip
        """The same extension headers before a SYN to the listener and to a closed port."""
        reason = reason or "the upper layer decides, however many headers come before it"

        def build(c, i, port=None):
            packet = network(c, i)
            for header in headers():
                packet = packet / header
            return packet / tcp(c, i, dport=port or c.tcp_port)

        registry.add("ip", name, f"SYN behind {description}", build, expected, reason, source,
                     also=also, shows=shows and expected is ACCEPT, lost=lost)  # fmt: skip
        registry.add("ip", f"{name}-closed", f"SYN to a closed port behind {description}",
                     lambda c, i: build(c, i, c.closed_port), DROP,
                     "no extension header opens a port", NOTHING, lost=lost)  # fmt: skip

    def options(kind, *found):
        return lambda: [kind(options=list(found))]

    hop, end = IPv6ExtHdrHopByHop, IPv6ExtHdrDestOpt
    both("hop-by-hop", "hop-by-hop options", options(hop, PadN(optdata=b"\0" * 4)))
    both("destination", "destination options", options(end, PadN(optdata=b"\0" * 4)))
    both("destination-4", "four headers of destination options",
         lambda: [IPv6ExtHdrDestOpt() for _ in range(4)])  # fmt: skip
    both("both", "hop-by-hop and destination options",
         lambda: [IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt()])  # fmt: skip
    both("router-alert", "a router alert", options(hop, RouterAlert(value=0)))
    both("pad1", "hop-by-hop options of single pads",
         options(hop, Pad1(), Pad1(), Pad1()))  # fmt: skip
    may = {"also": [DROP], "source": BEYOND, "shows": False}
    both("routing-0-done", "a routing header of type 0 without hops left",
         lambda: [IPv6ExtHdrRouting(type=0, segleft=0)], **may,
         reason="RFC 5095: without segments left it is skipped")  # fmt: skip
    both("routing-2", "a routing header of type 2", lambda: [IPv6ExtHdrRouting(type=2, segleft=0)],
         **may, reason="without segments left it is skipped")  # fmt: skip
    both("destination-home", "a home address option",
         options(end, HAO(hoa="2001:db8:ffff::2")), **may,
         reason="the kernel looks at it after the filter")  # fmt: skip
    both("destination-unknown", "an unknown destination option that asks for discard",
         options(end, HBHOptUnknown(otype=0x5E, optdata=b"ab")), **may,
         reason="the kernel looks at it after the filter")  # fmt: skip
    both("destination-20", "twenty headers of destination options",
         lambda: [IPv6ExtHdrDestOpt() for _ in range(20)], **may,
         reason="how many is too many is the kernel's choice")  # fmt: skip
    both("atomic", "a fragment header of a whole packet (RFC 6946)",
         lambda: [IPv6ExtHdrFragment(offset=0, m=0, id=0x5150)])  # fmt: skip
    early = {"expected": BEFORE, "source": "Linux ipv6_parse_hopopts()", "also": [ACCEPT],
             "lost": KERNEL}  # fmt: skip
    both("hop-by-hop-unknown", "an unknown hop-by-hop option that asks for discard",
         options(hop, HBHOptUnknown(otype=0x5E, optdata=b"ab")), **early,
         reason="RFC 8200, section 4.2")  # fmt: skip
    both("jumbo", "a jumbogram option on a small packet", options(hop, Jumbo(jumboplen=70000)),
         **early, reason="RFC 2675")  # fmt: skip
    both("routing-0", "a routing header of type 0 with a hop left",
         lambda: [IPv6ExtHdrRouting(type=0, segleft=1, addresses=["2001:db8:ffff::3"])],
         expected=DROP, source="RFC 5095", also=[ACCEPT], reason="deprecated: never forwarded")
    both("routing-4", "a segment routing header with a segment left",
         lambda: [IPv6ExtHdrRouting(type=4, segleft=1, addresses=["2001:db8:ffff::3"])],
         expected=DROP, source=BEYOND, also=[ACCEPT],
         reason="segment routing is not enabled")  # fmt: skip
    both("hop-by-hop-late", "hop-by-hop options after destination options",
         lambda: [IPv6ExtHdrDestOpt(), IPv6ExtHdrHopByHop()], expected=DROP, source=BEYOND,
         also=[ACCEPT], reason="RFC 8200: only directly behind the IPv6 header")  # fmt: skip

    def add(name, description, build, expected, reason, source=NOTHING, also=()):
        registry.add("ip", name, description, build, expected, reason, source,
                     also=also)  # fmt: skip

    add("authentication", "SYN behind an authentication header",
        lambda c, i: network(c, i) / AH(spi=7, seq=1, icv=b"\0" * 12) / tcp(c, i), DROP,
        "the protocol is AH, and nobody asked for it", also=[ACCEPT])  # fmt: skip
    add("no-next-header", "a packet that says nothing follows", lambda c, i: network(c, i, nh=59)
        / Raw(bytes(tcp(c, i))), DROP, "no protocol is no listener's")  # fmt: skip
    add("header-lie", "destination options longer than the packet",
        lambda c, i: network(c, i, nh=60) / Raw(b"\x06\xff" + bytes(6)) / tcp(c, i), DROP,
        "damaged", also=[ACCEPT])  # fmt: skip
    for number in (135, 139, 140, 253, 254):
        add(f"header-{number}", f"SYN behind extension header {number}",
            lambda c, i, n=number: network(c, i, nh=n) / Raw(b"\x06\0" + bytes(6)) / tcp(c, i),
            DROP, "nobody asked for this protocol",
            also=[ACCEPT] if number < 253 else ())  # fmt: skip


def _pieces(context: Context, identity: Identity, payload: bytes, cuts, *, more_last=False):
    """Fragments of ``payload``: ``cuts`` are ``(start, end)`` in bytes, in the order of sending.
    The one that reaches the end is the last one, unless ``more_last``."""
    return [
        _piece(context, identity, payload[start:end], start, more_last or end < len(payload))
        for start, end in cuts
    ]


def _piece(context: Context, identity: Identity, part: bytes, start: int, more: bool) -> Packet:
    if context.version == 4:
        flags = "MF" if more else 0
        header = network(context, identity, proto=6, flags=flags, frag=start // 8)
        return header / Raw(part)
    fragment = IPv6ExtHdrFragment(nh=6, offset=start // 8, m=int(more), id=identity.nonce)
    return network(context, identity) / fragment / Raw(part)


def _segment(context: Context, identity: Identity, source: str, port: int) -> bytes:
    """A SYN with 40 bytes of data, its checksum right for the whole packet."""
    whole = (
        network(context, identity, source=source)
        / tcp(context, identity, dport=port)
        / Raw((identity.tag * 3)[:40])
    )
    return bytes(pick(context.version, IP, IPv6)(bytes(whole))[TCP])


def _fragments(registry: Registry) -> None:
    def whole(source, port):
        return lambda c, i: (
            network(c, i, source=source(c)) / tcp(c, i, dport=port(c)) / Raw((i.tag * 3)[:40])
        )

    def add(name, description, cuts, expected, reason, source, *, port=lambda c: c.tcp_port,
            sender=allowed, also=(), shows=False, more_last=False, edit=None,
            unseen=""):  # fmt: skip
        def build(c, i):
            payload = _segment(c, i, sender(c), port(c))
            pieces = _pieces(c, i, payload, cuts, more_last=more_last)
            for piece in pieces:
                piece.src = sender(c)
            return edit(c, i, pieces, payload) if edit else pieces

        registry.add("ip", f"fragments-{name}", description, build, expected, reason, source,
                     also=also, shows=shows, sender=sender, asks=whole(sender, port),
                     unseen=unseen)  # fmt: skip

    joined = "fragments are one packet to the filter"
    halves = [(0, 32), (32, 60)]
    add("two", "SYN in two fragments", halves, ACCEPT, joined, PROMISE, shows=True)
    add("two-closed", "SYN to a closed port in two fragments", halves, DROP, joined, NOTHING,
        port=lambda c: c.closed_port)  # fmt: skip
    add("two-denied", "SYN from a denied source in two fragments", halves, DROP, joined, NOTHING,
        sender=denied)  # fmt: skip
    add("reversed", "SYN in two fragments, last first", halves[::-1], ACCEPT, joined, PROMISE,
        shows=True)  # fmt: skip
    add("seven", "SYN in seven fragments of 8 bytes",
        [(n, min(n + 8, 60)) for n in range(0, 60, 8)], ACCEPT, joined, BEYOND, also=[DROP],
        shows=registry.version == 4)  # fmt: skip
    add("tiny", "SYN whose ports and flags are in different fragments (8 bytes first)",
        [(0, 8), (8, 60)], ACCEPT, joined, BEYOND, also=[DROP], shows=registry.version == 4)
    add("tiny-closed", "the same to a closed port: ports first, flags later", [(0, 8), (8, 60)],
        DROP, joined, NOTHING, port=lambda c: c.closed_port)  # fmt: skip
    add("tiny-denied", "the same from a denied source", [(0, 8), (8, 60)], DROP, joined, NOTHING,
        sender=denied)  # fmt: skip
    alone = "an incomplete packet waits, and is forgotten"
    add("first-only", "only the first fragment of a SYN", [(0, 32)], BEFORE, alone, joined,
        unseen=PIECE)  # fmt: skip
    add("last-only", "only the last fragment of a SYN", [(32, 60)], BEFORE, alone, joined)
    add("middle-only", "only a middle fragment", [(16, 32)], BEFORE, alone, joined)
    add("endless", "two fragments that both promise more", halves, BEFORE, alone, joined,
        more_last=True)  # fmt: skip

    def late(c, i, pieces, payload):
        return [*pieces, _sent_by(_piece(c, i, payload[32:], 32, False), pieces[0].src)]

    add("late", "SYN in two fragments, and the last one again when all is done", halves, ACCEPT,
        "what comes late is another incomplete packet", PROMISE, shows=True, edit=late)  # fmt: skip

    def overlapping(c, i, pieces, payload):
        return [pieces[0], _sent_by(_piece(c, i, payload[24:40], 24, True), pieces[0].src),
                pieces[1]]  # fmt: skip

    refused = "overlapping fragments are refused (RFC 5722; Linux for IPv4 as well)"
    add("overlapping", "SYN in fragments that overlap by 8 bytes", halves, BEFORE, refused,
        "RFC 5722", also=[ACCEPT], edit=overlapping)  # fmt: skip

    def rewriting(c, i, pieces, payload):
        # The header says the closed port; an overlapping piece would put the open one there.
        fake = bytes(payload[:2]) + c.tcp_port.to_bytes(2, "big") + payload[4:8]
        return [pieces[0], _sent_by(_piece(c, i, fake, 0, True), pieces[0].src), pieces[1]]

    add("rewriting", "fragments that write another port over the first one", halves, BEFORE,
        refused, "RFC 1858", port=lambda c: c.closed_port, edit=rewriting)  # fmt: skip

    def twice(c, i, pieces, payload):
        return [pieces[0], pieces[0].copy(), pieces[1]]

    add("duplicate", "SYN in fragments, the first one sent twice", halves, ACCEPT,
        "an exact copy changes nothing", BEYOND, also=[DROP], edit=twice)  # fmt: skip
    add("huge", "a fragment that ends beyond 65,535 bytes", [(0, 32)], BEFORE,
        "no packet is that long", "RFC 791, RFC 8200",
        edit=lambda c, i, pieces, payload: [
            _sent_by(_piece(c, i, b"x" * 64, 65528, False), pieces[0].src)
        ])  # fmt: skip
    add("odd", "a first fragment whose length is no multiple of 8", [(0, 29)], BEFORE,
        "RFC 8200 calls it an error", joined, unseen=PIECE,
        edit=lambda c, i, pieces, payload: [pieces[0]])  # fmt: skip
    add("empty", "a last fragment without data", [(0, 32)], BEFORE, alone, joined,
        edit=lambda c, i, pieces, payload: [
            _sent_by(_piece(c, i, b"", 32, False), pieces[0].src)
        ])  # fmt: skip
    if registry.version == 4:
        def forbidden(c, i, pieces, payload):
            for piece in pieces:
                piece.flags = int(piece.flags) | 2
            return pieces

        add("dont-fragment", "SYN in two fragments that say do not fragment", halves, ACCEPT,
            joined, BEYOND, also=[DROP], edit=forbidden)  # fmt: skip


def _sent_by(packet: Packet, source: str) -> Packet:
    packet.src = source
    return packet
