# SPDX-License-Identifier: Apache-2.0
"""The whole catalogue from one client to one load balancer, with counters in its amphora."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sriov_lb_tests.amphora import Amphora
from sriov_lb_tests.amphora.counting import Counts, Stage
from sriov_lb_tests.packets.catalogue import Context, missing
from sriov_lb_tests.packets.probe import tcp_syn
from sriov_lb_tests.wire.survey import Finding, survey
from sriov_lb_tests.wire.vantage import Vantage, Verdict


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
    def unsure(self) -> list[Finding]:
        """Cases whose control did not come back."""
        return [
            finding
            for finding in self.findings
            if finding.right is None and finding.observation.verdict is Verdict.INCONCLUSIVE
        ]

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
        lines = [
            f"{'ok' if f.right else 'WRONG' if f.right is False else 'unseen':6} "
            f"{f.fate.value if f.fate else '-':18} deserves {f.case.expected.value:18} "
            f"{f.case.id}: {f.case.description}"
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


def take(vantage: Vantage, context: Context, amphora: Amphora) -> Surveyed:
    """Send every case that the context can serve.

    :param context: without a flow; one is opened for the cases that need a live connection.
    :raises ControlFailed: the listener does not answer the allowed source.
    """
    started = time.monotonic()
    flow = vantage.open_flow(context.vip, context.tcp_port, source=context.allowed)
    context = Context(**{**context.__dict__, "flow": flow})
    control = tcp_syn(context.vip, context.tcp_port, source=context.allowed)
    kept = _Kept()
    try:
        findings = survey(
            vantage, context, control=control, counting=kept.around(amphora, vantage.interface.mac)
        )
    finally:
        vantage.close_flow(context.vip, flow)
    return Surveyed(
        context=context,
        findings=findings,
        arrived=kept.counts[0].total(Stage.ARRIVED),
        left_out={
            name: sorted(need.value for need in lacks) for name, lacks in missing(context).items()
        },
        seconds=time.monotonic() - started,
    )
