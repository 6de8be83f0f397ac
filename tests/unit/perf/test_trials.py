# SPDX-License-Identifier: Apache-2.0
"""The order of trials, the blocks they become, and when a stage has enough."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from sriov_lb_perf import errors, profiles
from sriov_lb_perf.engines import registry
from sriov_lb_perf.model import Metric
from sriov_lb_perf.trials import run as run_module
from sriov_lb_perf.trials.blocks import blocks_of, complete_blocks, is_void
from sriov_lb_perf.trials.plan import ABBA, BAAB, orders
from sriov_lb_perf.trials.run import StageRun, background_rate, done, run_profile

RATE = Metric("rate", "Rate", "1/s", "higher")
P99 = Metric("p99", "Latency", "ns", "lower", histogram="latency", percentile=99)


def test_blocks_alternate_and_the_first_kind_is_drawn_from_the_seed():
    for seed in range(20):
        plan = orders(seed, "requests", 7)
        assert set(plan) == {ABBA, BAAB}
        assert all(a != b for a, b in zip(plan, plan[1:], strict=False))
        assert plan == orders(seed, "requests", 7)
    assert {orders(seed, "requests", 1)[0] for seed in range(20)} == {ABBA, BAAB}


def test_a_linear_drift_cancels_within_a_block(sample_of):
    samples = []
    for block, order in enumerate(orders(1, "x", 4)):
        for position, side in enumerate(order):
            drift = 1000 + 7 * (block * 4 + position)
            samples.append(sample_of(side, block, position, value=drift))
    found = blocks_of("x.rate", RATE, samples)
    assert found.reference == pytest.approx(found.candidate)


def test_percentiles_of_a_block_come_from_both_trials_together(sample_of):
    """Two trials with p99 1 and 3 ms: the block's is that of all requests, not their mean."""
    quiet, loud = [1_000_000] * 1000, [1_000_000] * 980 + [3_000_000] * 20
    samples = [
        sample_of("A", 0, 0, durations=quiet),
        sample_of("B", 0, 1, durations=quiet),
        sample_of("B", 0, 2, durations=quiet),
        sample_of("A", 0, 3, durations=loud),
    ]
    found = blocks_of("x.p99", P99, samples)
    assert found.reference == [pytest.approx(1_000_000, rel=1e-3)]
    assert found.reference_halves[0][1] == pytest.approx(3_000_000, rel=1e-3)


def test_a_block_with_a_void_sample_is_left_out_whole(sample_of):
    samples = [
        sample_of(side, block, position, void=["steal"] if (block, position) == (1, 2) else [])
        for block in range(3)
        for position, side in enumerate(ABBA)
    ]
    assert len(complete_blocks(samples)) == 3
    assert len(blocks_of("x.rate", RATE, samples).reference) == 2


def rounds(sample_of, stage, blocks, *, void=(), value=lambda block, position, side: 1.0):
    """Samples of blocks of two rounds; ``void``: (block, position) of samples that are."""
    return [
        sample_of(side, block, position, stage=stage, value=value(block, position, side),
                  void=["steal"] if (block, position) in void else [])
        for block, order in enumerate(orders(1, "x", blocks, 2))
        for position, side in enumerate(order)
    ]  # fmt: skip


