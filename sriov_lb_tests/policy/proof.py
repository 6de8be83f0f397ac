# SPDX-License-Identifier: Apache-2.0
"""Where policy and ruleset disagree, over all packets at once, with witnesses.

Every header field is a bit vector; the ruleset becomes a formula "accepts", the policy two,
"required" and "forbidden"; z3 looks for a packet in ``accepts and forbidden`` (too open) and in
``required and not accepts`` (too closed). No packet means that there is none among all sources,
ports, protocols, ICMP types, states and interfaces, not that none was found. Interfaces are those
that are there, those that rules name, and one that neither is: the next member may bring it.
What has to pass is only asked of packets as hosts send them (``_Space.ordinary``).

Packets that leave are asked about as well, in the output and postrouting hooks, where an answer may
be kept back. Forwarding, and what is no IP packet (ARP), are not looked at.

Membership in a set of several intervals is first a plain yes-or-no unknown, one for each set. If
even then no packet exists, there is none; that decides clean rulesets in a fraction of a second.
Otherwise only the sets about which z3's packet is wrong are spelled out, and z3 is asked again.
"""

from __future__ import annotations

import itertools
import string
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import z3

from sriov_lb_tests import errors
from sriov_lb_tests.policy import packet as headers
from sriov_lb_tests.policy import render
from sriov_lb_tests.policy.evaluate import (
    DEEPEST,
    INPUT,
    OUTPUT,
    WITHOUT_CONNECTION,
    Outcome,
    before_conntrack,
    evaluate,
    first_only,
    matches_name,
    reassembled,
)
from sriov_lb_tests.policy.intervals import Intervals, address, contains, text_of
from sriov_lb_tests.policy.model import (
    ICMP_ERRORS,
    ICMP_REQUESTS,
    IMPOSSIBLE_SOURCES,
    Clause,
    Policy,
    Promise,
)
from sriov_lb_tests.policy.model import Match as PolicyMatch
from sriov_lb_tests.policy.packet import STATE_NAMES, STATES, WIDTHS, Packet
from sriov_lb_tests.policy.ruleset import (
    Cell,
    Chain,
    Chance,
    Masked,
    Match,
    Node,
    Rewrite,
    Ruleset,
    SetMark,
    Untrack,
    Verdict,
    VerdictMap,
    base,
    merge_rows,
)

#: Sets of at least this many intervals are unknowns first.
LARGE = 2

#: FIN, SYN, RST, ACK and URG of the segments that conntrack takes for TCP (tcp_valid_flags).
SEGMENTS = tuple(
    one | urgent
    for one, urgents in (
        (headers.SYN, (0, headers.URG)),
        (headers.SYN | headers.ACK, (0,)),
        (headers.RST, (0,)),
        (headers.RST | headers.ACK, (0,)),
        (headers.FIN | headers.ACK, (0, headers.URG)),
        (headers.ACK, (0, headers.URG)),
    )
    for urgent in urgents
)

#: An interface that is not there yet, and that no rule names.
ANOTHER = "another"


@dataclass(frozen=True)
class Witness:
    """One packet on which policy and ruleset disagree.

    ``str()`` is the sentence for the report.
    """

    packet: Packet
    clause: Clause
    outcome: Outcome
    explanation: str

    @property
    def too_open(self) -> bool:
        return self.clause.promise is Promise.FORBIDDEN

    def __str__(self) -> str:
        return self.explanation


@dataclass(frozen=True)
class Disagreements:
    """Witnesses of both kinds; false when there are none.

    :param more: whether the search was cut off at its limit.
    :param seconds: what it took.
    """

    too_open: tuple[Witness, ...]
    too_closed: tuple[Witness, ...]
    more: bool
    seconds: float

    def __bool__(self) -> bool:
        return bool(self.too_open or self.too_closed)

    def __str__(self) -> str:
        if not self:
            return "policy and ruleset agree on every packet"
        lines = []
        for title, found in (("too open", self.too_open), ("too closed", self.too_closed)):
            lines += [f"{title}: {witness}" for witness in found]
        return "\n".join(lines + (["(and more)"] if self.more else []))


