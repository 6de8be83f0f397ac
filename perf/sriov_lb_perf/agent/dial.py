# SPDX-License-Identifier: Apache-2.0
"""TCP connect at intended times: how long until a new connection is there."""

from __future__ import annotations

import array
import collections
import errno
import os
import select
import socket
import struct

from .errors import JobError
from .http import CHUNK, Ended
from .machine import Health
from .open_loop import SPIN_NS, open_times, timer_slack
from .recording import Counts, clock, quiet_gc
from .schedule import all_arrivals, plan
from .target import Target


def run_dial(job: dict, link) -> dict:
    """A new connection at each intended time, one GET on it, read to FIN.

    The times are those of ``open``, of the connection alone: ``sent`` is just before the SYN was
    handed to the kernel, ``done`` when the process saw that the connection was there, ``kernel``
    the kernel's own time from the SYN to the SYN/ACK. Nothing waits for anything, so ``ready``
    is ``due``. The answer is validated as in ``connect``; it is fetched so that the target closes
    first and no port of this machine stays behind in TIME-WAIT.
    """
    target = Target(job)
    if target.tls:
        raise JobError("job", "the time to connect is measured over plain HTTP")
    warm_ns, planned_end, grace, tick_ns, raw = plan(job)
    due, first = all_arrivals(job, warm_ns)
    total = len(due)
    request = target.request(close=True)
    health = Health()
    poller = select.epoll()
    sent = array.array("q", [-1]) * total
    done = array.array("q", [-1]) * total
    kernel = array.array("q", [-1]) * total
    first_byte = Counts()
    tally = collections.Counter()
    failed = collections.Counter()
    answers = Ended(job.get("length"))
    under_way = {}  # fd -> [socket, index, what came so far]
    recvs = collections.defaultdict(lambda: None)
    edge = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET

    def launch(index):
        sent[index] = clock() - begin
        try:
            sock = target.start_connect(delay=True)
        except JobError as error:
            if index >= first:
                tally["error: " + error.kind] += 1
            return
        under_way[sock.fileno()] = [sock, index, None]
        poller.register(sock.fileno(), edge)

    def end(fd, why=None):
        sock, index, data = under_way.pop(fd)
        sock.close()
        if index < first:
            return  # of the warm-up, however long it took
        why = why or answers.judge(data)
        if why:
            failed[why] += 1

    def step(fd):
        entry = under_way[fd]
        sock, index, data = entry
        if data is None:
            now = clock()
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                return end(fd, f"connect: {os.strerror(code)}")
            done[index] = now - begin
            handshake = handshake_ns(sock)
            if handshake is not None:
                kernel[index] = handshake
            entry[2] = b""
            sock.send(request)
            return None  # the answer is another edge
        while True:
            piece = sock.recv(CHUNK)
            if not piece:
                return end(fd)
            if not entry[2] and index >= first:
                first_byte.add(clock() - begin - sent[index])
            entry[2] += piece

    link.watch(poller, recvs)
    position = 0
    slack = timer_slack()
    started = False
    with quiet_gc():
        begin = clock() + 2_000_000  # room to reach the loop before the first one is due
        mark = begin + tick_ns
        try:
            while True:
                now = clock()
                elapsed = now - begin
                if not started and elapsed >= warm_ns:
                    started = True
                    health.start()
                over = elapsed > planned_end + grace
                while position < total and due[position] <= elapsed and not over:
                    launch(position)
                    position += 1
                    elapsed = clock() - begin
                if over or (position >= total and not under_way):
                    break
                if now >= mark:
                    link.report("tick", sent=position, done=position - len(under_way))
                    mark += tick_ns
                if position < total:
                    wait = due[position] - elapsed
                else:
                    wait = min(mark, begin + planned_end + grace) - now
                if wait > SPIN_NS:
                    # epoll's own timeout has whole milliseconds; select on it has microseconds.
                    select.select([poller], [], [], (wait - SPIN_NS) / 1e9)
                for fd, _flags in poller.poll(0):
                    if fd not in under_way:
                        if recvs[fd] is not None:
                            recvs[fd](0)
                        continue
                    try:
                        step(fd)
                    except (BlockingIOError, InterruptedError):
                        continue
                    except OSError as error:
                        end(fd, errno.errorcode.get(error.errno, str(error)))
            own = total - max(first, position)
            vitals = health.stop() if started else {}
            # A connection that is not there is lost; one whose answer is not there has failed.
            unanswered = sum(
                index >= first and data is not None for _, index, data in under_way.values()
            )
        finally:
            for sock, _, _ in under_way.values():
                sock.close()
            poller.close()
    if unanswered:
        failed["no answer in time"] += unanswered
    return {
        "begin_ns": begin,
        "window_s": (planned_end - warm_ns) / 1e9,
        "unsent_by_own_fault": own,
        "failed": dict(failed),
        "events": dict(tally),
        "variants": answers.variants(),
        "stamps": {"kernel": sum(1 for i in range(first, total) if kernel[i] >= 0)},
        "timer_slack_ns": slack,
        "health": vitals,
        "times": {"first_byte": first_byte.take()},
        **open_times(due, due, sent, done, kernel, array.array("q"), first, raw=raw),
    }


def handshake_ns(sock: socket.socket):
    """From SYN to SYN/ACK by the kernel's clock, whole microseconds in ns; None where it is not
    that.

    The first round trip a connection knows (tcpi_rtt of struct tcp_info, <linux/tcp.h>) is that
    of its handshake. Of a SYN that was sent again the kernel times the last one only (Karn), so
    the wait for the first would be missing: then its time is not taken.
    """
    data = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    retransmits = data[2]
    words = struct.unpack_from("=24I", data, 8)
    again = words[23]  # tcpi_total_retrans
    return None if retransmits or again or not words[15] else words[15] * 1000
