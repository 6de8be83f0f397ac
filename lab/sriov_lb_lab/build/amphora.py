# SPDX-License-Identifier: Apache-2.0
"""The root tree of an amphora: the common base, and what one Octavia release makes of it.

The release's own image elements are taken from its source distribution and run in the tree.
"""

from __future__ import annotations

import pathlib
import shlex
import shutil
import tarfile
from typing import Any

from sriov_lb_lab.build import elements, roots, stack, versions, wheels
from sriov_lb_lab.build.pipconfig import INSIDE
from sriov_lb_lab.build.steps import PATH, Bind, Chroot, Runner
from sriov_lb_lab.build.wheels import Venv, Wheelhouse
from sriov_lb_lab.build.workspace import MANIFEST, Workspace, remove_tree
from sriov_lb_lab.errors import BuildError

#: To be raised when the commands below change in a way that changes the tree.
RECIPE = 1
VENV = "/opt/amphora-agent-venv"

#: Stand-ins for the few commands of diskimage-builder that the elements' scripts call.
TOOLS = {
    # Element "sysctl": one file for each value.
    "sysctl-write-value": """#!/bin/sh
set -eu
printf '%s = %s\\n' "$1" "$2" > "/etc/sysctl.d/$1.conf"
""",
    # Element "svc-map": on Debian, every service of Octavia is called what the element calls it.
    "svc-map": """#!/bin/sh
printf '%s\\n' "$@"
""",
    # The agent's script notes which commit it installs; here it is a release.
    "git": """#!/bin/sh
echo "octavia $LAB_OCTAVIA (source distribution)"
""",
    "sudo": """#!/bin/sh
exec "$@"
""",
}


def inputs(octavia: str) -> dict[str, object]:
    """What determines the tree."""
    return {"tree": "amphora", "recipe": RECIPE, "base": roots.AMPHORA_BASE.inputs(),
            "octavia": octavia, "pins": versions.lock(octavia), "elements": list(elements.USED)}


def build(runner: Runner, workspace: Workspace, name: str, base: pathlib.Path, octavia: str,
          house: Wheelhouse) -> dict[str, Any]:
    """Make the tree in the workspace.

    :returns: for the manifest: packages that the elements want and the tree neither has nor is
        known to do without (a release newer than this list may have some).
    :raises BuildError: if something could not be fetched, or a script of an element failed.
    """
    root = workspace.start(name)
    scratch = workspace.start(f"{name}-scratch")
    # A full copy (shared blocks where the file system can): the elements' scripts write into files.
    runner.isolated(["cp", "-a", "--reflink=auto", f"{base}/.", f"{root}/"], log=name,
                    what="copying the amphora's base")
    (root / MANIFEST).unlink()
    image = _Image(runner, root, scratch, octavia, house, name)
    image.prepare()
    top = image.unpack()
    todo = elements.plan(top)
    image.install(top, todo)
    image.check()
    known = set(roots.AMPHORA_BASE.packages()) | set(elements.left_out(
        (roots.ELEMENTS / "amphora" / "left-out.txt").read_text(encoding="utf-8")))
    remove_tree(scratch)
    return {"elements_packages_missing": sorted(todo.packages - known)}


