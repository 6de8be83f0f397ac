# SPDX-License-Identifier: Apache-2.0
"""For how long a VIP was away, as a client's own kernel sees it: neighbour cache and all.

The prober's frames go to the MAC that answered in the beginning. When a VIP moves to another
virtual function, what counts is when a client's kernel learns of it.
"""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any

from sriov_lb_tests import errors
from sriov_lb_tests.wire.vantage import Vantage

#: Seconds until a connection attempt is given up; the resolution of what is measured is less,
#: because attempts are not tied to a schedule.
ATTEMPT = 0.2
PAUSE = 0.02


class Away:
    """Connects again and again while the ``with`` block runs.

    ``longest``: seconds between the last success before the longest gap (or the beginning) and the
    first after it (or the end, if there was none).
    ``successes``: time.monotonic() of each.
    ``failed``: why it saw nothing of the rest, None when it saw all: whoever reports says so.
    """

    def __init__(self, vantage: Vantage, destination: str, port: int, source: str) -> None:
        self._agent = vantage.host.open_agent(netns=vantage.netns)
        self._target: dict[str, Any] = {"address": destination, "port": port, "source": source}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.failed: errors.WireError | None = None
        self.successes: list[float] = []
        self.attempts = 0
        self._started = self._over = 0.0

    def _run(self) -> None:
        while not self._ended.wait(PAUSE):
            try:
                done, _ = self._agent.call("connect", timeout=ATTEMPT, **self._target)
            except errors.WireError as error:
                self._over = time.monotonic()
                self.failed = error
                return
            self.attempts += 1
            if done["outcome"] == "connected":
                self.successes.append(time.monotonic())

    def __enter__(self) -> Away:
        self._started = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_exc) -> None:
        self._ended.set()
        self._thread.join(ATTEMPT + 10)
        if self.failed is None:
            self._over = time.monotonic()
        self._agent.close()

    @property
    def longest(self) -> float:
        times = [self._started, *self.successes, self._over]
        return max(after - before for before, after in itertools.pairwise(times))
