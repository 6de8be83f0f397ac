# SPDX-License-Identifier: Apache-2.0
"""A run that is killed without a word leaves nothing behind, once `sriov-lb cleanup` was there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent

# What the journal must hold when the run is killed: (operation, kind of resource).
POINTS = {
    "a server was just asked for": ("intent", "server"),
    "a load balancer is being built": ("made", "load_balancer"),
    "a listener exists": ("made", "listener"),
}


def _reached(journals, operation, kind):
    """Whether some journal has the line; a made line has its intent's number only."""
    for journal in journals.glob("*.jsonl"):
        kinds = {}
        for line in journal.read_text().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # being written
            if entry.get("op") == "intent":
                kinds[entry["n"]] = entry["kind"]
            if entry.get("op") == operation and kinds.get(entry.get("n")) == kind:
                return True
    return False


def _family(pid):
    """A process and all its descendants, as the host numbers them."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int(
                (folder / "stat").read_text().rpartition(")")[2].split()[1]
            )
        except OSError:
            continue  # it ended while we looked
    found, new = {pid}, {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new} - found
        found |= new
    return found


@pytest.mark.parametrize("point", POINTS)
def test_killed_when(lab, workspace, inventory, wait, tmp_path, point):
    before = inventory()
    journals = tmp_path / "artifacts" / "journal"
    folder = workspace({})
    run = subprocess.Popen(
        [str(BIN / "sriov-lb-lab"), "--name", lab.name, "exec", "--", str(BIN / "tempest"), "run",
         "--regex", "TestVipFirewall.test_denied_source_ipv4", "--concurrency", "1"],
        cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        wait(lambda: run.poll() is not None or _reached(journals, *POINTS[point]), True, 400, 0.05)
        assert run.poll() is None, "the run ended before it came to that point"
    finally:
        for pid in _family(run.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue  # its parent's death took it along
        run.wait()
    assert inventory() != before, "the run had made nothing yet: the test proves nothing"
    done = lab.exec(["sriov-lb", "cleanup", "--journal-dir", str(journals)])
    print(done.stdout, done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    wait(inventory, before, 60, 2)
    again = lab.exec(["sriov-lb", "cleanup", "--journal-dir", str(journals)])
    assert again.returncode == 0
    assert "Nothing to do" in again.stdout
