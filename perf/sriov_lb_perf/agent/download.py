# SPDX-License-Identifier: Apache-2.0
"""Goodput of large objects."""

from __future__ import annotations

import collections
import select
import socket
import struct

from .errors import JobError
from .http import CHUNK, Bodies, Head, other_length
from .machine import Health
from .recording import clock, quiet_gc
from .target import Target, connect_many


def run_download(job: dict, link) -> dict:
    """Bytes of body per second of large objects, copied to this process like a user would.

    An object of another ``length`` than the job's is a failure, and its bytes do not count. Those
    of up to 16 KiB are kept until they are whole, to tell which member sent them; of larger ones
    no byte is looked at.
    """
    target = Target(job)
    wanted = job.get("length")
    if target.tls:
        raise JobError("job", "download measures plain HTTP")
    socks = connect_many(target, job["connections"], job.get("connect_timeout", 5.0))
    request = target.request()
    discard = bool(job.get("discard"))  # MSG_TRUNC: the kernel drops the bytes uncopied
    health = Health()
    poller = select.epoll()
    held = {}
    missing = {}  # fd -> bytes of the object still to come; None: head expected
    heads = {}  # fd -> what there is of the head
    wrong = {}  # fd -> why the object under way does not count; None: it does
    parts = {}  # fd -> what there is of a small object; None: of one that is not kept
    bodies = Bodies()
    tally = collections.Counter()
    failed = collections.Counter()
    recvs = collections.defaultdict(lambda: None)
    objects = 0
    received = 0
    buffer = memoryview(bytearray(1 << 18))
    flags_in = socket.MSG_TRUNC if discard else 0

    def adopt(sock):
        fd = sock.fileno()
        held[fd] = sock
        missing[fd] = None
        heads[fd] = b""
        poller.register(fd, select.EPOLLIN)
        sock.send(request)

    def lose(fd, why):
        failed[why] += 1
        held.pop(fd).close()
        try:
            adopt(connect_many(target, 1, 0.5)[0])
        except JobError as error:
            failed[error.kind] += 1

    link.watch(poller, recvs)
    warm = True
    tick_ns = int(job.get("tick", 1.0) * 1e9)
    with quiet_gc():
        begin = clock()
        mark = begin + int(job["warmup"] * 1e9)
        stop = mark + int(job["seconds"] * 1e9)
        try:
            for sock in socks:
                adopt(sock)
            while True:
                now = clock()
                if now >= mark:
                    if warm:
                        warm = False
                        received = objects = 0
                        tally.clear()
                        failed.clear()
                        bodies.clear()
                        health.start()
                        begin = clock()
                        stop = begin + int(job["seconds"] * 1e9)
                        mark = min(stop, begin + tick_ns)
                        continue
                    if now >= stop:
                        break
                    link.report("tick", bytes=received)
                    mark = min(stop, mark + tick_ns)
                if not held:
                    raise JobError(
                        "connect", f"no connection to {target.describe()} is left: {dict(failed)}"
                    )
                for fd, _flags in poller.poll((mark - now) / 1e9, len(held) + 1):
                    sock = held.get(fd)
                    if sock is None:
                        if recvs[fd] is not None:
                            recvs[fd](0)
                        continue
                    try:
                        if missing[fd] is None:
                            data = sock.recv(CHUNK)
                            if not data:
                                lose(fd, "closed before an answer")
                                continue
                            heads[fd] += data
                            if b"\r\n\r\n" not in heads[fd]:
                                continue
                            head = Head(heads[fd])
                            length = head.length
                            if head.status != 200 or length is None or not (length or wanted):
                                raise JobError(
                                    "response",
                                    f"{target.path} of {target.describe()} answers status "
                                    f"{head.status}, length {length}; expected 200 and an "
                                    "object",
                                )
                            body, heads[fd] = heads[fd][head.size :], b""
                            got = len(body)
                            if got > length:
                                lose(fd, "longer than its Content-Length")
                                continue
                            missing[fd] = length
                            good = wanted is None or length == wanted
                            wrong[fd] = None if good else other_length(length, wanted, failed)
                            parts[fd] = body if good and length <= CHUNK and not discard else None
                        else:
                            want = min(len(buffer), missing[fd])
                            got = sock.recv_into(buffer, want, flags_in)
                            if not got:
                                lose(fd, "closed in the middle of an object")
                                continue
                            if parts[fd] is not None:
                                parts[fd] += buffer[:got]
                        missing[fd] -= got
                        if wrong[fd] is None:
                            received += got
                        if not missing[fd]:
                            if wrong[fd] is not None:
                                failed[wrong[fd]] += 1
                            else:
                                objects += 1
                                if parts[fd] is not None:
                                    bodies.add(parts[fd])
                            missing[fd] = None
                            sock.send(request)
                    except (BlockingIOError, InterruptedError):
                        continue
                    except OSError:
                        lose(fd, "reset")
            finish = clock()
            vitals = health.stop()
            flows = [_tcp_info(sock) for sock in held.values()]
        finally:
            for sock in held.values():
                sock.close()
            poller.close()
    return {
        "window_s": (finish - begin) / 1e9,
        "bytes": received,
        "objects": objects,
        "discard": discard,
        "failed": dict(failed),
        "events": dict(tally),
        "variants": bodies.variants(),
        "flows": flows,
        "health": vitals,
    }


def _tcp_info(sock: socket.socket) -> dict:
    """The figures of struct tcp_info (<linux/tcp.h>) that RFC 6349 asks for; times in us."""
    data = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 232)
    words = struct.unpack_from("=24I", data, 8)
    info = {"rtt_us": words[15], "rttvar_us": words[16], "receive_rtt_us": words[20]}
    if len(data) >= 152:
        info["min_rtt_us"] = struct.unpack_from("=I", data, 148)[0]
    return info
