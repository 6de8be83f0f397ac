# SPDX-License-Identifier: Apache-2.0
"""What the Makefile calls. Needs python3 and nothing else; sets up what each command needs."""

import sys

if sys.version_info < (3, 10):
    sys.exit(
        "python3 is %d.%d; this project needs 3.10 or newer: Debian 12, Ubuntu 22.04 or later."
        % sys.version_info[:2]
    )

import os
import shutil
import subprocess
from pathlib import Path

import machine
from demo import Demo, need_root
from show import Failed, Steps
from tester import Tester

ROOT = Path(__file__).resolve().parents[1]
LOG = ROOT / ".venv.log"

# A third of the unit tests' time is waiting, so one process more than there are cores.
UNIT = ("-q", "-n", str(min(4, (os.cpu_count() or 1) + 1)), "tests/unit")
# Functional tests measure, too: two at a time leave each its core. The file is the unit, for
# what a file's tests share. -v names what ends; in the lab, where some take minutes, what begins.
FUNCTIONAL = ("-v", "-n", "2", "--dist", "loadfile", "-m", "not series", "tests/functional")
IN_THE_LAB = ("-v", "-m", "not series", "tests/lab")
LONGEST = "--durations=25"

HELP = """\
make demo        a genuine OpenStack on this machine, the tests in it, the verdicts (root)
make demo-down   take that OpenStack down
make check       all tests: unit, functional, and the lab end to end (root)

make bench       speed against other tools, side by side; rewrites doc/source/bench (root)

make setup       only install what the two need
make lint        style and import arrows
make docs        the documentation, into doc/build/html
make clean       remove what building and testing left in the checkout
make purge       that, and the lab, its caches and the tester's environment

`make demo OCTAVIA=18.0.1` uses another Octavia release.
On a machine without make: python3 tools/project.py COMMAND.
"""


class Project:
    def __init__(self) -> None:
        self.steps = Steps()
        self.tester = Tester(ROOT)

    # --- commands -----------------------------------------------------------------------------

    def setup(self) -> int:
        """Everything that any other command needs."""
        self._prepare(machine.TESTER + machine.LAB + machine.FUNCTIONAL)
        self.steps.say("everything is installed")
        return 0

    def demo(self) -> int:
        """The main job."""
        need_root("make demo")
        self._prepare(machine.TESTER + machine.LAB)
        demo = Demo(ROOT, self.tester, self.steps, os.environ.get("OCTAVIA", ""))
        try:
            return demo.run()
        except KeyboardInterrupt:
            demo.interrupted()
            return 130

    def demo_down(self) -> int:
        """The end of the lab."""
        need_root("make demo-down")
        self._prepare(machine.TESTER)
        return self._run("sriov-lb-lab", "down")

    def check(self) -> int:
        """All tests; the first kind that fails ends it, so that the last summary is the verdict."""
        if os.geteuid() != 0:
            self._prepare(machine.TESTER)
            self.steps.say("not root: only the unit tests can run")
            self._run("pytest", *UNIT)
            raise Failed(
                "NOT CHECKED: tests/functional and tests/lab make network namespaces and need "
                "root. This counts as a failure: sudo make check"
            )
        self._prepare(machine.TESTER + machine.LAB + machine.FUNCTIONAL)
        return (
            self._run("pytest", *UNIT)
            or self._run("pytest", LONGEST, *FUNCTIONAL)
            or self._run("pytest", LONGEST, *IN_THE_LAB)
        )

    def bench(self) -> int:
        """Speed against other tools; the tables go into the documentation."""
        need_root("make bench")
        self._prepare(machine.TESTER + machine.LAB + machine.FUNCTIONAL + machine.BENCH)
        tables = self._run("pytest", "-v", "--capture=tee-sys", "tests/bench")
        return self._run("pytest", "-v", "-m", "series", "tests/functional") or tables

    def lint(self) -> int:
        """Style and import arrows."""
        self._prepare(machine.TESTER)
        return self._run("ruff", "check") or self._run("lint-imports")

    def docs(self) -> int:
        """The documentation; a warning is an error."""
        self._prepare(machine.TESTER)
        self.tester.add("docs", self.steps, LOG)
        return self._run("sphinx-build", "-W", "-b", "html", "doc/source", "doc/build/html")

    def clean(self) -> int:
        """Remove what building and testing left; the environment and the lab stay."""
        for name in ("build", "dist", "demo", "artifacts", ".tox", ".stestr", ".pytest_cache"):
            shutil.rmtree(ROOT / name, ignore_errors=True)
        for name in (".ruff_cache", ".import_linter_cache", "doc/build", "releasenotes/build"):
            shutil.rmtree(ROOT / name, ignore_errors=True)
        self.steps.say("clean; the lab and the tester's environment are still there")
        return 0

    def purge(self) -> int:
        """Remove everything: the lab, its caches, the environment."""
        if (self.tester.bin / "sriov-lb-lab").exists():
            need_root("make purge")
            status = self._run("sriov-lb-lab", "purge", "--cache")
            if status:
                return status
        shutil.rmtree(self.tester.folder, ignore_errors=True)
        LOG.unlink(missing_ok=True)
        return self.clean()

    # --- their parts ----------------------------------------------------------------------------

    def _prepare(self, needs: tuple[machine.Need, ...]) -> None:
        machine.install(needs, self.steps, LOG)
        self.tester.ensure(self.steps, LOG)

    def _run(self, program: str, *arguments: str) -> int:
        argv = [str(self.tester.bin / program), *arguments]
        return subprocess.run(argv, cwd=ROOT, env=self.tester.environment()).returncode


COMMANDS = ("setup", "demo", "demo-down", "check", "bench", "lint", "docs", "clean", "purge")


def main(arguments: list[str]) -> int:
    if arguments in (["-h"], ["--help"]):
        print(HELP, end="")
        return 0
    if len(arguments) != 1 or arguments[0] not in COMMANDS:
        print(HELP, end="", file=sys.stderr)
        return 2
    try:
        return getattr(Project(), arguments[0].replace("-", "_"))()
    except Failed as failed:
        print(f"\nerror: {failed}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; the same command carries on from here.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
