# SPDX-License-Identifier: Apache-2.0
"""From the samples of a run to its findings, gates, claims and its sentence."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ..histogram import merge
from ..model import CANDIDATE, REFERENCE, SETTLING, SIDES, Metric, Sample, in_a_sentence
from ..profiles import Profile
from ..statistics import verdict as words
from ..statistics.estimates import MIN_BLOCKS, Interval
from ..statistics.verdict import Blocks, Claim, Finding, SelfComparison, Settling
from ..targets import Pair
from ..trials.blocks import blocks_of, complete_blocks, is_void, rounds_of
from ..trials.run import StageRun

NOT_TESTED = "not tested"


@dataclass(frozen=True)
class Gate:
    """Something that must hold for a run to count; ``passed`` None: could not be examined.

    :param stage: whose metrics support no claim when it fails; empty: no stage's alone.
    """

    name: str
    passed: bool | None
    text: str
    stage: str = ""


@dataclass
class MetricResult:
    """Everything about one metric of one stage."""

    identifier: str
    stage: str
    metric: Metric
    finding: Finding
    blocks: Blocks
    overall: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass
class Analysis:
    """What a run came to."""

    metrics: list[MetricResult]
    self_comparisons: list[SelfComparison]
    gates: list[Gate]
    claims: list[tuple[Claim, str, str]]
    sentence: str
    word: str

    def metric(self, identifier: str) -> MetricResult | None:
        return next((m for m in self.metrics if m.identifier == identifier), None)

    @property
    def sound(self) -> bool:
        """Whether the run may be used for trends."""
        return all(gate.passed is not False for gate in self.gates)


def analyse(
    runs: Sequence[StageRun],
    profile: Profile,
    pair: Pair,
    *,
    seed: int,
    complete: bool,
    twins: tuple[bool | None, str] | None = None,
    steal: tuple[bool | None, str] | None = None,
) -> Analysis:
    """Findings for everything measured so far.

    :param twins: whether the amphorae are equal in what must be equal, and in words.
    :param steal: whether their hypervisors let the amphorae run, and in words.
    """
    entries = [
        (run, metric, blocks_of(f"{run.stage.name}.{metric.name}", metric, run.samples))
        for run in runs
        for metric in run.metrics
        if _measured(run, metric)
    ]
    tested = [(run, metric, blocks) for run, metric, blocks in entries if metric.claim]
    selves = words.self_comparisons(
        [blocks for _, _, blocks in tested],
        pair.names,
        margin=profile.margin,
        alpha=profile.alpha,
    )
    settling = words.settlings(
        [
            (run.stage.name, vip, drifts)
            for run, metric, blocks in entries
            if metric.name == SETTLING
            for vip, drifts in zip(pair.names, (blocks.reference, blocks.candidate), strict=True)
        ],
        margin=profile.margin,
        alpha=profile.alpha,
    )
    gates = [
        *_trial_gates(runs, profile),
        *map(_settling_gate, settling),
        *_self_gates(selves),
        *_member_gate(runs, pair),
    ]
    gates += [
        Gate(name, *found) for name, found in (("twins", twins), ("steal", steal)) if found
    ]
    void = _void(tested, gates, selves)
    found = words.compare(
        [blocks for _, _, blocks in tested],
        margin=profile.margin,
        alpha=profile.alpha,
        void=void,
        seed=seed,
    )
    by_name = {finding.metric: finding for finding in found}
    metrics = []
    for run, metric, blocks in entries:
        finding = by_name.get(blocks.metric)
        if finding is None:
            finding = words.compare([blocks], margin=profile.margin, seed=seed)[0]
            finding.verdict = NOT_TESTED
            finding.p = finding.p_adjusted = math.nan
            finding.p_equivalence = finding.p_equivalence_adjusted = math.nan
            finding.reasons = [metric.note] if metric.note else []
        metrics.append(
            MetricResult(
                blocks.metric, run.stage.name, metric, finding, blocks, _overall(run, metric)
            )
        )
    claims = _claims(profile, metrics)
    word, sentence = _sentence(metrics, gates, pair, profile, complete)
    return Analysis(metrics, selves, gates, claims, sentence, word)


def _measured(run: StageRun, metric: Metric) -> bool:
    """Whether the engine delivered this metric at all (TLS times only exist with TLS)."""
    if metric.histogram is not None:
        return any(
            metric.histogram in s.histograms and len(s.histograms[metric.histogram])
            for s in run.samples
        ) and all(metric.histogram in s.histograms for s in run.samples)
    values = [sample.values.get(metric.name, math.nan) for sample in run.samples]
    return bool(values) and not all(map(math.isnan, values))


def _overall(run: StageRun, metric: Metric) -> dict[str, dict[str, float]]:
    """Per side: the value over all valid trials, and the spread of single trials."""
    found = {}
    for side in SIDES:
        good = [s for s in run.samples if s.trial.side == side and not s.void]
        if not good:
            found[side] = {"value": math.nan, "low": math.nan, "high": math.nan, "trials": 0}
            continue
        if metric.histogram is not None:
            singles = [s.histograms[metric.histogram].percentile(metric.percentile) for s in good]
            value = merge(s.histograms[metric.histogram] for s in good).percentile(
                metric.percentile
            )
        else:
            singles = [s.values[metric.name] for s in good]
            value = statistics.median(singles)
        found[side] = {
            "value": value,
            "low": min(singles),
            "high": max(singles),
            "trials": len(good),
        }
    return found


def _trial_gates(runs: Sequence[StageRun], profile: Profile) -> list[Gate]:
    gates = []
    for run in runs:
        if run.skipped or not run.samples:
            continue
        blocks = complete_blocks(run.samples)
        bad = sum(is_void(sides) for sides in blocks.values())
        reasons = sorted({reason for sample in run.samples for reason in sample.void})
        passed = bool(blocks) and bad <= profile.void_share * len(blocks)
        text = f"{len(blocks) - bad} of {len(blocks)} blocks are valid"
        failing = {
            side: sum(
                any(s.broke for s in each[side])
                for sides in blocks.values()
                for each in rounds_of(sides)
            )
            for side in SIDES
        }
        # Rounds in which one VIP failed are left out, and it would be judged by those in which it
        # did not.
        alone = [side for side in SIDES if failing[side] >= 2 and not min(failing.values())]
        if alone:
            passed = False
            count = failing[alone[0]]
            text += f"; in {count} rounds requests failed, through VIP {alone[0]} alone"
        if reasons:
            text += "; " + "; ".join(reasons[:3])
            if len(reasons) > 3:
                text += f"; and {len(reasons) - 3} more"
        gates.append(Gate(f"{run.stage.name}: trials", passed, text, run.stage.name))
    return gates


def _settling_gate(each: Settling) -> Gate:
    if each.drift is None:
        text = f"not examined: fewer than {MIN_BLOCKS} blocks"
    else:
        estimate, low, high = (
            f"{100 * share:+.1f} %"
            for share in (each.drift.estimate, each.drift.low, each.drift.high)
        )
        text = f"first half of the trials' time against the second {estimate} ({low} to {high})"
        if not each.passed:
            text += ": its warm-up is too short, or it never settles"
    return Gate(f"{each.stage}: {each.vip} VIP settled", each.passed, text, each.stage)


def _self_gates(selves: Sequence[SelfComparison]) -> list[Gate]:
    gates = []
    for each in selves:
        if each.passed is None:
            text = f"not examined: {each.reason}"
        else:
            ratio = each.ratio
            text = (
                f"against itself {ratio.estimate:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"
                + ("" if each.passed else ": something else than the port moves this figure")
            )
        gates.append(Gate(f"{each.metric}: {each.vip} VIP against itself", each.passed, text))
    return gates


def _member_gate(runs: Sequence[StageRun], pair: Pair) -> list[Gate]:
    """Twins have the same members: the bodies that came through one came through the other."""
    seen: dict[str, set[str]] = {REFERENCE: set(), CANDIDATE: set()}
    for run in runs:
        for sample in run.samples:
            seen[sample.trial.side] |= {name for name, count in sample.members.items() if count}
    if not all(seen.values()):
        return []
    reference, candidate = seen[REFERENCE], seen[CANDIDATE]
    passed = reference == candidate
    text = f"the same {len(reference)} kinds of response came through both VIPs"
    if not passed:
        only = [
            f"{len(part)} only through the {name} VIP (such as {min(part)!r})"
            for part, name in (
                (reference - candidate, pair.reference.role),
                (candidate - reference, pair.candidate.role),
            )
            if part
        ]
        text = "the VIPs do not serve the same: " + "; ".join(only)
    return [Gate("members", passed, text)]


def _void(tested, gates: Sequence[Gate], selves) -> dict[str, str]:
    """metric -> why nothing may be claimed of it."""
    void = {}
    failed = [gate for gate in gates if gate.passed is False]
    for run, _, blocks in tested:
        for gate in failed:
            if gate.stage == run.stage.name:
                void.setdefault(blocks.metric, gate.text)
    for each in selves:
        if each.passed is False:
            void.setdefault(
                each.metric,
                f"the {each.vip} VIP differs from itself "
                f"({each.ratio.low:.3f} to {each.ratio.high:.3f})",
            )
    # Where the VIPs or their twins differ otherwise, it is not the port alone.
    for gate in failed:
        if gate.name in ("members", "twins"):
            for _, _, blocks in tested:
                void.setdefault(blocks.metric, gate.text)
    return void


def _claims(profile: Profile, metrics: Sequence[MetricResult]):
    found = []
    by_name: Mapping[str, MetricResult] = {m.identifier: m for m in metrics}
    for spec in profile.claims:
        chosen = next((name for name in spec.metrics if name in by_name), spec.metrics[0])
        claim = Claim(spec.text, spec.source, chosen, spec.ratio, spec.better)
        result = by_name.get(chosen)
        word, why = words.judge(claim, result.finding if result else None)
        found.append((claim, word, why))
    return found


def change_in_words(ratio: Interval, noun: str) -> str:
    """Such as "86 % more requests per second (75 to 98 %)"."""
    if ratio.estimate >= 3:
        low, high = f"{ratio.low:.1f}", f"{ratio.high:.1f}"
        return f"{ratio.estimate:.1f} times the {noun} ({low} to {high})"
    more = ratio.estimate >= 1
    ends = sorted((end - 1) * (100 if more else -100) for end in (ratio.low, ratio.high))
    percent = abs(ratio.estimate - 1) * 100
    digits = 0 if percent >= 10 else 1
    low, high = (f"{end:.{digits}f}" for end in ends)
    return f"{percent:.{digits}f} % {'more' if more else 'less'} {noun} ({low} to {high} %)"


def _nouns(metrics: Sequence[MetricResult], titles: Mapping[str, str]) -> dict[str, str]:
    """metric -> how a sentence calls it; where several stages have one of that name, with the
    stage's title."""
    found = {}
    for result in metrics:
        title = result.metric.title
        # "Latency, median" is for tables.
        name, _, which = in_a_sentence(title).partition(", ")
        if which == "median" or which.endswith("percentile"):
            name = f"{which} {name}"
        elif which:
            name = f"{name} ({which})"
        found[result.identifier] = name
    again = {name for name in found.values() if list(found.values()).count(name) > 1}
    for result in metrics:
        if found[result.identifier] in again:
            found[result.identifier] += f" [{titles.get(result.stage, result.stage)}]"
    return found


