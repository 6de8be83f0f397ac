# SPDX-License-Identifier: Apache-2.0
"""The agent's pure parts, against scapy as the second opinion; and its protocol."""

import ast
import os
import subprocess
import sys
import threading

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.layers.sctp import SCTP, SCTPChunkInit, SCTPChunkInitAck
from scapy.packet import Raw

from sriov_lb_tests.wire import agent

E = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
THERE = {"src": "192.0.2.1", "dst": "192.0.2.2"}
BACK = {"src": "192.0.2.2", "dst": "192.0.2.1"}
THERE6 = {"src": "2001:db8::1", "dst": "2001:db8::2"}
BACK6 = {"src": "2001:db8::2", "dst": "2001:db8::1"}

PAIRS = {
    "tcp": (IP(**THERE) / TCP(sport=5, dport=80), IP(**BACK) / TCP(sport=80, dport=5)),
    "tcp6": (IPv6(**THERE6) / TCP(sport=5, dport=80), IPv6(**BACK6) / TCP(sport=80, dport=5)),
    "udp": (IP(**THERE) / UDP(sport=5, dport=53), IP(**BACK) / UDP(sport=53, dport=5)),
    "sctp": (
        IP(**THERE) / SCTP(sport=5, dport=7) / SCTPChunkInit(),
        IP(**BACK) / SCTP(sport=7, dport=5) / SCTPChunkInitAck(),
    ),
    "echo": (
        IP(**THERE) / ICMP(type=8, id=3, seq=4),
        IP(**BACK) / ICMP(type=0, id=3, seq=4),
    ),
    "echo6": (
        IPv6(**THERE6) / ICMPv6EchoRequest(id=3, seq=4),
        IPv6(**BACK6) / ICMPv6EchoReply(id=3, seq=4),
    ),
    "unreachable": (
        IP(**THERE) / UDP(sport=5, dport=53) / Raw(b"x"),
        IP(src="192.0.2.9", dst="192.0.2.1")
        / ICMP(type=3, code=1)
        / IP(**THERE)
        / UDP(sport=5, dport=53),
    ),
    "unreachable6": (
        IPv6(**THERE6) / TCP(sport=5, dport=53),
        IPv6(src="2001:db8::9", dst="2001:db8::1")
        / ICMPv6DestUnreach(code=1)
        / IPv6(**THERE6)
        / TCP(sport=5, dport=53),
    ),
    "options": (
        IP(**THERE, options=[b"\x07\x07\x04\0\0\0\0\0"]) / TCP(sport=5, dport=80),
        IP(**BACK) / TCP(sport=80, dport=5),
    ),
    "hop-by-hop": (
        IPv6(**THERE6) / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / TCP(sport=5, dport=80),
        IPv6(**BACK6) / TCP(sport=80, dport=5),
    ),
    "atomic fragment": (
        IPv6(**THERE6) / IPv6ExtHdrFragment(nh=6) / TCP(sport=5, dport=80),
        IPv6(**BACK6) / TCP(sport=80, dport=5),
    ),
    "other protocol": (IP(**THERE, proto=47) / Raw(b"abcd"), IP(**BACK, proto=47) / Raw(b"abcd")),
}


@pytest.mark.parametrize("name", PAIRS)
def test_answers_refer_to_their_question(name):
    question, answer = (bytes(E / packet) for packet in PAIRS[name])
    assert agent.flow_key(question) == agent.answer_key(answer)
    # And not the other way round, nor to another port, address or sequence.
    for other, (foreign, _) in PAIRS.items():
        if other != name and agent.flow_key(bytes(E / foreign)) != agent.flow_key(question):
            assert agent.flow_key(bytes(E / foreign)) != agent.answer_key(answer)


def test_a_flow_is_not_its_own_answer():
    question = bytes(E / PAIRS["tcp"][0])
    assert agent.flow_key(question) != agent.answer_key(question)


def test_tags_do_not_hide_a_flow():
    tagged = bytes(E / Dot1Q(vlan=7) / PAIRS["tcp"][0])
    assert agent.flow_key(tagged) == agent.flow_key(bytes(E / PAIRS["tcp"][0]))


def test_neighbours():
    request = E / ARP(op=1, psrc="192.0.2.1", pdst="192.0.2.2")
    reply = E / ARP(op=2, psrc="192.0.2.2", pdst="192.0.2.1")
    assert agent.flow_key(bytes(request)) == agent.answer_key(bytes(reply))
    question = E / IPv6(**THERE6) / ICMPv6ND_NS(tgt="2001:db8::2")
    answer = E / IPv6(**BACK6) / ICMPv6ND_NA(tgt="2001:db8::2")
    assert agent.flow_key(bytes(question)) == agent.answer_key(bytes(answer))
    other = E / IPv6(**BACK6) / ICMPv6ND_NA(tgt="2001:db8::3")
    assert agent.flow_key(bytes(question)) != agent.answer_key(bytes(other))


