# SPDX-License-Identifier: Apache-2.0
"""Two VIPs without OpenStack: real haproxy before real nginx, in network namespaces.

::

    PREFIX-client ──veth── PREFIX-lb (haproxy, one per VIP) ──veth── PREFIX-member (nginx)

The namespaces are the only thing the host sees of it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

CLIENT_NET, MEMBER_NET = "10.77.1", "10.77.2"

# As root, because pytest's folders are closed to every other user.
NGINX = """\
user root;
daemon off;
worker_processes 1;
pid {run}/nginx.pid;
error_log {run}/nginx.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; sendfile on; tcp_nopush on; default_type text/plain;
  keepalive_requests 100000000;
  client_body_temp_path {run}/b; proxy_temp_path {run}/p; fastcgi_temp_path {run}/f;
  uwsgi_temp_path {run}/u; scgi_temp_path {run}/s;
  server {{ listen {member}:80 backlog=4096; root {run}/www; }}
}}
"""

HAPROXY = """\
global
  nbthread 1
  maxconn 2000
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
  option http-keep-alive
frontend vip
  bind {address}:{port} {options}
{extra}  default_backend members
backend members
  http-reuse always
  server member {server}
"""


class TestBed:
    """Use as a context manager; everything in it ends with it."""

    __test__ = False

    def __init__(self, folder: Path, prefix: str | None = None) -> None:
        self.folder = folder
        self.prefix = prefix or f"perf{os.getpid()}"
        self.processes: dict[str, subprocess.Popen] = {}
        self._namespaces: list[str] = []

    @property
    def client(self) -> str:
        return f"{self.prefix}-client"

    def __enter__(self) -> TestBed:
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_exc) -> None:
        self.close()

    def _build(self) -> None:
        for name in ("client", "lb", "member"):
            self._ip("netns", "add", f"{self.prefix}-{name}")
            self._namespaces.append(f"{self.prefix}-{name}")
            self._ip("-n", f"{self.prefix}-{name}", "link", "set", "lo", "up")
        self._wire("client", "lb", CLIENT_NET)
        self._wire("lb", "member", MEMBER_NET)
        www = self.folder / "www"
        www.mkdir(parents=True)
        (www / "index.html").write_text("member-1 " + "x" * 55)
        with open(www / "large", "wb") as file:
            file.truncate(50 << 20)
        (www / "object-16384").write_text("x" * 16384)
        config = self.folder / "nginx.conf"
        config.write_text(NGINX.format(run=self.folder, member=f"{MEMBER_NET}.2"))
        self._start("nginx", "member", ["nginx", "-c", str(config)])
        self._until_open("lb", f"{MEMBER_NET}.2", 80)

    def _wire(self, left: str, right: str, net: str) -> None:
        """A veth pair between two namespaces: .1 on the left, .2 on the right."""
        self._ip(
            "link", "add", f"to-{right}", "netns", f"{self.prefix}-{left}", "type", "veth",
            "peer", "name", f"to-{left}", "netns", f"{self.prefix}-{right}",
        )  # fmt: skip
        for here, there, last in ((left, right, 1), (right, left, 2)):
            space = f"{self.prefix}-{here}"
            self._ip("-n", space, "addr", "add", f"{net}.{last}/24", "dev", f"to-{there}")
            self._ip("-n", space, "link", "set", f"to-{there}", "up")

    def vip(self, name: str, port: int, *, hops: int = 1, extra: str = "") -> str:
        """Start a load balancer; returns its URL.

        :param hops: how many haproxies in a row: more than one is a handicap.
        :param extra: lines for its frontend.
        """
        server = f"{MEMBER_NET}.2:80"
        for hop in reversed(range(1, hops)):
            address = f"127.0.0.1:{port * 10 + hop}"
            self._haproxy(f"{name}-{hop}", "127.0.0.1", port * 10 + hop, server, "")
            server = address
        self._haproxy(name, f"{CLIENT_NET}.2", port, server, extra)
        self._until_open("client", f"{CLIENT_NET}.2", port)
        return f"http://{CLIENT_NET}.2:{port}/"

    def tls_vip(self, name: str, port: int) -> str:
        """A load balancer that ends TLS, with a certificate of its own; returns its https URL."""
        key, certificate = self.folder / f"{name}.key", self.folder / f"{name}.crt"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
             "-subj", "/CN=vip.test", "-keyout", str(key), "-out", str(certificate)],
            check=True, capture_output=True,
        )  # fmt: skip
        pem = self.folder / f"{name}.pem"
        pem.write_text(certificate.read_text() + key.read_text())
        self._haproxy(
            name, f"{CLIENT_NET}.2", port, f"{MEMBER_NET}.2:80", "", options=f"ssl crt {pem}"
        )
        self._until_open("client", f"{CLIENT_NET}.2", port)
        return f"https://{CLIENT_NET}.2:{port}/"

    def metronome(
        self, *ports: tuple[int, float, float], core: int | None = None
    ) -> list[str]:
        """A target of known rate and delay in place of the load balancers; see metronome.py.

        :param ports: (port, slot in us, hold in us) each.
        :param core: to pin it to.
        :return: a URL each.
        """
        pinned = [] if core is None else ["taskset", "-c", str(core)]
        script = Path(__file__).with_name("metronome.py")
        texts = [f"{port}:{slot}:{hold}" for port, slot, hold in ports]
        self._start(
            f"metronome-{ports[0][0]}", "lb",
            [*pinned, sys.executable, str(script), f"{CLIENT_NET}.2", *texts],
        )  # fmt: skip
        for port, _, _ in ports:
            self._until_open("client", f"{CLIENT_NET}.2", port)
        return [f"http://{CLIENT_NET}.2:{port}/" for port, _, _ in ports]

    def capture(self, where: str, device: str, port: int, path: Path) -> subprocess.Popen:
        """tcpdump of one TCP port, time stamps in ns; ready to capture when this returns."""
        process = subprocess.Popen(
            ["ip", "netns", "exec", f"{self.prefix}-{where}", "tcpdump", "-i", device, "-n",
             "-s", "128", "-B", "16384", "--time-stamp-precision=nano", "-U", "-w", str(path),
             "tcp", "port", str(port)],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        said = b""
        while b"listening on" not in said:
            piece = process.stderr.readline()
            if not piece:
                raise RuntimeError(f"tcpdump ended: {said!r}")
            said += piece
        self.processes[f"tcpdump-{where}-{port}"] = process
        return process

    @contextlib.contextmanager
    def losing(self, port: int, each: int):
        """Every ``each``-th segment with data from the client to a port is lost before haproxy."""
        lost = f"tcp dport {port} meta length > 80 numgen inc mod {each} == 0 drop"
        chain = f"chain in {{\ntype filter hook prerouting priority raw\n{lost}\n}}\n"
        rule = f"table ip losing {{\n{chain}}}\n"
        inside = ["ip", "netns", "exec", f"{self.prefix}-lb", "nft"]
        subprocess.run([*inside, "-f", "-"], input=rule, text=True, check=True)
        try:
            yield
        finally:
            subprocess.run([*inside, "delete", "table", "ip", "losing"], check=True)

    def udp_echo(self, port: int, *, drop_each: int = 0) -> tuple[str, int]:
        """A UDP server that sends back what it gets, but for every ``drop_each``-th."""
        program = (
            "import socket, sys\n"
            "sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
            "sock.bind((sys.argv[1], int(sys.argv[2])))\n"
            "each, count = int(sys.argv[3]), 0\n"
            "print('ready', flush=True)\n"
            "while True:\n"
            "    data, peer = sock.recvfrom(65535)\n"
            "    count += 1\n"
            "    if not each or count % each:\n"
            "        sock.sendto(data, peer)\n"
        )
        name = f"udp-{port}"
        address = f"{CLIENT_NET}.2"
        self._start(
            name, "lb", [sys.executable, "-c", program, address, str(port), str(drop_each)]
        )
        self._until(lambda: "ready" in (self.folder / f"{name}.log").read_text(), name)
        return address, port

    def iperf3(self, port: int) -> tuple[str, int]:
        """An iperf3 server in place of the load balancers, as a member runs it."""
        address = f"{CLIENT_NET}.2"
        argv = ["iperf3", "--server", "--json", "--bind", address, "--port", str(port)]
        self._start(f"iperf3-{port}", "lb", argv)
        self._until_open("client", address, port)
        return address, port

    @staticmethod
    def _until(condition, what: str) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{what} did not come up")
            time.sleep(0.02)

    def _haproxy(
        self, name: str, address: str, port: int, server: str, extra: str, *, options: str = ""
    ) -> None:
        config = self.folder / f"haproxy-{name}.cfg"
        config.write_text(
            HAPROXY.format(
                address=address, port=port, server=server, extra=extra, options=options
            )
        )
        self._start(name, "lb", ["haproxy", "-db", "-f", str(config)])

    def pause(self, name: str, seconds: float) -> float:
        """Stop a process for that long: the stall a client would see; returns how long it was."""
        process = self.processes[name]
        begun = time.monotonic()
        process.send_signal(signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            process.send_signal(signal.SIGCONT)
        return time.monotonic() - begun

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].wait(10)

    def _start(self, name: str, where: str, argv: list[str]) -> None:
        log = open(self.folder / f"{name}.log", "wb")
        self.processes[name] = subprocess.Popen(
            ["ip", "netns", "exec", f"{self.prefix}-{where}", *argv],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        log.close()

    def _until_open(self, where: str, address: str, port: int) -> None:
        deadline = time.monotonic() + 30
        probe = f"exec 3<>/dev/tcp/{address}/{port}"
        while True:
            done = subprocess.run(
                ["ip", "netns", "exec", f"{self.prefix}-{where}", "bash", "-c", probe],
                capture_output=True,
                timeout=10,
            )
            if done.returncode == 0:
                return
            if time.monotonic() > deadline:
                logs = {p.name: p.read_text()[-300:] for p in self.folder.glob("*.log")}
                raise RuntimeError(f"nothing listens on {address} port {port}: {logs}")
            time.sleep(0.05)

    @staticmethod
    def _ip(*argv: str) -> None:
        subprocess.run(["ip", *argv], check=True, capture_output=True, text=True)

    def close(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
        for process in self.processes.values():
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)
        for name in self._namespaces:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def missing() -> list[str]:
    """Programs of the distribution that this needs and that are not there."""
    found = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return [name for name in ("haproxy", "nginx", "ip") if shutil.which(name, path=found) is None]
