# SPDX-License-Identifier: Apache-2.0
"""Fates: by counters, by answers, and the fate of what never arrived."""

import contextlib
import functools

import pytest

from sriov_lb_tests.amphora import Counts, Stage
from sriov_lb_tests.packets.answers import Answer, Fate
from sriov_lb_tests.packets.catalogue import Context, Expected, cases
from sriov_lb_tests.packets.probe import Identities, Link, tcp_syn
from sriov_lb_tests.tests.catalogue.surveyed import FEWEST, Surveyed
from sriov_lb_tests.wire.exchange import Observation, Verdict
from sriov_lb_tests.wire.survey import survey

CONTEXT = Context(
    4, vip="198.51.100.20", allowed="198.51.100.99", denied="198.51.100.200", open_port=82,
    subnet="198.51.100.0/24",
)  # fmt: skip
CONTROL = tcp_syn(CONTEXT.vip, 80, source=CONTEXT.allowed)
ARRIVED, REACHED, PASSED = Stage.ARRIVED, Stage.REACHED_FILTER, Stage.PASSED_FILTER
#: Frames of a probe by its title: building all of them takes half a second each time.
PIECES: dict[str, int] = {}


@functools.cache
def every_case():
    return cases(CONTEXT)


SYN_ACK = Answer(Fate.ACCEPTED, "SYN-ACK", CONTEXT.vip, 1, b"")


class Way:
    """A vantage and counters in one: says of each case what it is told to.

    :param stages: id of a case -> where its frame was seen last; None: nowhere.
    :param answered: ids of cases that are answered.
    :param maimed: ids of cases one frame of which is lost.
    """

    def __init__(self, stages, default=REACHED, answered=(), maimed=()):
        self.stages, self.default = stages, default
        self.answered, self.maimed = answered, maimed
        self.counts, self.identities = Counts("t"), Identities("r", seed=1)

    def ask_all(self, questions, **_options):
        return [self._ask(probe) for probe, _ in questions]

    def _ask(self, probe):
        name = probe.title.rpartition("(")[2].removesuffix("-v4)")
        identity = self.identities.next()
        last = self.stages.get(name, self.default)
        if probe.title not in PIECES:
            link = Link("02:00:00:00:00:01", "02:00:00:00:00:02")
            PIECES[probe.title] = len(probe.frames(link, identity))
        pieces = PIECES[probe.title]
        for stage in () if last is None else (ARRIVED, REACHED, PASSED):
            seen = pieces - (name in self.maimed) if stage is ARRIVED else 1
            self.counts.by_stage.setdefault((stage, 4), {})[identity.sequence] = seen
            if stage is last:
                break
        answers = (SYN_ACK,) if name in self.answered else ()
        verdict = Verdict.ACCEPTED if answers else Verdict.DROPPED
        return Observation(
            probe, verdict, "It was sent.", (identity,), answers, CONTROL, 0, 0, None
        )


def take(way, *names, counted=True):
    chosen = [c for c in every_case() if not names or c.id.removesuffix("-v4") in names]
    counting = contextlib.nullcontext(way.counts) if counted else None
    found = survey(way, CONTEXT, control=CONTROL, chosen=chosen, counting=counting)
    return {one.case.id.removesuffix("-v4"): one for one in found}


@pytest.mark.parametrize(
    ("stage", "fate", "closed", "open_"),
    [
        (PASSED, Expected.ACCEPT, False, True),
        (REACHED, Expected.DROP, True, False),
        (ARRIVED, Expected.BEFORE_FILTER, True, False),
        (None, Expected.NOT_ARRIVED, None, None),
    ],
)
def test_counters_give_four_fates(stage, fate, closed, open_):
    found = take(Way({}, default=stage), "tcp-syn-closed", "tcp-syn-open")
    assert {one.fate for one in found.values()} == {fate}
    assert found["tcp-syn-closed"].right is closed
    assert found["tcp-syn-open"].right is open_


def test_no_case_is_right_that_never_arrived():
    found = take(Way({}, default=None))
    assert not [one for one in found.values() if one.case.counted and one.right is not None]


