# SPDX-License-Identifier: Apache-2.0
"""A member server that speaks everything a pool can speak; standard library only.

One process answers HTTP, HTTP over TLS, HTTP behind a PROXY header (version 1), and, one datagram
or message at a time, UDP and SCTP where the guest's kernel has it.
"""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sriov_lb_tests.tests.backend import HEADER
from sriov_lb_tests.wire.background import DETACH
from sriov_lb_tests.wire.host import Host

#: Port by pool protocol.
PORTS = {"HTTP": 8000, "TCP": 8000, "HTTPS": 8443, "PROXY": 8001, "UDP": 9000, "SCTP": 9000}

#: Where a member behind a PROXY pool says who the client is.
CLIENT_HEADER = "x-client"

_PROGRAM = (
    """\
import os, socket, ssl, sys, tempfile, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
name, web, tls, proxy, other = sys.argv[1], *map(int, sys.argv[2:6])
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    client = ""
    def do_GET(self):
        body = name.encode()
        self.send_response(200)
        self.send_header("X-Member", name)
        self.send_header("X-Client", self.client)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
class Proxied(Handler):
    def setup(self):
        super().setup()
        words = self.rfile.readline(108).decode("ascii", "replace").split()
        if len(words) < 3 or words[0] != "PROXY":
            raise ConnectionError("no PROXY header: " + repr(words))
        self.client = words[2]
class Server(ThreadingHTTPServer):
    daemon_threads = True
    address_family = socket.AF_INET6
    request_queue_size = 64
    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()
    def handle_error(self, request, client_address):
        pass
servers = [Server(("::", web), Handler), Server(("::", proxy), Proxied)]
secure = Server(("::", tls), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
with tempfile.NamedTemporaryFile() as file:
    file.write(sys.stdin.buffer.read())
    file.flush()
    context.load_cert_chain(file.name)
secure.socket = context.wrap_socket(secure.socket, server_side=True, do_handshake_on_connect=False)
servers.append(secure)
datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
datagrams.bind(("::", other))
def echo():
    while True:
        data, address = datagrams.recvfrom(2048)
        datagrams.sendto(name.encode() + b" " + data, address)
def messages(listening):
    while True:
        connection, _ = listening.accept()
        connection.sendall(name.encode() + b" " + connection.recv(2048))
        connection.close()
todo = [s.serve_forever for s in servers] + [echo]
try:
    sctp = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_SCTP)
    sctp.bind(("::", other))
    sctp.listen(16)
    todo.append(lambda: messages(sctp))
except OSError:
    pass  # the guest's kernel has no SCTP
"""
    + DETACH
    + """\
threads = [threading.Thread(target=one) for one in todo]
for thread in threads:
    thread.start()
"""
)

#: Sends one datagram or message and prints what came back.
ASK = """\
import socket, sys
kind, source, address, port = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
if kind == "UDP":
    sock = socket.socket(family, socket.SOCK_DGRAM)
else:
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_SCTP)
sock.settimeout(2)
sock.bind((source, 0))
sock.connect((address, port))
sock.send(b"hello")
print(sock.recv(2048).decode())
"""


def start(host: Host, name: str) -> None:
    """Start the server on a guest.

    :param name: what it answers with, in the header :data:`HEADER` or as the first word.
    :raises CommandFailed: a port is taken, or there is no python3.
    """
    ports = [PORTS["HTTP"], PORTS["HTTPS"], PORTS["PROXY"], PORTS["UDP"]]
    argv = ["python3", "-c", _PROGRAM, name, *map(str, ports)]
    host.run(argv, input=_certificate(), timeout=30)


def _certificate() -> bytes:
    """Key and certificate, for one run."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "member")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain)
    return private + certificate.public_bytes(encoding)


__all__ = ["ASK", "CLIENT_HEADER", "HEADER", "PORTS", "start"]
