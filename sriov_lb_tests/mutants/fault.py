# SPDX-License-Identifier: Apache-2.0
"""What a fault is, and what it is seeded into. Pure."""

from __future__ import annotations

import enum
import functools
import ipaddress
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sriov_lb_tests.mutants.listing import Entry, Expression, Listing, find_gate, spelled
from sriov_lb_tests.policy.intervals import address
from sriov_lb_tests.policy.model import Policy


class Test(enum.Enum):
    """The tests of the matrix: its columns."""

    __test__ = False  # nothing that pytest should collect

    PROOF = "proof"
    DISK = "disk"
    ALLOWED = "allowed"
    DENIED = "denied"
    PORTS = "ports"
    STRANGERS = "strangers"
    REQUESTS = "requests"
    FLOWS = "flows"
    NEIGHBOURS = "neighbours"
    CATALOGUE = "catalogue"
    WITNESSES = "witnesses"
    FORWARDING = "forwarding"

    @property
    def static(self) -> bool:
        """Whether it sends no packet."""
        return self in (Test.PROOF, Test.DISK)


#: What each column looks at.
MEANING = {
    Test.PROOF: "policy against the ruleset in the kernel, over all packets",
    Test.DISK: "policy against the rules file that a reboot would load, over all packets",
    Test.ALLOWED: "sources that a listener is open to are served",
    Test.DENIED: "sources that it is not open to, at the edges of its CIDRs, are not",
    Test.PORTS: "TCP ports without a listener are silent",
    Test.STRANGERS: "UDP, ICMP, VRRP, tunnels, services of the amphora: silent",
    Test.REQUESTS: "an HTTP request through the VIP is answered by a member",
    Test.FLOWS: "a connection that stands is answered on; errors about it come through",
    Test.NEIGHBOURS: "the VIP answers neighbour solicitation, and hears advertisements",
    Test.CATALOGUE: "packet classes of the catalogue meet the fate they deserve",
    Test.WITNESSES: "the witnesses of the proof do on the wire what the proof says",
    Test.FORWARDING: "a packet for somebody else is not passed on",
}


@dataclass(frozen=True)
class Change:
    """What is done to an amphora.

    :param detail: what exactly, with the rule: one sentence.
    :param listing: the ruleset with the fault in it; None leaves it alone.
    :param sysctls: kernel settings of the VIP's namespace.
    :param repair: kernel settings under which it is not so, where it is so without any fault: the
        test has to be silent with them first.
    :param routes: IP versions whose forwarding it is about.
    :param rules_file: text of the rules file; None leaves it alone.
    :param no_rules_file: there is none any more.
    :param stale_ports: TCP ports that were served once, as far as this fault pretends.
    """

    detail: str
    listing: Listing | None = None
    sysctls: Mapping[str, str] = field(default_factory=dict)
    rules_file: str | None = None
    repair: Mapping[str, str] = field(default_factory=dict)
    routes: tuple[int, ...] = ()
    no_rules_file: bool = False
    stale_ports: tuple[int, ...] = ()


#: What decides whether the kernel passes on what is not for itself. IPv6 has no such setting for
#: one interface.
FORWARDING_SETTING = {4: "net.ipv4.conf.eth1.forwarding", 6: "net.ipv6.conf.all.forwarding"}


