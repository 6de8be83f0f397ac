# SPDX-License-Identifier: Apache-2.0
"""The faults against rulesets as Octavia loads them: what the proof says of each."""

import dataclasses
import json
import pathlib

import pytest

from sriov_lb_tests import errors
from sriov_lb_tests.mutants.fault import FORWARDING_SETTING, MEANING, Target, Test
from sriov_lb_tests.mutants.faults import ALL, amphora
from sriov_lb_tests.mutants.faults.listeners import replaced
from sriov_lb_tests.mutants.listing import Listing, port, spelled, transaction
from sriov_lb_tests.policy.model import Policy
from sriov_lb_tests.policy.proof import difference, disagreements
from sriov_lb_tests.policy.ruleset import parse

LISTINGS = pathlib.Path(__file__).parents[1] / "policy" / "listings"
LB = {"vip_address": "198.51.100.20", "additional_vips": [{"ip_address": "2001:db8:1::20"}]}
WEB = {
    "name": "web", "protocol": "HTTP", "protocol_port": 80,
    "allowed_cidrs": ["198.51.100.0/25", "2001:db8:1::/112"],
}  # fmt: skip
FAULTS = {fault.id: fault for fault in ALL}


def read(name):
    return Listing.read((LISTINGS / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def one():
    return Target(
        read("octavia-one-listener"),
        Policy.of(LB, [WEB], own="198.51.100.30"),
        rules_file="table inet amphora_table {}",
        settings=dict.fromkeys(FORWARDING_SETTING.values(), "0"),
    )


@pytest.fixture(scope="module")
def pair():
    policy = Policy.of(
        LB,
        [{"name": "a", "protocol": "TCP", "protocol_port": 80}],
        own="198.51.100.30",
        peers=["198.51.100.31"],
    )
    return Target(read("octavia-pair"), policy, backup=True)


@pytest.mark.parametrize("name", ["source-port", "ecn-refused"])
def test_what_the_catalogue_has_to_catch_is_where_the_catalogue_sends(name):
    """Of several CIDRs, the one that its allowed source is in, wherever the kernel lists it."""
    policy = Policy.of(LB, [{"name": "c", "protocol": "TCP", "protocol_port": 8080}])
    several = Target(read("octavia-several"), policy)
    networks = [entry.network for entry in several.entries if entry.version == 4]
    assert len(networks) > 1
    for network in networks:
        aimed = dataclasses.replace(several, aimed={4: str(network[1])})
        assert f"for {network}" in FAULTS[name].make(aimed).detail


def test_there_are_enough_and_each_says_what_it_is():
    real = [fault for fault in ALL if not fault.harmless]
    assert len(real) >= 50
    assert sum(any(not test.static for test in fault.tests) for fault in real) >= 50
    assert set(MEANING) == set(Test)
    for fault in ALL:
        line = fault.line()
        assert "\n" not in line and fault.id in line and fault.breaks in line
        assert ("Harmless" in line) is fault.harmless
        assert fault.tests or fault.unseen


def test_every_fault_finds_its_place_in_some_ruleset(one, pair):
    several = Target(
        read("octavia-several"),
        Policy.of(
            LB,
            [{"name": "c", "protocol": "TCP", "protocol_port": 8080,
              "allowed_cidrs": ["10.0.0.0/8", "192.0.2.0/24"]}],
        ),
    )  # fmt: skip
    nowhere = [
        fault.id for fault in ALL if all(fault.make(t) is None for t in (one, pair, several))
    ]
    assert nowhere == []


#: Faults that one listener's ruleset has nothing for: of a pair, of files and settings, of several
#: listeners.
ELSEWHERE = {
    fault.id for fault in amphora.FAULTS
} | {"cidrs-but-first-lost", "port-set-became-range"}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in FAULTS if name not in ELSEWHERE])
def test_the_proof_tells_what_breaks_a_promise_from_what_does_not(one, name):
    fault = FAULTS[name]
    change = fault.make(one)
    before = json.dumps(one.listing.objects)
    old, new = parse(one.listing.document()), parse(change.listing.document())
    assert json.dumps(one.listing.objects) == before, "a fault changes a copy"
    found = disagreements(one.policy, new, limit=1)
    if name == "loopback-lost":  # only a PROMETHEUS listener was promised that
        assert not found
    else:
        assert bool(found) is not fault.harmless, str(found)
    if fault.harmless and "nothing changes" in fault.unseen:
        assert difference(old, new) is None
    assert change.detail and transaction(one.listing, change.listing)["nftables"]


@pytest.mark.parametrize(("name", "number"), [("port-plus-one", 1), ("port-minus-one", 0)])
def test_a_port_moves_to_where_no_listener_is(one, name, number):
    """Of two listeners side by side: else it only changed places with the other one."""
    both = replaced(
        lambda target: target.listener(),
        lambda e: [e.with_port(port("tcp", e.port)), e.with_port(port("tcp", e.port + 1))], "",
    )(one).listing  # fmt: skip
    first = one.listener().port
    change = FAULTS[name].make(Target(both, one.policy))
    assert f"tcp port {first + number} " in change.detail


