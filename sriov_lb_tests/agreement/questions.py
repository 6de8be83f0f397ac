# SPDX-License-Identifier: Apache-2.0
"""From a policy to the packets that are sent to look whether it holds on the wire. Pure."""

from __future__ import annotations

import bisect
import ipaddress
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sriov_lb_tests.policy import packet as headers
from sriov_lb_tests.policy.intervals import (
    Intervals,
    address,
    contains,
    everything,
    network,
    text_of,
)
from sriov_lb_tests.policy.model import Listener, Policy, Promise
from sriov_lb_tests.policy.packet import Packet

#: How many sources of each kind are tried for one listener and IP version.
SOURCES = 3
#: The same for a thorough look: both ends of several CIDRs.
MANY_SOURCES = 12

#: Of how many CIDRs of one listener and IP version a source each is tried, and asks for ports
#: without a listener: a rule that lost its port is open to its own CIDR alone. Of more CIDRs than
#: that it is the first, the last, and some between.
CIDRS = 6
#: The same for a thorough look.
MANY_CIDRS = 24

#: TCP ports of an amphora's own services: ssh, stick tables, agent.
AMPHORA_PORTS = (22, 1025, 9443)

#: Tried where a load balancer has no listener and nobody says which ports it used to have.
USUAL_PORTS = (80, 443)


@dataclass(frozen=True)
class Reach:
    """Which sources may be sent from, so that answers come back.

    :param own: addresses of the sender.
    :param links: networks on its link (CIDRs) it may pretend to be a host of; () where port
        security holds it to its own addresses.
    :param taken: addresses of others, which are never pretended.
    :param anywhere: whether answers to sources off the link come back too, because the sender
        plays the router.
    """

    own: tuple[str, ...]
    links: tuple[str, ...] = ()
    taken: frozenset[str] = frozenset()
    anywhere: bool = False

    @classmethod
    def of(
        cls,
        vantage: Any,
        subject: Any,
        links: Iterable[str] = (),
        taken: Iterable[str] = (),
        anywhere: bool = False,
    ) -> Reach:
        """For a vantage: its interface's addresses; VIPs and base ports are taken.

        Of several addresses only those count whose subnet the load balancer has an address on,
        too: to the others there is no way back, or one by routers that nobody promised.
        """
        policy = subject.policy()
        has = [ipaddress.ip_address(text) for text in (*policy.vips, *subject.addresses)]
        wide = [one for one in vantage.interface.addresses if not one.ip.is_link_local]
        near = [one for one in wide if any(other in one.network for other in has)]
        versions = {one.version for one in near}
        own = tuple(str(one.ip) for one in wide if one in near or one.version not in versions)
        others = frozenset([*policy.vips, *subject.addresses, *taken])
        return cls(own, tuple(links), others, anywhere)

    def _may_pretend(self, text: str) -> bool:
        one = ipaddress.ip_address(text)
        if text in self.taken or one.is_multicast or one.is_loopback or one.is_unspecified:
            return False
        for link in map(ipaddress.ip_network, self.links):
            if one.version == link.version and one in link:
                # The first host is a router's, as a rule.
                edges = (link.network_address, link.network_address + 1, link.broadcast_address)
                return one not in edges
        return self.anywhere

    def sources(self, version: int, wanted: Intervals, *, inside: bool) -> Iterator[str]:
        """Addresses in ``wanted`` (or outside of it), own ones first, then those at its edges."""
        seen = set()
        for text in [*self.own, *self._edges(version, wanted, inside)]:
            found, number = address(text)
            if found != version or text in seen or contains(wanted, number) is not inside:
                continue
            if text in self.own or self._may_pretend(text):
                seen.add(text)
                yield text

    def _edges(self, version: int, wanted: Intervals, inside: bool) -> Iterator[str]:
        top = (1 << (32 if version == 4 else 128)) - 1
        networks = [net for net in map(ipaddress.ip_network, self.links) if net.version == version]
        # Each interval has its turn before any has its second: there may be more than are tried.
        if not inside:
            for step in (1, 2):
                for low, high in wanted:
                    for number in (low - step, high + step):
                        if 0 <= number <= top:
                            yield text_of(number, version)
            yield from (str(net[-6]) for net in networks if net.num_addresses > 8)
            return
        spans = []
        for low, high in wanted:
            parts = [(max(low, int(net[0])), min(high, int(net[-1]))) for net in networks]
            spans += [(a, b) for a, b in parts if a <= b] or [(low, high)]
        # A few of either end: the outermost may be nobody's.
        for step in (0, 1, 2):
            for a, b in spans:
                for number in (a + step, b - step):
                    if a <= number <= b:
                        yield text_of(number, version)


