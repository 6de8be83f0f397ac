# SPDX-License-Identifier: Apache-2.0
"""What the machine must be and have before trees can be built on it."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence

from sriov_lb_lab.errors import BuildError, HostError

#: ``ID`` and ``VERSION_ID`` of os-release.
SUPPORTED: Mapping[str, tuple[str, ...]] = {"debian": ("12", "13"), "ubuntu": ("22.04", "24.04")}
GIB = 1024**3


@dataclasses.dataclass(frozen=True)
class Need:
    """One apt package, and the commands by which its presence is told."""

    package: str
    commands: tuple[str, ...]


NEEDS = (
    Need("mmdebstrap", ("mmdebstrap",)),
    Need("iproute2", ("ip",)),
    Need("util-linux", ("unshare", "nsenter", "setpriv")),
    Need("mount", ("mount", "umount")),
)


def require_root(euid: Callable[[], int] = os.geteuid) -> None:
    """Complain unless the effective user is root.

    :raises HostError: otherwise.
    """
    if euid() != 0:
        raise HostError(
            f"a lab needs root (namespaces, mounts, chroot); the effective user id is {euid()}",
            "run the same command with sudo",
        )


def parse_os_release(text: str) -> dict[str, str]:
    """Read the ``NAME=value`` lines of os-release; quotes around values are dropped."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {name.strip(): value.strip().strip("\"'") for name, _, value in pairs}


def read_os_release(path: pathlib.Path = pathlib.Path("/etc/os-release")) -> dict[str, str]:
    """Read this machine's os-release; empty where there is none."""
    try:
        return parse_os_release(path.read_text(encoding="utf-8"))
    except OSError:
        return {}


def require_supported(release: Mapping[str, str]) -> None:
    """Complain about a distribution on which the lab was never tried.

    :raises HostError: naming the one found and those supported.
    """
    name, version = release.get("ID", "unknown"), release.get("VERSION_ID", "unknown")
    if version not in SUPPORTED.get(name, ()):
        expected = ", ".join(f"{ident} {' or '.join(known)}" for ident, known in SUPPORTED.items())
        raise HostError(
            f"unsupported distribution: expected {expected}, "
            f"found {release.get('PRETTY_NAME') or f'{name} {version}'}",
            "use one of the supported releases, for example in a virtual machine",
        )


def missing_packages(
    which: Callable[[str], str | None] = shutil.which,
) -> list[str]:
    """The apt packages that this machine lacks for building, of as few as possible."""
    return [
        need.package for need in NEEDS
        if not all(which(command) for command in need.commands)
    ]


def require_packages(missing: Sequence[str]) -> None:
    """Complain if packages are missing.

    :raises HostError: naming them and the command that installs them.
    """
    if missing:
        raise HostError(
            f"this machine lacks the package{'s' if len(missing) > 1 else ''} {', '.join(missing)}",
            f"apt-get install --no-install-recommends {' '.join(missing)}",
        )


def install_packages(packages: Sequence[str], progress: Callable[[str, str], None]) -> None:
    """Install packages with apt, after saying which.

    :raises HostError: with the end of apt's output if that fails.
    """
    if not packages:
        return
    progress("host", f"installing with apt-get: {', '.join(packages)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *packages]
    output = ""
    # Package lists of a fresh machine are empty or old; with current ones the refresh costs nothing
    # that the installation would not have paid for anyway.
    for argv in (["apt-get", "update", "--quiet"], install):
        try:
            done = subprocess.run(argv, env=environment, stdin=subprocess.DEVNULL, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        except FileNotFoundError as error:
            raise HostError("apt-get is missing on this machine",
                            "a lab needs Debian or Ubuntu") from error
        output += done.stdout
    if done.returncode:
        tail = "\n".join(output.strip().splitlines()[-8:])
        raise HostError(
            f"apt-get could not install {', '.join(packages)} (exit {done.returncode}):\n{tail}",
            "make the package archive reachable, or install them by hand",
        )


def require_space(folder: pathlib.Path, needed: int, what: str,
                  usage: Callable[[pathlib.Path], int] | None = None) -> None:
    """Complain if the file system of ``folder`` has less room than a build takes.

    :param needed: bytes.
    :param usage: gives the free bytes of a folder.
    :raises BuildError: naming what is needed and what was found.
    """
    free = (usage or (lambda path: shutil.disk_usage(path).free))(folder)
    if free < needed:
        raise BuildError(
            f"not enough disk space in {folder}: {what} needs {needed / GIB:.1f} GiB, "
            f"found {free / GIB:.1f} GiB free",
            "free some space, or put the state folder elsewhere (--state)",
        )
