# SPDX-License-Identifier: Apache-2.0
"""The programs this machine must have, and how they get there. Stdlib only."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from show import Failed, Steps, quietly

# Programs of the system are not always on a user's PATH.
SEARCH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])
POLICY = Path("/usr/sbin/policy-rc.d")


@dataclass(frozen=True)
class Need:
    """A package of Debian and Ubuntu.

    :param programs: present when all of these are found ...
    :param files: ... and these exist ...
    :param modules: ... and these can be imported.
    :param units: systemd units that come with the package and are not wanted.
    :param distributions: ids (os-release) of those that have it as a package; () for all. On
        others what needs it is skipped, and says so.
    """

    package: str
    why: str
    programs: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    distributions: tuple[str, ...] = ()

    def missing(self) -> bool:
        if self.distributions and distribution() not in self.distributions:
            return False
        return (
            any(shutil.which(program, path=SEARCH) is None for program in self.programs)
            or any(not os.path.exists(file) for file in self.files)
            or any(importlib.util.find_spec(module) is None for module in self.modules)
        )


TESTER = (Need("python3-venv", "the tester's environment", modules=("venv", "ensurepip")),)
LAB = (
    Need("mmdebstrap", "builds the lab's file systems", ("mmdebstrap",)),
    Need(
        "debian-archive-keyring",
        "verifies what mmdebstrap fetches",
        files=("/usr/share/keyrings/debian-archive-keyring.gpg",),
    ),
    Need("iproute2", "the lab's networks", ("ip",)),
    Need("util-linux", "the lab's namespaces", ("unshare", "nsenter", "setpriv")),
    Need("mount", "the lab's mounts", ("mount", "umount")),
)
FUNCTIONAL = (
    Need("nftables", "real rulesets in the functional tests", ("nft",)),
    Need("ethtool", "checksum offload in the functional tests", ("ethtool",)),
    Need("iperf3", "real bandwidth in the functional tests", ("iperf3",)),
    Need(
        "haproxy",
        "a real proxy in the functional tests",
        ("haproxy",),
        units=("haproxy.service",),
    ),
    Need("openssl", "certificates in the functional tests", ("openssl",)),
    Need("tcpdump", "captures that the probe is held to", ("tcpdump",)),
    Need("nginx", "a real member in the functional tests", ("nginx",), units=("nginx.service",)),
    Need(
        "openssh-server",
        "a real guest's sshd in the functional tests",
        ("sshd",),
        units=("ssh.service", "ssh.socket"),
    ),
    # Ubuntu has it as a snap only.
    Need("chromium", "a real browser for the report", ("chromium",), distributions=("debian",)),
)
# What the project is compared with.
BENCH = (
    Need("nmap", "a port scanner to compare with", ("nmap",)),
    Need("masscan", "a port scanner to compare with", ("masscan",)),
    Need("wrk", "an HTTP load generator to compare with", ("wrk",)),
    Need("nghttp2-client", "h2load, a load generator to compare with", ("h2load",)),
    Need("apache2-utils", "ab, a load generator to compare with", ("ab",)),
    Need("sockperf", "a latency probe to compare with", ("sockperf",)),
)
UNITS = ("/lib/systemd/system", "/usr/lib/systemd/system")


def distribution() -> str:
    """The id of this machine's distribution, such as ``debian``; "" if it does not tell."""
    with contextlib.suppress(OSError):
        return platform.freedesktop_os_release().get("ID", "")
    return ""


def missing(needs: Iterable[Need]) -> list[Need]:
    """Those that are not on this machine."""
    return [need for need in needs if need.missing()]


def install(needs: Iterable[Need], steps: Steps, log: Path) -> None:
    """Install what is missing with apt-get, after saying what and why; nothing if all is there.

    Services that come along are neither started nor enabled.

    :raises Failed: not root, not Debian or Ubuntu, or apt-get failed.
    """
    wanted = missing(needs)
    if not wanted:
        return
    packages = [need.package for need in wanted]
    command = f"apt-get install --no-install-recommends {' '.join(packages)}"
    if shutil.which("apt-get", path=SEARCH) is None:
        raise Failed(
            f"This machine lacks {', '.join(packages)} and has no apt-get. Debian 12 and 13, "
            "Ubuntu 22.04 and 24.04 are supported."
        )
    if os.geteuid() != 0:
        raise Failed(f"This machine lacks {', '.join(packages)}. As root: {command}")
    steps.say("about to install with apt-get:")
    for need in wanted:
        steps.say(f"    {need.package:24} {need.why}")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_MODE": "l"}
    options = ["install", "--yes", "--no-install-recommends"]
    with steps.doing("installing packages"), _no_services():
        quietly(["apt-get", "update"], log, env)
        quietly(["apt-get", *options, *packages], log, env, append=True)
        units = [unit for need in wanted for unit in need.units if _known(unit)]
        if units and os.path.isdir("/run/systemd/system"):
            quietly(["systemctl", "disable", "--quiet", *units], log, append=True)


def _known(unit: str) -> bool:
    return any(os.path.exists(os.path.join(folder, unit)) for folder in UNITS)


@contextlib.contextmanager
def _no_services() -> Iterator[None]:
    """While this lasts, packages do not start their services (Debian policy 9.3.3)."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()
