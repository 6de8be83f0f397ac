# SPDX-License-Identifier: Apache-2.0
"""The host never sees the lab, and nothing of it stays (run last: it ends the session's lab)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


def _differences(before, after):
    """Readable differences of two stocks, empty if there are none."""
    found = []
    for key, was in before.items():
        now = after[key]
        if was == now:
            continue
        if isinstance(was, dict):
            changed = {name for name in {*was, *now} if was.get(name) != now.get(name)}
            found.append(f"{key}: {sorted(changed)[:10]}")
        else:
            found.append(f"{key}: new {sorted(set(now) - set(was))[:10]}, "
                         f"gone {sorted(set(was) - set(now))[:10]}")  # fmt: skip
    return found


def test_the_stock_notices_what_a_lab_could_leave(host_state):
    """The control of the tests below: a link, a cgroup and a file that stay are seen."""
    old = host_state()
    cgroup = _some_cgroup() + "/stock-control"
    os.system("ip link add stock-control type veth peer name stock-peer")
    os.mkdir(cgroup)
    open("/run/stock-control", "w").close()
    try:
        found = _differences(old, host_state())
    finally:
        os.system("ip link del stock-control")
        os.rmdir(cgroup)
        os.unlink("/run/stock-control")
    for key in ("links", "cgroups", "files"):
        assert any(line.startswith(key) and "stock-control" in line for line in found), found


def _some_cgroup():
    for name in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup"):
        if os.path.exists(f"{name}/cgroup.controllers"):
            return name
    return "/sys/fs/cgroup/systemd"


def test_while_it_runs_the_host_sees_nothing_of_its_network(lab, before, host_state):
    now = host_state()
    for key in ("links", "addresses", "netns", "mounts", "listeners"):
        assert now[key] == before[key], _differences({key: before[key]}, {key: now[key]})
    # The control of the test below: what the lab consists of is seen.
    for key in ("processes", "namespaces", "cgroups"):
        assert len(now[key]) > len(before[key])


def test_after_kill_9_and_down_the_host_is_as_before(lab, before, host_state, wait):
    """With an instance running, so that there are containers, VFs and cgroups to leave behind."""
    server = lab.inside(
        lab.cloud.compute.create_server, name="killed", networks="none",
        image_id=lab.facts["id_image_guest"], flavor_id=lab.facts["id_flavor_guest"],
    )  # fmt: skip
    lab.inside(lab.cloud.compute.wait_for_server, server, wait=120)
    pid = json.loads(lab.command("status", "--json").stdout)["pid"]
    os.kill(pid, signal.SIGKILL)
    wait(lambda: os.path.exists(f"/proc/{pid}"), False, 20)
    assert lab.command("status").returncode == 3
    began = time.monotonic()
    done = lab.command("down")
    took = time.monotonic() - began
    assert done.returncode == 0, done.stdout
    assert took <= 15
    wait(lambda: _differences(before, host_state()), [], 20)


@pytest.fixture
def second(lab_class):
    """A lab that is taken down while it starts."""
    made = lab_class("check-down")
    yield made
    made.command("purge")


def test_down_in_the_middle_of_up(second, before, host_state, wait):
    """`down` of a half-started lab: what `up` was doing ends with an error, and nothing stays."""
    command = [str(Path(sys.executable).parent / "sriov-lb-lab"), "--name", second.name, "up"]
    up = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        # A shell that started these tests in the background had them ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    for line in up.stdout:
        if "bootstrap:" in line:
            break
    up.send_signal(signal.SIGINT)
    rest = up.communicate(timeout=60)[0]
    assert up.returncode != 0
    assert "ending what was started" in rest
    assert second.command("status").returncode == 3
    done = second.command("down")
    assert done.returncode == 0, done.stdout
    wait(lambda: _differences(before, host_state()), [], 20)
