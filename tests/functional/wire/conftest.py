# SPDX-License-Identifier: Apache-2.0
"""Shared helpers of the functional tests of wire, as fixtures (test modules cannot import each
other here)."""

import importlib.util
import pathlib
import sys

import pytest

from sriov_lb_tests.wire.namespace import NamespaceHost
from sriov_lb_tests.wire.vantage import Vantage

HERE = pathlib.Path(__file__).parent


def load(name: str):
    """A helper module of this folder, loaded once under a private name."""
    private = f"_sriov_lb_functional_{name}"
    if private not in sys.modules:
        spec = importlib.util.spec_from_file_location(private, HERE / f"{name}.py")
        sys.modules[private] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[private]


@pytest.fixture(scope="session")
def testbed():
    return load("testbed")


@pytest.fixture(scope="session")
def sshd():
    return load("sshd")


# Each module has a ``bed`` of its own (network namespaces) and, for every test, ``rules`` in it.


@pytest.fixture(scope="module")
def host(bed):
    with NamespaceHost(bed.name("client")) as made:
        yield made


@pytest.fixture
def vantage(host, rules, tmp_path):
    with Vantage(host, "c0", artefacts=tmp_path) as made:
        yield made


@pytest.fixture
def vip(testbed):
    """The VIPs by IP version."""
    return {4: testbed.VIP4, 6: testbed.VIP6}
