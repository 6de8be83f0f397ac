# SPDX-License-Identifier: Apache-2.0
import pytest

from sriov_lb_tests import errors
from sriov_lb_tests.cloud.awaiting import until


class Clock:
    def __init__(self):
        self.now = 0.0
        self.slept = []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


def wait(check, clock, **kw):
    return until(check, what="the thing", clock=clock, sleep=clock.sleep, **kw)


def test_returns_what_the_check_found_without_sleeping():
    clock = Clock()
    assert wait(lambda: "it", clock, timeout=10) == "it"
    assert clock.slept == []


def test_looks_again_until_it_holds():
    clock = Clock()
    answers = iter([None, None, "it"])
    assert wait(lambda: next(answers), clock, timeout=10, interval=2) == "it"
    assert clock.slept == [2, 2]


def test_after_the_deadline_the_message_says_what_and_why():
    clock = Clock()
    with pytest.raises(errors.StuckPending, match="3 s for the thing.*PENDING_CREATE"):
        wait(lambda: None, clock, timeout=3, explain=lambda: "It is PENDING_CREATE.")
    assert clock.now == 3


def test_looks_once_more_after_a_machine_that_slept():
    clock = Clock()
    answers = iter([None, "it"])

    def check():
        clock.now += 100  # suspended in the middle of a look
        return next(answers)

    assert wait(check, clock, timeout=3) == "it"
