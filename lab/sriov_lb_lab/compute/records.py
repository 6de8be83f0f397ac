# SPDX-License-Identifier: Apache-2.0
"""What is known of each instance, on disk: one folder per instance, one JSON file in it.

nova-compute and the instance's runner both read it, so it is replaced as a whole, never rewritten
in place. What an instance *does* is not written here: that is read from its processes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from sriov_lb_lab.compute.errors import NoSuchInstance
from sriov_lb_lab.compute.hostfile import HostFile
from sriov_lb_lab.substrate.scope import GuestScope

OVS = "ovs"
VF = "vf"


@dataclass(frozen=True)
class Vif:
    """One network interface of an instance.

    :param id: Neutron's port id.
    :param kind: OVS (a veth into the integration bridge) or VF (from the substrate).
    :param mac: lower-case.
    :param mtu: bytes.
    :param name: its name in the guest when it appears there (``ens3``, ...).
    :param device: OVS: name of the host's end of the veth. VF: the VF's PCI address.
    """

    id: str
    kind: str
    mac: str
    mtu: int
    name: str
    device: str


@dataclass(frozen=True)
class Instance:
    """One instance.

    :param uuid: Nova's.
    :param name: Nova's internal name (``instance-0000002a``).
    :param hostname: the guest's.
    :param tree: name of its tree in the cache.
    :param vifs: all that are attached, whether it runs or not.
    """

    uuid: str
    name: str
    hostname: str
    tree: str
    vifs: tuple[Vif, ...] = field(default_factory=tuple)

    def vif(self, port_id: str) -> Vif | None:
        """The interface with that port id."""
        return next((vif for vif in self.vifs if vif.id == port_id), None)

    def with_vif(self, vif: Vif) -> Instance:
        """The same with one more interface (or another in the place of one with its id)."""
        others = tuple(other for other in self.vifs if other.id != vif.id)
        return replace(self, vifs=(*others, vif))

    def without_vif(self, port_id: str) -> Instance:
        """The same without that interface."""
        return replace(self, vifs=tuple(vif for vif in self.vifs if vif.id != port_id))


class Store:
    """The instances of one host.

    :param host: the host file; ``instances`` is the folder.
    """

    def __init__(self, host: HostFile) -> None:
        self._host = host

    def folder(self, uuid: str) -> Path:
        """An instance's folder."""
        return self._host.instances / uuid

    def scope(self, uuid: str) -> GuestScope:
        """Its network namespace and cgroup folder, by name; they exist while it runs."""
        # Eight digits are what a person recognises in `ip netns`. The host is in the name because
        # an evacuated instance is on two hosts until the dead one is back and removes its own.
        host = self._host.host
        cgroup = f"{self._host.cgroup}/{host}/{uuid}"
        return GuestScope(f"/run/netns/inst-{uuid[:8]}-{host}", cgroup)

    def exists(self, uuid: str) -> bool:
        """Whether the instance is known here."""
        return self._file(uuid).exists()

    def load(self, uuid: str) -> Instance:
        """Read one.

        :raises NoSuchInstance: there is none.
        """
        try:
            values = json.loads(self._file(uuid).read_text())
        except FileNotFoundError:
            raise NoSuchInstance(f"no instance {uuid} on host {self._host.host}") from None
        vifs = tuple(Vif(**vif) for vif in values.pop("vifs"))
        return Instance(**values, vifs=vifs)

    def save(self, instance: Instance) -> None:
        """Write one, as a whole."""
        target = self._file(instance.uuid)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".new")
        partial.write_text(json.dumps(asdict(instance), indent=1))
        partial.replace(target)

    def remove(self, uuid: str) -> None:
        """Remove its folder with all in it, the record first; no error if there is none."""
        self._file(uuid).unlink(missing_ok=True)
        if self.folder(uuid).exists():
            shutil.rmtree(self.folder(uuid))

    def __iter__(self) -> Iterator[Instance]:
        if self._host.instances.is_dir():
            for folder in sorted(self._host.instances.iterdir()):
                if (folder / "instance.json").exists():
                    yield self.load(folder.name)

    def _file(self, uuid: str) -> Path:
        return self.folder(uuid) / "instance.json"
