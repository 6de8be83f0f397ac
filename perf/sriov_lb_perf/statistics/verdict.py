# SPDX-License-Identifier: Apache-2.0
"""From the blocks of every metric of a run to words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from . import decisions
from .estimates import MIN_BLOCKS, Interval, interval

FASTER, SLOWER, EQUIVALENT, UNCLEAR = "faster", "slower", "equivalent", "could not tell"
SUPPORTED, CONTRADICTED = "supported", "contradicted"


@dataclass(frozen=True)
class Blocks:
    """What one metric came to in each block, for both VIPs.

    :param better: ``higher`` or ``lower``.
    :param reference: values of the VIP compared against (A), one per block.
    :param candidate: values of the VIP in question (B), in the same order.
    :param reference_halves: per block the value of A's first and of A's second trial.
    :param candidate_halves: the same of B.
    """

    metric: str
    better: str
    reference: Sequence[float]
    candidate: Sequence[float]
    reference_halves: Sequence[tuple[float, float]] = ()
    candidate_halves: Sequence[tuple[float, float]] = ()

    def logs(self) -> np.ndarray:
        """log(candidate / reference) of each block; inf and NaN where a value is not positive."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log(np.asarray(self.candidate, float)) - np.log(
                np.asarray(self.reference, float)
            )


@dataclass
class Finding:
    """What may be said of one metric. Ratios are candidate / reference."""

    metric: str
    blocks: int
    ratio: Interval | None = None
    difference: Interval | None = None
    ratio_of_medians: float = math.nan
    p: float = math.nan
    p_adjusted: float = math.nan
    p_equivalence: float = math.nan
    p_equivalence_adjusted: float = math.nan
    smallest_effect: float = math.nan
    verdict: str = UNCLEAR
    reasons: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class SelfComparison:
    """A VIP against itself: the first half of its trials of each block against the second."""

    metric: str
    vip: str
    ratio: Interval | None
    p: float
    passed: bool | None  # None: could not be examined
    reason: str = ""


def compare(
    family: Sequence[Blocks],
    *,
    margin: float,
    alpha: float = 0.05,
    void: Mapping[str, str] | None = None,
    seed: int = 0,
) -> list[Finding]:
    """Findings for all metrics of a run, corrected for their number.

    :param margin: equivalence margin, such as 0.03.
    :param void: metric -> why nothing may be claimed of it (a gate failed); its figures are
        given all the same.
    """
    void = void or {}
    findings = [_figures(blocks, seed) for blocks in family]
    tested = [
        f.metric not in void and f.ratio is not None and f.blocks >= MIN_BLOCKS for f in findings
    ]
    for finding, blocks, counts in zip(findings, family, tested, strict=True):
        if counts:
            logs = blocks.logs()
            finding.p = decisions.difference_p(logs)
            finding.p_equivalence = decisions.equivalence_p(logs, margin)
    adjusted = decisions.holm([f.p for f in findings])
    equivalent = decisions.holm([f.p_equivalence for f in findings])
    for index, (finding, blocks) in enumerate(zip(findings, family, strict=True)):
        finding.p_adjusted = adjusted[index]
        finding.p_equivalence_adjusted = equivalent[index]
        if tested[index]:
            # Where nothing may be claimed, nothing could have been seen.
            others = [other.p for other in findings if other is not finding]
            finding.smallest_effect = decisions.smallest_effect(
                blocks.logs(), alpha=alpha, family=decisions.left_to_test(others, alpha)
            )
        if finding.metric in void:
            finding.reasons.append(void[finding.metric])
        elif finding.ratio is not None and finding.blocks < MIN_BLOCKS:
            finding.reasons.append(
                f"{finding.blocks} valid blocks; at least {MIN_BLOCKS} are needed"
            )
        elif finding.ratio is not None:
            finding.verdict = _word(finding, blocks.better, alpha)
    return findings


def _figures(blocks: Blocks, seed: int) -> Finding:
    finding = Finding(blocks.metric, len(blocks.reference))
    if not len(blocks.reference):
        finding.reasons.append("no valid block")
        return finding
    reference = np.asarray(blocks.reference, float)
    candidate = np.asarray(blocks.candidate, float)
    if np.isfinite(np.median(reference)) and np.median(reference) > 0:
        finding.ratio_of_medians = float(np.median(candidate) / np.median(reference))
    logs = blocks.logs()
    if not np.isfinite(logs).all():
        lost = int((~np.isfinite(logs)).sum())
        finding.reasons.append(
            f"in {lost} of {len(logs)} blocks there is no ratio: a value is infinite (requests "
            "were lost), zero or missing"
        )
        return finding
    if len(logs) >= 2:
        finding.ratio = interval(logs, seed=seed).map(math.exp)
        finding.difference = interval(candidate - reference, seed=seed)
    else:
        finding.reasons.append("one valid block only")
    return finding


def _word(finding: Finding, better: str, alpha: float) -> str:
    # A difference that is certain and certainly too small to matter is "equivalent".
    if finding.p_equivalence_adjusted < alpha:
        return EQUIVALENT
    if finding.p_adjusted < alpha and not finding.ratio.contains(1.0):
        up = finding.ratio.estimate > 1.0
        return FASTER if up == (better == "higher") else SLOWER
    return UNCLEAR


