# SPDX-License-Identifier: Apache-2.0
"""The kernel as the judge: what it does with real packets is what the evaluation says it does.

Random rulesets are loaded into a namespace with real nft, read back, parsed, and asked about
packets that are also sent; counters tell how far each came.
"""

import dataclasses
import ipaddress
import random
import socket

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.packet import Raw

from sriov_lb_tests import errors
from sriov_lb_tests.amphora import Amphora, Stage
from sriov_lb_tests.packets.catalogue import Expected
from sriov_lb_tests.packets.probe import Link, Probe, network, tcp_syn
from sriov_lb_tests.policy.evaluate import evaluate, first_only
from sriov_lb_tests.policy.model import Policy
from sriov_lb_tests.policy.packet import Packet
from sriov_lb_tests.policy.proof import disagreements
from sriov_lb_tests.policy.ruleset import Chance
from sriov_lb_tests.wire.namespace import NamespaceHost
from sriov_lb_tests.wire.vantage import Vantage, Verdict

VIP = {4: "198.51.100.20", 6: "2001:db8:1::20"}


@pytest.fixture(scope="module")
def bed(testbed):
    with testbed.bed() as made:
        made.listen(("tcp", 80))
        yield made


@pytest.fixture(scope="module")
def amphora(bed):
    return Amphora(NamespaceHost(bed.name("amphora")), netns=None)


@pytest.fixture
def vantage(bed, tmp_path):
    with NamespaceHost(bed.name("client")) as host:
        with Vantage(host, "c0", artefacts=tmp_path) as made:
            yield made


def some_rule(chance):
    """One line of nft about what the packets below differ in."""
    four = f"198.51.100.{chance.randrange(256)}/{chance.choice([24, 25, 28, 32])}"
    four = str(ipaddress.ip_network(four, strict=False))
    six = f"2001:db8:1::{chance.randrange(256):x}/{chance.choice([112, 120, 124, 128])}"
    six = str(ipaddress.ip_network(six, strict=False))
    low = chance.randrange(70, 90)
    match = chance.choice(
        [
            f"ip saddr {four}",
            f"ip6 saddr {six}",
            f"ip saddr != {four}",
            f"tcp dport {low}",
            f"tcp dport {low}-{low + 5}",
            f"tcp dport != {{ {low}, {low + 2} }}",
            f"udp dport {low}",
            f"th dport {low}",
            f"ip saddr . tcp dport {{ {four} . {low}-{low + 3} }}",
            f"ip6 saddr . udp dport {{ {six} . {low}-{low + 3} }}",
            f"ip saddr {four} tcp dport {{ {low}, {low + 1} }}",
            "meta l4proto { udp, icmp }",
            "meta nfproto ipv6",
            "ip protocol tcp",
            "ip6 nexthdr udp",
            "ip6 nexthdr != tcp",
            "ip6 nexthdr { 0, 60 }",
            "icmp type echo-request",
            "icmpv6 type echo-request",
            "tcp flags syn",
            "tcp flags & (syn | ack) == syn | ack",
            "tcp flags != syn",
            "ct state new",
            "ct state invalid",
            "ct state { new, established }",
            "ct direction original",
            "ct direction reply",
            "ct mark 0",
            "ip frag-off & 0x1fff != 0",
            "meta pkttype host",
            f"ip ttl < {chance.choice([10, 100])}",
            "ip6 hoplimit 64",
            "ip dscp cs1",
            "iifname eth1",
            'iifname "et*"',
            'oifname != "lo"',
            "oifname eth1",
            "iif lo",
            f"ip saddr & 0.0.0.{chance.choice([1, 2, 4])} == 0.0.0.0",
            "tcp sport & 1 == 1",
        ]
    )
    verdict = chance.choice(
        ["accept"] * 4 + ["drop"] * 4 + ["jump side", "goto side", "return", "continue"]
    )
    if chance.random() < 0.1:
        key = chance.choice(["tcp dport", "udp dport"])
        return f"{key} vmap {{ {low} : accept, {low + 1} : drop, {low + 2}-{low + 4} : jump side }}"
    return f"{match} {verdict}"


