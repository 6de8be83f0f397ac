# SPDX-License-Identifier: Apache-2.0
"""From the management network nothing goes through an amphora either."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tempest.lib import decorators

from sriov_lb_tests.amphora import Amphora
from sriov_lb_tests.cloud.site import MEMBER
from sriov_lb_tests.packets.probe import Probe, icmp_echo, tcp_syn
from sriov_lb_tests.policy.model import PEER_PORT
from sriov_lb_tests.tests import base
from sriov_lb_tests.tests.base import requirement
from sriov_lb_tests.tests.isolation import place, reading
from sriov_lb_tests.tests.isolation.place import MEMBER_PORT, PORT, Inside, through
from sriov_lb_tests.tests.isolation.test_isolation import NEEDS
from sriov_lb_tests.verdicts.model import Broken
from sriov_lb_tests.wire import pcap
from sriov_lb_tests.wire.capture import Captured
from sriov_lb_tests.wire.vantage import Vantage

#: What the security group of a management port lets in beside pings (Octavia's installation guide,
#: lb-mgmt-sec-grp): ssh and agent. Nothing else would come to the amphora at all.
LET_IN = (22, 9443)
EATEN = "the security group of its management port, not the amphora, stopped it"

#: Tries each port of an address; prints those that somebody serves.
CONNECT = """\
import socket, sys
for port in sys.argv[2:]:
    try:
        socket.create_connection((sys.argv[1], int(port)), 2).close()
        print(port)
    except OSError:
        pass