#: So many metrics are named where nothing moved or nothing can be told; the table has them all.
NAMED = 3


def _listed(nouns: Sequence[str]) -> str:
    more = len(nouns) - NAMED
    return ", ".join(nouns[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _first_of_each(
    results: Sequence[MetricResult], kind: Callable[[MetricResult], str]
) -> list[MetricResult]:
    found: dict[str, MetricResult] = {}
    for result in results:
        found.setdefault(kind(result), result)
    return list(found.values())


def _sentence(metrics, gates, pair: Pair, profile: Profile, complete: bool) -> tuple[str, str]:
    """(one word for machines, one sentence for people)"""
    nouns = _nouns(
        [m for m in metrics if m.metric.claim], {s.name: s.title for s in profile.stages}
    )
    name = f"The {_called(pair.candidate.role)} VIP"
    tested = [m for m in metrics if m.metric.claim]
    groups = {
        word: [m for m in tested if m.finding.verdict == word]
        for word in (words.FASTER, words.SLOWER, words.EQUIVALENT, words.UNCLEAR)
    }
    faster, slower = groups[words.FASTER], groups[words.SLOWER]
    # One figure a stage: the others are in the table. What is better in several stages is told of
    # the first of them; what is worse, of each.
    better, worse = (_first_of_each(group, lambda m: m.stage) for group in (faster, slower))
    told = _first_of_each(better, lambda m: m.metric.title)
    parts = [change_in_words(m.finding.ratio, nouns[m.identifier]) for m in told]
    if more := len(better) - len(told):
        parts.append(f"likewise in {more} more {'stage' if more == 1 else 'stages'}")
    parts += [change_in_words(m.finding.ratio, nouns[m.identifier]) for m in worse]
    equal = f"equivalent within {profile.margin:.0%}"
    if faster and not slower:
        word, start = words.FASTER, f"{name} is faster: "
    elif slower and not faster:
        word, start = words.SLOWER, f"{name} is slower: "
    elif faster and slower:
        word, start = "mixed", f"{name} is faster in some ways and slower in others: "
    elif groups[words.EQUIVALENT] and not groups[words.UNCLEAR]:
        word, start = words.EQUIVALENT, f"{name} and the {_called(pair.reference.role)} VIP are "
        parts = [equal]
    else:
        word = words.UNCLEAR
        start = f"Whether the {_called(pair.candidate.role)} VIP is faster, this run could not tell"
    text = start + ", ".join(parts)
    if groups[words.EQUIVALENT] and word != words.EQUIVALENT:
        text += f"; {equal}: " + _listed(
            [nouns[m.identifier] for m in groups[words.EQUIVALENT]]
        )
    if groups[words.UNCLEAR] and word != words.UNCLEAR:
        text += "; could not tell: " + _listed(
            [nouns[m.identifier] for m in groups[words.UNCLEAR]]
        )
    text += "."
    failed = [gate for gate in gates if gate.passed is False]
    if failed:
        plural = "gate" if len(failed) == 1 else "gates"
        text += f" {len(failed)} {plural} failed, so this run is not used for trends."
    if not complete:
        text = "Incomplete run, and so only a hint. " + text
    return word, text


def _called(role: str) -> str:
    return {"sriov": "SR-IOV"}.get(role, role)


__all__ = ["Analysis", "Gate", "MIN_BLOCKS", "MetricResult", "Sample", "analyse"]
