# SPDX-License-Identifier: Apache-2.0
"""What cannot work is refused, with a reason, and leaves nothing behind."""

from __future__ import annotations

import json
import uuid
from typing import Any

from openstack import exceptions as sdk
from tempest.lib import decorators

from sriov_lb_tests.cloud import accounting, loadbalancers, networks, orphans
from sriov_lb_tests.tests import base, exhaustion, scene
from sriov_lb_tests.tests.base import requirement
from sriov_lb_tests.tests.looks import Looks


class TestFlavorRefusals(base.SriovLbTest):
    """A flavor profile that cannot work is refused when it is made, not when it is used.

    The API reference promises that flavor data is validated against what the provider
    supports. Octavia answers 501, or 500 for what the driver finds out, where one would expect
    400; what counts here is that the profile is not made and that the answer names what is
    wrong. The status is kept with the evidence.
    """

    def refused(self, data: dict[str, Any], *names: str) -> None:
        """Check that a profile with ``data`` is refused, and that the answer holds ``names``."""
        admin = self.stage.clouds.by("admin")
        before = self.profiles()
        text = json.dumps(data)
        try:
            profile = loadbalancers.create_flavor_profile(admin, self.stage.ledger, text)
        except sdk.HttpException as error:
            answer = {"status": error.status_code, "answer": str(error.details or error)}
        else:
            self.fail(f"Octavia accepted the flavor data {text} (profile {profile.id}).")
        self.keep("answer.json", {"request": data, **answer})
        self.seen.update(answer)
        self.assertIn(answer["status"], (400, 500, 501), f"The answer to {text}.")
        for name in names:
            self.assertIn(name, answer["answer"], f"The answer to {text} does not name it.")
        self.assertEqual(before, self.profiles(), "Refused, and made all the same.")

    def profiles(self) -> set[str]:
        """Ids of the flavor profiles made here; others may make theirs meanwhile."""
        every = self.stage.clouds.by("admin").load_balancer.flavor_profiles()
        return {one.id for one in every if (one.name or "").startswith(self.stage.ledger.mine)}

    @decorators.attr(type="smoke")
    @decorators.idempotent_id("0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c20")
    @requirement(
        "REF-001",
        "A flavor profile with a value of the wrong type is refused by name.",
        needs=("admin_mode",),
    )
    def test_wrong_type(self) -> None:
        """Steps:

        1. Create a flavor profile with sriov_vip "yes", a string; the same with true works
           (the run's own flavor, the control).

        Verify: refused; the answer names sriov_vip and the value; no profile was made.
        """
        control = self.site.sriov_flavor_id
        self.refused(
            {"compute_flavor": self.site.compute_flavor.id, "sriov_vip": "yes"},
            "sriov_vip",
            "yes",
        )
        self.assertTrue(control)

    @decorators.attr(type="smoke")
    @decorators.idempotent_id("1b2c3d4e-5f6a-4b7c-9d8e-0f1a2b3c4d21")
    @requirement(
        "REF-002",
        "A flavor profile with an unknown key is refused by name.",
        needs=("admin_mode",),
    )
    def test_unknown_key(self) -> None:
        """Steps:

        1. Create a flavor profile with the key sriov_vipp; spelled right it works (control).

        Verify: refused; the answer names the key; no profile was made.
        """
        control = self.site.sriov_flavor_id
        self.refused(
            {"compute_flavor": self.site.compute_flavor.id, "sriov_vipp": True}, "sriov_vipp"
        )
        self.assertTrue(control)

    @decorators.attr(type="smoke")
    @decorators.idempotent_id("2c3d4e5f-6a7b-4c8d-8e9f-1a2b3c4d5e22")
    @requirement(
        "REF-003",
        "A flavor profile whose compute flavor does not exist is refused by name.",
        needs=("admin_mode",),
    )
    def test_unknown_compute_flavor(self) -> None:
        """Steps:

        1. Create a flavor profile with a compute flavor id that nobody has; the same with the
           run's own compute flavor works (control).

        Verify: refused; the answer names the id; no profile was made.
        """
        control = self.site.sriov_flavor_id
        unknown = str(uuid.uuid4())
        self.refused({"compute_flavor": unknown, "sriov_vip": True}, unknown)
        self.assertTrue(control)


