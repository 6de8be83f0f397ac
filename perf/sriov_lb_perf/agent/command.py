# SPDX-License-Identifier: Apache-2.0
"""One command of this machine, and how it and the machine were meanwhile."""

from __future__ import annotations

import collections
import os
import resource
import select
import subprocess
import time

from .errors import JobError
from .machine import Health, read_file

#: Where this process may run before a job pins it: a command is not to be pinned with it.
CPUS = os.sched_getaffinity(0)
LOOK = 1.0  # s, between two looks at how long the command's threads had to wait for a CPU


def run_command(job: dict, link) -> dict:
    """``argv``, to its end or until ``timeout`` s have passed.

    ``health`` is that of other jobs, but ``cpu_share`` and ``waiting_for_cpu_share`` are the
    command's, all its threads together. What threads waited that end before the command does is
    known up to the last look.

    :raises JobError: it did not end in time.
    """
    argv, timeout = job["argv"], job["timeout"]
    health = Health()
    poller = select.epoll()
    recvs = collections.defaultdict(lambda: None)
    link.watch(poller, recvs)
    used = _cpu()
    deadline = time.monotonic() + timeout
    health.start()
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: os.sched_setaffinity(0, CPUS),
    )
    out, err = process.stdout.fileno(), process.stderr.fileno()
    said = {out: b"", err: b""}
    waited = {}  # thread -> ns it was ready to run and did not
    try:
        speaking = set(said)
        for fd in said:
            poller.register(fd, select.EPOLLIN)
        while speaking:
            left = deadline - time.monotonic()
            if left <= 0:
                raise JobError("system", f"{argv[0]} did not end within {timeout:g} s")
            for fd, _flags in poller.poll(min(left, LOOK)):
                if fd not in said:
                    recvs[fd](0)
                    continue
                data = os.read(fd, 1 << 16)
                said[fd] += data
                if not data:
                    poller.unregister(fd)
                    speaking.discard(fd)
            waited.update(_waited(process.pid))
        # Ended and not yet waited for, it still has its figures.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        waited.update(_waited(process.pid))
        vitals = health.stop()
        status = process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()
        process.stderr.close()
        poller.close()
    wall = vitals["wall_s"]
    vitals["cpu_share"] = round((_cpu() - used) / wall, 4)
    vitals["waiting_for_cpu_share"] = (
        round(sum(waited.values()) / 1e9 / wall, 4) if waited else None
    )
    return {
        "status": status,
        "stdout": said[out].decode("utf-8", "replace"),
        "stderr": said[err].decode("utf-8", "replace"),
        "health": vitals,
    }


def _cpu() -> float:
    """CPU time of this process's children that have ended, s."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _waited(pid: int) -> dict:
    """thread -> ns that it was ready to run and did not; empty where that is not offered."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:  # it has just been waited for
        return {}
    words = {each: read_file(f"/proc/{pid}/task/{each}/schedstat").split() for each in threads}
    return {each: int(found[1]) for each, found in words.items() if len(found) > 1}
