# SPDX-License-Identifier: Apache-2.0
"""An instance's root file system: an overlay on an immutable tree.

``upper`` is the instance's disk: it stays from boot to boot and goes with the instance.
"""

from __future__ import annotations

import os
from pathlib import Path

from sriov_lb_lab.compute.errors import ImageError
from sriov_lb_lab.substrate.execute import run


def tree(trees: Path, name: str) -> Path:
    """The root folder of a tree in the cache.

    :raises ImageError: the name is no plain name, or no such tree is there.
    """
    if not name or "/" in name or name.startswith("."):
        raise ImageError(f"image names the tree {name!r}, which is no plain folder name")
    folder = trees / name
    # A folder without it is not a system, and systemd-nspawn would refuse it with less to go by.
    if not any((folder / path).exists() for path in ("etc/os-release", "usr/lib/os-release")):
        raise ImageError(
            f"image names the tree {name!r}, but {folder} holds no operating system",
            "build the lab's trees again, or register the image again with a tree that is there",
        )
    return folder


def root(folder: Path) -> Path:
    """Mount point of an instance's root, ``folder`` being the instance's folder."""
    return folder / "root"


def is_mounted(folder: Path) -> bool:
    """Whether the instance's root is mounted."""
    return os.path.ismount(root(folder))


def mount(folder: Path, lower: Path) -> Path:
    """Mount the instance's root (once) and return where."""
    target = root(folder)
    for part in (target, folder / "upper", folder / "work"):
        part.mkdir(parents=True, exist_ok=True)
    if not is_mounted(folder):
        options = f"lowerdir={lower},upperdir={folder / 'upper'},workdir={folder / 'work'}"
        run("mount", "-t", "overlay", "-o", options, "overlay", str(target))
    return target


def unmount(folder: Path) -> None:
    """Unmount the instance's root if it is mounted."""
    if is_mounted(folder):
        # Lazily: a process outside that still looks into it must not keep the instance.
        run("umount", "--lazy", str(root(folder)))
