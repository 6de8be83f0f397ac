# SPDX-License-Identifier: Apache-2.0
"""The fate of one packet in a ruleset, and the rules that decided it.

Independent of the proof on purpose: two readings of the same rules that must agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sriov_lb_tests import errors
from sriov_lb_tests.policy.intervals import contains
from sriov_lb_tests.policy.packet import FRAGMENT, FRAGMENTED, STATES, Packet
from sriov_lb_tests.policy.ruleset import (
    CONNTRACK_PRIORITY,
    Cell,
    Chain,
    Chance,
    Field,
    Masked,
    Match,
    Node,
    Rewrite,
    Rule,
    Ruleset,
    SetMark,
    Untrack,
    Verdict,
    VerdictMap,
)

#: Hooks a packet for the host itself passes.
INPUT = ("ingress", "prerouting", "input")

#: Hooks a packet of the host itself passes.
OUTPUT = ("output", "postrouting")

#: Conntrack has fragments put together at this priority of prerouting and output.
DEFRAGMENTATION_PRIORITY = -400

#: What conntrack says of packets that have no connection.
WITHOUT_CONNECTION = (STATES["invalid"], STATES["untracked"])

#: Jumps that follow each other; nftables itself refuses more than 16.
DEEPEST = 32


@dataclass(frozen=True)
class Step:
    """One rule that matched, or a chain's policy (rule None)."""

    chain: Chain
    rule: Rule | None
    verdict: str

    def __str__(self) -> str:
        where = "policy" if self.rule is None else f"rule {self.rule.number}"
        return f"{self.chain} {where}: {self.verdict}"


@dataclass(frozen=True)
class Outcome:
    """``accept``, ``drop`` or ``reject``, and how it came to that.

    ``decided`` is the step that settled it: the last one.
    """

    verdict: str
    trace: tuple[Step, ...]

    @property
    def accepted(self) -> bool:
        return self.verdict == "accept"

    @property
    def decided(self) -> Step | None:
        return self.trace[-1] if self.trace else None


def before_conntrack(chain: Chain) -> bool:
    """Whether packets come to a chain before conntrack looks at them."""
    return chain.hook == "ingress" or (
        chain.hook in ("prerouting", "output") and chain.priority < CONNTRACK_PRIORITY
    )


def reassembled(chain: Chain, version: int, tracked: bool) -> bool:
    """Whether a packet that came in fragments comes to a chain in one piece.

    Where conntrack is in use, nf_defrag_ipv4 and nf_defrag_ipv6 see to it. Otherwise IPv4 does
    before the hook input (ip_local_deliver), IPv6 only behind it.

    :param tracked: whether conntrack looks at packets of that IP version.
    """
    if chain.hook == "ingress":
        return False
    # Of a chain at that very priority nobody knows: what it may see is fragments as well.
    if chain.hook in ("prerouting", "output") and chain.priority <= DEFRAGMENTATION_PRIORITY:
        return False
    return tracked or (version == 4 and chain.hook == "input")


def first_only(chain: Chain) -> Chance:
    """Of a flow's packets only the first meets a nat chain (nf_nat_inet_fn), whatever it drops."""
    return Chance(f"{chain} is a nat chain, which only the first packet of a flow meets")


