# SPDX-License-Identifier: Apache-2.0
"""Ground truth for each packet: an nftables table of our own that counts and never decides.

Octavia's reloads replace only its own table, so ours survives them. It counts frames from one MAC
at three places: where packets arrive (before defragmentation and conntrack), just before the
filter, and just after it. What the kernel discards before any hook (another station's frame, a VLAN
it is not in, a header that is no header, IPv6 from loopback or multicast) is seen at none of them;
the catalogue says so of its cases (``Case.lost``).

The key is what every probe of ours carries in its network header: identification (IPv4) or flow
label (IPv6). Those repeat after 65,535 frames, so counts are read per test, not per run.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from sriov_lb_tests.packets.catalogue import Expected

PREFIX = "sriov_lb_count_"


class Stage(enum.Enum):
    """Where a packet was seen."""

    ARRIVED = "arrived"
    REACHED_FILTER = "reached"
    PASSED_FILTER = "passed"


#: Stage -> hook and priority. The filter of Octavia is at input, priority 0, an operator's may be
#: anywhere there; defragmentation is at -400 and conntrack at -200 of prerouting.
_PLACES = {
    Stage.ARRIVED: ("prerouting", -410),
    Stage.REACHED_FILTER: ("input", -2_000_000_000),
    Stage.PASSED_FILTER: ("input", 2_000_000_000),
}


class Carrier(Protocol):
    """The part of a probe's identity that its network header carries."""

    sequence: int
    flow_label: int


def keys(identity: Carrier) -> dict[int, int]:
    """The key of an identity by IP version, as ``packets.probe.network`` writes it."""
    return {4: identity.sequence, 6: identity.flow_label}


def table_text(name: str, mac: str) -> str:
    """The counting table as nft reads it."""
    sets, chains = [], []
    for stage, (hook, priority) in _PLACES.items():
        for version, kind in ((4, "ip id"), (6, "ip6 flowlabel")):
            # A counter for each element comes with the rule that adds it.
            sets.append(
                f"  set {stage.value}{version} {{ typeof {kind}; size 65535; flags dynamic; }}"
            )
        chains.append(
            f"  chain {stage.value} {{\n"
            f"    type filter hook {hook} priority {priority}; policy accept;\n"
            f"    ether saddr {mac} update @{stage.value}4 {{ ip id counter }}\n"
            f"    ether saddr {mac} update @{stage.value}6 {{ ip6 flowlabel counter }}\n"
            "  }"
        )
    body = "\n".join(sets + chains)
    return f"table inet {name} {{\n{body}\n}}\n"


@dataclass
class Counts:
    """How many frames of each identity were seen at each stage."""

    table: str
    by_stage: dict[tuple[Stage, int], dict[int, int]] = field(default_factory=dict)

    def of(self, identity: Carrier, version: int) -> dict[Stage, int]:
        """Frames of one identity by stage."""
        key = keys(identity)[version]
        return {stage: self.by_stage.get((stage, version), {}).get(key, 0) for stage in Stage}

    def reached(self, identity: Carrier, version: int, frames: int = 1) -> Expected:
        """How far frames of one identity came: ACCEPT, DROP, BEFORE_FILTER or NOT_ARRIVED.

        BEFORE_FILTER is what the counters prove: it was seen at arrival and no later. What was
        never seen may have been lost anywhere.

        :param frames: how many frames are the packet. A piece that is missing explains why the
            whole went no further, so then it has not arrived.
        """
        found = self.of(identity, version)
        if found[Stage.PASSED_FILTER]:
            return Expected.ACCEPT
        if found[Stage.ARRIVED] < frames:
            return Expected.NOT_ARRIVED
        return Expected.DROP if found[Stage.REACHED_FILTER] else Expected.BEFORE_FILTER

    def total(self, stage: Stage) -> int:
        return sum(sum(found.values()) for (at, _), found in self.by_stage.items() if at is stage)

    def read(self, listing: Mapping) -> None:
        """Take the numbers from ``nft -j list table``."""
        for entry in listing["nftables"]:
            found = entry.get("set")
            if not found:
                continue
            stage, version = Stage(found["name"][:-1]), int(found["name"][-1])
            numbers = {}
            for element in found.get("elem", []):
                inner = element["elem"]
                numbers[int(inner["val"])] = inner["counter"]["packets"]
            self.by_stage[stage, version] = numbers


class Nft(Protocol):
    """Runs nft inside the amphora's namespace."""

    def nft(self, *arguments: str, input: str | None = None) -> str: ...


@contextmanager
def counting(amphora: Nft, mac: str, token: str) -> Iterator[Counts]:
    """Count frames from ``mac`` while the block runs; the numbers are there after it.

    The table is removed in any case; what a killed run left is removed by the next one.
    """
    remove_leftovers(amphora)
    counts = Counts(PREFIX + token)
    amphora.nft("-f", "-", input=table_text(counts.table, mac))
    try:
        yield counts
        counts.read(json.loads(amphora.nft("-j", "list", "table", "inet", counts.table)))
    finally:
        amphora.nft("delete", "table", "inet", counts.table)


def remove_leftovers(amphora: Nft) -> list[str]:
    """Remove counting tables of runs that were killed; returns their names."""
    listing = json.loads(amphora.nft("-j", "list", "tables"))
    names = [
        entry["table"]["name"]
        for entry in listing["nftables"]
        if "table" in entry and entry["table"]["name"].startswith(PREFIX)
    ]
    for name in names:
        amphora.nft("delete", "table", "inet", name)
    return names
