# SPDX-License-Identifier: Apache-2.0
"""A ruleset on one screen, for people."""

from __future__ import annotations

import json
from collections.abc import Mapping

from sriov_lb_tests.policy.ruleset import Chain, Rule, Ruleset

#: Elements of a set that are written out; the rest is counted.
SHOWN = 6


def value_text(value: object) -> str:
    """Any JSON expression of nft as nft would write it, shortened."""
    if isinstance(value, bool):
        return "exists" if value else "missing"
    if isinstance(value, (str, int)):
        return str(value)
    if isinstance(value, list):
        return ",".join(value_text(one) for one in value)
    if not isinstance(value, Mapping) or len(value) != 1:
        return json.dumps(value)
    ((kind, inner),) = value.items()
    if kind == "set":
        members = inner if isinstance(inner, list) else [inner]
        shown = [value_text(one) for one in members[:SHOWN]]
        if len(members) > SHOWN:
            shown.append(f"… {len(members)} in all")
        return "{ " + ", ".join(shown) + " }"
    if kind == "prefix" and isinstance(inner, Mapping):
        return f"{value_text(inner['addr'])}/{inner['len']}"
    if kind == "range":
        return "-".join(value_text(one) for one in inner)
    if kind == "concat":
        return " . ".join(value_text(one) for one in inner)
    if kind == "elem":
        return value_text(inner["val"])
    if kind == "payload" and "protocol" in inner:
        return f"{inner['protocol']} {inner['field']}"
    if kind in ("meta", "ct"):
        key = inner["key"]
        return key if kind == "meta" and key in _BARE_META else f"{kind} {key}"
    if kind in ("&", "|", "^"):
        return f"({f' {kind} '.join(value_text(one) for one in inner)})"
    return json.dumps(value)


_BARE_META = {"iif", "iifname", "oif", "oifname"}


def statement_text(entry: Mapping) -> str:
    """One statement of a rule."""
    ((kind, value),) = entry.items()
    if kind == "match":
        operation = "" if value["op"] in ("==", "in") else f"{value['op']} "
        return f"{value_text(value['left'])} {operation}{value_text(value['right'])}"
    if kind == "vmap":
        return f"{value_text(value['key'])} vmap {_map_text(value['data'])}"
    if kind in ("jump", "goto"):
        return f"{kind} {value['target']}"
    if kind == "counter":
        if isinstance(value, Mapping):
            return f"counter packets {value['packets']}"
        return "counter"
    if kind == "set" and "op" in value:
        return f"{value['op']} {value['set']} {{ {value_text(value['elem'])} }}"
    if value is None:
        return kind
    return f"{kind} {value_text(value)}"


def _map_text(data: object) -> str:
    if not isinstance(data, Mapping) or "set" not in data:
        return value_text(data)
    pairs = [f"{value_text(key)} : {statement_text(verdict)}" for key, verdict in data["set"]]
    more = [f"… {len(pairs)} in all"] if len(pairs) > SHOWN else []
    return "{ " + ", ".join(pairs[:SHOWN] + more) + " }"


def rule_text(rule: Rule) -> str:
    """One rule on one line."""
    text = " ".join(statement_text(entry) for entry in rule.expression)
    return f"{text} # {rule.comment}" if rule.comment else text


def _heading(chain: Chain) -> str:
    if chain.hook is None:
        return f"{chain}"
    device = f" device {chain.device}" if chain.device else ""
    return f"{chain}  [{chain.hook}{device}, priority {chain.priority}, policy {chain.policy}]"


def table(ruleset: Ruleset, *, width: int = 120) -> str:
    """Every chain with its numbered rules; long lines are cut at ``width``."""
    lines = []
    for chain in ruleset.chains.values():
        lines.append(_heading(chain))
        lines += [f"  {rule.number:>3}  {rule_text(rule)}" for rule in chain.rules]
        if not chain.rules:
            lines.append("       (no rules)")
    if not lines:
        return "(no rules: everything is accepted)"
    return "\n".join(line if len(line) <= width else line[: width - 1] + "…" for line in lines)
