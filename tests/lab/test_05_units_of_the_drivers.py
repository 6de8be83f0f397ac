# SPDX-License-Identifier: Apache-2.0
"""The unit tests of Nova's driver and Neutron's agent, which need Nova and Neutron to import.

The tester's environment has neither, so they are skipped in tests/unit; the lab has both. pytest
and the tests are carried into it.
"""

from __future__ import annotations

import importlib
import re
import shutil
from pathlib import Path

UNITS = Path(__file__).parents[1] / "unit" / "lab_compute"
# pytest and what it stands on; exceptiongroup and tomli come along where Python is old.
PYTEST = ("pytest", "_pytest", "py", "pluggy", "iniconfig", "packaging", "pygments")


def test_they_pass_where_nova_and_neutron_are(lab):
    inside = "/var/lib/lab/units"
    outside = Path(lab.facts["lab"]) / "units"
    outside.mkdir()
    try:
        for name in PYTEST:
            source = Path(importlib.import_module(name).__file__)
            if source.name == "__init__.py":
                shutil.copytree(source.parent, outside / name)
            else:
                shutil.copy(source, outside)
        shutil.copytree(UNITS, outside / "tests")
        done = lab.command(
            "exec", "--inside", "--", "env", f"PYTHONPATH={inside}:/opt/lab",
            "/opt/stack/bin/python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-ra",
            "--import-mode=importlib", f"{inside}/tests",
        )  # fmt: skip
    finally:
        shutil.rmtree(outside, ignore_errors=True)
    print(done.stdout[-3000:])
    assert done.returncode == 0, done.stdout
    # All of them: here nothing is missing, so nothing may be skipped.
    assert re.search(r"^\d{2,} passed", done.stdout, re.MULTILINE), done.stdout
    assert "skipped" not in done.stdout
