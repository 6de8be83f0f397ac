# SPDX-License-Identifier: Apache-2.0
"""Host file, records, interfaces, and the parts of a container's life that need no container."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
import time

import pytest

from sriov_lb_lab.compute import container as container_module
from sriov_lb_lab.compute import vif as vif_module
from sriov_lb_lab.compute.container import Container, State
from sriov_lb_lab.compute.errors import ComputeError, HostFileError, NoSuchInstance
from sriov_lb_lab.compute.hostfile import HostFile
from sriov_lb_lab.compute.records import OVS, VF, Instance, Store, Vif
from sriov_lb_lab.substrate.errors import CommandFailed, VfInUse

UUID = "0a1b2c3d-1111-4111-8111-111111111111"
NORMAL = Vif("aaaaaaaa-0000-4000-8000-000000000000", OVS, "fa:16:3e:00:00:01", 1450, "ens3", "tapa")
DIRECT = Vif(
    "bbbbbbbb-0000-4000-8000-000000000000", VF, "fa:16:3e:00:00:02", 1500, "ens4", "0000:81:02.0"
)


def instance(*vifs: Vif) -> Instance:
    return Instance(UUID, "instance-00000001", "amp-1", "guest-1", vifs)


# -- host file -----------------------------------------------------------------------------------


def test_host_file(host, host_values):
    assert host.host == "compute-1" and host.integration_bridge == "br-int"
    assert [vf.index for vf in host.pfs[0].vfs] == [0, 1]
    assert host.load_substrate().name == "macvlan"
    assert str(host.run) == host_values["run"]


def test_host_file_run_folder_has_a_default(tmp_path, host_values):
    del host_values["run"]
    path = tmp_path / "other.json"
    path.write_text(json.dumps(host_values))
    assert str(HostFile.read(path).run) == "/run/lab/compute-1"


def test_host_file_errors_name_the_file(tmp_path, host_values, monkeypatch):
    monkeypatch.delenv("SRIOV_LB_LAB_HOST_FILE", raising=False)
    with pytest.raises(HostFileError, match="SRIOV_LB_LAB_HOST_FILE is not set"):
        HostFile.read()
    path = tmp_path / "bad.json"
    with pytest.raises(HostFileError, match=r"bad.json cannot be read: No such file"):
        HostFile.read(path)
    path.write_text("{")
    with pytest.raises(HostFileError, match=r"bad.json is not of the right form"):
        HostFile.read(path)
    del host_values["ovs"]
    path.write_text(json.dumps(host_values))
    with pytest.raises(HostFileError, match=r"KeyError\('ovs'\)"):
        HostFile.read(path)


# -- records -------------------------------------------------------------------------------------


def test_records_come_back_as_written(host):
    store = Store(host)
    assert list(store) == [] and not store.exists(UUID)
    store.save(instance(NORMAL, DIRECT))
    assert store.load(UUID) == instance(NORMAL, DIRECT)
    assert list(Store(host)) == [instance(NORMAL, DIRECT)]
    assert store.scope(UUID).netns == "/run/netns/inst-0a1b2c3d-compute-1"
    assert store.scope(UUID).cgroup == f"sriov-lb-lab-test/compute-1/{UUID}"
    (store.folder(UUID) / "upper").mkdir()
    store.remove(UUID)
    store.remove(UUID)
    assert not store.folder(UUID).exists()
    with pytest.raises(NoSuchInstance, match=f"no instance {UUID} on host compute-1"):
        store.load(UUID)


def test_an_evacuated_instance_is_two_things(host, host_values, tmp_path):
    """The dead host, back again, removes its own without touching the other host's."""
    path = tmp_path / "compute-2.json"
    path.write_text(json.dumps({**host_values, "host": "compute-2"}))
    here, there = Store(host).scope(UUID), Store(HostFile.read(path)).scope(UUID)
    assert here.netns != there.netns and here.cgroup != there.cgroup


def test_vifs_of_a_record():
    record = instance(NORMAL).with_vif(DIRECT)
    assert record.vifs == (NORMAL, DIRECT)
    assert record.with_vif(DIRECT).vifs == (NORMAL, DIRECT)
    assert record.vif(DIRECT.id) == DIRECT and record.vif("none") is None
    assert record.without_vif(NORMAL.id).vifs == (DIRECT,)


# -- interfaces ----------------------------------------------------------------------------------


def test_names_fill_gaps():
    assert vif_module.free_name([]) == "ens3"
    assert vif_module.free_name(["ens3", "ens5"]) == "ens4"


def test_a_normal_port():
    found = vif_module.from_nova(
        {
            "id": NORMAL.id,
            "address": "FA:16:3E:00:00:01",
            "type": "ovs",
            "devname": "tapa",
            "network": {"meta": {"mtu": 1450}},
        },
        [],
    )
    assert found == NORMAL


def test_a_direct_port():
    found = vif_module.from_nova(
        {
            "id": DIRECT.id,
            "address": DIRECT.mac,
            "type": "hw_veb",
            "devname": "ignored",
            "profile": {"pci_slot": "0000:81:02.0", "physical_network": "public"},
            "network": {"meta": {}},
        },
        ["ens3"],
    )
    assert found == DIRECT


def test_an_unbound_port_is_refused():
    with pytest.raises(ComputeError, match="'binding_failed'"):
        vif_module.from_nova(
            {"id": "x", "address": "a", "type": "binding_failed", "network": {"meta": {}}}, []
        )


@pytest.fixture
def plugger(host, substrate, monkeypatch):
    monkeypatch.setattr(vif_module.links, "delete", lambda name: True)
    return vif_module.Plugger(host, substrate)


