# SPDX-License-Identifier: Apache-2.0
"""Probes that may not get anywhere: what counters, answers and captures come to."""

import dataclasses

import pytest
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.inet6 import ICMPv6ND_NA, IPv6
from scapy.layers.l2 import ARP, Ether

from sriov_lb_tests.amphora import Stage
from sriov_lb_tests.packets.answers import Answer, Fate
from sriov_lb_tests.packets.probe import Identities, tcp_syn, udp
from sriov_lb_tests.tests.isolation import reading
from sriov_lb_tests.wire.capture import Frame
from sriov_lb_tests.wire.exchange import Observation, Verdict

EATEN = "the security group of its member port, not the amphora, stopped it"
OWN = ("198.51.100.30", "198.51.100.20")
IDENTITIES = Identities("run", seed=1)


class Counted:
    """How far each identity came."""

    def __init__(self, *stages):
        self.stages = dict.fromkeys(Stage, 0) | dict.fromkeys(stages, 1)

    def of(self, _identity, _version):
        return self.stages


CAME, LOST = Counted(Stage.ARRIVED, Stage.REACHED_FILTER), Counted()
PASSED = Counted(*Stage)


def seen(*answers, probe=None, verdict=Verdict.DROPPED):
    probe = probe or tcp_syn("203.0.113.5", 22, source="198.51.100.10")
    got = tuple(
        Answer(Fate.REJECTED if "ICMP" in text else Fate.ACCEPTED, text, sender, 1, b"")
        for text, sender in answers
    )
    return Observation(
        probe, verdict, f"{probe} and so on.", (IDENTITIES.next(),), got, None, 0, 1, None
    )


def read(*observations, counts=CAME, **more):
    return reading.silence("services", observations, counts, eaten=EATEN, **more)


def test_what_came_and_ended_there_is_right():
    found = read(seen(), seen())
    assert (found.broken, found.unclear, found.note) == ("", "", "2 probes")


def test_what_never_came_proves_nothing_and_it_is_said_who_ate_it():
    found = read(seen(), counts=LOST)
    assert not found.broken
    assert f"never reached the amphora: {EATEN}." in found.unclear and "1 of 1" in found.unclear


def test_a_dead_control_proves_nothing():
    assert "and so on" in read(seen(verdict=Verdict.INCONCLUSIVE)).unclear


def test_what_passed_the_filter_is_wrong_though_nobody_answers():
    assert "passed the filter" in read(seen(), counts=PASSED).broken


def test_an_answer_is_wrong_whatever_else_is_so():
    found = read(seen(), seen(("SYN-ACK", "203.0.113.5")), counts=LOST)
    assert "was answered, by SYN-ACK from 203.0.113.5" in found.broken


NO_WAY = ["ICMP type 3 code 0", "ICMP type 3 code 1", "ICMP type 11 code 0",
          "ICMPv6 type 1 code 0", "ICMPv6 type 1 code 3", "ICMPv6 type 3 code 1"]  # fmt: skip
OTHERS = ["ICMP type 3 code 2", "ICMP type 3 code 3", "ICMP type 3 code 13", "ICMP type 3 code 10",
          "ICMP type 5 code 1", "ICMPv6 type 1 code 1", "ICMPv6 type 1 code 4",
          "ICMPv6 type 2 code 0", "ICMPv6 type 4 code 1", "RST", "SYN-ACK"]  # fmt: skip


@pytest.mark.parametrize("text", NO_WAY)
def test_no_way_in_its_own_name_is_noted(text):
    found = read(seen((text, OWN[0])), refusing=OWN)
    assert (found.broken, found.unclear) == ("", "")
    assert "routed and refused, see ISO-004" in found.note and text in found.note


@pytest.mark.parametrize("text", NO_WAY)
def test_and_wrong_in_any_other_name_or_where_nothing_may_be_said(text):
    assert read(seen((text, "10.9.0.30")), refusing=OWN).broken
    assert read(seen((text, OWN[0]))).broken


@pytest.mark.parametrize("text", OTHERS)
def test_every_other_answer_is_wrong_in_its_own_name_too(text):
    assert f"by {text} from" in read(seen((text, OWN[0])), refusing=OWN).broken


def frame(packet, kind=0):
    data = bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / packet)
    return Frame(1, kind, len(data), data)


def carried(one, *frames, counts=CAME):
    return reading.carried("through", [one], frames, counts, far="the member", eaten=EATEN)


def test_what_arrives_at_the_far_end_was_forwarded():
    one = seen()
    port = one.identities[0].port
    through = frame(IP(src=one.probe.source, dst="10.9.0.10") / TCP(sport=port, dport=22))
    other = frame(IP(src="10.9.0.30", dst="10.9.0.10") / TCP(sport=port, dport=22))
    found = carried(one, other, through)
    assert "was forwarded, and arrived at the member" in found.broken
    assert "TCP SYN" in found.broken and found.note.startswith("1 of 1")
    assert carried(one, other) == reading.Reading(note="0 of 1 kinds of packets were forwarded")


def test_what_is_rewritten_on_the_way_is_known_by_what_it_carries():
    one = seen(probe=udp("10.9.0.10", 9, source="198.51.100.10"))
    packet = IP(src="10.9.0.30", dst="10.9.0.10") / ICMP() / one.identities[0].tag
    assert carried(one, frame(packet)).broken


def test_what_could_not_be_sent_was_not_refused_either():
    unsent = dataclasses.replace(seen(verdict=Verdict.INCONCLUSIVE), identities=())
    real = Counted()
    assert "never reached" in carried(unsent, counts=real).unclear


def test_what_never_came_was_not_refused_to_be_forwarded():
    assert EATEN in carried(seen(), counts=LOST).unclear


def test_under_which_address_a_frame_was_sent():
    assert reading.claims(frame(ARP(op=2, psrc="198.51.100.20"))) == "198.51.100.20"
    assert reading.claims(frame(ARP(psrc="0.0.0.0"))) == ""
    advert = IPv6(src="fe80::1", dst="ff02::1") / ICMPv6ND_NA(tgt="2001:db8::20")
    assert reading.claims(frame(advert)) == "2001:db8::20"
    assert reading.claims(frame(IPv6(src="fe80::1", dst="ff02::1"))) == ""
    assert reading.mac_of(frame(IP())) == "02:00:00:00:00:01"