def some_ruleset(chance):
    side = "\n".join(
        line
        for line in (some_rule(chance) for _ in range(chance.randrange(4)))
        if "side" not in line
    )
    first, second = (
        "\n".join(some_rule(chance) for _ in range(chance.randrange(1, 6))) for _ in range(2)
    )
    late = chance.choice(["accept", "drop"])
    return f"""
    table inet amphora_table {{}}
    delete table inet amphora_table
    table inet amphora_table {{
      chain side {{
        {side}
      }}
      chain early {{
        type filter hook prerouting priority {chance.choice([-150, -50])}; policy accept;
        {first if chance.random() < 0.3 else ""}
      }}
      chain amphora_chain {{
        type filter hook input priority filter; policy {late};
        {second}
      }}
    }}
    """


def some_packet(chance, version):
    """A packet for the evaluation, and the probe that is the same on the wire."""
    source = {4: f"198.51.100.{chance.randrange(100, 200)}",
              6: f"2001:db8:1::{chance.randrange(100, 200):x}"}[version]  # fmt: skip
    port, hop = chance.randrange(70, 95), chance.choice([5, 64])
    dscp = chance.choice([0, 8])
    kind = chance.choice(["tcp", "tcp", "tcp", "udp", "icmp"])
    flags = chance.choice(["S", "S", "SA", "R", "SEC"])
    # Conntrack's view of packets without a flow: only SYN (with or without ECN) begins one.
    state = "invalid" if kind == "tcp" and flags in ("SA", "R") else "new"
    sport = chance.randrange(20000, 30000)
    options = version == 6 and chance.random() < 0.3
    numbers = {"S": 0x02, "SA": 0x12, "R": 0x04, "SEC": 0xC2}
    protocol = {"tcp": 6, "udp": 17, "icmp": {4: 1, 6: 58}[version]}[kind]
    described = Packet(
        "eth1", source, VIP[version], protocol, sport=sport, dport=port, state=state,
        hop_limit=hop, tcp_flags=numbers[flags] if kind == "tcp" else 0,
        icmp_type={4: 8, 6: 128}[version] if kind == "icmp" else 0,
        extra={"dscp": dscp} | ({"next_header": 60} if options else {}),
    )  # fmt: skip
    if kind == "icmp":
        described = dataclasses.replace(described, sport=0, dport=0)

    def build(_probe, identity):
        if version == 4:
            below = IP(src=source, dst=VIP[4], id=identity.sequence, ttl=hop, tos=dscp << 2)
        else:
            below = IPv6(src=source, dst=VIP[6], fl=identity.flow_label, hlim=hop, tc=dscp << 2)
            below = below / IPv6ExtHdrDestOpt() if options else below
        if kind == "tcp":
            return below / TCP(sport=sport, dport=port, flags=flags, seq=identity.nonce)
        if kind == "udp":
            return below / UDP(sport=sport, dport=port) / Raw(identity.tag)
        return below / (ICMP(type=8, id=sport) if version == 4 else ICMPv6EchoRequest(id=sport))

    return described, Probe(f"random {kind}", VIP[version], build, source, play=False)


@pytest.mark.parametrize("seed", range(24))
def test_the_kernel_agrees_with_the_evaluation(bed, amphora, vantage, seed):
    chance = random.Random(seed)
    for _ in range(20):  # until nft likes it: intervals of one set may not overlap
        text = some_ruleset(chance)
        try:
            bed.nft(text)
            break
        except RuntimeError:
            continue
    ruleset = amphora.ruleset()
    # Not asked on the wire: a random ruleset may refuse neighbour discovery.
    link = Link(vantage.interface.mac, amphora.interfaces()["eth1"].mac)
    packets = [some_packet(chance, chance.choice([4, 4, 6])) for _ in range(60)]
    frames, identities = [], []
    for _, probe in packets:
        identity = vantage.identities.next()
        identities.append(identity)
        frames += probe.frames(link, identity)
    with amphora.counting(vantage.interface.mac) as counts:
        vantage.send(frames, 2000)
    for (described, _), identity in zip(packets, identities, strict=True):
        outcome = evaluate(ruleset, described)
        came = counts.reached(identity, described.version)
        said = f"{described}: {outcome.verdict} by {outcome.decided}, but came to {came}\n{text}"
        assert (came is Expected.ACCEPT) == outcome.accepted, said


