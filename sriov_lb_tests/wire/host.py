# SPDX-License-Identifier: Apache-2.0
"""The seam between tests and machines: what every host can do, however it is reached.

Implementations: :class:`sriov_lb_tests.wire.ssh.SshHost`,
:class:`sriov_lb_tests.wire.namespace.NamespaceHost`, and
:class:`sriov_lb_tests.wire.fake.FakeHost` for unit tests.
"""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from sriov_lb_tests import errors
from sriov_lb_tests.wire.session import AgentSession, Channel


@dataclass(frozen=True)
class Result:
    """What a command did.

    :param argv: the command as asked for, without sudo or namespace prefix.
    :param status: exit status; negative is a signal.
    :param stdout: decoded as UTF-8, undecodable bytes replaced.
    :param stderr: the same.
    :param seconds: wall time.
    """

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str
    seconds: float

    def checked(self, host: str) -> Result:
        """This result, or :class:`CommandFailed` when the status is not 0."""
        if self.status == 0:
            return self
        said = (self.stderr.strip() or self.stdout.strip() or "(no output)")[-2000:]
        raise errors.CommandFailed(
            f"{shlex.join(self.argv)} on {host} ended with status {self.status}, "
            f"expected 0: {said}",
            argv=self.argv,
            status=self.status,
            stdout=self.stdout,
            stderr=self.stderr,
        )


@dataclass(frozen=True)
class Interface:
    """A network interface as the host's kernel shows it; addresses with prefix length."""

    name: str
    index: int
    mac: str
    mtu: int
    up: bool
    addresses: tuple[ipaddress.IPv4Interface | ipaddress.IPv6Interface, ...]

    def address(self, version: int) -> str | None:
        """The first address of that IP version; link-local only when there is no other."""
        own = [entry.ip for entry in self.addresses if entry.version == version]
        wide = [entry for entry in own if not entry.is_link_local]
        return str((wide or own)[0]) if own else None

    def owns(self, address: str) -> bool:
        return ipaddress.ip_address(address) in {entry.ip for entry in self.addresses}


def interface_from(entry: dict) -> Interface:
    """An :class:`Interface` from the agent's description of it."""
    return Interface(
        name=entry["name"],
        index=entry["index"],
        mac=entry["mac"],
        mtu=entry["mtu"],
        up=entry["up"],
        addresses=tuple(ipaddress.ip_interface(text) for text in entry["addresses"]),
    )


@runtime_checkable
class Host(Protocol):
    """A machine on which commands run and from which frames are sent."""

    #: How messages call it.
    name: str

    def run(
        self,
        argv: Sequence[str],
        *,
        input: bytes | None = None,
        timeout: float = 60.0,
        check: bool = True,
        root: bool = False,
    ) -> Result:
        """Run a command and wait for it.

        :param root: run as root (through sudo where the user is not root).
        :raises CommandFailed: status is not 0 and ``check``; or it did not end in ``timeout`` s.
        """
        ...

    def open_channel(self, argv: Sequence[str], *, root: bool = False) -> Channel:
        """Start a command and talk to it: bytes to its stdin, bytes from its stdout.

        ``send`` and ``receive`` of the channel may be called from two threads at once.
        """
        ...

    def open_agent(self, *, netns: str | None = None) -> AgentSession:
        """Start the agent there as root, in the network namespace ``netns`` if given.

        :raises GuestTooOld: no Python 3.8.
        :raises AgentFailed: it did not answer.
        """
        ...

    def send(self, interface: str, frames: Sequence[bytes], schedule=None) -> dict:
        """Send prepared frames from ``interface``; see :meth:`AgentSession.send`."""
        ...

    def capture(self, interface: str, match: dict | None = None):
        """A context manager that captures; see :meth:`AgentSession.capture`."""
        ...

    def interfaces(self) -> dict[str, Interface]:
        """Interfaces by name."""
        ...

    def close(self) -> None:
        """Let go of every connection and agent of this host."""
        ...


def raise_interface(host: Host, mac: str, port: str) -> str:
    """Set the interface of a Neutron port up, whatever the guest's image does; its name.

    :param mac: the port's.
    :param port: how messages call it.
    :raises GuestUnreachable: the guest has no interface with that MAC.
    """
    interfaces = host.interfaces()
    found = [one.name for one in interfaces.values() if one.mac.lower() == mac.lower()]
    if not found:
        raise errors.GuestUnreachable(
            f"{host.name} has no interface with the MAC {mac} of its {port}; it has "
            f"{', '.join(sorted(interfaces))}."
        )
    host.run(["ip", "link", "set", found[0], "up"], root=True)
    return found[0]


class AgentHost:
    """What both implementations share: one agent, opened when first needed.

    A subclass provides ``name``, ``run`` and ``open_channel``.
    """

    name: str
    _agent: AgentSession | None = None

    def open_channel(self, argv: Sequence[str], *, root: bool = False) -> Channel:
        raise NotImplementedError

    def _open_channel(self, argv: Sequence[str]) -> Channel:
        return self.open_channel(argv)

    def open_agent(self, *, netns: str | None = None) -> AgentSession:
        from sriov_lb_tests.wire import session

        prefix = ["ip", "netns", "exec", netns] if netns else []
        where = f"{self.name} (namespace {netns})" if netns else self.name
        return session.start(where, self.open_channel([*prefix, *session.COMMAND], root=True))

    @property
    def agent(self) -> AgentSession:
        """The host's shared agent."""
        if self._agent is None or self._agent.closed:
            self._agent = self.open_agent()
        return self._agent

    def send(self, interface: str, frames: Sequence[bytes], schedule=None) -> dict:
        return self.agent.send(interface, frames, schedule)

    def capture(self, interface: str, match: dict | None = None):
        return self.agent.capture(interface, match)

    def interfaces(self) -> dict[str, Interface]:
        return self.agent.interfaces()

    def close(self) -> None:
        if self._agent is not None:
            self._agent.close()
            self._agent = None

    def __enter__(self):
        return self

    def __exit__(self, *_exc) -> None:
        self.close()
