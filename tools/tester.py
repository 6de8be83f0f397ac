# SPDX-License-Identifier: Apache-2.0
"""The tester's environment: .venv in the checkout, made anew when it no longer fits."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

from show import Steps, quietly

SOURCES = ("setup.cfg", "setup.py", "constraints.txt")


class Tester:
    """The environment in ``root``/.venv.

    :param extras: which extras of the project it has.
    """

    def __init__(self, root: Path, extras: tuple[str, ...] = ("perf", "test")) -> None:
        self.root = root
        self.extras = extras
        self.folder = root / ".venv"
        self.bin = self.folder / "bin"
        self._mark = self.folder / ".made-from"

    def digest(self) -> str:
        """Changes when the environment has to."""
        content = hashlib.sha256()
        for part in (sys.version, str(self.root), *sorted(self.extras)):
            content.update(part.encode() + b"\0")
        for name in SOURCES:
            content.update((self.root / name).read_bytes() + b"\0")
        return content.hexdigest()

    def fits(self) -> bool:
        """Whether it was made, to the end, from what is in the checkout now."""
        return self._mark.exists() and self._mark.read_text().strip() == self.digest()

    def ensure(self, steps: Steps, log: Path) -> None:
        """Make it if it does not fit; quick if it does.

        :raises Failed: pip failed.
        """
        if self.fits():
            return
        why = "requirements have changed" if self._mark.exists() else "there is none"
        steps.say(f"about to make the tester's environment {self.folder} ({why})")
        if self.folder.is_dir():
            shutil.rmtree(self.folder)
        else:
            # tox leaves a file of that name, which points into .tox (PEP 832).
            self.folder.unlink(missing_ok=True)
        with steps.doing("installing Python packages"):
            quietly([sys.executable, "-m", "venv", str(self.folder)], log)
            quietly(self._pip("setuptools"), log, append=True)
            quietly(self._project(*self.extras), log, append=True)
        self._mark.write_text(self.digest() + "\n")

    def add(self, extra: str, steps: Steps, log: Path) -> None:
        """Add an extra that few commands need.

        :raises Failed: pip failed.
        """
        mark = self.folder / f".has-{extra}"
        if not mark.exists():
            with steps.doing(f"installing Python packages for {extra}"):
                quietly(self._project(extra), log)
            mark.touch()

    def _pip(self, *arguments: str) -> list[str]:
        pip = [str(self.bin / "python"), "-m", "pip", "--disable-pip-version-check", "install"]
        return [*pip, "-c", str(self.root / "constraints.txt"), *arguments]

    def _project(self, *extras: str) -> list[str]:
        # The project itself is built with the setuptools that is pinned.
        target = f"{self.root}[{','.join(extras)}]"
        return self._pip("--no-build-isolation", "--editable", target)

    def environment(self) -> dict[str, str]:
        """The environment variables of a command that is run in it."""
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
        kept["PATH"] = f"{self.bin}{os.pathsep}{kept.get('PATH', os.defpath)}"
        kept["VIRTUAL_ENV"] = str(self.folder)
        return kept
