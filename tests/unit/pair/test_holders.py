# SPDX-License-Identifier: Apache-2.0
"""PAI: which amphora of a pair holds the VIPs, and what a takeover's story keeps."""

import contextlib
import ipaddress
from types import SimpleNamespace

import pytest

from sriov_lb_tests import errors
from sriov_lb_tests.tests.pair import test_pair
from sriov_lb_tests.verdicts.model import Broken
from sriov_lb_tests.wire.host import Interface

VIPS = {4: "198.51.100.20", 6: "2001:db8::20"}
BOTH, NONE = set(VIPS.values()), set()
ONE = SimpleNamespace(id="one", vrrp_ip="198.51.100.31")
TWO = SimpleNamespace(id="two", vrrp_ip="198.51.100.32")


@pytest.fixture
def test(monkeypatch):
    """A test of a pair of which ``has[id]`` is what each amphora has, and ``has[""]`` what nobody
    answers for; each look takes one of ``later`` over first."""
    one = test_pair.TestPair("test_one_policy_one_vip")
    one.seen, one.involved = {}, {}
    one.has, one.later = {"one": BOTH, "two": NONE}, []
    one.own = SimpleNamespace(
        versions=(4, 6), vip=VIPS.get, bare=SimpleNamespace(id="lb"),
    )  # fmt: skip
    one.stage = SimpleNamespace(amphora_host=lambda amphora: amphora)
    real = one.holders

    def holders():
        found = real()
        if one.later:
            one.has = one.later.pop(0)
        return found

    class Inside:
        def __init__(self, amphora):
            self.amphora = amphora

        def interfaces(self):
            had = tuple(map(ipaddress.ip_interface, one.has[self.amphora.id]))
            return {"eth1": Interface("eth1", 2, "", 1500, True, had)}

    monkeypatch.setattr(one, "holders", holders)
    monkeypatch.setattr(one, "pair", lambda: [ONE, TWO])
    monkeypatch.setattr(
        one, "on_the_link", lambda vip: next(name for name, had in one.has.items() if vip in had)
    )
    monkeypatch.setattr(test_pair, "Amphora", Inside)
    monkeypatch.setattr(test_pair, "ELECTION", 0.0)
    return one


@pytest.fixture(params=[True, False], ids=["ssh", "link"])
def either(request, test, monkeypatch):
    """By their interfaces, and by who answers."""
    group = SimpleNamespace(amphora_ssh=request.param)
    monkeypatch.setattr(test_pair, "CONF", SimpleNamespace(sriov_lb=group))
    return test


def test_the_one_that_has_all_is_the_master_while_the_other_has_none(either):
    assert either.master() == (ONE, TWO)
    either.held_by(ONE, "now")
    either.has = {"one": NONE, "two": BOTH}
    assert either.master() == (TWO, ONE)
    with pytest.raises(AssertionError, match="on amphora one alone. Now holding all of them: two"):
        either.held_by(ONE, "now")


SPLIT = {"one": {VIPS[4]}, "two": {VIPS[6]}, "": NONE}
LOST = {"one": {VIPS[4]}, "two": NONE, "": {VIPS[6]}}
STRANGE = {"one": NONE, "two": NONE, "02:00:00:00:00:09": BOTH}


@pytest.mark.parametrize(
    ("has", "some"), [(SPLIT, "one, two"), (LOST, "one")], ids=["split", "lost"]
)
def test_a_pair_that_shares_the_vips_or_has_lost_one_has_no_master(either, has, some):
    either.has = has
    for look in (either.master, lambda: either.held_by(ONE, "now")):
        with pytest.raises(AssertionError, match=f"all of them: none; .* least one: {some}[.]"):
            look()


@pytest.mark.parametrize("more", [BOTH, {VIPS[6]}], ids=["all", "some"])
def test_a_backup_that_has_any_of_them_too_is_seen_inside_of_it(test, monkeypatch, more):
    monkeypatch.setattr(
        test_pair, "CONF", SimpleNamespace(sriov_lb=SimpleNamespace(amphora_ssh=True))
    )
    test.has = {"one": BOTH, "two": more}
    for look in (test.master, lambda: test.held_by(ONE, "now")):
        with pytest.raises(AssertionError, match="at least one: one, two[.]"):
            look()