@dataclass(frozen=True)
class Question:
    """One packet whose fate is looked at.

    :param why: what it is, for people: ``a source in allowed_cidrs``.
    :param promise: what the policy says of it, and ``clause`` which of its clauses.
    :param control: a packet that differs in what is under test and has to pass; None when there
        is none, then the link itself is the control.
    :param shows: whether an accepted one is answered in a way that its sender sees.
    """

    packet: Packet
    why: str
    promise: Promise
    control: Packet | None = None
    shows: bool = True
    clause: str = ""


def questions(
    policy: Policy,
    reach: Reach,
    *,
    ports: Sequence[int] = (),
    bases: Sequence[str] = (),
    neighbours: bool = True,
    thorough: bool = False,
    sources: int | None = None,
) -> list[Question]:
    """What to ask of the wire.

    What may not pass is asked of all VIPs and base ports in turn: a rule may be right for one only.
    A listener's port, and ports without one, are asked for by a source of each of its CIDRs, up to
    :data:`CIDRS` (:data:`MANY_CIDRS` when thorough): a rule is one CIDR's.

    :param ports: TCP ports that were served once and may have been forgotten in a ruleset, or that
        never were; those with a listener are left out.
    :param bases: base port addresses of amphorae, which serve nobody either.
    :param neighbours: ask for the next port without a listener on either side of each listener's,
        too.
    :param thorough: also for what no listener is about: other protocols, the amphora's own
        services, the pair's, ICMP, address configuration.
    :param sources: how many of each kind are tried for one listener and IP version; by default
        :data:`SOURCES`, and :data:`MANY_SOURCES` when thorough.
    """
    if sources is None:
        sources = MANY_SOURCES if thorough else SOURCES
    maker = _Questions(policy, reach, sources, MANY_CIDRS if thorough else CIDRS, bases)
    found = list(maker.ask(tuple(ports), neighbours))
    if thorough:
        found += maker.beyond(found)
    return [replace(one, clause=policy.decide(one.packet).name) for one in found]


