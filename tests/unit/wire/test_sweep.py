# SPDX-License-Identifier: Apache-2.0
"""The sweep's reasoning over a target that is a function and a ring that is a list of bytes."""

import random
import struct

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from sriov_lb_tests.wire import agent, agent_sweep, sweep

VIP, SOURCE, CONTROL = "198.51.100.20", "198.51.100.99", "198.51.100.98"
L2 = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
PORTS = (1000, 2999)


class Target:
    """Answers SYNs by a table of states; loses a share of frames, or sends few RSTs only."""

    def __init__(self, states, loss=0.0, refill=None, burst=()):
        self.states, self.loss, self.refill, self.tokens = states, loss, refill, 20.0
        self.random, self.burst = random.Random(1), set(burst)
        self.count, self.resets = 0, 0

    def lost(self):
        self.count += 1
        return self.count in self.burst or self.random.random() < self.loss

    def answer(self, frame):
        sport, dport, seq = struct.unpack_from(">HHI", frame, 34)
        if frame[47] & 0x04:
            self.resets += 1
            return None
        flags = self.states(dport, bytes(frame[26:30]))
        if flags == 0x14 and self.refill:
            self.tokens = min(20.0, self.tokens + self.refill)
            flags = flags if self.tokens >= 1 else 0
            self.tokens -= 1 if flags else 0
        if self.lost() or not flags or self.lost():
            return None
        head = bytes(frame[:14]) + b"\x45" + bytes(11) + frame[30:34] + frame[26:30]
        ports = struct.pack(">HHIIBB", dport, sport, 1, (seq + 1) & 0xFFFFFFFF, 0x50, flags)
        # The protocol goes where an IP header has it.
        head = head[:23] + b"\x06" + head[24:]
        return head + ports + bytes(6)


class Ring(agent_sweep.Ring):
    """The same slots without a kernel."""

    SLOTS = 4096

    def __init__(self, *_):
        self.map = bytearray(self.SLOTS * self.SLOT)
        self.head, self.frame, self.free, self.tail = 0, 0, bytes(self.SLOTS), 0

    def put(self, frame):
        start = self.tail * self.SLOT
        assert not self.map[start], "the ring is full"
        self.map[start : start + 28] = struct.pack(
            "=IIIHHIIHH", 1 | 1 << 29, len(frame), len(frame), 66, 80, 1, 2, 0, 0
        )
        self.map[start + 66 : start + 66 + len(frame)] = frame
        self.tail = (self.tail + 1) % self.SLOTS

    def dropped(self):
        return 0

    def close(self):
        pass


class Sender:
    def __init__(self, world):
        self.world = world

    def send(self, frame):
        self.world.deliver(bytes(frame))

    def close(self):
        pass


class World:
    """Puts a fake under the guest's Sweep: its ring, its sender, its agent."""

    def __init__(self, monkeypatch, target):
        world = self
        self.target, self.ring, self.sent = target, Ring(), 0
        self.limiters = {}

        class Batch:
            def __init__(self, _frames):
                self.count = 0

            def lay(self, buffer, starts, sizes):
                self.count, self.buffer = len(sizes), bytes(buffer)
                self.pieces = list(zip(starts, sizes, strict=True))

            def send(self, _sock, first, count):
                for start, size in self.pieces[first : first + count]:
                    world.deliver(self.buffer[start : start + size])
                return 0

        monkeypatch.setattr(agent_sweep, "Batch", Batch)
        monkeypatch.setattr(agent_sweep, "Ring", lambda *_: self.ring)
        monkeypatch.setattr(agent_sweep, "packet_socket", lambda *_: Sender(self))

    def pump(self, _deadline, _extra=()):
        pass

    def deliver(self, frame):
        self.sent += 1
        answer = self.target.answer(frame)
        if answer:
            self.ring.put(answer)

    def run(self, **how):
        def syn(source, port):
            return bytes(L2 / IP(src=source, dst=VIP) / TCP(sport=5, dport=port, flags="S"))

        options = {"protocol": "tcp", "ports": PORTS, "reset": True, "reset_control": True,
                   "quiet": 0.01, "limit": 5.0, **how}  # fmt: skip
        made = agent_sweep.Sweep(self, {"index": 1}, syn(SOURCE, 1), syn(CONTROL, 80), options)
        made.second = None  # one thread: the fake is not the kernel
        return made.run(), made.states


def firewall(port, source):
    """1500 open, 1600 to 1609 closed, the rest dropped; the control's port always open."""
    if port in (80, 1500):
        return 0x12
    return 0x14 if 1600 <= port < 1610 else 0


def bare(port, source):
    return 0x12 if port in (80, 1500) else 0x14


def chosen(states, state):
    return [port for port in range(PORTS[0], PORTS[1] + 1) if states[port] == state]


def test_a_clean_way(monkeypatch):
    target = Target(firewall)
    world = World(monkeypatch, target)
    report, states = world.run()
    assert chosen(states, agent_sweep.OPEN) == [1500]
    assert chosen(states, agent_sweep.CLOSED) == list(range(1600, 1610))
    assert len(chosen(states, agent_sweep.SILENT)) == 1989
    assert report["decided"] and report["lost"] == 0 and len(report["passes"]) == 2
    assert target.resets == report["controls"] + 1  # every SYN-ACK is answered


