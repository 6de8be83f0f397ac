# SPDX-License-Identifier: Apache-2.0
"""Faults in the base chain: hook, priority, policy, connection tracking, ICMP, the way to the
listeners; and what an operator or another release may have put beside it. Pure."""

from __future__ import annotations

import copy
import ipaddress
import json
from collections.abc import Callable

from sriov_lb_tests.mutants.fault import Change, Fault, Make, Target, Test
from sriov_lb_tests.mutants.listing import (
    ACCEPT,
    DROP,
    Expression,
    match,
    meta,
    payload,
    port,
    source,
    spelled,
)

PROOF, ALLOWED, DENIED = Test.PROOF, Test.ALLOWED, Test.DENIED
PORTS, STRANGERS, CATALOGUE = Test.PORTS, Test.STRANGERS, Test.CATALOGUE
FLOWS, NEIGHBOURS, REQUESTS = Test.FLOWS, Test.NEIGHBOURS, Test.REQUESTS


# --- the chain itself ----------------------------------------------------------------------------


def chain_changed(what: str, **values: object) -> Make:
    """Attributes of the base chain; None removes one."""

    def make(target: Target) -> Change:
        listing = target.listing.copy()
        chain = listing.chain(target.gate)
        for name, value in values.items():
            if value is None:
                chain.pop(name, None)
            else:
                chain[name] = value
        return Change(f"{' '.join(target.gate)} {what}", listing)

    return make


def chain_beside(what: str, rules: Callable[[Target], list[Expression] | None], **values) -> Make:
    """One more base chain in a table of its own."""

    def make(target: Target) -> Change | None:
        expressions = rules(target)
        if expressions is None:
            return None
        listing = target.listing.copy()
        place = {"family": values.get("family", "inet"), "table": "sriov_lb_beside"}
        listing.objects.append({"table": {"family": place["family"], "name": place["table"]}})
        chain = {"type": "filter", "hook": "input", "prio": 0, "policy": "accept"}
        chain.update({k: v for k, v in values.items() if k != "family"})
        listing.objects.append({"chain": {**place, "name": "beside", **chain}})
        for expression in expressions:
            listing.objects.append({"rule": {**place, "chain": "beside", "expr": expression}})
        return Change(what, listing)

    return make


def _table_of_family(family: str) -> Make:
    """The table belongs to one family: what is written for the other cannot be in it."""
    other = ("ip6", "icmpv6") if family == "ip" else ("ip", "icmp")

    def make(target: Target) -> Change:
        listing = target.listing.copy()
        kept = []
        for entry in listing.objects:
            ((kind, value),) = entry.items()
            table = value["name"] if kind == "table" else value.get("table")
            if (value["family"], table) == target.gate[:2]:
                value["family"] = family
                text = json.dumps(value.get("expr", ""))
                if any(f'"protocol": "{name}"' in text for name in other):
                    continue
            kept.append(entry)
        listing.objects = kept
        return Change(f"table {target.gate[1]} is of family {family}, not inet", listing)

    return make


def _all_tables_gone(target: Target) -> Change:
    listing = target.listing.copy()
    listing.objects = []
    return Change("there is no table at all", listing)


def _gate_table_gone(target: Target) -> Change:
    listing = target.listing.copy()
    doomed = listing.table_objects(*target.gate[:2])
    listing.objects = [entry for entry in listing.objects if entry not in doomed]
    return Change(f"table {target.gate[0]} {target.gate[1]} is gone", listing)


def _closed_state(target: Target) -> Change | None:
    """What an interface gets before its first listener: no listener, no connection."""
    if target.vip_chain is None:
        return None
    listing = target.listing.copy()
    dropped = ("ct", target.vip_chain[2], '"lo"', "127.0.0.0", '"::1"')
    for index, expression in reversed(listing.rules(target.gate)):
        text = json.dumps(expression)
        if any(word in text for word in dropped):
            listing.set_rule(index, None)
    for index, _ in reversed(listing.rules(target.vip_chain)):
        listing.set_rule(index, None)
    return Change("the ruleset is the one of a load balancer without listeners", listing)


# --- its rules -----------------------------------------------------------------------------------


