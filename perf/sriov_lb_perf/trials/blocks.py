# SPDX-License-Identifier: Apache-2.0
"""From samples to blocks: one value per metric, VIP and block."""

from __future__ import annotations

from collections.abc import Sequence

from ..histogram import merge
from ..model import CANDIDATE, REFERENCE, Metric, Sample
from ..statistics.verdict import Blocks


def value_of(metric: Metric, samples: Sequence[Sample]) -> float:
    """One value for the trials of one VIP in one block.

    Percentiles are taken from the trials' merged distribution; other values are averaged.
    """
    if metric.histogram is not None:
        merged = merge(s.histograms[metric.histogram] for s in samples)
        return merged.percentile(metric.percentile)
    return sum(sample.values[metric.name] for sample in samples) / len(samples)


def complete_blocks(samples: Sequence[Sample]) -> dict[int, dict[str, list[Sample]]]:
    """Block number -> side -> its two samples in time order, of blocks with all four."""
    blocks: dict[int, dict[str, list[Sample]]] = {}
    for sample in samples:
        sides = blocks.setdefault(sample.trial.block, {REFERENCE: [], CANDIDATE: []})
        sides[sample.trial.side].append(sample)
    for sides in blocks.values():
        for each in sides.values():
            each.sort(key=lambda sample: sample.trial.position)
    return {
        number: sides
        for number, sides in sorted(blocks.items())
        if len(sides[REFERENCE]) == len(sides[CANDIDATE]) == 2
    }


def is_void(sides: dict[str, list[Sample]]) -> bool:
    """Whether any sample of the block may not support a claim."""
    return any(sample.void for each in sides.values() for sample in each)


def blocks_of(identifier: str, metric: Metric, samples: Sequence[Sample]) -> Blocks:
    """The valid blocks of one metric of one stage; a block with a void sample is left out whole,
    so that what is left stays balanced."""
    good = [sides for sides in complete_blocks(samples).values() if not is_void(sides)]

    def halves(side: str) -> list[tuple[float, float]]:
        return [(value_of(metric, [s[side][0]]), value_of(metric, [s[side][1]])) for s in good]

    return Blocks(
        metric=identifier,
        better=metric.better,
        reference=[value_of(metric, sides[REFERENCE]) for sides in good],
        candidate=[value_of(metric, sides[CANDIDATE]) for sides in good],
        reference_halves=halves(REFERENCE),
        candidate_halves=halves(CANDIDATE),
    )
