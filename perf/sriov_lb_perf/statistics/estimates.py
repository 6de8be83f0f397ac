# SPDX-License-Identifier: Apache-2.0
"""Effect sizes and their intervals."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

#: Below this many blocks nothing is claimed: intervals of four blocks cover 89 %, not 95 %.
MIN_BLOCKS = 5
RESAMPLES = 5_000


@dataclass(frozen=True)
class Interval:
    """A point estimate with its confidence interval."""

    estimate: float
    low: float
    high: float
    level: float = 0.95

    def contains(self, value: float) -> bool:
        return self.low <= value <= self.high

    def map(self, function) -> Interval:
        """Through a monotonic function."""
        ends = sorted((function(self.low), function(self.high)))
        return Interval(function(self.estimate), ends[0], ends[1], self.level)


def hodges_lehmann(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """The median of all pairwise means (a pseudo-median): 95 % as efficient as the mean on
    Gaussian data and unmoved by one wild block."""
    values = np.moveaxis(np.asarray(values, dtype=float), axis, -1)
    first, second = np.triu_indices(values.shape[-1])
    return np.median((values[..., first] + values[..., second]) / 2.0, axis=-1)


def widened_level(count: int, level: float) -> float:
    """The nominal level at which a percentile bootstrap of ``count`` values covers ``level``."""
    quantile = stats.t.ppf((1 + level) / 2, count - 1)
    return 1 - 2 * stats.norm.cdf(-math.sqrt(count / (count - 1)) * quantile)


def interval(values, *, level: float = 0.95, seed: int = 0) -> Interval:
    """Hodges-Lehmann estimate of ``values`` (one per block) with its bootstrap interval.

    :raises ValueError: fewer than two values, or one that is not finite.
    """
    values = np.asarray(values, dtype=float)
    if values.size < 2 or not np.isfinite(values).all():
        raise ValueError(f"{values.size} values, all finite: {np.isfinite(values).all()}")
    return _interval(tuple(values.tolist()), level, seed, RESAMPLES)


# Of 40 blocks one takes 0.13 s, and a run asks for those of its earlier stages again and again.
@functools.lru_cache(maxsize=4096)
def _interval(blocks: tuple[float, ...], level: float, seed: int, resamples: int) -> Interval:
    values = np.array(blocks)
    estimate = float(hodges_lehmann(values))
    if np.ptp(values) == 0:
        return Interval(estimate, estimate, estimate, level)
    found = stats.bootstrap(
        (values,),
        hodges_lehmann,
        method="percentile",
        confidence_level=widened_level(values.size, level),
        n_resamples=resamples,
        batch=500,
        vectorized=True,
        **_random(seed),
    ).confidence_interval
    return Interval(estimate, float(found.low), float(found.high), level)


def _random(seed: int) -> dict:
    """scipy 1.15 renamed the argument."""
    import inspect

    name = "rng" if "rng" in inspect.signature(stats.bootstrap).parameters else "random_state"
    return {name: np.random.default_rng(seed)}
