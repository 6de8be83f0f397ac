# SPDX-License-Identifier: Apache-2.0
"""Open loop: requests at intended times."""

from __future__ import annotations

import array
import collections
import os
import select
import socket
import time

from .errors import JobError
from .http import CHUNK, Reader
from .machine import Health, read_file
from .recording import Counts, clock, pack, quiet_gc
from .schedule import plan
from .stamps import SO_TIMESTAMPING, STAMP_FLAGS, read_stamp
from .target import RETRY_NS, Target, connect_many, drain

wall_clock = time.time_ns
SPIN_NS = 100_000  # wake this long before a request is due, then poll: 2,000/s cost 40 % of a core
RAW_LIMIT = 200_000  # above this a job reports histograms, not raw times


def run_open(job: dict, link) -> dict:
    """Requests leave at intended times on whichever of ``connections`` is free.

    A request that finds no free connection waits its turn, and that wait counts: its response
    time runs from the intended time. Times of every request are kept by index, so nothing has
    to be decided (or corrected) while it runs:

    ``due`` intended, ``ready`` from when on it could have been sent (``due``, or later when no
    connection was free: that wait is the target's), ``sent`` (``sent - ready`` is this
    process's own lag), ``done``; and with stamps ``kernel`` (receive minus transmit stamp) and
    ``arrival`` (receive stamp minus this process's clock just before the request was handed to
    the kernel: for paths on which the kernel stamps nothing that leaves).
    """
    target = Target(job)
    stamps = bool(job.get("stamps"))
    if stamps and target.tls:
        raise JobError("job", "kernel stamps of a TLS connection cannot be matched to requests")
    due, first, warm_ns, planned_end, grace, tick_ns = plan(job)
    total = len(due)
    if not total:
        raise JobError("job", f"schedule {job['schedule']} contains no request")
    socks = connect_many(target, job["connections"], job.get("connect_timeout", 5.0))
    request = target.request()
    reader = Reader()
    health = Health()
    poller = select.epoll()
    ready = array.array("q", due)
    sent = array.array("q", [-1]) * total
    done = array.array("q", [-1]) * total
    kernel = array.array("q", [-1]) * (total if stamps else 0)
    arrival = array.array("q", [-1]) * (total if stamps else 0)
    posted_at = {}  # fd -> wall clock when the request under way was sent
    source = collections.Counter()  # which stamps were had
    held = {}
    free = collections.deque()
    since = {}  # fd -> when it became free, ns from the start
    current = {}  # fd -> index of the request under way
    posted = {}  # fd -> bytes sent so far (the kernel's OPT_ID counts them)
    tx = {}  # fd -> (software, hardware) transmit stamp of the request under way
    tally = collections.Counter()
    recvs = collections.defaultdict(lambda: None)

    def adopt(sock):
        fd = sock.fileno()
        held[fd] = sock
        posted[fd] = 0
        if stamps:
            sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, STAMP_FLAGS)
        poller.register(fd, select.EPOLLIN)
        release(fd)

    def release(fd):
        free.append(fd)
        since[fd] = clock() - begin

    def lose(fd, why):
        """The connection is gone, and with it the request that was on it."""
        tally[why] += 1
        reader.closed(fd)
        current.pop(fd, None)
        sock = held.pop(fd)
        if fd in free:
            free.remove(fd)
        sock.close()
        reopen()

    def reopen():
        try:
            sock = target.start_connect()
        except JobError as error:
            tally["error: " + error.kind] += 1
            retry.append(clock() + RETRY_NS)
            return
        opening[sock.fileno()] = sock
        poller.register(sock.fileno(), select.EPOLLOUT)

    def opened(fd):
        sock = opening.pop(fd)
        poller.unregister(fd)
        try:
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code))
            if target.tls:
                # Rare (a reconnect), so a blocking handshake with a short leash is acceptable.
                sock.settimeout(2.0)
                sock = target.wrap(sock)
                sock.do_handshake()
                sock.setblocking(False)
        except OSError:
            tally["error: connect"] += 1
            sock.close()
            retry.append(clock() + RETRY_NS)
            return
        adopt(sock)

    def read_transmit(fd):
        """Takes what lies in the error queue; keeps the stamp of the request under way."""
        while True:
            try:
                _, ancillary, _, _ = held[fd].recvmsg(0, 512, socket.MSG_ERRQUEUE)
            except BlockingIOError:
                return
            software, hardware, key = read_stamp(ancillary)
            if key is None or key != (posted[fd] - 1) & 0xFFFFFFFF:
                continue  # of a request that is over
            old = tx.get(fd, (0, 0))
            # A segment that is sent again is stamped again under the same key: the first counts.
            tx[fd] = (old[0] or software, old[1] or hardware)

    retry = collections.deque()
    opening = {}  # fd -> socket whose connection is under way
    link.watch(poller, recvs)
    begin = clock()
    for sock in socks:
        adopt(sock)
    position = 0  # next request to send
    answered = 0
    slack = timer_slack()
    started = False
    with quiet_gc():
        begin = clock() + 2_000_000  # room to reach the loop before the first one is due
        since.update(dict.fromkeys(since, 0))
        mark = begin + tick_ns
        try:
            while True:
                now = clock()
                elapsed = now - begin
                if not started and elapsed >= warm_ns:
                    started = True
                    health.start()
                # After the end nothing is sent, and answers that are there are still read: a
                # generator that was held up must not call them lost.
                expired = elapsed > planned_end + grace
                while position < total and due[position] <= elapsed and free and not expired:
                    fd = free.popleft()
                    if fd not in held:
                        continue
                    current[fd] = position
                    if since[fd] > due[position]:
                        ready[position] = since[fd]
                    sent[position] = clock() - begin
                    position += 1
                    posted[fd] += len(request)
                    tx.pop(fd, None)
                    if stamps:
                        posted_at[fd] = wall_clock()
                    try:
                        held[fd].send(request)
                    except OSError:
                        lose(fd, "error: reset")
                    elapsed = clock() - begin
                if position >= total and not current:
                    break
                if now >= mark:
                    link.report("tick", sent=position, done=answered)
                    mark += tick_ns
                while retry and retry[0] <= now:
                    retry.popleft()
                    reopen()
                if position < total and free:
                    wait = due[position] - elapsed
                else:
                    wait = min(mark, begin + planned_end + grace) - now
                if wait > SPIN_NS and not expired:
                    # epoll's own timeout has whole milliseconds; select on it has microseconds.
                    select.select([poller], [], [], (wait - SPIN_NS) / 1e9)
                happened = poller.poll(0)
                if expired and not happened:
                    break
                for fd, flags in happened:
                    sock = held.get(fd)
                    if sock is None:
                        if fd in opening:
                            opened(fd)
                        elif recvs[fd] is not None:
                            recvs[fd](0)
                        continue
                    try:
                        if stamps:
                            if flags & select.EPOLLERR:
                                read_transmit(fd)
                            if not flags & (select.EPOLLIN | select.EPOLLHUP):
                                continue
                            data, ancillary, _, _ = sock.recvmsg(CHUNK, 512)
                        else:
                            data, ancillary = (
                                (drain(sock)(CHUNK) if target.tls else sock.recv(CHUNK)),
                                (),
                            )
                        now = clock()
                    except (BlockingIOError, InterruptedError):
                        continue
                    except OSError as error:
                        if not type(error).__name__.startswith("SSLWant"):
                            lose(fd, "error: reset")
                        continue
                    if not data:
                        # An idle connection may be closed; one with a request on it lost it.
                        lose(fd, "closed by the target")
                        continue
                    answer = reader.feed(fd, data)
                    if answer is None:
                        continue
                    index = current.pop(fd, None)
                    if index is None:
                        lose(fd, "answer without a request")
                        continue
                    if answer[0]:
                        done[index] = now - begin
                        answered += 1
                        if stamps:
                            read_transmit(fd)
                            software, hardware, _ = read_stamp(ancillary)
                            sent_at = tx.pop(fd, (0, 0))
                            if software:
                                arrival[index] = software - posted_at[fd]
                            if sent_at[1] and hardware:
                                source["hardware"] += 1
                                kernel[index] = hardware - sent_at[1]
                            elif sent_at[0] and software:
                                source["software"] += 1
                                kernel[index] = software - sent_at[0]
                            else:
                                source["missing"] += 1
                    if answer[1]:
                        lose(fd, "closed by the target")
                    else:
                        release(fd)
            # Not sent although connections were free: this process's own fault.
            own = sum(1 for i in range(max(first, position), total)) if free else 0
            vitals = health.stop() if started else {}
        finally:
            for sock in [*held.values(), *opening.values()]:
                sock.close()
            poller.close()
    return {
        "begin_ns": begin,
        "window_s": (planned_end - warm_ns) / 1e9,
        "planned": total - first,
        "unsent_by_own_fault": own,
        "failed": dict(reader.failed),
        "events": dict(tally),
        "variants": reader.variants(),
        "stamps": dict(source),
        "timer_slack_ns": slack,
        "health": vitals,
        **open_times(
            due, ready, sent, done, kernel, arrival, first, raw=job.get("raw", True)
        ),
    }