def self_comparisons(
    family: Sequence[Blocks], names: tuple[str, str], *, margin: float, alpha: float = 0.05
) -> list[SelfComparison]:
    """The A/A gate: each VIP against itself, from the same trials.

    In a block A B B A the two A's differ in time only. Which of them is called first alternates
    from block to block, so a steady drift cancels. The gate fails when such a comparison would
    be *claimed* as a difference (Holm over all of the run's self-comparisons) beyond the
    margin: then something else than the port moves the figures.
    """
    rows = []
    for blocks in family:
        halves = (blocks.reference_halves, blocks.candidate_halves)
        for vip, pairs in zip(names, halves, strict=True):
            rows.append((blocks.metric, vip, pairs))
    logs = [_half_logs(pairs) for _, _, pairs in rows]
    found = []
    for (metric, vip, pairs), moved in zip(
        rows, _moves(logs, math.log1p(margin), alpha), strict=True
    ):
        if moved is None:
            found.append(
                SelfComparison(metric, vip, None, math.nan, None, f"{len(pairs)} usable pairs")
            )
        else:
            ratio = moved.by.map(math.exp)
            found.append(SelfComparison(metric, vip, ratio, moved.p, not moved.beyond))
    return found


@dataclass(frozen=True)
class _Move:
    """Whether what ought to be 0 is certainly another thing, and beyond a bound.

    :param p: Student's t over blocks, Holm-corrected.
    """

    by: Interval
    p: float
    beyond: bool


def _moves(
    family: Sequence[np.ndarray | None], bound: float, alpha: float
) -> list[_Move | None]:
    """Of each: None where there are too few blocks (or None) to tell."""
    ps = [
        decisions.difference_p(each) if each is not None and len(each) >= MIN_BLOCKS else math.nan
        for each in family
    ]
    found: list[_Move | None] = []
    for each, p in zip(family, decisions.holm(ps), strict=True):
        if each is None or math.isnan(p):
            found.append(None)
            continue
        by = interval(each)
        certain = p < alpha and not by.contains(0.0)
        found.append(_Move(by, p, certain and abs(by.estimate) > bound))
    return found


@dataclass(frozen=True)
class Settling:
    """Whether the trials of a stage through one VIP had settled when they began to count.

    :param drift: by which share the first half of their time is over the second.
    """

    stage: str
    vip: str
    drift: Interval | None
    passed: bool | None  # None: could not be examined


def settlings(
    family: Sequence[tuple[str, str, Sequence[float]]], *, margin: float, alpha: float = 0.05
) -> list[Settling]:
    """The gate of the warm-up: the first half of the trials' time against the second.

    It fails as :func:`self_comparisons` do: when the drift is certain (Student's t over blocks,
    Holm over ``family``) and more than the margin.

    :param family: stage, VIP, and the drift of each of its blocks (NaN: not known).
    """
    known = [
        np.array([drift for drift in drifts if math.isfinite(drift)]) for _, _, drifts in family
    ]
    return [
        Settling(stage, vip, moved and moved.by, None if moved is None else not moved.beyond)
        for (stage, vip, _), moved in zip(family, _moves(known, margin, alpha), strict=True)
    ]


def _half_logs(pairs: Sequence[tuple[float, float]]) -> np.ndarray | None:
    """Signed log ratios of the halves; None when one of them has none."""
    values = np.asarray(pairs, dtype=float).reshape(-1, 2)
    if not values.size or not (np.isfinite(values) & (values > 0)).all():
        return None
    logs = np.log(values[:, 1] / values[:, 0])
    # Pairs of blocks: + - - + …, so that neither drift nor a pattern of period two remains.
    signs = np.array([1.0 if (i // 2 + i) % 2 == 0 else -1.0 for i in range(len(logs))])
    return logs * signs


@dataclass(frozen=True)
class Claim:
    """A published claim about a metric: the candidate's ratio is at least / at most this."""

    text: str
    source: str
    metric: str
    ratio: float
    better: str


def judge(claim: Claim, finding: Finding | None) -> tuple[str, str]:
    """(supported | contradicted | could not tell, why).

    Supported: the whole interval is at or beyond the claimed ratio. Contradicted: the whole
    interval falls short of it.
    """
    if finding is None or finding.ratio is None:
        return UNCLEAR, f"{claim.metric} was not measured"
    if finding.reasons:
        return UNCLEAR, "; ".join(finding.reasons)
    ratio = finding.ratio
    shown = f"{ratio.estimate:.3f} (95 % {ratio.low:.3f} to {ratio.high:.3f})"
    if claim.better == "higher":
        supported, contradicted = ratio.low >= claim.ratio, ratio.high < claim.ratio
    else:
        supported, contradicted = ratio.high <= claim.ratio, ratio.low > claim.ratio
    word = SUPPORTED if supported else CONTRADICTED if contradicted else UNCLEAR
    wanted = "at least" if claim.better == "higher" else "at most"
    return word, f"claimed {wanted} {claim.ratio:.2f}, measured {shown}"
