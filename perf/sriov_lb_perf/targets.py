# SPDX-License-Identifier: Apache-2.0
"""What is compared: two VIPs and the clients they are measured from."""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import yaml

from . import errors
from .clients import Client
from .model import CANDIDATE, REFERENCE


def _is_url(text: str, schemes: tuple[str, ...]) -> bool:
    try:
        url = urlsplit(text)
        return bool(url.scheme in schemes and url.hostname and url.port != 0)
    except ValueError:  # a port that is no number, an address in brackets that is none
        return False


@dataclass(frozen=True)
class Target:
    """One VIP.

    :param role: ``normal`` or ``sriov`` (the report's names; any two words do).
    :param url: of a small object, for request rate, latency and connection rate.
    :param large: path of a large object on the same listener, for goodput; None: not measured.
    :param tls: URL of the same small object on a TERMINATED_HTTPS listener, or None.
    :param udp: (address, port) of a UDP listener whose members answer what they get, or None.
    :param iperf3: (address, port) of a TCP listener with iperf3 servers behind it, or None.
    :param objects: bytes -> path of an object of exactly that size on the same listeners.
    :param lacks: why one of these is not there, by its name here, where somebody knows.
    :param facts: whatever is known of it (load balancer id, host, flavor…).
    :param amphorae: where its haproxy runs, the master first; read for what still differs
        between the two. Empty: nothing is known of them.
    """

    role: str
    url: str
    large: str | None = None
    iperf3: tuple[str, int] | None = None
    tls: str | None = None
    udp: tuple[str, int] | None = None
    objects: Mapping[int, str] = field(default_factory=dict)
    lacks: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    amphorae: tuple[Client, ...] = ()

    def __post_init__(self) -> None:
        if not _is_url(self.url, ("http", "https")):
            raise errors.BadTarget(
                f"The {self.role} VIP {self.url!r} is not a URL of the form "
                "http://ADDRESS[:PORT]/PATH."
            )
        if self.tls is not None and not _is_url(self.tls, ("https",)):
            raise errors.BadTarget(
                f"tls of the {self.role} VIP, {self.tls!r}, is not a URL of the form "
                "https://ADDRESS[:PORT]/PATH."
            )

    @property
    def large_url(self) -> str | None:
        return None if self.large is None else at_path(self.url, self.large)

    def without(self, what: str, why: str) -> Target:
        """The same VIP without ``tls``, ``udp``, ``large``, ``iperf3`` or ``objects``, and why."""
        nothing: Any = {} if what == "objects" else None
        return dataclasses.replace(self, lacks={**self.lacks, what: why}, **{what: nothing})


def at_path(url: str, path: str) -> str:
    """Another object of the same listener."""
    return urlsplit(url)._replace(path="/" + path.lstrip("/"), query="").geturl()


@dataclass(frozen=True)
class Pair:
    """The two VIPs of a comparison, and from where they are measured.

    ``reference`` is the normal VIP (A), ``candidate`` the SR-IOV VIP (B): ratios are B / A.
    """

    reference: Target
    candidate: Target
    clients: tuple[Client, ...]
    substrate: str = "unknown"
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.clients:
            raise errors.BadTarget(
                "No client was given.",
                remedy="Add --client: where load is generated, such as ssh://debian@10.0.0.7.",
            )
        names = [client.name for client in self.clients]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise errors.BadTarget(f"Client name {', '.join(sorted(twice))} is used twice.")

    def side(self, side: str) -> Target:
        return {REFERENCE: self.reference, CANDIDATE: self.candidate}[side]

    @property
    def names(self) -> tuple[str, str]:
        """(reference, candidate)"""
        return self.reference.role, self.candidate.role


def schema() -> dict:
    """The JSON Schema of a target file."""
    text = importlib.resources.files(__package__).joinpath("targets.schema.json").read_text()
    return json.loads(text)


def load(path: str | Path) -> Pair:
    """A target file (YAML or JSON).

    :raises BadTarget: it cannot be read or breaks the schema; all breaches are named.
    """
    path = Path(path)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise errors.BadTarget(f"--targets {path}: {error}") from error
    return from_mapping(data, str(path))


def from_mapping(data: Any, origin: str) -> Pair:
    """A parsed target file; ``origin`` is for messages."""
    checker = jsonschema.Draft202012Validator(schema())
    problems = sorted(checker.iter_errors(data), key=lambda p: list(map(str, p.absolute_path)))
    if problems:
        lines = "; ".join(
            f"{'/'.join(map(str, p.absolute_path)) or '(top)'}: {p.message}" for p in problems
        )
        raise errors.BadTarget(f"{origin} does not describe targets: {lines}.")
    vips = {
        role: Target(
            role=entry.get("name", role),
            url=entry["url"],
            large=entry.get("large"),
            iperf3=_address(entry.get("iperf3")),
            tls=entry.get("tls"),
            udp=_address(entry.get("udp")),
            objects={each["bytes"]: each["path"] for each in entry.get("objects", ())},
            facts=entry.get("facts", {}),
            amphorae=tuple(
                Client.from_mapping(amphora) for amphora in entry.get("amphorae", ())
            ),
        )
        for role, entry in data["vips"].items()
    }
    return Pair(
        reference=vips["normal"],
        candidate=vips["sriov"],
        clients=tuple(Client.from_mapping(entry) for entry in data["clients"]),
        substrate=data.get("substrate", "unknown"),
        facts=data.get("facts", {}),
    )


def _address(entry: Mapping | None) -> tuple[str, int] | None:
    return None if entry is None else (entry["address"], entry["port"])
