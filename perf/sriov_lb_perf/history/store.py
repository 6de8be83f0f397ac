# SPDX-License-Identifier: Apache-2.0
"""The history: SQLite, one row per run and one per figure. The results themselves stay files.

A *series* is what may be compared over time: one profile on one substrate, or whatever the
operator names so. One process at a time changes a history (a lock beside it); readers do not
wait. Times are those of the results, but the order of runs is the order they were stored in: a
clock that was set back does not reorder the past.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import errors
from ..results.lasting import lasting
from ..results.store import number

VERSION = 2

#: Version 2: what the machines were, so that a change can be seen beside what changed with it.
FACTS = """
CREATE TABLE fact (
    run INTEGER NOT NULL REFERENCES run (n) ON DELETE CASCADE,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (run, name)
) WITHOUT ROWID;
"""

SCHEMA = """
CREATE TABLE run (
    n INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    series TEXT NOT NULL,
    started TEXT NOT NULL,
    status TEXT NOT NULL,
    sound INTEGER NOT NULL,
    word TEXT NOT NULL,
    sentence TEXT NOT NULL,
    tool TEXT NOT NULL,
    folder TEXT NOT NULL
);
CREATE INDEX run_series ON run (series, n);
CREATE TABLE figure (
    run INTEGER NOT NULL REFERENCES run (n) ON DELETE CASCADE,
    metric TEXT NOT NULL,
    title TEXT NOT NULL,
    unit TEXT NOT NULL,
    better TEXT NOT NULL,
    verdict TEXT NOT NULL,
    normal REAL,
    sriov REAL,
    ratio REAL,
    low REAL,
    high REAL,
    PRIMARY KEY (run, metric)
) WITHOUT ROWID;
CREATE TABLE change (
    series TEXT NOT NULL,
    metric TEXT NOT NULL,
    what TEXT NOT NULL,
    since INTEGER NOT NULL REFERENCES run (n),
    before REAL NOT NULL,
    after REAL NOT NULL,
    found INTEGER NOT NULL REFERENCES run (n),
    PRIMARY KEY (series, metric, what, since)
);
"""

#: What of a metric is watched over time: the ratio, and each VIP by itself.
WATCHED = ("ratio", "sriov", "normal")


@dataclass(frozen=True)
class Point:
    """One run's figure of one metric. Values are NaN where there is none."""

    n: int
    run: str
    started: str
    sound: bool
    verdict: str
    normal: float
    sriov: float
    ratio: float
    low: float
    high: float


