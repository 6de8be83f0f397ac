# SPDX-License-Identifier: Apache-2.0
"""The link: MAC addresses, VLAN tags, ARP, and frames that are no IP at all."""

from __future__ import annotations

from scapy.layers.inet6 import ICMPv6ND_NS, ICMPv6NDOptSrcLLAddr
from scapy.layers.l2 import ARP
from scapy.packet import Raw

from sriov_lb_tests.packets.catalogue.case import (
    KERNEL,
    Expected,
    Need,
    Registry,
    network,
    tcp,
)
from sriov_lb_tests.packets.probe import Link

ACCEPT, DROP, BEFORE = Expected.ACCEPT, Expected.DROP, Expected.BEFORE_FILTER
PROMISE, NOTHING = "policy: listener", "policy: everything else"
BEYOND = "policy: listener, beyond its promise"
LINK = "IEEE 802.3, 802.1Q"
#: For ``lost``: where the port has a VLAN, card and switch put the tag there.
TAG = "a port may take no tags of its guest"
NO_LINK = "the policy reads nothing of the link"


def _relink(**changes):
    def change(link: Link) -> Link:
        values = {"source": link.source, "destination": link.destination, "vlan": link.vlan,
                  "ethertype": link.ethertype}  # fmt: skip
        return Link(**{**values, **changes})

    return change


def fill(registry: Registry) -> None:
    def syn(c, i):
        return network(c, i) / tcp(c, i)

    def add(name, description, build, expected, reason, source, **more):
        registry.add("link", name, description, build, expected, reason, source, **more)

    add("broadcast-mac", "SYN to the VIP in a broadcast frame", syn, ACCEPT,
        "the filter sees addresses of the network, not of the link", BEYOND, also=[DROP],
        unseen=NO_LINK, relink=_relink(destination="ff:ff:ff:ff:ff:ff"))  # fmt: skip
    add("broadcast-mac-closed", "SYN to a closed port in a broadcast frame",
        lambda c, i: network(c, i) / tcp(c, i, dport=c.closed_port), DROP,
        "no listener asks for it", NOTHING,
        relink=_relink(destination="ff:ff:ff:ff:ff:ff"))  # fmt: skip
    add("other-mac", "SYN to the VIP in a frame for another station", syn, BEFORE,
        "the frame is for somebody else", LINK, lost=KERNEL, unseen=NO_LINK,
        relink=_relink(destination="02:00:5e:10:00:77"))  # fmt: skip
    add("vlan-0", "SYN with a priority tag (VLAN 0)", syn, ACCEPT,
        "a priority tag is no VLAN (802.1Q)", BEYOND, also=[DROP], lost=TAG, unseen=NO_LINK,
        relink=_relink(vlan=0))  # fmt: skip
    add("vlan-0-closed", "SYN to a closed port with a priority tag",
        lambda c, i: network(c, i) / tcp(c, i, dport=c.closed_port), DROP,
        "a tag opens no ports", NOTHING, lost=TAG, relink=_relink(vlan=0))  # fmt: skip
    for vlan in (1, 10, 4094, 4095):
        add(f"vlan-{vlan}", f"SYN with VLAN {vlan}", syn, BEFORE,
            "the amphora is in no VLAN but its own", LINK, lost=KERNEL, unseen=NO_LINK,
            relink=_relink(vlan=vlan))  # fmt: skip
    wrong = 0x86DD if registry.version == 4 else 0x0800
    add("ethertype-other-family", "SYN under the ethertype of the other family", syn, BEFORE,
        "the version does not fit", LINK, lost=KERNEL, relink=_relink(ethertype=wrong))  # fmt: skip
    if registry.version == 6:
        _neighbours(add)
        return
    for ethertype, what in (
        (0x0805, "X.25"), (0x22F0, "AVTP"), (0x6558, "transparent Ethernet"),
        (0x8035, "RARP"), (0x8137, "IPX"), (0x8847, "MPLS"), (0x8863, "PPPoE discovery"),
        (0x888E, "EAPOL"), (0x88B5, "an experiment"), (0x88CC, "LLDP"), (0x88E5, "MACsec"),
        (0x88F7, "PTP"), (0x9000, "a loopback test"), (0x0040, "a length, not a type"),
    ):  # fmt: skip
        add(f"ethertype-{ethertype:04x}", f"a frame of {what}",
            lambda c, i: Raw(i.tag * 4), BEFORE, "it is not IP", LINK, sender=None, counted=False,
            relink=_relink(ethertype=ethertype))  # fmt: skip
    _arp(add)


def _arp(register) -> None:
    def request(source, target, **more):
        return lambda c, i: ARP(op=1, psrc=source(c), pdst=target(c), **more)

    def add(*arguments, **more):
        register(*arguments, counted=False, **more)

    def vip(c):
        return c.vip

    def own(c):
        return c.own

    def client(c):
        return c.allowed

    works = "without ARP no IPv4 packet arrives"
    link = "RFC 826; the ruleset is of the inet family"
    broadcast = _relink(destination="ff:ff:ff:ff:ff:ff")
    add("arp-vip", "ARP request for the VIP", request(client, vip), ACCEPT, works, link,
        shows=True, relink=broadcast)  # fmt: skip
    add("arp-vip-unicast", "ARP request for the VIP in a frame for the amphora",
        request(client, vip), ACCEPT, works, link, shows=True)  # fmt: skip
    add("arp-own", "ARP request for the amphora's own address", request(client, own), ACCEPT,
        works, link, shows=True, relink=broadcast, needs=[Need.OWN])  # fmt: skip
    add("arp-probe", "ARP probe for the VIP (RFC 5227)", request(lambda c: "0.0.0.0", vip), ACCEPT,
        "the owner has to defend its address", link, shows=True, relink=broadcast,
        sender=None)  # fmt: skip
    # To the amphora alone: to a broadcast any station might answer.
    add("arp-stranger", "ARP request for an address nobody has, in a frame for the amphora",
        request(client, lambda c: "198.18.255.1"), DROP, "the amphora is no proxy", link,
        shows=True)  # fmt: skip
    add("arp-loopback", "ARP request for 127.0.0.1, in a frame for the amphora",
        request(client, lambda c: "127.0.0.1"), DROP, "loopback is on no link", link,
        shows=True)  # fmt: skip


def _neighbours(add) -> None:
    def solicitation(target):
        def build(c, i):
            asked = ICMPv6ND_NS(tgt=target(c))
            return network(c, i, hlim=255) / asked / ICMPv6NDOptSrcLLAddr()

        return build

    link = "RFC 4861"
    add("nd-stranger", "neighbour solicitation for an address nobody has",
        solicitation(lambda c: "2001:db8:ffff::77"), ACCEPT,
        "it passes the filter and nobody answers", link, sender=None)  # fmt: skip
    add("nd-own", "neighbour solicitation for the amphora's own address",
        solicitation(lambda c: c.own), ACCEPT, "without it no IPv6 packet arrives", link,
        needs=[Need.OWN], sender=None)  # fmt: skip
