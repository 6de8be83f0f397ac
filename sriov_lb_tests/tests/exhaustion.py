# SPDX-License-Identifier: Apache-2.0
"""A host without a free VF, and what happens on it: one story that several tests read.

Filling a host takes a while, so it is done once, and everything that needs a full host
happens then. With no VF left, each claim that succeeds proves that a VF was given back, and
which: a leak of one cannot hide behind the others.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any

from openstack import exceptions as sdk
from tempest import config

from sriov_lb_tests import errors
from sriov_lb_tests.cloud import accounting, orphans
from sriov_lb_tests.cloud.awaiting import until
from sriov_lb_tests.tests.scene import Scene
from sriov_lb_tests.verdicts.model import Broken, Inconclusive

CONF = config.CONF

#: "Ten times in a row without a leak."
TIMES = 10


@dataclass
class Story:
    """What was seen, in the order it happened.

    :param host: the host of the first amphora of the load balancer that was there first.
    :param held: the PCI slot of that amphora's base port.
    :param first_fill: slots that Nova granted while it was there.
    :param refused: the load balancer that found no VF.
    :param refused_state: its provisioning status in the end.
    :param refused_reason: all that the APIs tell of the reason.
    :param refused_left: what was left in Nova or Neutron, after its deletion too.
    :param refused_unclear: why that cannot be told, "" if it can.
    :param returned: the slot that Nova granted after the first load balancer was deleted;
        None if it refused.
    :param beyond: a slot granted after that, which cannot be: nothing is left.
    :param cycles: (slots given back, slots got) for each round, at least ten slots in all.
    :param lost: what Nova said when a VF could not be taken again.
    """

    host: str = ""
    held: str = ""
    first_fill: list[str] = field(default_factory=list)
    refused: Any = None
    refused_state: str = ""
    refused_reason: str = ""
    refused_left: list[str] = field(default_factory=list)
    refused_unclear: str = ""
    returned: str | None = None
    beyond: str | None = None
    cycles: list[tuple[list[str], list[str]]] = field(default_factory=list)
    lost: str = ""


def tell(scene: Scene) -> Story:
    """Fill the host of the spare load balancer, and see what happens there.

    :raises StuckPending: before a VF was to come back, so nothing is known of that.
    """
    site, admin = scene.site, scene.stage.clouds.by("admin")
    story = Story()
    lb = scene.spare
    amphora = site.lbs.amphorae(lb.id)[0]
    port = admin.network.get_port(amphora.vrrp_port_id)
    story.host, story.held = port.binding_host_id, port.binding_profile["pci_slot"]
    flavor = site.flavor_for_hosts([story.host], "one-host")
    probe = accounting.place_probe(
        scene.stage.clouds,
        scene.stage.ledger,
        host=story.host,
        net=site.vip_net,
        image=site.guest_image,
        flavor=site.guest_flavor,
        timeout=CONF.sriov_lb.server_build_timeout,
    )
    try:
        probe.fill()
        story.first_fill = list(probe.slots)
        _refuse(scene, story, flavor)
        site.lbs.delete(lb.id)
        try:
            story.returned = probe.take_when_free()
            story.beyond = probe.slots[-1] if probe.take() else None
            while sum(len(before) for before, _ in story.cycles) < TIMES:
                story.cycles.append(probe.swap())
        except (errors.ResourceFault, errors.StuckPending) as error:
            story.lost = error.message
    finally:
        probe.release()
    return story


def _refuse(scene: Scene, story: Story, flavor: str) -> None:
    """Ask for a load balancer on the full host, and see what becomes of it."""
    before = orphans.find(scene.stage.clouds.by("admin"))
    story.refused, story.refused_state, story.refused_reason = fail_to_build(
        scene, flavor, "no-vf"
    )
    try:
        story.refused_left = left_behind(scene, story.refused, before)
    except Inconclusive as unclear:
        # Of one promise; the others that this story is about can still be looked at.
        story.refused_unclear = str(unclear)


def fail_to_build(scene: Scene, flavor: str, what: str) -> tuple[Any, str, str]:
    """(load balancer, its state, all that the APIs tell of the reason)."""
    lbs = scene.site.lbs
    version = min(scene.site.vip_net.subnets)
    lb = lbs.create(
        subnet_id=scene.site.vip_net.subnet(version).id, flavor_id=flavor, what=what
    )
    try:
        reason = lbs.wait_error(lb.id)
    except errors.StuckPending as error:
        reason = error.message
    except errors.ResourceFault:
        reason = ""
    return lb, lbs.show(lb.id).provisioning_status, reason


def left_behind(scene: Scene, lb: Any, before: set[orphans.Orphan]) -> list[str]:
    """What a failed load balancer left in Nova or Neutron; it is deleted in between.

    A failed load balancer keeps its record and its VIP port until the user deletes it, but
    instances and ports of its amphorae must go by themselves.

    :raises Inconclusive: nothing is left, but whether anything went by itself was not seen.
    """
    admin = scene.stage.clouds.by("admin")
    watch = scene.site.lbs.watches[lb.id]
    left: list[str] = []

    def gone() -> bool:
        left.clear()
        for amphora_id, seen in watch.amphorae.items():
            if seen["compute_id"]:
                try:
                    server = admin.compute.get_server(seen["compute_id"])
                except sdk.NotFoundException:
                    pass  # as it should be
                else:
                    left.append(f"Nova instance {server.name} ({server.status})")
            ports = admin.network.ports(name=f"octavia-lb-vrrp-{amphora_id}")
            left.extend(f"Neutron port {port.name} ({port.id})" for port in ports)
        return not left

    # What does not go by itself is in ``left``.
    with contextlib.suppress(errors.StuckPending):
        until(gone, what=f"what was made for load balancer {lb.id} to be gone", timeout=60)
    try:
        scene.site.lbs.delete(lb.id)
    except errors.LeftBehind as error:
        left += error.resources
    left = left or sorted(map(str, orphans.since(admin, before)))
    if not left and not watch.amphorae:
        raise Inconclusive(
            f"No amphora was seen of load balancer {lb.id} while it failed, so nobody can say "
            "whether what was made for it went by itself."
        )
    return left


def ten_load_balancers(scene: Scene) -> list[str]:
    """Ten load balancers in a row on the only free VF of a host; the slot that each had.

    :raises Broken: one found no VF: the one before did not give it back.
    :raises ResourceFault: the very first did not become ACTIVE.
    """
    site, admin = scene.site, scene.stage.clouds.by("admin")
    host = site.hosts[-1]
    flavor = site.flavor_for_hosts([host], "ten")
    probe = accounting.place_probe(
        scene.stage.clouds,
        scene.stage.ledger,
        host=host,
        net=site.vip_net,
        image=site.guest_image,
        flavor=site.guest_flavor,
        timeout=CONF.sriov_lb.server_build_timeout,
    )
    version = min(site.vip_net.subnets)
    slots: list[str] = []
    try:
        probe.fill()
        probe.give_back(list(probe.taken)[-1:])
        for number in range(1, TIMES + 1):
            lb = site.lbs.create(
                subnet_id=site.vip_net.subnet(version).id, flavor_id=flavor, what=f"ten-{number}"
            )
            try:
                site.lbs.wait(lb.id)
                port_id = site.lbs.amphorae(lb.id)[0].vrrp_port_id
                slots.append(admin.network.get_port(port_id).binding_profile["pci_slot"])
            except errors.ResourceFault as error:
                if not slots:
                    raise
                raise Broken(
                    f"Nova did not give {slots[-1]} of host {host} back after load balancer "
                    f"{number - 1} of {TIMES} was deleted: {error.message}"
                ) from error
            finally:
                site.lbs.delete(lb.id)
    finally:
        probe.release()
    return slots
