# SPDX-License-Identifier: Apache-2.0
"""Guests: instances of the tester's own, and the keys that open them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from openstack import exceptions as sdk
from openstack.connection import Connection

from sriov_lb_tests import errors
from sriov_lb_tests.cloud.awaiting import until
from sriov_lb_tests.cloud.ledger import Ledger
from sriov_lb_tests.cloud.networks import Net


@dataclass(frozen=True)
class Key:
    """A key pair in Nova, and the private half on this machine."""

    name: str
    private_key: Path


def create_key(member: Connection, ledger: Ledger, folder: Path, *, what: str = "key") -> Key:
    """A new Ed25519 key: the private half never leaves ``folder`` (mode 0600)."""
    private = ed25519.Ed25519PrivateKey.generate()
    public = private.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    name = ledger.name(what)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(
            private.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.OpenSSH,
                serialization.NoEncryption(),
            )
        )
    ledger.make(
        "keypair",
        name,
        "member",
        lambda: member.compute.create_keypair(name=name, public_key=public.decode()),
        user_id=str(member.current_user_id),
    )
    return Key(name, path)


@dataclass
class Guest:
    """An instance with its ports.

    :param ports: by the role of the network, such as ``access``, ``vip``, ``member``.
    :param nets: the networks of these ports, where known.
    """

    server: Any
    ports: dict[str, Any]
    nets: dict[str, Net] = field(default_factory=dict)
    key: Key | None = None
    floating_address: str | None = None

    @property
    def id(self) -> str:
        return self.server.id

    @property
    def name(self) -> str:
        return self.server.name

    def mac(self, role: str) -> str:
        """Hardware address of the port, lower case with colons."""
        return self.ports[role].mac_address.lower()

    def addresses(self, role: str, version: int | None = None) -> list[str]:
        """Fixed addresses of the port, of one IP version if asked."""
        colon = {4: False, 6: True}
        return [
            fixed["ip_address"]
            for fixed in self.ports[role].fixed_ips
            if version is None or (":" in fixed["ip_address"]) == colon[version]
        ]


def boot(
    connection: Connection,
    ledger: Ledger,
    *,
    image: Any,
    flavor: Any,
    ports: Mapping[str, Any],
    key: Key | None,
    by: str = "member",
    host: str | None = None,
    what: str = "guest",
) -> Guest:
    """Ask for an instance with ports that exist; does not wait.

    :param ports: by role, in the order the guest shall see them.
    :param host: compute host to put it on (administrators only).
    """
    name = ledger.name(what)
    request: dict[str, Any] = {
        "name": name,
        "image_id": image.id,
        "flavor_id": flavor.id,
        "networks": [{"port": port.id} for port in ports.values()] or "none",
        # Without DHCP anywhere, the config drive is how a guest learns its addresses.
        "config_drive": True,
    }
    if key is not None:
        request["key_name"] = key.name
    if host is not None:
        request["host"] = host
    server = ledger.make(
        "server", name, by, lambda: connection.compute.create_server(**request)
    )
    server.name = server.name or name
    return Guest(server, dict(ports), key=key)


def await_active(connection: Connection, guest: Guest, *, timeout: float = 300) -> Guest:
    """Wait until an instance is ACTIVE; its ports are read again (Nova has bound them).

    :raises ResourceFault: it went to ERROR; with Nova's fault.
    :raises StuckPending: it stayed in BUILD.
    """
    state: list[str] = [""]

    def active() -> Any:
        server = connection.compute.get_server(guest.id)
        state[0] = f"It is {server.status}, task {server.task_state or 'none'}."
        if server.status == "ERROR":
            fault = (server.fault or {}).get("message", "")
            raise errors.ResourceFault(
                f"Instance {guest.name} ({guest.id}) was to be ACTIVE and is in ERROR. Nova says: "
                f"{fault or 'nothing'}.",
                fault=fault,
            )
        return server if server.status == "ACTIVE" else None

    guest.server = until(
        active,
        what=f"instance {guest.name} ({guest.id}) to be ACTIVE",
        timeout=timeout,
        explain=lambda: state[0],
    )
    guest.ports = {role: connection.network.get_port(p.id) for role, p in guest.ports.items()}
    return guest


def console(connection: Connection, server_id: str, lines: int = 100) -> str:
    """The end of an instance's console log, or why there is none."""
    try:
        output = connection.compute.get_server_console_output(server_id, length=lines)
    except sdk.HttpException as error:
        return f"(no console log: {error})"
    if isinstance(output, dict):
        return output.get("output") or ""
    return str(output or "")


def create_floating_address(
    member: Connection, ledger: Ledger, external_network: Any, port: Any
) -> str:
    """A floating address for a port; returns the address."""
    name = ledger.name("floating")
    ip = ledger.make(
        "floating_ip",
        name,
        "member",
        lambda: member.network.create_ip(
            floating_network_id=external_network.id, port_id=port.id, description=name
        ),
    )
    return ip.floating_ip_address


def adopt(connection: Connection, server_id: str, nets: Mapping[str, Net], option: str) -> Guest:
    """An instance that exists, with its ports on the networks that matter.

    :param nets: by role; roles whose network the instance has no port on are left out.
    :raises ResourceMissing: there is no such instance, or it is not ACTIVE.
    """
    try:
        server = connection.compute.get_server(server_id)
    except sdk.NotFoundException as error:
        raise errors.ResourceMissing(
            f"Server {server_id!r} ({option}) does not exist or is not visible."
        ) from error
    if server.status != "ACTIVE":
        raise errors.ResourceMissing(
            f"Server {server.name} ({server_id}, {option}) is {server.status}; it must be ACTIVE.",
            remedy="Start it.",
        )
    ports = {}
    for port in connection.network.ports(device_id=server.id):
        for role, net in nets.items():
            if port.network_id == net.id and role not in ports:
                ports[role] = port
    return Guest(server, ports, dict(nets))


def attach(connection: Connection, server_id: str, port_id: str) -> None:
    """Plug a port into a running instance; Nova claims its VF now.

    :raises openstack.exceptions.BadRequestException: no VF is left on that host.
    """
    connection.compute.create_server_interface(server_id, port_id=port_id)


def detach(
    connection: Connection, server_id: str, port_ids: Sequence[str], *, timeout: float = 60
) -> None:
    """Unplug ports from a running instance and wait until Nova has let go of all of them.

    :raises StuckPending: Nova did not; names the ports.
    """
    for port_id in port_ids:
        connection.compute.delete_server_interface(port_id, server=server_id, ignore_missing=True)
    remaining: list[str] = []

    def let_go() -> bool:
        attached = {i.port_id for i in connection.compute.server_interfaces(server_id)}
        remaining[:] = [p for p in port_ids if p in attached]
        return not remaining

    until(
        let_go,
        what=f"instance {server_id} to let go of {len(port_ids)} port(s)",
        timeout=timeout,
        interval=0.5,
        explain=lambda: f"Still attached: {', '.join(remaining)}.",
    )
