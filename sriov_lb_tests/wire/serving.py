# SPDX-License-Identifier: Apache-2.0
"""What a member serves for some profiles only, beside nginx and iperf3: objects of the sizes they
ask for, and a UDP echo. Nothing is installed; both end with the guest."""

from __future__ import annotations

from collections.abc import Iterable

from sriov_lb_tests.wire.background import DETACH
from sriov_lb_tests.wire.host import Host

#: The folder of the member's web server (sriov_lb_tests.wire.origin).
FOLDER = "/var/lib/sriov-lb-perf"

#: The member's port of the echo (scenarios/listeners/echo.yaml).
ECHO_PORT = 9000

#: Sends each datagram back. It answers as long as the guest lives; the command returns once the
#: port is bound.
ECHO = (
    """\
import os, socket, sys
sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
sock.bind(("::", int(sys.argv[1])))
"""
    + DETACH
    + """\
buffer = bytearray(65535)
view = memoryview(buffer)
while True:
    try:
        size, peer = sock.recvfrom_into(buffer)
        sock.sendto(view[:size], peer)
    except OSError:
        pass  # an ICMP error about an earlier answer: the next datagram is another matter
"""
)


def path_of(size: int) -> str:
    """Where the object of ``size`` bytes is, as a URL's path."""
    return f"/object-{size}"


def objects(host: Host, sizes: Iterable[int]) -> dict[int, str]:
    """Put objects of these sizes beside what the member's nginx serves.

    :return: path by size.
    :raises CommandFailed: it could not be written.
    """
    made = {size: path_of(size) for size in sizes}
    lines = [
        f"head -c {size} /dev/zero | tr '\\0' x >{FOLDER}{path}" for size, path in made.items()
    ]
    host.run(["sh", "-ec", "\n".join(lines)], root=True, timeout=60)
    return made


def echo(host: Host, port: int = ECHO_PORT) -> None:
    """Start the echo on a member.

    :raises CommandFailed: the port is taken, or there is no python3.
    """
    host.run(["python3", "-c", ECHO, str(port)], timeout=30)
