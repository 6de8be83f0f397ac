# SPDX-License-Identifier: Apache-2.0
"""UDP and SCTP."""

from __future__ import annotations

from scapy.layers.inet import UDP
from scapy.layers.sctp import (
    SCTP,
    SCTPChunkAbort,
    SCTPChunkCookieEcho,
    SCTPChunkData,
    SCTPChunkHeartbeatReq,
    SCTPChunkInit,
    SCTPChunkInitAck,
    SCTPChunkShutdownComplete,
)
from scapy.packet import Raw

from sriov_lb_tests.packets.catalogue.case import (
    DAMAGE,
    Expected,
    Need,
    Registry,
    denied,
    network,
    pick,
    udp,
)

ACCEPT, DROP = Expected.ACCEPT, Expected.DROP
PROMISE, NOTHING = "policy: listener", "policy: everything else"
BEYOND = "policy: listener, beyond its promise"
PORTS = "policy: what every OpenStack port lets in"
OTHER = "policy: DHCP answers over the other IP version"


def fill(registry: Registry) -> None:
    _closed(registry)
    _configuration(registry)
    _listener(registry)
    _sctp(registry)


def _closed(registry: Registry) -> None:
    for port, what in (
        (0, "port 0"), (53, "DNS"), (67, "a DHCP server"), (123, "NTP"), (161, "SNMP"),
        (443, "QUIC"), (500, "IKE"), (546, "a DHCPv6 client"), (1025, "haproxy peers, by UDP"),
        (3784, "BFD"), (4789, "VXLAN"), (5353, "multicast DNS"), (5555, "heartbeats"),
        (6081, "Geneve"), (8848, "IPVS synchronisation"), (9443, "the amphora agent, by UDP"),
        (33434, "a traceroute"), (65535, "the last port"),
    ):  # fmt: skip
        registry.add("udp", f"closed-{port}", f"datagram to {what}",
                     lambda c, i, p=port: network(c, i) / udp(c, i, p), DROP,
                     "no listener asks for it", NOTHING, shows=True,
                     closed=lambda c, p=port: (17, p))  # fmt: skip
    registry.add("udp", "tcp-port", "datagram to the TCP listener's port",
                 lambda c, i: network(c, i) / udp(c, i, c.tcp_port), DROP,
                 "a listener is of one protocol", NOTHING, shows=True,
                 closed=lambda c: (17, c.tcp_port))  # fmt: skip
    registry.add("udp", "tcp-port-denied", "datagram to the TCP listener's port, denied source",
                 lambda c, i: network(c, i, source=c.denied) / udp(c, i, c.tcp_port), DROP,
                 "a listener is of one protocol", NOTHING, sender=denied, shows=True,
                 closed=lambda c: (17, c.tcp_port))  # fmt: skip
    for port, what in ((53, "DNS"), (123, "NTP"), (1900, "SSDP"), (514, "syslog")):
        registry.add("udp", f"answer-from-{port}", f"what looks like an answer of {what}",
                     lambda c, i, p=port: network(c, i) / udp(c, i, 40001, sport=p), DROP,
                     "an answer needs a question", NOTHING, shows=True,
                     closed=lambda c: (17, 40001))  # fmt: skip


def _configuration(registry: Registry) -> None:
    """DHCP: answers are let in as by security groups, requests are not. Over the other IP version
    no security group asks for them, and nobody listens either."""
    for name, sport, dport, expected in (
        ("dhcp-answer", 67, 68, ACCEPT),
        ("dhcpv6-answer", 547, 546, ACCEPT),
        ("dhcp-request", 68, 67, DROP),
        ("dhcpv6-request", 546, 547, DROP),
        ("dhcp-mixed", 67, 546, DROP),
        ("dhcpv6-mixed", 547, 68, DROP),
        ("dhcp-wrong-source", 66, 68, DROP),
        ("dhcp-wrong-destination", 67, 69, DROP),
    ):
        answer = expected is ACCEPT
        own = dport == pick(registry.version, 68, 546)
        let_in = "security groups let answers of DHCP in" if own else "nobody listens for it"
        registry.add("udp", name, f"datagram from port {sport} to port {dport}",
                     lambda c, i, s=sport, d=dport: network(c, i) / udp(c, i, d, sport=s),
                     expected,
                     let_in if answer else
                     "only the exact pair of ports is an answer of DHCP",
                     (PORTS if own else OTHER) if answer else NOTHING,
                     also=[DROP] if answer else (), shows=True,
                     closed=lambda c, d=dport: (17, d))  # fmt: skip
    if registry.version == 4:
        registry.add("udp", "dhcp-broadcast", "DHCP answer to 255.255.255.255",
                     lambda c, i: network(c, i, destination="255.255.255.255")
                     / udp(c, i, 68, sport=67), ACCEPT, "that is how DHCP answers come", PORTS,
                     also=[DROP],
                     relink=lambda link: _to(link, "ff:ff:ff:ff:ff:ff"))  # fmt: skip


