# SPDX-License-Identifier: Apache-2.0
"""What etc/ holds for the night: each file is what its reader takes it for, and fits the tool."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from sriov_lb_perf import cli
from sriov_lb_perf.results import export

ETC = Path(__file__).parents[3] / "etc"
UNITS = ETC / "systemd"

#: The part of Zuul's grammar that is used: every key here is one Zuul documents.
ZUUL = {
    "type": "array",
    "items": {
        "oneOf": [
            {
                "type": "object",
                "additionalProperties": False,
                "required": ["job"],
                "properties": {
                    "job": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["name", "run"],
                        "properties": {
                            "name": {"type": "string"},
                            "description": {"type": "string"},
                            "run": {"type": "string"},
                            "post-run": {"type": "string"},
                            "timeout": {"type": "integer"},
                            "semaphores": {
                                "type": "array",
                                "items": {"type": "object", "required": ["name"]},
                            },
                            "vars": {"type": "object"},
                            "required-projects": {"type": "array"},
                        },
                    }
                },
            },
            {
                "type": "object",
                "additionalProperties": False,
                "required": ["semaphore"],
                "properties": {
                    "semaphore": {"type": "object", "required": ["name", "max"]},
                },
            },
            {
                "type": "object",
                "additionalProperties": False,
                "required": ["project"],
                "properties": {"project": {"type": "object", "required": ["periodic"]}},
            },
        ]
    },
}


def options_of(argv: list[str]) -> None:
    """``argv`` (nightly …) is a command line that the tool takes."""
    command = cli.main.commands[argv[0]]
    known = {name for option in command.params for name in option.opts}
    unknown = [word for word in argv[1:] if word.startswith("--") and word not in known]
    assert not unknown, unknown


def unit(name: str) -> dict[str, list[str]]:
    """Key -> values, continuation lines joined."""
    found: dict[str, list[str]] = {}
    text = (UNITS / name).read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if line and not line.startswith(("#", "[")):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def test_the_service_calls_the_tool_as_it_wants_to_be_called():
    service = unit("sriov-lb-perf-nightly.service")
    (start,) = service["ExecStart"]
    argv = shlex.split(start)
    assert argv[0].endswith("/sriov-lb-perf") and argv[1] == "nightly"
    options_of(argv[1:])
    # What it names is set, by the unit or by systemd.
    known = {value.split("=")[0] for value in service["Environment"]} | {"STATE_DIRECTORY"}
    assert set(re.findall(r"\$\{(\w+)\}", start)) <= known
    timer = unit("sriov-lb-perf-nightly.timer")
    assert timer["Unit"] == ["sriov-lb-perf-nightly.service"] and timer["OnCalendar"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_takes_the_units(tmp_path):
    def complaints(text: str) -> str:
        for path in UNITS.iterdir():
            (tmp_path / path.name).write_text(path.read_text())
        service = tmp_path / "sriov-lb-perf-nightly.service"
        # The programs are where the operator installs them; any program will do here.
        service.write_text(re.sub(r"/opt/sriov-lb-tests/bin/[\w-]+", sys.executable, text))
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no",
             str(service), str(tmp_path / "sriov-lb-perf-nightly.timer")],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        said = done.stdout + done.stderr
        return "\n".join(line for line in said.splitlines() if "sriov-lb-perf" in line)

    text = (UNITS / "sriov-lb-perf-nightly.service").read_text()
    assert complaints(text) == ""
    # The control: a key that systemd does not know is complained about.
    assert "Nonsense" in complaints(text.replace("KillMode=", "Nonsense="))


def test_the_zuul_job_is_one_and_its_playbooks_are_there():
    found = yaml.safe_load((ETC / "zuul" / "jobs.yaml").read_text())
    jsonschema.validate(found, ZUUL)
    (job,) = [entry["job"] for entry in found if "job" in entry]
    (project,) = [entry["project"] for entry in found if "project" in entry]
    assert project["periodic"]["jobs"] == [job["name"]]
    names = {entry["semaphore"]["name"] for entry in found if "semaphore" in entry}
    assert {entry["name"] for entry in job["semaphores"]} == names
    used = set()
    for key in ("run", "post-run"):
        text = (ETC / "zuul" / job[key]).read_text()
        for play in yaml.safe_load(text):
            assert play["hosts"] and all(task["name"] for task in play["tasks"])
        used |= set(re.findall(r"\{\{ (sriov_lb_perf_\w+)", text))
    assert used == set(job["vars"])


def test_the_zuul_job_calls_the_tool_as_it_wants_to_be_called():
    (play,) = yaml.safe_load((ETC / "zuul" / "playbooks" / "nightly.yaml").read_text())
    task = play["tasks"][0]
    argv = task["ansible.builtin.command"]["argv"]
    assert argv[1] == "nightly"
    options_of(argv[1:])
    # 2 is "could not tell"; 1 is a regression and fails the job.
    assert task["failed_when"] == "night.rc not in [0, 2]"


def expressions(value) -> list[str]:
    """Every query in a dashboard."""
    if isinstance(value, dict):
        own = [value[key] for key in ("expr", "definition") if isinstance(value.get(key), str)]
        return own + [text for each in value.values() for text in expressions(each)]
    if isinstance(value, list):
        return [text for each in value for text in expressions(each)]
    return []


def test_the_dashboard_asks_for_what_is_exported(finished):
    board = json.loads((ETC / "grafana" / "sriov-lb-perf.json").read_text())
    document = finished.document
    # A metric of each unit there is.
    metrics = document["metrics"]
    (rate,) = [m for m in metrics if m["id"] == "requests.rate"]
    metrics.append({**rate, "id": "goodput.rate", "unit": "bit/s"})
    text = export.open_metrics(document, "standard@hardware", 1)
    exported: dict[str, set[str]] = {}
    for name, labels in re.findall(r"^(\w+)\{(.*)\} \S+$", text, re.M):
        exported.setdefault(name, set()).update(re.findall(r"(\w+)=\"", labels))
    asked = expressions(board)
    assert len(asked) >= 10
    seen = set()
    for query in asked:
        names = re.findall(r"\bsriov_lb_perf_\w+", query)
        assert names, query
        for name in names:
            assert name in exported, query
            wanted = set(re.findall(r"(\w+)=~?\"", query)) - {"__name__"}
            assert wanted <= exported[name], query
            seen.add(name)
    assert seen == set(exported), "something is exported that no panel shows"
    places = {(p["gridPos"]["x"], p["gridPos"]["y"]) for p in board["panels"]}
    assert len(places) == len({p["id"] for p in board["panels"]}) == len(board["panels"])
