# SPDX-License-Identifier: Apache-2.0
"""The host file: what a simulated host consists of, written by the lab, read here."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from sriov_lb_lab import substrate
from sriov_lb_lab.compute.errors import HostFileError
from sriov_lb_lab.substrate.base import PhysicalFunction, Substrate

VARIABLE = "SRIOV_LB_LAB_HOST_FILE"


@dataclass(frozen=True)
class HostFile:
    """One simulated host.

    :param path: where this was read from.
    :param lab: the lab's name.
    :param host: the host's name, Nova's and Neutron's ``host``.
    :param substrate: what plays the VF, see :mod:`sriov_lb_lab.substrate`.
    :param cgroup: the lab's folder below each cgroup hierarchy.
    :param instances: folder with one folder per instance, on disk.
    :param trees: folder of the immutable trees that images name.
    :param ovs_db: the host's Open vSwitch database, ``unix:...``.
    :param integration_bridge: Neutron's bridge there.
    :param pfs: the host's PFs, empty without SR-IOV.
    :param run: folder for what must not outlive the machine's boot; optional in the file.
    """

    path: Path
    lab: str
    host: str
    substrate: str
    cgroup: str
    instances: Path
    trees: Path
    ovs_db: str
    integration_bridge: str
    pfs: tuple[PhysicalFunction, ...]
    run: Path

    @classmethod
    def read(cls, path: str | os.PathLike[str] | None = None) -> HostFile:
        """Read the file at ``path``, or at the path in the environment.

        :raises HostFileError: no path, no file, or not of the right form.
        """
        chosen = path or os.environ.get(VARIABLE)
        if not chosen:
            raise HostFileError(
                f"{VARIABLE} is not set", "set it to the path of the host's JSON file"
            )
        try:
            values = json.loads(Path(chosen).read_text())
            host = values["host"]
            return cls(
                path=Path(chosen),
                lab=values["lab"],
                host=host,
                substrate=values["substrate"],
                cgroup=values["cgroup"],
                instances=Path(values["instances"]),
                trees=Path(values["trees"]),
                ovs_db=values["ovs"]["db"],
                integration_bridge=values["ovs"]["integration_bridge"],
                pfs=tuple(PhysicalFunction.from_dict(pf) for pf in values["pfs"]),
                run=Path(values.get("run", f"/run/lab/{host}")),
            )
        except OSError as failure:
            raise HostFileError(
                f"host file {chosen} cannot be read: {failure.strerror}",
                f"set {VARIABLE} to the path of the host's JSON file",
            ) from failure
        except (ValueError, KeyError, TypeError) as failure:
            raise HostFileError(
                f"host file {chosen} is not of the right form: {failure!r}"
            ) from failure

    def load_substrate(self) -> Substrate:
        """The substrate of this host; records in ``run``/vf."""
        return substrate.load(self.substrate, self.pfs, self.run / "vf")
