# SPDX-License-Identifier: Apache-2.0
"""What the API state of a load balancer promises about packets on its SR-IOV VIP port.

A policy is an ordered list of clauses; the first clause that matches a packet decides it, and the
last one forbids everything that comes in. A clause says REQUIRED (has to pass), FORBIDDEN (may not
pass) or TOLERATED (nobody was promised either). It holds for a firewall that stands alone between
the network and the load balancer: on an SR-IOV port there are no security groups.

The documentation's page about the policy is made from these clauses. Law is what the API promised
its user, not what any release of Octavia happens to do.
"""

from __future__ import annotations

import enum
import ipaddress
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sriov_lb_tests import errors
from sriov_lb_tests.policy import packet as headers
from sriov_lb_tests.policy.intervals import (
    Intervals,
    address,
    canonical,
    contains,
    everything,
    network,
)
from sriov_lb_tests.policy.packet import Packet


class Promise(enum.Enum):
    """What a clause says of the packets it matches."""

    REQUIRED = "has to pass"
    TOLERATED = "may pass or not"
    FORBIDDEN = "may not pass"


#: L4 protocol of each listener protocol of the API.
LISTENER_PROTOCOLS = {
    "TCP": headers.TCP,
    "HTTP": headers.TCP,
    "HTTPS": headers.TCP,
    "TERMINATED_HTTPS": headers.TCP,
    "PROXY": headers.TCP,
    "PROXYV2": headers.TCP,
    "PROMETHEUS": headers.TCP,
    "UDP": headers.UDP,
    "SCTP": headers.SCTP,
}

#: haproxy peers of one pair synchronise stick tables here (octavia/common/constants.py,
#: HAPROXY_BASE_PEER_PORT).
PEER_PORT = 1025

#: Sources that no packet on a link may have, per family (RFC 1122 section 3.2.1.3, RFC 6890,
#: RFC 4291 sections 2.5.2, 2.5.3, 2.5.5 and 2.7): a kernel drops most of them before any firewall
#: sees them.
IMPOSSIBLE_SOURCES: dict[int, Intervals] = {
    4: canonical(
        network(text)[1]
        for text in ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32")
    ),
    6: canonical(network(text)[1] for text in ("::/96", "ff00::/8", "::ffff:0:0/96")),
}
_MULTICAST_OR_MAPPED = IMPOSSIBLE_SOURCES[6][1:]
#: Those of them that mean "this very host": let in from outside, they may pass for local.
LOOPBACK: dict[int, Intervals] = {
    4: (network("127.0.0.0/8")[1],),
    6: (network("::1")[1],),
}


#: ICMP types that Linux takes for errors about a flow (RFC 792, RFC 4443, redirects included).
ICMP_ERRORS: dict[int, Intervals] = {4: ((3, 5), (11, 12)), 6: ((0, 127), (137, 137))}

#: ICMP types that begin a connection for conntrack: echo, timestamp, information and address mask
#: requests; echo requests and node information queries (RFC 4620).
ICMP_REQUESTS: dict[int, tuple[int, ...]] = {4: (8, 13, 15, 17), 6: (128, 139)}


