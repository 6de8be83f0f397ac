# SPDX-License-Identifier: Apache-2.0
"""Which run a process belongs to, and where that run keeps its evidence.

Tempest starts several worker processes for one run and tells them nothing of each other.
Those with the same parent that live at the same time are one run: the first to come chooses
the id, each holds a shared lock on the file that has it, and once nobody holds the lock the
next to come starts a new run.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sriov_lb_tests import errors


@dataclass(frozen=True)
class Run:
    """A run.

    :param id: part of every name.
    :param folder: evidence and verdicts.
    """

    id: str
    folder: Path
    _lock: int = -1

    def evidence(self, *parts: str) -> Path:
        """A folder for evidence, made if missing; odd characters become dashes."""
        path = self.folder.joinpath(*(re.sub(r"[^\w.-]+", "-", part) for part in parts))
        path.mkdir(parents=True, exist_ok=True)
        return path


class Turn:
    """One process of a run at a time: networks, VFs and hosts are the same for all of them.

    :param folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / ".turn"
        self._fd: int | None = None

    def take(self, waiting: Callable[[], None]) -> None:
        """Wait until no other process has it.

        :param waiting: called once, if there is one that has.
        """
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(self._fd, fcntl.LOCK_EX)

    def give(self) -> None:
        """Let the next have it; a process that ends does so in any case."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def join(artifacts: Path, fixed_id: str, new_id: str) -> Run:
    """The run this process belongs to.

    :param artifacts: the folder of all runs.
    :param fixed_id: the id the user chose; "" to join the siblings', or start ``new_id``.
    :raises JournalUnwritable: the folder cannot be written.
    """
    try:
        artifacts.mkdir(parents=True, exist_ok=True)
        if fixed_id:
            run = Run(fixed_id, artifacts / fixed_id)
        else:
            run = _join_siblings(artifacts, new_id)
        run.folder.mkdir(parents=True, exist_ok=True)
        latest = artifacts / "latest"
        scratch = artifacts / f".latest.{os.getpid()}"
        scratch.symlink_to(run.folder.name)
        scratch.replace(latest)
    except OSError as error:
        raise errors.JournalUnwritable(
            f"The folder for evidence, {artifacts}, cannot be written: {error.strerror}.",
            remedy="Correct [sriov_lb] artifacts_dir, or make room.",
        ) from error
    return run


def _join_siblings(artifacts: Path, new_id: str) -> Run:
    path = artifacts / ".runs" / _parent()
    path.parent.mkdir(exist_ok=True)
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # Siblings live. One of them may be about to write the id.
            fcntl.flock(fd, fcntl.LOCK_SH)
            known = os.pread(fd, 64, 0).decode().strip()
            if known:
                return Run(known, artifacts / known, fd)
            os.close(fd)
            time.sleep(0.01)
            continue
        os.ftruncate(fd, 0)
        os.pwrite(fd, new_id.encode(), 0)
        fcntl.flock(fd, fcntl.LOCK_SH)
        return Run(new_id, artifacts / new_id, fd)


def _parent() -> str:
    """The parent process, told apart from a later one with the same number."""
    parent = os.getppid()
    try:
        stat = Path(f"/proc/{parent}/stat").read_text()
    except OSError:
        return str(parent)
    # Field 22 is the start time; the name in field 2 may hold spaces and parentheses.
    return f"{parent}-{stat.rpartition(')')[2].split()[19]}"