def test_plugging_a_normal_port(host, plugger, programs):
    seen = programs(vif_module)
    plugger.plug(NORMAL, UUID, Store(host).scope(UUID))
    words = [" ".join(command) for command in seen]
    assert "del-port br-int tapa" in words[0]
    assert words[1] == (
        "ip link add tapa mtu 1450 type veth peer name ens3 address fa:16:3e:00:00:01 mtu 1450 "
        "netns /run/netns/inst-0a1b2c3d-compute-1"
    )
    assert words[2] == "@/run/netns/inst-0a1b2c3d-compute-1 ethtool -K ens3 tx off"
    assert "--db=unix:/nowhere/db.sock" in words[4] and "add-port br-int tapa" in words[4]
    for pair in (
        f'iface-id="{NORMAL.id}"',
        'attached-mac="fa:16:3e:00:00:01"',
        'iface-status="active"',
        f'vm-uuid="{UUID}"',
    ):
        assert f"external_ids:{pair}" in seen[4]


@pytest.mark.parametrize("word", ["veth", "ethtool", "addrgenmode", "add-port"])
def test_a_port_that_cannot_be_plugged_is_unplugged(host, plugger, programs, word):
    failure = CommandFailed(["x"], 1, "no")
    seen = programs(vif_module, fail={word: failure})
    with pytest.raises(CommandFailed):
        plugger.plug(NORMAL, UUID, Store(host).scope(UUID))
    assert "del-port" in seen[-1] and len(seen) > 2


def test_a_vf_of_another_instance_is_left_alone(host, plugger, substrate):
    scope = Store(host).scope(UUID)
    plugger.plug(DIRECT, "other", scope)
    plugger.unplug(DIRECT, UUID)
    assert substrate.mac(DIRECT.device) == DIRECT.mac
    assert not plugger.is_plugged(DIRECT, UUID) and plugger.is_plugged(DIRECT, "other")
    plugger.unplug(DIRECT, "other")
    assert substrate.attachments() == []


# -- a container's life --------------------------------------------------------------------------


@pytest.fixture
def container(host, substrate, monkeypatch):
    """An instance with a leader (a number) or without (None), as ``leader`` says."""
    monkeypatch.setattr(vif_module.links, "delete", lambda name: True)
    monkeypatch.setattr(vif_module, "run", lambda *argv, **kwargs: "")
    monkeypatch.setattr(container_module.guest, "leader", lambda cgroup: container.now)
    container = Container(host, UUID, substrate)
    container.now = None
    container.store.save(instance())
    return container


def test_state_follows_processes(container, monkeypatch):
    assert container.state() is State.SHUTDOWN
    container.now = 4711
    assert container.state() is State.RUNNING
    monkeypatch.setattr(container_module.cgroups, "is_frozen", lambda cgroup: True)
    assert container.state() is State.PAUSED


def test_a_runner_is_who_holds_the_lock(container):
    assert container.runner() is None
    container.lock_path.parent.mkdir(parents=True)
    container.lock_path.write_text("12345")
    assert container.runner() is None, "a pid in a file proves nothing"
    holder = (
        "import fcntl,sys\nf=open(sys.argv[1],'a+')\nfcntl.flock(f,fcntl.LOCK_EX)\n"
        "print('held',flush=True)\ninput()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(container.lock_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        assert container.runner() == 12345
        assert container.state() is State.RUNNING
    assert container.runner() is None
    assert container.state() is State.SHUTDOWN


def test_looking_does_not_keep_the_lock(container):
    container.lock_path.parent.mkdir(parents=True)
    container.lock_path.write_text("")
    container.runner()
    with container.lock_path.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_attach_to_a_stopped_instance_is_for_the_next_start(container, substrate):
    container.attach(DIRECT)
    assert substrate.attachments() == []
    assert container.store.load(UUID).vifs == (DIRECT,)
    assert container.detach(DIRECT.id)
    assert container.store.load(UUID).vifs == ()
    assert not container.detach(DIRECT.id)


def test_attach_to_a_running_instance_is_all_or_nothing(container, substrate, monkeypatch):
    container.now = 4711
    substrate.failing = CommandFailed(["ip"], 2, "no")
    with pytest.raises(CommandFailed):
        container.attach(DIRECT)
    assert container.store.load(UUID).vifs == () and substrate.attachments() == []
    substrate.failing = None

    def full(record):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr(container.store, "save", full)
        with pytest.raises(OSError, match="No space"):
            container.attach(DIRECT)
    assert substrate.attachments() == []
    container.attach(DIRECT)
    assert substrate.mac(DIRECT.device) == DIRECT.mac
    with pytest.raises(VfInUse):
        container.attach(DIRECT)
    assert substrate.mac(DIRECT.device) == DIRECT.mac, "the working one was taken away"
    assert container.detach(DIRECT.id) and substrate.attachments() == []


def test_an_instance_that_dies_at_once_is_reported_with_its_console(container, monkeypatch):
    monkeypatch.setattr(
        container_module.subprocess,
        "run",
        lambda *argv, **kwargs: (container.folder / "console.log").write_text("Failed to mount x"),
    )
    started = time.monotonic()
    with pytest.raises(ComputeError, match="did not start.*Failed to mount x"):
        container.launch()
    assert time.monotonic() - started < 5


def test_replug_touches_only_what_is_missing(container, substrate):
    container.now = 4711
    container.attach(DIRECT)
    before = dict(substrate.plugged)
    container.replug()
    assert substrate.plugged == before
    container.unplug()
    assert substrate.plugged == {} and container.store.load(UUID).vifs == (DIRECT,)
    container.replug()
    assert substrate.mac(DIRECT.device) == DIRECT.mac
