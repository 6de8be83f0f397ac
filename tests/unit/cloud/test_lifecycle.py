# SPDX-License-Identifier: Apache-2.0
"""Failover, power and changes of load balancers, on a cloud in memory."""

from types import SimpleNamespace

import pytest

from sriov_lb_tests import errors
from sriov_lb_tests.cloud import faults, loadbalancers
from sriov_lb_tests.cloud.ledger import Ledger


@pytest.fixture
def lbs(cloud, clouds, tmp_path, monkeypatch):
    monkeypatch.setattr(faults, "status_tree", lambda *a: {})
    book = Ledger(tmp_path, "r1")
    made = loadbalancers.LoadBalancers(
        clouds, book, timeout=0.2, change_timeout=0.1, interval=0.001
    )
    yield made
    book.close()


@pytest.fixture
def lb(lbs, monkeypatch):
    made = lbs.create(subnet_id="s", flavor_id="f")
    monkeypatch.setattr(lbs, "wait", lambda lb_id, timeout=None: waited.append(timeout))
    waited = []
    made.waited = waited
    return made


def server(cloud, *states):
    left = list(states)
    cloud.compute.get_server = lambda key: SimpleNamespace(
        id=key, status=left.pop(0) if len(left) > 1 else left[0], task_state=None, fault="broken"
    )
    return SimpleNamespace(id="a1", compute_id="s1")


def test_failovers_are_waited_for_as_long_as_a_build(lbs, lb, cloud):
    asked = []
    cloud.load_balancer.failover_load_balancer = lambda key: asked.append(("lb", key))
    cloud.load_balancer.failover_amphora = lambda key: asked.append(("amphora", key))
    lbs.failover(lb)
    lbs.failover_amphora(lb, SimpleNamespace(id="a1"))
    assert asked == [("lb", lb.id), ("amphora", "a1")] and lb.waited == [0.2, 0.2]


def test_power_is_waited_for(lbs, cloud):
    asked = []
    cloud.compute.stop_server = lambda key: asked.append(("stop", key))
    cloud.compute.reboot_server = lambda key, kind: asked.append((kind, key))
    lbs.stop_amphora(server(cloud, "ACTIVE", "ACTIVE", "SHUTOFF"))
    lbs.reboot_amphora(server(cloud, "REBOOT", "ACTIVE"), "HARD")
    assert asked == [("stop", "s1"), ("HARD", "s1")]


def test_an_instance_in_error_is_not_waited_for(lbs, cloud):
    cloud.compute.start_server = lambda key: None
    with pytest.raises(errors.ResourceFault, match="was to be ACTIVE and is ERROR: broken"):
        lbs.start_amphora(server(cloud, "ERROR"))


def test_one_that_stays_off_is_said_to(lbs, cloud):
    cloud.compute.start_server = lambda key: None
    with pytest.raises(errors.StuckPending, match="to be ACTIVE, in vain. It is SHUTOFF"):
        lbs.start_amphora(server(cloud, "SHUTOFF"))


def test_changes_are_made_in_the_words_of_the_api(lbs, lb, monkeypatch):
    put = []
    monkeypatch.setattr(lbs, "_put", lambda path, **body: put.append((path, body)))
    pool, member = SimpleNamespace(id="p"), SimpleNamespace(id="m")
    lbs.update(lb, admin_state_up=False)
    lbs.update_member(lb, pool, member, weight=2)
    lbs.replace_members(lb, pool, [{"address": "192.0.2.1", "protocol_port": 80}])
    assert put == [
        (f"/lbaas/loadbalancers/{lb.id}", {"loadbalancer": {"admin_state_up": False}}),
        ("/lbaas/pools/p/members/m", {"member": {"weight": 2}}),
        ("/lbaas/pools/p/members",
         {"members": [{"address": "192.0.2.1", "protocol_port": 80}]}),
    ]  # fmt: skip
    assert lb.waited == [0.1, 0.1, 0.1]
