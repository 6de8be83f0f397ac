# SPDX-License-Identifier: Apache-2.0
"""The tree of Python packages that the services run from, a venv mounted at ``/opt/stack``.

All services are installed once, into the base; a tree for one Octavia release shares the files of
the base by hard links and adds Octavia.
"""

from __future__ import annotations

import pathlib

from sriov_lb_lab.build import versions
from sriov_lb_lab.build.pipconfig import INSIDE, PipSettings
from sriov_lb_lab.build.steps import Bind, Chroot, Runner
from sriov_lb_lab.build.workspace import Workspace, link_copy

#: To be raised when the commands below change in a way that changes the tree.
RECIPE = 1
PREFIX = "/opt/stack"
_TOOLS = ("setuptools", "wheel", "pbr")
_PIP = (f"{PREFIX}/bin/pip", "install", "--no-deps", "--no-compile", "--progress-bar", "off",
        "--no-build-isolation", "--use-pep517", "--cache-dir", f"{INSIDE}/pip-cache")

#: Run with the venv's Python: does everything that Octavia declares hold?
CHECK = r"""
import importlib.metadata as metadata
import sys
from packaging.requirements import Requirement
unmet, seen, todo = [], set(), ["octavia"]
while todo:
    name = todo.pop()
    if name in seen:
        continue
    seen.add(name)
    for text in metadata.requires(name) or ():
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            found = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            unmet.append(f"{name} needs {wanted}, which is not pinned")
            continue
        if not wanted.specifier.contains(found, prereleases=True):
            unmet.append(f"{name} needs {wanted}, pinned is {found}")
        todo.append(wanted.name)
print(*unmet, sep="\n")
sys.exit(1 if unmet else 0)
"""


def base_inputs() -> dict[str, object]:
    """What determines the base."""
    return {"tree": "stack-base", "recipe": RECIPE, "python": versions.PYTHON,
            "pins": versions.base_pins()}


def inputs(octavia: str) -> dict[str, object]:
    """What determines the tree of one Octavia release."""
    return {**base_inputs(), "tree": "stack", "octavia": octavia,
            "extra": versions.octavia_pins(octavia)}


def _chroot(system: pathlib.Path, venv: pathlib.Path, requirements: pathlib.Path,
            workspace: Workspace, settings: PipSettings) -> Chroot:
    return Chroot(
        root=system,
        binds=(
            Bind(venv, PREFIX, writable=True),
            Bind(workspace.pip, f"{INSIDE}/pip-cache", writable=True),
            Bind(requirements, f"{INSIDE}/requirements"),
            *(Bind(outer, str(inner)) for outer, inner in settings.binds),
        ),
        environment={**settings.environment, "PIP_DISABLE_PIP_VERSION_CHECK": "1",
                     "PIP_ROOT_USER_ACTION": "ignore"},
        network=True,
    )


def _compile(runner: Runner, chroot: Chroot, log: str) -> None:
    # Byte code is made here, side by side, because the tree is read-only when it is used.
    # A few packages ship templates and files for other Pythons that do not compile; quietly so.
    runner.inside(chroot, ["sh", "-c", f"{PREFIX}/bin/python3 -m compileall -q -j 0 "
                           f"{PREFIX}/lib >/dev/null 2>&1 || true"],
                  log=log, what="compiling Python packages")


def build_base(runner: Runner, workspace: Workspace, name: str, system: pathlib.Path,
               settings: PipSettings) -> None:
    """Make the venv of all services except Octavia."""
    venv = workspace.start(name)
    pins = versions.base_pins()
    requirements = workspace.start(f"{name}-requirements")
    (requirements / "tools.txt").write_text(
        versions.requirements_text({tool: pins[tool] for tool in _TOOLS}), encoding="utf-8")
    (requirements / "all.txt").write_text(versions.requirements_text(pins), encoding="utf-8")
    chroot = _chroot(system, venv, requirements, workspace, settings)
    what = "installing the services' Python packages"
    runner.inside(chroot, ["python3", "-m", "venv", PREFIX], log=name, what="making a venv")
    for part in ("tools", "all"):
        runner.inside(chroot, [*_PIP, "--requirement", f"{INSIDE}/requirements/{part}.txt"],
                      log=name, what=what)
    _compile(runner, chroot, name)


def build(runner: Runner, workspace: Workspace, name: str, system: pathlib.Path,
          base: pathlib.Path, octavia: str, settings: PipSettings) -> None:
    """Make the venv of one Octavia release from the base.

    :raises BuildError: if Octavia declares something that the pinned packages do not satisfy.
    """
    venv = workspace.start(name)
    link_copy(base, venv)
    pins = {**versions.octavia_pins(octavia), "octavia": f"octavia=={octavia}"}
    requirements = workspace.start(f"{name}-requirements")
    (requirements / "octavia.txt").write_text(versions.requirements_text(pins), encoding="utf-8")
    (requirements / "check.py").write_text(CHECK, encoding="utf-8")
    chroot = _chroot(system, venv, requirements, workspace, settings)
    runner.inside(chroot, [*_PIP, "--requirement", f"{INSIDE}/requirements/octavia.txt"],
                  log=name, what=f"installing Octavia {octavia}")
    runner.inside(chroot, [f"{PREFIX}/bin/python3", f"{INSIDE}/requirements/check.py"], log=name,
                  what=f"checking what Octavia {octavia} needs (pin it in "
                       f"{versions.CONSTRAINTS / f'octavia-{octavia}.txt'})")
    _compile(runner, chroot, name)
