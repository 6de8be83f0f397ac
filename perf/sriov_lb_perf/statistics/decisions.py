# SPDX-License-Identifier: Apache-2.0
"""Tests on the logarithm ratios of blocks, and what a run of this size can see."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import optimize, stats


def difference_p(logs: np.ndarray) -> float:
    """Two-sided p of "the mean logarithm ratio is 0" (Student's t over blocks)."""
    logs = np.asarray(logs, dtype=float)
    if np.ptp(logs) == 0:
        return 1.0 if logs[0] == 0 else 0.0
    return float(stats.ttest_1samp(logs, 0.0).pvalue)


def equivalence_p(logs: np.ndarray, margin: float) -> float:
    """p of "the ratio is outside [1/(1+margin), 1+margin]" (two one-sided tests).

    :param margin: such as 0.03 for three percent.
    """
    logs = np.asarray(logs, dtype=float)
    bound = math.log1p(margin)
    if np.ptp(logs) == 0:
        return 0.0 if abs(logs[0]) < bound else 1.0
    below = stats.ttest_1samp(logs, bound, alternative="less").pvalue
    above = stats.ttest_1samp(logs, -bound, alternative="greater").pvalue
    return float(max(below, above))


def holm(values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment; NaN (not tested) stays out of the family."""
    order = sorted(
        (i for i, value in enumerate(values) if not math.isnan(value)), key=lambda i: values[i]
    )
    adjusted = [math.nan] * len(values)
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, (len(order) - rank) * values[index])
        adjusted[index] = min(1.0, running)
    return adjusted


def left_to_test(others: Sequence[float], alpha: float) -> int:
    """At which step Holm's procedure would test one more metric: how many are left then, itself
    included, once those of the others are rejected that are rejected whatever becomes of it.

    :param others: p values of the other metrics; NaN (not tested) stays out.
    """
    values = sorted(value for value in others if not math.isnan(value))
    left = len(values) + 1
    for value in values:
        if value > alpha / left:
            break
        left -= 1
    return left


def smallest_effect(
    logs: np.ndarray, *, alpha: float = 0.05, power: float = 0.8, family: int = 1
) -> float:
    """The ratio minus one that a run with this scatter and number of blocks would have found.

    :param family: how many metrics are left when this one is tested (:func:`left_to_test`).
    :return: such as 0.04: an effect of 4 % is found with probability ``power``.
    """
    logs = np.asarray(logs, dtype=float)
    count = logs.size
    if count < 2:
        return math.inf
    spread = float(np.std(logs, ddof=1)) / math.sqrt(count)
    if spread == 0:
        return 0.0
    freedom = count - 1
    critical = stats.t.ppf(1 - alpha / (2 * family), freedom)

    def missing(shift: float) -> float:
        beyond = stats.nct.sf(critical, freedom, shift)
        # scipy's noncentral t answers NaN far out, where the power is 1.
        return (1.0 if math.isnan(beyond) else beyond) - power

    shift = optimize.brentq(missing, 1e-6, 10 * critical + 10)
    # Scatter over many orders of magnitude: nothing at all could have been seen.
    return math.expm1(shift * spread) if shift * spread < 50 else math.inf