@dataclass
class _Space:
    """The unknowns: one bit vector for each header field, and how to speak about them.

    :param leaving: packets of the amphora itself; otherwise those that come in.
    :param expects: rules make flows expected, see ``Ruleset.expects``.
    """

    interfaces: tuple[str, ...]
    leaving: bool = False
    expects: bool = False
    fields: dict[str, z3.BitVecRef] = field(default_factory=dict)
    chances: dict[str, z3.BoolRef] = field(default_factory=dict)
    #: Sets that are unknowns: what stands for membership, of what, in what.
    large: list[tuple[z3.BoolRef, z3.BitVecRef, Intervals]] = field(default_factory=list)
    _members: dict[tuple[int, Intervals], z3.BoolRef] = field(default_factory=dict)
    _on: dict[frozenset[str], z3.BoolRef] = field(default_factory=dict)
    _is: dict[tuple[str, int], z3.BoolRef] = field(default_factory=dict)
    _known: dict[object, z3.BoolRef] = field(default_factory=dict)
    #: Terms that ``_members`` knows by their ids, which z3 gives to others when a term is gone.
    _terms: list[z3.BitVecRef] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.fields = {name: z3.BitVec(name, width) for name, width in WIDTHS.items()}
        self.v6 = z3.Bool("v6")
        self.v4 = z3.Not(self.v6)
        self.interface = z3.BitVec("interface", 16)

    def chance(self, what: str) -> z3.BoolRef:
        return self.chances.setdefault(what, z3.Bool(f"chance: {what}"))

    def on(self, names: Iterable[str]) -> z3.BoolRef:
        """The interface is one of these (patterns allowed)."""
        patterns = frozenset(names)
        if patterns not in self._on:
            numbers = [
                number
                for number, name in enumerate(self.interfaces)
                if any(matches_name(name, pattern) for pattern in patterns)
            ]
            self._on[patterns] = _any([self.interface == number for number in numbers])
        return self._on[patterns]

    def version(self, number: int | None) -> z3.BoolRef:
        if number is None:
            return _TRUE
        return self.v6 if number == 6 else self.v4

    def equal(self, name: str, value: int) -> z3.BoolRef:
        """A field has a value."""
        key = name, value
        if key not in self._is:
            self._is[key] = self.fields[name] == value
        return self._is[key]

    def once(self, key: object, make: Callable[[], z3.BoolRef]) -> z3.BoolRef:
        """A formula that is needed again and again, made the first time."""
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    def within(self, term: z3.BitVecRef, intervals: Intervals) -> z3.BoolRef:
        """The value of ``term`` is in the set."""
        # A field as it is; a number (the state before connection tracking) has no name.
        plain = term.decl().kind() == z3.Z3_OP_UNINTERPRETED
        if len(intervals) == 1 and intervals[0][0] == intervals[0][1] and plain:
            return self.equal(term.decl().name(), intervals[0][0])
        key = term.get_id(), intervals
        if key not in self._members:
            self._terms.append(term)
            if len(intervals) >= LARGE:
                unknown = z3.Bool(f"member {len(self.large)}")
                self.large.append((unknown, term, intervals))
                self._members[key] = unknown
            else:
                self._members[key] = _spell(term, intervals)
        return self._members[key]

    def spelled(self) -> list[z3.BoolRef]:
        """What all the unknowns stand for."""
        return [unknown == _spell(term, intervals) for unknown, term, intervals in self.large]

    def feasible(self) -> z3.BoolRef:
        """Packets that exist: known states and interfaces, and what conntrack says of packets.

        nf_conntrack_proto_icmpv6.c: types 130 to 136 and 143 are untracked, or invalid when
        damaged. Nothing else is untracked by itself; what rules exempt is known where they are.

        ICMP begins a connection with a request alone (valid_new in nf_conntrack_proto_icmp.c and
        _icmpv6.c); other types are part of a flow, or invalid.

        Related are ICMP errors about a flow (nf_conntrack_proto_icmp.c and _icmpv6.c) and what a
        helper expects, which rules have to ask for.

        Of what leaves, answers are all that is promised: other states are not looked at.
        """
        state, kind = self.fields["state"], self.fields["icmp_type"]
        untracked = z3.And(
            self.v6,
            self.fields["protocol"] == headers.ICMPV6,
            _spell(kind, ((130, 136), (143, 143))),
        )
        quiet = [STATES["untracked"], STATES["invalid"]]
        errors_about_flows = _any(
            [
                _all([self.version(version), self.fields["protocol"] == protocol,
                      _spell(kind, types)])
                for version, protocol, types in (
                    (4, headers.ICMP, ICMP_ERRORS[4]),
                    (6, headers.ICMPV6, ICMP_ERRORS[6]),
                )
            ]
        )  # fmt: skip
        related = _TRUE if self.expects else errors_about_flows
        begins = [
            z3.Implies(
                _all([self.version(version), self.fields["protocol"] == protocol]),
                _any([kind == number for number in ICMP_REQUESTS[version]]),
            )
            for version, protocol in ((4, headers.ICMP), (6, headers.ICMPV6))
        ]
        return z3.And(
            z3.ULT(self.interface, len(self.interfaces)),
            _any([state == number for number in STATES.values()]),
            z3.Implies(untracked, _any([state == number for number in quiet])),
            z3.Implies(state == STATES["untracked"], untracked),
            z3.Implies(state == STATES["related"], related),
            z3.Implies(state == STATES["new"], _all(begins)),
            state == STATES["established"] if self.leaving else _TRUE,
            # A packet off the wire carries no mark.
            self.fields["mark"] == 0,
            *self._headers(),
            *self._connections(),
        )

    def _headers(self) -> list[z3.BoolRef]:
        """What the kernel sees to before any of its IP hooks (ip_rcv), and what it calls the upper
        layer of IPv6 (ipv6_find_hdr): behind the headers that it walks past."""
        fields = self.fields
        plain = fields["next_header"] == fields["protocol"]
        first = _any([self.equal("next_header", number) for number in headers.EXTENSIONS])
        return [
            z3.Implies(self.v4, z3.UGE(fields["header_words"], 5)),
            z3.Or(plain, z3.And(self.v6, first)),
            z3.Implies(fields["fragment_header"] == 1, self.v6),
        ]

    def _connections(self) -> list[z3.BoolRef]:
        """What conntrack knows of a packet fits what it says of it.

        nf_conntrack_core.c, resolve_normal_ct: new is what goes the way of the first packet while
        nobody answered; established, what an answer was seen to. Only what is in the table, and
        that is confirmed, is found again. nf_conntrack_proto_tcp.c, tcp_error: segments of another
        form are invalid; PSH, ECE and CWR may be as they like.
        """
        fields, tcp = self.fields, self.equal("protocol", headers.TCP)
        status = fields["ct_status"]
        early = headers.EXPECTED | headers.SEEN_REPLY
        answered = headers.SEEN_REPLY | headers.CONFIRMED
        told = headers.FIN | headers.SYN | headers.RST | headers.ACK | headers.URG
        flags = fields["tcp_flags"] & told
        connected = _all([fields["state"] != number for number in WITHOUT_CONNECTION])
        return [
            z3.Implies(
                self.equal("state", STATES["new"]),
                z3.And(fields["ct_direction"] == 0, status & early == 0),
            ),
            z3.Implies(self.equal("state", STATES["established"]), status & answered == answered),
            z3.Implies(
                z3.And(connected, tcp),
                z3.And(z3.UGE(fields["tcp_offset"], 5), _any([flags == one for one in SEGMENTS])),
            ),
        ]

    def ordinary(self) -> z3.BoolRef:
        """Packets as hosts send them to each other; of others nothing is promised.

        To this host (neighbours are also asked for by multicast), with hops to spare. Without IPv6
        extension headers, but in fragments if it is a datagram: TCP and SCTP fit themselves to the
        path, and routers do not cut IPv6 packets up.
        """
        fields = self.fields
        group = z3.And(self.v6, z3.Extract(127, 120, fields["destination6"]) == 0xFF)
        neighbours = z3.And(
            self.equal("protocol", headers.ICMPV6), _spell(fields["icmp_type"], ((135, 136),))
        )
        to = z3.If(group, z3.BitVecVal(headers.TO_GROUP, 8), z3.BitVecVal(headers.TO_HOST, 8))
        return z3.And(
            z3.Implies(group, neighbours),
            fields["packet_type"] == to,
            z3.UGE(fields["hop_limit"], 1),
            fields["next_header"] == fields["protocol"],
            z3.Or(fields["fragment_header"] == 0, self.equal("protocol", headers.UDP)),
        )


