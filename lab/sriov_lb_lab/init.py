# SPDX-License-Identifier: Apache-2.0
"""The lab's first process: make the private world, then become the process supervisor.

Run by :mod:`sriov_lb_lab.runtime` with the host's Python, already inside fresh mount, PID,
network, IPC and UTS namespaces; standard library only, because after ``pivot_root`` the host's
files are gone. When this process dies, the kernel ends everything in its PID namespace, and the
mounts, links and network namespaces go with it.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

# Character devices that services and containers need; taken from the host one by one, so that its
# disks and terminals stay out of reach.
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "fuse", "net/tun")


def main(spec_file: str) -> None:
    """Set up as the JSON file says and exec its ``argv``.

    Keys: ``hostname``, ``system`` (tree), ``overlay`` (folder for upper, work, merged), ``binds``
    (list of ``{source, target, read_only}``), ``hosts_file`` (text), ``environment``, ``setup``
    (list of argv run in the new root before the supervisor), ``argv``.
    """
    spec = json.loads(Path(spec_file).read_text())
    socket.sethostname(spec["hostname"])
    root = _mount_root(Path(spec["system"]), Path(spec["overlay"]))
    _mount_kernel_interfaces(root)
    for bind in spec["binds"]:
        _bind(Path(bind["source"]), root / bind["target"].lstrip("/"), bind["read_only"])
    (root / "etc/hosts").write_text(spec["hosts_file"])
    (root / "etc/hostname").write_text(spec["hostname"] + "\n")
    _enter(root)
    for argv in spec["setup"]:
        subprocess.run(argv, check=True, env=spec["environment"])
    os.execve(spec["argv"][0], spec["argv"], spec["environment"])


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def _bind(source: Path, target: Path, read_only: bool) -> None:
    target.mkdir(parents=True, exist_ok=True)
    _mount("--bind", str(source), str(target))
    if read_only:
        _mount("-o", "remount,bind,ro", str(target))


def _mount_root(system: Path, overlay: Path) -> Path:
    _mount("--make-rprivate", "/")
    upper, work, merged = (overlay / name for name in ("upper", "work", "merged"))
    for folder in (upper, work, merged):
        folder.mkdir(parents=True, exist_ok=True)
    _mount(
        "-t", "overlay", "overlay", "-o",
        f"lowerdir={system},upperdir={upper},workdir={work}", str(merged),
    )  # fmt: skip
    return merged


def _mount_kernel_interfaces(root: Path) -> None:
    _mount("-t", "proc", "proc", str(root / "proc"))
    _mount("-t", "sysfs", "sysfs", str(root / "sys"))
    cgroups = root / "sys/fs/cgroup"
    if cgroups.is_dir():
        _mount("--rbind", "/sys/fs/cgroup", str(cgroups))
    for folder, mode in (("run", "0755"), ("tmp", "1777"), ("dev", "0755")):
        _mount("-t", "tmpfs", "-o", f"mode={mode},nosuid", folder, str(root / folder))
    dev = root / "dev"
    for name in _DEVICES:
        source, target = Path("/dev") / name, dev / name
        if source.exists():
            target.parent.mkdir(exist_ok=True)
            target.touch()
            _mount("--bind", str(source), str(target))
    for name in ("pts", "shm", "mqueue"):
        (dev / name).mkdir()
    _mount("-t", "devpts", "-o", "newinstance,ptmxmode=0666,mode=0620,gid=5", "devpts",
           str(dev / "pts"))  # fmt: skip
    _mount("-t", "tmpfs", "-o", "mode=1777", "shm", str(dev / "shm"))
    (dev / "ptmx").symlink_to("pts/ptmx")
    for name, target in (("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"),
                         ("stdout", "/proc/self/fd/1"), ("stderr", "/proc/self/fd/2")):  # fmt: skip
        (dev / name).symlink_to(target)
    (root / "run/netns").mkdir()
    (root / "run/lock").mkdir()


def _enter(root: Path) -> None:
    old = root / "mnt"
    old.mkdir(exist_ok=True)
    subprocess.run(["pivot_root", str(root), str(old)], check=True)
    os.chroot(".")
    os.chdir("/")
    os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
    subprocess.run(["umount", "--lazy", "/mnt"], check=True)


if __name__ == "__main__":
    main(sys.argv[1])
