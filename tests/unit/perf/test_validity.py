# SPDX-License-Identifier: Apache-2.0
"""The rules of RFC 9411 beside failures, objects of a size, and what iperf3 says of its ends."""

from __future__ import annotations

import dataclasses
import json
import math
from types import SimpleNamespace

import pytest

from sriov_lb_perf import errors, profiles, targets
from sriov_lb_perf.engines import iperf
from sriov_lb_perf.engines.base import Crew, Limits, failures, members
from sriov_lb_perf.engines.iperf import Bandwidth, sample_of
from sriov_lb_perf.engines.load import ConnectionRate, Goodput, RequestRate, TlsRate, _unsteady
from sriov_lb_perf.engines.probe import ConnectProbe, LatencyProbe, _not_offered
from sriov_lb_perf.engines.search import RateSearch
from sriov_lb_perf.model import Trial
from sriov_lb_perf.targets import Pair, Target
from sriov_lb_perf.trials.blocks import complete_blocks
from sriov_lb_perf.trials.run import StageRun, background_rate


def ticks(*rates: float, workers: int = 2):
    """One progress report a second and worker, with what it did in all."""
    done = dict.fromkeys(range(workers), 0.0)
    found = []
    for rate in rates:
        for worker in done:
            done[worker] += rate / workers
            found.append({"worker": worker, "report": {"done": round(done[worker])}})
    return found


def test_a_rate_that_falls_for_a_tenth_of_the_trial_is_not_constant():
    void, notes = _unsteady(ticks(*[1000] * 18, *[900] * 3, *[1000] * 9), 990, 0.05)
    assert len(void) == 1 and "not constant: -9" in void[0] and "5% is allowed" in void[0]
    assert notes == []


def test_a_rate_within_five_percent_is_constant():
    assert _unsteady(ticks(*[1030, 970] * 15), 1000, 0.05) == ([], [])
    # One second of a tenth of three: the rate is that of the tenth.
    assert _unsteady(ticks(*[1000] * 29, 900), 997, 0.05) == ([], [])


def test_without_the_limit_or_the_length_nothing_is_said_of_it():
    uneven = ticks(*[1000] * 10, *[500] * 10)
    assert _unsteady(uneven, 750, None) == ([], [])
    assert _unsteady(uneven, 750, 0.05)[0]
    void, notes = _unsteady(ticks(*[1000] * 9), 1000, 0.05)
    assert void == [] and "too short" in notes[0]
    assert "too short" in _unsteady([], 1000, 0.05)[1][0]


def sized(stage_of, engine, size=16384, **more):
    return stage_of(engine=engine, parameters={"object": size, "rate": 10, **more})


@pytest.fixture
def pair():
    urls = {"objects": {16384: "/object-16384"}, "large": "/large"}
    return Pair(
        Target("normal", "http://192.0.2.1/", tls="https://192.0.2.1:443/", **urls),
        Target("sriov", "http://192.0.2.2:81/x?y=1", tls="https://192.0.2.2/", **urls),
        (targets.Client("local", "local"),),
    )


@pytest.mark.parametrize(
    ("engine", "scheme"),
    [(RequestRate, "http"), (ConnectionRate, "http"), (Goodput, "http"), (TlsRate, "https")],
)
def test_a_stage_asks_for_the_object_of_its_size_on_its_own_listener(
    engine, scheme, pair, stage_of
):
    made = engine()
    stage = sized(stage_of, made.name)
    assert made.unfit(stage, pair) is None
    urls = [made._url(stage, pair.side(side)) for side in "AB"]
    assert all(url.startswith(scheme + ":") and url.endswith("/object-16384") for url in urls)
    missing = made.unfit(sized(stage_of, made.name, 1024), pair)
    assert "no object of 1024 bytes" in missing and "`objects`" in missing
    # Without a size: what the target names.
    plain = made._url(stage_of(engine=made.name), pair.candidate)
    assert "object" not in plain


@pytest.mark.parametrize("engine", [LatencyProbe, ConnectProbe])
def test_a_probe_asks_for_it_too(engine, pair, stage_of):
    made = engine()
    stage = sized(stage_of, made.name)
    assert made._job(stage, pair.candidate)["url"] == "http://192.0.2.2:81/object-16384"
    assert "no object of 1 bytes" in made.unfit(sized(stage_of, made.name, 1), pair)


