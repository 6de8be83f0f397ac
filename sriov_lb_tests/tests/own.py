# SPDX-License-Identifier: Apache-2.0
"""A load balancer that one class has for itself, so that it may do anything to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sriov_lb_tests.cloud.loadbalancers import LoadBalancers
from sriov_lb_tests.cloud.site import MEMBER, once
from sriov_lb_tests.packets.probe import Probe, tcp_syn
from sriov_lb_tests.tests.scene import Scene, vip_of

#: The port of the listener that stays, and the ports of those that come and go.
WEB, OTHER, THIRD = 80, 8081, 8082
#: A port that never has a listener.
NEVER = 8090

#: Seconds between two looks at a load balancer's state: its ACTIVE is to be seen at once.
INTERVAL = 0.25


class Own:
    """An SR-IOV load balancer with one listener, ``web``, its pool and its members.

    Made at the first look and made anew after :meth:`damage`.

    :param topology: ``SINGLE`` or ``ACTIVE_STANDBY``.
    :param versions: IP versions of its VIPs; by default all that the network has.
    """

    def __init__(
        self,
        scene: Scene,
        what: str,
        topology: str = "SINGLE",
        versions: Sequence[int] | None = None,
    ) -> None:
        self.scene, self.what, self.topology = scene, what, topology
        site = scene.site
        self.versions = tuple(versions or scene.versions)
        self.lbs = LoadBalancers(
            site.clouds,
            site.ledger,
            timeout=site.settings.lb_build_timeout,
            change_timeout=site.settings.lb_change_timeout,
            interval=INTERVAL,
        )
        self.damaged = ""
        #: What else to ask for in the request that creates it.
        self.extra: dict[str, Any] = {}
        self._made: dict[str, Any] = {}
        self._failures: dict[str, Exception] = {}

    # --- pieces ---

    @once
    def flavor_id(self) -> str:
        """A flavor of this topology; where only one is given, that one has to have it.

        :raises ResourceMissing: nobody prepared one.
        """
        site = self.scene.site
        if site.settings.topology == self.topology:
            return site.sriov_flavor_id
        return site.flavor_of("sriov", topology=self.topology)

    @once
    def asked(self) -> Any:
        """The load balancer, asked for and not waited for."""
        net = self.scene.site.vip_net
        subnets = [net.subnet(version).id for version in self.versions]
        return self.lbs.create(
            subnet_id=subnets[0],
            flavor_id=self.flavor_id,
            additional_subnet_ids=subnets[1:],
            what=self.what,
            **self.extra,
        )

    @once
    def bare(self) -> Any:
        """The load balancer, ACTIVE, without any listener."""
        asked = self.asked
        _ = self.scene.guests
        return self.lbs.wait(asked.id)

    @once
    def pool(self) -> Any:
        return self.lbs.create_pool(self.bare, protocol="HTTP", what="pool-web")

    @once
    def members(self) -> list[Any]:
        pool = self.pool
        return [
            self.lbs.add_member(self.bare, pool, **self.member(number))
            for number in range(len(self.scene.members))
        ]

    def member(self, number: int) -> dict[str, Any]:
        """What the API has to be told of one of the member servers."""
        net, guest = self.scene.site.vip_net, self.scene.members[number]
        if self.scene.topology.member_place == "own":
            net = self.scene.site.member_net
        version = min(net.subnets)
        return {
            "address": guest.addresses(MEMBER, version)[0],
            "port": self.scene.wanted.pools[0].member_port,
            "subnet_id": net.subnet(version).id,
        }

    @once
    def web(self) -> Any:
        """The listener that stays: open to the client's allowed addresses and nobody else."""
        _ = self.members
        return self.listener("web", WEB, self.cidrs(), default_pool_id=self.pool.id)

    @property
    def lb(self) -> Any:
        """The load balancer with its listener."""
        _ = self.web
        return self.bare

    # --- shorthand ---

    def vip(self, version: int) -> str:
        """The VIP of an IP version; known as soon as the load balancer is asked for."""
        return vip_of(self.asked, version)

    def cidrs(self, which: str = "allowed") -> list[str]:
        """The client's addresses as CIDRs, of every IP version the load balancer has.

        :param which: ``allowed``, ``denied`` or ``both``.
        """
        client = self.scene.client
        found = []
        for version in self.versions:
            for kind in ("allowed", "denied"):
                if which in (kind, "both"):
                    found.append(f"{getattr(client, kind)(version)}/{32 if version == 4 else 128}")
        return found

    def syn(self, version: int, port: int, which: str = "allowed") -> Probe:
        """A SYN from the client's ``allowed`` or ``denied`` address."""
        source = getattr(self.scene.client, which)(version)
        return tcp_syn(self.vip(version), port, source=source)

    def listener(
        self, what: str, port: int, cidrs: Sequence[str] | None, **attributes: Any
    ) -> Any:
        return self.lbs.create_listener(
            self.bare,
            protocol=attributes.pop("protocol", "HTTP"),
            port=port,
            allowed_cidrs=cidrs,
            what=f"listener-{what}",
            **attributes,
        )

    # --- its end ---

    def tidy(self) -> None:
        """Only ``web`` is left, as it was; or nothing at all when it was damaged."""
        if self.damaged:
            before = self._forget()
            if before is not None:
                try:
                    # Octavia builds the next one while it takes this one away.
                    _ = self.asked
                finally:
                    self.lbs.delete(before.id)
        if "web" not in self._made:
            return
        for listener in self.lbs.listeners(self.bare):
            if listener.id != self.web.id:
                self.lbs.delete_listener(self.bare, listener)

    def mended(self) -> None:
        """It is as it was after all; its members may be others."""
        self.damaged = ""
        if "members" in self._made:
            api = self.scene.site.clouds.member.load_balancer
            self._made["members"] = list(api.members(self.pool.id))

    def damage(self, why: str) -> None:
        """What it is in now is not to be handed on."""
        self.damaged = why

    def close(self) -> None:
        """Delete the load balancer with all that hangs on it; the next look makes a new one."""
        asked = self._forget()
        if asked is not None:
            self.lbs.delete(asked.id)

    def _forget(self) -> Any:
        """Begin anew; returns the load balancer that there was, None for none."""
        asked, flavor = self._made.get("asked"), self._made.get("flavor_id")
        self._made, self._failures, self.damaged = {}, {}, ""
        if flavor is not None:
            self._made["flavor_id"] = flavor
        return asked
