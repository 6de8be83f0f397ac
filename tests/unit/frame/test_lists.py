# SPDX-License-Identifier: Apache-2.0
"""The lists in the documentation are whole: requirements, commands, options."""

import re
from pathlib import Path

import click
import pytest

from sriov_lb_lab import cli as lab
from sriov_lb_perf import cli as perf
from sriov_lb_tests import cli as plugin

ROOT = Path(__file__).parents[3]
REQUIREMENTS = (ROOT / "doc" / "source" / "requirements.rst").read_text()
PAGES = "\n".join(
    path.read_text()
    for path in [*(ROOT / "doc" / "source").rglob("*.rst"), ROOT / "lab" / "README.rst"]
)


def listed(text):
    """Ids in a text; ``A-001 to A-003`` are three."""
    found = set(re.findall(r"\b[A-Z]{3}-\d{3}\b", text))
    for kind, first, last in re.findall(r"\b([A-Z]{3})-(\d{3}) to \1-(\d{3})\b", text):
        found |= {f"{kind}-{number:03}" for number in range(int(first), int(last) + 1)}
    return found


def test_every_requirement_is_listed():
    assert listed("XYZ-001 to XYZ-003, ABC-009") == {"XYZ-001", "XYZ-002", "XYZ-003", "ABC-009"}
    wanted = set()
    for path in (ROOT / "sriov_lb_tests" / "tests").rglob("*.py"):
        wanted |= set(re.findall(r'@requirement\(\s*"([A-Z]{3}-\d{3})"', path.read_text()))
    assert len(wanted) > 60
    assert wanted - listed(REQUIREMENTS) == set()


def options(command, name):
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            yield name, parameter.opts[0]
    for key, below in getattr(command, "commands", {}).items():
        yield from options(below, f"{name} {key}")


@pytest.mark.parametrize(
    ("name", "main"),
    [("sriov-lb", plugin.main), ("sriov-lb-perf", perf.main), ("sriov-lb-lab", lab.main)],
)
def test_every_option_is_told_somewhere(name, main):
    found = list(options(main, name))
    assert found
    untold = [one for one in found if one[1] not in ("--version", "--help") and one[1] not in PAGES]
    assert untold == []
