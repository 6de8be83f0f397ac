# SPDX-License-Identifier: Apache-2.0
"""The document of a run, as results/result.schema.json describes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np

from ..histogram import merge
from ..model import SIDES, Sample, Stage
from ..profiles import Profile
from ..statistics.estimates import Interval
from ..targets import Pair, Target
from ..trials.run import StageRun
from .analysis import Analysis, MetricResult
from .store import SCHEMA, VERSION

#: Percentiles of the curve kept for the report (HDR plot): 0, 25.0, … 99.999 %, dense towards the
#: tail, and the median, which its table names.
CURVE = tuple(sorted({50.0, *(round(100 * (1 - 10 ** (-k / 8)), 7) for k in range(0, 41))}))


def moment(seconds: float) -> str:
    """A time.time() as ISO 8601, UTC."""
    return datetime.fromtimestamp(seconds, tz=timezone.utc).isoformat(timespec="milliseconds")


def build(
    *,
    identifier: str,
    started: float,
    finished: float | None,
    status: str,
    reason: str,
    command: Sequence[str],
    seed: int,
    profile: Profile,
    pair: Pair,
    environment: Mapping[str, Any],
    preflight: Mapping[str, Any],
    runs: Sequence[StageRun],
    curves: Mapping[str, Mapping],
    trials: Sequence[Mapping],
    analysis: Analysis,
    version: str,
) -> dict[str, Any]:
    """The whole document.

    :param status: ``complete`` or ``incomplete`` (then ``reason`` says why).
    :param curves: :func:`curves_of` the stages, by name; of those that have none yet, none are
        shown.
    :param trials: :func:`trial_of` each sample, in their order.
    """
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "id": identifier,
        "status": status,
        "reason": reason,
        "started": moment(started),
        "finished": None if finished is None else moment(finished),
        "tool": {"name": "sriov-lb-perf", "version": version, "command": list(command)},
        "seed": seed,
        "profile": dict(profile.source),
        "targets": {
            side: _target(target, preflight.get(target.role))
            for side, target in zip(SIDES, (pair.reference, pair.candidate), strict=True)
        },
        "environment": dict(environment),
        "verdict": {
            "word": analysis.word,
            "sentence": analysis.sentence,
            "sound": analysis.sound and status == "complete",
        },
        "claims": [
            {
                "text": claim.text,
                "source": claim.source,
                "metric": claim.metric,
                "ratio": claim.ratio,
                "verdict": word,
                "why": why,
            }
            for claim, word, why in analysis.claims
        ],
        "gates": [
            {"name": gate.name, "passed": gate.passed, "text": gate.text}
            for gate in analysis.gates
        ],
        "metrics": [_metric(result) for result in analysis.metrics],
        "self_comparisons": [
            {
                "metric": each.metric,
                "vip": each.vip,
                "ratio": _interval(each.ratio),
                "p": each.p,
                "passed": each.passed,
            }
            for each in analysis.self_comparisons
        ],
        "stages": [_stage(run, curves.get(run.stage.name, {})) for run in runs],
        "trials": list(trials),
    }


def _target(target: Target, preflight: Mapping | None) -> dict[str, Any]:
    return {
        "role": target.role,
        "url": target.url,
        "large": target.large,
        "iperf3": list(target.iperf3) if target.iperf3 else None,
        "tls": target.tls,
        "udp": list(target.udp) if target.udp else None,
        "objects": {str(size): path for size, path in target.objects.items()},
        "preflight": preflight,
        "facts": dict(target.facts),
    }


def _interval(interval: Interval | None) -> dict[str, float] | None:
    if interval is None:
        return None
    return {
        "estimate": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "level": interval.level,
    }


def _metric(result: MetricResult) -> dict[str, Any]:
    finding, metric = result.finding, result.metric
    return {
        "id": result.identifier,
        "stage": result.stage,
        "name": metric.name,
        "title": metric.title,
        "unit": metric.unit,
        "better": metric.better,
        "tested": metric.claim,
        "note": metric.note,
        "values": result.overall,
        "blocks": [
            {"A": a, "B": b}
            for a, b in zip(result.blocks.reference, result.blocks.candidate, strict=True)
        ],
        "ratio": _interval(finding.ratio),
        "ratio_of_medians": finding.ratio_of_medians,
        "difference": _interval(finding.difference),
        "p": finding.p,
        "p_holm": finding.p_adjusted,
        "p_equivalence": finding.p_equivalence,
        "p_equivalence_holm": finding.p_equivalence_adjusted,
        "smallest_effect": finding.smallest_effect,
        "verdict": finding.verdict,
        "reasons": list(finding.reasons),
    }


def _stage(run: StageRun, curves: Mapping) -> dict[str, Any]:
    stage: Stage = run.stage
    return {
        "name": stage.name,
        "title": stage.title,
        "engine": stage.engine,
        "seconds": stage.seconds,
        "warmup": stage.warmup,
        "load": stage.load,
        "parameters": dict(stage.parameters),
        "rounds": stage.rounds,
        "blocks": run.blocks_done(),
        "skipped": run.skipped,
        "stopped": run.stopped,
        "curves": dict(curves),
    }


def curves_of(run: StageRun) -> dict[str, Any]:
    """Of a stage, per histogram and side: the percentile curve over all valid trials, ns."""
    names = sorted({name for sample in run.samples for name in sample.histograms})
    curves: dict[str, Any] = {}
    for name in names:
        sides = {}
        for side in SIDES:
            parts = [
                s.histograms[name]
                for s in run.samples
                if s.trial.side == side and not s.void and name in s.histograms
            ]
            merged = merge(parts)
            total = len(merged)
            if not total:
                continue
            # Beyond 1 - 1/n there is nothing that was seen.
            qs = [q for q in CURVE if (1 - q / 100) * total >= 1] + [100.0]
            values, counts = merged.stretch()
            sides[side] = {
                "count": total,
                "lost": merged.lost,
                "percentiles": [
                    [q, value] for q, value in zip(qs, merged.percentiles(qs), strict=True)
                ],
                "density": _density(values, counts),
            }
        if sides:
            curves[name] = sides
    return curves


def _density(values: np.ndarray, counts: np.ndarray, bins: int = 60) -> list[list[float]]:
    """[[upper edge in ns, share], …] on a logarithmic axis, for the distribution plot."""
    if not values.size:
        return []
    low, high = max(1.0, float(values[0]) * 0.98), float(values[-1]) * 1.02
    edges = np.geomspace(low, high, bins + 1)
    shares, _ = np.histogram(values, bins=edges, weights=counts)
    shares = shares / counts.sum()
    return [[float(edge), float(share)] for edge, share in zip(edges[1:], shares, strict=True)]


def trial_of(sample: Sample, started: float, raw: Mapping) -> dict[str, Any]:
    """A trial, as it stands in the document.

    :param started: when the run did, as time.time().
    :param raw: where its raw data is.
    """
    trial, health = sample.trial, sample.health
    wanted = {50, 99, *trial.stage.parameters.get("percentiles", ())}
    return {
        "number": trial.number,
        "stage": trial.stage.name,
        "block": trial.block,
        "position": trial.position,
        "side": trial.side,
        "started": sample.started - started,
        "window": sample.window,
        "requests": sample.requests,
        "load_rate": trial.rate,
        "values": dict(sample.values),
        "percentiles": {
            name: {f"p{q:g}": histogram.percentile(q) for q in sorted(wanted)}
            for name, histogram in sample.histograms.items()
        },
        "failed": dict(sample.failed),
        "members": dict(sample.members),
        "void": list(sample.void),
        "notes": list(sample.notes),
        "health": {
            "cpu": health.cpu,
            "waiting": health.waiting,
            "steal": health.steal,
            "lag_p99": health.lag_p99,
            "bottleneck": list(health.bottleneck),
            "details": health.details,
        },
        "raw": dict(raw),
    }
