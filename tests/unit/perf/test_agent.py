# SPDX-License-Identifier: Apache-2.0
"""The engine that is carried to clients: in a process of its own, against a server on loopback."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
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
from sriov_lb_perf.agent.http import MAX_VARIANTS, Ended, Head, Reader
from sriov_lb_perf.agent.machine import Health
from sriov_lb_perf.agent.open_loop import Binned, Each
from sriov_lb_perf.agent.schedule import (
    MAX_PLANNED,
    RAW_LIMIT,
    all_arrivals,
    arrivals,
    offered,
    plan,
)
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


#: A short job of each kind that asks for objects, beside its URL.
ASKING = [
    {"job": "closed", "engine": "epoll", "connections": 2, "seconds": 0.2},
    {"job": "closed", "engine": "io_uring", "connections": 2, "seconds": 0.2},
    {"job": "connect", "engine": "epoll", "concurrency": 2, "seconds": 0.2},
    {"job": "connect", "engine": "io_uring", "concurrency": 2, "seconds": 0.2},
    {"job": "open", "connections": 2, "schedule": [[100, 100, 0.2]]},
    {"job": "dial", "schedule": [[100, 100, 0.2]]},
    {"job": "hold", "connections": 8, "seconds": 0.1},
    {"job": "download", "connections": 2, "seconds": 0.2},
]


def good(report: dict) -> int:
    """Answers that counted, of whatever job: each is told by its body."""
    return sum(variant["count"] for variant in report["variants"])


@pytest.mark.parametrize("job", ASKING, ids=lambda job: f"{job['job']}-{job.get('engine', '')}")
def test_an_answer_of_another_length_has_failed(generator, server, response, job):
    """200 and whole by its own Content-Length, but not the object: half of it, or nothing."""
    if job.get("engine") == "io_uring" and not has_uring():
        pytest.skip("this kernel, or what confines this process, offers no io_uring")
    job = {"url": server.url, "warmup": 0, **job}

    def mixed(request):
        return (server.ok(request), response(200, b"member-1"), response(200, b""))[
            server.requests % 3
        ]

    server.answer = mixed
    report = generator.job({**job, "length": 64}, seconds=3)
    bad = {what: n for what, n in report["failed"].items() if what.startswith("length ")}
    assert set(bad) == {"length 8, not 64", "length 0, not 64"} == set(report["failed"])
    # Two answers of three, but for those under way at the end.
    assert sum(bad.values()) == pytest.approx(2 * good(report), abs=6)
    assert [variant["length"] for variant in report["variants"]] == [64]
    # The control: nobody knows the length, or it is the right one.
    server.answer = server.ok
    for length in ({}, {"length": 64}):
        report = generator.job({**job, **length}, seconds=3)
        assert report["failed"] == {} and good(report) > 0


def test_lengths_that_are_made_up_fill_no_memory(response):
    reader, ended = Reader(1), Ended(1)
    for size in range(2, 300):
        assert reader.feed(5, response(200, b"x" * size)) == (False, False)
        ended.judge(response(200, b"x" * size))
    assert len(reader.failed) == MAX_VARIANTS + 1 and reader.failed["length not 1"] > 200
    assert ended.judge(response(200, b"x" * 300)) == "length not 1"
    assert ended.judge(response(200, b"x" * 2)) == "length 2, not 1"


def test_small_objects_of_a_download_tell_their_member(generator, server, response):
    size = 16_384
    bodies = [b"member-%d " % n + b"x" * (size - 9) for n in (1, 2)]
    server.answer = lambda _: response(200, bodies[server.requests % 2])
    job = {"job": "download", "url": server.url, "connections": 2, "warmup": 0, "seconds": 0.3}
    report = generator.job(job, seconds=1)
    counts = {v["head"][:8]: v["count"] for v in report["variants"]}
    assert set(counts) == {"member-1", "member-2"}
    assert sum(counts.values()) == report["objects"] > 10
    # A larger one is not kept, and neither is what is not copied.
    assert generator.job({**job, "discard": True}, seconds=1)["variants"] == []
    server.answer = lambda _: response(200, b"x" * (size + 1))
    report = generator.job(job, seconds=1)
    assert report["variants"] == [] and report["objects"] > 0


def test_a_body_longer_than_announced_fails_a_download(generator, server):
    server.answer = lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabc"
    report = generator.job(
        {"job": "download", "url": server.url, "connections": 1, "warmup": 0, "seconds": 0.1},
        seconds=1,
    )
    assert report["objects"] == 0 and set(report["failed"]) == {"longer than its Content-Length"}


def test_a_command_is_run_and_the_machine_watched_meanwhile(generator):
    code = "import time; end = time.process_time() + 0.2\nwhile time.process_time() < end: pass\n"
    code += "print('out'); import sys; sys.exit('err')"
    report = generator.job(
        {"job": "command", "argv": [sys.executable, "-c", code], "timeout": 20}, seconds=20
    )
    assert (report["status"], report["stdout"], report["stderr"]) == (1, "out\n", "err\n")
    health = report["health"]
    assert health["wall_s"] >= 0.2 and 0.2 <= health["cpu_share"] * health["wall_s"] < 5
    assert health["machine_busy_share"] > 0 and health["clock_step_ns"] == 0
    assert {"machine_steal_share", "backlog_drops", "tcp"} <= set(health)
    assert health["waiting_for_cpu_share"] is None or health["waiting_for_cpu_share"] >= 0


def test_a_command_is_not_pinned_with_the_generator(generator):
    one = min(os.sched_getaffinity(0))
    assert generator.job({"job": "facts", "cpu": one})
    code = "import os; print(sorted(os.sched_getaffinity(0)))"
    report = generator.job(
        {"job": "command", "argv": [sys.executable, "-c", code], "timeout": 20}, seconds=20
    )
    assert json.loads(report["stdout"]) == sorted(os.sched_getaffinity(0))


def test_a_command_that_does_not_end_or_is_not_there_is_the_client_s_fault(generator):
    with pytest.raises(errors.ClientFailed, match="sleep did not end within 0.2 s"):
        generator.job({"job": "command", "argv": ["sleep", "60"], "timeout": 0.2}, seconds=5)
    with pytest.raises(errors.ClientFailed, match="no-such-program"):
        generator.job({"job": "command", "argv": ["no-such-program"], "timeout": 1}, seconds=5)
    generator.send({"job": "command", "argv": ["sleep", "60"], "timeout": 60})
    generator.send({"job": "stop"})
    with pytest.raises(errors.EngineFailed, match="stopped"):
        generator.finish("command", 5)


def test_a_generator_that_is_gone_when_a_job_is_to_begin_is_named(generator):
    """Killed between two jobs: the pipe is broken before anything is sent."""
    os.kill(generator.hello["pid"], 9)
    generator.channel._process.wait(10)
    with pytest.raises(errors.EngineFailed, match="here was lost before the job 'facts'.*-9"):
        generator.job({"job": "facts"})


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
    constant = list(arrivals({"schedule": [[10, 10, 1.0]]}))
    assert [round(t / 1e6) for t in constant] == [0, 100, 200, 300, 400, 500, 600, 700, 800, 900]
    stepped = list(arrivals({"schedule": [[10, 10, 1.0], [0, 0, 1.0], [20, 20, 1.0]]}))
    assert len(stepped) == 30
    assert not [t for t in stepped if 1e9 < t < 2e9]
    ramped = np.array(list(arrivals({"schedule": [[0, 100, 2.0]]})))
    assert len(ramped) == 100
    # The offered number grows with the square of time.
    assert abs((ramped < 1e9).sum() - 25) <= 1
    poisson = np.array(
        list(arrivals({"schedule": [[1000, 1000, 10.0]], "arrivals": "poisson"}))
    )
    gaps = np.diff(poisson)
    assert abs(len(poisson) - 10_000) < 400
    assert 0.9 < gaps.std() / gaps.mean() < 1.1
    again = arrivals({"schedule": [[1000, 1000, 10.0]], "arrivals": "poisson"})
    assert list(again) == list(poisson)


def test_poisson_times_are_those_of_the_seed_however_many_are_taken():
    """Against the sum of the exponential clock itself, also of a schedule longer than memory."""
    source = random.Random(7)
    owed = itertools.accumulate(source.expovariate(1.0) for _ in range(1000))
    expected = [int(each / 40_000 * 1e9) for each in owed]
    job = {"schedule": [[40_000, 40_000, 1e6]], "arrivals": "poisson", "seed": 7}
    found = list(itertools.islice(arrivals(job), 1000))
    assert np.abs(np.array(found) - expected).max() <= 1


def test_a_schedule_of_which_each_request_is_kept_may_be_too_long():
    assert len(all_arrivals({"schedule": [[1000, 1000, 1.0]]}, 0)[0]) == 1000
    with pytest.raises(JobError, match="split"):
        all_arrivals({"schedule": [[1e6, 1e6, 60.0]]}, 0)


@pytest.mark.parametrize(
    ("more", "raw"), [({}, True), ({"warmup": 1.0}, True), ({"raw": False}, False)]
)
def test_times_are_reported_one_by_one_up_to_the_limit_warm_up_included(more, raw):
    """Known before anything is sent, also of Poisson times, whose number is drawn."""
    job = {"warmup": 0.0, "arrivals": "poisson", **more}
    most = {**job, "schedule": [[RAW_LIMIT / 10, RAW_LIMIT / 10, 10.0]]}
    assert plan(most).raw == raw
    assert not plan({**job, "schedule": [[RAW_LIMIT / 10 + 1, RAW_LIMIT / 10 + 1, 10.0]]}).raw


@pytest.mark.parametrize("stamps", [False, True])
def test_times_that_are_counted_at_once_are_those_that_are_kept(stamps):
    """The same requests told to both books: sent or not, answered or not, in the warm-up or not."""
    source = random.Random(3)
    each, binned = Each(20_000, stamps), Binned(20_000, stamps)
    for number in range(400):
        due = number * 1000
        if number >= 380:
            each.unsent(due), binned.unsent(due)
            continue
        ready = due + source.choice((0, 5_000_000))
        sent = ready + source.randrange(1000)
        names = [book.leave(due, ready, sent) for book in (each, binned)]
        if number % 7:
            came = (sent + source.randrange(20_000_000), source.choice((-1, 1_000_000)), -1)
            for book, name in zip((each, binned), names, strict=True):
                book.came(name, *came)
    kept, counted = each.report(), binned.report()
    for what, count in (("planned", 380), ("unsent", 20), ("lost", 72), ("answered", 308)):
        assert kept[what] == counted[what] == count, what
    times = Times(kept["raw"])
    stamped = times.answered & (times.kernel >= 0)
    expected = {
        "response": times.response(),
        "service": (times.done - times.sent)[times.answered],
        "lag": times.lag(),
        "kernel": (times.ready - times.due + times.kernel)[stamped] if stamps else None,
    }
    for name, values in expected.items():
        if values is None:
            assert counted["binned"][name] is None
            continue
        found = Histogram.of_sparse(counted["binned"][name])
        assert len(found) == len(values) > 0, name
        for q in (1, 50, 99):
            exact = Histogram.of(values).percentile(q)
            assert found.percentile(q) == pytest.approx(exact, rel=2e-3, abs=512), (name, q)


def test_a_load_of_any_length_begins_at_once_and_keeps_its_times(generator, server):
    """Two minutes at 50,000/s, more than could be kept: 20/s first, then it is stopped."""
    job = {
        "job": "open", "url": server.url, "connections": 4, "warmup": 0.1, "raw": False,
        "tick": 0.2, "schedule": [[20, 20, 1.0], [50_000, 50_000, 120.0]],
    }  # fmt: skip
    assert offered(job) > MAX_PLANNED
    begun = time.monotonic()
    generator.send(job)
    ticks = [generator.read(time.monotonic() + 10) for _ in range(3)]
    generator.send({"job": "stop"})
    with pytest.raises(errors.EngineFailed, match="the tester stopped the job"):
        generator.finish("open", 5)
    assert time.monotonic() - begun < 5
    assert [tick["report"] for tick in ticks] == ["tick"] * 3
    # After 0.2, 0.4 and 0.6 s; on a busy machine a report may be late.
    assert all(4 * n <= tick["sent"] <= 4 * n + 8 for n, tick in enumerate(ticks, 1)), ticks


def test_a_load_of_which_little_could_be_sent_says_how_much_there_was(generator, server):
    """Planned is what the schedule had, also where the target took hardly any of it."""
    server.answer = lambda request: b"" if server.requests > 4 else server.ok(request)
    report = generator.job(
        {
            "job": "open", "url": server.url, "connections": 4, "warmup": 0.1, "raw": False,
            "grace": 0.1, "schedule": [[1_000_000, 1_000_000, 0.3]],
        },
        seconds=5,
    )  # fmt: skip
    assert report["planned"] == 200_000 and report["unsent"] == 200_000
    assert report["lost"] == 200_000 and report["unsent_by_own_fault"] == 0


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
