# SPDX-License-Identifier: Apache-2.0
"""A host without a machine, for unit tests.

A :class:`FakeHost` runs commands from a table and has an agent whose network is a function: it
gets each frame that is sent and returns the frames that come back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager

from sriov_lb_tests import errors
from sriov_lb_tests.wire import agent_prober
from sriov_lb_tests.wire.agent import OUTGOING, answer_key, flow_key, unpack_frames
from sriov_lb_tests.wire.capture import Captured, Frame
from sriov_lb_tests.wire.host import Interface, Result, interface_from

#: Gets a frame, returns the answers.
Network = Callable[[bytes], Sequence[bytes]]

#: Nanoseconds that pass between two frames of the fake.
TICK = 100_000


class FakeAgent:
    """The part of :class:`AgentSession` that a vantage uses; time passes only when it says so."""

    def __init__(self, network: Network, interfaces: Mapping[str, dict]) -> None:
        self.network = network
        self.closed = False
        self.hello = {"version": 1, "uid": 0}
        self.now = 1_700_000_000_000_000_000
        self.neighbours: dict[str, str] = {}
        self.played: set[str] = set()
        self.calls: list[tuple[str, dict]] = []
        self._interfaces = dict(interfaces)

    def interfaces(self) -> dict[str, Interface]:
        return {name: interface_from(entry) for name, entry in self._interfaces.items()}

    def call(self, op: str, body: bytes = b"", *, wait: float = 30.0, **args):
        self.calls.append((op, args))
        if op == "claim":
            self.played.update(args["addresses"])
        elif op == "release":
            self.played.difference_update(args["addresses"])
        elif op == "add_address":
            self._interfaces[args["interface"]]["addresses"].append(args["address"])
        elif op == "delete_address":
            self._interfaces[args["interface"]]["addresses"].remove(args["address"])
        elif op == "hello":
            return {**self.hello, "clock_ns": time.time_ns()}, b""
        elif op == "prober_start":
            self._prober = _FakeProber(self.network, body, **args)
        elif op == "prober_stop":
            return self._prober.run()
        else:
            raise errors.AgentFailed(f"The fake agent has no operation {op}.")
        return {}, b""

    def extend(self, part: str) -> None:
        """The fake has all parts."""

    def resolve(self, interface: str, target: str, **_options) -> str:
        if target not in self.neighbours:
            raise errors.AgentFailed(f"no answer for {target} on {interface}")
        return self.neighbours[target]

    def _frame(self, kind: int, data: bytes) -> Frame:
        self.now += TICK
        return Frame(self.now, kind, len(data), data)

    def send(self, interface: str, frames: Sequence[bytes], schedule=None) -> dict:
        started = self.now
        for frame in frames:
            self._frame(OUTGOING, frame)
            self.network(frame)
        return {"sent": len(frames), "errors": 0, "started_ns": started, "ended_ns": self.now}

    def exchange(self, interface, frames, waves, *, match=None, linger=0.0):
        seen: list[Frame] = []
        for wave in waves:
            answered = set()
            for number in wave["frames"]:
                seen.append(self._frame(OUTGOING, frames[number]))
                for answer in self.network(frames[number]):
                    seen.append(self._frame(0, answer))
                    answered.add(answer_key(answer))
            awaited = {flow_key(frames[number]) for number in wave["await"]}
            if awaited - answered:
                self.now += int(wave["timeout"] * 1e9)
        return {"waves": [], "dropped": 0}, seen

    @contextmanager
    def capture(self, interface: str, match: dict | None = None):
        yield Captured(host="fake", interface=interface)

    def close(self) -> None:
        self.closed = True


class _FakeProber(agent_prober.Prober):
    """The guest's prober over a function; it runs when it is stopped, as fast as it can."""

    SLOTS = 20
    #: Where somebody answers for a target that was absent, if it is followed.
    HEARD = 5

    def __init__(
        self, network: Network, body: bytes, *, streams, flows, rate, lasting, follow, **_args
    ):
        self.network, self.follows = network, follow
        self.answers: list[bytes] = []
        frames = unpack_frames(body)
        made = []
        for how in streams:
            made.append(agent_prober.Stream(frames[: how["frames"]], how))
            frames = frames[how["frames"] :]
        super().__init__({}, made, (), rate, min(lasting, self.SLOTS / rate))
        self.unconnected = len(flows)

    def open(self, interface, sources):
        self.sender, self.sock = self, None

    def lost(self) -> int:
        return 0

    def send(self, frame) -> None:
        """As the socket: what comes back is received."""
        self.answers = list(self.network(bytes(frame)))

    def run(self):
        for number in range(self.SLOTS):
            for stream in self.streams:
                if self.follows and number == self.HEARD:
                    stream.aim(bytes(6))
                self.answers = []
                stream.send(self, number)
                for answer in self.answers:
                    self.receive((time.time_ns(), 0, len(answer), answer))
        self.next = self.SLOTS
        head, body = self.report()
        head["flows"] = [
            {"state": "not connected: fake", "ended_ns": 0, "connected_ns": 0, "pings": 0}
        ] * self.unconnected
        return head, body


class FakeHost:
    """Commands from a table, frames from a function.

    :param commands: output by argv (as a tuple): a text, or a :class:`Result`. What is not there
        ends with status 127.
    """

    def __init__(
        self,
        name: str = "fake",
        *,
        network: Network = lambda frame: (),
        interfaces: Mapping[str, dict] | None = None,
        commands: Mapping[tuple[str, ...], str | Result] | None = None,
    ) -> None:
        self.name = name
        self.agent = FakeAgent(network, interfaces or {})
        self.commands = dict(commands or {})
        self.ran: list[tuple[str, ...]] = []
        self._opened = False

    def run(
        self, argv, *, input=None, timeout: float = 60.0, check: bool = True, root: bool = False
    ) -> Result:
        key = tuple(argv)
        self.ran.append(key)
        found = self.commands.get(key)
        if found is None:
            found = Result(key, 127, "", f"{argv[0]}: not in the table", 0.0)
        elif isinstance(found, str):
            found = Result(key, 0, found, "", 0.0)
        return found.checked(self.name) if check else found

    def open_channel(self, argv, *, root: bool = False):
        raise errors.AgentFailed("A fake host has no channels.")

    def open_agent(self, *, netns: str | None = None) -> FakeAgent:
        """The first is ``agent``; others are its like, and close for themselves."""
        if not self._opened:
            self._opened = True
            return self.agent
        other = FakeAgent(self.agent.network, self.agent._interfaces)
        other.neighbours = self.agent.neighbours
        return other

    def send(self, interface: str, frames: Sequence[bytes], schedule=None) -> dict:
        return self.agent.send(interface, frames, schedule)

    def capture(self, interface: str, match: dict | None = None):
        return self.agent.capture(interface, match)

    def interfaces(self) -> dict[str, Interface]:
        return self.agent.interfaces()

    def close(self) -> None:
        self.agent.close()
