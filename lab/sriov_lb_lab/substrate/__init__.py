# SPDX-License-Identifier: Apache-2.0
"""What plays the VF.

:mod:`~sriov_lb_lab.substrate.base` is the seam; each other module with a substrate's name
    implements it. Today there is ``macvlan``. ``hardware`` (the machine's own VFs) and ``igb``
    (QEMU's emulated card) belong here too and need nothing changed outside this package but a
    line in :func:`load`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sriov_lb_lab.substrate.base import PhysicalFunction, Substrate
from sriov_lb_lab.substrate.errors import SubstrateError
from sriov_lb_lab.substrate.macvlan import Macvlan

SUBSTRATES: dict[str, type[Substrate]] = {Macvlan.name: Macvlan}


def load(name: str, pfs: Sequence[PhysicalFunction], records: Path) -> Substrate:
    """Make the substrate called ``name``.

    :param name: "macvlan".
    :param pfs: the host's PFs, empty on a host without SR-IOV.
    :param records: folder for what is attached where; it must not outlive a reboot of the machine.
    :raises SubstrateError: there is no such substrate.
    """
    try:
        return SUBSTRATES[name](pfs, records)
    except KeyError:
        raise SubstrateError(
            f"substrate is {name!r}; there are {', '.join(sorted(SUBSTRATES))}",
            "correct 'substrate' in the host file",
        ) from None
