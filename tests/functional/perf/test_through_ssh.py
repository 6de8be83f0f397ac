# SPDX-License-Identifier: Apache-2.0
"""A comparison from a client behind a jump host, with amphorae that are looked into."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import sriov_lb_perf
import sriov_lb_tests
from sriov_lb_perf.clients import Client
from sriov_lb_tests import errors

PROFILE = {
    "name": "tiny", "title": "Tiny", "time_limit": 60, "margin": 0.2,
    "limits": {"steal": 1.0, "failed": 0.01},
    "stages": [
        {
            "name": "requests", "title": "Request rate", "engine": "http-rate", "seconds": 0.2,
            "warmup": 0.1, "blocks": 2, "parameters": {"connections": 8},
        },
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def server(bed, tmp_path_factory):
    """sshd on the loopback of the client's namespace: jump host, client and amphora in one."""
    path = Path(__file__).parents[1] / "wire" / "sshd.py"
    spec = importlib.util.spec_from_file_location("_perf_sshd", path)
    module = sys.modules["_perf_sshd"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with module.sshd(tmp_path_factory.mktemp("sshd"), namespace=bed.client) as made:
        yield made


def inside(bed, argv, **more):
    """Run a command in the client's namespace."""
    roots = [os.path.dirname(os.path.dirname(m.__file__)) for m in (sriov_lb_perf, sriov_lb_tests)]
    return subprocess.run(
        ["ip", "netns", "exec", bed.client, *argv],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(roots)},
        capture_output=True, text=True, timeout=120, **more,
    )  # fmt: skip


@pytest.mark.series
def test_a_comparison_through_a_jump_host_reads_the_amphorae(bed, server, tmp_path):
    url = bed.vip("jumped", 87)
    ssh = {
        "address": "127.0.0.1", "port": server.port, "user": "root",
        "key_file": str(server.key_file),
    }  # fmt: skip
    # The jump host's key is the same where none is named.
    beyond = {**ssh, "jump": {k: v for k, v in ssh.items() if k != "key_file"}}
    targets = {
        "substrate": "none",
        "vips": {
            name: {"url": url, "amphorae": [{"name": "single", "ssh": beyond}]}
            for name in ("normal", "sriov")
        },
        "clients": [{"name": "client", "ssh": beyond}],
    }
    (tmp_path / "targets.yaml").write_text(yaml.safe_dump(targets))
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(PROFILE))
    done = inside(
        bed,
        [sys.executable, "-m", "sriov_lb_perf.cli", "compare", "--quiet",
         "--profile", str(tmp_path / "tiny.yaml"), "--targets", str(tmp_path / "targets.yaml"),
         "--artifacts", str(tmp_path / "runs")],
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.glob("runs/*/result.json")
    document = json.loads(path.read_text())
    environment = document["environment"]
    assert environment["clients"][0]["kind"] == "ssh"
    for side in ("A", "B"):
        (amphora,) = environment["amphorae"][side]
        assert amphora["failed"] == ""
        assert amphora["facts"]["haproxy threads"] >= 1 and amphora["facts"]["haproxy version"]
        assert amphora["during"]["haproxy cores"] is not None
    # One and the same machine plays both: equal, and the gate says so.
    (gate,) = [gate for gate in document["gates"] if gate["name"] == "twins"]
    assert gate["passed"] is True, gate
    # No key, and no path of one, is in what is published.
    assert str(server.key_file) not in path.read_text()
    assert str(server.key_file) not in (path.parent / "report.html").read_text()


def test_a_jump_host_that_is_not_there_is_named(server):
    jump = Client("bastion", "ssh", "127.0.0.1", port=1, key_file=str(server.key_file))
    client = Client("client", "ssh", "198.51.100.7", key_file=str(server.key_file), jump=jump)
    with client.open() as host:
        host.jump.deadline = host.deadline = 0.5
        with pytest.raises(errors.GuestUnreachable, match="jump host bastion"):
            host.run(["true"])
