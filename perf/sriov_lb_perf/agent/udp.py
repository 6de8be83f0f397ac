# SPDX-License-Identifier: Apache-2.0
"""UDP requests at intended times, told apart by a number that the answer must carry back."""

from __future__ import annotations

import array
import collections
import errno
import select
import socket
import time

from .errors import JobError
from .machine import Health
from .open_loop import SPIN_NS, open_times, timer_slack
from .recording import clock, quiet_gc
from .schedule import all_arrivals, plan
from .stamps import SO_TIMESTAMPING, STAMP_FLAGS, read_stamp

wall_clock = time.time_ns
MOST = 65_507  # bytes of a datagram over IPv4


def run_udp(job: dict, link) -> dict:
    """Datagrams to ``address`` and ``port`` on one connected socket; the times are those of
    ``open``.

    ``payload`` (hexadecimal) is what is sent, ``number`` is ``[offset, bytes]`` of the place in
    it where a running number (big-endian) is written; an answer belongs to the request whose
    number stands at the same place. So an echo, sockperf and DNS (``[0, 2]``) all do. At most
    ``outstanding`` requests are unanswered at a time; a further one waits, and its wait counts.
    An answer later than ``timeout`` seconds is a loss (RFC 7679), and counted as late as well.
    """
    payload = bytearray(bytes.fromhex(job.get("payload") or "00" * 64))
    offset, width = job.get("number", [0, 8])
    if not 1 <= width <= 8 or offset < 0 or offset + width > len(payload) <= MOST:
        raise JobError(
            "job",
            f"number {[offset, width]} does not lie within a payload of {len(payload)} bytes",
        )
    warm_ns, planned_end, grace, tick_ns, raw = plan(job, job.get("timeout", 1.0))
    due, first = all_arrivals(job, warm_ns)
    total = len(due)
    limit = job.get("outstanding") or total
    if limit >= 1 << (8 * width):
        limit = (1 << (8 * width)) - 1  # or numbers would repeat among the unanswered
    timeout_ns = int(job.get("timeout", 1.0) * 1e9)
    sock = _connected(job)
    stamps = bool(job.get("stamps", True))
    if stamps:
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, STAMP_FLAGS)
    health = Health()
    poller = select.epoll()
    poller.register(sock.fileno(), select.EPOLLIN)
    ready = array.array("q", due)
    sent = array.array("q", [-1]) * total
    done = array.array("q", [-1]) * total
    kernel = array.array("q", [-1]) * (total if stamps else 0)
    arrival = array.array("q", [-1]) * (total if stamps else 0)
    waiting = collections.OrderedDict()  # index -> None, oldest first
    by_number = {}  # number on the wire -> index
    posted_at = {}  # index -> wall clock when it was handed to the kernel
    keys = {}  # the kernel's count of what was sent -> index
    transmitted = {}  # index -> (software, hardware) transmit stamp
    received = {}  # index -> receive stamps of one whose transmit stamp is still to come
    source = collections.Counter()
    tally = collections.Counter()
    heads = collections.Counter()
    recvs = collections.defaultdict(lambda: None)
    mask = (1 << (8 * width)) - 1
    highest = -1
    key = 0

    def give_up(index, elapsed):
        """Later than ``timeout``: lost, whatever comes."""
        nonlocal freed
        waiting.pop(index, None)
        by_number.pop(index & mask, None)
        posted_at.pop(index, None)
        freed = elapsed

    def stamp(index, got):
        """Both stamps of a request, once both are there."""
        left = transmitted.get(index)
        if left is None:
            received[index] = got
            return
        del transmitted[index]
        received.pop(index, None)
        if left[1] and got[1]:
            source["hardware"] += 1
            kernel[index] = got[1] - left[1]
        elif left[0] and got[0]:
            source["software"] += 1
            kernel[index] = got[0] - left[0]

    def read_transmit():
        while True:
            try:
                _, ancillary, _, _ = sock.recvmsg(0, 512, socket.MSG_ERRQUEUE)
            except BlockingIOError:
                return
            software, hardware, which = read_stamp(ancillary)
            index = keys.pop(which, None)
            if index is not None:
                transmitted[index] = (software, hardware)
                if index in received:
                    stamp(index, received[index])

    def read(elapsed):
        """Answers that are there."""
        nonlocal highest, freed
        while True:
            try:
                data, ancillary, _, _ = sock.recvmsg(MOST, 512 if stamps else 0)
            except BlockingIOError:
                return
            except OSError as error:
                # An ICMP error about an earlier datagram, told once.
                tally[errno.errorcode.get(error.errno, str(error))] += 1
                continue
            now = clock() - begin
            found = int.from_bytes(data[offset : offset + width], "big")
            index = by_number.get(found) if len(data) >= offset + width else None
            if index is None:
                tally["answer to nothing under way (duplicate, late or foreign)"] += 1
                continue
            handed = posted_at.get(index)
            give_up(index, now)  # it is answered: no longer under way
            if now - sent[index] > timeout_ns:
                tally["late"] += 1
                continue
            if index < highest:
                tally["reordered"] += 1
            highest = max(highest, index)
            done[index] = now
            if len(heads) < 64:
                heads[len(data)] += 1
            if stamps:
                software, hardware, _ = read_stamp(ancillary)
                if software and handed is not None:
                    arrival[index] = software - handed
                if software or hardware:
                    stamp(index, (software, hardware))

    link.watch(poller, recvs)
    position = 0
    # What a held-up generator has not sent in time is sent late, and its lag shows it; but one
    # at a time there is always something that had to wait.
    send_until = planned_end + (grace if limit >= total else 0)
    slack = timer_slack()
    started = False
    freed = 0  # when a place among the outstanding became free
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
                over = elapsed > send_until
                while (
                    position < total
                    and due[position] <= elapsed
                    and len(waiting) < limit
                    and not over
                ):
                    payload[offset : offset + width] = (position & mask).to_bytes(width, "big")
                    if freed > due[position] and limit < total:
                        ready[position] = freed
                    waiting[position] = None
                    by_number[position & mask] = position
                    if stamps:
                        posted_at[position] = wall_clock()
                    sent[position] = clock() - begin
                    try:
                        sock.send(payload)
                        keys[key & 0xFFFFFFFF] = position
                        key += 1
                    except OSError as error:
                        tally[errno.errorcode.get(error.errno, str(error))] += 1
                        give_up(position, clock() - begin)
                    position += 1
                    elapsed = clock() - begin
                while waiting:
                    oldest = next(iter(waiting))
                    if elapsed - sent[oldest] <= timeout_ns:
                        break
                    give_up(oldest, elapsed)
                if (over or position >= total) and not waiting:
                    break
                if elapsed > planned_end + grace:
                    break
                if now >= mark:
                    link.report("tick", sent=position, done=position - len(waiting))
                    mark += tick_ns
                if position < total and len(waiting) < limit and not over:
                    wait = due[position] - elapsed
                else:
                    wait = min(mark - now, planned_end + grace - elapsed, 20_000_000)
                if wait > SPIN_NS:
                    select.select([poller], [], [], (wait - SPIN_NS) / 1e9)
                for fd, flags in poller.poll(0):
                    if fd != sock.fileno():
                        recvs[fd](0)
                    elif flags & (select.EPOLLIN | select.EPOLLERR):
                        if stamps:
                            read_transmit()
                        read(elapsed)
            if stamps:
                read_transmit()
            # With a limit, what was not sent had no place; without one there is no such excuse.
            own = 0 if limit < total else total - max(first, position)
            vitals = health.stop() if started else {}
        finally:
            sock.close()
            poller.close()
    return {
        "begin_ns": begin,
        "window_s": (planned_end - warm_ns) / 1e9,
        "unsent_by_own_fault": own,
        "failed": {},
        "events": dict(tally),
        "variants": [
            {"head": "datagram", "length": size, "count": count}
            for size, count in heads.items()
        ],
        "stamps": dict(source),
        "timer_slack_ns": slack,
        "health": vitals,
        **open_times(due, ready, sent, done, kernel, arrival, first, raw=raw),
    }


def _connected(job: dict) -> socket.socket:
    host, port = job["address"], job["port"]
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except OSError as error:
        raise JobError("resolve", f"cannot resolve {host!r}: {error}") from error
    family, _, _, _, address = found[0]
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        sock.connect(address)
    except OSError as error:
        sock.close()
        raise JobError("connect", f"{host} port {port}: {error}") from error
    return sock
