# SPDX-License-Identifier: Apache-2.0
"""The import arrows of the architecture hold, and each contract is able to fail."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = pathlib.Path(__file__).parents[3]
PACKAGES = {"sriov_lb_tests": ".", "sriov_lb_perf": "perf", "sriov_lb_lab": "lab"}

with (ROOT / "pyproject.toml").open("rb") as _stream:
    CONTRACTS = [c["id"] for c in tomllib.load(_stream)["tool"]["importlinter"]["contracts"]]

# For each contract one import that it must catch: (module that gets it, the statement).
VIOLATIONS = {
    "lab-is-free": ("sriov_lb_lab/paths.py", "import sriov_lb_tests.errors"),
    "lab-is-not-imported": ("sriov_lb_tests/wire/host.py", "import sriov_lb_lab.paths"),
    "rooms": ("sriov_lb_tests/policy/__init__.py", "import sriov_lb_tests.packets"),
    "verdicts-stand-alone": (
        "sriov_lb_tests/verdicts/model.py",
        "import sriov_lb_tests.cloud.faults",
    ),
    "cloud-knows-openstack-only": (
        "sriov_lb_tests/cloud/__init__.py",
        "import sriov_lb_tests.wire.host",
    ),
    "network-knows-no-openstack": ("sriov_lb_tests/wire/host.py", "import openstack"),
    "library-knows-no-tempest": ("sriov_lb_tests/errors.py", "from tempest import config"),
    "policy-is-pure": ("sriov_lb_tests/policy/__init__.py", "import subprocess"),
    "plugin-is-light": ("sriov_lb_tests/plugin.py", "import paramiko"),
    "no-locust-under-tempest": ("sriov_lb_tests/tests/__init__.py", "import locust.env"),
    "perf-uses": ("sriov_lb_perf/__init__.py", "import sriov_lb_tests.policy"),
}


def lint(tree, cache, *arguments):
    """Run import-linter on the packages of ``tree``, not on those that are installed."""
    path = os.pathsep.join(str(tree / folder) for folder in PACKAGES.values())
    return subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as main; main()"]
        + ["--cache-dir", str(cache), *arguments],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": path, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Files that have not changed are read once, not once a test."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The three packages and the contracts, in a folder where they may be spoilt."""
    tmp_path = tmp_path_factory.mktemp("copy")
    for name, folder in PACKAGES.items():
        shutil.copytree(
            ROOT / folder / name,
            tmp_path / folder / name,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_every_arrow_holds(cache):
    done = lint(ROOT, cache)
    assert done.returncode == 0, done.stdout
    assert f"{len(CONTRACTS)} kept, 0 broken" in done.stdout


def test_every_contract_has_a_violation_to_prove_it():
    assert sorted(VIOLATIONS) == sorted(CONTRACTS)


@pytest.mark.parametrize("contract", VIOLATIONS)
def test_a_contract_catches_its_violation(copy, cache, contract):
    where, statement = VIOLATIONS[contract]
    seeded = copy / PACKAGES[where.partition("/")[0]] / where
    clean = seeded.read_text()
    seeded.write_text(f"{clean}\n{statement}\n")
    try:
        done = lint(copy, cache, "--contract", contract)
    finally:
        seeded.write_text(clean)
    assert done.returncode == 1
    assert "0 kept, 1 broken" in done.stdout, done.stdout
    assert where.removesuffix("/__init__.py").removesuffix(".py").replace("/", ".") in done.stdout


def test_nothing_that_tempest_discovers_loads_locust():
    """The contracts read import statements; this looks at what is really loaded."""
    code = (
        "import sys, pkgutil, importlib, sriov_lb_tests.plugin, sriov_lb_tests.tests as t\n"
        "for m in pkgutil.walk_packages(t.__path__, t.__name__ + '.'):\n"
        "    importlib.import_module(m.name)\n"
        "print(*sorted({m.split('.')[0] for m in sys.modules}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.split()
    assert "sriov_lb_tests" in loaded and "tempest" in loaded
    assert {"locust", "gevent", "sriov_lb_perf", "sriov_lb_lab"}.isdisjoint(loaded)


def test_every_folder_of_tests_is_a_package():
    """Discovery enters packages only; a folder without __init__.py would be passed over."""
    tests = ROOT / "sriov_lb_tests" / "tests"
    folders = {path.parent for path in tests.rglob("*.py")}
    assert tests in folders
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []
