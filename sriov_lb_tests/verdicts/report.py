# SPDX-License-Identifier: Apache-2.0
"""A run as one self-contained page and as JSON, written beside the evidence."""

from __future__ import annotations

import json
import os
import time
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from sriov_lb_tests.verdicts import record, table
from sriov_lb_tests.verdicts.model import Verdict

PAGE = "report.html"
DATA = "report.json"

#: Text files up to this many bytes are shown in the page itself.
SHOWN = 64 * 1024
SHOWN_SUFFIXES = {".txt", ".json", ".nft", ".log", ".yaml"}


def write(folder: Path) -> Path:
    """Write both for the run in ``folder``; returns the path of the page.

    :raises ResourceMissing: the folder is not a run's.
    """
    facts, results = record.read(folder)
    rows = table.rows(results)
    data = {
        "summary": table.summary(rows),
        "facts": facts,
        "requirements": [
            {
                "requirement": row.requirement,
                "sentence": row.sentence,
                "verdict": row.verdict.value,
                "reason": row.reason,
                "evidence": list(row.evidence),
                "tests": [result.to_json() for result in row.results],
            }
            for row in rows
        ],
    }
    _replace(folder / DATA, json.dumps(data, indent=1, default=str) + "\n")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(
        (resources.files("sriov_lb_tests.verdicts") / "report.html.j2").read_text()
    )
    page = folder / PAGE
    _replace(
        page,
        template.render(
            summary=data["summary"],
            facts=facts,
            rows=rows,
            counts=table.counts(rows),
            verdicts=list(reversed(Verdict)),
            contents=_contents(folder, rows),
            written=time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        ),
    )
    return page


def _contents(folder: Path, rows: list[table.Row]) -> dict[str, str]:
    """The text of evidence that is text, by path: a reader need not open each file."""
    found: dict[str, str] = {}
    for row in rows:
        for name in row.evidence:
            path = folder / name
            if path.suffix in SHOWN_SUFFIXES and path.is_file():
                data = path.read_bytes()
                text = data[:SHOWN].decode(errors="replace")
                found[name] = text if len(data) <= SHOWN else text + "\n… (cut)"
    return found


def _replace(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old one or the new one, never half of one."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(text)
    scratch.replace(path)


def load(path: Path) -> dict[str, Any]:
    """The data of a page that was written."""
    return json.loads((path / DATA).read_text())
