# SPDX-License-Identifier: Apache-2.0
"""neutron-sriov-nic-agent with the lab's VFs: ``python -m sriov_lb_lab.compute.sriov_agent``.

The agent itself is Neutron's, unchanged, its embedded-switch logic included. Replaced is only
what it asks the operating system: which VFs a PF has, which of them are in use, with which MAC,
and the commands that set a VF's state, which the substrate carries out or refuses. In the agent's
configuration::

    [sriov_nic]
    physical_device_mappings = public:pf-public,members:pf-members

The host file is named by SRIOV_LB_LAB_HOST_FILE in the environment.
"""

from __future__ import annotations

import sys

from neutron.cmd.plugins import sriov_nic_neutron_agent
from neutron.plugins.ml2.drivers.mech_sriov.agent import eswitch_manager, pci_lib
from neutron.plugins.ml2.drivers.mech_sriov.agent.common import exceptions
from neutron.privileged.agent.linux import ip_lib as privileged
from oslo_log import log as logging

from sriov_lb_lab.compute.hostfile import HostFile
from sriov_lb_lab.substrate import links
from sriov_lb_lab.substrate.base import PhysicalFunction, Substrate

LOG = logging.getLogger(__name__)


def os_wrapper(substrate: Substrate) -> type:
    """A ``PciOsWrapper`` that knows the substrate's devices instead of sysfs's."""
    pfs = {pf.device: pf for pf in substrate.pfs}

    class LabOsWrapper(eswitch_manager.PciOsWrapper):
        """See the base class for each method's contract."""

        @classmethod
        def scan_vf_devices(cls, dev_name: str) -> list[tuple[str, int]]:
            return [(vf.address, vf.index) for vf in _pf(dev_name).vfs]

        @classmethod
        def pf_device_exists(cls, dev_name: str) -> bool:
            return dev_name in pfs and links.exists(dev_name)

        @classmethod
        def is_assigned_vf_direct(cls, dev_name: str, vf_index: int) -> bool:
            return _is_present(substrate, _pf(dev_name), vf_index)

        @classmethod
        def get_vf_macvtap_upper_devs(cls, dev_name: str, vf_index: int) -> list[str]:
            return []

        @classmethod
        def get_numvfs(cls, dev_name: str) -> int:
            return len(_pf(dev_name).vfs)

    def _pf(dev_name: str) -> PhysicalFunction:
        try:
            return pfs[dev_name]
        except KeyError:
            raise exceptions.InvalidDeviceError(
                dev_name=dev_name,
                reason=f"the host file has no such PF; it has {', '.join(pfs) or 'none'}",
            ) from None

    return LabOsWrapper


def ip_wrapper(substrate: Substrate) -> type:
    """A ``PciDeviceIPWrapper`` that asks the substrate instead of ``ip link``."""
    pfs = {pf.device: pf for pf in substrate.pfs}

    class LabIpWrapper(pci_lib.PciDeviceIPWrapper):
        """See the base class for each method's contract."""

        def get_assigned_macs(self, vf_list: list[int]) -> dict[int, str]:
            macs = {index: substrate.mac(self._address(index)) for index in vf_list}
            return {index: mac for index, mac in macs.items() if mac}

        def get_vf_state(self, vf_index: int) -> str:
            attached = substrate.attachment(self._address(vf_index))
            state = pci_lib.LinkState.enable if attached else pci_lib.LinkState.disable
            return state.name

        def set_vf_state(self, vf_index: int, state: bool, auto: bool = False) -> None:
            if not substrate.capabilities.link_state:
                self._refuse()
            substrate.set_link_state(self._address(vf_index), state)

        def set_vf_spoofcheck(self, vf_index: int, enabled: bool) -> None:
            if not substrate.capabilities.anti_spoof:
                self._refuse()

        def set_vf_rate(self, vf_index: int, rates: dict[str, int]) -> None:
            if not substrate.capabilities.rate:
                self._refuse()

        def _address(self, vf_index: int) -> str:
            return _address(pfs[self.dev_name], vf_index)

        def _refuse(self) -> None:
            raise privileged.InterfaceOperationNotSupported(
                device=self.dev_name, namespace=f"substrate {substrate.name}"
            )

    return LabIpWrapper


def _address(pf: PhysicalFunction, vf_index: int) -> str:
    return next(vf.address for vf in pf.vfs if vf.index == vf_index)


def _is_present(substrate: Substrate, pf: PhysicalFunction, vf_index: int) -> bool:
    attachment = substrate.attachment(_address(pf, vf_index))
    return attachment is not None and substrate.is_present(attachment)


def main() -> None:
    """Put the replacements in place and become neutron-sriov-nic-agent."""
    substrate = HostFile.read().load_substrate()
    eswitch_manager.PciOsWrapper = os_wrapper(substrate)
    pci_lib.PciDeviceIPWrapper = ip_wrapper(substrate)
    # What Neutron calls itself in its log.
    sys.argv[0] = "neutron-sriov-nic-agent"
    sriov_nic_neutron_agent.main()


if __name__ == "__main__":
    main()
