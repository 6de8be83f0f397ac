# SPDX-License-Identifier: Apache-2.0
"""The virt driver against Nova's own base class, objects and PCI code.

Needs Nova; the lab's own venv has it (``PYTHONPATH=lab .../bin/python -m pytest ...``).
"""

from __future__ import annotations

import base64
import contextlib
import inspect
import json
from types import SimpleNamespace

import pytest

pytest.importorskip("nova", reason="needs Nova: run with the lab's venv")

import nova.conf
from nova import exception
from nova.compute import power_state, provider_tree
from nova.pci import devspec, whitelist
from nova.pci import utils as pci_utils
from nova.virt import driver as base
from nova.virt import event

from sriov_lb_lab.compute import driver as driver_module
from sriov_lb_lab.compute import overlay
from sriov_lb_lab.compute.container import Container, State
from sriov_lb_lab.compute.driver import ContainerDriver
from sriov_lb_lab.compute.errors import ContainerError
from sriov_lb_lab.compute.pci import PciAnswers
from sriov_lb_lab.compute.records import VF, Instance, Vif
from sriov_lb_lab.substrate import links
from sriov_lb_lab.substrate.errors import CommandFailed
from sriov_lb_lab.substrate.scope import GuestScope

CONF = nova.conf.CONF
UUID = "0a1b2c3d-1111-4111-8111-111111111111"
NODE = "99999999-1111-4111-8111-111111111111"
DIRECT = Vif(
    "bbbbbbbb-0000-4000-8000-000000000000", VF, "fa:16:3e:00:00:02", 1500, "ens3", "0000:81:02.0"
)
NETWORK = {"meta": {"mtu": 1500}, "subnets": []}
NOVA_DIRECT = {
    "id": DIRECT.id,
    "address": DIRECT.mac,
    "type": "hw_veb",
    "vnic_type": "direct",
    "profile": {"pci_slot": DIRECT.device},
    "network": NETWORK,
    "active": False,
}


class VirtApi:
    """Records the events that are waited for; ``late`` makes them never come."""

    def __init__(self) -> None:
        self.waited: list[tuple[str, str]] = []
        self.late = False

    @contextlib.contextmanager
    def wait_for_instance_event(self, instance, event_names, timeout=300, error_callback=None):
        self.waited += event_names
        yield
        if self.late:
            raise exception.InstanceEventTimeout()


class FakeContainer(Container):
    """Everything but namespaces, mounts and processes; ``calls`` says what was done."""

    calls: list[str]
    states: dict[str, State]
    failing: str

    def state(self) -> State:
        return self.states.get(self.uuid, State.SHUTDOWN)

    def _do(self, name: str, state: State | None = None) -> None:
        self.calls.append(name)
        if self.failing == name:
            raise ContainerError(f"{name} failed")
        if state is not None:
            self.states[self.uuid] = state

    def prepare(self) -> None:
        self._do("prepare")

    def launch(self) -> None:
        self._do("launch", State.RUNNING)

    def stop(self, grace: float) -> bool:
        self._do(f"stop {grace:.0f}", State.SHUTDOWN)
        return grace > 0

    def tidy(self) -> None:
        self._do("tidy")

    def pause(self) -> None:
        self._do("pause", State.PAUSED)

    def unpause(self) -> None:
        self._do("unpause", State.RUNNING)


@pytest.fixture
def fake(host, substrate, monkeypatch):
    """The driver, with containers that do not run and the tree ``guest-1`` in the cache."""
    CONF([], project="nova", default_config_files=[])
    kind = type("Fake", (FakeContainer,), {"calls": [], "states": {}, "failing": ""})
    monkeypatch.setattr(driver_module, "Container", kind)
    monkeypatch.setattr(driver_module.HostFile, "load_substrate", lambda self: substrate)
    monkeypatch.setattr(driver_module.virt_node, "get_local_node_uuid", lambda: NODE)
    monkeypatch.setattr(links, "mac", lambda device: "02:00:00:00:00:01")
    tree = host.trees / "guest-1"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/os-release").write_text("ID=debian\n")
    monkeypatch.setattr(overlay, "mount", lambda folder, lower: folder / "root")
    monkeypatch.setattr(overlay, "unmount", lambda folder: None)
    written = []
    monkeypatch.setattr(driver_module.guestfiles, "write", lambda *args: written.append(args))
    image = json.dumps({"format": "sriov-lb-lab-tree", "tree": "guest-1"}).encode()
    api = SimpleNamespace(download=lambda context, image_id: iter([image]))
    monkeypatch.setattr(driver_module.glance, "API", lambda: api)
    driver = ContainerDriver(VirtApi())
    return SimpleNamespace(driver=driver, kind=kind, written=written, host=host, image=api)


