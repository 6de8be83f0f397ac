# SPDX-License-Identifier: Apache-2.0
"""The entries of the registry that the lifecycle and the pair run into."""

import pytest

from sriov_lb_tests.verdicts import defects

LAST = (
    "The last listener was deleted: Load balancer lb lets in TCP port 80 from 192.0.2.1 on eth1, "
    "which may not pass (seen on the wire and seen in the ruleset)."
)
#: The same as the comparison's findings and the prober's have it.
IN_RULES = (
    "The last listener was deleted: policy and ruleset disagree, amphora 1f0a: TCP SYN from "
    "192.0.2.1:40000 to 203.0.113.9:80 on eth1 (state new) may not pass (no listener is on TCP "
    "port 80), but the ruleset lets it in: inet amphora_table amphora_chain rule 5."
)
ON_WIRE = (
    "The last listener was deleted: policy and wire disagree: TCP SYN from 192.0.2.1:40000 to "
    "[2001:db8::9]:80 on eth1 (state new) may not pass (no listener is on TCP port 80), but it "
    "came through: RST"
)
PROBED = (
    "The last listener was deleted: TCP SYN to 203.0.113.9:80 from 192.0.2.1 may not pass once the "
    "API says ACTIVE, and was answered 1.20 s after that."
)

PEERS = (
    "The amphorae of a pair cannot copy their stick tables: session persistence does not outlive a "
    "takeover."
)

LOST = (
    "The amphora was failed over: the API says ACTIVE, and nobody answers for the additional VIP "
    "2001:db8::7 on its network, though somebody did before and a member does now."
)
SUBNET = (
    "A member on a second subnet of the VIP network was added: policy and wire disagree: nobody "
    "answers for the additional VIP 2001:db8::7 on its network, though 192.0.2.7 is answered for "
    "there."
)
MEMBER = (
    "A member on a network of its own was added: policy and ruleset disagree, amphora 63df: TCP "
    "SYN from 203.0.113.178:40000 to 203.0.113.37:80 on eth2 (state established) has to pass "
    "(established flows: what was let in goes on), but the ruleset does not let it in."
)
TRANSIT = (
    "It was rebooted (hard): while it went on, load balancer lb took what may not pass for "
    "something to be forwarded: TCP SYN to [2001:db8::7]:80 from 2001:db8::8, probe 1 of "
    "denied IPv6, was answered with ICMPv6 type 1 code 3 after 2122.69 ms at 11.210 s."
)
PAIR = (
    "loadbalancer-create on the SR-IOV load balancer ended in ERROR, and the same on the normal "
    "twin works. Load balancer x was to be ACTIVE and is ERROR."
)
ROW = (
    "direct VIP, normal member port, members on the VIP's subnet, IPv6, ACTIVE_STANDBY, no "
    "additional VIP: It was to be ACTIVE and ended in ERROR: Load balancer x is ERROR."
)
BUILT = {"operation": "loadbalancer-create", "sriov": "ERROR", "normal": "ACTIVE"}
ENDS = (
    "It was rebooted (soft): while it went on, load balancer x let in what may not pass, to where "
    "nobody listens, while it still shut down: TCP SYN to 203.0.113.178:80 from 203.0.113.99, "
    "probe 7739 of denied IPv4, was answered with RST after 0.04 ms at 6.449 s (the first of 3)."
)
UNPROVEN = (
    "While VRRP with the peer's address without a secret came to the master ced01b45, the VIP "
    "203.0.113.123 was announced by amphora 468a5c71, at 3.242 s (3.240 s after 'first "
    "advertisement')."
)
DEAD = (
    "A listener was created while one amphora is dead, and the survivor 468a5c71 does not serve "
    "it: The listener x-listener-meanwhile of load balancer y was to be ACTIVE and is ERROR"
)


