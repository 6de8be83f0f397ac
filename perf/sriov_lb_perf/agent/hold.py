# SPDX-License-Identifier: Apache-2.0
"""Connections held: open many, keep them, see which are still good."""

from __future__ import annotations

import collections
import os
import select
import socket

from .errors import JobError
from .http import CHUNK, Reader
from .machine import Health
from .recording import Counts, clock, quiet_gc
from .target import Target, reserve_descriptors

PATIENCE_NS = 2_000_000_000  # a connection that answers no request within this is lost
AT_ONCE = 64  # requests under way when the held ones are asked


def run_hold(job: dict, link) -> dict:
    """``connections`` are opened at ``opening`` per second, kept for ``seconds``, then each is
    asked for one answer.

    A connection counts as held only when that answer comes and is valid: one that a load
    balancer has forgotten without a word would look open for ever.
    """
    target = Target(job)
    count, rate = job["connections"], job.get("opening", 2000.0)
    if target.tls:
        raise JobError("job", "connections held are measured over plain HTTP")
    reserve_descriptors(count)
    request = target.request()
    reader = Reader(job.get("length"))
    health = Health()
    poller = select.epoll()
    handshake, answer = Counts(), Counts()
    tally = collections.Counter()
    refused, lost = collections.Counter(), collections.Counter()
    opening, held, asked = {}, {}, {}  # fd -> (socket, since), socket, when it was asked
    recvs = collections.defaultdict(lambda: None)
    link.watch(poller, recvs)
    answered = 0

    def launch():
        try:
            sock = target.start_connect(delay=True)
        except JobError as error:
            if error.kind in ("ports", "descriptors"):
                tally["error: " + error.kind] += 1
            refused[error.kind] += 1
            return
        opening[sock.fileno()] = (sock, clock())
        poller.register(sock.fileno(), select.EPOLLOUT)

    def opened(fd):
        sock, since = opening.pop(fd)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            refused[os.strerror(code)] += 1
            sock.close()
            return
        handshake.add(clock() - since)
        held[fd] = sock
        poller.modify(fd, select.EPOLLIN | select.EPOLLRDHUP)

    def lose(fd, why):
        lost[why] += 1
        asked.pop(fd, None)
        held.pop(fd).close()

    def read(fd):
        """Something came on a held connection."""
        nonlocal answered
        try:
            data = held[fd].recv(CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            lose(fd, os.strerror(error.errno))
            return
        if not data:
            lose(fd, "closed by the target")
            return
        if fd not in asked:
            # haproxy says 408 to a connection that is silent for too long, and closes it.
            words = data.split(None, 2)
            status = words[1].decode("latin-1") if len(words) > 1 else "?"
            lose(fd, f"status {status} without a request")
            return
        good = reader.feed(fd, data)
        if good is None:
            return
        since = asked.pop(fd)
        if not good[0]:
            lose(fd, "not a valid answer")
        else:
            answer.add(clock() - since)
            answered += 1
            held.pop(fd).close()

    def turn(wait):
        """Handle what happens within ``wait`` ns at most."""
        for fd, _flags in poller.poll(max(0.0, wait / 1e9), 4096):
            if fd in opening:
                opened(fd)
            elif fd in held:
                read(fd)
            elif recvs[fd] is not None:
                recvs[fd](0)

    tick_ns = int(job.get("tick", 1.0) * 1e9)
    with quiet_gc():
        begin = clock()
        health.start()
        mark = begin + tick_ns
        try:
            # Open them.
            launched = 0
            limit = begin + int((count / rate + job.get("connect_timeout", 5.0)) * 1e9)
            while (launched < count or opening) and clock() < limit:
                due = min(count, int((clock() - begin) * rate / 1e9) + 1)
                while launched < due:
                    launch()
                    launched += 1
                turn(1_000_000)
                mark = _tick(link, mark, tick_ns, opened=len(held))
            for sock, _since in opening.values():
                refused["no answer in time"] += 1
                sock.close()
            opening.clear()
            came_up = len(held) + sum(lost.values())
            opened_in = clock() - begin
            # Keep them.
            until = clock() + int(job["seconds"] * 1e9)
            while held and clock() < until:
                turn(min(50_000_000, until - clock()))
                mark = _tick(link, mark, tick_ns, held=len(held))
            while_held = sum(lost.values())
            # Ask each one.
            to_ask = collections.deque(held)
            while to_ask or asked:
                while to_ask and len(asked) < AT_ONCE:
                    fd = to_ask.popleft()
                    if fd not in held:
                        continue
                    asked[fd] = clock()
                    try:
                        held[fd].send(request)
                    except OSError as error:
                        lose(fd, os.strerror(error.errno))
                turn(10_000_000)
                now = clock()
                for fd in [fd for fd, since in asked.items() if now - since > PATIENCE_NS]:
                    lose(fd, "no answer")
                mark = _tick(link, mark, tick_ns, answered=answered)
            vitals = health.stop()
            finish = clock()
        finally:
            for sock in [*held.values(), *(sock for sock, _ in opening.values())]:
                sock.close()
            poller.close()
    return {
        "window_s": (finish - begin) / 1e9,
        "asked": count,
        "opened": came_up,
        "opened_in_s": opened_in / 1e9,
        "held": answered,
        "lost_while_held": while_held,
        "refused": dict(refused),
        "lost": dict(lost),
        "failed": dict(reader.failed),
        "events": dict(tally),
        "variants": reader.variants(),
        "times": {"handshake": handshake.take(), "answer": answer.take()},
        "health": vitals,
    }


def _tick(link, mark: int, every: int, **progress) -> int:
    """Report progress when it is time; returns the next time."""
    if clock() < mark:
        return mark
    link.report("tick", **progress)
    return mark + every

