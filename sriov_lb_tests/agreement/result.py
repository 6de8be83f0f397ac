# SPDX-License-Identifier: Apache-2.0
"""What came out: findings, one sentence first, then the witnesses."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sriov_lb_tests import errors
from sriov_lb_tests.policy import packet as headers
from sriov_lb_tests.policy.packet import Packet
from sriov_lb_tests.policy.proof import Disagreements


class View(enum.Enum):
    """Which two of the three disagree; the value is what reports say."""

    WIRE = "policy and wire"
    RULESET = "policy and ruleset"
    BETWEEN = "ruleset and wire"


@dataclass(frozen=True)
class Finding:
    """One packet on which two of the three disagree.

    :param too_open: it passes and may not; otherwise it does not pass and has to. For
        ``View.BETWEEN``: it passed though the ruleset drops it.
    :param explanation: the whole sentence, with rule or answer.
    :param where: the amphora, for rulesets.
    :param pcap: the capture, for packets that were sent.
    :param summary: what is to be said first, where the packet is not the point.
    """

    view: View
    too_open: bool
    packet: Packet
    explanation: str
    where: str = ""
    pcap: Path | None = None
    summary: str = ""

    @property
    def rank(self) -> tuple[bool, int]:
        """Lower is worse: what is open before what is closed, the wire before the rest."""
        return not self.too_open, list(View).index(self.view)

    @property
    def about(self) -> tuple[View, bool, str, str]:
        """What it is about: another look's finding is the same if this is. Of the packet, what a
        reader is told of it."""
        return self.view, self.too_open, str(self.packet), self.where

    def __str__(self) -> str:
        where = f", {self.where}" if self.where else ""
        evidence = f" Evidence: {self.pcap}" if self.pcap else ""
        return f"{self.view.value} disagree{where}: {self.explanation}{evidence}"


def briefly(packet: Packet) -> str:
    """A packet as an operator would say it: ``TCP port 80 from 192.0.2.1``."""
    name = headers.PROTOCOL_NAMES.get(packet.protocol, f"protocol {packet.protocol}")
    if packet.protocol in headers.WITH_PORTS:
        what = f"{name} port {packet.dport}"
    elif packet.protocol in (headers.ICMP, headers.ICMPV6):
        what = f"{name} type {packet.icmp_type}"
    else:
        what = name
    state = "" if packet.state == "new" else f" ({packet.state})"
    if packet.leaving:
        where = f"to {packet.destination} by {packet.interface}"
        return f"{name} from port {packet.sport}{state} {where}"
    return f"{what}{state} from {packet.source} on {packet.interface}"


@dataclass(frozen=True)
class Agreement:
    """One look at one load balancer.

    :param findings: the worst first.
    :param unclear: questions whose control failed, and why.
    :param unseen: listeners of whose filter no packet that was sent says anything; ``partly``:
        those of which only one side was seen, who they are open to or who not.
    :param sent: how many packets were sent whose fate is known.
    :param proofs: policy against ruleset by amphora.
    :param seconds: what the look took.
    """

    name: str
    findings: tuple[Finding, ...] = ()
    unclear: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    partly: tuple[str, ...] = ()
    sent: int = 0
    proofs: Mapping[str, Disagreements] = field(default_factory=dict)
    rulesets: Mapping[str, str] = field(default_factory=dict)
    observations: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def agreed(self) -> bool:
        """Whether no two of the three disagree; says nothing of what is unclear."""
        return not self.findings

    @property
    def sentence(self) -> str:
        """What a network engineer needs to know first."""
        if self.agreed:
            views = (["policy", "ruleset"] if self.proofs else ["policy"]) + (
                ["wire"] if self.sent else []
            )
            return f"{' = '.join(views)} for load balancer {self.name}."
        worst = self.findings[0]
        if worst.summary:
            return worst.summary
        packet = briefly(worst.packet)
        places = sorted({f.view for f in self.findings}, key=list(View).index)
        seen = " and ".join(
            {View.WIRE: "seen on the wire", View.RULESET: "seen in the ruleset",
             View.BETWEEN: "the wire contradicts the ruleset"}[one] for one in places
        )  # fmt: skip
        if worst.view is View.BETWEEN:
            does = "lets in" if worst.too_open else "does not let in"
            return (
                f"Load balancer {self.name} {does} {packet}, and its ruleset says the "
                f"opposite ({seen})."
            )
        if worst.packet.leaving:
            return f"Load balancer {self.name} keeps back {packet}, which has to leave ({seen})."
        if worst.too_open:
            return f"Load balancer {self.name} lets in {packet}, which may not pass ({seen})."
        return f"Load balancer {self.name} keeps out {packet}, which has to pass ({seen})."

    def __str__(self) -> str:
        lines = [self.sentence]
        lines += [f"  {finding}" for finding in self.findings]
        lines += [f"  not clear: {text}" for text in self.unclear]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """For files: everything but the packets themselves."""
        return {
            "load balancer": self.name,
            "agreed": self.agreed,
            "sentence": self.sentence,
            "findings": [
                {
                    "views": finding.view.value,
                    "too open": finding.too_open,
                    "packet": str(finding.packet),
                    "explanation": finding.explanation,
                    "where": finding.where,
                    "pcap": str(finding.pcap) if finding.pcap else None,
                }
                for finding in self.findings
            ],
            "unclear": list(self.unclear),
            "not seen on the wire": [*self.unseen, *self.partly],
            "packets sent": self.sent,
            "amphorae": {key: str(found) for key, found in self.proofs.items()},
            "observations": list(self.observations),
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True)
class Settled:
    """A look at once, and what came after it.

    :param first: the look that counts.
    :param last: the last one; the first if that agreed.
    :param late: seconds from the first look until they agreed; 0 at once, None never.
    """

    first: Agreement
    last: Agreement
    late: float | None

    @property
    def agreed(self) -> bool:
        """Whether they agreed at once: the promise."""
        return self.late == 0

    @property
    def seen(self) -> Agreement:
        """The look that counts, with what the last one found besides, if they never agreed."""
        known = [one.about for one in self.first.findings]
        new = [one for one in self.last.findings if one.about not in known]
        if not new:
            return self.first
        found = sorted([*self.first.findings, *new], key=lambda finding: finding.rank)
        return replace(self.first, findings=tuple(found))

    def __str__(self) -> str:
        if self.agreed:
            return str(self.first)
        if self.late is None:
            return str(self.seen)
        sentence, *rest = str(self.first).splitlines()
        return "\n".join([f"{sentence[:-1]}; that was over {self.late:.1f} s later.", *rest])


def settle(
    look: Callable[[], Agreement],
    *,
    patience: float = 15.0,
    clock: Callable[[], float] = time.monotonic,
) -> Settled:
    """Look at once; if they disagree, look again until they agree or patience is at an end.

    Octavia's ACTIVE promises that the change is in force: agreeing later is still a failure, but
    one that reads differently. A later look that breaks takes nothing back from the first.

    :raises SriovLbError: the first look could not be taken.
    """
    started = clock()
    first = last = look()
    while last.findings and clock() - started < patience:
        try:
            last = look()
        except errors.SriovLbError:
            return Settled(first, last, None)
        if not last.findings:
            return Settled(first, last, max(clock() - started, 0.001))
    return Settled(first, last, 0.0 if first.agreed else None)
