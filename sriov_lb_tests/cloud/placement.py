# SPDX-License-Identifier: Apache-2.0
"""What sends an amphora to a host with VFs: host aggregates and private compute flavors.

Octavia boots an amphora with its management port only and plugs the VF in later, so Nova's
scheduler does not know that a VF will be wanted. Octavia's document on SR-IOV therefore
asks for a host aggregate with properties and a compute flavor with the same properties,
private to Octavia's own project. An administrator makes both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from openstack import exceptions as sdk
from openstack.connection import Connection

from sriov_lb_tests import errors
from sriov_lb_tests.cloud.ledger import Ledger


def sriov_hosts(admin: Connection, physical_network: str) -> list[str]:
    """Hosts whose SR-IOV agent is alive and has VFs on ``physical_network``.

    :raises ResourceMissing: there is none.
    """
    hosts = []
    seen = []
    for agent in admin.network.agents(agent_type="NIC Switch agent"):
        mappings = (agent.configuration or {}).get("device_mappings") or {}
        seen.append(f"{agent.host} ({'alive' if agent.is_alive else 'dead'}: {sorted(mappings)})")
        if agent.is_alive and physical_network in mappings:
            hosts.append(agent.host)
    if not hosts:
        raise errors.ResourceMissing(
            f"No host has a living SR-IOV agent for physical network {physical_network!r}; "
            f"Neutron knows: {', '.join(seen) or 'no NIC Switch agent at all'}.",
            remedy=(
                "Name a network of [sriov_nic] physical_device_mappings in "
                "[sriov_lb] vip_physical_network, or start neutron-sriov-nic-agent there."
            ),
        )
    return sorted(hosts)


def require_hosts(admin: Connection, hosts: Iterable[str]) -> None:
    """Check that Nova knows each host as a living compute host.

    :raises ResourceMissing: names those that are not, and those that are.
    """
    up = {s.host for s in admin.compute.services(binary="nova-compute") if s.state == "up"}
    missing = sorted(set(hosts) - up)
    if missing:
        raise errors.ResourceMissing(
            f"Not a living compute host: {', '.join(missing)}. Nova knows: "
            f"{', '.join(sorted(up)) or 'none'}.",
            remedy="Correct [sriov_lb] sriov_hosts.",
        )


def create_aggregate(
    admin: Connection,
    ledger: Ledger,
    hosts: Iterable[str],
    properties: Mapping[str, str],
    what: str = "aggregate",
) -> Any:
    """A host aggregate with these hosts and properties."""
    name = ledger.name(what)
    aggregate = ledger.make(
        "aggregate", name, "admin", lambda: admin.compute.create_aggregate(name=name)
    )
    for host in hosts:
        admin.compute.add_host_to_aggregate(aggregate, host)
    admin.compute.set_aggregate_metadata(aggregate, dict(properties))
    return next(a for a in admin.compute.aggregates() if a.id == aggregate.id)


def octavia_project(admin: Connection, name_or_id: str) -> str:
    """The id of the project that Octavia's amphorae live in.

    :raises ResourceMissing: no project of that name or id.
    """
    project = admin.identity.find_project(name_or_id, ignore_missing=True)
    if project is None:
        raise errors.ResourceMissing(
            f"There is no project {name_or_id!r}, in which Octavia's amphorae would live.",
            remedy="Set [sriov_lb] octavia_project to the project of Octavia's service user.",
        )
    return project.id


def create_compute_flavor(
    admin: Connection,
    ledger: Ledger,
    *,
    project_id: str,
    properties: Mapping[str, str],
    ram: int,
    disk: int,
    vcpus: int,
    what: str = "amphora",
) -> Any:
    """A compute flavor that only ``project_id`` may use.

    :param properties: extra specs; those of the aggregate must be among them.
    :param ram: MiB.
    :param disk: GiB.
    """
    name = ledger.name(what)
    flavor = ledger.make(
        "compute_flavor",
        name,
        "admin",
        lambda: admin.compute.create_flavor(
            name=name, ram=ram, disk=disk, vcpus=vcpus, is_public=False
        ),
    )
    admin.compute.flavor_add_tenant_access(flavor, project_id)
    admin.compute.create_flavor_extra_specs(flavor, dict(properties))
    return flavor


def find_flavor(connection: Connection, name_or_id: str, option: str) -> Any:
    """A compute flavor for guests.

    :param option: the option that names it, for the message.
    :raises ResourceMissing: it is not there, or not visible.
    """
    found = connection.compute.find_flavor(name_or_id, ignore_missing=True)
    if found is None:
        raise errors.ResourceMissing(
            f"Compute flavor {name_or_id!r} ({option}) does not exist or is not visible."
        )
    return found


def aggregate_hosts(admin: Connection, properties: Mapping[str, str]) -> set[str]:
    """Every host of every aggregate that has all of ``properties``: where Nova may schedule."""
    hosts: set[str] = set()
    for aggregate in admin.compute.aggregates():
        metadata = aggregate.metadata or {}
        if all(str(metadata.get(key)) == str(value) for key, value in properties.items()):
            hosts.update(aggregate.hosts or ())
    return hosts


def find_image(connection: Connection, name_or_id: str, option: str) -> Any:
    """A guest image.

    :raises ResourceMissing: it is not there, or not visible, or its name is not unique.
    """
    try:
        found = connection.image.find_image(name_or_id, ignore_missing=True)
    except sdk.DuplicateResource as error:
        raise errors.ResourceMissing(
            f"Several images are called {name_or_id!r} ({option}).", remedy="Give the id."
        ) from error
    if found is None:
        raise errors.ResourceMissing(
            f"Image {name_or_id!r} ({option}) does not exist or is not visible."
        )
    return found


def require_tagged_image(connection: Connection, tag: str, owner: str | None = None) -> Any:
    """The newest active image with the tag that Octavia boots amphorae from.

    :raises ImageNotTagged: no active image has it.
    """
    images = [i for i in connection.image.images(tag=tag) if i.status == "active"]
    if owner:
        images = [image for image in images if image.owner_id == owner]
    if not images:
        raise errors.ImageNotTagged(f"No active image carries the tag {tag!r}.")
    return max(images, key=lambda image: image.created_at or "")
