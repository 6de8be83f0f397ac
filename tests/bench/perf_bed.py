# SPDX-License-Identifier: Apache-2.0
"""Two namespaces and a veth pair: everything that generates on one core, the target on another.

::

    PREFIX-client (core 0) ──veth── PREFIX-target (core 1): nginx, sockperf

The namespaces are the only thing the host sees of it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

GENERATOR, TARGET = 0, 1  # cores
CLIENT_IP, TARGET_IP = "10.79.1.1", "10.79.1.2"
BODY = "member-1 " + "x" * 55

NGINX = """\
user root;
daemon off;
worker_processes 1;
pid {run}/nginx.pid;
error_log {run}/nginx.log;
events {{ worker_connections 8192; }}
http {{
  access_log off; sendfile on; tcp_nopush on; default_type text/plain;
  keepalive_requests 1000000000;
  client_body_temp_path {run}/b; proxy_temp_path {run}/p; fastcgi_temp_path {run}/f;
  uwsgi_temp_path {run}/u; scgi_temp_path {run}/s;
  server_tokens off;
  server {{ listen {address}:80 backlog=4096; location / {{ return 200 "{body}"; }} }}
}}
"""


class PerfBed:
    """Use as a context manager; everything in it ends with it."""

    def __init__(self, folder: Path, prefix: str | None = None) -> None:
        self.folder = folder
        self.prefix = prefix or f"bench{os.getpid()}"
        self._processes: list[subprocess.Popen] = []
        self._namespaces: list[str] = []

    @property
    def client(self) -> str:
        return f"{self.prefix}-client"

    @property
    def url(self) -> str:
        return f"http://{TARGET_IP}/"

    def __enter__(self) -> PerfBed:
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_exc) -> None:
        self.close()

    def _build(self) -> None:
        for name in ("client", "target"):
            _ip("netns", "add", f"{self.prefix}-{name}")
            self._namespaces.append(f"{self.prefix}-{name}")
        _ip(
            "link", "add", "eth0", "netns", self.client, "type", "veth",
            "peer", "name", "eth0", "netns", f"{self.prefix}-target",
        )  # fmt: skip
        for name, address in (("client", CLIENT_IP), ("target", TARGET_IP)):
            space = f"{self.prefix}-{name}"
            _ip("-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", space, "link", "set", "eth0", "up")
            _ip("-n", space, "link", "set", "lo", "up")
        ports = "net.ipv4.ip_local_port_range=1024 65000"
        self.run(["sysctl", "-qw", ports], core=None)
        config = self.folder / "nginx.conf"
        config.write_text(NGINX.format(run=self.folder, address=TARGET_IP, body=BODY))
        self.serve(["nginx", "-c", str(config)])
        ask = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1]).read().decode())"
        argv = [sys.executable, "-c", ask, self.url]
        self.until(lambda: self.run(argv, check=False, core=None).strip() == BODY)

    def serve(self, argv: list[str]) -> subprocess.Popen:
        """Start something beside the target, on its core."""
        return self._start("target", TARGET, argv)

    def listens_udp(self, port: int) -> bool:
        """Whether something beside the target waits for datagrams there."""
        with_port = ["ss", "-Huln", "sport", "=", f":{port}"]
        argv = ["ip", "netns", "exec", f"{self.prefix}-target", *with_port]
        return bool(subprocess.run(argv, capture_output=True, check=True).stdout.strip())

    def disturb(self, argv: list[str]) -> subprocess.Popen:
        """Start something on the generator's core."""
        return self._start("client", GENERATOR, argv)

    def _start(self, where: str, core: int, argv: list[str]) -> subprocess.Popen:
        name = f"{len(self._processes)}-{Path(argv[0]).name}.log"
        with open(self.folder / name, "wb") as log:
            process = subprocess.Popen(
                ["ip", "netns", "exec", f"{self.prefix}-{where}", "taskset", "-c", str(core),
                 *argv],
                stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        self._processes.append(process)
        return process

    def run(
        self, argv: list[str], *, core: int | None = GENERATOR, check: bool = True, **more
    ) -> str:
        """Run something in the client to its end, on the generator's core; returns its output."""
        pinned = [] if core is None else ["taskset", "-c", str(core)]
        done = subprocess.run(
            ["ip", "netns", "exec", self.client, *pinned, *argv],
            capture_output=True, text=True, timeout=120, **more,
        )  # fmt: skip
        if check and done.returncode:
            raise RuntimeError(f"{argv}: status {done.returncode}: {done.stderr[-500:]}")
        return done.stdout

    @staticmethod
    def until(condition, seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise RuntimeError("the test bed did not come up in time")
            time.sleep(0.05)

    def close(self) -> None:
        for process in self._processes:
            end(process)
        for name in self._namespaces:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def end(process: subprocess.Popen) -> None:
    """End a process that :class:`PerfBed` started."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)


def _ip(*argv: str) -> None:
    subprocess.run(["ip", *argv], check=True, capture_output=True, text=True)
