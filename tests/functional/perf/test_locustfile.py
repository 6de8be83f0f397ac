# SPDX-License-Identifier: Apache-2.0
"""The locustfile alone, with locust's own command line and web server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import sriov_lb_perf
import sriov_lb_tests

LOCUSTFILE = Path(sriov_lb_perf.__file__).parent / "swarm" / "vip_load.py"


@pytest.fixture(scope="module")
def url(bed):
    return bed.vip("locustfile", 140)


def locust(bed, url: str, *options: str) -> subprocess.Popen:
    roots = [os.path.dirname(os.path.dirname(m.__file__)) for m in (sriov_lb_perf, sriov_lb_tests)]
    return subprocess.Popen(
        ["ip", "netns", "exec", bed.client, sys.executable, "-m", "locust", "-f", str(LOCUSTFILE),
         "--host", url, "-u", "1", *options],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(roots)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def statistics_of(process: subprocess.Popen) -> dict:
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors[-800:]
    entries = json.loads(said[said.index("[") : said.rindex("]") + 1])
    assert len(entries) == 1, entries
    return entries[0]


@pytest.mark.series
def test_the_open_loop_follows_a_schedule_of_ramps_and_steps(bed, url):
    """A ramp to 400/s in 1 s and a step of 200/s for 1 s are 400 requests, each time."""
    options = ["--headless", "-t", "5s", "--json", "--vip-mode", "open", "--vip-schedule",
               "0:400:1,200:200:1"]  # fmt: skip
    entry = statistics_of(locust(bed, url, *options))
    assert entry["num_failures"] == 0
    assert entry["num_requests"] >= 400 and entry["num_requests"] % 400 == 0, entry


def test_its_web_server_shows_what_the_engine_does(bed, url):
    """Closed loop, through the namespace's loopback: more requests than greenlets could make."""
    process = locust(bed, url, "--autostart", "--web-host", "127.0.0.1", "--web-port", "18089")
    ask = (
        "import json, urllib.request as u; "
        "print(u.urlopen('http://127.0.0.1:18089/stats/requests', timeout=5).read().decode())"
    )
    try:
        deadline = time.monotonic() + 40
        total = 0
        while total < 2000:
            assert process.poll() is None and time.monotonic() < deadline, total
            done = subprocess.run(
                ["ip", "netns", "exec", bed.client, sys.executable, "-c", ask],
                capture_output=True, text=True,
            )  # fmt: skip
            if done.returncode == 0:
                stats = json.loads(done.stdout)["stats"]
                total = next(each["num_requests"] for each in stats if each["name"] == "Aggregated")
            time.sleep(0.3)
    finally:
        process.terminate()
        process.communicate(timeout=20)


def test_a_schedule_that_is_none_is_told(bed, url):
    process = locust(bed, url, "--headless", "-t", "3s", "--vip-mode", "open",
                     "--vip-schedule", "5:5")  # fmt: skip
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "--vip-schedule: '5:5' is not FIRST:LAST:SECONDS" in errors, errors[-500:]
