# SPDX-License-Identifier: Apache-2.0
"""The tester's end of the swarm: starts the locust processes, gives them trials, hears them.

Imports no locust: everything goes through pipes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import sriov_lb_tests

from .. import errors
from ..clients import Generator, job_error
from ..histogram import Histogram

LOG = logging.getLogger(__name__)

JOIN_SECONDS = 60.0


class Bridge:
    """Carries bytes between an engine's channel and a socket a child process can inherit."""

    def __init__(self, generator: Generator) -> None:
        self.generator = generator
        self._ours, self.theirs = socket.socketpair()
        self._threads = [
            threading.Thread(target=target, daemon=True, name=f"{target.__name__} {generator.name}")
            for target in (self._towards, self._back)
        ]

    def start(self) -> None:
        """To be called once the child holds its copy of ``theirs``."""
        self.theirs.close()
        for thread in self._threads:
            thread.start()

    def _towards(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._ours.recv(1 << 16):
                self.generator.channel.send(data)

    def _back(self) -> None:
        while True:
            try:
                data = self.generator.channel.receive(1 << 16, 3600.0)
                if not data:
                    break
                self._ours.sendall(data)
            except TimeoutError:
                continue
            except (OSError, EOFError, ValueError):
                break
        # The worker reads the end of file and reports its engine as lost.
        with contextlib.suppress(OSError):
            self._ours.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.generator.close()
        with contextlib.suppress(OSError):
            self._ours.shutdown(socket.SHUT_RDWR)
        self._ours.close()


@dataclass(frozen=True)
class SwarmReport:
    """What one trial came to: a final report per worker, and their merged durations."""

    reports: Mapping[str, dict]
    histograms: Mapping[str, Histogram]
    ticks: Sequence[dict]


class Swarm:
    """A locust master, one worker per generator. Use as a context manager.

    :param generators: started engines, by worker name; the swarm owns them from now on.
    :param logs: folder for the processes' logs.
    :param web_port: serve locust's web UI there.
    """

    def __init__(
        self, generators: Mapping[str, Generator], logs: Path, *, web_port: int | None = None
    ) -> None:
        self._bridges = {name: Bridge(generator) for name, generator in generators.items()}
        self._logs = logs
        self._web_port = web_port
        self._master: subprocess.Popen | None = None
        self._workers: dict[str, subprocess.Popen] = {}
        self._buffer = b""
        self._number = 0
        self._ticks: list[dict] = []

    @property
    def workers(self) -> list[str]:
        return list(self._bridges)

    def __enter__(self) -> Swarm:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_exc) -> None:
        self.close()

    def _start(self) -> None:
        self._logs.mkdir(parents=True, exist_ok=True)
        argv = ["--expect", str(len(self._bridges))]
        if self._web_port is not None:
            argv += ["--web-port", str(self._web_port)]
        self._master = self._spawn("master", argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        deadline = time.monotonic() + JOIN_SECONDS
        port = self._await("ready", deadline)["port"]
        for name, bridge in self._bridges.items():
            descriptor = bridge.theirs.fileno()
            self._workers[name] = self._spawn(
                "worker",
                ["--port", str(port), "--link", str(descriptor), "--name", name],
                log=f"worker-{name}",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(descriptor,),
            )
            bridge.start()
        self._await("running", deadline)

    def _spawn(self, module: str, argv: Sequence[str], *, log: str | None = None, **streams):
        environment = dict(os.environ)
        # The child must find the packages even where they are not installed.
        roots = [str(Path(__file__).parents[2]), str(Path(sriov_lb_tests.__file__).parents[1])]
        inherited = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = os.pathsep.join(roots + ([inherited] if inherited else []))
        with open(self._logs / f"{(log or module).replace('/', '_')}.log", "ab") as stderr:
            return subprocess.Popen(
                [sys.executable, "-m", f"sriov_lb_perf.swarm.{module}", *argv],
                env=environment,
                stderr=stderr,
                # A Ctrl-C in the terminal is for the tester, which then ends them in order.
                start_new_session=True,
                **streams,
            )

    # events of the master

    def _await(self, wanted: str, deadline: float, trial: int | None = None) -> dict:
        joined: set[str] = set()
        while True:
            event = self._next(deadline)
            if event is None:
                missing = sorted(set(self._bridges) - joined)
                what = (
                    f"worker {', '.join(missing)} did not join"
                    if wanted == "running"
                    else f"no {wanted!r} event came"
                )
                raise errors.WorkerFailed(f"locust: {what} in time. {self._diagnosis()}")
            if event["event"] == "joined":
                joined.add(event["worker"])
            elif event["event"] == "tick":
                self._ticks.append(event)
            elif event["event"] == wanted and (trial is None or event["trial"] == trial):
                return event

    def _next(self, deadline: float) -> dict | None:
        out = self._master.stdout.fileno()
        while b"\n" not in self._buffer:
            self._check_alive()
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            if not select.select([out], [], [], min(left, 0.5))[0]:
                continue
            data = os.read(out, 1 << 20)
            if not data:
                self._check_alive(grace=5.0)
                raise errors.WorkerFailed(f"The locust master hung up. {self._diagnosis()}")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def _check_alive(self, grace: float = 0.0) -> None:
        for name, process in [("master", self._master), *self._workers.items()]:
            if grace and name == "master":
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(grace)
            if process.poll() is not None:
                raise errors.WorkerFailed(
                    f"locust: {name} ended with status {process.returncode}. {self._diagnosis()}"
                )

    def _diagnosis(self) -> str:
        """The end of each log that has anything."""
        said = []
        for path in sorted(self._logs.glob("*.log")):
            text = path.read_text(errors="replace").strip()
            if text:
                said.append(f"{path.name}: …{text[-300:]}")
        return " | ".join(said) or "Their logs are empty."

    # trials

    def begin(self, jobs: Mapping[str, Mapping]) -> int:
        """Hand out jobs by worker name; returns the trial's number for :meth:`finish`."""
        self._number += 1
        self._ticks = []
        self._order({"trial": self._number, "jobs": dict(jobs)})
        return self._number

    def await_progress(self, seconds: float = 10.0) -> None:
        """Until every worker has reported progress on the trial handed out.

        :raises WorkerFailed: not in time, or the trial ended without any.
        :raises TargetFailed, ClientFailed, EngineFailed: what an engine found out.
        """
        deadline = time.monotonic() + seconds
        while {tick["worker"] for tick in self._ticks} < set(self._bridges):
            event = self._next(deadline)
            if event is None:
                raise errors.WorkerFailed(
                    f"locust: no progress of trial {self._number} within {seconds:g} s. "
                    f"{self._diagnosis()}"
                )
            if event["event"] == "tick":
                self._ticks.append(event)
            elif event["event"] == "trial" and event["trial"] == self._number:
                # Over already: most often because an engine could not begin, and says why.
                self._check(event["reports"])
                raise errors.WorkerFailed(
                    f"locust: trial {self._number} ended before any progress was told of it. "
                    f"{self._diagnosis()}"
                )

    def finish(self, number: int, seconds: float) -> SwarmReport:
        """Wait for all workers.

        :param seconds: what the jobs take; fifteen more are allowed for the way.
        :raises WorkerFailed: a process died or went silent.
        :raises TargetFailed, ClientFailed, EngineFailed: what an engine found out.
        """
        event = self._await("trial", time.monotonic() + seconds + 15.0, trial=number)
        self._check(event["reports"])
        return SwarmReport(
            event["reports"],
            {name: Histogram.decode(text) for name, text in event["histograms"].items()},
            list(self._ticks),
        )

    def _check(self, reports: Mapping[str, Mapping]) -> None:
        """:raises TargetFailed, ClientFailed, EngineFailed: what an engine found out."""
        for worker, report in reports.items():
            if report["report"] == "error":
                if report["kind"] == "lost":
                    raise errors.EngineFailed(
                        f"The engine of worker {worker} was lost during a trial. "
                        f"{self._bridges[worker].generator.channel.diagnosis()}"
                    )
                raise job_error(worker, report)

    def run(self, jobs: Mapping[str, Mapping], seconds: float) -> SwarmReport:
        """:meth:`begin` and :meth:`finish`."""
        return self.finish(self.begin(jobs), seconds)

    def stop(self) -> None:
        """End the trial under way; its reports will say so."""
        self._order({"stop": True})

    def _order(self, order: Mapping) -> None:
        self._check_alive()
        try:
            self._master.stdin.write((json.dumps(order) + "\n").encode())
            self._master.stdin.flush()
        except OSError as error:
            raise errors.WorkerFailed(
                f"The locust master takes no orders: {error}. {self._diagnosis()}"
            ) from error

    def close(self) -> None:
        """End everything, the master first; what does not end is killed."""
        if self._master is not None:
            with contextlib.suppress(OSError):  # it is gone already
                self._master.stdin.close()
        for bridge in self._bridges.values():
            bridge.close()
        processes = [*self._workers.values(), *([self._master] if self._master else [])]
        deadline = time.monotonic() + 5.0
        for process in processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                LOG.warning("locust process %d did not end by itself; killed", process.pid)
                process.kill()
                process.wait(5.0)
        if self._master is not None:
            self._master.stdout.close()
