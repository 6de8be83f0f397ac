# SPDX-License-Identifier: Apache-2.0
"""What becomes of a row's cells, load balancers and evidence when something goes wrong on the
way."""

import dataclasses
from types import SimpleNamespace

import pytest
from openstack import exceptions as sdk

from sriov_lb_tests import errors
from sriov_lb_tests.cloud import scenario
from sriov_lb_tests.tests.matrix import selection, test_matrix
from sriov_lb_tests.tests.matrix.selection import Cell
from sriov_lb_tests.verdicts.model import Broken, Verdict

ROWS = selection.rows(scenario.matrix("load-balancers"))
CELLS = (Cell("TCP", "none"), Cell("HTTP", "one-host"), Cell("HTTP", "nested"))


def row(number, vip):
    found = next(one for one in ROWS if one.values["vip"] == vip and one.vfs <= 2)
    return dataclasses.replace(found, number=number, cells=CELLS)


DIRECT, NORMAL, FOLLOWING = row(1, "direct"), row(1, "normal"), row(2, "normal")
FAULT = errors.ResourceFault("The listener x is ERROR.")
FULL = errors.ResourceFault("No valid host was found.")
QUOTA = sdk.HttpException("Quota has been met for resources: load_balancer", http_status=403)


class Place:
    """Stands in for the ground, and for the load balancers on it."""

    def __init__(self):
        self.client, self.member, self.lbs = "client", "member", self
        self.asked, self.deleted = [], []
        #: What is raised when a row's load balancer is asked for, waited for, or changed.
        self.refused, self.failed, self.unchanged = {}, {}, None
        self.state, self.control = "ACTIVE", "ACTIVE"

    def ask(self, row):
        if row.number in self.refused:
            raise self.refused[row.number]
        self.asked.append(f"lb{len(self.asked) + 1}")
        return SimpleNamespace(id=self.asked[-1])

    def wait(self, lb_id):
        if lb_id in self.failed:
            raise self.failed[lb_id]
        return SimpleNamespace(id=lb_id)

    def delete(self, lb_id):
        self.deleted.append(lb_id)

    def show(self, lb_id):
        return SimpleNamespace(provisioning_status=self.state)

    def listeners(self, lb):
        return []

    def remove_listener(self, lb, port):
        if self.unchanged:
            raise self.unchanged

    @property
    def listener_on_a_normal_vip(self):
        if isinstance(self.control, Exception):
            raise self.control
        return self.control


@pytest.fixture
def place(test, monkeypatch):
    """A cloud on which every listener becomes ACTIVE and serves."""
    found = Place()
    monkeypatch.setattr(test_matrix.TestMatrix, "_ground", found)
    monkeypatch.setattr(test_matrix.TestMatrix, "_ahead", {})
    monkeypatch.setattr(test, "add", lambda on, cell, port: on.ports.update({cell: port}))
    monkeypatch.setattr(test, "wanted", lambda balancer, cell: ["192.0.2.1/32"])
    looks(test, monkeypatch, lambda outcomes: None)
    return found


def looks(test, monkeypatch, see):
    """Let the cells be looked at with the result that ``see`` gives them."""

    def look_at(balancer, outcomes):
        see(outcomes)
        for outcome in outcomes:
            outcome.verdict = outcome.verdict or Verdict.PASS

    monkeypatch.setattr(test, "look_at", look_at)


def nested_fails(test, monkeypatch):
    """The listener with CIDRs within CIDRs, which is the first to be made."""

    def add(balancer, cell, port):
        if cell.cidrs == "nested":
            raise FAULT
        balancer.ports[cell] = port

    monkeypatch.setattr(test, "add", add)


def verdicts(test):
    return [one.verdict for one in test.written()]


def test_a_row_without_trouble(test, place):
    test.run_row(NORMAL, FOLLOWING)
    assert verdicts(test) == [Verdict.PASS] * 3
    assert place.asked == ["lb1", "lb2"] and place.deleted == ["lb1"]
    assert list(test._ahead) == [2] and test.collected == []


def test_what_nobody_came_to_look_at_does_not_pass(test, place, monkeypatch):
    def interrupt(outcomes):
        outcomes[0].verdict = Verdict.FAIL
        outcomes[0].problems.append("No answer.")
        raise KeyboardInterrupt

    looks(test, monkeypatch, interrupt)
    with pytest.raises(KeyboardInterrupt):
        test.run_row(NORMAL, None)
    assert verdicts(test) == [Verdict.FAIL, Verdict.ERROR, Verdict.ERROR]
    assert all("interrupted before" in one.reason for one in test.written()[1:])
    assert place.deleted == ["lb1"]


