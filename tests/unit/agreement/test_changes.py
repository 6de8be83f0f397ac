# SPDX-License-Identifier: Apache-2.0
"""What is concluded from a change that was watched; no network, no cloud."""

import time
from types import SimpleNamespace

from sriov_lb_tests.tests.away import Away
from sriov_lb_tests.tests.changes import Changes

SECOND = 10**9


def report(**streams):
    """Streams as ``(first, last)`` answer in seconds; ACTIVE is at 5 s."""
    found = {
        name: SimpleNamespace(first_ns=int(first * SECOND), last_ns=int(last * SECOND),
                              probe=f"SYN of {name}")
        for name, (first, last) in streams.items()
    }  # fmt: skip
    return SimpleNamespace(
        streams=found, witnesses=[], offset_error_ns=1_000_000,
        marks=[("asked for", 1 * SECOND), ("ACTIVE", 5 * SECOND)],
    )  # fmt: skip


def problem(found, opens=(), closes=()):
    return Changes()._problem("A step", "lb", found, opens, closes)


def test_what_closes_before_active_and_opens_before_active_is_right():
    found = report(closing=(1.0, 4.9), opening=(4.2, 6.0))
    assert problem(found, ["opening"], ["closing"]) == ""


def test_what_passes_after_active_and_may_not_is_said_with_the_time():
    text = problem(report(closing=(1.0, 6.1)), closes=["closing"])
    assert text.startswith("A step: SYN of closing may not pass once the API says ACTIVE, and was "
                           "answered 1.10 s after that.")  # fmt: skip


def test_what_opens_late_or_never_is_said():
    assert "first answered 0.80 s after that" in problem(report(o=(5.8, 6.0)), opens=["o"])
    assert "and was not." in problem(report(o=(0, 0)), opens=["o"])


def test_a_forbidden_packet_that_passed_comes_first():
    found = report(closing=(1.0, 6.1))
    found.witnesses = [SimpleNamespace(sent_ns=2 * SECOND)]
    found.when = lambda ns: "at 2 s"
    text = problem(found, closes=["closing"])
    assert text.startswith("A step: while it went on, load balancer lb let in what may not pass")


class Kernel:
    """Connects while the clock is not in the outage."""

    closed = False

    def __init__(self):
        self.calls = 0

    def call(self, op, **arguments):
        assert op == "connect" and arguments["port"] == 80
        self.calls += 1
        silent = 3 <= self.calls < 6
        if silent:
            time.sleep(0.01)
        return {"outcome": "silent" if silent else "connected"}, b""

    def close(self):
        self.closed = True


def test_away_is_the_longest_time_without_a_connection():
    kernel = Kernel()
    vantage = SimpleNamespace(netns=None, host=SimpleNamespace(open_agent=lambda netns: kernel))
    with Away(vantage, "192.0.2.1", 80, "192.0.2.2") as away:
        deadline = time.monotonic() + 5
        while kernel.calls < 9 and time.monotonic() < deadline:
            time.sleep(0.005)
    assert kernel.closed and away.attempts >= 9
    steps = sorted(b - a for a, b in zip(away.successes, away.successes[1:], strict=False))
    assert away.longest == steps[-1] > 0.08, "three attempts and the pauses between them"
