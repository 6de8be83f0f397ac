# SPDX-License-Identifier: Apache-2.0
"""What may be concluded from blocks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from sriov_lb_perf import profiles
from sriov_lb_perf.statistics import decisions, estimates, verdict
from sriov_lb_perf.statistics.verdict import Blocks, Claim


def blocks(ratio=1.0, count=8, spread=0.03, name="m", better="higher", seed=0, shift=1.0):
    source = np.random.default_rng(seed)
    a = 1000 * np.exp(source.normal(0, spread, (count, 2)))
    b = 1000 * ratio * np.exp(source.normal(0, spread, (count, 2)))
    a[:, 1] *= shift
    return Blocks(name, better, a.mean(1), b.mean(1), list(map(tuple, a)), list(map(tuple, b)))


def one(found, margin=0.03, **more):
    return verdict.compare([found], margin=margin, **more)[0]


@pytest.mark.parametrize(
    ("ratio", "better", "word"),
    [
        (1.5, "higher", verdict.FASTER),
        (0.7, "higher", verdict.SLOWER),
        (0.5, "lower", verdict.FASTER),
        (1.4, "lower", verdict.SLOWER),
    ],
)
def test_a_large_difference_is_called_by_its_direction(ratio, better, word):
    found = one(blocks(ratio, better=better))
    assert found.verdict == word
    assert found.ratio.contains(ratio)


def test_a_difference_too_small_to_matter_is_equivalent():
    assert one(blocks(1.004, count=20, spread=0.01), margin=0.03).verdict == verdict.EQUIVALENT


def test_noise_is_not_called_anything():
    found = one(blocks(1.0, count=6, spread=0.3))
    assert found.verdict == verdict.UNCLEAR
    assert found.smallest_effect > 0.3


def test_four_blocks_claim_nothing_and_say_why():
    found = one(blocks(2.0, count=4))
    assert found.verdict == verdict.UNCLEAR
    assert "at least 5" in found.reasons[0]


def test_lost_requests_make_no_ratio_and_no_claim():
    good = blocks(0.5, better="lower")
    lost = [*good.candidate[:-1], math.inf]
    found = one(Blocks("m", "lower", good.reference, lost))
    assert found.ratio is None and found.verdict == verdict.UNCLEAR
    assert "lost" in found.reasons[0]


def test_a_void_metric_keeps_its_figures_and_loses_its_claim():
    found = one(blocks(2.0), void={"m": "the generator was the bottleneck"})
    assert found.ratio.contains(2.0)
    assert found.verdict == verdict.UNCLEAR
    assert found.reasons == ["the generator was the bottleneck"]
    assert math.isnan(found.p)


def test_intervals_cover_what_they_say(monkeypatch):
    """Coverage of the 95 % interval for six blocks, normal and heavy-tailed. (The plain
    percentile bootstrap, its control, covers 86 to 89 %.)"""
    monkeypatch.setattr(estimates, "RESAMPLES", 1000)
    source = np.random.default_rng(3)
    for draw in (lambda: source.normal(0, 1, 6), lambda: source.standard_t(3, 6)):
        hits = sum(estimates.interval(draw()).contains(0.0) for _ in range(200))
        assert 0.90 <= hits / 200 <= 0.99


def test_the_interval_of_the_same_blocks_is_made_once(monkeypatch):
    """A run asks for those of its earlier stages at the end of each stage."""
    asked = []
    bootstrap = estimates.stats.bootstrap

    def counted(*arguments, **options):
        asked.append(arguments)
        return bootstrap(*arguments, **options)

    monkeypatch.setattr(estimates.stats, "bootstrap", counted)
    values = np.random.default_rng(17).normal(0, 1, 8)
    first = estimates.interval(values)
    assert estimates.interval(list(values)) == first and len(asked) == 1
    # Another seed, other values, and another number of resamples are another question.
    assert estimates.interval(values, seed=1) != first
    assert estimates.interval(values + 1) != first
    monkeypatch.setattr(estimates, "RESAMPLES", 100)
    assert estimates.interval(values) != first
    assert len(asked) == 4


RULES = sorted(
    {
        (stage.blocks, stage.limit)
        for name in profiles.names()
        for stage in profiles.load(name).stages
        if stage.until is not None
    }
)


def errs(least: int, most: int, middle: float) -> float:
    """How often a t test at 5 % of equals calls them different, stopped by an interval's width.

    :param middle: blocks after which an interval is on average as narrow as the rule wants.
    """
    until = stats.t.ppf(0.975, middle - 1) / math.sqrt(middle)
    made = np.random.default_rng(least * most).normal(0, 1, (10_000, most))
    count = np.arange(1, most + 1)
    mean = made.cumsum(1) / count
    freedom = np.maximum(count - 1, 1)
    spread = np.sqrt(((made**2).cumsum(1) - count * mean**2) / freedom)
    width = stats.t.ppf(0.975, freedom) * spread / np.sqrt(count)
    ends = (width <= until) & (count >= least)
    ends[:, -1] = True
    at = np.arange(len(made)), ends.argmax(1)
    return float((abs(mean[at]) > width[at]).mean())


@pytest.mark.parametrize(("least", "most"), RULES)
def test_the_profiles_rules_of_stopping_cost_little(least, most):
    for middle in (least, (least + most) / 2, most):
        assert 0.04 < errs(least, most, middle) < 0.065


def test_a_rule_that_may_stop_very_early_costs_more():
    """The simulation can see it: this is why no profile here has such a rule."""
    assert errs(5, 20, 12.5) > 0.07


def test_false_claims_over_a_family_are_rare(monkeypatch):
    """60 A/A runs with six metrics each: Holm keeps runs with any false claim near 5 %."""
    monkeypatch.setattr(estimates, "RESAMPLES", 200)
    wrong = 0
    for seed in range(60):
        family = [blocks(1.0, 6, 0.1, str(i), seed=1000 * seed + i) for i in range(6)]
        found = verdict.compare(family, margin=0.01)
        wrong += any(f.verdict in (verdict.FASTER, verdict.SLOWER) for f in found)
    assert wrong <= 7


def test_the_stated_smallest_effect_is_found_four_times_in_five():
    count, spread = 8, 0.05
    source = np.random.default_rng(5)
    stated = decisions.smallest_effect(stats.zscore(source.normal(size=count), ddof=1) * spread)
    found = 0
    for _ in range(300):
        logs = math.log1p(stated) + source.normal(0, spread, count)
        found += decisions.difference_p(logs) < 0.05
    assert 0.72 <= found / 300 <= 0.88


def test_what_is_left_to_test_is_what_holm_would_not_have_rejected_before():
    assert decisions.left_to_test([], 0.05) == 1
    assert decisions.left_to_test([0.5, math.nan, 0.9], 0.05) == 3
    assert decisions.left_to_test([1e-9, 0.5, 1e-9], 0.05) == 2
    # 0.02 is above 0.05 / 3, so nothing is rejected before, and 1e-9 alone steps once.
    assert decisions.left_to_test([0.02, 0.02], 0.05) == 3
    assert decisions.left_to_test([1e-9, 0.02], 0.05) == 1


@pytest.mark.parametrize("others", [0.0, 1.0])
def test_the_stated_smallest_effect_holds_beside_other_metrics(others):
    """Four more metrics, without an effect or with a large one: what is said of the fifth is found
    four times in five by Holm's procedure."""
    count, spread, source = 10, 0.05, np.random.default_rng(11)

    def run(effect):
        logs = source.normal(others, spread, (4, count))
        return [*logs, source.normal(effect, spread, count)]

    stated, found = [], 0
    for _ in range(100):
        *rest, last = run(0.0)
        p = [decisions.difference_p(logs) for logs in rest]
        left = decisions.left_to_test(p, 0.05)
        stated.append(decisions.smallest_effect(last, family=left))
    effect = math.log1p(np.median(stated))
    for _ in range(400):
        found += decisions.holm([decisions.difference_p(logs) for logs in run(effect)])[-1] < 0.05
    assert 0.70 <= found / 400 <= 0.90


