# SPDX-License-Identifier: Apache-2.0
"""Everything that could matter to the figures and can be read (RFC 8172, section 3)."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

from ..clients import Generator
from ..engines.base import Crew
from ..targets import Pair

PACKAGES = ("locust", "gevent", "hdrhistogram", "numpy", "scipy", "plotly", "jumpavg", "MLRsearch")


def tool_version() -> str:
    """Of this project; "unknown" when it is not installed."""
    return _version("sriov-lb-tests") or "unknown"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def take(pair: Pair, crew: Crew) -> dict[str, Any]:
    """Tester, clients (each with its way to each VIP), and what is known of the VIPs.

    :raises PerfError: a client cannot be reached.
    """
    return {
        "substrate": pair.substrate,
        "tester": {
            "python": platform.python_version(),
            "kernel": platform.release(),
            "cpus": os.cpu_count(),
            "packages": {name: _version(name) for name in PACKAGES if _version(name)},
        },
        "clients": [_client(index, pair, crew) for index in range(len(crew.clients))],
        "facts": dict(pair.facts),
    }


def _client(index: int, pair: Pair, crew: Crew) -> dict[str, Any]:
    client = crew.clients[index]
    # The first client has a prober anyway; for another one an engine is started and ended.
    generator = (
        crew.prober if index == 0 else Generator.start(client, crew.hosts[client.name])
    )
    try:
        facts = generator.job({"job": "facts"})
        paths = {
            vip.role: generator.job({"job": "facts", "url": vip.url})["path"]
            for vip in (pair.reference, pair.candidate)
        }
    finally:
        if index:
            generator.close()
    own = {key: facts[key] for key in facts if key not in ("report", "job", "cpu_times")}
    return {"name": client.name, "kind": client.kind, **own, "paths": paths}
