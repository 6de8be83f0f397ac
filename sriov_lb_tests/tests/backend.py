# SPDX-License-Identifier: Apache-2.0
"""A web server for member guests that says who it is; standard library only.

Nothing is installed in a guest: the program travels over ssh as an argument. It binds
first and goes to the background then, so that once the command has ended the server answers.

In a guest that somebody else made it outlives the run unless it is stopped, and there another
process of the run may serve the same port for the same name: they share it, and each stops its own.
"""

from __future__ import annotations

import logging

from sriov_lb_tests import errors
from sriov_lb_tests.wire.background import DETACH
from sriov_lb_tests.wire.host import Host

LOG = logging.getLogger(__name__)

#: The header (and body) by which a member is told from another.
HEADER = "x-member"

PROGRAM = (
    """\
import http.client, os, socket, sys
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
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()
asked = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
try:
    asked.request("GET", "/")
    there = asked.getresponse().getheader("X-Member", "")
except ConnectionRefusedError:
    there = None
finally:
    asked.close()
if there not in (None, name):
    sys.exit("port %d is taken, by %s" % (port, there or "somebody else"))
try:
    server = Server(("::", port), Handler)
except OSError:
    if there is None:
        raise
    sys.exit()  # of an older run, which does not share: it serves for this one, too
told, tell = os.pipe()
if os.fork():
    os.close(tell)
    print(os.read(told, 16).decode(), flush=True)
    os._exit(0)
"""
    + DETACH
    + """\
os.write(tell, b"%d" % os.getpid())
os.close(tell)
server.serve_forever()
"""
)


def start(host: Host, name: str, port: int) -> int | None:
    """Start the server on a guest.

    :param name: what it answers with.
    :return: its process id, for :func:`stop`; None when one that answers so was there already.
    :raises CommandFailed: the port is taken, or there is no python3.
    """
    argv = ["python3", "-c", PROGRAM, name, str(port)]
    said = host.run(argv, root=port < 1024, timeout=30).stdout.strip()
    return int(said) if said else None


def stop(host: Host, pid: int, port: int) -> None:
    """End a server; that it could not be is told, and keeps nothing else from being undone."""
    try:
        host.run(["kill", str(pid)], root=port < 1024)
    except errors.SriovLbError as error:
        LOG.warning("A member's server may be left on %s: %s", host.name, error)