def _in_turn(sources: Sequence[str], targets: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Every source and every target at least once, in as few pairs as that takes."""
    for number in range(max(len(sources), len(targets)) if sources else 0):
        yield sources[number % len(sources)], targets[number % len(targets)]


def _by_turns(lists: Iterable[Sequence[str]]) -> list[str]:
    """The first of each, then the second of each, and so on; what comes twice once."""
    rows = itertools.zip_longest(*lists)
    return list(dict.fromkeys(text for row in rows for text in row if text is not None))


def _spread(found: Sequence[str], limit: int) -> list[str]:
    """At most ``limit`` (2 or more) of them: the first, the last, and evenly from between."""
    last = len(found) - 1
    if last < limit:
        return list(found)
    return [found[number * last // (limit - 1)] for number in range(limit)]


def _to(target: str, packets: Iterable[Packet], source: str | None = None) -> Packet | None:
    """A packet to that address, from that source if there is one; None if there is none.

    Of a base port nothing is promised: there its link answers for it.
    """
    found = [packet for packet in packets if packet.destination == target]
    same = [packet for packet in found if packet.source == source]
    return (same or found or [None])[0]


class _Questions:
    def __init__(
        self, policy: Policy, reach: Reach, limit: int, cidrs: int, bases: Sequence[str] = ()
    ) -> None:
        self.policy, self.reach, self.limit, self.cidrs = policy, reach, limit, cidrs
        #: By IP version and a TCP listener's port, who asks for ports without a listener: of those
        #: that it is open to, one of each CIDR.
        self.askers: dict[int, dict[int, list[str]]] = {4: {}, 6: {}}
        self.vips: dict[int, list[str]] = {4: [], 6: []}
        for text in policy.vips:
            self.vips[address(text)[0]].append(text)
        #: Where forbidden packets go to.
        self.targets = {version: list(vips) for version, vips in self.vips.items()}
        # There the sender's own address is the control: it asks for the base port's MAC.
        asking = {address(text)[0] for text in reach.own}
        for text in dict.fromkeys(bases):
            version = address(text)[0]
            if text not in policy.vips and version in asking and self.vips[version]:
                self.targets[version].append(text)

    def packet(self, source: str, vip: str, protocol: int, port: int) -> Packet:
        return Packet(
            interface=self.policy.vip_interface,
            source=source,
            destination=vip,
            protocol=protocol,
            sport=40000,
            dport=port,
            tcp_flags=headers.SYN if protocol == headers.TCP else 0,
        )

    def promise(self, packet: Packet) -> Promise:
        return self.policy.decide(packet).promise

    def ask(self, ports: tuple[int, ...], neighbours: bool) -> Iterator[Question]:
        for version, vips in self.vips.items():
            if not vips:
                continue
            #: What has to be answered, by the listener's port.
            good: dict[int, list[Packet]] = {}
            for listener in self.policy.listeners:
                yield from self._listener(listener, version, vips, good)
            yield from self._others(version, good, ports, neighbours)

    def _listener(
        self, listener: Listener, version: int, vips: list[str], good: dict[int, list[Packet]]
    ) -> Iterator[Question]:
        shows = listener.protocol == headers.TCP
        each = self._of_each(version, listener)
        some = self._some(version, listener.sources(version), inside=True)
        allowed = list(dict.fromkeys([*each, *some]))
        passing = []
        for number, vip in enumerate(vips):
            for source in allowed[: 1 if number else max(self.limit, len(each))]:
                packet = self.packet(source, vip, listener.protocol, listener.port)
                if self.promise(packet) is not Promise.REQUIRED:
                    continue
                passing.append(packet)
                why = f"a source that listener {listener.name} is open to"
                yield Question(packet, why, Promise.REQUIRED, None, shows)
        if shows and passing:
            good[listener.port] = passing
            self.askers[version][listener.port] = each
        denied = self._some(version, listener.sources(version), inside=False)
        others = [packet for packets in good.values() for packet in packets]
        for source, target in _in_turn(denied, self.targets[version]):
            packet = self.packet(source, target, listener.protocol, listener.port)
            if self.promise(packet) is Promise.FORBIDDEN:
                control = _to(target, [*passing, *others]) if shows else None
                why = f"a source that listener {listener.name} is not open to"
                yield Question(packet, why, Promise.FORBIDDEN, control, shows)

    def _others(
        self,
        version: int,
        good: dict[int, list[Packet]],
        ports: tuple[int, ...],
        neighbours: bool,
    ) -> Iterator[Question]:
        served = {
            entry.port for entry in self.policy.listeners if entry.protocol == headers.TCP
        }
        own = self._some(version, everything(version), inside=True)
        packets = [packet for found in good.values() for packet in found]
        askers = self.askers[version]
        everybody = _by_turns(askers.values())[: self.cidrs] or own[:1]
        wanted: dict[int, tuple[str, list[str]]] = {}

        def want(port: int, why: str, sources: Sequence[str]) -> None:
            asking = wanted.setdefault(port, (why, []))[1]
            asking += [source for source in sources if source not in asking]

        for port in ports:
            want(port, "a port without a listener", everybody)
        if neighbours:
            for port in sorted(served):
                # The listener's own sources: then the port is all that differs.
                sources = askers.get(port) or everybody[:1]
                for step in (-1, 1):
                    other = port + step
                    while other in served:
                        other += step
                    if 1 <= other <= 65535:
                        want(other, f"a neighbour of port {port}", sources)
        if not served:
            for port in USUAL_PORTS:
                want(port, "a load balancer without listeners", everybody)
        targets = itertools.cycle(self.targets[version])
        for port, (why, sources) in wanted.items():
            for source in sources if port not in served else ():
                packet = self.packet(source, next(targets), headers.TCP, port)
                if self.promise(packet) is Promise.FORBIDDEN:
                    yield Question(packet, why, Promise.FORBIDDEN, self._beside(packet, packets))

    def _beside(self, packet: Packet, packets: Sequence[Packet]) -> Packet | None:
        """The control of a packet to a port without a listener: the same to a listener's port that
        its source reaches, else one of ``packets`` to the same address; None if there is none."""
        version = packet.version
        for port, sources in self.askers[version].items():
            if packet.source in sources and packet.destination in self.vips[version]:
                return self.packet(packet.source, packet.destination, headers.TCP, port)
        return _to(packet.destination, packets, packet.source)

    def beyond(self, asked: Sequence[Question]) -> Iterator[Question]:
        """What no listener is about."""
        for version, vips in self.vips.items():
            sources = self._some(version, everything(version), inside=True) if vips else []
            if not sources:
                continue
            passing = [
                one.packet for one in asked if one.promise is Promise.REQUIRED and one.shows
            ]
            targets = itertools.cycle(self.targets[version])
            control = _to(vips[0], passing)
            source = control.source if control else sources[0]
            plain = self.packet(source, vips[0], headers.TCP, 0)
            known = [one.packet for one in asked]
            for why, first, shows in self._strangers(plain):
                target = next(targets)
                packet = replace(first, destination=target)
                if packet not in known and self.promise(packet) is Promise.FORBIDDEN:
                    control = self._beside(packet, passing)
                    yield Question(packet, why, Promise.FORBIDDEN, control, shows)

    def _strangers(self, plain: Packet) -> Iterator[tuple[str, Packet, bool]]:
        for port in AMPHORA_PORTS:
            yield "a service of the amphora itself", replace(plain, dport=port), True
        served = [one for one in self.policy.listeners if one.protocol == headers.TCP]
        udp = replace(plain, protocol=headers.UDP, tcp_flags=0)
        for listener in served[:4]:
            text = f"UDP to the port of listener {listener.name}"
            # As with ports: a rule that lost its protocol is open to its own CIDR alone.
            for source in self.askers[plain.version].get(listener.port) or [plain.source]:
                yield text, replace(udp, source=source, dport=listener.port), True
        yield "a datagram from the port of a DHCP server", replace(udp, sport=67, dport=6767), True
        yield "a datagram to the port of a DHCP client", replace(udp, sport=6767, dport=68), True
        version = plain.version
        icmp, echo = (headers.ICMP, 8) if version == 4 else (headers.ICMPV6, 128)
        bare = replace(plain, tcp_flags=0, sport=0)
        yield "a ping", replace(bare, protocol=icmp, icmp_type=echo), True
        for number, what in ((headers.VRRP, "VRRP from a stranger"), (47, "a tunnel (GRE)")):
            yield what, replace(bare, protocol=number), False

    def _of_each(self, version: int, listener: Listener) -> list[str]:
        """Of whom a listener has to let in, one source of each of its CIDRs, as far as any is in
        reach; one that is in several CIDRs, or of another listener's too, stands for all."""
        pairs = [everything(version)[0]]
        if listener.cidrs:
            found = dict.fromkeys(map(network, listener.cidrs))
            pairs = [pair for family, pair in found if family == version]
        known = sorted((address(t)[1], t) for t in _by_turns(self.askers[version].values()))
        vip = self.vips[version][0]
        each: list[str] = []
        for pair in pairs:
            if any(contains((pair,), address(text)[1]) for text in each):
                continue
            first = bisect.bisect_left(known, (pair[0], ""))
            near = [text for number, text in known[first : first + 1] if number <= pair[1]]
            for text in itertools.chain(near, self.reach.sources(version, (pair,), inside=True)):
                packet = self.packet(text, vip, listener.protocol, listener.port)
                if self.promise(packet) is Promise.REQUIRED:
                    each.append(text)
                    break
        return _spread(each, self.cidrs)

    def _some(self, version: int, wanted: Intervals, *, inside: bool) -> list[str]:
        found = []
        for text in self.reach.sources(version, wanted, inside=inside):
            found.append(text)
            if len(found) == self.limit:
                break
        return found
