# SPDX-License-Identifier: Apache-2.0
"""One comparison, from targets and a profile to a result and its page."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import errors
from .engines.base import Crew
from .model import Sample
from .profiles import Profile
from .results import document, fingerprint
from .results.analysis import Analysis, analyse
from .results.store import Folder
from .targets import Pair
from .trials.run import StageRun, run_profile

Progress = Callable[[str, StageRun | None, Sample | None], None]


@dataclass(frozen=True)
class Outcome:
    """What is left of a comparison. ``failure`` is why it is incomplete, if it is."""

    folder: Path
    document: dict[str, Any]
    analysis: Analysis
    failure: BaseException | None

    @property
    def complete(self) -> bool:
        return self.failure is None


class Interrupted(errors.PerfError):
    """The run was told to end (Ctrl-C, SIGTERM)."""

    remedy = "Start it again; what was measured so far is kept, marked incomplete."


def new_identifier(profile: Profile, now: float) -> str:
    """Sortable by time, unique enough for two runs in one second."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    return f"{stamp}-{profile.name}-{random.SystemRandom().randrange(16**4):04x}"


def compare(
    pair: Pair,
    profile: Profile,
    output: Path,
    *,
    seed: int | None = None,
    command: Sequence[str] = (),
    progress: Progress | None = None,
    web_port: int | None = None,
) -> Outcome:
    """Measure, and leave a folder in ``output``.

    The result is written before the first trial and after each block, always marked incomplete,
    and marked complete at the very end. A failure in mid-run ends up in the outcome, not in an
    exception, so that what was measured is analysed and shown.

    :raises PerfError: nothing could be measured at all (bad target, dead client, …).
    """
    started = time.time()
    seed = random.SystemRandom().randrange(2**31) if seed is None else seed
    identifier = new_identifier(profile, started)
    folder = Folder(output / identifier)
    runs: list[StageRun] = []
    raw: dict[int, dict] = {}
    known: dict[str, Any] = {"environment": {}, "preflight": {}}

    def write(
        status: str, reason: str, finished: float | None, *, fresh: bool = True
    ) -> tuple[dict, Analysis]:
        # Between two blocks the findings may be those of the last whole stage: intervals take
        # time, which is the run's, and the trials are all there.
        if fresh or "analysis" not in known:
            known["analysis"] = analyse(
                runs, profile, pair, seed=seed, complete=status == "complete"
            )
        analysis = known["analysis"]
        made = document.build(
            identifier=identifier,
            started=started,
            finished=finished,
            status=status,
            reason=reason,
            command=command,
            seed=seed,
            profile=profile,
            pair=pair,
            environment=known["environment"],
            preflight=known["preflight"],
            runs=runs,
            raw=raw,
            analysis=analysis,
            version=fingerprint.tool_version(),
        )
        folder.write(made)
        return made, analysis

    def listener(event: str, run: StageRun, sample: Sample | None) -> None:
        if event == "trial":
            raw[sample.trial.number] = folder.keep_raw(sample)
        elif event in ("block", "stage"):
            write("incomplete", "the run has not ended", None, fresh=event == "stage")
        if progress is not None:
            progress(event, run, sample)

    write("incomplete", "the run has not ended", None)
    failure: BaseException | None = None
    with told_to_end():
        try:
            with Crew(
                pair.clients, folder.path, limits=profile.limits, web_port=web_port
            ) as crew:
                known["environment"] = fingerprint.take(pair, crew)
                known["preflight"] = fingerprint.preflight(pair, crew)
                write("incomplete", "the run has not ended", None)
                if progress is not None:
                    progress("start", None, None)
                run_profile(profile, pair, crew, seed=seed, listener=listener, runs=runs)
        except (errors.SriovLbError, KeyboardInterrupt) as error:
            failure = error
            if isinstance(error, KeyboardInterrupt):
                failure = Interrupted("The run was told to end.")
            if not any(run.samples for run in runs):
                write("incomplete", str(failure), time.time())
                raise failure from error
    status = "complete" if failure is None else "incomplete"
    made, analysis = write(status, str(failure) if failure else "", time.time())
    return Outcome(folder.path, made, analysis, failure)


@contextlib.contextmanager
def told_to_end() -> Iterator[None]:
    """SIGTERM is treated like Ctrl-C: the run ends in order and is marked incomplete."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_signal, _frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def default_output() -> Path:
    """Where runs go when nothing else is said."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(state) / "sriov-lb-perf" / "runs"
