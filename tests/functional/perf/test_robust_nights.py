# SPDX-License-Identifier: Apache-2.0
"""Nights that go wrong: two at once, a full disk, kill -9 at any moment. The history survives."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time

import pytest
import yaml

import sriov_lb_perf
import sriov_lb_tests
from sriov_lb_perf.history.store import History
from sriov_lb_perf.results import store

PROFILE = {
    "name": "tiny",
    "title": "Tiny",
    "time_limit": 60,
    "margin": 0.2,
    "limits": {"steal": 1.0, "failed": 0.01},
    "stages": [
        {
            "name": "requests", "title": "Request rate", "engine": "http-rate", "seconds": 0.2,
            "warmup": 0.1, "blocks": 2, "parameters": {"connections": 8},
        },
    ],
}  # fmt: skip

ROOTS = [os.path.dirname(os.path.dirname(m.__file__)) for m in (sriov_lb_perf, sriov_lb_tests)]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(ROOTS)}


@pytest.fixture(scope="module")
def described(bed, tmp_path_factory):
    """A folder with tiny.yaml and targets.yaml."""
    folder = tmp_path_factory.mktemp("described")
    url = bed.vip("robust", 88)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(PROFILE))
    targets = {
        "substrate": "none",
        "vips": {name: {"url": url} for name in ("normal", "sriov")},
        "clients": [{"name": "client", "namespace": bed.client}],
    }
    (folder / "targets.yaml").write_text(yaml.safe_dump(targets))
    return folder


def nightly(described, folder) -> list[str]:
    return [
        sys.executable, "-m", "sriov_lb_perf.cli", "nightly", "--quiet",
        "--profile", str(described / "tiny.yaml"), "--targets", str(described / "targets.yaml"),
        "--artifacts", str(folder / "runs"), "--history", str(folder / "history.sqlite"),
        "--site", str(folder / "site"),
    ]  # fmt: skip


def start(argv, **more) -> subprocess.Popen:
    return subprocess.Popen(
        argv, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more
    )


def await_file(pattern, folder, process, seconds=60):
    """Until a file of that pattern is there, or the process has ended."""
    deadline = time.monotonic() + seconds
    while not list(folder.glob(pattern)):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, f"no {pattern}"
        time.sleep(0.02)


@pytest.mark.series
def test_the_second_of_two_nightlies_is_refused_and_the_first_is_none_the_worse(
    described, tmp_path
):
    first = start(nightly(described, tmp_path))
    try:
        await_file("runs/*/result.json", tmp_path, first)
        second = start(nightly(described, tmp_path))
        said, _ = second.communicate(timeout=60)
        assert second.returncode == 2 and f"in use by process {first.pid}" in said, said
        assert "Traceback" not in said and "Wait for the other run" in said
        output, _ = first.communicate(timeout=120)
    finally:
        first.kill()
        first.wait()
    # Six sound runs are needed before anything is said, so the first night ends with 2 as well.
    assert first.returncode == 2 and "of at least 6 sound runs" in output, output
    assert len(list((tmp_path / "runs").glob("2*"))) == 1
    with History(tmp_path / "history.sqlite") as history:
        assert [run["status"] for run in history.runs()] == ["complete"]


#: Runs with a file system of its own at argv[1]; fills it when the first blocks are on disk.
FULL = """
import os, subprocess, sys, time
from pathlib import Path
small, size, argv = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=" + size, "tmpfs", str(small)], check=True)
child = subprocess.Popen(argv)
def documents():
    return [p for p in small.glob("runs/*/result.json") if p.stat().st_size > 20_000]
while child.poll() is None and not documents():
    time.sleep(0.01)
filler = None
if child.poll() is None:
    with open(small / "filler", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError as error:
            filler = error.errno
status = child.wait()
print("STATUS", status, "FILLED", filler)
if filler:
    os.unlink(small / "filler")
subprocess.run(["cp", "-a", str(small) + "/.", str(small) + "-after"], check=True)
"""


def on_a_small_disk(described, tmp_path, size):
    """(exit status, output, what is on the disk afterwards)"""
    small = tmp_path / "small"
    small.mkdir()
    (tmp_path / "small-after").mkdir()
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", FULL, str(small), size,
         *nightly(described, small)],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    words = done.stdout.split("STATUS ")[1].split()
    return int(words[0]), said, words[2], tmp_path / "small-after"


def test_a_disk_that_is_nearly_full_is_refused_before_anything_is_measured(described, tmp_path):
    status, said, _, after = on_a_small_disk(described, tmp_path, "20m")
    assert status == 2 and "MiB free" in said and "--artifacts" in said, said
    assert "Traceback" not in said
    assert not list(after.glob("runs/*"))


def test_a_disk_that_fills_up_in_mid_run_is_named_and_what_was_written_is_whole(
    described, tmp_path
):
    status, said, filled, after = on_a_small_disk(described, tmp_path, "80m")
    assert filled == "28", said  # the control: it was full
    assert status == 2 and "No space left on device" in said, said
    assert "Traceback" not in said and "Free disk space" in said
    (path,) = after.glob("runs/*/result.json")
    document = store.load(path)
    assert document["status"] == "incomplete" and document["trials"]
    for trial in document["trials"]:
        place = trial["raw"]["hlog"]
        assert (path.parent / place["file"]).is_file()
    with History(after / "history.sqlite") as history:
        assert history.runs() == []


@pytest.mark.series
def test_kill_9_at_any_moment_leaves_whole_results_and_a_whole_history(described, tmp_path):
    """Killed at moments spread over a night's length, most of them near its end, where it is
    stored and published; one night is left alone."""
    seen = set()
    length = None
    for share in (None, 0.4, 0.85, 0.95):
        before = set(tmp_path.glob("runs/*/result.json"))
        process = start(nightly(described, tmp_path))
        try:
            while not set(tmp_path.glob("runs/*/result.json")) - before:
                assert process.poll() is None, process.communicate()[0]
                time.sleep(0.005)
            began = time.monotonic()
            if length is None:
                process.wait(120)
                length = time.monotonic() - began
            else:
                with contextlib.suppress(subprocess.TimeoutExpired):  # it was faster this time
                    process.wait(share * length)
        finally:
            process.kill()
            process.communicate()
        (path,) = set(tmp_path.glob("runs/*/result.json")) - before
        document = store.load(path)
        assert (document["status"] == "complete") == (document["reason"] == "")
        with History(tmp_path / "history.sqlite", writing=True) as history:
            for run in history.runs():
                assert history.figures(run["n"]), run
                assert run["status"] == "complete"
            stored = {run["id"] for run in history.runs()}
        # Complete and not stored: killed between the two; `history add` makes up for it.
        seen.add((document["status"], document["id"] in stored, process.returncode))
    assert ("incomplete", False, -9) in seen and ("complete", True, 2) in seen, seen
    assert not [*tmp_path.glob("site/*.html.*"), *tmp_path.glob("site/runs/*/.index*")]
    json.loads((tmp_path / "site" / "latest.json").read_text())