_TRUE, _FALSE = z3.BoolVal(True), z3.BoolVal(False)


def _any(terms: Sequence[z3.BoolRef]) -> z3.BoolRef:
    terms = [term for term in terms if term is not _FALSE]
    if not terms:
        return _FALSE
    return terms[0] if len(terms) == 1 else z3.Or(*terms)


def _all(terms: Sequence[z3.BoolRef]) -> z3.BoolRef:
    kept = [term for term in terms if term is not _TRUE]
    if not kept:
        return _TRUE
    return kept[0] if len(kept) == 1 else z3.And(*kept)


def _spell(term: z3.BitVecRef, intervals: Intervals) -> z3.BoolRef:
    """Membership as a formula; ranges that are prefixes become equalities of bits."""
    width = term.size()
    found = []
    for low, high in intervals:
        span = high - low + 1
        if span == 1 << width:
            return _TRUE
        if span & (span - 1) == 0 and low % span == 0:
            free = span.bit_length() - 1
            part = term if not free else z3.Extract(width - 1, free, term)
            found.append(part == low >> free)
        elif low == 0:
            found.append(z3.ULE(term, high))
        elif high == (1 << width) - 1:
            found.append(z3.UGE(term, low))
        else:
            found.append(z3.And(z3.UGE(term, low), z3.ULE(term, high)))
    return _any(found)


# --- the ruleset as a formula ------------------------------------------------------------------


@dataclass
class _Ends:
    """Conditions under which a chain accepts, refuses, or ends without a verdict."""

    accept: z3.BoolRef
    refuse: z3.BoolRef
    over: z3.BoolRef