def test_why_there_is_no_object_is_said_by_who_knows(pair, stage_of):
    silent = pair.candidate.without("objects", "the member's disk is full")
    both = Pair(pair.reference, silent, pair.clients)
    assert RequestRate().unfit(sized(stage_of, "http-rate"), both) == "the member's disk is full"


def test_the_background_is_a_share_of_the_rate_with_objects_of_that_size(stage_of, sample_of):
    runs = []
    for size, rate in ((None, 9000), (16384, 4000), (65536, 1000)):
        parameters = {} if size is None else {"object": size}
        run = StageRun(stage_of(name=f"r{size}", engine="http-rate", parameters=parameters))
        run.samples += [sample_of(side, 0, n, value=rate) for n, side in enumerate("ABBA")]
        runs.append(run)
        assert len(complete_blocks(run.samples)) == 1
    for size, share in ((None, 4500), (16384, 2000), (65536, 500), (1, 500)):
        parameters = {"rate": 1} if size is None else {"rate": 1, "object": size}
        loaded = stage_of(engine="http-latency", load=0.5, parameters=parameters)
        assert background_rate(loaded, runs) == share


def test_objects_are_named_in_the_target_file():
    data = {
        "vips": {
            name: {"url": "http://192.0.2.1/", "objects": [{"bytes": 1024, "path": "/1k"}]}
            for name in ("normal", "sriov")
        },
        "clients": [{"local": True}],
    }
    assert targets.from_mapping(data, "t.yaml").reference.objects == {1024: "/1k"}
    data["vips"]["sriov"]["objects"] = [{"bytes": 0, "path": "/1k"}]
    with pytest.raises(errors.BadTarget, match="vips/sriov/objects/0/bytes"):
        targets.from_mapping(data, "t.yaml")


def test_a_profile_says_what_it_needs():
    full = profiles.load("full")
    assert full.needs == {"iperf3", "tls", "udp", "large", "objects"}
    assert full.sizes == (1024, 2048, 4096, 16384, 65536, 262144)
    assert full.limits.steady == 0.05 and full.limits.failed == 0.00001
    assert profiles.load("smoke").needs == {"large"} and profiles.load("smoke").sizes == ()


# --- how long an answer is to be -----------------------------------------------------------------


@pytest.fixture
def crew(tmp_path):
    """A crew of nobody, whose prober fetches: the path tells status and length."""

    class Asked(Crew):
        swarm = None
        asked: list[str] = []

        @property
        def prober(self):
            return self

        def job(self, job, seconds):
            assert job["job"] == "fetch"
            self.asked.append(job["url"])
            status = 503 if job["url"].endswith("/down") else 200
            return {"status": status, "length": 4096 if "/large" in job["url"] else 64}

    Asked.asked = []
    return Asked((targets.Client("local", "local"),), tmp_path)


def test_what_does_not_answer_has_no_length(crew):
    with pytest.raises(errors.TargetFailed, match="/down answers status 503"):
        crew.length_of("http://192.0.2.1/down")


@pytest.mark.parametrize(
    ("engine", "length"),
    [(RequestRate, 64), (ConnectionRate, 64), (TlsRate, 64), (Goodput, 4096), (RateSearch, 64)],
)
def test_every_worker_knows_how_long_its_answers_are_to_be(engine, length, crew, pair, stage_of):
    made = engine()
    made.configure(stage_of(engine=made.name), pair, crew)
    assert made._length == length
    # A size that the stage asks for is known.
    asked = len(crew.asked)
    made.configure(sized(stage_of, made.name), pair, crew)
    assert made._length == 16384 and len(crew.asked) == asked


# --- what counts as failed ----------------------------------------------------------------------


def test_a_connection_closed_in_a_closed_loop_took_a_request_with_it():
    closed = {"requests": 100, "events": {"closed by the target": 3, "error: reset": 1}}
    assert failures([closed]) == {"closed without an answer": 3, "reset": 1}
    # In an open loop such a request is infinitely late, and counted there.
    assert failures([{"answered": 100, "events": {"closed by the target": 3}}]) == {}


