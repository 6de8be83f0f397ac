# SPDX-License-Identifier: Apache-2.0
"""Request rate, connection rate and goodput: engines that locust distributes over the clients."""

from __future__ import annotations

import time

from .. import errors
from ..model import Health, Metric, Sample, Stage, Trial
from ..targets import Pair
from .base import (
    Crew,
    failed_share_void,
    failures,
    generator_faults,
    health_of,
    members,
    percentile_metrics,
)


class _Swarmed:
    """What the engines here share: one job for all workers, one sample from their reports."""

    name = ""

    def unfit(self, stage: Stage, pair: Pair) -> str | None:
        return None

    def configure(self, stage: Stage, pair: Pair, crew: Crew) -> None:
        _ = crew.swarm  # starting it takes seconds, which are not to be a trial's

    def _url(self, trial: Trial, pair: Pair) -> str:
        return pair.side(trial.side).url

    def _run(self, trial: Trial, pair: Pair, crew: Crew, job: dict, shared: dict):
        stage = trial.stage
        job = {
            "url": self._url(trial, pair),
            "warmup": stage.warmup,
            "seconds": stage.seconds,
            **job,
        }
        started = time.time()
        report = crew.swarm.run(crew.jobs(job, shared), stage.trial_seconds)
        return started, report

    @staticmethod
    def _judge(health: Health, reports, failed, good, crew: Crew) -> list[str]:
        return [
            *health.bottleneck,
            *generator_faults(reports),
            *failed_share_void(failed, good, crew.limits),
        ]

    def _counted(self, what: str, trial: Trial, crew: Crew, started: float, report) -> Sample:
        """A closed loop's sample; its rate is the workers' counts ``what`` over their windows."""
        reports = report.reports
        good = sum(each[what] for each in reports.values())
        failed = failures(reports.values())
        health = health_of(reports, crew.limits)
        return Sample(
            trial=trial,
            started=started,
            window=max(each["window_s"] for each in reports.values()),
            requests=good,
            values={"rate": sum(each[what] / each["window_s"] for each in reports.values())},
            histograms=dict(report.histograms),
            failed=failed,
            members=members(reports.values()),
            health=health,
            void=self._judge(health, reports, failed, good, crew),
            series=_series(report.ticks, "done"),
        )


class RequestRate(_Swarmed):
    """Closed loop over keep-alive connections: the highest rate these connections reach.

    Its durations are shown and never tested: a closed loop sends less when the target is slow,
    and so leaves out exactly the requests that would have been slow (coordinated omission).
    """

    name = "http-rate"

    def metrics(self, stage: Stage) -> list[Metric]:
        note = "closed loop: a stall hides the requests it delays; not tested"
        closed = percentile_metrics("latency", (50, 99), 0, "Response time at full load")
        return [
            Metric("rate", "Requests per second", "1/s", "higher"),
            *(Metric(**{**vars(metric), "note": note}) for metric in closed),
        ]

    def measure(self, trial: Trial, pair: Pair, crew: Crew) -> Sample:
        started, report = self._run(
            trial,
            pair,
            crew,
            {"job": "closed"},
            {"connections": int(trial.stage.parameters.get("connections", 64))},
        )
        return self._counted("requests", trial, crew, started, report)


class ConnectionRate(_Swarmed):
    """A new connection for each request (with a TLS handshake where the URL is https)."""

    name = "connection-rate"

    def metrics(self, stage: Stage) -> list[Metric]:
        note = "closed loop: not tested"
        shown = []
        for histogram, title in (
            ("handshake", "TCP connect"),
            ("tls", "TLS handshake"),
            ("first_byte", "Time to first byte (from SYN)"),
            ("last_byte", "Time to last byte (from SYN)"),
        ):
            for metric in percentile_metrics(histogram, (50, 99), 0, title):
                named = {**vars(metric), "name": f"{histogram}.{metric.name}", "note": note}
                shown.append(Metric(**named))
        return [Metric("rate", "New connections per second", "1/s", "higher"), *shown]

    def measure(self, trial: Trial, pair: Pair, crew: Crew) -> Sample:
        started, report = self._run(
            trial,
            pair,
            crew,
            {"job": "connect"},
            {"concurrency": int(trial.stage.parameters.get("concurrency", 32))},
        )
        return self._counted("connections", trial, crew, started, report)


class Goodput(_Swarmed):
    """Bytes of body per second of a large object, downloaded over a few connections.

    The figure of a user who downloads through the listener; iperf3 gives the operator's figure.
    """

    name = "http-goodput"

    def metrics(self, stage: Stage) -> list[Metric]:
        return [Metric("rate", "Goodput (download)", "bit/s", "higher")]

    def unfit(self, stage: Stage, pair: Pair) -> str | None:
        missing = [vip.role for vip in (pair.reference, pair.candidate) if not vip.large]
        if missing:
            return (
                f"no large object is known on the VIP of {' and '.join(missing)} "
                "(--large PATH, or `large` in the target file)"
            )
        return None

    def _url(self, trial: Trial, pair: Pair) -> str:
        url = pair.side(trial.side).large_url
        if url is None:
            raise errors.BadTarget(f"No large object is known on {pair.side(trial.side).role}.")
        return url

    def measure(self, trial: Trial, pair: Pair, crew: Crew) -> Sample:
        parameters = trial.stage.parameters
        started, report = self._run(
            trial,
            pair,
            crew,
            {"job": "download", "discard": bool(parameters.get("discard", False))},
            {"connections": int(parameters.get("connections", 4))},
        )
        reports = report.reports
        failed = failures(reports.values())
        health = health_of(reports, crew.limits)
        objects = sum(each["objects"] for each in reports.values())
        return Sample(
            trial=trial,
            started=started,
            window=max(each["window_s"] for each in reports.values()),
            requests=objects,
            values={"rate": sum(8 * e["bytes"] / e["window_s"] for e in reports.values())},
            failed=failed,
            health=health,
            void=[
                *health.bottleneck,
                *generator_faults(reports),
                # Few objects fit a trial, so a share would mean nothing: any failure counts.
                *([f"failed: {failed}"] if failed else []),
            ],
            notes=["bytes discarded in the kernel (MSG_TRUNC)"] * bool(parameters.get("discard")),
            series=_series(report.ticks, "bytes"),
        )


def _series(ticks, field: str) -> list[dict]:
    """Progress reports as [{"client", field}] in order of arrival."""
    return [{"client": tick["worker"], field: tick["report"].get(field)} for tick in ticks]