def nova_instance(**changes):
    values = {
        "uuid": UUID,
        "name": "instance-00000001",
        "hostname": "amp-1",
        "image_ref": "image-1",
        "key_data": "ssh-ed25519 AAAA me",
        "user_data": base64.b64encode(b"#!/bin/sh\n").decode(),
        "config_drive": "",
        "launched_at": None,
        "image_meta": SimpleNamespace(properties={}),
        "flavor": SimpleNamespace(memory_mb=512),
    }
    return SimpleNamespace(**{**values, **changes})


def spawn(fake, instance=None, network_info=(NOVA_DIRECT,), **more):
    files = [("/etc/octavia/amphora-agent.conf", b"[DEFAULT]")]
    fake.driver.spawn(
        None, instance or nova_instance(), None, files, "", {}, list(network_info), **more
    )


def test_every_method_has_novas_signature():
    checked = 0
    for name, method in inspect.getmembers(ContainerDriver, inspect.isfunction):
        original = getattr(base.ComputeDriver, name, None)
        if original is None or method is original or name.startswith("__"):
            continue
        ours, novas = inspect.signature(method), inspect.signature(original)
        assert list(ours.parameters) == list(novas.parameters), name
        checked += 1
    assert checked > 25


def test_capabilities_are_known_to_nova():
    assert set(ContainerDriver.capabilities) == set(base.ComputeDriver.capabilities)
    assert ContainerDriver.capabilities["supports_attach_interface"]


def test_what_is_not_done_is_refused(fake):
    for call in (
        lambda: fake.driver.attach_volume(None, {}, nova_instance(), "/dev/vdb"),
        lambda: fake.driver.snapshot(None, nova_instance(), "i", None),
        lambda: fake.driver.migrate_disk_and_power_off(None, nova_instance(), "d", None, []),
        lambda: fake.driver.suspend(None, nova_instance()),
    ):
        with pytest.raises(NotImplementedError):
            call()


def test_resources(fake):
    found = fake.driver.get_available_resource("compute-1")
    assert found["uuid"] == NODE and fake.driver.get_nodenames_by_uuid() == {NODE: "compute-1"}
    assert found["vcpus"] >= 8 and found["memory_mb"] > 0 and found["local_gb"] > 0
    assert json.loads(found["cpu_info"])["topology"]["sockets"] == 1
    devices = json.loads(found["pci_passthrough_devices"])
    assert [device["dev_type"] for device in devices] == ["type-PF", "type-VF", "type-VF"]


def test_novas_whitelist_takes_the_vfs_and_not_the_pf(fake, substrate, monkeypatch):
    """With one device_spec line per VF, as the lab writes them."""
    for name in dir(PciAnswers):
        if not name.startswith("_") and hasattr(pci_utils, name):
            monkeypatch.setattr(pci_utils, name, getattr(pci_utils, name))
    PciAnswers(substrate).install(pci_utils)
    specs = [
        json.dumps(
            {
                "vendor_id": "8086",
                "product_id": "154c",
                "address": vf.address,
                "physical_network": "public",
            }
        )
        for vf in fake.host.pfs[0].vfs
    ]
    allowed = whitelist.Whitelist(specs)
    devices = json.loads(fake.driver.get_available_resource("x")["pci_passthrough_devices"])
    assert [bool(allowed.device_assignable(one)) for one in devices] == [False, True, True]
    by_parent = devspec.PciDeviceSpec({"address": "0000:81:00.0", "physical_network": "public"})
    assert by_parent.match(devices[1])


def test_placement_inventory(fake):
    tree = provider_tree.ProviderTree()
    tree.new_root("compute-1", NODE)
    fake.driver.update_provider_tree(tree, "compute-1")
    inventory = tree.data("compute-1").inventory
    assert set(inventory) == {"VCPU", "MEMORY_MB", "DISK_GB"}
    assert inventory["VCPU"]["max_unit"] == inventory["VCPU"]["total"] >= 8


