# SPDX-License-Identifier: Apache-2.0
"""Sources that lie, destinations that are nobody's."""

from __future__ import annotations

from scapy.packet import Packet

from sriov_lb_tests.packets.catalogue.case import (
    GROUP,
    KERNEL,
    Context,
    Expected,
    Need,
    Registry,
    allowed,
    denied,
    network,
    pick,
    tcp,
    udp,
)
from sriov_lb_tests.packets.probe import Identity, Link

ACCEPT, DROP, BEFORE = Expected.ACCEPT, Expected.DROP, Expected.BEFORE_FILTER
NOTHING = "policy: everything else"
BEYOND = "policy: listener, beyond its promise"
MARTIAN = "RFC 1122 section 3.2.1.3, RFC 6890"

#: Source -> (what it is, what happens, also). ``ACCEPT`` is a strange but possible source, to which
#: a listener without CIDRs is open.
SOURCES4 = {
    "127.0.0.1": ("loopback", BEFORE, ()),
    "127.255.255.254": ("loopback, its end", BEFORE, ()),
    "0.0.0.0": ("unspecified", BEFORE, (ACCEPT,)),
    "0.1.2.3": ("this network", ACCEPT, (DROP,)),
    "255.255.255.255": ("broadcast", BEFORE, (ACCEPT,)),
    "224.0.0.1": ("multicast", BEFORE, (ACCEPT,)),
    "239.255.255.250": ("multicast of a site", BEFORE, (ACCEPT,)),
    "240.0.0.1": ("reserved", ACCEPT, ()),
    "169.254.1.1": ("link-local", ACCEPT, ()),
    "100.64.0.1": ("shared address space", ACCEPT, ()),
    "192.0.0.1": ("protocol assignments", ACCEPT, ()),
    "192.88.99.1": ("6to4 relay", ACCEPT, ()),
    "198.18.0.1": ("benchmarking", ACCEPT, ()),
    "10.255.255.255": ("private, all ones", ACCEPT, ()),
}
SOURCES6 = {
    "::1": ("loopback", BEFORE, ()),
    "::": ("unspecified", ACCEPT, (DROP,)),
    "ff02::1": ("multicast", BEFORE, (ACCEPT,)),
    "ff05::2": ("multicast of a site", BEFORE, (ACCEPT,)),
    "::ffff:198.51.100.9": ("IPv4 mapped", ACCEPT, (DROP,)),
    "::198.51.100.9": ("IPv4 compatible", ACCEPT, (DROP,)),
    "fe80::5150": ("link-local", ACCEPT, ()),
    "fec0::1": ("site-local", ACCEPT, ()),
    "fd00::1": ("unique local", ACCEPT, ()),
    "2002:c633:6409::1": ("6to4", ACCEPT, ()),
    "64:ff9b::c633:6409": ("NAT64", ACCEPT, ()),
    "100::1": ("discard-only", ACCEPT, ()),
}
#: Addresses that ip6_rcv_core() discards (the mapped one before Linux 5.12); its IPv4 sibling
#: leaves all of them to the routing decision, behind the counters.
_EARLY = {"::1", "ff02::1", "ff05::2", "::ffff:198.51.100.9"}
#: Groups that every host joins.
_JOINED = {"255.255.255.255", "224.0.0.1", "ff02::1"}


def fill(registry: Registry) -> None:
    _sources(registry)
    _destinations(registry)


def _syn(context: Context, identity: Identity, port: int | None = None, **fields) -> Packet:
    packet = network(context, identity, **fields)
    return packet / tcp(context, identity, dport=port or context.tcp_port)


def _sources(registry: Registry) -> None:
    for source, (what, expected, also) in pick(registry.version, SOURCES4, SOURCES6).items():
        name = source.replace("::", "-").replace(".", "-").replace(":", "-").strip("-") or "any"
        to_open = "possible, and the listener is open to all"
        lost = KERNEL if source in _EARLY else ""
        registry.add(
            "addresses", f"from-{name}", f"SYN from {source} ({what}) to an open listener",
            lambda c, i, s=source: _syn(c, i, c.open_port, source=s), expected,
            to_open if expected is ACCEPT else "no packet may come from there", MARTIAN,
            also=also, needs=[Need.OPEN_LISTENER], sender=None, lost=lost,
        )  # fmt: skip
        registry.add(
            "addresses", f"from-{name}-narrow", f"SYN from {source} ({what}) to the listener",
            lambda c, i, s=source: _syn(c, i, source=s), DROP,
            "it is in no allowed CIDR", NOTHING, sender=None, lost=lost,
        )  # fmt: skip
    for name, what, source, needs in (
        ("vip", "the VIP itself", lambda c: c.vip, []),
        ("own", "the amphora's own address", lambda c: c.own, [Need.OWN]),
    ):
        registry.add(
            "addresses", f"from-{name}", f"SYN from {what} to an open listener",
            lambda c, i, s=source: _syn(c, i, c.open_port, source=s(c)), BEFORE,
            "nobody is his own client over the wire", BEYOND, also=[ACCEPT],
            needs=[Need.OPEN_LISTENER, *needs], sender=None,
        )  # fmt: skip
    if registry.version == 4:
        registry.add(
            "addresses", "from-broadcast", "SYN from the subnet's broadcast address",
            lambda c, i: _syn(c, i, c.open_port, source=c.broadcast), BEFORE,
            "a broadcast address is nobody's", MARTIAN,
            needs=[Need.OPEN_LISTENER, Need.SUBNET], sender=None,
        )  # fmt: skip
        registry.add(
            "addresses", "from-broadcast-narrow",
            "SYN from the subnet's broadcast address to the listener",
            lambda c, i: _syn(c, i, source=c.broadcast), DROP, "it is in no allowed CIDR", NOTHING,
            needs=[Need.SUBNET], sender=None,
        )  # fmt: skip


