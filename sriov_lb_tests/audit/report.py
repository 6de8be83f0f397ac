# SPDX-License-Identifier: Apache-2.0
"""An audit for people (table), for programs (JSON) and for CI (JUnit). Pure."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any
from xml.etree import ElementTree

from sriov_lb_tests.audit.checks import Audit, State

#: Version of the JSON document.
FORMAT = 1


def schema() -> dict[str, Any]:
    """The JSON Schema of :func:`to_json`."""
    return json.loads(resources.files(__package__).joinpath("audit.schema.json").read_text())


def to_json(audit: Audit) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "started": audit.started,
        "load_balancer": audit.load_balancer,
        "state": audit.state.value,
        "exit_status": audit.status,
        "sentence": audit.sentence,
        "notes": list(audit.notes),
        "checks": [
            {
                "name": check.name,
                "state": check.state.value,
                "sentence": check.sentence,
                "packets": check.packets,
                "seconds": round(check.seconds, 3),
                "witnesses": [one.to_json() for one in check.witnesses],
                "unclear": list(check.unclear),
                "one_sided": list(check.one_sided),
            }
            for check in audit.checks
        ],
    }


def junit(audit: Audit) -> str:
    """One test case for each check: a disagreement fails, what could not be told is an error; that
    is all of it, when something changed meanwhile."""
    name = audit.load_balancer["name"] or audit.load_balancer["id"]
    counts = [State.UNCLEAR if audit.changed else check.state for check in audit.checks]
    suite = ElementTree.Element(
        "testsuite",
        name=f"sriov-lb audit of {name}",
        tests=str(len(counts)),
        failures=str(counts.count(State.DISAGREEMENT)),
        errors=str(counts.count(State.UNCLEAR)),
        skipped="0",
        time=f"{sum(check.seconds for check in audit.checks):.3f}",
        timestamp=audit.started[:19],
    )
    for check, state in zip(audit.checks, counts, strict=True):
        case = ElementTree.SubElement(
            suite, "testcase", classname="sriov_lb_tests.audit", name=check.name,
            time=f"{check.seconds:.3f}",
        )  # fmt: skip
        seen = [one.explanation for one in check.witnesses]
        if state is State.DISAGREEMENT:
            kind, lines = "failure", seen
        elif state is State.UNCLEAR:
            kind, lines = "error", [*seen, *check.unclear]
        else:
            if check.one_sided:
                ElementTree.SubElement(case, "system-out").text = "\n".join(check.one_sided)
            continue
        said = ElementTree.SubElement(case, kind, message=audit.changed or check.sentence)
        said.text = "\n".join(lines)
    ElementTree.indent(suite)
    text = ElementTree.tostring(suite, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'


def render(audit: Audit, console: Any) -> None:
    """The table, then every witness on its own line."""
    from rich.table import Table
    from rich.text import Text

    about = audit.load_balancer
    shown = Table(title=f"Load balancer {about['name']} ({about['id']})", title_justify="left")
    shown.add_column("Compared", ratio=2)
    shown.add_column("Result", no_wrap=True)
    shown.add_column("Why", ratio=5)
    styles = {State.CLEAN: "green", State.DISAGREEMENT: "bold red", State.UNCLEAR: "yellow"}
    for check in audit.checks:
        shown.add_row(
            Text(check.name), Text(check.state.value, style=styles[check.state]),
            Text(check.sentence),
        )  # fmt: skip
    console.print(shown)
    for check in audit.checks:
        for one in check.witnesses:
            kind = "too open" if one.too_open else "too closed"
            pcap = f" Evidence: {one.pcap}" if one.pcap else ""
            console.print(Text(f"{kind}: {one.explanation}{pcap}"), soft_wrap=True)
        for text in check.unclear:
            console.print(Text(f"could not tell: {text}"), soft_wrap=True)
        for text in check.one_sided if check.state is State.CLEAN else ():
            console.print(Text(f"told by the rulesets alone: {text}"), soft_wrap=True)
    for text in audit.notes:
        console.print(Text(f"note: {text}"), soft_wrap=True)
    console.print(Text(audit.sentence, style="bold"), soft_wrap=True)
