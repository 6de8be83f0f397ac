# SPDX-License-Identifier: Apache-2.0
"""The namespaces of the wire room's functional tests serve here too."""

import importlib.util
import pathlib
import sys

import pytest

TESTBED = pathlib.Path(__file__).parent.parent / "wire" / "testbed.py"


@pytest.fixture(scope="session")
def testbed():
    private = "_sriov_lb_functional_testbed"
    if private not in sys.modules:
        spec = importlib.util.spec_from_file_location(private, TESTBED)
        sys.modules[private] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[private]
