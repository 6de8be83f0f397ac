# SPDX-License-Identifier: Apache-2.0
"""The load balancer itself, its pools, members and monitors change: the firewall does not."""

from __future__ import annotations

from typing import Any

from tempest.lib import decorators

from sriov_lb_tests import errors
from sriov_lb_tests.cloud import networks
from sriov_lb_tests.cloud.awaiting import until
from sriov_lb_tests.cloud.networks import Net
from sriov_lb_tests.tests import backend, base
from sriov_lb_tests.tests.base import requirement
from sriov_lb_tests.tests.lifecycle.base import LifecycleTest
from sriov_lb_tests.tests.own import OTHER, WEB
from sriov_lb_tests.wire.exchange import Verdict

#: Of the block for benchmarks (RFC 2544): those for documentation are the other networks'.
SECOND_SUBNET = "198.18.7.0/24"


class TestLoadBalancerLifecycle(LifecycleTest):
    """Changes that have nothing to do with who may pass leave the firewall as it is.

    The rules in the amphora follow from listeners alone (api-ref listener: protocol,
    protocol_port, allowed_cidrs). Renaming or disabling the load balancer, changing its pools,
    members and health monitors may neither open nor close a port to anybody; a disabled load
    balancer serves nobody.
    """

    WHAT = "life-lb"

    def requests(self, step: str) -> dict[str, int]:
        """Answers to HTTP requests through the VIP, by member; each has to be a 200."""
        version = self.own.versions[0]
        vip, source = self.own.vip(version), self.client.allowed(version)
        answered: dict[str, int] = {}
        for _ in range(6):
            answer, why = self.client.vantage.http_or_why(vip, WEB, source=source)
            if answer is None or answer.status != 200:
                self.fail(
                    f"{step}: a request to {vip} was to be answered with 200: {answer or why}"
                )
            name = answer.headers.get(backend.HEADER, "")
            answered[name] = answered.get(name, 0) + 1
        return answered

    def reached(self, wanted: int, step: str) -> None:
        """So many different members answer."""
        answered = self.requests(step)
        if len(answered) != wanted:
            self.fail(f"{step}: {wanted} members were to answer, and these did: {answered}.")

    def serves_nobody(self, step: str) -> None:
        """No handshake, though the amphora is there: it answers for its addresses."""
        for version in self.own.versions:
            try:
                self.client.vantage.resolve(self.own.vip(version))
            except errors.ControlFailed as error:
                base.inconclusive(f"{step}: {error.message}")
            seen = self.client.vantage.ask(self.own.syn(version, WEB), tries=1)
            self.evidence(seen.pcap)
            self.seen[f"{step}, IPv{version}"] = seen.verdict.value
            if seen.verdict is Verdict.ACCEPTED:
                self.fail(f"{step}: {seen}")

    @decorators.idempotent_id("3a7b1c9d-52e4-4f6a-8b0c-9d1e2f3a4b06")
    @requirement(
        "LIF-006",
        "A load balancer that is renamed, disabled and enabled is as closed as before, and serves "
        "nobody while it is disabled.",
    )
    def test_load_balancer_renamed_disabled_enabled(self) -> None:
        """Steps:

        1. Rename the load balancer; disable it; enable it.

        Verify: after each step policy, ruleset and wire agree, and no forbidden packet passed
        meanwhile; disabled it completes no handshake.
        """
        lb = self.ready()
        self.change("It was renamed", lambda: self.lbs.update(lb, name=f"{lb.name}-renamed"))
        self.change("It was disabled", lambda: self.lbs.update(lb, admin_state_up=False))
        self.serves_nobody("It was disabled")
        self.change("It was enabled", lambda: self.lbs.update(lb, admin_state_up=True))
        self.seen["answers after it"] = self.requests("It was enabled")

    @decorators.idempotent_id("4b8c2d0e-63f5-4a7b-9c1d-0e2f3a4b5c07")
    @requirement(
        "LIF-007",
        "Changes of pools, members and health monitors leave the firewall as it is.",
    )
    def test_pools_members_monitors(self) -> None:
        """Steps:

        1. Change the pool's algorithm and session persistence; add a health monitor, remove it.
        2. Disable a member, enable it; replace all members in one batch, and back.

        Verify: after each step policy, ruleset and wire agree, and no forbidden packet passed
        meanwhile; in the end each member answers.
        """
        lb = self.ready()
        pool, members = self.own.pool, self.own.members
        self.change(
            "The pool's algorithm was changed",
            lambda: self.lbs.update_pool(lb, pool, lb_algorithm="LEAST_CONNECTIONS"),
        )
        self.change(
            "Session persistence by source was added",
            lambda: self.lbs.update_pool(lb, pool, session_persistence={"type": "SOURCE_IP"}),
        )
        self.change(
            "Session persistence was removed",
            lambda: self.lbs.update_pool(
                lb, pool, session_persistence=None, lb_algorithm="ROUND_ROBIN"
            ),
        )
        monitor = self.change(
            "A health monitor was added", lambda: self.lbs.create_health_monitor(lb, pool)
        )
        self.change(
            "The health monitor was removed",
            lambda: self.lbs.delete_health_monitor(lb, monitor),
        )
        for up, word in ((False, "disabled"), (True, "enabled")):
            self.change(
                f"A member was {word}",
                lambda up=up: self.lbs.update_member(lb, pool, members[0], admin_state_up=up),
            )

        def wanted(*numbers: int) -> list[dict[str, Any]]:
            found = []
            for number in numbers:
                member = self.own.member(number)
                member["protocol_port"] = member.pop("port")
                found.append(member)
            return found

        self.own.damage("its members are being replaced")
        last = len(members) - 1
        self.change(
            "All members but one were removed in one batch",
            lambda: self.lbs.replace_members(lb, pool, wanted(last)),
        )
        self.reached(1, "All members but one were removed in one batch")
        self.change(
            "All members were given in one batch",
            lambda: self.lbs.replace_members(lb, pool, wanted(*range(last + 1))),
        )
        self.reached(len(members), "All members were given in one batch")
        self.own.mended()

    def on_another_network(self, net: Net, where: str) -> None:
        """A member there is added and removed: the amphora plugs that network and unplugs it."""
        lb, pool = self.ready(), self.own.pool
        version = min(net.subnets)
        # Nobody is there: what is looked at is the amphora, not the member.
        port = networks.create_port(
            self.stage.clouds.member, self.site.ledger, net, versions=(version,), what="life-nobody"
        )
        self.own.damage("it may have one more interface")
        member = self.change(
            f"A member on {where} was added",
            lambda: self.lbs.add_member(
                lb,
                pool,
                address=net.address(port, version),
                port=self.own.member(0)["port"],
                subnet_id=net.subnet(version).id,
                admin_state_up=False,
            ),
        )
        self.change(
            f"The member on {where} was removed", lambda: self.lbs.delete_member(lb, member)
        )
        self.own.mended()

    @decorators.idempotent_id("8e4d2a81-63d9-4d7f-8b1f-7c2a3e4f5b10")
    @requirement(
        "LIF-010",
        "A member on another subnet of the VIP network, added and removed, leaves the firewall as "
        "it is.",
        needs=("admin_mode",),
    )
    def test_member_on_another_subnet_of_the_vip_network(self) -> None:
        """Steps:

        1. Make a second subnet on the VIP network; add a member there; remove it.

        Verify: the amphora's VIP interface gets an address there, and loses it; after each step
        policy, ruleset and wire agree, and no forbidden packet passed meanwhile.
        """
        second = Net(self.site.vip_net.network)
        second.subnets[4] = networks.create_subnet(
            self.stage.clouds.member,
            self.site.ledger,
            second.network,
            SECOND_SUBNET,
            what="life-second",
        )
        self.on_another_network(second, "a second subnet of the VIP network")

    @decorators.idempotent_id("9f5e3b92-74ea-4e80-9c20-8d3b4f5a6c17")
    @requirement(
        "LIF-017",
        "A member on a network of its own, added and removed, leaves the firewall as it is.",
        needs=("admin_mode",),
    )
    def test_member_on_a_network_of_its_own(self) -> None:
        """The same with a member on the member network, which the amphora plugs as eth2."""
        self.on_another_network(self.site.member_net, "a network of its own")


