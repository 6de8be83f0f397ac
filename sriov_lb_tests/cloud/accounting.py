# SPDX-License-Identifier: Apache-2.0
"""Which virtual functions are taken and how many are free, by the services' own books.

No API of Nova says how many VFs a host has left: the PCI tracker's table has no public
face, and PCI devices that belong to a physical network are not reported to Placement. Two
things can be asked honestly, and they check each other:

* *Neutron's book* (:func:`bound`): each direct port that is bound carries the host and the
  PCI slot that Nova claimed for it (``binding:host_id``, ``binding:profile``). It shows what
  is taken, but a VF that Nova lost would not be missed here.
* *Nova's book* (:class:`Probe`): Nova is asked for VFs on one host until it refuses. Each
  attachment is a claim in the PCI tracker, the refusal ("Failed to claim PCI device") is the
  tracker's own answer, so the number is exactly what it would grant to an amphora. And once
  it has refused, the next claim can succeed only with a VF that somebody gave back: a leak
  of a single one shows at once. All of them are given back.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from openstack import exceptions as sdk
from openstack.connection import Connection

from sriov_lb_tests import errors
from sriov_lb_tests.cloud import networks, servers, sweep
from sriov_lb_tests.cloud.awaiting import until
from sriov_lb_tests.cloud.connect import Clouds
from sriov_lb_tests.cloud.ledger import Ledger
from sriov_lb_tests.cloud.networks import Net

#: Nova's own words when the tracker of a host has nothing left for a request.
REFUSAL = re.compile(r"Failed to claim PCI device|PortBindingFailed|Insufficient compute resources")


@dataclass(frozen=True)
class Bound:
    """A VF that Neutron knows to be in use."""

    host: str
    slot: str
    port_id: str
    name: str
    physical_network: str


def bound(admin: Connection, network_id: str | None = None) -> list[Bound]:
    """VFs in use, by Neutron's ports; of one network if asked (administrators only)."""
    query = {"network_id": network_id} if network_id else {}
    found = []
    for port in admin.network.ports(**query):
        profile = port.binding_profile or {}
        if port.binding_vnic_type == "direct" and profile.get("pci_slot"):
            found.append(
                Bound(
                    port.binding_host_id or "",
                    profile["pci_slot"],
                    port.id,
                    port.name or "",
                    profile.get("physical_network") or "",
                )
            )
    return sorted(found, key=lambda b: (b.host, b.slot))


def doubly_bound(taken: list[Bound]) -> list[tuple[Bound, Bound]]:
    """Pairs of ports that claim the same VF of the same host: always an error of the cloud."""
    seen: dict[tuple[str, str], Bound] = {}
    pairs = []
    for item in taken:
        other = seen.setdefault((item.host, item.slot), item)
        if other is not item:
            pairs.append((other, item))
    return pairs


