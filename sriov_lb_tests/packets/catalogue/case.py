# SPDX-License-Identifier: Apache-2.0
"""What a case of the catalogue is, and what it is aimed at."""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet, Raw

from sriov_lb_tests.packets.probe import Identity, Link, Probe


class Expected(enum.Enum):
    """What becomes of a packet at the amphora's firewall.

    ACCEPT: it passes the filter. REJECT: it is refused with an answer. DROP: it reaches the
    filter and goes no further. BEFORE_FILTER: it reaches the amphora, whose kernel discards it
    before the filter. NOT_ARRIVED: it never reached the amphora, so that neither its kernel nor its
    filter can be blamed or praised; no case deserves that, and for none is it right.
    """

    ACCEPT = "accept"
    REJECT = "reject"
    DROP = "drop"
    BEFORE_FILTER = "drop-before-filter"
    NOT_ARRIVED = "not-arrived"


class Need(enum.Enum):
    """What a context has to have for a case."""

    OPEN_LISTENER = "a TCP listener without CIDRs"
    UDP_LISTENER = "a UDP listener open to the allowed source"
    SCTP_LISTENER = "an SCTP listener open to the allowed source"
    OWN = "the amphora's own address on the VIP network"
    PEER = "the peer's address"
    FLOW = "a live connection"
    SUBNET = "the VIP subnet"
    CLOSED = "no listener on the port that the case takes for closed"


@dataclass(frozen=True)
class Flow:
    """A connection that stands, as its client sees it.

    :param sequence: the client's next sequence number.
    :param acknowledgement: the next one it expects.
    """

    source: str
    port: int
    target_port: int
    sequence: int
    acknowledgement: int


@dataclass(frozen=True)
class Context:
    """What the cases are aimed at.

    :param allowed: a source the listener on ``tcp_port`` is open to, and that answers can reach.
    :param denied: a source it is not open to.
    :param tcp_port: port of a TCP listener with CIDRs.
    :param open_port: port of a TCP listener without CIDRs.
    :param udp_port, sctp_port: ports of such listeners.
    :param closed_port: a port without any listener.
    :param own: the amphora's base address.
    :param peer: the address of the other amphora of the pair.
    :param subnet: the VIP subnet, for its broadcast address.
    :param flow: a live connection to ``tcp_port``.
    """

    version: int
    vip: str
    allowed: str
    denied: str
    tcp_port: int = 80
    closed_port: int = 81
    open_port: int | None = None
    udp_port: int | None = None
    sctp_port: int | None = None
    own: str | None = None
    peer: str | None = None
    subnet: str | None = None
    flow: Flow | None = None

    def listens(self, protocol: int, port: int) -> bool:
        """Whether a listener of the context is there."""
        ports = {6: (self.tcp_port, self.open_port), 17: (self.udp_port,), 132: (self.sctp_port,)}
        return port in ports.get(protocol, ())

    def has(self) -> frozenset[Need]:
        found = {
            Need.OPEN_LISTENER: self.open_port,
            Need.UDP_LISTENER: self.udp_port,
            Need.SCTP_LISTENER: self.sctp_port,
            Need.OWN: self.own,
            Need.PEER: self.peer,
            Need.FLOW: self.flow,
            Need.SUBNET: self.subnet,
        }
        return frozenset(need for need, value in found.items() if value is not None)

    @property
    def broadcast(self) -> str:
        return str(ipaddress.ip_network(self.subnet, strict=False).broadcast_address)


#: From context and identity to the packet or packets, network layer upwards.
Builder = Callable[[Context, Identity], Packet | list[Packet]]
#: From the context to an address.
Address = Callable[[Context], str]


