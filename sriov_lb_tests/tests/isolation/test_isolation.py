# SPDX-License-Identifier: Apache-2.0
"""What an SR-IOV amphora must never do: be a way from one network to another."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import ICMPv6ND_NA, IPv6
from scapy.layers.l2 import ARP, Ether
from tempest.lib import decorators

from sriov_lb_tests import errors
from sriov_lb_tests.agreement.sending import link_probe
from sriov_lb_tests.cloud.site import MEMBER
from sriov_lb_tests.packets.probe import Probe, icmp_echo, tcp_syn, udp
from sriov_lb_tests.tests import base
from sriov_lb_tests.tests.base import requirement
from sriov_lb_tests.tests.isolation import place
from sriov_lb_tests.tests.isolation.place import MEMBER_PORT, PORT, Inside, through
from sriov_lb_tests.wire import pcap
from sriov_lb_tests.wire.capture import Frame
from sriov_lb_tests.wire.exchange import Observation
from sriov_lb_tests.wire.vantage import Vantage, Verdict

NEEDS = ("admin_mode", "amphora_ssh")


class TestIsolation(base.SriovLbTest):
    """An amphora stands on three networks and joins them for listeners only.

    Octavia's architecture (doc: "Octavia v2 API, amphora": the management network is a network of
    its own, and haproxy lives in a network namespace apart from it) promises that a load
    balancer's users see its listeners, and nothing else of the amphora or behind it. On a
    normal port Neutron holds the amphora to its own addresses (port security: ``fixed_ips`` and
    ``allowed_address_pairs`` of the port) and to its security group; on a virtual function
    neither exists, so whatever the amphora does is what the network sees. Real hosts stand on
    both sides, and each silence has a control that differs in what is under test.
    """

    def setUp(self) -> None:
        super().setUp()
        self.place = place.of(self.stage)

    def pair(self) -> tuple[Inside, ...]:
        self.involved = {"isolation": self.place.lb}
        return self.place.pair

    # --- looking ---------------------------------------------------------------------------

    def silent(self, what: str, seen: Sequence[Observation]) -> None:
        """No probe was answered by what it was for, and the controls were; else one is named.

        That the amphora says "unreachable" in its own name is no breach: nothing was reached.
        """
        self.evidence(*{observation.pcap for observation in seen})
        self.keep(f"{what.replace(' ', '-')}.txt", "\n".join(map(str, seen)))
        self.seen[what] = f"{len(seen)} probes"
        answered = [
            one
            for one in seen
            if one.verdict is Verdict.ACCEPTED
            or any(answer.sender == one.probe.destination for answer in one.answers)
        ]
        if answered:
            more = f" So were {len(answered) - 1} more." if len(answered) > 1 else ""
            self.fail(f"{what}: {answered[0]}{more}")
        unsure = [one for one in seen if one.verdict is Verdict.INCONCLUSIVE]
        if unsure:
            base.inconclusive(f"{what}: {unsure[0]}")

    def carried(
        self,
        what: str,
        sender: Vantage,
        far: Vantage,
        probes: Sequence[Probe],
        control: Callable[[], None],
        came: Callable[[Frame], bool],
    ) -> None:
        """None of the probes arrives at the far end, whose capture saw the control.

        :param came: whether a frame is what the control has to bring.
        """
        with far.capture() as captured:
            control()  # before, too: whoever has to look for a neighbour first may lose a packet
            seen = sender.ask_all([(probe, None) for probe in probes], tries=1)
            control()
        self.evidence(pcap.write(self.folder / "far-end.pcap", captured.frames))
        self.evidence(*{observation.pcap for observation in seen})
        if not any(came(frame) for frame in captured.incoming):
            base.inconclusive(
                f"{what}: the control did not arrive at {far.name} either, of "
                f"{len(captured.incoming)} frames."
            )
        through_it = []
        for observation in seen:
            tags = [identity.tag for identity in observation.identities]
            flows = {identity.port for identity in observation.identities}
            arrived = [
                frame
                for frame in captured.incoming
                if any(tag in frame.data for tag in tags)
                or _is_from(frame, observation.probe.source, flows)
            ]
            if arrived:
                through_it.append((observation, arrived[0]))
        self.seen[what] = f"{len(through_it)} of {len(seen)} kinds of packets were forwarded"
        if through_it:
            observation, frame = through_it[0]
            kinds = ", ".join(one.probe.title for one, _ in through_it)
            self.fail(
                f"{what}: {observation.probe} was forwarded, and arrived at {far.name} as "
                f"{Ether(frame.data).summary()}. Forwarded: {kinds}."
            )

    # --- the management side -----------------------------------------------------------------

    @decorators.idempotent_id("7d2f9b10-61a8-4b0f-9a55-1a4c5f3e2b01")
    @requirement(
        "ISO-001",
        "Nothing on the VIP network reaches an amphora's management address.",
        needs=("ipv4", *NEEDS),
    )
    def test_management_address(self) -> None:
        """Steps:

        1. See that agent and sshd answer on the management address from inside of the amphora.
        2. From the client send SYNs to every port that anything in the amphora listens on, UDP
           to the heartbeat port and a ping, all to the management address, in frames for the
           amphora's MAC on the VIP network; capture on the management interface meanwhile.

        Verify: no answer, and the management interface sees none of it, though the capture sees
        our ssh. The control, a SYN to the listener's port in a frame for the same MAC, is
        answered.
        """
        source = self.place.client.allowed(4)
        for inside in self.pair():
            self._alive(inside)
            hop = self.place.vip(4) if inside is self.pair()[0] else inside.base
            control = tcp_syn(hop, PORT, source=source)
            probes = [tcp_syn(inside.mgmt, port, source=source) for port in inside.ports]
            probes += [udp(inside.mgmt, 5555, source=source), icmp_echo(inside.mgmt, source=source)]
            mgmt = next(
                name
                for name, found in inside.host.interfaces().items()
                if inside.mgmt in {str(one.ip) for one in found.addresses}
            )
            listening = self.place.listening(inside, mgmt, netns=False)
            with listening.capture({"addresses": [inside.mgmt, source]}) as captured:
                with through(self.place.vip_side, hop) as vantage:
                    seen = vantage.ask_all([(probe, control) for probe in probes])
                inside.host.run(["true"])
            self.evidence(pcap.write(self.folder / f"{inside.mgmt}.pcap", captured.frames))
            if not captured.frames:
                base.inconclusive(f"The capture on {mgmt} did not even see our ssh.")
            self.silent(f"to the management address {inside.mgmt}", seen)
            arrived = [f for f in captured.frames if _is_from(f, source, None)]
            self.assertEqual(
                [], [Ether(f.data).summary() for f in arrived],
                f"Frames of the client arrived on the management interface of {inside.mgmt}.",
            )  # fmt: skip

    def _alive(self, inside: Inside) -> None:
        program = (
            "import socket, sys\n"
            "for port in map(int, sys.argv[2:]):\n"
            "    socket.create_connection((sys.argv[1], port), 5).close()\n"
        )
        done = inside.host.run(
            ["python3", "-c", program, inside.mgmt, "22", "9443"], check=False, root=True
        )
        if done.status:
            base.inconclusive(f"sshd or agent of {inside.mgmt} do not answer: {done.stderr}")

    # --- services of the amphora ---------------------------------------------------------------

    def services_hidden(self, version: int) -> None:
        source = self.place.client.allowed(version)
        for number, inside in enumerate(self.pair()):
            targets = inside.addresses(inside.vip_side, version)
            for target in targets:
                control = tcp_syn(target, PORT, source=source)
                questions = [
                    (tcp_syn(target, port, source=source), control) for port in inside.ports
                ]
                seen = self.place.vip_side.ask_all(questions)
                role = "holder of the VIP" if number == 0 else "its peer"
                self.silent(f"services of the {role} at {target}", seen)

    @decorators.idempotent_id("1c5b0c7a-2c7e-4a0e-8c4e-6a1f0f7d2b02")
    @requirement(
        "ISO-002",
        "Nothing on the VIP network reaches an amphora's ssh, agent, metrics or stick tables.",
        needs=("ipv4", *NEEDS),
    )
    def test_services_from_the_vip_network_ipv4(self) -> None:
        """Steps:

        1. List the ports on which anything listens in each amphora of the pair, and those of
           its usual services.
        2. Send SYNs to all of them, to the VIP and to each amphora's own address.

        Verify: no answer; the control, a SYN to the listener's port of the same address, gets
        one (where no VIP is, a reset).
        """
        self.services_hidden(4)

    @decorators.idempotent_id("2e6c1d8b-3d8f-4b1f-9d5f-7b2a1a8e3c03")
    @requirement(
        "ISO-002",
        "Nothing on the VIP network reaches an amphora's ssh, agent, metrics or stick tables.",
        needs=("ipv6", *NEEDS),
    )
    def test_services_from_the_vip_network_ipv6(self) -> None:
        """The same to the IPv6 VIP."""
        self.services_hidden(6)

    def services_hidden_from_members(self, version: int) -> None:
        far = self.place.member_side
        source = self.place.member.addresses(MEMBER, version)[0]
        for inside in self.pair():
            hop = inside.addresses(inside.member_side, version)[0]
            control = link_probe(hop, source, far.interface.mac)
            targets = [hop, *inside.addresses(inside.vip_side, version)]
            probes = [
                tcp_syn(target, port, source=source)
                for target in targets
                for port in (*inside.ports, PORT)
            ]
            probes += [udp(target, PORT, source=source) for target in targets]
            probes += [icmp_echo(target, source=source) for target in targets]
            with through(far, hop) as vantage:
                seen = vantage.ask_all([(probe, control) for probe in probes])
            self.silent(f"services of {inside.base} from the member network, IPv{version}", seen)

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
           frames for the amphora's MAC on the member network.

        Verify: no answer; the control, an ARP request for the amphora's address there, gets one.
        """
        self.services_hidden_from_members(4)

    @decorators.idempotent_id("408e3fad-5fa1-4d31-9f71-9d4c3ca05e05")
    @requirement(
        "ISO-003",
        "Nothing on a member network reaches the VIP, or a service of the amphora.",
        needs=("ipv6", *NEEDS),
    )
    def test_services_from_the_member_network_ipv6(self) -> None:
        """The same over IPv6, with neighbour discovery as the control."""
        self.services_hidden_from_members(6)

    # --- through the amphora -------------------------------------------------------------------

    def not_forwarded_to_members(self, version: int) -> None:
        holder = self.pair()[0]
        source = self.place.client.allowed(version)
        target = self.place.member.addresses(MEMBER, version)[0]
        far, vip = self.place.member_side, self.place.vip(version)
        probes = [
            tcp_syn(target, MEMBER_PORT, source=source),
            tcp_syn(target, 22, source=source),
            udp(target, 9, source=source),
            icmp_echo(target, source=source),
        ]
        mac = holder.member_side.mac

        def request() -> None:
            # Whether it is answered is not the point here: that the amphora asks the member is.
            # Members take turns: after as many requests as there are, each was asked.
            for _ in self.site.member_net.subnets:
                try:
                    self.place.vip_side.http(vip, PORT, source=source, timeout=2)
                except errors.AgentFailed as error:
                    self.seen["the control's request"] = str(error)

        with through(self.place.vip_side, vip) as vantage:
            self.carried(
                f"from the VIP network to the member network, IPv{version}",
                vantage, far, probes, request,
                lambda frame: _mac_of(frame) == mac and _is_ip(frame, version),
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

        Verify: none of these packets arrives. The control: the amphora's own question to the
        member of that IP version does.
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

    def not_forwarded_to_clients(self, version: int) -> None:
        holder = self.pair()[0]
        target = self.place.client.allowed(version)
        source = self.place.member.addresses(MEMBER, version)[0]
        near, far = self.place.member_side, self.place.vip_side
        vip = self.place.vip(version)
        probes = [
            tcp_syn(target, 22, source=source),
            udp(target, 9, source=source),
            icmp_echo(target, source=source),
        ]

        def request() -> None:
            self.place.client.vantage.ask(tcp_syn(vip, PORT, source=target))

        hop = holder.addresses(holder.member_side, version)[0]
        with through(near, hop) as vantage:
            self.carried(
                f"from the member network to the VIP network, IPv{version}",
                vantage, far, probes, request,
                lambda frame: _mac_of(frame) == holder.vip_side.mac and _is_ip(frame, version),
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

        Verify: none of these packets arrives. The control: a SYN-ACK of the VIP does.
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
        self, vantage: Vantage, stations: dict[str, set[str]], strange: list[str], version: int,
        source: str, hop: str, known: str,
    ) -> None:  # fmt: skip
        """Ask for and call addresses that are not the port's; look at what leaves.

        :param stations: MAC -> addresses that may be used there.
        :param strange: addresses that may not.
        :param known: one that may, as the control.
        """
        resolved = {}
        with vantage.capture() as captured:
            control = vantage.resolve(known)
            for address in strange:
                try:
                    resolved[address] = vantage.resolve(address)
                except errors.ControlFailed:
                    resolved[address] = ""
            with through(vantage, hop) as routed:
                for address in strange:
                    routed.ask(tcp_syn(address, PORT, source=source), tries=1)
                    routed.ask(icmp_echo(address, source=source), tries=1)
        self.evidence(pcap.write(self.folder / "everything.pcap", captured.frames))
        if control not in stations:
            base.inconclusive(f"{known} was answered for by {control}, not by an amphora.")
        self.seen["asked for"] = resolved
        wrong = []
        for frame in captured.incoming:
            mac, claimed = _mac_of(frame), _claims(frame)
            if mac in stations and claimed and claimed not in stations[mac]:
                wrong.append((claimed, frame))
        if wrong:
            claimed, frame = wrong[0]
            everything = ", ".join(dict.fromkeys(one for one, _ in wrong))
            self.fail(
                f"The amphora's port {_mac_of(frame)} sent {Ether(frame.data).summary()} under "
                f"{claimed}, which is not an address of that port (IPv{version}); its own are "
                f"{', '.join(sorted(stations[_mac_of(frame)]))}. Addresses so used: {everything}."
            )

    def _port_addresses(self, mac: str, network_id: str) -> set[str]:
        """What Neutron lets a port send from: fixed addresses, allowed pairs, link-local."""
        admin = self.stage.clouds.by("admin")
        (port,) = admin.network.ports(mac_address=mac, network_id=network_id)
        found = {fixed["ip_address"] for fixed in port.fixed_ips}
        found |= {pair["ip_address"].split("/")[0] for pair in port.allowed_address_pairs or ()}
        return found

    def own_addresses_on_the_vip_network(self, version: int) -> None:
        pair = self.pair()
        stations = {
            one.vip_side.mac: self._port_addresses(one.vip_side.mac, self.site.vip_net.id)
            for one in pair
        }
        strange = [a for one in pair for a in one.addresses(one.member_side, version)]
        strange += [one.mgmt for one in pair if place.version_of(one.mgmt) == version]
        strange += [self.place.member.addresses(MEMBER, version)[0]]
        vip = self.place.vip(version)
        self.only_own_addresses(
            self.place.vip_side, stations, strange, version,
            self.place.client.allowed(version), vip, vip,
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
        control: an ARP request for the VIP is answered by the holder's MAC.
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
        pair = self.pair()
        stations = {
            one.member_side.mac: self._port_addresses(one.member_side.mac, self.site.member_net.id)
            for one in pair
        }
        strange = [a for one in pair for a in one.addresses(one.vip_side, version)]
        strange += [one.mgmt for one in pair if place.version_of(one.mgmt) == version]
        known = pair[0].addresses(pair[0].member_side, version)[0]
        self.only_own_addresses(
            self.place.member_side, stations, strange, version,
            self.place.member.addresses(MEMBER, version)[0], known, known,
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


# --- reading frames ------------------------------------------------------------------------------


def _mac_of(frame: Frame) -> str:
    return frame.data[6:12].hex(":")


def _is_ip(frame: Frame, version: int) -> bool:
    """TCP of that IP version: neighbour discovery is no sign of a way."""
    packet = Ether(frame.data)
    return packet.haslayer({4: IP, 6: IPv6}[version]) and packet.haslayer(TCP)


def _is_from(frame: Frame, source: str, ports: set[int] | None) -> bool:
    """Whether an IP packet bears that source, and, where given, one of these source ports."""
    packet = Ether(frame.data)
    layer = packet.getlayer(IP) or packet.getlayer(IPv6)
    if layer is None or layer.src != source or packet.haslayer(ICMPv6ND_NA):
        return False
    found = getattr(layer.payload, "sport", None) or getattr(layer.payload, "id", None)
    return ports is None or found in ports


def _claims(frame: Frame) -> str:
    """The address under which a frame was sent; "" where there is none to speak of."""
    packet = Ether(frame.data)
    if ARP in packet:
        return "" if packet[ARP].psrc == "0.0.0.0" else packet[ARP].psrc
    if ICMPv6ND_NA in packet:
        claimed = packet[ICMPv6ND_NA].tgt
    else:
        layer = packet.getlayer(IP) or packet.getlayer(IPv6)
        if layer is None:
            return ""
        claimed = layer.src
    return "" if claimed == "::" or claimed.startswith("fe80:") else claimed
