# SPDX-License-Identifier: Apache-2.0
"""The tester's end of the swarm: what it makes of the master's events."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from sriov_lb_perf import errors
from sriov_lb_perf.swarm.control import Swarm


@pytest.fixture
def told(tmp_path):
    """told(event, …) -> a swarm of one worker whose master says these, and then nothing."""
    made = []

    def make(*events):
        left = list(events)
        channel = SimpleNamespace(diagnosis=lambda: "It ended with status -9.")
        generator = SimpleNamespace(name="client", channel=channel, close=lambda: None)
        swarm = Swarm({"client": generator}, tmp_path)
        made.append(swarm)
        swarm._order = lambda order: None
        swarm._next = lambda deadline: left.pop(0) if left else None
        swarm.begin({"client": {"job": "open"}})
        return swarm

    yield make
    for swarm in made:
        swarm._bridges["client"].theirs.close()
        swarm.close()


def ended(trial: int, **report) -> dict:
    return {"event": "trial", "trial": trial, "reports": {"client": report}, "histograms": {}}


TICK = {"event": "tick", "trial": 1, "worker": "client", "report": {"sent": 1}}
REFUSED = {
    "report": "error", "job": "open", "kind": "connect",
    "message": "0 of 64 connections to 192.0.2.1 port 80 came up within 5 s",
}  # fmt: skip


def test_progress_is_awaited_and_no_longer(told):
    told(TICK).await_progress()
    with pytest.raises(errors.WorkerFailed, match="no progress of trial 1 within 10 s"):
        told().await_progress()


@pytest.mark.parametrize(
    ("report", "raised", "words"),
    [
        (REFUSED, errors.TargetFailed, "^Client client, open job: 0 of 64 connections to 192"),
        ({**REFUSED, "kind": "ports"}, errors.ClientFailed, "Client client, open job"),
        (
            {"report": "error", "kind": "lost", "message": "the engine is gone"},
            errors.EngineFailed,
            "engine of worker client was lost during a trial. It ended with status -9",
        ),
        ({"report": "done"}, errors.WorkerFailed, "trial 1 ended before any progress"),
    ],
)
def test_a_trial_that_ends_before_it_has_begun_is_told_by_whose_fault_it_is(
    told, report, raised, words
):
    """As when it ends later, and not as an event of the master's."""
    with pytest.raises(raised, match=words) as caught:
        told(ended(1, **report)).await_progress()
    assert "{" not in str(caught.value)
    if raised is not errors.WorkerFailed:
        with pytest.raises(raised, match=words):
            told(ended(1, **report)).finish(1, 1.0)


def test_the_end_of_an_earlier_trial_is_not_that_of_this_one(told):
    swarm = told(ended(0, **REFUSED), TICK, ended(1, report="done"))
    swarm.await_progress()
    assert swarm.finish(1, 1.0).reports == {"client": {"report": "done"}}
