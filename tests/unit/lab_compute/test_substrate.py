# SPDX-License-Identifier: Apache-2.0
"""The seam for what plays the VF: records, refusals, and the inventory Nova reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from sriov_lb_lab import substrate as package
from sriov_lb_lab.substrate import links
from sriov_lb_lab.substrate.errors import CommandFailed, NoSuchVf, SubstrateError, VfInUse
from sriov_lb_lab.substrate.execute import run
from sriov_lb_lab.substrate.macvlan import Macvlan
from sriov_lb_lab.substrate.scope import GuestScope

SCOPE = GuestScope("/run/netns/inst-1", "sriov-lb-lab-test/compute-1/uuid-1")
VF = "0000:81:02.0"
MAC = "FA:16:3E:00:00:01"


def test_attach_then_detach_leaves_no_record(substrate, host):
    assert substrate.mac(VF) is None
    attachment = substrate.attach(VF, MAC, "ens4", 1450, "uuid-1", SCOPE)
    assert substrate.mac(VF) == MAC.lower()
    assert substrate.plugged[VF] == (attachment, "ens4", 1450)
    # Another process of the same host sees it, too.
    other = type(substrate)(host.pfs, host.run / "vf")
    assert other.attachments() == [attachment]
    assert other.attachments()[0].scope == SCOPE
    assert substrate.detach(VF)
    assert substrate.plugged == {} and other.attachments() == []
    assert not substrate.detach(VF)


def test_a_vf_is_attached_once(substrate):
    substrate.attach(VF, MAC, "ens4", 1450, "uuid-1", SCOPE)
    with pytest.raises(VfInUse, match="0000:81:02.0 is attached to instance uuid-1"):
        substrate.attach(VF, "fa:16:3e:00:00:02", "ens4", 1450, "uuid-2", SCOPE)
    assert substrate.mac(VF) == MAC.lower()
    substrate.attach("0000:81:02.1", "fa:16:3e:00:00:02", "ens4", 1450, "uuid-2", SCOPE)


def test_a_failed_attach_leaves_no_record(substrate):
    substrate.failing = CommandFailed(["ip"], 2, "no")
    with pytest.raises(CommandFailed):
        substrate.attach(VF, MAC, "ens4", 1450, "uuid-1", SCOPE)
    assert substrate.attachments() == []
    substrate.failing = None
    assert substrate.attach(VF, MAC, "ens4", 1450, "uuid-1", SCOPE).owner == "uuid-1"


def test_unknown_address_names_the_known_ones(substrate):
    with pytest.raises(NoSuchVf, match="0000:81:02.0, 0000:81:02.1"):
        substrate.mac("0000:99:00.0")
    assert substrate.vf_number("0000:81:02.1") == 1


def test_inventory_has_what_nova_reads(substrate, monkeypatch):
    monkeypatch.setattr(links, "mac", lambda device: f"mac of {device}")
    pf, *vfs = substrate.pci_passthrough_devices()
    assert pf["dev_type"] == "type-PF" and pf["address"] == "0000:81:00.0"
    assert pf["product_id"] == "1572" and pf["mac_address"] == "mac of pf-public"
    assert [vf["address"] for vf in vfs] == ["0000:81:02.0", "0000:81:02.1"]
    for vf in vfs:
        assert vf["dev_type"] == "type-VF" and vf["product_id"] == "154c"
        assert vf["parent_addr"] == "0000:81:00.0" and vf["parent_ifname"] == "pf-public"
        assert vf["dev_id"] == "pci_" + vf["address"].replace(":", "_").replace(".", "_")


def test_macvlan_claims_nothing_a_nic_would_have_to_do():
    assert Macvlan.capabilities.as_dict() == {
        "anti_spoof": False,
        "vlan": False,
        "trust": False,
        "link_state": True,
        "rate": False,
        "pci": False,
    }


def test_load_refuses_what_is_not_there(tmp_path: Path):
    assert package.load("macvlan", (), tmp_path).name == "macvlan"
    with pytest.raises(SubstrateError, match="'igb'; there are macvlan"):
        package.load("igb", (), tmp_path)


def test_command_failure_says_what_ran_and_why():
    assert run("sh", "-c", "echo out; echo err >&2") == "out\n"
    with pytest.raises(CommandFailed, match="sh -c .*: ended with status 3: because") as failure:
        run("sh", "-c", "echo because >&2; exit 3")
    assert failure.value.status == 3
    with pytest.raises(CommandFailed, match="no-such-program is not installed"):
        run("no-such-program")
    with pytest.raises(CommandFailed, match="did not end in time"):
        run("sleep", "5", timeout=0.1)


def test_find_by_alias_survives_a_vanished_namespace(monkeypatch):
    def fake_links(netns):
        if netns == "/gone":
            raise CommandFailed(["nsenter"], 1, "No such file or directory")
        found = {"/a": [{"ifname": "lo"}], "/b": [{"ifname": "eth1", "ifalias": "vf x"}]}
        return found[netns]

    monkeypatch.setattr(links, "links", fake_links)
    assert links.find_by_alias("vf x", ["/a", "/gone", "/b"]) == ("/b", "eth1")
    assert links.find_by_alias("vf y", ["/a", "/gone", "/b"]) is None


def test_delete_tolerates_only_absence(monkeypatch):
    failures = {"gone": "Cannot find device gone", "held": "Operation not permitted"}

    def fake_run(*argv, netns=None):
        if argv[-1] in failures:
            raise CommandFailed(argv, 1, failures[argv[-1]])
        return ""

    monkeypatch.setattr(links, "run", fake_run)
    assert links.delete("there")
    assert not links.delete("gone")
    with pytest.raises(CommandFailed, match="not permitted"):
        links.delete("held")


def test_macvlan_is_looked_for_again_when_its_namespace_is_gone(host, monkeypatch):
    vfs = Macvlan(host.pfs, host.run / "vf")
    looks = []
    namespaces = ["/a"]
    monkeypatch.setattr(GuestScope, "namespaces", lambda self: iter(namespaces))

    def find(alias, searched):
        looks.append(alias)
        return ("/a", "eth1") if "/a" in list(searched) else None

    monkeypatch.setattr(links, "find_by_alias", find)
    monkeypatch.setattr(Macvlan, "_plug", lambda self, attachment, name, mtu: None)
    attachment = vfs.attach(VF, MAC, "ens4", 1450, "uuid-1", SCOPE)
    assert vfs.is_present(attachment) and vfs.is_present(attachment)
    assert looks == ["vf 0000:81:02.0 uuid-1"]
    namespaces[:] = ["/b"]
    assert not vfs.is_present(attachment)
    assert len(looks) == 2
