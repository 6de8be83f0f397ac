# SPDX-License-Identifier: Apache-2.0
"""What an audit holds against what."""

from __future__ import annotations

import enum
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sriov_lb_tests import errors
from sriov_lb_tests.agreement import Agreement, Reach, Seat, Subject, View, look
from sriov_lb_tests.agreement.reboot import after_reboot
from sriov_lb_tests.audit.places import Closed
from sriov_lb_tests.policy.packet import Packet
from sriov_lb_tests.policy.proof import disagreements
from sriov_lb_tests.policy.ruleset import parse


class State(enum.Enum):
    """How a check ended."""

    CLEAN = "clean"
    DISAGREEMENT = "disagreement"
    UNCLEAR = "could not tell"


@dataclass(frozen=True)
class Witness:
    """One packet on which two of the three disagree.

    :param too_open: it passes and may not; otherwise it has to and does not.
    :param pcap: capture of it, where it was sent.
    """

    packet: Packet
    too_open: bool
    explanation: str
    pcap: str | None = None

    def to_json(self) -> dict[str, Any]:
        one = self.packet
        return {
            "kind": "too open" if self.too_open else "too closed",
            "explanation": self.explanation,
            "packet": {
                "interface": one.interface,
                "source": one.source,
                "destination": one.destination,
                "protocol": one.protocol,
                "source_port": one.sport,
                "destination_port": one.dport,
                "state": one.state,
            },
            "pcap": self.pcap,
        }


@dataclass(frozen=True)
class Check:
    """One comparison.

    :param name: ``policy = ruleset of amphora …``.
    :param state: CLEAN only when all of it could be told.
    :param packets: sent, whose fate is known; None where none is sent.
    :param unclear: what could not be told, one sentence each.
    :param one_sided: listeners of which packets showed one side only, who they are open to or who
        not, one sentence each. They are among ``unclear``, too, unless the rulesets tell the rest.
    """

    name: str
    state: State
    witnesses: tuple[Witness, ...] = ()
    unclear: tuple[str, ...] = ()
    packets: int | None = None
    seconds: float = 0.0
    one_sided: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        if self.state is State.DISAGREEMENT:
            more = f" (and {len(self.witnesses) - 1} more)" if len(self.witnesses) > 1 else ""
            return f"{self.witnesses[0].explanation}{more}"
        if self.state is State.UNCLEAR:
            return self.unclear[0]
        if self.packets is None:
            return "they agree on every packet"
        said = f"they agree on all of {self.packets} packets that were sent"
        return "; ".join([said, *self.one_sided])


@dataclass
class Audit:
    """Everything about one load balancer."""

    load_balancer: dict[str, Any]
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    started: str = ""
    #: What changed while it was looked at; then nothing follows from what was seen.
    changed: str = ""

    @property
    def state(self) -> State:
        """The worst: a disagreement is one, whatever else could not be told."""
        states = {check.state for check in self.checks}
        if self.changed:
            return State.UNCLEAR
        if State.DISAGREEMENT in states:
            return State.DISAGREEMENT
        if State.UNCLEAR in states or not self.checks:
            return State.UNCLEAR
        return State.CLEAN

    @property
    def status(self) -> int:
        """The exit status."""
        return {State.CLEAN: 0, State.DISAGREEMENT: 1, State.UNCLEAR: 2}[self.state]

    @property
    def sentence(self) -> str:
        name = self.load_balancer["name"] or self.load_balancer["id"]
        if self.state is State.DISAGREEMENT:
            bad = next(c for c in self.checks if c.state is State.DISAGREEMENT)
            return f"Load balancer {name} does not do what its API state says: {bad.sentence}"
        if self.changed:
            return f"Of load balancer {name} it cannot be told: {self.changed}"
        if self.state is State.UNCLEAR:
            why = next((c.sentence for c in self.checks if c.state is State.UNCLEAR),
                       "nothing could be compared.")  # fmt: skip
            return f"Of load balancer {name} it cannot be told: {why}"
        return f"Load balancer {name} does what its API state says, as far as was looked."

    def forget_captures(self, folder: Path) -> None:
        """Name no capture any more: their folder goes with the command."""
        named = f" Evidence: {folder}"
        kept = [
            replace(
                check,
                witnesses=tuple(replace(one, pcap=None) for one in check.witnesses),
                unclear=tuple(text.partition(named)[0] for text in check.unclear),
            )
            for check in self.checks
        ]
        if kept != self.checks:
            self.notes.append("captures were not kept; --artifacts DIR keeps them.")
        self.checks = kept


