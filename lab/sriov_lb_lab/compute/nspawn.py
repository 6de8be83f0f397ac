# SPDX-License-Identifier: Apache-2.0
"""systemd-nspawn's command line, and the meaning of how it ends."""

from __future__ import annotations

from pathlib import Path

# Exit status of `systemd-nspawn --keep-unit` after the guest has rebooted itself: whoever started
# it shall start it again (systemd's own unit for it says RestartForceExitStatus=133).
REBOOTED = 133

# Makes /proc/sys/net writable: an amphora sets sysctls of its namespaces.
ENVIRONMENT = {"SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network"}


def command(root: Path, name: str, hostname: str, netns: str) -> list[str]:
    """argv that boots the system in ``root``.

    :param root: mount point of the root file system.
    :param name: the container's name for nspawn, unique on the machine.
    :param hostname: the guest's host name.
    :param netns: path of the network namespace it gets. Interfaces are put there beforehand,
        because ``--network-interface`` waits for a udev outside that is not there.
    """
    return [
        "systemd-nspawn",
        "--quiet",
        "--boot",
        f"--directory={root}",
        f"--machine={name}",
        f"--hostname={hostname}",
        f"--network-namespace-path={netns}",
        "--capability=all",
        # No systemd outside that could know of it, and no unit to leave.
        "--register=no",
        "--keep-unit",
        "--settings=no",
        "--link-journal=no",
        "--resolv-conf=off",
        "--timezone=off",
        # The guest gets a terminal of its own; what appears on it is copied to our output.
        "--console=read-only",
        # No colours and no cursor movements in the console log.
        "--setenv=TERM=dumb",
    ]
