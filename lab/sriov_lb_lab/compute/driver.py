# SPDX-License-Identifier: Apache-2.0
"""The virt driver: system containers as Nova's instances.

Written for Nova 33 (2026.1). Everything Nova asks for is either done or honestly refused
(``NotImplementedError``, as Nova's contract for drivers has it): no volumes, no migration, no
snapshots, no rescue. See :mod:`sriov_lb_lab.compute` for what is below.
"""

from __future__ import annotations

import base64
import json
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import nova.conf
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from nova import exception
from nova.api.metadata import base as instance_metadata
from nova.compute import power_state
from nova.image import glance
from nova.objects import fields
from nova.virt import configdrive, driver, event, hardware
from nova.virt import node as virt_node
from oslo_concurrency import lockutils
from oslo_log import log as logging
from oslo_service import loopingcall
from oslo_utils import excutils

from sriov_lb_lab.compute import console, guestfiles, image, network_config, overlay, resources, vif
from sriov_lb_lab.compute.container import Container, State
from sriov_lb_lab.compute.errors import ImageError
from sriov_lb_lab.compute.hostfile import HostFile
from sriov_lb_lab.compute.records import Instance, Store, Vif
from sriov_lb_lab.errors import LabError

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)

POWER_STATES = {
    State.RUNNING: power_state.RUNNING,
    State.PAUSED: power_state.PAUSED,
    State.SHUTDOWN: power_state.SHUTDOWN,
}

# How long a soft reboot waits for the guest, like Nova's own libvirt driver, before it is a hard
# one.
SOFT_REBOOT_GRACE = 120.0

# How often guests that ended by themselves are looked for.
WATCH_INTERVAL = 2.0


