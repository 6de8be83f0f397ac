# SPDX-License-Identifier: Apache-2.0
"""How large a simulated host is: as large as the machine, which all of them share.

Nothing is divided between the hosts. Nova's allocation ratios decide how often the machine is
promised.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

GIB = 1024**3
MIB = 1024**2

# A flavor may want more virtual CPUs than the machine has; time-sharing makes them all run.
LEAST_VCPUS = 8


@dataclass(frozen=True)
class Resources:
    """Totals of a host.

    :param vcpus: number of virtual CPUs.
    :param memory_mb: memory, MiB.
    :param disk_gb: size of the file system with the instances, GiB.
    :param disk_free_gb: what is free there, GiB.
    """

    vcpus: int
    memory_mb: int
    disk_gb: int
    disk_free_gb: int


def measure(instances: Path) -> Resources:
    """Look at the machine. ``instances`` need not exist yet."""
    folder = instances
    while not folder.exists():
        folder = folder.parent
    disk = os.statvfs(folder)
    return Resources(
        vcpus=max(LEAST_VCPUS, os.cpu_count() or 1),
        memory_mb=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // MIB,
        disk_gb=max(1, disk.f_frsize * disk.f_blocks // GIB),
        disk_free_gb=disk.f_frsize * disk.f_bavail // GIB,
    )