@dataclass(frozen=True)
class Target:
    """What faults are seeded into: one amphora's rules, and what they should say.

    :param listing: the ruleset, without our own tables.
    :param backup: whether it is the amphora of a pair that does not hold the VIP.
    :param rules_file: what a reboot would load; None where there is no such file.
    :param settings: kernel settings of the VIP's namespace.
    :param aimed: by IP version, the source that the catalogue sends from as one that is allowed.
    """

    listing: Listing
    policy: Policy
    backup: bool = False
    rules_file: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    aimed: Mapping[int, str] = field(default_factory=dict)

    @functools.cached_property
    def _found(self) -> tuple[tuple, tuple | None]:
        return find_gate(self.listing, self.policy.vip_interface)

    @property
    def gate(self) -> tuple[str, str, str]:
        """The base chain that guards the VIP."""
        return self._found[0]

    @property
    def vip_chain(self) -> tuple[str, str, str] | None:
        """The chain of the listeners' rules; None before the first listener."""
        return self._found[1]

    @functools.cached_property
    def entries(self) -> tuple[Entry, ...]:
        """The rows of the listeners' and the pair's rules that accept."""
        if self.vip_chain is None:
            return ()
        return tuple(
            entry
            for index, expression in self.listing.rules(self.vip_chain)
            for row, one in enumerate(spelled(expression))
            if (entry := Entry(index, row, tuple(one))).accepts
        )

    def _rows(self, version: int | None = None) -> list[Entry]:
        """The rows of TCP listeners; of CIDRs of an IP version, if one is named."""
        rows = [e for e in self.entries if e.transport == "tcp" and e.port is not None]
        return rows if version is None else [e for e in rows if e.version == version]

    def listener(
        self, version: int | None = None, *, bounded: bool = False, beside: int = 0
    ) -> Entry | None:
        """A row of a TCP listener.

        :param version: of the CIDR; None takes any row, best one for everybody.
        :param bounded: the CIDR is neither a host nor the whole family.
        :param beside: so many ports further there is no listener, so that what gets in there by
            mistake shows as a port without one.
        """
        rows = self._rows(version)
        if beside:
            served = {e.port for e in self._rows()}
            rows = [e for e in rows if e.port + beside not in served]
        if version is not None:
            if bounded:
                rows = [e for e in rows if 0 < e.network.prefixlen < e.network.max_prefixlen]
            return rows[0] if rows else None
        return next((e for e in rows if e.network is None), rows[0] if rows else None)

    @property
    def catalogued(self) -> Entry | None:
        """The row that lets the catalogue's allowed source in: one with a CIDR, if there is one."""
        for version in (4, 6):
            rows, source = self._rows(version), self.aimed.get(version)
            hit = [e for e in rows if source and ipaddress.ip_address(source) in e.network]
            if hit or rows:
                return (hit or rows)[0]
        return self.listener()

    @property
    def peer(self) -> Entry | None:
        """The row that lets the peer's VRRP in."""
        return next((entry for entry in self.entries if entry.is_vrrp), None)

    def versions(self) -> set[int]:
        return {address(text)[0] for text in self.policy.vips}

    def rule(self, *words: str) -> tuple[int, Expression] | None:
        """The first rule of the gate whose JSON holds all the words."""
        for index, expression in self.listing.rules(self.gate):
            text = json.dumps(expression)
            if all(word in text for word in words):
                return index, expression
        return None

    def way(self) -> tuple[int, Expression] | None:
        """The gate's rule that sends the VIP's packets to their chain."""
        if self.vip_chain is None:
            return None
        return self.rule(f'"target": "{self.vip_chain[2]}"')


#: From the target to what is done; None where the ruleset has nothing for it.
Make = Callable[[Target], "Change | None"]


@dataclass(frozen=True)
class Fault:
    """One fault, apart from any amphora.

    :param id: unique, stays the same for good.
    :param breaks: what it breaks, in one clause.
    :param tests: the tests that should catch it, each of them; none for a change that is
        harmless, which the proof has to recognise.
    :param unseen: why no packet from the VIP network can show it; "" when one can.
    :param make: the change for one ruleset.
    :param backup: whether it goes into the amphora of a pair that does not hold the VIP.
    """

    id: str
    breaks: str
    tests: tuple[Test, ...]
    make: Make
    unseen: str = ""
    backup: bool = False

    @property
    def harmless(self) -> bool:
        """Whether it breaks nothing, so that an alarm would be a false one."""
        return not self.tests

    @property
    def where(self) -> str:
        """``statically`` or ``statically and on the wire``."""
        ways = [
            word
            for word, static in (("statically", True), ("on the wire", False))
            if any(test.static is static for test in self.tests)
        ]
        return " and ".join(ways)

    def line(self) -> str:
        """For lists: id, what it breaks, who should catch it."""
        if self.harmless:
            return f"{self.id:<24} {self.breaks}. Harmless: {self.unseen}"
        names = ", ".join(test.value for test in self.tests)
        return f"{self.id:<24} {self.breaks}. Caught by: {names} ({self.where})"