def test_a_witness_of_the_proof_holds_on_the_wire(bed, amphora, vantage, testbed):
    """The proof finds a packet; it is sent, and it does what the proof says."""
    bed.nft(testbed.octavia_rules(
        "ip saddr 198.51.100.0/24 tcp dport 80 accept", "udp dport 53 accept"
    ), "-o")  # fmt: skip
    policy = Policy.of(
        {"vip_address": VIP[4]},
        [{"name": "web", "protocol": "TCP", "protocol_port": 80,
          "allowed_cidrs": ["198.51.100.0/25"]}],
    )  # fmt: skip
    found = disagreements(policy, amphora.ruleset())
    sources = {w.packet.source for w in found.too_open if w.packet.protocol == 6}
    assert sources and not found.too_closed
    assert {w.packet.dport for w in found.too_open if w.packet.protocol == 17} == {53}
    for source in sources:
        assert ipaddress.ip_address(source) in ipaddress.ip_network("198.51.100.128/25")
        seen = vantage.ask(tcp_syn(VIP[4], 80, source=source))
        assert seen.verdict is Verdict.ACCEPTED, str(seen)


# --- what is easily misread -----------------------------------------------------------------------


@pytest.fixture
def empty(bed):
    """No rules but a test's own."""
    bed.within("amphora", "nft", "flush", "ruleset")
    yield bed
    bed.within("amphora", "nft", "flush", "ruleset")


def chain(hook, *lines, kind="filter", policy="drop", name="amphora_chain", priority=0):
    head = f"type {kind} hook {hook} priority {priority}; policy {policy};"
    return f"chain {name} {{ {head}\n" + "\n".join(lines) + "\n}"


def table(*parts, name="amphora_table"):
    return f"table inet {name} {{\n" + "\n".join(parts) + "\n}"


WEB = Policy.of({"vip_address": VIP[4]}, [
    {"name": "web", "protocol": "TCP", "protocol_port": 80, "allowed_cidrs": ["203.0.113.0/24"]}])
LET_IN = "ip saddr 203.0.113.0/24 tcp dport 80 accept"
FLOWS = "ct state established,related accept"


def ways(ruleset, packet):
    """Verdicts of the evaluation, for limits and sets that turn out one way or the other."""
    whats = [one.what for base in ruleset.chains.values() for rule in base.rules
             for one in rule.statements if isinstance(one, Chance)]  # fmt: skip
    return {
        evaluate(ruleset, packet, chances=dict.fromkeys(whats, happens)).accepted
        for happens in (True, False)
    }


@pytest.mark.parametrize("declared", ["flags dynamic;", "flags timeout; timeout 1h;"])
def test_a_set_that_rules_fill_opens_at_the_second_packet(empty, amphora, vantage, declared):
    empty.nft(table(
        f"set seen {{ type ipv4_addr; size 100; {declared} }}",
        chain("input", FLOWS, LET_IN, "tcp dport 80 ip saddr @seen accept",
              "update @seen { ip saddr }"),
    ))  # fmt: skip
    before = amphora.ruleset()
    source = "198.51.100.77"
    first = vantage.ask(tcp_syn(VIP[4], 80, source=source), attempts=1, tries=1)
    second = vantage.ask(tcp_syn(VIP[4], 80, source=source), attempts=1, tries=1)
    assert first.verdict is not Verdict.ACCEPTED and second.verdict is Verdict.ACCEPTED
    asked = Packet("eth1", source, VIP[4], 6, sport=40000, dport=80)
    assert ways(before, asked) == {True, False}, "the set was empty when it was read"
    found = disagreements(WEB, before)
    assert found.too_open and "@seen" in str(found.too_open[0])


def test_an_element_with_a_limit_lets_in_as_many_as_it_likes(empty, amphora, vantage):
    empty.nft(table(
        "set slow { type ipv4_addr; limit rate 1/hour burst 2 packets; "
        "elements = { 198.51.100.77 } }",
        chain("input", FLOWS, "ip saddr @slow tcp dport 80 accept"),
    ))  # fmt: skip
    source = "198.51.100.77"
    seen = [
        vantage.ask(tcp_syn(VIP[4], 80, source=source), attempts=1, tries=1).verdict
        for _ in range(4)
    ]
    assert [one is Verdict.ACCEPTED for one in seen] == [True, True, False, False]
    asked = Packet("eth1", source, VIP[4], 6, sport=40000, dport=80)
    assert ways(amphora.ruleset(), asked) == {True, False}


