# SPDX-License-Identifier: Apache-2.0
"""The tests that have to catch the faults: the columns of the matrix, run on one load balancer."""

from __future__ import annotations

import ipaddress
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_NS, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from sriov_lb_tests import errors
from sriov_lb_tests.agreement import Question, Reach, Seat, questions, send
from sriov_lb_tests.agreement.reboot import after_reboot
from sriov_lb_tests.agreement.sending import Answered, sendable
from sriov_lb_tests.amphora import Amphora, Counts, Stage
from sriov_lb_tests.amphora.amphora import RULES_FILE
from sriov_lb_tests.mutants.fault import Test
from sriov_lb_tests.mutants.listing import Listing
from sriov_lb_tests.mutants.seeding import ours
from sriov_lb_tests.packets.catalogue import Case, Context, cases
from sriov_lb_tests.packets.probe import Identity, Probe, tcp_syn
from sriov_lb_tests.packets.probe import network as network_header
from sriov_lb_tests.policy import packet as headers
from sriov_lb_tests.policy.intervals import (
    address,
    canonical,
    contains,
    everything,
    network,
)
from sriov_lb_tests.policy.model import IMPOSSIBLE_SOURCES, Listener, Match, Policy, Promise
from sriov_lb_tests.policy.proof import Witness, disagreements
from sriov_lb_tests.policy.ruleset import Ruleset, parse
from sriov_lb_tests.wire.survey import survey
from sriov_lb_tests.wire.vantage import Vantage

#: Classes of the catalogue that are sent for each fault; all of it would take a minute each.
CLASSES = (
    "tcp-syn-open", "tcp-syn-ecn", "tcp-syn-denied", "tcp-syn-closed", "tcp-syn-next-port",
    "tcp-syn-previous-port", "tcp-syn-swapped-port", "tcp-syn-from-port", "tcp-syn-9443",
    "tcp-stray-denied-sa", "tcp-stray-closed-sa", "tcp-stray-closed-null", "tcp-stray-closed-fpu",
    "tcp-stray-closed-f", "tcp-stray-denied-a", "tcp-stray-answer", "udp-tcp-port",
    "udp-closed-53", "udp-answer-from-53", "udp-dhcp-mixed", "udp-dhcp-wrong-source",
    "udp-dhcp-wrong-destination", "sctp-init-tcp-port", "icmp-type-5", "icmp-echo-denied",
    "icmp-echo-huge", "icmp-type-137", "icmp-type-129", "vrrp-stranger-vip", "protocols-002",
    "protocols-004", "protocols-041", "protocols-047", "protocols-050", "protocols-089",
)  # fmt: skip
FLOWS = ("tcp-flow-keepalive", "tcp-flow-acknowledgement", "icmp-flow-")
NEIGHBOURS = ("icmp-solicitation-v6", "icmp-solicitation-denied", "icmp-solicitation-duplicate",
              "icmp-advertisement")  # fmt: skip

#: Witnesses of the proof that are looked for and sent, of each kind.
SENT = 2

WITNESS = "a witness of the proof"

_SOLICITED = ipaddress.ip_address("ff02::1:ff00:0")


@dataclass
class Outcome:
    """What one test said.

    :param alarms: sentences, one for each thing that is wrong.
    :param unclear: what could not be told.
    """

    alarms: list[str] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)


Outcomes = dict[Test, Outcome]


@dataclass
class Subjects:
    """What is tested, and from where.

    :param policies: by amphora id.
    :param seats: every amphora of the load balancer; all of them can be entered.
    :param holder: the one that answers for the VIP.
    :param vantage: None when no packet is to be sent.
    :param rules_file: what a reboot would load; None where there is no such file.
    """

    policies: dict[str, Policy]
    seats: Sequence[Seat]
    holder: Seat
    vantage: Vantage | None
    reach: Reach
    rules_file: str | None = RULES_FILE

    @property
    def policy(self) -> Policy:
        """Of the amphora that holds the VIP."""
        return self.policies[self.holder.id]


