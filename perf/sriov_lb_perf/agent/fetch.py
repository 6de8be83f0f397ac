# SPDX-License-Identifier: Apache-2.0
"""One GET, to see whether the target answers and with what."""

from __future__ import annotations

from .errors import JobError
from .http import CHUNK, Head
from .recording import clock
from .target import Target, connect_many


def run_fetch(job: dict, link) -> dict:
    """One GET on a connection of its own."""
    target = Target(job)
    timeout = job.get("timeout", 5.0)
    sock = connect_many(target, 1, timeout)[0]
    try:
        sock.settimeout(timeout)
        begin = clock()
        sock.sendall(target.request(close=True))
        data = b""
        while len(data) < 1 << 20:
            try:
                piece = sock.recv(CHUNK)
            except OSError as error:
                raise JobError(
                    "response", f"no complete answer of {target.describe()}: {error}"
                ) from error
            if not piece:
                break
            data += piece
            if b"\r\n\r\n" in data:
                head = Head(data)
                if head.length is not None and len(data) - head.size >= head.length:
                    break
    finally:
        sock.close()
    if b"\r\n\r\n" not in data:
        raise JobError("response", f"{target.describe()} closed without an HTTP answer")
    head = Head(data)
    body = data[head.size :]
    return {
        "status": head.status,
        "length": head.length,
        "head": body[:200].decode("latin-1"),
        "elapsed_ns": clock() - begin,
        "address": target.address[0],
        "port": target.address[1],
    }
