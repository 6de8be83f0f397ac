# SPDX-License-Identifier: Apache-2.0
"""What a load balancer with ``sriov_vip`` is made of, and what its normal twin is not."""

from __future__ import annotations

import re
from typing import Any

from tempest.lib import decorators

from sriov_lb_tests.cloud import accounting, placement
from sriov_lb_tests.tests import base, scene
from sriov_lb_tests.tests.base import requirement

PCI_ADDRESS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")


class ProvisioningTest(base.SriovLbTest):
    """Helpers that look at the ports of load balancers."""

    def setUp(self) -> None:
        super().setUp()
        self.scene = scene.of(self.stage)
        self.lbs = self.site.lbs

    def twins(self) -> Any:
        twins = self.scene.twins
        self.involved = {"sriov": twins.sriov, "normal": twins.normal}
        return twins

    def base_ports(self, lb: Any) -> list[tuple[Any, Any, Any]]:
        """(amphora, its instance, its port on the VIP network) for each amphora, as evidence."""
        admin = self.stage.clouds.by("admin")
        found = []
        for amphora in self.lbs.amphorae(lb.id):
            port = admin.network.get_port(amphora.vrrp_port_id)
            server = admin.compute.get_server(amphora.compute_id)
            found.append((amphora, server, port))
        self.keep(
            f"{lb.name}-amphorae.json",
            [
                {
                    "amphora": amphora.to_dict(computed=False),
                    "host": server.compute_host,
                    "base port": port.to_dict(computed=False),
                }
                for amphora, server, port in found
            ],
        )
        wanted = 2 if self.site.settings.topology == "ACTIVE_STANDBY" else 1
        self.assertEqual(
            wanted, len(found), f"Load balancer {lb.id} was to have {wanted} ALLOCATED amphora(e)."
        )
        return found