def test_bodies_of_another_length_are_other_responses():
    def of(length):
        return members([{"variants": [{"head": "member", "length": length, "count": 2}]}])

    assert of(64) == {"member [64 bytes]": 2} and of(64) != of(8192)


def test_a_load_that_ended_early_or_was_not_sent_supports_no_claim(stage_of):
    trial = Trial(1, stage_of(seconds=1.0, warmup=0.2), "A", 0, 0, 500.0)
    probe = {"begin_ns": 2 * 10**9}
    fine = {"begin_ns": 18 * 10**8, "unsent_by_own_fault": 0, "planned": 850}

    def said(**more):
        return " ".join(_not_offered(trial, probe, {**fine, **more}, Limits()))

    assert said() == ""
    assert "ended before the probe" in said(begin_ns=14 * 10**8)
    assert "40 of 850 requests were not sent" in said(unsent_by_own_fault=40)


# --- iperf3 -------------------------------------------------------------------------------------


def report_of(
    *, reverse: bool, server=None, host=20.0, remote=30.0, version="iperf 3.12", flows=1,
    remote_host="192.0.2.1",
) -> dict:  # fmt: skip
    """As iperf3 3.12 reports (its JSON output), as far as it is read."""
    sender = {"mean_rtt": 300, "min_rtt": 200, "retransmits": 5}
    # The client of a reversed test does not send: its sender's round trips are zeros.
    shown = {"mean_rtt": 0, "min_rtt": 0, "retransmits": 5} if reverse else sender
    report = {
        "start": {
            "version": version, "tcp_mss_default": 1448,
            "test_start": {"reverse": int(reverse), "num_streams": flows},
            "connected": [{"remote_host": remote_host}] * flows,
        },
        "intervals": [{"sum": {"start": 0, "bits_per_second": 8e9, "omitted": False}}],
        "end": {
            "streams": [{"sender": shown}],
            "sum_sent": {"bytes": 1_448_000, "retransmits": 5},
            "sum_received": {"bits_per_second": 8e9, "seconds": 1.0},
            "cpu_utilization_percent": {"host_total": host, "remote_total": remote},
        },
    }
    if server == "json":
        report["server_output_json"] = {"end": {"streams": [{"sender": sender}]}}
    elif server == "text":
        report["server_output_text"] = "Accepted connection from …"
    return report


#: Of the client while iperf3 ran: nothing is wrong with it.
QUIET = {
    "cpu_share": 0.95, "waiting_for_cpu_share": 0.02, "machine_steal_share": 0.01,
    "backlog_drops": 0, "clock_step_ns": 0,
}  # fmt: skip


def sample(stage_of, health=QUIET, **more):
    trial = Trial(1, stage_of(engine="iperf3"), "A", 0, 0)
    ran = {"client": {"health": health}}
    return sample_of(trial, 0.0, report_of(**more), ran, Limits())


@pytest.mark.parametrize(
    ("what", "value", "words"),
    [
        ("machine_steal_share", 0.3, "30% of the CPU of client was stolen"),
        ("backlog_drops", 7, "7 packets were dropped in the backlog of client"),
        ("clock_step_ns", -5_000_000, "the clock of client stepped by -5.0 ms"),
    ],
)
def test_the_client_s_machine_is_watched_while_iperf3_runs(stage_of, what, value, words):
    found = sample(stage_of, reverse=False)
    assert found.void == [] and found.health.steal == 0.01 and found.health.waiting == 0.02
    # iperf3 says itself how busy it was, of each of its threads.
    assert found.health.cpu == pytest.approx(0.3)
    assert found.health.details == [{**QUIET, "client": "client"}]
    found = sample(stage_of, reverse=False, health={**QUIET, what: value})
    assert found.void == [words] == found.health.bottleneck


