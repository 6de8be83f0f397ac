# SPDX-License-Identifier: Apache-2.0
"""Bring a lab up, say how it is, take it down: the order of things, and nothing of their detail."""

from __future__ import annotations

import fcntl
import json
import resource
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sriov_lb_lab import files, handover, programs, settings, template
from sriov_lb_lab.build import trees as build
from sriov_lb_lab.build.trees import Progress
from sriov_lb_lab.errors import AlreadyRunning, LabError, ServiceError
from sriov_lb_lab.paths import INSIDE_STACK, Paths
from sriov_lb_lab.runtime import Runtime

DEFAULT_OCTAVIA = "16.0.0"
PYTHON = f"{INSIDE_STACK}/bin/python"


class Lab:
    """One lab by name.

    :param paths: where it lies.
    """

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.runtime = Runtime(paths)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One command at a time may start or stop a lab."""
        self.paths.lab.parent.mkdir(parents=True, exist_ok=True)
        with (self.paths.lab.parent / f".{self.paths.name}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise AlreadyRunning(
                    f"another command is starting or stopping the lab {self.paths.name!r}",
                    "wait for it, or choose another --name",
                ) from error
            yield

    # -- up ------------------------------------------------------------------------------------

    def build(self, octavia: str, mirror: str | None, progress: Progress) -> dict[str, Path]:
        """All trees and the database template; what ``up`` needs from the network."""
        made = build.ensure(self.paths.cache, octavia, mirror=mirror, progress=progress)
        trees = {
            "system": made.system, "stack": made.stack,
            "amphora": made.amphora, "guest": made.guest,
        }  # fmt: skip
        trees["database"] = template.ensure(self.paths.state, trees, octavia, progress)
        return trees

    def up(
        self, octavia: str, mirror: str | None, extra: Path | None, progress: Progress
    ) -> dict[str, Any]:
        """Start a lab (or leave the one that runs) and wait until it is well; returns its facts.

        :raises AlreadyRunning: one runs with another Octavia release.
        :raises LabError: anything that kept it from coming up; the logs stay.
        """
        if extra:
            handover.check_extra(extra)
        with self._locked():
            if self.runtime.pid() is not None:
                return self._already(octavia, extra, progress)
            trees = self.build(octavia, mirror, progress)
            self._prepare(octavia, trees)
            try:
                return self._start(trees, extra, progress)
            except BaseException:
                # Also on Ctrl-C: half a lab is of no use to anybody. Its logs stay.
                progress("stop", "it did not come up; ending what was started")
                self.runtime.stop()
                raise

    def _start(
        self, trees: dict[str, Path], extra: Path | None, progress: Progress
    ) -> dict[str, Any]:
        progress("start", "network, hosts, services")
        self.runtime.start(trees["system"], trees["stack"], programs.everything())
        progress("bootstrap", "users, endpoints, images, networks, key pairs")
        self._bootstrap()
        made = self._settings()
        handover.write(self.paths, made, extra)
        progress("services", "waiting until every service is well")
        self._await_health(progress)
        return handover.facts(self.paths, made)

    def _already(self, octavia: str, extra: Path | None, progress: Progress) -> dict[str, Any]:
        made = self._settings()
        if made.octavia != octavia:
            raise AlreadyRunning(
                f"the lab {self.paths.name!r} runs Octavia {made.octavia}, not {octavia}",
                "'sriov-lb-lab down' first, or start a second lab with --name",
            )
        progress("start", "it is running already")
        handover.write(self.paths, made, extra)
        self._await_health(progress)
        return handover.facts(self.paths, made)

    def _prepare(self, octavia: str, trees: dict[str, Path]) -> None:
        paths = self.paths
        if paths.lab.exists():
            shutil.rmtree(paths.lab)
        paths.lab.mkdir(parents=True, mode=0o700)
        made = settings.Settings(
            paths.name,
            octavia,
            "macvlan",
            {kind: tree.name for kind, tree in trees.items()},
            settings.connection_limit(resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
            passwords=json.loads((trees["database"] / "passwords.json").read_text()),
        )
        for name in ("mysql", "keystone"):
            shutil.copytree(trees["database"] / name, paths.lab / name)
        for folder in (
            "glance/images",
            "glance/staging",
            "glance/tasks",
            "rabbitmq",
            "log",
            "keys",
        ):
            (paths.lab / folder).mkdir(parents=True)
        for host in settings.HOSTS:
            described = {
                "lab": paths.name, "host": host.name, "substrate": made.substrate,
                "cgroup": paths.cgroup, "instances": f"/var/lib/lab/instances/{host.name}",
                "trees": "/var/cache/lab",
                "ovs": {"db": host.ovsdb, "integration_bridge": "br-int"}, "pfs": host.pfs(),
            }  # fmt: skip
            files.write_one(paths.lab / f"hosts/{host.name}.json", json.dumps(described, indent=1))
            for folder in (f"hosts/{host.name}/nova", f"instances/{host.name}"):
                (paths.lab / folder).mkdir(parents=True)
        files.write(paths.lab / "etc", template.etc(made))
        # Nova's WSGI entry point wants its paste file beside nova.conf.
        shutil.copy(trees["stack"] / "etc/nova/api-paste.ini", paths.lab / "etc/nova")
        files.write_one(paths.lab / "settings.json", json.dumps(made.as_dict(), indent=1))

    def _bootstrap(self) -> None:
        key = self.paths.inside(self.paths.keys / "octavia_ssh_key")
        self.runtime.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "octavia", "-f", str(key)]
        )
        programs_needed = [programs.DATABASE, programs.KEYSTONE]
        self.runtime.run(
            ["python3", "-S", "/opt/lab/sriov_lb_lab/awaits.py", *programs_needed, "--",
             PYTHON, "-m", "sriov_lb_lab.bootstrap"]
        )  # fmt: skip

    def _settings(self) -> settings.Settings:
        return settings.Settings.from_dict(
            json.loads((self.paths.lab / "settings.json").read_text())
        )

    def _await_health(self, progress: Progress, timeout: float = 180) -> None:
        deadline = time.monotonic() + timeout
        while True:
            unwell = self.health()["unwell"]
            if not unwell:
                return
            if time.monotonic() > deadline:
                raise ServiceError(self.describe(unwell), "see 'sriov-lb-lab status' and 'logs'")
            progress("services", "waiting for " + ", ".join(sorted(unwell)))
            # Each question costs a second of processor that the starting services need.
            time.sleep(2)

    # -- status --------------------------------------------------------------------------------

    def health(self) -> dict[str, Any]:
        """What :mod:`sriov_lb_lab.health` says, from inside.

        :raises NotRunning: there is no lab to ask.
        """
        return json.loads(self.runtime.run([PYTHON, "-m", "sriov_lb_lab.health"], timeout=120))

    def describe(self, unwell: dict[str, str], lines: int = 8) -> str:
        """Each unwell service with its reason and the end of its log."""
        parts = []
        for name, reason in sorted(unwell.items()):
            tail = "\n".join(f"      {line}" for line in self.tail(name, lines))
            parts.append(f"{name}: {reason}\n{tail}")
        return "not well:\n  " + "\n  ".join(parts)

    def tail(self, service: str, lines: int) -> list[str]:
        """The last lines of a service's log.

        :raises LabError: there is no such log; the message lists those there are.
        """
        log = self.paths.logs / f"{service}.log"
        if not log.exists():
            known = sorted(path.stem for path in self.paths.logs.glob("*.log"))
            raise LabError(f"no log of {service!r}", "there are: " + ", ".join(known))
        with log.open("rb") as stream:
            # A kilobyte a line is more than enough, and a log may be large.
            stream.seek(max(0, log.stat().st_size - 1024 * lines))
            return stream.read().decode(errors="replace").splitlines()[-lines:]

    # -- down ----------------------------------------------------------------------------------

    def down(self) -> bool:
        """End the lab and remove what is left of it; logs stay. False when none was running."""
        with self._locked():
            running = self.runtime.pid() is not None
            self.runtime.stop()
            self.runtime.remove_leftovers()
            return running

    def purge(self) -> None:
        """``down``, and remove the lab's folder with its logs."""
        self.down()
        with self._locked():
            if self.paths.lab.exists():
                shutil.rmtree(self.paths.lab)
