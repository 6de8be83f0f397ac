# SPDX-License-Identifier: Apache-2.0
"""Everything that can go wrong in the lab, as one tree.

::

    LabError                    whatever the lab itself reports; exit code 1
    ├── HostError               this machine cannot run a lab (no root, unsupported distribution,
    │                           too little disk or memory, a kernel feature is missing)
    ├── BuildError              a tree could not be built (a step failed, a thing is not to be had)
    ├── StateError              the state folder or a lab in it is not what the command needs
    │   ├── NotRunning          it needs a running lab and there is none of that name
    │   └── AlreadyRunning      it needs the lab to be down
    ├── ServiceError            a service of the lab did not become, or is not, healthy
    └── BootstrapError          the cloud's first resources could not be made

Every message names what was asked for, what was found and what to do about it.
"""

from __future__ import annotations


class LabError(Exception):
    """Base of the lab's errors; ``str()`` of one is meant for the person at the terminal.

    :param message: what happened, in one or two sentences.
    :param remedy: what that person can do about it, in one sentence.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        self.message = message
        self.remedy = remedy
        super().__init__(message if not remedy else f"{message}\n  what to do: {remedy}")


class HostError(LabError):
    """This machine cannot run a lab."""


class BuildError(LabError):
    """A tree of the lab could not be built."""


class StateError(LabError):
    """The state folder, or a lab in it, is not as the command needs it."""


class NotRunning(StateError):
    """No lab of that name is running."""


class AlreadyRunning(StateError):
    """A lab of that name is running already."""


class ServiceError(LabError):
    """A service did not become healthy, or ceased to be."""


class BootstrapError(LabError):
    """The first resources of the cloud (users, endpoints, images, networks) could not be made."""