class ContainerDriver(driver.ComputeDriver):
    """Instances as systemd-nspawn containers on one simulated host."""

    capabilities = {
        **driver.ComputeDriver.capabilities,
        "supports_attach_interface": True,
        "supports_evacuate": True,
        "supports_image_type_raw": True,
    }

    def __init__(self, virtapi: Any) -> None:
        super().__init__(virtapi)
        self._host = HostFile.read()
        self._substrate = self._host.load_substrate()
        self._store = Store(self._host)
        self._states: dict[str, State] = {}
        self._watcher: loopingcall.FixedIntervalLoopingCall | None = None

    # -- the host --------------------------------------------------------------------------------

    def init_host(self, host: str) -> None:
        """Find what is there. Containers went on running while we were away."""
        self._host.instances.mkdir(parents=True, exist_ok=True)
        for instance in self._store:
            container = self._container(instance.uuid)
            state = container.state()
            if state is State.SHUTDOWN:
                # It ended while nobody looked, or with the machine: nothing of it may be left over.
                try:
                    container.tidy()
                except LabError as failure:
                    # The host must come up; the next start of the instance tidies up first, too.
                    LOG.error("Instance %s cannot be tidied up: %s", instance.uuid, failure)
            LOG.info("Found instance %s (%s): %s", instance.uuid, instance.name, state.value)
        self._watcher = loopingcall.FixedIntervalLoopingCall(self._watch)
        self._watcher.start(
            interval=WATCH_INTERVAL, initial_delay=WATCH_INTERVAL, stop_on_exception=False
        )

    def cleanup_host(self, host: str) -> None:
        """Stop looking; instances stay as they are."""
        if self._watcher is not None:
            self._watcher.stop()

    def get_available_nodes(self, refresh: bool = False) -> list[str]:
        """One node per host."""
        return [self._host.host]

    def get_nodenames_by_uuid(self, refresh: bool = False) -> dict[str, str]:
        """The node with the identity Nova keeps in its state path."""
        return {virt_node.get_local_node_uuid(): self._host.host}

    def get_host_ip_addr(self) -> str:
        """Address on the control network."""
        return CONF.my_ip

    def get_host_uptime(self) -> str:
        """In the form of uptime(1)'s output, as far as /proc has it."""
        with open("/proc/uptime") as file:
            days, rest = divmod(float(file.read().split()[0]), 86400)
        load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
        clock = f"{int(rest // 3600)}:{int(rest % 3600 // 60):02}"
        return f"up {int(days)} days, {clock}, load average: {load}"

    def get_available_resource(self, nodename: str) -> dict[str, Any]:
        """The host's size, its VFs, and what instances take of it."""
        size = resources.measure(self._host.instances)
        machine = platform.machine()
        return {
            "uuid": virt_node.get_local_node_uuid(),
            "hypervisor_hostname": self._host.host,
            "hypervisor_type": "systemd-nspawn",
            "hypervisor_version": 1000000,
            "vcpus": size.vcpus,
            "vcpus_used": 0,
            "memory_mb": size.memory_mb,
            "memory_mb_used": 0,
            "local_gb": size.disk_gb,
            "local_gb_used": size.disk_gb - size.disk_free_gb,
            "disk_available_least": size.disk_free_gb,
            "cpu_info": json.dumps(
                {
                    "arch": machine,
                    "model": "shared",
                    "vendor": "lab",
                    "topology": {"sockets": 1, "cores": size.vcpus, "threads": 1},
                    "features": [],
                }
            ),
            "supported_instances": [
                (machine, fields.HVType.LXC, fields.VMMode.EXE),
                # What images say when they say nothing else.
                (machine, fields.HVType.QEMU, fields.VMMode.HVM),
            ],
            "numa_topology": None,
            "pci_passthrough_devices": json.dumps(self._substrate.pci_passthrough_devices()),
        }

    def update_provider_tree(
        self, provider_tree: Any, nodename: str, allocations: Any = None
    ) -> None:
        """Report VCPU, memory and disk to Placement. VFs are Nova's own business (PciTracker)."""
        size = resources.measure(self._host.instances)
        ratios = self._get_allocation_ratios(provider_tree.data(nodename).inventory)
        totals = {
            "VCPU": (size.vcpus, CONF.reserved_host_cpus),
            "MEMORY_MB": (size.memory_mb, CONF.reserved_host_memory_mb),
            "DISK_GB": (size.disk_gb, self._get_reserved_host_disk_gb_from_config()),
        }
        provider_tree.update_inventory(
            nodename,
            {
                name: {
                    "total": total,
                    "min_unit": 1,
                    "max_unit": total,
                    "step_size": 1,
                    "allocation_ratio": ratios[name],
                    "reserved": reserved,
                }
                for name, (total, reserved) in totals.items()
            },
        )

    # -- what instances there are ----------------------------------------------------------------

    def list_instances(self) -> list[str]:
        """Nova's internal names."""
        return [instance.name for instance in self._store]

    def list_instance_uuids(self) -> list[str]:
        """Their uuids."""
        return [instance.uuid for instance in self._store]

    def instance_exists(self, instance: Any) -> bool:
        """Whether it is defined here, running or not."""
        return self._store.exists(instance.uuid)

    def get_info(self, instance: Any, use_cache: bool = True) -> hardware.InstanceInfo:
        """Its power state, read from its processes."""
        if not self._store.exists(instance.uuid):
            raise exception.InstanceNotFound(instance_id=instance.uuid)
        return hardware.InstanceInfo(state=POWER_STATES[self._container(instance.uuid).state()])

    def get_console_output(self, context: Any, instance: Any) -> bytes:
        """The end of its console log."""
        return console.tail(self._store.folder(instance.uuid))

    # -- being made and unmade -------------------------------------------------------------------

    def spawn(
        self,
        context: Any,
        instance: Any,
        image_meta: Any,
        injected_files: Sequence[tuple[str, bytes]],
        admin_password: str,
        allocations: Any,
        network_info: Any = None,
        block_device_info: Any = None,
        power_on: bool = True,
        accel_info: Any = None,
    ) -> None:
        """Make an instance and boot it; whatever fails leaves nothing of it."""
        if not instance.image_ref:
            raise exception.ImageUnacceptable(
                image_id="none", reason="this host boots from images only, not from volumes"
            )
        network_info = network_info or []
        with self._locked(instance) as container, _translated(instance):
            try:
                login = self._define(context, instance, network_info)
                drive = self._config_drive(instance, injected_files, admin_password, network_info)
                self._write_disk(instance, container, login, injected_files, drive, network_info)
                if power_on:
                    self._first_start(instance, container, network_info)
                else:
                    container.tidy()
            except BaseException:
                with excutils.save_and_reraise_exception():
                    container.destroy()
            self._states[instance.uuid] = container.state()

    def destroy(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        block_device_info: Any = None,
        destroy_disks: bool = True,
        destroy_secrets: bool = True,
    ) -> None:
        """Switch it off and remove it; no error if it is not there."""
        self._remove(instance, destroy_disks)

    def cleanup(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        block_device_info: Any = None,
        destroy_disks: bool = True,
        migrate_data: Any = None,
        destroy_vifs: bool = True,
        destroy_secrets: bool = True,
    ) -> None:
        """Remove what is left of it; the same as :meth:`destroy`."""
        self._remove(instance, destroy_disks)

    def _remove(self, instance: Any, disk: bool) -> None:
        with self._locked(instance) as container, _translated(instance):
            # Before it ends: its end is no news to Nova.
            self._states.pop(instance.uuid, None)
            if disk:
                container.destroy()
            else:
                container.stop(0)

    def _define(self, context: Any, instance: Any, network_info: Any) -> str:
        """Write the instance's record; returns the login that gets the key pair."""
        vifs: list[Vif] = []
        for one in network_info:
            vifs.append(vif.from_nova(one, [other.name for other in vifs]))
        data = glance.API().download(context, instance.image_ref)
        try:
            descriptor = image.parse(data, instance.image_ref)
            overlay.tree(self._host.trees, descriptor.tree)
        except ImageError as failure:
            # Not worth a try on another host.
            raise exception.ImageUnacceptable(
                image_id=instance.image_ref, reason=str(failure)
            ) from failure
        self._store.save(
            Instance(
                uuid=instance.uuid,
                name=instance.name,
                hostname=instance.hostname or f"host-{instance.uuid}",
                tree=descriptor.tree,
                vifs=tuple(vifs),
            )
        )
        return descriptor.user

    def _config_drive(
        self, instance: Any, injected_files: Any, admin_password: str, network_info: Any
    ) -> dict[str, bytes]:
        """What a config drive holds, by path; empty if the instance shall have none."""
        if not configdrive.required_by(instance):
            return {}
        metadata = instance_metadata.InstanceMetadata(
            instance,
            content=injected_files,
            extra_md={"admin_pass": admin_password} if admin_password else None,
            network_info=network_info,
        )
        return {
            path: value.encode() if isinstance(value, str) else value
            for path, value in metadata.metadata_for_config_drive()
        }

    def _write_disk(
        self,
        instance: Any,
        container: Container,
        login: str,
        injected_files: Any,
        drive: dict[str, bytes],
        network_info: Any,
    ) -> None:
        record = self._store.load(instance.uuid)
        private, public = _host_key()
        root = overlay.mount(container.folder, overlay.tree(self._host.trees, record.tree))
        guestfiles.write(
            root,
            guestfiles.Identity(
                uuid=instance.uuid,
                hostname=record.hostname,
                user=login,
                key=instance.key_data or "",
                host_key=private,
                host_key_public=public,
            ),
            guestfiles.Contents(
                injected=[
                    (path, data.encode() if isinstance(data, str) else data)
                    for path, data in injected_files or []
                ],
                config_drive=drive,
                network_units=network_config.units(network_info),
                user_data=base64.b64decode(instance.user_data or ""),
                memory_mb=instance.flavor.memory_mb,
            ),
        )

    def _first_start(self, instance: Any, container: Container, network_info: Any) -> None:
        """Plug, wait until Neutron's agents have wired the ports, then boot."""
        events = []
        if CONF.vif_plugging_timeout:
            events = [
                ("network-vif-plugged", one["id"])
                for one in network_info
                if one.get("active", True) is False
            ]
        try:
            with self.virtapi.wait_for_instance_event(
                instance,
                events,
                timeout=CONF.vif_plugging_timeout,
                error_callback=_plugging_failed,
            ):
                container.prepare()
        except exception.InstanceEventTimeout:
            if CONF.vif_plugging_is_fatal:
                raise exception.VirtualInterfaceCreateException() from None
            LOG.warning("Ports of instance were not wired in time", instance=instance)
        container.launch()

    # -- power -----------------------------------------------------------------------------------

    def power_on(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        block_device_info: Any = None,
        accel_info: Any = None,
        share_info: Any = None,
    ) -> None:
        """Boot it, unless it runs."""
        with self._locked(instance) as container, _translated(instance):
            container.start()

    def power_off(self, instance: Any, timeout: int = 0, retry_interval: int = 0) -> None:
        """Ask the guest to shut down, and switch it off after ``timeout`` seconds."""
        with self._locked(instance) as container, _translated(instance):
            if not container.stop(timeout):
                LOG.info("Instance was switched off", instance=instance)

    def reboot(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        reboot_type: str,
        block_device_info: Any = None,
        bad_volumes_callback: Any = None,
        accel_info: Any = None,
        share_info: Any = None,
    ) -> None:
        """Soft: the guest shuts down by itself, if it does so in time. Hard: it is switched off."""
        grace = SOFT_REBOOT_GRACE if reboot_type == "SOFT" else 0
        with self._locked(instance) as container, _translated(instance):
            if not container.stop(grace) and grace:
                LOG.warning("Instance did not shut down by itself", instance=instance)
            container.start()

    def resume_state_on_host_boot(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        share_info: Any = None,
        block_device_info: Any = None,
    ) -> None:
        """Boot it after the host came up, unless it runs."""
        self.power_on(context, instance, network_info, block_device_info)

    def pause(self, instance: Any) -> None:
        """Freeze it, where the kernel can."""
        with self._locked(instance) as container, _translated(instance):
            container.pause()

    def unpause(self, instance: Any) -> None:
        """Thaw it."""
        with self._locked(instance) as container, _translated(instance):
            container.unpause()

    # -- interfaces ------------------------------------------------------------------------------

    def attach_interface(self, context: Any, instance: Any, image_meta: Any, vif: Any) -> None:
        """Add an interface; it appears, unconfigured, in the guest's own network namespace."""
        with self._locked(instance) as container:
            try:
                record = self._store.load(instance.uuid)
                container.attach(_understand(vif, record))
            except LabError as failure:
                LOG.error("Attaching port %s failed: %s", vif["id"], failure, instance=instance)
                raise exception.InterfaceAttachFailed(instance_uuid=instance.uuid) from failure

    def detach_interface(self, context: Any, instance: Any, vif: Any) -> None:
        """Take an interface away, wherever in the guest it is."""
        if not self._store.exists(instance.uuid):
            raise exception.InstanceNotFound(instance_id=instance.uuid)
        with self._locked(instance) as container:
            try:
                if not container.detach(vif["id"]):
                    LOG.warning("Port %s is not attached (any more)", vif["id"], instance=instance)
            except LabError as failure:
                LOG.error("Detaching port %s failed: %s", vif["id"], failure, instance=instance)
                raise exception.InterfaceDetachFailed(instance_uuid=instance.uuid) from failure

    def plug_vifs(self, instance: Any, network_info: Any) -> None:
        """See that a running instance's interfaces are plugged; a start plugs the others'."""
        with self._locked(instance) as container, _translated(instance):
            if self._store.exists(instance.uuid) and container.state() is not State.SHUTDOWN:
                container.replug()

    def unplug_vifs(self, instance: Any, network_info: Any) -> None:
        """Unplug all interfaces."""
        with self._locked(instance) as container, _translated(instance):
            if self._store.exists(instance.uuid):
                container.unplug()

    # -- helpers ---------------------------------------------------------------------------------

    def _container(self, uuid: str) -> Container:
        return Container(self._host, uuid, self._substrate)

    @contextmanager
    def _locked(self, instance: Any) -> Iterator[Container]:
        """The instance's container, for one operation at a time."""
        with lockutils.lock(f"container-{instance.uuid}"):
            yield self._container(instance.uuid)

    def _watch(self) -> None:
        """Tell Nova of instances that started or ended without it, as libvirt's events would."""
        for record in self._store:
            before = self._states.get(record.uuid)
            now = self._container(record.uuid).state()
            self._states[record.uuid] = now
            if before in (None, now):
                continue
            transition = {
                State.RUNNING: event.EVENT_LIFECYCLE_STARTED,
                State.PAUSED: event.EVENT_LIFECYCLE_PAUSED,
                State.SHUTDOWN: event.EVENT_LIFECYCLE_STOPPED,
            }[now]
            if (before, now) == (State.PAUSED, State.RUNNING):
                transition = event.EVENT_LIFECYCLE_RESUMED
            self.emit_event(event.LifecycleEvent(record.uuid, transition))


def _understand(network_vif: Any, record: Instance) -> Vif:
    return vif.from_nova(network_vif, [other.name for other in record.vifs])


def _host_key() -> tuple[str, str]:
    """A new ssh host key: private and public half in OpenSSH's form."""
    key = ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return private.decode(), public.decode()


def _plugging_failed(event_name: str, instance: Any) -> None:
    LOG.error("Neutron could not wire a port (%s)", event_name, instance=instance)
    if CONF.vif_plugging_is_fatal:
        raise exception.VirtualInterfaceCreateException()


@contextmanager
def _translated(instance: Any) -> Iterator[None]:
    """The lab's errors as Nova's, with all they say: it becomes the server's fault message."""
    try:
        yield
    except LabError as failure:
        raise exception.NovaException(f"{failure}") from failure
