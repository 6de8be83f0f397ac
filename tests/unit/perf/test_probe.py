# SPDX-License-Identifier: Apache-2.0
"""The latency probe: whose clocks, what counts as late, what is the generator's own doing."""

from __future__ import annotations

import array
import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest

from sriov_lb_perf.agent.recording import pack
from sriov_lb_perf.engines import probe
from sriov_lb_perf.engines.base import Limits
from sriov_lb_perf.engines.probe import ARRIVAL, KERNEL, USER, LatencyProbe, Times
from sriov_lb_perf.model import Trial
from sriov_lb_perf.targets import Client, Pair, Target

MS = 1_000_000


def raw(count=200, *, kernel=True, arrival=True, lag=0, wait=0, lost=0):
    """Requests each ms whose answer takes 1 ms by the kernel, 1.2 by arrival, 1.5 by the user."""
    due = np.arange(count) * MS
    ready = due + wait
    sent = ready + lag
    done = sent + 1_500_000
    done[:lost] = -1
    columns = {
        "due": due,
        "ready": ready,
        "sent": sent,
        "done": done,
        "kernel": np.full(count, 1_000_000 if kernel else -1),
        "arrival": np.full(count, 1_200_000 if arrival else -1),
    }
    return {name: pack(array.array("q", column.tolist())) for name, column in columns.items()}


@pytest.mark.parametrize(
    ("stamps", "clock", "value"),
    [
        ({}, KERNEL, 1_000_000),
        ({"kernel": False}, ARRIVAL, 1_200_000),
        ({"kernel": False, "arrival": False}, USER, 1_500_000),
    ],
)
def test_the_best_clocks_there_are_time_a_request(stamps, clock, value):
    times = Times(raw(**stamps))
    assert times.best_clock() == clock
    assert set(times.latency()) == {value}


def test_waiting_for_a_connection_counts_and_the_generator_s_own_lag_does_not():
    times = Times(raw(lag=5 * MS, wait=3 * MS))
    assert set(times.latency(KERNEL)) == {4 * MS}
    assert set(times.lag()) == {5 * MS}
    assert set(times.response()) == {9_500_000}


@pytest.mark.parametrize(
    ("first", "second", "drift"), [(3, 1, 1.0), (1, 3, -1.0), (2, 2, 0.0)]
)  # fmt: skip
def test_a_window_that_has_not_settled_differs_from_its_second_half(first, second, drift):
    answers = np.where(np.arange(200) < 100, first, second) * MS
    # What had no answer is of neither half.
    columns = {"kernel": answers, "done": np.where(np.arange(200) % 3 == 0, -1, 500 * MS)}
    packed = {name: pack(array.array("q", each.tolist())) for name, each in columns.items()}
    assert Times(raw() | packed).settling(KERNEL) == pytest.approx(drift)


@pytest.mark.parametrize("lost", [100, 200])
def test_a_window_with_a_half_without_answers_says_nothing_of_settling(lost):
    times = Times(raw(lost=lost))
    times.due[100:] = times.due[100]  # all that is left at one moment
    assert math.isnan(times.settling())


class Crew:
    """Answers probe jobs: the SR-IOV path gives no transmit stamps (macvlan on one host)."""

    limits = Limits()
    clients = (Client("client", "local"),)
    swarm = None

    def __init__(self, **report):
        self.jobs = []
        self.report = report
        self.prober = self

    def length_of(self, url):
        return {"http://192.0.2.1/": 64}[url]

    def job(self, job, seconds):
        self.jobs.append(job)
        stamped = "192.0.2.1" in job["url"]
        return {
            "raw": raw(kernel=stamped, **self.report.get("raw", {})),
            "planned": 200,
            "answered": 200,
            "unsent": 0,
            "unsent_by_own_fault": 0,
            "window_s": 0.2,
            "health": {
                "cpu_share": 0.2, "machine_steal_share": 0.0, "backlog_drops": 0,
                "clock_step_ns": 0,
            },
            **{key: value for key, value in self.report.items() if key != "raw"},
        }  # fmt: skip


@pytest.fixture
def pair():
    return Pair(
        Target("normal", "http://192.0.2.1/"), Target("sriov", "http://192.0.2.2/"), Crew.clients
    )


@pytest.fixture
def stage(stage_of):
    return stage_of(engine="http-latency", parameters={"rate": 1000}, seconds=0.2, warmup=0)


