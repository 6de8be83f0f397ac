# SPDX-License-Identifier: Apache-2.0
"""The firewall of an SR-IOV VIP lets in what the API promised, and nothing else of this."""

from __future__ import annotations

from tempest.lib import decorators

from sriov_lb_tests.agreement.sending import link_probe
from sriov_lb_tests.amphora import Amphora
from sriov_lb_tests.packets.probe import Probe, tcp_syn, udp
from sriov_lb_tests.policy import render
from sriov_lb_tests.policy.model import Policy
from sriov_lb_tests.policy.proof import disagreements
from sriov_lb_tests.tests import backend, base, scene
from sriov_lb_tests.tests.base import requirement
from sriov_lb_tests.tests.looks import Looks
from sriov_lb_tests.verdicts.model import Broken
from sriov_lb_tests.wire import pcap
from sriov_lb_tests.wire.exchange import Observation
from sriov_lb_tests.wire.vantage import Verdict

#: TCP ports that no listener has: beside it, what an amphora has elsewhere, and the edges.
OTHER_PORTS = (22, 79, 81, 443, 1025, 8081, 9443, 65535)


class TestVipFirewall(base.SriovLbTest):
    """On an SR-IOV port the ruleset in the amphora is all there is; it must equal the API's word.

    The API reference promises that ``allowed_cidrs`` limits who may reach a listener, and that
    nothing but listeners is offered on the VIP. Neutron's security groups do not hold on a
    virtual function, so Octavia's document on SR-IOV puts nftables in the amphora in their
    place. One load balancer with a VIP of each IP version; a listener that one source may
    reach and one that everybody may reach. Each probe that must not pass is accompanied by one
    that differs in the one thing under test and must.
    """

    def setUp(self) -> None:
        super().setUp()
        self.scene = scene.of(self.stage)

    def guarded(self) -> scene.Guarded:
        """The load balancer under test; its API view and ruleset belong to any failure."""
        twins = self.scene.twins
        self.involved = {"sriov": twins.sriov, "normal": twins.normal}
        return self.scene.guarded

    def ask(self, *questions: tuple[Probe, Probe | None]) -> list[Observation]:
        """Put questions to the wire; the captures are evidence."""
        seen = self.scene.client.vantage.ask_all(list(questions))
        self.evidence(*(observation.pcap for observation in seen))
        self.keep("observations.txt", "\n".join(map(str, seen)))
        return seen

    def passes(self, observation: Observation) -> None:
        if observation.verdict is Verdict.INCONCLUSIVE:
            base.inconclusive(str(observation))
        self.assertIs(Verdict.ACCEPTED, observation.verdict, str(observation))

    def dropped(self, observation: Observation) -> None:
        """The probe got no answer, and its control did."""
        if observation.verdict is Verdict.INCONCLUSIVE:
            base.inconclusive(str(observation))
        self.assertIs(Verdict.DROPPED, observation.verdict, str(observation))

    # --- before any listener ---------------------------------------------------------------

    def nothing_before(self, version: int) -> None:
        guarded = self.guarded()
        client = self.scene.client
        before = {port: seen for (v, port), seen in guarded.before.items() if v == version}
        self.evidence(*(seen.pcap for seen in before.values()))
        self.keep("observations.txt", "\n".join(map(str, before.values())))
        self.seen["VIP answered on the link with"] = guarded.link_alive[version]
        if "," in guarded.link_alive[version]:
            base.inconclusive(
                f"The link changed while nothing was to pass: {guarded.link_alive[version]}."
            )
        after = self.ask(
            *((self.scene.syn(version, spec.name, client.allowed(version)), None)
              for spec in guarded.wanted.listeners)
        )  # fmt: skip
        for observation in after:
            self.passes(observation)  # the control: the same SYN, with a listener
        self.assertEqual({spec.port for spec in guarded.wanted.listeners}, set(before))
        for seen in before.values():
            self.assertEqual((), seen.answers, f"Without any listener: {seen}")

    @decorators.attr(type="smoke")
    @decorators.idempotent_id("11f0a0b1-2c3d-4e4f-8a5b-6c7d8e9f0a30")
    @requirement(
        "ENF-001", "Before a load balancer has a listener, nothing passes.", needs=("ipv4",)
    )
    def test_nothing_before_any_listener_ipv4(self) -> None:
        """Steps:

        1. On a load balancer that never had a listener, send a SYN to the ports that will have
           one; ask for the VIP's MAC before and after.
        2. Create the listeners and send the same SYNs.

        Verify: no answer at first, though the VIP answers to ARP; SYN-ACK once the listeners
        are there.
        """
        self.nothing_before(4)

    @decorators.attr(type="smoke")
    @decorators.idempotent_id("22f0a0b1-2c3d-4e4f-8a5b-6c7d8e9f0a31")
    @requirement(
        "ENF-001", "Before a load balancer has a listener, nothing passes.", needs=("ipv6",)
    )
    def test_nothing_before_any_listener_ipv6(self) -> None:
        """The same to the IPv6 VIP, with neighbour discovery in place of ARP."""
        self.nothing_before(6)

    # --- allowed_cidrs ---------------------------------------------------------------------

    def allowed_passes(self, version: int) -> None:
        self.guarded()
        client = self.scene.client
        source = client.allowed(version)
        # Answered whatever rule of a listener is lost: a SYN to the open one need not be.
        control = link_probe(self.scene.vip(version), source, client.vantage.interface.mac)
        (seen,) = self.ask((self.scene.syn(version, "guarded", source), control))
        self.passes(seen)

    @decorators.attr(type="smoke")
    @decorators.idempotent_id("33f0a0b1-2c3d-4e4f-8a5b-6c7d8e9f0a32")
    @requirement(
        "ENF-002", "A source in allowed_cidrs reaches the listener: its SYN is answered.",
        needs=("ipv4",),
    )  # fmt: skip
    def test_allowed_source_ipv4(self) -> None:
        """Steps:

        1. From the client's VF send a crafted SYN with the one allowed source address.
        2. Before and after it, the control: ask from that address for the VIP's MAC (ARP,
           neighbour discovery), which no listener's rule decides.

        Verify: SYN-ACK. Silence, while the control is answered, is a failure.
        """
        self.allowed_passes(4)

    @decorators.attr(type="smoke")
    @decorators.idempotent_id("44f0a0b1-2c3d-4e4f-8a5b-6c7d8e9f0a33")
    @requirement(
        "ENF-002", "A source in allowed_cidrs reaches the listener: its SYN is answered.",
        needs=("ipv6",),
    )  # fmt: skip
    def test_allowed_source_ipv6(self) -> None:
        """The same to the IPv6 VIP."""
        self.allowed_passes(6)

    def denied_dropped(self, version: int) -> None:
        self.guarded()
        client = self.scene.client
        allowed, denied = client.allowed(version), client.denied(version)
        to_guarded = self.scene.syn(version, "guarded", denied)
        by_source, by_port = self.ask(
            (to_guarded, self.scene.syn(version, "guarded", allowed)),
            (to_guarded, self.scene.syn(version, "open", denied)),
        )
        self.dropped(by_source)
        self.dropped(by_port)

    @decorators.attr(type="smoke")
    @decorators.idempotent_id("55f0a0b1-2c3d-4e4f-8a5b-6c7d8e9f0a34")
    @requirement(
        "ENF-003", "A source that is not in allowed_cidrs gets no answer.", needs=("ipv4",)
    )
    def test_denied_source_ipv4(self) -> None:
        """Steps:

        1. Send a SYN from the client's other address, which is not allowed.
        2. Before and after it, the controls: the same from the allowed address (differs in the
           source alone), and from the denied address to the listener that is open to everybody
           (differs in the port alone).

        Verify: no answer to the first, SYN-ACK to both controls.
        """
        self.denied_dropped(4)

    @decorators.attr(type="smoke")
    @decorators.idempotent_id("66f0a0b1-2c3d-4e4f-8a5b-6c7d8e9f0a35")
    @requirement(
        "ENF-003", "A source that is not in allowed_cidrs gets no answer.", needs=("ipv6",)
    )
    def test_denied_source_ipv6(self) -> None:
        """The same to the IPv6 VIP."""
        self.denied_dropped(6)

    # --- other ports, other protocols --------------------------------------------------------

    def other_ports_dropped(self, version: int) -> None:
        self.guarded()
        source = self.scene.client.allowed(version)
        control = self.scene.syn(version, "guarded", source)
        vip = self.scene.vip(version)
        seen = self.ask(*((tcp_syn(vip, port, source=source), control) for port in OTHER_PORTS))
        for observation in seen:
            self.dropped(observation)

    @decorators.attr(type="smoke")
    @decorators.idempotent_id("77f0a0b1-2c3d-4e4f-8a5b-6c7d8e9f0a36")
    @requirement(
        "ENF-004", "A port without a listener gives no answer, to allowed sources neither.",
        needs=("ipv4",),
    )  # fmt: skip
    def test_other_ports_ipv4(self) -> None:
        """Steps:

        1. From the allowed address send SYNs to ports without a listener: neighbours of the
           listeners', the amphora's ssh and agent, the edges.
        2. Before and after, the control: the same to the listener.

        Verify: no answer, not even a reset; SYN-ACK to the control.
        """
        self.other_ports_dropped(4)

    @decorators.attr(type="smoke")
    @decorators.idempotent_id("88f0a0b1-2c3d-4e4f-8a5b-6c7d8e9f0a37")
    @requirement(
        "ENF-004", "A port without a listener gives no answer, to allowed sources neither.",
        needs=("ipv6",),
    )  # fmt: skip
    def test_other_ports_ipv6(self) -> None:
        """The same to the IPv6 VIP."""
        self.other_ports_dropped(6)

    def udp_dropped(self, version: int) -> None:
        guarded = self.guarded()
        source = self.scene.client.allowed(version)
        vip = self.scene.vip(version)
        seen = self.ask(
            *(
                (udp(vip, spec.port, source=source), self.scene.syn(version, spec.name, source))
                for spec in guarded.wanted.listeners
            )
        )
        for observation in seen:
            self.dropped(observation)

    @decorators.attr(type="smoke")
    @decorators.idempotent_id("99f0a0b1-2c3d-4e4f-8a5b-6c7d8e9f0a38")
    @requirement(
        "ENF-005", "A TCP listener lets no UDP in: not even an ICMP error comes back.",
        needs=("ipv4",),
    )  # fmt: skip
    def test_udp_to_a_tcp_listener_ipv4(self) -> None:
        """Steps:

        1. From the allowed address send UDP to the ports of the listeners.
        2. Before and after, the control: a SYN to the same port.

        Verify: no answer, though a packet let in would be answered with "port unreachable";
        SYN-ACK to the control.
        """
        self.udp_dropped(4)

    @decorators.attr(type="smoke")
    @decorators.idempotent_id("aaf0a0b1-2c3d-4e4f-8a5b-6c7d8e9f0a39")
    @requirement(
        "ENF-005", "A TCP listener lets no UDP in: not even an ICMP error comes back.",
        needs=("ipv6",),
    )  # fmt: skip
    def test_udp_to_a_tcp_listener_ipv6(self) -> None:
        """The same to the IPv6 VIP."""
        self.udp_dropped(6)

    # --- through it ----------------------------------------------------------------------------

    def requests_reach_members(self, version: int) -> None:
        guarded = self.guarded()
        client, members = self.scene.client, {guest.name for guest in self.scene.members}
        port = guarded.wanted.listener("guarded").port
        vantage, vip = client.vantage, self.scene.vip(version)
        source = client.allowed(version)
        answered: dict[str, int] = {}
        with vantage.capture({"addresses": [vip], "ports": [port]}) as captured:
            for _ in range(4 * len(members)):
                answer, why = vantage.http_or_why(vip, port, source=source)
                if answer is None:
                    self.fail(f"A request from {source} to {vip}:{port} got no answer: {why}")
                self.assertEqual(200, answer.status, f"The answer from {vip}: {answer}.")
                name = answer.headers.get(backend.HEADER, "")
                answered[name] = answered.get(name, 0) + 1
        self.evidence(pcap.write(self.folder / "requests.pcap", captured.frames))
        self.seen["answers by member"] = answered
        self.assertEqual(members, set(answered), f"Of {members}, these answered: {answered}.")

    @decorators.attr(type="smoke")
    @decorators.idempotent_id("bbf0a0b1-2c3d-4e4f-8a5b-6c7d8e9f0a3a")
    @requirement(
        "ENF-006", "An HTTP request through the VIP reaches each member.", needs=("ipv4",)
    )
    def test_http_reaches_each_member_ipv4(self) -> None:
        """Steps:

        1. From the allowed address make HTTP requests to the VIP, four for each member.

        Verify: status 200 each time; each member answered, and nobody else.
        """
        self.requests_reach_members(4)

    @decorators.attr(type="smoke")
    @decorators.idempotent_id("ccf0a0b1-2c3d-4e4f-8a5b-6c7d8e9f0a3b")
    @requirement(
        "ENF-006", "An HTTP request through the VIP reaches each member.", needs=("ipv6",)
    )
    def test_http_reaches_each_member_ipv6(self) -> None:
        """The same to the IPv6 VIP."""
        self.requests_reach_members(6)

    # --- inside --------------------------------------------------------------------------------

    @decorators.attr(type="smoke")
    @decorators.idempotent_id("ddf0a0b1-2c3d-4e4f-8a5b-6c7d8e9f0a3c")
    @requirement(
        "ENF-007",
        "The amphora holds a ruleset that is understood in full: its input is closed by default.",
        needs=("admin", "amphora_ssh"),
    )
    def test_ruleset_is_understood(self) -> None:
        """Steps:

        1. Log in to each amphora and read the ruleset of haproxy's network namespace.
        2. Parse it.

        Verify: nothing in it is unknown; there is a base chain at input whose policy is drop.
        The ruleset is shown with the result.
        """
        lb = self.guarded().deployment.lb
        amphorae = self.scene.amphorae(lb)
        self.assertNotEqual([], amphorae, f"Load balancer {lb.id} has no ALLOCATED amphora.")
        for number, (_, host) in enumerate(amphorae):
            inside = Amphora(host)
            self.keep(f"ruleset-{number}.json", inside.ruleset_json())
            ruleset = inside.ruleset()
            self.keep(f"ruleset-{number}.nft.txt", render.table(ruleset))
            closed = [
                str(chain)
                for chain in ruleset.chains.values()
                if chain.hook == "input" and chain.policy == "drop"
            ]
            self.assertNotEqual([], closed, "No chain at input has the policy drop.")

    @decorators.attr(type="smoke")
    @decorators.idempotent_id("eef0a0b1-2c3d-4e4f-8a5b-6c7d8e9f0a3d")
    @requirement(
        "ENF-008",
        "Over all packets, the ruleset lets in what the API promised and nothing else.",
        needs=("admin", "amphora_ssh"),
    )
    def test_ruleset_equals_policy(self) -> None:
        """Steps:

        1. Make the policy from what the API says of the load balancer and its listeners.
        2. Read the ruleset of each amphora; compare the two over all packets (SMT).

        Verify: no packet on which they disagree; if there is one, it is shown.
        """
        lb = self.guarded().deployment.lb
        api = self.stage.clouds.member.load_balancer
        shown = self.scene.lbs.show(lb.id).to_dict(computed=False)
        listeners = [
            {**entry.to_dict(computed=False), "admin_state_up": entry.is_admin_state_up}
            for entry in api.listeners(load_balancer_id=lb.id)
        ]
        amphorae = self.scene.amphorae(lb)
        self.assertNotEqual([], amphorae, f"Load balancer {lb.id} has no ALLOCATED amphora.")
        addresses = [amphora.vrrp_ip for amphora, _ in amphorae]
        looks = Looks()
        for number, (amphora, host) in enumerate(amphorae):
            inside = Amphora(host)
            policy = Policy.of(
                shown,
                listeners,
                own=amphora.vrrp_ip,
                peers=[address for address in addresses if address != amphora.vrrp_ip],
            )
            with looks:
                self.proved(number, inside, policy)
        looks.conclude()

    def proved(self, number: int, inside: Amphora, policy: Policy) -> None:
        """No packet on which the policy and the ruleset of an amphora disagree.

        :raises Broken: with a finding for each witness.
        """
        self.keep(f"ruleset-{number}.json", inside.ruleset_json())
        found = disagreements(policy, inside.ruleset(), interfaces=tuple(inside.interfaces()))
        self.keep(f"proof-{number}.txt", str(found))
        witnesses = found.too_open + found.too_closed
        if witnesses:
            raise Broken(str(found), findings=[str(one) for one in witnesses])
