# SPDX-License-Identifier: Apache-2.0
"""Upstream's acceptance of a Tempest plugin, on the built wheel in a fresh environment."""

import configparser
import hashlib
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import textwrap
import unittest
import venv
import zipfile

import pytest

pytestmark = pytest.mark.timeout(300)

TOP = {"sriov_lb_tests", "sriov_lb_perf", "sriov_lb_lab"}
FOLDERS = {
    "sriov_lb_tests": "sriov_lb_tests",
    "sriov_lb_tests/scenarios": "scenarios",
    "sriov_lb_perf": "perf/sriov_lb_perf",
    "sriov_lb_lab": "lab/sriov_lb_lab",
}
IMPORT_BUDGET = 0.3  # seconds
# What we need and Tempest does not: it may be missing without Tempest's noticing.
OURS_ALONE = ("scapy", "z3", "openstack", "pyroute2", "numpy")


def run(*argv, cwd, env=None, status=0):
    """Run argv; its status must be ``status``. Returns standard output and error."""
    done = subprocess.run(
        [str(a) for a in argv],
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if (done.returncode == 0) != (status == 0):
        pytest.fail(f"{argv} ended with {done.returncode}:\n{done.stdout[-8000:]}")
    return done.stdout


def not_source(folder, names):
    """For copytree: what of the checkout is no source; made by git, pip, pytest or make."""
    made = MADE_AT_THE_TOP if "setup.cfg" in names else set()
    return [name for name in names if name in made or re.search(MADE_ANYWHERE, name)]


MADE_AT_THE_TOP = {
    *(".git", ".venv", ".tox", ".stestr", ".pytest_cache", ".ruff_cache"),
    *("build", "dist", "demo", "artifacts"),
}
MADE_ANYWHERE = r"^__pycache__$|\.egg-info$"


@pytest.fixture(scope="module")
def sdist(root, tmp_path_factory):
    """The source distribution, built from a copy so that the checkout stays clean."""
    folder = tmp_path_factory.mktemp("sdist")
    shutil.copytree(root, folder / "source", ignore=not_source, symlinks=True)
    code = "from setuptools import build_meta; print(build_meta.build_sdist('..'))"
    name = run(sys.executable, "-W", "ignore", "-c", code, cwd=folder / "source").splitlines()[-1]
    return folder / name


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    """The wheel, built from the source distribution as a packager would."""
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder)
    (source,) = folder.iterdir()
    code = "from setuptools import build_meta; print(build_meta.build_wheel('..'))"
    name = run(sys.executable, "-c", code, cwd=source).splitlines()[-1]
    return folder / name


@pytest.fixture(scope="module")
def wheelhouse(root, request):
    """Wheels of all that the project requires: fetched once, so that a rerun needs no network."""
    constraints = root / "constraints.txt"
    setup = configparser.ConfigParser()
    setup.read(root / "setup.cfg")
    requirements = setup["options"]["install_requires"].split()
    wanted = " ".join([sys.version, constraints.read_text(), *requirements])
    digest = hashlib.sha256(wanted.encode()).hexdigest()[:12]
    folder = pathlib.Path(request.config.cache.mkdir(f"wheels-{digest}"))
    if not (folder / "complete").exists():
        pip = [sys.executable, "-m", "pip", "download", "-q", "--only-binary=:all:"]
        run(*pip, "-c", constraints, "-d", folder, *requirements, cwd=folder)
        (folder / "complete").touch()
    return folder


@pytest.fixture(scope="module")
def fresh(wheel, wheelhouse, tmp_path_factory):
    """A new virtual environment with the wheel (and so tempest) and nothing of ours besides."""
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    venv.create(folder, with_pip=True, symlinks=True)
    pip = [folder / "bin" / "python", "-m", "pip", "install", "-q", "--no-compile"]
    run(*pip, "--no-index", "--find-links", wheelhouse, wheel, cwd=folder)
    return folder / "bin"


