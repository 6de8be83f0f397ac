# SPDX-License-Identifier: Apache-2.0
"""An editable copy of ``nft -j list ruleset``, and the parts of it that faults are about. Pure.

``nft -o``, by which Octavia loads its rules, merges what it can: one rule may stand for many, with
sets and concatenations. An :class:`Entry` is one row of such a rule, which is what one listener
and one CIDR became; taking an entry out or putting others in its place leaves the rest alone.
"""

from __future__ import annotations

import copy
import ipaddress
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sriov_lb_tests import errors

#: What an nft rule is in JSON: its statements.
Expression = list[dict]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_TRANSPORTS = ("tcp", "udp", "sctp")


# --- statements ----------------------------------------------------------------------------------


def payload(protocol: str, field: str) -> dict:
    return {"payload": {"protocol": protocol, "field": field}}


def match(left: dict, right: object, op: str = "==") -> dict:
    return {"match": {"op": op, "left": left, "right": right}}


def meta(key: str, right: object, op: str = "==") -> dict:
    return match({"meta": {"key": key}}, right, op)


def port(protocol: str, number: object, field: str = "dport", op: str = "==") -> dict:
    """``tcp dport 80``; ``number`` may be any value nft takes."""
    return match(payload(protocol, field), number, op)


def source(of: Network | str, field: str = "saddr", op: str = "==") -> dict:
    """``ip saddr 192.0.2.0/24``."""
    wanted = ipaddress.ip_network(of, strict=False)
    family = "ip" if wanted.version == 4 else "ip6"
    return match(payload(family, field), address_value(wanted), op)


def address_value(of: Network) -> object:
    """A network as nft's JSON has it: a host is its address alone."""
    if of.prefixlen == of.max_prefixlen:
        return str(of.network_address)
    return {"prefix": {"addr": str(of.network_address), "len": of.prefixlen}}


def verdict(kind: str, target: str | None = None) -> dict:
    return {kind: {"target": target} if target else None}


ACCEPT, DROP = verdict("accept"), verdict("drop")


def _values(right: object) -> list[object]:
    """The alternatives of a comparison's right side."""
    if isinstance(right, Mapping) and "set" in right:
        found = right["set"]
        return found if isinstance(found, list) else [found]
    return [right]


def spelled(expression: Expression) -> list[Expression]:
    """A rule's rows: each a rule that compares single fields with single values.

    A rule with anything that cannot be spelled out (a negation, a named set) is its own row.
    """
    choices: list[list[list[dict]]] = []
    for statement in expression:
        found = statement.get("match")
        if found is None:
            choices.append([[statement]])
            continue
        named = isinstance(found["right"], str) and found["right"].startswith("@")
        if found["op"] != "==" or named:
            return [expression]
        left = found["left"]
        rows = []
        for value in _values(found["right"]):
            if "concat" in left:
                if not (isinstance(value, Mapping) and "concat" in value):
                    return [expression]
                pairs = zip(left["concat"], value["concat"], strict=True)
                rows.append([match(one, part) for one, part in pairs])
            else:
                rows.append([match(left, value)])
        choices.append(rows)
    return [
        copy.deepcopy([statement for part in chosen for statement in part])
        for chosen in itertools.product(*choices)
    ]


