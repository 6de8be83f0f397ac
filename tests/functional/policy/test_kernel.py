# SPDX-License-Identifier: Apache-2.0
"""The kernel as the judge: what it does with real packets is what the evaluation says it does.

Random rulesets are loaded into a namespace with real nft, read back, parsed, and asked about
packets that are also sent; counters tell how far each came.
"""

import dataclasses
import ipaddress
import random

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.packet import Raw

from sriov_lb_tests.amphora import Amphora
from sriov_lb_tests.packets.catalogue import Expected
from sriov_lb_tests.packets.probe import Link, Probe, tcp_syn
from sriov_lb_tests.policy.evaluate import evaluate
from sriov_lb_tests.policy.model import Policy
from sriov_lb_tests.policy.packet import Packet
from sriov_lb_tests.policy.proof import disagreements
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
