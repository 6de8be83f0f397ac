# SPDX-License-Identifier: Apache-2.0
"""Why a load balancer failed, as far as the APIs tell.

Octavia's API has no fault field: a load balancer goes to ERROR and the reason stays in a
worker's log. But its amphorae are instances, and Nova keeps for an administrator the fault
of an instance and the actions on it that failed (a VF that could not be attached is one),
also of a deleted one. Octavia forgets a failed amphora within seconds, so a :class:`Watch`
looks while the load balancer is being built and keeps what it saw.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from openstack import exceptions as sdk
from openstack.connection import Connection

from sriov_lb_tests.cloud import resources


@dataclass
class Watch:
    """What was seen of a load balancer's amphorae: kept after they are gone.

    :param admin: None for a plain member, who sees no amphorae.
    """

    admin: Connection | None
    lb_id: str
    amphorae: dict[str, dict[str, Any]] = field(default_factory=dict)
    servers: dict[str, dict[str, Any]] = field(default_factory=dict)

    def look(self) -> None:
        """Take note of the amphorae, of their instances, and of the instances' faults."""
        if self.admin is None:
            return
        for amphora in self.admin.load_balancer.amphorae(loadbalancer_id=self.lb_id):
            self.amphorae[amphora.id] = {
                "id": amphora.id,
                "status": amphora.status,
                "role": amphora.role,
                "compute_id": amphora.compute_id,
                "vrrp_ip": amphora.vrrp_ip,
                "vrrp_port_id": amphora.vrrp_port_id,
                "lb_network_ip": amphora.lb_network_ip,
            }
            if amphora.compute_id:
                self._look_at_server(amphora.compute_id)

    def _look_at_server(self, server_id: str) -> None:
        assert self.admin is not None
        try:
            server = self.admin.compute.get_server(server_id)
        except sdk.NotFoundException:
            return  # deleted meanwhile: what was noted before stays
        self.servers[server_id] = {
            "id": server_id,
            "name": server.name,
            "status": server.status,
            "task_state": server.task_state,
            "host": server.compute_host,
            "fault": (server.fault or {}).get("message", "") if server.fault else "",
        }

    def faults(self) -> list[str]:
        """Nova's faults of the amphorae and of actions on them, live or deleted, each once."""
        found = []
        for server_id, seen in self.servers.items():
            found += [seen["fault"]] if seen["fault"] else deleted_fault(self.admin, server_id)
            found += failed_actions(self.admin, server_id)
        return list(dict.fromkeys(found))


def deleted_fault(admin: Connection | None, server_id: str) -> list[str]:
    """The fault of an instance that may be deleted already (administrators only)."""
    if admin is None:
        return []
    try:
        found = list(
            admin.compute.servers(
                details=True, all_projects=True, deleted_only=True, id=server_id
            )
        )
    except (sdk.HttpException, sdk.InvalidResourceQuery):
        return []
    return [
        server.fault["message"]
        for server in found
        if server.id == server_id and server.fault and server.fault.get("message")
    ]


def failed_actions(admin: Connection | None, server_id: str) -> list[str]:
    """What went wrong with an instance, in order: "attach_interface: Failed to claim ...".

    Nova shows the details of a failed event to administrators, from microversion 2.84.
    """
    if admin is None:
        return []
    found = []
    try:
        for action in admin.compute.server_actions(server_id):
            if action.message != "Error":
                continue
            for event in admin.compute.get_server_action(action.request_id, server_id).events:
                if event.result == "Error":
                    text = f"{action.action}: {event.details or 'failed'}"
                    found.append((event.start_time, text))
    except sdk.HttpException:
        return []  # an instance that Nova has purged, or a policy that hides its history
    return [text for _, text in sorted(found)]


def status_tree(connection: Connection, lb_id: str) -> dict[str, Any]:
    """Octavia's status tree of a load balancer, or {} if it is gone."""
    try:
        status = resources.LoadBalancerStatus(lb_id=lb_id).fetch(
            connection.load_balancer, requires_id=False
        )
    except sdk.NotFoundException:
        return {}
    return status.loadbalancer or {}


def flat(tree: dict[str, Any], path: str = "load balancer") -> list[str]:
    """A status tree as lines, one for every object that is not ACTIVE and well."""
    lines = []
    prov, oper = tree.get("provisioning_status"), tree.get("operating_status")
    if prov and (prov != "ACTIVE" or oper == "ERROR"):
        lines.append(f"{path} {tree.get('name') or tree.get('id')}: {prov}/{oper}")
    for key, word in (("listeners", "listener"), ("pools", "pool"), ("members", "member")):
        for child in tree.get(key) or ():
            lines += flat(child, word)
    monitor = tree.get("health_monitor")
    if monitor:
        lines += flat(monitor, "health monitor")
    return list(dict.fromkeys(lines))


def explain(connection: Connection, lb_id: str, watch: Watch | None = None) -> str:
    """Everything known about why a load balancer is not ACTIVE, in one paragraph."""
    parts = flat(status_tree(connection, lb_id))
    if watch is not None:
        watch.look()
        parts += [
            f"amphora {a['id']} ({a['role'] or 'no role'}): {a['status']}"
            for a in watch.amphorae.values()
        ]
        parts += [
            f"instance {s['id']} on {s['host'] or 'no host'}: {s['status']}"
            for s in watch.servers.values()
        ]
        parts += [f"Nova says: {fault}" for fault in watch.faults()]
        if watch.admin is None:
            parts.append("amphorae are visible to an administrator only")
    return "; ".join(parts)