class _RulesetFormula:
    def __init__(self, space: _Space, ruleset: Ruleset, hooks: Sequence[str]) -> None:
        self.space, self.ruleset, self.hooks = space, ruleset, hooks
        self.mark: z3.BitVecRef = space.fields["mark"]
        self.untracked = _FALSE
        self.version = 4

    def accepts(self, version: int) -> z3.BoolRef:
        """The condition under which packets of that version pass all their hooks."""
        self.mark, self.untracked = self.space.fields["mark"], _FALSE
        self.version = version
        path = _TRUE
        for chain in self.ruleset.path(version, self.hooks):
            met = self.met(chain)
            ends = self.chain(chain, chain, _all([path, met]), 0)
            past = [ends.accept]
            if chain.policy == "accept":
                past.append(ends.over)
            if met is not _TRUE:
                past.append(_all([path, z3.Not(met)]))
            path = _any(past)
        return path

    def met(self, chain: Chain) -> z3.BoolRef:
        """The condition under which a packet comes by a base chain at all."""
        terms = []
        if chain.device is not None:
            terms.append(self.space.on([chain.device]))
        if chain.kind == "nat":
            icmp = _any([self.space.equal("protocol", n) for n in (headers.ICMP, headers.ICMPV6)])
            expected = _all([self.space.equal("state", STATES["related"]), z3.Not(icmp)])
            terms += [
                _any([self.space.equal("state", STATES["new"]), expected]),
                self.space.chance(first_only(chain).what),
            ]
            if self.untracked is not _FALSE:
                terms.append(z3.Not(self.untracked))
        return _all(terms)

    def chain(self, chain: Chain, hooked: Chain, path: z3.BoolRef, depth: int) -> _Ends:
        if depth > DEEPEST:
            raise errors.UnknownExpression(f"Jumps deeper than {DEEPEST} from {hooked}.")
        accepted: list[z3.BoolRef] = []
        refused: list[z3.BoolRef] = []
        over: list[z3.BoolRef] = []
        rules = list(chain.rules)
        position = 0
        while position < len(rules):
            condition, verdict, position = self._step(chain, rules, position, hooked, path)
            if verdict is None:
                continue
            for when, one in verdict:
                taken = _all([path, when])
                if one.kind == "accept":
                    accepted.append(taken)
                elif one.kind in ("drop", "reject"):
                    refused.append(taken)
                elif one.kind == "return":
                    over.append(taken)
                elif one.kind in ("jump", "goto"):
                    target = self.ruleset.chain(chain, one.target)
                    ends = self.chain(target, hooked, taken, depth + 1)
                    accepted.append(ends.accept)
                    refused.append(ends.refuse)
                    if one.kind == "goto":
                        over.append(ends.over)
                    else:
                        # Whoever comes back goes on with the next rule.
                        path = _any([_all([path, z3.Not(when)]), ends.over])
                        continue
                path = _all([path, z3.Not(when)])
            del condition
        over.append(path)
        return _Ends(_any(accepted), _any(refused), _any(over))

    def _step(self, chain, rules, position, hooked, path):
        """The next rule, or a run of plain rules with one verdict, as ``[(when, verdict)]``."""
        rule = rules[position]
        run = self._plain(rule)
        if run is not None:
            matches = [run[0]]
            last = position + 1
            while last < len(rules):
                following = self._plain(rules[last])
                if following is None or following[1] != run[1]:
                    break
                matches.append(following[0])
                last += 1
            # Rules in a row with one verdict are one rule; their order says nothing.
            when = _any([self.matches(one, hooked) for one in _joined(matches)])
            return when, [(when, run[1])], last
        conditions: list[z3.BoolRef] = []
        for statement in rule.statements:
            if isinstance(statement, Match):
                conditions.append(self.match(statement, hooked))
            elif isinstance(statement, Chance):
                conditions.append(self.space.chance(statement.what))
            elif isinstance(statement, Verdict):
                when = _all(conditions)
                found = [] if statement.kind == "continue" else [(when, statement)]
                return when, found, position + 1
            elif isinstance(statement, VerdictMap):
                return None, self._entries(statement, conditions, hooked), position + 1
            elif isinstance(statement, SetMark):
                conditions.append(self._set_mark(statement, conditions, hooked, path))
            elif isinstance(statement, Untrack):
                # What has a connection is left alone.
                without = self.state(hooked) == STATES["invalid"]
                exempt = _all([path, *conditions, without])
                self.untracked = _any([self.untracked, exempt])
            elif isinstance(statement, Rewrite):
                reached = z3.Solver()
                reached.add(self.space.feasible(), path, *conditions, *self.space.spelled())
                if reached.check() != z3.unsat:
                    raise errors.UnknownExpression(
                        f"Packets meet {statement.expression} in {chain} rule "
                        f"{rule.number}: what they become is not known.",
                        expression=statement.expression,
                    )
        return None, None, position + 1

    @staticmethod
    def _plain(rule) -> tuple[tuple[Match, ...], Verdict] | None:
        """The rule as matches and a final verdict, when it is nothing else."""
        *matches, last = rule.statements or (None,)
        final = isinstance(last, Verdict) and last.kind in ("accept", "drop", "reject")
        if final and all(isinstance(one, Match) for one in matches):
            return tuple(matches), last
        return None

    def _entries(self, statement: VerdictMap, conditions, hooked) -> list:
        found, none = [], list(conditions)
        for row, verdict in statement.entries:
            here = [self.present(statement.nodes, hooked)]
            if row is not None:
                here.append(self.row(statement.nodes, row, hooked))
            when = _all([*none, *here])
            if verdict.kind != "continue":
                found.append((when, verdict))
            none.append(z3.Not(_all(here)))
        return found

    def _set_mark(self, statement: SetMark, conditions, hooked, path) -> z3.BoolRef:
        """Change the mark; the returned condition is that the rule goes on."""
        if statement.value is not None:
            new, goes_on = z3.BitVecVal(statement.value, 32), _TRUE
        else:
            new, hits = self.mark, []
            for row, number in reversed(statement.entries):
                hit = [self.present(statement.nodes, hooked)]
                if row is not None:
                    hit.append(self.row(statement.nodes, row, hooked))
                hits.append(_all(hit))
                new = z3.If(hits[-1], z3.BitVecVal(number, 32), new)
            goes_on = _any(hits)
        self.mark = z3.If(_all([path, *conditions, goes_on]), new, self.mark)
        return goes_on

    # fields

    def match(self, match: Match, hooked: Chain) -> z3.BoolRef:
        inside = _any([self.row(match.nodes, row, hooked) for row in match.rows])
        there = self.present(match.nodes, hooked)
        return _all([there, z3.Not(inside) if match.negated else inside])

    def matches(self, matches: Sequence[Match], hooked: Chain) -> z3.BoolRef:
        return _all([self.match(one, hooked) for one in matches])

    def row(self, nodes: Sequence[Node], row: Sequence[Cell], hooked: Chain) -> z3.BoolRef:
        return _all([self.cell(n, c, hooked) for n, c in zip(nodes, row, strict=True)])

    def cell(self, node: Node, cell: Cell, hooked: Chain) -> z3.BoolRef:
        if isinstance(cell, frozenset):
            if base(node).name == ("interface" if self.space.leaving else "output"):
                # There is no such interface, and its name is empty.
                return _TRUE if any(matches_name("", pattern) for pattern in cell) else _FALSE
            return self.space.on(cell)
        if base(node).name == "version" and not isinstance(node, Masked):
            known = [
                self.space.version(number)
                for number in (4, 6)
                if any(low <= number <= high for low, high in cell)
            ]
            return _any(known)
        return self.space.within(self.term(node, hooked), cell)

    def present(self, nodes: Sequence[Node], hooked: Chain) -> z3.BoolRef:
        """The fields are there."""
        there = self.space.once(nodes, lambda: self._present(nodes))
        if any(base(node).name.startswith("ct_") for node in nodes):
            state = self.state(hooked)
            there = _all([there, *(state != number for number in WITHOUT_CONNECTION)])
        return there

    def _present(self, nodes: Sequence[Node]) -> z3.BoolRef:
        found: dict[object, z3.BoolRef] = {}
        for one in nodes:
            low = base(one)
            found["version", low.version] = self.space.version(low.version)
            if low.protocol is not None:
                found["protocol", low.protocol] = self.space.equal("protocol", low.protocol)
            if low.name.startswith("ether_"):
                there = _FALSE if self.space.leaving else z3.Not(self.space.on(["lo"]))
                found["ether"] = there
        return _all(list(found.values()))

    def state(self, hooked: Chain) -> z3.BitVecRef:
        """What ``ct state`` reads as."""
        state = self.space.fields["state"]
        if before_conntrack(hooked):
            # Only what comes by the loopback has been seen: when it left.
            looped = _FALSE if self.space.leaving else self.space.on(["lo"])
            state = z3.If(looped, state, z3.BitVecVal(STATES["invalid"], 8))
        if self.untracked is _FALSE:
            return state
        return z3.If(self.untracked, z3.BitVecVal(STATES["untracked"], 8), state)

    def whole(self, hooked: Chain) -> bool:
        """Whether packets are in one piece there."""
        return reassembled(hooked, self.version, self.version in self.ruleset.tracked)

    def term(self, node: Node, hooked: Chain) -> z3.BitVecRef:
        if isinstance(node, Masked):
            inner = self.term(node.inner, hooked)
            operand = z3.BitVecVal(node.operand, inner.size())
            return {"&": inner & operand, "|": inner | operand, "^": inner ^ operand}[
                node.operation
            ]
        fields = self.space.fields
        if node.name == "state":
            return self.state(hooked)
        if node.name == "frag_off" and self.whole(hooked):
            return fields["frag_off"] & (0xFFFF & ~headers.FRAGMENTED)
        if node.name == "next_header" and not self.whole(hooked):
            fragment = fields["fragment_header"] == 1
            return z3.If(fragment, z3.BitVecVal(headers.FRAGMENT, 8), fields["next_header"])
        if node.name == "mark":
            return self.mark
        if node.name == "version":
            return z3.If(self.space.v6, z3.BitVecVal(6, 8), z3.BitVecVal(4, 8))
        if node.name == "ethertype":
            six, four = z3.BitVecVal(0x86DD, 16), z3.BitVecVal(0x0800, 16)
            return z3.If(self.space.v6, six, four)
        icmp = z3.Or(fields["protocol"] == headers.ICMP, fields["protocol"] == headers.ICMPV6)
        if node.name == "th_sport":
            both = z3.Concat(fields["icmp_type"], fields["icmp_code"])
            return z3.If(icmp, both, fields["sport"])
        if node.name == "th_dport":
            return z3.If(icmp, fields["l4_checksum"], fields["dport"])
        return fields[node.name]