def test_spawn_writes_the_disk_waits_for_ports_and_boots(fake):
    spawn(fake)
    assert fake.kind.calls == ["prepare", "launch"]
    assert fake.driver.virtapi.waited == [("network-vif-plugged", DIRECT.id)]
    ((root, identity, contents),) = fake.written
    assert root == fake.host.instances / UUID / "root"
    assert (identity.hostname, identity.user, identity.key) == (
        "amp-1",
        "debian",
        "ssh-ed25519 AAAA me",
    )
    assert identity.host_key.startswith("-----BEGIN OPENSSH PRIVATE KEY")
    assert contents.injected == [("/etc/octavia/amphora-agent.conf", b"[DEFAULT]")]
    assert contents.user_data == b"#!/bin/sh\n" and contents.config_drive == {}
    assert contents.memory_mb == 512
    assert list(contents.network_units) == ["/etc/systemd/network/10-lab-0.network"]
    assert fake.driver.list_instances() == ["instance-00000001"]
    assert fake.driver.list_instance_uuids() == [UUID]
    assert fake.driver.instance_exists(nova_instance())
    assert fake.driver.get_info(nova_instance()).state == power_state.RUNNING


def test_spawn_without_power(fake):
    spawn(fake, power_on=False)
    assert fake.kind.calls == ["tidy"]
    assert fake.driver.get_info(nova_instance()).state == power_state.SHUTDOWN


@pytest.mark.parametrize("step", ["prepare", "launch"])
def test_a_failed_spawn_leaves_nothing(fake, step):
    fake.kind.failing = step
    with pytest.raises(exception.NovaException, match=f"{step} failed"):
        spawn(fake)
    assert fake.driver.list_instances() == []
    assert not (fake.host.instances / UUID).exists()


def test_ports_that_are_never_wired_fail_the_spawn(fake):
    fake.driver.virtapi.late = True
    with pytest.raises(exception.VirtualInterfaceCreateException):
        spawn(fake)
    assert fake.driver.list_instances() == []
    CONF.set_override("vif_plugging_is_fatal", False)
    try:
        spawn(fake)
    finally:
        CONF.clear_override("vif_plugging_is_fatal")
    assert fake.driver.list_instances() == ["instance-00000001"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"QFI\xfb", "sriov-lb-lab-tree"),
        (b'{"format": "sriov-lb-lab-tree", "tree": "gone"}', "holds no operating system"),
    ],
)
def test_an_image_that_cannot_boot_here_is_unacceptable(fake, data, reason):
    fake.image.download = lambda context, image_id: iter([data])
    with pytest.raises(exception.ImageUnacceptable, match=reason):
        spawn(fake)
    assert fake.driver.list_instances() == []


def test_boot_from_volume_is_refused(fake):
    with pytest.raises(exception.ImageUnacceptable, match="not from volumes"):
        spawn(fake, nova_instance(image_ref=""))


def test_power(fake):
    spawn(fake)
    calls = fake.kind.calls
    calls.clear()
    fake.driver.power_off(nova_instance(), timeout=60)
    fake.driver.power_on(None, nova_instance(), [])
    fake.driver.reboot(None, nova_instance(), [], "SOFT")
    fake.driver.reboot(None, nova_instance(), [], "HARD")
    boot = ["prepare", "launch"]
    assert calls == ["stop 60", *boot, "stop 120", *boot, "stop 0", *boot]
    fake.driver.pause(nova_instance())
    assert fake.driver.get_info(nova_instance()).state == power_state.PAUSED
    fake.driver.unpause(nova_instance())
    assert fake.driver.get_info(nova_instance()).state == power_state.RUNNING


def test_destroy_is_idempotent(fake):
    spawn(fake)
    fake.driver.destroy(None, nova_instance(), [])
    with pytest.raises(exception.InstanceNotFound):
        fake.driver.get_info(nova_instance())
    fake.driver.destroy(None, nova_instance(), [])
    fake.driver.cleanup(None, nova_instance(), [])
    assert fake.driver.list_instances() == []


def test_destroy_can_keep_the_disk(fake):
    spawn(fake)
    fake.driver.destroy(None, nova_instance(), [], destroy_disks=False)
    assert fake.driver.get_info(nova_instance()).state == power_state.SHUTDOWN


def test_attach_and_detach(fake, substrate):
    spawn(fake, network_info=())
    fake.driver.attach_interface(None, nova_instance(), None, NOVA_DIRECT)
    assert substrate.mac(DIRECT.device) == DIRECT.mac
    with pytest.raises(exception.InterfaceAttachFailed):
        fake.driver.attach_interface(None, nova_instance(), None, NOVA_DIRECT)
    fake.driver.detach_interface(None, nova_instance(), NOVA_DIRECT)
    assert substrate.attachments() == []
    fake.driver.detach_interface(None, nova_instance(), NOVA_DIRECT)
    with pytest.raises(exception.InstanceNotFound):
        fake.driver.detach_interface(None, nova_instance(uuid="none"), NOVA_DIRECT)


