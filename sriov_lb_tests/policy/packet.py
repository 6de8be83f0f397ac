# SPDX-License-Identifier: Apache-2.0
"""A packet as firewall rules see it: the headers, its direction, and what conntrack says of it."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field

#: ``ct state`` as nftables numbers it (include/uapi/linux/netfilter/nf_tables.h).
STATES = {"invalid": 1, "established": 2, "related": 4, "new": 8, "untracked": 64}
STATE_NAMES = {number: name for name, number in STATES.items()}

#: Bits of ``ct status`` (include/uapi/linux/netfilter/nf_conntrack_common.h).
EXPECTED, SEEN_REPLY, CONFIRMED = 1, 2, 8

#: ``meta pkttype`` (include/uapi/linux/if_packet.h).
TO_HOST, TO_GROUP = 0, 2

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))
FLAG_NAMES = ("fin", "syn", "rst", "psh", "ack", "urg", "ecn", "cwr")

TCP, UDP, SCTP, ICMP, ICMPV6, VRRP = 6, 17, 132, 1, 58, 112
PROTOCOL_NAMES = {
    1: "ICMP", 2: "IGMP", 4: "IPIP", 6: "TCP", 17: "UDP", 33: "DCCP", 41: "IPv6", 47: "GRE",
    50: "ESP", 51: "AH", 58: "ICMPv6", 89: "OSPF", 103: "PIM", 112: "VRRP", 132: "SCTP",
    136: "UDPLite",
}  # fmt: skip
WITH_PORTS = frozenset({TCP, UDP, SCTP, 33, 136})

#: The IPv6 headers that the kernel walks past to find the upper layer (ipv6_find_hdr; it stops at
#: AH), but for the fragment header, which reassembly takes away.
EXTENSIONS = (0, 43, 60)
FRAGMENT = 44

#: Bits of ``ip frag-off`` that are 0 in a whole packet: more fragments, and the offset.
FRAGMENTED = 0x3FFF

#: Bits of every header field that rules may look at, by our name for it. A field that two
#: protocols share under one name (``sport``) is the same bytes on the wire. ``next_header`` is that
#: of the IPv6 header once a packet is whole; before, ``fragment_header`` says whether a fragment
#: header stands first.
WIDTHS = {
    "protocol": 8,
    "source4": 32,
    "source6": 128,
    "destination4": 32,
    "destination6": 128,
    "sport": 16,
    "dport": 16,
    "tcp_flags": 8,
    "icmp_type": 8,
    "icmp_code": 8,
    "hop_limit": 8,
    "state": 8,
    "mark": 32,
    "ct_mark": 32,
    "ct_status": 32,
    "ct_direction": 1,
    "length": 16,
    "dscp": 6,
    "ecn": 2,
    "identification": 16,
    "frag_off": 16,
    "header_words": 4,
    "flow_label": 20,
    "next_header": 8,
    "fragment_header": 1,
    "ether_source": 48,
    "ether_destination": 48,
    "packet_type": 8,
    "tcp_sequence": 32,
    "tcp_acknowledgement": 32,
    "tcp_window": 16,
    "tcp_offset": 4,
    "tcp_urgent": 16,
    "l4_length": 16,
    "l4_checksum": 16,
    "sctp_vtag": 32,
    "icmp_id": 16,
    "icmp_sequence": 16,
    "icmp_mtu": 32,
    "oif_unknown": 8,
}


@dataclass(frozen=True)
class Packet:
    """One packet as it reaches the amphora, or leaves it.

    :param interface: name of the interface it came in on, or leaves by.
    :param source, destination: addresses, text, of one family.
    :param protocol: upper-layer protocol number (after IPv6 extension headers).
    :param state: what conntrack says: ``new``, ``established``, ``related``, ``invalid`` or
        ``untracked``.
    :param extra: further fields by the names in ``WIDTHS``; absent ones are ``usual``, or 0.
    :param leaving: the amphora sends it.
    """

    interface: str
    source: str
    destination: str
    protocol: int
    sport: int = 0
    dport: int = 0
    tcp_flags: int = SYN
    icmp_type: int = 0
    icmp_code: int = 0
    hop_limit: int = 64
    state: str = "new"
    extra: Mapping[str, int] = field(default_factory=dict)
    leaving: bool = False

    @property
    def version(self) -> int:
        return 6 if ":" in self.source else 4

    @property
    def usual(self) -> dict[str, int]:
        """Fields that usually are not 0: no options, no IPv6 extension headers, and what conntrack
        knows of a flow that was answered."""
        answered = SEEN_REPLY | CONFIRMED if self.state == "established" else 0
        return {
            "next_header": self.protocol,
            "header_words": 5,
            "tcp_offset": 5,
            "ct_status": answered,
        }

    def values(self) -> dict[str, int]:
        """Every field by name, as usual where the packet says nothing."""
        found = dict.fromkeys(WIDTHS, 0) | self.usual
        source, destination = (
            int(ipaddress.ip_address(text)) for text in (self.source, self.destination)
        )
        found[f"source{self.version}"] = source
        found[f"destination{self.version}"] = destination
        found.update(
            protocol=self.protocol,
            sport=self.sport,
            dport=self.dport,
            tcp_flags=self.tcp_flags,
            icmp_type=self.icmp_type,
            icmp_code=self.icmp_code,
            hop_limit=self.hop_limit,
            state=STATES[self.state],
        )
        found.update(self.extra)
        return found

    def __str__(self) -> str:
        name = PROTOCOL_NAMES.get(self.protocol, f"protocol {self.protocol}")
        source, destination, what = self.source, self.destination, name
        if self.protocol in WITH_PORTS:
            source = f"[{source}]" if self.version == 6 else source
            destination = f"[{destination}]" if self.version == 6 else destination
            source, destination = f"{source}:{self.sport}", f"{destination}:{self.dport}"
        if self.protocol == TCP:
            names = [n for bit, n in enumerate(FLAG_NAMES) if self.tcp_flags >> bit & 1]
            what = f"TCP {'+'.join(names).upper() or 'without flags'}"
        elif self.protocol in (ICMP, ICMPV6):
            what = f"{name} type {self.icmp_type} code {self.icmp_code}"
        way = "leaving by" if self.leaving else "on"
        text = f"{what} from {source} to {destination} {way} {self.interface} (state {self.state}"
        if self.hop_limit != 64:
            text += f", hop limit {self.hop_limit}"
        usual = self.usual
        interesting = {k: v for k, v in self.extra.items() if v != usual.get(k, 0)}
        return text + "".join(f", {k} {v}" for k, v in sorted(interesting.items())) + ")"
