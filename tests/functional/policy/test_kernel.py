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
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.packet import Raw

from sriov_lb_tests.amphora import Amphora
from sriov_lb_tests.packets.catalogue import Expected
from sriov_lb_tests.packets.probe import Link, Probe, tcp_syn
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
            "icmp type echo-request",
            "icmpv6 type echo-request",
            "tcp flags syn",
            "tcp flags & (syn | ack) == syn | ack",
            "tcp flags != syn",
            "ct state new",
            "ct state invalid",
            "ct state { new, established }",
            f"ip ttl < {chance.choice([10, 100])}",
            "ip6 hoplimit 64",
            "ip dscp cs1",
            "iifname eth1",
            'iifname "et*"',
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
    numbers = {"S": 0x02, "SA": 0x12, "R": 0x04, "SEC": 0xC2}
    protocol = {"tcp": 6, "udp": 17, "icmp": {4: 1, 6: 58}[version]}[kind]
    described = Packet(
        "eth1", source, VIP[version], protocol, sport=sport, dport=port, state=state,
        hop_limit=hop, tcp_flags=numbers[flags] if kind == "tcp" else 0,
        icmp_type={4: 8, 6: 128}[version] if kind == "icmp" else 0, extra={"dscp": dscp},
    )  # fmt: skip
    if kind == "icmp":
        described = dataclasses.replace(described, sport=0, dport=0)

    def build(_probe, identity):
        if version == 4:
            below = IP(src=source, dst=VIP[4], id=identity.sequence, ttl=hop, tos=dscp << 2)
        else:
            below = IPv6(src=source, dst=VIP[6], fl=identity.flow_label, hlim=hop, tc=dscp << 2)
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


def chain(hook, *lines, kind="filter", policy="drop", name="amphora_chain"):
    body = "\n".join(lines)
    return f"chain {name} {{ type {kind} hook {hook} priority 0; policy {policy};\n{body}\n}}"


def table(*parts):
    return "table inet amphora_table {\n" + "\n".join(parts) + "\n}"


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
