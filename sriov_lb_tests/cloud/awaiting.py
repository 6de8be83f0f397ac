# SPDX-License-Identifier: Apache-2.0
"""Waiting for a condition, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from sriov_lb_tests import errors

T = TypeVar("T")


class Deadline:
    """A point in time, in seconds of the monotonic clock."""

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._start = clock()

    @property
    def elapsed(self) -> float:
        """Seconds since the deadline was set."""
        return self._clock() - self._start

    @property
    def left(self) -> float:
        """Seconds left; negative once it has passed."""
        return self.seconds - self.elapsed

    @property
    def passed(self) -> bool:
        return self.left <= 0


def until(
    check: Callable[[], T | None],
    *,
    what: str,
    timeout: float,
    interval: float = 1.0,
    explain: Callable[[], str] | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Call ``check`` until it returns something true, and return that.

    ``check`` is asked once more after the deadline, so that a slow machine that was
    asleep between two looks does not fail a condition that holds.

    :param what: the condition in words, for the message ("port X to be ACTIVE").
    :param timeout: seconds.
    :param interval: seconds between two looks.
    :param explain: asked once, after the deadline, for what was found instead.
    :raises StuckPending: the deadline passed.
    """
    deadline = Deadline(timeout, clock=clock)
    while True:
        late = deadline.passed
        result = check()
        if result:
            return result
        if late:
            found = f" {explain()}" if explain else ""
            raise errors.StuckPending(f"Waited {timeout:.0f} s for {what}, in vain.{found}")
        sleep(max(0.0, min(interval, deadline.left)))