def sendable_space(policy: Policy, reach: Reach) -> list[Match]:
    """Packets that a host on the VIP network can send and whose fate can be told.

    A disagreement in this space has to show on the wire; one outside of it cannot.
    """
    found = []
    for version in sorted({address(text)[0] for text in policy.vips}):
        vips = canonical(network(t)[1] for t in policy.vips if address(t)[0] == version)
        taken = [network(t)[1] for t in reach.taken if address(t)[0] == version]
        here = [network(t)[1] for t in reach.own if network(t)[0] == version]
        for low, high in (network(t)[1] for t in reach.links if network(t)[0] == version):
            # Not the network itself, its router, its broadcast: kernels drop such sources.
            here += [(low + 2, high - 1)] if high - low > 3 else []
        # The first bytes that probes of other protocols carry where others have ports.
        plain = {"sport": ((0x534C, 0x534C),), "dport": ((0x4231, 0x4231),)}
        common = {
            "interfaces": frozenset({policy.vip_interface}),
            "version": version,
            "destinations": vips,
            "sources": None if reach.anywhere else canonical(here),
            "not_sources": canonical([*IMPOSSIBLE_SOURCES[version], *taken, *vips]),
        }
        new = {"states": frozenset({"new"})}
        begin = (headers.FIN | headers.SYN | headers.RST | headers.ACK, headers.SYN)
        ping = (8, 8) if version == 4 else (128, 128)
        icmp = headers.ICMP if version == 4 else headers.ICMPV6
        one = [frozenset({number}) for number in (headers.TCP, headers.UDP, icmp)]
        ports = {"sport": ((1, 65535),), "dport": ((1, 65535),)}
        found += [
            Match(**common, **new, **ports, protocols=one[0], flags=begin),
            Match(**common, **new, **ports, protocols=one[1]),
            Match(**common, **new, protocols=one[2], icmp_types=(ping,)),
            Match(**common, **new, **plain, protocols=frozenset({headers.VRRP, 47, 50})),
        ]
    return found


def context_of(policy: Policy, reach: Reach, holder: Seat, version: int) -> Context | None:
    """What the catalogue is aimed at; None when no listener of that IP version fits."""
    vip = next((t for t in policy.vips if address(t)[0] == version), None)
    listeners = [
        one for one in policy.listeners
        if one.served and one.protocol == headers.TCP and one.sources(version)
    ]  # fmt: skip
    if vip is None or not listeners:
        return None
    whole = everything(version)
    guarded = next((one for one in listeners if one.sources(version) != whole), None)
    free = next((one for one in listeners if one.sources(version) == whole), None)
    aimed = guarded or free
    inside = list(itertools.islice(reach.sources(version, aimed.sources(version), inside=True), 9))
    # The kernel of the vantage resets connections that it did not open from its own addresses.
    played = [text for text in inside if text not in reach.own]
    allowed = (played or inside or [None])[0]
    denied = next(reach.sources(version, aimed.sources(version), inside=False), None)
    if allowed is None:
        return None
    taken = {one.port for one in policy.listeners}
    closed = next(n for n in range(aimed.port + 1, aimed.port + 100) if n not in taken)
    own = next((t for t in (holder.own,) if t and address(t)[0] == version), None)
    return Context(
        version,
        vip=vip,
        allowed=allowed,
        denied=denied or allowed,
        tcp_port=aimed.port,
        closed_port=closed,
        open_port=free.port if free else None,
        own=own,
    )


def chosen(context: Context, names: Iterable[str], *, denied: bool) -> list[Case]:
    """Cases whose id begins with one of the names.

    :param denied: whether the context has a source that is not allowed.
    """
    found = []
    for case in cases(context):
        base = case.id.removesuffix(f"-v{case.version}")
        if not any(case.id == n or base == n or n[-1] == "-" and base.startswith(n)
                   for n in names):  # fmt: skip
            continue
        if denied or "denied" not in base:
            found.append(case)
    return found


class _Counter:
    """One counting table for a whole look, read whenever somebody would have made his own.

    In the place of an amphora for whoever asks for :meth:`counting`.
    """

    def __init__(self, inside: Amphora, counts: Counts) -> None:
        self._inside, self._counts = inside, counts

    @contextmanager
    def counting(self, _mac: str) -> Iterator[Counts]:
        yield self._counts
        self._counts.read(json.loads(self._inside.nft("-j", "list", "table", "inet",
                                                      self._counts.table)))  # fmt: skip


