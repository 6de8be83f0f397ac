# SPDX-License-Identifier: Apache-2.0
"""A host behind ssh: key authentication, host keys pinned on first use, optional jump host."""

from __future__ import annotations

import contextlib
import logging
import shlex
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import paramiko

from sriov_lb_tests import errors
from sriov_lb_tests.wire.host import AgentHost, Result

LOG = logging.getLogger(__name__)

#: Seconds during which a refused key may still be "not yet": cloud-init writes keys after sshd is
#: up. Later a refusal is final, however much of the deadline is left.
KEY_GRACE = 20.0

#: Seconds after which a peer that takes no more input is given up.
SEND_STALL = 60.0
#: What paramiko raises, where a connection breaks.
BROKEN = (OSError, EOFError, paramiko.SSHException)


class Pins:
    """Host keys of one run, by the name the caller gives a host; kept in a file of the run.

    Addresses are reused within a run, identities (a server's id) are not: pin by identity.
    """

    def __init__(self, path: Path | str | None = None) -> None:
        self._path = Path(path) if path is not None else None
        self._keys: dict[str, str] = {}
        self._lock = threading.Lock()
        if self._path is not None and self._path.exists():
            for line in self._path.read_text().splitlines():
                name, _, key = line.partition(" ")
                self._keys[name] = key

    def check(self, name: str, key: paramiko.PKey) -> None:
        """Remember the first key of ``name``; every later one has to be the same.

        :raises SshRefused: it is another one.
        """
        found = f"{key.get_name()} {key.get_base64()}"
        with self._lock:
            known = self._keys.setdefault(name, found)
            if known == found:
                if self._path is not None:
                    lines = [f"{who} {what}\n" for who, what in sorted(self._keys.items())]
                    self._path.write_text("".join(lines))
                return
        raise errors.SshRefused(
            f"The host key of {name} changed within the run: pinned {_print_of(known)}, "
            f"found {_print_of(found)}.",
            remedy="Somebody else answers at this address, or the guest was rebuilt: give a rebuilt"
            " guest a new pin name.",
        )


def _print_of(key: str) -> str:
    kind, _, text = key.partition(" ")
    return f"{kind} …{text[-16:]}"


class _Pinning(paramiko.MissingHostKeyPolicy):
    def __init__(self, pins: Pins, name: str) -> None:
        self._pins, self._name = pins, name

    def missing_host_key(self, client, hostname, key) -> None:
        self._pins.check(self._name, key)