class _Walk:
    def __init__(self, ruleset: Ruleset, packet: Packet, chances: Mapping[str, bool]) -> None:
        self.ruleset, self.packet, self.chances = ruleset, packet, chances
        self.values = packet.values()
        self.state = self.values["state"]
        self.untracked = self.whole = False
        self.trace: list[Step] = []

    def meets(self, chain: Chain) -> bool:
        """Whether the packet comes by a base chain at all."""
        if chain.device is not None and chain.device != self.packet.interface:
            return False
        if chain.kind != "nat":
            return True
        # An ICMP error follows its flow; an expected flow begins as a new one does.
        icmp = self.packet.protocol in (1, 58)
        begins = self.state == STATES["new"] or (self.state == STATES["related"] and not icmp)
        return (
            begins and not self.untracked and self.chances.get(first_only(chain).what, True)
        )

    # reading

    def seen_state(self, chain: Chain) -> int:
        """What ``ct state`` reads as in a chain."""
        if self.untracked:
            return STATES["untracked"]
        # What comes by the loopback was tracked when it left, and brings its connection along.
        looped = self.packet.interface == "lo" and not self.packet.leaving
        return STATES["invalid"] if before_conntrack(chain) and not looped else self.state

    def read(self, node: Node) -> int | str | None:
        """The value, or None when the packet has no such field."""
        if isinstance(node, Masked):
            inner = self.read(node.inner)
            if inner is None:
                return None
            return {
                "&": inner & node.operand,
                "|": inner | node.operand,
                "^": inner ^ node.operand,
            }[node.operation]
        if node.version is not None and node.version != self.packet.version:
            return None
        if node.protocol is not None and node.protocol != self.packet.protocol:
            return None
        return self._plain(node)

    def _plain(self, node: Field) -> int | str | None:
        quotes_icmp = self.packet.protocol in (1, 58)
        if node.name in ("interface", "output"):
            # A packet on its way in has no output interface, one that leaves no input interface:
            # that is a name without letters, which differs from any other.
            there = self.packet.leaving == (node.name == "output")
            return self.packet.interface if there else ""
        if node.name == "frag_off" and self.whole:
            return self.values["frag_off"] & ~FRAGMENTED
        if node.name == "next_header" and self.values["fragment_header"] and not self.whole:
            return FRAGMENT
        if node.name.startswith("ct_") and self.values["state"] in WITHOUT_CONNECTION:
            return None
        if node.name == "version":
            # NFPROTO numbers differ (2, 10); the parser turns names into 4 and 6.
            return self.packet.version
        if node.name == "ethertype":
            return 0x0800 if self.packet.version == 4 else 0x86DD
        if node.name == "th_sport":
            both = (self.packet.icmp_type << 8) | self.packet.icmp_code
            return both if quotes_icmp else self.values["sport"]
        if node.name == "th_dport":
            return self.values["l4_checksum"] if quotes_icmp else self.values["dport"]
        if node.name.startswith("ether_") and (
            self.packet.interface == "lo" or self.packet.leaving
        ):
            return None
        return self.values[node.name]

    def matches(self, nodes: Sequence[Node], rows: Sequence[Sequence[Cell]]) -> bool | None:
        """Whether the fields are in a row; None when one of them is not there."""
        values = [self.read(node) for node in nodes]
        if any(value is None for value in values):
            return None
        return any(
            all(in_cell(value, cell) for value, cell in zip(values, row, strict=True))
            for row in rows
        )

    # walking

    def chain(self, chain: Chain, hooked: Chain, depth: int = 0) -> str | None:
        """``accept``, ``drop`` or ``reject``; None when the chain ends without a verdict."""
        if depth > DEEPEST:
            raise errors.UnknownExpression(f"Jumps deeper than {DEEPEST} from {hooked}.")
        for rule in chain.rules:
            verdict = self.rule(chain, rule, hooked)
            if verdict is None or verdict.kind == "continue":
                continue
            self.trace.append(Step(chain, rule, f"{verdict.kind} {verdict.target or ''}".strip()))
            if verdict.kind in ("accept", "drop", "reject"):
                return verdict.kind
            if verdict.kind == "return":
                return None
            result = self.chain(self.ruleset.chain(chain, verdict.target), hooked, depth + 1)
            if result is not None or verdict.kind == "goto":
                return result
        return None

    def rule(self, chain: Chain, rule: Rule, hooked: Chain) -> Verdict | None:
        self.values["state"] = self.seen_state(hooked)
        version = self.packet.version
        self.whole = reassembled(hooked, version, version in self.ruleset.tracked)
        for statement in rule.statements:
            if isinstance(statement, Match):
                found = self.matches(statement.nodes, statement.rows)
                if found is None or found == statement.negated:
                    return None
            elif isinstance(statement, Chance):
                if not self.chances.get(statement.what, True):
                    return None
            elif isinstance(statement, Verdict):
                return statement
            elif isinstance(statement, VerdictMap):
                # Without a row (or without the field) the rule ends here: NFT_BREAK.
                return self.lookup(statement.nodes, statement.entries)
            elif isinstance(statement, SetMark):
                mark = statement.value
                if mark is None:
                    mark = self.lookup(statement.nodes, statement.entries)
                    if mark is None:
                        return None
                self.values["mark"] = mark
            elif isinstance(statement, Untrack):
                # nft_notrack_eval leaves a packet alone that has a connection.
                if self.values["state"] == STATES["invalid"]:
                    self.untracked = True
                    self.values["state"] = STATES["untracked"]
            elif isinstance(statement, Rewrite):
                raise errors.UnknownExpression(
                    f"A packet meets {statement.expression} in {chain} rule "
                    f"{rule.number}: what it becomes is not known.",
                    expression=statement.expression,
                )
        return None

    def lookup(self, nodes, entries):
        """The value of the first entry that matches; None when none does or a field is missing."""
        if any(self.read(node) is None for node in nodes):
            return None
        for row, value in entries:
            if row is None or self.matches(nodes, (row,)):
                return value
        return None


def in_cell(value: int | str, cell: Cell) -> bool:
    """Whether one value is in one cell of a row."""
    if isinstance(cell, frozenset):
        return any(matches_name(str(value), pattern) for pattern in cell)
    return contains(cell, value)


def matches_name(name: str, pattern: str) -> bool:
    """Interface names; ``eth*`` is a prefix."""
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def evaluate(
    ruleset: Ruleset,
    packet: Packet,
    *,
    hooks: Sequence[str] | None = None,
    chances: Mapping[str, bool] | None = None,
) -> Outcome:
    """What the ruleset does with a packet.

    :param hooks: the hooks it passes, in order; by default those of its direction.
    :param chances: how limits and random numbers turn out, by ``Chance.what``; matching unless
        said otherwise.
    :raises UnknownExpression: it meets a rule that would rewrite it.
    """
    walk = _Walk(ruleset, packet, chances or {})
    if hooks is None:
        hooks = OUTPUT if packet.leaving else INPUT
    for chain in ruleset.path(packet.version, hooks):
        if not walk.meets(chain):
            continue
        verdict = walk.chain(chain, chain)
        if verdict is None:
            verdict = chain.policy
            walk.trace.append(Step(chain, None, verdict))
        if verdict != "accept":
            return Outcome(verdict, tuple(walk.trace))
    return Outcome("accept", tuple(walk.trace))
