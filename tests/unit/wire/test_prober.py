# SPDX-License-Identifier: Apache-2.0
"""The prober's arithmetic, and its run over a network that is a function."""

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether

from sriov_lb_tests import errors
from sriov_lb_tests.packets.probe import icmp_echo, tcp_syn, udp
from sriov_lb_tests.wire.fake import FakeHost
from sriov_lb_tests.wire.prober import Connection, Interruption, interruptions
from sriov_lb_tests.wire.vantage import Vantage

VIP, ALLOWED, DENIED = "198.51.100.20", "198.51.100.9", "203.0.113.9"
MS = 1_000_000
TRIP = 200_000


def schedule(count, missing=()):
    return [0 if n in missing else 10**18 + n * MS for n in range(count)]


def answered(sent, lost=(), late=None):
    late = late or {}
    return {n: at + late.get(n, TRIP) for n, at in enumerate(sent) if at and n not in set(lost)}


def lengths(found):
    return [round(one.seconds * 1000, 3) for one in found]


def test_no_silence():
    sent = schedule(100)
    assert interruptions(sent, answered(sent), MS) == []
    assert interruptions([], {}, MS) == []


def test_lost_probes_are_silence_from_the_first_to_the_next_answered():
    sent = schedule(1000)
    (one,) = interruptions(sent, answered(sent, range(300, 450)), MS)
    assert (one.start_ns, one.end_ns, one.probes) == (sent[300], sent[450], 150)
    assert one.seconds == 0.15 and one.over


def test_a_single_loss_is_a_slot():
    sent = schedule(100)
    assert lengths(interruptions(sent, answered(sent, [50]), MS)) == [1.0]


def test_late_answers_are_silence():
    """The target stands still from 300 to 450 and then answers all at once."""
    sent = schedule(1000)
    back = sent[450]
    late = {n: back - sent[n] + TRIP for n in range(300, 450)}
    (one,) = interruptions(sent, answered(sent, late=late), MS)
    assert one.start_ns == sent[300] and one.end_ns == back


def test_answers_that_stay_late_are_one_silence():
    """From 700 on every answer takes 80 ms: silent for 80 ms once, not over and over."""
    sent = schedule(1000)
    late = {n: 80 * MS for n in range(700, 1000)}
    found = [one for one in interruptions(sent, answered(sent, late=late), MS) if one.over]
    assert len(found) == 1 and 79 <= lengths(found)[0] <= 81
    assert sum(lengths(found)) < 82


def test_a_sender_that_paused_is_no_silence():
    sent = schedule(1000, missing=range(300, 500))
    assert interruptions(sent, answered(sent), MS) == []
    # One loss before the pause does not make a silence of the pause.
    assert lengths(interruptions(sent, answered(sent, [299]), MS)) == [1.0]
    # But silence on both sides of it is one, and says for how long nobody asked.
    (one,) = interruptions(sent, answered(sent, range(290, 510)), MS)
    assert one.seconds == 0.22 and 0.199 <= one.unsent <= 0.2 and one.probes == 20


def test_silence_at_both_ends():
    sent = schedule(100)
    first, last = interruptions(sent, answered(sent, [*range(20), *range(80, 100)]), MS)
    assert first.start_ns == sent[0] and first.over and lengths([first]) == [20.0]
    assert not last.over and lengths([last]) == [20.0]
    (all_of_it,) = interruptions(sent, {}, MS)
    assert not all_of_it.over and all_of_it.probes == 100


# over a function


def interfaces():
    return {
        "eth1": {
            "name": "eth1", "index": 2, "mac": "02:00:00:00:00:01", "mtu": 1500, "up": True,
            "addresses": ["198.51.100.10/24"],
        }
    }  # fmt: skip


