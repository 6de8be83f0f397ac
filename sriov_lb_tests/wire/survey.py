# SPDX-License-Identifier: Apache-2.0
"""The catalogue on the wire: send every case, compare its fate with the one it deserves.

Where somebody counts inside of the target (``sriov_lb_tests.amphora.counting``), the fate is what
the counters say; otherwise it is what can be seen from outside, which for packets whose acceptance
shows no answer is nothing. Such findings are neither right nor wrong (``right`` is None), and
neither are those of frames that the counters never saw: the way there may have eaten them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from sriov_lb_tests.packets.catalogue import Case, Context, Expected, cases
from sriov_lb_tests.packets.probe import Identity, Link, Probe
from sriov_lb_tests.wire.exchange import Observation, Verdict
from sriov_lb_tests.wire.vantage import Vantage

#: Answers by which the target's kernel says that a packet came through to it.
_CAME_THROUGH = re.compile(
    r"^(RST|ICMP type 3 code [23]|ICMPv6 type 1 code 4|ICMPv6 type 4 code 1)$"
)

#: Addresses of the link, where only the number of frames matters.
_ANY = Link("02:00:00:00:00:01", "02:00:00:00:00:02")

#: Of frames with different fates the farthest one counts: one that was lost proves nothing.
_FARTHEST = (Expected.ACCEPT, Expected.DROP, Expected.BEFORE_FILTER, Expected.NOT_ARRIVED)


class Counting(Protocol):
    """What counters inside of the target say of a frame: how far it came."""

    def reached(self, identity: Identity, version: int, frames: int) -> Expected:
        """ACCEPT, DROP, BEFORE_FILTER or NOT_ARRIVED (all of the ``frames`` one packet is in)."""
        ...


@dataclass(frozen=True)
class Finding:
    """One case and what became of it.

    :param fate: None when it cannot be seen from outside.
    :param right: whether the fate breaks no promise; None when nothing is known.
    """

    case: Case
    observation: Observation
    fate: Expected | None
    right: bool | None

    @property
    def arrived(self) -> bool:
        """False when the counters never saw the frame."""
        return self.fate is not Expected.NOT_ARRIVED

    def __str__(self) -> str:
        case = self.case
        if not self.arrived:
            why = f" (which may be: {case.lost})" if case.lost else ""
            return f"{case.id}: {case.description}: never arrived{why}. {self.observation}"
        if self.right is None:
            return f"{case.id}: {case.description}: no fate can be told. {self.observation}"
        word = "as it should" if self.right else f"but deserves {case.expected.value}"
        return (
            f"{case.id}: {case.description}: {self.fate.value}, {word} ({case.reason}; "
            f"{case.source}). {self.observation}"
        )


def seen_fate(case: Case, observation: Observation) -> Expected | None:
    """The fate as far as it shows outside."""
    if observation.verdict is Verdict.ACCEPTED:
        return Expected.ACCEPT
    if observation.verdict is Verdict.REJECTED:
        text = observation.answers[0].text
        if _CAME_THROUGH.match(text):
            return Expected.ACCEPT
        # Some other error: the target discarded the packet and said so.
        return Expected.DROP
    if observation.verdict is Verdict.DROPPED and case.shows:
        return Expected.DROP
    return None


def survey(
    vantage: Vantage,
    context: Context,
    *,
    control: Probe,
    chosen: Sequence[Case] | None = None,
    counting: AbstractContextManager[Counting] | None = None,
    attempts: int = 1,
    group: int = 64,
) -> list[Finding]:
    """Send the cases and find their fates.

    :param control: answered before and after each group; a SYN to the listener, usually.
    :param chosen: by default everything the context can serve.
    :param counting: counts the vantage's frames inside of the target while the block runs.
    :param attempts: how often each case is sent; with counters once is enough.
    """
    wanted = list(cases(context) if chosen is None else chosen)
    questions = [(case.probe(context), control) for case in wanted]
    with counting or nullcontext() as counts:
        seen = vantage.ask_all(questions, attempts=attempts, group=group)
    found = []
    for case, observation in zip(wanted, seen, strict=True):
        fate = None
        if counts is not None and case.counted and observation.identities:
            probe = observation.probe
            fates = {
                counts.reached(one, case.version, len(probe.frames(_ANY, one)))
                for one in observation.identities
            }
            fate = next(one for one in _FARTHEST if one in fates)
            # Who is answered came in, whether the counters know the frame or not.
            if fate is Expected.NOT_ARRIVED and seen_fate(case, observation) is Expected.ACCEPT:
                fate = Expected.ACCEPT
        elif observation.verdict is not Verdict.INCONCLUSIVE:
            fate = seen_fate(case, observation)
        known = fate not in (None, Expected.NOT_ARRIVED)
        right = fate in case.allowed if known else None
        found.append(Finding(case, observation, fate, right))
    return found
