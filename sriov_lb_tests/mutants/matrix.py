# SPDX-License-Identifier: Apache-2.0
"""The detection matrix: fault by test, and what it says of the tests. Pure."""

from __future__ import annotations

import csv
import enum
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sriov_lb_tests.mutants.fault import MEANING, Fault, Test

#: Sentences of one cell that are kept.
KEPT = 4


class Result(enum.Enum):
    """What became of one fault."""

    CAUGHT = "caught"
    MISSED = "missed"
    FALSE_ALARM = "false alarm"
    EQUIVALENT = "equivalent"
    TOLERATED = "tolerated"
    NOT_APPLICABLE = "not applicable"
    UNCLEAR = "unclear"


#: What each result means.
WORDS = {
    Result.CAUGHT: "every test that should have caught it did",
    Result.MISSED: "a test that should have caught it did not",
    Result.FALSE_ALARM: "it breaks no promise, and a test raised an alarm",
    Result.EQUIVALENT: "proved: no packet meets another fate, and no test raised an alarm",
    Result.TOLERATED: "proved: packets meet another fate, none that anybody was promised",
    Result.NOT_APPLICABLE: "this load balancer's rules have nothing for it",
    Result.UNCLEAR: "it could not be told",
}


@dataclass(frozen=True)
class Cell:
    """What one test said of one fault."""

    alarm: bool
    sentences: tuple[str, ...] = ()
    unclear: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One fault.

    :param wanted: the tests that had to catch it here: without those that send packets when no
        packet from this vantage can show it.
    :param detail: what was done to the rules.
    :param why: of a miss or an unclear result.
    """

    fault: Fault
    result: Result
    cells: Mapping[Test, Cell] = field(default_factory=dict)
    wanted: tuple[Test, ...] = ()
    detail: str = ""
    why: str = ""
    seconds: float = 0.0

    @property
    def sentence(self) -> str:
        """What the tests said is wrong: the first of the test that had to catch it."""
        for test in (*reversed(self.wanted), *self.cells):
            cell = self.cells.get(test)
            if cell and cell.sentences:
                return cell.sentences[0]
        return ""


@dataclass
class Matrix:
    """A whole run.

    :param clean: alarms of each repeat without any fault.
    :param facts: about the load balancer, the tools, the time.
    """

    rows: list[Row] = field(default_factory=list)
    clean: list[tuple[str, ...]] = field(default_factory=list)
    tests: tuple[Test, ...] = tuple(Test)
    facts: dict[str, Any] = field(default_factory=dict)

    def count(self, result: Result) -> int:
        return sum(row.result is result for row in self.rows)

    @property
    def status(self) -> int:
        """Exit status: 0 all caught, 1 some not (or a false alarm), 2 could not tell."""
        if any(self.clean) or self.count(Result.MISSED) or self.count(Result.FALSE_ALARM):
            return 1
        if self.count(Result.UNCLEAR) or not self.count(Result.CAUGHT):
            return 2
        return 0

    @property
    def sentence(self) -> str:
        wrong = self.count(Result.MISSED)
        caught = self.count(Result.CAUGHT)
        text = f"{caught} of {caught + wrong} faults caught"
        if wrong:
            missed = ", ".join(r.fault.id for r in self.rows if r.result is Result.MISSED)
            text += f" (missed: {missed})"
        for result in (Result.FALSE_ALARM, Result.UNCLEAR):
            if self.count(result):
                names = ", ".join(r.fault.id for r in self.rows if r.result is result)
                text += f"; {self.count(result)} {result.value} ({names})"
        harmless = self.count(Result.EQUIVALENT), self.count(Result.TOLERATED)
        text += f"; {harmless[0]} changes proved equivalent and {harmless[1]} tolerated"
        if self.count(Result.NOT_APPLICABLE):
            text += f"; {self.count(Result.NOT_APPLICABLE)} not applicable"
        alarms = sum(bool(one) for one in self.clean)
        text += f"; {alarms} alarms in {len(self.clean)} looks without a fault"
        return text + "."

    # files

    def to_json(self) -> dict[str, Any]:
        return {
            "facts": self.facts,
            "sentence": self.sentence,
            "tests": {test.value: MEANING[test] for test in self.tests},
            "clean": [list(one) for one in self.clean],
            "faults": [
                {
                    "id": row.fault.id,
                    "breaks": row.fault.breaks,
                    "result": row.result.value,
                    "done": row.detail,
                    "why": row.why,
                    "had to be caught by": [test.value for test in row.wanted],
                    "seconds": round(row.seconds, 2),
                    "tests": {
                        test.value: {
                            "alarm": cell.alarm,
                            "sentences": list(cell.sentences),
                            "unclear": list(cell.unclear),
                        }
                        for test, cell in row.cells.items()
                    },
                }
                for row in self.rows
            ],
        }

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows, one mark for each test (see :data:`MARKS`)."""
        header = ["Fault", "What it breaks", "Result", *(test.value for test in self.tests)]
        rows = [
            [row.fault.id, row.fault.breaks, row.result.value]
            + [mark(row, test) for test in self.tests]
            for row in self.rows
        ]
        return header, rows

    def write(self, folder: Path) -> dict[str, Path]:
        """matrix.json, matrix.csv and matrix.html in a folder."""
        from importlib import resources

        import jinja2

        folder.mkdir(parents=True, exist_ok=True)
        paths = {kind: folder / f"matrix.{kind}" for kind in ("json", "csv", "html")}
        paths["json"].write_text(json.dumps(self.to_json(), indent=1) + "\n")
        header, rows = self.table()
        with paths["csv"].open("w", newline="") as out:
            csv.writer(out).writerows([header, *rows])
        source = resources.files("sriov_lb_tests.mutants").joinpath("matrix.html.j2").read_text()
        page = jinja2.Environment(autoescape=True, trim_blocks=True).from_string(source)
        paths["html"].write_text(
            page.render(matrix=self, marks=MARKS, mark=mark, meaning=MEANING, words=WORDS)
        )
        return paths


