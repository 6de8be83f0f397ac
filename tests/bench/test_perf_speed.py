# SPDX-License-Identifier: Apache-2.0
"""The generator and the probe beside wrk, h2load, ab, locust's FastHttpUser and sockperf.

One core generates, another one answers. The tools take turns, each once a round and in another
order each round, and a ratio is taken within a round: what the machine does meanwhile hits all.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import resource
import shutil
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # perf_bed, perf_goals, under importlib mode

import perf_goals as goals  # noqa: E402
from perf_bed import BODY, GENERATOR, TARGET_IP, PerfBed, end  # noqa: E402

from sriov_lb_perf.clients import Client, Generator  # noqa: E402
from sriov_lb_perf.engines.probe import Times  # noqa: E402
from sriov_lb_perf.histogram import Histogram  # noqa: E402
from sriov_lb_perf.swarm.control import Swarm  # noqa: E402

ROUNDS = int(os.environ.get("SRIOV_LB_BENCH_ROUNDS", 10))
SECONDS = float(os.environ.get("SRIOV_LB_BENCH_SECONDS", 2))
CONNECTIONS = 64
#: Runs of each probe in each state: what five blocks are to an interval.
PROBE_RUNS = 5
NEEDED = {
    "wrk": "wrk", "h2load": "nghttp2-client", "ab": "apache2-utils", "sockperf": "sockperf",
    "nginx": "nginx-light", "taskset": "util-linux", "ip": "iproute2",
}  # fmt: skip
OURS = "sriov-lb-perf under locust"
FAST = "locust FastHttpUser, body compared"


@pytest.fixture(scope="module")
def bed(tmp_path_factory):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.fail("two cores are needed: one to generate, one to answer")
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    absent = [package for tool, package in NEEDED.items() if shutil.which(tool, path=path) is None]
    if absent:
        pytest.fail(f"Debian packages needed: {', '.join(absent)}")
    with PerfBed(tmp_path_factory.mktemp("bed")) as made:
        yield made


@pytest.fixture(scope="module")
def on_one_core(bed):
    """This process, and so locust's and the engine, on the generator's core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {GENERATOR})
    yield
    os.sched_setaffinity(0, before)


@pytest.fixture(scope="module")
def generator(bed, on_one_core):
    client = Client("client", "namespace", bed.client)
    with client.open() as host:
        made = Generator.start(client, host)
        yield made
        made.close()


@pytest.fixture(scope="module")
def swarm(bed, on_one_core, tmp_path_factory):
    """Locust's master and worker with the engine behind them, all on the generator's core."""
    client = Client("client", "namespace", bed.client)
    with client.open() as host:
        engine = Generator.start(client, host)
        with Swarm({"client": engine}, tmp_path_factory.mktemp("logs")) as made:
            yield made


def by_turns(tools: dict, rounds: int) -> dict[str, list[float]]:
    """Each tool's figure of each round; the order turns from round to round."""
    found = {name: [] for name in tools}
    names = list(tools)
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            found[name].append(tools[name]())
    return found


def rows_of(
    found: dict[str, list[float]], first: str, wanted: dict[str, float]
) -> tuple[list[tuple[str, ...]], list[str]]:
    """(rows of a table, goals that were missed).

    :param wanted: tool -> what ours is to be of it at least.
    """
    rows, missed = [], []
    for name, values in found.items():
        shown = [
            name, f"{statistics.median(values):,.0f}", f"{min(values):,.0f} – {max(values):,.0f}",
        ]  # fmt: skip
        if name == first:
            rows.append((*shown, "1", "", ""))
            continue
        beside = goals.ratio(found[first], values)
        goal = ""
        if name in wanted:
            goal, reached = goals.least(beside, wanted[name])
            if not reached:
                missed.append(f"{name}: {goal}, {goals.shown(beside)}")
        rows.append((*shown, goals.shown(beside), goals.in_words(beside), goal))
    return rows, missed


def header(figure: str) -> tuple[str, ...]:
    return ("Tool", f"{figure}, median", "range", "ours ÷ it (95 %)", "in words", "goal")


def validated(report: dict, what: str) -> None:
    """Every answer was looked at, and none was wrong."""
    assert report["failed"] == {}, report["failed"]
    assert sum(each["count"] for each in report["variants"]) == report[what] > 0
    for each in report["variants"]:
        assert BODY.startswith(each["head"]) and each["length"] == len(BODY), each


