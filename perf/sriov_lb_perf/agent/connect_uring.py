# SPDX-License-Identifier: Apache-2.0
"""Connection rate on io_uring: a chain socket > connect > send > receive for each connection."""

from __future__ import annotations

import collections
import errno
import os
import socket
import struct

from .http import CHUNK, Ended
from .machine import Health
from .recording import Counts, clock, quiet_gc
from .target import RETRY_NS, Target
from .uring import (
    CQE_SKIP,
    FIXED_FILE,
    IO_LINK,
    OP_CLOSE,
    OP_CONNECT,
    OP_POLL_ADD,
    OP_RECV,
    OP_SEND,
    OP_SOCKET,
    RECV_POLL_FIRST,
    Pool,
    Ring,
)

IDLE_NS = 20_000_000
#: Entries of one connection, in the order of its life. A chain of four opens it and asks;
#: each MORE reads on, to the FIN.
SOCKET, CONNECT, SEND, FIRST, MORE, CLOSE = range(6)
STRIDE = 8


def run_connect_uring(job: dict, link, target: Target) -> dict:
    """New connections as fast as ``concurrency`` of them at a time allow; see ``connect``.

    :raises Unavailable: this machine has no io_uring to offer.
    """
    request = target.request(close=True)
    count = job["concurrency"]
    link.check()
    ring = Ring(STRIDE * count + 1)
    answers = question = None
    try:
        ring.reserve_files(count)
        answers, question = Pool(count, CHUNK), Pool(1, 8192)
        return _run(job, link, target, request, ring, answers, question)
    finally:
        ring.close()
        for pool in (answers, question):
            if pool is not None:
                pool.close()


