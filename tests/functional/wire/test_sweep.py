# SPDX-License-Identifier: Apache-2.0
"""The sweep on real packets: every port right, whatever is done to the way there and back."""

import threading
import time

import pytest

from sriov_lb_tests.packets.probe import tcp_syn, udp

ALLOWED = {4: "198.51.100.99", 6: "2001:db8:1::99"}
DENIED = {4: "198.51.100.200", 6: "2001:db8:1::1:99"}
FAR = {4: "203.0.113.7", 6: "2001:db8:7::7"}
BOTH = pytest.mark.parametrize("version", [4, 6])
LISTENING = (80, 81, 8080)
RULES = (
    "tcp dport { 80, 9000-9063, 65535 } accept",
    "ip saddr 198.51.100.0/25 tcp dport 8080 accept",
    "ip6 saddr 2001:db8:1::/112 tcp dport 8080 accept",
    "udp dport { 53, 99 } accept",
)
CLOSED = ((9000, 9063), (65535, 65535))
#: Two of a hundred frames, each way.
LOSS = """
table inet loss {
  chain a { type filter hook prerouting priority -400; numgen random mod 100 < 2 drop; }
  chain b { type filter hook output priority 400; numgen random mod 100 < 2 drop; }
}
"""


def single(*ports):
    return tuple((port, port) for port in ports)


@pytest.fixture(scope="module")
def bed(testbed):
    with testbed.bed() as made:
        made.listen(*(("tcp", port) for port in LISTENING), ("udp", 53))
        yield made


@pytest.fixture
def rules(bed, testbed):
    def load(*lines):
        bed.nft("flush ruleset")
        if lines:
            bed.nft(testbed.octavia_rules(*lines), "-o")

    load(*RULES)
    return load


@pytest.fixture
def sweep(vantage, vip):
    def run(version=4, source=DENIED, kind=tcp_syn, **options):
        return vantage.sweep(
            kind(vip[version], 1, source=source[version]),
            control=tcp_syn(vip[version], 80, source=ALLOWED[version]),
            **options,
        )

    return run


def total(intervals):
    return sum(high - low + 1 for low, high in intervals)


@BOTH
def test_three_kinds_of_ports(sweep, bed, version):
    seen = sweep(version)
    assert seen.problem == "" and seen.undecided == (), str(seen)
    assert (seen.open, seen.closed) == (single(80), CLOSED), str(seen)
    assert total(seen.dropped) == 65536 - 66
    assert seen.state(80) == "open" and seen.state(9063) == "closed"
    assert seen.state(81) == "silent" and seen.state(0) == "silent"
    assert seen.answers[80].data and seen.pcap.stat().st_size > 1000
    assert DENIED[version] not in bed.within("amphora", "ss", "-Htn", "state", "syn-recv")
    # The allowed source sees one more.
    assert sweep(version, ALLOWED).open == single(80, 8080)


@BOTH
def test_no_firewall(sweep, rules, version):
    """Every port answers, and every answer is read."""
    rules()
    seen = sweep(version)
    assert seen.problem == "" and seen.dropped == (), str(seen)
    assert seen.open == ((80, 81), (8080, 8080))
    assert total(seen.closed) == 65536 - 3


def test_one_port_more_and_one_less(sweep, rules):
    """One port too open in the middle of nothing, one too closed in the middle of everything."""
    rules(*RULES, "tcp dport 31337 accept")
    seen = sweep()
    assert (31337, 31337) in seen.closed and total(seen.closed) == 66, str(seen)
    rules("tcp dport != 31337 accept")
    seen = sweep()
    assert seen.dropped == single(31337) and seen.problem == "", str(seen)


@pytest.mark.parametrize("firewall", [True, False])
@BOTH
def test_right_when_frames_are_lost(sweep, bed, rules, version, firewall):
    rules(*(RULES if firewall else ()))
    bed.nft(LOSS)
    seen = sweep(version)
    assert seen.problem == "" and 0.005 < seen.loss < 0.15, str(seen)
    if firewall:
        assert (seen.open, seen.closed) == (single(80), CLOSED), str(seen)
        assert seen.credits >= 3
    else:
        assert seen.open == ((80, 81), (8080, 8080)) and seen.dropped == (), str(seen)