def rule_changed(
    find: Callable[[Target], tuple[int, Expression] | None],
    change: Callable[[Expression], Expression | None],
    what: str,
) -> Make:
    """One rule of the base chain; None removes it."""

    def make(target: Target) -> Change | None:
        found = find(target)
        if found is None:
            return None
        index, expression = found
        new = change(copy.deepcopy(expression))
        if new == expression:
            return None
        listing = target.listing.copy()
        listing.set_rule(index, new)
        return Change(what, listing)

    return make


def rule_added(build: Callable[[Target], Expression | None], what: str, *, first=True) -> Make:
    def make(target: Target) -> Change | None:
        expression = build(target)
        if expression is None:
            return None
        listing = target.listing.copy()
        listing.insert_rule(target.gate, expression, first=first)
        return Change(what, listing)

    return make


def _states(target: Target) -> tuple[int, Expression] | None:
    return target.rule('"ct"', '"state"')


def _state(name: str, new: dict | None) -> Callable[[Expression], Expression]:
    """What ``ct state vmap`` says of one state; None leaves the state out."""

    def change(expression: Expression) -> Expression:
        for statement in expression:
            entries = statement.get("vmap", {}).get("data", {}).get("set")
            if entries is None:
                continue
            for number, (key, _) in enumerate(entries):
                if key == name:
                    if new is None:
                        del entries[number]
                    else:
                        entries[number] = [key, new]
                    return expression
            if new is not None:
                entries.append([name, new])
        return expression

    return change


def _icmp6(target: Target) -> tuple[int, Expression] | None:
    return target.rule('"icmpv6"', '"type"', "accept")


def _icmp4(target: Target) -> tuple[int, Expression] | None:
    return target.rule('"icmp"', '"type"', "accept")


def _types(*, without: str = "", plus: str | int | None = None):
    """Elements of ``icmp type`` taken away or added."""

    def change(expression: Expression) -> Expression:
        inner = expression[0]["match"]
        right = inner["right"]
        found = right["set"] if isinstance(right, dict) else [right]
        found = [one for one in found if one != without] + ([plus] if plus is not None else [])
        inner["right"] = {"set": found} if len(found) > 1 else found[0]
        return expression

    return change


def _dhcp(target: Target) -> tuple[int, Expression] | None:
    return target.rule('"udp"', "67", "68") or target.rule('"udp"', "546", "547")


def _dhcp_without(field: str) -> Make:
    """One of the two ports of DHCP's rule is forgotten."""

    def make(target: Target) -> Change | None:
        found = _dhcp(target)
        if found is None:
            return None
        index, expression = found
        rows = [row for row in spelled(expression) if "67" in json.dumps(row)]
        if not rows:
            return None
        kept = [
            statement
            for statement in rows[0]
            if statement.get("match", {}).get("left", {}).get("payload", {}).get("field") != field
        ]
        if not any("match" in statement for statement in kept):
            return None
        listing = target.listing.copy()
        listing.insert_rule(target.gate, kept, first=True)
        return Change(f"DHCP's rule lost its {field}", listing)

    return make


def _interface(change: Callable[[Expression], Expression | None], what: str) -> Make:
    return rule_changed(lambda target: target.way(), change, what)


def _other_interface(expression: Expression) -> Expression:
    for statement in expression:
        if "iifname" in json.dumps(statement) or '"iif"' in json.dumps(statement):
            statement["match"]["right"] = "eth2"
    return expression


def _no_interface(expression: Expression) -> Expression:
    return [s for s in expression if "iif" not in json.dumps(s)]


def _negated_interface(expression: Expression) -> Expression:
    for statement in expression:
        if "iif" in json.dumps(statement):
            statement["match"]["op"] = "!="
    return expression


def _jump(expression: Expression) -> Expression:
    goto = expression[-1].get("goto")
    return [*expression[:-1], {"jump": goto}] if goto else expression


def _way_first(target: Target) -> Change | None:
    """The VIP's packets leave before connection tracking is asked."""
    found = target.way()
    if found is None:
        return None
    index, expression = found
    listing = target.listing.copy()
    listing.set_rule(index, None)
    listing.insert_rule(target.gate, expression, first=True)
    return Change("the VIP's packets go to the listeners' rules before the rule on states", listing)


def _drop_before_states(target: Target) -> Expression | None:
    return [meta("iifname", target.policy.vip_interface), DROP]


