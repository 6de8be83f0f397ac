# SPDX-License-Identifier: Apache-2.0
"""All network namespaces a guest has: the one it was given and those it made for itself.

An amphora moves its VIP's interface into a namespace of its own making (``amphora-haproxy``), as it
would inside a VM. A hypervisor can take a VF away nevertheless; a container host has to look for
it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def hierarchies(root: Path = CGROUPS) -> list[Path]:
    """The cgroup hierarchies in which systemd tracks processes, the one to read from first.

    v2 has one. Under v1 systemd uses the named hierarchy ``systemd`` and, in its hybrid layout, an
    empty v2 hierarchy ``unified`` beside it.
    """
    if (root / "cgroup.controllers").exists():
        return [root]
    return [root / name for name in ("unified", "systemd") if (root / name).is_dir()]


def processes(cgroup: str, root: Path = CGROUPS) -> list[int]:
    """Pids in a cgroup folder and all below it, as seen from this process's PID namespace."""
    found: list[int] = []
    for hierarchy in hierarchies(root)[:1]:
        for folder, _, files in os.walk(hierarchy / cgroup):
            if "cgroup.procs" not in files:
                continue
            try:
                text = (Path(folder) / "cgroup.procs").read_text()
            except (FileNotFoundError, OSError):
                continue  # removed while we walked
            # 0 stands for a process that this PID namespace cannot see.
            found += [int(line) for line in text.split() if line != "0"]
    return found


def leader(cgroup: str, root: Path = CGROUPS) -> int | None:
    """The guest's first process (pid 1 in its own PID namespace), or None while there is none."""
    for pid in processes(cgroup, root):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        nested = fields["NSpid"].split()
        if len(nested) == 2 and nested[1] == "1" and not fields["State"].strip().startswith("Z"):
            return pid
    return None


@dataclass(frozen=True)
class GuestScope:
    """A guest, as far as its network is concerned.

    :param netns: path of the namespace the host made for it, e.g. ``/run/netns/inst-0a1b2c3d``.
    :param cgroup: its folder below each hierarchy, e.g. ``sriov-lb-lab-x/compute-1/<uuid>``.
    """

    netns: str
    cgroup: str

    def namespaces(self) -> Iterator[str]:
        """Paths of its network namespaces, each once, the given one first.

        Valid as long as the guest keeps them; a path may fail to open a moment later.
        """
        seen: set[tuple[int, int]] = set()
        for path in self._candidates():
            try:
                stat = os.stat(path)
            except OSError:
                continue
            key = (stat.st_dev, stat.st_ino)
            if key not in seen:
                seen.add(key)
                yield path

    def _candidates(self) -> Iterator[str]:
        yield self.netns
        # Namespaces with a name in the guest's /run/netns; they need no process to live.
        first = leader(self.cgroup)
        if first is not None:
            named = f"/proc/{first}/root/run/netns"
            try:
                entries = sorted(os.listdir(named))
            except OSError:
                entries = []
            for entry in entries:
                if _is_namespace(f"{named}/{entry}"):
                    yield f"{named}/{entry}"
        for pid in processes(self.cgroup):
            # The launcher outside the guest is in the host's own namespace: not the guest's.
            if _is_inside(pid):
                yield f"/proc/{pid}/ns/net"


def _is_namespace(path: str) -> bool:
    """Whether it is a mounted namespace, not the empty file that ``ip netns add`` leaves first."""
    try:
        return os.stat(path).st_dev == os.stat("/proc/self/ns/net").st_dev
    except OSError:
        return False


def _is_inside(pid: int) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid") != os.readlink("/proc/self/ns/pid")
    except OSError:
        return False
