# SPDX-License-Identifier: Apache-2.0
"""The entries of the registry that the lifecycle and the pair run into."""

import pytest

from sriov_lb_tests.verdicts import defects

LAST = (
    "The last listener was deleted: Load balancer lb lets in TCP port 80 from 192.0.2.1 on eth1, "
    "which may not pass (seen on the wire and seen in the ruleset)."
)
PEERS = (
    "The amphorae of a pair cannot copy their stick tables: session persistence does not outlive a "
    "takeover."
)

LOST = (
    "The amphora was failed over: the API says ACTIVE, and nobody answers for the VIP 2001:db8::7 "
    "on its network, though somebody did before and a member does now."
)
BUILT = {"operation": "loadbalancer-create", "sriov": "ERROR", "normal": "ACTIVE"}


@pytest.mark.parametrize(
    ("requirement", "message", "seen", "wanted"),
    [
        ("LIF-002", LAST, {}, "OCTAVIA-LAST-LISTENER"),
        ("LIF-001", LAST, {}, None),
        ("LIF-002", LAST.replace("lets in", "keeps out"), {}, None),
        ("PAI-005", PEERS, {}, "OCTAVIA-PEERS-PORT"),
        ("PAI-007", "ended in ERROR", BUILT, "OCTAVIA-IPV6-PAIR"),
        ("PAI-007", "ended in ERROR", {**BUILT, "normal": "ERROR"}, None),
        ("LIF-015", LOST, {}, "OCTAVIA-FAILOVER-IPV6"),
        ("LIF-015", LOST.replace("2001:db8::7", "192.0.2.7"), {}, None),
        ("PAI-005", "haproxy does not listen", {}, None),
    ],
)
def test_a_failure_is_known_by_what_it_says(requirement, message, seen, wanted):
    found = defects.load().match(requirement, message, seen, "16.0.0")
    assert (found and found.id) == wanted


def test_a_release_that_is_not_named_has_none_of_them():
    assert defects.load().match("LIF-002", LAST, {}, "20.0.0") is None