@pytest.mark.parametrize(
    "name",
    ["peer-lost", "peer-wrong", "peer-network", "peer-all", "one-of-pair-closed",
     "one-of-pair-open"],
)  # fmt: skip
def test_faults_of_a_pair_break_a_promise(pair, name):
    change = FAULTS[name].make(pair)
    assert disagreements(pair.policy, parse(change.listing.document()), limit=1)


def test_a_metrics_listener_needs_loopback():
    policy = Policy.of(LB, [WEB, {"name": "m", "protocol": "PROMETHEUS", "protocol_port": 8088}])
    target = Target(read("octavia-one-listener"), policy)
    change = FAULTS["loopback-lost"].make(target)
    found = disagreements(policy, parse(change.listing.document()))
    assert any(one.clause.name == "metrics of the amphora" for one in found.too_closed)


@pytest.mark.parametrize("version", [4, 6])
def test_what_is_so_already_is_repaired_first(one, version):
    fault, name = FAULTS[f"forwarding-v{version}"], FORWARDING_SETTING[version]
    change = fault.make(one)
    assert (change.sysctls, change.repair, change.routes) == ({name: "1"}, {}, (version,))
    forwards = Target(one.listing, one.policy, settings=dict.fromkeys(
        FORWARDING_SETTING.values(), "1"))  # fmt: skip
    change = fault.make(forwards)
    assert (change.sysctls, change.repair) == ({name: "1"}, {name: "0"})
    assert "after it was 0" in change.detail
    assert fault.make(Target(one.listing, one.policy)) is None, "nobody knows how it is set"


def test_a_rules_file_that_is_not_there_cannot_be_lost(one):
    assert FAULTS["file-missing"].make(one).no_rules_file
    assert FAULTS["file-missing"].make(Target(one.listing, one.policy)) is None


def test_without_a_firewall_there_is_nothing_to_damage():
    target = Target(Listing([]), Policy.of(LB, [WEB]))
    with pytest.raises(errors.PolicyError, match="no firewall"):
        FAULTS["rule-removed-v4"].make(target)


def test_before_the_first_listener_only_the_gate_can_be_damaged():
    target = Target(read("octavia-drop-all"), Policy.of(LB, []))
    assert FAULTS["rule-removed-v4"].make(target) is None
    change = FAULTS["policy-accept"].make(target)
    assert disagreements(target.policy, parse(change.listing.document()), limit=1).too_open


# --- the listing ---------------------------------------------------------------------------------


def test_a_merged_rule_is_spelled_out():
    target = Target(read("octavia-several"), Policy.of(LB, []))
    rows = {(e.transport, e.port, str(e.network)) for e in target.entries}
    assert rows >= {
        ("tcp", 80, "None"), ("tcp", 443, "None"), ("tcp", 8080, "10.0.0.0/8"),
        ("tcp", 8080, "192.0.2.0/24"), ("tcp", 8080, "2001:db8::/32"), ("udp", 53, "None"),
    }  # fmt: skip


def test_taking_a_row_out_leaves_the_others():
    target = Target(read("octavia-several"), Policy.of(LB, []))
    for entry in target.entries:
        listing = target.listing.copy()
        listing.replace_entry(entry)
        left, every = (
            {(e.transport, e.port, str(e.network)) for e in one.entries}
            for one in (Target(listing, target.policy), target)
        )
        assert every - left == {(entry.transport, entry.port, str(entry.network))}


def test_rows_that_cannot_be_spelled_out_stay_whole():
    negated = [{"match": {"op": "!=", "left": {"payload": {"protocol": "tcp", "field": "dport"}},
                          "right": {"set": [1, 2]}}}, {"accept": None}]  # fmt: skip
    named = [{"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}},
                        "right": "@ports"}}, {"accept": None}]  # fmt: skip
    assert spelled(negated) == [negated] and spelled(named) == [named]


def test_only_tables_that_differ_are_touched(one):
    beside = FAULTS["beside-drops-listener"].make(one)
    commands = transaction(one.listing, beside.listing)["nftables"]
    text = json.dumps(commands)
    assert "amphora_table" not in text and "sriov_lb_beside" in text
    assert transaction(one.listing, one.listing.copy())["nftables"] == []


def test_our_own_tables_are_nobodys_business():
    text = json.dumps({"nftables": [
        {"metainfo": {}}, {"table": {"family": "inet", "name": "sriov_lb_count_1"}},
        {"table": {"family": "inet", "name": "amphora_table"}},
        {"chain": {"family": "inet", "table": "sriov_lb_count_1", "name": "x"}},
    ]})  # fmt: skip
    found = Listing.read(text, ignore=lambda name: name.startswith("sriov_lb_count_"))
    assert found.tables() == [("inet", "amphora_table")] and len(found.objects) == 1
