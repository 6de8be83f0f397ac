# SPDX-License-Identifier: Apache-2.0
"""The end of a process: what was made is undone, whatever else breaks."""

import json
from types import SimpleNamespace

import pytest
from keystoneauth1 import exceptions as ka

from sriov_lb_tests import errors
from sriov_lb_tests.tests import stage
from sriov_lb_tests.tests.isolation import place
from sriov_lb_tests.verdicts.model import Verdict


@pytest.fixture
def ending(monkeypatch):
    """A stage with something to undo, and in ``done`` what its end did."""
    done = []
    made = stage.Stage.__new__(stage.Stage)
    made.turn = SimpleNamespace(give=lambda: done.append("turn"))
    made.ledger = SimpleNamespace(
        open_entries=["network"], entries=["network"], close=lambda: done.append("ledger")
    )
    made.clouds, made._provider, made._closers, made._hosts = object(), None, [], {}
    made.recorder = SimpleNamespace(append=done.append)
    made._remains = lambda: []
    monkeypatch.setattr(stage.sweep, "undo", lambda *a, **k: done.append("undone") or [])
    option = SimpleNamespace(delete_timeout=1, check_interval=1)
    monkeypatch.setattr(stage, "CONF", SimpleNamespace(sriov_lb=option))
    return made, done


def test_a_dead_agent_or_host_keeps_nothing_from_being_undone(ending):
    made, done = ending

    def dead():
        raise errors.AgentFailed("the guest is gone")

    made.on_close(lambda: done.append("first"))
    made.on_close(dead)
    made._hosts = {
        "a": SimpleNamespace(close=dead), "b": SimpleNamespace(close=lambda: done.append("host"))
    }  # fmt: skip
    made.close()
    *before, said, ledger, turn = done
    assert before == ["first", "host", "undone"]
    assert (said.requirement, said.verdict) == ("RUN-001", Verdict.PASS)
    assert (ledger, turn) == ("ledger", "turn")


def test_the_turn_is_given_back_even_if_nothing_could_be_undone(ending, monkeypatch):
    made, done = ending

    def away(*_args, **_options):
        raise errors.ApiUnreachable("the cloud is away")

    monkeypatch.setattr(stage.sweep, "undo", away)
    with pytest.raises(errors.ApiUnreachable):
        made.close()
    assert done == ["turn"]


def test_what_has_vfs_gives_them_back_once_to_whoever_needs_many():
    made, done = stage.Stage.__new__(stage.Stage), []
    made._lent = []
    made.lend(lambda: done.append("isolation"))
    made.take_back()
    made.take_back()
    assert done == ["isolation"]


def test_a_place_that_was_released_is_built_again():
    deleted, asked = [], iter([SimpleNamespace(id="first"), SimpleNamespace(id="second")])
    site = SimpleNamespace(
        flavor_of=lambda *a, **k: None, ask_load_balancer=lambda *a, **k: next(asked),
        lbs=SimpleNamespace(delete=deleted.append), vip_net=SimpleNamespace(subnets={4: None}),
    )  # fmt: skip
    lent = []
    one = place.Place(SimpleNamespace(site=site, lend=lent.append), None, "SINGLE", "what", False)
    assert one.asked.id == "first" and len(lent) == 1
    lent.pop()()
    assert deleted == ["first"] and one.asked.id == "second" and len(lent) == 1


def test_what_one_service_does_not_tell_keeps_no_other_evidence_back(tmp_path, monkeypatch):
    one = stage.Stage.__new__(stage.Stage)
    one.clouds = SimpleNamespace(admin=None)

    def view(lb_id):
        if lb_id == "first":
            raise ka.ConnectFailure("Unable to establish connection")
        return {"id": lb_id}

    option = SimpleNamespace(amphora_ssh=False)
    monkeypatch.setattr(stage, "CONF", SimpleNamespace(sriov_lb=option))
    monkeypatch.setattr(one, "_api_view", view)
    lbs = {name: SimpleNamespace(id=name) for name in ("first", "second")}
    kept = [json.loads(path.read_text()) for path in one.collect(tmp_path, lbs)]
    assert kept == [{"not available": "Unable to establish connection"}, {"id": "second"}]
