# SPDX-License-Identifier: Apache-2.0
"""The story of a full host, when it does not go as it should."""

import itertools
from types import SimpleNamespace

import pytest
from openstack import exceptions as sdk

from sriov_lb_tests import errors
from sriov_lb_tests.tests import exhaustion
from sriov_lb_tests.verdicts.model import Broken, Inconclusive

STUCK = errors.StuckPending("Waited 300 s for load balancer x to be ACTIVE, in vain.")
FAULT = errors.ResourceFault("It was to be ACTIVE and is ERROR.", fault="Failed to claim PCI")


class Probe:
    """Stands in for the hands that take VFs: one VF is given back, the spare's."""

    def __init__(self):
        self.slots, self.taken, self.released = ["s1", "s2"], {"p1": None, "p2": None}, False
        self.troubles = {}

    def _do(self, what):
        if what in self.troubles:
            raise self.troubles[what]

    def fill(self):
        self._do("fill")

    def take_when_free(self):
        self._do("take_when_free")
        return "held"

    def take(self):
        return False

    def swap(self):
        return ["s1"] * 5, ["s1"] * 5

    def give_back(self, port_ids):
        self.given_back = port_ids

    def release(self):
        self.released = True


class Scene:
    """Stands in for the scene, its site and its load balancers.

    :param ends: what :meth:`wait` raises, by load balancer.
    """

    def __init__(self):
        self.site = self.lbs = self
        self.hosts = ["h1"]
        self.vip_net = SimpleNamespace(
            subnets={4: None}, subnet=lambda version: SimpleNamespace(id="subnet")
        )
        self.guest_image = self.guest_flavor = None
        self.spare = SimpleNamespace(id="spare")
        self.numbers = itertools.count(1)
        self.made, self.deleted, self.ends, self.remaining = [], [], {}, {}
        self.watches, self.seen_amphorae = {}, {"a1": {"compute_id": "i1"}}
        self.instances = set()
        port = SimpleNamespace(binding_host_id="h1", binding_profile={"pci_slot": "held"})
        self.admin = SimpleNamespace(
            network=SimpleNamespace(get_port=lambda port_id: port, ports=lambda name: []),
            compute=SimpleNamespace(get_server=self.server),
        )
        clouds = SimpleNamespace(by=lambda who: self.admin)
        self.stage = SimpleNamespace(clouds=clouds, ledger=None)

    def server(self, server_id):
        if server_id not in self.instances:
            raise sdk.NotFoundException("gone")
        return SimpleNamespace(name=f"amphora-{server_id}", status="ACTIVE")

    def flavor_for_hosts(self, hosts, what):
        return what

    def create(self, *, subnet_id, flavor_id, what):
        lb = SimpleNamespace(id=f"{what}")
        self.made.append(lb.id)
        self.watches[lb.id] = SimpleNamespace(amphorae=self.seen_amphorae)
        return lb

    def wait(self, lb_id):
        if lb_id in self.ends:
            raise self.ends[lb_id]

    def wait_error(self, lb_id):
        error = self.ends.get(lb_id, FAULT)
        if error is FAULT:
            return FAULT.fault
        raise error

    def show(self, lb_id):
        stuck = self.ends.get(lb_id) is STUCK
        return SimpleNamespace(provisioning_status="PENDING_CREATE" if stuck else "ERROR")

    def amphorae(self, lb_id):
        return [SimpleNamespace(vrrp_port_id="port")]

    def delete(self, lb_id):
        self.deleted.append(lb_id)
        if lb_id in self.remaining:
            raise errors.LeftBehind(f"{lb_id} stays.", resources=[self.remaining[lb_id]])


