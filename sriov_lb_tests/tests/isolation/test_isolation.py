# SPDX-License-Identifier: Apache-2.0
"""What an SR-IOV amphora must never do: be a way from one network to another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scapy.layers.l2 import Ether
from tempest.lib import decorators

from sriov_lb_tests import errors
from sriov_lb_tests.agreement.sending import link_probe
from sriov_lb_tests.cloud.site import MEMBER, VIP
from sriov_lb_tests.packets.probe import Probe, icmp_echo, tcp_syn, udp
from sriov_lb_tests.tests import base
from sriov_lb_tests.tests.base import requirement
from sriov_lb_tests.tests.isolation import place, reading
from sriov_lb_tests.tests.isolation.place import MEMBER_PORT, PORT, Inside, Place, through
from sriov_lb_tests.tests.isolation.reading import Reading, Station
from sriov_lb_tests.tests.looks import Looks
from sriov_lb_tests.verdicts.model import Broken
from sriov_lb_tests.wire import pcap
from sriov_lb_tests.wire.capture import Frame
from sriov_lb_tests.wire.host import Interface
from sriov_lb_tests.wire.vantage import Vantage

NEEDS = ("admin_mode", "amphora_ssh")


class TestIsolation(base.SriovLbTest):
    """An amphora stands on three networks and joins them for listeners only.

    Octavia's architecture (doc: "Octavia v2 API, amphora": the management network is a network of
    its own, and haproxy lives in a network namespace apart from it) promises that a load
    balancer's users see its listeners, and nothing else of the amphora or behind it. On a
    normal port Neutron holds the amphora to its own addresses (port security: ``fixed_ips`` and
    ``allowed_address_pairs`` of the port) and to its security group; on a virtual function
    neither exists, so whatever the amphora does is what the network sees. So the members' side is
    on virtual functions too (where the API has that, from v2.30 on), real hosts stand on both
    sides, and each silence has two controls: one that differs in what is under test is answered,
    and counters in the amphora saw the packet come.
    """

    def setUp(self) -> None:
        super().setUp()
        self.place = place.pair(self.stage)
        self.hosts = self.place.hosts

    def amphorae(self) -> tuple[Inside, ...]:
        """Those of the place, the one that holds the VIPs first."""
        self.involved = {self.place.what: self.place.lb}
        found = self.place.amphorae
        port = self.place.port(found[0].member_side, self.site.member_net)
        self.seen["the amphora's member port"] = port.binding_vnic_type
        return found

    def use(self, other: Place) -> None:
        """Look at another load balancer than the pair."""
        self.place = other

    # --- looking ---------------------------------------------------------------------------

    def judged(self, found: Reading, what: str) -> None:
        """Record what was read; fail, or say that it proves nothing."""
        self.seen[what] = found.note
        if found.broken:
            self.fail(found.broken)
        if found.unclear:
            base.inconclusive(found.unclear)

    def judged_together(self, found: Mapping[str, Reading]) -> None:
        """The same of several places.

        :param found: by what was looked at.
        :raises Broken: with a finding for each place that is broken, so that a known one hides no
            other.
        """
        for what, one in found.items():
            self.seen[what] = "; ".join(filter(None, (one.note, one.unclear)))
        broken = [one.broken for one in found.values() if one.broken]
        if broken:
            raise Broken("\n".join(broken), findings=broken)
        unclear = [one.unclear for one in found.values() if one.unclear]
        if unclear:
            base.inconclusive(unclear[0])

    def silence(
        self,
        what: str,
        vantage: Vantage,
        inside: Inside,
        interface: Interface,
        questions: Sequence[tuple[Probe, Probe]],
        *,
        refusing: Sequence[str] = (),
    ) -> Reading:
        """Whether none of the probes is answered or passes the filter, though each came to the
        amphora.

        :param interface: of the amphora, on the vantage's link; what it sees is kept as well.
        :param refusing: see :func:`reading.silence`.
        """
        near = self.place.listening(inside, interface.name)
        ends = {end for probe, _ in questions for end in (probe.source, probe.destination)}
        with near.capture({"addresses": sorted(ends)}) as captured:
            with inside.amphora.counting(vantage.interface.mac) as counts:
                seen = vantage.ask_all(questions)
        name = what.replace(" ", "-").replace("/", "-")
        self.evidence(pcap.write(self.folder / f"{name}.pcap", captured.frames))
        self.evidence(*{observation.pcap for observation in seen})
        self.keep(f"{name}.txt", "\n".join(map(str, seen)))
        eaten = self.place.eaten(interface, self.network_of(inside, interface))
        return reading.silence(what, seen, counts, eaten=eaten, refusing=refusing)

    def network_of(self, inside: Inside, interface: Interface) -> Any:
        return self.site.vip_net if interface is inside.vip_side else self.site.member_net

    def carried(
        self,
        what: str,
        sender: Vantage,
        far: Vantage,
        inside: Inside,
        interface: Interface,
        probes: Sequence[Probe],
        control: Callable[[], None],
        came: Callable[[Frame], bool],
    ) -> Reading:
        """Whether none of the probes arrives at the far end, whose capture saw the control.

        :param interface: of the amphora, on the sender's link.
        :param came: whether a frame is what the control has to bring.
        """
        with far.capture() as captured:
            control()  # before, too: whoever has to look for a neighbour first may lose a packet
            with inside.amphora.counting(sender.interface.mac) as counts:
                seen = sender.ask_all([(probe, None) for probe in probes], tries=1)
            control()
        name = f"far-end-{inside.base.replace(':', '-')}.pcap"
        self.evidence(pcap.write(self.folder / name, captured.frames))
        self.evidence(*{observation.pcap for observation in seen})
        eaten = self.place.eaten(interface, self.network_of(inside, interface))
        found = reading.carried(
            what, seen, captured.incoming, counts, far=far.name, eaten=eaten
        )
        if not found.broken and not any(came(frame) for frame in captured.incoming):
            unclear = (
                f"{what}: the control did not arrive at {far.name} either, of "
                f"{len(captured.incoming)} frames."
            )
            return Reading(unclear=unclear, note=found.note)
        return found

    # --- the management side -----------------------------------------------------------------

    def management_hidden(self, side: str) -> None:
        """Nothing that is sent to an amphora's management address from a side gets there."""
        looks = Looks()
        for number, inside in enumerate(self.amphorae()):
            with looks:
                self.judged_together(self._to_management(side, number, inside))
        looks.conclude()

    def _to_management(self, side: str, number: int, inside: Inside) -> dict[str, Reading]:
        """What the looks at one amphora come to, by what was looked at."""
        version = place.version_of(inside.mgmt)
        if version not in self.place.versions:
            raise self.skipException(
                f"The management address {inside.mgmt} is IPv{version}, of which the VIP "
                "network has no subnet."
            )
        if side == "VIP":
            vantage, interface = self.hosts.vip_side, inside.vip_side
            source = self.hosts.client.allowed(version)
            own = inside.every_address(interface, version)
            hop = self.place.vip(version) if number == 0 else next(iter(own), inside.base)
            control = tcp_syn(hop, PORT, source=source)
        else:
            vantage, interface = self.hosts.member_side, inside.member_side
            source = self.hosts.member.addresses(MEMBER, version)[0]
            hop = inside.addresses(interface, version)[0]
            control = link_probe(hop, source, vantage.interface.mac)
        probes = [tcp_syn(inside.mgmt, port, source=source) for port in inside.ports]
        probes += [udp(inside.mgmt, port, source=source) for port in inside.udp_ports]
        probes += [icmp_echo(inside.mgmt, source=source)]
        mgmt = inside.management()
        listening = self.place.listening(inside, mgmt, netns=False)
        what = f"from the {side} network to the management address {inside.mgmt}"
        found = {f"sshd and agent of {inside.mgmt}": self._alive(inside)}
        with listening.capture({"addresses": [inside.mgmt, source]}) as captured:
            with through(vantage, hop):
                found[what] = self.silence(
                    what, vantage, inside, interface,
                    [(probe, control) for probe in probes],
                    refusing=inside.every_address(interface, version),
                )  # fmt: skip
            inside.host.run(["true"])
        self.evidence(pcap.write(self.folder / f"{inside.mgmt}.pcap", captured.frames))
        found[f"{what}, on its {mgmt}"] = self._arrived(what, mgmt, source, captured.frames)
        return found

    @staticmethod
    def _arrived(what: str, mgmt: str, source: str, frames: Sequence[Frame]) -> Reading:
        """Whether nothing of the sender came to the management interface, whose capture sees."""
        note = f"{len(frames)} frames"
        if not frames:
            return Reading(unclear=f"The capture on {mgmt} did not even see our ssh.", note=note)
        arrived = [frame for frame in frames if reading.is_from(frame, source, None)]
        if not arrived:
            return Reading(note=note)
        return Reading(
            f"{what}: {len(arrived)} frames of the sender arrived on {mgmt}, the first was "
            f"{Ether(arrived[0].data).summary()}.",
            note=note,
        )

    @decorators.idempotent_id("7d2f9b10-61a8-4b0f-9a55-1a4c5f3e2b01")
    @requirement(
        "ISO-001",
        "Nothing on the VIP network reaches an amphora's management address.",
        needs=NEEDS,
    )
    def test_management_address(self) -> None:
        """Steps:

        1. See that agent and sshd answer on the management address from inside of the amphora.
        2. From the client send SYNs and UDP to every port that anything in the amphora listens on
           and a ping, all to the management address, in frames for the amphora's MAC on the VIP
           network; capture on the management interface meanwhile.

        Verify: they come to the amphora, none passes its filter, and the management interface sees
        none of it, though the capture sees our ssh. No answer but one: that the amphora, in the
        name of an address it has on the VIP network, finds no way to there (network or host
        unreachable, time exceeded) says that nothing was reached; that it routed the packet at all
        is the matter of ISO-004. The control, a SYN to the listener's port in a frame for the same
        MAC, is answered.
        """
        self.management_hidden("VIP")

    @decorators.idempotent_id("2415ab08-c31f-4718-9343-113fe1b4f8f1")
    @requirement(
        "ISO-008",
        "Nothing on a member network reaches an amphora's management address.",
        needs=NEEDS,
    )
    def test_management_address_from_the_member_network(self) -> None:
        """The same from the member-side host, in frames for the amphora's MAC there. The control
        is ARP or neighbour discovery for its address there, and the counters in it."""
        self.management_hidden("member")

    def _alive(self, inside: Inside) -> Reading:
        """Whether what may not be reached is there to be reached."""
        program = (
            "import socket, sys\n"
            "for port in map(int, sys.argv[2:]):\n"
            "    socket.create_connection((sys.argv[1], port), 5).close()\n"
        )
        done = inside.host.run(
            ["python3", "-c", program, inside.mgmt, "22", "9443"], check=False, root=True
        )
        if done.status:
            return Reading(
                unclear=f"sshd or agent of {inside.mgmt} do not answer: {done.stderr}"
            )
        return Reading(note="both answer")

    # --- services of the amphora ---------------------------------------------------------------

    def services_hidden(self, version: int) -> None:
        source = self.hosts.client.allowed(version)
        looks = Looks()
        for number, inside in enumerate(self.amphorae()):
            role = "holder of the VIP" if number == 0 else "its peer"
            for target in inside.every_address(inside.vip_side, version):
                control = tcp_syn(target, PORT, source=source)
                probes = [tcp_syn(target, port, source=source) for port in inside.ports]
                probes += [udp(target, port, source=source) for port in inside.udp_ports]
                what = f"services of the {role} at {target}"
                with looks:
                    found = self.silence(
                        what, self.hosts.vip_side, inside, inside.vip_side,
                        [(probe, control) for probe in probes],
                    )  # fmt: skip
                    self.judged(found, what)
        looks.conclude()

    @decorators.idempotent_id("1c5b0c7a-2c7e-4a0e-8c4e-6a1f0f7d2b02")
    @requirement(
        "ISO-002",
        "Nothing on the VIP network reaches an amphora's ssh, agent, metrics or stick tables.",
        needs=("ipv4", *NEEDS),
    )
    def test_services_from_the_vip_network_ipv4(self) -> None:
        """Steps:

        1. List the TCP and UDP ports on which anything listens in each amphora of the pair, and
           those of its usual services.
        2. Send to all of them, at the VIP and at each address that the amphorae have on the VIP
           network; capture at both ends.

        Verify: all come to the amphora, none passes its filter, none is answered by anybody; the
        control, a SYN to the listener's port of the same address, is (where no VIP is, by a
        reset).
        """
        self.services_hidden(4)

    @decorators.idempotent_id("2e6c1d8b-3d8f-4b1f-9d5f-7b2a1a8e3c03")
    @requirement(
        "ISO-002",
        "Nothing on the VIP network reaches an amphora's ssh, agent, metrics or stick tables.",
        needs=("ipv6", *NEEDS),
    )
    def test_services_from_the_vip_network_ipv6(self) -> None:
        """The same over IPv6, to link-local addresses too."""
        self.services_hidden(6)

    def services_hidden_from_members(self, version: int) -> None:
        looks = Looks()
        for inside in self.amphorae():
            with looks:
                self._hidden_from_members(inside, version)
        looks.conclude()

    def _hidden_from_members(self, inside: Inside, version: int) -> None:
        far = self.hosts.member_side
        source = self.hosts.member.addresses(MEMBER, version)[0]
        hop = inside.addresses(inside.member_side, version)[0]
        control = link_probe(hop, source, far.interface.mac)
        targets = inside.every_address(inside.member_side, version)
        targets += inside.addresses(inside.vip_side, version)
        probes = [
            tcp_syn(target, port, source=source)
            for target in targets
            for port in (*inside.ports, PORT)
        ]
        probes += [
            udp(target, port, source=source)
            for target in targets
            for port in (*inside.udp_ports, PORT)
        ]
        probes += [icmp_echo(target, source=source) for target in targets]
        with through(far, hop) as vantage:
            what = f"services of {inside.base} from the member network, IPv{version}"
            found = self.silence(
                what, vantage, inside, inside.member_side, [(probe, control) for probe in probes]
            )
            self.judged(found, what)

    @decorators.idempotent_id("3f7d2e9c-4e90-4c20-8e60-8c3b2b9f4d04")
    @requirement(
        "ISO-003",
        "Nothing on a member network reaches the VIP, or a service of the amphora.",
        needs=("ipv4", *NEEDS),
    )
    def test_services_from_the_member_network_ipv4(self) -> None:
        """Steps:

        1. From the member-side host send SYNs (to the listener's port too), UDP and pings to the
           amphora's address there, to the VIP and to its own address on the VIP network, all in
           frames for the amphora's MAC on the member network; capture at both ends.

        Verify: all come to the amphora, none passes its filter, none is answered by anybody. The
        control, an ARP request for the amphora's address there, is. What does not come to the
        amphora, because its member port is a normal one with a security group, proves nothing.
        """
        self.services_hidden_from_members(4)

    @decorators.idempotent_id("408e3fad-5fa1-4d31-9f71-9d4c3ca05e05")
    @requirement(
        "ISO-003",
        "Nothing on a member network reaches the VIP, or a service of the amphora.",
        needs=("ipv6", *NEEDS),
    )
    def test_services_from_the_member_network_ipv6(self) -> None:
        """The same over IPv6, to link-local addresses too; the control is neighbour discovery."""
        self.services_hidden_from_members(6)

    # --- through the amphora -------------------------------------------------------------------

    def _by(self, number: int) -> str:
        """What an amphora is called: of a pair the one that holds the VIPs comes first."""
        if len(self.amphorae()) == 1:
            return "by the amphora"
        return "by its peer" if number else "by the holder of the VIP"

    def not_forwarded_to_members(self, version: int, port: str = "") -> None:
        found = {}
        for number, inside in enumerate(self.amphorae()):
            what = (
                f"{self._by(number)}, from the VIP network to the member network{port}, "
                f"IPv{version}"
            )
            found[what] = self._to_members(what, inside, version, holder=not number)
        self.judged_together(found)

    def _to_members(self, what: str, inside: Inside, version: int, *, holder: bool) -> Reading:
        source = self.hosts.client.allowed(version)
        target = self.hosts.member.addresses(MEMBER, version)[0]
        far, vip = self.hosts.member_side, self.place.vip(version)
        probes = [
            tcp_syn(target, MEMBER_PORT, source=source),
            tcp_syn(target, 22, source=source),
            udp(target, 9, source=source),
            icmp_echo(target, source=source),
        ]
        mac = inside.member_side.mac

        def ask() -> None:
            # The one without the VIPs gets no request to carry on: it asks of itself.
            program = (
                "import socket, sys\n"
                "socket.create_connection((sys.argv[1], int(sys.argv[2])), 2).close()\n"
            )
            done = inside.amphora.within(
                "python3", "-c", program, target, str(MEMBER_PORT), check=False
            )
            if done.status:
                self.seen["the peer's own question"] = done.stderr.strip().splitlines()[-1:]

        def request() -> None:
            # Whether it is answered is not the point here: that the amphora asks the member is.
            # Members take turns: after as many requests as there are, each was asked.
            for _ in self.site.member_net.subnets:
                try:
                    self.hosts.vip_side.http(vip, PORT, source=source, timeout=2)
                except errors.AgentFailed as error:
                    self.seen["the control's request"] = str(error)

        # Of a pair's standby the link-local address may be the only one of IPv6.
        own = inside.every_address(inside.vip_side, version)
        hop = vip if holder else next(iter(own), "")
        if not hop:
            return Reading(unclear=f"{what}: it has no such address on the VIP network.")
        with through(self.hosts.vip_side, hop) as vantage:
            return self.carried(
                what, vantage, far, inside, inside.vip_side, probes, request if holder else ask,
                lambda frame: reading.mac_of(frame) == mac and reading.is_tcp(frame, version),
            )  # fmt: skip

    @decorators.idempotent_id("519f40be-60b2-4e42-a082-ae5d4db16f06")
    @requirement(
        "ISO-004",
        "An amphora forwards nothing from the VIP network to a member network.",
        needs=("ipv4", *NEEDS),
    )
    def test_forwarding_to_the_member_network_ipv4(self) -> None:
        """Steps:

        1. From the client send TCP, UDP and ICMP to the member-side host's address, in frames
           for the MAC that holds the VIP.
        2. Capture there; make a request to the VIP as well.
        3. The same in frames for the MAC of the other amphora, and have that one ask the member.

        Verify: all come to the amphora and none arrives there. The control: the amphora's own
        question to the member of that IP version does.
        """
        self.not_forwarded_to_members(4)

    @decorators.idempotent_id("62a051cf-71c3-4f53-b193-bf6e5ec27007")
    @requirement(
        "ISO-004",
        "An amphora forwards nothing from the VIP network to a member network.",
        needs=("ipv6", *NEEDS),
    )
    def test_forwarding_to_the_member_network_ipv6(self) -> None:
        """The same over IPv6."""
        self.not_forwarded_to_members(6)

    @decorators.idempotent_id("b9c00b59-7cd2-4049-8fc6-47bfa33d4536")
    @requirement(
        "ISO-004",
        "An amphora forwards nothing from the VIP network to a member network.",
        needs=("ipv4", *NEEDS),
    )
    def test_forwarding_to_a_normal_member_port_ipv4(self) -> None:
        """The same with an amphora whose member port is a normal one. There Neutron holds what
        leaves to the port's addresses; this shows what amphora and Neutron stop together."""
        self.use(place.behind_a_normal_port(self.stage))
        self.not_forwarded_to_members(4, " behind a normal port")

    @decorators.idempotent_id("bfd7d7bb-50fe-4eca-ad30-39d9f014a973")
    @requirement(
        "ISO-004",
        "An amphora forwards nothing from the VIP network to a member network.",
        needs=("ipv6", *NEEDS),
    )
    def test_forwarding_to_a_normal_member_port_ipv6(self) -> None:
        """The same over IPv6."""
        self.use(place.behind_a_normal_port(self.stage))
        self.not_forwarded_to_members(6, " behind a normal port")

    def not_forwarded_to_clients(self, version: int) -> None:
        found = {}
        for number, inside in enumerate(self.amphorae()):
            what = (
                f"{self._by(number)}, from the member network to the VIP network, IPv{version}"
            )
            found[what] = self._to_clients(what, inside, version, holder=not number)
        self.judged_together(found)

    def _to_clients(self, what: str, inside: Inside, version: int, *, holder: bool) -> Reading:
        target = self.hosts.client.allowed(version)
        source = self.hosts.member.addresses(MEMBER, version)[0]
        near, far = self.hosts.member_side, self.hosts.vip_side
        # The one without the VIPs answers at its own address, by a reset.
        own = inside.every_address(inside.vip_side, version)
        asked = self.place.vip(version) if holder else next(iter(own), "")
        hop = next(iter(inside.addresses(inside.member_side, version)), "")
        if not (asked and hop):
            return Reading(unclear=f"{what}: it has no such address on one of the networks.")
        probes = [
            tcp_syn(target, 22, source=source),
            udp(target, 9, source=source),
            icmp_echo(target, source=source),
        ]

        def request() -> None:
            self.hosts.client.vantage.ask(tcp_syn(asked, PORT, source=target))

        with through(near, hop) as vantage:
            return self.carried(
                what, vantage, far, inside, inside.member_side, probes, request,
                lambda frame: reading.mac_of(frame) == inside.vip_side.mac
                and reading.is_tcp(frame, version),
            )  # fmt: skip

    @decorators.idempotent_id("73b162d0-82d4-4064-82a4-c07f6fd38108")
    @requirement(
        "ISO-005",
        "An amphora forwards nothing from a member network to the VIP network.",
        needs=("ipv4", *NEEDS),
    )
    def test_forwarding_to_the_vip_network_ipv4(self) -> None:
        """Steps:

        1. From the member-side host send TCP, UDP and ICMP to the client's address, in frames
           for the amphora's MAC on the member network; capture at the client.
        2. The same in frames for the other amphora's MAC there.

        Verify: all come to the amphora and none arrives there. The control: a SYN-ACK of the VIP
        does; of the other amphora, whose own address is asked, a reset. What does not come to the
        amphora, because its member port is a normal one with a security group, proves nothing.
        """
        self.not_forwarded_to_clients(4)

    @decorators.idempotent_id("84c273e1-93e5-4175-93b5-d18070e49209")
    @requirement(
        "ISO-005",
        "An amphora forwards nothing from a member network to the VIP network.",
        needs=("ipv6", *NEEDS),
    )
    def test_forwarding_to_the_vip_network_ipv6(self) -> None:
        """The same over IPv6."""
        self.not_forwarded_to_clients(6)

    # --- addresses ---------------------------------------------------------------------------

    def only_own_addresses(
        self, vantage: Vantage, inside: Inside, interface: Interface, stations: dict[str, Station],
        strange: list[str], version: int, source: str, known: str,
    ) -> None:  # fmt: skip
        """Ask for and call addresses that are not the port's; look at what leaves.

        :param inside, interface: the amphora to whose MAC on that link the calls go.
        :param stations: the amphorae's ports there, by MAC.
        :param strange: addresses that may not be used there.
        :param known: one that may, as the control; it leads to that MAC.
        :raises Broken: with a finding for each address so used.
        """
        resolved = {}
        with vantage.capture() as captured:
            control = vantage.resolve(known)
            for address in strange:
                try:
                    resolved[address] = vantage.resolve(address)
                except errors.ControlFailed:
                    resolved[address] = ""
            calls = [
                (probe, None)
                for address in strange
                for probe in (
                    tcp_syn(address, PORT, source=source), icmp_echo(address, source=source)
                )
            ]  # fmt: skip
            with inside.amphora.counting(vantage.interface.mac) as counts:
                with through(vantage, known) as routed:
                    seen = routed.ask_all(calls, tries=1)
        self.evidence(pcap.write(self.folder / "everything.pcap", captured.frames))
        self.seen["asked for"] = resolved
        here, there = ("VIP", "member") if interface is inside.vip_side else ("member", "VIP")
        wrong = reading.foreign(
            captured.incoming, stations, here=here, there=there, known=self._known_addresses()
        )
        if wrong:
            raise Broken("\n".join(wrong), findings=wrong)
        if control not in stations:
            base.inconclusive(f"{known} was answered for by {control}, not by an amphora.")
        what = f"calls to addresses that are not those of {interface.mac}, IPv{version}"
        eaten = self.place.eaten(interface, self.network_of(inside, interface))
        unclear = reading.missing(what, seen, counts, eaten)
        if unclear:
            base.inconclusive(unclear)

    def _port_addresses(self, interface: Interface, network: Any) -> set[str]:
        """What Neutron lets a port send from: fixed addresses and allowed pairs."""
        port = self.place.port(interface, network)
        found = {fixed["ip_address"] for fixed in port.fixed_ips}
        found |= {pair["ip_address"].split("/")[0] for pair in port.allowed_address_pairs or ()}
        return found

    def _stations(self, here: str) -> dict[str, Station]:
        """The amphorae's ports on one side (``vip_side``, ``member_side``), by MAC."""
        there = "member_side" if here == "vip_side" else "vip_side"
        found = {}
        for one in self.amphorae():
            port, other = getattr(one, here), getattr(one, there)
            allowed = self._port_addresses(port, self.network_of(one, port))
            # Read anew: who holds the VIPs may have changed since the place was made.
            now = one.amphora.interfaces()[other.name]
            elsewhere = {str(entry.ip) for entry in now.addresses}
            found[port.mac] = Station(frozenset(allowed), frozenset(elsewhere))
        return found

    def _known_addresses(self) -> dict[str, str]:
        """Whose an address is that an amphora has no business to use."""
        client, member = self.hosts.client, self.hosts.member
        found = {}
        for one in self.amphorae():
            for entry in (*one.vip_side.addresses, *one.member_side.addresses):
                found[str(entry.ip)] = "an address of one of the amphorae"
            found[one.mgmt] = "the management address of an amphora"
        for version in self.place.versions:
            found.update(dict.fromkeys(client.guest.addresses(VIP, version), "the client's"))
            found.update(dict.fromkeys(member.addresses(MEMBER, version), "the member's"))
        return found

    def own_addresses_on_the_vip_network(self, version: int) -> None:
        pair = self.amphorae()
        stations = self._stations("vip_side")
        strange = [a for one in pair for a in one.addresses(one.member_side, version)]
        strange += [one.mgmt for one in pair if place.version_of(one.mgmt) == version]
        strange += [self.hosts.member.addresses(MEMBER, version)[0]]
        vip = self.place.vip(version)
        self.only_own_addresses(
            self.hosts.vip_side, pair[0], pair[0].vip_side, stations, strange, version,
            self.hosts.client.allowed(version), vip,
        )  # fmt: skip

    @decorators.idempotent_id("95d384f2-a4f6-4286-84c6-e29181f5a30a")
    @requirement(
        "ISO-006",
        "What an amphora sends on the VIP network bears an address of its port there.",
        needs=("ipv4", *NEEDS),
    )
    def test_addresses_on_the_vip_network_ipv4(self) -> None:
        """Steps:

        1. From the client ask by ARP for the amphorae's management and member-side addresses and
           for the member's; call them by SYN and ping in frames for the MAC of the VIP.

        Verify: whatever leaves the amphorae's ports there, ARP answers and packets alike, bears
        an address that Neutron's port has (``fixed_ips``, ``allowed_address_pairs``). The
        control: an ARP request for the VIP is answered by the holder's MAC, and the calls come to
        it. Each address that is used all the same is a finding of its own, with whose it is.
        """
        self.own_addresses_on_the_vip_network(4)

    @decorators.idempotent_id("a6e49503-b507-4397-95d7-f3a292a6b40b")
    @requirement(
        "ISO-006",
        "What an amphora sends on the VIP network bears an address of its port there.",
        needs=("ipv6", *NEEDS),
    )
    def test_addresses_on_the_vip_network_ipv6(self) -> None:
        """The same with neighbour discovery."""
        self.own_addresses_on_the_vip_network(6)

    def own_addresses_on_the_member_network(self, version: int) -> None:
        pair = self.amphorae()
        stations = self._stations("member_side")
        strange = [a for one in pair for a in one.addresses(one.vip_side, version)]
        strange += [one.mgmt for one in pair if place.version_of(one.mgmt) == version]
        known = pair[0].addresses(pair[0].member_side, version)[0]
        self.only_own_addresses(
            self.hosts.member_side, pair[0], pair[0].member_side, stations, strange, version,
            self.hosts.member.addresses(MEMBER, version)[0], known,
        )  # fmt: skip

    @decorators.idempotent_id("b7f5a614-c618-44a8-a6e8-04b3a3b7c50c")
    @requirement(
        "ISO-007",
        "What an amphora sends on a member network bears an address of its port there.",
        needs=("ipv4", *NEEDS),
    )
    def test_addresses_on_the_member_network_ipv4(self) -> None:
        """Steps:

        1. From the member-side host ask by ARP for the VIP, for the amphorae's own addresses on
           the VIP network and for their management addresses; call them by SYN and ping.

        Verify: as on the VIP network.
        """
        self.own_addresses_on_the_member_network(4)

    @decorators.idempotent_id("c8061725-d729-45b9-b7f9-15c4b4c8d60d")
    @requirement(
        "ISO-007",
        "What an amphora sends on a member network bears an address of its port there.",
        needs=("ipv6", *NEEDS),
    )
    def test_addresses_on_the_member_network_ipv6(self) -> None:
        """The same with neighbour discovery."""
        self.own_addresses_on_the_member_network(6)
