# SPDX-License-Identifier: Apache-2.0
"""Octavia: flavors, load balancers and what hangs on them, with their states awaited."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from openstack import exceptions as sdk
from openstack.connection import Connection

from sriov_lb_tests import errors
from sriov_lb_tests.cloud import faults, resources, sweep
from sriov_lb_tests.cloud.awaiting import until
from sriov_lb_tests.cloud.connect import Clouds
from sriov_lb_tests.cloud.ledger import Ledger

PROVIDER = "amphora"


# --- flavors -----------------------------------------------------------------------------


def create_flavor(
    admin: Connection,
    ledger: Ledger,
    data: Mapping[str, Any],
    *,
    what: str = "flavor",
    description: str = "",
) -> Any:
    """A flavor profile of the amphora provider and an enabled flavor that uses it.

    :param data: the profile, such as ``{"compute_flavor": ID, "sriov_vip": True}``.
    :raises openstack.exceptions.HttpException: Octavia refuses the profile.
    """
    profile = create_flavor_profile(admin, ledger, json.dumps(dict(data)), what=what)
    name = ledger.name(what)
    return ledger.make(
        "octavia_flavor",
        name,
        "admin",
        lambda: admin.load_balancer.create_flavor(
            name=name, flavor_profile_id=profile.id, is_enabled=True, description=description
        ),
    )


def create_flavor_profile(
    admin: Connection, ledger: Ledger, data: str, *, what: str = "profile"
) -> Any:
    """A flavor profile from JSON text, which may be wrong on purpose."""
    name = ledger.name(what)
    return ledger.make(
        "octavia_flavor_profile",
        name,
        "admin",
        lambda: admin.load_balancer.create_flavor_profile(
            name=name, provider_name=PROVIDER, flavor_data=data
        ),
    )


# --- load balancers ------------------------------------------------------------------------


class LoadBalancers:
    """The load balancers of one project.

    Every change waits until Octavia has carried it out, because Octavia refuses the next
    one until then; ``create`` alone does not, so that several can be built side by side.

    :param timeout: seconds for a load balancer to be built or deleted.
    :param change_timeout: seconds for every other change.
    """

    def __init__(
        self,
        clouds: Clouds,
        ledger: Ledger,
        *,
        timeout: float = 300,
        change_timeout: float = 120,
        interval: float = 1.0,
    ) -> None:
        self.clouds = clouds
        self.ledger = ledger
        self.timeout = timeout
        self.change_timeout = change_timeout
        self.interval = interval
        self.watches: dict[str, faults.Watch] = {}

    @property
    def _api(self) -> Any:
        return self.clouds.member.load_balancer

    # --- the load balancer itself ---

    def create(
        self,
        *,
        subnet_id: str,
        flavor_id: str | None,
        additional_subnet_ids: Sequence[str] = (),
        what: str = "lb",
        **attributes: Any,
    ) -> resources.LoadBalancer:
        """Ask for a load balancer; does not wait.

        :param additional_subnet_ids: one more VIP on each of these.
        :param attributes: anything else the API takes, such as ``vip_sg_ids``.
        :returns: Octavia's answer, PENDING_CREATE.
        """
        name = self.ledger.name(what)
        request: dict[str, Any] = {"name": name, "vip_subnet_id": subnet_id, **attributes}
        if flavor_id:
            request["flavor_id"] = flavor_id
        if additional_subnet_ids:
            request["additional_vips"] = [{"subnet_id": s} for s in additional_subnet_ids]
        lb = self.ledger.make(
            "load_balancer",
            name,
            "member",
            lambda: resources.LoadBalancer.new(**request).create(self._api),
        )
        self.watches[lb.id] = faults.Watch(self.clouds.admin, lb.id)
        return lb

    def show(self, lb_id: str) -> resources.LoadBalancer:
        return resources.LoadBalancer.new(id=lb_id).fetch(self._api)

    def list(self, **query: Any) -> list[resources.LoadBalancer]:
        return list(resources.LoadBalancer.list(self._api, **query))

    def wait(self, lb_id: str, *, timeout: float | None = None) -> resources.LoadBalancer:
        """Wait until a load balancer is ACTIVE.

        :raises ResourceFault: it went to ERROR; with all that is known of the reason.
        :raises StuckPending: it stayed PENDING.
        """
        watch = self.watches.setdefault(lb_id, faults.Watch(self.clouds.admin, lb_id))
        seconds = self.timeout if timeout is None else timeout
        last = [""]

        def settled() -> resources.LoadBalancer | None:
            lb = self.show(lb_id)
            last[0] = lb.provisioning_status
            if lb.provisioning_status == "PENDING_CREATE":
                # Octavia tears a failed amphora down within seconds: look now or never.
                watch.look()
            return None if lb.provisioning_status.startswith("PENDING") else lb

        lb = until(
            settled,
            what=f"load balancer {lb_id} to be ACTIVE",
            timeout=seconds,
            interval=self.interval,
            explain=lambda: f"It is {last[0]}; "
            + faults.explain(self.clouds.member, lb_id, watch),
        )
        entry = self.ledger.find("load_balancer", lb_id)
        if entry is not None and not entry.followers:
            sweep.follow(self.ledger, self.clouds, entry)
        if lb.provisioning_status != "ACTIVE":
            why = faults.explain(self.clouds.member, lb_id, watch)
            raise errors.ResourceFault(
                f"Load balancer {lb.name} ({lb_id}) was to be ACTIVE and is "
                f"{lb.provisioning_status}: {why or 'Octavia gives no reason'}.",
                fault="; ".join(watch.faults()) or why,
                remedy="The reason is in the log of octavia-worker, under the load balancer's id.",
            )
        return lb

    def wait_error(self, lb_id: str, *, timeout: float | None = None) -> str:
        """Wait until a load balancer is in ERROR, and return all that is known of the reason.

        :raises ResourceFault: it became ACTIVE.
        """
        try:
            lb = self.wait(lb_id, timeout=timeout)
        except errors.ResourceFault as error:
            return error.fault or error.message
        raise errors.ResourceFault(
            f"Load balancer {lb_id} was to fail and is {lb.provisioning_status}."
        )

    def delete(self, lb_id: str) -> None:
        """Delete a load balancer with all that hangs on it, and wait until all is gone,
        what Octavia made for it (instances, ports) too.

        :raises LeftBehind: something is not.
        """
        sweep.undo_one(
            self.ledger,
            self.clouds,
            "load_balancer",
            lb_id,
            timeout=self.timeout,
            interval=self.interval,
        )

    def amphorae(self, lb_id: str) -> list[Any]:
        """The amphorae that serve a load balancer now (administrators only)."""
        admin = self.clouds.by("admin")
        return [
            amphora
            for amphora in admin.load_balancer.amphorae(loadbalancer_id=lb_id)
            if amphora.status == "ALLOCATED"
        ]

    def update(self, lb: Any, **attributes: Any) -> resources.LoadBalancer:
        """Change the load balancer itself: ``name``, ``admin_state_up``."""
        self._changed(
            lb, lambda: self._put(f"/lbaas/loadbalancers/{lb.id}", loadbalancer=attributes)
        )
        return self.show(lb.id)

    def failover(self, lb: Any) -> resources.LoadBalancer:
        """Have every amphora replaced (administrators only), and wait until it is done."""
        admin = self.clouds.by("admin").load_balancer
        self._changed(
            lb, lambda: admin.failover_load_balancer(lb.id), timeout=self.timeout
        )
        return self.show(lb.id)

    def failover_amphora(self, lb: Any, amphora: Any) -> resources.LoadBalancer:
        """Have one amphora replaced (administrators only), and wait until it is done."""
        admin = self.clouds.by("admin").load_balancer
        self._changed(lb, lambda: admin.failover_amphora(amphora.id), timeout=self.timeout)
        return self.show(lb.id)

    # --- the instances below it (administrators only) ---

    def stop_amphora(self, amphora: Any) -> None:
        """Power off an amphora's instance, and wait until Nova says so."""
        compute = self.clouds.by("admin").compute
        compute.stop_server(amphora.compute_id)
        self._await_server(amphora, "SHUTOFF")

    def start_amphora(self, amphora: Any) -> None:
        """Power it on again, and wait until Nova says so; its services take longer."""
        compute = self.clouds.by("admin").compute
        compute.start_server(amphora.compute_id)
        self._await_server(amphora, "ACTIVE")

    def reboot_amphora(self, amphora: Any, kind: str) -> None:
        """Reboot an amphora's instance, ``SOFT`` or ``HARD``, and wait until Nova is done."""
        compute = self.clouds.by("admin").compute
        compute.reboot_server(amphora.compute_id, kind)
        self._await_server(amphora, "ACTIVE")

    def _await_server(self, amphora: Any, status: str) -> None:
        compute = self.clouds.by("admin").compute
        last = [""]

        def there() -> bool:
            server = compute.get_server(amphora.compute_id)
            last[0] = f"{server.status}, task {server.task_state}"
            if server.status == "ERROR":
                raise errors.ResourceFault(
                    f"Instance {server.id} of amphora {amphora.id} was to be {status} and is "
                    f"ERROR: {server.fault}."
                )
            return server.status == status and server.task_state is None

        until(
            there,
            what=f"the instance {amphora.compute_id} of amphora {amphora.id} to be {status}",
            timeout=self.change_timeout,
            interval=min(self.interval, 0.5),
            explain=lambda: f"It is {last[0]}.",
        )

    # --- what hangs on it ---

    def listeners(self, lb: Any) -> list[Any]:
        return list(self._api.listeners(load_balancer_id=lb.id))

    def pools(self, lb: Any) -> list[Any]:
        return list(self._api.pools(loadbalancer_id=lb.id))

    def create_listener(
        self,
        lb: Any,
        *,
        protocol: str,
        port: int,
        allowed_cidrs: Iterable[str] | None = None,
        default_pool_id: str | None = None,
        what: str = "listener",
        **attributes: Any,
    ) -> Any:
        request: dict[str, Any] = {
            "load_balancer_id": lb.id,
            "protocol": protocol,
            "protocol_port": port,
            **attributes,
        }
        if allowed_cidrs is not None:
            request["allowed_cidrs"] = list(allowed_cidrs)
        if default_pool_id:
            request["default_pool_id"] = default_pool_id
        return self._make_child(
            lb, "listener", what, lambda name: self._api.create_listener(name=name, **request)
        )

    def update_listener(self, lb: Any, listener: Any, **attributes: Any) -> Any:
        self._changed(lb, lambda: self._api.update_listener(listener.id, **attributes))
        return self._healthy(lb, "listener", self._api.get_listener(listener.id))

    def delete_listener(self, lb: Any, listener: Any) -> None:
        self._delete_child(lb, "listener", listener)

    def remove_listener(self, lb: Any, port: int) -> None:
        """Delete the listener on a port, also one that Octavia failed; that there is none is fine.

        :raises ResourceMissing: it was not made by this run.
        """
        for listener in self.listeners(lb):
            if listener.protocol_port == port:
                self.delete_listener(lb, listener)

    def update_pool(self, lb: Any, pool: Any, **attributes: Any) -> Any:
        self._changed(lb, lambda: self._put(f"/lbaas/pools/{pool.id}", pool=attributes))
        return self._healthy(lb, "pool", self._api.get_pool(pool.id))

    def delete_pool(self, lb: Any, pool: Any) -> None:
        self._delete_child(lb, "pool", pool)

    def update_member(self, lb: Any, pool: Any, member: Any, **attributes: Any) -> None:
        path = f"/lbaas/pools/{pool.id}/members/{member.id}"
        self._changed(lb, lambda: self._put(path, member=attributes))

    def replace_members(self, lb: Any, pool: Any, members: Sequence[Mapping[str, Any]]) -> None:
        """The batch update: these are the pool's members afterwards, and no others.

        They go with the load balancer, so the journal has no entry of their own.
        """
        path = f"/lbaas/pools/{pool.id}/members"
        self._changed(lb, lambda: self._put(path, members=list(members)))

    def delete_health_monitor(self, lb: Any, monitor: Any) -> None:
        self._delete_child(lb, "health_monitor", monitor)

    def create_pool(
        self,
        lb: Any,
        *,
        protocol: str,
        listener: Any | None = None,
        algorithm: str = "ROUND_ROBIN",
        what: str = "pool",
        **attributes: Any,
    ) -> Any:
        """A pool; the default one of ``listener`` if that is given."""
        request: dict[str, Any] = {"protocol": protocol, "lb_algorithm": algorithm, **attributes}
        if listener is not None:
            request["listener_id"] = listener.id
        else:
            request["loadbalancer_id"] = lb.id
        return self._make_child(
            lb, "pool", what, lambda name: self._api.create_pool(name=name, **request)
        )

    def add_member(
        self,
        lb: Any,
        pool: Any,
        *,
        address: str,
        port: int,
        subnet_id: str | None = None,
        request_sriov: bool | None = None,
        what: str = "member",
        **attributes: Any,
    ) -> resources.Member:
        request: dict[str, Any] = {"address": address, "protocol_port": port, **attributes}
        if subnet_id:
            request["subnet_id"] = subnet_id
        if request_sriov is not None:
            request["request_sriov"] = request_sriov
        return self._make_child(
            lb,
            "member",
            what,
            lambda name: resources.Member.new(pool_id=pool.id, name=name, **request).create(
                self._api
            ),
            pool_id=pool.id,
        )

    def delete_member(self, lb: Any, member: Any) -> None:
        self._delete_child(lb, "member", member)

    def create_health_monitor(
        self,
        lb: Any,
        pool: Any,
        *,
        kind: str = "HTTP",
        delay: int = 2,
        timeout: int = 2,
        retries: int = 2,
        what: str = "monitor",
        **attributes: Any,
    ) -> Any:
        return self._make_child(
            lb,
            "health_monitor",
            what,
            lambda name: self._api.create_health_monitor(
                name=name,
                pool_id=pool.id,
                type=kind,
                delay=delay,
                timeout=timeout,
                max_retries=retries,
                **attributes,
            ),
        )

    def await_members_online(self, lb: Any, pool: Any, *, timeout: float = 60) -> None:
        """Wait until a health monitor calls every member of a pool ONLINE.

        :raises StuckPending: with the operating status of each member.
        """
        states: dict[str, str] = {}

        def online() -> bool:
            states.clear()
            for member in self._api.members(pool.id):
                states[f"{member.address}:{member.protocol_port}"] = member.operating_status
            return bool(states) and set(states.values()) == {"ONLINE"}

        until(
            online,
            what=f"every member of pool {pool.name} of load balancer {lb.id} to be ONLINE",
            timeout=timeout,
            interval=self.interval,
            explain=lambda: f"They are {states}.",
        )

    # --- how changes are made ---

    def _put(self, path: str, **body: Any) -> Any:
        """A PUT in the words of the REST API, for what the SDK has no call for."""
        answer = self._api.put(path, json=body)
        sdk.raise_from_response(answer)
        return answer

    def _make_child(self, lb: Any, kind: str, what: str, request: Any, **extra: Any) -> Any:
        name = self.ledger.name(what)
        made: list[Any] = []

        def change() -> None:
            made.append(
                self.ledger.make(
                    kind, name, "member", lambda: request(name), parent=lb.name, **extra
                )
            )

        self._changed(lb, change)
        if kind == "member":
            path = {"pool_id": extra["pool_id"]}
            found = resources.Member.new(id=made[0].id, **path).fetch(self._api)
        else:
            found = getattr(self._api, f"get_{kind}")(made[0].id)
        return self._healthy(lb, kind, found)

    def _healthy(self, lb: Any, kind: str, child: Any) -> Any:
        """``child``, unless Octavia failed it: then the load balancer itself is ACTIVE again.

        :raises ResourceFault: the child is in ERROR.
        """
        if child.provisioning_status != "ERROR":
            return child
        watch = self.watches.get(lb.id)
        why = faults.explain(self.clouds.member, lb.id, watch)
        raise errors.ResourceFault(
            f"The {kind} {child.name} ({child.id}) of load balancer {lb.name} ({lb.id}) was to be "
            f"ACTIVE and is ERROR: {why or 'Octavia gives no reason'}.",
            fault=why,
            remedy="The reason is in the log of octavia-worker, under the id of the load balancer.",
        )

    def _delete_child(self, lb: Any, kind: str, resource: Any) -> None:
        if self.ledger.find(kind, resource.id) is None:
            raise errors.ResourceMissing(f"The {kind} {resource.id} was not made by this run.")
        sweep.undo_one(
            self.ledger,
            self.clouds,
            kind,
            resource.id,
            timeout=self.change_timeout,
            interval=self.interval,
        )
        self.wait(lb.id, timeout=self.change_timeout)

    def _changed(self, lb: Any, change: Any, *, timeout: float | None = None) -> None:
        """Make a change when Octavia takes it, and wait until it is done."""
        before = [""]

        def accepted() -> bool:
            try:
                change()
            except sdk.ConflictException as error:
                before[0] = str(error)
                if "immutable" not in str(error).lower():
                    raise
                if self.show(lb.id).provisioning_status == "ERROR":
                    # Octavia changes nothing on a load balancer in ERROR: do not wait for it.
                    raise errors.ResourceFault(
                        f"Load balancer {lb.name} ({lb.id}) is in ERROR and takes no change: "
                        f"{faults.explain(self.clouds.member, lb.id)}."
                    ) from error
                return False
            return True

        until(
            accepted,
            what=f"load balancer {lb.id} to take a change",
            timeout=self.change_timeout,
            interval=self.interval,
            explain=lambda: f"Octavia says: {before[0]}",
        )
        self.wait(lb.id, timeout=timeout or self.change_timeout)
