# SPDX-License-Identifier: Apache-2.0
"""Balanced blocks: A B B A and B A A B.

Within a round of four each VIP is measured twice and a drift that is linear in time cancels; from
round to round neither VIP is always first. Which kind comes first is drawn from the run's seed.
"""

from __future__ import annotations

import random

from ..model import CANDIDATE, REFERENCE

ABBA = (REFERENCE, CANDIDATE, CANDIDATE, REFERENCE)
BAAB = (CANDIDATE, REFERENCE, REFERENCE, CANDIDATE)


def orders(seed: int, stage: str, count: int, rounds: int = 1) -> list[tuple[str, ...]]:
    """The order of the sides in each of ``count`` blocks of a stage.

    The two kinds alternate, so that their numbers differ by one at most.

    :param rounds: of four trials, in a block.
    """
    kinds = [ABBA, BAAB]
    random.Random(f"{seed} {stage}").shuffle(kinds)
    return [
        tuple(side for number in range(rounds) for side in kinds[(block * rounds + number) % 2])
        for block in range(count)
    ]
