# SPDX-License-Identifier: Apache-2.0
"""Root trees that are Debian packages plus files: the control plane's and the guests'.

An element is a folder with ``packages.txt``, ``files.txt`` (which of its ``files/`` go where) and
``setup.sh`` (run in the tree); the latter two are optional.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Sequence

from sriov_lb_lab.build import bootstrap, digest, sources
from sriov_lb_lab.build.pipconfig import INSIDE
from sriov_lb_lab.build.steps import Bind, Chroot, Runner
from sriov_lb_lab.build.workspace import Workspace
from sriov_lb_lab.errors import BuildError

#: To be raised when the commands of :mod:`bootstrap` or below change what a tree holds.
RECIPE = 1
ELEMENTS = pathlib.Path(__file__).resolve().parent.parent / "elements"


@dataclasses.dataclass(frozen=True)
class Root:
    """One root tree: its name and the elements that make it, in order."""

    name: str
    elements: tuple[str, ...]

    def folders(self, top: pathlib.Path = ELEMENTS) -> list[pathlib.Path]:
        """The folders of its elements."""
        return [top / element for element in self.elements]

    def packages(self, top: pathlib.Path = ELEMENTS) -> tuple[str, ...]:
        """The Debian packages it holds, sorted."""
        found: set[str] = set()
        for folder in self.folders(top):
            found.update(bootstrap.packages_of(folder))
        return tuple(sorted(found))

    def inputs(self, top: pathlib.Path = ELEMENTS) -> dict[str, object]:
        """What determines the tree.

        The mirror is not among it: whatever the mirror, it is the same release of Debian, and a
        finished tree must be found again by a machine that is offline.
        """
        return {
            "tree": self.name, "recipe": RECIPE, "suite": sources.SUITE,
            "machine": bootstrap.machine(), "packages": list(self.packages(top)),
            "excluded": [*bootstrap.EXCLUDED], "included": [*bootstrap.INCLUDED],
            "elements": {folder.name: digest.of_folder(folder) for folder in self.folders(top)},
        }


SYSTEM = Root("system", ("system",))
GUEST = Root("guest", ("instance", "guest"))
AMPHORA_BASE = Root("amphora-base", ("instance", "amphora"))


@dataclasses.dataclass(frozen=True)
class File:
    """One line of ``files.txt``: a file of an element, its place in a tree and its mode (octal)."""

    name: str
    target: str
    mode: str


def files_of(folder: pathlib.Path) -> list[File]:
    """Read ``files.txt`` of an element.

    :raises BuildError: on a line that is not a name, an absolute path and a mode.
    """
    path = folder / "files.txt"
    if not path.is_file():
        return []
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        if not re.match(r"^\S+ /\S+ 0[0-7]{3}$", " ".join(words)):
            raise BuildError(f"{path}, line {number}: expected a name, an absolute path and a mode "
                             f"such as 0644, found {line.strip()!r}", "mend the line")
        found.append(File(*words))
    return found


def apply_elements(runner: Runner, root: pathlib.Path, folders: Sequence[pathlib.Path],
                   log: str) -> None:
    """Copy the files of elements into a root tree and run their scripts there."""
    for folder in folders:
        chroot = Chroot(root, writable=True, binds=(Bind(folder, f"{INSIDE}/element"),))
        for file in files_of(folder):
            runner.inside(chroot, ["install", "-D", "-o", "root", "-g", "root", "-m", file.mode,
                                   f"{INSIDE}/element/files/{file.name}", file.target],
                          log=log, what=f"copying {file.name} of element {folder.name}")
        if (folder / "setup.sh").is_file():
            runner.inside(chroot, ["sh", f"{INSIDE}/element/setup.sh"], log=log,
                          what=f"setting up element {folder.name}")


def build(runner: Runner, workspace: Workspace, name: str, root: Root,
          archive: bootstrap.Archive) -> None:
    """Make a root tree in the workspace."""
    folder = workspace.start(name)
    bootstrap.bootstrap(runner, name, folder, root.packages(), archive, workspace.apt)
    apply_elements(runner, folder, root.folders(), name)
