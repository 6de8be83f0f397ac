# SPDX-License-Identifier: Apache-2.0
"""The rate search, against systems whose answer is known."""

from __future__ import annotations

import math
import random
import time

import pytest

from sriov_lb_perf.engines.search import Goal, Outcome, search

CAPACITY = 20_000.0


def system(noise=0.0, *, hiccup=0, trouble_from=math.inf):
    """A queue that answers ``CAPACITY`` a second; its p99 grows as its load nears that.

    :param noise: standard deviation of a trial's capacity, relative.
    :param hiccup: every so many trials one answers half of what it was asked.
    :param trouble_from: rate from which on the generator is the limit.
    """
    source, count = random.Random(1), 0

    def measure(seconds, rate):
        nonlocal count
        count += 1
        capacity = CAPACITY * (1 + source.gauss(0, noise))
        planned = round(rate * seconds)
        good = min(planned, int(capacity * seconds))
        if hiccup and count % hiccup == 0:
            good = planned // 2
        late = 1e6 / (1 - rate / capacity) if rate < capacity else math.inf
        return Outcome(planned, good, late, "no CPU left" if rate >= trouble_from else "")

    return measure


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_it_finds_the_capacity_of_a_system_that_loses_what_is_too_much(noise):
    found = search(system(noise), Goal(1e-5), lowest=100, highest=200_000)
    assert found.rate == pytest.approx(CAPACITY, rel=0.04)
    assert found.low <= found.rate * 1.0001 and found.low < found.high
    assert not found.ended and not found.trouble


def test_a_goal_for_the_99th_percentile_is_kept():
    """p99 is 1 ms / (1 - load): at most 5 ms up to 80 % of the capacity."""
    found = search(system(), Goal(1e-5, p99=5e6), lowest=100, highest=200_000)
    assert found.rate == pytest.approx(0.8 * CAPACITY, rel=0.04)


def test_one_bad_trial_in_five_does_not_cost_the_result():
    found = search(system(hiccup=5), Goal(1e-5), lowest=100, highest=200_000)
    # The conditional throughput counts the worst of the trials a bound rests on.
    assert found.low == pytest.approx(CAPACITY, rel=0.05)


def test_both_ends_of_the_range_are_told():
    above = search(system(), Goal(1e-5), lowest=100, highest=1000)
    assert above.rate == pytest.approx(1000) and above.high is None
    below = search(system(), Goal(1e-5), lowest=50_000, highest=100_000)
    assert math.isnan(below.rate) and below.low is None


def test_a_search_that_is_given_up_tells_what_was_known():
    measure = system()

    def slow(seconds, rate):
        time.sleep(0.03)
        return measure(seconds, rate)

    found = search(slow, Goal(1e-5), lowest=100, highest=200_000, seconds=0.1)
    assert "given up after 0.1 s" in found.ended
    assert found.trials and (found.low is None or found.low <= CAPACITY)


def test_the_generator_s_own_limit_is_not_called_the_target_s():
    """It cannot do more than 15,000/s; the bound would be its own."""
    measure = system(trouble_from=15_000)

    def limited(seconds, rate):
        seen = measure(seconds, rate)
        if rate < 15_000:
            return seen
        return Outcome(seen.planned, int(0.9 * seen.planned), math.inf, seen.trouble)

    assert search(limited, Goal(1e-5), lowest=100, highest=200_000).trouble == "no CPU left"
    # The control: far above the target's own bound its trouble does not matter.
    far = system(trouble_from=50_000)
    assert search(far, Goal(1e-5), lowest=100, highest=200_000).trouble == ""