def _joined(rules: Sequence[tuple[Match, ...]]) -> list[tuple[Match, ...]]:
    """Alternatives; those that look at the same fields become one set, as ``nft -o`` would."""
    groups: dict[tuple, list[tuple[Cell, ...]]] = {}
    other: list[tuple[Match, ...]] = []
    for matches in rules:
        simple = matches and all(
            not one.negated and len(one.nodes) == 1 and len(one.rows) == 1 for one in matches
        )
        nodes = tuple(one.nodes[0] for one in matches if one.nodes)
        if not simple or len(set(nodes)) != len(nodes):
            other.append(matches)
            continue
        groups.setdefault(nodes, []).append(tuple(one.rows[0][0] for one in matches))
    for nodes, rows in groups.items():
        other.append((Match(nodes, merge_rows(rows)),))
    return other


# --- the policy as formulas ---------------------------------------------------------------------


def _policy_match(space: _Space, match: PolicyMatch) -> z3.BoolRef:
    fields, terms = space.fields, [space.version(match.version)]
    # What does not depend on addresses and ports is the same for every listener.
    common = (match.interfaces, match.not_interfaces, match.protocols, match.states, match.flags)
    terms.append(space.once(common, lambda: _common_match(space, match)))
    source = fields[f"source{match.version or 4}"]
    if match.sources is not None:
        terms.append(space.within(source, match.sources))
    if match.not_sources:
        key = "not from", match.version, match.not_sources
        terms.append(space.once(key, lambda: z3.Not(space.within(source, match.not_sources))))
    if match.destinations is not None:
        terms.append(space.within(fields[f"destination{match.version}"], match.destinations))
    for name, intervals in (
        ("sport", match.sport),
        ("dport", match.dport),
        ("icmp_type", match.icmp_types),
    ):
        if intervals is not None:
            terms.append(space.within(fields[name], intervals))
    if match.hop_limit is not None:
        terms.append(space.equal("hop_limit", match.hop_limit))
    return _all(terms)


