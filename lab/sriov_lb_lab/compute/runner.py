# SPDX-License-Identifier: Apache-2.0
"""Watches over one running instance: ``python -m sriov_lb_lab.compute.runner UUID``.

It plays the part of the emulator process of a virtual machine. It starts systemd-nspawn, starts
it again with fresh interfaces when the guest reboots itself, and when the guest ends, for
whatever reason, takes away what only a running guest has, so that Neutron's agents see the ports
go down.

SIGTERM asks the guest to shut down. It outlives nova-compute: it runs in a session of its own, as
a child of the lab's first process.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from types import FrameType
from typing import IO

from sriov_lb_lab.compute import cgroups, console, nspawn, overlay
from sriov_lb_lab.compute.container import Container
from sriov_lb_lab.compute.hostfile import HostFile
from sriov_lb_lab.errors import LabError


class Runner:
    """One run of one instance, from power on to power off.

    :param container: the instance, prepared.
    """

    def __init__(self, container: Container) -> None:
        self._container = container
        self._child: subprocess.Popen[bytes] | None = None
        self._stopping = False

    def request_shutdown(self, signum: int, frame: FrameType | None) -> None:
        """Handler of SIGTERM: let nspawn ask the guest's systemd to power off."""
        self._stopping = True
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()

    def run(self) -> None:
        """Boot until the guest ends without wanting to be booted again, then clean up."""
        try:
            while self._boot() == nspawn.REBOOTED and not self._stopping:
                _log("the guest reboots itself")
                self._container.tidy()
                self._container.prepare()
        finally:
            try:
                self._container.tidy()
            except LabError as failure:
                # E.g. the switch is dead, too. Whoever starts the instance next tidies up first.
                _log(f"left something behind: {failure}")

    def _boot(self) -> int:
        container = self._container
        scope = container.scope
        instance = container.store.load(container.uuid)
        argv = nspawn.command(
            overlay.root(container.folder),
            os.path.basename(scope.netns),
            instance.hostname,
            scope.netns,
        )
        cgroups.make(scope.cgroup)
        with console.path(container.folder).open("ab") as log:
            self._child = subprocess.Popen(
                argv,
                env={**os.environ, **nspawn.ENVIRONMENT},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Our only thread is the main one, and nothing but writes to two files happens
                # there.
                preexec_fn=lambda: cgroups.enter(scope.cgroup),
            )
        if self._stopping:
            self._child.terminate()
        status = self._child.wait()
        _log(f"systemd-nspawn ended with {status}")
        # nspawn may have been killed without its guest: without an emulator there is no machine.
        cgroups.kill(scope.cgroup)
        return status


def main(argv: list[str]) -> int:
    """Take the lock, leave the caller, run."""
    (uuid,) = argv
    host = HostFile.read()
    container = Container(host, uuid)
    lock = container.lock_path.open("a+")
    try:
        _take(lock)
    except BlockingIOError:
        _log(f"instance {uuid} has a runner already")
        return 1
    lock.truncate(0)
    child = os.fork()
    if child:
        # The lock belongs to the open file, which the child has too; whoever started us knows the
        # child's pid from it as soon as we are gone.
        lock.write(str(child))
        lock.flush()
        os._exit(0)
    os.setsid()
    runner = Runner(container)
    signal.signal(signal.SIGTERM, runner.request_shutdown)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    runner.run()
    return 0


def _take(lock: IO[str], patience: float = 2.0) -> None:
    """Lock it; someone who merely looks whether it is locked holds it for a moment."""
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _log(text: str) -> None:
    print(time.strftime("%Y-%m-%d %H:%M:%S"), text, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
