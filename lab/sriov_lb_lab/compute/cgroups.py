# SPDX-License-Identifier: Apache-2.0
"""A container's own cgroup: made before it starts, used to end or freeze it, removed after it.

systemd-nspawn that registers nothing with a systemd outside puts its payload below the cgroup it
was started in. Without a cgroup of its own every container would share one, and each container's
systemd would manage the processes of all.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path

from sriov_lb_lab.compute.errors import ContainerError
from sriov_lb_lab.substrate import scope


def make(cgroup: str, root: Path = scope.CGROUPS) -> None:
    """Make the folder in each hierarchy."""
    for hierarchy in scope.hierarchies(root):
        (hierarchy / cgroup).mkdir(parents=True, exist_ok=True)


def enter(cgroup: str, root: Path = scope.CGROUPS) -> None:
    """Move the calling process in."""
    for hierarchy in scope.hierarchies(root):
        (hierarchy / cgroup / "cgroup.procs").write_text(str(os.getpid()))


def kill(cgroup: str, timeout: float = 10.0, root: Path = scope.CGROUPS) -> None:
    """End every process in it with SIGKILL and wait until none is left.

    :raises ContainerError: some are left after ``timeout`` seconds.
    """
    switches = [hierarchy / cgroup / "cgroup.kill" for hierarchy in scope.hierarchies(root)]
    at_once = next((switch for switch in switches if switch.exists()), None)
    deadline = time.monotonic() + timeout
    while pids := scope.processes(cgroup, root):
        if at_once is not None:
            at_once.write_text("1")
        else:
            for pid in pids:
                _kill(pid)
        if time.monotonic() > deadline:
            raise ContainerError(f"cgroup {cgroup}: processes {pids} are left after SIGKILL")
        time.sleep(0.02)


def remove(cgroup: str, timeout: float = 5.0, root: Path = scope.CGROUPS) -> None:
    """Remove the folder in each hierarchy, deepest first; no error if there is none.

    A process that has ended is counted in its cgroup until its parent has waited for it, so a busy
    folder is tried again.

    :raises ContainerError: it is still busy after ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    for hierarchy in scope.hierarchies(root):
        top = hierarchy / cgroup
        while top.exists():
            try:
                for folder, _, _ in os.walk(top, topdown=False):
                    os.rmdir(folder)
            except FileNotFoundError:
                continue
            except OSError as failure:
                if failure.errno != errno.EBUSY or time.monotonic() > deadline:
                    raise ContainerError(f"cgroup {top} cannot be removed: {failure}") from failure
                time.sleep(0.02)


def can_freeze(cgroup: str, root: Path = scope.CGROUPS) -> bool:
    """Whether the kernel can freeze it (a v2 hierarchy, as every systemd since 2017 mounts one)."""
    return _freezer(cgroup, root) is not None


def set_frozen(
    cgroup: str, frozen: bool, timeout: float = 10.0, root: Path = scope.CGROUPS
) -> None:
    """Freeze or thaw every process in it and wait until that has happened.

    :raises ContainerError: the kernel cannot, or has not after ``timeout`` seconds.
    """
    folder = _freezer(cgroup, root)
    if folder is None:
        raise ContainerError(f"cgroup {cgroup} has no cgroup.freeze: no v2 hierarchy is mounted")
    (folder / "cgroup.freeze").write_text("1" if frozen else "0")
    deadline = time.monotonic() + timeout
    while is_frozen(cgroup, root) != frozen:
        if time.monotonic() > deadline:
            raise ContainerError(
                f"cgroup {cgroup} did not become {'frozen' if frozen else 'thawed'}"
            )
        time.sleep(0.02)


def is_frozen(cgroup: str, root: Path = scope.CGROUPS) -> bool:
    """Whether every process in it is frozen."""
    folder = _freezer(cgroup, root)
    return folder is not None and "frozen 1" in (folder / "cgroup.events").read_text().splitlines()


def _freezer(cgroup: str, root: Path) -> Path | None:
    for hierarchy in scope.hierarchies(root):
        if (hierarchy / cgroup / "cgroup.freeze").exists():
            return hierarchy / cgroup
    return None


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it ended by itself
