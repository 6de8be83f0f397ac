# SPDX-License-Identifier: Apache-2.0
"""Is the SR-IOV VIP faster than its normal twin, and by how much?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tempest import config
from tempest.lib import decorators
from testtools.content import json_content, text_content

from sriov_lb_tests.amphora import Amphora
from sriov_lb_tests.cloud import beside, scenario
from sriov_lb_tests.cloud.servers import Guest
from sriov_lb_tests.cloud.site import VIP
from sriov_lb_tests.cloud.twin import Deployment, Twins
from sriov_lb_tests.tests import base
from sriov_lb_tests.tests.base import inconclusive, requirement
from sriov_lb_tests.tests.performance import child
from sriov_lb_tests.wire import origin, serving
from sriov_lb_tests.wire.host import raise_interface
from sriov_lb_tests.wire.ssh import SshHost

CONF = config.CONF


@decorators.serial
class TestComparison(base.SriovLbTest):
    """An SR-IOV VIP is faster than the same load balancer on a virtual port.

    Octavia's specification of SR-IOV VIPs (version 14.0) reports 9 % more bandwidth and 70 % less
    latency from initial testing, and the administrator's guide gives speed as the reason to use
    them. The test measures both VIPs side by side and states what came out; it fails only on a
    threshold that the operator set, because what is fast enough is the operator's to say.
    """

    @decorators.attr(type="slow")
    @decorators.idempotent_id("6f1c0f5e-3c0b-4a53-9b0e-8d2f4f7a1c61")
    @requirement(
        "PRF-001",
        "The SR-IOV VIP and its normal twin are compared under load, within the thresholds set.",
        needs=("performance",),
    )
    def test_against_the_normal_twin(self) -> None:
        """Steps:

        1. Build an SR-IOV load balancer and its normal twin with the same listeners and the same
           member, and a client with a port on a virtual function.
        2. Run ``sriov-lb-perf compare`` on them as a child process; attach its result.

        Verify: the comparison was completed; no threshold of [sriov_lb] performance_* is surely
        crossed. Where one cannot be told, the test is inconclusive.
        """
        group = CONF.sriov_lb
        profile = child.profile(group.performance_profile)
        done = child.run(
            self.targets(profile),
            self.folder,
            profile_name=group.performance_profile,
            time_limit=profile.time_limit,
            thresholds=self.thresholds(),
        )
        self.attach(done)
        if done.status == child.CROSSED:
            self.fail(f"A threshold was crossed: {done.reasons()}")
        if done.status or not done.complete:
            inconclusive(f"The comparison ended with status {done.status}: {done.reasons()}")

    # --- what is compared ---------------------------------------------------------------

    def targets(self, profile: child.Profile) -> dict[str, Any]:
        """Both load balancers, their member and the client, as the child's target file."""
        group = CONF.sriov_lb
        version = min(self.site.vip_net.subnets)
        asked = Twins.ask(self.site, versions=(version,), what="performance")
        client = self.site.ask_client("direct")
        member = self.site.ask_member(1, "vip")
        twins = asked.wait(self.site.lbs)
        self.involved = {"sriov": twins.sriov, "normal": twins.normal}
        for guest in (client, member):
            self.site.await_guest(guest)
        user = group.member_user or group.guest_user
        server = self.stage.host(member, user)
        origin.start(server, member.name)
        host = self.stage.host(client, CONF.sriov_lb.guest_user)
        raise_interface(host, client.mac(VIP), "port on the VIP network")
        name = "load-and-iperf3" if "iperf3" in profile.needs else "load"
        wanted = scenario.listener_set(name, {}, (version,))
        made = twins.deploy(self.site.lbs, wanted, [member], self.site.vip_net)
        more = self.beside(profile, made, member, server)
        known = ("hardware", "igb", "macvlan")
        return {
            "substrate": group.substrate if group.substrate in known else "unknown",
            "facts": {
                "topology": group.loadbalancer_topology,
                "octavia_release": self.stage.octavia_release or "not told",
                "run": self.stage.run.id,
            },
            "vips": {
                "normal": self.vip(twins.normal, more),
                "sriov": self.vip(twins.sriov, more),
            },
            "clients": [
                {
                    "name": client.name,
                    "ssh": child.ssh(self.stage.host(client, group.guest_user)),
                }
            ],
        }

    def beside(
        self, profile: child.Profile, made: Sequence[Deployment], member: Guest, server: SshHost
    ) -> Callable[[str], dict[str, Any]]:
        """Make what the profile asks for beside a plain listener; what the cloud cannot have is
        noted, and whether its stages may be left out is the profile's to say.

        :return: from a VIP's address, as it stands in a URL, to the keys of a target file.
        """
        lbs, net = self.site.lbs, self.site.vip_net
        lacks: dict[str, str] = {}
        if "tls" in profile.needs:
            lacks["tls"] = beside.add_tls(lbs, made, CONF.sriov_lb.tls_container_ref)
        if "udp" in profile.needs:
            lacks["udp"] = self.without_ip_vs(made)
            if not lacks["udp"]:
                serving.echo(server)
                lacks["udp"] = beside.add_udp(lbs, made, member, net)
        objects = serving.objects(server, profile.sizes) if "objects" in profile.needs else {}
        for what, why in lacks.items():
            self.seen[what] = why or "on both VIPs"

        def keys(address: str) -> dict[str, Any]:
            bare = address.strip("[]")
            found: dict[str, Any] = {}
            if "iperf3" in profile.needs:
                found["iperf3"] = {"address": bare, "port": origin.IPERF_PORT}
            if lacks.get("tls") == "":
                found["tls"] = f"https://{address}:{beside.TLS_PORT}/"
            if lacks.get("udp") == "":
                found["udp"] = {"address": bare, "port": serving.ECHO_PORT}
            if objects:
                found["objects"] = [{"bytes": n, "path": path} for n, path in objects.items()]
            return found

        return keys

    def without_ip_vs(self, made: Sequence[Deployment]) -> str:
        """Why no UDP listener can be had; "" where nobody may look, too."""
        if not CONF.sriov_lb.amphora_ssh or self.stage.clouds.admin is None:
            return ""
        for deployment in made:
            for amphora in self.site.lbs.amphorae(deployment.lb.id):
                if not Amphora(self.stage.amphora_host(amphora)).has_ip_vs():
                    return f"the kernel of amphora {amphora.id} has no ip_vs"
        return ""

    def vip(self, lb: Any, more: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
        """One load balancer, with where its amphorae are if we may look."""
        address = lb.vip_address
        host = f"[{address}]" if ":" in address else address
        found: dict[str, Any] = {
            "url": f"http://{host}/",
            "large": origin.LARGE,
            "facts": {"load balancer": lb.id, "flavor": lb.flavor_id},
            **more(host),
        }
        if CONF.sriov_lb.amphora_ssh and self.stage.clouds.admin is not None:
            amphorae = sorted(self.site.lbs.amphorae(lb.id), key=lambda a: a.role == "BACKUP")
            compute = self.stage.clouds.admin.compute
            hosts = [compute.get_server(a.compute_id).compute_host for a in amphorae]
            found["facts"]["host"] = ", ".join(map(str, hosts))
            found["facts"]["image"] = amphorae[0].image_id
            found["amphorae"] = [
                {"name": a.role.lower(), "ssh": child.ssh(self.stage.amphora_host(a))}
                for a in amphorae
            ]
        return found

    # --- what came out ------------------------------------------------------------------

    def thresholds(self) -> list[str]:
        """The operator's, as options of the command; 0 is "none"."""
        group = CONF.sriov_lb
        found = []
        for option, value in (
            ("--min-rate-ratio", group.performance_min_rate_ratio),
            ("--max-latency-ratio", group.performance_max_latency_ratio),
        ):
            if value:
                found += [option, f"{value:g}"]
        return found

    def attach(self, done: child.Comparison) -> None:
        """The result goes into the stream of test results, and is evidence."""
        self.addDetail("comparison", text_content(done.output))
        self.evidence(*done.files())
        if done.document is None:
            return
        self.addDetail("result.json", json_content(done.document))
        self.seen.update(
            sentence=done.document["verdict"]["sentence"],
            sound=done.document["verdict"]["sound"],
            ratios={
                metric["id"]: metric["ratio"] and metric["ratio"]["estimate"]
                for metric in done.document["metrics"]
                if metric["tested"]
            },
        )

    def _lacks_performance(self) -> str:
        if not CONF.sriov_lb.performance:
            return "Nobody asked for load on this cloud ([sriov_lb] performance is off)."
        return ""