class _Image:
    """One amphora's root while Octavia's elements are at work in it.

    Nothing in it reaches a network; ``scratch/in`` is what the commands inside may read.
    """

    def __init__(self, runner: Runner, root: pathlib.Path, scratch: pathlib.Path, octavia: str,
                 house: Wheelhouse, log: str) -> None:
        self._runner = runner
        self._root = root
        self._scratch = scratch
        self._octavia = octavia
        self._house = house
        self._lock = versions.lock(octavia)
        environment = {
            "PATH": f"{INSIDE}/in/bin:{PATH}",
            "DISTRO_NAME": "debian", "DIB_RELEASE": "bookworm", "DIB_INIT_SYSTEM": "systemd",
            "DIB_INSTALLTYPE_amphora_agent": "source", "DIB_OCTAVIA_AMP_USE_NFTABLES": "True",
            "LAB_OCTAVIA": octavia, "PBR_VERSION": octavia,
            "PIP_CONSTRAINT": f"{INSIDE}/in/constraints.txt",
        }
        chroot = Chroot(root, writable=True, binds=(Bind(scratch / "in", f"{INSIDE}/in"),),
                        environment=environment)
        self._venv = Venv(chroot, VENV, log)

    def prepare(self) -> None:
        """Lay out what the commands inside need, and make the agent's venv."""
        tools = self._scratch / "in" / "bin"
        tools.mkdir(parents=True)
        for tool, text in TOOLS.items():
            (tools / tool).write_text(text, encoding="utf-8")
            (tools / tool).chmod(0o755)
        (self._scratch / "in" / "check.py").write_text(stack.CHECK, encoding="utf-8")
        pins = versions.requirements_text(self._lock)
        # One is for every pip that runs here, the other is where the agent's script looks.
        (self._scratch / "in" / "constraints.txt").write_text(pins, encoding="utf-8")
        (self._root / "opt" / "upper-constraints.txt").write_text(pins, encoding="utf-8")
        self._inside(["python3", "-m", "venv", VENV], "making the agent's venv")
        self._house.provide(self._venv, self._lock, "fetching the Python packages of the agent")
        versions.require_pinned(self._octavia, self._house.metadata(self._octavia), self._lock)
        self._house.install(self._venv, {tool: self._lock[tool] for tool in wheels.TOOLS},
                            "installing Python's build tools")

    def unpack(self) -> pathlib.Path:
        """Bring Octavia's source distribution into the image; return a copy of its elements."""
        path = self._house.source(self._venv, self._octavia)
        unpacked = self._scratch / "unpacked"
        unpacked.mkdir()
        with tarfile.open(path) as archive:
            if hasattr(tarfile, "data_filter"):
                archive.extractall(unpacked, filter="data")
            else:
                archive.extractall(unpacked)
        (source,) = unpacked.iterdir()
        top = self._scratch / "in" / "elements"
        shutil.copytree(source / "elements", top, symlinks=True)
        # The agent's script installs from here, and a later one of its element removes it.
        shutil.move(source, self._root / "opt" / "amphora-agent")
        return top

    def install(self, top: pathlib.Path, todo: elements.ElementPlan) -> None:
        """Do what the elements say."""
        for static in todo.static:
            self._inside(["sh", "-c", copy_script(f"{INSIDE}/in/elements/{static}")],
                         f"copying {static} of Octavia's elements")
        for unit in todo.units:
            self._inside(["install", "-m", "644", f"{INSIDE}/in/elements/{unit}",
                          f"/usr/lib/systemd/system/{unit.name}"], f"installing {unit.name}")
        for script in todo.scripts:
            path = f"{INSIDE}/in/elements/{script.path}"
            interpreter = (top / script.path).read_text(encoding="utf-8").split("\n", 1)[0]
            if not interpreter.startswith("#!"):
                raise BuildError(f"{script.path} of Octavia's elements is no script",
                                 "choose another release with --octavia")
            self._inside([*shlex.split(interpreter[2:]), path],
                         f"running {script.path} of Octavia's elements")
        (self._root / "opt" / "upper-constraints.txt").unlink()

    def check(self) -> None:
        """Compile the agent's Python packages and see that all it needs is there."""
        stack.compile_all(self._runner, self._venv.chroot, VENV, self._venv.log)
        self._inside([f"{VENV}/bin/python3", f"{INSIDE}/in/check.py"],
                     f"checking what the agent of Octavia {self._octavia} needs")
        self._inside([f"{VENV}/bin/python3", "-c", "import octavia.cmd.agent"],
                     f"importing the agent of Octavia {self._octavia}")

    def _inside(self, argv: list[str], what: str) -> None:
        self._runner.inside(self._house.offline(self._venv), argv, log=self._venv.log, what=what)


def copy_script(folder: str) -> str:
    """Shell text that copies a folder over the root it runs in.

    Of the modes only "executable" is kept: the others vary with the umask of whoever unpacked it.
    """
    return (
        f"cd {shlex.quote(folder)} && find . -type d -exec mkdir -p /{{}} \\; "
        "&& find . -type f -perm -u+x -exec install -m 755 {} /{} \\; "
        "&& find . -type f ! -perm -u+x -exec install -m 644 {} /{} \\; "
        "&& find . -type l -exec cp -P {} /{} \\;"
    )
