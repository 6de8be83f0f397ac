# SPDX-License-Identifier: Apache-2.0
"""What is written into an instance's disk before its first boot.

The part of cloud-init that the lab's guests need, done from outside: identity, key, injected files,
config drive, a first-boot script. Paths are resolved as the guest would: an absolute link in a tree
must not lead out of it.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sriov_lb_lab.compute.errors import ImageError

CONFIG_DRIVE = "/var/lib/cloud/seed/config_drive"
USER_DATA = "/var/lib/cloud/lab-user-data"
UNITS = "/etc/systemd/system"

# The amphora agent writes to /sys/bus/pci/rescan when it misses an interface. sysfs is the
# machine's own: the write would make it search its PCI bus, or fail and turn the agent's answer
# from "not there yet, try again" into an error. An empty tmpfs takes the write and does nothing.
MASK_PCI = """\
[Unit]
Description=Keep the machine's PCI bus out of reach
DefaultDependencies=no
Before=local-fs.target
ConditionPathExists=/sys/bus/pci

[Mount]
What=tmpfs
Where=/sys/bus/pci
Type=tmpfs
Options=mode=0755
"""

# /proc/meminfo is the machine's own. The amphora reports it to Octavia, which gives half of what is
# free to haproxy's TLS cache: gigabytes, of which an amphora of one gigabyte has none.
MEMINFO = "/etc/lab-meminfo"
OWN_MEMINFO = f"""\
[Unit]
Description=Show the memory of the flavor, not the machine's
DefaultDependencies=no
After=local-fs.target
Before=sysinit.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/mount --bind {MEMINFO} /proc/meminfo
"""

WAIT_ONLINE = "/lib/systemd/systemd-networkd-wait-online --timeout=30"

RUN_USER_DATA = f"""\
[Unit]
Description=User data script of the first boot
ConditionPathExists=!{USER_DATA}.done
After=systemd-networkd.service

[Service]
Type=oneshot
ExecStartPre=/usr/bin/touch {USER_DATA}.done
# Not by network-online.target: nothing else has to wait for it, and the tree masks its service.
ExecStartPre=-/bin/sh -c '! systemctl -q is-active systemd-networkd || exec {WAIT_ONLINE}'
ExecStart={USER_DATA}
StandardOutput=journal+console
StandardError=journal+console
TimeoutStartSec=infinity

