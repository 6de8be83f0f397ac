# SPDX-License-Identifier: Apache-2.0
"""No change of a listener goes on without anybody at its port who may not pass."""

from types import SimpleNamespace

import pytest

from sriov_lb_tests import errors
from sriov_lb_tests.packets.probe import tcp_syn
from sriov_lb_tests.tests.lifecycle import test_amphora, test_listeners, test_load_balancer
from sriov_lb_tests.tests.own import OTHER, THIRD, WEB
from sriov_lb_tests.tests.pair import test_pair

SOURCES = {"allowed": "192.0.2.2", "denied": "192.0.2.3", "stranger": "192.0.2.5"}
WHO = {address: who for who, address in SOURCES.items()}


class Recorded:
    """What a test asks of each change, none of which is carried out."""

    def __init__(self, case, method):
        self.test, self.method = case(method), method
        test = self.test
        self.changes = []

        def syn(version, port, which="allowed"):
            return tcp_syn("192.0.2.1", port, source=SOURCES[which])

        test.own = SimpleNamespace(
            versions=(4,), syn=syn, bare=None, asked=None, pool=SimpleNamespace(id="pool"),
            vip=lambda version: "192.0.2.1", cidrs=lambda *which: ["192.0.2.2/32"],
            listener=lambda *a, **k: "listener", damage=lambda why: None, mended=lambda: None,
        )  # fmt: skip
        test.lbs = SimpleNamespace(listeners=lambda lb: [])
        test.seen, test.involved = {}, {}
        test.possible = lambda: None
        test.ready = lambda: None
        test.strangers = lambda port: {f"stranger IPv4 to {port}": syn(4, port, "stranger")}
        test.change = self.change

    def change(self, step, act, **options):
        self.changes.append((step, options))

    def run(self):
        getattr(self.test, self.method).__wrapped__(self.test)
        return self.changes


@pytest.fixture
def client(monkeypatch):
    """Where tests ask beside the changes: nobody answers."""
    verdict = test_listeners.Verdict.DROPPED
    vantage = SimpleNamespace(ask=lambda *a, **k: SimpleNamespace(pcap=None, verdict=verdict))
    client = SimpleNamespace(vantage=vantage, **{
        who: (lambda version, address=address: address) for who, address in SOURCES.items()
    })  # fmt: skip
    monkeypatch.setattr(test_listeners.TestListenerLifecycle, "client", client)
    monkeypatch.setattr(test_listeners.TestListenerLifecycle, "evidence", lambda *a: None)


def to(streams):
    """``{port: {who}}`` of some streams."""
    found = {}
    for probe in (streams or {}).values():
        found.setdefault(probe.port, set()).add(WHO[probe.source])
    return found


def watched(options):
    """Everybody that is looked at, at each port."""
    parts = [to(options.get(name)) for name in ("opens", "closes", "guards")]
    return {
        port: set().union(*(part.get(port, set()) for part in parts))
        for port in {port for part in parts for port in part}
    }


def test_listeners_that_come_and_go_are_guarded(client):
    changes = Recorded(test_listeners.TestListenerLifecycle, "test_listeners_come_and_go").run()
    assert len(changes) == 6
    for step, options in changes:
        # While one source is let in or shut out at the port, the other may not pass, or is, too.
        assert watched(options)[OTHER] == {"allowed", "denied"} or "everybody" in step, step
    guards = [to(options["guards"]) for _, options in changes]
    assert guards == [
        {OTHER: {"denied"}}, {OTHER: {"denied"}}, {OTHER: {"denied"}},
        {OTHER: {"allowed"}}, {OTHER: {"allowed"}}, {OTHER: {"allowed", "denied"}},
    ]  # fmt: skip
    opens, closes = to(changes[1][1]["opens"]), to(changes[5][1]["closes"])
    assert opens == closes == {THIRD: {"allowed", "denied"}}


def test_who_no_cidr_names_is_watched_until_they_are_cleared(client):
    changes = Recorded(test_listeners.TestListenerLifecycle, "test_cidrs_change").run()
    *limited, (_, cleared) = (change for change in changes)
    assert [to(options["guards"]) for _, options in limited] == 3 * [{OTHER: {"stranger"}}]
    assert to(cleared["opens"]) == {OTHER: {"allowed", "stranger"}}, "and then he is the control"


def test_a_listener_that_is_disabled_enabled_or_in_error_is_guarded(client):
    for method, count in (
        ("test_listener_disabled_and_enabled", 2), ("test_listener_in_error", 1),
    ):  # fmt: skip
        recorded = Recorded(test_listeners.TestListenerLifecycle, method)
        try:
            recorded.run()
        except recorded.test.skipException:
            pass  # nothing ended in ERROR here
        assert len(recorded.changes) == count
        for _, options in recorded.changes:
            assert to(options["guards"]) == {OTHER: {"denied"}}


