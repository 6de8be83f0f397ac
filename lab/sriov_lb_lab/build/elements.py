# SPDX-License-Identifier: Apache-2.0
"""Understands diskimage-builder elements, as far as Octavia's use of them goes.  Pure planning.

Octavia describes its amphora image by elements: folders with files to copy, units to install and
scripts to run in phases.  They are taken from Octavia's source distribution when an amphora is
built, so the image is what that release of Octavia says it is.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Iterable

import yaml

from sriov_lb_lab.errors import BuildError

#: In the order of Octavia's ``diskimage-create.sh`` for the haproxy amphora.  Of what that lists,
#: ``octavia-lib`` (a git checkout of a package that is pinned here) and the elements that make a
#: bootable disk are not used.
USED = (
    "haproxy-octavia", "rebind-sshd", "no-resolvconf", "amphora-agent", "sos",
    "remove-default-ints", "keepalived-octavia", "ipvsadmin", "certs-ramfs",
)
#: The phases that run inside the image.
PHASES = ("install.d", "post-install.d", "finalise.d")
#: An element that can be installed from packages or from source keeps the latter here.
_SOURCE_INSTALL = "{element}-source-install"


@dataclasses.dataclass(frozen=True)
class Script:
    """One script of an element, to be run inside the image."""

    phase: str
    element: str
    path: pathlib.PurePosixPath


@dataclasses.dataclass(frozen=True)
class ElementPlan:
    """What is done to an image; all paths are relative to the folder of elements.

    :ivar static: folders to copy over the root.
    :ivar units: systemd units to install.
    :ivar scripts: what to run, in order.
    :ivar packages: packages that the elements want.
    """

    static: tuple[pathlib.PurePosixPath, ...]
    units: tuple[pathlib.PurePosixPath, ...]
    scripts: tuple[Script, ...]
    packages: frozenset[str]


def plan(top: pathlib.Path, used: Iterable[str] = USED) -> ElementPlan:
    """Read the elements of a release.

    :param top: the folder ``elements`` of Octavia's source distribution.
    :raises BuildError: if one of them is missing.
    """
    used = tuple(used)
    absent = [name for name in used if not (top / name).is_dir()]
    if absent:
        raise BuildError(f"image elements of this release of Octavia: expected {', '.join(used)}; "
                         f"missing {', '.join(absent)}", "choose another release with --octavia")
    static, units, packages = [], [], set()
    for name in used:
        if (top / name / "static").is_dir():
            static.append(pathlib.PurePosixPath(name, "static"))
        units += [pathlib.PurePosixPath(path.relative_to(top))
                  for path in sorted((top / name / "init-scripts" / "systemd").glob("*.service"))]
        packages |= wanted_packages(top / name)
    scripts = []
    for phase in PHASES:
        found = []
        for name in used:
            folders = [top / name / phase,
                       top / name / phase / _SOURCE_INSTALL.format(element=name)]
            found += [Script(phase, name, pathlib.PurePosixPath(path.relative_to(top)))
                      for folder in folders if folder.is_dir()
                      for path in folder.iterdir() if path.is_file() and path.name[:2].isdigit()]
        # The phases of diskimage-builder run the scripts of all elements by file name.
        scripts += sorted(found, key=lambda script: (script.path.name, script.element))
    return ElementPlan(tuple(static), tuple(units), tuple(scripts), frozenset(packages))


def wanted_packages(element: pathlib.Path) -> set[str]:
    """Packages that an element installs on Debian, those needed only while building left out."""
    wanted: dict[str, dict[str, object]] = {}
    for name in ("package-installs.yaml", "package-installs.json"):
        path = element / name
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            wanted.update((json.loads(text) if path.suffix == ".json" else yaml.safe_load(text))
                          or {})
    return {
        package for package, how in wanted.items()
        if not (how or {}).get("uninstall") and not (how or {}).get("build-only")
    }


def left_out(text: str) -> dict[str, str]:
    """Read ``left-out.txt``: package -> why an amphora of the lab does without it."""
    found = {}
    for line in text.splitlines():
        line = line.split("#", 1)[0].strip()
        if line:
            name, _, reason = line.partition(" ")
            found[name] = reason.strip()
    return found
