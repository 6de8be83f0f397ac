# SPDX-License-Identifier: Apache-2.0
"""Property one: no DROPPED without a control that answered before and after."""

import itertools

import pytest
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.l2 import Ether

from sriov_lb_tests.packets.answers import Answer, Fate
from sriov_lb_tests.packets.probe import Identities, Link, icmp_echo, tcp_syn
from sriov_lb_tests.wire.capture import Frame
from sriov_lb_tests.wire.exchange import TOGETHER, Sent, Verdict, judge, prepare, settle

LINK = Link("02:00:00:00:00:01", "02:00:00:00:00:02")
IDS = Identities("run", seed=1)
VIP = "198.51.100.20"
SECOND = 1_000_000_000


def sent(probe, *answers):
    made = prepare(probe, LINK, IDS)
    made.answers.extend(answers)
    return made


def answer(fate=Fate.ACCEPTED, ns=0, sender=VIP):
    return Answer(fate, "SYN-ACK" if fate is Fate.ACCEPTED else "RST", sender, ns, b"")


SUBJECT, CONTROL = tcp_syn(VIP, 80, source="203.0.113.9"), tcp_syn(VIP, 80, source="198.51.100.9")


def test_silence_between_two_answers_of_the_control_is_a_drop():
    verdict, text = judge(
        [sent(SUBJECT)] * 3, [sent(CONTROL, answer(ns=0))], [sent(CONTROL, answer(ns=SECOND // 4))]
    )
    assert verdict is Verdict.DROPPED
    assert "sent 3 times, got no answer" in text and "250 ms apart" in text
    assert "203.0.113.9" in text and "198.51.100.9" in text


@pytest.mark.parametrize(
    ("before", "after"), [p for p in itertools.product((True, False), repeat=2) if p != (True,) * 2]
)
def test_without_both_answers_of_the_control_nothing_is_known(before, after):
    verdict, text = judge(
        [sent(SUBJECT)],
        [sent(CONTROL, *[answer()] * before)],
        [sent(CONTROL, *[answer(ns=1000)] * after)],
    )
    assert verdict is Verdict.INCONCLUSIVE
    assert ("before" in text) == (not before) and ("after" in text) == (not after)


def test_without_any_control_nothing_is_known():
    verdict, text = judge([sent(SUBJECT)], [], [])
    assert verdict is Verdict.INCONCLUSIVE
    assert "no control" in text


def test_a_control_whose_answers_are_too_far_apart_is_none():
    late = int(TOGETHER * SECOND) + 1_000_000
    verdict, text = judge(
        [sent(SUBJECT)], [sent(CONTROL, answer(ns=0))], [sent(CONTROL, answer(ns=late))]
    )
    assert verdict is Verdict.INCONCLUSIVE
    assert "1.00 s apart, more than 1 s" in text


def test_a_router_that_answers_for_the_control_is_no_sign_of_life():
    router = answer(Fate.REJECTED, sender="198.51.100.1")
    verdict, _ = judge([sent(SUBJECT)], [sent(CONTROL, router)], [sent(CONTROL, router)])
    assert verdict is Verdict.INCONCLUSIVE
    # A reset by the target itself is: the path works and the packet got through.
    reset = answer(Fate.REJECTED)
    verdict, _ = judge([sent(SUBJECT)], [sent(CONTROL, reset)], [sent(CONTROL, reset)])
    assert verdict is Verdict.DROPPED


def test_one_answer_out_of_three_is_an_answer():
    attempts = [sent(SUBJECT), sent(SUBJECT, answer(Fate.REJECTED)), sent(SUBJECT)]
    assert judge(attempts, [], [])[0] is Verdict.REJECTED
    attempts[2].answers.append(answer(Fate.ACCEPTED))
    verdict, text = judge(attempts, [], [])
    assert verdict is Verdict.ACCEPTED and "SYN-ACK from 198.51.100.20" in text


def syn_ack(made: Sent, ack=1) -> bytes:
    syn = Ether(made.frames[0])
    return bytes(
        Ether(src=syn.dst, dst=syn.src)
        / IP(src=syn[IP].dst, dst=syn[IP].src)
        / TCP(sport=80, dport=syn[TCP].sport, flags="SA", seq=9, ack=(syn[TCP].seq + ack) % 2**32)
    )


def test_frames_find_their_probe_and_only_theirs():
    first, second = prepare(SUBJECT, LINK, IDS), prepare(SUBJECT, LINK, IDS)
    frames = [
        Frame(10, 4, 60, first.frames[0]),
        Frame(11, 4, 60, second.frames[0]),
        Frame(20, 0, 60, syn_ack(second)),
        Frame(21, 0, 60, syn_ack(first, ack=7)),  # answers some other SYN of that flow
    ]
    settle([first, second], frames)
    assert (first.fate, second.fate) == (Fate.SILENT, Fate.ACCEPTED)
    assert (first.sent_ns, second.sent_ns) == (10, 11)
    assert second.answers[0].ns == 20


def test_our_own_frames_are_no_answers():
    ping = prepare(icmp_echo(VIP, source="198.51.100.9"), LINK, IDS)
    settle([ping], [Frame(1, 4, 60, ping.frames[0])])
    assert ping.fate is Fate.SILENT
    question = Ether(ping.frames[0])
    reply = (
        Ether(dst="02:00:00:00:00:01")
        / IP(src=VIP, dst="198.51.100.9")
        / ICMP(type=0, id=question[ICMP].id, seq=question[ICMP].seq)
    )
    settle([ping], [Frame(2, 4, 60, bytes(reply))])
    assert ping.fate is Fate.SILENT
    settle([ping], [Frame(2, 0, 60, bytes(reply))])
    assert ping.fate is Fate.ACCEPTED