def test_holm_is_the_step_down_procedure():
    assert decisions.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert decisions.holm([0.5, math.nan, 0.01])[1:] == pytest.approx(
        [math.nan, 0.02], nan_ok=True
    )
    assert decisions.holm([]) == []


def test_hodges_lehmann_is_unmoved_by_one_wild_block():
    calm = np.array([0.1, 0.11, 0.09, 0.1, 0.12, 0.08, 0.1])
    wild = np.append(calm, 9.0)
    assert abs(estimates.hodges_lehmann(wild) - estimates.hodges_lehmann(calm)) < 0.01
    assert np.mean(wild) > 1  # the mean is its control


def test_scatter_over_orders_of_magnitude_is_no_overflow():
    logs = np.array([-300.0, 400.0, 10.0, -20.0, 250.0])
    assert decisions.smallest_effect(logs) == math.inf


def test_a_vip_that_differs_from_itself_fails_the_gate():
    count = 10
    source = np.random.default_rng(7)
    calm = [(1000 * math.exp(e), 1000 * math.exp(f)) for e, f in source.normal(0, 0.02, (count, 2))]
    # What moves it follows the labels, as a real cause with that pattern would.
    moved = [
        (a, b * (1.2 if (i // 2 + i) % 2 == 0 else 1 / 1.2)) for i, (a, b) in enumerate(calm)
    ]
    family = [Blocks("m", "higher", [1] * count, [1] * count, calm, moved)]
    first, second = verdict.self_comparisons(family, ("normal", "sriov"), margin=0.05)
    assert (first.vip, first.passed) == ("normal", True)
    assert (second.vip, second.passed) == ("sriov", False)


def test_a_steady_drift_does_not_fail_the_gate():
    """The second half is 20 % slower in each block: labels alternate, so it cancels."""
    family = [blocks(1.0, 10, 0.02, shift=0.8)]
    passed = [s.passed for s in verdict.self_comparisons(family, ("a", "b"), margin=0.05)]
    assert passed == [True, True]


def test_trials_that_have_not_settled_fail_the_gate():
    noise = np.random.default_rng(3).normal(0, 0.03, (4, 12))
    family = [
        ("latency", "normal", noise[0] + 0.2),
        ("latency", "sriov", noise[1]),
        # Less at first is not settled either; what is certain and within the margin is.
        ("loaded", "normal", noise[2] - 0.2),
        ("loaded", "sriov", noise[3] / 10 + 0.02),
        ("few", "normal", [0.2, 0.2, 0.2, 0.2, math.nan, math.nan]),
    ]
    found = verdict.settlings(family, margin=0.03)
    assert [(each.stage, each.vip, each.passed) for each in found] == [
        ("latency", "normal", False), ("latency", "sriov", True),
        ("loaded", "normal", False), ("loaded", "sriov", True), ("few", "normal", None),
    ]  # fmt: skip
    assert found[0].drift.contains(0.2) and found[-1].drift is None


@pytest.mark.parametrize(
    ("ratio", "word"),
    [(1.20, verdict.SUPPORTED), (1.02, verdict.CONTRADICTED), (1.09, verdict.UNCLEAR)],
)
def test_claims_are_judged_by_the_whole_interval(ratio, word):
    claim = Claim("9 % more", "spec", "m", 1.09, "higher")
    found, why = verdict.judge(claim, one(blocks(ratio, count=8, spread=0.02)))
    assert found == word, why
    assert "claimed at least 1.09" in why


def test_a_claim_nobody_measured_is_open():
    claim = Claim("70 % less", "spec", "latency.p50", 0.3, "lower")
    assert verdict.judge(claim, None)[0] == verdict.UNCLEAR
