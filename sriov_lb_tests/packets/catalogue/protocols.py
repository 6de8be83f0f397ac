# SPDX-License-Identifier: Apache-2.0
"""All 256 protocols, VRRP, and packets inside of packets."""

from __future__ import annotations

import ipaddress

from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import AH
from scapy.layers.l2 import GRE
from scapy.layers.vrrp import VRRP, VRRPv3
from scapy.packet import Raw

from sriov_lb_tests.packets.catalogue.case import (
    GROUP,
    KERNEL,
    Expected,
    Need,
    Registry,
    denied,
    network,
    pick,
    tcp,
)
from sriov_lb_tests.packets.probe import Link

ACCEPT, DROP, BEFORE = Expected.ACCEPT, Expected.DROP, Expected.BEFORE_FILTER
NOTHING = "policy: everything else"

#: Protocols with cases of their own, and IPv6 extension headers, which are not protocols.
ELSEWHERE = {1, 6, 17, 58, 112, 132}
HEADERS = {0, 43, 44, 51, 60, 135, 139, 140}
#: Protocols kernels handle without a word; an accepted packet of any other one is answered with
#: protocol unreachable, or a parameter problem.
QUIET = {2, 4, 41, 47, 50, 51, 59, 103, 108}


def fill(registry: Registry) -> None:
    _numbers(registry)
    _vrrp(registry)
    _tunnels(registry)


def _proto(version: int, number: int) -> dict:
    return {"proto": number} if version == 4 else {"nh": number}


def _numbers(registry: Registry) -> None:
    for number in range(256):
        if number in ELSEWHERE:
            continue
        header = registry.version == 6 and number in HEADERS
        registry.add(
            "protocols", f"{number:03d}", f"protocol {number}",
            lambda c, i, n=number: network(c, i, **_proto(c.version, n)) / Raw(i.tag * 2),
            DROP, "an extension header full of nonsense" if header else "nobody asked for it",
            NOTHING, shows=not header and number not in QUIET,
            # Hop-by-hop options that cannot be read, ip6_rcv_core().
            lost=KERNEL if header and number == 0 else "",
        )  # fmt: skip


def _vrrp(registry: Registry) -> None:
    version = registry.version

    def build(source, destination, *, ttl=255, three=False, priority=200):
        def made(c, i):
            fields = pick(c.version, {"ttl": ttl, "proto": 112}, {"hlim": ttl, "nh": 112})
            header = network(c, i, source=source(c), destination=destination(c), **fields)
            if three or c.version == 6:
                return header / VRRPv3(vrid=1, priority=priority, addrlist=[])
            return header / VRRP(vrid=1, priority=priority, addrlist=[c.vip])

        return made

    def me(c):
        return c.allowed

    def own(c):
        return c.own

    def vip(c):
        return c.vip

    def peer(c):
        return c.peer

    def add(name, description, made, expected, reason, source=NOTHING, **more):
        registry.add("vrrp", name, description, made, expected, reason, source, **more)

    stranger = "only the peer may speak VRRP"
    add("stranger-vip", "VRRP from a stranger to the VIP", build(me, vip), DROP, stranger)
    add("stranger-own", "VRRP from a stranger to the amphora", build(me, own), DROP, stranger,
        needs=[Need.OWN])  # fmt: skip
    add("stranger-denied", "VRRP from a denied source", build(lambda c: c.denied, vip), DROP,
        stranger, sender=denied)  # fmt: skip
    add("stranger-version-3", "VRRP version 3 from a stranger", build(me, vip, three=True), DROP,
        stranger)  # fmt: skip
    group, mac = pick(
        version, ("224.0.0.18", "01:00:5e:00:00:12"), ("ff02::12", "33:33:00:00:00:12")
    )
    add("stranger-group", "VRRP from a stranger to the group of VRRP", build(me, lambda c: group),
        DROP, stranger, lost=GROUP, relink=lambda link: Link(link.source, mac))  # fmt: skip
    add("stranger-ah", "VRRP behind AH from a stranger",
        lambda c, i: network(c, i) / AH(spi=1, seq=1, nh=112, icv=b"\0" * 12) / Raw(bytes(20)),
        DROP, stranger)  # fmt: skip
    pair = "policy: VRRP from the peer"
    # What passes gets to a living keepalived: its election may not be decided by it.
    humble = {"priority": 1}
    add("peer", "VRRP from the peer to the amphora", build(peer, own, **humble), ACCEPT,
        "so the pair elects its master", pair, needs=[Need.PEER, Need.OWN],
        sender=None)  # fmt: skip
    add("peer-ttl", "VRRP from the peer with TTL 64", build(peer, own, ttl=64, **humble), ACCEPT,
        "unicast VRRP; keepalived looks at the TTL", pair, needs=[Need.PEER, Need.OWN],
        sender=None)  # fmt: skip
    add("peer-vip", "VRRP from the peer to the VIP", build(peer, vip, **humble), ACCEPT,
        "beyond the need of a pair", "policy: the peer, beyond its needs", also=[DROP],
        needs=[Need.PEER], sender=None)  # fmt: skip
    add("peer-next", "VRRP from the address after the peer's",
        build(lambda c: _next(c.peer), own), DROP, stranger, needs=[Need.PEER, Need.OWN],
        sender=None)  # fmt: skip
    add("peer-tcp", "SYN to a closed port from the peer",
        lambda c, i: network(c, i, source=c.peer) / tcp(c, i, dport=c.closed_port), DROP,
        "being a peer opens no ports", needs=[Need.PEER], sender=None)  # fmt: skip


def _next(address: str) -> str:
    return str(ipaddress.ip_address(address) + 1)


def _tunnels(registry: Registry) -> None:
    def inner(c, i):
        return network(c, i) / tcp(c, i)

    def other(c, i):
        made = IPv6(src="2001:db8::9", dst="2001:db8::1") if c.version == 4 else (
            IP(src="198.51.100.9", dst="198.51.100.1", id=1)
        )
        return made / tcp(c, i)

    same, foreign = pick(registry.version, (4, 41), (41, 4))
    for name, description, build in (
        ("same", "a SYN to the listener inside of its own protocol",
         lambda c, i: network(c, i, **_proto(c.version, same)) / inner(c, i)),
        ("other", "a packet of the other family inside",
         lambda c, i: network(c, i, **_proto(c.version, foreign)) / other(c, i)),
        ("gre", "a SYN to the listener inside of GRE",
         lambda c, i: network(c, i) / GRE() / inner(c, i)),
        ("gre-ethernet", "an Ethernet frame inside of GRE",
         lambda c, i: network(c, i) / GRE(proto=0x6558) / Raw(bytes(60))),
        ("esp", "an encrypted packet",
         lambda c, i: network(c, i, **_proto(c.version, 50)) / Raw(bytes(8) + i.tag * 3)),
        ("l2tp", "an L2TP session",
         lambda c, i: network(c, i, **_proto(c.version, 115)) / Raw(bytes(4) + i.tag)),
    ):  # fmt: skip
        registry.add("tunnels", name, description, build, DROP,
                     "nobody asked for a tunnel, whatever is inside", NOTHING)  # fmt: skip
