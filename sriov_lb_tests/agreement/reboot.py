# SPDX-License-Identifier: Apache-2.0
"""What the next reboot of an amphora makes of its file of rules."""

from __future__ import annotations

from typing import Any

from sriov_lb_tests import errors
from sriov_lb_tests.amphora import Amphora
from sriov_lb_tests.amphora.amphora import RULES_FILE

#: The listing of a kernel that nobody gave rules.
NO_RULES: dict[str, Any] = {"nftables": []}


def _accepted(left: Any, right: Any) -> dict[str, Any]:
    """A rule of the drop-all rules: who is let in all the same."""
    where = {"family": "inet", "table": "amphora_table", "chain": "amphora_chain"}
    met = {"match": {"op": "==", "left": left, "right": right}}
    return {"rule": {**where, "expr": [met, {"accept": None}]}}


def _types(protocol: str) -> dict[str, Any]:
    return {"payload": {"protocol": protocol, "field": "type"}}


_PORTS = [{"payload": {"protocol": "udp", "field": field}} for field in ("sport", "dport")]

#: Where there is no file, Octavia writes and loads one that lets nobody in before the interface
#: comes up (octavia/amphorae/backends/utils: interface.py, up; nftable_utils.py,
#: write_nftable_rules_file), as when an amphora is new.
DROP_ALL: dict[str, Any] = {
    "nftables": [
        {"table": {"family": "inet", "name": "amphora_table"}},
        {"chain": {"family": "inet", "table": "amphora_table", "name": "amphora_chain",
                   "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}},
        _accepted(_types("icmp"), "destination-unreachable"),
        _accepted(_types("icmpv6"), {"set": [
            "destination-unreachable", "packet-too-big", "nd-router-advert", "nd-neighbor-solicit",
            "nd-neighbor-advert"]}),
        _accepted({"concat": _PORTS}, {"set": [{"concat": [547, 546]}, {"concat": [67, 68]}]}),
    ]
}  # fmt: skip


def after_reboot(inside: Amphora, path: str = RULES_FILE) -> tuple[str | dict[str, Any], str]:
    """(Rules that the next reboot loads, as nft lists them; why they are not the file's, or "").

    :raises SriovLbError: nobody could look.
    """
    try:
        text = inside.rules_on_disk(path)
    except errors.RulesDoNotLoad as error:
        # nft loads a file as a whole or not at all.
        said = error.stderr.strip()
        return NO_RULES, f"the rules file does not load ({said}), so a reboot has no rules"
    if text is None:
        return DROP_ALL, "there is no rules file, so a reboot lets nobody in"
    return text, ""
