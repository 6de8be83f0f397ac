# SPDX-License-Identifier: Apache-2.0
"""Request rate, connection rate and goodput: engines that locust distributes over the clients."""

from __future__ import annotations

import math
import time

from .. import errors
from ..agent import hold
from ..model import Metric, Sample, Stage, Trial
from ..targets import Pair, Target
from .base import (
    Crew,
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


class _Swarmed:
    """What the engines here share: one job for all workers, one sample from their reports."""

    name = ""
    needs = ""
    _length: int | None = None  # bytes that each answer is to have; None: not looked at yet

    def unfit(self, stage: Stage, pair: Pair) -> str | None:
        return unfit_size(stage, pair)

    def configure(self, stage: Stage, pair: Pair, crew: Crew) -> None:
        _ = crew.swarm  # starting it takes seconds, which are not to be a trial's
        # Both VIPs are to serve the same object.
        self._length = expected_length(self._url(stage, pair.reference), stage, crew)

    def _url(self, stage: Stage, target: Target) -> str:
        return sized(target.url, stage, target)

    def _run(self, trial: Trial, pair: Pair, crew: Crew, job: dict, shared: dict):
        stage = trial.stage
        job = {
            "url": self._url(stage, pair.side(trial.side)),
            "length": self._length,
            "warmup": stage.warmup,
            "seconds": stage.seconds,
            **job,
        }
        started = time.time()
        report = crew.swarm.run(crew.jobs(job, shared), stage.trial_seconds + self._beside(stage))
        return started, report

    def _beside(self, stage: Stage) -> float:
        """Seconds a trial may take beside its own."""
        return 0.0

    def _counted(self, what: str, trial: Trial, crew: Crew, started: float, report) -> Sample:
        """A closed loop's sample; its rate is the workers' counts ``what`` over their windows."""
        reports = report.reports
        good = sum(each[what] for each in reports.values())
        failed = failures(reports.values())
        health = health_of(reports, crew.limits)
        rate = sum(each[what] / each["window_s"] for each in reports.values())
        unsteady, note = _unsteady(report.ticks, rate, crew.limits.steady)
        failing = failed_share_void(failed, good, crew.limits)
        return Sample(
            trial=trial,
            started=started,
            window=max(each["window_s"] for each in reports.values()),
            requests=good,
            values={"rate": rate},
            histograms=dict(report.histograms),
            failed=failed,
            members=members(reports.values()),
            health=health,
            void=[*health.bottleneck, *generator_faults(reports), *failing, *unsteady],
            broke=bool(failing),
            notes=[*_means(reports), *note],
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
            {"job": "closed", "engine": trial.stage.parameters.get("engine", "auto")},
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
            {"job": "connect", "engine": trial.stage.parameters.get("engine", "auto")},
            {"concurrency": int(trial.stage.parameters.get("concurrency", 32))},
        )
        return self._counted("connections", trial, crew, started, report)


class TlsRate(ConnectionRate):
    """Full TLS handshakes: a new connection, a new session, one GET, each time.

    No session is resumed. What was negotiated is told with each sample: a cipher that differs
    between the VIPs is a difference that is not the port's.
    """

    name = "tls-rate"
    needs = "tls"

    def metrics(self, stage: Stage) -> list[Metric]:
        first, *shown = super().metrics(stage)
        return [Metric(**{**vars(first), "title": "Full TLS handshakes per second"}), *shown]

    def unfit(self, stage: Stage, pair: Pair) -> str | None:
        return lacking(
            pair,
            "tls",
            "no TERMINATED_HTTPS listener is known on the VIP of {vips} (`tls` in the target file)",
        ) or unfit_size(stage, pair)

    def _url(self, stage: Stage, target: Target) -> str:
        if target.tls is None:
            raise errors.BadTarget(f"No https URL is known on {target.role}.")
        return sized(target.tls, stage, target)


class ConnectionsHeld(_Swarmed):
    """How many of a number of connections a VIP keeps while nothing happens on them.

    Not a rate and never tested: it is nearly always all or a definite number, and the number is
    the finding. A connection is held when it answers a request at the end.
    """

    name = "connections-held"

    def metrics(self, stage: Stage) -> list[Metric]:
        wanted = int(stage.parameters.get("connections", 1000))
        shown = []
        for histogram, title in (
            ("handshake", "TCP connect while opening"),
            ("answer", "First answer after the wait"),
        ):
            for metric in percentile_metrics(histogram, (50, 99), 0, title):
                named = {
                    **vars(metric), "name": f"{histogram}.{metric.name}",
                    "note": "shown, not tested",
                }  # fmt: skip
                shown.append(Metric(**named))
        return [
            Metric(
                "held", f"Connections held to the end, of {wanted}", "1", "higher", claim=False,
                note="each answered a request at the end",
            ),
            Metric(
                "loss", "Share of the opened connections that was lost", "share", "lower",
                claim=False,
            ),
            *shown,
        ]  # fmt: skip

    def _beside(self, stage: Stage) -> float:
        wanted = stage.parameters.get("connections", 1000)
        asking = math.ceil(wanted / hold.AT_ONCE) * hold.PATIENCE_NS / 1e9
        return wanted / float(stage.parameters.get("opening", 2000.0)) + 15.0 + asking

    def measure(self, trial: Trial, pair: Pair, crew: Crew) -> Sample:
        stage, parameters = trial.stage, trial.stage.parameters
        started, report = self._run(
            trial,
            pair,
            crew,
            {"job": "hold"},
            {
                "connections": int(parameters.get("connections", 1000)),
                "opening": float(parameters.get("opening", 2000.0)),
            },
        )
        reports = report.reports
        total = {
            name: sum(each[name] for each in reports.values()) for name in ("opened", "held")
        }
        lost = total["opened"] - total["held"]
        failed: dict[str, int] = {}
        for each in reports.values():
            for part in ("refused", "lost"):
                for why, count in each[part].items():
                    failed[f"{part}: {why}"] = failed.get(f"{part}: {why}", 0) + count
        health = health_of(reports, crew.limits)
        return Sample(
            trial=trial,
            started=started,
            window=stage.seconds,
            requests=total["held"],
            values={"held": total["held"], "loss": lost / max(1, total["opened"])},
            histograms=dict(report.histograms),
            failed=failed,
            members=members(reports.values()),
            health=health,
            void=[*health.bottleneck, *generator_faults(reports)],
            series=_series(report.ticks, "held"),
        )


class Goodput(_Swarmed):
    """Bytes of body per second of a large object, downloaded over a few connections.

    The figure of a user who downloads through the listener; iperf3 gives the operator's figure.
    """

    name = "http-goodput"
    needs = "large"

    def metrics(self, stage: Stage) -> list[Metric]:
        return [Metric("rate", "Goodput (download)", "bit/s", "higher")]

    def unfit(self, stage: Stage, pair: Pair) -> str | None:
        if "object" in stage.parameters:
            return unfit_size(stage, pair)
        return lacking(
            pair,
            "large",
            "no large object is known on the VIP of {vips} (--large PATH, or `large` in the "
            "target file)",
        )

    def _url(self, stage: Stage, target: Target) -> str:
        if "object" in stage.parameters:
            return sized(target.url, stage, target)
        if target.large_url is None:
            raise errors.BadTarget(f"No large object is known on {target.role}.")
        return target.large_url

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
            members=members(reports.values()),
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


def _means(reports) -> list[str]:
    """By what means it was measured: two trials by different ones do not compare."""
    engines = sorted({each["engine"] for each in reports.values() if each.get("engine")})
    ciphers = sorted({name for each in reports.values() for name in each.get("ciphers") or ()})
    notes = [f"generator on {' and '.join(engines)}"] if engines else []
    batch = max((each.get("batch", 1) for each in reports.values()), default=1)
    if batch > 1:
        notes.append(f"the generator was busy: answers were taken up to {batch} at a time")
    return notes + ([f"negotiated {', '.join(ciphers)}"] if ciphers else [])


#: Seconds between two progress reports of a closed loop (the agent's default).
TICK = 1.0
#: Parts of a trial whose rates are compared with the whole's.
PARTS = 10


def _unsteady(ticks, rate: float, limit: float | None) -> tuple[list[str], list[str]]:
    """(why the rate was not constant, what to note), by RFC 9411, section 7.2.3.3.

    The RFC does not say over how long a rate is taken; here it is a tenth of the trial. One that
    is too short for ten parts of a second cannot be told.

    :param ticks: progress reports, counted from the end of the warm-up, one each :data:`TICK`.
    """
    if limit is None:
        return [], []
    done: dict[str, list[int]] = {}
    for tick in ticks:
        done.setdefault(tick["worker"], [0]).append(tick["report"]["done"])
    length = min((len(counts) - 1 for counts in done.values()), default=0) // PARTS
    if not length:
        return [], ["too short to tell whether its rate was constant"]
    rates = [
        sum(counts[(part + 1) * length] - counts[part * length] for counts in done.values())
        / (length * TICK)
        for part in range(PARTS)
    ]
    worst = max(rates, key=lambda each: abs(each - rate))
    away = worst / rate - 1 if rate else 0.0
    if abs(away) <= limit:
        return [], []
    return [
        f"the rate was not constant: {away:+.1%} in one tenth of the trial, {limit:.0%} is allowed"
    ], []


def _series(ticks, field: str) -> list[dict]:
    """Progress reports as [{"client", field}] in order of arrival."""
    return [{"client": tick["worker"], field: tick["report"].get(field)} for tick in ticks]
