# SPDX-License-Identifier: Apache-2.0
"""A worker's end of one engine: jobs in, what is due for locust's reports out.

Used inside locust processes (gevent), but imports neither, so that it can be tested plainly.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping

from ..histogram import Histogram

#: Seconds between a worker's reports to the master. locust's 3 s would be added to every trial.
REPORT_INTERVAL = 0.1


class Station:
    """Runs jobs on an engine behind a socket and collects what it reports.

    :param link: a connected stream socket to the engine (greeting already read).
    :param name: of the worker.
    """

    def __init__(self, link: socket.socket, name: str) -> None:
        self.name = name
        self._link = link
        self._buffer = b""
        self._due: list[dict] = []

    def run(self, trial: int, job: Mapping, on_tick: Callable[[Histogram], None]) -> dict:
        """Run one job to its end; ``on_tick`` gets the durations of each report.

        :return: the final report.
        """
        self._send(job)
        while True:
            report = self._read()
            histograms = take_histograms(report)
            final = report["report"] != "tick"
            self._due.append(
                {
                    "trial": trial,
                    "worker": self.name,
                    "final": final,
                    "histograms": {name: h.encode() for name, h in histograms.items()},
                    "report": report,
                }
            )
            # Whichever this kind of job has: closed, connect, open.
            for name in ("latency", "last_byte", "response"):
                if len(histograms.get(name) or ()):
                    on_tick(histograms[name])
                    break
            if final:
                return report

    def stop(self) -> None:
        """End the job under way."""
        self._send({"job": "stop"})

    def take(self) -> list[dict]:
        """What has not been reported yet."""
        due, self._due = self._due, []
        return due

    def _send(self, message: Mapping) -> None:
        self._link.sendall((json.dumps(message) + "\n").encode())

    def _read(self) -> dict:
        while b"\n" not in self._buffer:
            try:
                data = self._link.recv(1 << 16)
            except OSError:
                data = b""
            if not data:
                return {"report": "error", "kind": "lost", "message": "the engine is gone"}
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)


def take_histograms(report: dict) -> dict[str, Histogram]:
    """Removes the sparse histograms of an agent's report and returns them by name."""
    found = {}
    if report.get("latency") is not None:
        found["latency"] = Histogram.of_sparse(report.pop("latency"))
    for group in ("times", "binned"):
        for name, sparse in (report.pop(group, None) or {}).items():
            if sparse is not None:
                found[name] = Histogram.of_sparse(sparse)
    return found
