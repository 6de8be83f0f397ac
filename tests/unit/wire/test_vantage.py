# SPDX-License-Identifier: Apache-2.0
"""The façade on a fake host whose network is a function."""

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from scapy.utils import RawPcapNgReader, RawPcapReader

from sriov_lb_tests import errors
from sriov_lb_tests.packets.probe import Probe, tcp_syn
from sriov_lb_tests.wire.fake import FakeHost
from sriov_lb_tests.wire.host import Host
from sriov_lb_tests.wire.vantage import Vantage, Verdict

VIP = "198.51.100.20"
ALLOWED, DENIED = "198.51.100.9", "203.0.113.9"


def interfaces():
    return {
        "eth1": {
            "name": "eth1", "index": 2, "mac": "02:00:00:00:00:01", "mtu": 1500, "up": True,
            "addresses": ["198.51.100.10/24", "fe80::1/64"],
        }
    }  # fmt: skip


class Amphora:
    """Answers SYNs to port 80 from 198.51.100.0/24; can be made deaf or lossy."""

    def __init__(self):
        self.deaf = False
        self.got = []

    def __call__(self, frame):
        packet = Ether(frame)
        self.got.append(packet)
        if self.deaf or TCP not in packet or not packet[IP].src.startswith("198.51.100."):
            return []
        if packet[TCP].flags.R:
            return []
        flags = "SA" if packet[TCP].dport == 80 else "RA"
        return [
            bytes(
                Ether(src=packet.dst, dst=packet.src)
                / IP(src=packet[IP].dst, dst=packet[IP].src)
                / TCP(
                    sport=packet[TCP].dport, dport=packet[TCP].sport, flags=flags, seq=5,
                    ack=packet[TCP].seq + 1 & 0xFFFFFFFF,
                )
            )
        ]  # fmt: skip


@pytest.fixture
def amphora():
    return Amphora()


@pytest.fixture
def vantage(tmp_path, amphora):
    host = FakeHost(network=amphora, interfaces=interfaces())
    host.agent.neighbours[VIP] = "02:00:00:00:00:02"
    assert isinstance(host, Host)
    with Vantage(host, "eth1", artefacts=tmp_path / "wire", run_id="r") as made:
        yield made


def test_accepted_rejected_dropped(vantage):
    good = tcp_syn(VIP, 80, source=ALLOWED)
    seen = vantage.ask(good)
    assert seen.verdict is Verdict.ACCEPTED, str(seen)
    assert seen.seconds == pytest.approx(1e-4)
    seen = vantage.ask(tcp_syn(VIP, 81, source=ALLOWED))
    assert seen.verdict is Verdict.REJECTED, str(seen)
    seen = vantage.ask(tcp_syn(VIP, 80, source=DENIED), control=good)
    assert seen.verdict is Verdict.DROPPED, str(seen)
    assert len(seen.identities) == 3 and seen.seconds is None


def test_a_dead_path_is_inconclusive_and_tried_again(vantage, amphora):
    amphora.deaf = True
    seen = vantage.ask(tcp_syn(VIP, 80, source=DENIED), control=tcp_syn(VIP, 80, source=ALLOWED))
    assert seen.verdict is Verdict.INCONCLUSIVE, str(seen)
    assert len(amphora.got) == 2 * (1 + 3 + 1)


def test_a_path_that_comes_back_is_believed_on_the_second_try(vantage, amphora):
    answers, calls = amphora.__call__, []

    def flaky(frame):
        calls.append(frame)
        return [] if len(calls) <= 5 else answers(frame)

    vantage.agent.network = flaky
    seen = vantage.ask(tcp_syn(VIP, 80, source=DENIED), control=tcp_syn(VIP, 80, source=ALLOWED))
    assert seen.verdict is Verdict.DROPPED, str(seen)


def test_nobody_answers_arp(vantage):
    del vantage.agent.neighbours[VIP]
    seen = vantage.ask(tcp_syn(VIP, 80))
    assert seen.verdict is Verdict.INCONCLUSIVE
    assert f"Nobody answers for {VIP}" in seen.explanation


def test_the_router_is_asked_when_there_is_one(vantage):
    vantage.next_hop = "198.51.100.1"
    vantage.agent.neighbours["198.51.100.1"] = "02:00:00:00:00:99"
    assert vantage.resolve("203.0.113.77") == "02:00:00:00:00:99"


def test_the_own_address_is_the_default_and_is_not_played(vantage, amphora):
    vantage.ask(tcp_syn(VIP, 80))
    assert {packet[IP].src for packet in amphora.got} == {"198.51.100.10"}
    assert vantage.agent.played == set()


