# SPDX-License-Identifier: Apache-2.0
"""The part of a fingerprint that lasts from night to night."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Of a path, a client and an amphora: what stays the same as long as nobody changes anything.
PATH = ("driver", "driver_version", "firmware", "mtu", "speed_mbit")
CLIENT = ("kernel", "python", "cpu_model", "cpus", "memory_kib", "os", "clocksource")
#: Of a stage: what its figures depend on. (How many blocks it has makes them surer, not others.)
STAGE = ("engine", "seconds", "warmup", "load", "rounds")
PASSING = ("MAC", "interface bus", "conntrack entries")


def lasting(document: Mapping[str, Any]) -> dict[str, str]:
    """The part of a result's fingerprint that may be compared between nights.

    What is new every night (ids, names, addresses) is left out, so that whatever differs was
    changed by somebody.
    """
    environment = document["environment"]
    found: dict[str, Any] = {
        "tool version": document["tool"]["version"],
        "substrate": environment.get("substrate"),
    }
    for stage in document["profile"].get("stages", ()):
        asked = {name: stage[name] for name in STAGE if name in stage}
        asked |= dict(sorted(stage.get("parameters", {}).items()))
        found[f"profile: {stage['name']}"] = ", ".join(f"{k} {v}" for k, v in asked.items())
    tester = environment.get("tester", {})
    for name in ("python", "kernel", "cpus"):
        found[f"tester: {name}"] = tester.get(name)
    for package, version in tester.get("packages", {}).items():
        found[f"tester: {package}"] = version
    for name in ("topology", "octavia_release", "amphora_flavor"):
        found[name.replace("_", " ")] = environment.get("facts", {}).get(name)
    for number, client in enumerate(environment.get("clients", ()), 1):
        for name in CLIENT:
            found[f"client {number}: {name}"] = client.get(name)
        for role, path in (client.get("paths") or {}).items():
            for name in PATH:
                found[f"client {number} to {role}: {name}"] = path.get(name)
    for side, target in document["targets"].items():
        role = target["role"]
        for name in ("host", "image"):
            found[f"{role}: {name}"] = target["facts"].get(name)
        for amphora in environment.get("amphorae", {}).get(side, ())[:1]:
            for name, value in amphora["facts"].items():
                if name not in PASSING:
                    found[f"{role} amphora: {name}"] = value
    return {name: str(value) for name, value in found.items() if value is not None}
