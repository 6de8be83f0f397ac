# SPDX-License-Identifier: Apache-2.0
"""The cloud's first resources, made through its own APIs; run inside the lab.

``python -m sriov_lb_lab.bootstrap`` reads /var/lib/lab/settings.json, makes users, roles,
endpoints, images, flavors, networks and key pairs, writes the completed octavia.conf and
settings.json, and two marker files that services wait for: one when users and endpoints exist, one
at the end.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import openstack
from keystoneauth1.exceptions import ClientException
from openstack import exceptions

from sriov_lb_lab import certificates, files
from sriov_lb_lab.config import ini, octavia
from sriov_lb_lab.paths import INSIDE_LAB
from sriov_lb_lab.programs import BIN, BOOTSTRAPPED, ETC, IDENTIFIED
from sriov_lb_lab.settings import CONTROLLER, Settings

# Octavia's default policies and Tempest name these.
ROLES = (
    "load-balancer_member", "load-balancer_admin", "load-balancer_observer",
    "load-balancer_global_observer", "load-balancer_quota_admin", "service",
)  # fmt: skip

# name in Keystone, type, URL
ENDPOINTS = (
    ("placement", "placement", f"http://{CONTROLLER}:8778"),
    ("glance", "image", f"http://{CONTROLLER}:9292"),
    ("nova", "compute", f"http://{CONTROLLER}:8774/v2.1"),
    ("neutron", "network", f"http://{CONTROLLER}:9696"),
    ("octavia", "load-balancer", f"http://{CONTROLLER}:9876"),
)

# name, RAM in MiB, disk in GiB, VCPUs
FLAVORS = (("guest", 512, 2, 1), ("amphora", 1024, 3, 1))

# What amphorae and controllers need of each other (octavia-lb-mgmt): ssh, the agent's API,
# heartbeats.
MGMT_RULES = (("tcp", 22), ("tcp", 9443), ("udp", 5555))


def main() -> None:
    """Make everything, in the order in which things need each other."""
    source = INSIDE_LAB / "settings.json"
    settings = Settings.from_dict(json.loads(source.read_text()))
    certificates.make(Path(octavia.CERTIFICATES), settings.passwords["ca_passphrase"])
    certificates.make_web(Path(octavia.WEB_CERTIFICATES), octavia.WEB_CERTIFICATE)
    _keystone(settings)
    _identity(_admin(settings), settings)
    Path(IDENTIFIED).touch()
    # A new connection: the first one's token carries a catalogue without these endpoints.
    admin = _admin(settings)
    for step in (_networks, _images, _flavors):
        step(admin, settings)
    _octavia_key(settings)
    files.write(Path(ETC), octavia.files(settings))
    source.write_text(json.dumps(settings.as_dict(), indent=1))
    Path(BOOTSTRAPPED).touch()


def _admin(settings: Settings) -> openstack.connection.Connection:
    return _connection(settings, "admin", settings.passwords["admin"], "admin")


def _connection(
    settings: Settings, user: str, password: str, project: str
) -> openstack.connection.Connection:
    return openstack.connection.Connection(
        auth={
            "auth_url": ini.KEYSTONE, "username": user, "password": password,
            "project_name": project, "user_domain_name": "Default",
            "project_domain_name": "Default",
        },
        region_name=ini.REGION,
    )  # fmt: skip


def _keystone(settings: Settings) -> None:
    subprocess.run(
        [
            f"{BIN}/keystone-manage", "--config-file", f"{ETC}/keystone/keystone.conf", "bootstrap",
            "--bootstrap-password", settings.passwords["admin"],
            "--bootstrap-region-id", ini.REGION,
            *(word for kind in ("admin", "internal", "public")
              for word in (f"--bootstrap-{kind}-url", ini.KEYSTONE)),
        ],
        check=True,
    )  # fmt: skip


def _patiently(call: Callable[[], object], what: str, timeout: float = 90) -> object:
    """Repeat a call while its service is still starting.

    :param timeout: seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            return call()
        except (exceptions.SDKException, ClientException, OSError) as error:
            status = getattr(error, "status_code", None) or getattr(error, "http_status", None)
            if time.monotonic() > deadline or (status and status < 500):
                raise SystemExit(f"bootstrap: {what}: {error}") from error
            time.sleep(0.3)