@pytest.fixture(scope="module")
def environment(fresh, tmp_path_factory):
    """The environment of the user of ``fresh``: nothing of this checkout in it."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "OS_", "TEMPEST"))}
    home = str(tmp_path_factory.mktemp("home"))
    return {**kept, "HOME": home, "PATH": f"{fresh}:{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def workspace(fresh, environment, tmp_path_factory):
    """A folder made by `tempest init`."""
    folder = tmp_path_factory.mktemp("workspace") / "cloud"
    run(fresh / "tempest", "init", folder, cwd=folder.parent, env=environment)
    assert (folder / ".stestr.conf").exists()
    return folder


def ids_in(listing):
    """The ids in the output of `tempest run -l`, without their attributes."""
    return {line.partition("[")[0] for line in listing.splitlines() if "." in line.split("[")[0]}


def our_tests(root):
    """The ids of the tests in the checkout, found without Tempest."""

    def flat(suite):
        for entry in suite:
            if isinstance(entry, unittest.TestSuite):
                yield from flat(entry)
            else:
                yield entry.id().partition("[")[0]

    folder = root / "sriov_lb_tests" / "tests"
    loader = unittest.TestLoader()
    return set(flat(loader.discover(str(folder), pattern="test_*.py", top_level_dir=str(root))))


def sources(root):
    """The files of the checkout that belong into the wheel, as the wheel names them."""
    for name, folder in FOLDERS.items():
        for path in (root / folder).rglob("*"):
            inside = path.relative_to(root / folder)
            if path.is_file() and "__pycache__" not in inside.parts and path.suffix != ".pyc":
                yield f"{name}/{inside}"


# --- what is in it --------------------------------------------------------------------------


def test_nothing_generic_lands_in_site_packages(wheel):
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    info = {name for name in tops if name.endswith(".dist-info")}
    assert tops - info == TOP
    assert len(info) == 1


def test_every_file_of_the_packages_is_in_the_wheel(wheel, root):
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = set(sources(root))
    assert len(expected) > 20
    assert sorted(expected - names) == []
    extra = {name for name in names - expected if ".dist-info/" not in name}
    assert sorted(extra) == []


def test_the_licence_travels(wheel, sdist):
    assert any(name.endswith("/LICENSE") for name in zipfile.ZipFile(wheel).namelist())
    with tarfile.open(sdist) as archive:
        tops = {pathlib.PurePath(name).parts[1] for name in archive.getnames() if "/" in name}
    assert {"LICENSE", "README.rst", "constraints.txt", "etc", "tests", "Makefile"} <= tops


def test_requirements_of_the_wheel_agree(fresh, environment):
    assert "No broken requirements" in run(
        fresh / "python", "-m", "pip", "check", cwd="/", env=environment
    )


# --- what Tempest makes of it -----------------------------------------------------------------


def test_tempest_lists_the_plugin(fresh, workspace, environment):
    listing = run(fresh / "tempest", "list-plugins", cwd=workspace, env=environment)
    assert "sriov_lb_tests" in listing


def test_tempest_lists_every_test(fresh, workspace, environment, root):
    listing = run(
        fresh / "tempest", "run", "-l", "--regex", "sriov_lb", cwd=workspace, env=environment
    )
    listed = ids_in(listing)
    assert listed == our_tests(root)
    assert listed and all(name.startswith("sriov_lb_tests.tests.") for name in listed)
    assert not any("ModuleCannotBeImported" in name for name in listed)


def test_every_test_has_an_idempotent_id(fresh, workspace, environment, tmp_path):
    run(fresh / "check-uuid", "--package", "sriov_lb_tests", cwd=workspace, env=environment)
    # And it can fail: the same, on a package with a test that has none.
    package = tmp_path / "no_ids"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "test_a.py").write_text(
        "from tempest import test\n\n\nclass ATest(test.BaseTestCase):\n"
        "    def test_a(self):\n        pass\n"
    )
    env = {**environment, "PYTHONPATH": str(tmp_path)}
    output = run(fresh / "check-uuid", "--package", "no_ids", cwd=tmp_path, env=env, status=1)
    assert "test_a" in output


def test_importing_the_plugin_is_cheap(fresh, environment):
    """Measured beside Tempest's own interface, which is loaded before any plugin."""
    code = textwrap.dedent(
        """
        import sys, time
        import tempest.test_discover.plugins
        before = time.perf_counter()
        import sriov_lb_tests.plugin
        print(time.perf_counter() - before)
        plugin = sriov_lb_tests.plugin.SriovLbTempestPlugin()
        plugin.get_opt_lists(), plugin.load_tests(), plugin.get_service_clients()
        loaded = {name.split(".")[0] for name in sys.modules}
        print(*sorted(loaded & {"scapy", "openstack", "z3", "numpy", "pyroute2", "locust"}))
        """
    )
    times = []
    for _ in range(5):
        lines = run(fresh / "python", "-c", code, cwd="/", env=environment).splitlines()
        times.append(float(lines[0]))
        assert lines[1:] in ([], [""])
    assert statistics.median(times) < IMPORT_BUDGET, times


