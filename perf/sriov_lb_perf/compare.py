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

from . import errors, preflight
from .engines.base import Crew
from .model import CANDIDATE, REFERENCE, Sample
from .profiles import Profile
from .results import amphorae, document, fingerprint
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


class TimeUp(errors.PerfError):
    """A run took much longer than its profile allows."""

    remedy = (
        "Look at what slows the tester or the way to the clients down, or raise time_limit in a "
        "profile of your own; what was measured is kept, marked incomplete."
    )


#: A run is ended past so many times its profile's time limit. A machine that is a little slower
#: than planned for spoils nothing; one that is this slow is not measuring.
OVERRUN = 1.5

#: Steps of the tester's clock below this are what NTP does all day, s.
CLOCK_STEP = 0.1


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
    started, began = time.time(), time.monotonic()
    seed = random.SystemRandom().randrange(2**31) if seed is None else seed
    identifier = new_identifier(profile, started)
    folder = Folder(output / identifier)
    runs: list[StageRun] = []
    # What every write needs and no later trial changes.
    trials: list[dict] = []
    curves: dict[str, dict] = {}
    known: dict[str, Any] = {"environment": {}, "preflight": {}}
    facts = {REFERENCE: pair.reference.facts, CANDIDATE: pair.candidate.facts}

    def elapsed() -> float:
        return time.monotonic() - began

    def write(
        status: str, reason: str, *, end: bool = False, fresh: bool = True
    ) -> tuple[dict, Analysis]:
        # Between two blocks the findings and curves may be those of the last whole stage: they take
        # time, which is the run's, and the trials are all there.
        if fresh or "analysis" not in known:
            inside = known["environment"].get("amphorae", {})
            known["analysis"] = analyse(
                runs,
                profile,
                pair,
                seed=seed,
                complete=status == "complete",
                twins=amphorae.equality(inside, facts),
                steal=amphorae.steal(inside, profile.limits.steal),
            )
            for run in runs:
                if run is runs[-1] or run.stage.name not in curves:
                    curves[run.stage.name] = document.curves_of(run)
        analysis = known["analysis"]
        made = document.build(
            identifier=identifier,
            started=started,
            # Not the clock: it may have been set meanwhile.
            finished=started + elapsed() if end else None,
            status=status,
            reason=reason,
            command=command,
            seed=seed,
            profile=profile,
            pair=pair,
            environment=known["environment"],
            preflight=known["preflight"],
            runs=runs,
            curves=curves,
            trials=trials,
            analysis=analysis,
            version=fingerprint.tool_version(),
        )
        # Its check takes most of the time of writing; what stands in the end has had one.
        folder.write(made, checked=end or not trials)
        return made, analysis

    def listener(event: str, run: StageRun, sample: Sample | None) -> None:
        if event == "trial":
            trials.append(document.trial_of(sample, started, folder.keep_raw(sample)))
            # It is on disk, and a run of hours has gigabytes of it.
            sample.raw.clear()
        elif event in ("block", "stage"):
            write("incomplete", "the run has not ended", fresh=event == "stage")
        if progress is not None:
            progress(event, run, sample)
        if event == "block" and elapsed() > OVERRUN * profile.time_limit:
            raise TimeUp(
                f"After {elapsed():.0f} s the run is at stage {run.stage.name!r}; the time limit "
                f"of profile {profile.name} is {profile.time_limit:g} s."
            )

    def watched(watch: amphorae.Watch) -> None:
        """What the amphorae are and did, and whether the clock was set, so far."""
        environment = known["environment"]
        environment["amphorae"] = watch.now()
        environment["differences"] = amphorae.differences(environment["amphorae"], facts)
        step = time.time() - started - elapsed()
        if abs(step) >= CLOCK_STEP:
            environment["tester"]["clock_step_s"] = round(step, 3)

    write("incomplete", "the run has not ended")
    failure: BaseException | None = None
    with told_to_end():
        try:
            with contextlib.ExitStack() as stack:
                crew = stack.enter_context(
                    Crew(pair.clients, folder.path, limits=profile.limits, web_port=web_port)
                )
                known["environment"] = fingerprint.take(pair, crew)
                known["preflight"], pair = preflight.look(pair, profile, crew)
                watch = stack.enter_context(
                    amphorae.Watch(pair, folder.path / "host-keys-amphorae")
                )
                watched(watch)
                write("incomplete", "the run has not ended")
                if progress is not None:
                    progress("start", None, None)
                try:
                    run_profile(profile, pair, crew, seed=seed, listener=listener, runs=runs)
                finally:
                    watched(watch)
        except (errors.SriovLbError, KeyboardInterrupt) as error:
            failure = error
            if isinstance(error, KeyboardInterrupt):
                failure = Interrupted("The run was told to end.")
            if not any(run.samples for run in runs):
                write("incomplete", str(failure), end=True)
                raise failure from error
    status = "complete" if failure is None else "incomplete"
    made, analysis = write(status, str(failure) if failure else "", end=True)
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