def test_a_nat_chain_drops_the_first_packet_of_a_flow_and_no_other(empty, amphora, testbed):
    # Without a rule that asks for it there is no conntrack, and nobody meets a nat chain.
    empty.nft(table(chain("input", FLOWS, policy="accept")))
    with testbed.entered(empty.name("client")):
        known = socket.create_connection((VIP[4], 80), timeout=5)
        with known:
            empty.nft(table(chain("prerouting", "tcp dport 80 drop", kind="nat", policy="accept",
                                  name="early")))  # fmt: skip
            known.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert known.recv(100), "the flow goes on"
            with pytest.raises(OSError):
                socket.create_connection((VIP[4], 80), timeout=1)
    ruleset = amphora.ruleset()
    asked = Packet("eth1", "198.51.100.10", VIP[4], 6, sport=40000, dport=80)
    assert not evaluate(ruleset, asked).accepted
    assert evaluate(ruleset, dataclasses.replace(asked, state="established", tcp_flags=16)).accepted
    (early,) = (base for base in ruleset.chains.values() if base.name == "early")
    assert evaluate(ruleset, asked, chances={first_only(early).what: False}).accepted


@pytest.mark.parametrize("hook", ["output", "postrouting"])
def test_answers_that_are_kept_back_are_a_promise_that_is_broken(empty, amphora, testbed, hook):
    inside = chain("input", "iif lo accept", FLOWS, "ip saddr 198.51.100.0/24 tcp dport 80 accept")
    policy = Policy.of({"vip_address": VIP[4]}, [
        {"name": "web", "protocol": "TCP", "protocol_port": 80,
         "allowed_cidrs": ["198.51.100.0/24"]}])  # fmt: skip

    def closed():
        return [one for one in disagreements(policy, amphora.ruleset()).too_closed
                if one.packet.leaving]  # fmt: skip

    empty.nft(table(inside))
    assert not closed()
    with testbed.entered(empty.name("client")):
        socket.create_connection((VIP[4], 80), timeout=5).close()
    empty.nft(table(chain(hook, "tcp sport 80 drop", policy="accept", name="out")))
    (one,) = closed()
    assert one.packet.sport == 80 and "does not let it out" in str(one)
    with testbed.entered(empty.name("client")):
        with pytest.raises(OSError):
            socket.create_connection((VIP[4], 80), timeout=1)


def test_tracing_and_queueing_change_nothing(empty, amphora):
    empty.nft(table(chain("input", "meta nftrace set 1", "meta priority set 1:2", LET_IN)))
    asked = Packet("eth1", "203.0.113.1", VIP[4], 6, sport=40000, dport=80)
    assert evaluate(amphora.ruleset(), asked).accepted
    assert not evaluate(amphora.ruleset(), dataclasses.replace(asked, dport=81)).accepted


SOURCE = {4: "198.51.100.77", 6: "2001:db8:1::77"}


def described(version=4, protocol=6, **more):
    """A SYN, or a datagram, for port 80 of the VIP."""
    return Packet("eth1", SOURCE[version], VIP[version], protocol, sport=40000, dport=80, **more)


def syn(*between, flags="S", **fields):
    """The same on the wire, with headers between network and transport."""

    def build(probe, identity):
        made = network(probe, identity, **fields)
        for layer in between:
            made = made / layer
        return made / TCP(sport=identity.port, dport=80, seq=identity.nonce, flags=flags)

    return build


