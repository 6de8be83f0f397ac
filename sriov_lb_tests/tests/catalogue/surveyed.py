# SPDX-License-Identifier: Apache-2.0
"""The whole catalogue from one client to one load balancer, with counters in its amphora."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from sriov_lb_tests.amphora import Amphora
from sriov_lb_tests.amphora.counting import Counts, Stage
from sriov_lb_tests.packets.catalogue import Case, Context, missing
from sriov_lb_tests.packets.probe import tcp_syn
from sriov_lb_tests.wire.survey import Finding, survey
from sriov_lb_tests.wire.vantage import Vantage, Verdict

#: How many cases that can fail have to be looked at for a catalogue to say something.
FEWEST = 220
#: Up to so many frames that never arrived are sent again; more are no accident.
AGAIN = 64


@dataclass
class Surveyed:
    """What became of the catalogue.

    :param arrived: frames of the client that the amphora's counters saw.
    :param left_out: ids of the cases that the load balancer cannot serve, with what they lack.
    :param seconds: the whole of it, putting up the counters and taking them away included.
    """

    context: Context
    findings: list[Finding]
    arrived: int
    left_out: dict[str, list[str]]
    seconds: float

    @property
    def wrong(self) -> list[Finding]:
        """Cases that met a fate that breaks a promise."""
        return [finding for finding in self.findings if finding.right is False]

    @property
    def can_fail(self) -> list[Finding]:
        """Cases for which not every fate is allowed."""
        return [finding for finding in self.findings if finding.case.decisive]

    @property
    def looked_at(self) -> list[Finding]:
        """Those of them whose fate is known."""
        return [finding for finding in self.can_fail if finding.right is not None]

    @property
    def never_arrived(self) -> list[Finding]:
        """Cases that the amphora never saw: nobody looked at what it would do with them."""
        return [finding for finding in self.findings if not finding.arrived]

    @property
    def lost(self) -> list[Finding]:
        """Those of them that had to arrive."""
        return [finding for finding in self.never_arrived if not finding.case.lost]

    @property
    def unsure(self) -> list[Finding]:
        """Cases whose control did not come back, where no counters tell more."""
        return [
            finding
            for finding in self.findings
            if finding.fate is None and finding.observation.verdict is Verdict.INCONCLUSIVE
        ]

    def figures(self) -> str:
        return (
            f"{len(self.findings)} cases, {len(self.can_fail)} of them can fail, "
            f"{len(self.looked_at)} of these looked at"
        )

    def doubt(self, *, switched: bool = False, fewest: int = FEWEST) -> str:
        """Why nothing can be concluded; empty when something can.

        :param switched: a virtual switch is on the way, which eats what it takes for odd. What it
            ate is not looked at; elsewhere whatever is lost has to have a reason.
        :param fewest: how many cases that can fail have to be looked at.
        """
        if not self.arrived:
            return "The counters in the amphora saw none of the client's frames."
        if self.unsure:
            return f"{len(self.unsure)} cases prove nothing: {self.unsure[0]}"
        if self.lost and not switched:
            return (
                f"{len(self.lost)} packet classes (IPv{self.context.version}) never arrived at the "
                "amphora, so nothing is known of what it does with them: "
                f"{', '.join(finding.case.id for finding in self.lost)}. {self.lost[0]}"
            )
        if len(self.looked_at) < fewest:
            return f"Too little arrived at the amphora: {self.figures()}, at least {fewest} needed."
        return ""

    def sentence(self) -> str:
        """The failure: how many, and the first of them with its packet."""
        first, *others = self.wrong
        more = f" {len(others)} more: {', '.join(f.case.id for f in others)}." if others else ""
        return (
            f"Of {len(self.findings)} packet classes (IPv{self.context.version}), "
            f"{len(self.wrong)} met a fate that breaks a promise. {first}{more}"
        )

    def table(self) -> str:
        """One line for each case."""
        words = {True: "ok", False: "WRONG"}
        lines = [
            f"{words.get(f.right, 'unseen'):6} "
            f"{f.fate.value if f.fate else '-':18} deserves {f.case.expected.value:18} "
            f"{f.case.id}: {f.case.description}{'' if f.case.decisive else ' (cannot fail)'}"
            for f in self.findings
        ]
        lines += [f"left   out: {name}: lacks {', '.join(w)}" for name, w in self.left_out.items()]
        return "\n".join(lines)


@dataclass
class _Kept:
    """The counts of a counting block, for who wants to see them after it."""

    counts: list[Counts] = field(default_factory=list)

    @contextmanager
    def around(self, amphora: Amphora, mac: str) -> Iterator[Counts]:
        with amphora.counting(mac) as counts:
            self.counts.append(counts)
            yield counts


def take(
    vantage: Vantage,
    context: Context,
    amphora: Amphora,
    *,
    chosen: Sequence[Case] | None = None,
) -> Surveyed:
    """Send the cases; what has to arrive and did not is sent once more.

    :param context: without a flow; one is opened for the cases that need a live connection.
    :param chosen: by default every case that the context can serve.
    :raises ControlFailed: the listener does not answer the allowed source.
    """
    started = time.monotonic()
    flow = vantage.open_flow(context.vip, context.tcp_port, source=context.allowed)
    context = Context(**{**context.__dict__, "flow": flow})
    control = tcp_syn(context.vip, context.tcp_port, source=context.allowed)
    kept = _Kept()

    def send(these: Sequence[Case] | None) -> list[Finding]:
        counting = kept.around(amphora, vantage.interface.mac)
        return survey(vantage, context, control=control, chosen=these, counting=counting)

    try:
        findings = send(chosen)
        lost = [one.case for one in findings if not one.arrived and not one.case.lost]
        if 0 < len(lost) <= AGAIN:
            again = {one.case.id: one for one in send(lost)}
            findings = [again.get(one.case.id, one) for one in findings]
    finally:
        vantage.close_flow(context.vip, flow)
    return Surveyed(
        context=context,
        findings=findings,
        arrived=sum(counts.total(Stage.ARRIVED) for counts in kept.counts),
        left_out={
            name: sorted(need.value for need in lacks) for name, lacks in missing(context).items()
        },
        seconds=time.monotonic() - started,
    )
