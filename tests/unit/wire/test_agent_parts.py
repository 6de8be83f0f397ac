# SPDX-License-Identifier: Apache-2.0
"""What the agent's parts make of one frame, against scapy as the second opinion."""

import ast
import random
import struct
import sys

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6ND_NS, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Raw

from sriov_lb_tests.wire import agent, agent_prober, agent_sweep

E = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
V4, V6 = IP(src="192.0.2.1", dst="192.0.2.2", id=7), IPv6(src="2001:db8::1", dst="2001:db8::2")
SYN = TCP(sport=5, dport=80, seq=9, flags="S", options=[("MSS", 1460)])
FRAMES = {
    "tcp": bytes(E / V4 / SYN),
    "tcp6": bytes(E / V6 / SYN),
    "udp": bytes(E / V4 / UDP(sport=5, dport=80) / Raw(b"odd")),
    "udp6": bytes(E / V6 / UDP(sport=5, dport=80) / Raw(b"even")),
    "tagged": bytes(E / Dot1Q(vlan=7) / V4 / SYN),
    "no checksum": bytes(E / V4 / UDP(sport=5, dport=80, chksum=0) / Raw(b"odd")),
}
EVERY = pytest.mark.parametrize("name", FRAMES)


def remade(frame):
    """The frame with its checksums as scapy computes them; UDP without one stays so."""
    packet = Ether(bytes(frame))
    if IP in packet:
        del packet[IP].chksum
    upper = packet[TCP] if TCP in packet else packet[UDP]
    if upper.chksum:
        del upper.chksum
    return bytes(packet)


@EVERY
@pytest.mark.parametrize("number", [0, 1, 17, 8191, 8192, 65535, 1 << 20])
def test_a_patched_frame_is_whole(name, number):
    patch = agent.Patch(FRAMES[name], 2000, 8192, 0xFFFFFF00)
    made = bytes(patch.at(number))
    assert made == remade(made)
    packet = Ether(made)
    upper = packet[TCP] if TCP in packet else packet[UDP]
    assert upper.sport == patch.port(number) and 2000 <= upper.sport < 10192
    sequence = packet[TCP].seq if TCP in packet else None
    assert sequence in (None, (0xFFFFFF00 + number) & 0xFFFFFFFF)
    assert patch.number(upper.sport, sequence, number + 1) == number
    assert patch.number(upper.sport, sequence, number) != number
    assert patch.number(1999, sequence, number + 1) is None


def test_frames_are_patched_for_their_number_only():
    patch = agent.Patch(FRAMES["tcp"], 2000, 100, 12345)
    sequence = 12345 + 250
    assert patch.number(patch.port(250), sequence, 300) == 250
    assert patch.number(patch.port(251), sequence, 300) is None
    # Without a sequence number: the latest with that port.
    assert patch.number(patch.port(250), None, 300) == 250
    assert patch.number(patch.port(50), None, 300) == 250
    assert patch.number(patch.port(50), None, 200) == 150


@pytest.mark.parametrize(
    "packet",
    [
        E / ARP(),
        E / V4 / ICMP(),
        E / V4.__class__(src="192.0.2.1", dst="192.0.2.2", frag=1) / SYN,
        E / V6 / ICMPv6ND_NS(),
    ],
)
def test_what_cannot_be_patched_is_refused(packet):
    with pytest.raises(agent.Refused):
        agent.Patch(bytes(packet), 1, 1, 0)


@pytest.mark.parametrize("name", ["tcp", "tcp6", "tagged"])
def test_the_reset_of_a_syn(name):
    made = agent.reset_frame(FRAMES[name])
    packet = Ether(made)
    assert made == remade(made)
    assert (packet[TCP].flags, packet[TCP].sport, packet[TCP].dport) == ("R", 5, 80)
    assert packet.src == E.src and not packet[TCP].options
    patch = agent.Patch(made, 2000, 10, 41)
    assert Ether(bytes(patch.at(0, 1)))[TCP].seq == 42


