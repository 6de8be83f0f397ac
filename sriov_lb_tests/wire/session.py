# SPDX-License-Identifier: Apache-2.0
"""The tester's end of the agent: start it over any byte channel, ask, get answers.

``python3 -`` would read its program until the input ends and leave no input for the protocol. So
the interpreter gets a bootstrap of one line that reads exactly the program and runs it, and
whatever follows on stdin is the protocol.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Protocol

from sriov_lb_tests import errors
from sriov_lb_tests.wire import agent as wire_agent
from sriov_lb_tests.wire.capture import Captured, Frame

_BOOTSTRAP = """\
import os,sys
def r(n):
 b=b""
 while len(b)<n:
  c=os.read(0,n-len(b))
  if not c:sys.exit(97)
  b+=c
 return b
sys.version_info>=(3,8) or sys.exit("python too old: "+sys.version.split()[0])
exec(compile(r(int(r(10))),"sriov-lb-agent","exec"),{"__name__":"__main__"})
"""

#: What has to run in the guest, as root.
COMMAND = ("python3", "-I", "-S", "-c", _BOOTSTRAP)


class Channel(Protocol):
    """Bytes to and from a process in the guest."""

    def send(self, data: bytes) -> None: ...

    def receive(self, size: int, timeout: float) -> bytes:
        """Up to ``size`` bytes, ``b""`` at the end; TimeoutError after ``timeout`` seconds."""
        ...

    def diagnosis(self) -> str:
        """What the process wrote to stderr, and how it ended if it did."""
        ...

    def close(self) -> None: ...


class AgentSession:
    """A running agent. Thread-safe: one request at a time."""

    def __init__(self, host: str, channel: Channel) -> None:
        self.host = host
        self.closed = False
        self.hello: dict = {}
        self._channel = channel
        self._lock = threading.RLock()
        self._number = 0
        self._parts: set[str] = set()

    # the protocol

    def call(self, op: str, body: bytes = b"", *, wait: float = 30.0, **args) -> tuple[dict, bytes]:
        """One request and its answer.

        :param wait: seconds to wait for the answer, which include the operation itself.
        :raises AgentFailed: the agent refused, died, or did not answer.
        """
        with self._lock:
            if self.closed:
                raise errors.AgentFailed(f"The agent on {self.host} is closed; {op} was asked.")
            self._number += 1
            head = json.dumps({"id": self._number, "op": op, "args": args}).encode()
            try:
                self._channel.send(wire_agent.MESSAGE.pack(len(head), len(body)) + head + body)
                while True:
                    size, extra = wire_agent.MESSAGE.unpack(self._read(8, wait))
                    answer = json.loads(self._read(size, wait))
                    blob = self._read(extra, wait) if extra else b""
                    if answer.get("id") == self._number:
                        break
            except TimeoutError as error:
                self._abandon()
                raise errors.AgentFailed(
                    f"The agent on {self.host} did not answer {op} within {wait:g} s. "
                    f"{self._channel.diagnosis()}"
                ) from error
            except (OSError, EOFError) as error:
                self._abandon()
                raise errors.AgentFailed(
                    f"The agent on {self.host} ended during {op}. {self._channel.diagnosis()}"
                ) from error
            if "error" in answer:
                raise errors.AgentFailed(
                    f"The agent on {self.host} refused {op}: {answer['error']}."
                )
            return answer["ok"], blob

    def _read(self, size: int, wait: float) -> bytes:
        parts = []
        while size:
            part = self._channel.receive(min(size, 1 << 20), wait)
            if not part:
                raise EOFError
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _abandon(self) -> None:
        self.closed = True
        self._channel.close()

    def close(self) -> None:
        """End the agent; it undoes what it changed in the guest first."""
        if self.closed:
            return
        # A guest that died takes its agent with it: there is nothing left to end.
        with contextlib.suppress(errors.AgentFailed):
            self.call("bye", wait=10.0)
        self._abandon()

    def __enter__(self) -> AgentSession:
        return self

    def __exit__(self, *_exc) -> None:
        self.close()

    def extend(self, part: str) -> None:
        """Have a part of the agent there (``agent_prober``); streamed once."""
        if part not in self._parts:
            self.call("extend", program(part), part=part)
            self._parts.add(part)

    # operations

    def interfaces(self):
        """Interfaces by name, as :class:`sriov_lb_tests.wire.host.Interface`."""
        from sriov_lb_tests.wire.host import interface_from

        found, _ = self.call("interfaces")
        return {name: interface_from(entry) for name, entry in found.items()}

    def resolve(
        self, interface: str, target: str, *, source: str | None = None, timeout: float = 1.0
    ) -> str:
        """The MAC of an on-link address, asked by ARP or ND on the wire."""
        found, _ = self.call(
            "resolve", interface=interface, target=target, source=source, timeout=timeout
        )
        return found["mac"]

    def send(self, interface: str, frames: Sequence[bytes], schedule=None) -> dict:
        """Send frames.

        :param schedule: None (as fast as possible), a rate in frames/s, or one offset in
            microseconds for each frame.
        :return: ``sent``, ``errors``, ``started_ns``, ``ended_ns``.
        :raises SendFailed: not every frame was handed to the interface.
        """
        offsets = rate = None
        lasting = 0.0
        if isinstance(schedule, (int, float)):
            rate, lasting = float(schedule), len(frames) / float(schedule)
        elif schedule is not None:
            offsets = [float(entry) for entry in schedule]
            if len(offsets) != len(frames):
                raise ValueError(f"{len(frames)} frames but {len(offsets)} offsets")
            lasting = max(offsets, default=0.0) / 1e6
        done, _ = self.call(
            "send",
            wire_agent.pack_frames(frames),
            wait=30.0 + lasting,
            interface=interface,
            offsets=offsets,
            rate=rate,
        )
        if done["errors"]:
            raise errors.SendFailed(
                f"{interface} on {self.host} refused {done['errors']} of {len(frames)} frames."
            )
        return done

    @contextlib.contextmanager
    def capture(self, interface: str, match: dict | None = None) -> Iterator[Captured]:
        """Capture while the block runs; the yielded object holds the frames afterwards.

        :param match: any of ``ethertypes``, ``addresses``, ``ports``, ``needle`` (hex bytes that
            the frame must contain), ``promiscuous``, ``limit``.
        :raises CaptureFailed: frames were lost for want of room.
        """
        started, _ = self.call("capture_start", interface=interface, match=match or {})
        captured = Captured(host=self.host, interface=interface)
        try:
            yield captured
        finally:
            if not self.closed:
                done, blob = self.call("capture_take", capture=started["capture"], wait=120.0)
                captured.extend(wire_agent.unpack_records(blob))
                captured.dropped += done["dropped"]
        if captured.dropped:
            raise errors.CaptureFailed(
                f"The capture on {interface} of {self.host} lost {captured.dropped} frames.",
                remedy="Capture less (a narrower match), or give the guest more CPU.",
            )

    def exchange(
        self,
        interface: str,
        frames: Sequence[bytes],
        waves: Sequence[dict],
        *,
        match: dict | None = None,
        linger: float = 0.0,
    ) -> tuple[dict, list[Frame]]:
        """Send waves of frames while capturing; see ``op_exchange`` of the agent.

        :return: the agent's report (per wave) and every frame seen, sent ones included.
        """
        lasting = linger + sum(
            wave.get("timeout", 0) + wave.get("gap", 0) * len(wave["frames"]) for wave in waves
        )
        done, blob = self.call(
            "exchange",
            wire_agent.pack_frames(frames),
            wait=30.0 + lasting,
            interface=interface,
            waves=list(waves),
            match=match or {},
            linger=linger,
        )
        return done, [Frame(*record) for record in wire_agent.unpack_records(blob)]


def program(part: str = "agent") -> bytes:
    """The source text of the agent, or of a part of it."""
    return resources.files("sriov_lb_tests.wire").joinpath(f"{part}.py").read_bytes()


def start(host: str, channel: Channel, *, wait: float = 30.0) -> AgentSession:
    """Feed the agent to the interpreter behind ``channel`` and greet it.

    :raises GuestTooOld: there is no Python 3.8 or newer.
    :raises AgentFailed: it did not come up.
    """
    text = program()
    session = AgentSession(host, channel)
    try:
        channel.send(b"%10d" % len(text) + text)
        session.hello, _ = session.call("hello", wait=wait)
    except (OSError, errors.AgentFailed) as error:
        session.closed = True
        channel.close()
        said = channel.diagnosis()
        if "python too old" in said or "python3" in said and "not found" in said:
            raise errors.GuestTooOld(
                f"The agent needs python3 3.8 or newer on {host}; found: {said}"
            ) from error
        raise errors.AgentFailed(
            f"The agent on {host} did not come up. {said}",
            remedy="The guest's user must be root or may use sudo without a password.",
        ) from error
    if session.hello["version"] != wire_agent.VERSION:
        session.close()
        raise errors.AgentFailed(
            f"The agent on {host} speaks version {session.hello['version']}, "
            f"expected {wire_agent.VERSION}."
        )
    if session.hello["uid"] != 0:
        session.close()
        raise errors.AgentFailed(
            f"The agent on {host} runs as uid {session.hello['uid']}, expected root.",
            remedy="The guest's user must be root or may use sudo without a password.",
        )
    return session