def _accept_after(target: Target) -> Change | None:
    """The same rules in another order, where order says nothing."""
    rows = [target.rule('"127.0.0.0"'), target.rule('"::1"')]
    if None in rows:
        return None
    (one, first), (other, second) = rows
    listing = target.listing.copy()
    listing.set_rule(one, second)
    listing.set_rule(other, first)
    return Change("the drops of loopback sources have changed places", listing)


def _first_listener(build):
    def rules(target: Target):
        entry = target.listener()
        return None if entry is None else build(entry)

    return rules


def _vrrp_from_all(target: Target) -> Change | None:
    if target.vip_chain is None:
        return None
    listing = target.listing.copy()
    listing.insert_rule(target.vip_chain, [meta("l4proto", 112), ACCEPT])
    return Change("VRRP from everybody is let in", listing)


def _with_v6(make: Make) -> Make:
    """Only for a load balancer with an IPv6 VIP."""
    return lambda target: make(target) if 6 in target.versions() else None


def _neighbours_of(target: Target) -> Expression | None:
    """Whoever is on the VIP's network."""
    four = [text for text in target.policy.vips if ":" not in text]
    if not four:
        return None
    return [source(ipaddress.ip_network(f"{four[0]}/24", strict=False)), ACCEPT]


def _notrack(target: Target) -> list[Expression]:
    return [[meta("iifname", target.policy.vip_interface), meta("l4proto", "tcp"),
             {"notrack": None}]]  # fmt: skip


