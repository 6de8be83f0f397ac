# SPDX-License-Identifier: Apache-2.0
"""Faults in what one listener or one CIDR became: a row of the VIP's chain. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence

from sriov_lb_tests.mutants.fault import Change, Fault, Make, Target, Test
from sriov_lb_tests.mutants.listing import (
    ACCEPT,
    DROP,
    Entry,
    Expression,
    Network,
    address_value,
    match,
    meta,
    payload,
    port,
    source,
    verdict,
)
from sriov_lb_tests.policy.model import IMPOSSIBLE_SOURCES

PROOF, ALLOWED, DENIED = Test.PROOF, Test.ALLOWED, Test.DENIED
PORTS, STRANGERS, CATALOGUE = Test.PORTS, Test.STRANGERS, Test.CATALOGUE

Pick = Callable[[Target], "Entry | None"]


def _row(version: int | None = None, *, bounded: bool = False, beside: int = 0) -> Pick:
    return lambda target: target.listener(version, bounded=bounded, beside=beside)


def _aimed(target: Target) -> Entry | None:
    """The row that the catalogue is aimed at: one with a CIDR, if there is one."""
    return target.catalogued


def _text(entry: Entry) -> str:
    where = entry.network or "everybody"
    return f"the row of {entry.transport} port {entry.port} for {where}"


def replaced(
    pick: Pick, instead: Callable[[Entry], Sequence[Expression] | None], what: str
) -> Make:
    """The row is replaced by others.

    :param instead: None where it makes no sense for that row.
    :param what: what happened to it, after "the row …".
    """

    def make(target: Target) -> Change | None:
        entry = pick(target)
        if entry is None:
            return None
        rows = instead(entry)
        if rows is None:
            return None
        listing = target.listing.copy()
        listing.replace_entry(entry, *rows)
        return Change(f"{_text(entry)} {what}", listing)

    return make


def added(row: Callable[[Target], Expression | None], what: str, *, first: bool = False) -> Make:
    """One more rule in the VIP's chain."""

    def make(target: Target) -> Change | None:
        if target.vip_chain is None:
            return None
        expression = row(target)
        if expression is None:
            return None
        listing = target.listing.copy()
        listing.insert_rule(target.vip_chain, expression, first=first)
        return Change(what, listing)

    return make


# --- networks --------------------------------------------------------------------------------


def wider(of: Network) -> Network | None:
    return of.supernet() if of.prefixlen > 0 else None


def narrower(of: Network) -> Network | None:
    """The upper half."""
    return list(of.subnets())[1] if of.prefixlen < of.max_prefixlen else None


def sibling(of: Network) -> Network | None:
    """The last bit of the prefix is the other one."""
    if of.prefixlen == 0:
        return None
    flipped = int(of.network_address) ^ (1 << (of.max_prefixlen - of.prefixlen))
    return type(of)((flipped, of.prefixlen))


def whole(of: Network) -> Network:
    return ipaddress.ip_network("0.0.0.0/0" if of.version == 4 else "::/0")


def swapped(number: int) -> int:
    """A port with its two bytes in the wrong order."""
    return (number & 0xFF) << 8 | number >> 8


def _other_network(change: Callable[[Network], Network | None]):
    def instead(entry: Entry) -> list[Expression] | None:
        if entry.network is None:
            return None
        new = change(entry.network)
        return None if new is None else [entry.with_source(source(new))]

    return instead


def _other_port(change: Callable[[int], int]):
    def instead(entry: Entry) -> list[Expression] | None:
        new = change(entry.port)
        if not 1 <= new <= 65535 or new == entry.port:
            return None
        return [entry.with_port(port("tcp", new))]

    return instead


def _verdict(*statements: dict):
    return lambda entry: [[*entry.with_verdict(statements[0]), *statements[1:]]]


def _everybody(entry: Entry) -> list[Expression] | None:
    """The source is forgotten altogether, of either family."""
    return None if entry.network is None else [entry.with_source()]


def _negated_source(entry: Entry) -> list[Expression] | None:
    if entry.network is None:
        return None
    return [entry.with_source(source(entry.network, op="!="))]


def _destination_for_source(entry: Entry) -> list[Expression] | None:
    if entry.network is None:
        return None
    return [entry.with_source(source(entry.network, field="daddr"))]


