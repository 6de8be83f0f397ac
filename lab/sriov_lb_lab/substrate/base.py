# SPDX-License-Identifier: Apache-2.0
"""The seam between Nova, Neutron and whatever plays the VF.

A substrate knows the host's PFs and VFs by PCI address, as Nova and Neutron name them, and can
put a VF into a guest's network namespace and take it back. It also says what it *cannot* do: a
report made on a substrate is worth what :class:`Capabilities` says and no more.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from sriov_lb_lab.substrate import links
from sriov_lb_lab.substrate.errors import NoSuchVf, VfInUse
from sriov_lb_lab.substrate.scope import GuestScope


@dataclass(frozen=True)
class VirtualFunction:
    """One VF.

    :param address: PCI address, e.g. ``0000:81:02.0``.
    :param index: its number at the PF (``ip link set PF vf INDEX``).
    """

    address: str
    index: int


@dataclass(frozen=True)
class PhysicalFunction:
    """One PF, on one physical network.

    :param physnet: Neutron's name of the physical network.
    :param device: name of the PF's network device in the host's namespace.
    :param address: PCI address, e.g. ``0000:81:00.0``.
    :param vendor_id: four hexadecimal digits; so are both product ids.
    """

    physnet: str
    device: str
    address: str
    vendor_id: str
    pf_product_id: str
    vf_product_id: str
    vfs: tuple[VirtualFunction, ...]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PhysicalFunction:
        """From an entry of ``pfs`` in the host file."""
        vfs = tuple(VirtualFunction(vf["address"], int(vf["index"])) for vf in values["vfs"])
        return cls(**{**values, "vfs": vfs})


@dataclass(frozen=True)
class Capabilities:
    """What a substrate really does, where "accepted" is not enough.

    :param anti_spoof: frames with a foreign source MAC are dropped below the guest.
    :param vlan: a VF can be put into a VLAN by the host.
    :param trust: promiscuous mode and MAC changes depend on the VF's trust setting.
    :param link_state: the host can take the VF's carrier away.
    :param rate: transmit rate limits are enforced.
    :param pci: there is a PCI device in the guest.
    """

    anti_spoof: bool
    vlan: bool
    trust: bool
    link_state: bool
    rate: bool
    pci: bool

    def as_dict(self) -> dict[str, bool]:
        """By name, for whoever shows it."""
        return asdict(self)


@dataclass(frozen=True)
class Attachment:
    """A VF in a guest.

    :param address: the VF's PCI address.
    :param mac: the address Neutron gave the port: the VF's administrative MAC, which the host knows
        whatever the guest sets later. Lower-case.
    :param owner: what it is attached to (an instance's uuid).
    :param netns: see :class:`GuestScope`; so is ``cgroup``.
    """

    address: str
    mac: str
    owner: str
    netns: str
    cgroup: str

    @property
    def scope(self) -> GuestScope:
        """Where to look for it."""
        return GuestScope(self.netns, self.cgroup)


class Substrate(ABC):
    """What plays the VF on one host.

    The records of what is attached are files, because nova-compute, the process that watches over a
    guest, and the SR-IOV NIC agent all need them.

    :param pfs: the host's PFs.
    :param records: folder of the records, made when first needed.
    """

    name: ClassVar[str]
    capabilities: ClassVar[Capabilities]

    def __init__(self, pfs: Sequence[PhysicalFunction], records: Path) -> None:
        self.pfs = tuple(pfs)
        self._records = records
        self._parents = {vf.address: (pf, vf) for pf in self.pfs for vf in pf.vfs}

    # -- looking up ------------------------------------------------------------------------------

    def parent(self, address: str) -> tuple[PhysicalFunction, VirtualFunction]:
        """A VF by its PCI address, with its PF.

        :raises NoSuchVf: this host has none there.
        """
        try:
            return self._parents[address]
        except KeyError:
            raise NoSuchVf(
                f"PCI address {address!r} is no VF of this host; there are "
                f"{', '.join(sorted(self._parents)) or 'none'}",
                "compare [pci] device_spec in nova.conf with 'pfs' in the host file",
            ) from None

    def vf_number(self, address: str) -> int:
        """The VF's number at its PF."""
        return self.parent(address)[1].index

    def mac(self, address: str) -> str | None:
        """Administrative MAC of the VF while it is attached; None otherwise."""
        attachment = self.attachment(address)
        return attachment.mac if attachment else None

    def attachment(self, address: str) -> Attachment | None:
        """The VF's attachment on record, whether or not its device still exists."""
        self.parent(address)
        try:
            return Attachment(**json.loads(self._record(address).read_text()))
        except FileNotFoundError:
            return None

    def attachments(self) -> list[Attachment]:
        """All attachments on record."""
        return [found for address in self._parents if (found := self.attachment(address))]

    @abstractmethod
    def is_present(self, attachment: Attachment) -> bool:
        """Whether the attached device exists, wherever the guest moved it."""

    # -- changing --------------------------------------------------------------------------------

    def attach(
        self, address: str, mac: str, name: str, mtu: int, owner: str, scope: GuestScope
    ) -> Attachment:
        """Put a VF into a guest's namespace. Either it is there afterwards, or nothing is.

        :param mac: the port's address.
        :param name: what the device is called in the guest.
        :param mtu: bytes.
        :raises VfInUse: it is attached, to this or another guest.
        :raises CommandFailed: a step failed; what was done before has been undone.
        """
        present = self.attachment(address)
        if present is not None:
            raise VfInUse(
                f"VF {address} is attached to instance {present.owner} with MAC {present.mac}",
                "detach it there; Nova must not hand out a VF twice",
            )
        attachment = Attachment(address, mac.lower(), owner, scope.netns, scope.cgroup)
        self._write(attachment)
        try:
            self._plug(attachment, name, mtu)
        except BaseException:
            self._record(address).unlink(missing_ok=True)
            raise
        return attachment

    def detach(self, address: str) -> bool:
        """Take a VF back, from wherever in the guest it is; False if it was not attached.

        A device that went away with a namespace of a dead guest is no error.
        """
        attachment = self.attachment(address)
        if attachment is None:
            return False
        self._unplug(attachment)
        self._record(address).unlink(missing_ok=True)
        return True

    @abstractmethod
    def set_link_state(self, address: str, up: bool) -> None:
        """Give or take the attached VF's carrier.

        :raises SubstrateError: not attached, or the substrate has no ``link_state``.
        """

    @abstractmethod
    def _plug(self, attachment: Attachment, name: str, mtu: int) -> None:
        """Make the device appear; on failure leave nothing behind."""

    @abstractmethod
    def _unplug(self, attachment: Attachment) -> None:
        """Make the device disappear; nothing to do if it is gone."""

    # -- records ---------------------------------------------------------------------------------

    def _record(self, address: str) -> Path:
        return self._records / f"{address}.json"

    def _write(self, attachment: Attachment) -> None:
        self._records.mkdir(parents=True, exist_ok=True)
        target = self._record(attachment.address)
        partial = target.with_suffix(".new")
        partial.write_text(json.dumps(asdict(attachment)))
        partial.replace(target)

    # -- what Nova asks for ----------------------------------------------------------------------

    def pci_passthrough_devices(self) -> list[dict[str, Any]]:
        """The PFs and VFs in the form of Nova's ``pci_passthrough_devices``."""
        devices: list[dict[str, Any]] = []
        for pf in self.pfs:
            devices.append(
                {
                    **_pci(pf.address, pf.vendor_id, pf.pf_product_id),
                    "dev_type": "type-PF",
                    "mac_address": links.mac(pf.device),
                }
            )
            for vf in pf.vfs:
                devices.append(
                    {
                        **_pci(vf.address, pf.vendor_id, pf.vf_product_id),
                        "dev_type": "type-VF",
                        "parent_addr": pf.address,
                        "parent_ifname": pf.device,
                    }
                )
        return devices


def _pci(address: str, vendor_id: str, product_id: str) -> dict[str, Any]:
    return {
        "dev_id": "pci_" + address.replace(":", "_").replace(".", "_"),
        "address": address,
        "vendor_id": vendor_id,
        "product_id": product_id,
        "label": f"label_{vendor_id}_{product_id}",
        "numa_node": None,
    }
