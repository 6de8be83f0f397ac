# SPDX-License-Identifier: Apache-2.0
"""Evidence on disk: every send and every capture becomes a pcap file.

Format: pcap with nanosecond times (magic 0xa1b23c4d), link type 1 (Ethernet); read by Wireshark
and tcpdump.
"""

from __future__ import annotations

import itertools
import re
import struct
import threading
from collections.abc import Iterable
from pathlib import Path

from sriov_lb_tests import errors
from sriov_lb_tests.wire.capture import Frame

_FILE = struct.Struct("<IHHiIII")
_RECORD = struct.Struct("<IIII")
_MAGIC_NANOSECONDS = 0xA1B23C4D
_LINKTYPE_ETHERNET = 1


def write(path: Path, frames: Iterable[Frame]) -> Path:
    """Write frames to ``path``, ordered by time."""
    ordered = sorted(frames, key=lambda frame: frame.ns)
    with open(path, "wb") as out:
        out.write(_FILE.pack(_MAGIC_NANOSECONDS, 2, 4, 0, 0, 65535 + 4, _LINKTYPE_ETHERNET))
        for frame in ordered:
            seconds, nanoseconds = divmod(frame.ns, 1_000_000_000)
            wire = max(frame.wire, len(frame.data))
            out.write(_RECORD.pack(seconds, nanoseconds, len(frame.data), wire))
            out.write(frame.data)
    return path


class Archive:
    """A folder of numbered pcap files: ``0007-tcp-syn-to-80.pcap``.

    :raises CaptureFailed: the folder cannot be written; evidence that cannot be kept is none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise errors.CaptureFailed(
                f"The folder for evidence {self.folder} cannot be made: {error.strerror}.",
                remedy="Point the artefacts folder at a place that can be written.",
            ) from error
        taken = [int(path.name[:4]) for path in self.folder.glob("[0-9][0-9][0-9][0-9]-*.pcap")]
        self._numbers = itertools.count(max(taken, default=0) + 1)
        self._lock = threading.Lock()

    def keep(self, title: str, frames: Iterable[Frame]) -> Path:
        """Write a new file named after ``title`` and return its path."""
        slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:80]
        with self._lock:
            number = next(self._numbers)
        path = self.folder / f"{number:04d}-{slug}.pcap"
        try:
            return write(path, frames)
        except OSError as error:
            raise errors.CaptureFailed(
                f"The evidence {path} cannot be written: {error.strerror}.",
                remedy="Make room, or point the artefacts folder elsewhere.",
            ) from error
