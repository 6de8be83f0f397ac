# SPDX-License-Identifier: Apache-2.0
"""Fixtures: a test bed with two VIPs, and short profiles."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # testbed and browser, under importlib mode

import testbed as testbeds  # noqa: E402

from sriov_lb_perf import profiles  # noqa: E402
from sriov_lb_perf.clients import Client  # noqa: E402
from sriov_lb_perf.targets import Pair, Target  # noqa: E402


@pytest.fixture(scope="module")
def bed(tmp_path_factory):
    absent = testbeds.missing()
    if absent:
        pytest.fail(f"Debian packages needed: {', '.join(absent)}")
    with testbeds.TestBed(tmp_path_factory.mktemp("bed")) as made:
        yield made


@pytest.fixture(scope="module")
def client(bed):
    return Client(name="client", kind="namespace", where=bed.client)


@pytest.fixture(scope="module")
def pair_of(client):
    """pair_of(normal url, SR-IOV url): what is compared."""

    def make(normal: str, sriov: str) -> Pair:
        return Pair(
            Target("normal", normal, large="/large"),
            Target("sriov", sriov, large="/large"),
            (client,),
            substrate="none",
        )

    return make


@pytest.fixture(scope="module")
def profile_of():
    """profile_of(stage, …): a profile for a shared, noisy machine."""

    def make(*stages: dict, alpha: float = 0.001, **more):
        data = {
            "name": "test",
            "title": "Functional test",
            "time_limit": 120,
            "margin": 0.05,
            "alpha": alpha,
            # Other work on this machine is no reason to fail here.
            "limits": {"steal": 1.0, "failed": 0.001},
            "stages": list(stages),
            **more,
        }
        return profiles.from_mapping(data, "the test's profile")

    return make
