# SPDX-License-Identifier: Apache-2.0
"""What the tables of `make bench` say of their goals."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from sriov_lb_perf.statistics.estimates import Interval

PATH = Path(__file__).parents[2] / "bench" / "perf_goals.py"


@pytest.fixture(scope="module")
def goals():
    spec = importlib.util.spec_from_file_location("_perf_goals", PATH)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("interval", "goal", "words", "reached"),
    [
        ((1.08, 1.01, 1.2), 1.0, "at least 1: reached", True),
        ((0.98, 0.91, 1.04), 1.0, "at least 1: on a par", True),
        ((0.92, 0.88, 0.99), 1.0, "at least 1: missed", False),
        ((15.4, 13.0, 17.1), 15, "at least 15: reached, not beyond doubt", True),
        ((14.4, 13.0, 17.1), 15, "at least 15: missed, not beyond doubt", False),
        ((12.0, 11.0, 13.0), 15, "at least 15: missed", False),
        ((0.97, 0.95, 0.99), 0.95, "at least 0.95: reached", True),
    ],
)
def test_a_goal_is_reached_missed_or_on_a_par(goals, interval, goal, words, reached):
    assert goals.least(Interval(*interval), goal) == (words, reached)


def test_tools_are_on_a_par_where_the_interval_touches_one(goals):
    assert goals.in_words(Interval(1.05, 1.0, 1.1)) == "on a par"
    assert goals.in_words(Interval(1.05, 1.01, 1.1)) == "faster"
    assert goals.in_words(Interval(0.9, 0.8, 0.99)) == "slower"


def test_a_ratio_is_paired_by_round(goals):
    """A machine that is twice as fast in one round is so for both."""
    theirs = [100.0, 200.0, 100.0, 400.0, 100.0]
    found = goals.ratio([2 * each for each in theirs], theirs)
    assert found.estimate == pytest.approx(2.0) and found.low == pytest.approx(found.high)
    assert goals.shown(found) == "2.00 (2.00 – 2.00)"


def test_most(goals):
    assert goals.most(99.0, 100, "100 µs") == ("at most 100 µs: reached", True)
    assert goals.most(101.0, 100, "100 µs") == ("at most 100 µs: missed", False)


def test_wrk2_is_read_as_it_prints(goals):
    """After the example in its README."""
    said = (
        "  Latency Distribution (HdrHistogram - Recorded Latency)\n"
        " 50.000%    6.67us\n 99.000%   12.75ms\n 99.900%    1.02s \n100.000%    1.10m\n"
    )
    assert goals.wrk2_latency(said, 50) == pytest.approx(6.67)
    assert goals.wrk2_latency(said, 99) == pytest.approx(12_750)
    assert goals.wrk2_latency(said, 99.9) == pytest.approx(1_020_000)
    with pytest.raises(ValueError, match="no 90th percentile"):
        goals.wrk2_latency(said, 90)