class Target:
    """SYN-ACK from port 80 to sources it allows, RST from other ports, echo, UDP echo."""

    def __init__(self, *allowed):
        self.allowed, self.resets = set(allowed), []

    def __call__(self, frame):
        packet = Ether(frame)
        if IP not in packet or packet[IP].src not in self.allowed:
            return []
        back = Ether(src=packet.dst, dst=packet.src) / IP(src=VIP, dst=packet[IP].src)
        if ICMP in packet:
            return [bytes(back / ICMP(type=0, id=packet[ICMP].id, seq=packet[ICMP].seq))]
        if UDP in packet:
            return [bytes(back / UDP(sport=packet[UDP].dport, dport=packet[UDP].sport))]
        asked = packet[TCP]
        if asked.flags.R:
            self.resets.append((asked.sport, asked.seq))
            return []
        flags = "SA" if asked.dport == 80 else "RA"
        header = TCP(sport=asked.dport, dport=asked.sport, ack=asked.seq + 1, flags=flags)
        return [bytes(back / header)]


def run(target, streams, tmp_path, **options):
    host = FakeHost(network=target, interfaces=interfaces())
    host.agent.neighbours[VIP] = "02:00:00:00:00:02"
    vantage = Vantage(host, "eth1", artefacts=tmp_path)
    with vantage.prober(streams, **options) as probing:
        probing.mark("changed")
    assert not vantage.agent.closed
    return probing.report


STREAMS = {
    "allowed": tcp_syn(VIP, 80, source=ALLOWED),
    "denied": tcp_syn(VIP, 80, source=DENIED),
}


def test_a_whole_firewall(tmp_path):
    target = Target(ALLOWED)
    report = run(target, STREAMS, tmp_path, forbidden={"denied"})
    assert report.problem == "" and report.witnesses == []
    allowed = report.streams["allowed"]
    assert (allowed.sent, allowed.answered, allowed.lost) == (20, 20, 0)
    assert allowed.answers == {"SYN-ACK": 20} and allowed.longest < 0.5
    assert report.streams["denied"].answers == {}
    # Each half-open connection was reset, with the sequence number that it expects.
    assert len(set(target.resets)) == 20
    assert report.pcap.stat().st_size > 20 * 100
    assert report.marks[0][0] == "changed"
    assert "allowed (allowed): 20 sent" in str(report)


def test_forbidden_probes_that_are_answered_are_witnesses(tmp_path):
    report = run(Target(ALLOWED, DENIED), STREAMS, tmp_path, forbidden={"denied"})
    assert len(report.witnesses) == 20
    first = report.witnesses[0]
    assert (first.stream, first.text) == ("denied", "SYN-ACK")
    sent, answer = Ether(first.sent), Ether(first.answer)
    assert answer[TCP].ack == sent[TCP].seq + 1 and sent[IP].src == DENIED
    assert str(report).count("May not pass, and did") == 10 and "… and 10 more" in str(report)


def test_a_router_s_word_is_no_passage(tmp_path):
    def network(frame):
        packet = Ether(frame)
        if packet[IP].src == ALLOWED:
            return Target(ALLOWED)(frame)
        error = IP(src="198.51.100.1", dst=DENIED) / ICMP(type=3, code=13)
        return [bytes(Ether(dst="02:00:00:00:00:01") / error / bytes(packet[IP])[:28])]

    report = run(network, STREAMS, tmp_path, forbidden={"denied"})
    assert report.streams["denied"].answers == {"ICMP error": 20} and report.witnesses == []


def test_other_kinds_of_probes(tmp_path):
    streams = {
        "allowed": STREAMS["allowed"],
        "reset": tcp_syn(VIP, 81, source=ALLOWED),
        "udp": udp(VIP, 53, source=ALLOWED),
        "ping": icmp_echo(VIP, source=ALLOWED),
        "own": tcp_syn(VIP, 80),
    }
    report = run(Target(ALLOWED), streams, tmp_path, forbidden={"reset", "ping"})
    kinds = {name: stream.answers for name, stream in report.streams.items()}
    assert kinds == {
        "allowed": {"SYN-ACK": 20},
        "reset": {"RST": 20},
        "udp": {"UDP answer": 20},
        "ping": {"other answer": 20},
        "own": {},
    }
    assert {witness.text for witness in report.witnesses} == {"RST", "echo reply"}
    assert "own never was answered" in report.problem


