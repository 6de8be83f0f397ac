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
import shutil
import statistics
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # perf_bed, under importlib mode

from perf_bed import BODY, GENERATOR, TARGET_IP, PerfBed, end  # noqa: E402

from sriov_lb_perf.clients import Client, Generator  # noqa: E402
from sriov_lb_perf.engines.probe import Times  # noqa: E402
from sriov_lb_perf.histogram import Histogram  # noqa: E402
from sriov_lb_perf.statistics.estimates import Interval, interval  # noqa: E402
from sriov_lb_perf.swarm.control import Swarm  # noqa: E402

ROUNDS = int(os.environ.get("SRIOV_LB_BENCH_ROUNDS", 10))
SECONDS = float(os.environ.get("SRIOV_LB_BENCH_SECONDS", 2))
CONNECTIONS = 64
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


def ratio(ours: list[float], theirs: list[float]) -> Interval:
    """Ours over theirs, paired by round: Hodges-Lehmann with its 95 % bootstrap interval."""
    logs = [math.log(a / b) for a, b in zip(ours, theirs, strict=True)]
    return interval(logs).map(math.exp)


def in_words(found: Interval) -> str:
    if found.contains(1.0):
        return "on a par"
    return "faster" if found.low > 1 else "slower"


def rows_of(found: dict[str, list[float]], first: str) -> list[tuple[str, ...]]:
    rows = []
    for name, values in found.items():
        shown = [
            name, f"{statistics.median(values):,.0f}", f"{min(values):,.0f} – {max(values):,.0f}",
        ]  # fmt: skip
        if name == first:
            rows.append((*shown, "1", ""))
        else:
            beside = ratio(found[first], values)
            shown.append(f"{beside.estimate:.2f} ({beside.low:.2f} – {beside.high:.2f})")
            rows.append((*shown, in_words(beside)))
    return rows


def header(figure: str) -> tuple[str, ...]:
    return ("Tool", f"{figure}, median", "range", "ours ÷ it (95 %)", "in words")


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
    publish(
        "perf-request-rate",
        f"Requests/s, {CONNECTIONS} connections, one core ({engine}; {ROUNDS} rounds of "
        f"{SECONDS:g} s each)",
        header("requests/s"),
        rows_of(found, OURS),
    )
    beside_wrk = ratio(found[OURS], found["wrk"])
    assert beside_wrk.estimate >= 1.0 or beside_wrk.contains(1.0), beside_wrk
    # The plain one; the row beside it compares bodies as ours does, and is slower for it.
    assert ratio(found[OURS], found["locust FastHttpUser"]).estimate >= 15


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
    publish(
        "perf-connection-rate",
        f"New connections/s, 32 at a time, one core ({engine}; {ROUNDS} rounds of {SECONDS:g} s "
        "each)",
        header("connections/s"),
        rows_of(found, OURS),
    )
    assert ratio(found[OURS], found["wrk, Connection: close"]).estimate >= 0.95


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


def test_open_loop_lag(bed, generator, publish):
    """2,000 requests/s at intended times: how late do they leave, and what does that cost?"""
    rate, seconds, found = 2000.0, max(1.0, SECONDS), {"ours": [], "gevent": []}
    for _ in range(5):
        report = generator.job(
            {
                "job": "open", "url": bed.url, "connections": 16, "warmup": 0.2, "cpu": GENERATOR,
                "schedule": [[rate, rate, seconds + 0.2]],
            },
            seconds=seconds + 1,
        )  # fmt: skip
        times = Times(report["raw"])
        assert report["answered"] == report["planned"] and report["failed"] == {}
        p50, p99 = np.percentile(times.lag(), [50, 99]) / 1e3
        found["ours"].append((p50, p99, report["health"]["cpu_share"]))
        said = bed.run([sys.executable, "-c", GEVENT_SCHEDULE, str(rate), str(seconds)])
        found["gevent"].append(tuple(json.loads(said)))
    middle = {name: np.median(rows, axis=0) for name, rows in found.items()}
    names = {"ours": "sriov-lb-perf, open loop", "gevent": "gevent.sleep (locust's wait_time)"}
    rows = [
        (names[name], f"{p50:.0f} µs", f"{p99:.0f} µs", f"{cpu:.0%}")
        for name, (p50, p99, cpu) in middle.items()
    ]
    rows.append(
        ("wrk2", "not measured", "not measured",
         "in no package registry this machine uses; it is built from source")
    )  # fmt: skip
    publish(
        "perf-lag",
        f"Lag behind the intended time at 2,000/s (median of five runs of {seconds:g} s)",
        ("Generator", "lag, median", "lag, p99", "share of a core"),
        rows,
    )
    _, p99, cpu = middle["ours"]
    assert p99 <= 100, found["ours"]
    assert cpu <= 0.45, found["ours"]


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
    figures = {}
    try:
        for state in ("idle", "busy"):
            with contextlib.ExitStack() as stack:
                if state == "busy":
                    other = bed.disturb([sys.executable, "-c", "while True: pass"])
                    stack.callback(end, other)
                for name, runs in by_turns(tools, 5).items():
                    figures[name, state] = {
                        q: statistics.median(run[q] for run in runs) for q in (50, 99, 99.9)
                    }
    finally:
        end(server)
    moved = {
        name: abs(figures[name, "busy"][99.9] - figures[name, "idle"][99.9]) for name in tools
    }
    names = {"sockperf": "sockperf ping-pong", "ours": "sriov-lb-perf, kernel stamps"}
    rows = [
        (names[name], "another job on its core" if state == "busy" else "idle",
         *(f"{values[q]:.0f} µs" for q in (50, 99, 99.9)),
         f"{moved[name]:.0f} µs" if state == "busy" else "")
        for (name, state), values in sorted(figures.items(), reverse=True)
    ]  # fmt: skip
    publish(
        "perf-probe",
        f"UDP round trips, 64 bytes, one at a time (median of five runs of {seconds:g} s)",
        ("Probe", "prober's core", "p50", "p99", "p99.9", "p99.9 moved by"),
        rows,
    )
    assert figures["ours", "idle"][50] < figures["sockperf", "idle"][50], figures
    assert moved["ours"] * 10 <= moved["sockperf"], moved
