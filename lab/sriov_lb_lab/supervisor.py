# SPDX-License-Identifier: Apache-2.0
"""Talk to the lab's process supervisor through its socket, from the host or from inside."""

from __future__ import annotations

import http.client
import os
import socket
import xmlrpc.client
from pathlib import Path
from typing import Any


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket whose path may be longer than the 107 bytes that sun_path holds."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        folder = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY)
        try:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(self.timeout)
            self.sock.connect(f"/proc/self/fd/{folder}/{self._path.name}")
        finally:
            os.close(folder)


class _Transport(xmlrpc.client.Transport):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        return _Connection(self._path)


class Supervisor:
    """The calls the lab needs; ``OSError`` when nobody listens on the socket."""

    def __init__(self, socket_path: Path) -> None:
        self._rpc = xmlrpc.client.ServerProxy(
            "http://supervisor/RPC2", transport=_Transport(socket_path), allow_none=True
        ).supervisor

    def processes(self) -> list[dict[str, Any]]:
        """One dictionary per program: name, statename, pid (in the lab), start, stop, spawnerr."""
        return list(self._rpc.getAllProcessInfo())

    def ready(self) -> bool:
        """Whether the supervisor answers and is running."""
        return self._rpc.getState()["statename"] == "RUNNING"

    def restart(self, name: str) -> None:
        """Stop (if it runs) and start a program, waiting for both."""
        self.stop(name)
        self._rpc.startProcess(name, True)

    def stop(self, name: str) -> None:
        """Stop a program, waiting for it."""
        try:
            self._rpc.stopProcess(name, True)
        except xmlrpc.client.Fault as fault:
            if "NOT_RUNNING" not in fault.faultString:
                raise

    def start(self, name: str) -> None:
        """Start a program, waiting for it."""
        self._rpc.startProcess(name, True)

    def signal(self, name: str, signal_name: str) -> None:
        """Send a signal to a program."""
        self._rpc.signalProcess(name, signal_name)