class Tests:
    """Runs the columns. A connection that has to survive is opened before a fault is seeded."""

    def __init__(self, subjects: Subjects) -> None:
        self.on = subjects
        self._contexts: dict[int, Context] = {}
        self._interfaces: dict[str, dict] = {}
        if subjects.vantage is not None:
            for version in (4, 6):
                made = context_of(subjects.policy, subjects.reach, subjects.holder, version)
                if made is not None:
                    self._contexts[version] = made
        self.wanted_requests = self.answered() if subjects.vantage is not None else []
        self._counter: _Counter | None = None
        #: What it passes on without any fault: then only a repair can show whether that is seen.
        self.routes = self.forwarding().alarms if self._contexts else []

    @property
    def aimed(self) -> dict[int, str]:
        """By IP version, the source that the catalogue sends from as one that is allowed."""
        return {version: context.allowed for version, context in self._contexts.items()}

    def applicable(self) -> set[Test]:
        """The columns that can say anything here."""
        found = {Test.PROOF} | ({Test.DISK} if self.on.rules_file else set())
        if self.on.vantage is not None:
            found |= {Test.ALLOWED, Test.DENIED, Test.PORTS, Test.STRANGERS, Test.WITNESSES}
            if self.wanted_requests:
                found.add(Test.REQUESTS)
            if self._contexts:
                found |= {Test.FLOWS, Test.CATALOGUE, Test.FORWARDING}
            if 6 in self._contexts:
                found.add(Test.NEIGHBOURS)
        return found

    # static

    def interfaces(self, seat: Seat) -> tuple[str, ...]:
        """Names of an amphora's interfaces; no fault changes them."""
        if seat.id not in self._interfaces:
            self._interfaces[seat.id] = seat.inside.interfaces()
        return tuple(self._interfaces[seat.id])

    def rulesets(self) -> dict[str, Ruleset]:
        return {
            seat.id: parse(Listing.read(seat.inside.ruleset_json(), ignore=ours).document())
            for seat in self.on.seats
        }

    def proof(self, rulesets: dict[str, Ruleset]) -> Outcome:
        """Policy against ruleset, for each amphora."""
        out = Outcome()
        for seat in self.on.seats:
            names = self.interfaces(seat)
            policy, ruleset = self.on.policies[seat.id], rulesets[seat.id]
            found = disagreements(policy, ruleset, interfaces=names, limit=SENT)
            out.alarms += [f"{seat}: {one}" for one in (*found.too_open, *found.too_closed)]
        return out

    def disk(self) -> Outcome:
        """Policy against what a reboot would load."""
        out = Outcome()
        for seat in self.on.seats:
            rules, why = after_reboot(seat.inside, self.on.rules_file)
            found = disagreements(self.on.policies[seat.id], parse(rules), limit=2)
            said = f"{seat}, after a reboot: {why}: " if why else f"{seat}, after a reboot: "
            out.alarms += [f"{said}{one}" for one in (*found.too_open, *found.too_closed)]
        return out

    # on the wire

    def answered(self) -> list[tuple[str, int, str]]:
        """(VIP, port, source) of HTTP listeners that a member answers on without any fault: one of
        each IP version, as what breaks an answer breaks it on every port."""
        on = self.on
        found: dict[int, tuple[str, int, str]] = {}
        for one in on.policy.listeners:
            if not one.served or one.kind not in ("HTTP", "TCP", "TERMINATED_HTTPS"):
                continue
            for vip in on.policy.vips:
                version = address(vip)[0]
                allowed = on.reach.sources(version, one.sources(version), inside=True)
                source = next((text for text in allowed if text in on.reach.own), None)
                if source and version not in found and self._request(vip, one.port, source)[0]:
                    found[version] = vip, one.port, source
        return list(found.values())

    def _request(self, vip: str, port: int, source: str) -> tuple[bool, str]:
        answer, why = self.on.vantage.http_or_why(vip, port, source=source, timeout=2.0)
        if answer is None:
            return False, why
        return answer.status < 500, f"status {answer.status}"

    def requests(self) -> Outcome:
        """Requests that were answered without a fault."""
        out = Outcome()
        for vip, port, source in self.wanted_requests:
            good, said = self._request(vip, port, source)
            if not good:
                out.alarms.append(
                    f"An HTTP request from {source} to {vip} port {port} has to be answered by a "
                    f"member, as it was before, and is not: {said}"
                )
        return out

    def solicitation(self) -> Outcome:
        """Neighbour solicitation for the IPv6 VIP, to its multicast group: counted and answered."""
        out, vantage = Outcome(), self.on.vantage
        context = self._contexts[6]
        low = ipaddress.ip_address(context.vip).packed[-3:]
        group = str(ipaddress.ip_address(_SOLICITED.packed[:13] + low))

        def build(probe: Probe, identity: Identity):
            asked = ICMPv6ND_NS(tgt=context.vip)
            return network_header(probe, identity, hlim=255) / asked / ICMPv6NDOptSrcLLAddr(
                lladdr=vantage.interface.mac
            )

        probe = Probe("neighbour solicitation for the VIP", group, build, context.allowed)
        inside = self._counter or self.on.holder.inside
        with inside.counting(vantage.interface.mac) as counts:
            seen = vantage.ask(probe, tries=1)
        stages = [counts.of(one, 6) for one in seen.identities]
        if seen.answers or any(one[Stage.PASSED_FILTER] for one in stages):
            return out
        if any(one[Stage.ARRIVED] for one in stages):
            out.alarms.append(
                f"A neighbour solicitation for {context.vip} from {context.allowed} has to pass "
                "(neighbour discovery: without it no IPv6 packet arrives), but it arrived and did "
                "not come through."
            )
        else:
            out.unclear.append(str(seen))
        return out

    @contextmanager
    def flows(self) -> Iterator[dict[int, Context]]:
        """Contexts with a live connection each."""
        made: dict[int, Context] = {}
        vantage = self.on.vantage
        try:
            for version, context in self._contexts.items():
                if context.allowed in self.on.reach.own:
                    made[version] = context
                    continue
                flow = vantage.open_flow(context.vip, context.tcp_port, source=context.allowed)
                values = {**context.__dict__, "flow": flow}
                made[version] = Context(**values)
            yield made
        finally:
            for context in made.values():
                if context.flow is not None:
                    vantage.close_flow(context.vip, context.flow)

    def agreement(
        self, rulesets: dict[str, Ruleset], stale_ports: Sequence[int] = ()
    ) -> Outcomes:
        """The questions that follow from the policy, and the proof's witnesses."""
        on = self.on
        asked = questions(on.policy, on.reach, ports=stale_ports, thorough=True)
        asked += self.witnesses(rulesets)
        found: Outcomes = {
            test: Outcome()
            for test in (Test.ALLOWED, Test.DENIED, Test.PORTS, Test.STRANGERS, Test.WITNESSES)
        }
        seat = replace(on.holder, inside=self._counter or on.holder.inside)
        for one in send(asked, on.vantage, on.reach.own, [seat]):
            _add(found[column(one.question, on.policy.listeners)], on.policy, one)
        return found

    def witnesses(self, rulesets: dict[str, Ruleset]) -> list[Question]:
        """Witnesses of the proof that this vantage can send."""
        on = self.on
        proof = disagreements(
            on.policy,
            rulesets[on.holder.id],
            interfaces=(on.policy.vip_interface,),
            limit=2 * SENT,
            within=sendable_space(on.policy, on.reach),
        )
        return [
            _question(one)
            for kind in (proof.too_open, proof.too_closed)
            for one in [w for w in kind if sendable(w.packet, on.policy.vip_interface)][:SENT]
        ]

    def catalogue(self, contexts: dict[int, Context]) -> Outcomes:
        """Classes of the catalogue; those about flows and neighbours have columns of their own."""
        found: Outcomes = {Test.FLOWS: Outcome(), Test.CATALOGUE: Outcome()}
        if 6 in contexts:
            found[Test.NEIGHBOURS] = Outcome()
        names = {Test.FLOWS: FLOWS, Test.NEIGHBOURS: NEIGHBOURS, Test.CATALOGUE: CLASSES}
        vantage, inside = self.on.vantage, self._counter or self.on.holder.inside
        for context in contexts.values():
            wanted = {
                case.id: (case, test)
                for test in found
                for case in chosen(
                    context, names[test], denied=context.denied != context.allowed
                )
            }
            control = tcp_syn(
                context.vip, context.open_port or context.tcp_port, source=context.allowed
            )
            results = survey(
                vantage,
                context,
                control=control,
                chosen=[case for case, _ in wanted.values()],
                counting=inside.counting(vantage.interface.mac),
            )
            for finding in results:
                out = found[wanted[finding.case.id][1]]
                if finding.right is False:
                    out.alarms.append(str(finding))
                elif finding.right is None:
                    out.unclear.append(str(finding))
        return found

    def forwarding(self, versions: Sequence[int] = (4, 6)) -> Outcome:
        """A packet for somebody else, given to the amphora's MAC: does it come out again?"""
        out, vantage = Outcome(), self.on.vantage
        self.interfaces(self.on.holder)
        mac = self._interfaces[self.on.holder.id][self.on.policy.vip_interface].mac
        for version in versions:
            if why := self.no_forwarding(version):
                out.unclear.append(why)
                continue
            source, target = self._pair(version)
            tag = vantage.identities.next().tag
            ether = Ether(src=vantage.interface.mac, dst=mac)
            header = IP(src=source, dst=target) if version == 4 else IPv6(src=source, dst=target)
            frame = bytes(ether / header / UDP(sport=33333, dport=33334) / Raw(tag))
            played = [] if vantage.interface.owns(target) else [target]
            vantage.play(*played)
            try:
                with vantage.capture({"addresses": [target]}, title="forwarding") as captured:
                    vantage.send([frame] * 3, 200, title="for somebody else")
                    # The control: the amphora is alive, and what was sent before has had its time.
                    try:
                        vantage.resolve(self._contexts[version].vip)
                    except errors.ControlFailed as error:
                        out.unclear.append(error.message)
            finally:
                vantage.stop_playing(*played)
            back = [one for one in captured.frames if not one.outgoing and tag in one.data]
            if back:
                out.alarms.append(
                    f"IPv{version}: a packet from {source} to {target}, given to the amphora's MAC "
                    f"{mac}, was passed on {len(back)} times: it routes."
                )
        return out

    def no_forwarding(self, version: int) -> str:
        """Why forwarding cannot be asked about over an IP version; "" when it can."""
        if version not in self._contexts:
            return f"IPv{version}: a listener that one of our addresses reaches is needed"
        if self._pair(version) is None:
            return f"IPv{version}: two addresses of ours on the link are needed"
        return ""

    def _pair(self, version: int) -> tuple[str, str] | None:
        """Two addresses of ours on the link."""
        whole = everything(version)
        found = self.on.reach.sources(version, whole, inside=True)
        own = next(found, None)
        other = next(found, None)
        if own is None:
            return None
        if other is None:
            for link in self.on.reach.links:
                net = ipaddress.ip_network(link)
                if net.version == version and net.num_addresses > 16:
                    other = str(net[-7])
        return None if other is None else (own, other)

    def everything(
        self,
        contexts: dict[int, Context],
        *,
        stale_ports: Sequence[int] = (),
        disk: bool = True,
        routes: Sequence[int] = (),
    ) -> Outcomes:
        """Every column that applies.

        :param routes: IP versions whose forwarding is the fault; by default it is asked about where
            nothing is forwarded without any.
        """
        rulesets = self.rulesets()
        found: Outcomes = {Test.PROOF: self.proof(rulesets)}
        if disk and self.on.rules_file:
            found[Test.DISK] = self.disk()
        if self.on.vantage is not None:
            with self._counted():
                self._on_the_wire(found, rulesets, contexts, stale_ports, routes)
        return found

    def _on_the_wire(self, found: Outcomes, rulesets, contexts, stale_ports, routes) -> None:
        found.update(self.agreement(rulesets, stale_ports))
        if self.wanted_requests:
            found[Test.REQUESTS] = self.requests()
        if contexts:
            found.update(self.catalogue(contexts))
            if 6 in contexts:
                asked = self.solicitation()
                found[Test.NEIGHBOURS].alarms[:0] = asked.alarms
                found[Test.NEIGHBOURS].unclear += asked.unclear
            if routes or not self.routes:
                found[Test.FORWARDING] = self.forwarding(routes or tuple(self._contexts))

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Packets are counted in the holder while the block runs."""
        inside = self.on.holder.inside
        with inside.counting(self.on.vantage.interface.mac) as counts:
            self._counter = _Counter(inside, counts)
            try:
                yield
            finally:
                self._counter = None

    def sendable(self, ruleset: Ruleset) -> bool:
        """Whether a packet that can be sent from here shows that a ruleset is wrong."""
        on = self.on
        space = sendable_space(on.policy, on.reach)
        name = on.policy.vip_interface
        found = disagreements(on.policy, ruleset, interfaces=(name,), limit=2, within=space)
        return any(sendable(one.packet, name) for one in (*found.too_open, *found.too_closed))


def column(question: Question, listeners: Sequence[Listener]) -> Test:
    """Where a question belongs."""
    packet = question.packet
    if question.why == WITNESS:
        return Test.WITNESSES
    if question.promise is Promise.REQUIRED:
        return Test.ALLOWED
    served = {(one.protocol, one.port): one for one in listeners}
    found = served.get((packet.protocol, packet.dport))
    if found is not None:
        inside = contains(found.sources(packet.version), address(packet.source)[1])
        return Test.STRANGERS if inside else Test.DENIED
    if packet.protocol == headers.TCP and "service" not in question.why:
        return Test.PORTS
    return Test.STRANGERS


def _question(witness: Witness) -> Question:
    packet = witness.packet
    # Sources of the sendable space are ones that answers come back to.
    shows = packet.protocol == headers.TCP
    return Question(packet, WITNESS, witness.clause.promise, None, shows)


def _add(out: Outcome, policy: Policy, one: Answered) -> None:
    packet = one.question.packet
    if one.right is False:
        came = "came through" if one.passed else "did not come through"
        if one.passed and one.question.promise is Promise.REQUIRED:
            came = "came through and was not served"
        promise = one.question.promise.value
        out.alarms.append(f"{packet} {promise} ({policy.explain(packet)}), but it {came}.")
    elif one.right is None:
        out.unclear.append(str(one))
