# SPDX-License-Identifier: Apache-2.0
"""Neutron's own embedded-switch code on the lab's answers about VFs.

Needs Neutron; the lab's own venv has it (``PYTHONPATH=lab .../bin/python -m pytest ...``).
"""

from __future__ import annotations

import pytest

pytest.importorskip("neutron", reason="needs Neutron: run with the lab's venv")

from neutron.agent import rpc
from neutron.plugins.ml2.drivers.mech_sriov.agent import eswitch_manager, pci_lib
from neutron.plugins.ml2.drivers.mech_sriov.agent.common import exceptions
from neutron.privileged.agent.linux import ip_lib as privileged

from sriov_lb_lab.substrate import links
from sriov_lb_lab.substrate.scope import GuestScope

MAC = "fa:16:3e:00:00:01"
SLOT = "0000:81:02.1"


@pytest.fixture
def manager(substrate, monkeypatch):
    """The agent's switch manager, with everything below it the lab's."""
    from sriov_lb_lab.compute import sriov_agent

    monkeypatch.setattr(links, "exists", lambda name: name == "pf-public")
    monkeypatch.setattr(eswitch_manager, "PciOsWrapper", sriov_agent.os_wrapper(substrate))
    monkeypatch.setattr(pci_lib, "PciDeviceIPWrapper", sriov_agent.ip_wrapper(substrate))
    monkeypatch.delattr(eswitch_manager.ESwitchManager, "_instance", raising=False)
    manager = eswitch_manager.ESwitchManager()
    manager.discover_devices({"public": ["pf-public"], "members": ["pf-members"]}, {})
    return manager


def attach(substrate):
    return substrate.attach(
        SLOT, MAC.upper(), "ens4", 1500, "uuid-1", GuestScope("/run/netns/inst-1", "x")
    )


def test_all_vfs_of_a_pf_that_is_there_are_managed(manager):
    assert set(manager.pci_slot_map) == {"0000:81:02.0", SLOT}
    assert list(manager.emb_switches_map) == ["public"]
    assert manager.get_assigned_devices_info() == set()


def test_an_attached_vf_is_seen_with_its_mac(manager, substrate):
    attach(substrate)
    assert manager.get_assigned_devices_info() == {rpc.DeviceInfo(MAC, SLOT)}
    assert manager.device_exists(MAC, SLOT)
    assert not manager.device_exists("fa:16:3e:00:00:02", SLOT)
    substrate.detach(SLOT)
    assert manager.get_assigned_devices_info() == set()


def test_a_device_that_died_with_its_guest_is_not_seen(manager, substrate):
    attach(substrate)
    substrate.plugged.clear()
    assert manager.get_assigned_devices_info() == set()


def test_link_state_is_carried_out_and_the_rest_refused(manager, substrate):
    attach(substrate)
    manager.set_device_state(MAC, SLOT, False, False)
    assert substrate.up == {SLOT: False}
    manager.set_device_state(MAC, SLOT, True, True)
    assert substrate.up == {SLOT: True}
    assert manager.get_device_state(MAC, SLOT) == "enable"
    with pytest.raises(privileged.InterfaceOperationNotSupported, match="pf-public.*fake"):
        manager.set_device_spoofcheck(MAC, SLOT, True)
    with pytest.raises(privileged.InterfaceOperationNotSupported):
        manager.emb_switches_map["public"][0].set_device_rate(
            SLOT, {"max_tx_rate": 1000, "min_tx_rate": 0}
        )


def test_a_pf_the_host_file_does_not_have(manager):
    with pytest.raises(exceptions.InvalidDeviceError, match="pf-other.*it has pf-public"):
        eswitch_manager.PciOsWrapper.scan_vf_devices("pf-other")
