# SPDX-License-Identifier: Apache-2.0
"""The tree of Python packages that the services run from, a venv mounted at ``/opt/stack``.

All services are installed once, into the base; a tree for one Octavia release shares the files of
the base by hard links and adds Octavia.
"""

from __future__ import annotations

import pathlib

from sriov_lb_lab.build import versions
from sriov_lb_lab.build.pipconfig import INSIDE
from sriov_lb_lab.build.steps import Bind, Chroot, Runner
from sriov_lb_lab.build.wheels import Venv, Wheelhouse
from sriov_lb_lab.build.workspace import Workspace, link_copy, remove_tree

#: To be raised when the commands below change in a way that changes the tree.
RECIPE = 1
PREFIX = "/opt/stack"

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


def compile_all(runner: Runner, chroot: Chroot, prefix: str, log: str) -> None:
    """Make the byte code of a venv, on all processors: the tree is read-only when it is used."""
    # Not the packages' own tests, which are a third of it. A few packages ship templates and files
    # for other Pythons, which do not compile; an error of one says nothing about the others.
    script = (f"{prefix}/bin/python3 -m compileall -q -j 0 -x '/tests?/' {prefix}/lib "
              ">/dev/null 2>&1 || true")
    runner.inside(chroot, ["sh", "-c", script], log=log, what="compiling Python packages")


def build_base(runner: Runner, workspace: Workspace, name: str, system: pathlib.Path,
               house: Wheelhouse) -> None:
    """Make the venv of all services except Octavia."""
    chroot = Chroot(system, binds=(Bind(workspace.start(name), PREFIX, writable=True),))
    runner.inside(chroot, ["python3", "-m", "venv", PREFIX], log=name, what="making a venv")
    house.install(Venv(chroot, PREFIX, name), versions.base_pins(),
                  "installing the services' Python packages")
    compile_all(runner, chroot, PREFIX, name)


def build(runner: Runner, workspace: Workspace, name: str, system: pathlib.Path,
          base: pathlib.Path, octavia: str, house: Wheelhouse) -> None:
    """Make the venv of one Octavia release from the base.

    :raises BuildError: if Octavia declares something that the pinned packages do not satisfy.
    """
    folder = workspace.start(name)
    link_copy(base, folder)
    scratch = workspace.start(f"{name}-scratch")
    (scratch / "check.py").write_text(CHECK, encoding="utf-8")
    chroot = Chroot(system, binds=(Bind(folder, PREFIX, writable=True),
                                   Bind(scratch, f"{INSIDE}/scratch")))
    venv = Venv(chroot, PREFIX, name)
    lock = versions.lock(octavia)
    extra = {**versions.octavia_pins(octavia), "octavia": lock["octavia"]}
    house.provide(venv, extra, f"fetching Octavia {octavia}")
    versions.require_pinned(octavia, house.metadata(octavia), lock)
    house.install(venv, extra, f"installing Octavia {octavia}")
    runner.inside(chroot, [f"{PREFIX}/bin/python3", f"{INSIDE}/scratch/check.py"], log=name,
                  what=f"checking what Octavia {octavia} needs (pin it in "
                       f"{versions.CONSTRAINTS / f'octavia-{octavia}.txt'})")
    compile_all(runner, chroot, PREFIX, name)
    remove_tree(scratch)
