# SPDX-License-Identifier: Apache-2.0
"""Progress for people: what is being done, for how long, and why it failed. Stdlib only."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

TAIL = 30  # lines of a failed command's output that are shown


class Failed(Exception):
    """Something did not work; the message says what and what to do. Shown without traceback."""


class Steps:
    """Lines with the time since the start; a clock while something silent runs."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        """One line."""
        print(f"[{self._elapsed():6.1f} s] {text}", flush=True)

    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    @contextlib.contextmanager
    def doing(self, text: str) -> Iterator[None]:
        """Say what begins, tick while it lasts, say how long it took."""
        self.say(f"{text} ...")
        began, done = time.monotonic(), threading.Event()
        ticker = threading.Thread(target=self._tick, args=(text, began, done), daemon=True)
        ticker.start()
        try:
            yield
        finally:
            done.set()
            ticker.join()
        self.say(f"{text}: done in {time.monotonic() - began:.1f} s")

    def _tick(self, text: str, began: float, done: threading.Event) -> None:
        # A terminal gets a running clock; a log gets a sign of life twice a minute.
        terminal = sys.stdout.isatty()
        while not done.wait(1 if terminal else 30):
            line = f"[{self._elapsed():6.1f} s]   {time.monotonic() - began:.0f} s so far"
            print(f"\r{line}" if terminal else f"{line}: {text}", end="" if terminal else "\n")
            sys.stdout.flush()
        if terminal:
            print("\r\033[K", end="", flush=True)


def quietly(
    argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None, append: bool = False
) -> None:
    """Run a command with its output in ``log``.

    :raises Failed: with the end of the output, if the status is not 0.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a" if append else "w") as stream:
        stream.write(f"+ {' '.join(argv)}\n")
        stream.flush()
        try:
            status = subprocess.run(
                argv, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, env=env
            ).returncode
        except FileNotFoundError as error:
            raise Failed(f"{argv[0]} is not installed on this machine.") from error
    if status:
        tail = "\n".join("    " + line for line in log.read_text().splitlines()[-TAIL:])
        raise Failed(f"{' '.join(argv)}\nended with status {status}; the end of {log}:\n{tail}")
