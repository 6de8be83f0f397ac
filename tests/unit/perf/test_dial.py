# SPDX-License-Identifier: Apache-2.0
"""TCP connect at intended times, against servers on loopback."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time

import numpy as np
import pytest

from sriov_lb_perf import errors
from sriov_lb_perf.agent.dial import handshake_ns
from sriov_lb_perf.clients import Client, Generator, LocalHost
from sriov_lb_perf.engines.base import Limits
from sriov_lb_perf.engines.probe import KERNEL, ConnectProbe, Times
from sriov_lb_perf.histogram import Histogram
from sriov_lb_perf.model import Trial
from sriov_lb_perf.targets import Pair, Target


@pytest.fixture
def generator():
    made = Generator.start(Client("here", "local"), LocalHost())
    yield made
    made.close()


def job_to(url: str, **more) -> dict:
    return {"job": "dial", "url": url, "warmup": 0.1, "schedule": [[200, 200, 0.5]], **more}


def test_each_connection_is_made_at_its_time_and_timed_by_the_kernel(generator, server):
    report = generator.job(job_to(server.url), seconds=2)
    times = Times(report["raw"])
    assert report["planned"] == 80 == len(times.due) and report["failed"] == {}
    assert np.array_equal(times.due, (np.arange(20, 100) * 5e6).astype(int))
    assert times.lost == 0 and (times.sent >= times.due).all()
    assert times.best_clock() == KERNEL and report["stamps"] == {"kernel": 80}
    # The kernel's time lies within the process's, but for the microsecond it is rounded to.
    assert (times.kernel <= times.done - times.sent + 1000).all()
    assert (times.kernel % 1000 == 0).all() and (times.kernel > 0).all()
    # Every answer was fetched, and is whole.
    assert sum(each["count"] for each in report["variants"]) == 80
    first = Histogram.of_sparse(report["times"]["first_byte"])
    assert len(first) == 80
    assert first.percentile(50) > np.percentile(times.kernel, 50)


def test_a_port_where_nobody_listens_is_a_loss_each_time(generator):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
        report = generator.job(job_to(url), seconds=2)
    assert report["lost"] == report["planned"] == 80
    assert set(report["failed"]) == {"connect: Connection refused"}


def test_an_answer_that_is_wrong_fails_and_its_connection_was_made(generator, server, response):
    server.answer = lambda request: response(503, b"no")
    report = generator.job(job_to(server.url), seconds=2)
    assert report["lost"] == 0 and report["failed"] == {"status 503": 80}


def test_an_answer_that_does_not_come_fails(generator, server):
    server.answer = lambda request: b""
    # The server closes on "Connection: close": without an answer.
    report = generator.job(job_to(server.url), seconds=2)
    assert report["failed"] == {"closed before an answer": 80}
    with socket.create_server(("127.0.0.1", 0), backlog=256) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        report = generator.job(job_to(url, grace=0.2), seconds=2)
    assert report["failed"] == {"no answer in time": 80} and report["lost"] == 0


def test_tls_is_refused_in_words(generator):
    with pytest.raises(errors.EngineFailed, match="plain HTTP"):
        generator.job(job_to("https://127.0.0.1:1/"), seconds=2)


def test_a_syn_that_was_sent_again_is_not_timed_by_the_kernel():
    """The kernel times the last SYN only; the wait for the first would be missing."""

    def info(total_retrans=0, rtt=250):
        words = [0] * 24
        words[15], words[23] = rtt, total_retrans
        return bytes(8) + b"".join(word.to_bytes(4, "little") for word in words)

    class Sock:
        def __init__(self, data):
            self.data = data

        def getsockopt(self, level, option, size):
            assert (level, option, size) == (socket.IPPROTO_TCP, socket.TCP_INFO, 104)
            return self.data

    assert handshake_ns(Sock(info())) == 250_000
    assert handshake_ns(Sock(info(total_retrans=1))) is None
    assert handshake_ns(Sock(info(rtt=0))) is None


def test_the_first_round_trip_of_a_connection_is_where_it_is_looked_for(server):
    """Against ss, which reads the same structure by its names."""
    if shutil.which("ss") is None:
        pytest.skip("ss (iproute2) is not installed")
    with contextlib.closing(socket.create_connection(("127.0.0.1", server.port))) as sock:
        found = handshake_ns(sock)
        port = sock.getsockname()[1]
        said = subprocess.run(
            ["ss", "-tinH", "sport", "=", f":{port}"], capture_output=True, text=True, check=True
        ).stdout
    rtt = float(said.split(" rtt:")[1].split("/")[0])  # ms
    assert found == pytest.approx(rtt * 1e6, abs=1000), said


def test_every_field_a_sample_needs_is_there(server, stage_of, response):
    """Through the host's side: the sample's metrics are those that were announced."""
    here = Client("here", "local")
    prober = Generator.start(here, LocalHost())
    target = Target("normal", server.url)
    pair = Pair(target, target, (here,))
    stage = stage_of(
        engine="connect-latency", seconds=0.3, warmup=0.05, parameters={"rate": 300}
    )

    class Crew:
        limits, clients, swarm = Limits(steal=1.0, failed=0.1), (here,), None
        length_of = staticmethod({server.url: 64}.__getitem__)

    Crew.prober = prober
    engine = ConnectProbe()
    try:
        engine.configure(stage, pair, Crew)
        sample = engine.measure(Trial(1, stage, "A", 0, 0), pair, Crew)
        server.answer = lambda request: b""
        bad = engine.measure(Trial(2, stage, "A", 0, 1), pair, Crew)
        server.answer = lambda request: response(200, b"sorry")
        other = engine.measure(Trial(3, stage, "A", 0, 2), pair, Crew)
    finally:
        prober.close()
    for metric in engine.metrics(stage):
        if metric.histogram:
            assert len(sample.histograms[metric.histogram]) > 0, metric
        else:
            assert metric.name in sample.values, metric
    assert sample.notes == [engine.clocks[KERNEL]]
    assert sample.values["loss"] == 0.0 and sum(sample.members.values()) == sample.requests
    # An answer that is no good voids the sample, though the connection came up in time.
    assert bad.values["loss"] == 0.0
    assert "closed before an answer" in bad.void[-1], bad.void
    # Nor does one that is whole and not what the VIP served before.
    assert other.broke and "length 5, not 64" in other.void[-1], other.void


def test_it_can_be_stopped_and_the_engine_lives_on(generator, server):
    generator.send(job_to(server.url, schedule=[[100, 100, 60]], tick=0.1))
    generator.read(time.monotonic() + 10)  # it is at work
    generator.send({"job": "stop"})
    with pytest.raises(errors.EngineFailed, match="stopped the job"):
        generator.finish("dial", 10)
    assert generator.job(job_to(server.url), seconds=2)["lost"] == 0