def open_times(due, ready, sent, done, kernel, arrival, first, *, raw) -> dict:
    """The times of an open-loop job from request ``first`` on, raw or binned."""
    total = len(due)
    unsent = sum(1 for i in range(first, total) if sent[i] < 0)
    lost = sum(1 for i in range(first, total) if done[i] < 0)
    report = {"unsent": unsent, "lost": lost, "answered": total - first - lost}
    if raw and total - first <= RAW_LIMIT:
        report["raw"] = {
            "due": pack(due[first:]),
            "ready": pack(ready[first:]),
            "sent": pack(sent[first:]),
            "done": pack(done[first:]),
            "kernel": pack(kernel[first:]) if kernel else None,
            "arrival": pack(arrival[first:]) if arrival else None,
        }
        return report
    response, service, lag, wire = Counts(), Counts(), Counts(), Counts()
    for i in range(first, total):
        if sent[i] >= 0:
            lag.add(sent[i] - ready[i])
        if done[i] >= 0:
            response.add(done[i] - due[i])
            service.add(done[i] - sent[i])
            if kernel and kernel[i] >= 0:
                wire.add(ready[i] - due[i] + kernel[i])
    report["binned"] = {
        "response": response.take(),
        "service": service.take(),
        "lag": lag.take(),
        "kernel": wire.take() if kernel else None,
    }
    return report


def timer_slack() -> int:
    """Asks for 1 ns timer slack (the default 50 us would be the lag); returns what is set."""
    try:
        with open("/proc/self/timerslack_ns", "w") as file:
            file.write("1")
    except OSError:
        pass  # an old kernel or a hardened one: reported below, and visible in the lag
    return int(read_file("/proc/self/timerslack_ns") or -1)
