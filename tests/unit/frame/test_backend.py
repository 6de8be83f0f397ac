# SPDX-License-Identifier: Apache-2.0
"""The members' web server: it can be stopped, and a guest that outlives a run is no trouble to the
next one."""

import http.client
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from sriov_lb_tests import errors
from sriov_lb_tests.tests import backend, scene
from sriov_lb_tests.wire.host import Result


class Here:
    """This machine as a guest."""

    name = "here"

    def run(self, argv, *, root=False, timeout=60):
        argv = [sys.executable if word == "python3" else word for word in argv]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout)
        return Result(tuple(argv), done.returncode, done.stdout, done.stderr, 0.0).checked("here")


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


@pytest.fixture
def start(port):
    """Start one of a name; all end with the test."""
    pids = []

    def start(name):
        pid = backend.start(Here(), name, port)
        pids.append(pid)
        return pid

    yield start
    for pid in filter(None, pids):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue  # the test stopped it


def answers(port):
    asked = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        asked.request("GET", "/")
        return asked.getresponse().getheader(backend.HEADER)
    except ConnectionError:
        return None
    finally:
        asked.close()


def ended(pid):
    """Wait until it has; nobody may be there to reap it."""
    deadline = time.monotonic() + 10
    status = pathlib.Path(f"/proc/{pid}/status")
    while status.exists() and "State:\tZ" not in status.read_text():
        assert time.monotonic() < deadline, "it goes on"


def test_it_answers_with_its_name_until_it_is_stopped(start, port):
    pid = start("member-1")
    assert answers(port) == "member-1"
    backend.stop(Here(), pid, port)
    ended(pid)
    assert answers(port) is None


def test_two_processes_of_a_run_share_the_port_and_each_stops_its_own(start, port):
    first, second = start("member-1"), start("member-1")
    assert first and second and first != second
    backend.stop(Here(), first, port)
    ended(first)
    assert answers(port) == "member-1"


OLD = backend.PROGRAM.replace("self.socket.setsockopt(socket.SOL_SOCKET", "(lambda *_: 0)(0")


def test_one_of_an_older_run_that_does_not_share_serves_for_this_one_too(monkeypatch, start, port):
    with monkeypatch.context() as patch:
        patch.setattr(backend, "PROGRAM", OLD)
        assert start("member-1")
    assert start("member-1") is None and answers(port) == "member-1"


def test_a_port_that_somebody_else_serves_is_taken(start, port):
    start("member-2")
    with pytest.raises(errors.CommandFailed, match="is taken, by member-2"):
        start("member-1")


def test_one_that_cannot_be_stopped_is_told_and_breaks_nothing(caplog):
    class Dead(Here):
        def run(self, argv, **_options):
            raise errors.GuestUnreachable("nobody answers")

    backend.stop(Dead(), 1, 8000)
    assert "may be left on here: nobody answers" in caplog.text.replace("\n", " ")


@pytest.mark.parametrize("ours", [True, False])
def test_one_in_a_guest_that_is_not_ours_is_stopped_in_the_end(monkeypatch, ours):
    one, closers, stopped = object.__new__(scene.Scene), [], []
    guest = SimpleNamespace(id="guest", name="member-1")
    one._made = {"guests": {"members": [guest]}}
    one._failures = {}
    one._made["wanted"] = SimpleNamespace(pools=[SimpleNamespace(member_port=8000)])
    one.stage = SimpleNamespace(host=lambda guest, user: "host", on_close=closers.append)
    one.site = SimpleNamespace(
        await_guest=lambda guest: guest,
        ledger=SimpleNamespace(find=lambda kind, key: "an entry" if ours else None),
    )
    group = SimpleNamespace(member_user="", guest_user="u")
    monkeypatch.setattr(scene, "CONF", SimpleNamespace(sriov_lb=group))
    monkeypatch.setattr(backend, "start", lambda host, name, port: 42)
    monkeypatch.setattr(backend, "stop", lambda *which: stopped.append(which))
    assert one.members == [guest]
    for closer in closers:
        closer()
    assert stopped == ([] if ours else [("host", 42, 8000)])