@pytest.fixture(scope="module")
def everything(fresh, workspace, environment):
    """The ids that Tempest lists with every plugin in order: ours and its own."""
    return ids_in(run(fresh / "tempest", "run", "-l", cwd=workspace, env=environment))


def test_broken_dependencies_do_not_break_the_listing_of_others(
    everything, fresh, workspace, environment, tmp_path
):
    for library in OURS_ALONE:
        broken = break_library(tmp_path, library)
    env = {**environment, "PYTHONPATH": str(broken)}
    for library in OURS_ALONE:
        output = run(fresh / "python", "-c", f"import {library}", cwd="/", env=env, status=1)
        assert "broken on purpose" in output
    listed = ids_in(run(fresh / "tempest", "run", "-l", cwd=workspace, env=env))
    others = {name for name in everything if not name.startswith("sriov_lb_tests.")}
    assert len(others) > 100
    assert others <= listed
    assert any(name.startswith("sriov_lb_tests.tests.") for name in listed)


def test_a_plugin_that_does_not_guard_itself_does_break_it(fresh, workspace, environment, tmp_path):
    """The control of the test above: the danger is real."""
    broken = break_library(tmp_path, "scapy")
    folder = tmp_path / "site"
    (folder / "careless" / "tests").mkdir(parents=True)
    (folder / "careless-1.dist-info").mkdir()
    (folder / "careless-1.dist-info" / "METADATA").write_text("Name: careless\nVersion: 1\n")
    (folder / "careless-1.dist-info" / "entry_points.txt").write_text(
        "[tempest.test_plugins]\ncareless = careless:Plugin\n"
    )
    (folder / "careless" / "__init__.py").write_text(
        textwrap.dedent(
            """
            import os
            from tempest.test_discover import plugins
            class Plugin(plugins.TempestPlugin):
                def load_tests(self):
                    here = os.path.dirname(__file__)
                    return os.path.join(here, "tests"), os.path.dirname(here)
                def register_opts(self, conf):
                    pass
                def get_opt_lists(self):
                    return []
            """
        )
    )
    (folder / "careless" / "tests" / "__init__.py").touch()
    (folder / "careless" / "tests" / "test_a.py").write_text("import scapy\n")
    env = {**environment, "PYTHONPATH": os.pathsep.join([str(broken), str(folder)])}
    output = run(fresh / "tempest", "run", "-l", cwd=workspace, env=env, status=1)
    assert "careless.tests.test_a" in output


def break_library(tmp_path, name):
    """A folder which, first on the path, makes ``import name`` fail."""
    folder = tmp_path / "broken"
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text("raise ImportError('broken on purpose')\n")
    return folder


# --- the rest of what is installed ---------------------------------------------------------------


def test_the_generator_writes_the_sample(fresh, environment, root, tmp_path):
    written = tmp_path / "sample"
    run(
        fresh / "oslo-config-generator", "--namespace", "sriov_lb_tests.config",
        "--output-file", written, cwd="/", env=environment,
    )  # fmt: skip
    assert written.read_text() == (root / "etc" / "tempest.conf.sriov_lb.sample").read_text()


def test_scenarios_are_found_from_the_installed_package(fresh, environment, root):
    code = (
        "import importlib.resources as r\n"
        "for folder in (r.files('sriov_lb_tests') / 'scenarios').iterdir():\n"
        "    if folder.is_dir():\n"
        "        for file in folder.iterdir(): print(f'{folder.name}/{file.name}')"
    )
    found = run(fresh / "python", "-c", code, cwd="/", env=environment).split()
    expected = [str(p.relative_to(root / "scenarios")) for p in root.glob("scenarios/*/*")]
    assert any(name.endswith(".yaml") for name in found)
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize("command", ["sriov-lb", "sriov-lb-lab", "sriov-lb-perf"])
def test_commands_answer_without_any_extra(command, fresh, environment):
    assert "Usage: " in run(fresh / command, "--help", cwd="/", env=environment)
