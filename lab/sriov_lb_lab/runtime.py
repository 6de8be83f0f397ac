# SPDX-License-Identifier: Apache-2.0
"""Start, enter and end a lab's private world.

A lab is one PID namespace. Its first process is the supervisor (:mod:`sriov_lb_lab.init` first,
then supervisord); outside stands only the ``unshare`` that made the namespaces. Whichever of the
two dies, the kernel ends the rest.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import sriov_lb_lab
from sriov_lb_lab.errors import LabError, NotRunning, StateError
from sriov_lb_lab.paths import INSIDE_CACHE, INSIDE_CODE, INSIDE_LAB, INSIDE_STACK, Paths
from sriov_lb_lab.programs import ENVIRONMENT, Program, supervisor_conf
from sriov_lb_lab.settings import CONTROLLER, HOSTS
from sriov_lb_lab.supervisor import Supervisor

CGROUPS = Path("/sys/fs/cgroup")

# What of a lab's folder is of no use once its processes are gone; logs and settings stay for
# reading.
_VOLATILE = ("root", "instances", "mysql", "rabbitmq", "glance", "hosts")


def wait_until(condition: Callable[[], bool], timeout: float, what: str, step: float = 0.1) -> None:
    """Poll a condition that has no event to wait on.

    :param timeout: seconds.
    :raises LabError: it did not come true in time.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"{what}: not within {timeout:.0f} s", "see 'sriov-lb-lab logs'")
        time.sleep(step)


