# SPDX-License-Identifier: Apache-2.0
"""Closed loop: the highest request rate a number of connections reaches."""

from __future__ import annotations

import collections
import select
import socket

from .errors import JobError
from .http import CHUNK, Reader
from .machine import Health
from .recording import Counts, clock, quiet_gc
from .target import RETRY_NS, Target, connect_many, drain


def run_closed(job: dict, link) -> dict:
    """Each of ``connections`` sends its next request as soon as the last one is answered."""
    target = Target(job)
    socks = connect_many(target, job["connections"], job.get("connect_timeout", 5.0))
    request = target.request()
    reader = Reader()
    counts = Counts()
    health = Health()
    poller = select.epoll()
    size = max(sock.fileno() for sock in socks) + 4096
    held = [None] * size
    recvs = [None] * size
    sends = [None] * size
    born = [0] * size
    connecting = set()
    retry = collections.deque()
    tally = collections.Counter()

    def adopt(sock, fresh):
        fd = sock.fileno()
        held[fd], sends[fd] = sock, sock.send
        recvs[fd] = drain(sock) if target.tls else sock.recv
        if fresh:
            connecting.add(fd)
            poller.register(fd, select.EPOLLOUT)
        else:
            poller.register(fd, select.EPOLLIN)
            born[fd] = clock()
            sock.send(request)

    def reopen(fd):
        sock, held[fd] = held[fd], None
        connecting.discard(fd)
        sock.close()
        try:
            adopt(target.start_connect(), True)
        except JobError as error:
            tally["error: " + error.kind] += 1
            retry.append(clock() + RETRY_NS)

    def trouble(fd):
        """An exception on ``fd``: a connection in the making, nothing to read yet, or a loss."""
        sock = held[fd]
        if fd in connecting:
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            connecting.discard(fd)
            if code:
                tally["error: connect"] += 1
                held[fd] = None
                sock.close()
                retry.append(clock() + RETRY_NS)
                return
            if target.tls:
                # Rare (a reconnect), so a blocking handshake with a short leash is acceptable.
                poller.unregister(fd)
                sock.settimeout(2.0)
                sock = target.wrap(sock)
                sock.do_handshake()
                sock.setblocking(False)
                adopt(sock, False)
                return
            poller.modify(fd, select.EPOLLIN)
            born[fd] = clock()
            sock.send(request)
            return
        tally["error: reset"] += 1
        reader.closed(fd)
        reopen(fd)

    link.watch(poller, recvs)
    known = reader.known.get
    hits = reader.hits
    fine = counts.fine
    over = counts.over
    warm = True
    cap = len(socks) + 1
    poll = poller.poll
    tick_ns = int(job.get("tick", 1.0) * 1e9)
    with quiet_gc():
        begin = clock()
        mark = begin + int(job["warmup"] * 1e9)
        end = mark + int(job["seconds"] * 1e9)
        try:
            for sock in socks:
                adopt(sock, False)
            while True:
                now = clock()
                if now >= mark:
                    if warm:
                        warm = False
                        reader.reset()
                        counts.clear()
                        tally.clear()
                        health.start()
                        begin = clock()
                        end = begin + int(job["seconds"] * 1e9)
                        mark = min(end, begin + tick_ns)
                        continue
                    if now >= end:
                        break
                    link.report("tick", done=reader.total(), latency=counts.take())
                    mark = min(end, mark + tick_ns)
                while retry and retry[0] <= now:
                    retry.popleft()
                    try:
                        adopt(target.start_connect(), True)
                    except JobError as error:
                        tally["error: " + error.kind] += 1
                        retry.append(now + RETRY_NS)
                wait = (mark - now) / 1e9
                for fd, _flags in poll(min(wait, 0.05) if retry else wait, cap):
                    try:
                        data = recvs[fd](CHUNK)
                        now = clock()
                        index = known(data.partition(b"\r\n\r\n")[2])
                        if index is not None and data[9:12] == b"200":
                            hits[index] += 1
                        else:
                            if not data:
                                # Between requests this is the server's right; ours was lost.
                                reader.closed(fd)
                                tally["closed by the target"] += 1
                                reopen(fd)
                                continue
                            answer = reader.feed(fd, data)
                            if answer is None:
                                continue
                            if answer[1]:
                                reopen(fd)
                            if not answer[0] or answer[1]:
                                if not answer[1]:
                                    born[fd] = now
                                    sends[fd](request)
                                continue
                        try:
                            fine[now - born[fd] >> 9] += 1
                        except IndexError:
                            over.append(now - born[fd])
                        born[fd] = now
                        sends[fd](request)
                    except (BlockingIOError, InterruptedError):
                        if fd in connecting:
                            trouble(fd)
                    except OSError as error:
                        if type(error).__name__.startswith("SSLWant"):
                            continue
                        trouble(fd)
            finish = clock()
            vitals = health.stop()
            # An answer that is there and was not read is not the target's delay.
            unread = {fd for fd, _flags in poll(0)}
            late = [
                finish - born[sock.fileno()]
                for sock in held
                if sock and sock.fileno() not in unread and sock.fileno() not in connecting
            ]
        finally:
            for sock in held:
                if sock is not None:
                    sock.close()
            poller.close()
    stuck = [age for age in late if age > 1_000_000_000]
    return {
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