def _to(link, mac):
    return type(link)(link.source, mac, link.vlan, link.ethertype)


def _listener(registry: Registry) -> None:
    def add(name, description, build, expected, reason, source, **more):
        registry.add("udp", name, description, build, expected, reason, source,
                     needs=[Need.UDP_LISTENER], **more)  # fmt: skip

    add("open", "datagram to the listener", lambda c, i: network(c, i) / udp(c, i), ACCEPT,
        "the listener promises it", PROMISE, shows=True)  # fmt: skip
    add("open-empty", "datagram without payload to the listener",
        lambda c, i: network(c, i) / UDP(sport=i.port, dport=c.udp_port), ACCEPT,
        "the listener promises it", PROMISE, shows=True)  # fmt: skip
    add("open-source-port-0", "datagram from port 0", lambda c, i: network(c, i)
        / udp(c, i, sport=0), ACCEPT, "no CIDR speaks of ports", PROMISE)  # fmt: skip
    add("open-checksum-zero", "datagram with checksum 0",
        lambda c, i: network(c, i) / udp(c, i, chksum=0), ACCEPT,
        pick(registry.version, "RFC 768: no checksum", "RFC 8200 forbids it: the kernel's part"),
        pick(registry.version, PROMISE, BEYOND),
        also=pick(registry.version, (), [DROP]), shows=registry.version == 4,
        unseen=pick(registry.version, "", DAMAGE))  # fmt: skip
    add("open-checksum-wrong", "datagram with a wrong checksum",
        lambda c, i: network(c, i) / udp(c, i, chksum=0x1234), DROP, "it is damaged", BEYOND,
        also=[ACCEPT], unseen=DAMAGE)  # fmt: skip
    for name, length in (("short", 4), ("long", 400), ("zero", 0)):
        add(f"open-length-{name}", f"datagram whose length field says {length}",
            lambda c, i, n=length: network(c, i) / udp(c, i, len=n), DROP, "it is damaged",
            BEYOND, also=[ACCEPT], unseen=DAMAGE)  # fmt: skip
    add("open-truncated", "half a UDP header",
        lambda c, i: network(c, i, **pick(c.version, {"proto": 17}, {"nh": 17}))
        / Raw(bytes(udp(c, i))[:4]), DROP, "it is damaged", BEYOND, also=[ACCEPT],
        unseen=DAMAGE)  # fmt: skip
    add("open-next-port", "datagram to the listener's port + 1",
        lambda c, i: network(c, i) / udp(c, i, c.udp_port + 1), DROP,
        "a rule whose port is wrong by one would show", NOTHING)  # fmt: skip


def _sctp(registry: Registry) -> None:
    chunks = {
        "init": (SCTPChunkInit(init_tag=1), 0),
        "init-with-tag": (SCTPChunkInit(init_tag=1), 7),
        "init-ack": (SCTPChunkInitAck(init_tag=1), 7),
        "data": (SCTPChunkData(data=b"x"), 7),
        "abort": (SCTPChunkAbort(), 7),
        "cookie": (SCTPChunkCookieEcho(cookie=b"abcd"), 7),
        "heartbeat": (SCTPChunkHeartbeatReq(), 7),
        "shutdown-complete": (SCTPChunkShutdownComplete(), 7),
    }

    def packet(c, i, chunk, tag, port):
        return network(c, i) / SCTP(sport=i.port, dport=port, tag=tag) / chunk

    for name, (chunk, tag) in chunks.items():
        registry.add("sctp", f"{name}-tcp-port", f"SCTP {name} to the TCP listener's port",
                     lambda c, i, k=chunk, t=tag: packet(c, i, k, t, c.tcp_port), DROP,
                     "a listener is of one protocol", NOTHING)  # fmt: skip
        begins = name == "init"
        registry.add("sctp", f"{name}-open", f"SCTP {name} to the SCTP listener",
                     lambda c, i, k=chunk, t=tag: packet(c, i, k, t, c.sctp_port),
                     ACCEPT if begins else DROP,
                     "the listener promises it" if begins else "it begins no association",
                     PROMISE if begins else BEYOND, also=() if begins else [ACCEPT],
                     needs=[Need.SCTP_LISTENER],
                     unseen="" if begins else "the policy reads no chunks and no tags")  # fmt: skip
