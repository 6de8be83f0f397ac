# SPDX-License-Identifier: Apache-2.0
"""Fixtures: a web server on loopback, samples and results made up from known numbers."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import socket
import threading

import numpy as np
import pytest

from sriov_lb_perf.histogram import Histogram
from sriov_lb_perf.model import Health, Metric, Sample, Stage, Trial

BODY = b"member-1 " + b"x" * 55


class Server:
    """HTTP/1.1 on loopback, one thread a connection; ``answer`` may be replaced by a test."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.socket.getsockname()[1]
        self.answer = self.ok
        self.requests = 0
        self._open = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    @staticmethod
    def ok(request: bytes) -> bytes:
        return response(200, BODY)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        data = b""
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while True:
                while b"\r\n\r\n" not in data:
                    piece = connection.recv(4096)
                    if not piece:
                        return
                    data += piece
                request, _, data = data.partition(b"\r\n\r\n")
                self.requests += 1
                answer = self.answer(request)
                if answer:
                    connection.sendall(answer)
                if b"Connection: close" in request:
                    return
        except OSError:
            return
        finally:
            connection.close()

    def close(self) -> None:
        # A close alone would leave it listening for as long as the thread waits in accept().
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        for connection in self._open:
            connection.close()


def response(status: int, body: bytes, extra: str = "") -> bytes:
    head = f"HTTP/1.1 {status} Words\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
    return head.encode() + body


@pytest.fixture
def server():
    made = Server()
    yield made
    made.close()


@pytest.fixture(name="response")
def response_fixture():
    return response


class FakeEngine:
    """Samples from known distributions; what a trial gives depends on side and number only."""

    name = "fake"
    needs = ""

    def __init__(self, ratio=1.0, spread=0.02, fail_at=None, error=None, self_shift=0.0):
        self.ratio, self.spread = ratio, spread
        self.fail_at, self.error = fail_at, error
        self.self_shift = self_shift
        self.measured = []

    def metrics(self, stage):
        return [
            Metric("rate", "Requests per second", "1/s", "higher"),
            Metric("p50", "Latency, median", "ns", "lower", histogram="latency", percentile=50),
            Metric("loss", "Lost", "share", "lower", claim=False, note="not tested here"),
        ]

    def unfit(self, stage, pair):
        return None

    def configure(self, stage, pair, crew):
        pass

    def measure(self, trial, pair, crew):
        if trial.number == self.fail_at:
            raise self.error
        self.measured.append(trial)
        source = np.random.default_rng(trial.number)
        scale = self.ratio if trial.side == "B" else 1.0
        noise = float(np.exp(source.normal(0, self.spread)))
        rate = 10_000 * scale * noise
        values = source.lognormal(np.log(500_000 / scale / noise), 0.3, 2000).astype(int)
        return Sample(
            trial=trial,
            started=1_700_000_000.0 + trial.number,
            window=1.0,
            requests=2000,
            values={"rate": rate, "loss": 0.0},
            histograms={"latency": Histogram.of(values)},
            members={"member-1": 2000},
            health=Health(cpu=0.4),
            raw={"done": values},
        )


@pytest.fixture
def fake_engine():
    return FakeEngine


@pytest.fixture
def stage_of():
    def make(**more):
        values = {
            "name": "requests",
            "title": "Request rate",
            "engine": "fake",
            "seconds": 1.0,
            "warmup": 0.1,
            "blocks": 6,
            "most": 6,
        }
        return Stage(**{**values, **more})

    return make


@pytest.fixture
def sample_of(stage_of):
    def make(side, block, position, *, value=1.0, durations=(), stage=None, **more):
        stage = stage or stage_of()
        trial = Trial(block * 4 + position + 1, stage, side, block, position)
        return Sample(
            trial=trial,
            started=0.0,
            window=1.0,
            requests=1,
            values={"rate": value},
            histograms={"latency": Histogram.of(list(durations))},
            **more,
        )

    return make


@pytest.fixture
def made_run(tmp_path, monkeypatch, fake_engine):
    """made_run(ratio=…, …) -> Outcome of a whole comparison without any network."""
    from sriov_lb_perf import compare, profiles
    from sriov_lb_perf.engines import registry
    from sriov_lb_perf.targets import Client, Pair, Target

    class NoCrew:
        def __init__(self, *_args, **_more):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_exc):
            pass

    monkeypatch.setattr(compare, "Crew", NoCrew)
    monkeypatch.setattr(
        compare.fingerprint, "take", lambda pair, crew: {"substrate": pair.substrate}
    )
    monkeypatch.setattr(compare.preflight, "look", lambda pair, profile, crew: ({}, pair))

    def make(
        *, blocks=6, rounds=1, seed=1, engine=None, output=None, progress=None, claims=(), **more
    ):
        chosen = engine or fake_engine(**more)
        monkeypatch.setitem(registry.ENGINES, "http-rate", lambda: chosen)
        profile = profiles.from_mapping(
            {
                "name": "test",
                "title": "Unit test",
                "time_limit": 1000,
                "margin": 0.05,
                "claims": list(claims),
                "stages": [
                    {
                        "name": "requests",
                        "title": "Request rate",
                        "engine": "http-rate",
                        "seconds": 1,
                        "warmup": 0.1,
                        "blocks": blocks,
                        "rounds": rounds,
                    }
                ],
            },
            "the test's profile",
        )
        pair = Pair(
            Target("normal", "http://192.0.2.1/"),
            Target("sriov", "http://192.0.2.2/"),
            (Client("local", "local"),),
            substrate="macvlan",
        )
        return compare.compare(
            pair, profile, output or tmp_path / "runs", seed=seed, progress=progress
        )

    return make


_finished: list = []


@pytest.fixture
def finished(made_run):
    """The outcome of one comparison in which B is 1.8 times faster: measured once for all
    tests; the document is each test's own."""
    if not _finished:
        _finished.append(made_run(ratio=1.8))
    outcome = _finished[0]
    return dataclasses.replace(outcome, document=copy.deepcopy(outcome.document))