FAULTS: tuple[Fault, ...] = (
    # the chain
    Fault("policy-accept", "the base chain's policy is accept", (PROOF, PORTS, DENIED, STRANGERS),
          chain_changed("has the policy accept", policy="accept")),
    Fault("chain-unhooked", "the base chain hangs on no hook", (PROOF, PORTS, DENIED, STRANGERS),
          chain_changed("is not hooked", type=None, hook=None, prio=None, policy=None)),
    Fault("hook-output", "the rules look at what leaves", (PROOF, PORTS, DENIED),
          chain_changed("is at the hook output", hook="output", policy="accept")),
    Fault("hook-forward", "the rules look at what is passed on", (PROOF, PORTS, DENIED),
          chain_changed("is at the hook forward", hook="forward")),
    Fault("hook-before-tracking", "the rules see no state: they run before connection tracking",
          (PROOF, FLOWS), chain_changed("is at prerouting, -300", hook="prerouting", prio=-300)),
    Fault("family-ip-only", "the table is for IPv4 only: IPv6 is unfiltered",
          (PROOF, PORTS, DENIED), _with_v6(_table_of_family("ip"))),
    Fault("family-ip6-only", "the table is for IPv6 only: IPv4 is unfiltered",
          (PROOF, PORTS, DENIED), _table_of_family("ip6")),
    Fault("table-lost", "the table is gone", (PROOF, PORTS, DENIED, STRANGERS), _gate_table_gone),
    Fault("ruleset-lost", "after a reboot nobody loaded any rules",
          (PROOF, PORTS, DENIED, STRANGERS), _all_tables_gone),
    Fault("ruleset-reset", "after a reboot the rules are those before the first listener",
          (PROOF, ALLOWED, FLOWS), _closed_state),
    Fault("priority-late", "the base chain runs later", (),
          chain_changed("has priority 300", prio=300), unseen="it still sees every packet"),
    Fault("hook-prerouting", "the base chain is at prerouting, after connection tracking", (),
          chain_changed("is at prerouting", hook="prerouting"),
          unseen="packets for the host itself pass it as well"),
    # beside it
    Fault("beside-drops-listener", "an operator's chain drops a listener's port",
          (PROOF, ALLOWED),
          chain_beside("a chain at priority -10 drops a listener's port",
                       _first_listener(lambda e: [[port("tcp", e.port), DROP]]), prio=-10)),
    Fault("beside-policy-drop", "an operator's chain with policy drop", (PROOF, ALLOWED, FLOWS),
          chain_beside("a chain at priority 10 drops everything", lambda t: [], prio=10,
                       policy="drop")),
    Fault("beside-notrack", "TCP on the VIP's interface is exempt from connection tracking",
          (PROOF, REQUESTS),
          chain_beside("TCP of the VIP's interface is not tracked", _notrack, hook="prerouting",
                       prio=-300)),
    Fault("beside-accepts", "an operator's earlier chain accepts", (),
          chain_beside("a chain at priority -10 accepts", lambda t: [[ACCEPT]], prio=-10),
          unseen="accept ends one chain only, the next decides"),
    Fault("beside-former-release", "the empty table of a former release is still there", (),
          chain_beside("an empty chain hangs beside it", lambda t: []),
          unseen="it decides nothing"),
    # states
    Fault("states-lost", "the rule on connection states is gone", (PROOF, FLOWS, REQUESTS),
          rule_changed(_states, lambda e: None, "the rule on states is gone")),
    Fault("state-established-lost", "answers of members are not let in", (PROOF, REQUESTS),
          rule_changed(_states, _state("established", None), "established is not named")),
    Fault("state-established-drop", "what belongs to a connection is dropped", (PROOF, FLOWS),
          rule_changed(_states, _state("established", DROP), "established is dropped")),
    Fault("state-related-lost", "errors about connections are not let in", (PROOF, FLOWS),
          rule_changed(_states, _state("related", None), "related is not named")),
    Fault("state-related-drop", "errors about connections are dropped: no path MTU discovery",
          (PROOF, FLOWS), rule_changed(_states, _state("related", DROP), "related is dropped")),
    Fault("state-new-accept", "every new connection is let in", (PROOF, PORTS, DENIED, STRANGERS),
          rule_changed(_states, _state("new", ACCEPT), "new is accepted")),
    Fault("state-invalid-accept", "what belongs to no connection is let in", (PROOF, CATALOGUE),
          rule_changed(_states, _state("invalid", ACCEPT), "invalid is accepted")),
    Fault("state-untracked-accept", "what is not tracked is let in", (),
          rule_changed(_states, _state("untracked", ACCEPT), "untracked is accepted"),
          unseen="only neighbour discovery and its like are untracked"),
    Fault("state-invalid-lost", "what belongs to no connection goes on to the rules", (),
          rule_changed(_states, _state("invalid", None), "invalid is not named"),
          unseen="the rules let in what a listener's source may send anyway"),
    # interfaces
    Fault("way-lost", "nothing leads to the listeners' rules", (PROOF, ALLOWED),
          rule_changed(lambda t: t.way(), lambda e: None, "the jump to them is gone")),
    Fault("interface-wrong", "the listeners' rules are for another interface", (PROOF, ALLOWED),
          _interface(_other_interface, "they hold for eth2")),
    Fault("interface-negated", "the listeners' rules are for all other interfaces",
          (PROOF, ALLOWED), _interface(_negated_interface, "they hold for all but the VIP's")),
    Fault("interface-lost", "the listeners' rules hold on every interface", (PROOF,),
          _interface(_no_interface, "they hold everywhere"),
          unseen="a packet on the member network would, the VIP network shows nothing"),
    Fault("way-first", "the rule on states comes too late", (PROOF, FLOWS), _way_first),
    Fault("way-jump", "goto became jump", (),
          _interface(_jump, "it is a jump"), unseen="no rule follows that could matter"),
    Fault("order-of-drops", "two drops changed places", (), _accept_after,
          unseen="no packet matches both"),
    Fault("gate-accept-first", "an accept of everything stands first",
          (PROOF, PORTS, DENIED, STRANGERS), rule_added(lambda t: [ACCEPT], "accept stands first")),
    Fault("gate-drop-first", "a drop of the VIP's interface stands first", (PROOF, ALLOWED, FLOWS),
          rule_added(_drop_before_states, "drop stands first")),
    Fault("loopback-any", "the rule for loopback lost its interface",
          (PROOF, PORTS, DENIED, STRANGERS),
          rule_changed(lambda t: t.rule('"iif"', '"lo"'), lambda e: e[1:],
                       "what was for lo is for all")),
    Fault("loopback-lost", "the amphora may not talk to itself", (PROOF,),
          rule_changed(lambda t: t.rule('"iif"', '"lo"'), lambda e: None,
                       "the rule for lo is gone"),
          unseen="only a PROMETHEUS listener needs it, inside the amphora"),
    Fault("loopback-source-v4", "sources in 127.0.0.0/8 are accepted", (PROOF,),
          rule_changed(lambda t: t.rule('"127.0.0.0"'), lambda e: [*e[:-1], ACCEPT],
                       "127.0.0.0/8 is accepted"),
          unseen="the kernel drops such packets before any filter"),
    Fault("loopback-source-v6", "source ::1 is accepted", (PROOF,),
          rule_changed(lambda t: t.rule('"::1"'), lambda e: [*e[:-1], ACCEPT],
                       "::1 is accepted"),
          unseen="the kernel drops such packets before any filter"),
    # ICMP, neighbours
    Fault("icmp-echo-too", "ping gets in", (PROOF, STRANGERS),
          rule_changed(_icmp4, _types(plus="echo-request"), "echo-request is let in")),
    Fault("icmp-redirect-too", "ICMP redirects get in", (PROOF, CATALOGUE),
          rule_added(lambda t: [match(payload("icmp", "type"), "redirect"), ACCEPT],
                     "redirects stand first")),
    Fault("icmp-any", "every type of ICMP gets in", (PROOF, STRANGERS),
          rule_changed(_icmp4, lambda e: [meta("l4proto", "icmp"), *e[1:]], "ICMP lost its type")),
    Fault("icmpv6-echo-too", "ping over IPv6 gets in", (PROOF, STRANGERS),
          _with_v6(rule_changed(_icmp6, _types(plus="echo-request"), "echo-request is let in"))),
    Fault("icmpv6-any", "every type of ICMPv6 gets in", (PROOF, STRANGERS),
          _with_v6(rule_changed(_icmp6, lambda e: [meta("l4proto", "ipv6-icmp"), *e[1:]],
                                "ICMPv6 lost its type"))),
    Fault("icmpv6-redirect-too", "ICMPv6 redirects get in", (PROOF, CATALOGUE),
          _with_v6(rule_added(lambda t: [match(payload("icmpv6", "type"), "nd-redirect"), ACCEPT],
                              "redirects stand first"))),
    Fault("icmpv6-redirect-late", "ICMPv6 redirects are let in behind the rule on states", (),
          _with_v6(rule_changed(_icmp6, _types(plus="nd-redirect"), "redirects are named")),
          unseen="those about a flow pass anyway, to conntrack all others are invalid"),
    Fault("icmpv6-lost", "the ICMPv6 clause is gone", (PROOF, NEIGHBOURS),
          _with_v6(rule_changed(_icmp6, lambda e: None, "the rule is gone"))),
    Fault("icmpv6-dropped", "the ICMPv6 clause drops", (PROOF, NEIGHBOURS),
          _with_v6(rule_changed(_icmp6, lambda e: [*e[:-1], DROP], "the rule drops"))),
    Fault("solicitation-lost", "neighbour solicitation is not let in", (PROOF, NEIGHBOURS),
          _with_v6(rule_changed(_icmp6, _types(without="nd-neighbor-solicit"),
                                "solicitation is not named"))),
    Fault("advertisement-lost", "neighbour advertisements are not let in", (PROOF, NEIGHBOURS),
          _with_v6(rule_changed(_icmp6, _types(without="nd-neighbor-advert"),
                                "advertisement is not named"))),
    Fault("router-advertisement-lost", "router advertisements are not let in", (),
          _with_v6(rule_changed(_icmp6, _types(without="nd-router-advert"),
                                "router advertisement is not named")),
          unseen="nobody was promised them"),
    Fault("icmp-unreachable-lost", "unreachable errors that fit no flow are not let in", (),
          rule_changed(_icmp4, lambda e: None, "the rule is gone"),
          unseen="errors about flows come in as related"),
    # DHCP, VRRP
    Fault("dhcp-any-port", "whatever comes from a DHCP server's port gets in",
          (PROOF, STRANGERS), _dhcp_without("dport")),
    Fault("dhcp-any-source", "whatever goes to a DHCP client's port gets in",
          (PROOF, STRANGERS), _dhcp_without("sport")),
    Fault("vrrp-any", "VRRP from everybody gets in", (PROOF, STRANGERS), _vrrp_from_all),
    Fault("igmp-too", "IGMP gets in", (PROOF, CATALOGUE),
          rule_added(lambda t: [meta("l4proto", 2), ACCEPT], "IGMP is let in")),
    Fault("link-trusted", "whoever is on the VIP's own network gets in", (PROOF, DENIED, PORTS),
          rule_added(_neighbours_of, "the VIP's network is let in")),
)  # fmt: skip
