# SPDX-License-Identifier: Apache-2.0
"""Open loop: requests at intended times."""

from __future__ import annotations

import array
import bisect
import collections
import os
import select
import socket
import time

from .errors import JobError
from .http import CHUNK, Reader
from .machine import Health, read_file
from .recording import Counts, clock, pack, quiet_gc
from .schedule import NEVER, arrivals, plan
from .stamps import SO_TIMESTAMPING, STAMP_FLAGS, read_stamp
from .target import RETRY_NS, Target, connect_many, drain

wall_clock = time.time_ns
SPIN_NS = 100_000  # wake this long before a request is due, then poll: 2,000/s cost 40 % of a core


def run_open(job: dict, link) -> dict:
    """Requests leave at intended times on whichever of ``connections`` is free.

    A request that finds no free connection waits its turn, and that wait counts: its response
    time runs from the intended time. A request has these times:

    ``due`` intended, ``ready`` from when on it could have been sent (``due``, or later when no
    connection was free: that wait is the target's), ``sent`` (``sent - ready`` is this
    process's own lag), ``done``; and with stamps ``kernel`` (receive minus transmit stamp) and
    ``arrival`` (receive stamp minus this process's clock just before the request was handed to
    the kernel: for paths on which the kernel stamps nothing that leaves).

    They are kept one by one (:class:`Each`), or counted (:class:`Binned`) where that is asked for
    or the schedule is longer than ``RAW_LIMIT``: then a schedule of any length takes no memory.
    """
    target = Target(job)
    stamps = bool(job.get("stamps"))
    if stamps and target.tls:
        raise JobError("job", "kernel stamps of a TLS connection cannot be matched to requests")
    warm_ns, planned_end, grace, tick_ns, raw = plan(job)
    due = arrivals(job)
    upcoming = next(due, NEVER)  # when the next request to be sent is due
    if upcoming == NEVER:
        raise JobError("job", f"schedule {job['schedule']} contains no request")
    socks = connect_many(target, job["connections"], job.get("connect_timeout", 5.0))
    request = target.request()
    reader = Reader(job.get("length"))
    health = Health()
    poller = select.epoll()
    book = (Each if raw else Binned)(warm_ns, stamps)
    posted_at = {}  # fd -> wall clock when the request under way was sent
    source = collections.Counter()  # which stamps were had
    held = {}
    free = collections.deque()
    since = {}  # fd -> when it became free, ns from the start
    current = {}  # fd -> the book's name for the request under way
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
    position = 0  # requests sent
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
                while upcoming <= elapsed and free and not expired:
                    fd = free.popleft()
                    if fd not in held:
                        continue
                    sent = clock() - begin
                    posted[fd] += len(request)
                    tx.pop(fd, None)
                    if stamps:
                        posted_at[fd] = wall_clock()
                    gone = False
                    try:
                        held[fd].send(request)
                    except OSError:
                        gone = True
                    # Booked when it has left: that takes none of its time.
                    current[fd] = book.leave(upcoming, max(upcoming, since[fd]), sent)
                    position += 1
                    upcoming = next(due, NEVER)
                    if gone:
                        lose(fd, "error: reset")
                    elapsed = clock() - begin
                if upcoming == NEVER and not current:
                    break
                if now >= mark:
                    link.report("tick", sent=position, done=answered)
                    mark += tick_ns
                while retry and retry[0] <= now:
                    retry.popleft()
                    reopen()
                if upcoming != NEVER and free:
                    wait = upcoming - elapsed
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
                    which = current.pop(fd, None)
                    if which is None:
                        lose(fd, "answer without a request")
                        continue
                    if answer[0]:
                        answered += 1
                        kernel = arrival = -1
                        if stamps:
                            read_transmit(fd)
                            software, hardware, _ = read_stamp(ancillary)
                            sent_at = tx.pop(fd, (0, 0))
                            if software:
                                arrival = software - posted_at[fd]
                            if sent_at[1] and hardware:
                                source["hardware"] += 1
                                kernel = hardware - sent_at[1]
                            elif sent_at[0] and software:
                                source["software"] += 1
                                kernel = software - sent_at[0]
                            else:
                                source["missing"] += 1
                        book.came(which, now - begin, kernel, arrival)
                    if answer[1]:
                        lose(fd, "closed by the target")
                    else:
                        release(fd)
            vitals = health.stop() if started else {}
            left = 0  # what was never sent of what counts
            while upcoming != NEVER:
                book.unsent(upcoming)
                left += upcoming >= warm_ns
                upcoming = next(due, NEVER)
            # Not sent although connections were free: this process's own fault.
            own = left if free else 0
        finally:
            for sock in [*held.values(), *opening.values()]:
                sock.close()
            poller.close()
    return {
        "begin_ns": begin,
        "window_s": (planned_end - warm_ns) / 1e9,
        "unsent_by_own_fault": own,
        "failed": dict(reader.failed),
        "events": dict(tally),
        "variants": reader.variants(),
        "stamps": dict(source),
        "timer_slack_ns": slack,
        "health": vitals,
        **book.report(),
    }


