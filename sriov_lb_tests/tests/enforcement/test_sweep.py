# SPDX-License-Identifier: Apache-2.0
"""All 65,536 ports of an SR-IOV VIP, from a source that is allowed and one that is not."""

from __future__ import annotations

from tempest.lib import decorators

from sriov_lb_tests.packets.probe import tcp_syn, udp
from sriov_lb_tests.policy.intervals import Intervals, canonical
from sriov_lb_tests.policy.model import Policy, Promise
from sriov_lb_tests.policy.packet import TCP, UDP, Packet
from sriov_lb_tests.policy.ports import by_port
from sriov_lb_tests.tests import agreement, base, scene
from sriov_lb_tests.tests.base import requirement
from sriov_lb_tests.tests.looks import Looks
from sriov_lb_tests.wire.sweep import SweepReport, ranges

PROTOCOLS = {"tcp": (TCP, tcp_syn), "udp": (UDP, udp)}


class TestSweep(agreement.Agrees, base.SriovLbTest):
    """What no listener offers is closed on an SR-IOV VIP, on every single port.

    The API reference promises that a source reaches the listeners that name it in
    ``allowed_cidrs``, and nothing else is offered on the VIP; Octavia's document on SR-IOV has
    nftables in the amphora keep that promise. A rule too many may be for any port, so all of
    them are asked, by TCP and by UDP, from a source that the guarded listener names and from
    one that it does not. Neither listener has more than one CIDR of an IP version, so each row of
    the ruleset has a source that sweeps. Between every 64 ports goes a control, a SYN from the
    allowed source to its listener: only between answered controls silence counts as a drop.
    """

    def setUp(self) -> None:
        super().setUp()
        self.scene = scene.of(self.stage)

    def sweep(self, protocol: str, version: int) -> None:
        """Sweep from both sources; compare with the policy for each."""
        guarded = self.scene.guarded
        self.involved = {"sriov": self.scene.twins.sriov}
        client, vip = self.scene.client, self.scene.vip(version)
        number, kind = PROTOCOLS[protocol]
        policy = self.subject(guarded.deployment.lb).policy()
        control = self.scene.syn(version, "guarded", client.allowed(version))
        reports = {}
        for name, source in (
            ("allowed", client.allowed(version)),
            ("denied", client.denied(version)),
        ):
            report = client.vantage.sweep(kind(vip, 1, source=source), control=control)
            self.evidence(report.pcap)
            self.keep(f"{name}.txt", f"{report}\n{report.passes}")
            self.seen[f"{name} source"] = (
                f"{report.sent} frames in {report.seconds:.2f} s, open {ranges(report.open)}"
            )
            packet = Packet(policy.vip_interface, source, vip, number, sport=40000, state="new")
            reports[name] = (report, packet)
        looks = Looks()
        for report, packet in reports.values():
            with looks:
                self.open_as_promised(policy, packet, report)
                if report.problem:
                    base.inconclusive(str(report))
        looks.conclude()

    def open_as_promised(self, policy: Policy, packet: Packet, report: SweepReport) -> None:
        """A port that answers was promised to the source, and a promised one answers."""
        promised = by_port(policy, packet)
        answered = report.open + report.closed + report.rejected
        wrong = within(answered, promised[Promise.FORBIDDEN])
        first = f"{report.state(wrong[0][0])} port {wrong[0][0]}" if wrong else ""
        self.assertEqual(
            (),
            wrong,
            f"Too open: {packet.source} gets answers from ports that no listener offers it, "
            f"{ranges(wrong)} ({first} first). {report}",
        )
        if report.protocol == "tcp":
            # Of a port that is undecided nothing follows; the report's problem says why.
            shut = canonical(report.silent + report.closed + report.rejected)
            missing = within(promised[Promise.REQUIRED], shut)
            self.assertEqual(
                (),
                missing,
                f"Too closed: {packet.source} is promised ports that do not answer with "
                f"SYN-ACK, {ranges(missing)}. {report}",
            )

    @decorators.attr(type="smoke")
    @decorators.idempotent_id("3dde0302-4637-4cac-9357-fd8f0f67455a")
    @requirement(
        "ENF-020",
        "Of all TCP ports, a source reaches those of listeners that admit it, and no other.",
        needs=("ipv4",),
    )
    def test_tcp_ports_ipv4(self) -> None:
        """Steps:

        1. From the client's VF, send a SYN to each of the 65,536 ports, with the source that
           the guarded listener allows, then with the one that it does not.
        2. Between them, send controls; ask silent ports again if any was lost.

        Verify: SYN-ACK from exactly the ports that the policy requires for that source;
        silence, not even a reset, from every other one.
        """
        self.sweep("tcp", 4)

    @decorators.attr(type="smoke")
    @decorators.idempotent_id("73d1fe0b-3685-491f-891a-6ebde744cbba")
    @requirement(
        "ENF-020",
        "Of all TCP ports, a source reaches those of listeners that admit it, and no other.",
        needs=("ipv6",),
    )
    def test_tcp_ports_ipv6(self) -> None:
        """The same to the IPv6 VIP."""
        self.sweep("tcp", 6)

    @decorators.idempotent_id("71d0d5af-3ffc-4ac4-a318-0b40ce6d6433")
    @requirement(
        "ENF-021",
        "Of all UDP ports, a source reaches those of listeners that admit it, and no other.",
        needs=("ipv4",),
    )
    def test_udp_ports_ipv4(self) -> None:
        """Steps:

        1. From the client's VF, send a datagram to each of the 65,536 ports, with the source that
           the guarded listener allows, then with the one that it does not.
        2. Between them, send controls; ask silent ports again if any was lost.

        Verify: no answer and no ICMP error from any port that the policy forbids that source.
        ICMP errors are limited, so the target's limiter is given a rest first: a port let
        through would be answered with "port unreachable".
        """
        self.sweep("udp", 4)

    @decorators.idempotent_id("cad2c78b-437f-408e-adb4-88166d2217a8")
    @requirement(
        "ENF-021",
        "Of all UDP ports, a source reaches those of listeners that admit it, and no other.",
        needs=("ipv6",),
    )
    def test_udp_ports_ipv6(self) -> None:
        """The same to the IPv6 VIP."""
        self.sweep("udp", 6)


def within(these: Intervals, those: Intervals) -> Intervals:
    """Ports of ``these`` that are in ``those``."""
    found = []
    for low, high in these:
        for other_low, other_high in those:
            if max(low, other_low) <= min(high, other_high):
                found.append((max(low, other_low), min(high, other_high)))
    return tuple(sorted(found))