def _common_match(space: _Space, match: PolicyMatch) -> z3.BoolRef:
    terms = []
    if match.interfaces is not None:
        terms.append(space.on(match.interfaces))
    if match.not_interfaces:
        terms.append(z3.Not(space.on(match.not_interfaces)))
    if match.protocols is not None:
        terms.append(_any([space.equal("protocol", n) for n in sorted(match.protocols)]))
    if match.states is not None:
        terms.append(_any([space.equal("state", STATES[n]) for n in sorted(match.states)]))
    if match.flags is not None:
        mask, value = match.flags
        terms.append(space.fields["tcp_flags"] & mask == value)
    return _all(terms)


@dataclass
class _PolicyFormula:
    """``decided[clause name]``: the condition under which that clause decides."""

    decided: dict[str, z3.BoolRef]
    required: z3.BoolRef
    forbidden: z3.BoolRef


def _policy_formula(space: _Space, policy: Policy) -> _PolicyFormula:
    decided: dict[str, z3.BoolRef] = {}
    by_promise: dict[Promise, list[z3.BoolRef]] = {promise: [] for promise in Promise}
    earlier: z3.BoolRef = _FALSE
    # Neighbours with one promise need no order among themselves.
    for promise, group in itertools.groupby(policy.clauses, key=lambda clause: clause.promise):
        holding = []
        for clause in group:
            holds = _any(
                [
                    _policy_match(space, match)
                    for match in clause.matches
                    if match.leaving == space.leaving
                ]
            )
            decided[clause.name] = holds
            holding.append(holds)
        whole = _any(holding)
        by_promise[promise].append(_all([whole, z3.Not(earlier)]))
        earlier = _any([earlier, whole])
    return _PolicyFormula(
        decided,
        _any(by_promise[Promise.REQUIRED]),
        _any(by_promise[Promise.FORBIDDEN]),
    )


# --- looking for witnesses ------------------------------------------------------------------------


class _Solver:
    """z3 on a space whose sets are spelled out as they turn out to matter."""

    def __init__(self, space: _Space, *terms: z3.BoolRef) -> None:
        self._solver = z3.SolverFor("QF_BV")
        self._solver.add(space.feasible(), *terms)
        self._vague = dict(enumerate(space.large))

    def add(self, term: z3.BoolRef) -> None:
        self._solver.add(term)

    def model(self, *assumptions: z3.BoolRef) -> z3.ModelRef | None:
        """A packet that satisfies everything, or None when there is none."""
        while True:
            answer = self._solver.check(*assumptions)
            if answer == z3.unsat:
                return None
            if answer == z3.unknown:
                raise errors.PolicyError(f"z3 gave up: {self._solver.reason_unknown()}")
            model = self._solver.model()
            wrong = self._wrong(model)
            if not wrong:
                return model
            for number in wrong:
                unknown, term, intervals = self._vague.pop(number)
                self._solver.add(unknown == _spell(term, intervals))

    def _wrong(self, model: z3.ModelRef) -> list[int]:
        """The sets about which the model is wrong. One it says nothing about does not matter, and
        is left vague."""
        found = []
        values: dict[int, int] = {}
        for number, (unknown, term, intervals) in self._vague.items():
            said = model.eval(unknown)
            if not (z3.is_true(said) or z3.is_false(said)):
                continue
            key = term.get_id()
            if key not in values:
                values[key] = model.eval(term, model_completion=True).as_long()
            if contains(intervals, values[key]) != z3.is_true(said):
                found.append(number)
        return found


def _accepts(space: _Space, ruleset: Ruleset, hooks: Sequence[str]) -> z3.BoolRef:
    """The condition under which a packet of either IP version passes its hooks."""
    formula = _RulesetFormula(space, ruleset, hooks)
    four, six = formula.accepts(4), formula.accepts(6)
    return z3.And(z3.Implies(space.v6, six), z3.Implies(z3.Not(space.v6), four))


def _packet(space: _Space, model: z3.ModelRef) -> Packet:
    """The packet of a model."""

    def number(term) -> int:
        return model.eval(term, model_completion=True).as_long()

    fields = space.fields
    version = 6 if z3.is_true(model.eval(space.v6, model_completion=True)) else 4
    special = {
        "source4", "source6", "destination4", "destination6", "protocol", "sport", "dport",
        "tcp_flags", "icmp_type", "icmp_code", "hop_limit", "state",
    }  # fmt: skip
    values = {name: number(fields[name]) for name in WIDTHS}
    plain = Packet(
        interface=space.interfaces[number(space.interface)],
        source=text_of(values[f"source{version}"], version),
        destination=text_of(values[f"destination{version}"], version),
        protocol=values["protocol"],
        sport=values["sport"],
        dport=values["dport"],
        tcp_flags=values["tcp_flags"],
        icmp_type=values["icmp_type"],
        icmp_code=values["icmp_code"],
        hop_limit=values["hop_limit"],
        state=STATE_NAMES[values["state"]],
        leaving=space.leaving,
    )
    usual = plain.values()
    extra = {k: v for k, v in values.items() if k not in special and v != usual[k]}
    return replace(plain, extra=extra)


