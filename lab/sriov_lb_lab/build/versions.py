# SPDX-License-Identifier: Apache-2.0
"""From the name of an Octavia release to the Python packages that go with it.  Pure."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping

from sriov_lb_lab.errors import BuildError

#: The newest release whose SR-IOV listeners work.
DEFAULT_OCTAVIA = "16.0.0"
RELEASE = "2026.1"
PYTHON = "3.11"
CONSTRAINTS = pathlib.Path(__file__).resolve().parent.parent / "constraints"
_VERSION = re.compile(r"^\d+\.\d+\.\d+(?:\.?(?:0?rc|b|a|post|dev)\d+)*$")
_PIN = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9.+!_-]+)$")


def require_version(octavia: str) -> str:
    """Check the spelling of a release before anything is made of it.

    :raises BuildError: if it is no version number.
    """
    if not _VERSION.match(octavia):
        raise BuildError(f"--octavia: expected a release such as {DEFAULT_OCTAVIA}, "
                         f"found {octavia!r}", "the releases are listed on the package index")
    return octavia


def canonical(name: str) -> str:
    """The name of a Python package in its normal form (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse_pins(text: str, where: str) -> dict[str, str]:
    """Read ``name==version`` lines: canonical name -> the line.

    :raises BuildError: on a line that pins nothing, or pins one package twice.
    """
    pins: dict[str, str] = {}
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.split("#", 1)[0].strip()
        if not line:
            continue
        match = _PIN.match(line)
        if match is None:
            raise BuildError(f"{where}, line {number}: expected name==version, found {line!r}",
                             "pin the package to one version")
        name = canonical(match["name"])
        if name in pins:
            raise BuildError(f"{where}, line {number}: {name} is pinned twice",
                             "keep one of the lines")
        pins[name] = line
    return pins


def base_pins(folder: pathlib.Path = CONSTRAINTS) -> dict[str, str]:
    """What every lab installs, whatever its Octavia."""
    path = folder / f"{RELEASE}.txt"
    return parse_pins(path.read_text(encoding="utf-8"), path.name)


def octavia_pins(octavia: str, folder: pathlib.Path = CONSTRAINTS) -> dict[str, str]:
    """What one release of Octavia needs beyond, or in other versions than, :func:`base_pins`.

    :returns: nothing where there is no file for that release.
    """
    path = folder / f"octavia-{octavia}.txt"
    if not path.is_file():
        return {}
    return parse_pins(path.read_text(encoding="utf-8"), path.name)


def lock(octavia: str, folder: pathlib.Path = CONSTRAINTS) -> dict[str, str]:
    """Everything pinned for a lab with that Octavia, Octavia included."""
    return {**base_pins(folder), **octavia_pins(octavia, folder),
            "octavia": f"octavia=={octavia}"}


def requirements_text(pins: Mapping[str, str]) -> str:
    """Pins as a requirements file."""
    return "".join(f"{pins[name]}\n" for name in sorted(pins))


def unpinned(metadata: str, pins: Mapping[str, str]) -> list[str]:
    """The requirements in a wheel's METADATA that no pin names; those of extras do not count."""
    found = []
    for line in metadata.splitlines():
        match = re.match(r"^Requires-Dist:\s*(?P<name>[A-Za-z0-9._-]+)(?P<rest>.*)$", line)
        if match and not re.search(r"\bextra\s*==", match["rest"]):
            if canonical(match["name"]) not in pins:
                found.append(match["name"] + match["rest"].rstrip())
    return found


def require_pinned(octavia: str, metadata: str, pins: Mapping[str, str]) -> None:
    """Complain about what a release of Octavia needs and nobody pinned.

    :raises BuildError: naming it and the file to pin it in.
    """
    absent = unpinned(metadata, pins)
    if absent:
        raise BuildError(
            f"Octavia {octavia} needs packages that are not pinned: {', '.join(absent)}",
            f"pin them, and what they need, in {CONSTRAINTS / f'octavia-{octavia}.txt'}",
        )
