# SPDX-License-Identifier: Apache-2.0
"""The life of one instance: start, stop, freeze; interfaces while it runs or not.

What runs an instance is its *runner*, a process of its own (see
:mod:`~sriov_lb_lab.compute.runner`), so that nova-compute can be restarted, or die, and the
instance goes on. A runner holds a lock on a file for as long as it lives; lock and processes are
the only truth about whether the instance runs. Neither outlives the machine's boot, so that after
a crash of the machine every instance is found shut down.
"""

from __future__ import annotations

import enum
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path

from sriov_lb_lab.compute import cgroups, console, overlay
from sriov_lb_lab.compute.errors import ContainerError
from sriov_lb_lab.compute.hostfile import VARIABLE, HostFile
from sriov_lb_lab.compute.records import Instance, Store, Vif
from sriov_lb_lab.compute.vif import Plugger
from sriov_lb_lab.errors import LabError
from sriov_lb_lab.substrate import scope as guest
from sriov_lb_lab.substrate.base import Substrate
from sriov_lb_lab.substrate.execute import run

START_TIMEOUT = 30.0
# How long a runner may take, after its container has ended, to take interfaces and mounts away.
CLEANUP_TIMEOUT = 60.0


class State(enum.Enum):
    """What an instance does."""

    RUNNING = "running"
    PAUSED = "paused"
    SHUTDOWN = "shutdown"