def _check(
    name: str,
    witnesses: Iterable[Witness],
    unclear: Iterable[str] = (),
    packets: int | None = None,
    seconds: float = 0.0,
    one_sided: Iterable[str] = (),
) -> Check:
    witnesses, unclear = tuple(witnesses), tuple(unclear)
    if packets == 0 and not witnesses and not unclear:
        unclear = ("no packet was sent whose fate could be told",)
    state = State.CLEAN
    if unclear:
        state = State.UNCLEAR
    if witnesses:
        state = State.DISAGREEMENT
    return Check(name, state, witnesses, unclear, packets, seconds, tuple(one_sided))


def inside(on: Subject, seat: Seat) -> list[Check]:
    """Policy against the rules in the kernel, and against those that a reboot would load."""
    return [_kernel(on, seat), _disk(on, seat)]


def _kernel(on: Subject, seat: Seat) -> Check:
    name = f"policy = ruleset of {seat}"
    started = time.monotonic()
    try:
        found = look(on, [seat])
    except errors.SriovLbError as error:
        return _check(name, (), [str(error)], seconds=time.monotonic() - started)
    witnesses = [_witness(one) for one in found.findings]
    return _check(name, witnesses, found.unclear, seconds=found.seconds)


def _disk(on: Subject, seat: Seat) -> Check:
    name = f"policy = rules file of {seat}, which its next reboot loads"
    started = time.monotonic()
    try:
        rules, why = after_reboot(seat.inside)
        # Of rules that are not the file's one witness says all.
        found = disagreements(on.policy(seat.own), parse(rules), limit=1 if why else 10)
    except errors.SriovLbError as error:
        return _check(name, (), [str(error)])
    witnesses = [
        Witness(one.packet, one.too_open, f"{why}: {one}" if why else str(one))
        for one in (*found.too_open, *found.too_closed)
    ]
    return _check(name, witnesses, seconds=time.monotonic() - started)


def closed(one: Closed) -> Check:
    """An amphora that could not be entered."""
    return _check(f"policy = ruleset of amphora {one.id}", (), [one.why])


def nowhere(why: str) -> Check:
    """No amphora is known."""
    return _check("policy = rulesets of its amphorae", (), [why])


def wire(
    on: Subject,
    vantage: Any,
    reach: Reach,
    counted: Sequence[Seat] = (),
    rulesets: Sequence[Check] = (),
) -> Check:
    """Policy against what packets do.

    A listener of which packets showed one side only, such as that whoever it is open to gets in
    but not that anybody else is kept out, is clean only where ``rulesets`` say so over all packets.

    :param counted: amphorae in which packets are counted while they are sent; () changes nothing
        in them.
    :param rulesets: policy against ruleset of each amphora in use; () where none was entered.
    """
    name = f"policy = wire, from {vantage.name}"
    started = time.monotonic()
    try:
        found: Agreement = look(
            on, counted, vantage, reach, thorough=True, bases=on.addresses
        )
    except errors.SriovLbError as error:
        return _check(name, (), [str(error)], seconds=time.monotonic() - started)
    witnesses = [_witness(one) for one in found.findings if one.view is not View.RULESET]
    unclear = [*found.unclear, *found.unseen]
    # Of a pair either may answer for the VIP.
    proved = bool(rulesets) and all(one.state is State.CLEAN for one in rulesets)
    if not proved:
        unclear += found.partly
    return _check(name, witnesses, unclear, found.sent, found.seconds, found.partly)


def _witness(finding: Any) -> Witness:
    pcap = str(finding.pcap) if finding.pcap else None
    return Witness(finding.packet, finding.too_open, finding.explanation, pcap)