def _identity(admin: openstack.connection.Connection, settings: Settings) -> None:
    identity = admin.identity
    roles = {role.name: role for role in _patiently(lambda: list(identity.roles()), "Keystone")}
    for name in ROLES:
        roles[name] = roles.get(name) or identity.create_role(name=name)
    service = identity.create_project(name="service", domain_id="default")
    tester = identity.create_project(name="lab-member", domain_id="default")
    admin_project = identity.find_project("admin")
    admin_user = identity.find_user("admin")
    identity.assign_project_role_to_user(admin_project, admin_user, roles["load-balancer_admin"])
    for name, kind, url in ENDPOINTS:
        user = identity.create_user(
            name=name, password=settings.passwords[name], domain_id="default",
            default_project_id=service.id,
        )  # fmt: skip
        for role in ("admin", "service"):
            identity.assign_project_role_to_user(service, user, roles[role])
        entry = identity.create_service(name=name, type=kind)
        for interface in ("public", "internal", "admin"):
            identity.create_endpoint(
                service_id=entry.id, interface=interface, url=url, region_id=ini.REGION
            )
    member = identity.create_user(
        name="lab-member", password=settings.passwords["member"], domain_id="default",
        default_project_id=tester.id,
    )  # fmt: skip
    for role in ("member", "reader", "load-balancer_member"):
        identity.assign_project_role_to_user(tester, member, roles[role])
    settings.ids.update(
        project_service=service.id, project_admin=admin_project.id, project_member=tester.id
    )


def _networks(admin: openstack.connection.Connection, settings: Settings) -> None:
    network = admin.network
    _patiently(lambda: list(network.networks()), "Neutron")
    for name, shared, cidr, first, last in (
        ("mgmt", False, "198.18.16.0/20", "198.18.16.100", "198.18.31.200"),
        ("access", True, "198.18.32.0/20", "198.18.32.100", "198.18.47.200"),
    ):
        made = network.create_network(
            name="lb-mgmt-net" if name == "mgmt" else name, shared=shared,
            provider_network_type="flat", provider_physical_network=name,
            project_id=settings.ids["project_service" if name == "mgmt" else "project_admin"],
        )  # fmt: skip
        subnet = network.create_subnet(
            name=f"{made.name}-v4", network_id=made.id, ip_version=4, cidr=cidr,
            enable_dhcp=False, gateway_ip=None, project_id=made.project_id,
            allocation_pools=[{"start": first, "end": last}],
        )  # fmt: skip
        settings.ids.update({f"network_{name}": made.id, f"subnet_{name}": subnet.id})
    group = network.create_security_group(
        name="lb-mgmt-sec-grp", project_id=settings.ids["project_service"],
        description="ssh, agent API and heartbeats of amphorae",
    )  # fmt: skip
    for protocol, port in MGMT_RULES:
        network.create_security_group_rule(
            security_group_id=group.id, direction="ingress", ether_type="IPv4", protocol=protocol,
            port_range_min=port, port_range_max=port, project_id=group.project_id,
        )  # fmt: skip
    network.create_security_group_rule(
        security_group_id=group.id, direction="ingress", ether_type="IPv4", protocol="icmp",
        project_id=group.project_id,
    )  # fmt: skip
    settings.ids["security_group_mgmt"] = group.id


def _images(admin: openstack.connection.Connection, settings: Settings) -> None:
    _patiently(lambda: list(admin.image.images()), "Glance")
    for name in ("guest", "amphora"):
        # What containers boot from is a tree in the cache; the image says which.
        tree = settings.trees[name]
        content = json.dumps({"format": "sriov-lb-lab-tree", "tree": tree}).encode()
        made = admin.image.create_image(
            name=name, container_format="bare", disk_format="raw",
            visibility="private" if name == "amphora" else "public",
            data=content, validate_checksum=False,
            sha256=hashlib.sha256(content).hexdigest(), md5=hashlib.md5(content).hexdigest(),
            owner=settings.ids["project_service" if name == "amphora" else "project_admin"],
            tags=[octavia.AMPHORA_TAG] if name == "amphora" else [],
            min_disk=1, min_ram=64, hw_architecture="x86_64",
        )  # fmt: skip
        settings.ids[f"image_{name}"] = made.id


def _flavors(admin: openstack.connection.Connection, settings: Settings) -> None:
    _patiently(lambda: list(admin.compute.flavors()), "Nova")
    for name, ram, disk, vcpus in FLAVORS:
        made = admin.compute.create_flavor(name=name, ram=ram, disk=disk, vcpus=vcpus)
        settings.ids[f"flavor_{name}"] = made.id


def _octavia_key(settings: Settings) -> None:
    # Nova's key pairs belong to a user: Octavia boots amphorae as its own.
    user = _connection(settings, "octavia", settings.passwords["octavia"], "service")
    public = (INSIDE_LAB / "keys" / "octavia_ssh_key.pub").read_text().strip()
    user.compute.create_keypair(name=octavia.KEYPAIR, public_key=public)


if __name__ == "__main__":
    main()