def test_a_block_of_several_rounds_alternates_them_and_counts_them_all(sample_of, stage_of):
    stage = stage_of(rounds=2)
    for order in orders(1, "x", 3, 2):
        assert {order[:4], order[4:]} == {ABBA, BAAB}
    samples = rounds(
        sample_of, stage, 2,
        value=lambda block, position, side: (2.0 if side == "B" else 1.0) * (1 + position // 4),
    )  # fmt: skip
    assert len(complete_blocks(samples)) == 2
    assert complete_blocks(samples[:-1]).keys() == {0}
    found = blocks_of("x.rate", RATE, samples)
    assert found.reference == [1.5, 1.5] and found.candidate == [3.0, 3.0]
    # Against itself: the earlier trials of the rounds beside the later ones.
    assert found.reference_halves == [(1.5, 1.5)] * 2


def test_a_void_sample_takes_its_round_and_half_of_the_rounds_take_the_block(sample_of, stage_of):
    stage = stage_of(rounds=2)

    def value(block, position, side):
        return 1.0 + position // 4

    samples = rounds(sample_of, stage, 3, void={(1, 2)}, value=value)
    assert blocks_of("x.rate", RATE, samples).reference == [1.5, 2.0, 1.5]
    samples = rounds(sample_of, stage, 3, void={(1, 2), (1, 5)}, value=value)
    assert blocks_of("x.rate", RATE, samples).reference == [1.5, 1.5]
    assert [is_void(sides) for sides in complete_blocks(samples).values()] == [False, True, False]


def test_an_unfinished_block_does_not_count(sample_of):
    samples = [sample_of(side, 0, position) for position, side in enumerate(ABBA[:3])]
    assert complete_blocks(samples) == {}


def _run(stage, sample_of, spread, count):
    run = StageRun(stage, [RATE])
    for block in range(count):
        for position, side in enumerate(ABBA):
            swing = math.exp(spread * (1 if block % 2 else -1) * (side == "B"))
            run.samples.append(sample_of(side, block, position, value=1000 * swing, stage=stage))
    return run


def test_a_fixed_number_of_blocks_is_made(stage_of, sample_of):
    run = _run(stage_of(blocks=6, most=6), sample_of, 0.0, 6)
    assert not done(run, 5)
    assert done(run, 6) and run.stopped == "6 blocks, as fixed"


def test_the_sequential_rule_stops_when_the_interval_is_narrow(stage_of, sample_of):
    stage = stage_of(blocks=5, most=20, until=0.02)
    narrow = _run(stage, sample_of, 0.005, 6)
    assert done(narrow, 6) and "within 2.0%" in narrow.stopped
    wide = _run(stage, sample_of, 0.2, 6)
    assert not done(wide, 6)
    assert done(wide, 20) and "the most allowed" in wide.stopped


def test_spare_blocks_are_made_while_there_is_time(stage_of, sample_of):
    stage = stage_of(blocks=5, most=6, until=0.02, spare=8)
    wide = _run(stage, sample_of, 0.2, 8)
    assert not done(wide, 6, spare=True)
    assert done(wide, 7, spare=False) and wide.stopped == "7 blocks, as many as there was time for"
    assert done(wide, 8, spare=True) and wide.stopped == "8 blocks, the most allowed"
    # Narrow enough is enough.
    assert done(_run(stage, sample_of, 0.005, 6), 6, spare=True)


@pytest.mark.parametrize(
    ("seconds", "until", "blocks", "rule"),
    [
        # The first stage has enough after 5 blocks of 4 s, at 20 s, and the last one may take
        # 5.24 s: a block, of at most 5.24 s, begins at 68.52 s or earlier.
        (1.0, 0.5, [5, 13, 1], "as many as there was time for"),
        (1.0, 0.01, [8, 10, 1], "as many as there was time for"),
        # Nothing is left over: there are as many as planned.
        (1.3, 0.01, [8, 6, 1], "as many as there was time for"),
        (0.1, 0.5, [5, 20, 1], "the most allowed"),
    ],
)
def test_spare_time_is_what_earlier_stages_left_and_later_ones_do_not_need(
    fake_engine, monkeypatch, seconds, until, blocks, rule
):
    now = [1000.0]
    monkeypatch.setattr(run_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    engine = fake_engine(spread=0.1)
    measure = engine.measure

    def slow(trial, pair, crew):
        now[0] += seconds
        return measure(trial, pair, crew)

    engine.measure = slow
    monkeypatch.setitem(registry.ENGINES, "http-rate", lambda: engine)
    common = {"title": "Stage", "engine": "http-rate", "seconds": 1, "warmup": 0.1}
    profile = profiles.from_mapping(
        {
            "name": "spare", "title": "Spare", "time_limit": 91, "margin": 0.05,
            "stages": [
                {**common, "name": "first", "blocks": {"least": 5, "most": 8, "until": until}},
                {
                    **common, "name": "second",
                    "blocks": {"least": 5, "most": 6, "until": 0.0001, "spare": 20},
                },
                {**common, "name": "third", "blocks": 1},
            ],
        },
        "the test's profile",
    )  # fmt: skip
    assert profile.planned_seconds() == pytest.approx(12 + 15 * 5.24)
    assert profile.most_seconds() == 91
    runs = []
    run_profile(profile, None, None, seed=1, runs=runs, listener=lambda *_: None)
    assert [run.blocks_done() for run in runs] == blocks
    assert runs[1].stopped == f"{blocks[1]} blocks, {rule}"


def test_the_background_is_a_share_of_the_slower_vip(stage_of, sample_of):
    rates = StageRun(stage_of(engine="http-rate"), [RATE])
    for position, side in enumerate(ABBA):
        value = 8000 if side == "A" else 20_000
        rates.samples.append(sample_of(side, 0, position, value=value))
    loaded = stage_of(name="latency", engine="http-latency", load=0.5)
    assert background_rate(loaded, [rates]) == 4000
    assert background_rate(stage_of(), [rates]) is None
    with pytest.raises(errors.BadProfile, match="request rate"):
        background_rate(loaded, [])
