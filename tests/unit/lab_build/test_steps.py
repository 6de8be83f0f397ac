# SPDX-License-Identifier: Apache-2.0
"""Commands of a build: what a chroot sees, what a failure says, how everything ends."""

import pathlib
import shlex
import threading
import time

import pytest

from sriov_lb_lab.build import steps
from sriov_lb_lab.build.steps import Bind, Chroot, Runner
from sriov_lb_lab.errors import BuildError


def test_a_tree_is_read_only_unless_it_is_being_built():
    root = pathlib.Path("/cache/tree")
    assert 'mount -o remount,bind,ro "$R"\n' in steps.enter(Chroot(root), ["true"])
    assert 'mount -o remount,bind,ro "$R"\n' not in steps.enter(
        Chroot(root, writable=True), ["true"])


def test_the_hosts_resolver_is_seen_read_only_and_only_with_network():
    root = pathlib.Path("/cache/tree")
    offline = steps.enter(Chroot(root, writable=True), ["true"])
    online = steps.enter(Chroot(root, writable=True, network=True), ["true"])
    assert "resolv.conf" not in offline
    bind = online.index('mount --bind "$(readlink -f /etc/resolv.conf)"')
    assert online.index('mount -o remount,bind,ro "$R/etc/resolv.conf"') > bind


def test_binds_are_read_only_unless_said_otherwise():
    script = steps.enter(Chroot(pathlib.Path("/t"), binds=(
        Bind(pathlib.Path("/a b"), "/run/lab-build/a"),
        Bind(pathlib.Path("/c"), "/opt/stack", writable=True))), ["true"])
    assert "mount --bind '/a b' \"$R\"/run/lab-build/a" in script
    assert 'mount -o remount,bind,ro "$R"/run/lab-build/a' in script
    assert 'mount --bind /c "$R"/opt/stack' in script
    assert 'mount -o remount,bind,ro "$R"/opt/stack' not in script


def test_only_the_given_environment_reaches_the_command():
    script = steps.enter(Chroot(pathlib.Path("/t"), environment={"PIP_INDEX_URL": "https://x/ y"}),
                         ["sh", "-c", "echo 'a b'"])
    words = shlex.split(script.splitlines()[-1])
    assert words[:5] == ["exec", "chroot", "$R", "env", "-i"]
    assert "PIP_INDEX_URL=https://x/ y" in words
    assert words[-3:] == ["sh", "-c", "echo 'a b'"]


LOG = pathlib.Path("/cache/logs/x.log")


def test_what_could_not_be_fetched_is_named_for_apt():
    message, remedy = steps.explain("installing", 25, (
        "Err:1 http://m.example/debian bookworm InRelease\n"
        "  Temporary failure resolving 'm.example'\n"
        "W: Failed to fetch http://m.example/debian/dists/bookworm/InRelease  Temporary failure\n"
        "E: setup failed\n"), LOG)
    assert "could not fetch (Temporary failure resolving)" in message
    assert "http://m.example/debian/dists/bookworm/InRelease\n" in message
    assert "--mirror" in remedy


def test_what_could_not_be_fetched_is_named_for_pip():
    message, _ = steps.explain("installing", 1, (
        "WARNING: Retrying after connection broken by 'NewConnectionError(...)': /simple/nova/\n"
        "ERROR: Could not find a version that satisfies the requirement nova==33.0.2 (from "
        "versions: none)\nERROR: No matching distribution found for nova==33.0.2\n"), LOG)
    assert message.count("nova==33.0.2") == 1
    assert "NewConnectionError" in message


def test_a_full_disk_is_told_apart():
    message, remedy = steps.explain("installing", 1, "tar: x: No space left on device\n", LOG)
    assert "no space left on the disk" in message and "--state" in remedy


def test_any_other_failure_shows_the_end_of_the_output():
    output = "".join(f"line {number}\n" for number in range(30))
    message, _ = steps.explain("compiling", 3, output, LOG)
    assert "compiling: the command failed with exit code 3" in message
    assert "line 29" in message and "line 17" not in message
    assert str(LOG) in message


@pytest.fixture
def unprivileged(monkeypatch):
    """Run the commands themselves: namespaces need root."""
    real = steps.subprocess.Popen

    def popen(argv, **options):
        assert argv[:4] == ["setpriv", "--pdeathsig", "KILL", "--"]
        inner = argv[argv.index("--mount-proc") + 2:]
        return real(inner, **options)

    monkeypatch.setattr(steps.subprocess, "Popen", popen)


def test_output_goes_to_the_log_of_the_tree(tmp_path, unprivileged):
    runner = Runner(tmp_path)
    runner.isolated(["echo", "hello"], log="guest", what="greeting")
    text = runner.log_of("guest").read_text()
    assert "greeting: echo hello\n" in text and text.endswith("hello\n")


def test_a_failure_is_explained_by_its_own_output_only(tmp_path, unprivileged):
    runner = Runner(tmp_path)
    runner.isolated(["echo", "E: Failed to fetch http://earlier.example/x"], log="t", what="first")
    with pytest.raises(BuildError) as caught:
        runner.isolated(["sh", "-c", "echo broken; exit 7"], log="t", what="second")
    assert "second: the command failed with exit code 7" in str(caught.value)
    assert "broken" in str(caught.value) and "earlier.example" not in str(caught.value)


def test_stop_ends_what_runs_and_refuses_more(tmp_path, unprivileged):
    runner = Runner(tmp_path)
    caught = []

    def long():
        try:
            runner.isolated(["sh", "-c", "echo on; exec sleep 60"], log="t", what="sleeping")
        except BuildError as error:
            caught.append(error)

    thread = threading.Thread(target=long)
    thread.start()
    deadline = time.monotonic() + 10
    while "on\n" not in (runner.log_of("t").read_text() if runner.log_of("t").exists() else ""):
        assert time.monotonic() < deadline, "the command never began"
        time.sleep(0.01)
    runner.stop()
    thread.join(10)
    assert not thread.is_alive()
    assert "sleeping: given up" in str(caught[0])
    with pytest.raises(BuildError, match="given up"):
        runner.isolated(["true"], log="t", what="late")