def test_a_station_that_is_of_neither_is_named(test, monkeypatch):
    monkeypatch.setattr(
        test_pair, "CONF", SimpleNamespace(sriov_lb=SimpleNamespace(amphora_ssh=False))
    )
    test.has = STRANGE
    with pytest.raises(AssertionError, match="all of them: 02:00:00:00:00:09; "):
        test.master()


def test_an_election_is_awaited_and_what_changes_after_it_is_not_read(either, monkeypatch):
    monkeypatch.setattr(test_pair, "ELECTION", 5.0)
    ready, either.has = either.has, SPLIT
    either.later = [ready, SPLIT, SPLIT]
    assert either.master() == (ONE, TWO)
    assert either.later == [SPLIT], "looked at until it was there, and not again"


# --- the story of a takeover ---------------------------------------------------------------------


class Away:
    failed, longest, successes = None, 1.5, [float("inf")]

    def __init__(self, *_where):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        pass


@pytest.fixture
def crash(test, monkeypatch):
    """``crash()`` is the takeover; ``test.stops``, ``test.looks`` and the report may be bad."""
    test.report = SimpleNamespace(
        witnesses=[], problem="", rate=1200.0, pcap=None, streams={}, moves=[]
    )
    test.stops, test.sees = lambda amphora: None, lambda *a, **k: test.agreement
    test.agreement = SimpleNamespace(findings=[], unclear=[], to_json=lambda: "{}")
    probing = SimpleNamespace(report=test.report, mark=lambda name: None)
    vantage = SimpleNamespace(prober=lambda *a, **k: contextlib.nullcontext(probing))
    client = SimpleNamespace(vantage=vantage, allowed=lambda version: "198.51.100.10")
    monkeypatch.setattr(test_pair.TestPair, "client", client)
    monkeypatch.setattr(test_pair.TestPair, "story", None)
    monkeypatch.setattr(test_pair, "Away", Away)
    host = SimpleNamespace(close=lambda: None)
    test.stage = SimpleNamespace(amphora_host=lambda amphora: host)
    test.lbs = SimpleNamespace(stop_amphora=lambda amphora: test.stops(amphora))
    for name, value in (
        ("ready", lambda: test.involved.update(lb="ready")),
        ("master", lambda: (ONE, TWO)),
        ("streams", lambda: ({}, {})),
        ("on_the_link", lambda vip: "two"),
        ("keep", lambda name, content: None),
        ("evidence", lambda *paths: None),
        ("look", lambda *a, **k: test.sees()),
    ):
        monkeypatch.setattr(test, name, value)
    return test.taken_over


def failing(error):
    def fail(*_arguments, **_options):
        raise error

    return fail


def test_a_story_is_told_once_and_later_tests_have_the_load_balancer_as_evidence(test, crash):
    story = crash()
    assert (story["holder"], story["problems"], story["unclear"]) == ("two", [], [])
    test.involved = {}
    test.stops = failing(AssertionError("only once"))
    assert crash() is story and test.involved == {"lb": test.own.bare}


BREAKS = {
    "the cloud": ("stops", errors.ResourceFault("Nova says no")),
    "its patience": ("stops", errors.StuckPending("it never was SHUTOFF")),
    "a look": ("sees", errors.CaptureFailed("no capture")),
}


@pytest.mark.parametrize(("where", "error"), BREAKS.values(), ids=BREAKS)
def test_what_passed_is_told_whatever_else_broke(test, crash, where, error):
    setattr(test, where, failing(error))
    with pytest.raises(type(error)):
        crash()
    test.report.witnesses = ["a denied SYN was answered"]
    with pytest.raises(Broken, match="a denied SYN was answered.*") as caught:
        crash()
    assert str(error) in str(caught.value) and len(caught.value.findings) == 1
    assert test.story is None


def test_a_client_that_saw_nothing_of_the_rest_makes_no_failure(test, crash, monkeypatch):
    monkeypatch.setattr(Away, "failed", errors.AgentFailed("the agent is gone"))
    monkeypatch.setattr(Away, "successes", [])
    test.report.witnesses = ["a denied SYN was answered"]
    story = crash()
    assert story["problems"] == ["a denied SYN was answered"]
    assert "was not seen to the end: the agent is gone" in story["unclear"][0]
