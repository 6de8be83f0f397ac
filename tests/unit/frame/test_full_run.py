# SPDX-License-Identifier: Apache-2.0
"""The weekly run of everything in etc/systemd: systemd takes the units, and the programs their
options."""

import re
import shlex
import shutil
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from oslo_config import cfg

from sriov_lb_tests import cli, config

UNITS = Path(__file__).parents[3] / "etc" / "systemd"
NAME = "sriov-lb-full"


def unit(name):
    """Key -> values, continuation lines joined."""
    found = {}
    for line in (UNITS / name).read_text().replace("\\\n", " ").splitlines():
        if line and not line.startswith(("#", "[")):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


SERVICE = unit(f"{NAME}.service")


def test_the_whole_matrix_runs_whatever_the_file_says(tmp_path, monkeypatch):
    (tmp_path / "conf").write_text("[sriov_lb]\nmatrix = pairwise\nartifacts_dir = here\n")
    for text in SERVICE["Environment"]:
        name, _, value = text.partition("=")
        monkeypatch.setenv(name, value)
    conf = cfg.ConfigOpts()
    conf.register_opts(config.SriovLbGroup, group=config.sriov_lb_group)
    conf([], default_config_files=[str(tmp_path / "conf")])
    assert conf.sriov_lb.matrix == "full"
    assert conf.sriov_lb.artifacts_dir == "%S/sriov-lb-tests/runs"


def test_defects_fail_their_tests_and_the_comparison_decides():
    tempest, compare = SERVICE["ExecStart"]
    assert tempest.startswith("-") and " run --regex sriov_lb " in tempest
    assert not compare.startswith("-")
    assert shlex.split(compare)[1:3] == ["verdicts", "%S/sriov-lb-tests/runs/latest"]
    (after,) = SERVICE["ExecStopPost"]
    for line in (compare, after):
        argv = shlex.split(line)
        known = {name for option in cli.main.commands[argv[1]].params for name in option.opts}
        assert {word for word in argv if word.startswith("--")} <= known


def test_it_is_alone_between_two_nights_of_measurements():
    begins, measured = (
        datetime.strptime(unit(f"{name}.timer")["OnCalendar"][0].split()[-1], "%H:%M:%S")
        for name in (NAME, "sriov-lb-perf-nightly")
    )

    def limit(service):
        return timedelta(hours=int(service["TimeoutStartSec"][0].removesuffix("h")))

    assert limit(SERVICE) < (measured - begins) % timedelta(days=1)
    assert limit(unit("sriov-lb-perf-nightly.service")) < begins - measured


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_takes_the_units(tmp_path):
    def complaints(text):
        (tmp_path / f"{NAME}.timer").write_text((UNITS / f"{NAME}.timer").read_text())
        # The programs are where the operator installs them; any program will do here.
        text = re.sub(r"/opt/sriov-lb-tests/bin/[\w-]+", sys.executable, text)
        (tmp_path / f"{NAME}.service").write_text(text)
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no",
             str(tmp_path / f"{NAME}.service"), str(tmp_path / f"{NAME}.timer")],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        said = done.stdout + done.stderr
        return "\n".join(line for line in said.splitlines() if NAME in line)

    text = (UNITS / f"{NAME}.service").read_text()
    assert complaints(text) == ""
    assert "Nonsense" in complaints(text.replace("KillMode=", "Nonsense="))