@pytest.mark.series
def test_limited_resets_are_no_drops(sweep, bed, rules):
    """A target that sends so many RSTs a second only: nothing is called dropped for that."""
    rules()
    bed.nft(
        "table inet limited { chain c { type filter hook output priority 0; "
        "tcp flags & rst == rst limit rate over 20000/second drop; }; }"
    )
    seen = sweep(limit=8.0)
    assert seen.dropped == (), str(seen)
    assert total(seen.closed) + total(seen.undecided) == 65536 - 3
    assert (seen.problem != "") == (seen.undecided != ())


@pytest.mark.series
def test_rejected_ports_are_told_or_nothing_is(sweep, bed, testbed):
    """Few ports that answer with ICMP are found; where many do, silence counts for nothing."""
    bed.nft("flush ruleset")
    few = testbed.octavia_rules("tcp dport 80 accept", "tcp dport 7000-7002 reject with icmpx "
                                "admin-prohibited")  # fmt: skip
    bed.nft(few)
    time.sleep(2.2)
    seen = sweep()
    assert seen.rejected == ((7000, 7002),) and seen.problem == "", str(seen)
    bed.nft("flush ruleset")
    bed.nft(testbed.octavia_rules("tcp dport 80 accept", "reject with icmpx admin-prohibited"))
    seen = sweep()
    assert seen.dropped == () and "ICMP errors" in seen.problem, str(seen)
    assert seen.open == single(80)


@pytest.mark.series
@BOTH
def test_udp_behind_a_firewall(sweep, version):
    seen = sweep(version, kind=udp)
    assert seen.problem == "" and seen.protocol == "udp", str(seen)
    assert (seen.open, seen.closed) == (single(53), single(99)), str(seen)
    assert total(seen.dropped) == 65534


@pytest.mark.series
def test_udp_without_a_firewall_is_undecided(sweep, rules):
    rules()
    for _ in range(2):  # also when the limiter is used up already
        seen = sweep(kind=udp)
        assert seen.open == single(53) and seen.dropped == (), str(seen)
        assert total(seen.undecided) > 65000 and "ICMP errors" in seen.problem
    rules(*RULES)
    assert sweep().dropped, "TCP is not to suffer from UDP's ICMP"


def test_a_dead_control_proves_nothing(sweep, rules):
    rules("tcp dport 81 accept")
    seen = sweep()
    assert seen.dropped == () and seen.open == single(81), str(seen)
    assert "was not answered" in seen.problem and "nothing can be said" in seen.problem


def test_a_way_that_breaks_proves_nothing(sweep, bed):
    """The target falls silent in mid-sweep: what was not yet asked is undecided."""
    cut = threading.Timer(
        0.5, bed.nft, ["table inet deaf { chain c { type filter hook prerouting priority -400; "
                       "policy drop; }; }"]
    )  # fmt: skip
    cut.start()
    seen = sweep(rate=40_000, limit=4.0)
    cut.join()
    assert seen.problem and seen.undecided, str(seen)
    assert seen.state(65535) == "undecided"


def test_a_part_and_a_pace(sweep):
    started = time.monotonic()
    seen = sweep(ports=(9000, 9999), rate=5000, attempts=2)
    assert time.monotonic() - started > 0.35
    assert seen.closed == ((9000, 9063),) and seen.dropped == ((9064, 9999),), str(seen)
    assert seen.state(80) == "not asked"
    # Asked for twice where nothing was lost; on a busy machine something may have been.
    assert seen.credits == 2 or seen.loss > 0, str(seen)


def test_sources_behind_a_router(sweep, vantage, testbed, rules):
    """Nobody knows the way back at first: it must not look like a drop."""
    rules()
    vantage.play(testbed.GATEWAY4, testbed.GATEWAY6)
    seen = sweep(source=FAR)
    assert seen.problem == "" and seen.dropped == () and total(seen.closed) == 65533, str(seen)


def test_from_the_guest_s_own_address(vantage, vip, bed):
    seen = vantage.sweep(tcp_syn(vip[4], 1), control=tcp_syn(vip[4], 80))
    assert seen.problem == "" and seen.open == single(80, 8080), str(seen)
    own = str(vantage.interface.address(4))
    assert own not in bed.within("amphora", "ss", "-Htn", "state", "syn-recv")