"""


class TestManagementSide(base.SriovLbTest):
    """The management network is apart from the networks of the load balancer's users.

    Octavia's architecture: agent and ssh are in the amphora's own network namespace, haproxy and
    the interfaces towards clients and members in another, and nothing joins the two. The host on
    the management network is the other amphora of a pair: there the tests may send any frame, and
    Neutron takes it for what it is.
    """

    def setUp(self) -> None:
        super().setUp()
        self.place = place.pair(self.stage)
        self.hosts = self.place.hosts

    @decorators.idempotent_id("5b1c7f43-0a9e-4a86-8d35-c2f6e7914a0d")
    @requirement(
        "ISO-009",
        "Nothing on the management network reaches a VIP, a client or a member through an amphora.",
        needs=NEEDS,
    )
    def test_nothing_goes_through_from_the_management_side(self) -> None:
        """Steps:

        1. In each amphora of a pair, connect to its own management address at the port of the
           listener and at that of haproxy's peers.
        2. From the management interface of the other one, in frames for its MAC there, send it what
           its security group lets in (SYNs for ssh and agent, pings) to the VIP, to its own
           addresses on the VIP and member network, to the client and to the member. Capture on its
           interfaces towards clients and members, and at the hosts there.

        Verify: nobody serves these ports at the management address. All probes come to the amphora;
        none is answered, passes a filter, or is seen by any of the captures. The controls: sshd
        answers at the management address, in frames for the same MAC, and each capture sees what
        the amphora says on that network meanwhile.
        """
        self.involved = {self.place.what: self.place.lb}
        pair = self.place.amphorae
        broken, unclear = [], []
        for inside, other in zip(pair, reversed(pair), strict=True):
            for found in self.looks(inside, other):
                broken += [found.broken] if found.broken else []
                unclear += [found.unclear] if found.unclear else []
        if broken:
            raise Broken("\n".join(broken), findings=broken)
        if unclear:
            base.inconclusive(unclear[0])

    def looks(self, inside: Inside, other: Inside) -> Iterator[reading.Reading]:
        """What the looks at one amphora come to; ``other`` sends."""
        yield self.served(inside)
        version = place.version_of(inside.mgmt)
        what = f"from {other.mgmt} on the management network through the amphora {inside.mgmt}"
        if version not in self.place.versions or version not in self.site.member_net.subnets:
            yield reading.Reading(unclear=f"{what}: the other networks have no IPv{version}.")
            return
        near = self.place.listening(other, other.management(), netns=False)
        control = tcp_syn(inside.mgmt, 22, source=other.mgmt)
        questions = [(probe, control) for probe in self.probes(inside, other.mgmt, version)]
        # In the namespace of the management interface: haproxy's never sees such a packet.
        root = Amphora(inside.host, netns=None)
        with self.watched(inside, version) as captures:
            with root.counting(near.interface.mac) as counts, through(near, inside.mgmt):
                seen = near.ask_all(questions)
        self.evidence(*{one.pcap for one in seen})
        found = reading.silence(what, seen, counts, eaten=EATEN)
        self.seen[what] = found.note
        yield found
        for where, (mac, captured) in captures.items():
            name = f"{inside.base} {where}".replace(" ", "-").replace(":", "-")
            self.evidence(pcap.write(self.folder / f"{name}.pcap", captured.frames))
            yield reading.carried(what, seen, captured.frames, counts, far=where, eaten=EATEN)
            if not any(reading.mac_of(frame) == mac for frame in captured.frames):
                yield reading.Reading(
                    unclear=f"{what}: the capture at {where} did not see the amphora's own frames "
                    f"either, of {len(captured.frames)} frames."
                )

    def served(self, inside: Inside) -> reading.Reading:
        """Nobody serves the listener's port, or the peers', at the management address."""
        ports = [22, PORT, PEER_PORT]
        done = inside.host.run(["python3", "-c", CONNECT, inside.mgmt, *map(str, ports)])
        open_now = set(map(int, done.stdout.split()))
        if 22 not in open_now:
            return reading.Reading(unclear=f"sshd does not answer at {inside.mgmt} itself.")
        wrong = sorted(open_now - {22})
        if not wrong:
            return reading.Reading()
        return reading.Reading(
            f"Somebody serves port {', '.join(map(str, wrong))} at the management address "
            f"{inside.mgmt}."
        )

    def probes(self, inside: Inside, source: str, version: int) -> list[Probe]:
        """What is sent from a host of the management network, to everybody who is not on it."""
        targets = [
            self.place.vip(version),
            *inside.addresses(inside.vip_side, version),
            *inside.addresses(inside.member_side, version),
            self.hosts.client.allowed(version),
            self.hosts.member.addresses(MEMBER, version)[0],
        ]
        found = []
        for target in dict.fromkeys(targets):
            found += [tcp_syn(target, port, source=source) for port in LET_IN]
            found.append(icmp_echo(target, source=source))
        return found

    @contextmanager
    def watched(
        self, inside: Inside, version: int
    ) -> Iterator[dict[str, tuple[str, Captured]]]:
        """Capture wherever it could come out; have the amphora say something on either network.

        Yields by place: the MAC of the amphora's port on that network, and what is seen there.
        """
        vip_side, member_side = inside.vip_side, inside.member_side
        eyes: dict[str, tuple[str, Vantage]] = {
            f"its {vip_side.name}": (vip_side.mac, self.place.listening(inside, vip_side.name)),
            f"its {member_side.name}": (
                member_side.mac, self.place.listening(inside, member_side.name)
            ),
            "the client": (vip_side.mac, self.hosts.vip_side),
            "the member": (member_side.mac, self.hosts.member_side),
        }  # fmt: skip
        with ExitStack() as stack:
            captures = {
                where: (mac, stack.enter_context(eye.capture()))
                for where, (mac, eye) in eyes.items()
            }
            yield captures
            # Asked for on the link, it answers; asked to connect, it asks.
            client = self.hosts.client
            own = next(iter(inside.every_address(vip_side, version)), inside.base)
            client.vantage.ask(tcp_syn(own, PORT, source=client.allowed(version)), tries=1)
            member = self.hosts.member.addresses(MEMBER, version)[0]
            inside.amphora.within("python3", "-c", CONNECT, member, str(MEMBER_PORT))
