# SPDX-License-Identifier: Apache-2.0
"""``nft -j list ruleset`` as data that can be evaluated and proved about.

Every comparison becomes one :class:`Match`: a tuple of header fields, the rows of values they may
have, and whether it is negated. Sets, intervals, prefixes, concatenations, anonymous or named,
all end in rows. What this module does not know raises :class:`UnknownExpression` with the
expression; what it knows but cannot decide from a packet (rate limits, random numbers, sets that
rules fill or whose elements expire) becomes :class:`Chance`, which a proof lets go either way.

Only what an IP packet of the host itself meets is kept apart by hook: tables of the families
``bridge`` and ``arp`` and egress chains are read and never met.

Source for names and numbers: libnftables-json(5) and nft(8); guards (``tcp dport`` implies
protocol 6, ``icmp type`` also IPv4) as ``nft --debug=netlink`` of 1.0.6 shows them.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sriov_lb_tests import errors
from sriov_lb_tests.policy.intervals import Intervals, address, canonical, network
from sriov_lb_tests.policy.packet import FLAG_NAMES, STATES, WIDTHS

#: Conntrack looks at packets at this priority of prerouting and output; before, rules see no state.
CONNTRACK_PRIORITY = -200

# --- what rules read ----------------------------------------------------------------------


@dataclass(frozen=True)
class Field:
    """A header field.

    :param name: key in ``packet.WIDTHS``, or ``interface``, ``version``.
    :param width: bits; 0 for the interface, whose values are names.
    :param version: IP version the packet must have for the field to be there; None is any.
    :param protocol: upper-layer protocol it must have; None is any.
    """

    name: str
    width: int
    version: int | None = None
    protocol: int | None = None


@dataclass(frozen=True)
class Masked:
    """A field after one bit operation with a constant: ``&``, ``|`` or ``^``."""

    inner: Field | Masked
    operation: str
    operand: int

    @property
    def width(self) -> int:
        return self.inner.width


Node = Field | Masked


def base(node: Node) -> Field:
    """The field at the bottom of bit operations."""
    while isinstance(node, Masked):
        node = node.inner
    return node


#: Values of an interface cell: names, a trailing ``*`` is a prefix.
Names = frozenset[str]
Cell = Intervals | Names


@dataclass(frozen=True)
class Match:
    """The fields, taken together, have the values of one of the rows (or of none, if negated).

    Fields that are not there (see ``Field.version`` and ``protocol``) make it not match, negated
    or not. An interface that is not there is one without a name (nft_meta_store_ifname).
    """

    nodes: tuple[Node, ...]
    rows: tuple[tuple[Cell, ...], ...]
    negated: bool = False


@dataclass(frozen=True)
class Chance:
    """A condition outside the packet: a limit, a quota, a random number, a set that changes."""

    what: str


@dataclass(frozen=True)
class Verdict:
    """``accept``, ``drop``, ``reject``, ``jump``, ``goto``, ``return`` or ``continue``."""

    kind: str
    target: str | None = None


@dataclass(frozen=True)
class VerdictMap:
    """``vmap``: the verdict of the row that the fields fall in; no row, no verdict."""

    nodes: tuple[Node, ...]
    entries: tuple[tuple[tuple[Cell, ...] | None, Verdict], ...]


@dataclass(frozen=True)
class SetMark:
    """``meta mark set``: to a number, or by a map from fields (no row: the rule ends)."""

    value: int | None
    nodes: tuple[Node, ...] = ()
    entries: tuple[tuple[tuple[Cell, ...] | None, int], ...] = ()


@dataclass(frozen=True)
class Untrack:
    """``notrack``: a packet without a connection, as all are before conntrack, is untracked."""


@dataclass(frozen=True)
class Rewrite:
    """``dnat``, ``redirect``, ``tproxy`` …: harmless where packets leave, unknown where they
    come in."""

    expression: str


Statement = Match | Chance | Verdict | VerdictMap | SetMark | Untrack | Rewrite


@dataclass(frozen=True)
class Rule:
    """A rule: its statements in order, and where it stands."""

    statements: tuple[Statement, ...]
    number: int
    handle: int | None = None
    comment: str | None = None
    expression: tuple = field(default=(), compare=False, hash=False)


@dataclass
class Chain:
    """A chain; ``hook`` is None for chains that are only jumped to."""

    family: str
    table: str
    name: str
    hook: str | None = None
    priority: int = 0
    policy: str = "accept"
    kind: str | None = None
    device: str | None = None
    rules: list[Rule] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.family} {self.table} {self.name}"


@dataclass
class Ruleset:
    """Chains by (family, table, name), in the order of the listing."""

    chains: dict[tuple[str, str, str], Chain]
    tables: list[tuple[str, str]] = field(default_factory=list)
    source: list = field(default_factory=list)
    #: Rules give flows a conntrack helper or an expectation, which makes other flows `related`.
    expects: bool = False
    #: IP versions whose packets conntrack looks at, because a rule asks for it.
    tracked: set[int] = field(default_factory=set)

    def path(self, version: int, hooks: Sequence[str]) -> list[Chain]:
        """The base chains that a packet of an IP version passes at these hooks, in order.

        Of two with the same hook and priority the one that was registered last runs first
        (nf_hook_entries_grow). The listing of one table keeps the order of registration; between
        tables nothing tells it.

        :raises UnknownExpression: the order of two hooks is not known, and it matters.
        """
        families = {"inet", "netdev", "ip" if version == 4 else "ip6"}
        found = []
        for hook in hooks:
            at = [c for c in self.chains.values() if c.hook == hook and c.family in families]
            at = sorted(reversed(at), key=lambda chain: chain.priority)
            for _, equal in itertools.groupby(at, key=lambda chain: chain.priority):
                self._check_order(list(equal))
            found += at
        return found

    def _check_order(self, chains: Sequence[Chain]) -> None:
        """Whether the order of chains of equal hook and priority is known, or does not matter."""
        for one, other in itertools.combinations(chains, 2):
            apart = one.device and other.device and one.device != other.device
            if (one.family, one.table) == (other.family, other.table) or apart:
                continue
            why = self._depends(one, other) or self._depends(other, one)
            if why:
                raise errors.UnknownExpression(
                    f"{one} and {other} both hang at {one.hook}, priority {one.priority}. The "
                    f"listing does not say which comes first, and it matters: {why}."
                )
        for chain in chains:
            # Conntrack is a hook, too, and nobody knows whether it came before the chain.
            beside = chain.hook in ("prerouting", "output") and (
                chain.priority == CONNTRACK_PRIORITY
            )
            if beside and (self._reads(chain, _TRACKING) or self._has(chain, Untrack)):
                raise errors.UnknownExpression(
                    f"{chain} hangs at {chain.hook}, priority {chain.priority}, as conntrack does. "
                    "The listing does not say which comes first, and it matters: rules of the "
                    "chain are about connections."
                )

    def _depends(self, one: Chain, other: Chain) -> str:
        """What of chain ``one`` makes it matter whether ``other`` comes before or after it.

        A packet passes when both let it, whichever is first; whether it is dropped or rejected is
        the same to whoever asks if it passes. Limits, and sets that change, go either way in any
        order. What remains is what one chain does to the packet and the other sees: its mark, that
        it is untracked, a header that is rewritten. Rewriting, moreover, is an error only for
        packets that come so far, and the other chain may have dropped them.
        """
        if self._has(one, SetMark):
            read = self._reads(other, {"mark"})
            last = self._has(other, SetMark) and any(
                self._reads(chain, {"mark"}) for chain in self.chains.values()
            )
            if read or last:
                return f"{one} sets the mark, and {other} {'reads' if read else 'sets'} it"
        if self._has(one, Untrack) and self._reads(other, _TRACKING):
            return f"{one} has notrack, and rules of {other} are about connections"
        if self._has(one, Rewrite) and self._refuses(other):
            return f"{one} rewrites packets, and {other} drops some"
        return ""

    def _statements(self, chain: Chain) -> Iterable[Statement]:
        """Every statement of a chain and of those it jumps to."""
        seen: set[str] = set()
        names = [chain.name]
        while names:
            name = names.pop()
            if name in seen:
                continue
            seen.add(name)
            for rule in self.chain(chain, name).rules:
                for statement in rule.statements:
                    yield statement
                    names += [one.target for one in _verdicts(statement) if one.target]

    def _has(self, chain: Chain, kind: type) -> bool:
        return any(isinstance(statement, kind) for statement in self._statements(chain))

    def _reads(self, chain: Chain, names: set[str]) -> bool:
        return any(
            base(node).name in names
            for statement in self._statements(chain)
            if isinstance(statement, (Match, VerdictMap, SetMark))
            for node in statement.nodes
        )

    def _refuses(self, chain: Chain) -> bool:
        return chain.policy == "drop" or any(
            verdict.kind in ("drop", "reject")
            for statement in self._statements(chain)
            for verdict in _verdicts(statement)
        )

    def chain(self, of: Chain, name: str) -> Chain:
        """The chain that a jump from chain ``of`` goes to."""
        return self.chains[of.family, of.table, name]

    def interfaces(self) -> set[str]:
        """Interfaces that rules name; ``eth*`` is a prefix."""
        found = {chain.device for chain in self.chains.values() if chain.device is not None}
        for chain in self.chains.values():
            for rule in chain.rules:
                for statement in rule.statements:
                    for row in _rows(statement):
                        for cell in row or ():
                            found |= cell if isinstance(cell, frozenset) else set()
        return found - {"*"}


def _verdicts(statement: Statement) -> list[Verdict]:
    """Every verdict that a statement may give."""
    if isinstance(statement, VerdictMap):
        return [verdict for _, verdict in statement.entries]
    return [statement] if isinstance(statement, Verdict) else []


def _rows(statement: Statement) -> Iterable[tuple[Cell, ...] | None]:
    """Everything that a statement compares its fields with."""
    if isinstance(statement, Match):
        return statement.rows
    if isinstance(statement, (VerdictMap, SetMark)):
        return [row for row, _ in statement.entries]
    return ()


# --- names -> numbers -----------------------------------------------------------------------

_PROTOCOLS = {
    "ip": 0, "icmp": 1, "igmp": 2, "ggp": 3, "ipencap": 4, "ipv4": 4, "st": 5, "tcp": 6, "egp": 8,
    "igp": 9, "udp": 17, "dccp": 33, "ipv6": 41, "ipv6-route": 43, "ipv6-frag": 44, "rsvp": 46,
    "gre": 47, "esp": 50, "ipsec-esp": 50, "ah": 51, "ipsec-ah": 51, "skip": 57, "ipv6-icmp": 58,
    "icmpv6": 58, "ipv6-nonxt": 59, "ipv6-opts": 60, "eigrp": 88, "ospf": 89, "ospfigp": 89,
    "ipip": 94, "etherip": 97, "encap": 98, "pim": 103, "comp": 108, "ipcomp": 108, "vrrp": 112,
    "carp": 112, "l2tp": 115, "isis": 124, "sctp": 132, "mobility-header": 135, "udplite": 136,
    "mpls-in-ip": 137, "hopopt": 0, "hip": 139, "shim6": 140, "wesp": 141, "rohc": 142,
    "ethernet": 143,
}  # fmt: skip
_ICMP_TYPES = {
    "echo-reply": 0, "destination-unreachable": 3, "source-quench": 4, "redirect": 5,
    "echo-request": 8, "router-advertisement": 9, "router-solicitation": 10, "time-exceeded": 11,
    "parameter-problem": 12, "timestamp-request": 13, "timestamp-reply": 14, "info-request": 15,
    "info-reply": 16, "address-mask-request": 17, "address-mask-reply": 18,
}  # fmt: skip
_ICMPV6_TYPES = {
    "destination-unreachable": 1, "packet-too-big": 2, "time-exceeded": 3, "parameter-problem": 4,
    "echo-request": 128, "echo-reply": 129, "mld-listener-query": 130, "mld-listener-report": 131,
    "mld-listener-done": 132, "mld-listener-reduction": 132, "nd-router-solicit": 133,
    "nd-router-advert": 134, "nd-neighbor-solicit": 135, "nd-neighbor-advert": 136,
    "nd-redirect": 137, "router-renumbering": 138, "ind-neighbor-solicit": 141,
    "ind-neighbor-advert": 142, "mld2-listener-report": 143,
}  # fmt: skip
_ICMP_CODES = {
    "net-unreachable": 0, "host-unreachable": 1, "prot-unreachable": 2, "port-unreachable": 3,
    "frag-needed": 4, "net-prohibited": 9, "host-prohibited": 10, "admin-prohibited": 13,
}  # fmt: skip
_ICMPV6_CODES = {
    "no-route": 0, "admin-prohibited": 1, "addr-unreachable": 3, "port-unreachable": 4,
    "policy-fail": 5, "reject-route": 6,
}  # fmt: skip
_DSCP = {f"cs{n}": 8 * n for n in range(8)} | {
    f"af{c}{d}": 8 * c + 2 * d for c in range(1, 5) for d in range(1, 4)
}
_DSCP |= {"be": 0, "ef": 46, "va": 44, "lephb": 1, "df": 0}
_CT_STATUS = {
    "expected": 1, "seen-reply": 2, "assured": 4, "confirmed": 8, "snat": 16, "dnat": 32,
    "dying": 512,
}  # fmt: skip
_ETHER_TYPES = {"ip": 0x0800, "ip6": 0x86DD, "arp": 0x0806, "vlan": 0x8100, "8021q": 0x8100}
_PACKET_TYPES = {"host": 0, "unicast": 0, "broadcast": 1, "multicast": 2, "other": 3}
_FLAGS = {name: 1 << bit for bit, name in enumerate(FLAG_NAMES)} | {"ece": 64}

#: Names per field name; the key may carry the protocol where the names differ.
_NAMES: dict[str, Mapping[str, int]] = {
    "protocol": _PROTOCOLS,
    "next_header": _PROTOCOLS,
    "icmp_type.1": _ICMP_TYPES,
    "icmp_type.58": _ICMPV6_TYPES,
    "icmp_code.1": _ICMP_CODES,
    "icmp_code.58": _ICMPV6_CODES,
    "dscp": _DSCP,
    "ecn": {"not-ect": 0, "ect1": 1, "ect0": 2, "ce": 3},
    "state": STATES,
    "ct_status": _CT_STATUS,
    "ct_direction": {"original": 0, "reply": 1},
    "version": {"ipv4": 4, "ipv6": 6},
    "ethertype": _ETHER_TYPES,
    "packet_type": _PACKET_TYPES,
    "tcp_flags": _FLAGS,
}

_VERSION = Field("version", 8)

# (protocol, field) of a payload expression -> our field.
_PAYLOAD: dict[tuple[str, str], Field] = {}


def _declare(protocol: str, version: int | None, number: int | None, /, **fields: str) -> None:
    for nft_name, name in fields.items():
        key = (protocol, nft_name.replace("_", "-"))
        _PAYLOAD[key] = Field(name, WIDTHS[name], version, number)


_declare("ip", 4, None, saddr="source4", daddr="destination4", protocol="protocol",
         ttl="hop_limit", dscp="dscp", ecn="ecn", length="length", id="identification",
         frag_off="frag_off", hdrlength="header_words")  # fmt: skip
# `nexthdr` is a byte of the first header and not the upper layer, which may stand further behind.
_declare("ip6", 6, None, saddr="source6", daddr="destination6", nexthdr="next_header",
         hoplimit="hop_limit", dscp="dscp", ecn="ecn", flowlabel="flow_label")  # fmt: skip
_declare("tcp", None, 6, sport="sport", dport="dport", flags="tcp_flags", sequence="tcp_sequence",
         ackseq="tcp_acknowledgement", window="tcp_window", doff="tcp_offset",
         urgptr="tcp_urgent", checksum="l4_checksum")  # fmt: skip
_declare("udp", None, 17, sport="sport", dport="dport", length="l4_length",
         checksum="l4_checksum")  # fmt: skip
_declare("udplite", None, 136, sport="sport", dport="dport", checksum="l4_checksum")
_declare("sctp", None, 132, sport="sport", dport="dport", vtag="sctp_vtag")
_declare("dccp", None, 33, sport="sport", dport="dport")
_declare("icmp", 4, 1, type="icmp_type", code="icmp_code", id="icmp_id",
         sequence="icmp_sequence", mtu="icmp_mtu")  # fmt: skip
_declare("icmpv6", 6, 58, type="icmp_type", code="icmp_code", id="icmp_id",
         sequence="icmp_sequence", mtu="icmp_mtu")  # fmt: skip
_declare("ether", None, None, saddr="ether_source", daddr="ether_destination")
# The first bytes of any transport header; with ICMP those are type, code and checksum.
_PAYLOAD["th", "sport"] = Field("th_sport", 16)
_PAYLOAD["th", "dport"] = Field("th_dport", 16)
_PAYLOAD["ether", "type"] = Field("ethertype", 16)

_META = {
    "l4proto": Field("protocol", 8),
    "nfproto": _VERSION,
    "protocol": Field("ethertype", 16),
    "iif": Field("interface", 0),
    "iifname": Field("interface", 0),
    "mark": Field("mark", 32),
    "length": Field("length", 16),
    "pkttype": Field("packet_type", 8),
    "oif": Field("output", 0),
    "oifname": Field("output", 0),
}
_CT = {
    "state": Field("state", 8),
    "mark": Field("ct_mark", 32),
    "status": Field("ct_status", 32),
    "direction": Field("ct_direction", 1),
}

#: Fields that conntrack gives a packet.
_TRACKING = {one.name for one in _CT.values()}
#: What makes conntrack look at packets of a table's IP versions (callers of nf_ct_netns_get).
_TRACKERS = {"ct", "ct helper", "ct timeout", "ct expectation", "ct count", "dnat", "snat",
             "masquerade", "redirect", "flow", "synproxy"}  # fmt: skip
_VERSIONS = {"inet": {4, 6}, "ip": {4}, "ip6": {6}}

#: Statements that neither match nor decide.
_INERT = {"counter", "log", "comment", "last", "secmark", "ct helper", "ct timeout",
          "ct expectation"}  # fmt: skip
#: Statements whose outcome depends on more than the packet.
_CHANCES = {"limit", "quota", "ct count", "meter"}
#: What the listing says beside the value of an element of a set, and decides nothing.
_BESIDE_A_VALUE = {"val", "comment", "counter", "last"}
#: Of ``meta KEY set``: what later rules and the way of the packet do not depend on.
_INERT_META = {"nftrace", "priority"}
_REWRITES = {"dnat", "redirect", "tproxy", "snat", "masquerade", "fwd", "dup", "flow",
             "synproxy"}  # fmt: skip
_VERDICTS = {"accept", "drop", "reject", "jump", "goto", "return", "continue"}


def _unknown(what: str, expression: object, where: str) -> errors.UnknownExpression:
    text = json.dumps(expression)
    return errors.UnknownExpression(f"{what} in {where}: {text[:500]}", expression=expression)


# --- parsing ----------------------------------------------------------------------------------


class _Parser:
    def __init__(self, listing: Mapping) -> None:
        if not isinstance(listing, Mapping) or "nftables" not in listing:
            raise errors.UnknownExpression(
                "The listing is not the output of `nft -j list ruleset`: no key 'nftables'.",
                expression=listing if isinstance(listing, str) else None,
            )
        self.objects = listing["nftables"]
        self.sets: dict[tuple[str, str, str], Mapping] = {}
        #: Sets that rules add to or delete from; the listing of nft 1.0.6 has no flag for it.
        self.filled: set[tuple[str, str, str]] = set()
        self.where = "the ruleset"
        self.family = self.table = ""

    def parse(self) -> Ruleset:
        ruleset = Ruleset({}, source=list(self.objects))
        rules = []
        for entry in self.objects:
            ((kind, value),) = entry.items()
            if kind == "table":
                self._check_table(value)
                ruleset.tables.append((value["family"], value["name"]))
            elif kind == "chain":
                self._chain(ruleset, value)
            elif kind in ("set", "map"):
                self.sets[value["family"], value["table"], value["name"]] = value
            elif kind == "rule":
                rules.append(value)
                self._note(ruleset, value)
            elif kind not in _KNOWN_OBJECTS:
                raise _unknown("an object of unknown kind", entry, "the ruleset")
        for value in rules:
            key = value["family"], value["table"], value["chain"]
            if key not in ruleset.chains:
                raise _unknown("a rule of a chain that is not listed", value, "the ruleset")
            chain = ruleset.chains[key]
            chain.rules.append(self._rule(chain, value))
        self._check_targets(ruleset)
        return ruleset

    @staticmethod
    def _check_table(value: Mapping) -> None:
        flags = value.get("flags", [])
        flags = [flags] if isinstance(flags, str) else flags
        if "dormant" in flags:
            raise _unknown("a dormant table", value, f"{value['family']} {value['name']}")

    @staticmethod
    def _chain(ruleset: Ruleset, value: Mapping) -> None:
        device = value.get("dev")
        if isinstance(device, list):
            if len(device) != 1:
                raise _unknown("a chain on several devices", value, value["name"])
            (device,) = device
        chain = Chain(
            family=value["family"],
            table=value["table"],
            name=value["name"],
            hook=value.get("hook"),
            priority=value.get("prio", 0),
            policy=value.get("policy", "accept"),
            kind=value.get("type"),
            device=device,
        )
        if chain.policy not in ("accept", "drop"):
            raise _unknown("an unknown chain policy", value, str(chain))
        ruleset.chains[chain.family, chain.table, chain.name] = chain

    def _note(self, ruleset: Ruleset, rule: Mapping) -> None:
        """What one rule means for others: it fills a set, it makes flows expected, it asks for
        conntrack."""
        if _mentions(rule.get("expr", []), _TRACKERS):
            ruleset.tracked |= _VERSIONS.get(rule["family"], set())
        for entry in rule.get("expr", []):
            for kind in ("set", "map"):
                if isinstance(entry, Mapping) and kind in entry:
                    name = entry[kind][kind].removeprefix("@")
                    self.filled.add((rule["family"], rule["table"], name))
            if isinstance(entry, Mapping) and {"ct helper", "ct expectation"} & set(entry):
                ruleset.expects = True

    def _check_targets(self, ruleset: Ruleset) -> None:
        for chain in ruleset.chains.values():
            for rule in chain.rules:
                for statement in rule.statements:
                    for verdict in _verdicts(statement):
                        key = chain.family, chain.table, verdict.target
                        if verdict.target and key not in ruleset.chains:
                            raise _unknown(
                                "a jump to a chain that is not listed",
                                verdict.target,
                                f"{chain} rule {rule.number}",
                            )

    def _rule(self, chain: Chain, value: Mapping) -> Rule:
        self.family, self.table = chain.family, chain.table
        number = len(chain.rules) + 1
        self.where = f"{chain} rule {number}"
        statements: list[Statement] = []
        for entry in value.get("expr", []):
            statements += self._statement(entry)
        return Rule(
            tuple(statements),
            number,
            value.get("handle"),
            value.get("comment"),
            tuple(value.get("expr", [])),
        )

    def _statement(self, entry: Mapping) -> list[Statement]:
        if not isinstance(entry, Mapping) or len(entry) != 1:
            raise _unknown("an expression of unknown form", entry, self.where)
        ((kind, value),) = entry.items()
        if kind == "match":
            return self._match(value)
        if kind == "vmap":
            return [self._verdict_map(value)]
        if kind in _VERDICTS:
            return [self._verdict(entry)]
        if kind == "notrack":
            return [Untrack()]
        if kind == "mangle":
            return self._mangle(value)
        if kind == "xt":
            raise _unknown("an iptables extension", entry, self.where)
        if kind in _INERT:
            return []
        if kind in ("set", "map"):
            # Adds the packet to a set: the rule ends here if the set is full or a limit is in it.
            if value["op"] == "delete":
                return []
            return [Chance(f"{json.dumps(entry)} in {self.where}")]
        if kind in _CHANCES:
            return [Chance(f"{kind} {json.dumps(value)} in {self.where}")]
        if kind in _REWRITES:
            return [Rewrite(json.dumps(entry))]
        raise _unknown("an unknown statement", entry, self.where)

    def _verdict(self, entry: Mapping) -> Verdict:
        if not isinstance(entry, Mapping) or len(entry) != 1:
            raise _unknown("a verdict of unknown form", entry, self.where)
        ((kind, value),) = entry.items()
        if kind not in _VERDICTS:
            raise _unknown("an unknown verdict", entry, self.where)
        return Verdict(kind, value["target"] if kind in ("jump", "goto") else None)

    # fields

    def _nodes(self, left: object) -> tuple[Node, ...]:
        if isinstance(left, Mapping) and "concat" in left:
            return tuple(self._node(part) for part in left["concat"])
        return (self._node(left),)

    def _node(self, left: object) -> Node:
        if not isinstance(left, Mapping) or len(left) != 1:
            raise _unknown("a value of unknown form", left, self.where)
        ((kind, value),) = left.items()
        if kind == "payload" and "protocol" in value:
            found = _PAYLOAD.get((value["protocol"], value["field"]))
        elif kind == "meta":
            found = _META.get(value["key"])
        elif kind == "ct" and "dir" not in value:
            found = _CT.get(value["key"])
        elif kind in ("&", "|", "^"):
            inner = self._node(value[0])
            if not base(inner).width:
                raise _unknown("a bit operation on a name", left, self.where)
            return Masked(inner, kind, self._number(base(inner), value[1]))
        else:
            found = None
        if found is None:
            raise _unknown("an unknown field", left, self.where)
        return found

    # values

    def _number(self, of: Field, value: object) -> int:
        """One value as a number; flag lists are or-ed."""
        if isinstance(value, bool):
            return int(value)
        if isinstance(value, int):
            return value
        if isinstance(value, list):
            return functools.reduce(int.__or__, (self._number(of, one) for one in value), 0)
        if isinstance(value, Mapping) and len(value) == 1 and "|" in value:
            return self._number(of, value["|"])
        if isinstance(value, str):
            for key in (of.name, f"{of.name}.{of.protocol}"):
                if value in _NAMES.get(key, {}):
                    return _NAMES[key][value]
            if of.width in (32, 128) and of.name.startswith(("source", "destination")):
                try:
                    version, number = address(value)
                except ValueError:
                    raise _unknown("an address that is none", value, self.where) from None
                if (32 if version == 4 else 128) == of.width:
                    return number
            if of.width == 48:
                return int(value.replace(":", ""), 16)
            try:
                return int(value, 0)
            except ValueError:
                pass  # the error below names the value
        raise _unknown(f"an unknown value of {of.name}", value, self.where)

    def _cell(self, of: Node, value: object) -> Cell:
        """A value, prefix or range as intervals; names for interfaces."""
        field_ = base(of)
        if not field_.width:
            if isinstance(value, str):
                return frozenset({value})
            if isinstance(value, list) and all(isinstance(one, str) for one in value):
                return frozenset(value)
            raise _unknown("an interface that is no name", value, self.where)
        if isinstance(value, Mapping) and len(value) == 1:
            if "prefix" in value:
                inner = value["prefix"]
                if field_.width in (32, 128) and isinstance(inner["addr"], str):
                    _, pair = network(f"{inner['addr']}/{inner['len']}")
                    return (pair,)
                free = of.width - inner["len"]
                low = self._number(field_, inner["addr"]) >> free << free
                return ((low, low | ((1 << free) - 1)),)
            if "range" in value:
                low, high = (self._number(field_, one) for one in value["range"])
                if low > high:
                    raise _unknown("a range that ends before it begins", value, self.where)
                return ((low, high),)
        number = self._number(field_, value)
        return ((number, number),)

    def _element(self, nodes: Sequence[Node], value: object) -> tuple[Cell, ...]:
        if isinstance(value, Mapping) and "elem" in value:
            value = value["elem"]["val"]
        if isinstance(value, Mapping) and "concat" in value:
            parts = value["concat"]
        else:
            parts = [value]
        if len(parts) != len(nodes):
            raise _unknown(f"an element of {len(parts)} parts for {len(nodes)}", value, self.where)
        return tuple(self._cell(node, part) for node, part in zip(nodes, parts, strict=True))

    def _elements(self, right: object) -> list | None:
        """The elements of a set, anonymous or named; None when ``right`` is one value."""
        if isinstance(right, Mapping) and "set" in right:
            found = right["set"]
            return found if isinstance(found, list) else [found]
        if isinstance(right, str) and right.startswith("@"):
            key = self.family, self.table, right[1:]
            if key not in self.sets:
                raise _unknown("a set that is not listed", right, self.where)
            return list(self.sets[key].get("elem", []))
        return None

    def _changes(self, right: object, elements: Iterable[object]) -> str:
        """Why a packet may be in the set now and not in a second, or the reverse; "" if neither.

        ``filled`` when rules decide what is in it, otherwise only listed elements ever are.
        """
        named = isinstance(right, str)
        key = self.family, self.table, right[1:] if named else ""
        listed = self.sets[key] if named else {}
        flags = listed.get("flags", [])
        flags = {flags} if isinstance(flags, str) else set(flags)
        if key in self.filled or "dynamic" in flags:
            return "filled"
        beside: set[str] = {kind for one in listed.get("stmt", []) for kind in one}
        for one in elements:
            if isinstance(one, Mapping) and "elem" in one:
                beside |= set(one["elem"])
        if "timeout" in flags or beside & {"timeout", "expires"}:
            return "expires"
        unknown = beside - _BESIDE_A_VALUE - _CHANCES
        if unknown:
            raise _unknown("an element with more than a value", sorted(unknown), self.where)
        return "limited" if beside & _CHANCES else ""

    def _match(self, value: Mapping) -> list[Statement]:
        operation, left, right = value["op"], value["left"], value["right"]
        if isinstance(left, Mapping) and ("numgen" in left or "limit" in left):
            return [Chance(f"{json.dumps(value)} in {self.where}")]
        nodes = self._nodes(left)
        elements = self._elements(right)
        if elements is not None and operation in ("==", "in", "!="):
            rows = merge_rows([self._element(nodes, one) for one in elements])
            changes = self._changes(right, elements)
            if not changes:
                return [Match(nodes, rows, operation == "!=")]
            if changes == "filled" or operation == "!=":
                rows = (tuple(_anything(node) for node in nodes),)
            what = f"{json.dumps(value)} in {self.where}"
            return [Match(nodes, rows), Chance(what)]
        if elements is not None or (len(nodes) > 1 and operation not in ("==", "!=")):
            raise _unknown("a comparison of unknown form", value, self.where)
        if operation == "in":
            return [self._membership(nodes[0], right)]
        if operation in ("==", "!="):
            if base(nodes[0]).name == "state" and isinstance(right, list):
                return [self._membership(nodes[0], right, operation == "!=")]
            return [Match(nodes, (self._element(nodes, right),), operation == "!=")]
        if operation in ("<", ">", "<=", ">="):
            return [self._comparison(nodes[0], operation, right)]
        raise _unknown("an unknown comparison", value, self.where)

    def _membership(self, node: Node, right: object, negated: bool = False) -> Match:
        """``in``: some bit of the value is set in the field."""
        field_ = base(node)
        number = self._number(field_, right)
        if field_.name == "state":
            # Exactly one state bit is set: the rows are the states.
            rows = tuple((((bit, bit),),) for bit in STATES.values() if number & bit)
            return Match((node,), merge_rows(list(rows)), negated)
        zero: Cell = ((0, 0),)
        return Match((Masked(node, "&", number),), ((zero,),), not negated)

    def _comparison(self, node: Node, operation: str, right: object) -> Match:
        if not node.width:
            raise _unknown("an order of names", right, self.where)
        number, most = self._number(base(node), right), (1 << node.width) - 1
        low, high = {
            "<": (0, number - 1),
            "<=": (0, number),
            ">": (number + 1, most),
            ">=": (number, most),
        }[operation]
        cell = ((low, high),) if low <= high else ()
        return Match((node,), ((cell,),))

    def _map_entries(self, data: object) -> list:
        elements = self._elements(data)
        if elements is None:
            raise _unknown("a map of unknown form", data, self.where)
        if self._changes(data, [key for key, _ in elements]):
            raise _unknown("a map that changes by itself", data, self.where)
        return elements

    def _verdict_map(self, value: Mapping) -> VerdictMap:
        nodes = self._nodes(value["key"])
        entries = []
        for key, verdict in self._map_entries(value["data"]):
            row = None if key == "*" else self._element(nodes, key)
            entries.append((row, self._verdict(verdict)))
        # The catch-all element is the last resort, wherever it is listed.
        entries.sort(key=lambda entry: entry[0] is None)
        return VerdictMap(nodes, tuple(entries))

    def _mangle(self, value: Mapping) -> list[Statement]:
        key = value["key"]
        if isinstance(key, Mapping) and key.get("ct", {}).get("key") in ("mark", "label"):
            return []  # the connection's mark has no effect on this packet's way
        if isinstance(key, Mapping) and key.get("meta", {}).get("key") in _INERT_META:
            return []
        if key != {"meta": {"key": "mark"}}:
            return [Rewrite(json.dumps({"mangle": value}))]
        new = value["value"]
        if isinstance(new, int):
            return [SetMark(new)]
        if isinstance(new, Mapping) and "map" in new:
            nodes = self._nodes(new["map"]["key"])
            entries = []
            for row, number in self._map_entries(new["map"]["data"]):
                cells = None if row == "*" else self._element(nodes, row)
                entries.append((cells, self._number(_META["mark"], number)))
            entries.sort(key=lambda entry: entry[0] is None)
            return [SetMark(None, nodes, tuple(entries))]
        raise _unknown("a mark of unknown form", value, self.where)


_KNOWN_OBJECTS = {"metainfo", "counter", "quota", "limit", "ct helper", "ct timeout",
                  "ct expectation", "element", "secmark", "synproxy", "flowtable"}  # fmt: skip


def _mentions(expression: object, kinds: set[str]) -> bool:
    """Whether an expression, or one inside it, is of one of the kinds."""
    if isinstance(expression, Mapping):
        # Elements of a set are values, and there may be thousands.
        inner = [one for k, one in expression.items() if k != "set" or isinstance(one, Mapping)]
        return not kinds.isdisjoint(expression) or any(_mentions(one, kinds) for one in inner)
    return isinstance(expression, list) and any(_mentions(one, kinds) for one in expression)


def _anything(node: Node) -> Cell:
    """All values that a field can have."""
    return ((0, (1 << node.width) - 1),) if node.width else frozenset({"*"})


def merge_rows(rows: list[tuple[Cell, ...]]) -> tuple[tuple[Cell, ...], ...]:
    """Rows in canonical form: equal rows but for one column become one, its intervals merged.

    The widest column (the addresses) is merged, which is what makes 10,000 rows a few.
    """
    if not rows:
        return ()
    columns = len(rows[0])

    def weight(column: int) -> int:
        return max(
            (cell[-1][1].bit_length() if cell else 0) if isinstance(cell, tuple) else 0
            for cell in (row[column] for row in rows)
        )

    for column in sorted(range(columns), key=weight, reverse=True):
        if any(isinstance(row[column], frozenset) for row in rows):
            groups: dict[tuple, set[str]] = {}
            for row in rows:
                groups.setdefault(row[:column] + row[column + 1 :], set()).update(row[column])
            merged: dict[tuple, Cell] = {k: frozenset(v) for k, v in groups.items()}
        else:
            pairs: dict[tuple, list[tuple[int, int]]] = {}
            for row in rows:
                pairs.setdefault(row[:column] + row[column + 1 :], []).extend(row[column])
            merged = {k: canonical(v) for k, v in pairs.items()}
        rows = [rest[:column] + (cell,) + rest[column:] for rest, cell in merged.items()]
    return tuple(rows)


def parse(listing: Mapping | str) -> Ruleset:
    """The output of ``nft -j list ruleset`` as a :class:`Ruleset`.

    :param listing: the JSON text, or the object it decodes to.
    :raises UnknownExpression: anything in it is not understood.
    """
    if isinstance(listing, str):
        try:
            listing = json.loads(listing)
        except ValueError as error:
            raise errors.UnknownExpression(
                f"The listing is not JSON ({error}): {listing[:200]!r}", expression=listing
            ) from error
    try:
        return _Parser(listing).parse()
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise errors.UnknownExpression(
            f"An object of the listing has an unexpected form: {type(error).__name__}: {error}."
        ) from error