def _chances(space: _Space, model: z3.ModelRef) -> dict[str, bool]:
    """How limits and random numbers turn out in a model."""
    return {
        what: not z3.is_false(model.eval(unknown, model_completion=True))
        for what, unknown in space.chances.items()
    }


class _Search:
    def __init__(
        self,
        policy: Policy,
        ruleset: Ruleset,
        interfaces: Sequence[str],
        hooks: Sequence[str],
        within: Sequence[PolicyMatch] | None = None,
        leaving: bool = False,
    ) -> None:
        self.policy, self.ruleset, self.hooks = policy, ruleset, hooks
        self.space = _Space(_all_interfaces(interfaces, ruleset), leaving, ruleset.expects)
        self.accepts = _accepts(self.space, ruleset, hooks)
        self.wanted = _policy_formula(self.space, policy)
        self.within = (
            _TRUE
            if within is None
            else _any([_policy_match(self.space, match) for match in within])
        )

    def find(self, bad: z3.BoolRef, limit: int) -> tuple[list[Witness], bool]:
        """Up to ``limit`` witnesses of ``bad``, each unlike the others; and whether there are
        more."""
        solver = _Solver(self.space, bad, self.within)
        found: list[Witness] = []
        while (model := solver.model()) is not None:
            if len(found) == limit:
                return found, True
            witness = self._witness(self._plainest(solver, model))
            found.append(witness)
            solver.add(z3.Not(self._alike(witness)))
        return found, False

    def _plainest(self, solver: _Solver, model: z3.ModelRef) -> z3.ModelRef:
        """The model that people find easiest to read: wishes are granted while they can be."""
        space, fields = self.space, self.space.fields
        vips = {address(text)[0]: address(text)[1] for text in reversed(self.policy.vips)}
        granted: list[z3.BoolRef] = []

        def source_is_possible(version: int) -> z3.BoolRef:
            intervals = IMPOSSIBLE_SOURCES[version]
            return z3.Not(_spell(fields[f"source{version}"], intervals))

        near, far, here, there = "destination", "source", "dport", "sport"
        if space.leaving:
            near, far, here, there = far, near, there, here
        flags = headers.SYN | headers.ACK if space.leaving else headers.SYN
        wishes = [
            space.on([self.policy.vip_interface]),
            fields["state"] == STATES["new"],
            z3.Not(space.v6) if 4 in vips else space.v6,
            fields["protocol"] == headers.TCP,
            fields["tcp_flags"] == flags,
            _any([fields[here] == entry.port for entry in self.policy.listeners]),
            fields[there] == 40000,
            fields["hop_limit"] == 64,
            z3.And(source_is_possible(4), source_is_possible(6)),
        ]
        for version, number in vips.items():
            wishes.append(fields[f"{near}{version}"] == number)
        # Documentation prefixes, then anything that is not the VIP itself.
        wishes.append(z3.Extract(31, 8, fields[f"{far}4"]) == 0xCB0071)
        wishes.append(z3.Extract(127, 96, fields[f"{far}6"]) == 0x20010DB8)
        plain = set(WIDTHS) - {
            "protocol", "source4", "source6", "destination4", "destination6", "sport", "dport",
            "tcp_flags", "icmp_type", "hop_limit", "state",
        }  # fmt: skip
        # As in ``Packet.usual``.
        answered = z3.BitVecVal(headers.SEEN_REPLY | headers.CONFIRMED, 32)
        established = space.equal("state", STATES["established"])
        usual = {
            "next_header": fields["protocol"],
            "header_words": 5,
            "tcp_offset": 5,
            "ct_status": z3.If(established, answered, z3.BitVecVal(0, 32)),
        }
        nothing = [fields[name] == usual.get(name, 0) for name in sorted(plain)]
        wishes += [_all(nothing), *nothing]
        for wish in wishes:
            if not z3.is_true(model.eval(wish, model_completion=True)):
                other = solver.model(*granted, wish)
                if other is None:
                    continue
                model = other
            granted.append(wish)
        return model

    def _witness(self, model: z3.ModelRef) -> Witness:
        packet, chances = _packet(self.space, model), _chances(self.space, model)
        outcome = evaluate(self.ruleset, packet, hooks=self.hooks, chances=chances)
        clause = self.policy.decide(packet)
        disagree = (outcome.accepted and clause.promise is Promise.FORBIDDEN) or (
            not outcome.accepted and clause.promise is Promise.REQUIRED
        )
        if not disagree:
            raise errors.PolicyError(
                f"The proof and the evaluation read one ruleset in two ways: {packet} is "
                f"{outcome.verdict} and {clause.promise.value}.",
                remedy="Report this as a bug of the plugin, with the ruleset.",
            )
        sentence = self._sentence(packet, clause, outcome, chances)
        return Witness(packet, clause, outcome, sentence)

    def _sentence(
        self, packet: Packet, clause: Clause, outcome: Outcome, chances: dict[str, bool]
    ) -> str:
        why = self.policy.explain(packet)
        step = outcome.decided
        if step is None:
            how = "no chain is hooked there"
        elif step.rule is None:
            how = f"no rule of {step.chain} matches and its policy is {step.verdict}"
        else:
            how = f"{step.chain} rule {step.rule.number} `{render.rule_text(step.rule)}`"
        depends = ""
        for what, happens in chances.items():
            other = {**chances, what: not happens}
            turned = evaluate(self.ruleset, packet, hooks=self.hooks, chances=other)
            if turned.accepted != outcome.accepted:
                depends = f" (depending on a limit or on what else changes: {what[:120]})"
        way = "out" if packet.leaving else "in"
        does = f"lets it {way}" if outcome.accepted else f"does not let it {way}"
        return f"{packet} {clause.promise.value} ({why}), but the ruleset {does}: {how}{depends}."

    def _alike(self, witness: Witness) -> z3.BoolRef:
        """Packets that would tell a reader nothing new: same family, protocol, port (or ICMP
        type) and interface; for what is closed, also the same clause."""
        packet, fields = witness.packet, self.space.fields
        terms = [
            self.space.version(packet.version),
            fields["protocol"] == packet.protocol,
            self.space.on([packet.interface]),
        ]
        if packet.protocol in headers.WITH_PORTS:
            terms.append(fields["dport"] == packet.dport)
        elif packet.protocol in (headers.ICMP, headers.ICMPV6):
            terms.append(fields["icmp_type"] == packet.icmp_type)
        if not witness.too_open:
            terms[1:] = [self.wanted.decided[witness.clause.name]]
        return _all(terms)