def measure(stage, pair, crew, side="A"):
    engine = LatencyProbe()
    engine.configure(stage, pair, crew)
    return engine.measure(Trial(1, stage, side, 0, 0), pair, crew)


def test_both_vips_are_timed_by_the_same_clocks(stage, pair):
    """The normal path has kernel stamps, the SR-IOV path has not: neither uses them."""
    for side in "AB":
        sample = measure(stage, pair, Crew(), side)
        assert sample.histograms["latency"].percentile(50) == pytest.approx(1_200_000, rel=1e-3)
        assert any("sriov VIP offers" in note for note in sample.notes)
    both = Pair(pair.reference, pair.reference, pair.clients)
    sample = measure(stage, both, Crew())
    assert sample.histograms["latency"].percentile(50) == pytest.approx(1_000_000, rel=1e-3)
    assert sample.notes == [probe.CLOCKS[KERNEL]]


def test_the_schedule_is_the_same_for_both_vips_of_a_block_and_another_in_the_next(stage, pair):
    crew, engine = Crew(), LatencyProbe()
    for block, side in ((0, "A"), (0, "B"), (1, "A")):
        engine.measure(Trial(1, stage, side, block, 0), pair, crew)
    seeds = [job["seed"] for job in crew.jobs]
    assert seeds[0] == seeds[1] != seeds[2]


def test_every_request_knows_how_long_its_answer_is_to_be(stage, pair):
    """That of the normal VIP, through both; a size that the stage asks for needs no look."""
    crew = Crew()
    for side in "AB":
        measure(stage, pair, crew, side)
    assert len(crew.jobs) == 6 and {job["length"] for job in crew.jobs} == {64}
    sized = dataclasses.replace(stage, parameters={"rate": 1000, "object": 1024})
    both = Pair(
        *(dataclasses.replace(vip, objects={1024: "/1k"})
          for vip in (pair.reference, pair.candidate)),
        pair.clients,
    )  # fmt: skip
    crew = Crew()
    measure(sized, both, crew)
    assert {job["length"] for job in crew.jobs} == {1024}


def test_so_does_every_request_of_the_load_beside_it(stage, pair):
    begun = []
    swarm = SimpleNamespace(
        begin=lambda jobs: begun.append(jobs) or 1, await_progress=lambda: None,
    )  # fmt: skip
    crew = SimpleNamespace(
        clients=Crew.clients, swarm=swarm, jobs=lambda job, shared: {"client": {**job, **shared}}
    )
    engine = LatencyProbe()
    engine.configure(stage, pair, Crew())
    engine._begin_background(Trial(1, stage, "B", 0, 0, 100.0), pair.candidate.url, crew)
    (job,) = begun[0].values()
    assert job["length"] == 64 and job["url"] == "http://192.0.2.2/"


def test_a_generator_that_did_not_send_voids_its_sample(stage, pair):
    sample = measure(stage, pair, Crew(unsent=50, unsent_by_own_fault=50))
    assert "did not send 50 of 200" in sample.void[0]
    # The control: as many unsent because no connection was free is the target's doing.
    assert measure(stage, pair, Crew(unsent=50)).void == []


def test_lost_requests_are_infinitely_late(stage, pair):
    sample = measure(stage, pair, Crew(raw={"lost": 4}))
    assert sample.values["loss"] == pytest.approx(0.02)
    assert sample.histograms["latency"].percentile(99) == float("inf")
    assert sample.histograms["latency"].percentile(90) < float("inf")


def test_lag_matters_only_where_the_generator_s_clock_is_used(stage, pair):
    plain = {"lag": 2 * MS, "arrival": False}
    assert "own lag" in measure(stage, pair, Crew(raw=plain)).void[0]
    assert measure(stage, pair, Crew(raw={"lag": 2 * MS})).void == []


def test_a_clock_step_voids_a_sample(stage, pair):
    health = {
        "cpu_share": 0.2, "machine_steal_share": 0.0, "backlog_drops": 0,
        "clock_step_ns": 5_000_000,
    }  # fmt: skip
    assert "stepped by +5.0 ms" in measure(stage, pair, Crew(health=health)).void[0]


def test_what_the_probe_says_of_itself_is_kept(stage, pair):
    sample = measure(stage, pair, Crew())
    assert sample.health.cpu == 0.2 and sample.health.lag_p99 == 0.0
    assert set(sample.raw) == {"due", "ready", "sent", "done", "kernel", "arrival"}
    assert SimpleNamespace(**sample.values).loss == 0.0