# --- entries ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One row of a rule of the VIP's chain.

    :param index: of the rule among the listing's objects.
    :param row: its number among the rule's rows.
    """

    index: int
    row: int
    expression: tuple[dict, ...]

    def _right(self, protocols: Iterable[str], field: str) -> tuple[str, object] | None:
        for statement in self.expression:
            found = statement.get("match")
            if found is None or found["op"] != "==" or "payload" not in found["left"]:
                continue
            left = found["left"]["payload"]
            if left.get("field") == field and left.get("protocol") in protocols:
                return left["protocol"], found["right"]
        return None

    @property
    def transport(self) -> str | None:
        """``tcp``, ``udp``, ``sctp``; None when the row is not about a port."""
        found = self._right(_TRANSPORTS, "dport")
        return found[0] if found else None

    @property
    def port(self) -> int | None:
        found = self._right(_TRANSPORTS, "dport")
        return found[1] if found and isinstance(found[1], int) else None

    @property
    def network(self) -> Network | None:
        """Whom it lets in; None is everybody."""
        found = self._right(("ip", "ip6"), "saddr")
        if found is None:
            return None
        value = found[1]
        if isinstance(value, Mapping) and "prefix" in value:
            inner = value["prefix"]
            return ipaddress.ip_network(f"{inner['addr']}/{inner['len']}", strict=False)
        return ipaddress.ip_network(value) if isinstance(value, str) else None

    @property
    def version(self) -> int | None:
        """The IP version it is limited to."""
        return self.network.version if self.network else None

    @property
    def is_vrrp(self) -> bool:
        text = json.dumps(self.expression)
        return '"vrrp"' in text or '"right": 112' in text

    @property
    def accepts(self) -> bool:
        return "accept" in self.expression[-1]

    def with_source(self, *instead: dict) -> Expression:
        """The row with other statements in place of its match on the source."""
        return [*instead, *self._without("saddr")]

    def with_port(self, *instead: dict) -> Expression:
        """The row with other statements in place of its match on the port."""
        rest = self._without("dport")
        return [*rest[:-1], *instead, rest[-1]]

    def with_verdict(self, instead: dict) -> Expression:
        return [*self._without(), instead]

    def _without(self, field: str | None = None) -> Expression:
        kept = [
            statement
            for statement in self.expression
            if field is None
            or statement.get("match", {}).get("left", {}).get("payload", {}).get("field") != field
        ]
        if field is None:
            kept = kept[:-1]
        return copy.deepcopy(kept)


# --- the listing -------------------------------------------------------------------------------


class Listing:
    """The objects of a ruleset, in the order in which nft lists them."""

    def __init__(self, objects: Sequence[dict]) -> None:
        self.objects: list[dict] = list(objects)

    @classmethod
    def read(cls, text: str | Mapping, *, ignore: Callable[[str], bool] | None = None) -> Listing:
        """From the output of ``nft -j list ruleset``.

        :param ignore: tables, by name, that are none of the load balancer's.
        """
        data = json.loads(text) if isinstance(text, str) else text
        kept = []
        for entry in copy.deepcopy(data["nftables"]):
            ((kind, value),) = entry.items()
            if kind == "metainfo":
                continue
            table = value["name"] if kind == "table" else value.get("table", "")
            if ignore is None or not ignore(table):
                kept.append(entry)
        return cls(kept)

    def copy(self) -> Listing:
        return Listing(copy.deepcopy(self.objects))

    def document(self) -> dict:
        """As ``policy.ruleset.parse`` reads it."""
        return {"nftables": self.objects}

    def tables(self) -> list[tuple[str, str]]:
        """(family, name) of every table."""
        return [(t["family"], t["name"]) for t in self._kind("table")]

    def _kind(self, kind: str) -> list[dict]:
        return [entry[kind] for entry in self.objects if kind in entry]

    def table_objects(self, family: str, name: str) -> list[dict]:
        """What is in a table, the table itself first."""
        return [
            entry
            for entry in self.objects
            for kind, value in entry.items()
            if value["family"] == family
            and (value["name"] if kind == "table" else value.get("table")) == name
        ]

    def chain(self, key: tuple[str, str, str]) -> dict:
        """The chain object of (family, table, name)."""
        return next(c for c in self._kind("chain") if (c["family"], c["table"], c["name"]) == key)

    def rules(self, key: tuple[str, str, str]) -> list[tuple[int, Expression]]:
        """(index, statements) of a chain's rules in order."""
        return [
            (index, entry["rule"]["expr"])
            for index, entry in enumerate(self.objects)
            if "rule" in entry and _chain_of(entry["rule"]) == key
        ]

    # edits, each on this object

    def set_rule(self, index: int, expression: Expression | None) -> None:
        """Replace a rule's statements; None removes it. Later indices stay true until then."""
        if expression is None:
            del self.objects[index]
        else:
            self.objects[index]["rule"]["expr"] = expression

    def insert_rule(
        self, key: tuple[str, str, str], expression: Expression, *, first: bool = False
    ) -> None:
        """A new rule at a chain's end, or its beginning."""
        family, table, name = key
        made = {"rule": {"family": family, "table": table, "chain": name, "expr": expression}}
        own = [index for index, _ in self.rules(key)]
        if not own:
            self.objects.append(made)
        else:
            self.objects.insert(own[0] if first else own[-1] + 1, made)

    def replace_entry(self, entry: Entry, *instead: Expression) -> None:
        """Take a row out of its rule and put others there."""
        rule = self.objects[entry.index]["rule"]
        rows = spelled(rule["expr"])
        if len(rows) == 1:
            left: list[Expression] = []
        else:
            left = _shrunk(rule["expr"], entry.row) or [
                row for number, row in enumerate(rows) if number != entry.row
            ]
        made = [{"rule": {**rule, "expr": expression}} for expression in [*left, *instead]]
        self.objects[entry.index : entry.index + 1] = made

    def differing_tables(self, other: Listing) -> list[tuple[str, str]]:
        """Tables of either listing that are not the same in both."""
        found = []
        for key in dict.fromkeys([*self.tables(), *other.tables()]):
            if _plain(self.table_objects(*key)) != _plain(other.table_objects(*key)):
                found.append(key)
        return found


