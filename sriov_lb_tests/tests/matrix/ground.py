# SPDX-License-Identifier: Apache-2.0
"""What the load balancers of the matrix share: subnets, a member, a client, and one at a time the
load balancer itself."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from openstack import exceptions as sdk

from sriov_lb_tests import errors
from sriov_lb_tests.cloud import networks
from sriov_lb_tests.cloud.loadbalancers import LoadBalancers
from sriov_lb_tests.cloud.networks import Net
from sriov_lb_tests.cloud.scenario import Matrix
from sriov_lb_tests.cloud.site import once
from sriov_lb_tests.tests import scene, stage
from sriov_lb_tests.tests.matrix import member
from sriov_lb_tests.tests.matrix.selection import Cell, Row

#: Seconds between two looks at a load balancer's state.
INTERVAL = 0.4

#: Seconds that a listener with 200 CIDRs may take at least.
MANY_TIMEOUT = 300

#: Pool protocol by protocol of the matrix; None where the amphora itself answers.
POOLS = {
    "HTTP": "HTTP", "TERMINATED_HTTPS": "HTTP", "HTTPS": "HTTPS", "TCP": "TCP", "PROXY": "PROXY",
    "PROMETHEUS": None, "UDP": "UDP", "SCTP": "SCTP",
}  # fmt: skip


@dataclass
class Ground:
    """See the module."""

    stage: stage.Stage
    matrix: Matrix
    _made: dict[str, Any] = field(default_factory=dict)
    _failures: dict[str, Exception] = field(default_factory=dict)
    _normal: dict[tuple[str, tuple[int, ...]], str] = field(default_factory=dict)

    @property
    def site(self) -> Any:
        return self.stage.site

    @property
    def scene(self) -> scene.Scene:
        return scene.of(self.stage)

    @once
    def lbs(self) -> LoadBalancers:
        """Like the site's, and quicker to see a change done."""
        settings = self.site.settings
        return LoadBalancers(
            self.site.clouds,
            self.site.ledger,
            timeout=settings.lb_build_timeout,
            # Octavia makes a rule of a security group of each of 200 CIDRs, one by one.
            change_timeout=max(settings.lb_change_timeout, MANY_TIMEOUT),
            interval=INTERVAL,
        )

    @once
    def further(self) -> list[Net]:
        """Further subnets of the VIP network, one of each IP version in each; the first is where
        members of the place "second" are."""
        member_cloud, network = self.stage.clouds.member, self.site.vip_net.network
        found = []
        for number, pair in enumerate(
            zip(self.matrix.subnets[4], self.matrix.subnets[6], strict=True)
        ):
            net = Net(network)
            for version, cidr in zip((4, 6), pair, strict=True):
                if version in self.site.vip_net.subnets:
                    net.subnets[version] = networks.create_subnet(
                        member_cloud, self.site.ledger, network, cidr, what=f"matrix{number}"
                    )
            found.append(net)
        return found

    def place(self, row: Row) -> tuple[str, Net]:
        """Role of the member's port, and its network, for a row."""
        where = row.values["member_place"]
        nets = {"vip": self.site.vip_net, "own": self.site.member_net, "second": self.further[0]}
        return where, nets[where]

    @once
    def asked_member(self) -> Any:
        """The member, asked for: a port in each place where members can be."""
        nets = {"vip": self.site.vip_net, "own": self.site.member_net, "second": self.further[0]}
        ports = {
            role: networks.create_port(
                self.stage.clouds.member,
                self.site.ledger,
                net,
                security_groups=[self.site.security_group],
                what=f"matrix-{role}",
            )
            for role, net in nets.items()
        }
        return self.site.ask_guest(ports, "matrix-member")

    @once
    def member(self) -> Any:
        guest = self.site.await_guest(self.asked_member)
        user = scene.CONF.sriov_lb.member_user or scene.CONF.sriov_lb.guest_user
        member.start(self.stage.host(guest, user), guest.name)
        return guest

    @once
    def client(self) -> scene.Client:
        """The client, with an address on every subnet that a VIP can be on."""
        _ = self.scene.guests, self.asked_member
        client = self.scene.client
        given = ExitStack()
        self.stage.on_close(given.close)
        for number, net in enumerate(self.further):
            # Taken in Neutron, so that nobody else gets them.
            port = networks.create_port(
                self.stage.clouds.member, self.site.ledger, net, what=f"matrix-client{number}"
            )
            for fixed in port.fixed_ips:
                subnet = next(s for s in net.subnets.values() if s.id == fixed["subnet_id"])
                prefix = ipaddress.ip_network(subnet.cidr).prefixlen
                given.enter_context(client.vantage.address(f"{fixed['ip_address']}/{prefix}"))
        return client

    # --- load balancers ---

    @once
    def listener_on_a_normal_vip(self) -> str:
        """The control of listeners that fail on SR-IOV VIPs: the state of one on a normal VIP."""
        asked = self.site.ask_load_balancer("normal", what="matrix-control")
        try:
            lb = self.lbs.wait(asked.id)
            try:
                self.lbs.create_listener(lb, protocol="TCP", port=80)
            except (errors.ResourceFault, errors.StuckPending):
                return "ERROR"
        finally:
            self.lbs.delete(asked.id)
        return "ACTIVE"

    def normal_state(self, row: Row) -> str:
        """The control of load balancers that fail on SR-IOV VIPs: the state of a normal one of the
        same topology and IP versions, asked for once."""
        key = row.values["topology"], row.versions
        if key not in self._normal:
            asked = self.site.ask_load_balancer(
                "normal",
                versions=row.versions,
                what="matrix-control",
                flavor_id=self.site.flavor_of("normal", topology=row.values["topology"]),
            )
            try:
                self._normal[key] = self.lbs.wait(asked.id).provisioning_status
            except errors.ResourceFault:
                self._normal[key] = "ERROR"
            except errors.StuckPending:
                self._normal[key] = "PENDING"
            finally:
                self.lbs.delete(asked.id)
        return self._normal[key]

    def ask(self, row: Row) -> Any:
        """Ask for the load balancer of a row; does not wait."""
        values = row.values
        more = values["additional_vips"] - (len(row.versions) - 1)
        return self.site.ask_load_balancer(
            "sriov" if values["vip"] == "direct" else "normal",
            versions=row.versions,
            what=f"matrix{row.number:02d}",
            flavor_id=self.site.flavor_of(
                "sriov" if values["vip"] == "direct" else "normal",
                topology=values["topology"],
                member_sriov=values["member_port"] == "direct",
            ),
            additional_subnet_ids=[subnet.id for subnet in self._spread(row, more)],
        )

    def _spread(self, row: Row, count: int) -> Iterator[Any]:
        """Subnets for additional VIPs, IP versions in turn."""
        every = [net.subnets[v] for net in self.further for v in row.versions if v in net.subnets]
        if count > len(every):
            raise errors.ConfigurationError(
                f"Row {row.number} of the matrix needs {count} further subnets, and the matrix "
                f"names {len(every)} of its IP versions."
            )
        yield from every[:count]


