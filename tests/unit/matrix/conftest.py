# SPDX-License-Identifier: Apache-2.0
from types import SimpleNamespace

import pytest

from sriov_lb_tests.tests.matrix import test_matrix
from sriov_lb_tests.verdicts import defects, record


@pytest.fixture
def test(tmp_path):
    """A test of the matrix, set up without a cloud; ``written`` is what it recorded, and
    ``collected`` the load balancers whose API view is evidence, by file."""
    one = test_matrix.TestMatrix("test_load_balancer_01")
    one.collected = []

    def collect(folder, lbs):
        one.collected += [(label, lb.id) for label, lb in lbs.items()]
        return []

    one.stage = SimpleNamespace(
        registry=defects.load(),
        octavia_release="16.0.0",
        recorder=record.Recorder(tmp_path),
        collect=collect,
        run=SimpleNamespace(evidence=lambda *names: tmp_path),
    )
    one.seen, one._evidence, one.involved = {}, [], {}
    one.written = lambda: record.read(tmp_path)[1]
    return one
