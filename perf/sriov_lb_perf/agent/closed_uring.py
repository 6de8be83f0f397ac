# SPDX-License-Identifier: Apache-2.0
"""Closed loop on io_uring: the same figures as ``closed``, with fewer system calls."""

from __future__ import annotations

import collections
import socket
import time

from .errors import JobError
from .http import CHUNK, Reader, Whole
from .machine import Health
from .recording import Counts, clock, quiet_gc
from .target import RETRY_NS, Target, connect_many
from .uring import CQE_SKIP, OP_POLL_ADD, OP_RECV, OP_SEND, RECV_POLL_FIRST, Pool, Ring

IDLE_NS = 20_000_000  # longest sleep: the clock is looked at this often when nothing comes back
POLLIN, POLLOUT = 1, 4


class Batch:
    """How many answers to wait for before the next requests leave.

    One, as long as this process has CPU to spare: then an answered connection asks again at
    once, which is what a closed loop is. Where the process would be the limit itself, answers
    are taken in batches of up to half of the connections; that costs less on both machines (one
    wake-up for many), and the other half keeps the target busy meanwhile.
    """

    PERIOD_NS = 10_000_000
    BUSY, SPARE = 0.70, 0.35  # shares of a core: above doubles the batch, below halves it

    def __init__(self, connections: int) -> None:
        self.least = self.largest = 1
        self._most = max(1, connections // 2)
        self._cpu, self._since = time.thread_time_ns(), clock()
        self.due = self._since + self.PERIOD_NS

    def adapt(self, now: int) -> None:
        cpu = time.thread_time_ns()
        share = (cpu - self._cpu) / (now - self._since)
        if share > self.BUSY:
            self.least = min(self._most, 2 * self.least)
        elif share < self.SPARE:
            self.least = max(1, self.least // 2)
        self.largest = max(self.largest, self.least)
        self._cpu, self._since, self.due = cpu, now, now + self.PERIOD_NS


def run_closed_uring(job: dict, link) -> dict:
    """Each of ``connections`` sends its next request as soon as the last one is answered.

    :raises Unavailable: this machine has no io_uring to offer.
    """
    target = Target(job)
    count = job["connections"]
    # Three entries a connection: SEND, RECV, and POLL for a connection in the making; the last
    # one is for the tester's stop.
    link.check()
    ring = Ring(3 * count + 1)
    try:
        socks = connect_many(target, count, job.get("connect_timeout", 5.0))
    except BaseException:
        ring.close()
        raise
    request = target.request()
    answers, question = Pool(count, CHUNK), Pool(1, max(4096, len(request)))
    question.memory[: len(request)] = request
    reader = Reader(job.get("length"))
    whole = Whole(reader)
    counts = Counts()
    health = Health()
    born = [0] * count
    opening = set()
    retry = collections.deque()  # (when, connection)
    tally = collections.Counter()
    # Tags: RECV of connection n is n, its SEND count + n, its POLL 2 * count + n.
    stop_tag = 3 * count
    queue = ring.queue
    pairs = [(3 * number, 3 * number + 1) for number in range(count)]
    batch = Batch(count)

    def wire(number, sock):
        """Write the entries of a connection (again)."""
        socks[number] = sock
        fd = sock.fileno()
        ring.prepare(
            3 * number, OP_SEND, fd, count + number, address=question.at(0),
            length=len(request), flags=CQE_SKIP, message=socket.MSG_NOSIGNAL,
        )  # fmt: skip
        ring.prepare(
            3 * number + 1, OP_RECV, fd, number, address=answers.at(number), length=CHUNK,
            mode=RECV_POLL_FIRST,
        )  # fmt: skip
        ring.prepare(3 * number + 2, OP_POLL_ADD, fd, 2 * count + number, message=POLLOUT)

    def ask(number):
        born[number] = clock()
        queue.append(3 * number)
        queue.append(3 * number + 1)

    def reopen(number):
        if socks[number] is not None:
            socks[number].close()
            socks[number] = None
        try:
            sock = target.start_connect()
        except JobError as error:
            tally["error: " + error.kind] += 1
            retry.append((clock() + RETRY_NS, number))
            return
        wire(number, sock)
        opening.add(number)
        queue.append(3 * number + 2)

    def opened(number):
        opening.discard(number)
        if socks[number].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            tally["error: connect"] += 1
            socks[number].close()
            socks[number] = None
            retry.append((clock() + RETRY_NS, number))
        else:
            ask(number)

    def trouble(number, result):
        """A RECV that failed, or found the end."""
        reader.closed(number)
        tally["closed by the target" if result == 0 else "error: reset"] += 1
        reopen(number)

    ring.prepare(3 * count, OP_POLL_ADD, link.descriptor, stop_tag, message=POLLIN)
    queue.append(3 * count)
    known = whole.known.get
    hits = reader.hits
    memory = answers.memory
    fine, over = counts.fine, counts.over
    enter = ring.enter
    warm = True
    tick_ns = int(job.get("tick", 1.0) * 1e9)
    with quiet_gc():
        begin = clock()
        mark = begin + int(job["warmup"] * 1e9)
        end = mark + int(job["seconds"] * 1e9)
        try:
            for number, sock in enumerate(socks):
                wire(number, sock)
                ask(number)
            while True:
                now = clock()
                if now >= mark:
                    if warm:
                        warm = False
                        reader.reset()
                        counts.clear()
                        tally.clear()
                        health.start()
                        batch.largest = batch.least
                        begin = clock()
                        end = begin + int(job["seconds"] * 1e9)
                        mark = min(end, begin + tick_ns)
                        continue
                    if now >= end:
                        break
                    link.report("tick", done=reader.total(), latency=counts.take())
                    mark = min(end, mark + tick_ns)
                while retry and retry[0][0] <= now:
                    reopen(retry.popleft()[1])
                done = enter(batch.least, min(IDLE_NS, mark - now))
                now = clock()
                if now >= batch.due:
                    batch.adapt(now)
                for number, result, _flags in done:
                    if number < count and result > 0:
                        at = number * CHUNK
                        data = memory[at : at + result]
                        index = known(data)
                        if index is not None:
                            hits[index] += 1
                        else:
                            answer = whole.feed(number, data)
                            if answer is None:
                                queue.append(3 * number + 1)
                                continue
                            if answer[1]:
                                reopen(number)
                                continue
                            if not answer[0]:
                                ask(number)
                                continue
                        try:
                            fine[now - born[number] >> 9] += 1
                        except IndexError:
                            over.append(now - born[number])
                        born[number] = now
                        queue += pairs[number]
                    elif number < count:
                        trouble(number, result)
                    elif number == stop_tag:
                        link.interrupted()
                    elif number >= 2 * count:
                        opened(number - 2 * count)
                    # A SEND that failed: its RECV says so too.
            finish = clock()
            vitals = health.stop()
            # An answer that is there and was not read is not the target's delay.
            unread = {tag for tag, _result, _flags in ring.enter(0, 0) if tag < count}
            late = [
                finish - born[number]
                for number, sock in enumerate(socks)
                if sock and number not in unread and number not in opening
            ]
        finally:
            ring.close()
            for sock in socks:
                if sock is not None:
                    sock.close()
            answers.close()
            question.close()
    stuck = [age for age in late if age > 1_000_000_000]
    return {
        "engine": "io_uring",
        "batch": batch.largest,
        "window_s": (finish - begin) / 1e9,
        "requests": reader.total(),
        "bytes": reader.bytes_received(),
        "failed": dict(reader.failed),
        "events": dict(tally),
        "unanswered": len(stuck),
        "oldest_s": max(stuck, default=0) / 1e9,
        "variants": reader.variants(),
        "latency": counts.take(),
        "health": vitals,
    }
