# SPDX-License-Identifier: Apache-2.0
"""Where a guest's processes and network namespaces are found, under both cgroup layouts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sriov_lb_lab.compute import cgroups
from sriov_lb_lab.compute.errors import ContainerError
from sriov_lb_lab.substrate import scope
from sriov_lb_lab.substrate.scope import GuestScope


@pytest.fixture
def v2(tmp_path: Path) -> Path:
    """A v2 hierarchy's root."""
    (tmp_path / "cgroup.controllers").write_text("")
    return tmp_path


@pytest.fixture
def hybrid(tmp_path: Path) -> Path:
    """v1's root as systemd's hybrid layout has it."""
    for name in ("unified", "systemd", "memory"):
        (tmp_path / name).mkdir()
    return tmp_path


def fill(folder: Path, *pids: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))


def test_hierarchies(v2, tmp_path):
    assert scope.hierarchies(v2) == [v2]


def test_hierarchies_hybrid_reads_the_v2_one_first(hybrid):
    assert scope.hierarchies(hybrid) == [hybrid / "unified", hybrid / "systemd"]


def test_hierarchies_legacy(tmp_path):
    (tmp_path / "systemd").mkdir()
    assert scope.hierarchies(tmp_path) == [tmp_path / "systemd"]


def test_processes_are_found_below_and_once(hybrid):
    fill(hybrid / "unified/lab/one", 0)
    fill(hybrid / "unified/lab/one/payload/init.scope", 11)
    fill(hybrid / "unified/lab/one/supervisor", 12)
    fill(hybrid / "unified/lab/two", 13)
    fill(hybrid / "systemd/lab/one/payload/init.scope", 11)
    assert sorted(scope.processes("lab/one", hybrid)) == [11, 12]
    assert scope.processes("lab/none", hybrid) == []


def test_leader_is_the_first_process_of_a_nested_pid_namespace(v2, monkeypatch):
    fill(v2 / "lab/one", 10, 11, 12)
    status = {
        10: "Name:\tnspawn\nState:\tS (sleeping)\nNSpid:\t10\n",
        11: "Name:\tsshd\nState:\tS (sleeping)\nNSpid:\t11\t45\n",
        12: "Name:\tsystemd\nState:\tS (sleeping)\nNSpid:\t12\t1\n",
    }
    real = Path.read_text

    def read_text(self, *args, **kwargs):
        parts = self.parts
        if len(parts) == 4 and parts[1] == "proc" and parts[3] == "status":
            if int(parts[2]) not in status:
                raise FileNotFoundError
            return status[int(parts[2])]
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", read_text)
    assert scope.leader("lab/one", v2) == 12
    status[12] = status[12].replace("S (sleeping)", "Z (zombie)")
    assert scope.leader("lab/one", v2) is None
    del status[12]
    assert scope.leader("lab/one", v2) is None


def test_namespaces_are_listed_once_each(tmp_path, monkeypatch):
    given = tmp_path / "inst"
    given.write_text("")
    same = tmp_path / "same"
    os.link(given, same)
    other = tmp_path / "other"
    other.write_text("")
    candidates = [str(given), str(same), str(tmp_path / "vanished"), str(other)]
    monkeypatch.setattr(GuestScope, "_candidates", lambda self: iter(candidates))
    assert list(GuestScope(str(given), "x").namespaces()) == [str(given), str(other)]


def test_a_process_of_our_own_pid_namespace_is_not_the_guests(monkeypatch):
    """The launcher is in the host's namespace: searching it would find the host's links."""
    monkeypatch.setattr(scope, "leader", lambda cgroup: None)
    monkeypatch.setattr(scope, "processes", lambda cgroup: [os.getpid()])
    assert list(GuestScope("/no/such", "x").namespaces()) == []


def test_make_and_remove_in_every_hierarchy(hybrid):
    cgroups.make("lab/one", hybrid)
    (hybrid / "systemd/lab/one/payload/a.service").mkdir(parents=True)
    assert (hybrid / "unified/lab/one").is_dir() and not (hybrid / "memory/lab").exists()
    cgroups.remove("lab/one", root=hybrid)
    assert not (hybrid / "unified/lab/one").exists()
    assert not (hybrid / "systemd/lab/one").exists()
    assert (hybrid / "systemd/lab").is_dir()
    cgroups.remove("lab/one", root=hybrid)


def test_kill_without_cgroup_kill(hybrid, monkeypatch):
    """Older kernels have no switch for it: each process gets a signal."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        procs = hybrid / "unified/lab/one"
        fill(procs, child.pid)
        real = scope.processes

        def processes(cgroup, root):
            return [pid for pid in real(cgroup, root) if child.poll() is None]

        monkeypatch.setattr(scope, "processes", processes)
        cgroups.kill("lab/one", root=hybrid)
        assert child.wait() == -9


def test_kill_gives_up_on_what_stays(hybrid, monkeypatch):
    fill(hybrid / "unified/lab/one", 1)
    monkeypatch.setattr(cgroups, "_kill", lambda pid: None)
    with pytest.raises(ContainerError, match=r"processes \[1\] are left"):
        cgroups.kill("lab/one", timeout=0.05, root=hybrid)


def test_freezing_needs_a_v2_hierarchy(tmp_path):
    (tmp_path / "systemd/lab/one").mkdir(parents=True)
    assert not cgroups.can_freeze("lab/one", tmp_path)
    assert not cgroups.is_frozen("lab/one", tmp_path)
    with pytest.raises(ContainerError, match="no v2 hierarchy"):
        cgroups.set_frozen("lab/one", True, root=tmp_path)


def test_freezing_waits_for_the_kernel(v2):
    folder = v2 / "lab/one"
    folder.mkdir(parents=True)
    (folder / "cgroup.freeze").write_text("0")
    (folder / "cgroup.events").write_text("populated 1\nfrozen 0\n")
    with pytest.raises(ContainerError, match="did not become frozen"):
        cgroups.set_frozen("lab/one", True, timeout=0.05, root=v2)
    assert (folder / "cgroup.freeze").read_text() == "1"
    (folder / "cgroup.events").write_text("populated 1\nfrozen 1\n")
    cgroups.set_frozen("lab/one", True, timeout=0.05, root=v2)
    assert cgroups.is_frozen("lab/one", v2)