@dataclass(frozen=True)
class Match:
    """A set of packets: every field that is given has to match.

    :param interfaces: names; None is every interface but those in ``not_interfaces``.
    :param version: IP version.
    :param sources, destinations: intervals of addresses of that version.
    :param protocols: upper-layer protocol numbers.
    :param sport, dport: intervals of ports.
    :param icmp_types: intervals of ICMP or ICMPv6 types.
    :param states: names of conntrack states.
    :param flags: ``(mask, value)`` on the TCP flags.
    :param hop_limit: hop limit or TTL.
    :param leaving: packets that the amphora sends; otherwise those that come in.
    """

    interfaces: frozenset[str] | None = None
    not_interfaces: frozenset[str] = frozenset()
    version: int | None = None
    sources: Intervals | None = None
    not_sources: Intervals = ()
    destinations: Intervals | None = None
    protocols: frozenset[int] | None = None
    sport: Intervals | None = None
    dport: Intervals | None = None
    icmp_types: Intervals | None = None
    states: frozenset[str] | None = None
    flags: tuple[int, int] | None = None
    hop_limit: int | None = None
    leaving: bool = False

    def __post_init__(self) -> None:
        needs_version = self.sources is not None or self.destinations is not None
        if (needs_version or self.not_sources) and self.version is None:
            raise ValueError("a match on addresses needs a version")

    def holds(self, packet: Packet) -> bool:
        """Whether the packet is in the set."""
        source, destination = address(packet.source)[1], address(packet.destination)[1]
        return (
            self.leaving == packet.leaving
            and (self.interfaces is None or packet.interface in self.interfaces)
            and packet.interface not in self.not_interfaces
            and self.version in (None, packet.version)
            and (self.sources is None or contains(self.sources, source))
            and not contains(self.not_sources, source)
            and (self.destinations is None or contains(self.destinations, destination))
            and (self.protocols is None or packet.protocol in self.protocols)
            and (self.sport is None or contains(self.sport, packet.sport))
            and (self.dport is None or contains(self.dport, packet.dport))
            and (self.icmp_types is None or contains(self.icmp_types, packet.icmp_type))
            and (self.states is None or packet.state in self.states)
            and (self.flags is None or packet.tcp_flags & self.flags[0] == self.flags[1])
            and (self.hop_limit is None or packet.hop_limit == self.hop_limit)
        )


@dataclass(frozen=True)
class Clause:
    """One sentence of the policy.

    :param name: short and unique, ``listener web``, ``neighbour discovery``.
    :param matches: any of these.
    :param reason: one sentence, for reports.
    :param source: where the promise is made.
    """

    name: str
    promise: Promise
    matches: tuple[Match, ...]
    reason: str
    source: str

    def holds(self, packet: Packet) -> bool:
        return any(match.holds(packet) for match in self.matches)


DEFAULT = Clause(
    "everything else",
    Promise.FORBIDDEN,
    (Match(),),
    "nothing in the API state asks for it",
    "api-ref listener allowed_cidrs; admin guide SR-IOV: the amphora's own rules are the VIP's only"
    " network security",
)


@dataclass(frozen=True)
class Listener:
    """What matters of a listener of the API."""

    name: str
    protocol: int
    kind: str
    port: int
    cidrs: tuple[str, ...]
    enabled: bool
    status: str

    @property
    def served(self) -> bool:
        """Whether the API promises that it is served right now."""
        return self.enabled and self.status == "ACTIVE"

    def sources(self, version: int) -> Intervals:
        """Sources it is open to. No CIDRs: everybody. Any CIDR, of either family: only those."""
        if not self.cidrs:
            return everything(version)
        found = [network(text) for text in self.cidrs]
        return canonical(pair for family, pair in found if family == version)


def listener_from(entry: Mapping) -> Listener:
    """A listener of the API's JSON (names as in the REST API).

    :raises UnknownListener: a protocol or field that the model does not know.
    """
    name = entry.get("name") or entry.get("id") or "?"
    try:
        kind = entry["protocol"]
        port = entry["protocol_port"]
        cidrs = tuple(entry.get("allowed_cidrs") or ())
        if kind not in LISTENER_PROTOCOLS:
            raise errors.UnknownListener(
                f"Listener {name} has protocol {kind!r}; known are {', '.join(LISTENER_PROTOCOLS)}."
            )
        if not isinstance(port, int) or not 1 <= port <= 65535:
            raise errors.UnknownListener(
                f"Listener {name} has protocol_port {port!r}; expected 1 to 65535."
            )
        for text in cidrs:
            network(text)
    except KeyError as error:
        raise errors.UnknownListener(f"Listener {name} has no {error.args[0]!r}.") from error
    except ValueError as error:
        raise errors.UnknownListener(
            f"Listener {name} has an allowed CIDR that is none: {error}."
        ) from error
    return Listener(
        name=name,
        protocol=LISTENER_PROTOCOLS[kind],
        kind=kind,
        port=port,
        cidrs=cidrs,
        enabled=bool(entry.get("admin_state_up", True)),
        status=entry.get("provisioning_status", "ACTIVE"),
    )


