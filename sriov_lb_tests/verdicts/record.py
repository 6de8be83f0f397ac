# SPDX-License-Identifier: Apache-2.0
"""The record of a run: ``run.json`` says what was tested, ``verdicts.jsonl`` what came out.

Each result is one line, appended under a lock and forced to disk, so that parallel workers
do not mix their lines and a killed run keeps what it had.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from sriov_lb_tests import errors
from sriov_lb_tests.verdicts.model import Result

RESULTS = "verdicts.jsonl"
RUN = "run.json"


class Recorder:
    """The record in one run's folder.

    :param folder: of the run; made if missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def append(self, result: Result) -> None:
        """Add a result.

        :raises JournalUnwritable: it could not be written.
        """
        self._append(result.to_json())

    def describe(self, **facts: Any) -> None:
        """Merge facts about the run (cloud, versions, substrate) into ``run.json``."""
        path = self.folder / RUN
        with self._locked():
            known = json.loads(path.read_text()) if path.exists() else {}
            known.update(facts)
            scratch = path.with_suffix(f".{os.getpid()}.tmp")
            scratch.write_text(json.dumps(known, indent=1, default=str) + "\n")
            scratch.replace(path)

    def relative(self, path: str | os.PathLike[str]) -> str:
        """A path as it stands in results: from the run's folder where it is inside."""
        full = Path(path).resolve()
        folder = self.folder.resolve()
        return str(full.relative_to(folder)) if full.is_relative_to(folder) else str(full)

    def _append(self, item: dict[str, Any]) -> None:
        path = self.folder / RESULTS
        data = json.dumps(item, default=str).encode() + b"\n"
        try:
            with self._locked(), open(path, "ab", buffering=0) as file:
                size = file.seek(0, os.SEEK_END)
                if size and not _ends_a_line(path, size):
                    # A killed worker left half a line: give it an end, readers skip it.
                    data = b"\n" + data
                if file.write(data) != len(data):
                    file.truncate(size)
                    raise OSError(28, os.strerror(28))
                os.fsync(file.fileno())
        except OSError as error:
            raise errors.JournalUnwritable(
                f"The verdict of {item.get('requirement')} cannot be written to {path}: "
                f"{error.strerror}.",
                remedy="Make room, or point [sriov_lb] artifacts_dir at another folder.",
            ) from error

    def _locked(self) -> _Lock:
        return _Lock(self.folder / ".lock")


class _Lock:
    """An advisory lock between the workers of a run; the kernel frees it if one dies."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _ends_a_line(path: Path, size: int) -> bool:
    with open(path, "rb") as file:
        file.seek(size - 1)
        return file.read(1) == b"\n"


def read(folder: Path) -> tuple[dict[str, Any], list[Result]]:
    """What a run recorded: (facts, results in order).

    Half a line, left by a killed worker, is skipped.

    :raises ResourceMissing: the folder is not a run's.
    """
    path = folder / RESULTS
    if not path.is_file():
        runs = sorted(p.parent.name for p in folder.glob(f"*/{RESULTS}"))
        hint = f" It holds these runs: {', '.join(runs)}." if runs else ""
        raise errors.ResourceMissing(
            f"{folder} is not the folder of a run: it has no {RESULTS}.{hint}",
            remedy="Give one run's folder inside [sriov_lb] artifacts_dir.",
        )
    facts_path = folder / RUN
    facts = json.loads(facts_path.read_text()) if facts_path.is_file() else {}
    results = []
    for line in path.read_bytes().splitlines():
        try:
            results.append(Result.from_json(json.loads(line)))
        except (ValueError, KeyError, TypeError):
            continue
    return facts, results
