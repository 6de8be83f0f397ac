# SPDX-License-Identifier: Apache-2.0
"""Where requests go: the address, the request's bytes, connections."""

from __future__ import annotations

import errno
import os
import resource
import select
import socket
import time
from urllib.parse import urlsplit

from .errors import JobError
from .machine import read_file

RETRY_NS = 50_000_000  # a connection that was refused is tried again after this


class Target:
    """Where requests go, and what they look like on the wire."""

    def __init__(self, job: dict) -> None:
        url = urlsplit(job["url"])
        if url.scheme not in ("http", "https") or not url.hostname:
            raise JobError("job", f"url {job['url']!r} is not http://HOST[:PORT]/PATH or https://…")
        self.tls = url.scheme == "https"
        self.host = url.hostname
        self.port = url.port or (443 if self.tls else 80)
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise JobError("resolve", f"cannot resolve {self.host!r}: {error}") from error
        self.family, _, _, _, self.address = found[0]
        self.sources = job.get("sources") or []
        self._source = 0
        name = f"[{self.host}]" if ":" in self.host else self.host
        self.path = (url.path or "/") + ("?" + url.query if url.query else "")
        self.name = name if url.port is None else f"{name}:{url.port}"
        self._context = None

    def request(self, *, close: bool = False) -> bytes:
        """The bytes of one GET."""
        lines = [
            f"GET {self.path} HTTP/1.1",
            f"Host: {self.name}",
            "User-Agent: sriov-lb-perf",
            "Accept: */*",
        ]
        if close:
            lines.append("Connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def start_connect(self, *, delay: bool = False) -> socket.socket:
        """A socket with its connection under way.

        :param delay: leave Nagle's algorithm on: it delays nothing for a single small request,
            and turning it off is one more system call.
        """
        try:
            sock = socket.socket(self.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            raise JobError(
                "descriptors", f"cannot open another socket: {error} (ulimit -n)"
            ) from error
        if not delay:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.sources:
            # Without IP_BIND_ADDRESS_NO_PORT (24) a bound source has its port chosen before the
            # destination is known, which wastes ports.
            if self.family == socket.AF_INET:
                sock.setsockopt(socket.IPPROTO_IP, 24, 1)
            sock.bind((self.sources[self._source % len(self.sources)], 0))
            self._source += 1
        code = sock.connect_ex(self.address)
        if code == errno.EADDRNOTAVAIL:
            sock.close()
            raise JobError(
                "ports",
                f"no ephemeral port left towards {self.address[0]}:{self.address[1]} "
                f"(ip_local_port_range {read_file('/proc/sys/net/ipv4/ip_local_port_range')})",
            )
        if code not in (0, errno.EINPROGRESS):
            sock.close()
            raise JobError("connect", f"connect to {self.describe()}: {os.strerror(code)}")
        return sock

    def describe(self) -> str:
        return f"{self.address[0]} port {self.address[1]}"

    def wrap(self, sock: socket.socket) -> socket.socket:
        """TLS on top of a connected socket, handshake not yet done. Certificates are not
        checked: what is measured is the load balancer, not its PKI."""
        import ssl

        if self._context is None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            self._context.check_hostname = False
            self._context.verify_mode = ssl.CERT_NONE
        return self._context.wrap_socket(
            sock, do_handshake_on_connect=False, server_hostname=self.host
        )


def reserve_descriptors(count: int) -> None:
    """Raise this process's limit to ``count`` connections and some more.

    :raises JobError: it may not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count + 64
    if needed > soft:
        if hard != resource.RLIM_INFINITY and needed > hard:
            raise JobError(
                "descriptors",
                f"{count} connections need {needed} descriptors; the limit here is {hard}",
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def connect_many(target: Target, count: int, timeout: float) -> list:
    """``count`` connected non-blocking sockets (TLS done), or a JobError that says how far it
    came."""
    reserve_descriptors(count)
    poller = select.epoll()
    waiting = {}
    ready = []
    failure = "no answer"
    deadline = time.monotonic() + timeout
    try:
        for _ in range(count):
            sock = target.start_connect()
            waiting[sock.fileno()] = sock
            poller.register(sock.fileno(), select.EPOLLOUT)
        while waiting and time.monotonic() < deadline:
            for fd, _flags in poller.poll(max(0.0, deadline - time.monotonic())):
                sock = waiting.pop(fd)
                poller.unregister(fd)
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code:
                    failure = os.strerror(code)
                    sock.close()
                    continue
                if target.tls:
                    sock.settimeout(max(0.1, deadline - time.monotonic()))
                    try:
                        sock = target.wrap(sock)
                        sock.do_handshake()
                    except OSError as error:
                        failure = f"TLS handshake: {error}"
                        sock.close()
                        continue
                    sock.setblocking(False)
                ready.append(sock)
        if len(ready) < count:
            raise JobError(
                "connect",
                f"{len(ready)} of {count} connections to {target.describe()} came up within "
                f"{timeout:g} s; last failure: {failure}",
            )
    except BaseException:
        for sock in ready:
            sock.close()
        raise
    finally:
        for sock in waiting.values():
            sock.close()
        poller.close()
    return ready


def drain(sock):
    """``recv`` for TLS: also what OpenSSL has already read, which epoll cannot see."""

    def recv(size):
        data = sock.recv(size)
        while sock.pending():
            data += sock.recv(size)
        return data

    return recv
