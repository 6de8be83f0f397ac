# SPDX-License-Identifier: Apache-2.0
"""Captured frames: when, which way, which bytes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from sriov_lb_tests.wire.agent import OUTGOING


class Frame(NamedTuple):
    """One frame as a packet socket saw it.

    ``ns`` is the kernel's receive time in nanoseconds since the epoch (guest clock), ``kind``
    the packet type of linux/if_packet.h, ``wire`` its length on the wire, ``data`` its bytes.
    """

    ns: int
    kind: int
    wire: int
    data: bytes

    @property
    def outgoing(self) -> bool:
        return self.kind == OUTGOING


@dataclass
class Captured:
    """What a capture holds; filled when the capture ends."""

    host: str
    interface: str
    frames: list[Frame] = field(default_factory=list)
    dropped: int = 0

    def extend(self, records: Iterable[tuple[int, int, int, bytes]]) -> None:
        self.frames.extend(Frame(*record) for record in records)

    @property
    def incoming(self) -> list[Frame]:
        return [frame for frame in self.frames if not frame.outgoing]
