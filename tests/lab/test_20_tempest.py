# SPDX-License-Identifier: Apache-2.0
"""The main job, in the lab: the smoke tests of `tempest run --regex sriov_lb`, default Octavia."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

# What `make demo` runs too: everything would take up to an hour.
SMOKE = r"sriov_lb.*[\[,]smoke"
EXPECTED = Path(__file__).parent / "verdicts" / "16.0.0.yaml"


def verdict_table(run):
    """{requirement: {verdicts}} of a run, from its record."""
    table = {}
    for line in (run / "verdicts.jsonl").read_text().splitlines():
        result = json.loads(line)
        if "requirement" in result:
            table.setdefault(result["requirement"], set()).add(result["verdict"])
    return table


def test_every_promise_of_the_default_octavia(lab, workspace, inventory, wait, tmp_path):
    """Passes; the verdicts are those on file; nothing is left; evidence is there."""
    before = inventory()
    folder = workspace({"run_id": "check"})
    done = lab.exec(
        ["tempest", "run", "--regex", SMOKE, "--concurrency", "1"], cwd=folder, timeout=1500
    )
    print(done.stdout[-6000:])
    table = verdict_table(tmp_path / "artifacts" / "check")
    expected = {key: set(value) for key, value in yaml.safe_load(EXPECTED.read_text()).items()}
    assert table == expected, "the verdicts differ from those on file; a person must look"
    assert done.returncode == 0
    wait(inventory, before, 60, 2)
    assert list((tmp_path / "artifacts").glob("check/**/*.pcap")), "no capture was kept"
    shown = lab.exec(["sriov-lb", "verdicts", str(tmp_path / "artifacts" / "check")])
    assert shown.returncode == 0, shown.stderr
    for requirement in table:
        assert requirement in shown.stdout
