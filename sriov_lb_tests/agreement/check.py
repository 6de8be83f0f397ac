# SPDX-License-Identifier: Apache-2.0
"""Policy, ruleset and wire, held against each other."""

from __future__ import annotations

import ipaddress
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
from sriov_lb_tests.policy.intervals import address, everything
from sriov_lb_tests.policy.model import Policy, Promise
from sriov_lb_tests.policy.proof import Disagreements, Witness, disagreements
from sriov_lb_tests.policy.ruleset import Ruleset

#: Neighbours that are asked at most, to know that a link is alive.
CANDIDATES = 8


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
    bases: Sequence[str] | None = None,
) -> Agreement:
    """One look at a load balancer.

    A VIP that nobody answers for on its network, where others do, is a finding: it is shut to
    everybody. If nobody answers at all it stays unclear, as the vantage may be what is cut off.

    :param seats: its amphorae that may be entered; without them the wire is all there is.
    :param vantage: where packets come from; without it (or without ``reach``) none is sent.
    :param ports: further TCP ports without a listener: that were served once, or never.
    :param neighbours: ask for the next ports without a listener beside each listener's, too.
    :param thorough: see :func:`questions`.
    :param witnesses: of each amphora's proof, how many are sent at most.
    :param bases: base port addresses that are asked for what may not pass, too; by default those of
        ``seats``, which are known to be alive.
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
    dead: dict[str, str] = {}
    unseen: tuple[list[str], list[str]] = [], []
    if vantage is not None and reach is not None:
        policy = inside[0].policy if inside else subject.policy()
        asked = questions(
            policy,
            reach,
            ports=ports,
            bases=[seat.own for seat in seats] if bases is None else bases,
            neighbours=neighbours,
            thorough=thorough,
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
        dead = _unanswered(subject, policy, vantage, reach, answered)
        for vip, who in dead.items():
            state.findings.append(_nobody(subject, policy, vip, who, asked))
        for one in answered:
            # What could not be sent to such a VIP is said once.
            if one.passed is not None or one.question.packet.destination not in dead:
                _judge(state, policy, one, inside)
        # Of a VIP that nobody answers for that was said.
        alive = [vip for vip in policy.vips if vip not in dead]
        unseen = _not_seen(policy, alive, answered)
    return Agreement(
        name=subject.name,
        unseen=tuple(unseen[0]),
        partly=tuple(unseen[1]),
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


def _unanswered(
    subject: Subject, policy: Policy, vantage, reach: Reach, answered: Sequence[Answered]
) -> dict[str, str]:
    """VIPs whose MAC nobody tells, though somebody else's on that link is told: by VIP, whose."""
    up = subject.load_balancer.get("admin_state_up", True)
    routed = vantage.next_hop is not None
    if routed or not up or not any(entry.served for entry in policy.listeners):
        return {}
    told = {one.question.packet.destination for one in answered if one.observation.identities}
    asked = dict.fromkeys(one.question.packet.destination for one in answered)
    # Only of its own link, and of an IP version that it speaks, can a vantage say who is there.
    silent = [
        vip
        for vip in policy.vips
        if vip in asked and vip not in told and _beside(vantage, vip) and not _tells(vantage, vip)
    ]
    if not silent:
        return {}
    networks = [one.network for one in vantage.interface.addresses]
    routers = [str(net[1]) for net in networks if net.version == 4 and net.num_addresses > 2]
    others = [*policy.vips, *subject.addresses, *routers, *sorted(reach.taken)]
    candidates = [
        text
        for text in dict.fromkeys(others)
        if text not in silent and text not in reach.own and _beside(vantage, text)
    ]
    who = next((text for text in candidates[:CANDIDATES] if _tells(vantage, text)), None)
    return {} if who is None else dict.fromkeys(silent, who)


def _beside(vantage, text: str) -> bool:
    """Whether an address is on the vantage's own link."""
    one = ipaddress.ip_address(text)
    return any(one in entry.network for entry in vantage.interface.addresses)


def _tells(vantage, text: str) -> bool:
    """Whether anybody answers for an address."""
    try:
        vantage.resolve(text)
    except errors.ControlFailed:
        return False
    return True


def _nobody(
    subject: Subject, policy: Policy, vip: str, who: str, asked: Sequence[Question]
) -> Finding:
    to = [one for one in asked if one.packet.destination == vip]
    packet = next((one for one in to if one.promise is Promise.REQUIRED), to[0]).packet
    which = "VIP" if vip == policy.vips[0] else "additional VIP"
    said = (
        f"nobody answers for the {which} {vip} on its network, though {who} is answered for there"
    )
    return Finding(
        View.WIRE, False, packet, f"{said}: nothing that has to pass can be sent to it.",
        summary=f"Load balancer {subject.name}: {said} (seen on the wire).",
    )  # fmt: skip


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


def _not_seen(
    policy: Policy, vips: Sequence[str], answered: Sequence[Answered]
) -> tuple[list[str], list[str]]:
    """(listeners of whose filter the wire says nothing, those of which it says one side only)."""
    nothing, one_side = [], []
    for listener in policy.listeners:
        for version in sorted({address(vip)[0] for vip in vips}):
            sources = listener.sources(version)
            if not listener.served or not sources:
                continue
            wanted = {Promise.REQUIRED: "to sources that it is open to"}
            if sources != everything(version):
                wanted[Promise.FORBIDDEN] = "to sources that it is not open to"
            told = {
                one.question.promise
                for one in answered
                if one.passed is not None
                and one.question.packet.version == version
                and one.question.packet.protocol == listener.protocol
                and one.question.packet.dport == listener.port
            }
            lacking = [words for promise, words in wanted.items() if promise not in told]
            if lacking:
                where = nothing if len(lacking) == len(wanted) else one_side
                where.append(
                    f"what listener {listener.name} does over IPv{version} {' and '.join(lacking)} "
                    "was not seen: there is no such source in reach, or no answer shows it"
                )
    return nothing, one_side


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
