# SPDX-License-Identifier: Apache-2.0
"""What can go wrong below Nova, as one tree.

::

    LabError
    └── SubstrateError          a VF or a command that handles one
        ├── CommandFailed       a program (ip, ovs-vsctl, ...) failed; carries argv, status, stderr
        ├── NoSuchVf            the PCI address is none of this host's VFs or PFs
        └── VfInUse             the VF is attached to something else
"""

from __future__ import annotations

from collections.abc import Sequence

from sriov_lb_lab.errors import LabError


class SubstrateError(LabError):
    """A VF could not be handled as asked."""


class CommandFailed(SubstrateError):
    """A program ended with a status other than 0, or not in time.

    :param argv: what was run.
    :param status: exit status; None when it was stopped after its time limit.
    :param stderr: what it printed there.
    """

    def __init__(self, argv: Sequence[str], status: int | None, stderr: str) -> None:
        self.argv = list(argv)
        self.status = status
        self.stderr = stderr.strip()
        outcome = "did not end in time" if status is None else f"ended with status {status}"
        super().__init__(f"{' '.join(self.argv)}: {outcome}: {self.stderr or 'no message'}")


class NoSuchVf(SubstrateError):
    """The PCI address belongs to no device of this host."""


class VfInUse(SubstrateError):
    """The VF is attached already."""