def test_a_packet_a_piece_of_which_was_lost_never_arrived():
    two = {"ip-fragments-two": ARRIVED, "ip-fragments-two-closed": ARRIVED}
    found = take(Way(two, maimed=two), *two)
    assert {one.fate for one in found.values()} == {Expected.NOT_ARRIVED}
    whole = take(Way(two), *two)
    assert {name: one.right for name, one in whole.items()} == {
        "ip-fragments-two": False, "ip-fragments-two-closed": True,
    }  # fmt: skip
    # That it passed needs no further proof.
    passed = take(Way({"ip-fragments-two-closed": PASSED}, maimed=two), "ip-fragments-two-closed")
    assert passed["ip-fragments-two-closed"].right is False


def test_what_is_answered_came_in_although_the_counters_missed_it():
    found = take(Way({}, default=None, answered=["link-vlan-0-closed"]), "link-vlan-0-closed")
    assert found["link-vlan-0-closed"].fate is Expected.ACCEPT
    assert found["link-vlan-0-closed"].right is False


def test_without_counters_silence_between_controls_is_a_drop_where_an_answer_would_show():
    found = take(Way({}), "tcp-syn-denied", "icmp-type-13", counted=False)
    assert found["tcp-syn-denied"].fate is Expected.DROP
    assert found["icmp-type-13"].fate is None and found["icmp-type-13"].arrived


def test_findings_say_that_a_frame_never_arrived_and_whether_it_may():
    found = take(Way({}, default=None), "tcp-syn-denied", "ip-checksum")
    assert "never arrived. It was sent." in str(found["tcp-syn-denied"])
    assert "never arrived (which may be: kernels discard it" in str(found["ip-checksum"])


# --- the whole of a survey ---------------------------------------------------------------


def surveyed(stages, default=REACHED, arrived=1):
    """Everything that may pass passed, everything else was dropped, but for ``stages``."""
    passing = {
        case.id.removesuffix("-v4"): PASSED
        for case in every_case()
        if case.expected is Expected.ACCEPT
    }
    if default is None:
        passing = {}
    found = take(Way({**passing, **stages}, default, answered=["link-arp-vip",
                     "link-arp-vip-unicast", "link-arp-probe"]))  # fmt: skip
    return Surveyed(CONTEXT, list(found.values()), arrived, {}, 1.0)


def test_a_clean_survey():
    found = surveyed({"ip-checksum": None})
    assert not found.wrong and not found.lost and not found.doubt()
    assert [one.case.id for one in found.never_arrived] == ["ip-checksum-v4"]
    assert FEWEST < len(found.looked_at) < len(found.can_fail) < len(found.findings)
    assert f"{len(found.can_fail)} of them can fail" in found.figures()


def test_one_lost_frame_makes_it_inconclusive_unless_a_switch_may_have_eaten_it():
    found = surveyed({"tcp-syn-denied": None, "addresses-from-127-0-0-1": None})
    assert not found.wrong
    doubt = found.doubt()
    assert "2 packet classes (IPv4) never arrived" in doubt
    assert "tcp-syn-denied-v4, addresses-from-127-0-0-1-v4" in doubt
    assert not found.doubt(switched=True)
    assert "unseen not-arrived        deserves drop" in found.table()


def test_too_few_that_arrived_are_no_survey_behind_a_switch_either():
    found = surveyed({"tcp-syn-open": PASSED}, default=None)
    assert "Too little arrived" in found.doubt(switched=True)
    few = len(found.looked_at)
    assert not found.doubt(switched=True, fewest=few)
    assert "none of the client's frames" in surveyed({}, arrived=0).doubt(switched=True)


def test_a_wrong_fate_is_wrong_whatever_else_was_lost():
    found = surveyed({"tcp-syn-denied": PASSED, "tcp-syn-9443": None})
    assert [one.case.id for one in found.wrong] == ["tcp-syn-denied-v4"]
    assert "tcp-syn-denied-v4" in found.sentence()
