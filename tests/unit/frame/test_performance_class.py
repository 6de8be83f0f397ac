# SPDX-License-Identifier: Apache-2.0
"""The Tempest class for performance: what it asks the child for, and what it makes of the end."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest
import yaml

from sriov_lb_tests import config_check, errors
from sriov_lb_tests.cloud import scenario
from sriov_lb_tests.tests.performance import child
from sriov_lb_tests.wire import origin

TARGETS = {"vips": {}, "clients": []}


def script(tmp_path, monkeypatch, body):
    """Stands for sriov-lb-perf: a Python program with the folder in `folder`."""
    program = tmp_path / "fake.py"
    program.write_text(
        "import json, pathlib, sys, time\n"
        "folder = pathlib.Path(sys.argv[sys.argv.index('--artifacts') + 1])\n"
        f"{body}\n"
    )
    real = child.subprocess.Popen

    def instead(argv, **more):
        assert argv[:4] == [sys.executable, "-m", "sriov_lb_perf.cli", "compare"]
        return real([sys.executable, str(program), *argv[4:]], **more)

    monkeypatch.setattr(child.subprocess, "Popen", instead)


RESULT = (
    "run = folder / 'one'; run.mkdir()\n"
    "(run / 'result.json').write_text(json.dumps({'status': 'complete'}))\n"
)


def test_a_result_comes_back_with_what_was_said(tmp_path, monkeypatch):
    said = "print('faster'); print('--min-rate-ratio 2: crossed'); sys.exit(1)"
    script(tmp_path, monkeypatch, RESULT + said)
    done = child.run(
        TARGETS, tmp_path / "runs", profile_name="smoke", time_limit=9,
        thresholds=["--min-rate-ratio", "2"],
    )  # fmt: skip
    assert done.status == child.CROSSED and done.complete and "faster" in done.output
    assert done.reasons() == "--min-rate-ratio 2: crossed"
    assert [path.name for path in done.files()] == ["result.json"]
    assert yaml.safe_load((tmp_path / "runs" / "targets.yaml").read_text()) == TARGETS


def test_a_child_that_leaves_nothing_is_not_complete(tmp_path, monkeypatch):
    script(tmp_path, monkeypatch, "print('no such VIP', file=sys.stderr); sys.exit(2)")
    done = child.run(TARGETS, tmp_path / "runs", profile_name="smoke", time_limit=9)
    assert (done.status, done.complete, done.files()) == (2, False, [])
    assert "no such VIP" in done.output


def test_a_child_that_does_not_end_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(child, "BESIDE", 0.0)
    script(tmp_path, monkeypatch, "time.sleep(60)")
    done = child.run(TARGETS, tmp_path / "runs", profile_name="smoke", time_limit=0.3)
    assert done.status == -15 and "did not end by itself" in done.output


def test_ssh_is_described_with_its_jump_host(tmp_path):
    def host(address, jump=None):
        return types.SimpleNamespace(
            address=address, port=22, user="debian", key_file=tmp_path / "key", jump=jump
        )

    told = child.ssh(host("192.0.2.7", host("192.0.2.1")))
    assert told["jump"]["address"] == "192.0.2.1" and "jump" not in told["jump"]
    # The child takes exactly that.
    from sriov_lb_perf import targets

    pair = targets.from_mapping(
        {
            "vips": {
                name: {"url": "http://192.0.2.9/", "amphorae": [{"name": "single", "ssh": told}]}
                for name in ("normal", "sriov")
            },
            "clients": [{"name": "client", "ssh": told}],
        },
        "the test's targets",
    )
    assert pair.clients[0].jump.where == "192.0.2.1"
    assert pair.candidate.amphorae[0].jump.user == "debian"
    assert "through debian@192.0.2.1" in pair.clients[0].describe()
    assert "key" not in pair.clients[0].describe()


def test_a_profile_tells_what_it_asks_for():
    plain, every = child.profile("smoke"), child.profile("engines")
    assert plain.name == "smoke" and plain.time_limit > 0
    assert {"iperf3", "tls", "udp", "objects"} <= set(every.needs) and every.sizes == (16384,)


def test_a_profile_that_is_not_there_is_named(tmp_path):
    with pytest.raises(errors.InvalidConfiguration, match="There is no profile 'nightly'"):
        child.profile("nightly")
    found = config_check.problems({"performance": True, "performance_profile": "nightly"})
    (problem,) = [p for p in found if p.option.endswith("performance_profile")]
    assert "standard" in str(problem)
    path = tmp_path / "own.yaml"
    smoke = Path(scenario.__file__).parents[1] / "scenarios" / "profiles" / "smoke.yaml"
    path.write_text(json.dumps({**yaml.safe_load(smoke.read_text()), "time_limit": 5}))
    with pytest.raises(errors.InvalidConfiguration, match="cannot finish in its time"):
        child.profile(str(path))
    good = config_check.problems({"performance": True, "performance_profile": str(path)})
    assert not [p for p in good if p.option.endswith("performance_profile")]


def test_listeners_under_load_lead_to_what_the_member_serves():
    for name in ("load", "load-and-iperf3"):
        wanted = scenario.listener_set(name, {}, (4,))
        ports = {pool.name: pool.member_port for pool in wanted.pools}
        assert ports.pop("web") == origin.WEB_PORT
        assert ports in ({}, {"iperf3": origin.IPERF_PORT})
