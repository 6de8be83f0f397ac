# SPDX-License-Identifier: Apache-2.0
"""What this machine and this process did while a job ran."""

from __future__ import annotations

import time

from .recording import clock


class Health:
    """What this process and this machine did between ``start`` and ``stop``."""

    NET = ("RetransSegs", "InErrs", "OutRsts")

    def start(self) -> None:
        self._wall = clock()
        self._cpu = time.process_time_ns()
        self._sched = _schedstat()
        self._stat = cpu_times()
        self._tcp = _snmp_tcp()
        self._offset = clock_offset()
        self._softnet = _softnet()

    def stop(self) -> dict:
        """Shares are of one core and of the wall time; ``machine`` shares are of all cores."""
        wall = max(1, clock() - self._wall)
        stat = cpu_times()
        ticks = max(1, sum(stat) - sum(self._stat))
        delta = [b - a for a, b in zip(self._stat, stat)]  # noqa: B905 (3.8)
        sched = _schedstat()
        tcp = _snmp_tcp()
        step = clock_offset() - self._offset
        softnet = _softnet()
        return {
            "cpu_share": round((time.process_time_ns() - self._cpu) / wall, 4),
            "waiting_for_cpu_share": (
                None
                if sched is None or self._sched is None
                else round((sched - self._sched) / wall, 4)
            ),
            "machine_busy_share": round(1 - (delta[3] + delta[4]) / ticks, 4),
            "machine_steal_share": round(delta[7] / ticks, 4),
            # Slewing (at most 500 ppm) is no step, and neither is a preempted reading.
            "clock_step_ns": step if abs(step) > 2_000_000 + wall // 2000 else 0,
            "tcp": {name: tcp.get(name, 0) - self._tcp.get(name, 0) for name in self.NET},
            "backlog_drops": softnet[0] - self._softnet[0],
            "wall_s": wall / 1e9,
        }


def clock_offset() -> int:
    """Wall clock minus monotonic clock, ns; the reading least disturbed out of five."""
    best = None
    for _ in range(5):
        before = clock()
        wall = time.time_ns()
        width = clock() - before
        if best is None or width < best[0]:
            best = (width, wall - before - width // 2)
    return best[1]


def read_file(path: str) -> str:
    """A small file of /proc or /sys, "" where this kernel has none."""
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""


def _schedstat():
    """Nanoseconds this process was runnable and did not run; None where not offered."""
    words = read_file("/proc/self/schedstat").split()
    return int(words[1]) if len(words) > 1 else None


def cpu_times() -> list:
    """user nice system idle iowait irq softirq steal, in ticks, all CPUs together."""
    words = read_file("/proc/stat").split("\n", 1)[0].split()[1:9]
    values = [int(word) for word in words]
    return values + [0] * (8 - len(values))


def _snmp_tcp() -> dict:
    """The Tcp counters of /proc/net/snmp of this network namespace."""
    rows = [line.split() for line in read_file("/proc/net/snmp").split("\n") if line[:4] == "Tcp:"]
    if len(rows) < 2:
        return {}
    return dict(zip(rows[0][1:], map(int, rows[1][1:])))  # noqa: B905 (3.8)


def _softnet() -> tuple:
    """(packets dropped because the backlog was full, times the budget ran out)"""
    dropped = squeezed = 0
    for line in read_file("/proc/net/softnet_stat").split("\n"):
        words = line.split()
        if len(words) > 2:
            dropped += int(words[1], 16)
            squeezed += int(words[2], 16)
    return dropped, squeezed