def _shrunk(expression: Expression, row: int) -> list[Expression] | None:
    """The rule without the element that a row comes from, when one set alone makes the rows."""
    sets = [
        number
        for number, statement in enumerate(expression)
        if isinstance(statement.get("match", {}).get("right"), Mapping)
        and "set" in statement["match"]["right"]
    ]
    if len(sets) != 1:
        return None
    smaller = copy.deepcopy(expression)
    elements = smaller[sets[0]]["match"]["right"]["set"]
    del elements[row]
    return [smaller]


def _chain_of(rule: Mapping) -> tuple[str, str, str]:
    return rule["family"], rule["table"], rule["chain"]


def _plain(objects: Sequence[dict]) -> str:
    """Objects without what the kernel adds: for comparing."""
    kept = []
    for entry in objects:
        ((kind, value),) = entry.items()
        kept.append({kind: {k: v for k, v in value.items() if k != "handle"}})
    return json.dumps(kept, sort_keys=True)


def transaction(before: Listing, after: Listing) -> dict:
    """Commands for ``nft -j -f`` that turn one listing into the other, all at once.

    Only tables that differ are touched.
    """
    commands: list[dict] = []
    here = before.tables()
    for family, name in after.differing_tables(before):
        if (family, name) in here:
            commands.append({"delete": {"table": {"family": family, "name": name}}})
        for entry in after.table_objects(family, name):
            ((kind, value),) = entry.items()
            clean = {k: v for k, v in value.items() if k != "handle"}
            commands.append({"add": {kind: clean}})
    return {"nftables": commands}


def find_gate(listing: Listing, vip_interface: str) -> tuple[tuple, tuple | None]:
    """The base chain that guards the VIP, and the chain that its packets go on to.

    The second is None where there is none (before the first listener).

    :raises PolicyError: no base chain at input has the policy drop.
    """
    gates = [
        (c["family"], c["table"], c["name"])
        for c in listing._kind("chain")
        if c.get("hook") == "input" and c.get("policy") == "drop"
    ]
    for key in gates:
        for _, expression in listing.rules(key):
            text = json.dumps(expression)
            last = expression[-1] if expression else {}
            kind = next((k for k in ("goto", "jump") if k in last), None)
            if kind and f'"{vip_interface}"' in text:
                return key, (key[0], key[1], last[kind]["target"])
    if not gates:
        raise errors.PolicyError(
            "No chain at the hook input has the policy drop: there is no firewall to damage.",
            remedy="Seed faults into a load balancer that is healthy; `sriov-lb audit` tells.",
        )
    return gates[0], None
