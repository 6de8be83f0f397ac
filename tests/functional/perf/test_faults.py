# SPDX-License-Identifier: Apache-2.0
"""What goes wrong in mid-run is told in words, and what was measured so far is kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import sriov_lb_perf
import sriov_lb_tests
from sriov_lb_perf import carry, compare, errors
from sriov_lb_perf.clients import Client, Generator
from sriov_lb_perf.engines.base import Crew
from sriov_lb_perf.results import store
from sriov_lb_perf.swarm import control
from sriov_lb_perf.swarm.control import Swarm

REQUESTS = {
    "name": "requests",
    "title": "Request rate",
    "engine": "http-rate",
    "seconds": 0.3,
    "warmup": 0.1,
    "blocks": 5,
    "parameters": {"connections": 16},
}


LATENCY = {
    "name": "latency",
    "title": "Latency",
    "engine": "http-latency",
    "seconds": 0.3,
    "warmup": 0.1,
    "blocks": 5,
    "parameters": {"rate": 200, "connections": 8, "percentiles": [50]},
}
LOADED = {**LATENCY, "name": "loaded", "title": "Latency at half load", "load": 0.5}


def after_block(number, action):
    """A progress listener that acts when that many blocks are done."""
    done = []

    def listen(event, run, sample):
        if event == "block":
            done.append(event)
            if len(done) == number:
                action()

    return listen


def test_a_vip_that_goes_away_ends_the_run_and_keeps_the_blocks_before(
    bed, pair_of, profile_of, tmp_path
):
    pair = pair_of(bed.vip("stays", 90), bed.vip("goes", 91))
    outcome = compare.compare(
        pair, profile_of(REQUESTS), tmp_path, seed=1,
        progress=after_block(2, lambda: bed.kill("goes")),
    )  # fmt: skip
    assert isinstance(outcome.failure, errors.TargetFailed), outcome.failure
    assert "refused" in str(outcome.failure) or "connections to" in str(outcome.failure)
    found = store.load(outcome.folder)
    assert found["status"] == "incomplete"
    assert 8 <= len(found["trials"]) <= 11


def test_a_target_that_answers_503_is_refused_before_anything_is_measured(
    bed, pair_of, profile_of, tmp_path
):
    good = bed.vip("good", 92)
    bad = bed.vip("bad", 93, extra="  http-request return status 503\n")
    with pytest.raises(errors.TargetFailed, match="sriov VIP .* answers status 503"):
        compare.compare(pair_of(good, bad), profile_of(REQUESTS), tmp_path)


def test_a_vip_that_goes_away_beside_a_load_is_told_by_what_it_did(
    bed, pair_of, profile_of, tmp_path
):
    """The load is the first to find nobody there: before the probe, and before any progress."""
    pair = pair_of(bed.vip("stays2", 86), bed.vip("goes2", 87))
    outcome = compare.compare(
        pair, profile_of(REQUESTS, LOADED), tmp_path, seed=1,
        progress=after_block(6, lambda: bed.kill("goes2")),
    )  # fmt: skip
    assert isinstance(outcome.failure, errors.TargetFailed), outcome.failure
    assert "0 of 64 connections to 10.77.1.2 port 87" in str(outcome.failure)
    assert "{" not in str(outcome.failure)
    found = store.load(outcome.folder)
    assert found["status"] == "incomplete" and "0 of 64" in found["reason"]
    # Five blocks, one beside the load, and up to two trials of the VIP that stays.
    assert 24 <= len(found["trials"]) <= 26


def test_a_prober_that_dies_between_two_jobs_ends_the_run_and_keeps_the_blocks_before(
    bed, pair_of, profile_of, tmp_path, monkeypatch
):
    url = bed.vip("probed", 88)
    probers = []
    start = Crew.prober.fget
    monkeypatch.setattr(Crew, "prober", property(lambda crew: probers.append(start(crew)) or
                                                 probers[-1]))  # fmt: skip

    def kill():
        os.kill(probers[-1].hello["pid"], signal.SIGKILL)
        probers[-1].channel._process.wait(10)

    outcome = compare.compare(
        pair_of(url, url), profile_of(LATENCY), tmp_path, seed=1, progress=after_block(2, kill)
    )
    assert isinstance(outcome.failure, errors.EngineFailed), outcome.failure
    assert "client client was lost before the job 'open'" in str(outcome.failure)
    assert "It ended with status -9" in str(outcome.failure)
    found = store.load(outcome.folder)
    assert found["status"] == "incomplete" and len(found["trials"]) == 8
    # And not as if it still ran.
    assert "was lost" in found["reason"] and found["finished"] is not None


def test_a_member_whose_page_becomes_empty_supports_no_claim(bed, pair_of, profile_of, tmp_path):
    """Through both VIPs, 200 each time, and whole by its own Content-Length: faster, perhaps."""
    url = bed.vip("emptied", 89)
    page = bed.folder / "www" / "index.html"
    full, empty = page.with_name("full.html"), page.with_name("empty.html")
    os.link(page, full)
    empty.write_bytes(b"")
    try:
        outcome = compare.compare(
            pair_of(url, url), profile_of(REQUESTS), tmp_path, seed=1,
            progress=after_block(2, lambda: os.replace(empty, page)),
        )  # fmt: skip
    finally:
        os.replace(full, page)
    assert outcome.complete, outcome.failure
    trials = outcome.document["trials"]
    assert all(not trial["failed"] and not trial["void"] for trial in trials[:8])
    for trial in trials[8:]:
        assert set(trial["failed"]) == {"length 0, not 64"} and trial["requests"] == 0
        assert "length 0, not 64" in trial["void"][-1]
    assert not outcome.document["verdict"]["sound"]
    finding = outcome.analysis.metric("requests.rate").finding
    assert finding.verdict == "could not tell", finding


@pytest.mark.series
def test_responses_that_fail_under_way_support_no_claim(bed, pair_of, profile_of, tmp_path):
    """Every tenth request of one VIP is answered 503: faster, perhaps, but not valid."""

    def seen(pair, profile, crew):
        crew.lengths[pair.reference.url] = 64
        return {}, pair

    good = bed.vip("good2", 94)
    bad = bed.vip("bad2", 95, extra="  http-request return status 503 if { rand(10) eq 0 }\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare.preflight, "look", seen)
        outcome = compare.compare(pair_of(good, bad), profile_of(REQUESTS), tmp_path)
    assert outcome.complete
    finding = outcome.analysis.metric("requests.rate").finding
    assert finding.verdict == "could not tell", finding
    assert any("status 503" in gate.text for gate in outcome.analysis.gates)


@pytest.fixture
def swarm(client, tmp_path):
    """Two workers, ``one`` and ``two``, on one client."""
    with client.open() as host:
        generators = {name: Generator.start(client, host) for name in ("one", "two")}
        with Swarm(generators, tmp_path / "logs") as made:
            yield made


def test_a_killed_worker_is_named(bed, swarm):
    url = bed.vip("workers", 96)
    job = {"job": "closed", "url": url, "connections": 4, "warmup": 0, "seconds": 0.2}
    report = swarm.run({name: job for name in swarm.workers}, 0.2)
    assert set(report.reports) == {"one", "two"}
    number = swarm.begin({name: {**job, "seconds": 30} for name in swarm.workers})
    os.kill(swarm._workers["two"].pid, signal.SIGKILL)
    with pytest.raises(errors.WorkerFailed, match="two ended with status -9"):
        swarm.finish(number, 30)


def test_what_fails_at_one_client_alone_is_told_at_once(bed, swarm):
    """The others are stopped, and are there for the next trial."""
    url = bed.vip("one-alone", 102)
    job = {"job": "closed", "url": url, "connections": 4, "warmup": 0, "seconds": 30}
    refused = {**job, "url": url.replace(":102/", ":9/")}
    begun = time.monotonic()
    swarm.begin({"one": job, "two": refused})
    with pytest.raises(errors.TargetFailed, match="refused"):
        swarm.await_progress()
    assert time.monotonic() - begun < 5
    report = swarm.run({name: {**job, "seconds": 0.2} for name in swarm.workers}, 0.2)
    assert set(report.reports) == {"one", "two"}


@pytest.mark.series
def test_a_worker_that_never_joins_is_named(bed, client, tmp_path, monkeypatch):
    """It is there and says nothing: stopped before it could reach the master."""
    monkeypatch.setattr(control, "JOIN_SECONDS", 8.0)
    spawn = Swarm._spawn

    def spawn_stopped(self, module, argv, **more):
        process = spawn(self, module, argv, **more)
        if "two" in argv:
            process.send_signal(signal.SIGSTOP)
        return process

    monkeypatch.setattr(Swarm, "_spawn", spawn_stopped)
    with client.open() as host:
        generators = {name: Generator.start(client, host) for name in ("one", "two")}
        with pytest.raises(errors.WorkerFailed, match="worker two did not join in time"):
            with Swarm(generators, tmp_path / "logs"):
                pytest.fail("it came up")


def test_a_worker_that_dies_in_mid_run_ends_it_and_keeps_the_blocks_before(
    bed, pair_of, profile_of, tmp_path, monkeypatch
):
    url = bed.vip("dying", 99)
    swarms = []
    start = Swarm._start
    monkeypatch.setattr(Swarm, "_start", lambda self: (swarms.append(self), start(self))[1])
    outcome = compare.compare(
        pair_of(url, url), profile_of(REQUESTS), tmp_path, seed=1,
        progress=after_block(
            2, lambda: os.kill(swarms[0]._workers["client"].pid, signal.SIGKILL)
        ),
    )  # fmt: skip
    assert isinstance(outcome.failure, errors.WorkerFailed), outcome.failure
    assert "client ended with status -9" in str(outcome.failure)
    found = store.load(outcome.folder)
    assert found["status"] == "incomplete" and len(found["trials"]) == 8


@pytest.mark.series
def test_a_vip_that_goes_away_within_a_trial_is_told_by_what_it_did(bed, client, tmp_path):
    """The trial itself ends in time and says that connections failed: nothing hangs."""
    url = bed.vip("within", 100)
    with client.open() as host:
        generator = Generator.start(client, host)
        for job in (
            {"job": "closed", "connections": 8, "seconds": 1.5},
            {"job": "connect", "concurrency": 4, "seconds": 1.5},
            {"job": "open", "connections": 8, "schedule": [[200, 200, 1.5]], "grace": 0.3},
        ):
            if "within" not in bed.processes or bed.processes["within"].poll() is not None:
                bed.vip("within", 100)
            timer = threading.Timer(0.5, bed.kill, ["within"])
            timer.start()
            report = generator.job({"url": url, "warmup": 0, **job}, seconds=3)
            timer.join()
            wrong = {**report["failed"], **report["events"]}
            assert sum(wrong.values()) > 0, (job["job"], report)
            assert any("connect" in what for what in wrong), (job["job"], wrong)
            if job["job"] == "open":
                # What was due and found nobody is lost, not left out.
                assert report["lost"] >= 100, report
        generator.close()


def test_a_client_with_an_old_python_is_refused_in_words(tmp_path, client):
    """Its python3 is 3.6: the bootstrap itself still runs there and says so."""
    fake = tmp_path / "python3"
    fake.write_text(
        f"#!/bin/sh\nexec {sys.executable} -c \"import sys; sys.version_info = (3, 6, 9); "
        "sys.version = '3.6.9 (default)'; exec(sys.argv[1])\" \"$4\"\n"
    )
    fake.chmod(0o755)
    command = carry.command(str(fake))
    assert command[:4] == [str(fake), "-I", "-S", "-c"]
    with pytest.MonkeyPatch.context() as patch, client.open() as host:
        patch.setattr(carry, "command", lambda: command)
        with pytest.raises(errors.ClientFailed, match="python3 is 3.6.9, 3.8 or newer"):
            Generator.start(client, host)


def test_a_client_without_python_is_named(client):
    with pytest.MonkeyPatch.context() as patch, client.open() as host:
        patch.setattr(carry, "command", lambda: ["no-such-python3", "-c", ""])
        with pytest.raises(errors.ClientFailed, match="did not start on client client"):
            Generator.start(client, host)


def test_an_engine_that_dies_in_its_client_is_named(bed, client, tmp_path):
    url = bed.vip("engines", 97)
    with client.open() as host:
        generator = Generator.start(client, host)
        with Swarm({"one": generator}, tmp_path / "logs") as swarm:
            job = {"job": "closed", "url": url, "connections": 4, "warmup": 0, "seconds": 30}
            number = swarm.begin({"one": job})
            swarm.await_progress()
            os.kill(generator.hello["pid"], signal.SIGKILL)
            with pytest.raises(errors.EngineFailed, match="worker one was lost"):
                swarm.finish(number, 30)


def test_a_client_that_is_not_there_is_named(tmp_path):
    with pytest.raises(errors.ClientFailed, match="nowhere"):
        with Client("nowhere", "namespace", "perf-no-such-namespace").open() as host:
            Generator.start(Client("nowhere", "namespace", "perf-no-such-namespace"), host)


def test_a_tester_killed_at_once_leaves_a_marked_result_and_no_process(bed, client, tmp_path):
    """kill -9 in the middle of a trial; the engines in the client end by themselves."""
    url = bed.vip("killed", 98)
    roots = [os.path.dirname(os.path.dirname(m.__file__)) for m in (sriov_lb_perf, sriov_lb_tests)]
    argv = [
        sys.executable, "-m", "sriov_lb_perf.cli", "compare", "--profile", "smoke",
        "--sriov-vip", url, "--normal-vip", url, "--client", f"namespace:{bed.client}",
        "--artifacts", str(tmp_path),
    ]  # fmt: skip
    process = subprocess.Popen(
        argv,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(roots)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    try:
        deadline = time.monotonic() + 60
        raw = []
        while not raw:
            assert process.poll() is None and time.monotonic() < deadline
            raw = list(tmp_path.glob("*/raw/*.hlog"))
            time.sleep(0.05)
        assert _engines(bed.client)  # the control: they can be seen
    finally:
        process.kill()
        process.wait(10)
    (folder,) = [path.parent for path in tmp_path.glob("*/result.json")]
    assert store.load(folder)["status"] == "incomplete"
    deadline = time.monotonic() + 15
    while (left := _engines(bed.client)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left, left


def _engines(namespace: str) -> list[str]:
    """Processes in the client's namespace: the engines."""
    listed = subprocess.run(
        ["ip", "netns", "pids", namespace], capture_output=True, text=True, check=True
    )
    return listed.stdout.split()
