# SPDX-License-Identifier: Apache-2.0
"""The tester's end: what is said when the guest's end misbehaves."""

import json

import pytest

from sriov_lb_tests import errors
from sriov_lb_tests.wire import agent as wire_agent
from sriov_lb_tests.wire import session
from sriov_lb_tests.wire.namespace import PipeChannel

HELLO = {"version": wire_agent.VERSION, "uid": 0}


def reply(header, body=b""):
    text = json.dumps(header).encode()
    return wire_agent.MESSAGE.pack(len(text), len(body)) + text + body


class Script:
    """A channel that plays what it was given; None is silence, then the end."""

    def __init__(self, *parts, said=""):
        self.parts, self.said, self.sent, self.closed = list(parts), said, b"", False

    def send(self, data):
        self.sent += data

    def receive(self, size, timeout):
        if not self.parts:
            return b""
        if self.parts[0] is None:
            self.parts.pop(0)
            raise TimeoutError
        part = self.parts[0][:size]
        self.parts[0] = self.parts[0][size:]
        if not self.parts[0]:
            self.parts.pop(0)
        return part

    def diagnosis(self):
        return self.said

    def close(self):
        self.closed = True


def test_the_program_goes_first_and_then_the_greeting():
    channel = Script(reply({"id": 1, "ok": HELLO}))
    started = session.start("guest", channel)
    text = session.program()
    assert channel.sent.startswith(b"%10d" % len(text) + text)
    assert started.hello == HELLO
    assert b"SPDX-License-Identifier" in text


def test_answers_to_earlier_requests_are_skipped():
    channel = Script(
        reply({"id": 1, "ok": HELLO}),
        reply({"id": 1, "ok": "late"}),
        reply({"id": 2, "ok": {"x": 1}}, b"body"),
    )
    assert session.start("guest", channel).call("anything") == ({"x": 1}, b"body")


def test_a_refusal_names_operation_host_and_reason():
    channel = Script(reply({"id": 1, "ok": HELLO}), reply({"id": 2, "error": "no such thing"}))
    with pytest.raises(errors.AgentFailed, match="guest refused fly: no such thing"):
        session.start("guest", channel).call("fly")


def test_an_agent_that_dies_is_said_to_have_died():
    channel = Script(reply({"id": 1, "ok": HELLO}), said="It ended with status 1. Boom")
    started = session.start("guest", channel)
    with pytest.raises(errors.AgentFailed, match="ended during send.*Boom"):
        started.call("send")
    assert started.closed and channel.closed
    with pytest.raises(errors.AgentFailed, match="is closed"):
        started.call("send")


def test_silence_is_named_with_its_length():
    started = session.start("guest", Script(reply({"id": 1, "ok": HELLO}), None))
    with pytest.raises(errors.AgentFailed, match=r"did not answer send within 0\.5 s"):
        started.call("send", wait=0.5)


def test_an_old_python_is_named():
    channel = Script(said="It ended with status 1. It wrote: python too old: 3.6.8")
    with pytest.raises(errors.GuestTooOld, match=r"3\.6\.8"):
        session.start("guest", channel)
    channel = Script(said="It ended with status 127. It wrote: sh: python3: not found")
    with pytest.raises(errors.GuestTooOld, match="not found"):
        session.start("guest", channel)


def test_a_user_without_sudo_is_told_so():
    channel = Script(said="It wrote: sudo: a password is required")
    with pytest.raises(errors.AgentFailed, match="did not come up.*password is required") as caught:
        session.start("guest", channel)
    assert "sudo without a password" in caught.value.remedy
    channel = Script(reply({"id": 1, "ok": {"version": 1, "uid": 1000}}))
    with pytest.raises(errors.AgentFailed, match="uid 1000, expected root"):
        session.start("guest", channel)


def test_frames_that_were_refused_are_an_error():
    done = {"sent": 1, "errors": 2, "started_ns": 0, "ended_ns": 0}
    channel = Script(reply({"id": 1, "ok": HELLO}), reply({"id": 2, "ok": done}))
    with pytest.raises(errors.SendFailed, match="eth1 on guest refused 2 of 3 frames"):
        session.start("guest", channel).send("eth1", [b"a", b"b", b"c"])


def test_a_schedule_needs_one_offset_for_each_frame():
    started = session.start("guest", Script(reply({"id": 1, "ok": HELLO})))
    with pytest.raises(ValueError, match="2 frames but 1 offsets"):
        started.send("eth1", [b"a", b"b"], [0])


def test_a_capture_that_lost_frames_is_no_evidence():
    channel = Script(
        reply({"id": 1, "ok": HELLO}),
        reply({"id": 2, "ok": {"capture": "capture-1"}}),
        reply(
            {"id": 3, "ok": {"dropped": 4, "frames": 1}},
            wire_agent.pack_records([(1, 0, 3, b"abc")]),
        ),
    )
    started = session.start("guest", channel)
    with pytest.raises(errors.CaptureFailed, match="lost 4 frames"):
        with started.capture("eth1") as captured:
            pass
    assert [frame.data for frame in captured.frames] == [b"abc"]


def test_the_bootstrap_runs_a_real_interpreter():
    """Without root and without network: the greeting, by a real process."""
    channel = PipeChannel(session.COMMAND)
    text = session.program()
    started = session.AgentSession("here", channel)
    channel.send(b"%10d" % len(text) + text)
    hello, _ = started.call("hello", wait=20)
    assert hello["version"] == wire_agent.VERSION
    assert "lo" in started.interfaces()
    started.close()
    assert "ended with status 0" in channel.diagnosis()
