# SPDX-License-Identifier: Apache-2.0
"""nova-compute with the lab's driver: ``python -m sriov_lb_lab.compute.launcher``.

Nova loads ``nova.virt.<compute_driver>`` and nothing else, so the driver's module is registered
under such a name. In nova.conf::

    [DEFAULT]
    compute_driver = sriov_lb_lab.ContainerDriver

The host file is named by SRIOV_LB_LAB_HOST_FILE in the environment.
"""

from __future__ import annotations

import sys

# First of all: it replaces the standard library's blocking calls, and whatever was imported before
# would keep the unreplaced ones.
from nova.cmd import compute  # isort: skip

from nova.pci import utils as pci_utils

from sriov_lb_lab.compute import driver
from sriov_lb_lab.compute.hostfile import HostFile
from sriov_lb_lab.compute.pci import PciAnswers

DRIVER_MODULE = "nova.virt.sriov_lb_lab"


def main() -> None:
    """Put the driver in place and become nova-compute."""
    PciAnswers(HostFile.read().load_substrate()).install(pci_utils)
    sys.modules[DRIVER_MODULE] = driver
    # What Nova calls itself in its log and to oslo.config.
    sys.argv[0] = "nova-compute"
    compute.main()


if __name__ == "__main__":
    main()