class History:
    """An open history. Use as a context manager.

    :param path: of the SQLite file; made when it is not there.
    :param writing: take the lock. Without it, only reading methods may be used.
    """

    def __init__(self, path: Path, *, writing: bool = False) -> None:
        self.path = path
        self._lock: int | None = None
        self._database: sqlite3.Connection | None = None
        self._writing = writing
        self._has_facts = True

    def __enter__(self) -> History:
        try:
            self._open()
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise _explained(self.path, error) from error
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_exc) -> None:
        self.close()

    def _open(self) -> None:
        if self._writing:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = self.path.with_name(self.path.name + ".lock")
            self._lock = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                with open(lock) as file:
                    holder = file.read().strip() or "unknown"
                raise errors.Busy(
                    f"The history {self.path} is in use by process {holder}."
                ) from error
            os.ftruncate(self._lock, 0)
            os.write(self._lock, f"{os.getpid()}\n".encode())
        elif not self.path.is_file():
            raise errors.HistoryFailed(
                f"There is no history {self.path}.",
                remedy="Name another with --history, or store a run: sriov-lb-perf history add.",
            )
        mode = "rwc" if self._writing else "ro"
        self._database = sqlite3.connect(
            f"file:{self.path}?mode={mode}", uri=True, timeout=30.0, isolation_level=None
        )
        self._database.execute("PRAGMA foreign_keys = ON")
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version in (0, 1) and self._writing:
            script = SCHEMA + FACTS if version == 0 else FACTS
            with self._transaction() as database:
                for statement in script.split(";"):
                    if statement.strip():
                        database.execute(statement)
                database.execute(f"PRAGMA user_version = {VERSION}")
        elif version not in (1, VERSION):
            raise errors.HistoryFailed(
                f"The history {self.path} has version {version}; this tool writes {VERSION}.",
                remedy="Use the version of the tool that made it, or start a new one.",
            )
        self._has_facts = version != 1 or self._writing

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, also when the process is killed or the disk is full."""
        database = self._database
        try:
            database.execute("BEGIN IMMEDIATE")
            yield database
            database.execute("COMMIT")
        except BaseException as error:
            if database.in_transaction:
                with contextlib.suppress(sqlite3.Error):  # the first error is the one to tell
                    database.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise _explained(self.path, error) from error
            raise

    # runs

    def add(self, document: Mapping[str, Any], folder: Path, series: str) -> int:
        """Store a result; returns its number. A run that is there already is replaced."""
        with self._transaction() as database:
            old = database.execute("SELECT n FROM run WHERE id = ?", [document["id"]]).fetchone()
            row = [
                document["id"], series, document["started"], document["status"],
                bool(document["verdict"]["sound"]), document["verdict"]["word"],
                document["verdict"]["sentence"], document["tool"]["version"], str(folder),
            ]  # fmt: skip
            if old:
                (n,) = old
                database.execute("DELETE FROM figure WHERE run = ?", [n])
                database.execute("DELETE FROM fact WHERE run = ?", [n])
                database.execute(
                    "UPDATE run SET id=?, series=?, started=?, status=?, sound=?, word=?, "
                    "sentence=?, tool=?, folder=? WHERE n = ?",
                    [*row, n],
                )
            else:
                n = database.execute(
                    "INSERT INTO run (id, series, started, status, sound, word, sentence, tool, "
                    "folder) VALUES (?,?,?,?,?,?,?,?,?)",
                    row,
                ).lastrowid
            database.executemany(
                "INSERT INTO fact VALUES (?,?,?)",
                [[n, name, value] for name, value in lasting(document).items()],
            )
            for metric in document["metrics"]:
                if not metric["tested"]:
                    continue
                ratio = metric["ratio"] or {}
                database.execute(
                    "INSERT INTO figure VALUES (?,?,?,?,?,?,?,?,?,?,?)",
                    [
                        n, metric["id"], metric["title"], metric["unit"], metric["better"],
                        metric["verdict"], _real(metric["values"]["A"]["value"]),
                        _real(metric["values"]["B"]["value"]), _real(ratio.get("estimate")),
                        _real(ratio.get("low")), _real(ratio.get("high")),
                    ],
                )  # fmt: skip
        return n

    def runs(self, series: str | None = None, last: int | None = None) -> list[dict[str, Any]]:
        """Runs in the order they were stored, oldest first."""
        where, values = ("WHERE series = ?", [series]) if series else ("", [])
        limit = f"LIMIT {int(last)}" if last else ""
        rows = self._rows(f"SELECT * FROM run {where} ORDER BY n DESC {limit}", values)
        return rows[::-1]

    def run(self, identifier: str) -> dict[str, Any]:
        """One run, by its id, the beginning of it, or its number.

        :raises HistoryFailed: none, or several.
        """
        found = self._rows("SELECT * FROM run WHERE id = ? OR n = ?", [identifier, identifier])
        found = found or self._rows("SELECT * FROM run WHERE id LIKE ? || '%'", [identifier])
        if len(found) != 1:
            raise errors.HistoryFailed(
                f"{len(found)} runs of {self.path} match {identifier!r}; expected one.",
                remedy="`sriov-lb-perf history list` shows the ids.",
            )
        return found[0]

    def figures(self, n: int) -> list[dict[str, Any]]:
        """The figures of a run."""
        return self._rows("SELECT * FROM figure WHERE run = ? ORDER BY metric", [n])

    def facts(self, n: int) -> dict[str, str]:
        """What the machines of a run were (:func:`.results.fingerprint.lasting`); empty for runs
        stored before there were facts."""
        if not self._has_facts:
            return {}
        rows = self._rows("SELECT name, value FROM fact WHERE run = ? ORDER BY name", [n])
        return {row["name"]: row["value"] for row in rows}

    def sound_before(self, n: int) -> int | None:
        """The number of the sound run before run ``n`` in its series."""
        found = self._rows(
            "SELECT n FROM run WHERE series = (SELECT series FROM run WHERE n = ?) AND n < ? "
            "AND sound ORDER BY n DESC LIMIT 1",
            [n, n],
        )
        return found[0]["n"] if found else None

    def changed_with(self, n: int) -> list[tuple[str, str, str]]:
        """What else was another one in run ``n`` than in the sound run before it of its series:
        (fact, before, after)."""
        before = self.sound_before(n)
        was, now = self.facts(before) if before else {}, self.facts(n)
        if not was or not now:
            return []
        return [
            (name, was.get(name, "–"), now.get(name, "–"))
            for name in dict.fromkeys([*was, *now])
            if was.get(name) != now.get(name)
        ]

    def series(self) -> list[str]:
        return [row["series"] for row in self._rows("SELECT DISTINCT series FROM run", [])]

    def metrics(self, series: str) -> list[dict[str, Any]]:
        """Metrics a series has: metric, title, unit, better (as the newest run says)."""
        return self._rows(
            "SELECT metric, title, unit, better, MAX(n) AS newest FROM figure JOIN run ON run = n "
            "WHERE series = ? GROUP BY metric ORDER BY metric",
            [series],
        )

    def points(self, series: str, metric: str, last: int = 365) -> list[Point]:
        """The newest ``last`` figures of a metric, oldest first, unsound runs included."""
        rows = self._rows(
            "SELECT n, id, started, sound, verdict, normal, sriov, ratio, low, high "
            "FROM figure JOIN run ON run = n WHERE series = ? AND metric = ? "
            "ORDER BY n DESC LIMIT ?",
            [series, metric, last],
        )
        return [
            Point(
                row["n"], row["id"], row["started"], bool(row["sound"]), row["verdict"],
                *(number(row[key]) for key in ("normal", "sriov", "ratio", "low", "high")),
            )
            for row in rows[::-1]
        ]  # fmt: skip

    # changes

    def changes(self, series: str) -> list[dict[str, Any]]:
        """Change points found so far: metric, what, since, before, after, found, run."""
        return self._rows(
            "SELECT change.*, run.id AS run, run.started AS started FROM change "
            "JOIN run ON since = n WHERE change.series = ? ORDER BY since, metric, what",
            [series],
        )

    def add_changes(self, series: str, found: Sequence[Mapping[str, Any]], now: int) -> list:
        """Store change points; returns those that were not known before.

        :param found: mappings with metric, what, since (run number), before, after.
        :param now: number of the run that made them visible.
        """
        fresh = []
        with self._transaction() as database:
            for each in found:
                # As runs come in, the place of a known change may move by a night or two.
                near = database.execute(
                    "SELECT 1 FROM change JOIN run AS a ON a.n = change.since WHERE "
                    "change.series = ? AND metric = ? AND what = ? AND (SELECT COUNT(*) FROM run "
                    "WHERE run.series = change.series AND run.n > MIN(a.n, ?) AND run.n <= "
                    "MAX(a.n, ?)) <= 2 AND (change.after > change.before) = (? > ?)",
                    [
                        series, each["metric"], each["what"], each["since"], each["since"],
                        each["after"], each["before"],
                    ],
                ).fetchone()
                if near:
                    continue
                database.execute(
                    "INSERT INTO change VALUES (?,?,?,?,?,?,?)",
                    [
                        series, each["metric"], each["what"], each["since"], each["before"],
                        each["after"], now,
                    ],
                )  # fmt: skip
                fresh.append(each)
        return fresh

    def _rows(self, query: str, values: Sequence) -> list[dict[str, Any]]:
        try:
            cursor = self._database.execute(query, values)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor]
        except sqlite3.Error as error:
            raise _explained(self.path, error) from error


def _real(value: Any) -> float | None:
    """For a REAL column: SQLite knows infinity, but not NaN."""
    found = number(value)
    return None if found != found else found


def _explained(path: Path, error: Exception) -> errors.PerfError:
    if isinstance(error, errors.PerfError):
        return error
    text = str(error)
    if "full" in text or getattr(error, "errno", None) == 28:
        return errors.HistoryFailed(
            f"The disk of the history {path} is full; nothing of this run was stored in it.",
            remedy="Free space, then store the run: sriov-lb-perf history add RUN.",
        )
    if "malformed" in text or "not a database" in text:
        return errors.HistoryFailed(
            f"The history {path} is damaged: {text}.",
            remedy="Restore it from a backup, or build it anew: sriov-lb-perf history add RUN…",
        )
    return errors.HistoryFailed(f"The history {path}: {text}.")


def default_series(document: Mapping[str, Any]) -> str:
    """One profile on one substrate."""
    substrate = document["environment"].get("substrate", "unknown")
    return f"{document['profile']['name']}@{substrate}"