def test_iperf3_is_run_by_the_agent_of_the_first_client(stage_of, pair):
    jobs = []

    def job(job, seconds):
        jobs.append((job, seconds))
        said = "iperf3: no" if len(jobs) > 1 else json.dumps(report_of(reverse=True))
        return {"status": 1, "stdout": said, "stderr": "", "health": QUIET}

    class Crew:
        clients, limits, prober = pair.clients, Limits(), SimpleNamespace(job=job)

    stage = stage_of(engine="iperf3", seconds=2.0, warmup=1.0, parameters={"flows": 4})
    both = Pair(
        dataclasses.replace(pair.reference, iperf3=("192.0.2.1", 5201)), pair.candidate,
        pair.clients,
    )  # fmt: skip
    trial = Trial(1, stage, "A", 0, 0)
    found = Bandwidth().measure(trial, both, Crew)
    assert found.values["rate"] == 8e9 and found.health.details[0]["client"] == "local"
    (asked, seconds) = jobs[0]
    assert asked["job"] == "command" and seconds == asked["timeout"] == 23
    assert asked["argv"][:5] == ["iperf3", "--json", "--client", "192.0.2.1", "--port"]
    with pytest.raises(errors.EngineFailed, match="on local: status 1, no JSON: iperf3: no"):
        Bandwidth().measure(trial, both, Crew)


@pytest.mark.parametrize("busy", [2, 10**9])
def test_a_server_that_is_busy_with_the_trial_before_is_asked_again(monkeypatch, busy):
    """The load balancer between tells it late that a trial has ended; not for ever."""
    monkeypatch.setattr(iperf, "BUSY_SECONDS", 0.3)
    said = {"error": "the server is busy running a test. try again later"}
    asked = []

    def run():
        asked.append(said if len(asked) < busy else {"end": {}})
        return "more", asked[-1]

    assert iperf.when_free(run) == ("more", {"end": {}} if busy == 2 else said)
    assert len(asked) == 3 if busy == 2 else 2 < len(asked) < 6


def test_what_else_iperf3_says_is_not_asked_again():
    asked = []
    assert iperf.when_free(lambda: asked.append(1) or ({"error": "refused"},))[0]["error"]
    assert len(asked) == 1


@pytest.mark.parametrize("more", [{"reverse": False}, {"reverse": True, "server": "json"}])
def test_round_trips_are_the_sender_s_in_both_directions(stage_of, more):
    found = sample(stage_of, **more).values
    assert found["rtt"] == 300_000 and found["buffer_delay"] == pytest.approx(0.5)
    assert found["efficiency"] == pytest.approx(0.995)


@pytest.mark.parametrize(("address", "wire"), [("192.0.2.1", 1538), ("2001:db8::1", 1558)])
def test_the_transfer_time_over_the_ideal_one_where_the_bottleneck_is_stated(
    stage_of, address, wire
):
    """RFC 6349: the ideal is what full segments carry; 8 Gbit/s came."""
    stage = stage_of(engine="iperf3", parameters={"bottleneck": 10e9})
    assert [metric.name for metric in Bandwidth().metrics(stage)][-1] == "transfer_time_ratio"
    trial = Trial(1, stage, "A", 0, 0)
    report = report_of(reverse=False, remote_host=address)
    found = sample_of(trial, 0.0, report, {"client": {"health": QUIET}}, Limits())
    assert found.values["transfer_time_ratio"] == pytest.approx(1.25 * 1448 / wire)
    assert "transfer_time_ratio" not in sample(stage_of, reverse=False).values


@pytest.mark.parametrize("server", ["text", None])
def test_without_the_sender_s_own_words_there_are_no_round_trips(stage_of, server):
    found = sample(stage_of, reverse=True, server=server).values
    assert math.isnan(found["rtt"]) and math.isnan(found["buffer_delay"])
    assert found["rate"] == 8e9


@pytest.mark.parametrize(("end", "words"), [("host", "on the client"), ("remote", "on the member")])
def test_either_end_of_iperf3_can_be_the_bottleneck(stage_of, end, words):
    found = sample(stage_of, reverse=False, **{end: 97.0})
    assert found.void == [f"iperf3 {words} used 97% of its core"]
    assert found.health.cpu == pytest.approx(0.97)
    assert sample(stage_of, reverse=False).void == []


@pytest.mark.parametrize(("version", "void"), [("3.12", True), ("3.16", False), ("4.0", False)])
def test_four_flows_of_a_newer_iperf3_share_four_cores(stage_of, version, void):
    version = f"iperf {version}"
    found = sample(stage_of, reverse=False, host=180.0, version=version, flows=4)
    assert bool(found.void) is void
    assert sample(stage_of, reverse=False, host=97.0, version=version).void
