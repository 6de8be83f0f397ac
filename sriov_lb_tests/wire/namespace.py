# SPDX-License-Identifier: Apache-2.0
"""A host that is a network namespace of this machine (functional tests, the lab from inside)."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import threading
import time
from collections.abc import Sequence

from sriov_lb_tests import errors
from sriov_lb_tests.wire.host import AgentHost, Result


class PipeChannel:
    """A process of this machine as an agent's channel."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            list(argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self._said: list[bytes] = []
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()

    def _listen(self) -> None:
        for line in self._process.stderr:
            self._said.append(line)

    def send(self, data: bytes) -> None:
        self._process.stdin.write(data)
        self._process.stdin.flush()

    def receive(self, size: int, timeout: float) -> bytes:
        out = self._process.stdout.fileno()
        if not select.select([out], [], [], timeout)[0]:
            raise TimeoutError
        return os.read(out, size)

    def diagnosis(self) -> str:
        status = self._process.poll()
        if status is not None:
            self._reader.join(timeout=5)
        said = b"".join(self._said).decode(errors="replace").strip()[-2000:]
        ended = "It still runs." if status is None else f"It ended with status {status}."
        return f"{ended} It wrote: {said or '(nothing)'}"

    def close(self) -> None:
        # When it ended first, what it wrote is in diagnosis().
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(timeout=5)
        self._reader.join(timeout=5)
        self._process.stdout.close()


class NamespaceHost(AgentHost):
    """A namespace by name (``ip netns``) or, with a slash, by path (``/proc/7/ns/net``).

    Needs root.
    """

    def __init__(self, namespace: str, *, name: str | None = None) -> None:
        self.namespace = namespace
        self.name = name or f"namespace {namespace}"
        if "/" in namespace:
            self._prefix = ["nsenter", f"--net={namespace}", "--"]
        else:
            self._prefix = ["ip", "netns", "exec", namespace]

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
            done = subprocess.run(
                [*self._prefix, *argv], input=input, capture_output=True, timeout=timeout
            )
        except subprocess.TimeoutExpired as error:
            raise errors.CommandFailed(
                f"{' '.join(argv)} on {self.name} did not end within {timeout:g} s.", argv=argv
            ) from error
        result = Result(
            tuple(argv),
            done.returncode,
            done.stdout.decode(errors="replace"),
            done.stderr.decode(errors="replace"),
            time.monotonic() - started,
        )
        return result.checked(self.name) if check else result

    def open_channel(self, argv: Sequence[str], *, root: bool = False) -> PipeChannel:
        return PipeChannel([*self._prefix, *argv])