@pytest.fixture
def probe(monkeypatch):
    found = Probe()
    monkeypatch.setattr(exhaustion.accounting, "place_probe", lambda *a, **named: found)
    options = SimpleNamespace(sriov_lb=SimpleNamespace(server_build_timeout=1))
    monkeypatch.setattr(exhaustion, "CONF", options)
    genuine = exhaustion.until
    monkeypatch.setattr(
        exhaustion, "until", lambda check, **named: genuine(check, **{**named, "timeout": 0})
    )
    monkeypatch.setattr(exhaustion.orphans, "find", lambda admin: set())
    monkeypatch.setattr(exhaustion.orphans, "since", lambda admin, before: set())
    return found


def test_the_story_as_it_should_go(probe):
    scene = Scene()
    story = exhaustion.tell(scene)
    assert (story.refused_state, story.refused_reason) == ("ERROR", "Failed to claim PCI")
    assert (story.returned, story.beyond, story.lost) == ("held", None, "")
    assert (story.refused_left, story.refused_unclear) == ([], "")
    assert scene.deleted == ["no-vf", "spare"] and probe.released


def test_a_refused_one_that_is_stuck_says_nothing_of_the_vf_that_comes_back(probe):
    scene = Scene()
    scene.ends["no-vf"] = STUCK
    story = exhaustion.tell(scene)
    assert (story.refused_state, story.refused_reason) == ("PENDING_CREATE", STUCK.message)
    assert (story.returned, story.lost) == ("held", "")
    assert scene.deleted == ["no-vf", "spare"]


def test_what_breaks_before_the_deletion_is_no_lost_vf(probe):
    probe.troubles["fill"] = STUCK
    with pytest.raises(errors.StuckPending):
        exhaustion.tell(Scene())
    assert probe.released


def test_a_vf_that_cannot_be_had_again_is_lost(probe):
    probe.troubles["take_when_free"] = STUCK
    story = exhaustion.tell(Scene())
    assert (story.returned, story.lost) == (None, STUCK.message)


def test_what_does_not_go_by_itself_is_told_and_the_load_balancer_deleted(probe):
    scene = Scene()
    scene.instances.add("i1")
    scene.remaining["no-vf"] = "Neutron port x"
    story = exhaustion.tell(scene)
    assert story.refused_left == ["Nova instance amphora-i1 (ACTIVE)", "Neutron port x"]
    assert scene.deleted == ["no-vf", "spare"]


def test_whether_it_went_by_itself_is_not_clear_when_it_was_never_seen(probe):
    scene = Scene()
    scene.seen_amphorae = {}
    lb = scene.create(subnet_id="", flavor_id="", what="x")
    with pytest.raises(Inconclusive, match="No amphora was seen of load balancer x"):
        exhaustion.left_behind(scene, lb, set())
    assert scene.deleted == ["x"]
    story = exhaustion.tell(scene)
    assert "No amphora was seen" in story.refused_unclear and story.returned == "held"


def test_what_is_left_of_one_that_was_never_seen_is_told(probe, monkeypatch):
    scene = Scene()
    scene.seen_amphorae = {}
    monkeypatch.setattr(exhaustion.orphans, "since", lambda admin, before: {"port x"})
    assert exhaustion.tell(scene).refused_left == ["port x"]


def test_ten_load_balancers_have_the_one_vf(probe):
    scene = Scene()
    assert exhaustion.ten_load_balancers(scene) == ["held"] * 10
    assert scene.deleted == scene.made and probe.released


def test_one_that_is_not_built_shows_that_the_one_before_kept_its_vf(probe):
    scene = Scene()
    scene.ends["ten-3"] = FAULT
    with pytest.raises(Broken, match="held of host h1 back after load balancer 2 of 10"):
        exhaustion.ten_load_balancers(scene)
    assert scene.deleted == ["ten-1", "ten-2", "ten-3"] and probe.released


def test_the_first_one_shows_nothing_of_the_kind(probe):
    scene = Scene()
    scene.ends["ten-1"] = FAULT
    with pytest.raises(errors.ResourceFault):
        exhaustion.ten_load_balancers(scene)
    assert scene.deleted == ["ten-1"]
