# SPDX-License-Identifier: Apache-2.0
"""Responses: parsed, validated and told apart."""

from __future__ import annotations

import collections

from .errors import JobError

MAX_VARIANTS = 64  # different response bodies, and wrong lengths, told apart
CHUNK = 16384  # bytes asked of one recv


class Head:
    """The parsed head of one response."""

    __slots__ = ("close", "length", "size", "status")

    def __init__(self, data: bytes) -> None:
        end = data.index(b"\r\n\r\n")
        lines = data[:end].split(b"\r\n")
        parts = lines[0].split(None, 2)
        if len(parts) < 2 or not parts[0].startswith(b"HTTP/1.") or not parts[1].isdigit():
            raise JobError("response", f"not an HTTP/1 response: {data[:60]!r}")
        self.size = end + 4
        self.status = int(parts[1])
        self.length = None  # bytes of body; None: until the peer closes
        self.close = parts[0] == b"HTTP/1.0"
        for line in lines[1:]:
            name, _, value = line.partition(b":")
            name = name.strip().lower()
            if name == b"content-length":
                self.length = int(value)
            elif name == b"transfer-encoding":
                raise JobError(
                    "response",
                    "the target answers with Transfer-Encoding; this generator needs "
                    "Content-Length to know when a response is complete",
                )
            elif name == b"connection" and b"close" in value.lower():
                self.close = True
        if self.status in (204, 304):
            self.length = 0


def other_length(length: int, wanted: int, seen) -> str:
    """How a response is counted that has not the length it is to have.

    :param seen: what was counted already: a target that makes up lengths fills no memory.
    """
    kind = f"length {length}, not {wanted}"
    return kind if kind in seen or len(seen) < MAX_VARIANTS else f"length not {wanted}"


class Bodies:
    """Complete bodies, counted: which member sent one is told by it."""

    def __init__(self) -> None:
        self._counts = collections.Counter()

    def add(self, body: bytes) -> None:
        known = len(self._counts) < MAX_VARIANTS or body in self._counts
        self._counts[body if known else None] += 1

    def clear(self) -> None:
        self._counts.clear()

    def variants(self) -> list:
        """As :meth:`Reader.variants`."""
        return [
            {
                "head": None if body is None else body[:80].decode("latin-1"),
                "length": None if body is None else len(body),
                "count": count,
            }
            for body, count in self._counts.items()
        ]