def by_locust(swarm: Swarm, job: dict, what: str):
    engines = set()

    def run() -> float:
        done = swarm.run({"client": {"cpu": GENERATOR, **job}}, job["seconds"] + job["warmup"])
        report = done.reports["client"]
        validated(report, what)
        engines.add(report["engine"])
        return report[what] / report["window_s"]

    run.engines = engines
    return run


def wrk(bed: PerfBed, connections: int, *more: str):
    argv = [
        "wrk", "-t1", f"-c{connections}", f"-d{max(1, round(SECONDS))}s", *more, bed.url
    ]  # fmt: skip

    def run() -> float:
        said = bed.run(argv)
        assert "Non-2xx" not in said and "Socket errors" not in said, said
        return float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1])

    return run


def h2load(bed: PerfBed) -> float:
    said = bed.run(
        ["h2load", "--h1", "-t1", f"-c{CONNECTIONS}", f"-D{max(1, round(SECONDS))}", bed.url]
    )
    assert re.search(r"status codes: [1-9]\d* 2xx, 0 3xx, 0 4xx, 0 5xx", said), said
    return float(re.search(r"finished in [\d.]+m?s, ([\d.]+) req/s", said)[1])


def ab(bed: PerfBed) -> float:
    seconds = str(max(1, round(SECONDS)))
    said = bed.run(
        ["ab", "-q", "-k", "-c", str(CONNECTIONS), "-t", seconds, "-n", "100000000", bed.url]
    )
    assert "Non-2xx" not in said, said
    return float(re.search(r"Requests per second:\s+([\d.]+)", said)[1])


def fast_http_user(bed: PerfBed, user: str) -> float:
    script = Path(__file__).with_name("fast_http_user.py")
    said = bed.run(
        [sys.executable, "-m", "locust", "-f", str(script), "--headless",
         "--host", bed.url.rstrip("/"), "-u", str(CONNECTIONS), "-r", "1000", "-t",
         f"{max(2, round(SECONDS))}s", "--json",
         "--loglevel", "ERROR", "--stop-timeout", "0", user],
        check=False,
    )  # fmt: skip
    (entry,) = json.loads(said[said.index("[") : said.rindex("]") + 1])
    assert entry["num_failures"] == 0, entry
    return entry["num_requests"] / (entry["last_request_timestamp"] - entry["start_time"])


def test_request_rate(bed, swarm, publish):
    """Keep-alive, 64 connections, a 64-byte object, every answer validated."""
    job = {"job": "closed", "url": bed.url, "connections": CONNECTIONS, "warmup": 0.1}
    ours = by_locust(swarm, {**job, "seconds": SECONDS}, "requests")
    epoll = by_locust(swarm, {**job, "seconds": SECONDS, "engine": "epoll"}, "requests")
    tools = {
        OURS: ours,
        "wrk": wrk(bed, CONNECTIONS),
        "the same engine on epoll": epoll,
        "h2load": lambda: h2load(bed),
        "ab": lambda: ab(bed),
        "locust FastHttpUser": lambda: fast_http_user(bed, "Visitor"),
        FAST: lambda: fast_http_user(bed, "Validator"),
    }
    found = by_turns(tools, ROUNDS)
    (engine,) = ours.engines
    # The plain FastHttpUser; the one that compares bodies as ours does is slower for it.
    rows, missed = rows_of(found, OURS, {"wrk": 1.0, "locust FastHttpUser": 15})
    publish(
        "perf-request-rate",
        f"Requests/s, {CONNECTIONS} connections, one core ({engine}; {ROUNDS} rounds of "
        f"{SECONDS:g} s each)",
        header("requests/s"),
        rows,
    )
    assert not missed, missed


def test_connection_rate(bed, swarm, publish):
    """A new connection for each request; it counts when the answer is whole and FIN came."""
    job = {"job": "connect", "url": bed.url, "concurrency": 32, "warmup": 0.1}
    ours = by_locust(swarm, {**job, "seconds": SECONDS}, "connections")
    epoll = by_locust(swarm, {**job, "seconds": SECONDS, "engine": "epoll"}, "connections")
    tools = {
        OURS: ours,
        "wrk, Connection: close": wrk(bed, 32, "-H", "Connection: close"),
        "the same engine on epoll": epoll,
    }
    found = by_turns(tools, ROUNDS)
    (engine,) = ours.engines
    rows, missed = rows_of(found, OURS, {"wrk, Connection: close": 0.95})
    publish(
        "perf-connection-rate",
        f"New connections/s, 32 at a time, one core ({engine}; {ROUNDS} rounds of {SECONDS:g} s "
        "each)",
        header("connections/s"),
        rows,
    )
    assert not missed, missed