class TestLoadBalancerRefusals(base.SriovLbTest):
    """An SR-IOV load balancer that cannot work is refused at once, or fails with a reason.

    Security groups have no effect on a virtual function, so the API refuses them; a VIP needs
    port security on its network; and where no host or no virtual function is to be had, the
    load balancer goes to ERROR, tells why, and gives everything back.
    """

    def setUp(self) -> None:
        super().setUp()
        self.scene = scene.of(self.stage)
        self.lbs = self.site.lbs

    def refused(self, subnet_id: str, **attributes: Any) -> dict[str, Any]:
        """Check that an SR-IOV load balancer is refused; the answer, as evidence."""
        admin = self.stage.clouds.admin
        before = orphans.find(admin) if admin else set()
        known = self.known()
        try:
            lb = self.lbs.create(
                subnet_id=subnet_id,
                flavor_id=self.site.sriov_flavor_id,
                what="refused",
                **attributes,
            )
        except sdk.HttpException as error:
            answer = {"status": error.status_code, "answer": str(error.details or error)}
        else:
            self.fail(f"Octavia accepted the load balancer ({lb.id}).")
        self.keep("answer.json", {"request": attributes, **answer})
        self.seen.update(answer)
        self.assertEqual(known, self.known(), "Refused, and made.")
        if admin:
            left = sorted(map(str, orphans.since(admin, before)))
            self.assertEqual([], left, "Refused, and this was left behind.")
        return answer

    def known(self) -> set[str]:
        """Ids of the load balancers made here; others may make theirs meanwhile."""
        every = self.lbs.list()
        return {lb.id for lb in every if (lb.name or "").startswith(self.stage.ledger.mine)}

    @decorators.attr(type="smoke")
    @decorators.idempotent_id("3d4e5f6a-7b8c-4d9e-9f0a-2b3c4d5e6f23")
    @requirement(
        "REF-004",
        "vip_sg_ids is refused for an SR-IOV load balancer: no security group holds on a VF.",
    )
    def test_security_groups_of_the_vip(self) -> None:
        """Steps:

        1. Create an SR-IOV load balancer with vip_sg_ids; without it works (the shared load
           balancer, the control).

        Verify: 400; the answer says that it is about security groups and the kind of port;
        nothing is left in Nova or Neutron.
        """
        if self.stage.api_version < (2, 29):
            self.skipTest(f"Octavia API {self.stage.api_version} has no vip_sg_ids (v2.29).")
        control = self.scene.created["sriov"]
        subnet = self.site.vip_net.subnet(min(self.site.vip_net.subnets))
        answer = self.refused(subnet.id, vip_sg_ids=[self.site.security_group.id])
        self.assertEqual(400, answer["status"])
        self.assertIn("security group", answer["answer"].lower())
        self.assertIn("direct", answer["answer"].lower())
        self.assertTrue(control.id)

    @decorators.attr(type="smoke")
    @decorators.idempotent_id("4e5f6a7b-8c9d-4e0f-8a1b-3c4d5e6f7a24")
    @requirement(
        "REF-005",
        "A VIP network without port security is refused, and the answer says so.",
    )
    def test_network_without_port_security(self) -> None:
        """Steps:

        1. Make a network without port security and a subnet on it.
        2. Create an SR-IOV load balancer there; on a network with port security it works (the
           shared load balancer, the control).

        Verify: refused; the answer names port security; nothing is left in Nova or Neutron.
        """
        control = self.scene.created["sriov"]
        member, ledger = self.stage.clouds.member, self.stage.ledger
        network = networks.create_network(member, ledger, port_security=False, what="insecure")
        subnet = networks.create_subnet(member, ledger, network, "192.0.2.0/24", what="insecure")
        answer = self.refused(subnet.id)
        self.assertIn("port security", answer["answer"].lower())
        self.assertTrue(control.id)

    @decorators.attr(type="smoke")
    @decorators.idempotent_id("5f6a7b8c-9d0e-4f1a-9b2c-4d5e6f7a8b25")
    @requirement(
        "REF-006",
        "Without a host in the aggregate the load balancer fails, says that no host was found, "
        "and leaves nothing behind.",
        needs=("admin_mode", "disruptive"),
    )
    def test_no_host_in_the_aggregate(self) -> None:
        """Steps:

        1. Make an aggregate without hosts, and flavors that lead to it.
        2. Create an SR-IOV load balancer with them and wait for its end; with hosts in the
           aggregate it works (the shared load balancer, the control).
        3. Delete it.

        Verify: it goes to ERROR; the fault of its instance in Nova says that there is no valid
        host; no instance and no port of its amphora stays, nor anything else after its deletion.
        """
        control = self.scene.created["sriov"]
        before = orphans.find(self.stage.clouds.by("admin"))
        flavor = self.site.flavor_for_hosts([], "no-host")
        lb, state, reason = exhaustion.fail_to_build(self.scene, flavor, "no-host")
        self.keep("reason.txt", reason or "(none)")
        looks = Looks()
        with looks:
            self.assertEqual("ERROR", state, reason)
            self.assertIn("no valid host", reason.lower())
        with looks:
            left = exhaustion.left_behind(self.scene, lb, before)
            self.assertEqual([], left, "Left behind in Nova or Neutron.")
        looks.conclude()
        self.assertTrue(control.id)

    @decorators.attr(type="smoke")
    @decorators.idempotent_id("6a7b8c9d-0e1f-4a2b-8c3d-5e6f7a8b9c26")
    @requirement(
        "REF-007",
        "With no VF left the load balancer fails, says that none could be claimed, and leaves "
        "nothing behind.",
        needs=("admin_mode", "disruptive"),
    )
    def test_no_virtual_function_left(self) -> None:
        """Steps:

        1. Take VFs on one host until Nova refuses.
        2. Create an SR-IOV load balancer that can go to that host alone and wait for its end;
           one that was made before there works (the control).
        3. Delete it.

        Verify: it goes to ERROR; Nova's fault names the PCI device that could not be claimed; no
        instance and no port of its amphora stays, nor anything else after its deletion.
        """
        story = self.scene.exhaustion
        self.keep("reason.txt", story.refused_reason or "(none)")
        self.seen.update(host=story.host, taken=len(story.first_fill))
        self.assertEqual("ERROR", story.refused_state, story.refused_reason)
        self.assertRegex(story.refused_reason, accounting.REFUSAL)
        self.assertEqual([], story.refused_left, "Left behind in Nova or Neutron.")
        if story.refused_unclear:
            base.inconclusive(story.refused_unclear)
