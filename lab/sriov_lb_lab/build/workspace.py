# SPDX-License-Identifier: Apache-2.0
"""The cache folder: one build at a time, whole trees or none, nothing left of a killed build.

A tree is made in ``.building-NAME`` and renamed to ``NAME`` when it is complete and its
``.manifest.json`` is written, so a name that exists is a tree that can be used.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import stat
from collections.abc import Iterator, Mapping
from typing import Any

from sriov_lb_lab.errors import BuildError, HostError

MANIFEST = ".manifest.json"
_BUILDING = ".building-"


class Workspace:
    """The cache folder while something is built in it.

    Use :meth:`locked` around every change.  Reading finished trees needs no lock.
    """

    def __init__(self, cache: pathlib.Path) -> None:
        self.cache = cache
        self.logs = cache / "logs"
        self.apt = cache / "apt"
        self.pip = cache / "pip"
        self._lock: int | None = None

    def ready(self, name: str) -> bool:
        """Tell whether a tree of that name is complete."""
        return (self.cache / name / MANIFEST).is_file()

    def manifest(self, name: str) -> dict[str, Any]:
        """What is recorded of a complete tree."""
        return json.loads((self.cache / name / MANIFEST).read_text(encoding="utf-8"))

    @property
    def lock_fds(self) -> tuple[int, ...]:
        """Descriptors to leave open in child processes.

        The lock belongs to the open file, so a child that outlives a killed build keeps the next
        one waiting instead of writing into what that one cleans up.
        """
        return () if self._lock is None else (self._lock,)

    @contextlib.contextmanager
    def locked(self, progress: Any) -> Iterator[None]:
        """Hold the cache for writing: wait for other builds, then clean up after killed ones.

        :param progress: told when there is somebody to wait for.
        :raises HostError: if the folder cannot be made or written.
        """
        try:
            for folder in (self.cache, self.logs, self.apt, self.pip):
                folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.cache / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HostError(
                f"cannot write to the cache folder {self.cache}: {error.strerror}",
                "run as root, or choose another state folder (--state)",
            ) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress("lock", f"another build is at work in {self.cache}; waiting for it")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            self._lock = descriptor
            for name in self.clean():
                progress("clean", f"removed {name}, left behind by an interrupted build")
            try:
                yield
            except BaseException:
                self.clean()
                raise
        finally:
            self._lock = None
            os.close(descriptor)

    def clean(self) -> list[str]:
        """Remove unfinished trees.

        Builds mount only in namespaces of their own, which end with them, so nothing can be
        mounted below a leftover by a build of this lab; a mount found there is somebody's and stops
        the removal rather than losing that somebody's files.

        :returns: the names removed.
        """
        removed = []
        for path in sorted(self.cache.glob(f"{_BUILDING}*")):
            remove_tree(path)
            removed.append(path.name)
        return removed

    def start(self, name: str) -> pathlib.Path:
        """Make the empty folder in which a tree is built."""
        folder = self.cache / f"{_BUILDING}{name}"
        if folder.exists():
            remove_tree(folder)
        folder.mkdir(mode=0o755)
        return folder

    def publish(self, name: str, manifest: Mapping[str, Any]) -> pathlib.Path:
        """Write the manifest and give a finished tree its name.

        :returns: the path of the tree.
        """
        folder, target = self.cache / f"{_BUILDING}{name}", self.cache / name
        text = json.dumps(manifest, indent=2, sort_keys=True) + "\n"
        (folder / MANIFEST).write_text(text, encoding="utf-8")
        if target.exists():
            # Without a manifest it is no tree of ours; with one this build would not have begun.
            remove_tree(target)
        folder.rename(target)
        return target


def mounts_below(folder: pathlib.Path, mountinfo: str) -> list[str]:
    """Mount points at or below a folder, deepest first, from the text of a mountinfo file."""
    points = []
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        if len(fields) < 5:
            continue
        # The kernel writes blanks, tabs, newlines and backslashes of a path in octal.
        point = fields[4]
        for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
            point = point.replace(code, character)
        if point == str(folder) or point.startswith(f"{folder}/"):
            points.append(point)
    return sorted(points, key=len, reverse=True)


def remove_tree(folder: pathlib.Path) -> None:
    """Delete a folder and everything in it, but never through a mount.

    :raises BuildError: if something is mounted below it, or it cannot be removed.
    """
    folder = folder.resolve()
    mountinfo = pathlib.Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    mounts = mounts_below(folder, mountinfo)
    if mounts:
        raise BuildError(f"cannot remove {folder}: {', '.join(mounts)} is mounted there",
                         f"umount {' '.join(mounts)}")

    try:
        if folder.is_dir():
            shutil.rmtree(folder)
        else:
            folder.unlink(missing_ok=True)
    except OSError as error:
        raise BuildError(f"cannot remove {folder}: {error}", "remove it by hand") from error


def link_copy(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copy a tree by hard links: no room, almost no time.

    The copy shares its files with the original.  Whoever changes it must replace files, never write
    into them; package managers do so.

    :param target: an existing, empty folder.
    """
    source_mode = stat.S_IMODE(source.stat().st_mode)
    for path, folders, files in os.walk(source):
        relative = os.path.relpath(path, source)
        here = target if relative == "." else target / relative
        for name in list(folders):
            if os.path.islink(os.path.join(path, name)):
                files.append(name)
                folders.remove(name)
                continue
            made = here / name
            made.mkdir()
            shutil.copystat(os.path.join(path, name), made)
            origin = os.stat(os.path.join(path, name))
            os.chown(made, origin.st_uid, origin.st_gid)
        for name in files:
            if relative == "." and name == MANIFEST:
                continue
            os.link(os.path.join(path, name), here / name, follow_symlinks=False)
    target.chmod(source_mode)
