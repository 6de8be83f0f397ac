# SPDX-License-Identifier: Apache-2.0
"""Networks, subnets, security groups and ports."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from openstack import exceptions as sdk
from openstack.connection import Connection

from sriov_lb_tests import errors
from sriov_lb_tests.cloud.awaiting import until
from sriov_lb_tests.cloud.ledger import Ledger


@dataclass
class Net:
    """A network and its subnets by IP version (4, 6); either may be missing."""

    network: Any
    subnets: dict[int, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.network.id

    def subnet(self, version: int) -> Any:
        """The subnet of an IP version.

        :raises ResourceMissing: the network has none.
        """
        try:
            return self.subnets[version]
        except KeyError:
            raise errors.ResourceMissing(
                f"Network {self.network.name} ({self.network.id}) has no IPv{version} subnet.",
                remedy=f"Set a CIDR for IPv{version}, or exclude its tests.",
            ) from None

    def address(self, port: Any, version: int) -> str:
        """The fixed address of a port on this network's subnet of an IP version."""
        wanted = self.subnet(version).id
        for fixed in port.fixed_ips:
            if fixed["subnet_id"] == wanted:
                return fixed["ip_address"]
        raise errors.ResourceMissing(f"Port {port.id} has no IPv{version} address.")


def create_provider_network(
    admin: Connection,
    ledger: Ledger,
    *,
    project_id: str,
    physical_network: str,
    network_type: str,
    segmentation_id: int | None = None,
    port_security: bool = True,
    what: str = "net",
) -> Any:
    """A provider network that belongs to ``project_id``, so that a member may use it fully.

    :raises CloudError: Neutron refuses, for example because the physical network has one.
    """
    name = ledger.name(what)
    request: dict[str, Any] = {
        "name": name,
        "project_id": project_id,
        "provider_physical_network": physical_network,
        "provider_network_type": network_type,
        "is_port_security_enabled": port_security,
    }
    if segmentation_id:
        request["provider_segmentation_id"] = segmentation_id
    try:
        return ledger.make(
            "network", name, "admin", lambda: admin.network.create_network(**request)
        )
    except sdk.ConflictException as error:
        users = [
            f"{net.name} ({net.id})"
            for net in admin.network.networks(provider_physical_network=physical_network)
        ]
        raise errors.CloudError(
            f"Neutron refuses a {network_type} network on {physical_network!r}: {error} "
            f"There already: {', '.join(users) or 'none'}.",
            remedy=(
                "Another run may be using it (run serially), or one died (sriov-lb cleanup); or "
                "use a VLAN, or adopt the network that is there."
            ),
        ) from error


def create_network(
    member: Connection, ledger: Ledger, *, port_security: bool = True, what: str = "net"
) -> Any:
    """A network of the project's own, of whatever type the cloud gives to projects."""
    name = ledger.name(what)
    return ledger.make(
        "network",
        name,
        "member",
        lambda: member.network.create_network(name=name, is_port_security_enabled=port_security),
    )


def create_subnet(
    connection: Connection,
    ledger: Ledger,
    network: Any,
    cidr: str,
    *,
    by: str = "member",
    project_id: str | None = None,
    what: str = "subnet",
) -> Any:
    """A subnet without gateway and without DHCP: instances get their addresses from Nova."""
    version = ipaddress.ip_network(cidr).version
    name = ledger.name(f"{what}-v{version}")
    request: dict[str, Any] = {
        "name": name,
        "network_id": network.id,
        "cidr": cidr,
        "ip_version": version,
        "gateway_ip": None,
        "is_dhcp_enabled": False,
    }
    if project_id:
        request["project_id"] = project_id
    return ledger.make(
        "subnet", name, by, lambda: connection.network.create_subnet(**request)
    )


def adopt(connection: Connection, network_id: str, option: str) -> Net:
    """A network that exists, with the first subnet of each IP version.

    :raises ResourceMissing: it is not there, or has no subnet.
    """
    try:
        network = connection.network.get_network(network_id)
    except sdk.NotFoundException as error:
        raise errors.ResourceMissing(
            f"Network {network_id!r} ({option}) does not exist or is not visible."
        ) from error
    net = Net(network)
    for subnet in connection.network.subnets(network_id=network.id):
        net.subnets.setdefault(subnet.ip_version, subnet)
    if not net.subnets:
        raise errors.ResourceMissing(
            f"Network {network.name} ({network.id}, {option}) has no subnet that is visible."
        )
    return net


def create_security_group(
    member: Connection,
    ledger: Ledger,
    rules: Iterable[Mapping[str, Any]],
    *,
    what: str = "guests",
) -> Any:
    """A security group with ingress rules.

    :param rules: arguments of a rule without direction, such as ``{"protocol": "tcp",
        "port_range_min": 22, "port_range_max": 22, "ether_type": "IPv4"}``.
    """
    name = ledger.name(what)
    group = ledger.make(
        "security_group", name, "member", lambda: member.network.create_security_group(name=name)
    )
    for rule in rules:
        member.network.create_security_group_rule(
            security_group_id=group.id, direction="ingress", **rule
        )
    return group


OPEN = ({"ether_type": "IPv4"}, {"ether_type": "IPv6"})
"""Everything, for guests: what is tested is the amphora's firewall, never the guest's."""


def create_port(
    connection: Connection,
    ledger: Ledger,
    net: Net,
    *,
    versions: Sequence[int] = (4, 6),
    vnic_type: str = "normal",
    port_security: bool | None = None,
    security_groups: Sequence[Any] | None = None,
    addresses_each: int = 1,
    address_pairs: Sequence[str] = (),
    by: str = "member",
    what: str = "port",
) -> Any:
    """A port with fixed addresses on the network's subnets.

    :param versions: IP versions wanted; those the network lacks are left out.
    :param vnic_type: ``normal`` or ``direct`` (a VF).
    :param port_security: None leaves the network's default; False for ports that send
        crafted sources (needs the network's owner or an administrator).
    :param addresses_each: how many addresses per version.
    :param address_pairs: further CIDRs the port may send from.
    """
    fixed = [
        {"subnet_id": net.subnets[version].id}
        for version in versions
        if version in net.subnets
        for _ in range(addresses_each)
    ]
    name = ledger.name(what)
    request: dict[str, Any] = {
        "name": name,
        "network_id": net.id,
        "binding_vnic_type": vnic_type,
        "fixed_ips": fixed,
    }
    if port_security is not None:
        request["is_port_security_enabled"] = port_security
    if port_security is False:
        request["security_groups"] = []
    elif security_groups is not None:
        request["security_groups"] = [group.id for group in security_groups]
    if address_pairs:
        request["allowed_address_pairs"] = [{"ip_address": cidr} for cidr in address_pairs]
    return ledger.make("port", name, by, lambda: connection.network.create_port(**request))


def await_port(connection: Connection, port_id: str, *, timeout: float = 60) -> Any:
    """Wait until Neutron says that a port is ACTIVE, and return it.

    :raises StuckPending: with the port's binding, which usually names the culprit.
    """
    seen: list[Any] = []

    def active() -> Any:
        port = connection.network.get_port(port_id)
        seen[:] = [port]
        return port if port.status == "ACTIVE" else None

    def explain() -> str:
        port = seen[0]
        return (
            f"It is {port.status}, vif_type {port.binding_vif_type or '(hidden)'} on host "
            f"{port.binding_host_id or '(hidden)'}."
        )

    return until(
        active,
        what=f"port {port_id} to be ACTIVE",
        timeout=timeout,
        explain=explain,
    )
