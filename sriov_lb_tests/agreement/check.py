# SPDX-License-Identifier: Apache-2.0
"""Policy, ruleset and wire, held against each other."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from sriov_lb_tests import errors
from sriov_lb_tests.agreement.questions import Question, Reach, questions
from sriov_lb_tests.agreement.result import Agreement, Finding, View
from sriov_lb_tests.agreement.sending import Answered, send, sendable
from sriov_lb_tests.agreement.subject import Seat, Subject
from sriov_lb_tests.policy import packet as headers
from sriov_lb_tests.policy import render
from sriov_lb_tests.policy.evaluate import evaluate
from sriov_lb_tests.policy.model import Policy, Promise
from sriov_lb_tests.policy.proof import Disagreements, Witness, disagreements
from sriov_lb_tests.policy.ruleset import Ruleset


@dataclass
class _Inside:
    """One amphora as read."""

    seat: Seat
    policy: Policy
    ruleset: Ruleset
    proof: Disagreements
    vips: frozenset[str]


@dataclass
class _Look:
    subject: Subject
    findings: list[Finding] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)


def look(
    subject: Subject,
    seats: Sequence[Seat] = (),
    vantage=None,
    reach: Reach | None = None,
    *,
    ports: Sequence[int] = (),
    neighbours: bool = True,
    thorough: bool = False,
    witnesses: int = 4,
) -> Agreement:
    """One look at a load balancer.

    :param seats: its amphorae that may be entered; without them the wire is all there is.
    :param vantage: where packets come from; without it (or without ``reach``) none is sent.
    :param ports: TCP ports that were served once.
    :param neighbours: ask for the ports beside each listener's, too.
    :param thorough: see :func:`questions`.
    :param witnesses: of each amphora's proof, how many are sent at most.
    :raises UnknownExpression: a ruleset that cannot be reasoned about.
    """
    started = time.monotonic()
    state = _Look(subject)
    inside = [_enter(subject, seat) for seat in seats]
    for one in inside:
        for witness in (*one.proof.too_open, *one.proof.too_closed):
            state.findings.append(
                Finding(View.RULESET, witness.too_open, witness.packet, str(witness),
                        str(one.seat))  # fmt: skip
            )
    answered: list[Answered] = []
    if vantage is not None and reach is not None:
        policy = inside[0].policy if inside else subject.policy()
        asked = questions(
            policy, reach, ports=ports, neighbours=neighbours, thorough=thorough
        )
        asked += [
            _question(witness)
            for one in inside
            if one.vips & set(policy.vips)
            for witness in _worth_sending(one.proof, policy, witnesses)
        ]
        # Counters are needed where an accepted packet gives no answer.
        count = [one.seat for one in inside] if any(not q.shows for q in asked) else []
        answered = send(asked, vantage, reach.own, count)
        for one in answered:
            _judge(state, policy, one, inside)
    return Agreement(
        name=subject.name,
        findings=tuple(sorted(state.findings, key=lambda finding: finding.rank)),
        unclear=tuple(state.unclear),
        sent=sum(one.passed is not None for one in answered),
        proofs={one.seat.id: one.proof for one in inside},
        rulesets={one.seat.id: render.table(one.ruleset) for one in inside},
        observations=tuple(map(str, answered)),
        seconds=time.monotonic() - started,
    )


def _enter(subject: Subject, seat: Seat) -> _Inside:
    policy = subject.policy(seat.own)
    ruleset = seat.inside.ruleset()
    interfaces = seat.inside.interfaces()
    proof = disagreements(policy, ruleset, interfaces=tuple(interfaces))
    vips = {str(one.ip) for entry in interfaces.values() for one in entry.addresses}
    return _Inside(seat, policy, ruleset, proof, frozenset(vips & set(policy.vips)))


def _worth_sending(proof: Disagreements, policy: Policy, limit: int) -> list[Witness]:
    found = [
        witness
        for witness in (*proof.too_open, *proof.too_closed)
        if sendable(witness.packet, policy.vip_interface)
    ]
    return found[:limit]


def _question(witness: Witness) -> Question:
    # Its source may be far away: counters in the amphora tell what became of it.
    why = "a witness of the proof"
    return Question(witness.packet, why, witness.clause.promise, None, False)


def _judge(state: _Look, policy: Policy, one: Answered, inside: Sequence[_Inside]) -> None:
    question, seen = one.question, one.observation
    packet = question.packet
    if one.passed is None:
        if question.shows:
            state.unclear.append(str(one))
        return
    why = policy.explain(packet)
    if question.promise is Promise.FORBIDDEN and one.passed:
        text = f"{packet} may not pass ({why}), but it came through: {seen.explanation}"
        state.findings.append(Finding(View.WIRE, True, packet, text, "", seen.pcap))
    if question.promise is Promise.REQUIRED and not one.right:
        how = "it came through and nobody serves it" if one.passed else "it did not come through"
        text = f"{packet} has to pass ({why}), but {how}: {seen.explanation}"
        state.findings.append(Finding(View.WIRE, False, packet, text, "", seen.pcap))
    holders = [entry for entry in inside if packet.destination in entry.vips]
    if len(holders) != 1 or packet.protocol not in (headers.TCP, headers.UDP, headers.SCTP):
        return
    holder = holders[0]
    try:
        outcome = evaluate(holder.ruleset, packet)
    except errors.UnknownExpression as error:
        state.unclear.append(f"{packet}: {error}")
        return
    if outcome.accepted != one.passed:
        does = "lets it in" if outcome.accepted else "drops it"
        came = "came through" if one.passed else "did not come through"
        rule = outcome.decided
        text = f"{packet}: the ruleset {does} ({rule}), but it {came}: {seen.explanation}"
        state.findings.append(
            Finding(View.BETWEEN, one.passed, packet, text, str(holder.seat), seen.pcap)
        )
