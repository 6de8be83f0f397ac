# SPDX-License-Identifier: Apache-2.0
"""When requests are due: constant, stepped and ramped rates, regular or Poisson."""

from __future__ import annotations

import array
import collections
import random

from .errors import JobError

MAX_PLANNED = 5_000_000  # requests of one open-loop job (32 bytes each are held)


def arrivals(job: dict) -> array.array:
    """Intended send times in ns from the start.

    ``schedule`` is ``[[rate at the beginning, rate at the end, seconds], ...]``: constant,
    stepped and ramped arrival are all of this form. ``arrivals`` is ``constant`` or ``poisson``
    (the same process, thinned by a seeded exponential clock, RFC 2330).
    """
    poisson = job.get("arrivals", "constant") == "poisson"
    source = random.Random(job.get("seed", 0))
    due = array.array("q")
    base = 0.0
    owed = source.expovariate(1.0) if poisson else 0.0  # requests until the next arrival
    for first, last, seconds in job["schedule"]:
        slope = (last - first) / seconds
        offered = (first + last) / 2 * seconds
        if len(due) + offered > MAX_PLANNED:
            raise JobError(
                "job", f"schedule asks for more than {MAX_PLANNED} requests; split it into jobs"
            )
        while owed < offered:
            # Invert offered(t) = first*t + slope*t^2/2 at `owed`; this form of the root has no
            # cancellation when the slope is small.
            root = (first * first + 2 * slope * owed) ** 0.5
            due.append(int((base + (2 * owed / (first + root) if owed else 0.0)) * 1e9))
            owed += source.expovariate(1.0) if poisson else 1.0
        owed -= offered
        base += seconds
    return due


#: What an open-loop job comes to, times in ns from its start. ``due``: see :func:`arrivals`;
#: ``first``: index of the first request after the warm-up, which ends at ``warm``; ``end``: of the
#: schedule; ``grace``: how long answers are awaited after it; ``tick``: between two reports.
Plan = collections.namedtuple("Plan", ["due", "first", "warm", "end", "grace", "tick"])


def plan(job: dict, grace: float = 1.0) -> Plan:
    """Read a job's schedule once, before its loop. ``grace`` in s, when the job names none."""
    due = arrivals(job)
    warm = int(job["warmup"] * 1e9)
    return Plan(
        due=due,
        first=next((i for i, when in enumerate(due) if when >= warm), len(due)),
        warm=warm,
        end=int(sum(part[2] for part in job["schedule"]) * 1e9),
        grace=int(job.get("grace", grace) * 1e9),
        tick=int(job.get("tick", 1.0) * 1e9),
    )
