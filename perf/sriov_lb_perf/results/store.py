# SPDX-License-Identifier: Apache-2.0
"""A run's folder.

::

    RUN/result.json     the document (results/result.schema.json); replaced atomically, so it is
                        always whole; "status" is "incomplete" until the very end
    RUN/report.html     made from it
    RUN/raw/STAGE.hlog  every trial's durations, HdrHistogram log format 1.3, one line each
    RUN/raw/STAGE-NNNN.npz   request by request, where an engine kept that
    RUN/raw/STAGE-NNNN.json  intervals of a trial, and reports of other tools, word by word
    RUN/logs/           of the locust processes

A run that is killed at any moment leaves a document that says "incomplete" and holds every
finished block; raw files are written before the document that names them.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np

from .. import errors
from ..model import Sample

SCHEMA = "sriov-lb-perf/result"
VERSION = 1


def write_atomically(path: Path, data: bytes) -> None:
    """Replace ``path`` with ``data``, or leave it as it was.

    :raises PerfError: the disk is full, or may not be written.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            os.unlink(temporary)
        raise _disk(path, error) from error


#: What a run and its page take at most, bytes: measured 6 MB (smoke) to 30 MB (standard).
ROOM = 64 << 20


def require_room(folder: Path, more: int = 0) -> None:
    """Before anything is made: a disk that is nearly full would end the run in its middle.

    :param more: bytes that its raw data may take beside :data:`ROOM`.
    :raises EngineFailed: less is free where ``folder`` is or will be.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    needed = ROOM + more
    if free < needed:
        raise errors.EngineFailed(
            f"The disk of {folder} has {free >> 20} MiB free; a run may take {needed >> 20} MiB.",
            remedy="Free disk space, or name another folder with --artifacts. Nothing was started.",
        )


def _disk(path: Path, error: OSError) -> errors.PerfError:
    remedy = "Check the folder's permissions."
    if error.errno == errno.ENOSPC:
        remedy = "Free disk space; the results written so far are whole."
    return errors.EngineFailed(f"Cannot write {path}: {error.strerror}.", remedy=remedy)


def plain(value: Any) -> Any:
    """For JSON: NaN becomes null, infinity the text "inf", numpy scalars plain numbers."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        if math.isnan(value):
            return None
        if math.isinf(value):
            return "inf" if value > 0 else "-inf"
    return value


def number(value: Any) -> float:
    """The reverse of :func:`plain` for one figure."""
    if value is None:
        return math.nan
    return float(value)


class Folder:
    """The folder of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            (path / "raw").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _disk(path, error) from error
        self._lines: dict[Path, int] = {}

    def keep_raw(self, sample: Sample) -> dict[str, Any]:
        """Write a sample's durations and arrays; returns where they are, for the document."""
        stage = sample.trial.stage.name
        where: dict[str, Any] = {}
        try:
            if sample.histograms:
                where["hlog"] = self._log(stage, sample)
            name = f"raw/{stage}-{sample.trial.number:04d}"
            arrays = {k: v for k, v in sample.raw.items() if isinstance(v, np.ndarray)}
            if arrays:
                with open(self.path / f"{name}.npz", "wb") as file:
                    np.savez_compressed(file, **arrays)
                where["npz"] = f"{name}.npz"
            others = {k: v for k, v in sample.raw.items() if k not in arrays}
            if sample.series:
                others["intervals"] = sample.series
            if others:
                text = json.dumps(plain(others), indent=1) + "\n"
                (self.path / f"{name}.json").write_text(text, encoding="utf-8")
                where["json"] = f"{name}.json"
        except OSError as error:
            raise _disk(self.path / "raw", error) from error
        return where

    def _log(self, stage: str, sample: Sample) -> dict[str, Any]:
        """Append to the stage's HdrHistogram log; returns {file, lines by histogram}."""
        path = self.path / "raw" / f"{stage}.hlog"
        lines = {}
        text = ""
        if path not in self._lines:
            text = (
                "#[Histogram log format version 1.3]\n"
                "#[Values are nanoseconds; a tag is SIDE.TRIAL.HISTOGRAM; interval max in ms]\n"
                '"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"\n'
            )
            self._lines[path] = 3
        for name, histogram in sample.histograms.items():
            peak = histogram.maximum
            text += (
                f"Tag={sample.trial.side}.{sample.trial.number}.{name},"
                f"{sample.started:.3f},{sample.window:.3f},"
                f"{0.0 if math.isnan(peak) else peak / 1e6:.6f},{histogram.encode()}\n"
            )
            self._lines[path] += 1
            lines[name] = self._lines[path]
        with open(path, "a") as file:
            file.write(text)
        return {"file": f"raw/{stage}.hlog", "lines": lines}

    def write(self, document: Mapping, *, checked: bool = True) -> None:
        """Replace result.json.

        :param checked: by its schema, which takes most of the time of writing.
        :raises BadResult: the document breaks its own schema (a bug of this tool).
        """
        data = plain(document)
        if checked:
            check(data, "the result about to be written")
        write_atomically(
            self.path / "result.json", (json.dumps(data, indent=1) + "\n").encode()
        )


def schema() -> dict:
    """The published JSON Schema of a result."""
    path = Path(__file__).with_name("result.schema.json")
    return json.loads(path.read_text(encoding="utf-8"))


def check(data: Any, origin: str) -> None:
    """:raises BadResult: ``data`` is not a result of this version."""
    problems = list(jsonschema.Draft202012Validator(schema()).iter_errors(data))
    if problems:
        first = problems[0]
        where = "/".join(map(str, first.absolute_path)) or "(top)"
        raise errors.BadResult(
            f"{origin} breaks the result schema in {len(problems)} places, first at {where}: "
            f"{first.message[:200]}"
        )


def load(path: str | Path) -> dict:
    """A result, from its file or its folder.

    :raises BadResult: unreadable, damaged, or of another version.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "result.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise errors.BadResult(f"Cannot read the result {path}: {error}") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise errors.BadResult(f"{path} is not a result of sriov-lb-perf.")
    if data.get("version") != VERSION:
        raise errors.BadResult(
            f"{path} has result version {data.get('version')!r}; this tool reads {VERSION}."
        )
    check(data, str(path))
    return data
