# SPDX-License-Identifier: Apache-2.0
"""How each kind of resource is found again, taken away, and known to be gone.

A kind knows three things: how to look one up, by id or, where the answer was lost, by its
name; how to delete it; and how to list those of a run. Deleting what is gone already is
never an error. What a service made on our behalf (amphorae, their ports) is not deleted
but waited for: that it goes away is the service's promise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from openstack import exceptions as sdk
from openstack.connection import Connection

from sriov_lb_tests.cloud import resources
from sriov_lb_tests.cloud.ledger import Entry

#: Octavia refuses every change while one of these is on.
PENDING = ("PENDING_CREATE", "PENDING_UPDATE", "PENDING_DELETE")


@dataclass(frozen=True)
class Kind:
    """One kind of resource.

    :param name: as it stands in a journal.
    :param service: whose it is, in people's words.
    :param look: (connection, entry) -> the resource, or None if there is none.
    :param delete: (connection, resource, entry) -> None. May only ask; the caller waits.
    :param listing: (connection, administrator?) -> the resources whose names are ours to see.
    :param parent: the kind whose deletion takes this one along.
    :param slow: its deletion takes seconds, and nothing but itself can be in its way.
    """

    name: str
    service: str
    look: Callable[[Connection, Entry], Any]
    delete: Callable[[Connection, Any, Entry], None]
    listing: Callable[[Connection, bool], Iterable[Any]] | None = None
    parent: str | None = None
    slow: bool = False

    def ready(self, resource: Any) -> bool:
        """Whether the service would accept a deletion now."""
        return getattr(resource, "provisioning_status", None) not in PENDING


def _by(
    get: Callable[[Connection], Callable[[str], Any]],
    named: Callable[[Connection, str], Iterable[Any]],
) -> Callable[[Connection, Entry], Any]:
    """Look up by id if there is one; else the only one with that name."""

    def look(connection: Connection, entry: Entry) -> Any:
        if entry.id:
            try:
                return get(connection)(entry.id)
            except sdk.NotFoundException:
                return None
        return next((r for r in named(connection, entry.name) if r.name == entry.name), None)

    return look


def all_projects(connection: Connection) -> dict[str, bool]:
    """The query that makes an administrator see every project's servers."""
    return {"all_projects": True} if is_admin(connection) else {}


def is_admin(connection: Connection) -> bool:
    """Whether the token carries the role ``admin`` (what every service's policy asks for)."""
    access = connection.session.auth.get_access(connection.session)
    return "admin" in access.role_names


# --- Octavia ---------------------------------------------------------------------------


def _look_lb(connection: Connection, entry: Entry) -> Any:
    if entry.id:
        try:
            found = resources.LoadBalancer.new(id=entry.id).fetch(connection.load_balancer)
        except sdk.NotFoundException:
            return None
        # Octavia answers 404 for deleted ones, but not in the moment of deletion.
        return None if found.provisioning_status == "DELETED" else found
    listed = resources.LoadBalancer.list(connection.load_balancer, name=entry.name)
    return next((r for r in listed if r.name == entry.name), None)


def _delete_lb(connection: Connection, lb: Any, entry: Entry) -> None:
    connection.load_balancer.delete_load_balancer(lb.id, ignore_missing=True, cascade=True)


def _look_member(connection: Connection, entry: Entry) -> Any:
    pool = entry.extra["pool_id"]
    try:
        for member in connection.load_balancer.members(pool):
            if entry.id in (None, member.id) and member.name == entry.name:
                return member
    except sdk.NotFoundException:
        return None
    return None


# --- Nova ------------------------------------------------------------------------------


def _look_server(connection: Connection, entry: Entry) -> Any:
    if entry.id:
        try:
            found = connection.compute.get_server(entry.id)
        except sdk.NotFoundException:
            return None
        return None if found.status == "DELETED" else found
    listed = connection.compute.servers(
        details=True, name=f"^{entry.name}$", **all_projects(connection)
    )
    return next((r for r in listed if r.name == entry.name), None)


def _look_keypair(connection: Connection, entry: Entry) -> Any:
    query = {}
    owner = entry.extra.get("user_id")
    if owner and owner != connection.current_user_id:
        query["user_id"] = owner
    return next((k for k in connection.compute.keypairs(**query) if k.name == entry.name), None)


def _delete_keypair(connection: Connection, keypair: Any, entry: Entry) -> None:
    owner = entry.extra.get("user_id")
    if owner and owner != connection.current_user_id:
        connection.compute.delete_keypair(keypair.name, ignore_missing=True, user_id=owner)
    else:
        connection.compute.delete_keypair(keypair.name, ignore_missing=True)


def _look_aggregate(connection: Connection, entry: Entry) -> Any:
    for aggregate in connection.compute.aggregates():
        if str(aggregate.id) == entry.id or aggregate.name == entry.name:
            return aggregate
    return None


def _delete_aggregate(connection: Connection, aggregate: Any, entry: Entry) -> None:
    for host in aggregate.hosts or ():
        try:
            connection.compute.remove_host_from_aggregate(aggregate, host)
        except sdk.NotFoundException:
            continue  # somebody else took it out
    connection.compute.delete_aggregate(aggregate, ignore_missing=True)


