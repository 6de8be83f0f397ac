# SPDX-License-Identifier: Apache-2.0
"""A real sshd in a namespace, with keys of its own, for one test."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SSHD = "/usr/sbin/sshd"


@dataclass
class Server:
    port: int
    key_file: Path
    folder: Path
    process: subprocess.Popen

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=10)


def keygen(path: Path) -> Path:
    path.unlink(missing_ok=True)
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
    subprocess.run(command, check=True)
    return path


@contextlib.contextmanager
def sshd(
    folder: Path, *, namespace: str | None = None, port: int = 2222, listen: str = "127.0.0.1"
) -> Iterator[Server]:
    """sshd on ``listen``:``port`` of a namespace, letting root in with ``folder/key``.

    Privilege separation wants /run/sshd: it is made in a mount namespace of the server's own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    key = folder / "key"
    if not key.exists():
        keygen(key)
    host_key = keygen(folder / "host_key")
    (folder / "authorized").write_text(key.with_suffix(".pub").read_text())
    os.chmod(folder / "authorized", 0o600)
    config = folder / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress {listen}\nHostKey {host_key}\nPidFile none\n"
        f"AuthorizedKeysFile {folder / 'authorized'}\nPasswordAuthentication no\nUsePAM no\n"
        "PermitRootLogin prohibit-password\nStrictModes no\nAllowTcpForwarding yes\n"
        "MaxStartups 100\n"
    )
    serve = f"mount -t tmpfs tmpfs /run && mkdir -m 755 /run/sshd && exec {SSHD} -D -e -f {config}"
    prefix = ["ip", "netns", "exec", namespace] if namespace else []
    log = open(folder / "sshd.log", "wb")
    with log:
        process = subprocess.Popen(
            [*prefix, "unshare", "--mount", "sh", "-c", serve], stdout=log, stderr=log
        )
    server = Server(port, key, folder, process)
    try:
        yield server
    finally:
        if process.poll() is None:
            server.stop()
