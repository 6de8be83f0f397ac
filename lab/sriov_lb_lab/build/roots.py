# SPDX-License-Identifier: Apache-2.0
"""Root trees that are Debian packages plus files: the control plane's and the guests'.

An element is a folder with ``packages.txt``, ``files/`` (copied over the root) and ``setup.sh``
(run in it); the latter two are optional.
"""

from __future__ import annotations

import dataclasses
import pathlib
import shlex
from collections.abc import Sequence

from sriov_lb_lab.build import bootstrap, digest, sources
from sriov_lb_lab.build.pipconfig import INSIDE
from sriov_lb_lab.build.steps import Bind, Chroot, Runner
from sriov_lb_lab.build.workspace import Workspace

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


def apply_elements(runner: Runner, root: pathlib.Path, folders: Sequence[pathlib.Path],
                   log: str) -> None:
    """Copy the files of elements into a root tree and run their scripts there."""
    for folder in folders:
        chroot = Chroot(root, writable=True, binds=(Bind(folder, f"{INSIDE}/element"),))
        if (folder / "files").is_dir():
            runner.inside(chroot, ["sh", "-c", copy_script(f"{INSIDE}/element/files")], log=log,
                          what=f"copying the files of element {folder.name}")
        if (folder / "setup.sh").is_file():
            runner.inside(chroot, ["sh", f"{INSIDE}/element/setup.sh"], log=log,
                          what=f"setting up element {folder.name}")


def build(runner: Runner, workspace: Workspace, name: str, root: Root,
          archive: bootstrap.Archive) -> None:
    """Make a root tree in the workspace."""
    folder = workspace.start(name)
    bootstrap.bootstrap(runner, name, folder, root.packages(), archive, workspace.apt)
    apply_elements(runner, folder, root.folders(), name)