class Each:
    """The times of every request of an open-loop job, one by one; all in ns from its start.

    :param warm: end of the warm-up; earlier requests are left out of the report.
    :param stamps: whether the kernel's are taken.
    """

    def __init__(self, warm: int, stamps: bool) -> None:
        self._warm = warm
        self._stamps = stamps
        self._due, self._ready, self._sent, self._done, self._kernel, self._arrival = (
            array.array("q") for _ in range(6)
        )

    def leave(self, due: int, ready: int, sent: int) -> int:
        """A request is sent, the next one in order of ``due``; returns its name for
        :meth:`came`."""
        self._due.append(due)
        self._ready.append(ready)
        self._sent.append(sent)
        self._done.append(-1)
        if self._stamps:
            self._kernel.append(-1)
            self._arrival.append(-1)
        return len(self._due) - 1

    def came(self, name: int, done: int, kernel: int, arrival: int) -> None:
        """Its good answer is there. ``kernel``, ``arrival``: -1 where there is no stamp."""
        self._done[name] = done
        if self._stamps:
            self._kernel[name] = kernel
            self._arrival[name] = arrival

    def unsent(self, due: int) -> None:
        """The next one will never be sent."""
        self.leave(due, due, -1)

    def report(self) -> dict:
        """See :func:`open_times`."""
        return open_times(
            self._due, self._ready, self._sent, self._done, self._kernel, self._arrival,
            bisect.bisect_left(self._due, self._warm), raw=True,
        )  # fmt: skip


class Binned:
    """Like :class:`Each`, counted at once: however many there are, no memory is taken for one."""

    def __init__(self, warm: int, stamps: bool) -> None:
        self._warm = warm
        self._stamps = stamps
        self._response, self._service, self._lag, self._wire = (Counts() for _ in range(4))
        self._left = self._never = self._answered = 0

    def leave(self, due: int, ready: int, sent: int) -> tuple:
        if due < self._warm:
            return ()
        self._left += 1
        self._lag.add(sent - ready)
        return due, ready, sent

    def came(self, name: tuple, done: int, kernel: int, _arrival: int) -> None:
        if not name:
            return  # of the warm-up
        due, ready, sent = name
        self._answered += 1
        self._response.add(done - due)
        self._service.add(done - sent)
        if kernel >= 0:
            self._wire.add(ready - due + kernel)

    def unsent(self, due: int) -> None:
        self._never += due >= self._warm

    def report(self) -> dict:
        planned = self._left + self._never
        return {
            "planned": planned,
            "unsent": self._never,
            "lost": planned - self._answered,
            "answered": self._answered,
            "binned": {
                "response": self._response.take(),
                "service": self._service.take(),
                "lag": self._lag.take(),
                "kernel": self._wire.take() if self._stamps else None,
            },
        }


def open_times(due, ready, sent, done, kernel, arrival, first, *, raw) -> dict:
    """What an open-loop job that kept arrays of its times reports of them, from request ``first``
    on: how many there were, and the times, raw or binned."""
    total = len(due)
    if not raw:
        book = Binned(0, bool(kernel))
        for i in range(first, total):
            if sent[i] < 0:
                book.unsent(due[i])
                continue
            name = book.leave(due[i], ready[i], sent[i])
            if done[i] >= 0:
                book.came(name, done[i], kernel[i] if kernel else -1, -1)
        return book.report()
    unsent = sum(1 for i in range(first, total) if sent[i] < 0)
    lost = sum(1 for i in range(first, total) if done[i] < 0)
    return {
        "planned": total - first,
        "unsent": unsent,
        "lost": lost,
        "answered": total - first - lost,
        "raw": {
            "due": pack(due[first:]),
            "ready": pack(ready[first:]),
            "sent": pack(sent[first:]),
            "done": pack(done[first:]),
            "kernel": pack(kernel[first:]) if kernel else None,
            "arrival": pack(arrival[first:]) if arrival else None,
        },
    }


def timer_slack() -> int:
    """Asks for 1 ns timer slack (the default 50 us would be the lag); returns what is set."""
    try:
        with open("/proc/self/timerslack_ns", "w") as file:
            file.write("1")
    except OSError:
        pass  # an old kernel or a hardened one: reported below, and visible in the lag
    return int(read_file("/proc/self/timerslack_ns") or -1)
