# SPDX-License-Identifier: Apache-2.0
"""What can go wrong with an instance, as one tree.

::

    LabError
    └── ComputeError
        ├── HostFileError       the host file is missing or not what it should be
        ├── ImageError          the image is not a descriptor of a tree in the cache
        ├── NoSuchInstance      no instance with that uuid on this host
        └── ContainerError      the container did not start, stop, freeze or thaw
"""

from __future__ import annotations

from sriov_lb_lab.errors import LabError


class ComputeError(LabError):
    """Something about an instance."""


class HostFileError(ComputeError):
    """The host file cannot be used."""


class ImageError(ComputeError):
    """The image cannot be booted here."""


class NoSuchInstance(ComputeError):
    """There is no such instance on this host."""


class ContainerError(ComputeError):
    """A container did not do as asked."""
