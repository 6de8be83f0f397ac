# SPDX-License-Identifier: Apache-2.0
"""What holds for all of the project's own tests."""

import os
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
NEEDS_ROOT = {"functional", "lab"}
# A test that is first to need the lab waits for it to be built and brought up.
LAB_TIMEOUT = 1800


def pytest_collection_modifyitems(config, items):
    """Refuse to start, rather than skip in silence, where root is needed and missing.

    :raises UsageError: naming the tests that cannot run.
    """
    for item in items:
        if _room(item.path) == "lab" and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(LAB_TIMEOUT))
    rooms = {_room(item.path) for item in items}
    if rooms & NEEDS_ROOT and os.geteuid() != 0 and not config.option.collectonly:
        raise pytest.UsageError(
            f"tests/{' and tests/'.join(sorted(rooms & NEEDS_ROOT))} make network namespaces and "
            f"need root; you are uid {os.geteuid()}. Run them with sudo, or run tests/unit alone."
        )


def _room(path):
    try:
        return path.relative_to(ROOT / "tests").parts[0]
    except ValueError:
        return ""


@pytest.fixture(scope="session")
def root():
    """The checkout's folder."""
    return ROOT
