# SPDX-License-Identifier: Apache-2.0
import os

import pytest
from openstack import exceptions as sdk

from sriov_lb_tests import errors
from sriov_lb_tests.cloud import kinds, ledger, loadbalancers, networks, placement, servers, sweep
from sriov_lb_tests.cloud.networks import Net

FAST = {"timeout": 2, "interval": 0.001}


def provision(clouds, book, folder):
    """A bit of everything, in the order a site makes it."""
    connection = clouds.member
    placement.create_aggregate(connection, book, ["h1", "h2"], {"sriov": "true"})
    flavor = placement.create_compute_flavor(
        connection, book, project_id="p", properties={"sriov": "true"}, ram=1, disk=1, vcpus=1
    )
    lb_flavor = loadbalancers.create_flavor(
        connection, book, {"compute_flavor": flavor.id, "sriov_vip": True}
    )
    network = networks.create_provider_network(
        connection, book, project_id="p", physical_network="public", network_type="flat"
    )
    net = Net(network)
    net.subnets[4] = networks.create_subnet(connection, book, network, "203.0.113.0/24")
    key = servers.create_key(connection, book, folder)
    port = networks.create_port(connection, book, net, vnic_type="direct")
    servers.boot(connection, book, image=flavor, flavor=flavor, ports={"vip": port}, key=key)
    lbs = loadbalancers.LoadBalancers(clouds, book, **{**FAST, "change_timeout": 2})
    lb = lbs.create(subnet_id=net.subnets[4].id, flavor_id=lb_flavor.id)
    pool = lbs.create_pool(lb, protocol="HTTP")
    lbs.create_listener(lb, protocol="HTTP", port=80, default_pool_id=pool.id)


def test_undo_is_the_reverse_and_leaves_nothing(cloud, clouds, tmp_path):
    book = ledger.Ledger(tmp_path, "r1")
    provision(clouds, book, tmp_path)
    cloud.log.clear()
    assert sweep.undo(book, clouds, **FAST) == []
    # The fake's load balancer has no cascade; the ledger leaves children to their parent.
    assert [line for line in cloud.log if line.startswith("delete")] == [
        "delete load_balancer",
        "delete server",
        "delete port",
        "delete keypair",
        "delete subnet",
        "delete network",
        "delete flavor",
        "delete flavor_profile",
        "delete flavor",
        "delete aggregate",
    ]
    assert book.open_entries == []
    book.close()
    assert ledger.read(book.path).closed


def points(cloud, clouds, folder):
    """How many points there are at which the program may be killed."""
    book = ledger.Ledger(folder, "dry")
    provision(clouds, book, folder)
    book.close()
    return cloud.hits


def test_killed_at_any_point_cleanup_leaves_nothing(cloud, clouds, tmp_path, killed):
    total = points(cloud, clouds, tmp_path / "dry")
    assert total > 20
    for service in (cloud.compute, cloud.network, cloud.load_balancer):
        service.store.clear()
    for kill_at in range(1, total + 1):
        cloud.hits, cloud.kill_at = 0, kill_at
        folder = tmp_path / str(kill_at)
        book = ledger.Ledger(folder, f"run{kill_at}")
        with pytest.raises(killed):
            provision(clouds, book, folder)
        os.close(book._fd)  # the kernel does this to a killed process
        cloud.kill_at = None
        # Children of a load balancer go with it: the fake's cascade.
        cloud.load_balancer.store.pop("listener", None)
        cloud.load_balancer.store.pop("pool", None)
        (outcome,) = sweep.cleanup(folder, clouds, **FAST)
        assert outcome.clean, (kill_at, outcome)
        assert cloud.everything() == [], kill_at


def test_cleanup_is_idempotent_and_skips_what_is_closed(cloud, clouds, tmp_path):
    book = ledger.Ledger(tmp_path, "r1")
    networks.create_network(clouds.member, book)
    book_path = book.path
    os.close(book._fd)
    assert sweep.cleanup(tmp_path, clouds, **FAST)[0].deleted == 1
    assert ledger.read(book_path).closed
    assert sweep.cleanup(tmp_path, clouds, **FAST) == []
    (again,) = sweep.cleanup(tmp_path, clouds, run_id="r1", **FAST)
    assert again.clean and again.deleted == 0


def test_dry_run_only_looks(cloud, clouds, tmp_path):
    book = ledger.Ledger(tmp_path, "r1")
    networks.create_network(clouds.member, book)
    os.close(book._fd)
    (outcome,) = sweep.cleanup(tmp_path, clouds, dry_run=True, **FAST)
    assert [item.kind for item in outcome.left] == ["network"]
    assert not outcome.clean
    assert len(cloud.everything()) == 1