@dataclass(frozen=True)
class Case:
    """One packet class.

    :param id: unique: ``tcp-syn-open-v4``.
    :param group: ``tcp``, ``udp``, ``icmp``, ``ip``, ``addresses``, ``protocols``, ``link``.
    :param description: one line.
    :param expected: the fate it deserves, or usually has where no promise is touched.
    :param also: other fates that break no promise.
    :param reason: why, in one sentence.
    :param source: RFC, clause of the policy, or kernel behaviour.
    :param shows: acceptance would come back to the sender as an answer: SYN-ACK, RST, port or
        protocol unreachable (of which kernels send only the first few to one address).
    :param needs: what the context has to have.
    :param sender: the source address; None when the packet brings its own and nobody may play it.
    :param closed: protocol and port that may be no listener's for the case to make sense.
    :param counted: it has a network header, so that counters in the target can know it.
    :param lost: why its frame may be lost before the counters of the target see it; empty when it
        has to arrive.
    :param unseen: what of it decides its fate and is in no header that the policy reads; empty when
        the policy can be asked.
    """

    id: str
    version: int
    group: str
    description: str
    build: Builder
    expected: Expected
    also: frozenset[Expected]
    reason: str
    source: str
    shows: bool
    needs: frozenset[Need]
    sender: Address | None
    relink: Callable[[Link], Link] | None = None
    asks: Builder | None = None
    closed: Callable[[Context], tuple[int, int]] | None = None
    counted: bool = True
    lost: str = ""
    unseen: str = ""

    @property
    def allowed(self) -> frozenset[Expected]:
        """Every fate that breaks no promise. Where in the amphora a packet is discarded that may
        not pass does not matter; that it got there does."""
        found = {self.expected} | self.also
        if found & {Expected.DROP, Expected.BEFORE_FILTER}:
            found |= {Expected.DROP, Expected.BEFORE_FILTER}
        return frozenset(found)

    @property
    def decisive(self) -> bool:
        """Whether the case can fail: its fate can be told, and not every fate is allowed. The
        others are told for who wants to know what a firewall does with them."""
        return (self.counted or self.shows) and not self.allowed >= {Expected.ACCEPT, Expected.DROP}

    def lacks(self, context: Context) -> frozenset[Need]:
        found = self.needs - context.has()
        if self.closed and context.listens(*self.closed(context)):
            found |= {Need.CLOSED}
        return frozenset(found)

    def probe(self, context: Context) -> Probe:
        """The case as a probe for the context's target."""

        def bound(build: Builder):
            return lambda _probe, identity: build(context, identity)

        return Probe(
            title=f"{self.description} ({self.id})",
            destination=context.vip,
            build=bound(self.build),
            source=self.sender(context) if self.sender else context.allowed,
            play=self.sender is not None,
            expects_answer=self.shows,
            relink=self.relink,
            asks=bound(self.asks) if self.asks else None,
        )


def allowed(context: Context) -> str:
    return context.allowed


def denied(context: Context) -> str:
    return context.denied


@dataclass
class Registry:
    """Collects the cases of one IP version."""

    version: int
    cases: list[Case] = field(default_factory=list)
    _ids: set[str] = field(default_factory=set)

    def add(
        self,
        group: str,
        name: str,
        description: str,
        build: Builder,
        expected: Expected,
        reason: str,
        source: str,
        *,
        also: Iterable[Expected] = (),
        shows: bool = False,
        needs: Iterable[Need] = (),
        sender: Address | None = allowed,
        relink: Callable[[Link], Link] | None = None,
        asks: Builder | None = None,
        closed: Callable[[Context], tuple[int, int]] | None = None,
        counted: bool = True,
        lost: str = "",
        unseen: str = "",
    ) -> None:
        """Add a case; its id is ``group-name-vN``."""
        identifier = f"{group}-{name}-v{self.version}"
        if identifier in self._ids:
            raise ValueError(f"two cases are called {identifier}")
        self._ids.add(identifier)
        self.cases.append(
            Case(
                id=identifier,
                version=self.version,
                group=group,
                description=description,
                build=build,
                expected=expected,
                also=frozenset(also),
                reason=reason,
                source=source,
                shows=shows,
                needs=frozenset(needs),
                sender=sender,
                relink=relink,
                asks=asks,
                closed=closed,
                counted=counted,
                lost=lost,
                unseen=unseen,
            )
        )


# --- reasons that several layers share ---------------------------------------------------

#: For ``lost``.
KERNEL = "kernels discard it before any hook"
GROUP = "a card may pass on only the groups that its guest joined"
#: For ``unseen``.
DAMAGE = "the damage is in a field that no policy reads"


# --- building blocks -----------------------------------------------------------------------


def network(
    context: Context,
    identity: Identity,
    *,
    source: str | None = None,
    destination: str | None = None,
    **fields,
) -> Packet:
    """The network header with the identity in it; from the allowed source to the VIP."""
    common = {"src": source or context.allowed, "dst": destination or context.vip}
    if context.version == 4:
        return IP(**{**common, "id": identity.sequence, **fields})
    return IPv6(**{**common, "fl": identity.flow_label, **fields})


def tcp(context: Context, identity: Identity, flags: str = "S", **fields) -> Packet:
    """A TCP header to the listener with CIDRs."""
    values = {
        "sport": identity.port,
        "dport": context.tcp_port,
        "seq": identity.nonce,
        "ack": identity.nonce ^ 0x5A5A5A5A if "A" in flags else 0,
        "flags": flags,
        "window": 64240,
    }
    return TCP(**{**values, **fields})


def udp(context: Context, identity: Identity, port: int | None = None, **fields) -> Packet:
    """A UDP header and our tag; to the UDP listener unless a port is given."""
    target = port if port is not None else context.udp_port
    return UDP(**{"sport": identity.port, "dport": target, **fields}) / Raw(identity.tag)


def pick(version: int, four, six):
    """The one of two that belongs to the IP version."""
    return four if version == 4 else six
