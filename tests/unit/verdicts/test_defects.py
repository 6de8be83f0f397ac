# SPDX-License-Identifier: Apache-2.0
import pytest

from sriov_lb_tests import errors
from sriov_lb_tests.verdicts import defects

LISTENER = {"operation": "listener-create", "sriov": "ERROR", "normal": "ACTIVE"}


@pytest.fixture(scope="module")
def registry():
    return defects.load()


def test_a_listener_that_fails_on_sriov_alone_is_named(registry):
    found = registry.match("ENF-002", "whatever", LISTENER)
    assert found.id == "OCTAVIA-FIREWALL-TASK"
    sentence = found.sentence("18.0.1")
    assert "18.0.1" in sentence and "environment is not at fault" in sentence


@pytest.mark.parametrize(
    "seen",
    [
        {**LISTENER, "normal": "ERROR"},
        {**LISTENER, "normal": "unknown"},
        {**LISTENER, "sriov": "PENDING"},
        {**LISTENER, "operation": "loadbalancer-create"},
        {},
    ],
)
def test_without_the_control_or_with_another_state_it_is_not(registry, seen):
    assert registry.match("ENF-002", "whatever", seen) is None


@pytest.mark.parametrize(
    ("release", "affected"),
    [
        ("14.0.1", False),
        ("14.0.2", True),
        ("15.0.0", False),
        ("15.0.1", True),
        ("15.1.0", True),
        ("16.0.0", False),
        ("16.0.1", True),
        ("18.0.1", True),
        ("18.0.1.dev7", True),
        ("19.0.0", True),
        ("19.0.1", False),
    ],
)
def test_releases_of_the_firewall_task(registry, release, affected):
    defect = next(d for d in registry.defects if d.id == "OCTAVIA-FIREWALL-TASK")
    assert defect.affects(release) is affected
    assert (registry.match("X", "", LISTENER, release) is not None) is affected


def test_a_broken_registry_says_where(tmp_path):
    path = tmp_path / "defects.yaml"
    path.write_text("defects:\n  - id: lower\n    title: no full stop\n")
    with pytest.raises(errors.ConfigurationError, match="defects/0"):
        defects.load(path)
    with pytest.raises(errors.ConfigurationError, match="cannot be read"):
        defects.load(tmp_path / "none.yaml")


def test_signatures_say_more_than_one_thing(registry):
    for defect in registry.defects:
        parts = (
            defect.signature.operations,
            defect.signature.sriov,
            defect.signature.normal,
            defect.signature.requirements,
            defect.signature.message,
        )
        assert sum(bool(part) for part in parts) >= 2, defect.id


def test_the_proof_about_members_on_a_network_of_their_own_is_named(registry):
    # As a run on 16.0.0 said it.
    witness = (
        "too closed: TCP SYN from 203.0.113.10:40000 to 203.0.113.101:80 on eth2 (state "
        "established) has to pass (established flows: what was let in goes on, and members' "
        "answers come back), but the ruleset does not let it in: no rule of inet amphora_table "
        "amphora_chain matches and its policy is drop."
    )
    assert registry.match("ENF-008", witness, {}, "16.0.0").id == "OCTAVIA-MEMBER-NOTRACK"
    assert registry.match("ENF-008", witness.replace("eth2", "eth1"), {}) is None
    assert registry.match("ENF-002", witness, {}) is None


