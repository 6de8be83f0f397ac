# SPDX-License-Identifier: Apache-2.0
"""The fate of one packet in a ruleset, and the rules that decided it.

Independent of the proof on purpose: two readings of the same rules that must agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sriov_lb_tests import errors
from sriov_lb_tests.policy.intervals import contains
from sriov_lb_tests.policy.packet import STATES, Packet
from sriov_lb_tests.policy.ruleset import (
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

#: Conntrack looks at packets at this priority of prerouting and output; before, rules see no state.
CONNTRACK_PRIORITY = -200

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


def seen_state(chain: Chain, state: int, untracked: bool) -> int:
    """What ``ct state`` reads as in a chain, given what conntrack will say of the packet."""
    if untracked:
        return STATES["untracked"]
    early = chain.hook == "ingress" or (
        chain.hook in ("prerouting", "output") and chain.priority < CONNTRACK_PRIORITY
    )
    return STATES["invalid"] if early else state


def first_only(chain: Chain) -> Chance:
    """Of a flow's packets only the first meets a nat chain (nf_nat_inet_fn), whatever it drops."""
    return Chance(f"{chain} is a nat chain, which only the first packet of a flow meets")


class _Walk:
    def __init__(self, ruleset: Ruleset, packet: Packet, chances: Mapping[str, bool]) -> None:
        self.ruleset, self.packet, self.chances = ruleset, packet, chances
        self.values = packet.values()
        self.state = self.values["state"]
        self.untracked = False
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
            # A packet on its way in has no output interface, one that leaves no input interface.
            there = self.packet.leaving == (node.name == "output")
            return self.packet.interface if there else None
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
        self.values["state"] = seen_state(hooked, self.state, self.untracked)
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
                self.untracked = True
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
