# SPDX-License-Identifier: Apache-2.0
"""What runs of the matrix, and the sets of CIDRs."""

import functools
import ipaddress
import itertools

import pytest

from sriov_lb_tests import config, errors
from sriov_lb_tests.cloud import scenario
from sriov_lb_tests.policy.packet import Packet
from sriov_lb_tests.tests.matrix import cidrs, selection, test_matrix
from sriov_lb_tests.tests.matrix.ground import POOLS

MATRIX = scenario.matrix("load-balancers")


@functools.cache
def rows_of(which):
    """The product takes a second."""
    return selection.rows(MATRIX, which)


ROWS = rows_of("pairwise")
OWN = {4: "203.0.113.77", 6: "2001:db8:113::3b6"}


def test_every_two_values_that_can_meet_do():
    missing = selection.needed(MATRIX) - selection.covered(ROWS)
    assert not missing


def test_nothing_impossible_is_selected():
    for row in ROWS:
        for cell in row.cells:
            values = {**row.values, "protocol": cell.protocol, "cidrs": cell.cidrs}
            assert MATRIX.ruled_out(values) == ""


def test_what_is_always_to_be_there_is():
    for wanted in MATRIX.always:
        assert any(wanted.items() <= row.values.items() for row in ROWS)


def test_each_load_balancer_has_a_test_of_its_own():
    methods = [name for name in dir(test_matrix.TestMatrix) if name.startswith("test_load_")]
    assert len(methods) == test_matrix.METHODS == len(ROWS)
    promises = {getattr(test_matrix.TestMatrix, name).promise.id for name in methods}
    assert promises == {f"MTX-{row.number:02d}" for row in ROWS}


def test_the_selection_is_always_the_same():
    matrix = scenario.matrix("load-balancers")
    assert selection.rows(matrix) == ROWS and selection.rows(matrix, "full") == rows_of("full")


def test_what_some_releases_cannot_build_carries_nothing_alone():
    sound = [row for row in ROWS if not selection.doubtful(row.values)]
    assert not selection.needed(MATRIX) - selection.covered(sound)
    (other,) = [row for row in ROWS if row not in sound]
    assert other.values.items() >= selection.DOUBTFUL.items()
    assert len(other.cells) == len({cell.protocol for cell in other.cells}) > 1


def test_cidrs_within_cidrs_have_a_control_on_the_same_load_balancer():
    for row in [*ROWS, *rows_of("full")]:
        sets = [cell.cidrs for cell in row.cells]
        assert "nested" not in sets or sets.index("nested") > 0


def test_few_load_balancers_carry_many_listeners():
    assert len(ROWS) <= 14
    assert max(len(row.cells) for row in ROWS) <= 8


def test_the_full_set_has_every_load_balancer_and_on_each_every_value_it_can_have():
    full = rows_of("full")
    assert len(full) == len({tuple(row.values.values()) for row in full}) == 160
    assert not selection.needed(MATRIX) - selection.covered(full)
    for row in full:
        possible = {
            (factor, value)
            for factor, values in MATRIX.listener.items()
            for value in values
            if not MATRIX.ruled_out({**row.values, factor: value})
        }
        there = {("protocol", c.protocol) for c in row.cells} | {("cidrs", c.cidrs)
                                                                 for c in row.cells}  # fmt: skip
        assert possible == there
    # Which protocol has which set differs from one load balancer to the next.
    combined = {(cell.protocol, cell.cidrs) for row in full for cell in row.cells}
    assert len(combined) == len(MATRIX.listener["protocol"]) * len(MATRIX.listener["cidrs"])


def test_the_product_is_everything_and_nothing_impossible():
    found = [
        {**row.values, "protocol": cell.protocol, "cidrs": cell.cidrs}
        for row in rows_of("product")
        for cell in row.cells
    ]
    factors = {**MATRIX.load_balancer, **MATRIX.listener}
    everything = (
        dict(zip(factors, values, strict=True)) for values in itertools.product(*factors.values())
    )
    wanted = {tuple(values.items()) for values in everything if not MATRIX.ruled_out(values)}
    assert {tuple(values.items()) for values in found} == wanted
    assert len(found) == len(wanted)


def test_every_selection_of_the_option_is_there():
    (option,) = [one for one in config.SriovLbGroup if one.dest == "matrix"]
    for which in option.type.choices:
        rows = rows_of(which)
        assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    assert len(list(option.type.choices)) == 3


