# SPDX-License-Identifier: Apache-2.0
"""A web server for member guests that says who it is; standard library only.

Nothing is installed in a guest: the program travels over ssh as an argument. It binds
first and goes to the background then, so that once the command has ended the server answers.
"""

from __future__ import annotations

from sriov_lb_tests.wire.background import DETACH
from sriov_lb_tests.wire.host import Host

#: The header (and body) by which a member is told from another.
HEADER = "x-member"

PROGRAM = (
    """\
import os, socket, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
name, port = sys.argv[1], int(sys.argv[2])
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = name.encode()
        self.send_response(200)
        self.send_header("X-Member", name)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
class Server(ThreadingHTTPServer):
    daemon_threads = True
    address_family = socket.AF_INET6
    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()
server = Server(("::", port), Handler)
"""
    + DETACH
    + """\
server.serve_forever()
"""
)


def start(host: Host, name: str, port: int) -> None:
    """Start the server on a guest.

    :param name: what it answers with.
    :raises CommandFailed: the port is taken, or there is no python3.
    """
    host.run(["python3", "-c", PROGRAM, name, str(port)], root=port < 1024, timeout=30)