class TestSriovVip(ProvisioningTest):
    """A load balancer made with a flavor that says ``sriov_vip`` has its VIP on virtual functions.

    Octavia's document on SR-IOV and its specification (specs/version14.0/SRIOV.rst) promise: the
    amphora is placed on a host of the aggregate, its port on the VIP network is an SR-IOV
    virtual function, and the API says so in ``vip_vnic_type``. A load balancer without
    ``sriov_vip``, made from the same compute flavor on the same network, has none of it.
    """

    @decorators.attr(type="smoke")
    @decorators.idempotent_id("5d0f5f2a-5f5c-4c60-9d2e-6c1f5f0b7a10")
    @requirement(
        "PRV-001",
        "Every amphora of an SR-IOV load balancer runs on a host of the aggregate.",
        needs=("admin_mode",),
    )
    def test_amphora_on_host_of_aggregate(self) -> None:
        """Steps:

        1. Wait until the SR-IOV load balancer is ACTIVE.
        2. Ask Nova for the host of each amphora, and for the aggregates with the properties
           that the compute flavor asks for.

        Verify: each host is in one of these aggregates.
        """
        twins = self.twins()
        hosts = placement.aggregate_hosts(
            self.stage.clouds.by("admin"), self.site.settings.aggregate_properties
        )
        self.seen["hosts of the aggregate"] = sorted(hosts)
        for amphora, server, _ in self.base_ports(twins.sriov):
            self.assertIn(
                server.compute_host,
                hosts,
                f"Amphora {amphora.id} runs on {server.compute_host}, which is not in an "
                f"aggregate with {dict(self.site.settings.aggregate_properties)}.",
            )

    @decorators.attr(type="smoke")
    @decorators.idempotent_id("0d2dbb0f-7a5a-4f43-8d61-2d2b6c7f4b11")
    @requirement(
        "PRV-002",
        "The amphora's base port is a VF: direct, bound hw_veb on the amphora's own host with "
        "a PCI slot of its own, and ACTIVE.",
        needs=("admin",),
    )
    def test_base_port_is_a_virtual_function(self) -> None:
        """Steps:

        1. Wait until the SR-IOV load balancer is ACTIVE.
        2. Ask Neutron for the base port of each amphora, and for all VFs it knows to be bound.

        Verify: vnic_type direct; vif_type hw_veb; host is the instance's host; the profile names
        a PCI slot, which no other port of that host has; physical network is the VIP network's;
        status ACTIVE; one fixed address. That the slot is one of the host's VFs is shown by
        PRV-006: it can be claimed again once the load balancer is gone.
        """
        twins = self.twins()
        admin = self.stage.clouds.by("admin")
        physical = admin.network.get_network(twins.sriov.vip_network_id).provider_physical_network
        for _, server, port in self.base_ports(twins.sriov):
            profile = port.binding_profile or {}
            self.assertEqual("direct", port.binding_vnic_type, f"Port {port.id}.")
            self.assertEqual("hw_veb", port.binding_vif_type, f"Port {port.id}.")
            self.assertEqual(server.compute_host, port.binding_host_id, f"Port {port.id}.")
            self.assertRegex(profile.get("pci_slot", ""), PCI_ADDRESS, f"Port {port.id}.")
            self.assertEqual(physical, profile.get("physical_network"), f"Port {port.id}.")
            self.assertEqual("ACTIVE", port.status, f"Port {port.id}.")
            self.assertEqual(1, len(port.fixed_ips), f"Port {port.id}: {port.fixed_ips}.")
        taken = accounting.bound(admin)
        self.assertEqual(
            [], accounting.doubly_bound(taken), "Two ports claim the same VF of the same host."
        )

    @decorators.attr(type="smoke")
    @decorators.idempotent_id("9f3c5a1e-1c64-4d3f-9d59-6a0f3b1c8e12")
    @requirement(
        "PRV-003",
        "The VIP's own port is never a VF: it only holds the address.",
        needs=("admin",),
    )
    def test_vip_port_is_never_a_virtual_function(self) -> None:
        """Steps:

        1. Wait until the SR-IOV load balancer is ACTIVE.
        2. Ask Neutron for the port whose id the API gives as vip_port_id.

        Verify: it is normal, bound to no host, has no PCI slot, and holds the VIP's addresses.
        """
        lb = self.twins().sriov
        port = self.stage.clouds.by("admin").network.get_port(lb.vip_port_id)
        self.keep("vip-port.json", port.to_dict(computed=False))
        self.assertEqual("normal", port.binding_vnic_type)
        self.assertNotIn("pci_slot", port.binding_profile or {})
        self.assertEqual("", port.binding_host_id or "")
        wanted = {lb.vip_address, *(vip["ip_address"] for vip in lb.additional_vips or ())}
        self.assertEqual(wanted, {fixed["ip_address"] for fixed in port.fixed_ips})

    @decorators.attr(type="smoke")
    @decorators.idempotent_id("1b7f7fb5-9b1d-4d6b-8a63-7c3f0d2e9a13")
    @requirement(
        "PRV-004", "vip_vnic_type says direct in the answers to create, show and list."
    )
    def test_vip_vnic_type_in_create_show_and_list(self) -> None:
        """Steps:

        1. Keep the answer to the creation of the SR-IOV load balancer and of its normal twin.
        2. Show both; list all; list with the filter vip_vnic_type=direct.

        Verify: direct for one and normal for the other everywhere; the filter finds the one and
        not the other.
        """
        created = self.scene.created
        twins = self.twins()
        ids = {"sriov": twins.sriov.id, "normal": twins.normal.id}
        shown = {label: self.lbs.show(lb_id).vip_vnic_type for label, lb_id in ids.items()}
        listed = {lb.id: lb.vip_vnic_type for lb in self.lbs.list()}
        filtered = {lb.id for lb in self.lbs.list(vip_vnic_type="direct")}
        self.seen["create"] = {label: lb.vip_vnic_type for label, lb in created.items()}
        self.seen["show"] = shown
        expected = {"sriov": "direct", "normal": "normal"}
        self.assertEqual(expected, self.seen["create"], "In the answer to create.")
        self.assertEqual(expected, shown, "In the answer to show.")
        self.assertEqual(
            expected, {label: listed.get(lb_id) for label, lb_id in ids.items()}, "In the list."
        )
        self.assertIn(ids["sriov"], filtered, "The list filtered by vip_vnic_type=direct.")
        self.assertNotIn(ids["normal"], filtered, "The list filtered by vip_vnic_type=direct.")

    @decorators.attr(type="smoke")
    @decorators.idempotent_id("6a2f9e0c-0e1a-4b0a-bb7b-8e5d4c3b2a14")
    @requirement(
        "PRV-005",
        "The normal twin, same in all but sriov_vip, has no VF anywhere.",
        needs=("admin",),
    )
    def test_normal_twin_has_no_virtual_function(self) -> None:
        """Steps:

        1. Wait until both twins are ACTIVE.
        2. Ask Neutron for every port of every amphora of the normal one.

        Verify: all are normal ports without a PCI slot; the same question about the SR-IOV one
        finds a VF (the control).
        """
        twins = self.twins()
        admin = self.stage.clouds.by("admin")
        found = {}
        for label, lb in (("sriov", twins.sriov), ("normal", twins.normal)):
            found[label] = [
                port
                for _, server, _ in self.base_ports(lb)
                for port in admin.network.ports(device_id=server.id)
                if port.binding_vnic_type != "normal" or "pci_slot" in (port.binding_profile or {})
            ]
        if not found["sriov"]:
            base.inconclusive("The question finds no VF on the SR-IOV load balancer either.")
        self.assertEqual([], [port.id for port in found["normal"]], "VFs of the normal twin.")

    @decorators.attr(type="smoke")
    @decorators.idempotent_id("c2d8d2f6-3f0e-4a53-8b19-9f6e5d4c3b15")
    @requirement(
        "PRV-007",
        "Additional VIPs are on the same VF: the base port may send from each of them.",
        needs=("admin", "ipv4", "ipv6"),
    )
    def test_additional_vips(self) -> None:
        """Steps:

        1. Wait until the SR-IOV load balancer, which has a VIP of each IP version, is ACTIVE.
        2. Ask Octavia for its additional VIPs, Neutron for the base port of each amphora.

        Verify: the additional VIP is in the subnet that was asked for; the base port's allowed
        address pairs hold all VIPs; the base port keeps one fixed address of its own, which is
        no VIP.
        """
        lb = self.twins().sriov
        wanted = [self.site.vip_net.subnet(v).id for v in self.scene.versions[1:]]
        self.assertEqual(wanted, [vip["subnet_id"] for vip in lb.additional_vips])
        vips = {lb.vip_address, *(vip["ip_address"] for vip in lb.additional_vips)}
        self.assertEqual(len(self.scene.versions), len(vips))
        for _, _, port in self.base_ports(lb):
            pairs = {pair["ip_address"] for pair in port.allowed_address_pairs or ()}
            self.assertTrue(
                vips <= pairs, f"Port {port.id} may send from {sorted(pairs)}, not all of {vips}."
            )
            own = {fixed["ip_address"] for fixed in port.fixed_ips}
            self.assertEqual(1, len(own), f"Port {port.id} has {own}.")
            self.assertFalse(own & vips, f"Port {port.id} has a VIP as its fixed address.")