def test_a_listener_that_failed_before_an_interruption_is_told_as_such(test, place, monkeypatch):
    nested_fails(test, monkeypatch)
    place.unchanged = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        test.run_row(NORMAL, None)
    assert verdicts(test) == [Verdict.ERROR, Verdict.ERROR, Verdict.FAIL]
    assert test.written()[2].reason == "The listener x is ERROR."


@pytest.mark.parametrize("broken", ["refused", "failed"])
def test_a_replacement_that_comes_to_nothing_hides_no_failure_and_is_deleted(
    test, place, monkeypatch, broken
):
    nested_fails(test, monkeypatch)
    place.state = "ERROR"
    if broken == "failed":
        place.failed["lb2"] = FULL
    else:
        genuine = test.built
        monkeypatch.setattr(
            test, "built", lambda *of: place.refused.update({1: QUOTA}) or genuine(*of)
        )
    test.run_row(DIRECT, None)
    assert verdicts(test) == [Verdict.ERROR, Verdict.ERROR, Verdict.FAIL]
    none, _, nested = (one.reason for one in test.written())
    assert ("No valid host" if broken == "failed" else "Quota") in none
    assert "nested" not in none and "The listener x is ERROR." in nested
    assert set(place.deleted) == set(place.asked)


def test_a_listener_that_cannot_be_made_again_hides_no_failure_either(test, place, monkeypatch):
    nested_fails(test, monkeypatch)

    def repair(balancer):
        raise FULL

    monkeypatch.setattr(test, "repair", repair)
    test.run_row(DIRECT, None)
    *others, nested = test.written()
    assert [one.verdict for one in others] == [Verdict.ERROR, Verdict.ERROR]
    # The other two are its control.
    assert nested.verdict.broken and "though 2 other listeners" in nested.reason


def test_without_its_control_a_failure_is_a_failure_still(test, place, monkeypatch):
    nested_fails(test, monkeypatch)
    place.control = errors.QuotaExceeded("No more load balancers.")
    test.run_row(dataclasses.replace(DIRECT, cells=CELLS[2:]), None)
    (nested,) = test.written()
    assert (nested.verdict, nested.observations["normal"]) == (Verdict.FAIL, "unknown")
    assert "The listener x is ERROR." in nested.reason and "No more load" in nested.reason
    assert nested.reason.count("The listener x is ERROR.") == 1


def test_the_next_ones_trouble_is_not_this_ones(test, place):
    place.refused[2] = QUOTA
    test.run_row(NORMAL, FOLLOWING)
    assert verdicts(test) == [Verdict.PASS] * 3 and place.deleted == ["lb1"]
    assert "Quota" in test.seen["row 2, asked for ahead"]
    outcomes = test.run_row(FOLLOWING, None)
    assert verdicts(test)[3:] == [Verdict.ERROR] * 3
    with pytest.raises(errors.CloudError, match="Quota"):
        test.conclude(outcomes)


def test_what_was_seen_of_a_load_balancer_is_not_collected_again_when_it_is_gone(
    test, place, monkeypatch
):
    def fail(outcomes):
        outcomes[0].verdict = Verdict.FAIL

    looks(test, monkeypatch, fail)
    promise = test_matrix.base.Promise("MTX-01", "It serves.")
    with pytest.raises(Broken), test._verdict(promise):
        test.conclude(test.run_row(NORMAL, None))
    assert test.collected == [("matrix-1", "lb1")]


def test_what_was_seen_of_a_damaged_one_stays_beside_that_of_its_replacement(
    test, place, monkeypatch
):
    nested_fails(test, monkeypatch)
    place.state = "ERROR"
    test.run_row(NORMAL, None)
    assert test.collected == [("matrix-1-8102", "lb1"), ("matrix-1", "lb2")]
    assert place.deleted == ["lb1", "lb2"]


def test_evidence_that_cannot_be_had_takes_no_verdict_away(test, place, monkeypatch):
    def fail(outcomes):
        outcomes[0].verdict = Verdict.FAIL

    def collect(folder, lbs):
        raise OSError("the disk is full")

    looks(test, monkeypatch, fail)
    test.stage.collect = collect
    test.run_row(NORMAL, None)
    assert verdicts(test) == [Verdict.FAIL, Verdict.PASS, Verdict.PASS]
    assert "the disk is full" in test.written()[0].reason and place.deleted == ["lb1"]
