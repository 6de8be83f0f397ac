# SPDX-License-Identifier: Apache-2.0
"""Closed loop: the highest request rate a number of connections reaches."""

from __future__ import annotations

import collections
import select
import socket

from .closed_uring import run_closed_uring
from .errors import JobError
from .http import CHUNK, Reader, Whole
from .machine import Health
from .recording import Counts, clock, quiet_gc
from .target import RETRY_NS, Target, connect_many, drain
from .uring import Unavailable


def run_closed(job: dict, link) -> dict:
    """Each of ``connections`` sends its next request as soon as the last one is answered.

    ``engine``: ``io_uring``, ``epoll`` or ``auto`` (io_uring where the machine has it and the
    target is plain HTTP). The report says which it was.
    """
    target = Target(job)
    engine = job.get("engine", "auto")
    if engine not in ("auto", "epoll", "io_uring"):
        raise JobError("job", f"engine {engine!r} is none of auto, epoll, io_uring")
    if engine != "epoll" and not target.tls:
        try:
            return run_closed_uring(job, link)
        except Unavailable as error:
            if engine == "io_uring":
                raise JobError("system", str(error)) from error
    return _run_epoll(job, link, target)


def _run_epoll(job: dict, link, target: Target) -> dict:
    socks = connect_many(target, job["connections"], job.get("connect_timeout", 5.0))
    request = target.request()
    reader = Reader(job.get("length"))
    whole = Whole(reader)
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

    def trouble(fd, error):
        """An exception on ``fd``: a connection in the making, nothing to read yet, or a loss."""
        sock = held[fd]
        if fd in connecting:
            # What recv() has raised is SO_ERROR no more.
            code = 0 if isinstance(error, BlockingIOError) else error.errno
            code = code or sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            connecting.discard(fd)
            if code:
                tally["error: connect"] += 1
                held[fd] = None
                sock.close()
                retry.append(clock() + RETRY_NS)
                return
            try:
                if target.tls:
                    # Rare (a reconnect), so a blocking handshake with a short leash will do.
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
            except OSError:  # it was accepted and is gone again
                held[fd] = sock
        tally["error: reset"] += 1
        reader.closed(fd)
        reopen(fd)

    link.watch(poller, recvs)
    known = whole.known.get
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
                        index = known(data)
                        if index is not None:
                            hits[index] += 1
                        else:
                            if not data:
                                # Between requests this is the server's right; ours was lost.
                                reader.closed(fd)
                                tally["closed by the target"] += 1
                                reopen(fd)
                                continue
                            answer = whole.feed(fd, data)
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
                    except (BlockingIOError, InterruptedError) as error:
                        if fd in connecting:
                            trouble(fd, error)
                    except OSError as error:
                        if type(error).__name__.startswith("SSLWant"):
                            continue
                        trouble(fd, error)
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
        "engine": "epoll",
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
