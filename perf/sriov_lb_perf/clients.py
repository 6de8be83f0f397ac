# SPDX-License-Identifier: Apache-2.0
"""Machines that generate load: how they are named, reached, and talked to."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from sriov_lb_tests.wire.host import AgentHost, Result
from sriov_lb_tests.wire.namespace import NamespaceHost, PipeChannel

from . import carry, errors
from .agent import PROTOCOL

FORMS = (
    "ssh://USER@HOST[:PORT][?key=FILE][&jump=USER@HOST[:PORT][&jump_key=FILE]], namespace:NAME or "
    "local"
)


@dataclass(frozen=True)
class Client:
    """Where one generator runs.

    :param name: how the report calls it.
    :param kind: ``ssh``, ``namespace`` or ``local``.
    :param where: host address or namespace.
    :param cpu: CPU number to pin the generator to; None: the scheduler decides.
    :param jump: the ssh proxy it is reached through; None: directly.
    """

    name: str
    kind: str
    where: str = ""
    user: str = "debian"
    port: int = 22
    key_file: str | None = None
    cpu: int | None = None
    sources: tuple[str, ...] = ()
    jump: Client | None = None

    @classmethod
    def parse(cls, text: str, *, key_file: str | None = None) -> Client:
        """From an option's value; see :data:`FORMS`.

        :raises BadTarget: it is none of these.
        """
        if text == "local":
            return cls("local", "local")
        url = urlsplit(text)
        if url.scheme == "namespace" and url.path:
            return cls(url.path, "namespace", url.path)
        if url.scheme == "ssh" and url.hostname:
            query = parse_qs(url.query, keep_blank_values=True)
            unknown = set(query) - {"key", "jump", "jump_key"}
            if not unknown and ("jump" in query or "jump_key" not in query):
                key_file = query.get("key", [key_file])[0]
                jump = None
                if "jump" in query:
                    jump_key = query.get("jump_key", [key_file])[0]
                    jump = cls.parse("ssh://" + query["jump"][0], key_file=jump_key)
                return cls(
                    url.hostname,
                    "ssh",
                    url.hostname,
                    user=unquote(url.username or "debian"),
                    port=url.port or 22,
                    key_file=key_file,
                    jump=jump,
                )
        raise errors.BadTarget(f"--client {text!r} is not of the form {FORMS}.")

    @classmethod
    def from_mapping(cls, data: Mapping) -> Client:
        """From an entry of a target file (already checked against its schema)."""
        kind = next(key for key in ("ssh", "namespace", "local") if key in data)
        name = data.get("name")
        common = {"cpu": data.get("cpu"), "sources": tuple(data.get("sources", ()))}
        if kind == "ssh":
            ssh = data["ssh"]
            jump = None
            if "jump" in ssh:
                own = {"key_file": ssh["key_file"]} if "key_file" in ssh else {}
                jump = cls.from_mapping({"ssh": {**own, **ssh["jump"]}})
            return cls(
                name or ssh["address"],
                "ssh",
                ssh["address"],
                user=ssh.get("user", "debian"),
                port=ssh.get("port", 22),
                key_file=ssh.get("key_file"),
                jump=jump,
                **common,
            )
        where = data["namespace"] if kind == "namespace" else ""
        return cls(name or where or "local", kind, where, **common)

    def describe(self) -> str:
        """For reports: no key paths."""
        if self.kind == "ssh":
            through = f" through {self.jump.user}@{self.jump.where}" if self.jump else ""
            return f"{self.name} (ssh {self.user}@{self.where}{through})"
        return f"{self.name} ({self.kind} {self.where})".replace(" )", ")")

    def open(self, pins: Path | None = None) -> AgentHost:
        """Connect.

        :raises ClientFailed: it cannot be reached.
        """
        if self.kind == "local":
            return LocalHost()
        if self.kind == "namespace":
            return NamespaceHost(self.where, name=f"client {self.name}")
        return self._ssh(pins, "client")

    def _ssh(self, pins: Path | None, what: str):
        """ssh to it, not connected yet.

        :raises BadTarget: there is no key.
        """
        from sriov_lb_tests.wire.ssh import SshHost

        if self.key_file is None:
            raise errors.BadTarget(
                f"{what.capitalize()} {self.name}: no ssh key was given.",
                remedy="Add --ssh-key FILE, ?key=FILE, or key_file in the target file.",
            )
        if not Path(self.key_file).is_file():
            raise errors.BadTarget(
                f"{what.capitalize()} {self.name}: there is no ssh key {self.key_file}."
            )
        return SshHost(
            self.where,
            user=self.user,
            key_file=self.key_file,
            port=self.port,
            jump=self.jump._ssh(pins, "jump host") if self.jump else None,
            owns_jump=True,
            pins=pins,
            name=f"{what} {self.name}",
        )


class LocalHost(AgentHost):
    """This machine in the network namespace it is in; needs no root."""

    name = "this machine"

    def run(
        self,
        argv: Sequence[str],
        *,
        input: bytes | None = None,
        timeout: float = 60.0,
        check: bool = True,
        root: bool = False,
    ) -> Result:
        started = time.monotonic()
        try:
            done = subprocess.run(list(argv), input=input, capture_output=True, timeout=timeout)
        except (subprocess.TimeoutExpired, FileNotFoundError) as error:
            raise errors.ClientFailed(f"{' '.join(argv)} on {self.name}: {error}.") from error
        result = Result(
            tuple(argv),
            done.returncode,
            done.stdout.decode(errors="replace"),
            done.stderr.decode(errors="replace"),
            time.monotonic() - started,
        )
        return result.checked(self.name) if check else result

    def open_channel(self, argv: Sequence[str], *, root: bool = False) -> PipeChannel:
        return PipeChannel(argv)


class Generator:
    """The tester's end of one running agent: jobs in, reports out.

    Not thread-safe: one job at a time, from one thread.
    """

    def __init__(self, name: str, channel) -> None:
        self.name = name
        self.channel = channel
        self.hello: dict = {}
        self._buffer = b""

    @classmethod
    def start(cls, client: Client, host: AgentHost, *, wait: float = 30.0) -> Generator:
        """Carry the agent to the client and greet it.

        :raises ClientFailed: no usable Python there, or it did not come up.
        """
        channel = host.open_channel(carry.command())
        generator = cls(client.name, channel)
        try:
            # A Python that is too old says so and ends, without reading what is sent to it.
            with contextlib.suppress(BrokenPipeError):
                channel.send(carry.cargo())
            hello = generator.read(time.monotonic() + wait)
        except (OSError, EOFError) as error:
            channel.close()
            raise errors.ClientFailed(
                f"The load generator did not start on client {client.describe()}: "
                f"{error or type(error).__name__}. {channel.diagnosis()}"
            ) from error
        if hello.get("report") != "hello" or hello.get("protocol") != PROTOCOL:
            channel.close()
            raise errors.ClientFailed(
                f"Client {client.describe()}: {hello.get('message') or hello}."
            )
        generator.hello = hello
        return generator

    def send(self, job: Mapping) -> None:
        """Hand in a job without waiting for it.

        :raises OSError: the agent is gone.
        """
        self.channel.send((json.dumps(job) + "\n").encode())

    def read(self, deadline: float) -> dict:
        """The next report.

        :raises TimeoutError: none by ``deadline`` (time.monotonic()).
        :raises EOFError: the agent is gone.
        """
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("no report in time")
            data = self.channel.receive(1 << 16, left)
            if not data:
                raise EOFError("the agent is gone")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def finish(
        self, kind: str, seconds: float, on_report: Callable[[dict], None] | None = None
    ) -> dict:
        """Wait for the end of the job handed in.

        :param seconds: how long it may take; ten more are allowed for the way.
        :raises EngineFailed: the agent died or went silent.
        :raises TargetFailed, ClientFailed: what the agent found out, by whose fault it is.
        """
        deadline = time.monotonic() + seconds + 10.0
        while True:
            try:
                report = self.read(deadline)
            except (OSError, EOFError) as error:
                raise self._lost("during", kind, error) from error
            if report["report"] == "done":
                return report
            if report["report"] == "error":
                raise job_error(self.name, report)
            if on_report is not None:
                on_report(report)

    def job(self, job: Mapping, *, seconds: float = 0.0, on_report=None) -> dict:
        """Hand in a job and wait for its end; see :meth:`finish`, and what it raises."""
        try:
            self.send(job)
        except OSError as error:
            raise self._lost("before", job["job"], error) from error
        return self.finish(job["job"], seconds, on_report)

    def _lost(self, when: str, kind: str, error: Exception) -> errors.EngineFailed:
        return errors.EngineFailed(
            f"The load generator on client {self.name} was lost {when} the job {kind!r} "
            f"({error or type(error).__name__}). {self.channel.diagnosis()}"
        )

    def close(self) -> None:
        with contextlib.suppress(OSError):  # it is gone already
            self.send({"job": "quit"})
        self.channel.close()


def job_error(client: str, report: Mapping) -> errors.PerfError:
    """An agent's ``error`` report as an exception, by whose fault it is."""
    message = f"Client {client}, {report.get('job')} job: {report['message']}."
    kind = report["kind"]
    if kind in ("connect", "response", "resolve"):
        return errors.TargetFailed(message)
    if kind in ("ports", "descriptors", "system", "python"):
        return errors.ClientFailed(message, remedy=REMEDIES.get(kind))
    return errors.EngineFailed(message)


REMEDIES = {
    "ports": "Give the client more source addresses (`sources` in the target file), widen "
    "net.ipv4.ip_local_port_range there, or use more clients.",
    "descriptors": "Raise the limit of open files on the client, or use fewer connections.",
    "system": "Look at the client's log.",
    "python": "Use an image with python3 3.8 or newer; nothing else has to be installed there.",
}
