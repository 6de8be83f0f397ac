# SPDX-License-Identifier: Apache-2.0
"""Probes carry who they are; answers are read only as answers to exactly them."""

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Raw

from sriov_lb_tests.packets.answers import Fate, read
from sriov_lb_tests.packets.probe import (
    Identities,
    Identity,
    Link,
    Probe,
    icmp_echo,
    network,
    reset_for,
    tcp_segment,
    tcp_syn,
    udp,
)

LINK = Link("02:00:00:00:00:01", "02:00:00:00:00:02")
ID = Identity(run=0x01020304, nonce=0xA1B2C3D4, sequence=7, port=31234)
VIP, SOURCE = "198.51.100.20", "198.51.100.9"
VIP6, SOURCE6 = "2001:db8:1::20", "2001:db8:1::9"


def frame(probe, link=LINK):
    (made,) = probe.frames(link, ID)
    return Ether(made)


def test_a_syn_says_who_it_is():
    syn = frame(tcp_syn(VIP, 80, source=SOURCE))
    assert (syn.src, syn.dst) == (LINK.source, LINK.destination)
    assert (syn[IP].src, syn[IP].dst, syn[IP].id) == (SOURCE, VIP, 7)
    assert (syn[TCP].seq, syn[TCP].sport, syn[TCP].dport) == (0xA1B2C3D4, 31234, 80)
    assert str(syn[TCP].flags) == "S"
    six = frame(tcp_syn(VIP6, 80, source=SOURCE6))
    assert six[IPv6].fl == 0x50007 and six[TCP].seq == 0xA1B2C3D4


@pytest.mark.parametrize(
    "probe",
    [
        udp(VIP, 53, source=SOURCE),
        udp(VIP6, 53, source=SOURCE6),
        icmp_echo(VIP, source=SOURCE),
        icmp_echo(VIP6, source=SOURCE6),
        tcp_segment(VIP, 80, "PA", source=SOURCE, payload=True),
    ],
)
def test_payloads_carry_the_tag(probe):  # fmt: skip
    assert ID.tag in bytes(frame(probe))
    assert ID.tag[:4] == b"SLB1" and len(ID.tag) == 14


def test_checksums_are_right():
    for probe in (tcp_syn(VIP, 80, source=SOURCE), udp(VIP6, 53, source=SOURCE6)):
        made = frame(probe)
        again = made.copy()
        for layer in (IP, TCP, UDP):
            if layer in again:
                del again[layer].chksum
        assert bytes(again) == bytes(made)


def test_a_tagged_link():
    tagged = frame(tcp_syn(VIP, 80, source=SOURCE), Link(LINK.source, LINK.destination, 5))
    assert tagged[Dot1Q].vlan == 5


def test_identities_do_not_repeat():
    ids = Identities("run", seed=1)
    made = [ids.next() for _ in range(20000)]
    assert len({one.port for one in made}) == 20000
    assert all(30000 <= one.port < 50000 for one in made)
    assert {one.run for one in made} == {Identities("run").run}
    assert Identities("other").run != Identities("run").run


def test_what_a_probe_is_called():
    assert str(tcp_syn(VIP, 80, source=SOURCE)) == f"TCP SYN to {VIP}:80 from {SOURCE}"
    assert str(tcp_syn(VIP6, 80)) == f"TCP SYN to [{VIP6}]:80 from the vantage itself"
    assert str(tcp_syn(VIP, 80).at("10.0.0.1")).endswith("from 10.0.0.1")


#: With both addresses: scapy asks the network for one that is not given.
LOCAL = Ether(src="02:00:00:00:00:02", dst="02:00:00:00:00:01")


def back(packet, source=VIP, destination=SOURCE):
    if ":" in source:
        return bytes(LOCAL / IPv6(src=source, dst=destination) / packet)
    return bytes(LOCAL / IP(src=source, dst=destination) / packet)


def fate(probe, answer):
    found = read(bytes(frame(probe)), 1, answer)
    return (found.fate, found.text) if found else None


SYN = tcp_syn(VIP, 80, source=SOURCE)
NEXT = 0xA1B2C3D5


@pytest.mark.parametrize(
    ("expected", "answer"),
    [
        ((Fate.ACCEPTED, "SYN-ACK"), TCP(sport=80, dport=31234, flags="SA", seq=1, ack=NEXT)),
        ((Fate.REJECTED, "RST"), TCP(sport=80, dport=31234, flags="RA", ack=NEXT)),
        (None, TCP(sport=80, dport=31234, flags="SA", seq=1, ack=NEXT + 1)),
        (None, TCP(sport=80, dport=31234, flags="RA", ack=NEXT + 1)),
        (None, TCP(sport=80, dport=31234, flags="R", seq=NEXT)),
        (None, TCP(sport=81, dport=31234, flags="SA", seq=1, ack=NEXT)),
        (None, TCP(sport=80, dport=31235, flags="SA", seq=1, ack=NEXT)),
        (None, UDP(sport=80, dport=31234)),
    ],
)
def test_answers_to_a_syn(expected, answer):
    assert fate(SYN, back(answer)) == expected


def test_answers_to_another_address_are_nobodys():
    answer = TCP(sport=80, dport=31234, flags="SA", seq=1, ack=NEXT)
    assert fate(SYN, back(answer, destination="198.51.100.10")) is None