@dataclass
class Probe:
    """Instances on one host that ask for VFs; the hands that take them.

    Several, because Nova looks at every port of an instance whenever it plugs one more: with
    all VFs on one instance the last one takes many times as long as the first.

    :param limit: never take more than this many; a count that reaches it is a lower bound.
    :param taken: (instance, PCI slot) by port, oldest first.
    """

    clouds: Clouds
    ledger: Ledger
    server_ids: list[str]
    host: str
    net: Net
    limit: int = 64
    by: str = "admin"
    taken: dict[str, tuple[str, str]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def _connection(self) -> Connection:
        return self.clouds.by(self.by)

    def _take_on(self, server_id: str) -> bool:
        """Take one VF on one instance; False if Nova has none left on this host.

        :raises openstack.exceptions.HttpException: Nova refuses for another reason.
        """
        port = networks.create_port(
            self._connection,
            self.ledger,
            self.net,
            versions=(min(self.net.subnets),),  # Nova plugs no port without an address
            vnic_type="direct",
            port_security=False,
            by=self.by,
            what="vf-probe",
        )
        try:
            servers.attach(self._connection, server_id, port.id)
        except sdk.HttpException as error:
            sweep.undo_one(self.ledger, self.clouds, "port", port.id, interval=0.3)
            if REFUSAL.search(str(error)):
                return False
            raise
        found = self._connection.network.get_port(port.id)
        slot = (found.binding_profile or {}).get("pci_slot") or ""
        with self._lock:
            self.taken[port.id] = (server_id, slot)
        return True

    @property
    def slots(self) -> list[str]:
        """PCI slots of the VFs that are held, oldest first."""
        return [slot for _, slot in self.taken.values()]

    def take(self) -> bool:
        """Take one VF; False if Nova has none left on this host."""
        plugged = [server_id for server_id, _ in self.taken.values()]
        return self._take_on(min(self.server_ids, key=plugged.count))

    def fill(self) -> int:
        """Take every VF of the host, with all hands at once; returns how many there were."""
        with ThreadPoolExecutor(len(self.server_ids)) as hands:
            while len(self.taken) < self.limit:
                if not all(hands.map(self._take_on, self.server_ids)):
                    break
        return len(self.taken)

    def give_back(self, port_ids: Sequence[str]) -> list[str]:
        """Give VFs back and wait until Nova and Neutron have let go; returns their slots."""
        slots = [self.taken[port_id][1] for port_id in port_ids]
        by_server: dict[str, list[str]] = {}
        for port_id in port_ids:
            by_server.setdefault(self.taken.pop(port_id)[0], []).append(port_id)
        with ThreadPoolExecutor(max(1, len(by_server))) as hands:
            list(
                hands.map(
                    lambda item: servers.detach(self._connection, *item), by_server.items()
                )
            )
        for port_id in port_ids:
            sweep.undo_one(self.ledger, self.clouds, "port", port_id, interval=0.3)
        return slots

    def swap(self) -> tuple[list[str], list[str]]:
        """Each hand gives one VF back and takes one again: (slots before, slots after).

        On a host without another free VF each can get only what one of them gave back.

        :raises ResourceFault: not all can be taken again: a VF was lost.
        """
        last = {server_id: port_id for port_id, (server_id, _) in self.taken.items()}
        before = self.give_back(list(last.values()))
        held = set(self.taken)
        try:
            with ThreadPoolExecutor(len(last)) as hands:
                list(hands.map(self.take_when_free, last))
        except errors.StuckPending as error:
            after = [slot for port, (_, slot) in self.taken.items() if port not in held]
            lost = sorted(set(before) - set(after))
            raise errors.ResourceFault(
                f"VF {', '.join(lost)} of host {self.host} was given back and cannot be taken "
                "again: Nova has lost it."
            ) from error
        after = [slot for port, (_, slot) in self.taken.items() if port not in held]
        return sorted(before), sorted(after)

    def take_when_free(self, server_id: str | None = None, *, timeout: float = 60) -> str:
        """Take a VF as soon as Nova grants one; returns its slot.

        Nova takes the port off an instance first and frees the VF afterwards, so that the one
        seen does not mean the other done.

        :raises StuckPending: none was granted.
        """
        at = server_id or self.server_ids[0]
        until(
            lambda: self._take_on(at),
            what=f"Nova to grant a VF on host {self.host}",
            timeout=timeout,
            interval=0.5,
        )
        return [slot for server, slot in self.taken.values() if server == at][-1]

    def release(self) -> None:
        """Give all VFs back, and wait until Nova and Neutron have taken them.

        :raises StuckPending, LeftBehind: they have not.
        """
        self.give_back(list(self.taken))

    @contextmanager
    def exhausted(self) -> Iterator[int]:
        """A block in which the host has no VF left; yields how many were taken."""
        try:
            yield self.fill()
        finally:
            self.release()


def place_probe(
    clouds: Clouds,
    ledger: Ledger,
    *,
    host: str,
    net: Net,
    image: Any,
    flavor: Any,
    count: int = 3,
    limit: int = 64,
    timeout: float = 300,
) -> Probe:
    """Boot the instances that take VFs on ``host`` (administrators only).

    They have no key and no network of their own: they are places to plug VFs into.
    """
    admin = clouds.by("admin")
    guests = [
        servers.boot(
            admin,
            ledger,
            image=image,
            flavor=flavor,
            ports={},
            key=None,
            by="admin",
            host=host,
            what=f"vf-probe-{host.split('.')[0]}",
        )
        for _ in range(count)
    ]
    for guest in guests:
        servers.await_active(admin, guest, timeout=timeout)
    return Probe(clouds, ledger, [guest.id for guest in guests], host, net, limit)