def test_the_documentation_has_the_right_numbers(root):
    text = " ".join((root / "doc" / "source" / "scenarios.rst").read_text().split())
    cells = sum(len(row.cells) for row in ROWS)
    assert f"{len(ROWS)} load balancers with {cells} listeners" in text
    full = rows_of("full")
    cells = sum(len(row.cells) for row in full)
    assert f"all {len(full)} possible" in text and f"{cells:,} in all" in text
    product = rows_of("product")
    cells = [len(row.cells) for row in product]
    assert f"{sum(cells):,} listeners, up to {max(cells)} on one load balancer" in text
    nights = [
        [row for row in product if (row.number - 1) % test_matrix.METHODS == night]
        for night in range(test_matrix.METHODS)
    ]
    rows = sorted({len(night) for night in nights})
    cells = [sum(len(row.cells) for row in night) for night in nights]
    assert f"{rows[0]} or {rows[1]} load balancers with {min(cells)} to {max(cells)}" in text
    for which in ("pairwise", "full", "product"):
        found = rows_of(which)
        cells = sum(len(row.cells) for row in found)
        assert f"``{which}`` - {len(found)} - {cells:,} - " in text


def test_vfs_are_counted_for_each_amphora():
    values = {"vip": "direct", "member_port": "direct", "member_place": "own"}
    assert selection.Row(1, {**values, "topology": "ACTIVE_STANDBY"}, ()).vfs == 4
    assert selection.Row(1, {**values, "topology": "SINGLE"}, ()).vfs == 2
    one_arm = {**values, "member_place": "vip", "topology": "SINGLE"}
    assert selection.Row(1, one_arm, ()).vfs == 1


def test_every_protocol_has_its_pool():
    assert set(MATRIX.listener["protocol"]) == set(POOLS)


@pytest.mark.parametrize("name", MATRIX.listener["cidrs"])
def test_a_set_holds_the_client_where_it_shall_reach_the_listener(name):
    found = cidrs.cidr_set(name, OWN, (4, 6))
    for version in cidrs.reached(name, (4, 6)):
        networks = [ipaddress.ip_network(text, strict=False) for text in found or ()]
        address = ipaddress.ip_address(OWN[version])
        assert found is None or any(
            address in net for net in networks if net.version == version
        )


def test_the_sets_are_what_their_names_say():
    def networks(name, versions=(4,)):
        found = cidrs.cidr_set(name, OWN, versions)
        return [ipaddress.ip_network(text, strict=False) for text in found]

    wide, host = networks("nested")
    assert host.subnet_of(wide) and host != wide
    once, again = networks("overlapping")
    assert once == again and len(set(cidrs.cidr_set("overlapping", OWN, (4,)))) == 2
    low, high = networks("adjacent")
    assert len(list(ipaddress.collapse_addresses([low, high]))) == 1
    for versions in ((4,), (6,), (4, 6)):
        many = networks("many", versions)
        assert len(set(many)) == cidrs.MANY
        assert not any(
            a.overlaps(b) for a, b in zip(many, many[1:], strict=False) if a.version == b.version
        )
    assert {net.version for net in networks("mixed", (4, 6))} == {4, 6}
    assert cidrs.reached("all-ipv4", (4, 6)) == (4,)


def test_a_rule_about_a_value_that_is_none_is_an_error(monkeypatch):
    real = scenario._load

    def broken(kind, name):
        data = real(kind, name)
        data["impossible"][0]["when"]["versions"] = ["ipv5"]
        return data

    monkeypatch.setattr(scenario, "_load", broken)
    with pytest.raises(errors.ConfigurationError, match="'ipv5'"):
        scenario.matrix("load-balancers")


def test_an_answer_of_a_member_is_no_listener_s_whatever_its_port():
    def packet(interface, state):
        return Packet(interface, "203.0.113.9", "203.0.113.20", 6, dport=8100, state=state)

    assert test_matrix.port_of(packet("eth1", "new")) == 8100
    assert test_matrix.port_of(packet("eth2", "established")) is None
    assert test_matrix.port_of(packet("eth1", "established")) is None


def test_200_cidrs_are_selected_once():
    cells = [(row, cell) for row in ROWS for cell in row.cells if cell.cidrs == "many"]
    assert len(cells) == 1 and cells[0][0].values["vip"] == "direct"
