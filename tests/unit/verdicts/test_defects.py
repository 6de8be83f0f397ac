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
