# SPDX-License-Identifier: Apache-2.0
"""Others' load balancers come and go while one looks for orphans."""

import pytest

from sriov_lb_tests.cloud import orphans, resources

ID = "0169ec32-205f-4a35-a3c1-c7f0eef737e6"
OTHER = "85f2e121-ace3-4368-970e-6e0623f29d09"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(orphans, "APART", 0.01)


def whenever_owners_are_asked_for(monkeypatch, then):
    genuine = resources.LoadBalancer.list

    def listed(api, **query):
        found = genuine(api, **query)
        then()
        return found

    monkeypatch.setattr(resources.LoadBalancer, "list", staticmethod(listed))


def test_what_is_made_while_one_looks_is_no_orphan(cloud, clouds, monkeypatch):
    whenever_owners_are_asked_for(
        monkeypatch, lambda: cloud.network._create("port", {"name": f"octavia-lb-{ID}"})
    )
    assert orphans.find(clouds.admin) == set()


def test_only_what_stays_is_an_orphan(cloud, clouds, monkeypatch):
    cloud.network._create("port", {"name": f"octavia-lb-{ID}"})
    before = orphans.find(clouds.admin)
    stays = cloud.network._create("port", {"name": f"octavia-lb-vrrp-{OTHER}"})
    goes = cloud.network._create("port", {"name": f"octavia-lb-{OTHER}"})
    whenever_owners_are_asked_for(
        monkeypatch, lambda: cloud.network.store["port"].pop(goes.id, None)
    )
    assert {item.id for item in orphans.since(clouds.admin, before)} == {stays.id}


def test_one_look_is_enough_when_it_finds_nothing(cloud, clouds, monkeypatch):
    looks = []
    whenever_owners_are_asked_for(monkeypatch, lambda: looks.append(1))
    assert orphans.since(clouds.admin, set()) == set()
    assert looks == [1]
