# SPDX-License-Identifier: Apache-2.0
"""Counters as ground truth: what arrived, and what passed, per packet."""

import pytest

from sriov_lb_tests.amphora import Amphora, Stage
from sriov_lb_tests.packets.probe import tcp_syn
from sriov_lb_tests.wire.namespace import NamespaceHost
from sriov_lb_tests.wire.vantage import Vantage, Verdict

LINES = (
    "ip saddr 198.51.100.0/25 tcp dport 80 accept",
    "ip6 saddr 2001:db8:1::/112 tcp dport 80 accept",
)


@pytest.fixture(scope="module")
def bed(testbed):
    with testbed.bed() as made:
        made.listen(("tcp", 80))
        made.nft(testbed.octavia_rules(*LINES), "-o")
        yield made


@pytest.fixture(scope="module")
def amphora(bed):
    return Amphora(NamespaceHost(bed.name("amphora")), netns=None)


@pytest.fixture
def vantage(bed, tmp_path):
    with NamespaceHost(bed.name("client")) as host:
        with Vantage(host, "c0", artefacts=tmp_path) as made:
            yield made


@pytest.mark.parametrize("version", [4, 6])
def test_counters_tell_a_drop_from_a_loss(amphora, vantage, bed, testbed, version):
    vip = {4: testbed.VIP4, 6: testbed.VIP6}[version]
    good = tcp_syn(vip, 80, source={4: "198.51.100.99", 6: "2001:db8:1::99"}[version])
    bad = tcp_syn(vip, 80, source={4: "198.51.100.200", 6: "2001:db8:1::1:99"}[version])
    with amphora.counting(vantage.interface.mac) as counts:
        assert vantage.ask(good, attempts=1).verdict is Verdict.ACCEPTED
        accepted = vantage.ask(good, attempts=1)
        dropped = vantage.ask(bad, control=good)
        # Octavia's reload replaces its own table only.
        bed.nft(testbed.octavia_rules(*LINES), "-o")
        again = vantage.ask(bad, control=good)
    everywhere = dict.fromkeys(Stage, 1)
    assert counts.of(accepted.identities[0], version) == everywhere
    for observation in (dropped, again):
        assert observation.verdict is Verdict.DROPPED
        for identity in observation.identities:
            found = counts.of(identity, version)
            assert found == {
                Stage.ARRIVED: 1, Stage.REACHED_FILTER: 1, Stage.PASSED_FILTER: 0,
            }  # fmt: skip
    assert "sriov_lb_count" not in bed.within("amphora", "nft", "list", "tables")


def test_a_frame_that_is_lost_on_the_way_is_not_counted_as_arrived(amphora, vantage, bed, testbed):
    """A drop before the amphora (here: at the segment) is told from the filter's drop."""
    bed.within("segment", "nft", "-f", "-", input=(
        "table bridge lossy { chain f { type filter hook forward priority 0;"
        " ip saddr 198.51.100.200 drop; }; }"
    ))  # fmt: skip
    good = tcp_syn(testbed.VIP4, 80, source="198.51.100.99")
    try:
        with amphora.counting(vantage.interface.mac) as counts:
            seen = vantage.ask(
                tcp_syn(testbed.VIP4, 80, source="198.51.100.200"), control=good, attempts=1
            )
    finally:
        bed.within("segment", "nft", "delete", "table", "bridge", "lossy")
    assert seen.verdict is Verdict.DROPPED
    assert counts.of(seen.identities[0], 4)[Stage.ARRIVED] == 0
    assert counts.total(Stage.PASSED_FILTER) > 0


def test_what_a_killed_run_left_is_removed(amphora, bed):
    bed.within("amphora", "nft", "add", "table", "inet", "sriov_lb_count_dead")
    with amphora.counting("02:00:00:00:00:01"):
        assert "sriov_lb_count_dead" not in bed.within("amphora", "nft", "list", "tables")


def test_the_ruleset_is_read_without_our_counters(amphora):
    before = amphora.ruleset()
    with amphora.counting("02:00:00:00:00:01"):
        assert amphora.ruleset().chains.keys() == before.chains.keys()


def test_interfaces_and_collection(amphora, testbed, tmp_path):
    found = amphora.interfaces()
    assert found["eth1"].owns(testbed.VIP4) and found["eth1"].owns(testbed.AMPHORA6)
    files = amphora.collect(tmp_path)
    assert "amphora_vip_chain" in files["ruleset.txt"].read_text()
    assert testbed.VIP4 in files["addresses.txt"].read_text()
    assert all(path.exists() for path in files.values())
