# SPDX-License-Identifier: Apache-2.0
"""Latency: requests at intended times, kernel time stamps, losses counted as infinite."""

from __future__ import annotations

import base64
import math
import time
import zlib
from collections.abc import Mapping

import numpy as np

from .. import errors
from ..histogram import Histogram
from ..model import SETTLING, Metric, Sample, Stage, Trial
from ..targets import Pair, Target
from .base import (
    Crew,
    Limits,
    expected_length,
    failed_share_void,
    failures,
    generator_faults,
    health_of,
    lacking,
    members,
    percentile_metrics,
    sized,
    unfit_size,
)

DEFAULT_PERCENTILES = (50, 90, 99, 99.9)
DEFAULT_CONNECTIONS = 16
CALIBRATION = 0.4  # s, to find out which stamps each path offers
LONGER = 0.5  # s, by which the load beside a probe outlasts its schedule


def unpack(text: str) -> np.ndarray:
    """The agent's raw times: int64 ns, -1 where there is none."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype="<i8").astype(np.int64)


def _not_offered(trial: Trial, report: Mapping, load: Mapping, limits: Limits) -> list[str]:
    """Why the load beside a probe was not there, or not all the while; void reasons.

    :param report: of the probe. :param load: of the load from the same machine, so both times are
        of one clock.
    """
    found = []
    ends = report["begin_ns"] + trial.stage.trial_seconds * 1e9
    if load["begin_ns"] + (trial.stage.trial_seconds + LONGER) * 1e9 < ends:
        found.append("the background load ended before the probe did")
    if load["unsent_by_own_fault"] > limits.missed * load["planned"]:
        found.append(
            f"of the background load {load['unsent_by_own_fault']} of {load['planned']} requests "
            "were not sent although connections were free"
        )
    return found


#: Whose clocks a request's own time is between: (sent, answered).
KERNEL, ARRIVAL, USER = "kernel", "arrival", "user"
CLOCKS = {
    KERNEL: "times between the kernel's transmit and receive stamps",
    ARRIVAL: "times from the generator's clock before sending to the kernel's receive stamp",
    USER: "times by the generator's clock",
}


class Times:
    """The times of one open-loop job, request by request, all in ns from its start.

    ``due`` is when a request was to leave, ``ready`` when it could (later than ``due`` only
    because no connection was free, which is the target's doing), ``sent`` when it did
    (``sent - ready`` is the generator's own lag), ``done`` when its answer was complete.
    ``kernel`` is the kernel's receive minus transmit stamp, ``arrival`` its receive stamp minus
    the generator's clock just before sending; -1 where a stamp is missing.
    """

    def __init__(self, raw: Mapping[str, str | None]) -> None:
        self.due = unpack(raw["due"])
        self.ready = unpack(raw["ready"])
        self.sent = unpack(raw["sent"])
        self.done = unpack(raw["done"])
        none = np.full(len(self.due), -1)
        self.kernel = unpack(raw["kernel"]) if raw.get("kernel") else none
        self.arrival = unpack(raw["arrival"]) if raw.get("arrival") else none

    @property
    def answered(self) -> np.ndarray:
        return self.done >= 0

    @property
    def lost(self) -> int:
        """Requests without a good answer: an infinite delay each (RFC 7679)."""
        return int((~self.answered).sum())

    def best_clock(self) -> str:
        """The best pair of clocks that (nearly) all answered requests have."""
        good = self.answered
        for name in (KERNEL, ARRIVAL):
            stamped = getattr(self, name)[good] >= 0
            if stamped.size and stamped.mean() > 0.99:
                return name
        return USER

    def lag(self) -> np.ndarray:
        """What the generator itself was late by."""
        left = self.sent >= 0
        return (self.sent - self.ready)[left]

    def response(self) -> np.ndarray:
        """From the intended time to the answer, by the user's clock; includes the lag."""
        return (self.done - self.due)[self.answered]

    def latency(self, clock: str | None = None) -> np.ndarray:
        """From the intended time to the answer, without the generator's own lag in sending.

        Waiting for a free connection (the target's doing) plus the request's own time by
        ``clock`` (the best available when None); a request without those stamps falls back to
        the user's clock.
        """
        clock = clock or self.best_clock()
        own = self.done - self.sent
        if clock != USER:
            stamped = getattr(self, clock)
            own = np.where(stamped >= 0, stamped, own)
        return (self.ready - self.due + own)[self.answered]

    def settling(self, clock: str | None = None) -> float:
        """By how much the median latency of the first half of the window is over that of the
        second, as a share of their mean; NaN where one of them has no answer.

        About the logarithm of their ratio, and as far from 0 either way by chance.
        """
        due, latency = self.due[self.answered], self.latency(clock)
        if not due.size:
            return math.nan
        first = due < (due.min() + due.max()) / 2
        if not 0 < first.sum() < first.size:
            return math.nan
        one, two = np.median(latency[first]), np.median(latency[~first])
        return float(2 * (one - two) / (one + two)) if one + two > 0 else math.nan

    def arrays(self) -> dict[str, np.ndarray]:
        return {
            name: getattr(self, name)
            for name in ("due", "ready", "sent", "done", "kernel", "arrival")
        }


class LatencyProbe:
    """HTTP requests on open connections, idle or beside a background load.

    With a background load the same absolute rate is offered to both VIPs. Both are timed by the
    same clocks, the best that both paths offer: some devices (macvlan between two of one host)
    never give a transmit stamp, and a ratio of two different clocks would mean nothing.
    """

    name = "http-latency"
    title = "Latency"
    needs = ""
    #: What its pairs of clocks are, in words.
    clocks = CLOCKS

    def __init__(self) -> None:
        self.clock = KERNEL
        self._why = ""
        self._length: int | None = None  # bytes that each HTTP answer is to have

    def metrics(self, stage: Stage) -> list[Metric]:
        rate = float(stage.parameters["rate"])
        expected = rate * stage.seconds * stage.trials / 2  # a VIP's in a block
        percentiles = stage.parameters.get("percentiles", DEFAULT_PERCENTILES)
        return [
            *percentile_metrics("latency", percentiles, expected, self.title),
            Metric(
                "pdv99.9", "Delay variation (99.9th percentile minus minimum)", "ns", "lower",
                claim=False, note="RFC 5481 PDV",
            ),
            Metric("minimum", "Smallest latency", "ns", "lower", claim=False),
            Metric(
                SETTLING, "Median of the first half of the time less that of the second", "share",
                "lower", claim=False, note="of the mean of both; far from 0: not settled",
            ),
            Metric(
                "loss", "Requests without an answer", "share", "lower", claim=False,
                note="each counts as an infinite latency",
            ),
        ]  # fmt: skip

    def unfit(self, stage: Stage, pair: Pair) -> str | None:
        if any(vip.url.startswith("https:") for vip in (pair.reference, pair.candidate)):
            return "kernel time stamps cannot be matched to requests inside TLS; give an http URL"
        return unfit_size(stage, pair)

    def _job(self, stage: Stage, target: Target) -> dict:
        """The agent's job, without its schedule."""
        return {
            "job": "open",
            "url": sized(target.url, stage, target),
            "length": self._length,
            "connections": int(stage.parameters.get("connections", DEFAULT_CONNECTIONS)),
            "stamps": bool(stage.parameters.get("stamps", True)),
        }

    def configure(self, stage: Stage, pair: Pair, crew: Crew) -> None:
        if stage.load:
            _ = crew.swarm
        # Both VIPs are to serve the same object.
        url = sized(pair.reference.url, stage, pair.reference)
        self._length = expected_length(url, stage, crew)
        self.clock, self._why = KERNEL, ""
        ranks = [KERNEL, ARRIVAL, USER]
        for target in (pair.reference, pair.candidate):
            job = {
                **self._job(stage, target),
                "schedule": [[200.0, 200.0, CALIBRATION]],
                "warmup": CALIBRATION / 4,
            }
            report = crew.prober.job(job, seconds=CALIBRATION + 1)
            found = Times(report["raw"]).best_clock()
            if ranks.index(found) > ranks.index(self.clock):
                self.clock = found
                self._why = f" (the best that the path to the {target.role} VIP offers)"

    def measure(self, trial: Trial, pair: Pair, crew: Crew) -> Sample:
        stage = trial.stage
        target = pair.side(trial.side)
        rate = float(stage.parameters["rate"])
        client = crew.clients[0]
        job = {
            **self._job(stage, target),
            "schedule": [[rate, rate, stage.trial_seconds]],
            "arrivals": stage.parameters.get("arrivals", "poisson"),
            # The same schedule for both VIPs of a block's n-th pair, another for each block.
            "seed": stage.parameters.get("seed", 1) * 1000 + trial.block,
            "warmup": stage.warmup,
            "grace": float(stage.parameters.get("grace", 1.0)),
        }
        if client.cpu is not None:
            job["cpu"] = client.cpu
        background = None
        if trial.rate:
            background = self._begin_background(trial, sized(target.url, stage, target), crew)
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
        seconds = stage.trial_seconds + LONGER
        jobs = crew.jobs(
            {
                "job": "open",
                "url": url,
                "length": self._length,
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
        latency = times.latency(self.clock)
        if latency.size and latency.min() < 0:
            void.append("a time stamp lies before the request's own: the clock went backwards")
            latency = np.maximum(latency, 0)
        histogram = Histogram.of(latency, times.lost)
        own = report["unsent_by_own_fault"]
        if own > crew.limits.missed * report["planned"]:
            void.append(
                f"the generator on {name} did not send {own} of {report['planned']} requests "
                "although connections were free"
            )
        elif report["unsent"] > crew.limits.missed * report["planned"]:
            # Not void: the target was too slow to be sent to. It counts as infinite latency.
            notes.append("requests that found no free connection to the end count as lost")
        if self.clock == USER and latency.size:
            p99 = histogram.percentile(99)
            if health.lag_p99 is not None and health.lag_p99 > crew.limits.lag * p99:
                void.append(
                    f"the generator's own lag (p99 {health.lag_p99 / 1e3:.0f} us) is too large "
                    f"beside the reported p99 ({p99 / 1e3:.0f} us)"
                )
        broke = []
        if loaded is not None:
            wanted = trial.rate * (trial.stage.seconds + LONGER)
            got = sum(each["answered"] for each in loaded.reports.values())
            if got < 0.99 * wanted:
                notes.append("the background load was not fully answered in time")
            beside = health_of(loaded.reports, crew.limits)
            void += [f"background load: {what}" for what in beside.bottleneck]
            health.details += beside.details
            void += _not_offered(trial, report, loaded.reports[name], crew.limits)
            broke = failed_share_void(failures(loaded.reports.values()), got, crew.limits)
            void += [f"background load: {what}" for what in broke]
        minimum = histogram.minimum
        return Sample(
            trial=trial,
            started=started,
            window=report["window_s"],
            requests=report["answered"],
            values={
                "pdv99.9": histogram.percentile(99.9) - minimum,
                "minimum": minimum,
                SETTLING: times.settling(self.clock),
                "loss": times.lost / max(1, report["planned"]),
            },
            histograms={
                "latency": histogram,
                "response": Histogram.of(np.maximum(times.response(), 0), times.lost),
                "lag": Histogram.of(np.maximum(lag, 0)),
            },
            failed=failures([report]),
            broke=bool(broke),
            members=members([report]),
            health=health,
            void=void,
            notes=[*notes, self.clocks[self.clock] + self._why],
            raw=times.arrays(),
        )


class UdpProbe(LatencyProbe):
    """Datagrams through a UDP listener, each told apart by a number its answer carries back.

    Parameters beside the probe's: ``payload`` (hexadecimal; 64 zeros), ``number`` (``[offset,
    bytes]`` of the running number in it; ``[0, 8]``) and ``timeout`` (s, after which a request
    counts as lost; 1). The default suits an echo; DNS has its number at ``[0, 2]``.
    """

    name = "udp-latency"
    title = "UDP latency"
    needs = "udp"

    def unfit(self, stage: Stage, pair: Pair) -> str | None:
        return lacking(
            pair, "udp", "no UDP listener is known on the VIP of {vips} (`udp` in the target file)"
        )

    def _job(self, stage: Stage, target: Target) -> dict:
        address, port = target.udp
        wanted = ("payload", "number", "timeout", "stamps")
        chosen = {name: stage.parameters[name] for name in wanted if name in stage.parameters}
        return {"job": "udp", "address": address, "port": port, **chosen}


class ConnectProbe(LatencyProbe):
    """New TCP connections at intended times: how long until one is there, idle or beside a load.

    The load balancer's kernel answers a SYN, so this is the way to the VIP and its firewall
    without haproxy. The connection rate times connects as well, in a closed loop at full load.
    """

    name = "connect-latency"
    title = "TCP connect"
    clocks = {
        KERNEL: "times from SYN to SYN/ACK by the kernel (TCP_INFO, whole microseconds)",
        USER: CLOCKS[USER],
    }

    def metrics(self, stage: Stage) -> list[Metric]:
        shown = [
            Metric(
                **{
                    **vars(metric), "name": f"first_byte.{metric.name}",
                    "note": "by the generator's clock; shown, not tested",
                }
            )
            for metric in percentile_metrics(
                "first_byte", (50, 99), 0, "Time to first byte (from SYN)"
            )
        ]  # fmt: skip
        return [*super().metrics(stage), *shown]

    def _job(self, stage: Stage, target: Target) -> dict:
        return {
            "job": "dial", "url": sized(target.url, stage, target), "length": self._length
        }  # fmt: skip

    def _sample(self, trial, started, report, loaded, crew: Crew) -> Sample:
        sample = super()._sample(trial, started, report, loaded, crew)
        sample.histograms["first_byte"] = Histogram.of_sparse(report["times"]["first_byte"])
        # A connection that did not come up is infinitely late already; what came on one is not
        # part of that time, and must be good all the same.
        wrong = {k: n for k, n in report["failed"].items() if not k.startswith("connect:")}
        failing = failed_share_void(wrong, sample.requests, crew.limits)
        sample.void += failing
        sample.broke = sample.broke or bool(failing)
        return sample