@dataclass
class Balancer:
    """The load balancer of a row, with the listeners of its cells.

    :param lb: None until it is asked for.
    :param ports: port by cell, for those whose listener is there.
    """

    ground: Ground
    row: Row
    lb: Any
    listeners: dict[Cell, Any] = field(default_factory=dict)
    ports: dict[Cell, int] = field(default_factory=dict)
    pools: dict[str, Any] = field(default_factory=dict)

    @property
    def vips(self) -> list[str]:
        return [
            self.lb.vip_address, *(v["ip_address"] for v in self.lb.additional_vips or ())
        ]  # fmt: skip

    @property
    def sriov(self) -> bool:
        return self.row.values["vip"] == "direct"

    @property
    def members(self) -> list[str]:
        """Addresses of the members, whatever pool they are in."""
        return [address for address, _ in self._members()]

    def _members(self) -> Iterator[tuple[str, Any]]:
        role, net = self.ground.place(self.row)
        for version in self.row.versions:
            if version in net.subnets:
                yield self.ground.member.addresses(role, version)[0], net.subnet(version)

    def pool(self, protocol: str) -> Any:
        """The pool that serves a protocol of the matrix, with its members; None for none."""
        wanted = POOLS[protocol]
        if wanted is None:
            return None
        if wanted not in self.pools:
            lbs = self.ground.lbs
            pool = lbs.create_pool(self.lb, protocol=wanted, what=f"matrix-{wanted.lower()}")
            self.pools[wanted] = pool
            for address, subnet in self._members():
                lbs.add_member(
                    self.lb,
                    pool,
                    address=address,
                    port=member.PORTS[wanted],
                    subnet_id=subnet.id,
                    request_sriov=True if self.row.values["member_port"] == "direct" else None,
                )
        return self.pools[wanted]

    def add(self, cell: Cell, port: int, cidrs: list[str] | None, certificate: str) -> None:
        """Make the listener of a cell.

        :raises ResourceFault: Octavia failed it.
        :raises openstack.exceptions.HttpException: Octavia refuses it.
        """
        attributes: dict[str, Any] = {}
        if cell.protocol == "TERMINATED_HTTPS" and certificate:
            attributes["default_tls_container_ref"] = certificate
        pool = self.pool(cell.protocol)
        self.listeners[cell] = self.ground.lbs.create_listener(
            self.lb,
            protocol="TCP" if cell.protocol == "PROXY" else cell.protocol,
            port=port,
            allowed_cidrs=cidrs,
            default_pool_id=pool.id if pool else None,
            what=f"matrix-{cell.cidrs}-{port}",
            **attributes,
        )
        self.ports[cell] = port

    def remove(self, port: int) -> None:
        """Remove whatever listener is on a port, also one in ERROR."""
        self.ground.lbs.remove_listener(self.lb, port)

    def damaged(self) -> list[Cell]:
        """Cells whose listeners were fine and are in ERROR now: Octavia marks all of them when it
        cannot load the rules of one."""
        failed = {
            listener.protocol_port
            for listener in self.ground.lbs.listeners(self.lb)
            if listener.provisioning_status == "ERROR"
        }
        return [cell for cell, port in self.ports.items() if port in failed]

    def healthy(self) -> bool:
        """Whether it takes changes still."""
        try:
            return self.ground.lbs.show(self.lb.id).provisioning_status == "ACTIVE"
        except sdk.SDKException:
            return False
