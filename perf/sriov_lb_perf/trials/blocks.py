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
    """Block number -> side -> its samples in time order (two a round), of blocks with all."""
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
        if all(len(each) == 2 * each[0].trial.stage.rounds for each in sides.values() if each)
        and all(sides.values())
    }


def rounds_of(sides: dict[str, list[Sample]]) -> list[dict[str, list[Sample]]]:
    """A complete block's rounds: side -> its two samples."""
    return [
        {side: each[at : at + 2] for side, each in sides.items()}
        for at in range(0, len(sides[REFERENCE]), 2)
    ]


def sound_rounds(sides: dict[str, list[Sample]]) -> list[dict[str, list[Sample]]]:
    """The rounds of a complete block in which no sample is void: a round is left out whole, so
    that what is left stays balanced."""
    return [
        each for each in rounds_of(sides)
        if not any(sample.void for samples in each.values() for sample in samples)
    ]  # fmt: skip


def is_void(sides: dict[str, list[Sample]]) -> bool:
    """Whether the block may not support a claim: fewer than half of its rounds may."""
    return 2 * len(sound_rounds(sides)) < len(rounds_of(sides))


def blocks_of(identifier: str, metric: Metric, samples: Sequence[Sample]) -> Blocks:
    """The valid blocks of one metric of one stage, without the void rounds of each."""
    good = [
        {
            side: [sample for each in sound_rounds(sides) for sample in each[side]]
            for side in (REFERENCE, CANDIDATE)
        }
        for sides in complete_blocks(samples).values()
        if not is_void(sides)
    ]

    def halves(side: str) -> list[tuple[float, float]]:
        return [(value_of(metric, s[side][::2]), value_of(metric, s[side][1::2])) for s in good]

    return Blocks(
        metric=identifier,
        better=metric.better,
        reference=[value_of(metric, sides[REFERENCE]) for sides in good],
        candidate=[value_of(metric, sides[CANDIDATE]) for sides in good],
        reference_halves=halves(REFERENCE),
        candidate_halves=halves(CANDIDATE),
    )
