# SPDX-License-Identifier: Apache-2.0
"""A module of ours that cannot be imported costs one test, not everybody's listing."""

import pathlib
import subprocess
import sys

import pytest

import sriov_lb_tests.tests

GOOD = """
import testtools
class GoodTest(testtools.TestCase):
    def test_good(self):
        self.assertTrue(True)
"""
LIST = """
import sys, unittest
import {package}
loader = unittest.TestLoader()
suite = loader.discover({folder!r}, pattern="test_*.py", top_level_dir={top!r})
def flat(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from flat(test)
        else:
            yield test
tests = list(flat(suite))
for test in tests:
    result = unittest.TestResult()
    test.run(result)
    outcome = "error" if result.errors else "skip" if result.skipped else "ok"
    print(test.id(), outcome, *(text.strip().splitlines()[-1] for _, text in result.errors))
print("loader errors", len(loader.errors))
"""


@pytest.fixture
def tree(tmp_path):
    """A package whose discovery is ours, with one good test; returns its folder."""
    folder = tmp_path / "plug" / "tests"
    (folder / "api").mkdir(parents=True)
    (tmp_path / "plug" / "__init__.py").touch()
    (folder / "api" / "__init__.py").touch()
    source = pathlib.Path(sriov_lb_tests.tests.__file__).read_text()
    (folder / "__init__.py").write_text(source)
    (folder / "api" / "test_good.py").write_text(GOOD)
    return folder


def listed(folder):
    top = folder.parents[1]
    code = LIST.format(package="plug.tests", folder=str(folder), top=str(top))
    done = subprocess.run([sys.executable, "-c", code], cwd=top, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_all_good(tree):
    assert listed(tree) == ["plug.tests.api.test_good.GoodTest.test_good ok", "loader errors 0"]


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("import no_such_library", "No module named 'no_such_library'"),
        ("raise RuntimeError('half installed')", "half installed"),
        ("1 +", "SyntaxError"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_failing_test(tree, statement, error):
    (tree / "api" / "test_bad.py").write_text(statement + "\n")
    bad, good, errors = listed(tree)
    assert good == "plug.tests.api.test_good.GoodTest.test_good ok"
    assert errors == "loader errors 0"
    name, outcome, words = bad.split(" ", 2)
    assert name == "plug.tests.api.test_bad.ModuleCannotBeImported.test_import"
    assert outcome == "error"
    assert error in words


def test_a_package_that_cannot_be_imported_is_not_passed_over(tree):
    (tree / "broken").mkdir()
    (tree / "broken" / "__init__.py").write_text("import no_such_library\n")
    (tree / "broken" / "test_hidden.py").write_text(GOOD)
    lines = listed(tree)
    assert lines[0] == "plug.tests.api.test_good.GoodTest.test_good ok"
    assert lines[1].startswith("plug.tests.broken.ModuleCannotBeImported.test_import error")


def test_a_module_that_skips_itself_is_skipped(tree):
    (tree / "api" / "test_skip.py").write_text("import unittest\nraise unittest.SkipTest('no')\n")
    assert "plug.tests.api.test_skip.ModuleCannotBeImported.test_import skip" in listed(tree)