def datagram_in_two(probe, identity):
    """A datagram for port 80 in two fragments."""
    datagram = UDP(sport=identity.port, dport=80) / Raw(identity.tag.ljust(40))
    kind = IP if probe.version == 4 else IPv6
    payload = bytes(kind(bytes(network(probe, identity) / datagram))[UDP])
    made = []
    for start, end in ((0, 24), (24, 48)):
        more = int(end < len(payload))
        if probe.version == 4:
            flags = "MF" if more else 0
            below = network(probe, identity, proto=17, frag=start // 8, flags=flags)
        else:
            header = IPv6ExtHdrFragment(nh=17, offset=start // 8, m=more, id=identity.nonce)
            below = network(probe, identity) / header
        made.append(below / Raw(payload[start:end]))
    return made


def came(amphora, vantage, version, build):
    """Whether a packet, or all of its fragments in one, comes past the rules of the hook input."""
    link = Link(vantage.interface.mac, amphora.interfaces()["eth1"].mac)
    identity = vantage.identities.next()
    frames = Probe("odd", VIP[version], build, SOURCE[version]).frames(link, identity)
    with amphora.counting(vantage.interface.mac) as counts:
        vantage.send(frames, 2000)
    stages = counts.of(identity, version)
    assert stages[Stage.ARRIVED] == len(frames), "nothing follows from a frame that was lost"
    return bool(stages[Stage.PASSED_FILTER])


def reaches(netns, testbed, role, address):
    """Whether somebody in a namespace gets a connection."""
    with testbed.entered(netns.name(role)):
        try:
            socket.create_connection((address, 80), timeout=1).close()
        except OSError:
            return False
    return True


@pytest.mark.parametrize(
    ("line", "accepted"),
    [
        ('oifname != "lo" accept', True),
        ('oif != "lo" accept', True),
        ('oifname != { "lo", "eth1" } accept', True),
        ('iifname . oifname != { "eth1" . "lo" } accept', True),
        ('oifname vmap { "lo" : drop, * : accept }', True),
        ('oifname "lo" accept', False),
        ('oifname { "lo", "eth1" } accept', False),
        ('oifname "e*" accept', False),
        ('iifname != "lo" accept', True),
        ('iifname != "eth1" accept', False),
    ],
)
def test_an_interface_that_is_not_there_has_an_empty_name(empty, amphora, vantage, line, accepted):
    empty.nft(table(chain("input", line)))
    assert evaluate(amphora.ruleset(), described()).accepted is accepted
    assert came(amphora, vantage, 4, syn()) is accepted


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("hook", ["output", "postrouting"])
@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ('iifname != "eth1" tcp sport 80 drop', True),
        ('iif != "eth1" tcp sport 80 drop', True),
        ('iifname "eth1" tcp sport 80 drop', False),
        ('oifname != "eth1" tcp sport 80 drop', False),
    ],
)
def test_what_leaves_came_in_by_no_interface(empty, amphora, testbed, line, kept, hook, version):
    empty.nft(table(chain(hook, line, policy="accept")))
    answer = Packet("eth1", VIP[version], SOURCE[version], 6, sport=80, dport=40000,
                    tcp_flags=0x12, state="established", leaving=True)  # fmt: skip
    assert evaluate(amphora.ruleset(), answer).accepted is not kept
    assert reaches(empty, testbed, "client", VIP[version]) is not kept


#: Asks for conntrack and decides nothing.
ASKS = "ct state new counter"
EXTENSIONS = {
    "none": (syn(), {}),
    "hop by hop": (syn(IPv6ExtHdrHopByHop()), {"next_header": 0}),
    "routing": (syn(IPv6ExtHdrRouting(type=2, segleft=0)), {"next_header": 43}),
    "destination": (syn(IPv6ExtHdrDestOpt()), {"next_header": 60}),
    "two": (syn(IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt()), {"next_header": 0}),
    "fragment": (syn(IPv6ExtHdrFragment(offset=0, m=0, id=0x5150)), {"fragment_header": 1}),
    "both": (
        syn(IPv6ExtHdrFragment(offset=0, m=0, id=0x5150), IPv6ExtHdrDestOpt()),
        {"fragment_header": 1, "next_header": 60},
    ),
}


@pytest.mark.parametrize("name", EXTENSIONS)
@pytest.mark.parametrize(
    "lines",
    [
        ("ip6 nexthdr tcp drop", "tcp dport 80 accept"),
        ("ip6 nexthdr tcp tcp dport 80 accept",),
        ("ip6 nexthdr != tcp accept",),
        ("ip6 nexthdr { 0, 43, 60 } accept",),
        ("ip6 nexthdr 44 accept",),
        ("meta l4proto tcp accept",),
    ],
)
@pytest.mark.parametrize("asks", [(), (ASKS,)])
def test_ip6_nexthdr_is_the_first_header(empty, amphora, vantage, name, lines, asks):
    build, extra = EXTENSIONS[name]
    empty.nft(table(chain("input", *asks, *lines)))
    said = evaluate(amphora.ruleset(), described(6, extra=extra)).accepted
    assert came(amphora, vantage, 6, build) is said


@pytest.mark.parametrize("number", [50, 51, 59, 135, 139, 140])
def test_other_headers_are_the_upper_layer(empty, amphora, vantage, number):
    """So of these ``ip6 nexthdr`` and ``meta l4proto`` say the same."""

    def build(probe, identity):
        below = network(probe, identity, nh=number)
        # An extension header of eight bytes before a TCP header, if anybody takes it for one.
        segment = bytes(TCP(sport=identity.port, dport=80, flags="S"))
        return below / Raw(bytes([6, 0 if number != 51 else 4, 0, 0, 0, 0, 0, 0]) + bytes(16)
                           + segment)  # fmt: skip

    for line in (f"meta l4proto {number} accept", f"ip6 nexthdr {number} accept"):
        empty.nft("flush ruleset\n" + table(chain("input", line)))
        assert came(amphora, vantage, 6, build), line
    empty.nft("flush ruleset\n" + table(chain("input", "meta l4proto tcp accept")))
    assert not came(amphora, vantage, 6, build)


@pytest.mark.parametrize("asks", [(), (ASKS,)])
@pytest.mark.parametrize(
    ("version", "hook", "priority"),
    [(4, "input", 0), (4, "input", -450), (4, "prerouting", -300), (4, "prerouting", -405),
     (6, "input", 0), (6, "prerouting", -300), (6, "prerouting", -405)],
)  # fmt: skip
def test_fragments_are_put_together_on_the_way(
    empty, amphora, vantage, version, hook, priority, asks
):
    line = {4: "ip frag-off & 0x1fff != 0 drop", 6: "ip6 nexthdr 44 drop"}[version]
    empty.nft(table(
        chain(hook, line, policy="accept", priority=priority, name="early"),
        chain("input", *asks, policy="accept", priority=300),
    ))  # fmt: skip
    ruleset = amphora.ruleset()
    extra = {4: {"frag_off": 1}, 6: {"fragment_header": 1}}[version]
    said = evaluate(ruleset, described(version, 17, extra=extra)).accepted
    assert came(amphora, vantage, version, datagram_in_two) is said
    assert said is (bool(asks) and priority != -405 or (version, hook) == (4, "input"))


@pytest.mark.parametrize("flags", ["S", "SA"])
@pytest.mark.parametrize("exempt", [False, True])
@pytest.mark.parametrize(
    "line",
    ["ct direction original accept", "ct direction reply accept", "ct direction != reply accept",
     "ct mark 0 accept", "ct mark != 1 accept", "ct status confirmed accept",
     "ct status seen-reply accept"],
)  # fmt: skip
def test_what_has_no_connection_has_none_of_its_fields(
    empty, amphora, vantage, line, exempt, flags
):
    raw = chain("prerouting", *["notrack"] * exempt, policy="accept", priority=-300, name="raw")
    empty.nft(table(raw, chain("input", line)))
    one = described(state="new" if flags == "S" else "invalid")
    said = evaluate(amphora.ruleset(), one).accepted
    assert came(amphora, vantage, 4, syn(flags=flags)) is said
    if exempt or flags == "SA":
        assert not said


@pytest.mark.parametrize(
    ("exempt", "hook", "priority", "flags"),
    [
        (True, "prerouting", -300, "S"),
        (False, "prerouting", -150, "S"),
        (False, "input", -1, "S"),
        (True, "prerouting", -300, "SA"),
        (True, "prerouting", -150, "SA"),
        (True, "input", -1, "SA"),
    ],
)
def test_notrack_is_for_what_has_no_connection(
    empty, amphora, vantage, exempt, hook, priority, flags
):
    empty.nft(table(
        chain(hook, "notrack", policy="accept", priority=priority, name="raw"),
        chain("input", "ct state untracked accept"),
    ))  # fmt: skip
    one = described(state="new" if flags == "S" else "invalid")
    assert evaluate(amphora.ruleset(), one).accepted is exempt
    assert came(amphora, vantage, 4, syn(flags=flags)) is exempt


