# SPDX-License-Identifier: Apache-2.0
"""From what was sent and what came back to a verdict.

*Evidence before verdict.* Silence alone proves nothing: the path, the host or the capture may be
dead. DROPPED is said only when a control, a probe that differs from the subject in the one thing
under test, was answered before and after it, by the same target, within :data:`TOGETHER`.
Everything here is pure: times and frames in, verdicts out.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sriov_lb_tests.packets.answers import Answer, Fate, read
from sriov_lb_tests.packets.probe import Identities, Identity, Link, Probe
from sriov_lb_tests.wire.agent import answer_key, flow_key
from sriov_lb_tests.wire.capture import Frame

#: The control's two answers and everything between them, seconds.
TOGETHER = 1.0


class Verdict(enum.Enum):
    """What may be said about a probe."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    DROPPED = "dropped"
    INCONCLUSIVE = "inconclusive"


@dataclass
class Sent:
    """One probe on its way: a new identity, its frames, and the answers they got."""

    probe: Probe
    identity: Identity
    frames: list[bytes]
    questions: list[bytes] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    sent_ns: int | None = None

    @property
    def fate(self) -> Fate:
        """ACCEPTED beats REJECTED: a target that says both let the packet in."""
        for fate in (Fate.ACCEPTED, Fate.REJECTED):
            if any(answer.fate is fate for answer in self.answers):
                return fate
        return Fate.SILENT

    @property
    def alive(self) -> Answer | None:
        """The first answer by the target itself; a router's ICMP error is no sign of its life."""
        own = [answer for answer in self.answers if answer.sender == self.probe.destination]
        return min(own, key=lambda answer: answer.ns, default=None)


@dataclass(frozen=True)
class Observation:
    """A verdict with its evidence. ``str()`` is one sentence and the path of the pcap.

    :param identities: who the frames were, one for each time the probe was sent.
    :param answers: what came back, oldest first.
    :param control: the control that was asked for, if one was.
    :param started_ns, ended_ns: guest clock, around everything that was sent and awaited.
    :param seconds: from sending to the first answer; None without an answer.
    """

    probe: Probe
    verdict: Verdict
    explanation: str
    identities: tuple[Identity, ...]
    answers: tuple[Answer, ...]
    control: Probe | None
    started_ns: int
    ended_ns: int
    seconds: float | None
    pcap: Path | None = None

    def __str__(self) -> str:
        evidence = f" Evidence: {self.pcap}" if self.pcap else ""
        return f"{self.explanation}{evidence}"


def prepare(probe: Probe, link: Link, identities: Identities) -> Sent:
    identity = identities.next()
    return Sent(probe, identity, probe.frames(link, identity), probe.questions(link, identity))


def settle(sent: Sequence[Sent], frames: Sequence[Frame]) -> None:
    """Give every probe its answers and its time of sending."""
    by_key: dict[object, list[tuple[Sent, bytes]]] = {}
    by_bytes: dict[bytes, Sent] = {}
    for one in sent:
        for frame in one.frames:
            by_bytes.setdefault(frame, one)
        for question in one.questions:
            key = flow_key(question)
            if key is not None:
                by_key.setdefault(key, []).append((one, question))
    for frame in frames:
        if frame.outgoing:
            owner = by_bytes.get(frame.data)
            if owner is not None and owner.sent_ns is None:
                owner.sent_ns = frame.ns
            continue
        for one, question in by_key.get(answer_key(frame.data), ()):
            answer = read(question, frame.ns, frame.data)
            if answer is not None:
                one.answers.append(answer)
    for one in sent:
        one.answers.sort(key=lambda answer: answer.ns)


def judge(
    attempts: Sequence[Sent], before: Sequence[Sent], after: Sequence[Sent]
) -> tuple[Verdict, str]:
    """The verdict on a probe sent ``attempts`` times between two sendings of its control.

    :param before: the control as sent before the probe; empty when there is none.
    :param after: the control as sent after it.
    :return: the verdict and the sentence that explains it.
    """
    probe = attempts[0].probe
    answers = [answer for one in attempts for answer in one.answers]
    for fate, verdict in ((Fate.ACCEPTED, Verdict.ACCEPTED), (Fate.REJECTED, Verdict.REJECTED)):
        found = [answer for answer in answers if answer.fate is fate]
        if found:
            first = found[0]
            return verdict, f"{probe} was {verdict.value}: {first.text} from {first.sender}."
    times = "once" if len(attempts) == 1 else f"{len(attempts)} times"
    silent = f"{probe}, sent {times}, got no answer"
    if not before or not after:
        return (
            Verdict.INCONCLUSIVE,
            f"{silent}, and there was no control to tell a drop from a dead path.",
        )
    control = before[0].probe
    first = next((one.alive for one in before if one.alive), None)
    last = next((one.alive for one in after if one.alive), None)
    if first is None or last is None:
        missing = [word for word, alive in (("before", first), ("after", last)) if alive is None]
        return (
            Verdict.INCONCLUSIVE,
            f"{silent}, but the control ({control}) got none {' and '.join(missing)} it either.",
        )
    span = (last.ns - first.ns) / 1e9
    if span > TOGETHER:
        return (
            Verdict.INCONCLUSIVE,
            f"{silent}; the control ({control}) was answered before and after it, but {span:.2f} s "
            f"apart, more than {TOGETHER:g} s.",
        )
    return (
        Verdict.DROPPED,
        f"{silent}, while the control ({control}) was answered by {first.text} before and by "
        f"{last.text} after it, {span * 1000:.0f} ms apart.",
    )