[Install]
WantedBy=multi-user.target
"""

_MAX_LINKS = 40


@dataclass(frozen=True)
class Identity:
    """Who the guest is.

    :param uuid: becomes the machine id.
    :param hostname: its host name.
    :param user: the login that gets the key; must exist in the tree.
    :param key: public key in OpenSSH's form, or "".
    :param host_key: private ssh host key in OpenSSH's form and its public half, or "" for both:
        then the tree's own stay.
    """

    uuid: str
    hostname: str
    user: str
    key: str = ""
    host_key: str = ""
    host_key_public: str = ""


@dataclass(frozen=True)
class Contents:
    """What the guest gets.

    :param injected: (path, bytes) as ``server create --file`` gave them.
    :param config_drive: path below the drive -> bytes; empty without one.
    :param network_units: path -> text, see :mod:`network_config`.
    :param user_data: raw; run at the first boot if it begins with ``#!``.
    :param memory_mb: what the guest is to believe it has; 0 leaves it the machine's.
    """

    injected: Iterable[tuple[str, bytes]] = ()
    config_drive: Mapping[str, bytes] = field(default_factory=dict)
    network_units: Mapping[str, str] = field(default_factory=dict)
    user_data: bytes = b""
    memory_mb: int = 0


def write(root: Path, identity: Identity, contents: Contents) -> None:
    """Write all of it into the file system mounted at ``root``.

    :raises ImageError: the tree lacks the login user.
    """
    disk = _Disk(root)
    _identity(disk, identity)
    disk.put(f"{UNITS}/sys-bus-pci.mount", MASK_PCI.encode())
    disk.link(f"{UNITS}/local-fs.target.wants/sys-bus-pci.mount", f"{UNITS}/sys-bus-pci.mount")
    if contents.memory_mb:
        disk.put(MEMINFO, meminfo(contents.memory_mb).encode(), 0o444)
        disk.put(f"{UNITS}/lab-meminfo.service", OWN_MEMINFO.encode())
        disk.link(
            f"{UNITS}/sysinit.target.wants/lab-meminfo.service", f"{UNITS}/lab-meminfo.service"
        )
    for path, text in contents.network_units.items():
        disk.put(path, text.encode())
    if contents.network_units:
        _enable_networkd(disk)
    for path, data in contents.config_drive.items():
        disk.put(f"{CONFIG_DRIVE}/{path}", data, 0o600)
    if contents.user_data.startswith(b"#!"):
        disk.put(USER_DATA, contents.user_data, 0o700)
        disk.put(f"{UNITS}/lab-user-data.service", RUN_USER_DATA.encode())
        disk.link(
            f"{UNITS}/multi-user.target.wants/lab-user-data.service",
            f"{UNITS}/lab-user-data.service",
        )
    for path, data in contents.injected:
        # cloud-init's mode for files that come by config drive.
        disk.put(path, data, 0o660)


def meminfo(memory_mb: int) -> str:
    """/proc/meminfo of a machine with that much memory, three quarters of it in use: what it says
    is free is really taken, by each amphora with a TLS listener."""
    total = memory_mb * 1024
    sizes = {
        "MemTotal": total,
        "MemFree": total // 8,
        "MemAvailable": total // 4,
        "Buffers": total // 32,
        "Cached": total * 3 // 32,
    }
    names = ("SwapCached", "SwapTotal", "SwapFree", "Shmem", "Slab")
    lines = {**sizes, **dict.fromkeys(names, 0)}
    return "".join(f"{name + ':':<15} {size:>8} kB\n" for name, size in lines.items())


def _identity(disk: _Disk, identity: Identity) -> None:
    name = identity.hostname
    disk.put("/etc/machine-id", (identity.uuid.replace("-", "") + "\n").encode(), 0o444)
    disk.put("/etc/hostname", f"{name}\n".encode())
    hosts = f"127.0.0.1 localhost\n127.0.1.1 {name}\n::1 localhost ip6-localhost ip6-loopback\n"
    disk.put("/etc/hosts", hosts.encode())
    if identity.key:
        uid, gid, home = disk.user(identity.user)
        disk.folder(f"{home}/.ssh", 0o700, uid, gid)
        keys = f"{home}/.ssh/authorized_keys"
        disk.put(keys, identity.key.strip().encode() + b"\n", 0o600, uid, gid)
    if identity.host_key:
        # Otherwise all instances of a tree would share one, and nobody could tell them apart.
        for old in disk.entries("/etc/ssh"):
            if old.startswith("ssh_host_"):
                disk.remove(f"/etc/ssh/{old}")
        disk.put("/etc/ssh/ssh_host_ed25519_key", identity.host_key.encode(), 0o600)
        public = identity.host_key_public.strip() + "\n"
        disk.put("/etc/ssh/ssh_host_ed25519_key.pub", public.encode())


def _enable_networkd(disk: _Disk) -> None:
    library = "/lib/systemd/system"
    disk.link(
        f"{UNITS}/multi-user.target.wants/systemd-networkd.service",
        f"{library}/systemd-networkd.service",
    )


class _Disk:
    """The file system of a guest that is not running, addressed by the guest's own paths."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def resolve(self, path: str) -> Path:
        """Where the guest's ``path`` is outside, with every link followed as the guest would."""
        done: list[str] = []
        todo = [part for part in path.split("/") if part not in ("", ".")]
        links = 0
        while todo:
            part = todo.pop(0)
            if part == "..":
                done[-1:] = []
                continue
            here = self._root.joinpath(*done, part)
            if here.is_symlink():
                links += 1
                if links > _MAX_LINKS:
                    raise ImageError(f"{path} in the image is a circle of symbolic links")
                target = os.readlink(here)
                if target.startswith("/"):
                    done = []
                todo = [piece for piece in target.split("/") if piece not in ("", ".")] + todo
            else:
                done.append(part)
        return self._root.joinpath(*done)

    def put(self, path: str, data: bytes, mode: int = 0o644, uid: int = 0, gid: int = 0) -> None:
        """Write a file, with the folders above it."""
        target = self.resolve(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            os.fchown(file.fileno(), uid, gid)
            os.fchmod(file.fileno(), mode)

    def folder(self, path: str, mode: int, uid: int, gid: int) -> None:
        """Make a folder, or take over one that is there."""
        target = self.resolve(path)
        target.mkdir(parents=True, exist_ok=True)
        os.chown(target, uid, gid)
        os.chmod(target, mode)

    def link(self, path: str, target: str) -> None:
        """Make a symbolic link in the place of whatever is there."""
        parent, name = posixpath.split(path)
        where = self.resolve(parent)
        where.mkdir(parents=True, exist_ok=True)
        (where / name).unlink(missing_ok=True)
        (where / name).symlink_to(target)

    def remove(self, path: str) -> None:
        """Remove a file or link; no error if there is none."""
        parent, name = posixpath.split(path)
        (self.resolve(parent) / name).unlink(missing_ok=True)

    def entries(self, path: str) -> list[str]:
        """Names in a folder; empty if it is not there."""
        folder = self.resolve(path)
        return sorted(os.listdir(folder)) if folder.is_dir() else []

    def user(self, name: str) -> tuple[int, int, str]:
        """uid, gid and home of a user of the tree."""
        for line in self.resolve("/etc/passwd").read_text().splitlines():
            fields = line.split(":")
            if fields[0] == name:
                return int(fields[2]), int(fields[3]), fields[5]
        raise ImageError(
            f"the image has no user {name!r} to give the key pair to",
            'name its login as "user" in the image\'s descriptor',
        )