def test_without_a_control_nothing_is_said(tmp_path):
    report = run(Target(), STREAMS, tmp_path, forbidden={"denied"})
    assert report.problem == "the control allowed never was answered."
    assert str(report).startswith("Inconclusive: ")
    report = run(Target(), {"denied": STREAMS["denied"]}, tmp_path, forbidden={"denied"})
    assert "no control" in report.problem


def test_what_it_does_not_take(tmp_path):
    with pytest.raises(ValueError, match="no streams called"):
        run(Target(), STREAMS, tmp_path, forbidden={"other"})
    with pytest.raises(errors.ControlFailed, match="Nobody answers"):
        run(Target(), {"x": tcp_syn("198.51.100.99", 80, source=ALLOWED)}, tmp_path)


def waiting(tmp_path, streams=STREAMS, **options):
    """Nobody answers for the VIP before the fifth slot of the fake."""
    host = FakeHost(network=Target(ALLOWED), interfaces=interfaces())
    vantage = Vantage(host, "eth1", artefacts=tmp_path)
    with vantage.prober(streams, forbidden={"denied"} & set(streams), **options) as probing:
        pass
    return probing.report


def test_a_target_that_is_not_there_yet_is_probed_once_it_is(tmp_path):
    report = waiting(tmp_path, follow=True, absent=True)
    assert [stream.sent for stream in report.streams.values()] == [15, 15]
    assert report.streams["allowed"].answers == {"SYN-ACK": 15}
    # Slots in which there was nobody to ask are not late, and none is left out.
    assert report.problem == "" and report.lag.left_out == 0 and report.rate > 0
    with pytest.raises(errors.ControlFailed, match="Nobody answers"):
        waiting(tmp_path, follow=True)


def test_a_target_that_never_comes_proves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("sriov_lb_tests.wire.fake._FakeProber.HEARD", 99)
    report = waiting(tmp_path, follow=True, absent=True)
    assert report.streams["denied"].sent == 0 and report.rate == 0
    assert report.problem == "the control allowed never was answered."


def test_who_waits_for_a_target_has_to_follow_it_and_to_patch(tmp_path):
    with pytest.raises(ValueError, match="never learns"):
        waiting(tmp_path, absent=True)
    with pytest.raises(ValueError, match="neither TCP nor UDP"):
        waiting(tmp_path, {"ping": icmp_echo(VIP, source=ALLOWED)}, follow=True, absent=True)


def test_what_came_after_it_ended_by_itself_was_not_looked_at(tmp_path):
    report = run(Target(ALLOWED), STREAMS, tmp_path, forbidden={"denied"}, lasting=0.02)
    assert report.problem == "it ended by itself, after 0.02 s: nobody looked at what came then."


def test_flows_are_reported_beside(tmp_path):
    flows = {"kept": Connection(VIP, 80, source=DENIED)}
    report = run(Target(ALLOWED), STREAMS, tmp_path, forbidden={"denied"}, flows=flows)
    assert report.flows["kept"].state == "not connected: fake"
    assert "connection kept: not connected" in str(report)


def test_the_error_of_the_block_is_the_one_that_is_raised(tmp_path):
    host = FakeHost(network=Target(ALLOWED), interfaces=interfaces())
    host.agent.neighbours[VIP] = "02:00:00:00:00:02"
    vantage = Vantage(host, "eth1", artefacts=tmp_path)
    with pytest.raises(RuntimeError, match="mine"):
        with vantage.prober(STREAMS) as probing:
            raise RuntimeError("mine")
    assert probing.report is not None


def test_an_interruption_says_its_length():
    assert Interruption(5 * MS, 8 * MS, 3).seconds == 0.003
