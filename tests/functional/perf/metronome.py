# SPDX-License-Identifier: Apache-2.0
"""A target whose rate and delay are known: ``python metronome.py ADDRESS PORT:SLOT_US:HOLD_US …``

An HTTP server of one thread. On each port answers leave at least SLOT_US apart (so its highest
rate is 1/SLOT, whoever asks) and HOLD_US later than they would. Both are kept by
spinning on the clock, and what was kept is measured: GET /truth tells, per port, the median time
between two answers under load and the median time from reading a request to its answer, and
starts afresh.
"""

from __future__ import annotations

import json
import select
import socket
import statistics
import sys
import time

BODY = b"member-1 " + b"x" * 55
PAUSE_NS = 50_000_000  # nobody asks
clock = time.perf_counter_ns


def answer(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


class Port:
    def __init__(self, address: str, text: str) -> None:
        number, slot, hold = text.split(":")
        self.number = int(number)
        self.slot, self.hold = int(float(slot) * 1000), int(float(hold) * 1000)
        self.listener = socket.create_server((address, self.number), backlog=1024)
        self.listener.setblocking(False)
        self.next = 0
        self.holds: list[int] = []
        self.left: list[int] = []

    def wait(self) -> None:
        """Spin until the answer to a request just read may leave."""
        now = clock()
        if self.slot:
            if now - self.next > PAUSE_NS:
                self.next = now  # idle: what was not asked for is not caught up on
            due = max(self.next, now + self.hold)
            # Late once is not late for ever: the mean rate is kept.
            self.next += self.slot
        else:
            due = now + self.hold
        while clock() < due:
            pass

    def truth(self) -> dict:
        gaps = [b - a for a, b in zip(self.left, self.left[1:], strict=False)]
        # The median: pauses between two trials, and what they were late by once, are no slots.
        found = {
            "answers": len(self.left),
            "slot_ns": statistics.median(gaps) if gaps else None,
            "hold_ns": statistics.median(self.holds) if self.holds else None,
        }
        self.holds, self.left = [], []
        return found


def main(address: str, *ports: str) -> None:
    poller = select.epoll()
    listening = {}
    for port in (Port(address, text) for text in ports):
        listening[port.listener.fileno()] = port
        poller.register(port.listener.fileno(), select.EPOLLIN)
    open_: dict[int, tuple[socket.socket, Port]] = {}
    good = answer(BODY)
    while True:
        for fd, _flags in poller.poll():
            if fd in listening:
                sock, _ = listening[fd].listener.accept()
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                open_[sock.fileno()] = (sock, listening[fd])
                poller.register(sock.fileno(), select.EPOLLIN)
                continue
            sock, port = open_[fd]
            try:
                data = sock.recv(4096)
                read = clock()
                if data.startswith(b"GET /truth"):
                    said = {each.number: each.truth() for each in listening.values()}
                    sock.sendall(answer(json.dumps(said).encode()))
                elif data:
                    port.wait()
                    sock.sendall(good)
                    left = clock()
                    port.holds.append(left - read)
                    port.left.append(left)
                if not data or b"Connection: close" in data:
                    del open_[fd]
                    sock.close()
            except OSError:
                del open_[fd]
                sock.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
