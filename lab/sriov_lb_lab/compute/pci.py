# SPDX-License-Identifier: Apache-2.0
"""Answers to what Nova asks sysfs about PCI devices, from the host file.

Signatures and errors are those of :mod:`nova.pci.utils`. Nothing here ever looks at the machine's
real PCI bus: an address of the lab may exist there too, and would then be somebody else's.
"""

from __future__ import annotations

from types import ModuleType

from nova import exception

from sriov_lb_lab.substrate import links
from sriov_lb_lab.substrate.base import PhysicalFunction, Substrate
from sriov_lb_lab.substrate.errors import NoSuchVf


class PciAnswers:
    """The functions, bound to one host.

    :param substrate: of that host.
    """

    def __init__(self, substrate: Substrate) -> None:
        self._substrate = substrate
        self._pfs = {pf.address: pf for pf in substrate.pfs}

    def install(self, module: ModuleType) -> None:
        """Put them in the place of ``nova.pci.utils``'s.

        :raises AttributeError: Nova no longer has one of them; this file must follow.
        """
        for name in (
            "get_function_by_ifname",
            "is_physical_function",
            "get_ifname_by_pci_address",
            "get_mac_by_pci_address",
            "get_vf_num_by_pci_address",
            "get_vf_product_id_by_pf_addr",
            "get_pci_ids_by_pci_addr",
        ):
            getattr(module, name)
            setattr(module, name, getattr(self, name))

    def get_function_by_ifname(self, ifname: str) -> tuple[str | None, bool]:
        """PCI address of a network device, and whether it is a PF."""
        for pf in self._substrate.pfs:
            if pf.device == ifname:
                return pf.address, True
        return None, False

    def is_physical_function(self, domain: str, bus: str, slot: str, function: str) -> bool:
        """Whether a PF is there."""
        return f"{domain}:{bus}:{slot}.{function}" in self._pfs

    def get_ifname_by_pci_address(self, pci_addr: str, pf_interface: bool = False) -> str:
        """Name of the PF's device; a VF has none on the host, as one bound to vfio has none."""
        if pf_interface:
            return self._parent(pci_addr).device
        return self._pf(pci_addr).device

    def get_mac_by_pci_address(self, pci_addr: str, pf_interface: bool = False) -> str:
        """MAC of the PF (also of a VF's PF), or administrative MAC of an attached VF."""
        if pf_interface:
            return links.mac(self._parent(pci_addr).device)
        if pci_addr in self._pfs:
            return links.mac(self._pfs[pci_addr].device)
        self._parent(pci_addr)
        mac = self._substrate.mac(pci_addr)
        if mac is None:
            raise exception.PciDeviceNotFoundById(id=pci_addr)
        return mac

    def get_vf_num_by_pci_address(self, pci_addr: str) -> int:
        """A VF's number at its PF."""
        self._parent(pci_addr)
        return self._substrate.vf_number(pci_addr)

    def get_vf_product_id_by_pf_addr(self, pci_addr: str) -> str:
        """Product id of a PF's VFs."""
        return self._pf(pci_addr).vf_product_id

    def get_pci_ids_by_pci_addr(self, pci_addr: str) -> tuple[str, ...]:
        """Vendor and product id of a PF or VF."""
        if pci_addr in self._pfs:
            pf = self._pfs[pci_addr]
            return pf.vendor_id, pf.pf_product_id
        pf = self._parent(pci_addr)
        return pf.vendor_id, pf.vf_product_id

    def _pf(self, address: str) -> PhysicalFunction:
        try:
            return self._pfs[address]
        except KeyError:
            raise exception.PciDeviceNotFoundById(id=address) from None

    def _parent(self, address: str) -> PhysicalFunction:
        try:
            return self._substrate.parent(address)[0]
        except NoSuchVf as failure:
            raise exception.PciDeviceNotFoundById(id=address) from failure
