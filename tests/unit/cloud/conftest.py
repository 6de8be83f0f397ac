# SPDX-License-Identifier: Apache-2.0
"""A cloud in memory, at the seam of openstacksdk's connection object.

It keeps resources, not promises: names, ids, states, refusals. Nothing here talks HTTP.
"""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
from openstack import exceptions as sdk

from sriov_lb_tests.cloud import kinds, resources
from sriov_lb_tests.cloud.connect import Clouds

SINGULARS = {
    "servers": "server",
    "images": "image",
    "keypairs": "keypair",
    "aggregates": "aggregate",
    "networks": "network",
    "subnets": "subnet",
    "ports": "port",
    "security_groups": "security_group",
    "ips": "ip",
    "listeners": "listener",
    "pools": "pool",
    "health_monitors": "health_monitor",
    "flavor_profiles": "flavor_profile",
    "flavors": "flavor",
    "agents": "agent",
    "services": "service",
    "users": "user",
    "projects": "project",
    "amphorae": "amphora",
    "load_balancers": "load_balancer",
}


class Thing(SimpleNamespace):
    """A resource; unknown attributes are None, as in the SDK."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return None


class Service:
    """create_X, get_X, delete_X and the plural of X, for any X."""

    def __init__(self, cloud):
        self.cloud = cloud
        self.store = {}

    def __getattr__(self, name):
        verb, _, kind = name.partition("_")
        if verb == "create" and kind:
            return lambda *args, **attrs: self._create(kind, attrs)
        if verb == "get" and kind:
            return lambda key: self._get(kind, key)
        if verb == "delete" and kind:
            return lambda key, *args, **kw: self._delete(kind, getattr(key, "id", key))
        if verb == "find" and kind:
            return lambda key, **kw: next(
                (t for t in self._all(kind) if key in (t.id, t.name)), None
            )
        if name in SINGULARS:
            return lambda *args, **query: self._list(SINGULARS[name], query)
        raise AttributeError(name)

    def _all(self, kind):
        return list(self.store.get(kind, {}).values())

    def _create(self, kind, attrs):
        self.cloud.hit(f"create {kind}")
        thing = Thing(**attrs)
        thing.id = attrs.get("name") if kind == "keypair" else f"{kind}-{next(self.cloud.ids)}"
        self.store.setdefault(kind, {})[thing.id] = thing
        self.cloud.hit(f"created {kind}")
        return thing

    def _get(self, kind, key):
        if key not in self.store.get(kind, {}):
            raise sdk.NotFoundException(f"no {kind} {key}")
        return self.store[kind][key]

    def _delete(self, kind, key):
        refusal = self.cloud.refusals.pop((kind, key), None)
        if refusal is not None:
            raise refusal
        self.cloud.log.append(f"delete {kind}")
        self.store.get(kind, {}).pop(key, None)

    def _list(self, kind, query):
        known = {
            k: v
            for k, v in query.items()
            if k in ("name", "device_id", "network_id", "loadbalancer_id", "agent_type", "binary")
        }
        if "name" in known:
            known["name"] = known["name"].strip("^$")
        found = [t for t in self._all(kind) if all(getattr(t, k) == v for k, v in known.items())]
        return found


class Compute(Service):
    def add_host_to_aggregate(self, aggregate, host):
        self.cloud.hit("add host")
        aggregate.hosts = [*(aggregate.hosts or ()), host]

    def remove_host_from_aggregate(self, aggregate, host):
        aggregate.hosts = [h for h in aggregate.hosts if h != host]

    def set_aggregate_metadata(self, aggregate, metadata):
        aggregate.metadata = metadata

    def delete_aggregate(self, aggregate, ignore_missing=True):
        if aggregate.hosts:
            raise sdk.ConflictException("the aggregate has hosts")
        self._delete("aggregate", aggregate.id)

    def flavor_add_tenant_access(self, flavor, project):
        flavor.access = project

    def create_flavor_extra_specs(self, flavor, specs):
        flavor.extra_specs = specs


class FakeCloud:
    """The state behind the connections."""

    def __init__(self):
        self.ids = itertools.count(1)
        self.log = []
        self.refusals = {}
        self.kill_at = None
        self.hits = 0
        self.compute = Compute(self)
        self.network = Service(self)
        self.load_balancer = Service(self)
        self.identity = Service(self)
        self.image = Service(self)

    def hit(self, what):
        """A point at which a test may kill the program."""
        self.hits += 1
        self.log.append(what)
        if self.kill_at is not None and self.hits == self.kill_at:
            raise Killed(what)

    def everything(self):
        services = (self.compute, self.network, self.load_balancer, self.identity)
        return [t.name for s in services for kind in s.store.values() for t in kind.values()]

    def connection(self, roles=("admin",)):
        access = SimpleNamespace(role_names=list(roles))
        auth = SimpleNamespace(get_access=lambda session: access)
        return SimpleNamespace(
            compute=self.compute,
            network=self.network,
            load_balancer=self.load_balancer,
            identity=self.identity,
            image=self.image,
            session=SimpleNamespace(auth=auth),
            current_user_id="user-1",
            current_project_id="project-1",
        )


class Killed(BaseException):
    """Stands for kill -9: no handler of the program may run."""


@pytest.fixture
def cloud(monkeypatch):
    state = FakeCloud()

    class LoadBalancer:
        """Stands where resources.LoadBalancer does, on the same store."""

        def __init__(self, **attrs):
            self.attrs = attrs

        @classmethod
        def new(cls, **attrs):
            return cls(**attrs)

        def create(self, api):
            thing = api._create("load_balancer", self.attrs)
            thing.provisioning_status = "ACTIVE"
            thing.vip_address = "203.0.113.9"
            return thing

        def fetch(self, api):
            return api._get("load_balancer", self.attrs["id"])

        @staticmethod
        def list(api, **query):
            return api._list("load_balancer", query)

    monkeypatch.setattr(resources, "LoadBalancer", LoadBalancer)
    return state


@pytest.fixture
def clouds(cloud):
    connection = cloud.connection()
    return Clouds(member=connection, admin=connection)


@pytest.fixture
def killed():
    return Killed


@pytest.fixture
def thing():
    return Thing


@pytest.fixture
def kind_names():
    return set(kinds.KINDS)
