# SPDX-License-Identifier: Apache-2.0
"""The test bed itself: what a killed test leaves is taken away by the next one."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

HELD = """
import sys, time
sys.path.insert(0, sys.argv[1])
from testbed import bed
with bed() as made:
    made.listen(("tcp", 80))
    print(made.suffix, flush=True)
    time.sleep(600)
"""


def namespaces(suffix: str) -> list[str]:
    return [path.name for path in Path("/run/netns").glob(f"slbwire-*-{suffix}")]


def inside(suffix: str) -> list[str]:
    said = subprocess.run(
        ["ip", "netns", "pids", f"slbwire-amphora-{suffix}"], capture_output=True, text=True
    )
    return said.stdout.split()


def running(pid: str) -> bool:
    """Not one that is gone, nor one whose end nobody has noticed."""
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_what_a_killed_test_left_is_taken_away_by_the_next_bed_and_nothing_else(testbed):
    holder = subprocess.Popen(
        [sys.executable, "-c", HELD, str(Path(__file__).parent)], stdout=subprocess.PIPE, text=True
    )
    try:
        suffix = holder.stdout.readline().strip()
        (listener,) = inside(suffix)
        with testbed.bed():
            # While its process lives it is somebody's.
            assert len(namespaces(suffix)) == 3 and inside(suffix) == [listener]
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert len(namespaces(suffix)) == 3 and inside(suffix) == [listener]
        with testbed.bed() as made:
            assert namespaces(suffix) == [] and len(namespaces(made.suffix)) == 3
            assert not running(listener)
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