@EVERY
def test_the_matrix_has_every_port_right(name):
    """Each port by each of the two ways, and all of them the same both ways."""
    frame, size = FRAMES[name], len(FRAMES[name])
    patch = agent.Patch(frame, 5, 1, 9)
    whole = agent_sweep.matrix(frame, patch, range(65536))
    assert whole == agent_sweep.matrix(frame, patch, list(range(65536)))
    chosen = [0, 1, 79, 80, 65535, *random.Random(1).sample(range(65536), 20)]
    # Where the checksum goes over its end, too.
    (found,) = struct.unpack_from(">H", frame, patch.sum_at)
    rest = ((~found & 0xFFFF) + (~80 & 0xFFFF)) % 0xFFFF
    chosen += [port % 65536 for port in (0xFFFE - rest, 0xFFFF - rest, 0x10000 - rest)]
    for port in chosen:
        made = bytes(whole[port * size : port * size + size])
        assert made == remade(made), port
        assert struct.unpack_from(">H", made, patch.upper + 2) == (port,)
    part = agent_sweep.matrix(frame, patch, range(60000, 65536))
    assert part == whole[60000 * size :]


def passes(program, frame, kind=0):
    """A machine for the few BPF instructions we use."""
    accumulator = position = 0
    while True:
        code, yes, no, value = program[position]
        position += 1
        if code == 0x30 and value == 0xFFFFF004:
            accumulator = kind
        elif code in (0x20, 0x28, 0x30):
            size = {0x20: 4, 0x28: 2, 0x30: 1}[code]
            if value + size > len(frame):
                return False
            accumulator = int.from_bytes(frame[value : value + size], "big")
        elif code == 0x15:
            position += yes if accumulator == value else no
        elif code == 0x05:
            position += value
        else:
            assert code == 0x06
            return bool(value)


def test_the_filter_lets_in_answers_to_our_sources_only():
    ours = ["192.0.2.1", "192.0.2.9", "2001:db8::1", "2001:db8::9"]
    program = agent.answers_to([agent.binary_address(text) for text in ours])
    assert max(max(step[1], step[2]) for step in program) < 256
    for text in ours:
        frame = bytes(E / (IPv6(dst=text) if ":" in text else IP(dst=text)) / TCP())
        assert passes(program, frame)
        assert not passes(program, frame, agent.OUTGOING)
    for text in ("192.0.2.2", "192.0.3.1", "2001:db8::2", "2001:db8:0:1::1", "2001:db9::1"):
        frame = bytes(E / (IPv6(dst=text) if ":" in text else IP(dst=text)) / TCP())
        assert not passes(program, frame)
    assert not passes(program, bytes(E / ARP(pdst="192.0.2.1")))
    only6 = agent.answers_to([agent.binary_address("2001:db8::1")])
    assert passes(only6, FRAMES["tcp6"].replace(b"\x02" * 0, b"")) is False
    assert passes(only6, bytes(E / IPv6(dst="2001:db8::1") / TCP()))
    assert not passes(only6, FRAMES["tcp"])


@pytest.mark.parametrize("module", [agent_prober, agent_sweep])
def test_parts_are_standard_library_and_python_3_8(module):
    """A part imports from the agent and nothing else that is ours, and all it takes is there."""
    with open(module.__file__) as source:
        tree = ast.parse(source.read(), feature_version=(3, 8))
    plain = [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
    names = {alias.name.split(".")[0] for node in plain for alias in node.names}
    assert names <= set(sys.stdlib_module_names)
    (ours,) = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert ours.module == "sriov_lb_tests.wire.agent"


@pytest.mark.parametrize("part", ["agent_prober", "agent_sweep"])
def test_a_part_runs_in_the_agent_s_own_globals(part):
    """As in a guest, where there is no package of that name."""
    made = agent.Agent()
    from sriov_lb_tests.wire.session import program

    space = {"__name__": "__main__x"}
    exec(compile(program(), "agent", "exec"), space)
    inside = space["Agent"]()
    done = inside.op_extend(program(part), part)
    assert done["operations"] and set(done["operations"]) == set(inside.extra)
    for operation in inside.extra.values():
        assert operation.__globals__["Agent"] is space["Agent"]
    assert made.extra == {}
