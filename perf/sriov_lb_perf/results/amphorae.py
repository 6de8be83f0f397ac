# SPDX-License-Identifier: Apache-2.0
"""The amphorae behind the two VIPs: what they are, what they did meanwhile, how they differ.

The twins are meant to be equal in all but the port. What differs all the same is either the
port's own (driver, ruleset, conntrack, place) and stated, or it is not, and then the comparison
is not one of the port: a gate says so.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sriov_lb_tests.errors import SriovLbError

from ..clients import Client
from ..model import SIDES
from ..targets import Pair

#: What must be equal, or something else than the port is compared.
EQUAL = (
    "image", "os", "kernel", "cpus", "memory MiB", "haproxy version", "haproxy threads",
    "agent version", "congestion control",
)  # fmt: skip

#: What differs by nature: no difference between ports is told by it.
OWN = ("MAC", "interface bus")


class Watch:
    """The amphorae of a pair. Use as a context manager around the trials.

    Nothing here ends a run: what cannot be read is stated as such.

    :param pins: file for the amphorae's host keys.
    """

    def __init__(self, pair: Pair, pins: Path | None = None) -> None:
        self._clients = {side: pair.side(side).amphorae for side in SIDES}
        self._pins: Any = pins
        self._stack = contextlib.ExitStack()
        self._hosts: dict[tuple[str, int], Any] = {}
        self._before: dict[tuple[str, int], dict[str, Any]] = {}
        self._failed: dict[tuple[str, int], str] = {}
        self._began = 0.0

    def __enter__(self) -> Watch:
        if any(client.kind == "ssh" for each in self._clients.values() for client in each):
            from sriov_lb_tests.wire.ssh import Pins

            self._pins = Pins(self._pins)
        for side, clients in self._clients.items():
            for index, client in enumerate(clients):
                self._open(side, index, client)
        self._began = time.monotonic()
        return self

    def __exit__(self, *_exc) -> None:
        self._stack.close()

    def _open(self, side: str, index: int, client: Client) -> None:
        try:
            host = client.open(self._pins)
            self._stack.callback(host.close)
            self._hosts[side, index] = host
            self._before[side, index] = _read(client, host)
        except SriovLbError as error:
            self._failed[side, index] = str(error)

    def now(self) -> dict[str, list[dict[str, Any]]]:
        """By side, for each amphora: ``{"name", "facts", "during", "failed"}``.

        ``facts`` are those of the beginning, ``during`` is what it did since then.
        """
        found: dict[str, list[dict[str, Any]]] = {}
        seconds = time.monotonic() - self._began
        for side, clients in self._clients.items():
            found[side] = [
                self._entry((side, index), client, seconds)
                for index, client in enumerate(clients)
            ]
        return found

    def _entry(self, key: tuple[str, int], client: Client, seconds: float) -> dict[str, Any]:
        from sriov_lb_tests.amphora import facts

        entry = {"name": client.name, "facts": {}, "during": {}, "failed": ""}
        if key not in self._before:
            return entry | {"failed": self._failed[key]}
        entry["facts"] = self._before[key]["facts"]
        try:
            after = _read(client, self._hosts[key])
        except SriovLbError as error:
            return entry | {"failed": f"at the end: {error}"}
        entry["during"] = facts.between(self._before[key], after, seconds)
        # Read again as well: something was changed or restarted in mid-run.
        moved = {
            name: value
            for name, value in after["facts"].items()
            if value != entry["facts"].get(name) and name != "conntrack entries"
        }
        if moved:
            entry["changed"] = moved
        return entry


def _read(client: Client, host: Any) -> dict[str, Any]:
    # Imported here: it stands on scapy, which takes a second.
    from sriov_lb_tests.amphora import NAMESPACE, facts

    # Anything but ssh stands for an amphora in tests: haproxy is right there.
    return facts.read(host, netns=NAMESPACE if client.kind == "ssh" else None)


#: Of what is known of a VIP beside its amphorae: what may differ and would matter.
KNOWN = ("host", "image")


def differences(
    amphorae: Mapping[str, Sequence[Mapping]], known: Mapping[str, Mapping] | None = None
) -> list[dict[str, Any]]:
    """What differs: ``[{"fact", "A", "B", "equal": whether it ought to be equal}]``.

    The first amphora of either VIP is compared (of a pair, the master).

    :param known: by side, the facts that came with the target.
    """
    left, right = _both(amphorae, known)
    return [
        {"fact": name, "A": left.get(name), "B": right.get(name), "equal": name in EQUAL}
        for name in dict.fromkeys([*left, *right])
        if left.get(name) != right.get(name) and name not in OWN
    ]


def _both(
    amphorae: Mapping[str, Sequence[Mapping]], known: Mapping[str, Mapping] | None
) -> list[dict[str, Any]]:
    """The facts of the first amphora of either VIP; of neither, when one could not be read."""
    first = [next(iter(amphorae.get(side, ())), None) for side in SIDES]
    if any(each is None or not each["facts"] for each in first):
        return [{}, {}]
    told = [(known or {}).get(side, {}) for side in SIDES]
    return [
        {**{name: mine[name] for name in KNOWN if name in mine}, **_rows(each)}
        for each, mine in zip(first, told, strict=True)
    ]


def _rows(amphora: Mapping) -> dict[str, Any]:
    rows = dict(amphora["facts"])
    if "conntrack entries" in amphora["during"]:
        # Those that the load left behind: at the beginning there are none on either side.
        rows["conntrack entries"] = amphora["during"]["conntrack entries"]
    return rows


def equality(
    amphorae: Mapping[str, Sequence[Mapping]], known: Mapping[str, Mapping] | None = None
) -> tuple[bool | None, str] | None:
    """Whether the twins are equal in what must be equal (None: not examined), and in words.

    None altogether where no amphora was named: then nothing can be said of them.
    """
    if not any(amphorae.get(side) for side in SIDES):
        return None
    failed = [each["failed"] for side in SIDES for each in amphorae.get(side, ()) if each["failed"]]
    missing = [side for side in SIDES if not any(a["facts"] for a in amphorae.get(side, ()))]
    if missing:
        return None, "not examined: " + (failed[0] if failed else "an amphora was not named")
    bad = [each for each in differences(amphorae, known) if each["equal"]]
    if bad:
        words = "; ".join(f"{each['fact']}: {each['A']} and {each['B']}" for each in bad)
        return False, f"something else than the port differs: {words}"
    both = _both(amphorae, known)
    read = [name for name in EQUAL if all(side.get(name) is not None for side in both)]
    unread = [name for name in EQUAL if name not in read]
    if not read:
        return None, f"not examined: nobody tells {_and(unread)}"
    return True, f"equal in {_and(read)}" + (f"; not told: {_and(unread)}" if unread else "")


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def steal(
    amphorae: Mapping[str, Sequence[Mapping]], limit: float
) -> tuple[bool | None, str] | None:
    """Whether their hypervisors let the amphorae run (None: not examined), and in words.

    None altogether where no amphora was named. Of the clients the same is judged trial by trial.

    :param limit: share of an amphora's CPU time that may be stolen.
    """
    named = [(side, each) for side in SIDES for each in amphorae.get(side, ())]
    if not named:
        return None
    shares = [(each["during"].get("steal share"), side, each["name"]) for side, each in named]
    unknown = [row for row in shares if row[0] is None]
    known = [row for row in shares if row[0] is not None]
    worst = max(known, default=None)
    if worst is not None and worst[0] > limit:
        share, side, name = worst
        return False, (
            f"{share:.1%} of the CPU of amphora {name} of side {side} was stolen by its "
            f"hypervisor; {limit:.0%} are allowed"
        )
    if unknown or worst is None:
        return None, "not examined: an amphora could not be read"
    return True, f"at most {worst[0]:.1%} of an amphora's CPU was stolen by its hypervisor"
