# SPDX-License-Identifier: Apache-2.0
import pytest
from openstack import exceptions as sdk

from sriov_lb_tests import errors
from sriov_lb_tests.cloud import accounting
from sriov_lb_tests.cloud.ledger import Ledger
from sriov_lb_tests.cloud.networks import Net


class Host:
    """Nova's PCI tracker of one host, as its attach call shows it."""

    def __init__(self, cloud, slots):
        self.cloud, self.free, self.held, self.at = cloud, list(slots), {}, {}
        cloud.compute.create_server_interface = self.attach
        cloud.compute.delete_server_interface = self.detach
        cloud.compute.server_interfaces = lambda server: [
            type("Interface", (), {"port_id": port})()
            for port in self.held
            if self.at[port] == server
        ]
        self.leak = False

    def attach(self, server, port_id):
        if not self.free:
            raise sdk.BadRequestException("Failed to claim PCI device for x")
        slot = self.held[port_id] = self.free.pop(0)
        self.at[port_id] = server
        self.cloud.network.get_port(port_id).binding_profile = {"pci_slot": slot}

    def detach(self, port_id, server, ignore_missing):
        assert self.at[port_id] == server
        slot = self.held.pop(port_id)
        if not self.leak:
            self.free.insert(0, slot)


@pytest.fixture
def setting(cloud, clouds, tmp_path, monkeypatch):
    network = cloud.network._create("network", {"name": "vip"})
    net = Net(network, {4: cloud.network._create("subnet", {"name": "v4"})})
    host = Host(cloud, ["s1", "s2", "s3"])
    book = Ledger(tmp_path, "r1")
    probe = accounting.Probe(clouds, book, ["server-1", "server-2"], "h1", net)
    genuine = accounting.until
    monkeypatch.setattr(
        accounting, "until", lambda check, **kw: genuine(check, **{**kw, "timeout": 0.01})
    )
    yield host, probe
    book.close()


def test_fill_takes_until_nova_refuses_and_release_gives_all_back(setting, cloud):
    host, probe = setting
    assert probe.fill() == 3
    assert sorted(probe.slots) == ["s1", "s2", "s3"]
    assert set(host.at.values()) == {"server-1", "server-2"}
    assert not probe.take()
    probe.release()
    assert sorted(host.free) == ["s1", "s2", "s3"]
    assert cloud.network.store["port"] == {}


def test_a_full_host_grants_only_what_was_given_back(setting):
    host, probe = setting
    probe.fill()
    for _ in range(5):
        before, after = probe.swap()
        assert before == after and len(before) == 2
    assert not probe.take()


def test_a_single_leak_shows_at_once(setting):
    host, probe = setting
    probe.fill()
    host.leak = True
    with pytest.raises(errors.ResourceFault, match="lost"):
        probe.swap()


def test_another_refusal_is_not_taken_for_a_full_host(setting, cloud):
    host, probe = setting

    def broken(server, port_id):
        raise sdk.HttpException("500: the message queue is down")

    cloud.compute.create_server_interface = broken
    with pytest.raises(sdk.HttpException, match="queue"):
        probe.take()
    assert cloud.network.store["port"] == {}


def test_exhausted_gives_back_even_if_the_block_fails(setting):
    host, probe = setting
    with pytest.raises(RuntimeError), probe.exhausted() as count:
        assert count == 3 and host.free == []
        raise RuntimeError
    assert len(host.free) == 3


def test_neutrons_book(cloud, clouds):
    for number, slot in enumerate(["s1", "s2", "s2", None]):
        cloud.network._create(
            "port",
            {
                "name": f"p{number}",
                "binding_vnic_type": "direct",
                "binding_host_id": "h1",
                "binding_profile": {"pci_slot": slot} if slot else {},
            },
        )
    cloud.network._create("port", {"name": "n", "binding_vnic_type": "normal"})
    taken = accounting.bound(clouds.admin)
    assert [item.slot for item in taken] == ["s1", "s2", "s2"]
    ((one, other),) = accounting.doubly_bound(taken)
    assert {one.name, other.name} == {"p1", "p2"}