def _mac(mac: str):
    return lambda link: Link(link.source, mac, link.vlan, link.ethertype)


def _destinations(registry: Registry) -> None:
    registry.add(
        "addresses", "to-own", "SYN to the amphora's own address, on the listener's port",
        lambda c, i: _syn(c, i, destination=c.own), ACCEPT,
        "nothing listens there; nothing was promised either", BEYOND, also=[DROP], shows=True,
        needs=[Need.OWN],
    )  # fmt: skip
    registry.add(
        "addresses", "to-own-denied", "SYN to the amphora's own address from a denied source",
        lambda c, i: _syn(c, i, destination=c.own, source=c.denied), DROP,
        "CIDRs hold on every address of the amphora", NOTHING, needs=[Need.OWN], sender=denied,
        shows=True,
    )  # fmt: skip
    registry.add(
        "addresses", "to-own-closed", "SYN to a closed port of the amphora's own address",
        lambda c, i: _syn(c, i, c.closed_port, destination=c.own), DROP,
        "no listener asks for it", NOTHING, needs=[Need.OWN], shows=True,
    )  # fmt: skip
    elsewhere = pick(
        registry.version,
        {
            "127.0.0.1": "loopback", "0.0.0.0": "unspecified", "10.77.77.77": "somebody else",
            "169.254.169.254": "the metadata service", "198.18.16.1": "another network",
        },
        {
            "::1": "loopback", "::": "unspecified", "2001:db8:ffff::77": "somebody else",
            "fe80::77": "a link-local somebody else", "::ffff:127.0.0.1": "mapped loopback",
        },
    )  # fmt: skip
    for destination, what in elsewhere.items():
        name = destination.replace("::", "-").replace(".", "-").replace(":", "-").strip("-")
        registry.add(
            "addresses", f"to-{name or 'any'}", f"SYN to {destination} ({what}) at the VIP's MAC",
            lambda c, i, d=destination: _syn(c, i, destination=d), BEFORE,
            "an amphora is no router", "policy: isolation; net.ipv4.ip_forward", sender=allowed,
            lost=KERNEL if destination in _EARLY else "",
        )  # fmt: skip
    groups = pick(
        registry.version,
        {
            "255.255.255.255": "ff:ff:ff:ff:ff:ff",
            "224.0.0.1": "01:00:5e:00:00:01",
            "224.0.0.251": "01:00:5e:00:00:fb",
            "239.1.2.3": "01:00:5e:01:02:03",
        },
        {
            "ff02::1": "33:33:00:00:00:01",
            "ff02::2": "33:33:00:00:00:02",
            "ff02::fb": "33:33:00:00:00:fb",
            "ff01::1": "33:33:00:00:00:01",
            "ff0e::1:2": "33:33:00:01:00:02",
        },
    )
    for group, mac in groups.items():
        name = group.replace("::", "-").replace(".", "-").replace(":", "-")
        # No packet of an interface's own scope comes over a wire (ip6_rcv_core()).
        lost = "" if group in _JOINED else KERNEL if group.startswith("ff01:") else GROUP
        registry.add(
            "addresses", f"tcp-to-{name}", f"SYN to {group}",
            lambda c, i, g=group: _syn(c, i, destination=g), DROP,
            "TCP knows no groups", BEYOND, also=[ACCEPT], relink=_mac(mac), lost=lost,
        )  # fmt: skip
        registry.add(
            "addresses", f"tcp-to-{name}-closed", f"SYN to a closed port of {group}",
            lambda c, i, g=group: _syn(c, i, c.closed_port, destination=g), DROP,
            "no listener asks for it", NOTHING, relink=_mac(mac), lost=lost,
        )  # fmt: skip
        registry.add(
            "addresses", f"udp-to-{name}", f"datagram to {group}, on the TCP listener's port",
            lambda c, i, g=group: network(c, i, destination=g) / udp(c, i, c.tcp_port), DROP,
            "no listener asks for it", NOTHING, relink=_mac(mac), lost=lost,
        )  # fmt: skip
        registry.add(
            "addresses", f"udp-listener-{name}", f"datagram to {group}, on the UDP listener's port",
            lambda c, i, g=group: network(c, i, destination=g) / udp(c, i), ACCEPT,
            "the listener is on the VIP, not on groups", BEYOND, also=[DROP], relink=_mac(mac),
            needs=[Need.UDP_LISTENER], lost=lost,
        )  # fmt: skip
    if registry.version == 4:
        registry.add(
            "addresses", "to-broadcast", "SYN to the subnet's broadcast address",
            lambda c, i: _syn(c, i, destination=c.broadcast), DROP, "TCP knows no groups", BEYOND,
            also=[ACCEPT], relink=_mac("ff:ff:ff:ff:ff:ff"), needs=[Need.SUBNET],
        )  # fmt: skip