def _other_family(entry: Entry) -> list[Expression] | None:
    """The row got the other family's match: it lets that whole family in instead."""
    if entry.network is None:
        return None
    family = "ipv6" if entry.version == 4 else "ipv4"
    return [entry.with_source(meta("nfproto", family))]


def _host_bits(entry: Entry) -> list[Expression] | None:
    """A mask on the last bits instead of the first: every address that ends alike."""
    found = entry.network
    if found is None or not 0 < found.prefixlen < found.max_prefixlen:
        return None
    family = "ip" if found.version == 4 else "ip6"
    kind = ipaddress.IPv4Address if found.version == 4 else ipaddress.IPv6Address
    low = 0xFF if found.version == 4 else 0xFFFF
    left = {"&": [payload(family, "saddr"), str(kind(low))]}
    return [entry.with_source(match(left, str(kind(int(found.network_address + 1) & low))))]


def _everyones_stale(target: Target) -> Change | None:
    """A listener that is gone keeps its port open."""
    taken = {entry.port for entry in target.entries}
    free = next((n for n in (8443, 8444, 8445) if n not in taken), None)
    if target.vip_chain is None or free is None:
        return None
    listing = target.listing.copy()
    listing.insert_rule(target.vip_chain, [port("tcp", free), ACCEPT])
    return Change(f"port {free} is still open", listing, stale_ports=(free,))


def _stale_source(version: int) -> Make:
    """A CIDR that was taken away still is let in: half of the network beside the listener's."""

    def instead(entry: Entry) -> list[Expression] | None:
        if entry.network is None:
            return None
        old = sibling(entry.network)
        if old is None:
            return None
        return [list(entry.expression), entry.with_source(source(old))]

    return replaced(_row(version, bounded=True), instead, "still lets in its former neighbour")


def _whole_listener(target: Target) -> Change | None:
    """Every row of one listener is gone."""
    first = target.listener(4) or target.listener()
    if first is None:
        return None
    listing = target.listing.copy()
    doomed = [e for e in target.entries if (e.transport, e.port) == (first.transport, first.port)]
    # From the end, so that earlier places stay true.
    for entry in sorted(doomed, key=lambda e: (e.index, e.row), reverse=True):
        listing.replace_entry(entry)
    return Change(f"every row of tcp port {first.port} is gone", listing)


def _only_first(target: Target) -> Change | None:
    """Only the first of several CIDRs of one listener and family arrived."""
    first = target.listener(4) or target.listener(6)
    if first is None:
        return None
    others = [
        e for e in target.entries
        if (e.transport, e.port, e.version) == (first.transport, first.port, first.version)
    ][1:]  # fmt: skip
    if not others:
        return None
    listing = target.listing.copy()
    for entry in sorted(others, key=lambda e: (e.index, e.row), reverse=True):
        listing.replace_entry(entry)
    return Change(f"of tcp port {first.port} only the first CIDR is left", listing)


def _bounds(target: Target) -> Expression | None:
    """A rule as by ``nft -o``, but with the range of all ports in place of their set."""
    ports = sorted({e.port for e in target.entries if e.transport == "tcp" and e.port})
    if len(ports) < 2 or ports[-1] - ports[0] == len(ports) - 1:
        return None
    return [port("tcp", {"range": [ports[0], ports[-1]]}), ACCEPT]


def _first_port(target: Target) -> int | None:
    entry = _aimed(target)
    return entry.port if entry else None


def _with_port(build: Callable[[int], Expression]) -> Callable[[Target], Expression | None]:
    def row(target: Target) -> Expression | None:
        number = _first_port(target)
        return None if number is None else build(number)

    return row


def _drop_in_front(target: Target) -> Change | None:
    entry = target.listener()
    if entry is None:
        return None
    listing = target.listing.copy()
    listing.insert_rule(target.vip_chain, [port("tcp", entry.port), DROP], first=True)
    return Change(f"a drop of tcp port {entry.port} stands before every listener", listing)


def _base_address(target: Target) -> Change | None:
    """The rule says the amphora's own address where the VIP is served."""
    entry, own = target.listener(), target.policy.own
    if entry is None or own is None:
        return None
    listing = target.listing.copy()
    wanted = source(own, field="daddr")
    listing.replace_entry(entry, [wanted, *entry.with_source()])
    return Change(f"{_text(entry)} is for packets to {own} only, not for the VIP", listing)


