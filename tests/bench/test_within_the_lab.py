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
    header, *rows = figures.summary(document)
    publish("perf-standard", "The standard profile on the lab's load balancers", header, rows)
    metrics = {metric["id"]: metric for metric in document["metrics"]}
    rate = metrics["requests.rate"]["smallest_effect"]
    assert rate <= RATE, f"{rate:.1%} of rate is the least that could have been seen"
    latency = metrics["latency.p50"]
    least = latency["smallest_effect"] * latency["values"]["A"]["value"]
    assert least <= LATENCY, f"{least / 1e3:.0f} us is the least that could have been seen"
    started, finished = (datetime.fromisoformat(document[key]) for key in ("started", "finished"))
    assert (finished - started).total_seconds() <= MINUTES * 60
