# SPDX-License-Identifier: Apache-2.0
"""When requests are due: constant, stepped and ramped rates, regular or Poisson."""

from __future__ import annotations

import array
import bisect
import collections
import random
from collections.abc import Iterator

from .errors import JobError

#: Requests whose times a job reports one by one; of a longer schedule it reports histograms. By
#: what the schedule offers, warm-up included: so it is known beforehand, whatever Poisson draws.
RAW_LIMIT = 200_000
#: Requests that a job which keeps an entry for each may have (32 bytes each are held).
MAX_PLANNED = 5_000_000
NEVER = 1 << 62  # ns, due after everything else


def arrivals(job: dict) -> Iterator[int]:
    """Intended send times in ns from the start, made one by one: any length takes no memory.

    ``schedule`` is ``[[rate at the beginning, rate at the end, seconds], ...]``: constant,
    stepped and ramped arrival are all of this form. ``arrivals`` is ``constant`` or ``poisson``
    (the same process, thinned by a seeded exponential clock, RFC 2330).
    """
    poisson = job.get("arrivals", "constant") == "poisson"
    source = random.Random(job.get("seed", 0))
    base = 0.0
    owed = source.expovariate(1.0) if poisson else 0.0  # requests until the next arrival
    for first, last, seconds in job["schedule"]:
        slope = (last - first) / seconds
        offered = (first + last) / 2 * seconds
        while owed < offered:
            # Invert offered(t) = first*t + slope*t^2/2 at `owed`; this form of the root has no
            # cancellation when the slope is small.
            root = (first * first + 2 * slope * owed) ** 0.5
            yield int((base + (2 * owed / (first + root) if owed else 0.0)) * 1e9)
            owed += source.expovariate(1.0) if poisson else 1.0
        owed -= offered
        base += seconds


def offered(job: dict) -> float:
    """Requests that a schedule has; of Poisson arrivals the expected number."""
    return sum((first + last) / 2 * seconds for first, last, seconds in job["schedule"])


#: What an open-loop job comes to, times in ns from its start: ``warm``, the end of the warm-up;
#: ``end`` of the schedule; ``grace``, how long answers are awaited after it; ``tick``, between two
#: reports; ``raw``, whether its times are reported one by one.
Plan = collections.namedtuple("Plan", ["warm", "end", "grace", "tick", "raw"])


def plan(job: dict, grace: float = 1.0) -> Plan:
    """Read a job's schedule once, before its loop. ``grace`` in s, when the job names none."""
    return Plan(
        warm=int(job["warmup"] * 1e9),
        end=int(sum(part[2] for part in job["schedule"]) * 1e9),
        grace=int(job.get("grace", grace) * 1e9),
        tick=int(job.get("tick", 1.0) * 1e9),
        raw=bool(job.get("raw", True)) and offered(job) <= RAW_LIMIT,
    )


def all_arrivals(job: dict, warm: int) -> tuple:
    """(every intended time, the index of the first after the warm-up), for a job that keeps an
    entry for each request.

    :raises JobError: there is none, or there are more than it may keep.
    """
    if offered(job) > MAX_PLANNED:
        raise JobError(
            "job", f"schedule asks for more than {MAX_PLANNED} requests; split it into jobs"
        )
    due = array.array("q", arrivals(job))
    if not due:
        raise JobError("job", f"schedule {job['schedule']} contains no request")
    return due, bisect.bisect_left(due, warm)