def _told_apart(listeners: Sequence[Listener]) -> tuple[Listener, ...]:
    """Names are not unique in Octavia; clauses are called by them."""
    often = Counter(entry.name for entry in listeners)
    return tuple(
        replace(entry, name=f"{entry.name} ({entry.kind} {entry.port})")
        if often[entry.name] > 1
        else entry
        for entry in listeners
    )


@dataclass(frozen=True)
class Policy:
    """The promise of one amphora's VIP port.

    :param clauses: in order; the first that matches decides. ``DEFAULT`` is the last.
    :param vips: VIP and additional VIPs.
    :param own: the amphora's own (base port) address on the VIP network, if known.
    :param peers: base port addresses of the other amphorae of the load balancer.
    :param vip_interface: name of the VIP interface in the amphora.
    """

    clauses: tuple[Clause, ...]
    listeners: tuple[Listener, ...]
    vips: tuple[str, ...]
    own: str | None
    peers: tuple[str, ...]
    vip_interface: str

    @classmethod
    def of(
        cls,
        load_balancer: Mapping,
        listeners: Iterable[Mapping],
        *,
        pools: Iterable[Mapping] = (),
        own: str | None = None,
        peers: Iterable[str] = (),
        subnets: Iterable[str] = (),
        vip_interface: str = "eth1",
    ) -> Policy:
        """The policy of API objects (plain dicts, names as in the REST API).

        :param load_balancer: ``vip_address``, ``additional_vips``, ``admin_state_up``.
        :param listeners: ``name``, ``protocol``, ``protocol_port``, ``allowed_cidrs``,
            ``admin_state_up``, ``provisioning_status``.
        :param pools: ``session_persistence``, which decides whether a pair has stick tables.
        :param own: ``vrrp_ip`` of the amphora.
        :param peers: ``vrrp_ip`` of the others (ACTIVE_STANDBY). Without them, as where the API
            hides amphorae, nobody is promised VRRP.
        :param subnets: CIDRs of the VIPs' subnets, if known: nobody sends from their broadcast
            addresses.
        """
        vips = [load_balancer["vip_address"]]
        vips += [vip["ip_address"] for vip in load_balancer.get("additional_vips") or ()]
        parsed = _told_apart([listener_from(entry) for entry in listeners])
        up = bool(load_balancer.get("admin_state_up", True))
        peers = tuple(peers)
        kinds = {(pool.get("session_persistence") or {}).get("type") for pool in pools}
        writer = _Writer(tuple(vips), own, peers, vip_interface, _broadcasts(subnets))
        clauses = writer.write(parsed, up, bool(kinds & {"SOURCE_IP", "APP_COOKIE"}))
        return cls(clauses, parsed, tuple(vips), own, peers, vip_interface)

    def decide(self, packet: Packet) -> Clause:
        """The clause that decides a packet."""
        return next(clause for clause in self.clauses if clause.holds(packet))

    def explain(self, packet: Packet) -> str:
        """Why a packet has to pass, may, or may not: one clause of a sentence."""
        clause = self.decide(packet)
        if clause is not self.clauses[-1]:
            return f"{clause.name}: {clause.reason}"
        near = [
            entry
            for entry in self.listeners
            if entry.protocol == packet.protocol and entry.port == packet.dport
        ]
        if near and packet.interface == self.vip_interface:
            listener = near[0]
            where = ", ".join(listener.cidrs) or "any"
            return (
                f"listener {listener.name} ({listener.kind} {listener.port}) is open to {where}, "
                f"and {packet.source} is not in there"
                if not contains(listener.sources(packet.version), address(packet.source)[1])
                else f"no such packet belongs to listener {listener.name}"
            )
        if packet.protocol in LISTENER_PROTOCOLS.values():
            name = headers.PROTOCOL_NAMES[packet.protocol]
            place = "" if packet.interface == self.vip_interface else f" on {packet.interface}"
            return f"no listener is on {name} port {packet.dport}{place}"
        return clause.reason


