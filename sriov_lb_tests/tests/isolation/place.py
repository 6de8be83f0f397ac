# SPDX-License-Identifier: Apache-2.0
"""Where isolation is looked at: amphorae between two networks, and hosts on both of them.

A client on a VF of the VIP network and a host on the member network, both of which may send any
frame. Between them an ACTIVE_STANDBY load balancer whose VIPs *and* member ports are on VFs: no
security group stands before either, so what does not get through was stopped by the amphora. Beside
it one with a normal member port, for what is sent that way. In each amphora sit further vantages,
that only listen.
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
from sriov_lb_tests.cloud.awaiting import until
from sriov_lb_tests.cloud.site import MEMBER, once
from sriov_lb_tests.tests import backend, scene, stage
from sriov_lb_tests.wire.host import Interface
from sriov_lb_tests.wire.ssh import SshHost
from sriov_lb_tests.wire.vantage import Vantage

#: The one listener, and what the member serves.
PORT, MEMBER_PORT = 80, 8000

#: What an amphora may serve beside listeners: ssh, metrics of haproxy, stick tables, the agent.
PRIVATE_PORTS = (22, 1025, 9101, 9102, 9443)

#: And over UDP: name service, DHCP client, time, heartbeats.
PRIVATE_UDP = (53, 68, 123, 323, 546, 5555)

#: The first version of the API in which members may be on VFs.
MEMBER_SRIOV = (2, 30)

#: Seconds a pair may take to elect its master.
ELECTION = 60.0


@dataclass
class Inside:
    """One amphora.

    :param vip_side, member_side: its interfaces in haproxy's namespace.
    :param mgmt: its address on the management network.
    :param base: its own address on the VIP network.
    :param ports, udp_ports: on which anything listens in it, the listener left out.
    """

    amphora: Amphora
    host: SshHost
    mgmt: str
    base: str
    vip_side: Interface
    member_side: Interface
    ports: tuple[int, ...]
    udp_ports: tuple[int, ...]

    def management(self) -> str:
        """The name of its interface on the management network."""
        return next(
            name
            for name, found in self.host.interfaces().items()
            if self.mgmt in {str(one.ip) for one in found.addresses}
        )

    def addresses(self, interface: Interface, version: int) -> list[str]:
        """Addresses of an interface, without link-local ones."""
        return [
            str(one.ip)
            for one in interface.addresses
            if one.version == version and not one.ip.is_link_local
        ]

    def every_address(self, interface: Interface, version: int) -> list[str]:
        """The same with link-local ones, last."""
        found = [str(one.ip) for one in interface.addresses if one.version == version]
        return sorted(found, key=lambda text: ipaddress.ip_address(text).is_link_local)


@dataclass
class Hosts:
    """The hosts on both sides."""

    stage: stage.Stage
    _made: dict[str, Any] = field(default_factory=dict)
    _failures: dict[str, Exception] = field(default_factory=dict)

    @property
    def scene(self) -> scene.Scene:
        return scene.of(self.stage)

    @once
    def asked(self) -> dict[str, Any]:
        """Asked for and not yet waited for."""
        return {
            "guests": self.scene.guests,
            "member": self.stage.site.ask_member(90, "own", port_security=False),
        }

    @once
    def member(self) -> Any:
        """The host on the member network; it serves HTTP."""
        return self.stage.site.await_guest(self.asked["member"])

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


@dataclass
class Place:
    """A load balancer between the hosts.

    :param direct: whether its member ports are on VFs, where the API knows how.
    """

    stage: stage.Stage
    hosts: Hosts
    topology: str
    what: str
    direct: bool
    _made: dict[str, Any] = field(default_factory=dict)
    _failures: dict[str, Exception] = field(default_factory=dict)

    @property
    def site(self) -> Any:
        return self.stage.site

    @property
    def versions(self) -> tuple[int, ...]:
        return tuple(v for v in (4, 6) if v in self.site.vip_net.subnets)

    @once
    def asked(self) -> Any:
        """The load balancer, asked for and not yet waited for."""
        flavor = self.site.flavor_of("sriov", topology=self.topology, member_sriov=self.direct)
        self.stage.lend(self.release)
        return self.site.ask_load_balancer(
            "sriov", versions=self.versions, flavor_id=flavor, what=self.what
        )

    @once
    def lb(self) -> Any:
        """The load balancer, with its listener and a member of each IP version."""
        lbs, asked, _ = self.site.lbs, self.asked, self.hosts.asked
        member = self.hosts.member
        lb = lbs.wait(asked.id)
        pool = lbs.create_pool(lb, protocol="HTTP", what=f"{self.what}-pool")
        for version, subnet in sorted(self.site.member_net.subnets.items()):
            lbs.add_member(
                lb,
                pool,
                address=member.addresses(MEMBER, version)[0],
                port=MEMBER_PORT,
                subnet_id=subnet.id,
                request_sriov=True if self.direct else None,
            )
        lbs.create_listener(lb, protocol="HTTP", port=PORT, default_pool_id=pool.id)
        _ = self.hosts.member_host
        return lb

    def vip(self, version: int) -> str:
        """The VIP of an IP version."""
        return scene.vip_of(self.lb, version)

    @once
    def amphorae(self) -> tuple[Inside, ...]:
        """Its amphorae; the one that holds the VIPs comes first.

        :raises ControlFailed: an amphora has no interface on the member network, or nobody holds
            the VIPs.
        """
        vips = {self.vip(version) for version in self.versions}

        def elected() -> tuple[Inside, ...] | None:
            found = sorted(self._insides(), key=lambda one: not _holds(one, vips))
            return tuple(found) if found and _holds(found[0], vips) else None

        try:
            # A pair elects its master after the API said ACTIVE.
            return until(
                elected,
                what=f"an amphora of load balancer {self.lb.id} to hold {', '.join(sorted(vips))}",
                timeout=ELECTION,
                interval=0.5,
            )
        except errors.StuckPending as error:
            raise errors.ControlFailed(error.message) from error

    def _insides(self) -> list[Inside]:
        found = []
        for amphora, host in self.hosts.scene.amphorae(self.lb):
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
                    ports=tuple(
                        sorted((_listening(inside, "t") | set(PRIVATE_PORTS)) - {PORT})
                    ),
                    udp_ports=tuple(sorted(_listening(inside, "u") | set(PRIVATE_UDP))),
                )
            )
        return found

    def release(self) -> None:
        """Delete the load balancer, whose VFs others need; it is built again when asked for."""
        made = dict(self._made)
        self._made.clear()
        self._failures.clear()
        for one in made.values():
            if isinstance(one, Vantage):
                one.close()
        if "asked" in made:
            self.site.lbs.delete(made["asked"].id)

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

    # --- what Neutron says of an amphora's ports ---

    def port(self, interface: Interface, network: Any) -> Any:
        """The port behind an interface of an amphora."""
        admin = self.stage.clouds.by("admin")
        (found,) = admin.network.ports(mac_address=interface.mac, network_id=network.id)
        return found

    def eaten(self, interface: Interface, network: Any) -> str:
        """Who stopped what never came to an interface of an amphora, as far as that is known."""
        if self.port(interface, network).binding_vnic_type == "normal":
            side = "member" if network.id == self.site.member_net.id else "VIP"
            return f"the security group of its {side} port, not the amphora, stopped it"
        return "it was lost on the way, and what the amphora would have done is not known"


def _holds(inside: Inside, vips: set[str]) -> bool:
    return bool(vips & {str(one.ip) for one in inside.vip_side.addresses})


def _listening(inside: Amphora, kind: str) -> set[int]:
    """Ports that anything has open in either namespace.

    :param kind: ``t`` for TCP, ``u`` for UDP.
    """
    command = ["ss", f"-Hln{kind}"]
    text = inside.within(*command).stdout + inside.host.run(command, root=True).stdout
    # The local address comes before the peer's, which has "*" for its port.
    return {int(number) for number in re.findall(r":(\d+)\s+\S+:\*", text)}


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


_hosts: dict[int, Hosts] = {}
_places: dict[tuple[int, str], Place] = {}


def hosts(on: stage.Stage) -> Hosts:
    """The hosts of a stage."""
    return _hosts.setdefault(id(on), Hosts(on))


def pair(on: stage.Stage) -> Place:
    """The pair with VFs on both sides."""
    made = Place(
        on, hosts(on), "ACTIVE_STANDBY", "isolation", direct=on.api_version >= MEMBER_SRIOV
    )
    return _places.setdefault((id(on), made.what), made)


def behind_a_normal_port(on: stage.Stage) -> Place:
    """One amphora with a VF towards clients and a normal port towards members."""
    made = Place(on, hosts(on), "SINGLE", "isolation-normal", direct=False)
    return _places.setdefault((id(on), made.what), made)
