# SPDX-License-Identifier: Apache-2.0
"""Where everything of the lab lies: on the host, and as the lab itself sees it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from sriov_lb_lab.errors import StateError

DEFAULT_STATE = "/var/lib/sriov-lb-lab"
DEFAULT_NAME = "lab"

# A lab's name becomes part of a cgroup folder and of host names.
_NAME = re.compile(r"[a-z][a-z0-9-]{0,15}")

# The lab's own view, fixed because configuration files name it.
INSIDE_STACK = Path("/opt/stack")
INSIDE_CODE = Path("/opt/lab")
INSIDE_LAB = Path("/var/lib/lab")
INSIDE_CACHE = Path("/var/cache/lab")


@dataclass(frozen=True)
class Paths:
    """The folders and files of one lab, as the host sees them.

    :param state: the state folder; ``cache/`` in it is shared by all labs.
    :param name: the lab's name, lower-case letters, digits and dashes.
    """

    state: Path
    name: str

    @classmethod
    def of(cls, state: str | os.PathLike[str] | None = None, name: str = DEFAULT_NAME) -> Paths:
        """Resolve the state folder (argument, SRIOV_LB_LAB_STATE, default) and check the name.

        :raises StateError: the name is not usable or the folder's path is too long or relative.
        """
        chosen = Path(state or os.environ.get("SRIOV_LB_LAB_STATE") or DEFAULT_STATE)
        if not _NAME.fullmatch(name):
            raise StateError(
                f"--name is {name!r}; a lab's name is 1 to 16 lower-case letters, digits and "
                "dashes, beginning with a letter",
                "choose another --name",
            )
        if not chosen.is_absolute():
            raise StateError(f"--state is {str(chosen)!r}, a relative path", "give an absolute one")
        if any(character in str(chosen) for character in ",:\\"):
            raise StateError(
                f"--state is {str(chosen)!r}; ',', ':' and '\\' separate overlay mount options",
                "choose a folder without those characters",
            )
        return cls(chosen, name)

    @property
    def cache(self) -> Path:
        """Immutable trees, shared by all labs."""
        return self.state / "cache"

    @property
    def lab(self) -> Path:
        """Everything of this lab; seen inside as /var/lib/lab."""
        return self.state / "labs" / self.name

    @property
    def overlay(self) -> Path:
        """upper/, work/ and the mount point merged/ of the lab's root."""
        return self.lab / "root"

    @property
    def logs(self) -> Path:
        """One log per service."""
        return self.lab / "log"

    @property
    def pid_file(self) -> Path:
        """Host pid of the lab's first process."""
        return self.lab / "init.pid"

    @property
    def facts(self) -> Path:
        """lab.json: what the lab is made of and the ids of its first resources."""
        return self.lab / "lab.json"

    @property
    def clouds_yaml(self) -> Path:
        """Credentials for openstacksdk and the openstack command."""
        return self.lab / "clouds.yaml"

    @property
    def tempest_conf(self) -> Path:
        """A complete configuration for Tempest."""
        return self.lab / "tempest.conf"

    @property
    def keys(self) -> Path:
        """ssh key pairs."""
        return self.lab / "keys"

    @property
    def tools(self) -> Path:
        """Shims that ``exec`` puts on PATH (openstack, ...)."""
        return self.lab / "bin"

    @property
    def supervisor_socket(self) -> Path:
        """The process supervisor's control socket."""
        return self.lab / "supervisor.sock"

    @property
    def cgroup(self) -> str:
        """Name of the lab's folder in each cgroup hierarchy."""
        return f"sriov-lb-lab-{self.name}"

    def inside(self, path: Path) -> Path:
        """Translate a host path below :attr:`lab` into the lab's own view."""
        return INSIDE_LAB / path.relative_to(self.lab)
