# SPDX-License-Identifier: Apache-2.0
"""The load balancers and guests that several classes look at, made once per process.

What takes long is asked for side by side: the load balancers first, because they take
longest, then the guests, and only then is anything waited for. Each piece is a property made
at the first look; a failure is kept and raised again, so that a broken release ends the run
quickly instead of being waited for in every test.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from openstack import exceptions as sdk
from tempest import config

from sriov_lb_tests import errors
from sriov_lb_tests.cloud import scenario
from sriov_lb_tests.cloud.loadbalancers import LoadBalancers
from sriov_lb_tests.cloud.servers import Guest
from sriov_lb_tests.cloud.site import MEMBER, VIP, once
from sriov_lb_tests.cloud.twin import Deployment, Twins
from sriov_lb_tests.packets.probe import Probe, tcp_syn
from sriov_lb_tests.tests import backend, stage
from sriov_lb_tests.verdicts.model import Broken
from sriov_lb_tests.wire.exchange import Observation
from sriov_lb_tests.wire.host import raise_interface
from sriov_lb_tests.wire.ssh import SshHost
from sriov_lb_tests.wire.vantage import Vantage

CONF = config.CONF

TOPOLOGY = "one-arm-dual"
LISTENERS = "web-one-source"


def vip_of(lb: Any, version: int) -> str:
    """A load balancer's VIP of an IP version."""
    addresses = [lb.vip_address, *(v["ip_address"] for v in lb.additional_vips or ())]
    return next(a for a in addresses if (":" in a) == (version == 6))


class OperationBroken(Broken):
    """An operation failed on the SR-IOV load balancer; ``seen`` has what the registry asks."""

    def __init__(self, message: str, seen: dict[str, Any]) -> None:
        super().__init__(message)
        self.seen = seen


def operate(
    operation: str, on_sriov: Callable[[], Any], on_normal: Callable[[], Any] | None
) -> Any:
    """Carry out an operation on the SR-IOV load balancer; if it fails, on its twin as control.

    :param operation: such as ``listener-create``; what the registry of defects knows it by.
    :param on_normal: the same on the twin, None if there is none.
    :raises OperationBroken: it failed; the message says how the twin took it.
    """
    try:
        return on_sriov()
    except (errors.ResourceFault, errors.StuckPending) as error:
        state = "PENDING" if isinstance(error, errors.StuckPending) else "ERROR"
        normal, words = "unknown", "there is no normal twin to compare with"
        if on_normal is not None:
            try:
                on_normal()
                normal, words = "ACTIVE", "the same on the normal twin works"
            except (errors.CloudError, sdk.SDKException) as twin_error:
                normal, words = "ERROR", f"the same on the normal twin fails too: {twin_error}"
        seen = {"operation": operation, "sriov": state, "normal": normal}
        raise OperationBroken(
            f"{operation} on the SR-IOV load balancer ended in {state}, and {words}. "
            f"{error.message}",
            seen,
        ) from error


@dataclass
class Client:
    """The client guest, and the place its probes leave from."""

    guest: Guest
    host: SshHost
    vantage: Vantage

    def allowed(self, version: int) -> str:
        """The address that ``allowed_cidrs`` names."""
        return self.guest.addresses(VIP, version)[0]

    def denied(self, version: int) -> str:
        """Its other address, on the same port."""
        return self.guest.addresses(VIP, version)[1]


@dataclass
class Guarded:
    """The SR-IOV load balancer with its listeners, and what was seen before it had any.

    :param before: observations of the allowed source by (IP version, port), without listener.
    :param link_alive: by IP version, the MAC that answered for the VIP around these.
    """

    deployment: Deployment
    wanted: scenario.ListenerSet
    before: dict[tuple[int, int], Observation] = field(default_factory=dict)
    link_alive: dict[int, str] = field(default_factory=dict)