def _family_rows(version: int) -> Make:
    def make(target: Target) -> Change | None:
        doomed = [e for e in target.entries if e.version == version and not e.is_vrrp]
        if not doomed:
            return None
        listing = target.listing.copy()
        for entry in sorted(doomed, key=lambda e: (e.index, e.row), reverse=True):
            listing.replace_entry(entry)
        return Change(f"every row for IPv{version} is gone", listing)

    return make


def _same(entry: Entry) -> list[Expression]:
    return [list(entry.expression), list(entry.expression)]


def _split(entry: Entry) -> list[Expression] | None:
    """Two halves in place of one network: the same packets."""
    if entry.network is None or entry.network.prefixlen == entry.network.max_prefixlen:
        return None
    return [entry.with_source(source(half)) for half in entry.network.subnets()]


def _syn_only(entry: Entry) -> list[Expression]:
    """A rule that lets in nothing but SYN, which is all a new connection needs."""
    flags = {"&": [payload("tcp", "flags"), ["fin", "syn", "rst", "ack"]]}
    return [[match(flags, "syn"), *entry.expression]]


def _no_ecn(entry: Entry) -> list[Expression]:
    """``tcp flags == syn``: a SYN with ECN is none."""
    return [[match(payload("tcp", "flags"), "syn"), *entry.expression]]


def _limited(entry: Entry) -> list[Expression]:
    limit = {"limit": {"rate": 1, "burst": 1, "per": "hour"}}
    return [[*entry.with_verdict(limit), ACCEPT]]


def _early(entry: Entry) -> list[Expression]:
    """Only SYNs with a TTL that nobody behind a router has."""
    field = payload("ip6", "hoplimit") if entry.version == 6 else payload("ip", "ttl")
    return [[match(field, 255), *entry.expression]]


def _from_impossible(target: Target) -> Expression | None:
    number = _first_port(target)
    if number is None:
        return None
    low, _ = IMPOSSIBLE_SOURCES[4][1]  # 127.0.0.0/8
    loop = ipaddress.ip_network((low, 8))
    return [match(payload("ip", "saddr"), address_value(loop)), port("tcp", number), ACCEPT]


