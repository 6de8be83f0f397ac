# SPDX-License-Identifier: Apache-2.0
"""Run a program and take its output, or raise with what it said.

Network namespaces are entered by ``nsenter`` in a child, never by setns() here: under
nova-compute every "thread" is a green one on the same kernel thread, and would be taken along.
"""

from __future__ import annotations

import subprocess

from sriov_lb_lab.substrate.errors import CommandFailed

TIMEOUT = 30.0


def run(*argv: str, netns: str | None = None, timeout: float = TIMEOUT) -> str:
    """Run ``argv`` and return its standard output.

    :param netns: path of the network namespace to run it in; None: the caller's.
    :param timeout: seconds after which it is killed.
    :raises CommandFailed: it failed, took too long or is not installed.
    """
    command = list(argv) if netns is None else ["nsenter", f"--net={netns}", "--", *argv]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as expired:
        raise CommandFailed(command, None, f"limit {timeout} s") from expired
    except FileNotFoundError as missing:
        raise CommandFailed(command, 127, f"{missing.filename} is not installed") from missing
    if done.returncode != 0:
        raise CommandFailed(command, done.returncode, done.stderr)
    return done.stdout