def _look_flavor(connection: Connection, entry: Entry) -> Any:
    for flavor in connection.compute.flavors(is_public="None"):
        if flavor.id == entry.id or flavor.name == entry.name:
            return flavor
    return None


# --- Keystone --------------------------------------------------------------------------


def _identities(connection: Connection, admin: bool) -> Iterator[Any]:
    if admin:
        yield from connection.identity.users()
        yield from connection.identity.projects()


def _look_identity(connection: Connection, entry: Entry) -> Any:
    """The users and projects that Tempest made for us: their names contain ours."""
    found = [r for r in _identities(connection, True) if entry.name in (r.name or "")]
    return found or None


def _delete_identity(connection: Connection, found: list[Any], entry: Entry) -> None:
    for resource in found:
        if type(resource).__name__ == "User":
            connection.identity.delete_user(resource, ignore_missing=True)
            continue
        # Nova's and Neutron's leavings of a project have no name of ours.
        for group in connection.network.security_groups(project_id=resource.id):
            connection.network.delete_security_group(group, ignore_missing=True)
        connection.identity.delete_project(resource, ignore_missing=True)


# --- the table --------------------------------------------------------------------------


def _octavia(
    name: str, plural: str, *, parent: str | None = None, admin_only: bool = False
) -> Kind:
    """A kind of the load balancing service that follows its naming rules."""

    def named(connection: Connection, wanted: str) -> Iterable[Any]:
        return getattr(connection.load_balancer, plural)(name=wanted)

    return Kind(
        name=name if parent else f"octavia_{name}",
        service="Octavia",
        look=_by(lambda c: getattr(c.load_balancer, f"get_{name}"), named),
        delete=lambda c, r, e: getattr(c.load_balancer, f"delete_{name}")(
            r.id, ignore_missing=True
        ),
        listing=lambda c, admin: (
            getattr(c.load_balancer, plural)() if admin or not admin_only else ()
        ),
        parent=parent,
    )


def _neutron(name: str, plural: str) -> Kind:
    def named(connection: Connection, wanted: str) -> Iterable[Any]:
        return getattr(connection.network, plural)(name=wanted)

    return Kind(
        name=name,
        service="Neutron",
        look=_by(lambda c: getattr(c.network, f"get_{name}"), named),
        delete=lambda c, r, e: getattr(c.network, f"delete_{name}")(r.id, ignore_missing=True),
        listing=lambda c, admin: getattr(c.network, plural)(),
    )


def _floating_ips(connection: Connection) -> list[Any]:
    try:
        return list(connection.network.ips())
    except sdk.NotFoundException:
        return []  # a cloud without routers has no such thing


def _look_floating_ip(connection: Connection, entry: Entry) -> Any:
    # Floating addresses have no name; the description is ours.
    return next((ip for ip in _floating_ips(connection) if entry.name == ip.description), None)


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "load_balancer",
            "Octavia",
            _look_lb,
            _delete_lb,
            lambda c, admin: resources.LoadBalancer.list(c.load_balancer),
            slow=True,
        ),
        _octavia("listener", "listeners", parent="load_balancer"),
        _octavia("pool", "pools", parent="load_balancer"),
        _octavia("health_monitor", "health_monitors", parent="load_balancer"),
        Kind(
            "member",
            "Octavia",
            _look_member,
            lambda c, r, e: c.load_balancer.delete_member(
                r.id, e.extra["pool_id"], ignore_missing=True
            ),
            parent="load_balancer",
        ),
        _octavia("flavor", "flavors"),
        _octavia("flavor_profile", "flavor_profiles", admin_only=True),
        Kind(
            "server",
            "Nova",
            _look_server,
            lambda c, r, e: c.compute.delete_server(r.id, ignore_missing=True),
            lambda c, admin: c.compute.servers(
                details=True, **({"all_projects": True} if admin else {})
            ),
            slow=True,
        ),
        Kind(
            "keypair",
            "Nova",
            _look_keypair,
            _delete_keypair,
            lambda c, admin: c.compute.keypairs(),
        ),
        Kind(
            "compute_flavor",
            "Nova",
            _look_flavor,
            lambda c, r, e: c.compute.delete_flavor(r, ignore_missing=True),
            lambda c, admin: c.compute.flavors(is_public="None") if admin else (),
        ),
        Kind(
            "aggregate",
            "Nova",
            _look_aggregate,
            _delete_aggregate,
            lambda c, admin: c.compute.aggregates() if admin else (),
        ),
        _neutron("network", "networks"),
        _neutron("subnet", "subnets"),
        _neutron("port", "ports"),
        _neutron("security_group", "security_groups"),
        Kind(
            "floating_ip",
            "Neutron",
            _look_floating_ip,
            lambda c, r, e: c.network.delete_ip(r.id, ignore_missing=True),
            lambda c, admin: _floating_ips(c),
        ),
        Kind(
            "identity",
            "Keystone",
            _look_identity,
            _delete_identity,
            _identities,
        ),
    )
}
