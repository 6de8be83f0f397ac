# SPDX-License-Identifier: Apache-2.0
"""An SR-IOV load balancer and its twin: equal in everything but the port of the VIP.

The twin is the control of every comparison. What works on it and fails on the other is the
fault of SR-IOV; what fails on both is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sriov_lb_tests.cloud.loadbalancers import LoadBalancers
from sriov_lb_tests.cloud.networks import Net
from sriov_lb_tests.cloud.scenario import ListenerSet
from sriov_lb_tests.cloud.servers import Guest
from sriov_lb_tests.cloud.site import MEMBER, Site


@dataclass
class Deployment:
    """What a listener set became on one load balancer."""

    lb: Any
    listeners: dict[str, Any] = field(default_factory=dict)
    pools: dict[str, Any] = field(default_factory=dict)
    members: dict[str, Any] = field(default_factory=dict)


def deploy(
    lbs: LoadBalancers,
    lb: Any,
    wanted: ListenerSet,
    members: Sequence[Guest] = (),
    member_net: Net | None = None,
) -> Deployment:
    """Make the listeners, pools and members of a listener set on a load balancer.

    :param members: the servers behind every pool, by their addresses on ``member_net``: all of
        the first IP version that the network has.
    :raises ResourceFault: a change ended in ERROR; what was made so far stays.
    """
    done = Deployment(lb)
    for spec in wanted.pools:
        pool = lbs.create_pool(
            lb, protocol=spec.protocol, algorithm=spec.algorithm, what=f"pool-{spec.name}"
        )
        done.pools[spec.name] = pool
        for guest in members:
            assert member_net is not None, "members need the network they are on"
            version = min(member_net.subnets)
            done.members[guest.id] = lbs.add_member(
                lb,
                pool,
                address=guest.addresses(MEMBER, version)[0],
                port=spec.member_port,
                subnet_id=member_net.subnet(version).id,
                what="member",
            )
        if spec.health_monitor:
            lbs.create_health_monitor(lb, pool, kind=spec.health_monitor)
    for listener in wanted.listeners:
        done.listeners[listener.name] = lbs.create_listener(
            lb,
            protocol=listener.protocol,
            port=listener.port,
            allowed_cidrs=listener.allowed_cidrs,
            default_pool_id=done.pools[listener.pool].id if listener.pool else None,
            what=f"listener-{listener.name}",
        )
    return done


@dataclass
class Twins:
    """The two load balancers."""

    sriov: Any
    normal: Any

    @classmethod
    def ask(cls, site: Site, *, versions: tuple[int, ...] = (4,), what: str = "twin") -> Twins:
        """Ask for both, side by side; does not wait."""
        return cls(
            sriov=site.ask_load_balancer("sriov", versions=versions, what=f"{what}-sriov"),
            normal=site.ask_load_balancer("normal", versions=versions, what=f"{what}-normal"),
        )

    def wait(self, lbs: LoadBalancers) -> Twins:
        """Wait until both are ACTIVE."""
        self.sriov = lbs.wait(self.sriov.id)
        self.normal = lbs.wait(self.normal.id)
        return self

    def deploy(
        self,
        lbs: LoadBalancers,
        wanted: ListenerSet,
        members: Sequence[Guest] = (),
        member_net: Net | None = None,
    ) -> tuple[Deployment, Deployment]:
        """The same listeners on both: (SR-IOV, normal)."""
        return (
            deploy(lbs, self.sriov, wanted, members, member_net),
            deploy(lbs, self.normal, wanted, members, member_net),
        )