def _run(job, link, target, request, ring, answers, question):
    count = job["concurrency"]
    address = _sockaddr(target)
    question.memory[: len(request)] = request
    question.memory[4096 : 4096 + len(address)] = address
    for n in range(count):
        at = STRIDE * n
        fixed = {"flags": FIXED_FILE | IO_LINK}
        ring.prepare(
            at + SOCKET, OP_SOCKET, target.family, at + SOCKET, offset=socket.SOCK_STREAM,
            flags=IO_LINK | CQE_SKIP, file_index=n + 1,
        )  # fmt: skip
        ring.prepare(
            at + CONNECT, OP_CONNECT, n, at + CONNECT, address=question.at(0) + 4096,
            offset=len(address), **fixed,
        )  # fmt: skip
        ring.prepare(
            at + SEND, OP_SEND, n, at + SEND, address=question.at(0), length=len(request),
            message=socket.MSG_NOSIGNAL, flags=FIXED_FILE | IO_LINK | CQE_SKIP,
        )  # fmt: skip
        ring.prepare(
            at + FIRST, OP_RECV, n, at + FIRST, address=answers.at(n), length=CHUNK,
            mode=RECV_POLL_FIRST, flags=FIXED_FILE,
        )  # fmt: skip
        ring.prepare(
            at + MORE, OP_RECV, n, at + MORE, address=answers.at(n), length=CHUNK,
            flags=FIXED_FILE,
        )  # fmt: skip
        ring.prepare(at + CLOSE, OP_CLOSE, 0, at + CLOSE, flags=CQE_SKIP, file_index=n + 1)
    stop_tag = STRIDE * count
    ring.prepare(stop_tag, OP_POLL_ADD, link.descriptor, stop_tag, message=1)
    queue = ring.queue
    health = Health()
    handshake, first_byte, last_byte = Counts(), Counts(), Counts()
    tally, failed = collections.Counter(), collections.Counter()
    judged = Ended(job.get("length"))
    start = [0] * count
    connected = [0] * count
    first = [0] * count
    parts = [b""] * count
    retry = collections.deque()  # (when, number)
    finished = 0

    def launch(number):
        start[number] = clock()
        at = STRIDE * number
        queue.extend((at, at + 1, at + 2, at + 3))

    def fail(number, why):
        if why == "ports":
            tally["error: ports"] += 1
        elif why == "descriptors":
            tally["error: descriptors"] += 1
        else:
            failed[why] += 1
        parts[number] = b""
        start[number] = 0
        queue.append(STRIDE * number + CLOSE)
        retry.append((clock() + RETRY_NS, number))

    def ended(number, now):
        """FIN. Returns why the connection does not count, or None."""
        data, parts[number] = parts[number], b""
        why = judged.judge(data)
        if why:
            return why
        first_byte.add(first[number] - start[number])
        last_byte.add(now - start[number])
        return None

    why_not = {}  # number -> what its CONNECT or SOCKET said
    memory = answers.memory
    queue.append(stop_tag)
    warm = True
    tick_ns = int(job.get("tick", 1.0) * 1e9)
    with quiet_gc():
        begin = clock()
        mark = begin + int(job["warmup"] * 1e9)
        stop = mark + int(job["seconds"] * 1e9)
        for number in range(count):
            launch(number)
        while True:
            now = clock()
            if now >= mark:
                if warm:
                    warm = False
                    finished = 0
                    for each in (tally, failed, judged):
                        each.clear()
                    for each in (handshake, first_byte, last_byte):
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
            while retry and retry[0][0] <= now:
                launch(retry.popleft()[1])
            done = ring.enter(1, min(IDLE_NS, mark - now))
            now = clock()
            for tag, result, _flags in done:
                number, stage = divmod(tag, STRIDE)
                if stage == CONNECT:
                    if result < 0:
                        why_not.setdefault(number, _why(-result, "connect"))
                    else:
                        connected[number] = now
                        handshake.add(now - start[number])
                elif stage == FIRST or stage == MORE:
                    if result > 0:
                        at = number * CHUNK
                        if not parts[number]:
                            first[number] = now
                        parts[number] += memory[at : at + result]
                        queue.append(tag - stage + MORE)
                    elif result == 0:
                        why = ended(number, now)
                        if why:
                            fail(number, why)
                        else:
                            finished += 1
                            queue.append(tag - stage + CLOSE)
                            launch(number)
                    else:
                        fail(number, why_not.pop(number, "reset"))
                elif tag == stop_tag:
                    link.interrupted()
                elif stage == SOCKET and result < 0:
                    why_not[number] = _why(-result, "socket")
                # A SEND that failed: the receive behind it is called off, and says so.
        finish = clock()
        vitals = health.stop()
        # An answer that is there and was not read is not the target's delay.
        unread = {tag // STRIDE for tag, _result, _flags in ring.enter(0, 0)}
        stuck = [
            finish - began for n, began in enumerate(start) if began and n not in unread
        ]
        stuck = [age for age in stuck if age > 1_000_000_000]
    times = {"handshake": handshake, "first_byte": first_byte, "last_byte": last_byte}
    return {
        "engine": "io_uring",
        "window_s": (finish - begin) / 1e9,
        "connections": finished,
        "failed": dict(failed),
        "events": dict(tally),
        "unanswered": len(stuck),
        "oldest_s": max(stuck, default=0) / 1e9,
        "variants": judged.variants(),
        "times": {kind: counts.take() for kind, counts in times.items()},
        "health": vitals,
    }


def _why(code: int, where: str) -> str:
    if code == errno.EADDRNOTAVAIL:
        return "ports"
    if code in (errno.EMFILE, errno.ENFILE):
        return "descriptors"
    return f"{where}: {os.strerror(code)}"


def _sockaddr(target: Target) -> bytes:
    """struct sockaddr_in or sockaddr_in6 of the target."""
    host, port = target.address[:2]
    if target.family == socket.AF_INET:
        return struct.pack("=H", socket.AF_INET) + struct.pack(
            "!H4s8x", port, socket.inet_pton(socket.AF_INET, host)
        )
    flow, scope = target.address[2:4]
    return (
        struct.pack("=H", socket.AF_INET6)
        + struct.pack("!HI16s", port, flow, socket.inet_pton(socket.AF_INET6, host.split("%")[0]))
        + struct.pack("=I", scope)
    )