def _all_interfaces(there: Iterable[str], ruleset: Ruleset) -> tuple[str, ...]:
    """Those that are there, then one for each way in which rules tell interfaces apart."""
    patterns = ruleset.interfaces()
    named = {name for name in patterns if not name.endswith("*")}
    for pattern in sorted(patterns - named):
        # One that this pattern matches and that no rule names in full.
        named.add(_unlike(pattern[:-1] + "0", named))
    prefixes = [name[:-1] for name in patterns if name.endswith("*")]
    candidates = [f"{letter}{ANOTHER}" for letter in ("", *string.ascii_lowercase)]
    unnamed = [
        name
        for name in candidates
        if not any(prefix and name.startswith(prefix) for prefix in prefixes)
    ]
    last = [_unlike(name, {*there, *named}) for name in unnamed[:1]]
    return tuple(dict.fromkeys([*there, *sorted(named), *last]))


def _unlike(name: str, others: set[str]) -> str:
    while name in others:
        name += "0"
    return name


def disagreements(
    policy: Policy,
    ruleset: Ruleset,
    *,
    interfaces: Sequence[str] = ("lo", "eth1", "eth2"),
    limit: int = 10,
    hooks: Sequence[str] = INPUT,
    within: Sequence[PolicyMatch] | None = None,
) -> Disagreements:
    """Compare promise and rules over all packets.

    :param interfaces: the interfaces that are there; the policy's VIP interface is added if
        missing. What has to pass has to on these; what may not pass may not on any.
    :param limit: witnesses of each kind.
    :param within: only packets that one of these matches, such as those that a host on the VIP
        network is able to send; then nothing is said of what leaves.
    :raises UnknownExpression: the ruleset cannot be decided.
    """
    started = time.monotonic()
    names = list(dict.fromkeys([policy.vip_interface, *interfaces]))
    search = _Search(policy, ruleset, names, hooks, within)
    opened, more = search.find(z3.And(search.wanted.forbidden, search.accepts), limit)
    closed, others = search.find(_closed(search, names), limit)
    # Without rules for what leaves, everything does.
    if within is None and any(chain.hook in OUTPUT for chain in ruleset.chains.values()):
        out = _Search(policy, ruleset, names, OUTPUT, leaving=True)
        kept, still = out.find(_closed(out, names), limit)
        closed, others = closed + kept, others or still
    return Disagreements(tuple(opened), tuple(closed), more or others, time.monotonic() - started)


def _closed(search: _Search, there: Sequence[str]) -> z3.BoolRef:
    """What has to pass on the interfaces that are there, and does not."""
    space = search.space
    kept_out = z3.Not(search.accepts)
    return z3.And(search.wanted.required, kept_out, space.on(there), space.ordinary())


@dataclass(frozen=True)
class Difference:
    """A packet that one of two rulesets lets in and the other does not."""

    packet: Packet
    first: Outcome
    second: Outcome

    def __str__(self) -> str:
        verdicts = f"the first says {self.first.verdict}, the other {self.second.verdict}"
        return f"{self.packet}: {verdicts}"


def difference(
    first: Ruleset,
    second: Ruleset,
    *,
    interfaces: Sequence[str] = ("lo", "eth1", "eth2"),
    hooks: Sequence[str] = INPUT,
) -> Difference | None:
    """A packet on which two rulesets differ; None when there is none, which is proved.

    What limits and random numbers decide is the same in both if it reads the same.

    :raises UnknownExpression: one of them cannot be decided.
    """
    named = [*interfaces, *_all_interfaces((), first), *_all_interfaces((), second)]
    space = _Space(tuple(dict.fromkeys(named)), expects=first.expects or second.expects)
    one, other = _accepts(space, first, hooks), _accepts(space, second, hooks)
    model = _Solver(space, z3.Xor(one, other)).model()
    if model is None:
        return None
    packet = _packet(space, model)
    chances = _chances(space, model)
    return Difference(
        packet,
        evaluate(first, packet, hooks=hooks, chances=chances),
        evaluate(second, packet, hooks=hooks, chances=chances),
    )
