# SPDX-License-Identifier: Apache-2.0
"""The link to the tester: jobs in, reports out."""

from __future__ import annotations

import json
import os
import platform
import select

from . import PROTOCOL
from .closed import run_closed
from .command import run_command
from .connect import run_connect
from .dial import run_dial
from .download import run_download
from .errors import JobError
from .facts import run_facts
from .fetch import run_fetch
from .hold import run_hold
from .open_loop import run_open
from .udp import run_udp


class Link:
    """Jobs in, reports out, one JSON object per line."""

    def __init__(self, reading: int, writing: int) -> None:
        self._reading = reading
        self._writing = writing
        self._buffer = b""

    def report(self, what, /, **fields) -> None:
        data = (json.dumps({"report": what, **fields}, separators=(",", ":")) + "\n").encode()
        while data:
            data = data[os.write(self._writing, data) :]

    def next_job(self):
        """The next job, or None when the tester hung up."""
        while b"\n" not in self._buffer:
            data = os.read(self._reading, 65536)
            if not data:
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    @property
    def descriptor(self) -> int:
        """What becomes readable when a job is to end; see :meth:`interrupted`."""
        return self._reading

    def check(self) -> None:
        """:raises JobError: the job is to end before it began."""
        if b"\n" in self._buffer:
            # It came together with the job, so the descriptor will not become readable.
            _, _, self._buffer = self._buffer.partition(b"\n")
            raise JobError("stopped", "the tester stopped the job before it began")

    def watch(self, poller, recvs) -> None:
        """During a job anything on stdin ends it: a ``stop`` line, or the tester hanging up."""
        self.check()
        try:
            poller.register(self._reading, select.EPOLLIN)
        except (OSError, PermissionError):
            return  # a file, as in a test: it cannot hang up
        recvs[self._reading] = self.interrupted

    def interrupted(self, _size=0):
        data = os.read(self._reading, 65536)
        self._buffer += data
        if data:
            _, _, self._buffer = self._buffer.partition(b"\n")
        raise JobError("stopped", "the tester stopped the job" if data else "the tester hung up")


JOBS = {
    "facts": run_facts,
    "fetch": run_fetch,
    "closed": run_closed,
    "command": run_command,
    "open": run_open,
    "connect": run_connect,
    "dial": run_dial,
    "download": run_download,
    "hold": run_hold,
    "udp": run_udp,
}


def serve(reading: int = 0, writing: int = 1) -> int:
    """Does jobs until the tester hangs up."""
    try:
        return _serve(Link(reading, writing))
    except BrokenPipeError:
        return 0  # it hung up in the middle of a job: there is nobody left to tell


def _serve(link) -> int:
    link.report("hello", protocol=PROTOCOL, python=platform.python_version(), pid=os.getpid())
    while True:
        job = link.next_job()
        if job is None or job.get("job") == "quit":
            return 0
        if job.get("job") == "stop":
            continue  # crossed the end of the job it was meant for
        try:
            action = JOBS.get(job.get("job"))
            if action is None:
                raise JobError("job", f"unknown job {job.get('job')!r}; known: {sorted(JOBS)}")
            if job.get("cpu") is not None:
                os.sched_setaffinity(0, {job["cpu"]})
            link.report("done", job=job["job"], **action(job, link))
        except JobError as error:
            link.report("error", job=job.get("job"), kind=error.kind, message=str(error))
        except (KeyError, TypeError, ValueError) as error:
            link.report("error", job=job.get("job"), kind="job", message=f"bad job: {error!r}")
        except OSError as error:
            link.report("error", job=job.get("job"), kind="system", message=str(error))
