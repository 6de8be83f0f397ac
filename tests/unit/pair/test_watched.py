# SPDX-License-Identifier: Apache-2.0
"""What follows from advertisements that were sent while the VIPs of a pair were watched."""

import re
from types import SimpleNamespace

import pytest

from sriov_lb_tests.amphora import Stage
from sriov_lb_tests.tests.pair.watched import Watched

MASTER, BACKUP = "fa:16:3e:00:00:01", "fa:16:3e:00:00:02"
VIP = "198.51.100.20"


def watched(longest=0.01, moves=(), problem="", rate=100.0, sent=5, passed=5):
    report = SimpleNamespace(
        problem=problem,
        rate=rate,
        moves=list(moves),
        when=lambda ns: f"at {ns} ns",
        streams={
            "allowed": SimpleNamespace(longest=longest, probe=SimpleNamespace(destination=VIP))
        },
    )
    stages = {Stage.ARRIVED: sent, Stage.REACHED_FILTER: sent, Stage.PASSED_FILTER: passed}
    return Watched(sent, stages, report)


def test_a_master_that_announces_itself_has_not_moved():
    seen = watched(longest=0.9, moves=[(7, VIP, MASTER.upper())])
    assert seen.moved(MASTER, 1) == [] and seen.doubt(Stage.PASSED_FILTER) == ""
    assert str(seen) == "5 sent, 5 arrived, 5 reached, 5 passed"


def test_a_vip_that_another_announces_or_that_is_silent_has_moved():
    moves = [(7, VIP, MASTER), (9, VIP, BACKUP), (11, VIP, MASTER), (13, VIP, BACKUP.upper())]
    seen = watched(longest=2.64, moves=moves)
    assert seen.moved(MASTER, 1, {BACKUP: "the backup"}) == [
        f"the VIP {VIP} was announced by the backup, at 9 ns",
        f"the VIP {VIP} did not answer for 2.6 s",
    ]
    assert f"announced by {BACKUP}" in seen.moved(MASTER, 3)[0]


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (watched(problem="the control allowed never was answered."), "never was answered"),
        (watched(rate=49.0), "only 49 probes a second could be sent, not 50"),
        (watched(passed=4), "of 5 advertisements 5 arrived .* 5 reached its filter and 4 passed"),
        (watched(sent=0, passed=0), "of 0 advertisements"),
    ],
)
def test_without_a_control_or_a_packet_that_got_there_nothing_is_proved(seen, why):
    assert re.search(why, seen.doubt(Stage.PASSED_FILTER))