@pytest.mark.parametrize(
    ("line", "accepted"),
    [
        # Conntrack saw it when it left: the exemption is too late, and its state is known.
        ("notrack", True),
        ("ct state new tcp dport 80 drop", False),
        ("ct state invalid tcp dport 80 drop", True),
    ],
)
def test_what_comes_by_the_loopback_brings_its_connection_along(
    empty, amphora, testbed, line, accepted
):
    empty.nft(table(
        chain("prerouting", f'iif "lo" {line}', policy="accept", priority=-300, name="raw"),
        chain("input", "ct state untracked drop", policy="accept"),
    ))  # fmt: skip
    one = Packet("lo", VIP[4], VIP[4], 6, sport=40000, dport=80)
    assert evaluate(amphora.ruleset(), one).accepted is accepted
    assert reaches(empty, testbed, "amphora", VIP[4]) is accepted


@pytest.mark.parametrize("marks", [(1, 2), (2, 1)])
def test_of_two_chains_of_one_priority_the_later_one_comes_first(empty, amphora, vantage, marks):
    one, two = (
        chain("input", f"meta mark set {mark}", policy="accept", name=f"sets{mark}")
        for mark in marks
    )
    last = chain("input", f"meta mark {marks[0]} accept", name="reads", priority=10)
    # In one go, one after the other, and when the first is made anew.
    empty.nft(table(one, two, last))
    for again in (None, table(one)):
        if again:
            empty.nft(f"delete chain inet amphora_table sets{marks[0]}")
            empty.nft(again)
        said = evaluate(amphora.ruleset(), described()).accepted
        assert came(amphora, vantage, 4, syn()) is said
        assert said is (again is None)


def test_between_tables_the_listing_does_not_tell_the_order(empty, amphora, vantage):
    """Two rulesets with one listing, of which one lets in what the other drops."""
    one = table(chain("input", "meta mark set 1", policy="accept", name="sets"), name="one")
    two = table(chain("input", "meta mark != 1 drop", policy="accept", name="reads"), name="two")
    came_in, listings = [], []
    for first, second in ((one, two), (two, one)):
        empty.nft("flush ruleset\ntable inet one {}\ntable inet two {}")
        empty.nft(first)
        empty.nft(second)
        chains = [entry["chain"] for entry in empty.ruleset()["nftables"] if "chain" in entry]
        listings.append([(entry["table"], entry["name"], entry["prio"]) for entry in chains])
        came_in.append(came(amphora, vantage, 4, syn()))
        with pytest.raises(errors.UnknownExpression, match="does not say which comes first"):
            evaluate(amphora.ruleset(), described())
    assert listings[0] == listings[1] and came_in == [False, True]


@pytest.mark.parametrize(("heard", "which"), [(False, ""), (True, "meta nfproto ipv4 ")])
def test_neighbours_are_asked_for_by_multicast(empty, amphora, vantage, heard, which):
    empty.nft(table(chain("input", f"{which}meta pkttype != host drop", policy="accept")))
    solicitation = Packet("eth1", SOURCE[6], "ff02::1:ff00:20", 58, icmp_type=135, hop_limit=255,
                          state="untracked", extra={"packet_type": 2})  # fmt: skip
    assert evaluate(amphora.ruleset(), solicitation).accepted is heard
    if heard:
        assert vantage.resolve(VIP[6])
    else:
        with pytest.raises(errors.ControlFailed):
            vantage.resolve(VIP[6])


@pytest.mark.parametrize("flags", ["", "F", "SF", "SR", "FU", "FPU", "S", "SU", "A", "AU", "R"])
def test_segments_of_another_form_are_invalid(empty, amphora, vantage, flags):
    """What the proof takes for the flags of new packets: a SYN, or the middle of a flow."""
    empty.nft(table(chain("input", "ct state new accept")))
    assert came(amphora, vantage, 4, syn(flags=flags)) is (flags in ("S", "SU", "A", "AU"))
