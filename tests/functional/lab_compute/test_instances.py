# SPDX-License-Identifier: Apache-2.0
"""Instances as systemd-nspawn containers on a simulated host: each scenario on a host of its own.

Needs root and two of the lab's trees (``sriov-lb-lab build``): the one that has systemd-nspawn and
Open vSwitch, which becomes the scenario's root, and the one that instances boot.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent
STATE = Path(os.environ.get("SRIOV_LB_LAB_STATE", "/var/lib/sriov-lb-lab"))

SCENARIOS = (
    "life",
    "hot_plug",
    "guest_reboots",
    "crash",
    "failures_leave_nothing",
    "switched_off_at_once",
    "link_state",
    "first_boot",
    *(pytest.param(name, marks=pytest.mark.series) for name in ("transfer", "pause")),
    pytest.param("outlives_its_starter", marks=pytest.mark.series),
)


@pytest.fixture(scope="module")
def simulated() -> ModuleType:
    """The module simulated_host.py, which is a program, too."""
    spec = importlib.util.spec_from_file_location("simulated_host", HERE / "simulated_host.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def newest(kind: str) -> Path:
    """The newest finished tree of a kind in the lab's cache."""
    found = list((STATE / "cache").glob(f"{kind}-*/.manifest.json"))
    if not found:
        pytest.skip(f"needs the lab's {kind} tree in {STATE}/cache: run 'sriov-lb-lab build'")
    return max(found, key=lambda path: path.stat().st_mtime).parent


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch, simulated: ModuleType) -> Iterator[Path]:
    """A folder that can hold an overlay's upper folder; and no cgroup is left afterwards."""
    # Not tmp_path: that may be on a file system that cannot (tmpfs, another overlay).
    folder = Path("/var/tmp") / f"sriov-lb-lab-test-{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    cgroup = folder.name
    monkeypatch.setenv("TEST_CGROUP", cgroup)
    yield folder
    simulated.remove_cgroups(cgroup)
    shutil.rmtree(folder)


def run(simulated: ModuleType, scenario: str, base: Path, cgroup_v2: bool = False) -> str:
    """Run one scenario; what it said is the failure's message, or returned."""
    done = simulated.unshared(scenario, base, newest("system"), newest("guest"), cgroup_v2)
    sys.stdout.write(done.stdout)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(simulated: ModuleType, scenario: str, base: Path) -> None:
    """See the scenario's docstring in scenarios.py."""
    run(simulated, scenario, base)
    assert list((base / "instances").glob("*")) == []


@pytest.mark.series
@pytest.mark.parametrize("scenario", ["life", "crash", "pause"])
def test_scenario_with_cgroup_v2_only(simulated: ModuleType, scenario: str, base: Path) -> None:
    """As on a machine whose systemd has left v1 behind."""
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        pytest.skip("this machine has v2 only, so every scenario has run with it")
    said = run(simulated, scenario, base, cgroup_v2=True)
    assert "cgroup hierarchies: /sys/fs/cgroup\n" in said, "it did not run with v2 only"
    assert list((base / "instances").glob("*")) == []


def test_machine_crash(simulated: ModuleType, base: Path) -> None:
    """An instance whose machine lost power is found shut down, with its disk, and starts."""
    run(simulated, "before_the_power_cut", base)
    assert len(list((base / "instances").glob("*"))) == 1
    run(simulated, "after_the_power_cut", base)