def _broadcasts(subnets: Iterable[str]) -> Intervals:
    """IPv4 broadcast addresses of networks; one of two addresses or one has none (RFC 3021)."""
    found = []
    for text in subnets:
        one = ipaddress.ip_network(text, strict=False)
        if one.version == 4 and one.prefixlen < 31:
            found.append((int(one.broadcast_address),) * 2)
    return canonical(found)


@dataclass
class _Writer:
    """Writes the clauses down, in their order."""

    vips: tuple[str, ...]
    own: str | None
    peers: tuple[str, ...]
    vip: str
    broadcasts: Intervals
    clauses: list[Clause] = field(default_factory=list)

    def add(
        self, name: str, promise: Promise, matches: Sequence[Match], reason: str, source: str
    ) -> None:
        if matches:
            self.clauses.append(Clause(name, promise, tuple(matches), reason, source))

    def addresses(self, version: int, texts: Iterable[str]) -> Intervals:
        pairs = [network(text) for text in texts]
        return canonical(pair for family, pair in pairs if family == version)

    def write(
        self, listeners: Sequence[Listener], up: bool, stick_tables: bool
    ) -> tuple[Clause, ...]:
        served = [entry for entry in listeners if up and entry.served]
        self._listeners(served)
        self._pair(stick_tables)
        self._flows(bool(served))
        self._neighbours()
        self._loopback(any(entry.kind == "PROMETHEUS" for entry in served))
        self._tolerated(listeners)
        self._leaving(served)
        self.clauses.append(DEFAULT)
        return tuple(self.clauses)

    def _listeners(self, served: Sequence[Listener]) -> None:
        for entry in served:
            matches = []
            for version in (4, 6):
                vips = self.addresses(version, self.vips)
                sources = entry.sources(version)
                if not vips or not sources:
                    continue
                # A packet that says it comes from the amphora itself is nobody's request.
                own = self.addresses(version, [self.own]) if self.own else ()
                everybody = self.broadcasts if version == 4 else ()
                odd = canonical([*IMPOSSIBLE_SOURCES[version], *vips, *own, *everybody])
                matches.append(
                    Match(
                        interfaces=frozenset({self.vip}),
                        version=version,
                        sources=sources,
                        not_sources=odd,
                        destinations=vips,
                        protocols=frozenset({entry.protocol}),
                        dport=((entry.port, entry.port),),
                        states=frozenset({"new"}),
                        # A request to connect: SYN, and none of FIN, RST, ACK.
                        flags=(
                            (headers.FIN | headers.SYN | headers.RST | headers.ACK, headers.SYN)
                            if entry.protocol == headers.TCP
                            else None
                        ),
                    )
                )
            where = ", ".join(entry.cidrs[:4]) + ("…" if len(entry.cidrs) > 4 else "")
            self.add(
                f"listener {entry.name}",
                Promise.REQUIRED,
                matches,
                f"{entry.kind} listener on port {entry.port} open to {where or 'everybody'}",
                "api-ref listener: protocol, protocol_port, allowed_cidrs",
            )

    def _pair(self, stick_tables: bool) -> None:
        vrrp, tables = [], []
        for peer in self.peers:
            version, number = address(peer)
            common = {
                "interfaces": frozenset({self.vip}),
                "version": version,
                "sources": ((number, number),),
                "destinations": self.addresses(version, [self.own]) if self.own else None,
            }
            vrrp.append(
                Match(
                    **common,
                    protocols=frozenset({headers.VRRP}),
                    states=frozenset({"new", "established", "untracked"}),
                )
            )
            tables.append(
                Match(
                    **common,
                    protocols=frozenset({headers.TCP}),
                    dport=((PEER_PORT, PEER_PORT),),
                    states=frozenset({"new"}),
                    flags=(headers.FIN | headers.SYN | headers.RST | headers.ACK, headers.SYN),
                )
            )
        self.add(
            "VRRP from the peer",
            Promise.REQUIRED,
            vrrp,
            "the pair elects its master by unicast VRRP",
            "api-ref topology ACTIVE_STANDBY; keepalived_base.template: unicast_peer",
        )
        if stick_tables:
            self.add(
                "stick tables of the peer",
                Promise.REQUIRED,
                tables,
                f"session persistence outlives a failover: haproxy peers on port {PEER_PORT}",
                "api-ref session_persistence; haproxy macros.j2: peers",
            )

    def _flows(self, serving: bool) -> None:
        transports = frozenset({headers.TCP, headers.UDP, headers.SCTP, headers.ICMP,
                                headers.ICMPV6})  # fmt: skip
        promise = Promise.REQUIRED if serving else Promise.TOLERATED
        self.add(
            "established flows",
            promise,
            [Match(states=frozenset({"established"}), protocols=transports)],
            "what was let in goes on, and members' answers come back",
            "api-ref listener, member: a request is answered",
        )
        self.add(
            "errors about flows",
            promise,
            [
                Match(
                    states=frozenset({"related"}),
                    version=4,
                    protocols=frozenset({headers.ICMP}),
                    icmp_types=((3, 3), (11, 12)),
                ),
                Match(
                    states=frozenset({"related"}),
                    version=6,
                    protocols=frozenset({headers.ICMPV6}),
                    icmp_types=((1, 4),),
                ),
            ],
            "path MTU discovery and unreachable destinations of known flows",
            "RFC 1191, RFC 8201, RFC 4890 section 4.3.1",
        )

    def _neighbours(self) -> None:
        self.add(
            "neighbour discovery",
            Promise.REQUIRED,
            [
                Match(
                    version=6,
                    protocols=frozenset({headers.ICMPV6}),
                    icmp_types=((135, 136),),
                    # Conntrack calls valid neighbour discovery untracked.
                    states=frozenset({"untracked", "new"}),
                    hop_limit=255,
                    not_interfaces=frozenset({"lo"}),
                    # The unspecified source is that of duplicate address detection.
                    not_sources=canonical([*LOOPBACK[6], *_MULTICAST_OR_MAPPED]),
                )
            ],
            "without it no IPv6 packet arrives",
            "RFC 4861; RFC 4890 section 4.4.1",
        )

    def _loopback(self, needed: bool) -> None:
        loop = frozenset({"lo"})
        own = LOOPBACK[4]
        if needed:
            self.add(
                "metrics of the amphora",
                Promise.REQUIRED,
                [
                    Match(
                        interfaces=loop,
                        version=4,
                        sources=own,
                        destinations=own,
                        protocols=frozenset({headers.TCP}),
                        states=frozenset({"new"}),
                    )
                ],
                "a PROMETHEUS listener asks the amphora itself, over its loopback",
                "api-ref listener protocol PROMETHEUS; haproxy.cfg.j2: prometheus",
            )
        self.add(
            "loopback",
            Promise.TOLERATED,
            [Match(interfaces=loop)],
            "what the amphora says to itself never was on a network",
            "RFC 1122 section 3.2.1.3 (g), RFC 4291 section 2.5.3: not to appear outside a host, "
            "so no user of the network is promised anything of it",
        )

    def _tolerated(self, listeners: Sequence[Listener]) -> None:
        udp, v4, v6 = (frozenset({n}) for n in (headers.UDP, headers.ICMP, headers.ICMPV6))
        self.add(
            "flows without a listener's promise",
            Promise.TOLERATED,
            [
                Match(states=frozenset({"established"})),
                *(
                    Match(
                        states=frozenset({"related"}),
                        version=version,
                        protocols=protocols,
                        icmp_types=ICMP_ERRORS[version],
                    )
                    for version, protocols in ((4, v4), (6, v6))
                ),
            ],
            "a flow is established once a packet went each way, and its first one was judged as "
            "new; of what is related only ICMP errors, not the flows that a helper expects",
            "nft(8), ct state: who may not begin a flow has none, so nothing more need be promised",
        )
        self.add(
            "ICMP errors that fit no flow",
            Promise.TOLERATED,
            [
                Match(version=4, protocols=v4, icmp_types=((3, 3), (11, 12))),
                Match(version=6, protocols=v6, icmp_types=((1, 4),)),
            ],
            "harmless, and ICMPv6 errors should not be filtered at all",
            "RFC 4890 section 4.3.1",
        )
        self.add(
            "what every OpenStack port lets in",
            Promise.TOLERATED,
            [
                Match(version=4, protocols=udp, sport=((67, 67),), dport=((68, 68),)),
                Match(version=6, protocols=udp, sport=((547, 547),), dport=((546, 546),)),
                Match(version=6, protocols=v6, icmp_types=((130, 136), (143, 143))),
            ],
            "address configuration and neighbour discovery: security groups let them in as well",
            "Neutron security groups: default rules of each port (DHCP, RA, NS, NA, MLD)",
        )
        self.add(
            "DHCP answers over the other IP version",
            Promise.TOLERATED,
            [
                Match(version=6, protocols=udp, sport=((67, 67),), dport=((68, 68),)),
                Match(version=4, protocols=udp, sport=((547, 547),), dport=((546, 546),)),
            ],
            "a leniency of this policy and not a rule of Neutron's: rules that name the ports and "
            "no IP version let them in, and no client of DHCP listens there",
            "none: Neutron's default rules are per ethertype (67 to 68 IPv4, 547 to 546 IPv6), and "
            "so are RFC 2131 section 4.1 and RFC 8415 section 7.2",
        )
        anywhere = {"interfaces": frozenset({self.vip})}
        for entry in listeners:
            matches = [
                Match(
                    **anywhere,
                    version=version,
                    sources=entry.sources(version),
                    not_sources=LOOPBACK[version],
                    protocols=frozenset({entry.protocol}),
                    dport=((entry.port, entry.port),),
                )
                for version in (4, 6)
                if entry.sources(version)
            ]
            self.add(
                f"listener {entry.name}, beyond its promise",
                Promise.TOLERATED,
                [] if entry.status == "DELETED" else matches,
                "from allowed sources: other destinations of the port, segments that begin no "
                "connection, a listener that is disabled, in ERROR or in between states",
                "api-ref listener: nothing is promised; nothing may be served",
            )
        pair = [
            Match(
                **anywhere,
                version=address(peer)[0],
                sources=(network(peer)[1],),
                protocols=protocols,
                dport=dport,
            )
            for peer in self.peers
            for protocols, dport in (
                (frozenset({headers.VRRP}), None),
                (frozenset({headers.TCP}), ((PEER_PORT, PEER_PORT),)),
            )
        ]
        self.add(
            "the peer, beyond its needs",
            Promise.TOLERATED,
            pair,
            "VRRP to the VIP, stick tables nobody asked for",
            "keepalived_base.template: unicast_peer names base ports' addresses and no AH; haproxy "
            "macros.j2 has no peers without such persistence: a pair needs neither",
        )

    def _leaving(self, served: Sequence[Listener]) -> None:
        answers = []
        # Answers of UDP and SCTP listeners are passed on by ip_vs: they are not the host's own.
        for entry in (entry for entry in served if entry.protocol == headers.TCP):
            for version in (4, 6):
                vips = self.addresses(version, self.vips)
                if vips and entry.sources(version):
                    answers.append(
                        Match(
                            leaving=True,
                            interfaces=frozenset({self.vip}),
                            version=version,
                            sources=vips,
                            protocols=frozenset({headers.TCP}),
                            sport=((entry.port, entry.port),),
                            states=frozenset({"established"}),
                        )
                    )
        self.add(
            "answers of listeners",
            Promise.REQUIRED,
            answers,
            "whoever was let in is answered, by TCP from the VIP and the listener's port",
            "api-ref listener: a request is answered",
        )
        self.add(
            "everything else that leaves",
            Promise.TOLERATED,
            [Match(leaving=True)],
            "the amphora's own speech is nobody's request, and the API does not say to whom it has "
            "to speak",
            "admin guide SR-IOV: the amphora's own rules are about what reaches the VIP",
        )