class SshChannel:
    """A command's channel as an agent's channel."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel
        self._said = b""

    def send(self, data: bytes) -> None:
        # Not sendall(): its timeout is the one receive() sets, maybe in another thread, and what
        # it sent before it timed out is not known.
        view, stalled = memoryview(data), time.monotonic()
        while view:
            try:
                sent = self._channel.send(view)
            except socket.timeout:  # noqa: UP041 (paramiko's own on Python 3.10)
                sent = 0
            if sent:
                view, stalled = view[sent:], time.monotonic()
            elif time.monotonic() - stalled > SEND_STALL:
                raise TimeoutError(f"the guest took no input for {SEND_STALL:g} s")

    def receive(self, size: int, timeout: float) -> bytes:
        self._channel.settimeout(timeout)
        try:
            return self._channel.recv(size)
        except socket.timeout as error:  # noqa: UP041 (paramiko's own on Python 3.10)
            raise TimeoutError from error

    def diagnosis(self) -> str:
        while self._channel.recv_stderr_ready():
            self._said += self._channel.recv_stderr(65536)
        said = self._said.decode(errors="replace").strip()[-2000:]
        if self._channel.exit_status_ready():
            ended = f"It ended with status {self._channel.recv_exit_status()}."
        else:
            ended = "It still runs, or the connection is gone."
        return f"{ended} It wrote: {said or '(nothing)'}"

    def close(self) -> None:
        with contextlib.suppress(OSError, EOFError):  # the connection is gone already
            self._channel.shutdown_write()
            # What it wrote last is read before the channel goes.
            self._channel.status_event.wait(5.0)
            while self._channel.recv_stderr_ready():
                self._said += self._channel.recv_stderr(65536)
        self._channel.close()


class SshHost(AgentHost):
    """A guest or amphora reached by ssh.

    :param address: where to connect.
    :param user: anyone but root is expected to have sudo without a password.
    :param key_file: private key (any type paramiko knows).
    :param port: ssh port.
    :param jump: another SshHost through which to connect.
    :param owns_jump: close the jump host with this one: nobody else goes through it.
    :param pins: a :class:`Pins`, a file to keep them in, or None (pinned for this object only).
    :param pin_name: who this is for the pins; by default address and port.
    :param name: how messages call it.
    :param deadline: seconds within which the first connection has to succeed; the guest may still
        be booting.
    """

    def __init__(
        self,
        address: str,
        *,
        user: str,
        key_file: Path | str,
        port: int = 22,
        jump: SshHost | None = None,
        owns_jump: bool = False,
        pins: Pins | Path | str | None = None,
        pin_name: str | None = None,
        name: str | None = None,
        deadline: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.address, self.port, self.user = address, port, user
        self.key_file, self.jump, self.deadline = Path(key_file), jump, deadline
        self._owns_jump = owns_jump
        self.name = name or f"{user}@{address}"
        self._pins = pins if isinstance(pins, Pins) else Pins(pins)
        self._pin_name = pin_name or f"{address}:{port}"
        self._client: paramiko.SSHClient | None = None
        self._clock = clock
        self._lock = threading.RLock()

    # connecting

    def connect(self, deadline: float | None = None) -> None:
        """Connect now, retrying until the deadline (seconds).

        :raises GuestUnreachable: nothing answers at the address, or nothing listens there.
        :raises SshRefused: it answers and does not let us in.
        """
        with self._lock:
            transport = self._client.get_transport() if self._client else None
            if transport is not None and transport.is_active():
                return
            self._connect(self.deadline if deadline is None else deadline)

    def _connect(self, deadline: float) -> None:
        self._check_key_file()
        started = self._clock()
        last: Exception | None = None
        refused_since: float | None = None
        pause = threading.Event()
        while True:
            left = deadline - (self._clock() - started)
            if left <= 0:
                raise self._unreachable(last, deadline)
            try:
                self._client = self._try(min(left, 10.0))
                return
            except errors.SshRefused:
                raise
            except paramiko.AuthenticationException as error:
                last = error
                now = self._clock()
                refused_since = now if refused_since is None else refused_since
                if now - refused_since >= min(KEY_GRACE, deadline):
                    raise self._refused(error) from error
            except BROKEN as error:
                last = error
            LOG.debug("%s: not yet: %s", self.name, last)
            # Nothing announces that a booting guest is ready: this is a poll.
            pause.wait(0.25)

    def _check_key_file(self) -> None:
        try:
            paramiko.PKey.from_path(self.key_file)
        except OSError as error:
            raise errors.SshRefused(
                f"The private key {self.key_file} for {self.name} cannot be read: {error.strerror}."
            ) from error
        except (paramiko.SSHException, ValueError) as error:
            raise errors.SshRefused(
                f"{self.key_file} for {self.name} is not a private key that can be used: {error}."
            ) from error

    def _try(self, timeout: float) -> paramiko.SSHClient:
        sock = None
        if self.jump is not None:
            self.jump.connect()
            try:
                sock = self.jump._client.get_transport().open_channel(
                    "direct-tcpip", (self.address, self.port), ("127.0.0.1", 0), timeout=timeout
                )
            except paramiko.ChannelException as error:
                raise ConnectionRefusedError(
                    f"the jump host {self.jump.name} could not connect: {error.text}"
                ) from error
        client = paramiko.SSHClient()
        client.set_missing_host_key_policy(_Pinning(self._pins, self._pin_name))
        try:
            client.connect(
                self.address,
                port=self.port,
                username=self.user,
                key_filename=str(self.key_file),
                sock=sock,
                timeout=timeout,
                banner_timeout=timeout,
                auth_timeout=timeout,
                channel_timeout=timeout,
                allow_agent=False,
                look_for_keys=False,
            )
        except BaseException:
            client.close()
            raise
        client.get_transport().set_keepalive(15)
        return client

    def _refused(self, error: Exception) -> errors.SshRefused:
        return errors.SshRefused(
            f"sshd on {self.address} port {self.port} does not accept user {self.user!r} with the "
            f"key {self.key_file}: {error}"
        )

    def _unreachable(self, last: Exception | None, deadline: float) -> errors.GuestError:
        where = f"{self.name} ({self.address} port {self.port}"
        where += f" through {self.jump.name})" if self.jump else ")"
        if isinstance(last, paramiko.AuthenticationException):
            return self._refused(last)
        if isinstance(last, paramiko.ssh_exception.NoValidConnectionsError):
            last = next(iter(last.errors.values()))
        if isinstance(last, ConnectionRefusedError):
            found = f"connection refused: no sshd listens there ({last})"
        elif isinstance(last, TimeoutError):
            found = "no answer (timed out): the address is wrong, filtered, or the guest is dead"
        elif isinstance(last, socket.gaierror):
            found = f"the name cannot be resolved ({last.strerror})"
        elif isinstance(last, OSError):
            found = f"unreachable ({last.strerror or last})"
        else:
            found = f"it answers, but not as an ssh server should ({last})"
        return errors.GuestUnreachable(f"No ssh to {where} within {deadline:g} s: {found}.")

    # Host

    def _open(self, anew: bool = True) -> paramiko.Channel:
        """A session.

        :param anew: connect once more if the connection ends meanwhile: sshd ends it, too, when the
            client's last words to a command cross the command's end.
        """
        self.connect()
        transport = self._client.get_transport()
        try:
            return transport.open_session(timeout=30.0)
        except BROKEN as error:
            if anew and not transport.is_active():
                return self._open(anew=False)
            # A guest that died is only missed some keepalives later.
            raise self._gone(
                f"{self.name} was connected by ssh and opens no session any more", error
            ) from error

    def _begin(self, argv: Sequence[str], root: bool) -> paramiko.Channel:
        """A session in which a command is under way."""
        channel = self._open()
        try:
            channel.exec_command(shlex.join(self._as_root(argv) if root else argv))
        except BROKEN as error:
            channel.close()
            # Not asked for once more: it may have begun.
            raise self._ended(argv, error) from error
        return channel

    def _ended(self, argv: Sequence[str], error: Exception) -> errors.GuestUnreachable:
        what = f"The connection to {self.name} ended while {shlex.join(argv)} was begun"
        return self._gone(what, error)

    @staticmethod
    def _gone(what: str, error: Exception) -> errors.GuestUnreachable:
        return errors.GuestUnreachable(
            f"{what}: {str(error).rstrip('.') or type(error).__name__}.",
            remedy="Look at the instance's console log: it may have died or been rebooted.",
        )

    def _as_root(self, argv: Sequence[str]) -> list[str]:
        return list(argv) if self.user == "root" else ["sudo", "-n", "--", *argv]

    def run(
        self,
        argv: Sequence[str],
        *,
        input: bytes | None = None,
        timeout: float = 60.0,
        check: bool = True,
        root: bool = False,
    ) -> Result:
        started = self._clock()
        channel = self._begin(argv, root)
        outputs: dict[str, bytes] = {"out": b"", "err": b""}
        try:
            channel.settimeout(timeout)
            self._feed(channel, input, argv)
            reader = threading.Thread(target=self._drain_errors, args=(channel, outputs))
            reader.start()
            while True:
                left = timeout - (self._clock() - started)
                channel.settimeout(max(left, 0.01))
                part = channel.recv(1 << 16)
                if not part:
                    break
                outputs["out"] += part
            if not channel.status_event.wait(max(timeout - (self._clock() - started), 0.01)):
                raise TimeoutError
            status = channel.recv_exit_status()
        except TimeoutError as error:
            raise errors.CommandFailed(
                f"{shlex.join(argv)} on {self.name} did not end within {timeout:g} s.", argv=argv
            ) from error
        finally:
            channel.close()
        reader.join()
        result = Result(
            tuple(argv),
            status,
            outputs["out"].decode(errors="replace"),
            outputs["err"].decode(errors="replace"),
            self._clock() - started,
        )
        return result.checked(self.name) if check else result

    def _feed(self, channel: paramiko.Channel, input: bytes | None, argv: Sequence[str]) -> None:
        try:
            if input:
                channel.sendall(input)
            channel.shutdown_write()
        except TimeoutError:
            raise
        except BROKEN as error:
            # A command may end without having read everything; its status says how.
            if not channel.status_event.is_set():
                raise self._ended(argv, error) from error

    @staticmethod
    def _drain_errors(channel: paramiko.Channel, outputs: dict[str, bytes]) -> None:
        # Ends with the channel; a command that fills stderr must not block on it.
        with contextlib.suppress(OSError):
            while part := channel.recv_stderr(1 << 16):
                outputs["err"] += part

    def open_channel(self, argv: Sequence[str], *, root: bool = False) -> SshChannel:
        return SshChannel(self._begin(argv, root))

    def close(self) -> None:
        super().close()
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._owns_jump and self.jump is not None:
            self.jump.close()