@pytest.mark.parametrize("size", [0, 5, 13, 14, 20, 33, 40, 53])
def test_short_frames_have_no_flow_and_harm_nobody(size):
    for question, _ in PAIRS.values():
        frame = bytes(E / question)[:size]
        agent.flow_key(frame), agent.answer_key(frame)
    assert agent.flow_key(b"\0" * size) is None


def test_checksum_and_neighbour_frames_as_scapy_has_them():
    mac, other = b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x02"
    source, target = (agent.binary_address(a) for a in ("2001:db8::1", "2001:db8::2"))
    group, group_mac = agent.solicited_node(target)
    made = agent.nd_frame(135, 0, mac, source, group, group_mac, target, 1)
    parsed = Ether(made)
    assert parsed[ICMPv6ND_NS].tgt == "2001:db8::2"
    assert parsed.dst == "33:33:ff:00:00:02" and parsed[IPv6].dst == "ff02::1:ff00:2"
    again = parsed.copy()
    del again[ICMPv6ND_NS].cksum
    assert bytes(again) == made
    request = Ether(agent.arp_frame(1, mac, b"\1\2\3\4", other, b"\5\6\7\x08", b"\xff" * 6))
    assert (request[ARP].psrc, request[ARP].pdst) == ("1.2.3.4", "5.6.7.8")
    assert request[ARP].hwsrc == "02:00:00:00:00:01"


def test_frames_and_records_survive_packing():
    frames = [b"", b"x", bytes(range(256)) * 7]
    assert agent.unpack_frames(agent.pack_frames(frames)) == frames
    records = [(1, 4, 60, b"abc"), (2**63, 0, 0, b"")]
    assert agent.unpack_records(agent.pack_records(records)) == records
    with pytest.raises(agent.Refused, match="ends inside a frame"):
        agent.unpack_frames(agent.pack_frames([b"abcdef"])[:-1])


def test_the_solicitation_filter_picks_solicitations_only():
    """The BPF program, run by a three-line machine, on frames made by scapy."""

    def passes(frame: bytes) -> bool:
        accumulator, position = 0, 0
        while True:
            code, yes, no, value = agent.SOLICITATIONS[position]
            position += 1
            if code == 0x30:
                if value >= len(frame):
                    return False
                accumulator = frame[value]
            elif code == 0x15:
                position += yes if accumulator == value else no
            else:
                return bool(value)

    assert passes(bytes(E / IPv6(**THERE6) / ICMPv6ND_NS(tgt="::1")))
    assert not passes(bytes(E / IPv6(**THERE6) / ICMPv6ND_NA(tgt="::1")))
    assert not passes(bytes(E / IPv6(**THERE6) / TCP()))


def test_only_the_standard_library_and_python_3_8():
    with open(agent.__file__) as source:
        tree = ast.parse(source.read(), feature_version=(3, 8))
    names = {
        alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert names <= set(sys.stdlib_module_names)


class Pair:
    """An agent in a thread of this process, and the tester's ends of its pipes."""

    def __init__(self):
        source, self.to = os.pipe()
        self.of, sink = os.pipe()
        self.agent = agent.Agent(source, sink)
        self.thread = threading.Thread(target=self.agent.run, daemon=True)
        self.thread.start()

    def ask(self, op, body=b"", **args):
        head = agent.json.dumps({"id": 1, "op": op, "args": args}).encode()
        os.write(self.to, agent.MESSAGE.pack(len(head), len(body)) + head + body)
        size, extra = agent.MESSAGE.unpack(os.read(self.of, 8))
        stream = open(self.of, "rb", closefd=False, buffering=0)
        answer = agent.json.loads(stream.read(size))
        return answer, stream.read(extra) if extra else b""

    def close(self):
        os.close(self.to)
        self.thread.join(5)
        assert not self.thread.is_alive()


@pytest.fixture
def pair():
    made = Pair()
    yield made
    made.close()


def test_the_agent_greets_and_lists_interfaces(pair):
    answer, _ = pair.ask("hello")
    assert answer["ok"]["version"] == agent.VERSION
    answer, _ = pair.ask("interfaces")
    assert answer["ok"]["lo"]["index"] == 1


def test_the_agent_survives_nonsense(pair):
    assert "unknown operation" in pair.ask("fly")[0]["error"]
    assert "TypeError" in pair.ask("resolve", nonsense=1)[0]["error"]
    assert "no interface 'nope'" in pair.ask("resolve", interface="nope", target="::1")[0]["error"]
    assert "no capture" in pair.ask("capture_take", capture="capture-9")[0]["error"]
    assert pair.ask("hello")[0]["ok"]["version"] == agent.VERSION


def test_the_agent_ends_with_its_input():
    done = subprocess.run(
        [sys.executable, agent.__file__], input=b"", capture_output=True, timeout=20
    )
    assert (done.returncode, done.stdout) == (0, b"")
