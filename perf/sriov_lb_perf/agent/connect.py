# SPDX-License-Identifier: Apache-2.0
"""Connection rate: connect, (TLS handshake,) one GET, read to FIN, close."""

from __future__ import annotations

import collections
import os
import select
import socket

from .errors import JobError
from .http import CHUNK, MAX_VARIANTS, Head
from .machine import Health
from .recording import Counts, clock, quiet_gc
from .target import RETRY_NS, Target


def run_connect(job: dict, link) -> dict:
    """New connections as fast as ``concurrency`` of them at a time allow.

    One connection counts when the whole response came, was valid, and the target closed with
    FIN (RFC 9411, section 7.1: a transaction ended by RST is a failed one).
    """
    target = Target(job)
    request = target.request(close=True)
    health = Health()
    poller = select.epoll()
    kinds = ("handshake", "tls", "first_byte", "last_byte")
    counts = {kind: Counts() for kind in kinds}
    tally = collections.Counter()
    failed = collections.Counter()
    bodies = collections.Counter()
    slots = {}  # fd -> [socket, start, stage, data, connected, first byte]
    retry = collections.deque()
    recvs = collections.defaultdict(lambda: None)
    edge = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
    finished = 0

    def launch():
        start = clock()
        try:
            sock = target.start_connect()
        except JobError as error:
            if error.kind in ("ports", "descriptors"):
                tally["error: " + error.kind] += 1
            else:
                failed[error.kind] += 1
            retry.append(clock() + RETRY_NS)
            return
        slots[sock.fileno()] = [sock, start, "connecting", b"", 0, 0]
        # Edge-triggered: one registration serves connect, answer and FIN.
        poller.register(sock.fileno(), edge)

    def end(fd, why):
        slot = slots.pop(fd)
        slot[0].close()
        if why:
            failed[why] += 1
            retry.append(clock() + RETRY_NS)
        else:
            launch()

    def step(fd):
        nonlocal finished
        slot = slots[fd]
        sock = slot[0]
        if slot[2] == "connecting":
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                return end(fd, f"connect: {os.strerror(code)}")
            slot[4] = clock()
            counts["handshake"].add(slot[4] - slot[1])
            if target.tls:
                sock = slot[0] = target.wrap(sock)
                slot[2] = "handshake"
            else:
                slot[2] = "reading"
                sock.send(request)
        if slot[2] == "handshake":
            sock.do_handshake()  # raises SSLWant*, and comes back here
            now = clock()
            counts["tls"].add(now - slot[4])
            slot[2] = "reading"
            sock.send(request)
        while True:
            data = sock.recv(CHUNK)
            now = clock()
            if data:
                if not slot[5]:
                    slot[5] = now
                slot[3] += data
                continue
            if b"\r\n\r\n" not in slot[3]:
                return end(fd, "closed before an answer")
            head = Head(slot[3])
            body = slot[3][head.size :]
            if not 200 <= head.status < 300:
                return end(fd, f"status {head.status}")
            if head.length is not None and head.length != len(body):
                return end(fd, "closed in the middle of a response")
            finished += 1
            bodies[body if len(bodies) < MAX_VARIANTS or body in bodies else None] += 1
            counts["first_byte"].add(slot[5] - slot[1])
            counts["last_byte"].add(now - slot[1])
            return end(fd, None)

    link.watch(poller, recvs)
    warm = True
    tick_ns = int(job.get("tick", 1.0) * 1e9)
    cap = job["concurrency"] + 1
    with quiet_gc():
        begin = clock()
        mark = begin + int(job["warmup"] * 1e9)
        stop = mark + int(job["seconds"] * 1e9)
        try:
            for _ in range(job["concurrency"]):
                launch()
            while True:
                now = clock()
                if now >= mark:
                    if warm:
                        warm = False
                        finished = 0
                        for each in (tally, failed, bodies):
                            each.clear()
                        for each in counts.values():
                            each.clear()
                        health.start()
                        begin = clock()
                        stop = begin + int(job["seconds"] * 1e9)
                        mark = min(stop, begin + tick_ns)
                        continue
                    if now >= stop:
                        break
                    link.report("tick", done=finished)
                    mark = min(stop, mark + tick_ns)
                while retry and retry[0] <= now:
                    retry.popleft()
                    launch()
                wait = (mark - now) / 1e9
                for fd, _flags in poller.poll(min(wait, 0.05) if retry else wait, cap):
                    if fd not in slots:
                        if recvs[fd] is not None:
                            recvs[fd](0)
                        continue
                    try:
                        step(fd)
                    except (BlockingIOError, InterruptedError):
                        continue
                    except OSError as error:
                        if type(error).__name__.startswith("SSLWant"):
                            continue
                        end(fd, "reset")
            finish = clock()
            vitals = health.stop()
            # An answer that is there and was not read is not the target's delay.
            unread = {fd for fd, _flags in poller.poll(0)}
            stuck = [finish - slot[1] for fd, slot in slots.items() if fd not in unread]
            stuck = [age for age in stuck if age > 1_000_000_000]
        finally:
            for slot in slots.values():
                slot[0].close()
            poller.close()
    return {
        "window_s": (finish - begin) / 1e9,
        "connections": finished,
        "failed": dict(failed),
        "events": dict(tally),
        "unanswered": len(stuck),
        "oldest_s": max(stuck, default=0) / 1e9,
        "variants": [
            {
                "head": None if body is None else body[:80].decode("latin-1"),
                "length": None if body is None else len(body),
                "count": number,
            }
            for body, number in bodies.items()
        ],
        "times": {kind: counts[kind].take() for kind in kinds if kind != "tls" or target.tls},
        "health": vitals,
    }
