# SPDX-License-Identifier: Apache-2.0
import pytest
from openstack import exceptions as sdk

from sriov_lb_tests import errors
from sriov_lb_tests.cloud import faults, loadbalancers
from sriov_lb_tests.cloud.ledger import Ledger

IMMUTABLE = "Load Balancer x is immutable and cannot be updated."


@pytest.fixture
def lbs(cloud, clouds, tmp_path, monkeypatch):
    monkeypatch.setattr(faults, "status_tree", lambda *a: {})
    book = Ledger(tmp_path, "r1")
    yield loadbalancers.LoadBalancers(
        clouds, book, timeout=0.2, change_timeout=0.2, interval=0.001
    )
    book.close()


def states(monkeypatch, lbs, *provisioning):
    """The load balancer goes through these states, one a look; the last one stays."""
    left = list(provisioning)
    genuine = lbs.show

    def show(lb_id):
        lb = genuine(lb_id)
        lb.provisioning_status = left.pop(0) if len(left) > 1 else left[0]
        return lb

    monkeypatch.setattr(lbs, "show", show)


def test_wait_returns_once_it_is_active(lbs, monkeypatch):
    lb = lbs.create(subnet_id="s", flavor_id="f", additional_subnet_ids=["s6"])
    assert lb.additional_vips == [{"subnet_id": "s6"}]
    states(monkeypatch, lbs, "PENDING_CREATE", "PENDING_CREATE", "ACTIVE")
    assert lbs.wait(lb.id).provisioning_status == "ACTIVE"


def test_error_is_reported_with_novas_fault_and_not_waited_for(lbs, cloud, monkeypatch):
    lb = lbs.create(subnet_id="s", flavor_id="f")
    server = cloud.compute._create("server", {"name": "amphora", "status": "ERROR"})
    server.fault = {"message": "No valid host was found."}
    cloud.compute.server_actions = lambda server_id: []
    cloud.load_balancer._create("amphora", {"loadbalancer_id": lb.id, "compute_id": server.id})
    states(monkeypatch, lbs, "PENDING_CREATE", "ERROR")
    with pytest.raises(errors.ResourceFault, match="No valid host") as caught:
        lbs.wait(lb.id, timeout=60)
    assert caught.value.fault == "No valid host was found."
    assert "No valid host" in lbs.wait_error(lb.id)


def test_stuck_says_the_state_and_what_is_known(lbs, monkeypatch):
    lb = lbs.create(subnet_id="s", flavor_id="f")
    states(monkeypatch, lbs, "PENDING_UPDATE")
    with pytest.raises(errors.StuckPending, match="PENDING_UPDATE"):
        lbs.wait(lb.id, timeout=0.01)


def test_one_that_was_to_fail_and_works_is_a_fault(lbs):
    lb = lbs.create(subnet_id="s", flavor_id="f")
    with pytest.raises(errors.ResourceFault, match="was to fail"):
        lbs.wait_error(lb.id)


def test_a_listener_in_error_under_an_active_load_balancer_is_seen(lbs, cloud, monkeypatch):
    lb = lbs.create(subnet_id="s", flavor_id="f")
    create = cloud.load_balancer._create

    def failing(kind, attrs):
        thing = create(kind, attrs)
        thing.provisioning_status = "ERROR" if kind == "listener" else "ACTIVE"
        return thing

    monkeypatch.setattr(cloud.load_balancer, "_create", failing)
    with pytest.raises(errors.ResourceFault, match="The listener.*is ERROR"):
        lbs.create_listener(lb, protocol="HTTP", port=80, allowed_cidrs=["192.0.2.0/24"])
    (entry,) = [e for e in lbs.ledger.open_entries if e.kind == "listener"]
    assert entry.extra["parent"] == lb.name
    # Whoever asked for it has nothing to name it by but its port.
    lbs.remove_listener(lb, 81)
    assert [one.protocol_port for one in lbs.listeners(lb)] == [80]
    lbs.remove_listener(lb, 80)
    assert lbs.listeners(lb) == [] and not [
        e for e in lbs.ledger.open_entries if e.kind == "listener"
    ]


def test_a_change_is_made_again_when_octavia_was_busy(lbs, cloud, monkeypatch):
    lb = lbs.create(subnet_id="s", flavor_id="f")
    create, refusals = cloud.load_balancer._create, [1, 2]

    def busy(kind, attrs):
        if refusals:
            refusals.pop()
            raise sdk.ConflictException(IMMUTABLE)
        return create(kind, attrs)

    monkeypatch.setattr(cloud.load_balancer, "_create", busy)
    assert lbs.create_pool(lb, protocol="HTTP").protocol == "HTTP"


def test_a_load_balancer_in_error_takes_no_change_and_nobody_waits(lbs, cloud, monkeypatch):
    lb = lbs.create(subnet_id="s", flavor_id="f")
    lb.provisioning_status = "ERROR"

    def refuse(kind, attrs):
        raise sdk.ConflictException(IMMUTABLE)

    monkeypatch.setattr(cloud.load_balancer, "_create", refuse)
    lbs.change_timeout = 60
    with pytest.raises(errors.ResourceFault, match="in ERROR and takes no change"):
        lbs.create_pool(lb, protocol="HTTP")


def test_another_conflict_is_not_taken_for_a_busy_octavia(lbs, cloud, monkeypatch):
    lb = lbs.create(subnet_id="s", flavor_id="f")

    def refuse(kind, attrs):
        raise sdk.ConflictException("Another Listener on this Load Balancer is already using 80")

    monkeypatch.setattr(cloud.load_balancer, "_create", refuse)
    with pytest.raises(sdk.ConflictException, match="already using"):
        lbs.create_listener(lb, protocol="HTTP", port=80)
