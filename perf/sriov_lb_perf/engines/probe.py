# SPDX-License-Identifier: Apache-2.0
"""Latency: requests at intended times, kernel time stamps, losses counted as infinite."""

from __future__ import annotations

import base64
import time
import zlib
from collections.abc import Mapping

import numpy as np

from .. import errors
from ..histogram import Histogram
from ..model import Metric, Sample, Stage, Trial
from ..targets import Pair
from .base import Crew, failures, generator_faults, health_of, members, percentile_metrics

DEFAULT_PERCENTILES = (50, 90, 99, 99.9)


def unpack(text: str) -> np.ndarray:
    """The agent's raw times: int64 ns, -1 where there is none."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype="<i8").astype(np.int64)


class Times:
    """The times of one open-loop job, request by request, all in ns from its start.

    ``due`` is when a request was to leave, ``ready`` when it could (later than ``due`` only
    because no connection was free, which is the target's doing), ``sent`` when it did
    (``sent - ready`` is the generator's own lag), ``done`` when its answer was complete, and
    ``kernel`` the kernel's own receive minus transmit stamp.
    """

    def __init__(self, raw: Mapping[str, str | None]) -> None:
        self.due = unpack(raw["due"])
        self.ready = unpack(raw["ready"])
        self.sent = unpack(raw["sent"])
        self.done = unpack(raw["done"])
        self.kernel = unpack(raw["kernel"]) if raw.get("kernel") else np.full(len(self.due), -1)

    @property
    def answered(self) -> np.ndarray:
        return self.done >= 0

    @property
    def lost(self) -> int:
        """Requests without a good answer: an infinite delay each (RFC 7679)."""
        return int((~self.answered).sum())

    def lag(self) -> np.ndarray:
        """What the generator itself was late by."""
        left = self.sent >= 0
        return (self.sent - self.ready)[left]

    def response(self) -> np.ndarray:
        """From the intended time to the answer, by the user's clock; includes the lag."""
        return (self.done - self.due)[self.answered]

    def latency(self) -> np.ndarray:
        """From the intended time to the answer, without the generator's own delay.

        Waiting for a free connection (the target's doing) plus the kernel's receive minus
        transmit stamp; where a request has no stamps, the user clock's service time.
        """
        good = self.answered
        service = np.where(self.kernel >= 0, self.kernel, self.done - self.sent)
        return (self.ready - self.due + service)[good]

    def arrays(self) -> dict[str, np.ndarray]:
        return {
            "due": self.due,
            "ready": self.ready,
            "sent": self.sent,
            "done": self.done,
            "kernel": self.kernel,
        }


class LatencyProbe:
    """HTTP requests on open connections, idle or beside a background load.

    With a background load the same absolute rate is offered to both VIPs.
    """

    name = "http-latency"

    def metrics(self, stage: Stage) -> list[Metric]:
        rate = float(stage.parameters["rate"])
        expected = rate * stage.seconds * 2  # two trials a VIP in a block
        percentiles = stage.parameters.get("percentiles", DEFAULT_PERCENTILES)
        return [
            *percentile_metrics("latency", percentiles, expected, "Latency"),
            Metric(
                "pdv99.9", "Delay variation (99.9th percentile minus minimum)", "ns", "lower",
                claim=False, note="RFC 5481 PDV",
            ),
            Metric("minimum", "Smallest latency", "ns", "lower", claim=False),
            Metric(
                "loss", "Requests without an answer", "1", "lower", claim=False,
                note="each counts as an infinite latency",
            ),
        ]  # fmt: skip

    def unfit(self, stage: Stage, pair: Pair) -> str | None:
        if any(vip.url.startswith("https:") for vip in (pair.reference, pair.candidate)):
            return "kernel time stamps cannot be matched to requests inside TLS; give an http URL"
        return None

    def configure(self, stage: Stage, pair: Pair, crew: Crew) -> None:
        _ = crew.prober
        if stage.load:
            _ = crew.swarm

    def measure(self, trial: Trial, pair: Pair, crew: Crew) -> Sample:
        stage = trial.stage
        target = pair.side(trial.side)
        rate = float(stage.parameters["rate"])
        client = crew.clients[0]
        job = {
            "job": "open",
            "url": target.url,
            "connections": int(stage.parameters.get("connections", 16)),
            "schedule": [[rate, rate, stage.trial_seconds]],
            "arrivals": stage.parameters.get("arrivals", "poisson"),
            # The same schedule for both VIPs of a block's n-th pair, another for each block.
            "seed": stage.parameters.get("seed", 1) * 1000 + trial.block,
            "warmup": stage.warmup,
            "stamps": bool(stage.parameters.get("stamps", True)),
            "grace": float(stage.parameters.get("grace", 1.0)),
        }
        if client.cpu is not None:
            job["cpu"] = client.cpu
        background = self._begin_background(trial, target.url, crew) if trial.rate else None
        started = time.time()
        try:
            report = crew.prober.job(job, seconds=stage.trial_seconds + job["grace"])
        finally:
            loaded = None
            if background is not None:
                loaded = crew.swarm.finish(background, stage.trial_seconds + 2.0)
        return self._sample(trial, started, report, loaded, crew)

    def _begin_background(self, trial: Trial, url: str, crew: Crew) -> int:
        stage = trial.stage
        seconds = stage.trial_seconds + 0.5
        jobs = crew.jobs(
            {
                "job": "open",
                "url": url,
                "warmup": stage.warmup,
                "raw": False,
                "grace": 1.0,
                "tick": 0.1,
            },
            {"connections": int(stage.parameters.get("load_connections", 64))},
        )
        share = trial.rate / len(crew.clients)
        for job in jobs.values():
            job["schedule"] = [[share, share, seconds]]
        number = crew.swarm.begin(jobs)
        # The load is to be there before the probe's warm-up begins.
        crew.swarm.await_progress()
        return number

    def _sample(self, trial, started, report, loaded, crew: Crew) -> Sample:
        if "raw" not in report:
            raise errors.EngineFailed(
                f"The latency probe of stage {trial.stage.name} took more samples than it may "
                "keep one by one.",
                remedy="Lower the stage's rate or seconds.",
            )
        times = Times(report["raw"])
        name = crew.clients[0].name
        health = health_of({name: report}, crew.limits)
        lag = times.lag()
        health.lag_p99 = float(np.percentile(lag, 99)) if lag.size else None
        notes = []
        void = [*health.bottleneck, *generator_faults({name: report})]
        latency = times.latency()
        if latency.size and latency.min() < 0:
            void.append("a time stamp lies before the request's own: the clock went backwards")
            latency = np.maximum(latency, 0)
        histogram = Histogram.of(latency, times.lost)
        stamps = report["stamps"]
        if stamps.get("missing"):
            notes.append(
                f"{stamps['missing']} of {sum(stamps.values())} requests have no kernel stamp; "
                "their user time is used"
            )
        own = report["unsent_by_own_fault"]
        if own > crew.limits.missed * report["planned"]:
            void.append(
                f"the generator on {name} did not send {own} of {report['planned']} requests "
                "although connections were free"
            )
        elif report["unsent"] > crew.limits.missed * report["planned"]:
            # Not void: the target was too slow to be sent to. It counts as infinite latency.
            notes.append(f"{report['unsent']} of {report['planned']} requests were never sent")
        if not stamps and latency.size:
            p99 = histogram.percentile(99)
            if health.lag_p99 is not None and health.lag_p99 > crew.limits.lag * p99:
                void.append(
                    f"the generator's own lag (p99 {health.lag_p99 / 1e3:.0f} us) is too large "
                    f"beside the reported p99 ({p99 / 1e3:.0f} us)"
                )
        if loaded is not None:
            wanted = trial.rate * (trial.stage.seconds + 0.5)
            got = sum(each["answered"] for each in loaded.reports.values())
            if got < 0.99 * wanted:
                notes.append(
                    f"background load: {got} of {wanted:.0f} requests were answered in time"
                )
            beside = health_of(loaded.reports, crew.limits)
            void += [f"background load: {what}" for what in beside.bottleneck]
            health.details += beside.details
        minimum = histogram.minimum
        return Sample(
            trial=trial,
            started=started,
            window=report["window_s"],
            requests=report["answered"],
            values={
                "pdv99.9": histogram.percentile(99.9) - minimum,
                "minimum": minimum,
                "loss": times.lost / max(1, report["planned"]),
            },
            histograms={
                "latency": histogram,
                "response": Histogram.of(np.maximum(times.response(), 0), times.lost),
                "lag": Histogram.of(np.maximum(lag, 0)),
            },
            failed=failures([report]),
            members=members([report]),
            health=health,
            void=void,
            notes=[*notes, _source(stamps)],
            raw=times.arrays(),
        )


def _source(stamps: Mapping[str, int]) -> str:
    """In words: whose clock the latencies are by."""
    if not stamps:
        return "times by the user's clock"
    best = max(stamps, key=stamps.get)
    return {
        "hardware": "times stamped by the NIC",
        "software": "times stamped by the kernel",
        "missing": "times by the user's clock (the kernel gave no stamps)",
    }[best]
