# SPDX-License-Identifier: Apache-2.0
"""The agreement check for tests: what the cloud and the run know is put together here."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

from tempest import config

from sriov_lb_tests.agreement import Agreement, Reach, Seat, Settled, Subject, look, settle
from sriov_lb_tests.amphora import Amphora
from sriov_lb_tests.tests import base, scene
from sriov_lb_tests.verdicts.model import Broken

CONF = config.CONF

#: Seconds for which a disagreement is watched, to tell late from never.
PATIENCE = 12.0


class Agrees:
    """For test classes: ``self.agrees(lb, "after the listener was deleted", ports=[80])``."""

    stage: Any
    site: Any
    seen: dict[str, Any]

    def subject(self, lb: Any) -> Subject:
        """What the APIs say of a load balancer now."""
        lbs = self.site.lbs
        amphorae = lbs.amphorae(lb.id) if self.stage.clouds.admin is not None else []
        subnets = [subnet.cidr for subnet in self.site.vip_net.subnets.values()]
        return Subject.of(lbs.show(lb.id), lbs.listeners(lb), lbs.pools(lb), amphorae, subnets)

    def seats(self, subject: Subject) -> list[Seat]:
        """Its amphorae, where the tests may log in to them."""
        if not CONF.sriov_lb.amphora_ssh or self.stage.clouds.admin is None:
            return []
        return [
            Seat.of(entry, Amphora(self.stage.amphora_host(SimpleNamespace(**entry))))
            for entry in subject.amphorae
        ]

    def reach(self, subject: Subject, vantage: Any) -> Reach:
        """From where probes may come: nobody else's address is ever pretended."""
        net = self.site.vip_net
        network = (self.stage.clouds.admin or self.stage.clouds.member).network
        taken = {
            fixed["ip_address"]
            for port in network.ports(network_id=net.network.id)
            for fixed in port.fixed_ips
        }
        links = [subnet.cidr for subnet in net.subnets.values()]
        member = self.stage.clouds.member
        if self.stage.clouds.admin is None and net.network.project_id != member.current_project_id:
            # Of another project's network Neutron shows a member his own ports alone: which
            # addresses are taken is not known.
            links = []
        gateways = [subnet.gateway_ip for subnet in net.subnets.values() if subnet.gateway_ip]
        return Reach.of(vantage, subject, links, [*taken, *gateways])

    def look(
        self,
        lb: Any,
        *,
        ports: Sequence[int] = (),
        vantage: Any = None,
        only: Iterable[str] | None = None,
        **options: Any,
    ) -> Agreement:
        """One look; a failed control is shown in ``unclear`` and is no failure yet.

        :param only: ids of the amphorae to enter, when others are dead.
        """
        subject = self.subject(lb)
        if vantage is None:
            vantage = scene.of(self.stage).client.vantage
        reach = self.reach(subject, vantage)
        seats = self.seats(subject)
        if only is not None:
            seats = [seat for seat in seats if seat.id in set(only)]
        return look(subject, seats, vantage, reach, ports=ports, **options)

    def agrees(
        self,
        lb: Any,
        step: str,
        *,
        ports: Iterable[int] = (),
        patience: float = PATIENCE,
        **options: Any,
    ) -> Settled:
        """Policy, ruleset and wire agree now, or the test fails with the witness.

        :param step: what was done just before, for the message and the evidence.
        :param ports: further TCP ports without a listener: that were served once, or never.
        """
        wanted = tuple(ports)
        settled = settle(lambda: self.look(lb, ports=wanted, **options), patience=patience)
        steps = self.__dict__.setdefault("_steps", [])
        steps.append(step)
        name = f"agreement-{len(steps):02d}"
        self.keep(f"{name}.json", {"step": step, **settled.seen.to_json()})
        if not settled.agreed:
            for amphora, text in settled.first.rulesets.items():
                self.keep(f"{name}-{amphora}.nft.txt", text)
            self.seen[f"late, {step}"] = settled.late
            raise Broken(f"{step}: {settled}", findings=_findings(step, settled.seen))
        if settled.first.unclear:
            base.inconclusive(f"{step}: {settled.first.unclear[0]}")
        return settled

    def until_agrees(self, lb: Any, step: str, *, timeout: float, **options: Any) -> float:
        """Wait until they agree, where no API state promises when; returns the seconds it took.

        What passes and may not is a failure at once; what does not pass yet is waited for.
        """
        started = time.monotonic()
        while True:
            found = self.look(lb, **options)
            open_now = [one for one in found.findings if one.too_open]
            late = time.monotonic() - started > timeout
            if open_now or (late and found.findings):
                raise Broken(f"{step}: {found}", findings=_findings(step, found))
            if found.agreed and (late or not found.unclear):
                if found.unclear:
                    base.inconclusive(f"{step}: {found.unclear[0]}")
                return time.monotonic() - started


def _findings(step: str, seen: Agreement) -> list[str]:
    """One by one, so that a known one hides no other."""
    return [f"{step}: {finding}" for finding in seen.findings]
