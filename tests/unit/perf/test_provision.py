# SPDX-License-Identifier: Apache-2.0
"""What is built for a comparison, told from a site that builds nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import types

import pytest
from click.testing import CliRunner

from sriov_lb_perf import cli, errors, nightly, provision
from sriov_lb_perf.history.store import History
from sriov_lb_perf.report import page
from sriov_lb_tests.errors import ResourceFault

GROUP = types.SimpleNamespace(
    amphora_ssh=True, amphora_user="debian", amphora_key_file="/keys/amphora",
    amphora_connect_method="jump", jump_host="192.0.2.1", jump_user="stack", jump_port=2222,
    jump_key_file="/keys/jump",
)  # fmt: skip


class Site:
    """A site with one load balancer of two amphorae."""

    def __init__(self, admin=True):
        compute = types.SimpleNamespace(
            get_server=lambda id: types.SimpleNamespace(compute_host=f"host-of-{id}")
        )
        self.clouds = types.SimpleNamespace(
            admin=types.SimpleNamespace(compute=compute) if admin else None
        )
        amphorae = [
            types.SimpleNamespace(
                id=f"a{n}", role=role, compute_id=f"s{n}", image_id="i",
                lb_network_ip=f"198.18.16.{n}",
            )
            for n, role in ((5, "BACKUP"), (6, "MASTER"))
        ]
        self.lbs = types.SimpleNamespace(amphorae=lambda lb: amphorae)


def target(site):
    lb = types.SimpleNamespace(id="lb", flavor_id="f", vip_address="203.0.113.9")
    return provision._target(site, GROUP, lb, "sriov", True)


def test_amphorae_are_reached_through_the_jump_host_the_master_first():
    made = target(Site())
    assert [a.where for a in made.amphorae] == ["198.18.16.6", "198.18.16.5"]
    assert made.amphorae[0].jump.where == "192.0.2.1" and made.amphorae[0].jump.port == 2222
    assert made.facts["host"] == "host-of-s6, host-of-s5" and made.facts["image"] == "i"
    assert made.iperf3 == ("203.0.113.9", 5201)


def test_a_member_of_a_project_compares_without_looking_inside():
    made = target(Site(admin=False))
    assert made.amphorae == () and "host" not in made.facts


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("No valid host was found. There are not enough hosts available.", "has no room"),
        ("instance i on compute-3: ACTIVE; Nova says: attach_interface: IndexError", "has no room"),
        ("", "most often no host has a VF free"),
    ],
)
def test_a_cloud_without_a_free_vf_is_told_as_that(monkeypatch, fault, words):
    def build(*_):
        raise ResourceFault(f"Load balancer lb was to be ACTIVE and is ERROR: {fault}", fault=fault)

    monkeypatch.setattr(provision, "_build", build)
    with pytest.raises(errors.NoRoom, match=words) as raised:
        provision._built(None, GROUP, False, None, None, print)
    assert "free VF" in str(raised.value) and "ERROR" in str(raised.value)


def test_any_other_fault_is_left_as_it_is(monkeypatch):
    def build(*_):
        raise ResourceFault("The listener is in ERROR", fault="certificate not found")

    monkeypatch.setattr(provision, "_build", build)
    with pytest.raises(ResourceFault, match="The listener"):
        provision._built(None, GROUP, False, None, None, print)


@contextlib.contextmanager
def no_room(*_, **__):
    raise errors.NoRoom("The cloud has no room for the comparison.")
    yield


@contextlib.contextmanager
def told_to_end(*_, say, **__):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        yield
    finally:
        say("taken away")


@pytest.mark.parametrize(
    ("twins", "words"),
    [(no_room, "free VF"), (told_to_end, "taken away\nsriov-lb-perf: told to end")],
)
def test_a_night_that_cannot_begin_is_no_regression_and_leaves_the_history_alone(
    monkeypatch, tmp_path, twins, words
):
    monkeypatch.setattr(provision, "twins", twins)
    monkeypatch.setattr(page, "plotly_script", lambda: "")
    path = tmp_path / "history.sqlite"
    done = CliRunner().invoke(
        cli.main,
        ["nightly", "--from-cloud", "--history", str(path), "--artifacts", str(tmp_path / "runs")],
    )
    assert done.exit_code == 2 and words in done.output, done.output
    assert "Traceback" not in done.output
    with nightly.held(path) as history:  # let go
        assert history.runs() == []
    with History(path) as history:
        assert history.series() == []
