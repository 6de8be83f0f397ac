# SPDX-License-Identifier: Apache-2.0
"""What the API says of a load balancer, and where its amphorae can be entered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sriov_lb_tests.amphora import VIP_INTERFACE, Amphora
from sriov_lb_tests.policy.model import Policy


def plain(resource: Any) -> dict[str, Any]:
    """A resource as a dict with the names of the REST API; mappings are copied as they are."""
    if hasattr(resource, "to_dict"):  # the SDK's resources are mappings too, with other names
        return resource.to_dict(computed=False, original_names=True)
    return dict(resource)


@dataclass(frozen=True)
class Subject:
    """API objects of one load balancer, names as in the REST API.

    :param amphorae: those that serve it; empty where the API hides them.
    :param subnets: CIDRs of its VIPs' subnets, where they are known.
    """

    load_balancer: Mapping[str, Any]
    listeners: tuple[Mapping[str, Any], ...]
    pools: tuple[Mapping[str, Any], ...] = ()
    amphorae: tuple[Mapping[str, Any], ...] = ()
    subnets: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        load_balancer: Any,
        listeners: Iterable[Any],
        pools: Iterable[Any] = (),
        amphorae: Iterable[Any] = (),
        subnets: Iterable[str] = (),
    ) -> Subject:
        """From mappings or SDK objects."""
        return cls(
            plain(load_balancer),
            tuple(map(plain, listeners)),
            tuple(map(plain, pools)),
            tuple(map(plain, amphorae)),
            tuple(subnets),
        )

    @property
    def name(self) -> str:
        return self.load_balancer.get("name") or self.load_balancer.get("id") or "load balancer"

    @property
    def addresses(self) -> tuple[str, ...]:
        """Base port addresses of the amphorae."""
        return tuple(a["vrrp_ip"] for a in self.amphorae if a.get("vrrp_ip"))

    def policy(self, own: str | None = None) -> Policy:
        """The policy of the amphora with that base port address, or of any of them."""
        return Policy.of(
            self.load_balancer,
            self.listeners,
            pools=self.pools,
            own=own,
            peers=[one for one in self.addresses if one != own] if own else (),
            subnets=self.subnets,
            vip_interface=VIP_INTERFACE,
        )


@dataclass(frozen=True)
class Seat:
    """One amphora that may be entered.

    :param own: its base port address.
    :param role: ``MASTER``, ``BACKUP`` or ``STANDALONE``, as Octavia calls it.
    """

    id: str
    own: str
    role: str
    inside: Amphora

    @classmethod
    def of(cls, amphora: Any, inside: Amphora) -> Seat:
        entry = plain(amphora)
        return cls(entry["id"], entry["vrrp_ip"], entry.get("role") or "", inside)

    def __str__(self) -> str:
        role = f" ({self.role})" if self.role and self.role != "STANDALONE" else ""
        return f"amphora {self.id}{role}"
