# SPDX-License-Identifier: Apache-2.0
"""Is the instrument true? Series of whole comparisons whose right answer is known.

The comparisons are ordinary ones (interleaved blocks, the same statistics and gates); only their
trials are short and their blocks few, so that a series of twenty takes minutes. That makes wider
intervals; what is tested here (how often a difference is claimed, whether the interval holds the
truth) does not depend on their width. ``SRIOV_LB_BENCH_TRIAL=1.5`` makes trials of 1.5 s: then a
series takes most of an hour.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "functional" / "perf"))  # testbed

import testbed as testbeds  # noqa: E402

from sriov_lb_perf import profiles  # noqa: E402
from sriov_lb_perf.clients import Client  # noqa: E402
from sriov_lb_perf.engines.base import Crew  # noqa: E402
from sriov_lb_perf.results.analysis import analyse  # noqa: E402
from sriov_lb_perf.statistics import verdict  # noqa: E402
from sriov_lb_perf.targets import Pair, Target  # noqa: E402
from sriov_lb_perf.trials.run import run_profile  # noqa: E402

COMPARISONS = int(os.environ.get("SRIOV_LB_BENCH_COMPARISONS", 20))
SECONDS = float(os.environ.get("SRIOV_LB_BENCH_TRIAL", 0.2))
WARMUP = SECONDS / 4
#: Of both stages of a series, in blocks of four trials, with what a trial takes beside its time.
SERIES = COMPARISONS * 2 * 6 * 4 * (SECONDS + WARMUP + 0.4)
GENERATOR, TARGET = 0, 1  # cores
REQUESTS = {
    "name": "requests", "title": "Request rate", "engine": "http-rate", "seconds": SECONDS,
    "warmup": WARMUP, "blocks": 6, "parameters": {"connections": 16},
}  # fmt: skip
LATENCY = {
    "name": "latency", "title": "Latency", "engine": "http-latency", "seconds": SECONDS,
    "warmup": WARMUP, "blocks": 6,
    "parameters": {"rate": 1000, "connections": 16, "percentiles": [50, 90]},
}  # fmt: skip


@pytest.fixture(scope="module")
def bed(tmp_path_factory):
    absent = testbeds.missing()
    if absent:
        pytest.fail(f"Debian packages needed: {', '.join(absent)}")
    if len(os.sched_getaffinity(0)) < 2:
        pytest.fail("two cores are needed: one to generate, one to answer")
    with testbeds.TestBed(tmp_path_factory.mktemp("bed")) as made:
        yield made


@pytest.fixture(scope="module")
def crew(bed, tmp_path_factory):
    client = Client("client", "namespace", bed.client, cpu=GENERATOR)
    with Crew((client,), tmp_path_factory.mktemp("crew")) as made:
        _ = made.swarm, made.prober  # what they need to start is no trial's
        yield made


def profile_of(*stages: dict):
    """The standard profile's rules with these stages."""
    standard = profiles.load("standard").source
    return profiles.from_mapping(
        {
            "name": "truth", "title": "Truth", "time_limit": 600 + SERIES,
            "margin": standard["margin"],
            # 0.1 % of failures, as in the smoke profile: a trial has too few requests for less.
            "limits": {**standard.get("limits", {}), "failed": 0.001},
            "stages": list(stages),
        },
        "the series' profile",
    )  # fmt: skip


def comparison(profile, pair: Pair, crew: Crew, seed: int):
    runs = []
    run_profile(profile, pair, crew, seed=seed, listener=lambda *_: None, runs=runs)
    return analyse(runs, profile, pair, seed=seed, complete=True)


@pytest.mark.timeout(300 + 2 * SERIES)
def test_a_vip_compared_with_itself_twenty_times(bed, crew, publish):
    """A/A: haproxy before nginx under both names; at most 2 of 20 claim a difference."""
    url = bed.vip("itself", 130)
    pair = Pair(Target("normal", url), Target("sriov", url), crew.clients, substrate="none")
    profile = profile_of(REQUESTS, LATENCY)
    claimed, widths, words = [], {}, {}
    for number in range(COMPARISONS):
        analysis = comparison(profile, pair, crew, number)
        called = []
        for each in analysis.metrics:
            if not each.metric.claim:
                continue
            word = each.finding.verdict
            words.setdefault(each.identifier, []).append(word)
            if each.finding.ratio is not None:
                width = (each.finding.ratio.high - each.finding.ratio.low) / 2
                widths.setdefault(each.identifier, []).append(width)
            if word in (verdict.FASTER, verdict.SLOWER):
                called.append(f"{each.identifier} {word}")
        if called:
            claimed.append((number, called))
    publish(
        "perf-aa",
        f"A VIP compared with itself, {COMPARISONS} times (six blocks, trials of {SECONDS} s)",
        ("Metric", "called different", "called equivalent", "could not tell",
         "half-width of the interval, median"),
        [
            (
                name,
                str(sum(word in (verdict.FASTER, verdict.SLOWER) for word in said)),
                str(said.count(verdict.EQUIVALENT)),
                str(said.count(verdict.UNCLEAR)),
                f"{statistics.median(widths[name]):.1%}" if widths.get(name) else "–",
            )
            for name, said in words.items()
        ]
        + [("any of them", str(len(claimed)), "", "", "")],
    )  # fmt: skip
    assert len(claimed) <= COMPARISONS // 10, claimed