class Container:
    """One instance of one host.

    Its methods are not protected against each other; the caller sees to it that only one of those
    that change something is running at a time.

    :param host: the host file.
    :param uuid: the instance's; its record need not exist yet.
    """

    def __init__(self, host: HostFile, uuid: str, substrate: Substrate | None = None) -> None:
        self.host = host
        self.uuid = uuid
        self.store = Store(host)
        self.folder = self.store.folder(uuid)
        self.scope = self.store.scope(uuid)
        self.plugger = Plugger(host, substrate or host.load_substrate())

    # -- what it does ----------------------------------------------------------------------------

    def state(self) -> State:
        """What it does at this moment."""
        if self.leader() is None:
            # A runner without a guest is about to start one (again) or to clean up after one.
            return State.RUNNING if self.runner() is not None else State.SHUTDOWN
        return State.PAUSED if cgroups.is_frozen(self.scope.cgroup) else State.RUNNING

    def leader(self) -> int | None:
        """Pid of the guest's first process."""
        return guest.leader(self.scope.cgroup)

    def runner(self) -> int | None:
        """Pid of its runner, None if there is none."""
        try:
            with self.lock_path.open("r+") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    # Held by a runner. It writes its pid right after taking the lock.
                    return int(lock.read() or 0)
        except FileNotFoundError:
            pass  # it has not run since the machine booted
        return None

    @property
    def lock_path(self) -> Path:
        """The file that a runner locks; in ``run``, which a reboot empties."""
        return self.host.run / "runner" / self.uuid

    # -- starting --------------------------------------------------------------------------------

    def prepare(self) -> None:
        """All that a start needs but the start itself: root, fresh namespace, interfaces.

        A namespace of the last boot is not used again: addresses, routes and firewall rules that a
        guest left in it must not be there after a reboot, as in a machine that was switched off.
        """
        instance = self.store.load(self.uuid)
        self.teardown_network(instance.vifs)
        overlay.mount(self.folder, overlay.tree(self.host.trees, instance.tree))
        self.setup_network(instance)

    def setup_network(self, instance: Instance) -> None:
        """Make the namespace with all interfaces in it; on failure with nothing left."""
        run("ip", "netns", "add", Path(self.scope.netns).name)
        try:
            run("ip", "link", "set", "lo", "up", netns=self.scope.netns)
            for vif in instance.vifs:
                self.plugger.plug(vif, self.uuid, self.scope)
        except BaseException:
            self.teardown_network(instance.vifs)
            raise

    def teardown_network(self, vifs: Iterable[Vif]) -> None:
        """Take away interfaces and namespace, as far as they are there; the rest if one resists."""
        with ExitStack() as steps:
            steps.callback(self._delete_namespace)
            steps.callback(self._unplug_all, vifs)

    def _delete_namespace(self) -> None:
        if os.path.exists(self.scope.netns):
            run("ip", "netns", "delete", Path(self.scope.netns).name)

    def launch(self) -> None:
        """Start the prepared guest and return once its first process runs.

        :raises ContainerError: it ended at once; the message ends with what it printed.
        """
        console.trim(self.folder)
        self.lock_path.parent.mkdir(parents=True, exist_ok=True)
        with (self.folder / "runner.log").open("ab") as log:
            subprocess.run(
                [sys.executable, "-m", "sriov_lb_lab.compute.runner", self.uuid],
                env={**os.environ, VARIABLE: str(self.host.path)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                check=True,
                timeout=START_TIMEOUT,
            )
        # The runner has the lock before the process we waited for ends.
        deadline = time.monotonic() + START_TIMEOUT
        while self.leader() is None:
            if self.runner() is None or time.monotonic() > deadline:
                said = console.tail(self.folder, 600).decode(errors="replace").strip()
                raise ContainerError(
                    f"instance {self.uuid} did not start; end of its console: {said or 'empty'}",
                    f"read {self.folder}/runner.log",
                )
            time.sleep(0.02)

    def start(self) -> None:
        """Boot it, unless it runs."""
        if self.state() is State.SHUTDOWN:
            try:
                self.prepare()
                self.launch()
            except BaseException:
                self.stop(0)
                raise

    # -- stopping --------------------------------------------------------------------------------

    def stop(self, grace: float) -> bool:
        """End the guest and take its interfaces away; the disk stays.

        :param grace: seconds that the guest has to shut down by itself; 0 switches it off.
        :returns: whether it shut down by itself.
        """
        if self.state() is State.PAUSED:
            cgroups.set_frozen(self.scope.cgroup, False)
        # Also for a hard stop: a runner that is between two boots of its guest must not begin
        # another.
        runner = self.runner()
        if runner:
            _signal(runner, signal.SIGTERM)
        by_itself = self._await_end(grace) if grace > 0 else False
        if not by_itself:
            self._switch_off()
        self.tidy()
        return by_itself

    def tidy(self) -> None:
        """Remove what a running guest has and a stopped one has not; the rest if one resists."""
        with ExitStack() as steps:
            steps.callback(cgroups.remove, self.scope.cgroup)
            steps.callback(overlay.unmount, self.folder)
            steps.callback(self.teardown_network, self._vifs())

    def destroy(self) -> None:
        """End it and remove all of it, disk included. No error if there is nothing."""
        self.stop(0)
        self.lock_path.unlink(missing_ok=True)
        self.store.remove(self.uuid)

    def _switch_off(self) -> None:
        """Kill the guest, as often as it takes, and wait for its runner to clean up.

        A machine that is switched off is off its wire at once. The kernel takes the namespace of a
        killed guest apart bit by bit, its firewall before its interfaces: so they go first.
        """
        with suppress(LabError):  # a switch that is dead, too, is tidy()'s to report
            self.unplug()
        deadline = time.monotonic() + CLEANUP_TIMEOUT
        while True:
            cgroups.kill(self.scope.cgroup)
            if self._await_end(1.0):
                return
            if time.monotonic() > deadline:
                raise ContainerError(
                    f"runner {self.runner()} of instance {self.uuid} has not ended "
                    f"{CLEANUP_TIMEOUT:.0f} s after its guest was killed",
                    f"read {self.folder}/runner.log",
                )

    def _await_end(self, seconds: float) -> bool:
        """Wait until neither runner nor guest is left; False if they are after that time."""
        deadline = time.monotonic() + seconds
        while self.runner() is not None or self.leader() is not None:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    # -- while it is there -----------------------------------------------------------------------

    def pause(self) -> None:
        """Freeze all its processes."""
        cgroups.set_frozen(self.scope.cgroup, True)

    def unpause(self) -> None:
        """Thaw them."""
        cgroups.set_frozen(self.scope.cgroup, False)

    def attach(self, vif: Vif) -> None:
        """Add an interface: at once if it runs, else at the next start. All or nothing."""
        instance = self.store.load(self.uuid)
        if self.state() is not State.SHUTDOWN:
            self.plugger.plug(vif, self.uuid, self.scope)
        try:
            self.store.save(instance.with_vif(vif))
        except BaseException:
            self.plugger.unplug(vif, self.uuid)
            raise

    def detach(self, port_id: str) -> bool:
        """Take an interface away for good; False if it has none with that port id."""
        instance = self.store.load(self.uuid)
        vif = instance.vif(port_id)
        if vif is None:
            return False
        self.plugger.unplug(vif, self.uuid)
        self.store.save(instance.without_vif(port_id))
        return True

    def replug(self) -> None:
        """Plug again, into the running guest, interfaces whose host side is missing."""
        for vif in self.store.load(self.uuid).vifs:
            if not self.plugger.is_plugged(vif, self.uuid):
                self.plugger.plug(vif, self.uuid, self.scope)

    def unplug(self) -> None:
        """Take all interfaces away, the rest if one resists; the next start plugs them again."""
        self._unplug_all(self._vifs())

    def _unplug_all(self, vifs: Iterable[Vif]) -> None:
        with ExitStack() as steps:
            for vif in vifs:
                steps.callback(self.plugger.unplug, vif, self.uuid)

    def _vifs(self) -> tuple[Vif, ...]:
        return self.store.load(self.uuid).vifs if self.store.exists(self.uuid) else ()


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # it ended by itself
