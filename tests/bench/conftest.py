# SPDX-License-Identifier: Apache-2.0
"""What `make bench` measures against other tools, printed as tables and published in the docs.

A module asserts the goals it was written for, after it has published: a missed goal is red and
still in the table.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

DOCS = Path(__file__).parents[2] / "doc" / "source" / "bench"


@pytest.fixture(scope="session")
def publish():
    """``publish(name, title, header, rows)``: print a table, write ``doc/source/bench/NAME.csv``.

    Cells are text as a person reads it, unit included.
    """

    def table(name: str, title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        rows = [tuple(map(str, row)) for row in rows]
        shown = Table(title=title)
        for column in header:
            shown.add_column(column)
        for row in rows:
            shown.add_row(*row)
        Console(width=140).print(shown)
        DOCS.mkdir(exist_ok=True)
        with (DOCS / f"{name}.csv").open("w", newline="") as out:
            csv.writer(out).writerows([tuple(header), *rows])

    return table
