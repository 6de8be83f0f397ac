# SPDX-License-Identifier: Apache-2.0
"""A year of nights of the standard profile, made up, in a history."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np

from sriov_lb_perf import profiles
from sriov_lb_perf.engines.registry import make
from sriov_lb_perf.history.store import History

NIGHTS = 365
SERIES = "standard@hardware"


def metrics() -> list[dict]:
    """Every tested metric of the standard profile, as a result has them."""
    found = []
    for stage in profiles.load("standard").stages:
        for metric in make(stage.engine).metrics(stage):
            if metric.claim:
                found.append(
                    {
                        "id": f"{stage.name}.{metric.name}", "stage": stage.name,
                        "title": metric.title, "unit": metric.unit, "better": metric.better,
                        "tested": True, "verdict": "faster",
                    }
                )  # fmt: skip
    return found


def fill(path: Path, nights: int = NIGHTS) -> int:
    """Store the nights; returns how many metrics each has."""
    source = np.random.default_rng(0)
    listed = metrics()
    start = datetime.datetime(2026, 1, 1, 2, 17, tzinfo=datetime.timezone.utc)
    with History(path, writing=True) as history:
        # Only here: a made-up past need not outlive a power cut.
        history._database.execute("PRAGMA synchronous = OFF")
        for night in range(nights):
            level = 1.8 if night < 200 else 1.6
            when = (start + datetime.timedelta(days=night)).isoformat(timespec="milliseconds")
            document = {
                "id": f"{when[:10].replace('-', '')}T021700Z-standard-{night:04x}",
                "started": when, "status": "complete", "reason": "",
                "tool": {"version": "1.0"}, "profile": {"name": "standard"},
                "environment": {
                    "substrate": "hardware",
                    "clients": [{"kernel": "6.1.0-26" if night < 200 else "6.1.0-27"}],
                },
                "targets": {
                    "A": {"role": "normal", "facts": {"host": "compute-1"}},
                    "B": {"role": "sriov", "facts": {"host": "compute-2"}},
                },
                "verdict": {"sound": True, "word": "faster", "sentence": "The SR-IOV VIP is …"},
                "metrics": [],
            }  # fmt: skip
            for metric in listed:
                normal = 12_000 * float(np.exp(source.normal(0, 0.02)))
                ratio = level * float(np.exp(source.normal(0, 0.02)))
                ratio = ratio if metric["better"] == "higher" else 1 / ratio
                document["metrics"].append(
                    {
                        **metric,
                        "values": {"A": {"value": normal}, "B": {"value": normal * ratio}},
                        "ratio": {
                            "estimate": ratio, "low": ratio * 0.97, "high": ratio * 1.03,
                        },
                    }
                )  # fmt: skip
            history.add(document, path.parent / "none", SERIES)
        history.add_changes(
            SERIES,
            [
                {"metric": listed[0]["id"], "what": "ratio", "since": 201, "before": 1.8,
                 "after": 1.6}
            ],
            204,
        )  # fmt: skip
    return len(listed)
