# SPDX-License-Identifier: Apache-2.0
"""Every packet class of the catalogue meets the fate it deserves."""

from __future__ import annotations

import dataclasses
import ipaddress
import json

from tempest.lib import decorators

from sriov_lb_tests import errors
from sriov_lb_tests.amphora import Amphora
from sriov_lb_tests.amphora.counting import PREFIX
from sriov_lb_tests.packets.catalogue import Context, cases
from sriov_lb_tests.packets.probe import tcp_syn
from sriov_lb_tests.tests import base, scene
from sriov_lb_tests.tests.base import requirement
from sriov_lb_tests.tests.catalogue import surveyed
from sriov_lb_tests.wire.survey import survey

#: Seconds for the whole catalogue of an IP version.
LONGEST = 20.0
#: Port of the listener that only the client on the normal port may reach.
NORMAL_PORT = 8090
CLOSED_PORT = 81


class TestCatalogue(base.SriovLbTest):
    """A firewall is judged by what it does to every kind of packet, not by its SYNs.

    What a listener promises (API reference: ``protocol``, ``protocol_port``, ``allowed_cidrs``)
    says of each packet whether it has to pass, may, or may not; the catalogue holds packet
    classes with the fate each deserves, the reason and its source (RFC, clause of the policy,
    kernel behaviour). They are sent to the load balancer one by one, between controls that have
    to be answered, while counters of our own in the amphora tell how far each came.
    """

    #: Surveys that were taken, by client and IP version.
    taken: dict[tuple[str, int], surveyed.Surveyed] = {}

    def setUp(self) -> None:
        super().setUp()
        self.scene = scene.of(self.stage)

    def amphora(self) -> tuple[Amphora, str]:
        """The amphora that holds the VIPs now, and its own address."""
        guarded = self.scene.guarded
        self.involved = {"sriov": guarded.deployment.lb}
        vips = {self.scene.vip(version) for version in self.scene.versions}
        for amphora, host in self.scene.amphorae(guarded.deployment.lb):
            inside = Amphora(host)
            here = inside.interfaces()[inside.vip_interface]
            if vips & {str(one.ip) for one in here.addresses}:
                return inside, amphora.vrrp_ip
        base.inconclusive(f"No amphora of load balancer {guarded.deployment.lb.id} holds {vips}.")

    def context(self, client: scene.Client, version: int, own: str, *, port: int) -> Context:
        guarded = self.scene.guarded
        subnet = self.site.vip_net.subnet(version)
        same = ipaddress.ip_address(own).version == version
        return Context(
            version=version,
            vip=self.scene.vip(version),
            allowed=client.allowed(version),
            denied=client.denied(version),
            tcp_port=port,
            closed_port=CLOSED_PORT,
            open_port=guarded.wanted.listener("open").port,
            own=own if same else None,
            subnet=subnet.cidr,
        )

    def survey(
        self, kind: str, client: scene.Client, version: int, port: int, *, switched: bool = False
    ) -> None:
        """Take the survey, keep it, and hold each case to its promise.

        :param switched: a virtual switch is between the client and the amphora.
        """
        amphora, own = self.amphora()
        context = self.context(client, version, own, port=port)
        found = surveyed.take(client.vantage, context, amphora)
        self.taken[kind, version] = found
        self.keep(f"catalogue-{kind}-v{version}.txt", found.table())
        self.evidence(*{f.observation.pcap for f in found.findings})
        self.seen.update(
            {
                "cases": len(found.findings),
                "of these can fail": len(found.can_fail),
                "of these looked at": len(found.looked_at),
                "never arrived, not looked at": [f.case.id for f in found.never_arrived],
                "left out": len(found.left_out),
                "frames that arrived": found.arrived,
                "seconds": round(found.seconds, 2),
            }
        )
        self.seen["wrong"] = [f.case.id for f in found.wrong]
        # A packet that met a wrong fate proves that, whatever became of others.
        if found.wrong:
            self.fail(found.sentence())
        doubt = found.doubt(switched=switched)
        if doubt:
            base.inconclusive(doubt)

    # --- from a VF -------------------------------------------------------------------------

    @decorators.attr(type="smoke")
    @decorators.idempotent_id("6f0c2f7e-5d55-4c3a-8a56-5ad5b2fd3b01")
    @requirement(
        "CAT-001",
        "Every packet class that a client on a VF can send meets the fate it deserves.",
        needs=("ipv4", "admin", "amphora_ssh"),
    )
    def test_catalogue_from_a_vf_ipv4(self) -> None:
        """Steps:

        1. Count the client's frames in the amphora: arrived, before the filter, after it.
        2. Open a connection, and send every case of the catalogue between two controls: SYNs of
           the allowed source to the listener.

        Verify: the controls are answered; every frame arrived, but for those that kernels and
        cards may discard before anybody counts them; what has to pass passed the filter, what may
        not pass did not.
        """
        self.survey("vf", self.scene.client, 4, self.scene.guarded.wanted.listener("guarded").port)

    @decorators.attr(type="smoke")
    @decorators.idempotent_id("3f7a8e7c-0f6d-4f42-a3b7-0f77c2b6c202")
    @requirement(
        "CAT-001",
        "Every packet class that a client on a VF can send meets the fate it deserves.",
        needs=("ipv6", "admin", "amphora_ssh"),
    )
    def test_catalogue_from_a_vf_ipv6(self) -> None:
        """The same to the IPv6 VIP."""
        self.survey("vf", self.scene.client, 6, self.scene.guarded.wanted.listener("guarded").port)

    # --- from a normal port ------------------------------------------------------------------

    def normal_client(self) -> scene.Client:
        """A client on a normal port; skip where all clients were given and none is on one."""
        try:
            return self.scene.normal_client
        except errors.ResourceMissing as error:
            if scene.CONF.sriov_lb.mode == "admin" or not self.site.settings.adopt.client_ids:
                raise
            raise self.skipException(error.message) from error

    def from_a_normal_port(self, version: int) -> None:
        client = self.normal_client()
        guarded = self.scene.guarded
        lb = guarded.deployment.lb
        try:
            self.scene.lbs.create_listener(
                lb,
                protocol="HTTP",
                port=NORMAL_PORT,
                allowed_cidrs=[
                    str(ipaddress.ip_network(client.allowed(v))) for v in self.scene.versions
                ],
                what="listener-normal",
            )
            self.survey("normal", client, version, NORMAL_PORT, switched=True)
        finally:
            # Other classes share this load balancer: one that Octavia failed may not stay either.
            self.scene.lbs.remove_listener(lb, NORMAL_PORT)

    @decorators.idempotent_id("9b1f9f38-8b5d-4a27-9a1c-7a4f6d0b5e03")
    @requirement(
        "CAT-002",
        "Every packet class that a client on a normal port can send meets the fate it deserves.",
        needs=("ipv4", "admin", "amphora_ssh"),
    )
    def test_catalogue_from_a_normal_port_ipv4(self) -> None:
        """Steps:

        1. Make a listener that only a client on a normal port of the VIP network may reach.
        2. Send the catalogue from there, as from the VF.

        Verify: as from the VF, for every frame that arrived. What the virtual switch ate on its way
        (a VLAN tag, a broken header) is listed as not looked at: it says nothing of the amphora.
        At least 220 of the cases that can fail have to be looked at.
        """
        self.from_a_normal_port(4)

    @decorators.idempotent_id("c0a7d1de-6f4e-4e54-9b65-3a0e3ad8c904")
    @requirement(
        "CAT-002",
        "Every packet class that a client on a normal port can send meets the fate it deserves.",
        needs=("ipv6", "admin", "amphora_ssh"),
    )
    def test_catalogue_from_a_normal_port_ipv6(self) -> None:
        """The same to the IPv6 VIP."""
        self.from_a_normal_port(6)

    # --- the survey itself ---------------------------------------------------------------------

    @decorators.idempotent_id("5a4b6c1f-9f0e-4b3e-8b0c-2d1f6a7e8d05")
    @requirement(
        "CAT-003",
        "The catalogue leaves nothing in the amphora, also when it is interrupted.",
        needs=("admin", "amphora_ssh"),
    )
    def test_counters_are_removed(self) -> None:
        """Steps:

        1. Look for our counting tables in the amphora.
        2. Begin a survey that breaks in the middle; look from inside while the counters are up,
           and again after it broke.

        Verify: no table before, one in the middle (the control: a look finds it), none after.
        """
        amphora, own = self.amphora()
        version = self.scene.versions[0]
        client = self.scene.client
        context = self.context(
            client, version, own, port=self.scene.guarded.wanted.listener("guarded").port
        )
        control = tcp_syn(context.vip, context.tcp_port, source=context.allowed)

        def tables() -> list[str]:
            listing = json.loads(amphora.nft("-j", "list", "tables"))["nftables"]
            names = [entry["table"]["name"] for entry in listing if "table" in entry]
            return [name for name in names if name.startswith(PREFIX)]

        self.assertEqual([], tables(), "A counting table is in the amphora before the survey.")
        during: list[list[str]] = []

        class Interrupted(Exception):
            pass

        def broken(*_arguments: object) -> None:
            during.append(tables())
            raise Interrupted

        odd = dataclasses.replace(next(iter(cases(context))), build=broken)
        with self.assertRaisesRegex(Interrupted, ""):
            survey(
                client.vantage,
                context,
                control=control,
                chosen=[odd],
                counting=amphora.counting(client.vantage.interface.mac),
            )
        if not during or len(during[0]) != 1:
            base.inconclusive(f"The counters were not up when the survey broke: {during}.")
        self.assertEqual([], tables(), "The interrupted survey left its counting table behind.")

    @decorators.idempotent_id("7e9d3c2a-1b4f-4c6d-9e8f-0a1b2c3d4e06")
    @requirement(
        "CAT-004",
        "The whole catalogue takes 20 s at most on one load balancer, per IP version.",
        needs=("admin", "amphora_ssh"),
    )
    def test_the_catalogue_is_quick(self) -> None:
        """Steps:

        1. Take the surveys that no test has taken yet, from the VF.

        Verify: in each at least 220 cases that can fail were looked at, and it took 20 s at most.
        """
        port = self.scene.guarded.wanted.listener("guarded").port
        for version in self.scene.versions:
            if ("vf", version) not in self.taken:
                amphora, own = self.amphora()
                context = self.context(self.scene.client, version, own, port=port)
                self.taken["vf", version] = surveyed.take(
                    self.scene.client.vantage, context, amphora
                )
        slow = []
        for (kind, version), found in sorted(self.taken.items()):
            self.seen[f"{kind} IPv{version}"] = f"{found.figures()}, in {found.seconds:.1f} s"
            self.assertGreaterEqual(
                len(found.can_fail), surveyed.FEWEST,
                f"Too few packet classes can fail: {found.figures()}.",
            )  # fmt: skip
            if len(found.looked_at) < surveyed.FEWEST:
                base.inconclusive(f"Too few packet classes were looked at: {found.figures()}.")
            if found.seconds > LONGEST:
                slow.append(f"IPv{version} from the {kind} client took {found.seconds:.1f} s")
        self.assertEqual([], slow, f"More than {LONGEST:g} s: {'; '.join(slow)}.")
