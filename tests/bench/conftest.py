# SPDX-License-Identifier: Apache-2.0
"""What `make bench` measures against other tools, printed as tables and published in the docs.

A module asserts the goals it was written for, after it has published: a missed goal is red and
still in the table.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "doc" / "source" / "bench"


class Lab:
    """A lab of its own, through its command line; whoever runs another beside it keeps that."""

    COMMAND = (str(Path(sys.executable).with_name("sriov-lb-lab")), "--name", "bench")

    def command(self, *arguments: str) -> str:
        """What ``sriov-lb-lab ARGUMENTS`` printed."""
        return subprocess.run(
            [*self.COMMAND, *arguments], check=True, text=True, stdout=subprocess.PIPE
        ).stdout

    @property
    def facts(self) -> dict[str, str]:
        """lab.json."""
        return json.loads(self.command("status", "--json"))["facts"]

    @property
    def network(self) -> str:
        """The file of its network namespace."""
        return f"/proc/{json.loads(self.command('status', '--json'))['pid']}/ns/net"

    def exec(self, argv: Sequence[str]) -> subprocess.Popen:
        """A command in the lab's network, its standard input and output as pipes of text."""
        return subprocess.Popen(
            [*self.COMMAND, "exec", "--cloud", "lab-admin", "--", *argv],
            text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip


@pytest.fixture(scope="session")
def lab():
    """A lab, from the first test that asks for it: those that need a quiet machine come before."""
    lab = Lab()
    lab.command("up", "--tempest-extra", str(ROOT / "etc" / "lab.tempest.conf"))
    yield lab
    lab.command("down")


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
