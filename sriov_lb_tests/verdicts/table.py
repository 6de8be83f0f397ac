# SPDX-License-Identifier: Apache-2.0
"""The table a run ends with: requirement -> verdict -> evidence.

It exists because a run of one pass and a hundred skips exits with status 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sriov_lb_tests.verdicts.model import Result, Verdict

STYLE = {
    Verdict.PASS: "green",
    Verdict.SKIPPED: "dim",
    Verdict.NOT_SUPPORTED: "cyan",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.ERROR: "bold yellow",
    Verdict.NOT_ENFORCED: "bold red",
    Verdict.KNOWN_DEFECT: "bold magenta",
    Verdict.FAIL: "bold red",
}


@dataclass(frozen=True)
class Row:
    """A requirement over all its tests: its verdict is the worst of those that were tried."""

    requirement: str
    sentence: str
    verdict: Verdict
    results: tuple[Result, ...]

    @property
    def reason(self) -> str:
        """The reason of the worst result."""
        return next((r.reason for r in self.results if r.verdict is self.verdict), "")

    @property
    def evidence(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(path for r in self.results for path in r.evidence))


def rows(results: Iterable[Result]) -> list[Row]:
    """Results merged by requirement, in the order of their ids.

    A test that was run again counts once, with what came out last.
    """
    latest: dict[tuple[str, str], Result] = {}
    for result in results:
        latest.pop((result.requirement, result.test), None)
        latest[result.requirement, result.test] = result
    grouped: dict[str, list[Result]] = {}
    for result in latest.values():
        grouped.setdefault(result.requirement, []).append(result)
    merged = []
    for requirement, group in sorted(grouped.items()):
        # A test that was skipped takes nothing away from what another one saw.
        tried = [result for result in group if result.verdict is not Verdict.SKIPPED] or group
        worst = max(tried, key=lambda result: result.verdict.rank)
        merged.append(Row(requirement, worst.sentence, worst.verdict, tuple(group)))
    return merged


def counts(table: Iterable[Row]) -> dict[Verdict, int]:
    """How many requirements have each verdict, worst first, zeros left out."""
    found = {verdict: 0 for verdict in reversed(Verdict)}
    for row in table:
        found[row.verdict] += 1
    return {verdict: number for verdict, number in found.items() if number}


def summary(table: Iterable[Row]) -> str:
    """The table in a sentence."""
    numbers = counts(table)
    total = sum(numbers.values())
    if not total:
        return "Nothing was tested."
    parts = ", ".join(f"{number} {verdict.value}" for verdict, number in numbers.items())
    noun = "requirement" if total == 1 else "requirements"
    return f"{total} {noun}: {parts}."


BROKEN = (Verdict.FAIL, Verdict.KNOWN_DEFECT, Verdict.NOT_ENFORCED)


def broken_promises(table: Iterable[Row], means: Mapping[str, str], release: str = "") -> list[str]:
    """Which promises do not hold, in words, one paragraph for each cause; [] if all hold.

    :param means: what each known defect means for a user, by its id.
    :param release: of Octavia, where it is known.
    """
    causes: dict[str, list[Row]] = {}
    for row in table:
        if row.verdict in BROKEN:
            worst = [r.defect for r in row.results if r.verdict is row.verdict and r.defect]
            named = sorted({one for defects in worst for one in defects.split(", ")})
            causes.setdefault(", ".join(named), []).append(row)
    where = f"Octavia {release}" if release else "This Octavia"
    said = []
    for cause, rows_of_it in sorted(causes.items()):
        promises = "\n".join(f"  - {row.requirement}: {row.sentence}" for row in rows_of_it)
        if cause:
            text = " ".join(means.get(one, "") for one in cause.split(", ")).strip()
            said.append(f"{where} does not keep, because of {cause}:\n{promises}\n  {text}")
        else:
            said.append(f"{where} does not keep, and no known defect explains it:\n{promises}")
    return said


def render(table: list[Row], console: Console) -> None:
    """Print the table."""
    grid = Table(box=None, pad_edge=False, show_edge=False, padding=(0, 2, 0, 0))
    grid.add_column("Requirement", no_wrap=True)
    grid.add_column("Verdict", no_wrap=True)
    grid.add_column("Promise", ratio=3)
    grid.add_column("Evidence", ratio=2, overflow="fold")
    for row in table:
        promise = Text(row.sentence)
        if row.verdict is not Verdict.PASS and row.reason:
            promise.append(f"\n{_short(row.reason)}", style="italic")
        evidence = list(row.evidence[:3])
        if len(row.evidence) > 3:
            evidence.append(f"and {len(row.evidence) - 3} more")
        grid.add_row(
            row.requirement,
            Text(row.verdict.value, style=STYLE[row.verdict]),
            promise,
            "\n".join(evidence),
        )
    console.print(grid)
    console.print(summary(table), style="bold")


def _short(text: str, limit: int = 400) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"
