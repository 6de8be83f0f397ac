# SPDX-License-Identifier: Apache-2.0
"""The folder of Python packages that all trees are installed from.

Everything pinned is fetched (and, where there is only source, built) once; installing then needs
neither an index nor a network, and a second tree costs no download.
"""

from __future__ import annotations

import dataclasses
import pathlib
import threading
import zipfile
from collections.abc import Iterable, Mapping

from sriov_lb_lab.build import versions
from sriov_lb_lab.build.pipconfig import INSIDE, PipSettings
from sriov_lb_lab.build.steps import Bind, Chroot, Runner
from sriov_lb_lab.build.workspace import Workspace, remove_tree
from sriov_lb_lab.errors import BuildError

#: What source distributions are built with; the first two come with every venv.
TOOLS = ("pip", "setuptools", "wheel", "pbr")
_PORTION = 40
_HOUSE = f"{INSIDE}/wheels"
_QUIET = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_PROGRESS_BAR": "off", "PIP_NO_CACHE_DIR": "1",
          "PIP_ROOT_USER_ACTION": "ignore"}
#: For every pip that installs: only what is in the folder, byte code is made later in one go.
OFFLINE = {**_QUIET, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": _HOUSE, "PIP_NO_COMPILE": "1",
           # pip reads this one as the value of "build isolation".
           "PIP_NO_BUILD_ISOLATION": "0", "PIP_USE_PEP517": "1"}


@dataclasses.dataclass(frozen=True)
class Venv:
    """A virtual environment inside a root tree.

    :ivar prefix: its folder in the chroot.
    :ivar log: name of the log for what is done in it.
    """

    chroot: Chroot
    prefix: str
    log: str

    @property
    def pip(self) -> str:
        """The path of its pip in the chroot."""
        return f"{self.prefix}/bin/pip"


def present(names: Iterable[str]) -> set[tuple[str, str]]:
    """(canonical name, version) of the wheels among file names."""
    found = set()
    for name in names:
        parts = name.removesuffix(".whl").split("-")
        if name.endswith(".whl") and len(parts) >= 5:
            found.add((versions.canonical(parts[0]), parts[1]))
    return found


def missing(pins: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """The pins for which no wheel is among the file names."""
    here = present(names)
    return {name: line for name, line in pins.items()
            if (name, line.partition("==")[2]) not in here}


class Wheelhouse:
    """The folder, and how it is filled.  Threads may share one."""

    def __init__(self, runner: Runner, workspace: Workspace, settings: PipSettings) -> None:
        self._runner = runner
        self._workspace = workspace
        self._settings = settings
        self._guard = threading.Lock()

    def offline(self, venv: Venv) -> Chroot:
        """The venv's chroot with the folder in it and nothing else to install from."""
        return dataclasses.replace(
            venv.chroot, network=False,
            binds=(*venv.chroot.binds, Bind(self._workspace.pip, _HOUSE)),
            environment={**venv.chroot.environment, **OFFLINE},
        )

    def install(self, venv: Venv, pins: Mapping[str, str], what: str) -> None:
        """Put exactly these packages into a venv; those not in the folder are fetched before.

        :raises BuildError: if something cannot be fetched.
        """
        self.provide(venv, pins, what)
        self._runner.inside(
            self.offline(venv),
            [venv.pip, "install", "--no-deps", *(pins[name] for name in sorted(pins))],
            log=venv.log, what=what,
        )

    def provide(self, venv: Venv, pins: Mapping[str, str], what: str) -> None:
        """Fetch what is missing in the folder, with the pip of a venv.

        :raises BuildError: if something cannot be fetched.
        """
        with self._guard:
            wanted = missing(pins, self._names())
            if not wanted:
                return
            everything = versions.base_pins()
            tools = {name: everything[name] for name in TOOLS}
            absent = missing(tools, self._names())
            if absent:
                self._fetch(venv, ["wheel", "--no-deps", *absent.values()],
                            f"{what} ({len(wanted)} are not in the cache)")
            self._runner.inside(self.offline(venv),
                                [venv.pip, "install", "--no-deps", *tools.values()],
                                log=venv.log, what="installing Python's build tools")
            rest = list(missing(wanted, self._names()).values())
            # In portions: pip hands over what it fetched when it has everything it was asked for.
            for begin in range(0, len(rest), _PORTION):
                self._fetch(venv, ["wheel", "--no-deps", "--no-build-isolation", "--use-pep517",
                                   *rest[begin:begin + _PORTION]],
                            f"{what} ({len(rest) - begin} are not in the cache)")

    def source(self, venv: Venv, octavia: str) -> pathlib.Path:
        """The source distribution of Octavia; fetched unless it is there.

        :raises BuildError: if it cannot be fetched.
        """
        path = self._workspace.pip / f"octavia-{octavia}.tar.gz"
        what = f"fetching the source distribution of Octavia {octavia}"
        with self._guard:
            if not path.is_file():
                # pip looks at the metadata of what it downloads and prepares a build for that.
                self._fetch(venv, ["download", "--no-deps", "--no-build-isolation",
                                   "--no-binary", "octavia", f"octavia=={octavia}"], what)
        if not path.is_file():
            raise BuildError(f"{what}: the package index has no {path.name}",
                             "use an index that has source distributions")
        return path

    def metadata(self, octavia: str) -> str:
        """What Octavia's wheel says of itself (METADATA)."""
        for path in sorted(self._workspace.pip.glob(f"octavia-{octavia}-*.whl")):
            with zipfile.ZipFile(path) as wheel:
                return wheel.read(f"octavia-{octavia}.dist-info/METADATA").decode()
        raise BuildError(f"{self._workspace.pip} has no wheel of Octavia {octavia}",
                         "run the build again")

    def _names(self) -> list[str]:
        return [path.name for path in self._workspace.pip.iterdir()]

    def _fetch(self, venv: Venv, arguments: list[str], what: str) -> None:
        # Into a folder of its own, then renamed: a file in the house is a whole file.
        landing = self._workspace.start(f"wheels-{venv.log}")
        chroot = dataclasses.replace(
            venv.chroot, network=True,
            binds=(*venv.chroot.binds, Bind(landing, f"{INSIDE}/landing", writable=True),
                   *(Bind(outer, str(inner)) for outer, inner in self._settings.binds)),
            environment={**venv.chroot.environment, **self._settings.environment, **_QUIET},
        )
        target = "--wheel-dir" if arguments[0] == "wheel" else "--dest"
        try:
            self._runner.inside(chroot, [venv.pip, *arguments, target, f"{INSIDE}/landing"],
                                log=venv.log, what=what)
        finally:
            # What arrived before a failure need not be fetched again.
            for path in landing.iterdir():
                path.rename(self._workspace.pip / path.name)
            remove_tree(landing)
