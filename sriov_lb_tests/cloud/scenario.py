# SPDX-License-Identifier: Apache-2.0
"""Topologies, listener sets and matrices from the YAML files in ``scenarios/``.

The files hold data only; a JSON Schema beside them says what may stand there. What only a
run can know (the address of a client) is written ``$name`` and filled in by the run.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import jsonschema
import yaml

from sriov_lb_tests import errors


@dataclass(frozen=True)
class Topology:
    """What is built, before any listener.

    :param vip_versions: IP versions of the VIPs; the first is the VIP, the rest are additional.
    :param amphorae: ``SINGLE``, ``ACTIVE_STANDBY``, or None for the run's own choice.
    :param members: how many member servers.
    :param member_place: ``own`` network or the ``vip`` network.
    :param client_vnic_type: ``direct`` or ``normal``.
    """

    name: str
    vip_versions: tuple[int, ...]
    amphorae: str | None
    members: int
    member_place: str
    client_vnic_type: str


@dataclass(frozen=True)
class PoolSpec:
    name: str
    protocol: str
    algorithm: str
    member_port: int
    health_monitor: str | None


@dataclass(frozen=True)
class ListenerSpec:
    """A listener; ``allowed_cidrs`` is None for "everyone"."""

    name: str
    protocol: str
    port: int
    allowed_cidrs: tuple[str, ...] | None
    pool: str | None


@dataclass(frozen=True)
class ListenerSet:
    name: str
    listeners: tuple[ListenerSpec, ...]
    pools: tuple[PoolSpec, ...]

    def listener(self, name: str) -> ListenerSpec:
        return next(spec for spec in self.listeners if spec.name == name)


def topology(name: str) -> Topology:
    """The topology ``topologies/NAME.yaml``.

    :raises ConfigurationError: there is no such file, or it breaks the schema.
    """
    data = _load("topologies", name)
    client, members = data["client"], data["members"]
    return Topology(
        name=name,
        vip_versions=tuple(data["vip"]["versions"]),
        amphorae=data.get("amphorae"),
        members=members["count"],
        member_place=members["place"],
        client_vnic_type=client["vnic_type"],
    )


def listener_set(name: str, values: Mapping[str, str], versions: tuple[int, ...]) -> ListenerSet:
    """The listener set ``listeners/NAME.yaml``, filled in.

    :param values: what ``$name`` stands for in ``allowed_cidrs``.
    :param versions: IP versions of the load balancer's VIPs. CIDRs of other versions are left
        out, because Octavia refuses a CIDR no VIP can match.
    :raises ConfigurationError: no such file, schema broken, or a name without a value.
    """
    data = _load("listeners", name)
    pools = tuple(
        PoolSpec(
            name=pool["name"],
            protocol=pool["protocol"],
            algorithm=pool.get("algorithm", "ROUND_ROBIN"),
            member_port=pool["member_port"],
            health_monitor=pool.get("health_monitor"),
        )
        for pool in data.get("pools", ())
    )
    listeners = []
    for entry in data["listeners"]:
        if entry.get("pool") not in (None, *(pool.name for pool in pools)):
            raise errors.ConfigurationError(
                f"Listener {entry['name']} of scenarios/listeners/{name}.yaml names the pool "
                f"{entry['pool']!r}, which the file does not define."
            )
        cidrs = entry.get("allowed_cidrs")
        listeners.append(
            ListenerSpec(
                name=entry["name"],
                protocol=entry["protocol"],
                port=entry["port"],
                allowed_cidrs=None if cidrs is None else _fill(name, cidrs, values, versions),
                pool=entry.get("pool"),
            )
        )
    return ListenerSet(name, tuple(listeners), pools)


@dataclass(frozen=True)
class Impossible:
    """Values that cannot meet.

    :param when: by factor, the values that make it impossible; all factors named have to fit.
    """

    when: Mapping[str, tuple[Any, ...]]
    reason: str

    def rules_out(self, values: Mapping[str, Any]) -> bool:
        """Whether these values are ruled out; what is not known yet rules out nothing."""
        return all(name in values and values[name] in bad for name, bad in self.when.items())


@dataclass(frozen=True)
class Matrix:
    """Factors of load balancers and listeners, and what cannot meet.

    :param load_balancer, listener: values by factor, the plainest first.
    :param always: values of load balancers that every selection has together.
    :param once: values (factor, value) that a pairwise selection has once, and with what.
    :param subnets: CIDRs of further subnets of the VIP network by IP version.
    """

    load_balancer: Mapping[str, tuple[Any, ...]]
    listener: Mapping[str, tuple[Any, ...]]
    impossible: tuple[Impossible, ...]
    always: tuple[Mapping[str, Any], ...]
    once: Mapping[tuple[str, Any], Mapping[str, Any]]
    subnets: Mapping[int, tuple[str, ...]]

    def ruled_out(self, values: Mapping[str, Any]) -> str:
        """Why these values cannot meet; "" if they can."""
        return next((rule.reason for rule in self.impossible if rule.rules_out(values)), "")


def matrix(name: str) -> Matrix:
    """The matrix ``matrices/NAME.yaml``.

    :raises ConfigurationError: no such file, schema broken, or a rule names what no factor has.
    """
    data = _load("matrices", name)
    factors = {**data["load_balancer"], **data["listener"]}
    named = [(f, v) for rule in data["impossible"] for f, vs in rule["when"].items() for v in vs]
    together = [*data.get("always", ())]
    for entry in data.get("once", ()):
        together += [entry["value"], entry["with"]]
    named += [pair for values in together for pair in values.items()]
    for factor, value in named:
        if value not in factors.get(factor, ()):
            raise errors.ConfigurationError(
                f"scenarios/matrices/{name}.yaml speaks of {factor} {value!r}, which is no value "
                f"of a factor; there are {', '.join(factors)}."
            )
    return Matrix(
        load_balancer={key: tuple(found) for key, found in data["load_balancer"].items()},
        listener={key: tuple(found) for key, found in data["listener"].items()},
        impossible=tuple(
            Impossible({key: tuple(found) for key, found in rule["when"].items()}, rule["reason"])
            for rule in data["impossible"]
        ),
        always=tuple(data.get("always", ())),
        once={next(iter(e["value"].items())): e["with"] for e in data.get("once", ())},
        subnets={4: tuple(data["subnets"]["ipv4"]), 6: tuple(data["subnets"]["ipv6"])},
    )


def _fill(
    name: str, cidrs: list[str], values: Mapping[str, str], versions: tuple[int, ...]
) -> tuple[str, ...]:
    filled = []
    for text in cidrs:
        if text.startswith("$"):
            key = text[1:]
            if key not in values:
                known = int(key[-1]) if key[-2:] in ("v4", "v6") else None
                if known is not None and known not in versions:
                    continue
                raise errors.ConfigurationError(
                    f"scenarios/listeners/{name}.yaml uses ${key}, which this run has no value "
                    f"for; it has: {', '.join(sorted(values)) or 'none'}."
                )
            text = values[key]
        network = ipaddress.ip_network(text, strict=False)
        if network.version in versions:
            filled.append(network.with_prefixlen)
    if not filled:
        raise errors.ConfigurationError(
            f"No CIDR of scenarios/listeners/{name}.yaml fits a load balancer with IP version "
            f"{' and '.join(map(str, versions))}.",
            remedy="An empty list would let everyone in; choose another listener set.",
        )
    return tuple(filled)


def _load(kind: str, name: str) -> dict[str, Any]:
    folder = resources.files("sriov_lb_tests") / "scenarios"
    path = folder / kind / f"{name}.yaml"
    if not path.is_file():
        known = sorted(
            p.name[:-5] for p in (folder / kind).iterdir() if p.name.endswith(".yaml")
        )
        raise errors.ConfigurationError(
            f"There is no scenarios/{kind}/{name}.yaml; there are: {', '.join(known)}."
        )
    data = yaml.safe_load(path.read_text())
    schema = json.loads((folder / f"{kind}.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    problems = sorted(validator.iter_errors(data), key=lambda error: list(error.absolute_path))
    if problems:
        text = "; ".join(
            f"{'/'.join(map(str, p.absolute_path)) or 'top'}: {p.message}" for p in problems
        )
        raise errors.ConfigurationError(
            f"scenarios/{kind}/{name}.yaml does not follow scenarios/{kind}.schema.json: {text}."
        )
    return data
