# SPDX-License-Identifier: Apache-2.0
"""The standard profile on a lab's load balancers: what can it tell apart, in what time?"""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path

import pytest

from sriov_lb_perf.report import figures
from sriov_lb_perf.results import store

MINUTES = 15
#: A share of the rate, and nanoseconds.
RATE, LATENCY = 0.03, 25_000


def goal(text: str, reached: bool) -> str:
    return f"{text}: {'reached' if reached else 'missed'}"


@pytest.mark.timeout(2400)
def test_what_the_standard_profile_resolves_in_the_lab(lab, publish, tmp_path):
    """3 % of rate and 25 us of idle latency, in 15 minutes."""
    compare = lab.exec(
        [str(Path(sys.executable).with_name("sriov-lb-perf")), "compare", "--profile", "standard",
         "--from-cloud", "--config-file", lab.facts["tempest_conf"], "--artifacts", str(tmp_path)]
    )  # fmt: skip
    said, _ = compare.communicate()
    assert compare.returncode == 0, said
    (found,) = tmp_path.glob("*/result.json")
    document = store.load(found)
    metrics = {metric["id"]: metric for metric in document["metrics"]}
    rate, latency = metrics["requests.rate"], metrics["latency.p50"]
    least = latency["smallest_effect"] * latency["values"]["A"]["value"]
    goals = {
        figures.label(document, rate): goal("3 %", rate["smallest_effect"] <= RATE),
        figures.label(document, latency): goal("25 µs", least <= LATENCY),
    }
    header, *rows = figures.summary(document)
    publish(
        "perf-standard",
        "The standard profile on the lab's load balancers",
        (*header, "goal"),
        [(*row, goals.get(row[0], "")) for row in rows],
    )
    missed = [f"{name}: {said}" for name, said in goals.items() if "missed" in said]
    assert not missed, "; ".join(missed)
    started, finished = (datetime.fromisoformat(document[key]) for key in ("started", "finished"))
    assert (finished - started).total_seconds() <= MINUTES * 60