class TestWholeLoadBalancer(LifecycleTest):
    """A load balancer may be asked for with all that hangs on it, and deleted with all of it.

    The API reference promises a fully populated creation in one request, and a cascading
    deletion.
    """

    WHAT = "life-whole"

    @decorators.idempotent_id("5c9d3e1f-74a6-4b8c-8d2e-1f3a4b5c6d08")
    @requirement(
        "LIF-008",
        "A load balancer created with all its listeners in one request is as open as they say.",
    )
    def test_fully_populated_and_cascade(self) -> None:
        """Steps:

        1. Create a load balancer with two listeners, a pool and its members in one request; probe
           from when its VIPs are known, each as soon as somebody answers for it.
        2. Delete it with all that hangs on it; probe all the while.

        Verify: while it is built and while it is deleted no forbidden packet passes; once it is
        ACTIVE both listeners let in whom they are open to, policy, ruleset and wire agree, and a
        request reaches a member; afterwards nobody answers for its VIPs.
        """
        self.possible()
        own = self.own
        members = []
        for number in range(len(own.scene.members)):
            member = own.member(number)
            member["protocol_port"] = member.pop("port")
            members.append(member)
        name = self.stage.ledger.name
        own.extra = {
            "pools": [
                {"name": "whole", "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN",
                 "members": members}
            ],
            "listeners": [
                {"name": name("whole-web"), "protocol": "HTTP", "protocol_port": WEB,
                 "allowed_cidrs": own.cidrs(), "default_pool": {"name": "whole"}},
                {"name": name("whole-open"), "protocol": "TCP", "protocol_port": OTHER},
            ],
        }  # fmt: skip
        # Guests first: an amphora may be there before they are.
        _ = self.client
        self.involved = {"lb": own.asked}
        self.change(
            "It was built with all that hangs on it",
            lambda: own.bare,
            opens={
                **self.towards(WEB), **self.towards(OTHER), **self.towards(OTHER, "denied")
            },
            web=False,
            building=True,
        )  # fmt: skip
        version = own.versions[0]
        answer, why = self.client.vantage.http_or_why(
            own.vip(version), WEB, source=self.client.allowed(version)
        )
        if answer is None or answer.status != 200:
            self.fail(
                f"A request to {own.vip(version)} was to be answered with 200: {answer or why}"
            )
        vips = [own.vip(version) for version in own.versions]
        self.involved = {}
        self.change("It was deleted", own.close, agree=False)
        for vip in vips:
            if not self.gone(vip):
                self.fail(f"It was deleted: somebody still answers for {vip}.")

    def gone(self, vip: str) -> bool:
        """Whether nobody answers for an address, while somebody does for a member's."""
        control = self.own.member(0)["address"]
        vantage = self.client.vantage

        def silent() -> bool:
            try:
                vantage.resolve(vip)
            except errors.ControlFailed:
                return True
            return False

        try:
            until(silent, what=f"nobody to answer for {vip}", timeout=10, interval=0.5)
        except errors.StuckPending:
            return False
        try:
            vantage.resolve(control)
        except errors.ControlFailed as error:
            base.inconclusive(f"Nobody answers for a member either: {error.message}")
        return True
