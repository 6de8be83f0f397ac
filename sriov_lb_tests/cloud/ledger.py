# SPDX-License-Identifier: Apache-2.0
"""Everything that is made is written to disk before it is asked for.

A journal is a file of JSON lines, each forced to disk before the request it announces
leaves this machine. So a run that is killed at any point leaves enough behind for
``sriov-lb cleanup`` to find what it made: by id where the answer was still written down,
by name where it was not, since every name carries the run's id.

The lines, in the order they appear::

    {"journal": 1, "run": "k3f9t2ab", "pid": 4711, ...}
    {"op": "who", "identities": {"member": {"cloud": "...", "project_id": "..."}}}
    {"op": "intent", "n": 1, "kind": "server", "name": "sriov-lb-k3f9t2ab_91c4-1-client",
     "by": "member", "extra": {...}}
    {"op": "made",   "n": 1, "id": "5f0c..."}           the service answered
    {"op": "failed", "n": 1, "error": "..."}            it refused; may exist all the same
    {"op": "seen",   "n": 1, "kind": "amphora", "id": "..."}   a service made it along the way
    {"op": "gone",   "n": 1}                            seen to be gone
    {"op": "closed"}                                    all is gone

Nothing secret is ever written.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sriov_lb_tests import errors

T = TypeVar("T")

#: How every name begins. The run id follows, then a number, then what it is.
PREFIX = "sriov-lb"

VERSION = 1

# No vowels and no look-alikes: the id is read aloud and never spells a word.
_ALPHABET = "bcdfghjkmnpqrstvwxz2345679"


def new_run_id() -> str:
    """Eight characters, unique enough for every run a cloud will ever see (about 37 bits)."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(8))


def run_token(run_id: str) -> str:
    """What every name of this run begins with, and nothing else's name does.

    The underscore ends the run id, which may hold dashes of its own.
    """
    return f"{PREFIX}-{run_id}_"


@dataclass
class Entry:
    """One resource of a journal."""

    number: int
    kind: str
    name: str
    by: str
    extra: dict[str, Any] = field(default_factory=dict)
    id: str | None = None
    error: str | None = None
    gone: bool = False
    #: Made by a service on behalf of this one: (kind, id), such as an amphora.
    followers: list[tuple[str, str]] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" + (f" ({self.id})" if self.id else "")


@dataclass
class Record:
    """A journal as read back from disk."""

    path: Path
    run_id: str
    identities: dict[str, dict[str, str]]
    entries: list[Entry]
    closed: bool
    pid: int | None = None

    @property
    def open_entries(self) -> list[Entry]:
        """What may still exist, in the order it was made."""
        return [entry for entry in self.entries if not entry.gone]