class Scene:
    """See the module."""

    def __init__(self, on: stage.Stage) -> None:
        self.stage = on
        self.site = on.site
        self.topology = scenario.topology(TOPOLOGY)
        self._made: dict[str, Any] = {}
        self._failures: dict[str, Exception] = {}

    @property
    def lbs(self) -> LoadBalancers:
        return self.site.lbs

    @property
    def versions(self) -> tuple[int, ...]:
        """IP versions of the VIPs: those of the topology that the network has."""
        return tuple(v for v in self.topology.vip_versions if v in self.site.vip_net.subnets)

    # --- asked for side by side ---

    @once
    def asked(self) -> dict[str, Any]:
        """Load balancers and guests, asked for and not yet waited for."""
        found: dict[str, Any] = {
            "twins": Twins.ask(self.site, versions=self.versions, what="twin")
        }
        # IPv6 alone where there is IPv6; nobody waits for it but the tests that want it.
        spare = (6,) if 6 in self.versions else self.versions[:1]
        found["spare"] = self.site.ask_load_balancer("sriov", versions=spare, what="spare")
        return {**found, **self.guests}

    @once
    def guests(self) -> dict[str, Any]:
        """Guests, asked for and not yet waited for: all that a class needs that has load
        balancers of its own."""
        return {
            "client": self.site.ask_client(self.topology.client_vnic_type),
            "members": [
                self.site.ask_member(number, self.topology.member_place)
                for number in range(1, self.topology.members + 1)
            ],
        }

    @once
    def created(self) -> dict[str, Any]:
        """Octavia's answers to the two requests, as they came."""
        twins = self.asked["twins"]
        return {"sriov": twins.sriov, "normal": twins.normal}

    @once
    def twins(self) -> Twins:
        """Both load balancers, ACTIVE."""
        _ = self.created
        asked = self.asked["twins"]
        return Twins(asked.sriov, asked.normal).wait(self.lbs)

    @once
    def spare(self) -> Any:
        """An SR-IOV load balancer with an IPv6 VIP and no other (IPv4 without IPv6), ACTIVE.

        The story of a full host deletes it in the end; :meth:`spare_ports` is looked at first.
        """
        return self.lbs.wait(self.asked["spare"].id)

    @once
    def spare_ports(self) -> list[Any]:
        """The base ports of the spare load balancer, while it was there."""
        admin = self.stage.clouds.by("admin")
        return [
            admin.network.get_port(amphora.vrrp_port_id)
            for amphora in self.lbs.amphorae(self.spare.id)
        ]

    @once
    def exhaustion(self) -> Any:
        """What happens on a host without a free VF (:mod:`.exhaustion`)."""
        from sriov_lb_tests.tests import exhaustion

        _ = self.spare_ports
        return exhaustion.tell(self)

    @once
    def client(self) -> Client:
        return self._client(self.guests["client"])

    @once
    def normal_client(self) -> Client:
        """One more client, on a normal port of the VIP network; asked for at the first look."""
        return self._client(self.site.ask_client("normal"))

    def _client(self, asked: Guest) -> Client:
        guest = self.site.await_guest(asked)
        host = self.stage.host(guest, CONF.sriov_lb.guest_user)
        vantage = self.vantage(guest, host, VIP)
        return Client(guest, host, vantage)

    def vantage(self, guest: Guest, host: SshHost, role: str) -> Vantage:
        """The place where a guest's port of a role (``vip``, ``member``) is; closed in the end.

        :raises GuestUnreachable: the guest has no interface with the port's MAC.
        """
        vantage = Vantage(
            host,
            raise_interface(host, guest.mac(role), f"{role} port"),
            artefacts=self.stage.run.evidence("probes"),
            run_id=self.stage.run.id,
            timeout=CONF.sriov_lb.probe_timeout,
            attempts=CONF.sriov_lb.probe_count,
        )
        self.stage.on_close(vantage.close)
        return vantage

    @once
    def members(self) -> list[Guest]:
        """Member servers that answer to HTTP with their names."""
        user = CONF.sriov_lb.member_user or CONF.sriov_lb.guest_user
        guests = [self.site.await_guest(guest) for guest in self.guests["members"]]
        for guest in guests:
            host = self.stage.host(guest, user)
            for pool in self.wanted.pools:
                pid = backend.start(host, guest.name, pool.member_port)
                # One in a guest of ours ends with the guest.
                if pid is not None and self.site.ledger.find("server", guest.id) is None:
                    self.stage.on_close(
                        functools.partial(backend.stop, host, pid, pool.member_port)
                    )
        return guests

    # --- the load balancer under test ---

    @once
    def wanted(self) -> scenario.ListenerSet:
        guest = self.guests["client"]
        values = {
            f"allowed_v{version}": guest.addresses(VIP, version)[0]
            for version in self.versions
            if guest.addresses(VIP, version)
        }
        return scenario.listener_set(LISTENERS, values, self.versions)

    def amphorae(self, lb: Any) -> list[tuple[Any, SshHost]]:
        """(amphora, ssh to it) for each amphora that serves a load balancer."""
        return [(a, self.stage.amphora_host(a)) for a in self.lbs.amphorae(lb.id)]

    def vip(self, version: int) -> str:
        """The VIP of an IP version."""
        return vip_of(self.twins.sriov, version)

    def syn(self, version: int, listener: str, source: str) -> Probe:
        """A SYN to a listener of the set, from ``source``."""
        return tcp_syn(self.vip(version), self.wanted.listener(listener).port, source=source)

    @once
    def guarded(self) -> Guarded:
        """The SR-IOV load balancer with the listener set; looked at before it had any."""
        twins, client = self.twins, self.client
        seen = Guarded(Deployment(twins.sriov), self.wanted)
        for version in self.versions:
            vip = self.vip(version)
            first = client.vantage.resolve(vip)
            for listener in self.wanted.listeners:
                probe = tcp_syn(vip, listener.port, source=client.allowed(version))
                seen.before[version, listener.port] = client.vantage.ask(probe, tries=1)
            last = client.vantage.resolve(vip)
            seen.link_alive[version] = last if first == last else f"{first}, then {last}"
        members = self.members
        self._deploy(seen.deployment, twins, members)
        return seen

    def _deploy(self, done: Deployment, twins: Twins, members: list[Guest]) -> None:
        """Like :func:`cloud.twin.deploy`, with the twin as the control of each listener."""
        lb = twins.sriov
        own = self.topology.member_place == "own"
        net = self.site.member_net if own else self.site.vip_net
        version = min(net.subnets)
        for spec in self.wanted.pools:
            pool = self.lbs.create_pool(lb, protocol=spec.protocol, algorithm=spec.algorithm)
            done.pools[spec.name] = pool
            for guest in members:
                done.members[guest.id] = self.lbs.add_member(
                    lb,
                    pool,
                    address=guest.addresses(MEMBER, version)[0],
                    port=spec.member_port,
                    subnet_id=net.subnet(version).id,
                )
        for spec in self.wanted.listeners:
            request = {
                "protocol": spec.protocol,
                "port": spec.port,
                "allowed_cidrs": spec.allowed_cidrs,
                "what": f"listener-{spec.name}",
            }
            pool = done.pools[spec.pool].id if spec.pool else None
            done.listeners[spec.name] = operate(
                "listener-create",
                lambda r=request, p=pool: self.lbs.create_listener(lb, default_pool_id=p, **r),
                lambda r=request: self.lbs.create_listener(twins.normal, **r),
            )


_scenes: dict[int, Scene] = {}


def of(on: stage.Stage) -> Scene:
    """The scene of a stage."""
    return _scenes.setdefault(id(on), Scene(on))