FAULTS: tuple[Fault, ...] = (
    # removed
    Fault("rule-removed-v4", "an allowed IPv4 source's rule is gone", (PROOF, ALLOWED),
          replaced(_row(4), lambda e: [], "is gone")),
    Fault("rule-removed-v6", "an allowed IPv6 source's rule is gone", (PROOF, ALLOWED),
          replaced(_row(6), lambda e: [], "is gone")),
    Fault("rule-removed-open", "the rule of a listener for everybody is gone", (PROOF, ALLOWED),
          replaced(_row(), lambda e: [], "is gone")),
    Fault("listener-removed", "all rules of one listener are gone", (PROOF, ALLOWED),
          _whole_listener),
    Fault("cidrs-but-first-lost", "of several CIDRs only the first arrived", (PROOF, ALLOWED),
          _only_first),
    Fault("family-lost-v4", "no IPv4 CIDR arrived", (PROOF, ALLOWED), _family_rows(4)),
    Fault("family-lost-v6", "no IPv6 CIDR arrived", (PROOF, ALLOWED), _family_rows(6)),
    # prefixes
    Fault("prefix-wider-v4", "an IPv4 prefix is one bit shorter", (PROOF, DENIED),
          replaced(_row(4, bounded=True), _other_network(wider), "is one bit wider")),
    Fault("prefix-wider-v6", "an IPv6 prefix is one bit shorter", (PROOF, DENIED),
          replaced(_row(6, bounded=True), _other_network(wider), "is one bit wider")),
    Fault("prefix-narrower-v4", "an IPv4 prefix is one bit longer", (PROOF, ALLOWED),
          replaced(_row(4, bounded=True), _other_network(narrower), "lost its lower half")),
    Fault("prefix-narrower-v6", "an IPv6 prefix is one bit longer", (PROOF, ALLOWED),
          replaced(_row(6, bounded=True), _other_network(narrower), "lost its lower half")),
    Fault("prefix-bit-v4", "the last bit of an IPv4 prefix is wrong", (PROOF, ALLOWED, DENIED),
          replaced(_row(4, bounded=True), _other_network(sibling), "is its neighbour's")),
    Fault("prefix-bit-v6", "the last bit of an IPv6 prefix is wrong", (PROOF, ALLOWED, DENIED),
          replaced(_row(6, bounded=True), _other_network(sibling), "is its neighbour's")),
    Fault("prefix-host-bits", "a mask covers the host's bits, not the network's",
          (PROOF, ALLOWED), replaced(_row(4, bounded=True), _host_bits, "looks at host bits")),
    Fault("cidr-any-v4", "an IPv4 CIDR became 0.0.0.0/0", (PROOF, DENIED),
          replaced(_row(4, bounded=True), _other_network(whole), "is for all of IPv4")),
    Fault("cidr-any-v6", "an IPv6 CIDR became ::/0", (PROOF, DENIED),
          replaced(_row(6, bounded=True), _other_network(whole), "is for all of IPv6")),
    Fault("cidr-lost-v4", "an IPv4 CIDR is forgotten: both families get in", (PROOF, DENIED),
          replaced(_row(4), _everybody, "lost its source")),
    Fault("cidr-lost-v6", "an IPv6 CIDR is forgotten: both families get in", (PROOF, DENIED),
          replaced(_row(6), _everybody, "lost its source")),
    Fault("family-swapped", "an IPv4 rule lets IPv6 in instead", (PROOF, ALLOWED, DENIED),
          replaced(_row(4), _other_family, "matches the other family")),
    Fault("source-negated", "everybody but the allowed source", (PROOF, ALLOWED, DENIED),
          replaced(_row(4), _negated_source, "is negated")),
    Fault("destination-for-source", "the CIDR is matched against the destination",
          (PROOF,), replaced(_row(4), _destination_for_source, "looks at the destination")),
    Fault("cidr-stale-v4", "an IPv4 CIDR that was taken away is still let in", (PROOF, DENIED),
          _stale_source(4)),
    Fault("cidr-stale-v6", "an IPv6 CIDR that was taken away is still let in", (PROOF, DENIED),
          _stale_source(6)),
    # ports
    Fault("port-plus-one", "the port is one too high", (PROOF, ALLOWED, PORTS),
          replaced(_row(beside=1), _other_port(lambda n: n + 1), "is for the next port")),
    Fault("port-minus-one", "the port is one too low", (PROOF, ALLOWED, PORTS),
          replaced(_row(beside=-1), _other_port(lambda n: n - 1), "is for the previous port")),
    Fault("port-range", "one port became two", (PROOF, PORTS),
          replaced(_row(beside=1),
                   lambda e: [e.with_port(port("tcp", {"range": [e.port, e.port + 1]}))],
                   "is for the next port as well")),
    Fault("port-set-became-range", "the set of ports became their range", (PROOF, PORTS),
          added(_bounds, "all ports between the listeners' are open")),
    Fault("port-swapped", "the port's bytes are in the wrong order", (PROOF, ALLOWED),
          replaced(_row(), _other_port(swapped), "has its port's bytes swapped")),
    Fault("port-lost", "the port is forgotten: an allowed source may reach all", (PROOF, PORTS),
          replaced(_row(4), lambda e: [e.with_port(meta("l4proto", "tcp"))], "lost its port")),
    Fault("port-negated", "every port but the listener's", (PROOF, ALLOWED, PORTS),
          replaced(_row(), lambda e: [e.with_port(port("tcp", e.port, op="!="))], "is negated")),
    Fault("source-port", "the port is matched against the source's",
          (PROOF, ALLOWED, CATALOGUE),
          replaced(_aimed, lambda e: [e.with_port(port("tcp", e.port, field="sport"))],
                   "looks at the source port")),
    Fault("source-port-too", "a packet from the listener's port number gets in",
          (PROOF, CATALOGUE),
          added(_with_port(lambda n: [port("tcp", n, field="sport"), ACCEPT]),
                "any port is open to packets from the listener's port number")),
    Fault("port-stale", "the port of a deleted listener stays open", (PROOF, PORTS),
          _everyones_stale),
    # protocols
    Fault("protocol-udp", "TCP became UDP", (PROOF, ALLOWED, STRANGERS),
          replaced(_row(), lambda e: [e.with_port(port("udp", e.port))], "is for UDP")),
    Fault("protocol-udp-too", "UDP gets in beside TCP", (PROOF, STRANGERS),
          added(_with_port(lambda n: [port("udp", n), ACCEPT]),
                "the listener's port is open for UDP")),
    Fault("protocol-sctp-too", "SCTP gets in beside TCP", (PROOF, CATALOGUE),
          added(_with_port(lambda n: [port("sctp", n), ACCEPT]),
                "the listener's port is open for SCTP")),
    Fault("protocol-any", "whatever has such a port gets in", (PROOF, STRANGERS),
          replaced(_row(), lambda e: [e.with_port(port("th", e.port))],
                   "is for every transport protocol")),
    Fault("protocol-gre-too", "GRE gets in", (PROOF, STRANGERS),
          added(lambda t: [meta("l4proto", "gre"), ACCEPT], "GRE is let in")),
    Fault("protocol-esp-too", "ESP gets in", (PROOF, CATALOGUE),
          added(lambda t: [meta("l4proto", "esp"), ACCEPT], "ESP is let in")),
    Fault("tcp-all", "every TCP port is open", (PROOF, PORTS),
          added(lambda t: [meta("l4proto", "tcp"), ACCEPT], "all of TCP is let in")),
    Fault("udp-all", "every UDP port is open", (PROOF, STRANGERS),
          added(lambda t: [meta("l4proto", "udp"), ACCEPT], "all of UDP is let in")),
    Fault("vip-all", "whatever comes to the VIP is let in", (PROOF, PORTS, STRANGERS),
          added(lambda t: [ACCEPT], "the VIP's chain begins with accept", first=True)),
    Fault("ssh-open", "the amphora's ssh is open on the VIP", (PROOF, STRANGERS),
          added(lambda t: [port("tcp", 22), ACCEPT], "port 22 is open")),
    Fault("agent-open", "the amphora's agent is open on the VIP", (PROOF, STRANGERS),
          added(lambda t: [port("tcp", 9443), ACCEPT], "port 9443 is open")),
    # verdicts
    Fault("accept-became-drop", "a listener's rule drops", (PROOF, ALLOWED),
          replaced(_row(), _verdict(DROP), "drops")),
    Fault("accept-became-reject", "a listener's rule rejects", (PROOF, ALLOWED),
          replaced(_row(), _verdict({"reject": {"type": "tcp reset"}}), "answers with a reset")),
    Fault("accept-became-return", "a listener's rule returns", (PROOF, ALLOWED),
          replaced(_row(), _verdict(verdict("return")), "returns")),
    Fault("accept-became-continue", "a listener's rule only counts", (PROOF, ALLOWED),
          replaced(_row(), _verdict({"counter": {"packets": 0, "bytes": 0}}),
                   "has lost its verdict")),
    Fault("drop-in-front", "a drop stands before the listener's rule", (PROOF, ALLOWED),
          _drop_in_front),
    Fault("rate-limited", "a listener's rule lets one connection an hour in", (PROOF, ALLOWED),
          replaced(_row(), _limited, "has a limit")),
    Fault("ttl-clause", "a listener's rule wants a TTL that nobody sends", (PROOF, ALLOWED),
          replaced(_row(4), _early, "wants TTL 255")),
    Fault("ecn-refused", "a SYN that offers ECN is none", (PROOF, CATALOGUE),
          replaced(_aimed, _no_ecn, "wants SYN and no other flag")),
    Fault("base-address-only", "the rule is for the amphora's own address, not for the VIP",
          (PROOF, ALLOWED), _base_address),
    # harmless: they must not be counted as misses
    Fault("duplicate-rule", "a listener's rule stands there twice", (),
          replaced(_row(), _same, "stands there twice"), unseen="nothing changes"),
    Fault("prefix-split", "a CIDR became its two halves", (),
          replaced(_row(4, bounded=True), _split, "became two"), unseen="nothing changes"),
    Fault("syn-only", "a listener's rule lets in nothing but SYN", (),
          replaced(_row(), _syn_only, "wants SYN"),
          unseen="nobody was promised that a stray segment passes"),
    Fault("loopback-source-too", "a packet with a loopback source gets to a listener", (),
          added(_from_impossible, "sources in 127.0.0.0/8 are let in"),
          unseen="an earlier rule, and the kernel, drop such sources"),
)  # fmt: skip
