# SPDX-License-Identifier: Apache-2.0
"""The whole catalogue on real rules, with counters as ground truth, and on rules that are wrong."""

import time

import pytest

from sriov_lb_tests.amphora import Amphora
from sriov_lb_tests.packets.catalogue import Context, Expected, cases
from sriov_lb_tests.packets.probe import tcp_syn
from sriov_lb_tests.wire.namespace import NamespaceHost
from sriov_lb_tests.wire.survey import survey
from sriov_lb_tests.wire.vantage import Vantage

ADDRESSES = {
    4: {"vip": "198.51.100.20", "allowed": "198.51.100.99", "denied": "198.51.100.200",
        "own": "198.51.100.30", "subnet": "198.51.100.0/24", "peer": "198.51.100.31"},
    6: {"vip": "2001:db8:1::20", "allowed": "2001:db8:1::99", "denied": "2001:db8:1::1:99",
        "own": "2001:db8:1::30", "subnet": "2001:db8:1::/64"},
}  # fmt: skip
LINES = (
    "ip saddr 198.51.100.0/25 tcp dport 80 accept",
    "ip6 saddr 2001:db8:1::/112 tcp dport 80 accept",
    "tcp dport 82 accept",
    "udp dport 53 accept",
    "sctp dport 9 accept",
    "ip saddr 198.51.100.31/32 ip protocol 112 accept",
)
BOTH = pytest.mark.parametrize("version", [4, 6])


@pytest.fixture(scope="module")
def bed(testbed):
    with testbed.bed() as made:
        made.listen(("tcp", 80), ("tcp", 82), ("udp", 53))
        yield made


@pytest.fixture
def rules(bed, testbed):
    def load(text=None, lines=LINES):
        bed.within("amphora", "nft", "flush", "ruleset")
        bed.nft(text or testbed.octavia_rules(*lines), "-o")

    load()
    return load


@pytest.fixture(scope="module")
def amphora(bed):
    return Amphora(NamespaceHost(bed.name("amphora")), netns=None)


@pytest.fixture
def vantage(bed, tmp_path):
    with NamespaceHost(bed.name("client")) as host:
        with Vantage(host, "c0", artefacts=tmp_path) as made:
            yield made


def context(version, **more):
    return Context(
        version, open_port=82, udp_port=53, sctp_port=9, **{**ADDRESSES[version], **more}
    )


def run(vantage, made, amphora=None, chosen=None):
    control = tcp_syn(made.vip, 80, source=made.allowed)
    counting = amphora.counting(vantage.interface.mac) if amphora else None
    return survey(vantage, made, control=control, counting=counting, chosen=chosen)


def wrong(findings):
    return {finding.case.id for finding in findings if finding.right is False}


@BOTH
def test_octavias_rules_give_every_class_its_fate(vantage, amphora, rules, version):
    addresses = ADDRESSES[version]
    flow = vantage.open_flow(addresses["vip"], 80, source=addresses["allowed"])
    started = time.monotonic()
    found = run(vantage, context(version, flow=flow), amphora)
    seconds = time.monotonic() - started
    vantage.close_flow(addresses["vip"], flow)
    assert len(found) >= 600
    assert not wrong(found), "\n".join(str(one) for one in found if one.right is False)
    unknown = {one.case.id for one in found if one.right is None}
    assert not {name for name in unknown if not name.startswith("link-")}, unknown
    assert seconds < 20, f"{len(found)} cases took {seconds:.1f} s, expected at most 20 s"


@pytest.mark.series
@BOTH
def test_from_outside_nothing_else_is_seen(vantage, amphora, rules, version):
    """Without counters: fewer fates are known, and none is wrong."""
    found = run(vantage, context(version))
    assert not wrong(found), "\n".join(str(one) for one in found if one.right is False)
    assert sum(one.right is True for one in found) > 350
    assert all(one.observation.pcap for one in found if one.right is not None)


@BOTH
def test_an_open_door_is_seen_by_every_class_that_may_not_pass(vantage, amphora, rules, version):
    rules("table inet amphora_table { }")
    made = context(version)
    found = run(vantage, made, amphora)
    forbidden = {
        case.id
        for case in cases(made)
        if Expected.ACCEPT not in case.allowed and case.expected is Expected.DROP and case.counted
    }
    missed = forbidden - wrong(found)
    # What the kernel discards by itself cannot be seen through an open door.
    early = {one.case.id for one in found if one.fate is Expected.BEFORE_FILTER}
    assert not missed - early, sorted(missed - early)
    assert len(wrong(found)) > 300
    outside = run(vantage, made)
    assert len(wrong(outside)) > 50
    assert wrong(outside) <= wrong(found)


FAULTS = {
    "listener's rule lost": (LINES[2:], {"tcp-syn-open", "tcp-syn-ecn"}),
    "too wide": (("tcp dport 80 accept", *LINES[2:]),
                 {"tcp-syn-denied", "ip-fragments-two-denied"}),
    "port + 1 as well": ((*LINES, "tcp dport 81 accept"),
                         {"tcp-syn-closed", "tcp-syn-next-port", "ip-fragments-two-closed"}),
    "UDP forgotten": ((*LINES[:3], *LINES[4:]), {"udp-open"}),
    "UDP as well": ((*LINES, "udp dport 80 accept"), {"udp-tcp-port", "udp-tcp-port-denied"}),
    "ping": ((*LINES, "icmp type echo-request accept", "icmpv6 type echo-request accept"),
             {"icmp-echo-denied", "icmp-echo-own"}),
    "VRRP from everybody": ((*LINES, "meta l4proto 112 accept"), {"vrrp-stranger-vip"}),
    "GRE": ((*LINES, "meta l4proto 47 accept"), {"protocols-047", "tunnels-gre"}),
    "ssh": ((*LINES, "tcp dport 22 accept"), {"tcp-syn-22"}),
    "the agent": ((*LINES, "tcp dport 9443 accept"), {"tcp-syn-9443"}),
    "source port": ((*LINES, "tcp sport 80 accept"), {"tcp-syn-from-port"}),
}  # fmt: skip


@BOTH
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_show_in_the_classes_made_for_them(vantage, amphora, rules, version, fault):
    lines, expected = FAULTS[fault]
    rules(lines=lines)
    made = context(version)
    names = {f"{name}-v{version}" for name in expected}
    chosen = [case for case in cases(made) if case.id in names]
    assert len(chosen) == len(names)
    # The control may not be what is broken.
    alive = tcp_syn(made.vip, 82, source=made.allowed)
    counting = amphora.counting(vantage.interface.mac)
    found = survey(vantage, made, control=alive, counting=counting, chosen=chosen)
    assert wrong(found) == names, "\n".join(map(str, found))