class Ledger:
    """The journal of one process, open for writing.

    :param directory: where journals live; made if missing.
    :param run_id: of :func:`new_run_id`; several processes of one run may share it.
    :param identities: who the connections are (:func:`connect.identity`), by role.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        run_id: str,
        identities: dict[str, dict[str, str]] | None = None,
    ) -> None:
        self.run_id = run_id
        self.entries: list[Entry] = []
        self._lock = threading.RLock()
        # The part makes names of processes that share a run id differ.
        self._part = secrets.token_hex(2)
        self._named = 0
        self.path = Path(directory) / f"{run_id}-{os.getpid()}-{self._part}.jsonl"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(
                self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600
            )
            # Held until this process ends, however it ends: says that the run is alive.
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise errors.JournalUnwritable(
                f"The journal {self.path} cannot be created: {error.strerror}."
            ) from error
        self._write(
            {
                "journal": VERSION,
                "run": run_id,
                "pid": os.getpid(),
                "started": time.time(),
                "identities": identities or {},
            }
        )
        _sync_directory(self.path.parent)

    def describe(self, identities: dict[str, dict[str, str]]) -> None:
        """Record who the connections are, once they are known."""
        with self._lock:
            self._write({"op": "who", "identities": identities})

    # --- names ---------------------------------------------------------------------

    @property
    def token(self) -> str:
        return run_token(self.run_id)

    @property
    def mine(self) -> str:
        """What every name made through this journal begins with."""
        return f"{self.token}{self._part}-"

    def name(self, what: str) -> str:
        """A fresh name for ``what``: ``sriov-lb-<run>_<part>-<n>-<what>``."""
        with self._lock:
            self._named += 1
            return f"{self.mine}{self._named}-{what}"

    # --- making --------------------------------------------------------------------

    def make(
        self,
        kind: str,
        name: str,
        by: str,
        request: Callable[[], T],
        **extra: Any,
    ) -> T:
        """Record the intent, make the request, record the answer; returns the answer.

        :param kind: one of :data:`kinds.KINDS`.
        :param by: whose connection makes it, ``member`` or ``admin``.
        :param request: returns an object with ``id`` (or ``name``, where that is the id).
        :param extra: what is needed to find or undo it (JSON).
        :raises JournalUnwritable: nothing was requested.
        """
        entry = self.intend(kind, name, by, **extra)
        try:
            answer = request()
        except BaseException as error:
            # The service may have made it all the same, so the entry stays open.
            self.note(entry, "failed", error=f"{type(error).__name__}: {error}"[:500])
            raise
        self.made(entry, answer)
        return answer

    def intend(self, kind: str, name: str, by: str, **extra: Any) -> Entry:
        """Record that a resource is about to be requested."""
        with self._lock:
            entry = Entry(len(self.entries) + 1, kind, name, by, extra)
            self._write(
                {
                    "op": "intent",
                    "n": entry.number,
                    "kind": kind,
                    "name": name,
                    "by": by,
                    "extra": extra,
                }
            )
            self.entries.append(entry)
            return entry

    def made(self, entry: Entry, answer: Any) -> None:
        """Record the id that the service gave."""
        entry.id = str(getattr(answer, "id", None) or answer["id"])
        self.note(entry, "made", id=entry.id)

    def saw(self, entry: Entry, kind: str, resource_id: str) -> None:
        """Record something that a service made because of ``entry``."""
        if (kind, resource_id) not in entry.followers:
            entry.followers.append((kind, resource_id))
            self.note(entry, "seen", kind=kind, id=resource_id)

    def gone(self, entry: Entry) -> None:
        """Record that a resource was seen to be gone."""
        entry.gone = True
        self.note(entry, "gone")

    def find(self, kind: str, resource_id: str) -> Entry | None:
        """The entry of a resource that was made here, if it was."""
        for entry in reversed(self.entries):
            if entry.kind == kind and resource_id in (entry.id, entry.name):
                return entry
        return None

    @property
    def open_entries(self) -> list[Entry]:
        """What may still exist, in the order it was made."""
        return [entry for entry in self.entries if not entry.gone]

    # --- the file ------------------------------------------------------------------

    def note(self, entry: Entry, op: str, **fields: Any) -> None:
        with self._lock:
            self._write({"op": op, "n": entry.number, **fields})

    def close(self) -> None:
        """Record that all is gone, if it is, and close the file."""
        with self._lock:
            if self._fd < 0:
                return
            if not self.open_entries:
                self._write({"op": "closed"})
            os.close(self._fd)
            self._fd = -1

    def _write(self, line: dict[str, Any]) -> None:
        data = json.dumps({**line, "t": round(time.time(), 3)}, default=str).encode() + b"\n"
        try:
            size = os.fstat(self._fd).st_size
            try:
                if os.write(self._fd, data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(self._fd)
            except OSError:
                # Half a line would spoil the ones after it, once there is room again.
                os.ftruncate(self._fd, size)
                raise
        except OSError as error:
            raise errors.JournalUnwritable(
                f"The journal {self.path} cannot be written: {error.strerror}. What it was to "
                "announce was not requested."
            ) from error


class Reopened(Ledger):
    """A journal of a dead process, opened again to be finished.

    :raises JournalError: the process that writes it is alive.
    """

    def __init__(self, record: Record) -> None:
        self.run_id = record.run_id
        self.entries = record.entries
        self._lock = threading.RLock()
        self._part = secrets.token_hex(2)
        self._named = 0
        self.path = record.path
        try:
            self._fd = os.open(self.path, os.O_RDWR | os.O_APPEND)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self._fd)
                raise errors.JournalError(
                    f"The journal {self.path} belongs to process {record.pid}, which is alive.",
                    remedy="Let the run end, or end it; then clean up.",
                ) from None
            _end_torn_line(self._fd)
        except OSError as error:
            raise errors.JournalUnwritable(
                f"The journal {self.path} cannot be opened: {error.strerror}."
            ) from error


def read(path: str | os.PathLike[str]) -> Record:
    """Read a journal back.

    A torn last line is what a killed process leaves, and is ignored: what it announced had
    not been requested yet. Anything else that does not parse is an error.

    :raises JournalCorrupt: with the number of the line.
    """
    path = Path(path)
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise errors.JournalCorrupt(
            f"The journal {path} cannot be read: {error.strerror}."
        ) from error
    torn = lines.pop()  # b"" after a complete last line
    record: Record | None = None
    by_number: dict[int, Entry] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
            if "journal" in item:
                record = Record(
                    path, item["run"], item.get("identities") or {}, [], False, item.get("pid")
                )
                continue
            if record is None:
                raise KeyError("the head line")
            _replay(item, record, by_number)
        except (ValueError, KeyError, TypeError) as error:
            raise errors.JournalCorrupt(
                f"Line {number} of the journal {path} is not understood ({error}): "
                f"{line[:80].decode(errors='replace')!r}."
            ) from error
    if record is None:
        # Killed while the very first line was written: nothing had been requested.
        run_id = path.name.rsplit("-", 2)[0]
        if torn or path.stat().st_size == 0:
            return Record(path, run_id, {}, [], True)
        raise errors.JournalCorrupt(f"The journal {path} has no head line.")
    return record


def _replay(item: dict[str, Any], record: Record, by_number: dict[int, Entry]) -> None:
    op = item["op"]
    if op == "closed":
        record.closed = True
        return
    if op == "who":
        record.identities.update(item["identities"])
        return
    number = int(item["n"])
    if op == "intent":
        entry = Entry(number, item["kind"], item["name"], item["by"], item.get("extra") or {})
        by_number[number] = entry
        record.entries.append(entry)
        record.closed = False
        return
    entry = by_number[number]
    if op == "made":
        entry.id = item["id"]
    elif op == "failed":
        entry.error = item.get("error")
    elif op == "seen":
        entry.followers.append((item["kind"], item["id"]))
    elif op == "gone":
        entry.gone = True
    else:
        raise KeyError(f"operation {op!r}")


def journals(directory: str | os.PathLike[str], run_id: str | None = None) -> Iterator[Path]:
    """The journals of a folder, oldest first; those of one run if ``run_id`` is given."""
    folder = Path(directory)
    if not folder.is_dir():
        return
    pattern = f"{run_id or '*'}-*.jsonl"
    yield from sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime)


def _end_torn_line(fd: int) -> None:
    """Give a torn last line an end of its own, so that the next one stands alone."""
    size = os.fstat(fd).st_size
    if size and os.pread(fd, 1, size - 1) != b"\n":
        data = os.pread(fd, size, 0)
        os.ftruncate(fd, data.rfind(b"\n") + 1)


def _sync_directory(folder: Path) -> None:
    """A new file survives a crash only when its folder is on disk too."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
