# SPDX-License-Identifier: Apache-2.0
"""Instances as systemd-nspawn containers on a simulated host: each scenario on a host of its own.

Needs root, systemd-nspawn, a userspace Open vSwitch, and a Debian system to boot: the lab's guest
tree if it has been built (``sriov-lb-lab build``), or the tree SRIOV_LB_LAB_TEST_TREE names.
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
PROGRAMS = ("systemd-nspawn", "ovs-vswitchd", "ovsdb-server", "ovs-vsctl", "ethtool", "nsenter")

SCENARIOS = (
    "life",
    "hot_plug",
    "transfer",
    "guest_reboots",
    "crash",
    "outlives_its_starter",
    "pause",
    "failures_leave_nothing",
    "link_state",
    "first_boot",
)


@pytest.fixture(scope="module")
def simulated() -> ModuleType:
    """The module simulated_host.py, which is a program, too."""
    spec = importlib.util.spec_from_file_location("simulated_host", HERE / "simulated_host.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tree() -> Path:
    """Root folder of a system that boots."""
    if os.geteuid() != 0:
        pytest.skip("needs root: namespaces, mounts and cgroups are made")
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (systemd-container, openvswitch-switch, ethtool)")
    chosen = os.environ.get("SRIOV_LB_LAB_TEST_TREE")
    found = [Path(chosen)] if chosen else sorted((STATE / "cache").glob("guest-*/.manifest.json"))
    if not found:
        pytest.skip("needs a system to boot: run 'sriov-lb-lab build', or set the variable above")
    return found[-1] if chosen else found[-1].parent


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


def run(simulated: ModuleType, scenario: str, base: Path, tree: Path) -> None:
    """Run one scenario; what it said is the failure's message."""
    done = simulated.unshared(scenario, base, tree)
    sys.stdout.write(done.stdout)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(simulated: ModuleType, scenario: str, base: Path, tree: Path) -> None:
    """See the scenario's docstring in scenarios.py."""
    run(simulated, scenario, base, tree)
    assert list((base / "instances").glob("*")) == []


def test_machine_crash(simulated: ModuleType, base: Path, tree: Path) -> None:
    """An instance whose machine lost power is found shut down, with its disk, and starts."""
    run(simulated, "before_the_power_cut", base, tree)
    assert len(list((base / "instances").glob("*"))) == 1
    run(simulated, "after_the_power_cut", base, tree)
