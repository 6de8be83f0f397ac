# SPDX-License-Identifier: Apache-2.0
"""Shared helpers of the functional tests of wire, as fixtures (test modules cannot import each
other here)."""

import importlib.util
import pathlib
import sys

import pytest

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