GEVENT_SCHEDULE = """
import json, sys, time
import gevent
rate, seconds = float(sys.argv[1]), float(sys.argv[2])
clock, lags = time.perf_counter, []
cpu, begin = time.process_time(), clock()
def user(offset, pace):
    due = begin + offset
    while due < begin + seconds:
        gevent.sleep(max(0.0, due - clock()))
        lags.append(clock() - due)
        due += pace
gevent.joinall([gevent.spawn(user, i / rate, 64 / rate) for i in range(64)])
lags.sort()
print(json.dumps([lags[len(lags) // 2] * 1e6, lags[int(len(lags) * 0.99)] * 1e6,
                  (time.process_time() - cpu) / (clock() - begin)]))
"""


#: What wrk2 needs to find out how to keep its rate, before it records anything.
CALIBRATION = 10


def wrk2(bed: PerfBed, rate: float, seconds: float) -> tuple[float, float, float]:
    """(p50 and p99 from the intended time in µs, share of a core)."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    said = bed.run(
        ["wrk2", "-t1", "-c16", f"-d{CALIBRATION + math.ceil(seconds)}s", f"-R{rate:g}",
         "--latency", bed.url]
    )  # fmt: skip
    after, took = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - began
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return goals.wrk2_latency(said, 50), goals.wrk2_latency(said, 99), spent / took


def test_open_loop_lag(bed, generator, publish):
    """2,000 requests/s at intended times: how late do they leave, and what does that cost?

    wrk2 does not tell its lag; what both tell is the time from the intended moment to the answer,
    of which the lag is a part.
    """
    rate, seconds, runs = 2000.0, max(1.0, SECONDS), 5
    found = {"ours": [], "gevent": [], "wrk2": []}
    there = shutil.which("wrk2") is not None
    for _ in range(runs):
        report = generator.job(
            {
                "job": "open", "url": bed.url, "connections": 16, "warmup": 0.2, "cpu": GENERATOR,
                "schedule": [[rate, rate, seconds + 0.2]],
            },
            seconds=seconds + 1,
        )  # fmt: skip
        times = Times(report["raw"])
        assert report["answered"] == report["planned"] and report["failed"] == {}
        lag = np.percentile(times.lag(), [50, 99]) / 1e3
        response = np.percentile(times.response(), [50, 99]) / 1e3
        found["ours"].append((*lag, *response, report["health"]["cpu_share"]))
        said = bed.run([sys.executable, "-c", GEVENT_SCHEDULE, str(rate), str(seconds)])
        p50, p99, cpu = json.loads(said)
        found["gevent"].append((p50, p99, math.nan, math.nan, cpu))
        if there:
            p50, p99, cpu = wrk2(bed, rate, seconds)
            found["wrk2"].append((math.nan, math.nan, p50, p99, cpu))
    ours = np.median(found["ours"], axis=0)
    late, in_time = goals.most(ours[1], 100, "100 µs")
    dear, cheap = goals.most(ours[4], 0.45, "45 %")
    names = {
        "ours": "sriov-lb-perf, open loop", "gevent": "gevent.sleep (locust's wait_time)",
        "wrk2": "wrk2",
    }  # fmt: skip
    rows = [
        (
            names[name],
            *("–" if math.isnan(value) else f"{value:.0f} µs" for value in middle[:4]),
            f"{middle[4]:.0%}",
            f"lag p99 {late}; core {dear}" if name == "ours" else "",
        )
        for name, middle in (
            (name, np.median(each, axis=0)) for name, each in found.items() if each
        )
    ]
    if not there:
        rows.append(("wrk2", *["–"] * 5, "not on this machine's PATH"))
    publish(
        "perf-lag",
        f"Lag behind the intended time at 2,000/s (median of {runs} runs of {seconds:g} s)",
        ("Generator", "lag, median", "lag, p99", "answer from the intended time, median",
         "the same, p99", "share of a core", "goal"),
        rows,
    )  # fmt: skip
    assert in_time and cheap, found["ours"]


def sockperf(bed: PerfBed, seconds: float) -> dict[float, float]:
    """Round trips of sockperf's ping-pong, µs by percentile."""
    said = bed.run(
        ["sockperf", "ping-pong", "-i", TARGET_IP, "-p", "11111", "-t", str(math.ceil(seconds)),
         "--full-rtt", "--msg-size", "64"]
    )  # fmt: skip
    found = re.findall(r"percentile ([\d.]+) =\s+([\d.]+)", said)
    return {float(q): float(value) for q, value in found}


