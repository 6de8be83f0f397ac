# SPDX-License-Identifier: Apache-2.0
"""Advertisements to one amphora of a pair, while its VIPs are watched: did they move?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sriov_lb_tests.amphora import Amphora, Stage
from sriov_lb_tests.packets.probe import Probe
from sriov_lb_tests.wire.prober import ProberReport
from sriov_lb_tests.wire.vantage import Vantage

#: Probes of each VIP a second, and how many have to leave: an election takes seconds.
RATE, LEAST = 100.0, 50.0


@dataclass(frozen=True)
class Watched:
    """What became of the advertisements, and of the VIPs meanwhile.

    :param sent: how many advertisements. :param stages: how many of them came how far.
    :param report: the prober's, whose streams are what each VIP has to answer.
    """

    sent: int
    stages: Mapping[Stage, int]
    report: ProberReport

    def __str__(self) -> str:
        return f"{self.sent} sent, " + ", ".join(
            f"{number} {stage.value}" for stage, number in self.stages.items()
        )

    def moved(
        self, mac: str, interval: float, names: Mapping[str, str] | None = None
    ) -> list[str]:
        """What says that a VIP moved or was away, half a sentence each; [] when all stayed.

        :param mac: of the master's port on the VIP network, in lower case.
        :param interval: seconds between two advertisements of the pair: a master that lets go of
            the VIPs leaves them with nobody for longer, until the backup's timer is over.
        :param names: whose the MACs are.
        """
        found: dict[tuple[str, str], str] = {}
        for at, target, heard in self.report.moves:
            other = heard.lower()
            if other != mac:
                who = (names or {}).get(other, other)
                text = f"the VIP {target} was announced by {who}, {self.report.when(at)}"
                found.setdefault((target, other), text)
        return [*found.values()] + [
            f"the VIP {stream.probe.destination} did not answer for {stream.longest:.1f} s"
            for stream in self.report.streams.values()
            if stream.longest > interval
        ]

    def doubt(self, stage: Stage) -> str:
        """Why that nothing moved proves nothing; "" when it does.

        :param stage: how far each of the advertisements had to come.
        """
        if self.report.problem:
            return self.report.problem
        if self.report.rate < LEAST:
            return f"only {self.report.rate:.0f} probes a second could be sent, not {LEAST:.0f}."
        if not self.sent or self.stages[stage] < self.sent:
            return (
                f"of {self.sent} advertisements {self.stages[Stage.ARRIVED]} arrived in the "
                f"amphora, {self.stages[Stage.REACHED_FILTER]} reached its filter and "
                f"{self.stages[Stage.PASSED_FILTER]} passed it."
            )
        return ""


def advertise(
    vantage: Vantage,
    inside: Amphora,
    probe: Probe,
    moments: Sequence[float],
    streams: Mapping[str, Probe],
    title: str,
) -> Watched:
    """Send an advertisement at those moments (seconds since the first).

    :param streams: what each VIP has to answer, all the while.
    :raises ControlFailed: nobody answers for the amphora's address, or for a VIP.
    """
    link = vantage.link(probe.destination)
    who = [vantage.identities.next() for _ in moments]
    frames = [frame for one in who for frame in probe.frames(link, one)]
    with (
        inside.counting(vantage.interface.mac) as counts,
        vantage.prober(dict(streams), follow=True, rate=RATE, title=title) as probing,
    ):
        probing.mark("first advertisement")
        vantage.send(frames, [1e6 * at for at in moments], title=f"{title}: {probe}")
    found: list[dict[Stage, Any]] = [counts.of(one, probe.version) for one in who]
    stages = {stage: sum(bool(one[stage]) for one in found) for stage in Stage}
    return Watched(len(who), stages, probing.report)
