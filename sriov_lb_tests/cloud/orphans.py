# SPDX-License-Identifier: Apache-2.0
"""What Octavia made for a load balancer that is no more: instances, ports, security groups.

Octavia names what it makes after the load balancer or the amphora, so what has no load
balancer or amphora behind it any more can be told from what has. (Administrators only.)
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from openstack.connection import Connection

from sriov_lb_tests import errors
from sriov_lb_tests.cloud import resources
from sriov_lb_tests.cloud.awaiting import until

#: Seconds between the two looks that have to agree.
APART = 1.0

_ID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"

#: How Octavia names what it makes, and whose id the name holds.
_LOADBALANCER = re.compile(rf"(?:octavia-lb|lb)-({_ID})")
_AMPHORA = re.compile(rf"(?:octavia-lb-vrrp|octavia-lb-member|amphora)-({_ID})")


@dataclass(frozen=True)
class Orphan:
    """A resource that nobody will ever delete."""

    service: str
    kind: str
    id: str
    name: str

    def __str__(self) -> str:
        return f"{self.service} {self.kind} {self.name} ({self.id})"


def find(admin: Connection) -> set[Orphan]:
    """Everything of Octavia's without a load balancer or amphora behind it."""
    # Owners are asked for last: what is made meanwhile must not look as if it had none.
    candidates = list(_candidates(admin))
    load_balancers = {lb.id for lb in resources.LoadBalancer.list(admin.load_balancer)}
    amphorae = {a.id for a in admin.load_balancer.amphorae() if a.status != "DELETED"}
    found = set()
    for item in candidates:
        if match := _AMPHORA.fullmatch(item.name):
            if match[1] not in amphorae:
                found.add(item)
        elif match := _LOADBALANCER.fullmatch(item.name):
            if match[1] not in load_balancers:
                found.add(item)
    return found


def since(admin: Connection, before: set[Orphan]) -> set[Orphan]:
    """Orphans that were not there before, in two looks: others' load balancers come and go, and
    what is on its way looks like an orphan for a moment.

    :param before: what :func:`find` found then.
    """
    looks: list[set[Orphan]] = []

    def none() -> bool:
        looks.append(find(admin) - before)
        return not set.intersection(*looks)

    # That some are left is what there is to tell.
    with contextlib.suppress(errors.StuckPending):
        until(none, what="no orphans to be left", timeout=APART, interval=APART)
    return set.intersection(*looks)


def _candidates(admin: Connection) -> Iterator[Orphan]:
    for port in admin.network.ports():
        yield Orphan("Neutron", "port", port.id, port.name or "")
    for group in admin.network.security_groups():
        yield Orphan("Neutron", "security group", group.id, group.name or "")
    for server in admin.compute.servers(details=False, all_projects=True):
        yield Orphan("Nova", "instance", server.id, server.name or "")