def test_a_failed_detach_is_no_success(fake, substrate, monkeypatch):
    spawn(fake, network_info=())
    fake.driver.attach_interface(None, nova_instance(), None, NOVA_DIRECT)

    def refuse(attachment):
        raise CommandFailed(["ip"], 2, "busy")

    monkeypatch.setattr(substrate, "_unplug", refuse)
    with pytest.raises(exception.InterfaceDetachFailed):
        fake.driver.detach_interface(None, nova_instance(), NOVA_DIRECT)
    assert substrate.mac(DIRECT.device) == DIRECT.mac


def test_after_a_restart_instances_are_found_as_they_are(fake, monkeypatch):
    spawn(fake)
    spawn(fake, nova_instance(uuid="1" + UUID[1:], name="instance-00000002"), ())
    fake.kind.states["1" + UUID[1:]] = State.SHUTDOWN
    fake.kind.calls.clear()
    again = ContainerDriver(VirtApi())
    started = []
    monkeypatch.setattr(
        driver_module.loopingcall.FixedIntervalLoopingCall,
        "start",
        lambda self, **kwargs: started.append(kwargs),
    )
    again.init_host("compute-1")
    assert fake.kind.calls == ["tidy"], "only what is shut down is tidied up"
    assert again.get_info(nova_instance()).state == power_state.RUNNING
    assert started[0]["stop_on_exception"] is False
    fake.kind.calls.clear()
    again.plug_vifs(nova_instance(uuid="1" + UUID[1:]), [])
    assert fake.kind.calls == []


def test_an_end_without_nova_is_reported_once(fake):
    spawn(fake)
    events = []
    fake.driver.register_event_listener(events.append)
    fake.driver._watch()
    assert events == []
    fake.kind.states[UUID] = State.SHUTDOWN
    fake.driver._watch()
    fake.driver._watch()
    assert [(one.uuid, one.transition) for one in events] == [(UUID, event.EVENT_LIFECYCLE_STOPPED)]
    for state in (State.RUNNING, State.PAUSED, State.RUNNING):
        fake.kind.states[UUID] = state
        fake.driver._watch()
    assert [one.transition for one in events[1:]] == [
        event.EVENT_LIFECYCLE_STARTED,
        event.EVENT_LIFECYCLE_PAUSED,
        event.EVENT_LIFECYCLE_RESUMED,
    ]


def test_console(fake):
    spawn(fake)
    folder = fake.host.instances / UUID
    (folder / "console.log").write_bytes(b"line\n")
    assert fake.driver.get_console_output(None, nova_instance()) == b"line\n"


def test_pci_answers(substrate, monkeypatch):
    monkeypatch.setattr(links, "mac", lambda device: f"mac of {device}")
    answers = PciAnswers(substrate)
    assert answers.get_function_by_ifname("pf-public") == ("0000:81:00.0", True)
    assert answers.get_function_by_ifname("eth0") == (None, False)
    assert answers.is_physical_function("0000", "81", "00", "0")
    assert not answers.is_physical_function("0000", "81", "02", "0")
    assert answers.get_vf_num_by_pci_address("0000:81:02.1") == 1
    assert answers.get_mac_by_pci_address("0000:81:02.1", pf_interface=True) == "mac of pf-public"
    assert answers.get_mac_by_pci_address("0000:81:00.0") == "mac of pf-public"
    assert answers.get_ifname_by_pci_address("0000:81:02.1", True) == "pf-public"
    assert answers.get_pci_ids_by_pci_addr("0000:81:02.1") == ("8086", "154c")
    assert answers.get_pci_ids_by_pci_addr("0000:81:00.0") == ("8086", "1572")
    assert answers.get_vf_product_id_by_pf_addr("0000:81:00.0") == "154c"
    with pytest.raises(exception.PciDeviceNotFoundById):
        answers.get_mac_by_pci_address("0000:81:02.1")
    substrate.attach("0000:81:02.1", "fa:16:3e:00:00:09", "ens4", 1500, UUID, GuestScope("/x", "x"))
    assert answers.get_mac_by_pci_address("0000:81:02.1") == "fa:16:3e:00:00:09"
    for call in (
        answers.get_vf_num_by_pci_address,
        answers.get_mac_by_pci_address,
        answers.get_ifname_by_pci_address,
        answers.get_pci_ids_by_pci_addr,
        answers.get_vf_product_id_by_pf_addr,
    ):
        with pytest.raises(exception.PciDeviceNotFoundById):
            call("0000:00:1f.0")


def test_records_written_here_are_plain(fake):
    spawn(fake)
    assert Container(fake.host, UUID).store.load(UUID) == Instance(
        UUID, "instance-00000001", "amp-1", "guest-1", (DIRECT,)
    )