def test_a_listener_made_after_the_agent_restarted_is_guarded(monkeypatch):
    recorded = Recorded(test_amphora.TestAmphoraLifecycle, "test_agent_restart")
    recorded.test.stage = SimpleNamespace(amphora_host=lambda amphora: None)
    monkeypatch.setattr(recorded.test, "amphora", lambda: None)
    _, (_, options) = recorded.run()
    assert to(options["opens"]) == {OTHER: {"allowed"}}
    assert to(options["guards"]) == {OTHER: {"denied"}}


def test_a_listener_of_a_pair_is_guarded_in_every_change():
    recorded = Recorded(test_pair.TestPair, "test_one_policy_one_vip")
    recorded.test.own_listener_changes()
    assert len(recorded.changes) == 4
    both = {"denied", "stranger"}
    asked = [{name: to(options.get(name)).get(OTHER) for name in ("opens", "closes", "guards")}
             for _, options in recorded.changes]  # fmt: skip
    assert asked == [
        {"opens": {"allowed"}, "closes": None, "guards": both},
        {"opens": both, "closes": None, "guards": None},
        {"opens": None, "closes": both, "guards": None},
        {"opens": None, "closes": {"allowed"}, "guards": both},
    ]


def test_a_listener_made_while_an_amphora_is_dead_is_guarded(monkeypatch):
    recorded = Recorded(test_pair.TestPair, "test_takeover_and_listener")
    dead = SimpleNamespace(id="dead")
    recorded.test.lbs.amphorae = lambda lb: [dead]
    recorded.test.own.lbs = SimpleNamespace(change_timeout=1)
    recorded.test.own.bare = SimpleNamespace(id="lb")
    story = {"master": "dead", "backup": "alive"}
    monkeypatch.setattr(recorded.test, "taken_over", lambda: story)
    ((_, options),) = recorded.run()
    assert to(options["opens"]) == {THIRD: {"allowed"}}
    assert to(options["guards"]) == {THIRD: {"denied"}}
    assert options["only"] == ["alive"]

    def refused(step, act, **options):
        raise errors.ResourceFault("it is ERROR")

    recorded.test.change = refused
    with pytest.raises(AssertionError, match="survivor alive does not serve it: it is ERROR"):
        recorded.run()


def test_what_is_built_in_one_request_is_watched_from_the_beginning(monkeypatch):
    case = test_load_balancer.TestWholeLoadBalancer
    recorded = Recorded(case, "test_fully_populated_and_cascade")
    test = recorded.test
    test.own.scene, test.own.close = SimpleNamespace(members=[]), None
    test.own.cidrs = lambda *which: []
    test.stage = SimpleNamespace(ledger=SimpleNamespace(name=str))
    answer = SimpleNamespace(status=200), ""
    vantage = SimpleNamespace(http_or_why=lambda *a, **k: answer)
    client = SimpleNamespace(vantage=vantage, allowed=SOURCES.get)
    monkeypatch.setattr(case, "client", client)
    monkeypatch.setattr(test, "gone", lambda vip: True)
    (_, built), _ = recorded.run()
    assert built["building"] and not built["web"]
    assert to(built["opens"]) == {WEB: {"allowed"}, OTHER: {"allowed", "denied"}}
    answer = None, "it timed out"
    with pytest.raises(AssertionError, match="was to be answered with 200: it timed out"):
        recorded.run()


def test_a_request_that_nobody_answers_is_a_failure(monkeypatch):
    case = test_load_balancer.TestLoadBalancerLifecycle
    test = Recorded(case, "test_load_balancer_renamed_disabled_enabled").test
    vantage = SimpleNamespace(http_or_why=lambda *a, **k: (None, "it timed out"))
    monkeypatch.setattr(case, "client", SimpleNamespace(vantage=vantage, allowed=SOURCES.get))
    with pytest.raises(AssertionError, match="It was enabled: .* with 200: it timed out"):
        test.requests("It was enabled")


@pytest.mark.parametrize("left", [[], ["a1", "a2"]])
def test_a_failover_leaves_one_amphora(monkeypatch, left):
    test = Recorded(test_amphora.TestAmphoraLifecycle, "test_amphora_failover").test
    test.own.bare = SimpleNamespace(id="lb")
    counted = [["old"], left]
    test.lbs.amphorae = lambda lb: [SimpleNamespace(id=one) for one in counted.pop(0)]
    agreed = []
    monkeypatch.setattr(test, "agrees", lambda lb, step: agreed.append(step))
    monkeypatch.setattr(test, "serving", lambda versions: True)
    said = ", ".join(left) or "none"
    with pytest.raises(AssertionError, match=f"has {len(left)} in use by the API: {said}.$"):
        test.replaced("It was failed over", None)
    assert agreed == ["It was failed over"]
