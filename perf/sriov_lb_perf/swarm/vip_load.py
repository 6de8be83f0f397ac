# SPDX-License-Identifier: Apache-2.0
"""A locustfile whose User runs an engine, not a request.

Alone, with locust's usual options and web UI (each user is one engine process on a core of its
own, so ``-u`` is a number of cores rather than of people)::

    locust -f .../sriov_lb_perf/swarm/vip_load.py --host http://192.0.2.7/ -u 1
    locust -f .../vip_load.py --host http://192.0.2.7/ -u 2 -t 30s --headless \\
        --vip-mode open --vip-rate 5000
    locust -f .../vip_load.py --host http://192.0.2.7/ -u 1 -t 60s --headless \\
        --vip-mode open --vip-schedule 0:5000:10,5000:5000:40,1000:1000:10

Modes: ``closed`` (as fast as the connections allow), ``open`` (at intended times; the response
time runs from the intended time, so a stall of the target is not omitted), ``connect`` (a new
connection for each request). Under ``sriov-lb-perf`` the same User gets its jobs from there.

Response times in locust's statistics have 10 us resolution here, not 1 ms.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import time

import gevent
from locust import User, constant, events, task
from locust.exception import StopUser

from sriov_lb_perf import carry
from sriov_lb_perf.histogram import Histogram
from sriov_lb_perf.swarm.station import Station


@events.init_command_line_parser.add_listener
def add_options(parser) -> None:
    group = parser.add_argument_group("VIP load")
    group.add_argument("--vip-mode", choices=("closed", "open", "connect"), default="closed")
    group.add_argument("--vip-connections", type=int, default=64, help="per engine")
    group.add_argument("--vip-rate", type=float, default=1000.0, help="requests/s per engine")
    group.add_argument(
        "--vip-schedule",
        type=schedule,
        default="",
        metavar="FIRST:LAST:SECONDS,…",
        help="for mode open, in place of --vip-rate: from FIRST to LAST requests/s in SECONDS "
        "(a ramp; a step where they are equal), one part after the other, then again",
    )


def parse_schedule(text: str) -> list[list[float]]:
    """``0:5000:10,5000:5000:40`` as ``[[0, 5000, 10], [5000, 5000, 40]]``.

    :raises ValueError: it is not of that form.
    """
    parts = [[float(word) for word in part.split(":")] for part in text.split(",") if part]
    if any(len(part) != 3 or min(part) < 0 or part[2] == 0 for part in parts):
        raise ValueError("three numbers a part, none negative, no part of 0 s")
    return parts


def schedule(text: str) -> str:
    """A checked --vip-schedule; locust's web form wants the text."""
    try:
        parse_schedule(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not FIRST:LAST:SECONDS,…: {error}"
        ) from error
    return text


def mirror(environment, name: str, histogram: Histogram) -> None:
    """Adds durations to locust's own statistics (UI, CSV, HTML).

    ``events.request`` costs 3.6 us a request, a third of what the request itself costs; so the
    totals are added instead, once per report.
    """
    values, counts = histogram.stretch()
    total = int(counts.sum())
    milliseconds = values / 1e6
    now = int(time.time())
    for entry in (environment.stats.get(name, "GET"), environment.stats.total):
        entry.num_requests += total
        entry.num_reqs_per_sec[now] = entry.num_reqs_per_sec.get(now, 0) + total
        entry.last_request_timestamp = time.time()
        entry.total_response_time += float((milliseconds * counts).sum())
        low = float(milliseconds[0])
        entry.min_response_time = (
            low if entry.min_response_time is None else min(low, entry.min_response_time)
        )
        entry.max_response_time = max(entry.max_response_time, float(milliseconds[-1]))
        for value, count in zip(milliseconds.tolist(), counts.tolist(), strict=True):
            bucket = round(value, 2)
            entry.response_times[bucket] = entry.response_times.get(bucket, 0) + count


class VipLoadUser(User):
    """One engine. ``environment.sriov_lb`` (a worker's desk) gives the jobs when there is one."""

    wait_time = constant(0)

    def on_start(self) -> None:
        self.desk = getattr(self.environment, "sriov_lb", None)
        self.engine = None
        if self.desk is None:
            ours, theirs = socket.socketpair()
            self.engine = subprocess.Popen(
                carry.command(sys.executable), stdin=theirs, stdout=theirs
            )
            theirs.close()
            ours.sendall(carry.cargo())
            self.station = Station(ours, "local")
            self.station._read()  # its greeting
            self.link = ours

    def on_stop(self) -> None:
        if self.engine is not None:
            self.link.close()  # which ends the engine
            self.engine.wait(timeout=10)

    @task
    def load(self) -> None:
        if self.desk is not None:
            self.desk.work(self)
            return
        report = self.station.run(0, self._job(), self._mirror)
        self.station.take()
        if report["report"] == "error":
            self.environment.events.request.fire(
                request_type="GET",
                name=self.host,
                response_time=0,
                response_length=0,
                exception=RuntimeError(report["message"]),
                context={},
            )
            if report["kind"] in ("job", "lost"):
                raise StopUser(report["message"])
            gevent.sleep(1)

    def _mirror(self, histogram: Histogram) -> None:
        mirror(self.environment, self.host, histogram)

    def _job(self) -> dict:
        """Two seconds at a time: locust decides how often."""
        options = self.environment.parsed_options
        job = {"job": options.vip_mode, "url": self.host, "warmup": 0.0, "seconds": 2.0}
        if options.vip_mode == "connect":
            return {**job, "concurrency": options.vip_connections}
        job["connections"] = options.vip_connections
        if options.vip_mode == "open":
            rate = options.vip_rate
            parts = parse_schedule(options.vip_schedule) or [[rate, rate, 2.0]]
            job.update(schedule=parts, raw=False, grace=0.5)
        return job