def truth_of(bed, url: str) -> dict[int, dict]:
    """What the metronome itself measured since it was last asked, by port."""
    ask = f"import urllib.request as u; print(u.urlopen({url + 'truth'!r}).read().decode())"
    said = subprocess.run(
        ["ip", "netns", "exec", bed.client, sys.executable, "-c", ask],
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    return {int(port): each for port, each in json.loads(said.stdout).items()}


def series(bed, crew, stage: dict, ports, metric: str, truth, estimate, resolution: float):
    """Twenty comparisons of two ports of a metronome.

    :param truth: from what the metronome measured to the true effect.
    :param estimate: from the finding to the interval that is to hold it.
    :param resolution: by which the interval may miss the truth: what the instrument is held to.
    :return: rows (verdict, interval, truth, holds it strictly, holds it within the resolution).
    """
    slow, fast = bed.metronome(*ports, core=TARGET)
    pair = Pair(Target("normal", slow), Target("sriov", fast), crew.clients, substrate="none")
    profile = profile_of(stage)
    rows = []
    truth_of(bed, slow)
    for number in range(COMPARISONS):
        analysis = comparison(profile, pair, crew, number)
        finding = analysis.metric(metric).finding
        own = truth_of(bed, slow)
        true = truth(*(own[port] for port, _, _ in ports))
        if finding.ratio is None:
            rows.append((finding.verdict, None, true, False, False))
            continue
        found = estimate(finding)
        beyond = max(found.low - true, true - found.high, 0.0)
        rows.append((finding.verdict, found, true, beyond == 0.0, beyond <= resolution))
    bed.kill(f"metronome-{ports[0][0]}")
    return rows


def row_of(title: str, rows, shown) -> tuple[str, ...]:
    found = [row[1].estimate for row in rows if row[1] is not None]
    widths = [(row[1].high - row[1].low) / 2 for row in rows if row[1] is not None]
    return (
        title,
        shown(statistics.median(row[2] for row in rows)),
        shown(statistics.median(found)) if found else "–",
        shown(statistics.median(widths)) if widths else "–",
        f"{sum(row[0] == verdict.FASTER for row in rows)} of {len(rows)}",
        f"{sum(row[3] for row in rows)} of {len(rows)}",
        f"{sum(row[4] for row in rows)} of {len(rows)}",
    )


@pytest.mark.timeout(300 + 2 * SERIES)
def test_a_known_effect_twenty_times(bed, crew, publish):
    """The normal twin is 10 % slower in rate; then 25 us slower in latency. Both are what the
    target itself measured, in the same trials: it keeps them by its clock and reports them."""
    rate = series(
        bed, crew, REQUESTS, [(131, 1000 / 4.5, 0), (132, 200, 0)], "requests.rate",
        truth=lambda slow, fast: slow["slot_ns"] / fast["slot_ns"],
        estimate=lambda finding: finding.ratio,
        # One request more or less in a trial.
        resolution=1.0 / (SECONDS * 4500),
    )  # fmt: skip
    constant = {**LATENCY, "parameters": {**LATENCY["parameters"], "arrivals": "constant"}}
    latency = series(
        bed, crew, constant, [(133, 0, 25), (134, 0, 0)], "latency.p50",
        truth=lambda slow, fast: fast["hold_ns"] - slow["hold_ns"],
        estimate=lambda finding: finding.difference,
        # What the probe is held to against captures.
        resolution=2_000.0,
    )  # fmt: skip
    publish(
        "perf-known-effect",
        f"A known effect, {COMPARISONS} comparisons each (six blocks, trials of {SECONDS} s)",
        ("Effect", "truth", "found, median", "half-width, median", "found", "interval holds it",
         "within the resolution"),
        [
            row_of("rate: ratio", rate, lambda value: f"{value:.4f}"),
            row_of("latency: difference", latency, lambda value: f"{value / 1e3:+.2f} µs"),
        ],
    )  # fmt: skip
    enough = math.ceil(0.95 * COMPARISONS)
    for rows in (rate, latency):
        assert sum(row[0] == verdict.FASTER for row in rows) >= enough, rows
        assert sum(row[4] for row in rows) >= enough, rows
        # A 95 % interval misses once in twenty; that it misses four times or more has a
        # probability of 1.6 %.
        assert sum(row[3] for row in rows) >= enough - 2, rows