class Reader:
    """Validates responses on keep-alive connections.

    :param length: bytes that each body is to have; None: nobody knows.

    The fast path in the loops is one dictionary look-up: ``known`` maps a complete body seen
    before to its counter. Everything else (first sight, split, oversize or failed responses)
    comes here.
    """

    def __init__(self, length=None) -> None:
        self._length = length
        self.known = {}  # body -> index into hits
        self.hits = []
        self.unnamed = 0  # valid responses too big or too varied to be told apart
        self.failed = collections.Counter()  # "status 503" -> count
        self.body_bytes = 0  # of responses counted in `unnamed`
        self._partial = {}  # fd -> [head or None, bytes so far, missing]

    def feed(self, fd: int, data: bytes):
        """One more piece for ``fd``; returns None (incomplete), or (good, close)."""
        partial = self._partial.pop(fd, None)
        if partial is None or partial[0] is None:
            if partial is not None:
                data = partial[1] + data
            if b"\r\n\r\n" not in data:
                if len(data) > 65536:
                    raise JobError("response", "no end of the header within 64 KiB")
                self._partial[fd] = [None, data, None]
                return None
            head = Head(data)
            body = data[head.size :]
            if head.length is None:
                self._partial[fd] = [head, b"", None]
                return None
            missing = head.length - len(body)
        else:
            head, body, missing = partial
            if missing is None:
                self._partial[fd] = partial
                return None
            missing -= len(data)
            if body is not None:
                body += data
        if missing > 0:
            keep = body if body is not None and head.length <= CHUNK else None
            self._partial[fd] = [head, keep, missing]
            return None
        if missing < 0:
            self.failed["longer than its Content-Length"] += 1
            return False, True
        return self._complete(head, body), head.close

    def _complete(self, head: Head, body) -> bool:
        if not 200 <= head.status < 300:
            self.failed[f"status {head.status}"] += 1
            return False
        if self._length is not None and head.length != self._length:
            self.failed[other_length(head.length, self._length, self.failed)] += 1
            return False
        if body:
            index = self.known.get(body)
            if index is None and len(self.known) < MAX_VARIANTS:
                index = self.known[body] = len(self.hits)
                self.hits.append(0)
            if index is not None:
                self.hits[index] += 1
                return True
        self.unnamed += 1
        self.body_bytes += head.length
        return True

    def closed(self, fd: int) -> bool:
        """The peer closed ``fd``; True when that ended a response that had no length."""
        partial = self._partial.pop(fd, None)
        if partial is None:
            return False
        head = partial[0]
        if head is not None and head.length is None:
            return self._complete(head, None) if head.status >= 300 else False
        self.failed["closed in the middle of a response"] += 1
        return False

    def reset(self) -> None:
        """Forget the counts (end of warm-up), keep what is known of the bodies."""
        self.hits[:] = [0] * len(self.hits)
        self.unnamed = 0
        self.body_bytes = 0
        self.failed.clear()

    def total(self) -> int:
        return sum(self.hits) + self.unnamed

    def variants(self) -> list:
        """[{"head": first bytes of the body as text, "length": bytes, "count": responses}]"""
        rows = [
            {
                "head": body[:80].decode("latin-1"),
                "length": len(body),
                "count": self.hits[index],
            }
            for body, index in self.known.items()
        ]
        if self.unnamed:
            rows.append({"head": None, "length": None, "count": self.unnamed})
        return rows

    def bytes_received(self) -> int:
        return self.body_bytes + sum(
            len(body) * self.hits[index] for body, index in self.known.items()
        )


class Whole:
    """Complete responses, head and body, that were validated once; the loops' fast path.

    ``known`` maps the bytes of one to its index in the reader's ``hits``, so a repeated answer is
    validated by one dictionary look-up that compares every byte of it. A head that varies (a
    date, once a second; a cookie, each time) is looked at again.
    """

    MOST = 1024  # responses remembered

    def __init__(self, reader: Reader) -> None:
        self.known = {}
        self._reader = reader

    def feed(self, fd: int, data: bytes):
        """Like :meth:`Reader.feed`, for what is not in ``known``."""
        reader = self._reader
        before = len(reader._partial)
        answer = reader.feed(fd, data)
        if answer == (True, False) and len(reader._partial) == before:
            # Not the end of one that came in pieces (then there would be one partial less).
            index = reader.known.get(data.partition(b"\r\n\r\n")[2])
            if index is not None:
                if len(self.known) >= self.MOST:
                    self.known.clear()
                self.known[data] = index
        return answer


class Ended:
    """Judges answers that the target ended with FIN: one connection, one answer.

    :param length: bytes that each body is to have; None: nobody knows.
    """

    def __init__(self, length=None) -> None:
        self._length = length
        self._valid = {}  # complete answer, head and body -> its body
        self._others = set()  # kinds of wrong lengths
        self._bodies = Bodies()

    def judge(self, data: bytes):
        """Why an answer does not count, or None when it does (and was counted)."""
        body = self._valid.get(data)
        if body is None:
            if b"\r\n\r\n" not in data:
                return "closed before an answer"
            head = Head(data)
            body = data[head.size :]
            if not 200 <= head.status < 300:
                return f"status {head.status}"
            if head.length is not None and head.length != len(body):
                return "closed in the middle of a response"
            if self._length is not None and len(body) != self._length:
                kind = other_length(len(body), self._length, self._others)
                self._others.add(kind)
                return kind
            if len(self._valid) >= Whole.MOST:
                self._valid.clear()
            self._valid[data] = body
        self._bodies.add(body)
        return None

    def clear(self) -> None:
        self._bodies.clear()

    def variants(self) -> list:
        return self._bodies.variants()