@pytest.mark.parametrize(
    ("requirement", "message", "seen", "wanted"),
    [
        ("LIF-002", LAST, {}, "OCTAVIA-LAST-LISTENER"),
        ("LIF-001", LAST, {}, None),
        ("LIF-002", LAST.replace("lets in", "keeps out"), {}, None),
        ("LIF-002", LAST.replace("port 80 ", "port 22 "), {}, None),
        ("LIF-002", IN_RULES, {}, "OCTAVIA-LAST-LISTENER"),
        ("LIF-002", IN_RULES.replace(":80 ", ":22 "), {}, None),
        ("LIF-002", IN_RULES.replace(":80 ", ":8080 "), {}, None),
        ("LIF-002", IN_RULES.replace("eth1", "eth2"), {}, None),
        ("LIF-002", IN_RULES.replace("may not pass", "has to pass"), {}, None),
        ("LIF-002", ON_WIRE, {}, "OCTAVIA-LAST-LISTENER"),
        ("LIF-002", ON_WIRE.replace("policy and wire", "ruleset and wire"), {}, None),
        ("LIF-002", PROBED, {}, "OCTAVIA-LAST-LISTENER"),
        ("LIF-002", PROBED.replace(":80 ", ":81 "), {}, None),
        ("LIF-010", SUBNET, {}, "OCTAVIA-SECOND-SUBNET"),
        ("LIF-010", SUBNET.replace("nobody answers for", "it lets in"), {}, None),
        ("LIF-010", SUBNET.replace("added", "removed"), {}, None),
        ("LIF-010", SUBNET.replace("additional ", ""), {}, None),
        ("LIF-015", LOST.replace("additional ", ""), {}, None),
        ("LIF-017", SUBNET, {}, None),
        ("LIF-017", MEMBER, {}, "OCTAVIA-MEMBER-NOTRACK"),
        ("LIF-017", MEMBER.replace("has to pass", "may not pass"), {}, None),
        ("LIF-012", TRANSIT, {}, "OCTAVIA-AMPHORA-FORWARDS"),
        ("LIF-013", TRANSIT.replace("took what may not pass for something to be forwarded",
                                    "let in what may not pass"), {}, None),
        ("LIF-003", TRANSIT, {}, None),
        ("LIF-012", ENDS, {}, "OCTAVIA-SHUTDOWN-UNFILTERED"),
        ("LIF-012", ENDS.replace(", while it still shut down", ""), {}, None),
        ("LIF-012", ENDS.replace("with RST", "with SYN-ACK"), {}, None),
        ("LIF-013", ENDS, {}, None),
        ("PAI-005", PEERS, {}, "OCTAVIA-PEERS-PORT"),
        ("PAI-007", PAIR, BUILT, "OCTAVIA-IPV6-PAIR"),
        ("PAI-007", PAIR, {**BUILT, "normal": "ERROR"}, None),
        ("PAI-007", "Another failure.", BUILT, None),
        ("MTX-13 http/none", ROW, BUILT, "OCTAVIA-IPV6-PAIR"),
        ("MTX-13 http/none", ROW, {}, None),
        ("MTX-13 http/none", ROW, {**BUILT, "normal": "ERROR"}, None),
        ("MTX-13 http/none", ROW.replace(", IPv6,", ", IPv4 and IPv6,"), BUILT, None),
        ("MTX-13 http/none", ROW.replace("ACTIVE_STANDBY", "SINGLE"), BUILT, None),
        ("MTX-13 http/none", ROW.replace("direct VIP", "normal VIP"), BUILT, None),
        ("LIF-015", LOST, {}, "OCTAVIA-FAILOVER-IPV6"),
        ("LIF-015", LOST.replace("2001:db8::7", "192.0.2.7"), {}, None),
        ("PAI-005", "haproxy does not listen", {}, None),
        ("PAI-004", UNPROVEN, {}, "OCTAVIA-PEER-UNPROVEN"),
        ("PAI-004", UNPROVEN.replace("without a", "with a wrong"), {}, "OCTAVIA-PEER-UNPROVEN"),
        ("PAI-004", UNPROVEN.replace("to the master", "to the backup"), {}, None),
        ("PAI-004", UNPROVEN.replace("was announced by amphora 468a5c71",
                                     "was announced by fa:16:3e:00:00:01"), {}, None),
        ("PAI-004", UNPROVEN.replace("was announced by amphora 468a5c71, at 3.242 s",
                                     "did not answer for 2.2 s"), {}, None),
        ("PAI-004", UNPROVEN.replace("the peer's address", "a stranger's address"), {}, None),
        ("PAI-010", DEAD, {}, "OCTAVIA-DEAD-AMPHORA-BLOCKS"),
        ("PAI-002", DEAD, {}, None),
        ("PAI-010", "A forbidden packet passed.", {}, None),
    ],
)
def test_a_failure_is_known_by_what_it_says(requirement, message, seen, wanted):
    found = defects.load().match(requirement, message, seen, "16.0.0")
    assert (found and found.id) == wanted


def test_a_release_that_is_not_named_has_none_of_them():
    assert defects.load().match("LIF-002", LAST, {}, "20.0.0") is None