def probe(generator: Generator, seconds: float) -> dict[float, float]:
    """Round trips by kernel stamps, one request at a time like ping-pong, µs by percentile.

    What is sent is a sockperf message, so that the very same server answers both.
    """
    report = generator.job(
        {
            "job": "udp", "address": TARGET_IP, "port": 11111, "outstanding": 1, "warmup": 0.1,
            "payload": f"{0:016x}{3:04x}{64:08x}" + "00" * 50, "number": [0, 8],
            "schedule": [[40_000, 40_000, seconds + 0.1]], "cpu": GENERATOR, "grace": 0.1,
        },
        seconds=seconds + 1,
    )  # fmt: skip
    stamped = Times(report["raw"]).kernel
    stamped = stamped[stamped >= 0]
    assert len(stamped) > 0.99 * report["answered"] > 500, report["stamps"]
    seen = Histogram.of(stamped)
    return {q: seen.percentile(q) / 1e3 for q in (50, 99, 99.9)}


def test_probe_beside_sockperf(bed, generator, publish):
    """The same server, the same path; then with another job on the prober's core."""
    server = bed.serve(["sockperf", "server", "-i", TARGET_IP, "-p", "11111"])
    bed.until(lambda: bed.listens_udp(11111))
    seconds = max(1.0, SECONDS)
    tools = {"sockperf": lambda: sockperf(bed, seconds), "ours": lambda: probe(generator, seconds)}
    figures, each_run = {}, {}
    try:
        for state in ("idle", "busy"):
            with contextlib.ExitStack() as stack:
                if state == "busy":
                    other = bed.disturb([sys.executable, "-c", "while True: pass"])
                    stack.callback(end, other)
                for name, runs in by_turns(tools, PROBE_RUNS).items():
                    each_run[name, state] = runs
                    figures[name, state] = {
                        q: statistics.median(run[q] for run in runs) for q in (50, 99, 99.9)
                    }
    finally:
        end(server)
    moved = {
        name: abs(figures[name, "busy"][99.9] - figures[name, "idle"][99.9]) for name in tools
    }
    beside = {
        state: goals.ratio(*([run[50] for run in each_run[name, state]] for name in
                             ("ours", "sockperf")))
        for state in ("idle", "busy")
    }  # fmt: skip
    nearer = moved["sockperf"] / moved["ours"] if moved["ours"] else math.inf
    lower = beside["idle"].high < 1
    notes = {
        "idle": "p50 below sockperf's: "
        + ("reached" if lower else "on a par" if beside["idle"].contains(1.0) else "missed"),
        "busy": f"p99.9 at least 10 times nearer to the idle one: {nearer:.1f} times, "
        + ("reached" if nearer >= 10 else "missed"),
    }
    names = {"sockperf": "sockperf ping-pong", "ours": "sriov-lb-perf, kernel stamps"}
    rows = [
        (names[name], "another job on its core" if state == "busy" else "idle",
         *(f"{values[q]:.0f} µs" for q in (50, 99, 99.9)),
         f"{moved[name]:.0f} µs" if state == "busy" else "",
         *((goals.shown(beside[state]), notes[state]) if name == "ours" else ("1", "")))
        for (name, state), values in sorted(figures.items(), reverse=True)
    ]  # fmt: skip
    publish(
        "perf-probe",
        f"UDP round trips, 64 bytes, one at a time (median of {PROBE_RUNS} runs of {seconds:g} s)",
        ("Probe", "prober's core", "p50", "p99", "p99.9", "p99.9 moved by",
         "p50 ÷ sockperf's (95 %)", "goal"),
        rows,
    )  # fmt: skip
    assert figures["ours", "idle"][50] < figures["sockperf", "idle"][50], figures
    assert nearer >= 10, moved
