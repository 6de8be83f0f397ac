# SPDX-License-Identifier: Apache-2.0
"""What a lab is made of: its hosts, networks, addresses and secrets, as plain data.

Addresses come from 198.18.0.0/15, which RFC 2544 and RFC 6890 reserve for benchmarking: nothing on
the Internet has one, and the lab's network namespace has no way out in any case.
"""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass, field
from typing import Any

CONTROLLER = "198.18.0.1"
CONTROL_NET = "198.18.0.0/24"

VFS_PER_PF = 8

# The identity of the card that VFs stand for in Nova's accounting: Intel's XL710 (8086:1572) and
# its VF (8086:154c), because deployments know these numbers from Nova's own documentation.
VENDOR_ID = "8086"
PF_PRODUCT_ID = "1572"
VF_PRODUCT_ID = "154c"


@dataclass(frozen=True)
class Physnet:
    """A physical network.

    :param name: as Neutron knows it.
    :param sriov: whether hosts with SR-IOV have a PF on it.
    :param vlan: whether it carries VLAN tenant networks (through Open vSwitch only).
    :param controller: the controller's address on it with prefix length, or "".
    """

    name: str
    sriov: bool = False
    vlan: bool = False
    controller: str = ""


PHYSNETS = (
    Physnet("mgmt", controller="198.18.16.2/20"),
    Physnet("access", controller="198.18.32.2/20"),
    Physnet("public", sriov=True),
    Physnet("members", sriov=True),
    Physnet("tenant", vlan=True),
)


@dataclass(frozen=True)
class Host:
    """A simulated compute host: a network namespace with its own switch, agents and
    nova-compute."""

    name: str
    number: int
    sriov: bool

    @property
    def address(self) -> str:
        """Its address on the control network."""
        return f"198.18.0.{10 + self.number}"

    @property
    def ovs_run(self) -> str:
        """Folder of its Open vSwitch's sockets and pid files, inside the lab."""
        return f"/run/lab/{self.name}/ovs"

    @property
    def ovsdb(self) -> str:
        """Connection string of its Open vSwitch database."""
        return f"unix:{self.ovs_run}/db.sock"

    def pfs(self) -> list[dict[str, Any]]:
        """Physical functions and their VFs as the compute driver's host file wants them."""
        if not self.sriov:
            return []
        found = []
        for slot, physnet in enumerate(net for net in PHYSNETS if net.sriov):
            # One bus per PF; VFs follow at device 2, eight functions to a device (PCIe ARI layout).
            bus = 0x81 + slot
            found.append(
                {
                    "physnet": physnet.name,
                    "device": f"pf-{physnet.name}",
                    "address": f"0000:{bus:02x}:00.0",
                    "vendor_id": VENDOR_ID,
                    "pf_product_id": PF_PRODUCT_ID,
                    "vf_product_id": VF_PRODUCT_ID,
                    "vfs": [
                        {"address": f"0000:{bus:02x}:{2 + n // 8:02x}.{n % 8}", "index": n}
                        for n in range(VFS_PER_PF)
                    ],
                }
            )
        return found


HOSTS = (Host("compute-1", 1, True), Host("compute-2", 2, True), Host("compute-3", 3, False))

SECRETS = (
    "database", "rabbit", "admin", "member", "keystone", "glance", "placement", "nova", "neutron",
    "octavia", "heartbeat", "ca_passphrase", "server_key_passphrase",
)  # fmt: skip

# What bootstrap makes and names in ``Settings.ids``.
BOOTSTRAP_IDS = (
    "project_service", "project_admin", "project_member", "network_mgmt", "subnet_mgmt",
    "network_access", "subnet_access", "security_group_mgmt", "image_guest", "image_amphora",
    "flavor_guest", "flavor_amphora",
)  # fmt: skip


@dataclass
class Settings:
    """One lab's choices and secrets; everything the configuration files are rendered from.

    :param name: the lab's name.
    :param octavia: the Octavia release that runs, e.g. "16.0.0".
    :param substrate: what plays the VF; "macvlan" is the one there is today.
    :param trees: names of the cached trees in use, by kind (system, stack, amphora, guest).
    :param passwords: one per name in :data:`SECRETS`, 32 hexadecimal digits each
        (Octavia wants exactly 32 characters for server_certs_key_passphrase).
    :param ids: what bootstrap made (networks, flavors, images, ...), by name; empty before.
    :param connection_limit: a listener's default maxconn that RLIMIT_NOFILE of this machine allows.
    """

    name: str
    octavia: str
    substrate: str
    trees: dict[str, str]
    connection_limit: int
    passwords: dict[str, str] = field(
        default_factory=lambda: {name: secrets.token_hex(16) for name in SECRETS}
    )
    ids: dict[str, str] = field(default_factory=dict)

    @property
    def transport_url(self) -> str:
        """RabbitMQ, as oslo.messaging wants it."""
        return f"rabbit://openstack:{self.passwords['rabbit']}@{CONTROLLER}:5672/"

    def database(self, schema: str) -> str:
        """SQLAlchemy URL of a schema."""
        secret = self.passwords["database"]
        return f"mysql+pymysql://openstack:{secret}@{CONTROLLER}/{schema}?charset=utf8mb4"

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form, :meth:`from_dict`'s inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Settings:
        """Rebuild from :meth:`as_dict`'s result."""
        return cls(**values)


def connection_limit(hard_nofile: int) -> int:
    """A listener's default maxconn for a hard RLIMIT_NOFILE.

    haproxy takes about 2.5 descriptors per proxied connection, sums the maxconn of all listeners of
    a load balancer and does not start when the sum asks for more than it may have. Sixteen
    listeners fit; a test that holds more connections sets its listener's ``connection_limit``.
    50,000 is Octavia's own default.
    """
    return max(100, min(50000, int((hard_nofile - 500) / 2.5 / 16)))