#: What the tests said when they saw them, and what a healthy or another failure says.
SEEN = [
    (
        "OCTAVIA-AMPHORA-FORWARDS", "ISO-004",
        "from the VIP network to the member network, IPv4: UDP datagram to 198.51.100.1:9 from "
        "203.0.113.109 was forwarded, and arrived at member90 ens4 as Ether / IP / UDP",
        "from the VIP network to the member network, IPv4: the control did not arrive at member90",
    ),
    (
        "OCTAVIA-FOREIGN-ADDRESSES", "ISO-006",
        "The amphora's port fa:16:3e:7f:b4:82 on the VIP network uses the IPv4 address "
        "198.51.100.98, an address of the same amphora's port on the member network, which is not "
        "an address of that port; its own are 203.0.113.9. Frames so sent: 1",
        "203.0.113.9 was answered for by fa:16:3e:00:00:01, not by an amphora.",
    ),
    (
        "OCTAVIA-CIDRS-WITHIN-CIDRS", "MTX-05 tcp/nested",
        "On a direct VIP, a TCP listener with the allowed_cidrs 203.0.113.64/26, 203.0.113.77/32, "
        "which contain one another, was to be ACTIVE and ended in ERROR, though 3 other listeners "
        "of it became ACTIVE. The listener x",
        "On a direct VIP, a TCP listener with the allowed_cidrs 203.0.113.64/26, 203.0.113.77/32, "
        "which contain one another, was to be ACTIVE and ended in ERROR. The listener x",
    ),
    (
        "OCTAVIA-ALL-OF-IPV4", "MTX-04 http/all-ipv4",
        "policy and wire disagree: TCP SYN from 2001:db8:113::5 may not pass (listener a (HTTP "
        "8104) is open to 0.0.0.0/0, and 2001:db8:113::5 is not in there), but it came through",
        "policy and wire disagree: TCP SYN from 203.0.113.5 may not pass (listener a (HTTP 8104) "
        "is open to 203.0.113.9/32, and 203.0.113.5 is not in there), but it came through",
    ),
    (
        "OCTAVIA-AMPHORA-FORWARDS", "ISO-004",
        "from the VIP network to the member network behind a normal port, IPv4: UDP datagram to "
        "198.51.100.1:9 was forwarded, and arrived at m ens4 as x. Forwarded: UDP datagram.",
        "from the VIP network to the member network behind a normal port, IPv4: TCP SYN to "
        "198.51.100.1:9 was forwarded, and arrived at m ens4 as x. Forwarded: TCP SYN, UDP "
        "datagram.",
    ),
]  # fmt: skip


def test_one_network_written_twice_is_no_conflict_and_has_no_name(registry):
    said = SEEN[2][2].replace("contain one another", "are one network written twice")
    assert registry.match("MTX-05 tcp/overlapping", said, {}, "16.0.0") is None


@pytest.mark.parametrize(("name", "requirement", "said", "other"), SEEN)
def test_what_the_tests_saw_has_its_name(registry, name, requirement, said, other):
    assert registry.match(requirement, said, {}, "16.0.0").id == name
    assert registry.match(requirement, other, {}, "16.0.0") is None


EAST = (
    "policy and ruleset disagree, amphora a: TCP SYN from 203.0.113.10:40000 to 203.0.113.101:80 "
    "on eth2 (state established) has to pass (established flows: what was let in goes on)"
)
REQUEST = "TCP from 203.0.113.5 to 203.0.113.9 port 8100 got no answer: timed out"


def test_a_request_that_fails_is_explained_by_the_defect_that_makes_it_fail(registry):
    found = registry.judge("MTX-03 tcp/none", [REQUEST, EAST], {}, "16.0.0")
    assert found.known and found.ids == "OCTAVIA-MEMBER-NOTRACK"


@pytest.mark.parametrize(
    "findings",
    [
        [REQUEST],
        [REQUEST, SEEN[3][2]],
        [EAST, "TCP from 203.0.113.5 to 203.0.113.9 port 8100 was answered by 'x', not by y."],
        [EAST, "PROMETHEUS from 203.0.113.5 to 203.0.113.9 port 8100 got no answer: timed out"],
    ],
)
def test_a_request_that_fails_is_explained_by_nothing_else(registry, findings):
    found = registry.judge("MTX-03 tcp/none", findings, {}, "16.0.0")
    assert not found.known
    (unknown,) = found.unknown
    assert str(found).startswith(unknown) and unknown not in (EAST, SEEN[3][2])


def test_a_failure_of_two_known_defects_has_both_names(registry):
    found = registry.judge("MTX-03 tcp/all-ipv4", [SEEN[3][2], EAST], {}, "16.0.0")
    assert found.known and found.ids == "OCTAVIA-ALL-OF-IPV4, OCTAVIA-MEMBER-NOTRACK"
    assert not registry.judge("MTX-03", [SEEN[3][2], EAST], {}, "20.0.0").known


def test_what_a_run_did_not_look_for(registry):
    def ids(*tried, release="16.0.0"):
        return {defect.id for defect in registry.not_looked_at(release, tried)}

    everything = {defect.id for defect in registry.defects if defect.affects("16.0.0")}
    assert ids() == everything
    assert ids("PAI-005") == everything - {"OCTAVIA-PEERS-PORT"}
    # It shows in three places, and two of them were not looked at.
    assert "OCTAVIA-MEMBER-NOTRACK" in ids("ENF-008")
    assert "OCTAVIA-MEMBER-NOTRACK" not in ids("ENF-008", "LIF-017", "MTX-01 tcp/none")
    assert ids(release="20.0.0") == set()