class TestIpv6Vip(ProvisioningTest):
    """A VIP may be an IPv6 address, without any IPv4 address beside it.

    Octavia takes the VIP from whatever subnet it is given; nothing in its document on SR-IOV
    limits that to IPv4.
    """

    @decorators.attr(type="smoke")
    @decorators.idempotent_id("e7c1b0d4-6f2a-4c8e-9a3b-0d5c6b7a8f16")
    @requirement(
        "PRV-008",
        "A load balancer whose only VIP is an IPv6 address can be on a VF.",
        needs=("ipv6",),
    )
    def test_ipv6_vip(self) -> None:
        """Steps:

        1. Create an SR-IOV load balancer on the IPv6 subnet alone and wait until it is ACTIVE. If
           that fails: the same without SR-IOV (the control).
        2. Ask Octavia for it, Neutron for its base ports (administrators only).

        Verify: VIP is an IPv6 address; vip_vnic_type direct; the base port is a VF with one
        IPv6 address.
        """
        self.involved = {"ipv6": self.scene.asked["spare"]}
        lb = scene.operate("loadbalancer-create", lambda: self.scene.spare, self.normal)
        self.assertIn(":", lb.vip_address)
        self.assertEqual("direct", lb.vip_vnic_type)
        if self.stage.clouds.admin is None:
            return
        ports = self.scene.spare_ports
        self.keep("base-ports.json", [port.to_dict(computed=False) for port in ports])
        self.assertNotEqual([], ports)
        for port in ports:
            self.assertEqual("direct", port.binding_vnic_type)
            self.assertIn("pci_slot", port.binding_profile or {})
            self.assertEqual([True], [":" in fixed["ip_address"] for fixed in port.fixed_ips])

    def normal(self) -> None:
        """The control: the same on a virtual port; gone at once."""
        lb = self.site.ask_load_balancer("normal", versions=(6,), what="ipv6-normal")
        try:
            self.lbs.wait(lb.id)
        finally:
            self.lbs.delete(lb.id)
