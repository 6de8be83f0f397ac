# SPDX-License-Identifier: Apache-2.0
"""Runs the commands of a build, so that they end when the build ends, and explains their failures.

Every command runs in mount and PID namespaces of its own: whatever it mounts or starts is gone with
it, however it ends, and the host never sees any of it.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
import shlex
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence

from sriov_lb_lab.errors import BuildError

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclasses.dataclass(frozen=True)
class Bind:
    """A file or folder of the host that a chroot gets to see.

    :ivar inside: absolute path in the chroot; it is made first where it lies below ``/run`` or
        ``/tmp`` (which are empty file systems in memory while a command runs), and must exist
        otherwise.
    """

    outside: pathlib.Path
    inside: str
    writable: bool = False


@dataclasses.dataclass(frozen=True)
class Chroot:
    """How a root tree looks to the commands of a build.

    :ivar writable: whether they may change the tree.
    :ivar environment: all of their environment except PATH, HOME and the locale.
    :ivar network: whether names resolve in it the way they do on the host.
    """

    root: pathlib.Path
    writable: bool = False
    network: bool = False
    binds: tuple[Bind, ...] = ()
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Runner:
    """Runs commands, each with a log, and can end all of them.

    :param keep_open: descriptors that children inherit (the lock of the cache).
    """

    def __init__(self, logs: pathlib.Path, keep_open: tuple[int, ...] = ()) -> None:
        self._logs = logs
        self._keep_open = keep_open
        self._running: set[subprocess.Popen[bytes]] = set()
        self._guard = threading.Lock()
        self._stopped = False

    def log_of(self, name: str) -> pathlib.Path:
        """Where the output of the commands of one tree goes."""
        return self._logs / f"{name}.log"

    def stop(self) -> None:
        """End every command under way; further ones are refused."""
        with self._guard:
            self._stopped = True
            for process in self._running:
                process.kill()

    def isolated(self, argv: Sequence[str], *, log: str, what: str,
                 environment: Mapping[str, str] | None = None) -> None:
        """Run a command of the host in mount and PID namespaces of its own.

        :param log: name of the log file that its output is appended to.
        :param what: what is being done, for the error message.
        :raises BuildError: if it fails, with what its output says about the cause.
        """
        # setpriv ties the command to this process: without it, killing the build would leave the
        # command at work in a folder that the next build removes.
        whole = ["setpriv", "--pdeathsig", "KILL", "--",
                 "unshare", "--mount", "--propagation", "private", "--pid", "--fork",
                 "--kill-child", "--mount-proc", "--", *argv]
        path = self.log_of(log)
        with path.open("ab") as output:
            output.write(f"+ {time.strftime('%H:%M:%S')} {what}: {shlex.join(argv)}\n".encode())
            output.flush()
            begin = output.tell()
            with self._guard:
                if self._stopped:
                    raise BuildError(f"{what}: given up, because another part of the build failed")
                process = subprocess.Popen(
                    whole, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                    env=None if environment is None else dict(environment),
                    pass_fds=self._keep_open,
                )
                self._running.add(process)
            try:
                code = process.wait()
            finally:
                with self._guard:
                    self._running.discard(process)
        if code and self._stopped:
            raise BuildError(f"{what}: given up, because another part of the build failed")
        if code:
            with path.open("rb") as output:
                output.seek(begin)
                text = output.read().decode(errors="replace")
            raise BuildError(*explain(what, code, text, path))

    def inside(self, chroot: Chroot, argv: Sequence[str], *, log: str, what: str) -> None:
        """Run a command in a root tree; see :meth:`isolated`."""
        self.isolated(["sh", "-c", enter(chroot, argv)], log=log, what=what)


def enter(chroot: Chroot, argv: Sequence[str]) -> str:
    """The shell script that makes a chroot usable and runs a command in it.

    It mounts, so it belongs into a mount namespace that nothing else lives in.
    """
    root = shlex.quote(str(chroot.root))
    lines = [
        "set -e",
        f"R={root}",
        'mount --bind "$R" "$R"',
    ]
    if not chroot.writable:
        lines.append('mount -o remount,bind,ro "$R"')
    lines += [
        'mount -t proc proc "$R/proc"',
        'mount -t tmpfs -o mode=755 tmpfs "$R/run"',
        'mount -t tmpfs -o mode=1777 tmpfs "$R/tmp"',
        'mount -t tmpfs -o mode=755 tmpfs "$R/dev"',
        'for d in null zero full random urandom tty; do',
        '  : > "$R/dev/$d"; mount --bind "/dev/$d" "$R/dev/$d"',
        "done",
        'ln -s /proc/self/fd "$R/dev/fd"',
        'mkdir "$R/dev/shm"',
    ]
    for path in ("/etc/resolv.conf", "/etc/hosts") if chroot.network else ():
        # Read-only: a script in the tree that writes its own must not write the host's.
        lines += [
            f'if [ -e {path} ]; then',
            f'  mount --bind "$(readlink -f {path})" "$R{path}"',
            f'  mount -o remount,bind,ro "$R{path}"',
            "fi",
        ]
    for bind in chroot.binds:
        outside, inside = shlex.quote(str(bind.outside)), shlex.quote(bind.inside)
        if bind.inside.startswith(("/run/", "/tmp/")):
            lines.append(
                f'if [ -d {outside} ]; then mkdir -p "$R"{inside}; '
                f'else mkdir -p "$(dirname "$R"{inside})"; : > "$R"{inside}; fi'
            )
        lines.append(f'mount --bind {outside} "$R"{inside}')
        if not bind.writable:
            lines.append(f'mount -o remount,bind,ro "$R"{inside}')
    environment = {"PATH": PATH, "HOME": "/root", "LC_ALL": "C.UTF-8",
                   "DEBIAN_FRONTEND": "noninteractive", **chroot.environment}
    assigned = " ".join(shlex.quote(f"{name}={value}") for name, value in environment.items())
    lines.append(f'exec chroot "$R" env -i {assigned} {shlex.join(argv)}')
    return "\n".join(lines)


_UNREACHABLE = re.compile(
    r"Temporary failure (?:resolving|in name resolution)|Could not resolve"
    r"|Name or service not known"
    r"|Could not connect|Network is unreachable|Connection (?:refused|timed out|reset)"
    r"|NewConnectionError|ConnectTimeout|ReadTimeout|ProxyError|SSLError|No route to host", re.I,
)


def explain(what: str, code: int, output: str, log: pathlib.Path) -> tuple[str, str]:
    """Turn the output of a failed command into a message and a remedy.

    Whatever could not be fetched is named by URL or requirement.
    """
    if re.search(r"No space left on device", output):
        return (f"{what}: no space left on the disk (log: {log})",
                "free some space, or put the state folder elsewhere (--state)")
    missing = list(dict.fromkeys(
        (re.findall(r"^(?:E|W): Failed to fetch (\S+)", output, re.M)
         or re.findall(r"^Err:\d+ (\S+ \S+(?: \S+)?)", output, re.M))
        + re.findall(r"Could not find a version that satisfies the requirement (\S+)", output)
        + re.findall(r"No matching distribution found for (\S+)", output)
        + re.findall(r"Could not fetch URL (\S+?):? ", output)
    ))
    if missing:
        unreachable = _UNREACHABLE.search(output)
        reason = f" ({unreachable.group(0)})" if unreachable else ""
        names = "\n".join(f"    {name}" for name in missing[:12])
        more = f"\n    and {len(missing) - 12} more" if len(missing) > 12 else ""
        return (
            f"{what}: could not fetch{reason}\n{names}{more}\n  log: {log}",
            "connect this machine to a Debian mirror (--mirror) and a Python package index (pip's "
            "configuration), then run the same command again; what was fetched already is kept",
        )
    tail = "\n".join(f"    {line[:300]}" for line in output.strip().splitlines()[-12:])
    return (f"{what}: the command failed with exit code {code}; the end of its output:\n{tail}\n"
            f"  log: {log}", "see the log for the command and all of its output")
