# SPDX-License-Identifier: Apache-2.0
"""Connection rate: connect, (TLS handshake,) one GET, read to FIN, close."""

from __future__ import annotations

import collections
import os
import select
import socket

from .connect_uring import run_connect_uring
from .errors import JobError
from .http import CHUNK, Ended
from .machine import Health
from .recording import Counts, clock, quiet_gc
from .target import RETRY_NS, Target
from .uring import Unavailable


def run_connect(job: dict, link) -> dict:
    """New connections as fast as ``concurrency`` of them at a time allow.

    One connection counts when the whole response came, was valid, and the target closed with
    FIN (RFC 9411, section 7.1: a transaction ended by RST is a failed one).

    ``engine``: ``io_uring``, ``epoll`` or ``auto`` (io_uring where the machine has it, the target
    is plain HTTP, and no source addresses are given). The report says which it was.
    """
    target = Target(job)
    engine = job.get("engine", "auto")
    if engine not in ("auto", "epoll", "io_uring"):
        raise JobError("job", f"engine {engine!r} is none of auto, epoll, io_uring")
    if engine != "epoll" and not target.tls and not target.sources:
        try:
            return run_connect_uring(job, link, target)
        except Unavailable as error:
            if engine == "io_uring":
                raise JobError("system", str(error)) from error
    return _run_epoll(job, link, target)


class _Slot:
    """One connection under way."""

    __slots__ = ("connected", "data", "first", "sock", "stage", "start")

    def __init__(self, sock, start: int) -> None:
        self.sock, self.start = sock, start
        self.stage = "connecting"
        self.data = b""
        self.connected = self.first = 0


def _run_epoll(job: dict, link, target: Target) -> dict:
    request = target.request(close=True)
    health = Health()
    poller = select.epoll()
    kinds = ("handshake", "tls", "first_byte", "last_byte")
    counts = {kind: Counts() for kind in kinds}
    tally = collections.Counter()
    failed = collections.Counter()
    answers = Ended(job.get("length"))
    ciphers = collections.Counter()
    slots = {}  # fd -> _Slot
    retry = collections.deque()
    recvs = collections.defaultdict(lambda: None)
    edge = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
    broken = select.EPOLLERR | select.EPOLLHUP
    finished = 0

    def launch():
        start = clock()
        try:
            sock = target.start_connect(delay=True)
        except JobError as error:
            if error.kind in ("ports", "descriptors"):
                tally["error: " + error.kind] += 1
            else:
                failed[error.kind] += 1
            retry.append(clock() + RETRY_NS)
            return
        fd = sock.fileno()
        slots[fd] = _Slot(sock, start)
        # Edge-triggered: one registration serves connect, answer and FIN.
        poller.register(fd, edge)

    def end(fd, why):
        slots.pop(fd).sock.close()
        if why:
            failed[why] += 1
            retry.append(clock() + RETRY_NS)
        else:
            launch()

    def step(fd, flags):
        nonlocal finished
        slot = slots[fd]
        sock = slot.sock
        if slot.stage == "connecting":
            if flags & broken:
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code:
                    return end(fd, f"connect: {os.strerror(code)}")
            slot.connected = clock()
            counts["handshake"].add(slot.connected - slot.start)
            if not target.tls:
                slot.stage = "reading"
                sock.send(request)
                return None  # the answer is another edge
            sock = slot.sock = target.wrap(sock)
            slot.stage = "handshake"
        if slot.stage == "handshake":
            sock.do_handshake()  # raises SSLWant*, and comes back here
            now = clock()
            counts["tls"].add(now - slot.connected)
            ciphers[f"{sock.version()} {sock.cipher()[0]}"] += 1
            slot.stage = "reading"
            sock.send(request)
        if not flags & (select.EPOLLIN | broken):
            return None  # room to write, which the request has had all along
        while True:
            data = sock.recv(CHUNK)
            now = clock()
            if data:
                if not slot.first:
                    slot.first = now
                slot.data += data
                if not flags & select.EPOLLRDHUP and not target.tls:
                    return None  # so is the FIN
                continue
            why = answers.judge(slot.data)
            if why:
                return end(fd, why)
            finished += 1
            counts["first_byte"].add(slot.first - slot.start)
            counts["last_byte"].add(now - slot.start)
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
                        for each in (tally, failed, answers, ciphers):
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
                for fd, flags in poller.poll(min(wait, 0.05) if retry else wait, cap):
                    if fd not in slots:
                        if recvs[fd] is not None:
                            recvs[fd](0)
                        continue
                    try:
                        step(fd, flags)
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
            stuck = [finish - slot.start for fd, slot in slots.items() if fd not in unread]
            stuck = [age for age in stuck if age > 1_000_000_000]
        finally:
            for slot in slots.values():
                slot.sock.close()
            poller.close()
    return {
        "engine": "epoll",
        "ciphers": dict(ciphers),
        "window_s": (finish - begin) / 1e9,
        "connections": finished,
        "failed": dict(failed),
        "events": dict(tally),
        "unanswered": len(stuck),
        "oldest_s": max(stuck, default=0) / 1e9,
        "variants": answers.variants(),
        "times": {kind: counts[kind].take() for kind in kinds if kind != "tls" or target.tls},
        "health": vitals,
    }