def start_time(pid: int) -> int | None:
    """A process's start in clock ticks after boot (proc(5), field 22), None if there is no such
    process.

    With the pid it names one process for ever, so that a pid used again is not taken for the lab.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])


class Runtime:
    """The running (or not) side of one lab."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths

    # -- state ---------------------------------------------------------------------------------

    def pid(self) -> int | None:
        """Host pid of the lab's first process, None when the lab is not running."""
        try:
            record = json.loads(self.paths.pid_file.read_text())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise StateError(
                f"{self.paths.pid_file} is damaged: {error}", "run 'sriov-lb-lab down'"
            ) from error
        return record["pid"] if start_time(record["pid"]) == record["start"] else None

    def need_pid(self) -> int:
        """Like :meth:`pid`.

        :raises NotRunning: there is none.
        """
        pid = self.pid()
        if pid is None:
            raise NotRunning(
                f"no lab named {self.paths.name!r} is running under {self.paths.state}",
                "start it with 'sriov-lb-lab up', or name another with --name/--state",
            )
        return pid

    def supervisor(self) -> Supervisor:
        """The process supervisor of the lab."""
        return Supervisor(self.paths.supervisor_socket)

    # -- start ---------------------------------------------------------------------------------

    def start(
        self,
        system: Path,
        stack: Path,
        programs: list[Program],
        setup: Sequence[list[str]] = (),
    ) -> None:
        """Make the namespaces and the first process; returns when the supervisor answers.

        :param setup: commands to run inside after the network is there and before the supervisor.
        :raises LabError: the first process ended before that; its last words are in the message.
        """
        paths = self.paths
        self.stop()
        paths.logs.mkdir(parents=True, exist_ok=True)
        (paths.lab / "etc").mkdir(exist_ok=True)
        (paths.lab / "etc/supervisord.conf").write_text(supervisor_conf(programs))
        spec = paths.lab / "init.json"
        described = self._spec(system, stack)
        described["setup"] += setup
        spec.write_text(json.dumps(described, indent=1))
        log = paths.logs / "init.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [
                    "unshare", "--mount", "--pid", "--net", "--ipc", "--uts",
                    "--fork", "--kill-child=SIGKILL", "--propagation", "private",
                    sys.executable, "-I", str(Path(sriov_lb_lab.__file__).parent / "init.py"),
                    str(spec),
                ],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
                cwd="/",
            )  # fmt: skip
        wait_until(
            lambda: process.poll() is not None or _child(process.pid) is not None,
            20,
            "the lab's first process",
            step=0.01,
        )
        first = _child(process.pid)
        if first is not None:
            self._remember(first)
        self._await_supervisor(process, log)

    def _await_supervisor(self, process: subprocess.Popen[bytes], log: Path) -> None:
        def answered() -> bool:
            if process.poll() is not None:
                words = log.read_text(errors="replace").strip().splitlines()[-5:]
                raise LabError(
                    "the lab's first process ended at once: " + " / ".join(words),
                    f"the whole of it is in {log}",
                )
            try:
                return self.supervisor().ready()
            except OSError:
                return False

        wait_until(answered, 60, "the process supervisor")

    def _remember(self, pid: int) -> None:
        self.paths.pid_file.write_text(json.dumps({"pid": pid, "start": start_time(pid)}))

    def _spec(self, system: Path, stack: Path) -> dict[str, Any]:
        paths = self.paths
        package = Path(sriov_lb_lab.__file__).parent
        hosts = ["127.0.0.1 localhost", "::1 localhost", f"{CONTROLLER} controller"]
        hosts += [f"{host.address} {host.name}" for host in HOSTS]
        return {
            "hostname": "controller",
            "system": str(system),
            "overlay": str(paths.overlay),
            "binds": [
                {"source": str(stack), "target": str(INSIDE_STACK), "read_only": True},
                {
                    "source": str(package),
                    "target": f"{INSIDE_CODE}/{package.name}",
                    "read_only": True,
                },
                {"source": str(paths.lab), "target": str(INSIDE_LAB), "read_only": False},
                {"source": str(paths.cache), "target": str(INSIDE_CACHE), "read_only": True},
            ],
            "hosts_file": "\n".join(hosts) + "\n",
            "environment": ENVIRONMENT,
            "setup": [["/usr/bin/python3", "-m", "sriov_lb_lab.topology"]],
            "argv": [f"{INSIDE_STACK}/bin/supervisord", "-c", f"{INSIDE_LAB}/etc/supervisord.conf"],
        }

    # -- enter ---------------------------------------------------------------------------------

    def inside(self, argv: list[str], host: str | None = None) -> list[str]:
        """The command line that runs ``argv`` inside the lab, with the lab's own root."""
        enter = ["nsenter", "--target", str(self.need_pid()), "--all", "--root", "--wd", "--"]
        environment = [f"{key}={value}" for key, value in ENVIRONMENT.items()]
        if host:
            argv = ["nsenter", f"--net=/run/netns/{host}", "--", *argv]
        return [*enter, "/usr/bin/env", "-i", f"TERM={os.environ.get('TERM', 'dumb')}",
                *environment, *argv]  # fmt: skip

    def beside(self, argv: list[str]) -> list[str]:
        """The command line that runs ``argv`` in the lab's network and PID namespaces with the
        host's files.

        /proc and /sys are the lab's, so that what a program reads there fits what it sees
        elsewhere.
        """
        prepare = 'mount -t proc proc /proc && mount -t sysfs -o ro sysfs /sys && exec "$@"'
        return [
            "nsenter", "--target", str(self.need_pid()), "--net", "--pid", "--ipc", "--",
            "unshare", "--mount", "--propagation", "slave", "--", "sh", "-c", prepare, "sh", *argv,
        ]  # fmt: skip

    def run(self, argv: list[str], timeout: float = 300, stdin: str | None = None) -> str:
        """Run inside and return what it printed.

        :param timeout: seconds.
        :raises LabError: it failed; its last lines are in the message.
        """
        done = subprocess.run(
            self.inside(argv), text=True, input=stdin, capture_output=True, timeout=timeout,
        )  # fmt: skip
        if done.returncode:
            words = (done.stderr or done.stdout).strip().splitlines()[-6:]
            raise LabError(
                f"{' '.join(argv[:4])} ended with {done.returncode}: " + "\n  ".join(words)
            )
        return done.stdout

    # -- end -----------------------------------------------------------------------------------

    def stop(self) -> None:
        """End the lab at once and remove what the kernel leaves behind (cgroup folders).

        Nothing of a lab is kept from one run to the next, so that nothing needs a gentle end.
        """
        pid = self.pid()
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: start_time(pid) is None, 15, "the end of the lab's first process")
        self._remove_cgroups()
        self.paths.pid_file.unlink(missing_ok=True)
        self.paths.supervisor_socket.unlink(missing_ok=True)

    def remove_leftovers(self) -> None:
        """Remove the data of a lab that does not run; does nothing where there is nothing."""
        for name in _VOLATILE:
            if (self.paths.lab / name).exists():
                shutil.rmtree(self.paths.lab / name)

    def _remove_cgroups(self) -> None:
        hierarchies = [
            CGROUPS,
            *(p for p in CGROUPS.iterdir() if p.is_dir() and not p.is_symlink()),
        ]
        for hierarchy in hierarchies:
            top = hierarchy / self.paths.cgroup
            if top.is_dir():
                folders = [Path(folder) for folder, _, _ in os.walk(top, topdown=False)]
                for folder in folders:
                    wait_until(lambda f=folder: _rmdir(f), 10, f"removal of cgroup {folder}")


def _rmdir(folder: Path) -> bool:
    """Remove a cgroup; False while a dying process is still counted in it."""
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _child(pid: int) -> int | None:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(children[0]) if children else None