@pytest.mark.parametrize("states", [firewall, bare])
def test_losses_are_made_good(monkeypatch, states):
    report, found = World(monkeypatch, Target(states, loss=0.02)).run()
    assert report["decided"] and report["lost"] > 0
    assert chosen(found, agent_sweep.OPEN) == [1500]
    dropped = chosen(found, agent_sweep.SILENT)
    assert dropped == ([] if states is bare else [
        port for port in range(1000, 3000) if not states(port, b"")
    ])  # fmt: skip


def test_a_burst_of_loss_that_hits_controls_is_asked_again(monkeypatch):
    """All that is lost is a burst of a hundred frames: a control is among them."""
    report, found = World(monkeypatch, Target(bare, burst=range(700, 800))).run()
    assert report["decided"] and chosen(found, agent_sweep.SILENT) == []


def test_limited_resets_do_not_become_drops(monkeypatch):
    """A bucket of RSTs, as limiters are: many ports are silent, and none is called dropped."""
    report, found = World(monkeypatch, Target(bare, refill=0.3)).run()
    assert report["limited"]
    assert chosen(found, agent_sweep.SILENT) == []
    assert len(chosen(found, agent_sweep.CLOSED)) > 1900


def test_a_dead_control_decides_nothing(monkeypatch):
    def deaf(port, source):
        return 0x14 if port == 1700 else 0

    report, found = World(monkeypatch, Target(deaf)).run()
    assert not report["decided"] and len(report["passes"]) == 1
    assert chosen(found, agent_sweep.CLOSED) == [1700]
    assert len(chosen(found, agent_sweep.UNDECIDED)) == 1999


def test_more_attempts_where_they_are_asked_for(monkeypatch):
    report, _ = World(monkeypatch, Target(firewall)).run(attempts=3)
    assert report["credits"] == 3 and len(report["passes"]) == 4


def test_answers_to_something_else_are_nobodys(monkeypatch):
    class Liar(Target):
        def answer(self, frame):
            answer = super().answer(frame)
            if answer and struct.unpack_from(">H", answer, 34) != (80,):
                return answer[:42] + b"\0\0\0\0" + answer[46:]
            return answer

    report, found = World(monkeypatch, Liar(bare)).run()
    assert chosen(found, agent_sweep.OPEN) == chosen(found, agent_sweep.CLOSED) == []


def mixed(port, source):
    """A few ports of each kind, some resets with a flag that resets seldom have."""
    return (0x12, 0x14, 0x14, 0x1C, 0)[port % 5] if port != 80 else 0x12


@pytest.mark.parametrize("target", [firewall, bare, mixed])
def test_answers_read_by_columns_say_what_each_says_by_itself(monkeypatch, target):
    report, found = World(monkeypatch, Target(target)).run()
    monkeypatch.setattr(agent_sweep, "unlike", lambda columns, row: bytes(b"\1" * len(columns[0])))
    alone, states = World(monkeypatch, Target(target)).run()
    assert found == states and sorted(report["kept"]) == sorted(alone["kept"])
    assert [one["fresh"] for one in report["passes"]] == [one["fresh"] for one in alone["passes"]]


def test_lines_unlike_a_row_are_marked():
    columns = [b"\x45\x45\x45\x46", b"\x06\x06\x11\x06", b"\x00\x80\x00\x00"]
    marked = agent_sweep.unlike(columns, (0x45, 0x06, 0x00))
    assert [bool(byte) for byte in marked] == [False, True, True, True]
    assert list(agent_sweep.words(b"\x01\xff", b"\x02\x00")) == [0x0102, 0xFF00]


def test_the_ring_comes_round(monkeypatch):
    """More answers than it has slots."""
    _, found = World(monkeypatch, Target(bare)).run(ports=(0, 12000))
    assert found[:12001].count(agent_sweep.CLOSED) == 12001 - 2


def test_how_often_follows_from_loss_and_answers():
    made = object.__new__(agent_sweep.Sweep)
    made.how, made.lost, made.controls, made.states = {}, 0, 1000, bytearray(65536)
    assert made.wanted() == 1
    made.lost = 40
    assert made.wanted() == 3
    made.states[:] = b"\2" * 65536
    assert made.wanted() == 6
    made.how["attempts"] = 8
    assert made.wanted() == 8


def test_intervals_and_their_text():
    assert sweep.intervals_of(b"") == {}
    both = sweep.intervals_of(b"\0\1\1\0\1")
    found = both[1]
    assert both == {0: ((0, 0), (3, 3)), 1: ((1, 2), (4, 4))}
    assert sweep.ranges(found) == "1-2, 4"
    assert sweep.ranges(((1, 1), (3, 3), (5, 9)), 2) == "1, 3 and 1 more intervals"


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ({"lost": 9, "controls": 9}, "was not answered: nothing"),
        ({"lost": 8, "controls": 9}, "8 of 9 times"),
        ({"icmp": 7}, "sent 7 ICMP errors"),
        ({"limited": True}, "limited, or lost in a pattern"),
        ({"lost": 3}, "Time was up"),
    ],
)
def test_why_ports_are_undecided(head, said):
    whole = {"lost": 0, "controls": 9, "icmp": 0, "decided": False, "limited": False, **head}
    assert said in sweep._problem(whole, ((1, 2),), "the control")
    assert sweep._problem(whole, (), "the control") == ""


def test_the_codes_of_states_are_one_byte_each():
    assert {agent_sweep.SILENT, agent_sweep.OPEN, agent_sweep.CLOSED} == {0, 1, 2}
    assert agent.LONG.size == sweep._LENGTH