#: What a cell of the table says.
MARKS = {
    "X": "alarm by a test that had to catch it",
    "x": "alarm by another test as well",
    "-": "missed: it had to catch it",
    "?": "could not tell",
    "": "silent, as it may be",
}


def mark(row: Row, test: Test) -> str:
    """One cell of the table."""
    cell = row.cells.get(test)
    if cell is None:
        return ""
    if cell.alarm:
        return "X" if test in row.wanted else "x"
    if test in row.wanted:
        return "?" if cell.unclear else "-"
    return ""


#: Tests of what is no packet that stands for itself: it belongs to a flow, or is no request.
ALONE = frozenset(
    {Test.REQUESTS, Test.FLOWS, Test.NEIGHBOURS, Test.CATALOGUE, Test.FORWARDING}
)


def judge(
    fault: Fault,
    cells: Mapping[Test, Cell],
    *,
    detail: str,
    differs: bool,
    broken: bool,
    seen: bool,
    sendable: bool,
    applicable: Iterable[Test],
    seconds: float = 0.0,
) -> Row:
    """What became of a fault that was seeded.

    :param differs: a packet exists whose fate is another (or a setting or file is another).
    :param broken: the proof finds a promise broken, or the fault is none of rules.
    :param seen: packets come to this amphora, and the fault is one they can show.
    :param sendable: by the proof, a packet that this vantage can send alone shows it.
    :param applicable: tests that ran.
    """
    alarms = [test for test, cell in cells.items() if cell.alarm]
    common = {"cells": dict(cells), "detail": detail, "seconds": seconds}
    if not broken:
        if alarms:
            names = ", ".join(test.value for test in alarms)
            why = f"no promise is broken, but {names} raised an alarm"
            return Row(fault, Result.FALSE_ALARM, why=why, **common)
        result = Result.TOLERATED if differs else Result.EQUIVALENT
        return Row(fault, result, **common)
    here = set(applicable)
    wanted = tuple(
        test
        for test in (fault.tests or (Test.PROOF,))
        if test in here and (test.static or (seen and (sendable or test in ALONE)))
    )
    if seen and sendable and Test.WITNESSES in here:
        wanted += (Test.WITNESSES,)
    missed = [test for test in wanted if not cells[test].alarm]
    if missed:
        unclear = [test for test in missed if cells[test].unclear]
        names = ", ".join(test.value for test in missed)
        if len(unclear) == len(missed):
            why = f"{names} could not tell: {cells[missed[0]].unclear[0]}"
            return Row(fault, Result.UNCLEAR, wanted=wanted, why=why, **common)
        return Row(fault, Result.MISSED, wanted=wanted, why=f"not caught by {names}", **common)
    return Row(fault, Result.CAUGHT, wanted=wanted, **common)