def test_a_reset_for_a_stray_ack_takes_its_number():
    probe = tcp_segment(VIP, 80, "A", source=SOURCE)
    number = frame(probe)[TCP].ack
    assert fate(probe, back(TCP(sport=80, dport=31234, flags="R", seq=number)))[1] == "RST"
    assert fate(probe, back(TCP(sport=80, dport=31234, flags="R", seq=number + 1))) is None


def test_errors_count_by_what_they_quote():
    probe = udp(VIP, 53, source=SOURCE)
    quoted = frame(probe)[IP]
    error = ICMP(type=3, code=3)
    assert fate(probe, back(error / quoted)) == (Fate.REJECTED, "ICMP type 3 code 3")
    router = back(ICMP(type=3, code=13) / quoted, source="198.51.100.1")
    assert read(bytes(frame(probe)), 1, router).sender == "198.51.100.1"
    foreign = quoted.copy()
    foreign.id = quoted.id ^ 1
    assert fate(probe, back(error / foreign)) is None
    foreign = quoted.copy()
    foreign[UDP].sport = 9
    assert fate(probe, back(error / foreign)) is None


def test_ipv6_errors_and_echoes():
    probe = udp(VIP6, 53, source=SOURCE6)
    error = back(ICMPv6DestUnreach(code=4) / frame(probe)[IPv6], VIP6, SOURCE6)
    assert fate(probe, error) == (Fate.REJECTED, "ICMPv6 type 1 code 4")
    ping = icmp_echo(VIP6, source=SOURCE6)
    reply = ICMPv6EchoReply(id=31234, seq=7)
    assert fate(ping, back(reply, VIP6, SOURCE6)) == (Fate.ACCEPTED, "echo reply")
    assert fate(ping, back(ICMPv6EchoReply(id=31234, seq=8), VIP6, SOURCE6)) is None
    assert fate(ping, back(ICMPv6EchoRequest(id=31234, seq=7), VIP6, SOURCE6)) is None


def test_udp_echo_and_neighbours():
    probe = udp(VIP, 53, source=SOURCE)
    assert fate(probe, back(UDP(sport=53, dport=31234) / Raw(b"x")))[1] == "UDP answer"
    assert fate(probe, back(UDP(sport=54, dport=31234) / Raw(b"x"))) is None
    request = bytes(LOCAL / ARP(op=1, psrc=SOURCE, pdst=VIP))
    reply = bytes(LOCAL / ARP(op=2, psrc=VIP, pdst=SOURCE))
    assert read(request, 1, reply).sender == VIP
    assert read(request, 1, request) is None
    question = bytes(LOCAL / IPv6(src=SOURCE6, dst=VIP6) / ICMPv6ND_NS(tgt=VIP6))
    answer = bytes(LOCAL / IPv6(src=VIP6, dst=SOURCE6) / ICMPv6ND_NA(tgt=VIP6))
    assert read(question, 1, answer).text == "neighbour advertisement"
    other = bytes(LOCAL / IPv6(src=VIP6, dst=SOURCE6) / ICMPv6ND_NA(tgt="2001:db8::7"))
    assert read(question, 1, other) is None


def test_the_reset_that_tidies_up():
    syn_ack = back(TCP(sport=80, dport=31234, flags="SA", seq=1, ack=NEXT))
    reset = Ether(reset_for(syn_ack))
    assert (reset[IP].src, reset[IP].dst) == (SOURCE, VIP)
    assert (reset[TCP].sport, reset[TCP].dport, reset[TCP].seq) == (31234, 80, NEXT)
    assert str(reset[TCP].flags) == "R"
    assert reset_for(back(TCP(sport=80, dport=31234, flags="RA"))) is None
    assert reset_for(back(UDP())) is None


def test_arp_and_neighbour_discovery_name_the_sender_of_the_frame():
    link = Link("02:00:00:00:00:01", "02:00:00:00:00:02")
    asked = {
        4: lambda probe, identity: ARP(op=1, psrc="192.0.2.1", pdst="192.0.2.9"),
        6: lambda probe, identity: network(probe, identity, hlim=255)
        / ICMPv6ND_NS(tgt="2001:db8::9")
        / ICMPv6NDOptSrcLLAddr(),
    }
    four = Probe("ARP request", "192.0.2.9", asked[4], "192.0.2.1")
    six = Probe("neighbour solicitation", "2001:db8::9", asked[6], "2001:db8::1")
    identity = Identities("run").next()
    assert Ether(four.frames(link, identity)[0])[ARP].hwsrc == link.source
    assert Ether(six.frames(link, identity)[0])[ICMPv6NDOptSrcLLAddr].lladdr == link.source


def test_a_packet_that_names_another_station_keeps_it():
    link = Link("02:00:00:00:00:01", "02:00:00:00:00:02")
    lie = Probe(
        "ARP request",
        "192.0.2.9",
        lambda probe, identity: ARP(op=1, hwsrc="02:00:00:00:00:77", psrc="192.0.2.1"),
        "192.0.2.1",
    )
    frame = lie.frames(link, Identities("run").next())[0]
    assert Ether(frame)[ARP].hwsrc == "02:00:00:00:00:77"