def test_a_living_run_is_left_alone(cloud, clouds, tmp_path):
    book = ledger.Ledger(tmp_path, "r1")
    networks.create_network(clouds.member, book)
    (outcome,) = sweep.cleanup(tmp_path, clouds, **FAST)
    assert "alive" in outcome.alive[0]
    assert len(cloud.everything()) == 1
    book.close()


def test_what_a_journal_forgot_is_still_found_by_name(cloud, clouds, tmp_path):
    book = ledger.Ledger(tmp_path, "r1")
    clouds.member.network.create_network(name=book.name("stray"))
    clouds.member.network.create_network(name="somebody-elses")
    (left,) = sweep.remains(clouds, "r1")
    assert left.name.startswith(book.token) and left.name.endswith("-stray")
    book.close()


def test_a_conflict_is_tried_again(cloud, clouds, tmp_path):
    book = ledger.Ledger(tmp_path, "r1")
    network = networks.create_network(clouds.member, book)
    cloud.refusals["network", network.id] = sdk.ConflictException("ports are still in use")
    assert sweep.undo(book, clouds, **FAST) == []
    book.close()


def test_one_that_resists_does_not_keep_the_others(cloud, clouds, tmp_path, monkeypatch):
    book = ledger.Ledger(tmp_path, "r1")
    networks.create_network(clouds.member, book, what="first")
    port = networks.create_port(clouds.member, book, Net(clouds.member.network.networks()[0]))
    cloud.refusals["port", port.id] = sdk.HttpException("500: database is down")
    (left,) = sweep.undo(book, clouds, **FAST)
    assert (left.service, left.kind) == ("Neutron", "port")
    assert "database is down" in left.reason
    assert [e.kind for e in book.open_entries] == ["port"]
    book.close()


def test_a_pending_load_balancer_is_waited_for(cloud, clouds, tmp_path):
    book = ledger.Ledger(tmp_path, "r1")
    lbs = loadbalancers.LoadBalancers(clouds, book)
    lb = lbs.create(subnet_id="s", flavor_id=None)
    lb.provisioning_status = "PENDING_UPDATE"
    looks = []
    genuine = kinds.KINDS["load_balancer"].look

    def look(connection, entry):
        looks.append(1)
        if len(looks) == 3:
            lb.provisioning_status = "ACTIVE"
        return genuine(connection, entry)

    patched = kinds.Kind("load_balancer", "Octavia", look, kinds.KINDS["load_balancer"].delete)
    kinds.KINDS["load_balancer"], saved = patched, kinds.KINDS["load_balancer"]
    try:
        assert sweep.undo(book, clouds, **FAST) == []
    finally:
        kinds.KINDS["load_balancer"] = saved
    assert len(looks) >= 3
    book.close()


def test_a_stuck_load_balancer_is_reported_with_its_state(cloud, clouds, tmp_path):
    book = ledger.Ledger(tmp_path, "r1")
    lb = loadbalancers.LoadBalancers(clouds, book).create(subnet_id="s", flavor_id=None)
    lb.provisioning_status = "PENDING_CREATE"
    (left,) = sweep.undo(book, clouds, timeout=0.01, interval=0.001)
    assert "PENDING_CREATE" in left.reason
    book.close()


def test_amphorae_and_their_ports_are_waited_for_and_reported(cloud, clouds, tmp_path):
    book = ledger.Ledger(tmp_path, "r1")
    lbs = loadbalancers.LoadBalancers(clouds, book)
    lb = lbs.create(subnet_id="s", flavor_id=None)
    amphora_server = cloud.compute._create("server", {"name": "amphora-1"})
    vrrp = cloud.network._create("port", {"name": "octavia-lb-vrrp-1"})
    cloud.load_balancer._create(
        "amphora",
        {"loadbalancer_id": lb.id, "compute_id": amphora_server.id, "vrrp_port_id": vrrp.id},
    )
    (left,) = sweep.undo(book, clouds, timeout=0.02, interval=0.001)
    assert "what Octavia made" in left.reason and amphora_server.id in left.reason
    # Octavia gets round to it later.
    cloud.compute.store["server"].clear()
    assert {i.kind for i in sweep.remains(clouds, "r1", book.entries)} == {"port"}
    cloud.network.store["port"].clear()
    assert sweep.undo(book, clouds, **FAST) == []
    assert sweep.remains(clouds, "r1", book.entries) == []
    book.close()


def test_undo_one_refuses_what_is_not_ours(cloud, clouds, tmp_path):
    book = ledger.Ledger(tmp_path, "r1")
    with pytest.raises(errors.ResourceMissing, match="not in the journal"):
        sweep.undo_one(book, clouds, "network", "somebody-elses")
    book.close()


def test_every_kind_has_a_service_and_a_parent_that_exists():
    for kind in kinds.KINDS.values():
        assert kind.service in ("Nova", "Neutron", "Octavia", "Keystone")
        assert kind.parent is None or kind.parent in kinds.KINDS
