# SPDX-License-Identifier: Apache-2.0
"""ACTIVE_STANDBY in the lab: keepalived elects, and Octavia replaces a master that was killed."""

from __future__ import annotations

import time

import pytest


@pytest.fixture
def pair(lab, by_the_book, wait):
    """An SR-IOV load balancer of two amphorae with a listener; gone afterwards."""
    balancing, do = lab.cloud.load_balancer, lab.inside
    flavor = by_the_book.flavor("pair", sriov_vip=True, loadbalancer_topology="ACTIVE_STANDBY")

    def status():
        return do(balancing.get_load_balancer, lb.id).provisioning_status

    lb = do(balancing.create_load_balancer, name="pair", flavor_id=flavor.id,
            vip_subnet_id=by_the_book.subnets[0].id)  # fmt: skip
    try:
        assert wait(status, lambda now: now in ("ACTIVE", "ERROR"), 180) == "ACTIVE"
        do(balancing.create_listener, name="pair", protocol="HTTP", protocol_port=80,
           load_balancer_id=lb.id)  # fmt: skip
        assert wait(status, lambda now: now in ("ACTIVE", "ERROR"), 60) == "ACTIVE"
        yield do(balancing.get_load_balancer, lb.id)
    finally:
        wait(status, lambda now: now in ("ACTIVE", "ERROR"), 300)
        do(balancing.delete_load_balancer, lb.id, cascade=True)
        wait(lambda: lb.id in {one.id for one in do(_listed, balancing.load_balancers)}, False, 120)
        # Octavia deletes the instances after it has said that the load balancer is gone.
        wait(lambda: _amphorae(lab), [], 120, 1)


def _amphorae(lab):
    """Names of the instances that Octavia has in Nova."""
    servers = lab.inside(_listed, lab.cloud.compute.servers, all_projects=True)
    return [one.name for one in servers if one.name.startswith("amphora-")]


def _listed(call, **options):
    return list(call(**options))


@pytest.mark.timeout(900)
def test_one_is_elected_and_a_killed_one_is_replaced(lab, pair, wait):
    balancing, do = lab.cloud.load_balancer, lab.inside
    command = "sudo ip netns exec amphora-haproxy ip -4 -br address show eth1"

    def amphorae():
        return [
            one
            for one in do(_listed, balancing.amphorae, loadbalancer_id=pair.id)
            if one.status == "ALLOCATED"
        ]

    def holders():
        """Names, by id, of the amphorae that have the VIP on their interface."""
        return {
            one.id
            for one in amphorae()
            if f"{pair.vip_address}/" in (lab.ssh(one.lb_network_ip, command) or "")
        }

    before = {one.id: one for one in wait(amphorae, lambda found: len(found) == 2, 60)}
    (master,) = wait(holders, lambda found: len(found) == 1, 60)
    (backup,) = before.keys() - {master}

    killed = lab.command("fault", "crash-server", before[master].compute_id)
    assert killed.returncode == 0, killed.stdout
    began = time.monotonic()
    wait(holders, {backup}, 60, 0.2)
    print(f"the VIP moved in {time.monotonic() - began:.1f} s")

    def replaced():
        now = {one.id for one in amphorae()}
        well = do(balancing.get_load_balancer, pair.id).provisioning_status == "ACTIVE"
        return well and len(now) == 2 and backup in now and master not in now

    wait(replaced, True, 300, 2)
    print(f"the master was replaced after {time.monotonic() - began:.0f} s")
    assert len(wait(holders, lambda found: len(found) == 1, 60)) == 1
