# SPDX-License-Identifier: Apache-2.0
"""The kernel's own times of a packet: SO_TIMESTAMPING."""

from __future__ import annotations

import socket
import struct

# Constants of <linux/net_tstamp.h> and <linux/errqueue.h>.
SO_TIMESTAMPING = 37
TX_HARDWARE, TX_SOFTWARE, RX_HARDWARE, RX_SOFTWARE = 1, 2, 4, 8
SOFTWARE, RAW_HARDWARE, OPT_ID, OPT_TSONLY = 16, 64, 128, 2048
STAMP_FLAGS = (
    TX_HARDWARE | TX_SOFTWARE | RX_HARDWARE | RX_SOFTWARE
    | SOFTWARE | RAW_HARDWARE | OPT_ID | OPT_TSONLY
)  # fmt: skip
_TIMESPECS = struct.Struct("@llllll")
_EXTENDED = struct.Struct("=IBBBBII")


def read_stamp(ancillary: list):
    """(software ns, hardware ns, OPT_ID key or None) of one recvmsg; zeros where absent."""
    software = hardware = 0
    key = None
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPING:
            times = _TIMESPECS.unpack(data[: _TIMESPECS.size])
            software = times[0] * 1_000_000_000 + times[1]
            hardware = times[4] * 1_000_000_000 + times[5]
        elif (level, kind) in ((socket.IPPROTO_IP, 11), (socket.IPPROTO_IPV6, 25)):
            key = _EXTENDED.unpack(data[: _EXTENDED.size])[6]
    return software, hardware, key
