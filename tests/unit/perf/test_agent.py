# SPDX-License-Identifier: Apache-2.0
"""The engine that is carried to clients: in a process of its own, against a server on loopback."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from sriov_lb_perf import carry, errors
from sriov_lb_perf.agent import closed_uring
from sriov_lb_perf.agent.closed import run_closed
from sriov_lb_perf.agent.connect import run_connect
from sriov_lb_perf.agent.errors import JobError
from sriov_lb_perf.agent.http import Head, Reader
from sriov_lb_perf.agent.machine import Health
from sriov_lb_perf.agent.schedule import arrivals
from sriov_lb_perf.agent.uring import Ring, Unavailable
from sriov_lb_perf.clients import Client, Generator, LocalHost
from sriov_lb_perf.engines.probe import Times
from sriov_lb_perf.histogram import Histogram


def has_uring() -> bool:
    """Whether this machine lets a process have an io_uring."""
    try:
        Ring(8).close()
    except Unavailable:
        return False
    return True


@pytest.fixture(params=["epoll", "io_uring"])
def engine(request):
    if request.param == "io_uring" and not has_uring():
        pytest.skip("this kernel, or what confines this process, offers no io_uring")
    return request.param


@pytest.fixture
def generator():
    made = Generator.start(Client("here", "local"), LocalHost())
    yield made
    made.close()


def test_it_comes_up_from_memory_and_says_what_machine_it_is_on(generator, server):
    facts = generator.job({"job": "facts", "url": server.url})
    assert facts["cpus"] >= 1 and facts["kernel"]
    assert facts["path"]["source"] == "127.0.0.1"
    assert facts["path"]["interface"] == "lo"


def test_nothing_but_the_standard_library_is_carried():
    """-I -S: no site-packages. It answers, so it needed nothing from there."""
    code = "import sys; assert not any('site-packages' in p for p in sys.path)"
    argv = carry.command(sys.executable)
    assert argv[1:3] == ["-I", "-S"]
    subprocess.run([*argv[:3], "-c", code], check=True)


def test_an_old_python_is_named_and_refused():
    """The bootstrap itself must be understood by any Python 3."""
    faked = carry.BOOTSTRAP.replace("import os, sys\n", "import os, sys\nsys.version_info=(3,6)\n")
    done = subprocess.run([sys.executable, "-c", faked], input=b"", capture_output=True)
    report = json.loads(done.stdout)
    assert done.returncode == 3
    assert report["kind"] == "python" and "3.8" in report["message"]


def test_closed_loop_counts_what_the_server_answered(generator, engine, server):
    report = generator.job(
        {
            "job": "closed", "url": server.url, "engine": engine,
            "connections": 4, "warmup": 0.05, "seconds": 0.3,
        },
        seconds=1,
    )
    assert 0 < report["requests"] <= server.requests
    assert report["failed"] == {}
    (variant,) = report["variants"]
    assert variant["head"].startswith("member-1") and variant["count"] == report["requests"]
    assert len(Histogram.of_sparse(report["latency"])) == report["requests"]
    assert 0.25 < report["window_s"] < 2
    assert 0 < report["health"]["cpu_share"] <= 1.1


def test_failed_responses_are_counted_apart(generator, engine, server, response):
    def every_third_fails(request):
        bad = server.requests % 3 == 0
        return response(503, b"no") if bad else response(200, b"fine")

    server.answer = every_third_fails
    report = generator.job(
        {
            "job": "closed", "url": server.url, "engine": engine,
            "connections": 1, "warmup": 0, "seconds": 0.2,
        },
        seconds=1,
    )
    bad = report["failed"]["status 503"]
    assert abs(bad - report["requests"] / 2) <= 2
    assert report["variants"][0]["count"] == report["requests"]


def test_members_are_told_apart_by_their_bodies(generator, engine, server, response):
    server.answer = lambda _: response(200, b"member-%d" % (server.requests % 2))
    report = generator.job(
        {
            "job": "closed", "url": server.url, "engine": engine,
            "connections": 1, "warmup": 0, "seconds": 0.2,
        },
        seconds=1,
    )
    counts = {v["head"]: v["count"] for v in report["variants"]}
    assert set(counts) == {"member-0", "member-1"}
    assert abs(counts["member-0"] - counts["member-1"]) <= 1


def test_a_server_that_closes_after_each_response_is_followed(generator, engine, server, response):
    server.answer = lambda _: response(200, b"bye", "Connection: close\r\n")
    report = generator.job(
        {
            "job": "closed", "url": server.url, "engine": engine,
            "connections": 2, "warmup": 0, "seconds": 0.2,
        },
        seconds=1,
    )
    assert report["requests"] > 2
    assert report["failed"] == {}


def test_the_report_names_the_engine_and_unknown_ones_are_refused(generator, engine, server):
    job = {"job": "closed", "url": server.url, "connections": 1, "warmup": 0, "seconds": 0.1}
    assert generator.job({**job, "engine": engine}, seconds=1)["engine"] == engine
    with pytest.raises(errors.EngineFailed, match="auto, epoll, io_uring"):
        generator.job({**job, "engine": "kqueue"}, seconds=1)


def test_without_io_uring_the_request_rate_is_measured_all_the_same(server, monkeypatch):
    """As on a kernel that has it switched off; asked for by name it is an error instead."""

    def refuse(_slots):
        raise Unavailable("io_uring_setup: Operation not permitted")

    monkeypatch.setattr("sriov_lb_perf.agent.closed_uring.Ring", refuse)
    monkeypatch.setattr("sriov_lb_perf.agent.connect_uring.Ring", refuse)
    link = SimpleNamespace(
        descriptor=0, check=lambda: None, watch=lambda *_: None, report=lambda *_, **__: None
    )
    job = {"url": server.url, "connections": 1, "concurrency": 1, "warmup": 0, "seconds": 0.1}
    for run in (run_closed, run_connect):
        assert run(dict(job), link)["engine"] == "epoll"
        with pytest.raises(JobError, match="not permitted"):
            run({**job, "engine": "io_uring"}, link)


@pytest.mark.parametrize("size", [20_000, 200_000])
def test_responses_longer_than_one_read_are_put_together(generator, engine, server, response, size):
    server.answer = lambda _: response(200, b"m" * size)
    report = generator.job(
        {
            "job": "closed", "url": server.url, "engine": engine, "connections": 2, "warmup": 0,
            "seconds": 0.2,
        },
        seconds=1,
    )  # fmt: skip
    assert report["requests"] > 0 and report["failed"] == {}
    assert report["bytes"] == report["requests"] * size
    assert len(Histogram.of_sparse(report["latency"])) == report["requests"]


def test_a_target_that_goes_away_under_way_is_told_apart_from_a_slow_one(
    generator, engine, server
):
    """Connections that are reset are counted, tried again, and not called slow."""

    def answer(request):
        if server.requests > 20:
            with contextlib.suppress(OSError):  # the first one has done it
                server.socket.shutdown(socket.SHUT_RDWR)
            raise ConnectionAbortedError
        return server.ok(request)

    server.answer = answer
    report = generator.job(
        {
            "job": "closed", "url": server.url, "engine": engine, "connections": 4, "warmup": 0,
            "seconds": 0.8,
        },
        seconds=2,
    )  # fmt: skip
    lost = report["events"]
    assert lost.get("closed by the target", 0) + lost.get("error: reset", 0) == 4, lost
    assert lost["error: connect"] >= 4, lost
    assert report["requests"] == 20 and report["unanswered"] == 0


def test_a_target_that_refuses_connections_is_counted_not_waited_for(generator, engine, server):
    server.close()
    report = generator.job(
        {
            "job": "connect", "url": server.url, "engine": engine, "concurrency": 2, "warmup": 0,
            "seconds": 0.3,
        },
        seconds=1,
    )  # fmt: skip
    assert report["connections"] == 0
    assert report["failed"]["connect: Connection refused"] >= 2
    assert report["unanswered"] == 0


def test_open_loop_keeps_its_schedule_and_takes_kernel_stamps(generator, server):
    report = generator.job(
        {
            "job": "open", "url": server.url, "connections": 4, "warmup": 0.1,
            "schedule": [[200, 200, 0.6]], "stamps": True,
        },
        seconds=2,
    )  # fmt: skip
    times = Times(report["raw"])
    assert report["planned"] == 100 == len(times.due)
    assert np.array_equal(times.due, (np.arange(20, 120) * 5e6).astype(int))
    assert (times.sent[times.sent >= 0] >= times.due[times.sent >= 0]).all()
    assert times.lost == report["lost"] == 0
    assert report["stamps"].get("software", 0) > 0
    stamped = times.kernel >= 0
    # The kernel's own time of a request lies within the user's.
    assert (times.kernel[stamped] <= (times.done - times.sent)[stamped]).all()


def test_a_stall_is_in_the_latency_of_all_requests_that_were_due(generator, server):
    """One connection and a server that sleeps 0.2 s once, at 100/s: about twenty requests are
    due meanwhile. A closed loop would have seen one."""
    stalled = []

    def answer(request):
        if server.requests == 30 and not stalled:
            stalled.append(True)
            time.sleep(0.2)
        return server.ok(request)

    server.answer = answer
    report = generator.job(
        {
            "job": "open", "url": server.url, "connections": 1, "warmup": 0,
            "schedule": [[100, 100, 0.8]],
        },
        seconds=2,
    )  # fmt: skip
    times = Times(report["raw"])
    assert stalled
    late = int((times.latency() > 20e6).sum())
    assert late >= 12, late
    # And it is told from the generator's own lag.
    waited = times.ready - times.due
    assert int((waited > 20e6).sum()) >= 12


def test_requests_without_answer_are_lost_not_forgotten(generator, server):
    server.answer = lambda request: b"" if server.requests > 10 else server.ok(request)
    report = generator.job(
        {
            "job": "open", "url": server.url, "connections": 2, "warmup": 0,
            "schedule": [[100, 100, 0.3]], "grace": 0.2,
        },
        seconds=2,
    )  # fmt: skip
    times = Times(report["raw"])
    assert report["lost"] == times.lost == 20
    assert Histogram.of(times.latency(), times.lost).percentile(99) == float("inf")


def test_connection_rate_counts_whole_responses_closed_by_the_server(generator, engine, server):
    report = generator.job(
        {
            "job": "connect", "url": server.url, "engine": engine,
            "concurrency": 4, "warmup": 0.05, "seconds": 0.3,
        },
        seconds=1,
    )
    assert report["connections"] > 10
    assert report["failed"] == {}
    for kind in ("handshake", "first_byte", "last_byte"):
        assert len(Histogram.of_sparse(report["times"][kind])) >= report["connections"] - 8
    first = Histogram.of_sparse(report["times"]["first_byte"]).percentile(50)
    assert Histogram.of_sparse(report["times"]["handshake"]).percentile(50) <= first


def test_download_counts_bytes_of_bodies(generator, server, response):
    size = 1 << 20
    server.answer = lambda _: response(200, b"\0" * size)
    report = generator.job(
        {"job": "download", "url": server.url, "connections": 2, "warmup": 0.05, "seconds": 0.3},
        seconds=1,
    )
    assert report["bytes"] > size
    assert abs(report["bytes"] / size - report["objects"]) <= 3


@pytest.mark.parametrize(
    ("job", "kind", "words"),
    [
        ({"job": "closed", "connections": 1, "warmup": 0, "seconds": 0.1}, "target", "refused"),
        ({"job": "fly"}, "engine", "unknown job"),
        ({"job": "closed"}, "engine", "bad job"),
    ],
)
def test_what_cannot_be_done_is_told_by_whose_fault_it_is(generator, server, job, kind, words):
    server.close()
    raised = {"target": errors.TargetFailed, "engine": errors.EngineFailed}[kind]
    with pytest.raises(raised, match=words):
        generator.job({"url": server.url, **job})
    assert generator.job({"job": "facts"})["cpus"]  # it is still there


def test_a_job_can_be_stopped_and_the_engine_lives_on(generator, engine, server):
    generator.send(
        {
            "job": "closed", "url": server.url, "engine": engine,
            "connections": 1, "warmup": 0, "seconds": 60,
        },
    )
    generator.send({"job": "stop"})
    with pytest.raises(errors.EngineFailed, match="stopped"):
        generator.finish("closed", 5)
    assert generator.job({"job": "facts"})["cpus"]


def test_it_ends_when_the_tester_hangs_up(server):
    process = subprocess.Popen(
        carry.command(sys.executable),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdin.write(carry.cargo())
    job = {"job": "closed", "url": server.url, "connections": 1, "warmup": 0, "seconds": 60}
    process.stdin.write((json.dumps(job) + "\n").encode())
    process.stdin.flush()
    assert b"hello" in process.stdout.readline()
    process.stdout.close()
    process.stdin.close()
    assert process.wait(10) == 0
    assert process.stderr.read() == b""
    process.stderr.close()


def test_arrivals_are_regular_stepped_ramped_or_poisson():
    constant = arrivals({"schedule": [[10, 10, 1.0]]})
    assert [round(t / 1e6) for t in constant] == [0, 100, 200, 300, 400, 500, 600, 700, 800, 900]
    stepped = arrivals({"schedule": [[10, 10, 1.0], [0, 0, 1.0], [20, 20, 1.0]]})
    assert len(stepped) == 30
    assert not [t for t in stepped if 1e9 < t < 2e9]
    ramped = np.array(arrivals({"schedule": [[0, 100, 2.0]]}))
    assert len(ramped) == 100
    # The offered number grows with the square of time.
    assert abs((ramped < 1e9).sum() - 25) <= 1
    poisson = np.array(arrivals({"schedule": [[1000, 1000, 10.0]], "arrivals": "poisson"}))
    gaps = np.diff(poisson)
    assert abs(len(poisson) - 10_000) < 400
    assert 0.9 < gaps.std() / gaps.mean() < 1.1
    again = arrivals({"schedule": [[1000, 1000, 10.0]], "arrivals": "poisson"})
    assert list(again) == list(poisson)


def test_a_schedule_too_long_to_keep_is_refused():
    with pytest.raises(JobError, match="split"):
        arrivals({"schedule": [[1e6, 1e6, 60.0]]})


def test_responses_are_read_in_pieces_of_any_size(response):
    """Positive control of the fast path: the same bytes, however they are split."""
    whole = response(200, b"abc" * 20)
    for size in (1, 7, 40, len(whole)):
        reader = Reader()
        answers = [
            answer
            for at in range(0, len(whole), size)
            if (answer := reader.feed(5, whole[at : at + size])) is not None
        ]
        assert answers == [(True, False)]
        assert reader.variants()[0]["length"] == 60


def test_a_body_longer_than_announced_is_a_failure():
    reader = Reader()
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabc"
    assert reader.feed(5, raw) == (False, True)
    assert reader.failed["longer than its Content-Length"] == 1


def test_chunked_responses_are_refused_in_words():
    with pytest.raises(JobError, match="Content-Length"):
        Head(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")


@pytest.mark.parametrize(
    ("jump", "told"), [(3_600_000_000_000, True), (-5_000_000, True), (100_000, False)]
)
def test_a_clock_that_jumps_under_way_is_told(monkeypatch, jump, told):
    """An hour forward, 5 ms back; 0.1 ms is within what NTP slews in the time."""
    health = Health()
    health.start()
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + jump)
    time.sleep(0.02)
    step = health.stop()["clock_step_ns"]
    assert bool(step) == told
    if told:
        assert step == pytest.approx(jump, abs=3_000_000)


def test_answers_are_batched_only_where_the_generator_would_be_the_limit(monkeypatch):
    """Up to half of the connections above 70 % of a core, back to one below 35 %."""
    times = {"cpu": 0, "now": 0}
    monkeypatch.setattr(closed_uring, "clock", lambda: times["now"])
    monkeypatch.setattr(closed_uring.time, "thread_time_ns", lambda: times["cpu"])

    def pass_time(batch, share):
        times["now"] += batch.PERIOD_NS
        times["cpu"] += int(share * batch.PERIOD_NS)
        batch.adapt(times["now"])
        return batch.least

    batch = closed_uring.Batch(64)
    assert batch.least == 1
    assert [pass_time(batch, 0.5) for _ in range(3)] == [1, 1, 1]
    assert [pass_time(batch, 0.95) for _ in range(7)] == [2, 4, 8, 16, 32, 32, 32]
    assert [pass_time(batch, 0.5) for _ in range(3)] == [32, 32, 32]
    assert [pass_time(batch, 0.2) for _ in range(6)] == [16, 8, 4, 2, 1, 1]
    assert batch.largest == 32
    assert closed_uring.Batch(1)._most == 1