def test_crafted_sources_are_played_impossible_ones_are_not(vantage):
    for source in (ALLOWED, "127.0.0.1", "224.0.0.1", VIP, "0.0.0.0", "255.255.255.255"):
        vantage.ask(tcp_syn(VIP, 80, source=source))
    assert vantage.agent.played == {ALLOWED}
    probe = Probe("x", VIP, tcp_syn(VIP, 80).build, source="198.51.100.50", play=False)
    vantage.ask(probe)
    assert vantage.agent.played == {ALLOWED}


def test_half_open_connections_of_played_sources_are_reset(vantage, amphora):
    vantage.ask(tcp_syn(VIP, 80, source=ALLOWED), attempts=1)
    assert [str(p[TCP].flags) for p in amphora.got] == ["S", "R"]
    assert amphora.got[1][TCP].seq == amphora.got[0][TCP].seq + 1
    amphora.got.clear()
    vantage.ask(tcp_syn(VIP, 80), attempts=1)  # the guest's kernel does it for its own address
    assert [str(p[TCP].flags) for p in amphora.got] == ["S"]


def test_every_exchange_leaves_a_pcap(vantage, tmp_path):
    first = vantage.ask(tcp_syn(VIP, 80, source=ALLOWED))
    second = vantage.ask(tcp_syn(VIP, 80, source=DENIED), control=tcp_syn(VIP, 80, source=ALLOWED))
    assert first.pcap != second.pcap and first.pcap.parent == tmp_path / "wire"
    with RawPcapReader(str(second.pcap)) as reader:
        assert not isinstance(reader, RawPcapNgReader)
        frames = [data for data, _ in reader]
    assert len(frames) == (1 + 1) + 3 + (1 + 1)
    vantage.send([b"\0" * 60], title="plain send")
    assert list((tmp_path / "wire").glob("*-plain-send.pcap"))


def test_many_questions_share_their_controls(vantage, amphora):
    good = tcp_syn(VIP, 80, source=ALLOWED)
    questions = [(tcp_syn(VIP, port, source=DENIED), good) for port in range(100, 140)]
    seen = vantage.ask_all(questions, attempts=1)
    assert [one.verdict for one in seen] == [Verdict.DROPPED] * 40
    assert [one.probe for one in seen] == [probe for probe, _ in questions]
    syns = [p for p in amphora.got if p[IP].src == ALLOWED and p[TCP].flags.S]
    assert len(syns) == 2 * 2  # two groups, control before and after each


def test_an_interface_that_is_not_there(tmp_path):
    host = FakeHost("guest", interfaces=interfaces())
    with pytest.raises(errors.SendFailed, match="guest has no interface eth7; it has eth1"):
        Vantage(host, "eth7", artefacts=tmp_path)
    assert host.agent.closed


def test_a_family_without_address_needs_a_source(tmp_path):
    table = interfaces()
    table["eth1"]["addresses"] = []
    with Vantage(FakeHost(interfaces=table), "eth1", artefacts=tmp_path) as vantage:
        with pytest.raises(errors.SendFailed, match="has no IPv4 address"):
            vantage.ask(tcp_syn(VIP, 80))


def test_an_address_is_there_for_a_while(vantage):
    with vantage.address("198.51.100.77/24"):
        assert vantage.interface.owns("198.51.100.77")
    assert not vantage.interface.owns("198.51.100.77")


def test_evidence_that_cannot_be_kept_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.CaptureFailed, match="cannot be made"):
        Vantage(FakeHost(interfaces=interfaces()), "eth1", artefacts=tmp_path / "file" / "x")


def test_a_request_has_an_answer_or_why_there_is_none(vantage, monkeypatch):
    refused = "The agent on fake refused http: GET /: timed out."
    done = [({"status": 200, "headers": {"Server": "x"}, "seconds": 0.1}, b"hello")]

    def call(op, body=b"", **arguments):
        assert (op, arguments["port"], arguments["timeout"]) == ("http", 80, 2.0)
        if not done:
            raise errors.AgentFailed(refused)
        return done.pop()

    monkeypatch.setattr(vantage.agent, "call", call)
    answer, why = vantage.http_or_why(VIP, 80, timeout=2.0)
    assert (answer.status, answer.text, answer.headers, why) == (200, "hello", {"server": "x"}, "")
    assert vantage.http_or_why(VIP, 80, timeout=2.0) == (None, refused)
    vantage.agent.closed = True
    with pytest.raises(errors.AgentFailed):
        vantage.http_or_why(VIP, 80, timeout=2.0)
