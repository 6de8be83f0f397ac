# SPDX-License-Identifier: Apache-2.0
"""Where isolation is looked at: a pair between two networks, and hosts on both of them.

An ACTIVE_STANDBY load balancer whose VIPs are on VFs, with a member on a network of its own; a
client on a VF of the VIP network and a host on the member network, both of which may send any
frame. In each amphora sit further vantages, that only listen.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sriov_lb_tests import errors
from sriov_lb_tests.amphora import Amphora
from sriov_lb_tests.cloud.site import MEMBER, once
from sriov_lb_tests.tests import backend, scene, stage
from sriov_lb_tests.wire.host import Interface
from sriov_lb_tests.wire.ssh import SshHost
from sriov_lb_tests.wire.vantage import Vantage

#: The one listener, and what the member serves.
PORT, MEMBER_PORT = 80, 8000

#: What an amphora may serve beside listeners: ssh, metrics of haproxy, stick tables, the agent.
PRIVATE_PORTS = (22, 1025, 9101, 9102, 9443)


@dataclass
class Inside:
    """One amphora of the pair.

    :param vip_side, member_side: its interfaces in haproxy's namespace.
    :param mgmt: its address on the management network.
    :param base: its own address on the VIP network.
    :param ports: TCP ports on which anything listens in it, listeners left out.
    """

    amphora: Amphora
    host: SshHost
    mgmt: str
    base: str
    vip_side: Interface
    member_side: Interface
    ports: tuple[int, ...]

    def addresses(self, interface: Interface, version: int) -> list[str]:
        """Addresses of an interface, without link-local ones."""
        return [
            str(one.ip)
            for one in interface.addresses
            if one.version == version and not one.ip.is_link_local
        ]


@dataclass
class Place:
    """See the module."""

    stage: stage.Stage
    _made: dict[str, Any] = field(default_factory=dict)
    _failures: dict[str, Exception] = field(default_factory=dict)

    @property
    def site(self) -> Any:
        return self.stage.site

    @property
    def scene(self) -> scene.Scene:
        return scene.of(self.stage)

    @property
    def versions(self) -> tuple[int, ...]:
        return tuple(v for v in (4, 6) if v in self.site.vip_net.subnets)

    @once
    def asked(self) -> dict[str, Any]:
        """Asked for and not yet waited for."""
        flavor = self.site.flavor_of("sriov", topology="ACTIVE_STANDBY")
        return {
            "lb": self.site.ask_load_balancer(
                "sriov", versions=self.versions, flavor_id=flavor, what="isolation"
            ),
            "guests": self.scene.guests,
            "member": self.site.ask_member(90, "own", port_security=False),
        }

    @once
    def lb(self) -> Any:
        """The load balancer, with its listener and a member of each IP version."""
        lbs, member = self.site.lbs, self.member
        lb = lbs.wait(self.asked["lb"].id)
        pool = lbs.create_pool(lb, protocol="HTTP", what="isolation-pool")
        for version, subnet in sorted(self.site.member_net.subnets.items()):
            lbs.add_member(
                lb,
                pool,
                address=member.addresses(MEMBER, version)[0],
                port=MEMBER_PORT,
                subnet_id=subnet.id,
            )
        lbs.create_listener(lb, protocol="HTTP", port=PORT, default_pool_id=pool.id)
        return lb

    @once
    def member(self) -> Any:
        """The host on the member network; it serves HTTP."""
        return self.site.await_guest(self.asked["member"])

    @once
    def member_host(self) -> SshHost:
        host = self.stage.host(self.member, scene.CONF.sriov_lb.guest_user)
        backend.start(host, self.member.name, MEMBER_PORT)
        return host

    @once
    def member_side(self) -> Vantage:
        """The host's place on the member network."""
        return self.scene.vantage(self.member, self.member_host, MEMBER)

    @once
    def client(self) -> scene.Client:
        _ = self.asked
        return self.scene.client

    @once
    def vip_side(self) -> Vantage:
        """The client's place on the VIP network, with an agent of its own: its next hop changes."""
        return self.scene.vantage(self.client.guest, self.client.host, "vip")

    def vip(self, version: int) -> str:
        """The VIP of an IP version."""
        lb = self.lb
        addresses = [lb.vip_address, *(v["ip_address"] for v in lb.additional_vips or ())]
        return next(a for a in addresses if (":" in a) == (version == 6))

    @once
    def pair(self) -> tuple[Inside, ...]:
        """The amphorae; the one that holds the VIPs comes first.

        :raises ControlFailed: an amphora has no interface on the member network, or nobody holds
            the VIPs.
        """
        vips = {self.vip(version) for version in self.versions}
        found = []
        for amphora, host in self.scene.amphorae(self.lb):
            inside = Amphora(host)
            interfaces = inside.interfaces()
            others = [name for name in interfaces if name not in ("lo", inside.vip_interface)]
            if not others:
                raise errors.ControlFailed(
                    f"Amphora {amphora.id} has no interface on the member network; it has "
                    f"{', '.join(interfaces)}."
                )
            found.append(
                Inside(
                    amphora=inside,
                    host=host,
                    mgmt=amphora.lb_network_ip,
                    base=amphora.vrrp_ip,
                    vip_side=interfaces[inside.vip_interface],
                    member_side=interfaces[others[0]],
                    ports=_ports(inside, host),
                )
            )
        found.sort(key=lambda one: not vips & {str(a.ip) for a in one.vip_side.addresses})
        if not found or not vips & {str(a.ip) for a in found[0].vip_side.addresses}:
            raise errors.ControlFailed(f"No amphora of load balancer {self.lb.id} holds {vips}.")
        return tuple(found)

    def listening(self, inside: Inside, interface: str, *, netns: bool = True) -> Vantage:
        """A vantage in an amphora; for capturing."""
        key = f"listening {inside.base} {interface}"
        if key not in self._made:
            vantage = Vantage(
                inside.host,
                interface,
                artefacts=self.stage.run.evidence("probes"),
                run_id=self.stage.run.id,
                netns=inside.amphora.netns if netns else None,
            )
            self.stage.on_close(vantage.close)
            self._made[key] = vantage
        return self._made[key]


def _ports(inside: Amphora, host: SshHost) -> tuple[int, ...]:
    """TCP ports that anything listens on in either namespace, and those it may be given."""
    within = inside.within("ss", "-Hltn").stdout
    outside = host.run(["ss", "-Hltn"], root=True).stdout
    found = {int(m) for m in re.findall(r":(\d+)\s+\S+:\*", within + outside)}
    return tuple(sorted((found | set(PRIVATE_PORTS)) - {PORT}))


@contextmanager
def through(vantage: Vantage, hop: str) -> Iterator[Vantage]:
    """Frames go to the station that answers for ``hop``, whatever their destination."""
    before, vantage.next_hop = vantage.next_hop, hop
    try:
        yield vantage
    finally:
        vantage.next_hop = before


def version_of(address: str) -> int:
    return ipaddress.ip_address(address).version


_places: dict[int, Place] = {}


def of(on: stage.Stage) -> Place:
    """The place of a stage."""
    return _places.setdefault(id(on), Place(on))
