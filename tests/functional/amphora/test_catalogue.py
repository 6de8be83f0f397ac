# SPDX-License-Identifier: Apache-2.0
"""The whole catalogue on real rules, with counters as ground truth, and on rules that are wrong."""

import contextlib
import time

import pytest

from sriov_lb_tests.amphora import Amphora
from sriov_lb_tests.packets.catalogue import Context, Expected, cases
from sriov_lb_tests.packets.probe import tcp_syn
from sriov_lb_tests.tests.catalogue import surveyed
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
        # As in an amphora, a rule of its own for the VIP. With it the kernel looks up each source,
        # and knows the broadcast address for what it is (__fib_validate_source()).
        made.within("amphora", "ip", "rule", "add", "from", testbed.VIP4, "table", "1")
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
    unknown = [one for one in found if one.right is None]
    assert not [one.case.id for one in unknown if one.arrived and one.case.decisive]
    assert not [one.case.id for one in unknown if not one.arrived and not one.case.lost]
    assert sum(one.right is not None and one.case.decisive for one in found) >= 450
    assert seconds < 20, f"{len(found)} cases took {seconds:.1f} s, expected at most 20 s"


@pytest.mark.series
@BOTH
def test_from_outside_nothing_else_is_seen(vantage, amphora, rules, version):
    """Without counters: fewer fates are known, and none is wrong."""
    found = run(vantage, context(version))
    assert not wrong(found), "\n".join(str(one) for one in found if one.right is False)
    assert sum(one.right is True for one in found) > 350
    assert all(one.observation.pcap for one in found if one.right is not None)


@pytest.mark.parametrize("version", [4, pytest.param(6, marks=pytest.mark.series)])
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
    by_itself = {Expected.BEFORE_FILTER, Expected.NOT_ARRIVED}
    early = {one.case.id for one in found if one.fate in by_itself}
    assert not missed - early, sorted(missed - early)
    assert len(wrong(found)) > 300
    outside = run(vantage, made)
    assert len(wrong(outside)) > 50
    assert wrong(outside) <= wrong(found)


@contextlib.contextmanager
def eaten(bed, *matches):
    """What the segment does not pass on while the block runs."""
    rules = " ".join(f"{match} drop;" for match in matches)
    bed.within("segment", "nft", "-f", "-", input=(
        f"table bridge eater {{ chain f {{ type filter hook forward priority 0; {rules} }}; }}"
    ))  # fmt: skip
    try:
        yield
    finally:
        bed.within("segment", "nft", "delete", "table", "bridge", "eater")


@pytest.mark.series
def test_a_whole_way_leaves_no_doubt(vantage, amphora, rules):
    found = surveyed.take(vantage, context(4), amphora)
    assert not found.wrong and not found.lost and not found.doubt()
    # Its reason is why the kernel never shows it to anybody.
    assert "ip-checksum-v4" in {one.case.id for one in found.never_arrived}


def test_what_the_way_ate_is_no_praise_for_the_filter(vantage, amphora, rules, bed):
    """Frames that die before the amphora: not right, not wrong, and named."""
    names = ("tcp-syn-denied", "tcp-syn-9443", "icmp-type-8", "addresses-from-127-0-0-1")
    with eaten(bed, "ip saddr 198.51.100.200 tcp dport 80", "tcp dport 9443",
               "icmp type echo-request", "ip saddr 127.0.0.1"):  # fmt: skip
        found = surveyed.take(vantage, context(4), amphora)
    assert not found.wrong
    lost = {one.case.id: one for one in found.lost}
    for name in names:
        one = lost[f"{name}-v4"]
        assert (one.fate, one.right) == (Expected.NOT_ARRIVED, None)
        assert f"{name}-v4" in found.doubt()
    assert "never arrived at the amphora" in found.doubt()
    # A virtual switch may do that; the rest is judged all the same.
    assert not found.doubt(switched=True)


@pytest.mark.series
def test_a_switch_that_eats_most_leaves_nothing_to_judge(vantage, amphora, rules, bed):
    ways = ("ip saddr != 198.51.100.99", "ip protocol != tcp", "tcp dport != 80")
    with eaten(bed, *(f"iifname client {way}" for way in ways)):
        found = surveyed.take(vantage, context(4), amphora)
    assert not found.wrong
    assert "Too little arrived" in found.doubt(switched=True)


@pytest.mark.series
def test_what_was_lost_once_is_sent_again(vantage, amphora, rules, bed, monkeypatch):
    def take():
        with eaten(bed, "ip saddr 198.51.100.200 numgen inc mod 20 == 7"):
            return surveyed.take(vantage, context(4), amphora)

    found = take()
    assert not found.wrong and not found.lost, found.doubt()
    monkeypatch.setattr(surveyed, "AGAIN", 0)
    assert take().lost


@pytest.mark.series
def test_a_filter_that_is_too_open_fails_although_frames_were_lost(vantage, amphora, rules, bed):
    rules(lines=(*LINES, "tcp dport 9443 accept"))
    with eaten(bed, "ip saddr 198.51.100.200"):
        found = surveyed.take(vantage, context(4), amphora)
    assert "tcp-syn-9443-v4" in {one.case.id for one in found.wrong} and found.lost


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
