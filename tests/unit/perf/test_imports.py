# SPDX-License-Identifier: Apache-2.0
"""locust monkey-patches the process that imports it, so the tester's never does."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import sriov_lb_perf
import sriov_lb_tests

PACKAGE = Path(sriov_lb_perf.__file__).parent
#: They only ever are the main module of a child, or a locustfile.
ALLOWED = {"swarm/master.py", "swarm/worker.py", "swarm/vip_load.py"}
PATCHING = {"locust", "gevent"}


def modules() -> list[str]:
    return [path.relative_to(PACKAGE).as_posix() for path in sorted(PACKAGE.rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """Top-level names a file imports anywhere, function bodies included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("name", modules())
def test_only_the_children_name_locust(name):
    assert bool(imported(PACKAGE / name) & PATCHING) == (name in ALLOWED)


def test_no_file_of_the_package_looks_like_a_test():
    assert not [name for name in modules() if Path(name).name.startswith("test")]


def test_importing_everything_else_patches_nothing():
    """The control: the worker does patch, in a process of its own."""
    names = [
        ("sriov_lb_perf." + name[:-3].replace("/", ".")).removesuffix(".__init__")
        for name in modules()
        if name not in ALLOWED
    ]
    program = (
        "import importlib, json, socket, sys\n"
        "before = socket.socket\n"
        "for name in json.loads(sys.argv[1]): importlib.import_module(name)\n"
        "print(json.dumps([socket.socket is before, sorted({'locust', 'gevent'} & "
        "set(sys.modules))]))\n"
    )
    roots = [str(PACKAGE.parent), str(Path(sriov_lb_tests.__file__).parents[1])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(roots)}

    def run(chosen):
        argv = [sys.executable, "-c", program, json.dumps(chosen)]
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])

    assert run(names) == [True, []]
    assert run(["sriov_lb_perf.swarm.worker"]) == [False, ["gevent", "locust"]]


def test_the_agent_uses_nothing_but_itself_and_the_standard_library():
    for path in (PACKAGE / "agent").glob("*.py"):
        outside = imported(path) - set(sys.stdlib_module_names) - {"__future__"}
        assert not outside, (path.name, outside)


def test_the_agent_is_written_for_python_3_8():
    for path in (PACKAGE / "agent").glob("*.py"):
        ast.parse(path.read_text(), filename=path.name, feature_version=(3, 8))


def test_the_command_line_loads_nothing_heavy():
    """--help and bad options answer at once."""
    program = "import sys, sriov_lb_perf.cli; print(','.join(sys.modules))"
    roots = [str(PACKAGE.parent), str(Path(sriov_lb_tests.__file__).parents[1])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(roots)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.strip().split(","))
    assert not loaded & {"numpy", "scipy", "plotly", "paramiko", "openstack", "jumpavg"}
