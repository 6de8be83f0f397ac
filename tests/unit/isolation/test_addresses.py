# SPDX-License-Identifier: Apache-2.0
"""ISO-006 and ISO-007: whose addresses an amphora's ports use, and which of them is known."""

import contextlib
from types import SimpleNamespace

import pytest
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.inet6 import ICMPv6ND_NA, IPv6
from scapy.layers.l2 import ARP, Ether

from sriov_lb_tests.tests.isolation import reading, test_isolation
from sriov_lb_tests.tests.isolation.reading import Station
from sriov_lb_tests.verdicts import defects
from sriov_lb_tests.verdicts.model import Broken, Inconclusive
from sriov_lb_tests.wire.capture import Frame

HOLDER, PEER, CLIENT = "02:00:00:00:00:0a", "02:00:00:00:00:0b", "02:00:00:00:00:0c"
#: On the member network: each port's own addresses, and those of its amphora on the VIP network.
STATIONS = {
    HOLDER: Station(frozenset({"198.51.100.215"}), frozenset(
        {"203.0.113.118", "203.0.113.111", "2001:db8:113::305"})),
    PEER: Station(frozenset({"198.51.100.86"}), frozenset({"203.0.113.155"})),
}  # fmt: skip
KNOWN = {
    "198.18.17.218": "the management address of an amphora",
    "203.0.113.41": "the client's",
    "203.0.113.155": "an address of one of the amphorae",
}


def frame(packet, mac=HOLDER):
    data = bytes(Ether(src=mac, dst=CLIENT) / packet)
    return Frame(1, 0, len(data), data)


def answer(address, mac=HOLDER):
    return frame(ARP(op=2, hwsrc=mac, psrc=address, pdst="198.51.100.110"), mac)


def said(*frames):
    return reading.foreign(frames, STATIONS, here="member", there="VIP", known=KNOWN)


def judged(*frames):
    return defects.load().judge("ISO-007", said(*frames), {}, "16.0.0")


#: As a run on 16.0.0 saw it: ARP for its other port's addresses, and resets from them.
FLUX = [
    answer("203.0.113.111"), answer("203.0.113.118"), answer("203.0.113.155", PEER),
    frame(IP(src="203.0.113.155", dst="198.51.100.110") / TCP(flags="RA"), PEER),
]  # fmt: skip


def test_each_address_is_a_finding_that_says_whose_it_is():
    found = said(*FLUX, answer("198.51.100.215"), frame(ARP(psrc="203.0.113.41"), CLIENT))
    assert len(found) == 3
    assert f"{HOLDER} on the member network uses the IPv4 address 203.0.113.111, an" in found[0]
    assert "same amphora's port on the VIP network" in found[2] and "so sent: 2" in found[2]
    assert not any("\n" in one for one in found), "the registry reads the first line"


def test_addresses_of_the_same_amphoras_other_port_are_known():
    found = judged(*FLUX)
    assert found.known and found.ids == "OCTAVIA-FOREIGN-ADDRESSES"


FORWARDED = IP(src="203.0.113.41", dst="198.51.100.110")


@pytest.mark.parametrize(
    ("other", "whose"),
    [
        (answer("198.18.17.218"), "the management address of an amphora"),
        (answer("203.0.113.155"), "an address of one of the amphorae"),
        (frame(IPv6(src="2001:db8:113::305") / TCP(flags="RA")), "IPv6 address"),
        (frame(IPv6(src="fe80::1") / ICMPv6ND_NA(tgt="2001:db8:113::305")), "IPv6 address"),
        (frame(FORWARDED / TCP()), "203.0.113.41, the client's"),
        (frame(IP(src="192.0.2.9") / ICMP()), "nobody that is known here"),
    ],
)
def test_any_other_address_is_news_also_beside_known_ones(other, whose):
    found = judged(*FLUX, other)
    (unknown,) = found.unknown
    assert whose in unknown and not found.known and len(found.named) == 3


def test_known_on_the_vip_network_too_but_not_across():
    """The port on the VIP network, and the amphora's own address there that Neutron knows not."""
    sentence = said(FLUX[0])[0]
    registry = defects.load()
    here = sentence.replace("member network", "X").replace("VIP network", "member network")
    here = here.replace("X", "VIP network")
    assert registry.match("ISO-006", here, {}, "16.0.0").id == "OCTAVIA-FOREIGN-ADDRESSES"
    same = sentence.replace("on the VIP network", "on the member network")
    assert registry.match("ISO-007", same, {}, "16.0.0") is None


class Vantage:
    """A place where these frames come in."""

    next_hop = None
    interface = SimpleNamespace(mac=CLIENT)

    def __init__(self, frames, known=HOLDER):
        self.frames, self.known = frames, known

    @contextlib.contextmanager
    def capture(self):
        yield SimpleNamespace(frames=self.frames, incoming=self.frames)

    def resolve(self, _address):
        return self.known

    def ask_all(self, calls, tries):
        return []


@pytest.fixture
def look(monkeypatch, tmp_path):
    """``look(frames, known)``: where these come in, and ``known`` answers the control."""
    test = test_isolation.TestIsolation("test_addresses_on_the_member_network_ipv4")
    test.seen, test._evidence, test.folder = {}, [], tmp_path
    test.place = SimpleNamespace(eaten=lambda interface, network: "somebody")
    test.stage = SimpleNamespace(site=SimpleNamespace(member_net=None, vip_net=None))
    monkeypatch.setattr(test, "_known_addresses", lambda: KNOWN)
    side = SimpleNamespace(mac=HOLDER)
    counting = SimpleNamespace(counting=lambda mac: contextlib.nullcontext())
    inside = SimpleNamespace(amphora=counting, vip_side=None, member_side=side)

    def look(frames, known=HOLDER):
        test.only_own_addresses(
            Vantage(frames, known), inside, side, STATIONS, ["203.0.113.111"], 4,
            "198.51.100.110", "198.51.100.215",
        )  # fmt: skip

    return look


def test_the_test_fails_with_all_of_them(look):
    with pytest.raises(Broken) as caught:
        look(FLUX)
    assert list(caught.value.findings) == said(*FLUX)
    look([answer("198.51.100.215")])


def test_a_control_that_somebody_else_answers_hides_none_of_them(look):
    with pytest.raises(Inconclusive, match=f"answered for by {CLIENT}, not by an amphora"):
        look([answer("198.51.100.215")], CLIENT)
    with pytest.raises(Broken):
        look(FLUX, CLIENT)
