# SPDX-License-Identifier: Apache-2.0
"""The part that runs in a guest: one file, standard library only, Python 3.8 or newer, root.

The tester streams this file to an interpreter in the guest (see ``session.py``); nothing is
installed there and nothing is left behind: what the agent changes (addresses, forwarding
switches, an nft table) it undoes when it ends, however it ends short of SIGKILL.

Protocol on stdin/stdout, both directions: ``>II`` (length of header, length of body), a JSON
header, a binary body. One request is answered by one reply with the same ``id`` and either
``ok`` (the result) or ``error`` (a sentence). Frames travel in the body as records:
``>I`` length + frame towards the guest, ``RECORD`` + frame (see below) back.

What not every session needs (the prober, the sweep) is a *part*: a file of its own, streamed by
``extend`` when it is first wanted and run in this file's globals. Its ``OPERATIONS`` are added;
what goes on between requests is a *task* (``sockets``, ``serve``, ``due``, ``tick``, ``close``).

The tester imports these files too, for ``flow_key``, ``answer_key`` and the record formats, so that
both ends agree on what answers what. They must therefore stay importable without side effects.
"""

import array
import ctypes
import functools
import ipaddress
import itertools
import json
import os
import platform
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

VERSION = 1

MESSAGE = struct.Struct(">II")
LENGTH = struct.Struct(">I")
WORD = struct.Struct(">H")
LONG = struct.Struct(">I")
#: One captured frame: time (ns since the epoch, kernel clock), packet type (``PACKET_*`` of
#: linux/if_packet.h; 4 is "outgoing"), bytes on the wire, bytes that follow.
RECORD = struct.Struct(">QBII")
OUTGOING = 4

ETH_P_ALL = 0x0003
ETH_P_IP = 0x0800
ETH_P_ARP = 0x0806
ETH_P_IPV6 = 0x86DD
VLAN_TYPES = (0x8100, 0x88A8)

SOL_PACKET = 263
PACKET_ADD_MEMBERSHIP = 1
PACKET_STATISTICS = 6
PACKET_AUXDATA = 8
PACKET_MR_PROMISC = 1
PACKET_MR_ALLMULTI = 2
SO_RCVBUFFORCE = 33
SO_TIMESTAMPNS = 35
SO_ATTACH_FILTER = 26
TP_STATUS_VLAN_VALID = 1 << 4
TP_STATUS_VLAN_TPID_VALID = 1 << 6

RECEIVE_BUFFER = 64 << 20
SNAP = 65535

#: IPv6 extension headers that are skipped to find the upper layer.
EXTENSIONS = (0, 43, 44, 51, 60, 135, 139, 140)
WITH_PORTS = (6, 17, 33, 132, 136)


class Refused(Exception):
    """A request that cannot be served; its text is the reply's ``error``."""


# --- frames -------------------------------------------------------------------------------


def pack_frames(frames):
    """Frames as the body of a request: ``>I`` length before each."""
    return b"".join(LENGTH.pack(len(frame)) + bytes(frame) for frame in frames)


def unpack_frames(body):
    """The inverse of ``pack_frames``."""
    frames, position = [], 0
    while position < len(body):
        (size,) = LENGTH.unpack_from(body, position)
        position += LENGTH.size
        if position + size > len(body):
            raise Refused("the body ends inside a frame")
        frames.append(body[position : position + size])
        position += size
    return frames


def pack_records(records):
    """Captured frames ``(ns, packet type, wire length, bytes)`` as the body of a reply."""
    return b"".join(
        RECORD.pack(ns, kind, wire, len(frame)) + frame for ns, kind, wire, frame in records
    )


def unpack_records(body):
    """The inverse of ``pack_records``."""
    records, position = [], 0
    while position < len(body):
        ns, kind, wire, size = RECORD.unpack_from(body, position)
        position += RECORD.size
        records.append((ns, kind, wire, bytes(body[position : position + size])))
        position += size
    return records


def network_layer(frame):
    """``(ethertype, offset of the network header)``; VLAN tags are stepped over."""
    if len(frame) < 14:
        return None, 0
    offset = 12
    kind = struct.unpack_from(">H", frame, offset)[0]
    while kind in VLAN_TYPES and len(frame) >= offset + 6:
        offset += 4
        kind = struct.unpack_from(">H", frame, offset)[0]
    return kind, offset + 2


def _upper_layer(packet):
    """``(family, protocol, source, destination, offset)`` of an IP packet, or None."""
    if not packet:
        return None
    version = packet[0] >> 4
    if version == 4 and len(packet) >= 20:
        header = max(packet[0] & 15, 5) * 4
        return 4, packet[9], bytes(packet[12:16]), bytes(packet[16:20]), header
    if version == 6 and len(packet) >= 40:
        protocol, offset = packet[6], 40
        while protocol in EXTENSIONS and len(packet) >= offset + 8:
            size = 8 if protocol == 44 else (packet[offset + 1] + (2 if protocol == 51 else 1))
            size = size if protocol == 44 else size * (4 if protocol == 51 else 8)
            protocol, offset = packet[offset], offset + size
        return 6, protocol, bytes(packet[8:24]), bytes(packet[24:40]), offset
    return None


def _flow(packet):
    """``(key, protocol, offset)``: the flow of an IP packet seen from its sender.

    TCP, UDP, SCTP, DCCP: both ports. Echo: identifier and sequence. Everything else: the
    protocol and the two addresses.
    """
    found = _upper_layer(packet)
    if found is None:
        return None, None, 0
    family, protocol, source, destination, offset = found
    first = second = b"\0\0"
    if protocol in WITH_PORTS and len(packet) >= offset + 4:
        first, second = packet[offset : offset + 2], packet[offset + 2 : offset + 4]
    elif protocol in (1, 58) and len(packet) >= offset + 8 and packet[offset] in (8, 128):
        first, second = packet[offset + 4 : offset + 6], packet[offset + 6 : offset + 8]
    key = (family, protocol, source, bytes(first), destination, bytes(second))
    return key, protocol, offset


def flow_key(frame):
    """What an answer to this frame would refer to, or None when nothing can be expected."""
    kind, offset = network_layer(frame)
    packet = frame[offset:]
    if kind == ETH_P_ARP and len(packet) >= 28:
        return ("arp", bytes(packet[14:18]), bytes(packet[24:28]))
    if kind not in (ETH_P_IP, ETH_P_IPV6):
        return None
    key, protocol, upper = _flow(packet)
    if protocol == 58 and len(packet) >= upper + 24 and packet[upper] == 135:
        return ("nd", bytes(packet[upper + 8 : upper + 24]))
    return key


def answer_key(frame):
    """The ``flow_key`` of the frame that this one answers, or None.

    An answer is the same flow with its ends exchanged, or an ICMP error that quotes it.
    """
    kind, offset = network_layer(frame)
    packet = frame[offset:]
    if kind == ETH_P_ARP and len(packet) >= 28:
        return ("arp", bytes(packet[24:28]), bytes(packet[14:18]))
    if kind not in (ETH_P_IP, ETH_P_IPV6):
        return None
    found = _upper_layer(packet)
    if found is None:
        return None
    family, protocol, source, destination, upper = found
    if len(packet) > upper + 8:
        kind = packet[upper]
        error = protocol == 1 and kind in (3, 4, 5, 11, 12)
        if error or (protocol == 58 and kind in (1, 2, 3, 4)):
            return _flow(packet[upper + 8 :])[0]
        if protocol == 58 and kind == 136 and len(packet) >= upper + 24:
            return ("nd", bytes(packet[upper + 8 : upper + 24]))
    first = second = b"\0\0"
    if protocol in WITH_PORTS and len(packet) >= upper + 4:
        second, first = packet[upper : upper + 2], packet[upper + 2 : upper + 4]
    elif protocol in (1, 58) and len(packet) >= upper + 8 and packet[upper] in (0, 129):
        first, second = packet[upper + 4 : upper + 6], packet[upper + 6 : upper + 8]
    return (family, protocol, destination, bytes(first), source, bytes(second))


def checksum(data):
    """The Internet checksum (RFC 1071) of ``data``, as an integer."""
    if len(data) % 2:
        data += b"\0"
    words = array.array("H", data)
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    total = ~total & 0xFFFF
    return total if sys.byteorder == "big" else ((total & 0xFF) << 8) | (total >> 8)


def arp_frame(operation, mac, source, target_mac, target, destination):
    """An ARP frame; addresses as bytes."""
    return (
        destination
        + mac
        + struct.pack(">HHHBBH", ETH_P_ARP, 1, ETH_P_IP, 6, 4, operation)
        + mac
        + source
        + target_mac
        + target
    )


def nd_frame(kind, flags, mac, source, destination, destination_mac, target, option):
    """A neighbour solicitation (135) or advertisement (136) with one link-layer option."""
    body = struct.pack(">BBHI", kind, 0, 0, flags) + target + bytes([option, 1]) + mac
    pseudo = source + destination + struct.pack(">II", len(body), 58)
    body = body[:2] + struct.pack(">H", checksum(pseudo + body)) + body[4:]
    header = struct.pack(">IHBB", 6 << 28, len(body), 58, 255)
    return destination_mac + mac + b"\x86\xdd" + header + source + destination + body


def solicited_node(address):
    """Multicast address (bytes) and its MAC on which the holder of ``address`` listens."""
    group = socket.inet_pton(socket.AF_INET6, "ff02::1:ff00:0")[:13] + address[13:]
    return group, b"\x33\x33" + group[12:]


def text_mac(mac):
    return ":".join(f"{byte:02x}" for byte in mac)


def binary_mac(text):
    return bytes(int(part, 16) for part in text.split(":"))


def text_address(address):
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    return socket.inet_ntop(family, address)


def binary_address(text):
    return ipaddress.ip_address(text).packed


def _fold(total):
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


class Patch:
    """A TCP or UDP frame, made anew for each number without summing it up anew (RFC 1624).

    Number n has source port ``first + (key + n) % ports``, TCP sequence number ``key + n``, and as
    IPv4 identification or low bits of the IPv6 flow label ``1 + n % 65535``. ``key`` is random, of
    31 bits: two runs do not begin with the same flows, which conntrack may still remember.

    :raises Refused: neither TCP nor UDP, or not the first fragment: nothing to patch.
    """

    def __init__(self, frame, first, ports, key):
        self.first, self.ports, self.key = first, ports, key
        self.frame = bytearray(frame)
        kind, self.network = network_layer(frame)
        found = _upper_layer(frame[self.network :]) if kind in (ETH_P_IP, ETH_P_IPV6) else None
        if found is None or found[1] not in (6, 17):
            raise Refused("only a TCP or UDP frame can be patched")
        self.family, self.protocol, self.source, self.target, upper = found
        if self.family == 4 and WORD.unpack_from(frame, self.network + 6)[0] & 0x3FFF:
            raise Refused("a fragment cannot be patched")
        self.upper = self.network + upper
        self.sum_at = self.upper + (16 if self.protocol == 6 else 6)
        if len(frame) < self.upper + (20 if self.protocol == 6 else 8):
            raise Refused("the frame ends within its header")
        self.target_port = WORD.unpack_from(frame, self.upper + 2)[0]
        self.zero_sum = self.protocol == 17 and not WORD.unpack_from(frame, self.sum_at)[0]
        # The sum over everything but what is patched.
        self.rest = self._without(self.sum_at, self.upper, 2)
        if self.protocol == 6:
            self.rest = _fold(self.rest + self._minus(self.upper + 4, 4))
        if self.family == 4:
            self.header_rest = self._without(self.network + 10, self.network + 4, 2)

    def _minus(self, offset, size):
        words = struct.unpack_from(f">{size // 2}H", self.frame, offset)
        return sum(~word & 0xFFFF for word in words)

    def _without(self, sum_at, offset, size):
        (found,) = WORD.unpack_from(self.frame, sum_at)
        return _fold((~found & 0xFFFF) + self._minus(offset, size))

    def port(self, number):
        return self.first + (self.key + number) % self.ports

    def at(self, number, ahead=0):
        """The frame of that number; ``ahead`` is added to its sequence number."""
        frame, port = self.frame, self.port(number)
        total = self.rest + port
        WORD.pack_into(frame, self.upper, port)
        if self.protocol == 6:
            sequence = (self.key + number + ahead) & 0xFFFFFFFF
            LONG.pack_into(frame, self.upper + 4, sequence)
            total += (sequence >> 16) + (sequence & 0xFFFF)
        total = ~_fold(total) & 0xFFFF
        if self.protocol == 17:
            total = 0 if self.zero_sum else total or 0xFFFF
        WORD.pack_into(frame, self.sum_at, total)
        mark = 1 + number % 0xFFFF
        if self.family == 4:
            WORD.pack_into(frame, self.network + 4, mark)
            WORD.pack_into(frame, self.network + 10, ~_fold(self.header_rest + mark) & 0xFFFF)
        else:
            WORD.pack_into(frame, self.network + 2, mark)  # low 16 bits of the flow label
        return frame

    def number(self, port, sequence, sent):
        """The probe that has this source port (and sequence number, or None), of ``sent``."""
        turn = port - self.first
        if not 0 <= turn < self.ports:
            return None
        if sequence is not None:
            number = (sequence - self.key) & 0xFFFFFFFF
            return number if number < sent and self.port(number) == port else None
        # The latest one with that port.
        turn = (turn - self.key) % self.ports
        number = turn + (sent - 1 - turn) // self.ports * self.ports
        return number if 0 <= number < sent else None


def reset_frame(frame):
    """The RST that follows a SYN on the same flow: same addresses and ports, no options."""
    _, network = network_layer(frame)
    family, protocol, source, target, upper = _upper_layer(frame[network:])
    if family == 4:
        header = bytearray(frame[network : network + 20])
        header[0] = 0x45
        WORD.pack_into(header, 2, 40)
    else:
        header = bytearray(frame[network : network + 40])
        WORD.pack_into(header, 4, 20)
        header[6] = 6
    ports = frame[network + upper : network + upper + 4]
    segment = bytearray(bytes(ports) + struct.pack(">IIBBHHH", 0, 0, 0x50, 0x04, 0, 0, 0))
    pseudo = source + target + struct.pack(">II", 20, 6)
    WORD.pack_into(segment, 16, checksum(bytes(pseudo + segment)))
    if family == 4:
        WORD.pack_into(header, 10, 0)
        WORD.pack_into(header, 10, checksum(bytes(header)))
    return bytes(frame[:network]) + bytes(header) + bytes(segment)


# --- the kernel -----------------------------------------------------------------------------


class Netlink:
    """The few rtnetlink calls that are needed: links, addresses, add and remove an address."""

    NEWLINK, GETLINK, NEWADDR, DELADDR, GETADDR = 16, 18, 20, 21, 22
    REQUEST, ACK, CREATE_EXCLUSIVE, DUMP = 0x1, 0x4, 0x600, 0x300

    def _request(self, kind, flags, body):
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
            netlink.bind((0, 0))
            flags |= self.REQUEST
            netlink.send(struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body)
            found = []
            while True:
                data = netlink.recv(1 << 18)
                while len(data) >= 16:
                    size, answer, answer_flags, _, _ = struct.unpack_from("=IHHII", data)
                    if answer == 2:
                        number = -struct.unpack_from("=i", data, 16)[0]
                        if number:
                            raise OSError(number, os.strerror(number))
                        return found
                    if answer == 3:
                        return found
                    found.append(data[16:size])
                    data = data[(size + 3) & ~3 :]

    @staticmethod
    def _attributes(data):
        attributes = {}
        while len(data) >= 4:
            size, kind = struct.unpack_from("=HH", data)
            if size < 4:
                break
            attributes[kind & 0x3FFF] = data[4:size]
            data = data[(size + 3) & ~3 :]
        return attributes

    def links(self):
        """Interfaces by index: name, MAC, MTU, flags."""
        found = {}
        for message in self._request(
            self.GETLINK, self.DUMP, struct.pack("=BxHiII", 0, 0, 0, 0, 0)
        ):
            index, flags = struct.unpack_from("=iI", message, 4)
            attributes = self._attributes(message[16:])
            found[index] = {
                "index": index,
                "name": attributes[3].rstrip(b"\0").decode(),
                "mac": text_mac(attributes.get(1, b"")),
                "mtu": struct.unpack("=I", attributes[4])[0],
                "up": bool(flags & 1),
                "carrier": bool(flags & 0x10000),
                "addresses": [],
            }
        return found

    def interfaces(self):
        """The links with their addresses (``text/prefix``), by name."""
        links = self.links()
        for message in self._request(self.GETADDR, self.DUMP, struct.pack("=BBBBi", 0, 0, 0, 0, 0)):
            _, prefix, _, _, index = struct.unpack_from("=BBBBi", message)
            attributes = self._attributes(message[8:])
            address = attributes.get(2) or attributes.get(1)
            if address and index in links:
                links[index]["addresses"].append(f"{text_address(address)}/{prefix}")
        return {link["name"]: link for link in links.values()}

    def change_address(self, add, index, address, prefix):
        family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
        # IFA_F_NODAD: a crafted address must answer at once.
        flags = 0x02 if family == socket.AF_INET6 else 0
        body = struct.pack("=BBBBi", family, prefix, flags, 0, index)
        for kind in (1, 2):
            size = 4 + len(address)
            body += struct.pack("=HH", size, kind) + address + b"\0" * (-size % 4)
        if add:
            self._request(self.NEWADDR, self.ACK | self.CREATE_EXCLUSIVE, body)
        else:
            self._request(self.DELADDR, self.ACK, body)


def packet_socket(ethertype, index, allmulti=False):
    """A raw packet socket bound to one interface, with kernel timestamps and VLAN tags."""
    found = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    try:
        try:
            found.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        except OSError:
            # In a container without CAP_NET_ADMIN of the host: as much as the limit allows.
            found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        found.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        found.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        if allmulti:
            member = struct.pack("=iHH8s", index, PACKET_MR_ALLMULTI, 0, b"")
            found.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, member)
        found.bind((socket.if_indextoname(index), ethertype))
        found.setblocking(False)
        return found
    except BaseException:
        found.close()
        raise


class Later:
    """``with Later(packet_socket(…)) as sock``: closed by a thread in the end. The kernel waits for
    all its readers when a packet socket is closed, 10 ms and more; an answer does not have to."""

    def __init__(self, thing):
        self.thing = thing

    def __enter__(self):
        return self.thing

    def __exit__(self, *_exc):
        threading.Thread(target=self.thing.close, daemon=True).start()


def attach_filter(sock, program):
    """Attach a classic BPF program, a list of ``(code, jt, jf, k)``."""
    code = b"".join(struct.pack("=HBBI", *step) for step in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    sock.setsockopt(
        socket.SOL_SOCKET,
        SO_ATTACH_FILTER,
        struct.pack("HP", len(program), ctypes.addressof(buffer)),
    )


def neighbours(kind):
    """BPF: neighbour discovery of that type, without extension headers: next header at 20, type
    at 54."""
    return [
        (0x30, 0, 0, 20),
        (0x15, 0, 3, 58),
        (0x30, 0, 0, 54),
        (0x15, 0, 1, kind),
        (0x06, 0, 0, 0xFFFF),
        (0x06, 0, 0, 0),
    ]


SOLICITATIONS, ADVERTISEMENTS = neighbours(135), neighbours(136)


def answers_to(addresses):
    """BPF: what comes in, IPv4 or IPv6, for one of these addresses (no VLAN tag, no options)."""
    v4 = [LONG.unpack(a)[0] for a in addresses if len(a) == 4]
    v6 = [struct.unpack(">4I", a) for a in addresses if len(a) == 16]
    program = [
        (0x30, 0, 0, 0xFFFFF004),  # packet type
        (0x15, 0, 1, OUTGOING),
        (0x06, 0, 0, 0),
        (0x28, 0, 0, 12),
        (0x15, 1, 0, ETH_P_IP),
        (0x05, 0, 0, 2 + 2 * len(v4)),  # over the IPv4 half
        (0x20, 0, 0, 30),
    ]
    for number in v4:
        program += [(0x15, 0, 1, number), (0x06, 0, 0, 0xFFFF)]
    program += [(0x06, 0, 0, 0), (0x15, 1, 0, ETH_P_IPV6), (0x06, 0, 0, 0)]
    for words in v6:
        for turn, word in enumerate(words):
            # On a mismatch: over the words that are left, and the acceptance.
            program += [(0x20, 0, 0, 38 + 4 * turn), (0x15, 0, 7 - 2 * turn, word)]
        program.append((0x06, 0, 0, 0xFFFF))
    program.append((0x06, 0, 0, 0))
    return program


def read_frames(sock, limit=4096):
    """Every frame waiting on a packet socket: ``(ns, packet type, wire length, bytes)``."""
    for _ in range(limit):
        try:
            frame, ancillary, _, address = sock.recvmsg(SNAP, 256)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno == 100:  # ENETDOWN is reported once, when the interface goes down
                continue
            raise
        ns, wire = 0, len(frame)
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
                seconds, nanoseconds = struct.unpack("=qq" if len(data) == 16 else "=ii", data)
                ns = seconds * 1000000000 + nanoseconds
            elif level == SOL_PACKET and kind == PACKET_AUXDATA:
                status, wire, _, _, _, tci, tpid = struct.unpack_from("=IIIHHHH", data)
                if status & TP_STATUS_VLAN_VALID:
                    # The kernel took the tag out of the frame; put it back where it was.
                    tpid = tpid if status & TP_STATUS_VLAN_TPID_VALID else 0x8100
                    frame = frame[:12] + struct.pack(">HH", tpid, tci) + frame[12:]
                    wire += 4
        yield ns or time.time_ns(), address[2], wire, frame


class Batch:
    """Frames prepared for ``sendmmsg``: laid out once, sent with one system call per chunk.

    ``struct iovec`` is two machine words and ``struct mmsghdr`` eight, on 32 and on 64 bits: both
    are laid out as arrays of words, by slices, since a field at a time is too slow in Python.
    """

    CHUNK = 512
    WORDS, WORD_SIZE = 8, array.array("L").itemsize

    def __init__(self, frames):
        sizes = list(map(len, frames))
        starts = [0] + list(itertools.accumulate(sizes))
        self.lay(bytearray(b"".join(frames)), starts[:-1], sizes)

    def lay(self, buffer, starts, sizes):
        """The frames at these places of ``buffer``, in this order."""
        self.count = count = len(sizes)
        self._buffer = buffer or bytearray(1)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._buffer))
        self._vectors = array.array("L", bytes(2 * self.WORD_SIZE * max(count, 1)))
        self._messages = array.array("L", bytes(self.WORDS * self.WORD_SIZE * max(count, 1)))
        if count:
            self._vectors[0::2] = array.array("L", [base + start for start in starts])
            self._vectors[1::2] = array.array("L", sizes)
            first = self._vectors.buffer_info()[0]
            step = 2 * self.WORD_SIZE
            self._messages[2 :: self.WORDS] = array.array(
                "L", range(first, first + count * step, step)
            )
            self._messages[3 :: self.WORDS] = array.array("L", [1]) * count
        self._libc = ctypes.CDLL(None, use_errno=True)

    def send(self, sock, first, count):
        """Send ``count`` frames from ``first``; waits for room. Returns how many errors."""
        done = errors = 0
        size = self.WORDS * self.WORD_SIZE
        start = self._messages.buffer_info()[0]
        while done < count:
            chunk = min(self.CHUNK, count - done)
            sent = self._libc.sendmmsg(
                sock.fileno(), ctypes.c_void_p(start + (first + done) * size), chunk, 0
            )
            if sent > 0:
                done += sent
                continue
            number = ctypes.get_errno()
            if number in (11, 105):  # EAGAIN, ENOBUFS: the queue is full
                select.select([], [sock], [], 0.01)
            elif number == 4:
                continue
            else:
                # The frame itself is refused (too long, interface down): count it, go on.
                errors += 1
                done += 1
                if number == 100:
                    raise Refused("the interface is down")
        return errors


# --- the agent ---------------------------------------------------------------------------------


class Claims:
    """Addresses the agent plays on one interface: it answers ARP and ND for them.

    The guest's kernel does not own them, so it stays out of the conversation: no RST for an
    unexpected SYN-ACK, no ICMP error. Forwarding would make the kernel pass such packets on,
    so it is switched off for the interface while an address is claimed.
    """

    def __init__(self, interface):
        self.index = interface["index"]
        self.name = interface["name"]
        self.mac = binary_mac(interface["mac"])
        self.addresses = set()
        self.answered = 0
        self._restore = []
        self.arp = packet_socket(ETH_P_ARP, self.index)
        self.nd = packet_socket(ETH_P_IPV6, self.index, allmulti=True)
        attach_filter(self.nd, SOLICITATIONS)
        for family in ("ipv4", "ipv6"):
            path = f"/proc/sys/net/{family}/conf/{self.name}/forwarding"
            try:
                with open(path) as switch:
                    value = switch.read()
                if value.strip() != "0":
                    with open(path, "w") as switch:
                        switch.write("0")
                    self._restore.append((path, value))
            except FileNotFoundError:
                continue  # a guest without IPv6 has no such switch

    def sockets(self):
        return [self.arp, self.nd]

    def serve(self, sock):
        for _, kind, _, frame in read_frames(sock, 256):
            if kind == OUTGOING:
                continue
            answer = self._arp(frame) if sock is self.arp else self._solicitation(frame)
            if answer:
                try:
                    sock.send(answer)
                    self.answered += 1
                except BlockingIOError:
                    continue  # the other side asks again

    def announce(self, address):
        """Tell the link where the address is now: somebody may know it elsewhere, or just have
        asked in vain."""
        if len(address) == 4:
            broadcast = b"\xff" * 6
            self.arp.send(arp_frame(1, self.mac, address, b"\0" * 6, address, broadcast))
            return
        # Unsolicited, override (0x20), to all nodes.
        group = binary_address("ff02::1")
        everybody = b"\x33\x33\0\0\0\x01"
        self.nd.send(nd_frame(136, 0x20000000, self.mac, address, group, everybody, address, 2))

    def _arp(self, frame):
        _, offset = network_layer(frame)
        packet = frame[offset:]
        if len(packet) < 28 or packet[6:8] != b"\0\1" or packet[24:28] not in self.addresses:
            return None
        sender_mac, sender, target = packet[8:14], packet[14:18], packet[24:28]
        if sender == target:
            return None  # an announcement, not a question
        return arp_frame(2, self.mac, target, sender_mac, sender, sender_mac)

    def _solicitation(self, frame):
        _, offset = network_layer(frame)
        packet = frame[offset:]
        if len(packet) < 64 or packet[48:64] not in self.addresses:
            return None
        source, target = packet[8:24], packet[48:64]
        if not any(source):
            return None  # duplicate address detection of somebody else: stay silent
        # Solicited (0x40) and override (0x20).
        return nd_frame(136, 0x60000000, self.mac, target, source, frame[6:12], target, 2)

    def close(self):
        for sock in self.sockets():
            sock.close()
        for path, value in self._restore:
            try:
                with open(path, "w") as switch:
                    switch.write(value)
            except OSError:
                continue  # the interface is gone, and its switches with it


class Capture:
    """Frames collected on one interface until somebody takes them."""

    def __init__(self, interface, match):
        self.sock = packet_socket(ETH_P_ALL, interface["index"], allmulti=True)
        if match.get("promiscuous"):
            member = struct.pack("=iHH8s", interface["index"], PACKET_MR_PROMISC, 0, b"")
            self.sock.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, member)
        self.ethertypes = set(match.get("ethertypes") or ())
        self.addresses = set(binary_address(text) for text in match.get("addresses") or ())
        self.ports = set(match.get("ports") or ())
        self.needle = bytes.fromhex(match.get("needle") or "")
        self.limit = int(match.get("limit") or 1000000)
        self.records = []
        self.over = 0

    def wanted(self, frame):
        kind, offset = network_layer(frame)
        if self.ethertypes and kind not in self.ethertypes:
            return False
        if self.needle and self.needle not in frame:
            return False
        if not self.addresses and not self.ports:
            return True
        packet = frame[offset:]
        if kind == ETH_P_ARP:
            return not self.addresses or bool(
                {bytes(packet[14:18]), bytes(packet[24:28])} & self.addresses
            )
        key = _flow(packet)[0]
        if key is None:
            return False
        family, protocol, source, first, destination, second = key
        if self.addresses and not {source, destination} & self.addresses:
            # Neighbour discovery and quoted packets are context worth having.
            return protocol == 58 and any(address in packet for address in self.addresses)
        if self.ports:
            both = {int.from_bytes(first, "big"), int.from_bytes(second, "big")}
            return bool(both & self.ports)
        return True

    def serve(self, _=None):
        for record in read_frames(self.sock):
            if not self.wanted(record[3]):
                continue
            if len(self.records) >= self.limit:
                self.over += 1
            else:
                self.records.append(record)

    def dropped(self):
        """Frames the kernel dropped for want of room, since the last call."""
        data = self.sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
        return struct.unpack("=II", data)[1]

    def close(self):
        self.sock.close()


class Agent:
    """Serves requests until its input ends; between them it plays addresses and captures."""

    def __init__(self, source=0, sink=1):
        self.source, self.sink = source, sink
        self.netlink = Netlink()
        self.claims = {}
        self.captures = {}
        self.addresses = []
        self.tasks = {}
        self.extra = {}
        self.limiters = {}  # when a target last sent ICMP errors to a source
        self.quiet_table = None
        self.counter = 0

    # plumbing

    def read(self, size):
        """Exactly ``size`` bytes of input; claims and captures are served while waiting."""
        parts = []
        while size:
            self.pump(None, [self.source])
            part = os.read(self.source, min(size, 1 << 20))
            if not part:
                raise EOFError
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def write(self, data):
        view = memoryview(data)
        while view:
            view = view[os.write(self.sink, view) :]

    def reply(self, header, body=b""):
        text = json.dumps(header).encode()
        head = MESSAGE.pack(len(text), len(body)) + text
        if len(body) < 1 << 16:
            self.write(head + body)
            return
        # The times of minutes of probing are as much as a small guest has room for once.
        self.write(head)
        self.write(body)

    def pump(self, deadline, extra=()):
        """Serve sockets until one of ``extra`` is readable or the deadline (monotonic) passes."""
        served = {}
        for claims in self.claims.values():
            for sock in claims.sockets():
                served[sock] = claims
        for capture in self.captures.values():
            served[capture.sock] = capture
        if self.tasks:
            return self._pump_tasks(deadline, extra, served)
        poll = select.poll()
        names = {}
        for sock in list(served) + list(extra):
            number = sock if isinstance(sock, int) else sock.fileno()
            names[number] = sock
            poll.register(number, select.POLLIN)
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready = [names[number] for number, _ in poll.poll(None if left is None else left * 1e3)]
            for sock in ready:
                if sock in served:
                    served[sock].serve(sock)
            if any(sock in extra for sock in ready):
                return True
            if deadline is not None and time.monotonic() >= deadline:
                return False

    def _pump_tasks(self, deadline, extra, served):
        """The same with tasks that want to be woken to the microsecond: poll knows milliseconds."""
        while True:
            owners = dict(served)
            wake = [] if deadline is None else [deadline]
            for task in self.tasks.values():
                owners.update((sock, task) for sock in task.sockets())
                due = task.due()
                if due is not None:
                    wake.append(due)
            left = max(0.0, min(wake) - time.monotonic()) if wake else None
            ready, _, _ = select.select(list(owners) + list(extra), [], [], left)
            for sock in ready:
                if sock in owners:
                    owners[sock].serve(sock)
            for task in self.tasks.values():
                due = task.due()
                if due is not None and due <= time.monotonic():
                    task.tick()
            if any(sock in extra for sock in ready):
                return True
            if deadline is not None and time.monotonic() >= deadline:
                return False

    def run(self):
        try:
            while True:
                head, body = MESSAGE.unpack(self.read(MESSAGE.size))
                header = json.loads(self.read(head))
                body = self.read(body) if body else b""
                if header["op"] == "bye":
                    self.reply({"id": header["id"], "ok": {}})
                    return
                try:
                    handler = getattr(self, "op_" + header["op"], None)
                    if handler is None and header["op"] not in self.extra:
                        raise Refused("unknown operation {!r}".format(header["op"]))
                    handler = handler or functools.partial(self.extra[header["op"]], self)
                    result = handler(body, **header.get("args", {}))
                    answer, blob = result if isinstance(result, tuple) else (result, b"")
                    self.reply({"id": header["id"], "ok": answer}, blob)
                except EOFError:
                    raise
                except Exception as error:  # whatever it is, the tester has to hear of it
                    kind = "" if isinstance(error, Refused) else type(error).__name__ + ": "
                    self.reply({"id": header["id"], "error": kind + str(error)})
        except EOFError:
            return
        finally:
            self.undo()

    def undo(self):
        for task in self.tasks.values():
            task.close()
        self.tasks.clear()
        for claims in self.claims.values():
            claims.close()
        self.claims.clear()
        for capture in self.captures.values():
            capture.close()
        self.captures.clear()
        for index, address, prefix in reversed(self.addresses):
            try:
                self.netlink.change_address(False, index, address, prefix)
            except OSError:
                continue  # already gone, with its interface or by another hand
        self.addresses = []
        if self.quiet_table:
            subprocess.run(["nft", "delete", "table", "inet", self.quiet_table], check=False)
            self.quiet_table = None

    def interface(self, name):
        found = self.netlink.interfaces()
        if name not in found:
            raise Refused(
                "no interface {!r} here; there are {}".format(name, ", ".join(sorted(found)))
            )
        return found[name]

    # operations

    def op_hello(self, body):
        return {
            "version": VERSION,
            "python": platform.python_version(),
            "kernel": platform.release(),
            "hostname": socket.gethostname(),
            "uid": os.getuid(),
            "pid": os.getpid(),
            "cores": os.cpu_count(),
            "clock_ns": time.time_ns(),
        }

    def op_extend(self, body, part):
        """Take in a part of the agent: its text is the body."""
        space = dict(globals())
        exec(compile(body, "sriov-lb-" + part, "exec"), space)
        self.extra.update(space["OPERATIONS"])
        return {"operations": sorted(space["OPERATIONS"])}

    def op_interfaces(self, body):
        return self.netlink.interfaces()

    def op_add_address(self, body, interface, address):
        found = ipaddress.ip_interface(address)
        index = self.interface(interface)["index"]
        self.netlink.change_address(True, index, found.ip.packed, found.network.prefixlen)
        self.addresses.append((index, found.ip.packed, found.network.prefixlen))
        return {}

    def op_delete_address(self, body, interface, address):
        found = ipaddress.ip_interface(address)
        entry = (self.interface(interface)["index"], found.ip.packed, found.network.prefixlen)
        if entry not in self.addresses:
            raise Refused(f"{address} on {interface} was not added by this agent")
        self.netlink.change_address(False, *entry)
        self.addresses.remove(entry)
        return {}

    def op_claim(self, body, interface, addresses):
        if interface not in self.claims:
            self.claims[interface] = Claims(self.interface(interface))
        found = self.interface(interface)
        own = {text.split("/")[0] for text in found["addresses"]}
        for text in addresses:
            if text in own:
                raise Refused(f"{text} is the guest's own address: it cannot be played")
        claims = self.claims[interface]
        for address in map(binary_address, addresses):
            claims.addresses.add(address)
            claims.announce(address)
        return {"played": len(claims.addresses)}

    def op_release(self, body, interface, addresses=None):
        claims = self.claims.get(interface)
        if claims is None:
            return {"answered": 0}
        if addresses is None:
            claims.addresses.clear()
        for text in addresses or ():
            claims.addresses.discard(binary_address(text))
        if not claims.addresses:
            self.claims.pop(interface).close()
        return {"answered": claims.answered}

    def op_quiet(self, body, ports):
        """Keep the kernel from answering with RST on behalf of these local TCP ports."""
        name = f"sriov_lb_agent_{os.getpid()}"
        numbers = ", ".join(str(int(port)) for port in ports)
        text = (
            f"table inet {name} {{}}\ndelete table inet {name}\ntable inet {name} {{\n"
            " chain output { type filter hook output priority 0; policy accept;\n"
            f"  tcp flags & rst == rst tcp sport {{ {numbers} }} drop\n }}\n}}\n"
        )
        done = subprocess.run(
            ["nft", "-f", "-"],
            input=text.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        if done.returncode:
            raise Refused("nft refused the table: {}".format(done.stdout.decode(errors="replace")))
        self.quiet_table = name
        return {"table": name}

    def op_resolve(self, body, interface, target, source=None, timeout=1.0, attempts=3):
        """The MAC of a neighbour, asked for on the wire and not from the kernel's table."""
        found = self.interface(interface)
        mac, wanted = binary_mac(found["mac"]), binary_address(target)
        if target in {text.split("/")[0] for text in found["addresses"]}:
            return {"mac": found["mac"]}
        sender = self._sender(found, wanted, source)
        if len(wanted) == 4:
            frame = arp_frame(1, mac, sender, b"\0" * 6, wanted, b"\xff" * 6)
        else:
            group, group_mac = solicited_node(wanted)
            frame = nd_frame(135, 0, mac, sender, group, group_mac, wanted, 1)
        key = flow_key(frame)
        kind = ETH_P_ARP if len(wanted) == 4 else ETH_P_IPV6
        with Later(packet_socket(kind, found["index"])) as sock:
            for _ in range(int(attempts)):
                sock.send(frame)
                deadline = time.monotonic() + timeout / attempts
                while self.pump(deadline, [sock]):
                    for _, packet_type, _, answer in read_frames(sock):
                        if packet_type != OUTGOING and answer_key(answer) == key:
                            return {"mac": self._holder(answer)}
        raise Refused(
            "no answer to {} for {} on {} within {:.1f} s (asked as {})".format(
                "ARP" if len(wanted) == 4 else "ND",
                target,
                interface,
                timeout,
                text_address(sender),
            )
        )

    @staticmethod
    def _sender(interface, target, source):
        if source:
            return binary_address(source)
        own = [ipaddress.ip_interface(text) for text in interface["addresses"]]
        family = 4 if len(target) == 4 else 6
        own = [entry for entry in own if entry.version == family]
        near = [e for e in own if ipaddress.ip_address(target) in e.network]
        if near or own:
            return (near or own)[0].ip.packed
        if family == 4:
            return b"\0" * 4
        raise Refused("{} has no IPv6 address to ask from".format(interface["name"]))

    @staticmethod
    def _holder(answer):
        kind, offset = network_layer(answer)
        if kind == ETH_P_ARP:
            return text_mac(answer[offset + 8 : offset + 14])
        option = answer[offset + 64 : offset + 72]
        if len(option) == 8 and option[0] == 2:
            return text_mac(option[2:8])
        return text_mac(answer[6:12])

    def op_capture_start(self, body, interface, match=None):
        self.counter += 1
        name = f"capture-{self.counter}"
        self.captures[name] = Capture(self.interface(interface), match or {})
        return {"capture": name}

    def op_capture_take(self, body, capture, stop=True):
        if capture not in self.captures:
            raise Refused(f"no capture {capture!r} is running")
        found = self.captures[capture]
        found.serve()
        records, found.records = found.records, []
        result = {"dropped": found.dropped() + found.over, "frames": len(records)}
        found.over = 0
        if stop:
            del self.captures[capture]
            found.close()
        return result, pack_records(records)

    def op_send(self, body, interface, offsets=None, rate=None):
        """Send the body's frames: at ``offsets`` (µs from the start), at ``rate`` (frames/s), or
        as fast as they go."""
        frames = unpack_frames(body)
        found = self.interface(interface)
        batch = Batch(frames)
        if rate:
            offsets = [number * 1000000.0 / rate for number in range(len(frames))]
        with Later(packet_socket(0, found["index"])) as sock:
            started = time.time_ns()
            if offsets is None:
                errors = batch.send(sock, 0, batch.count)
            else:
                errors = self._paced(batch, sock, offsets)
            return {
                "sent": batch.count - errors,
                "errors": errors,
                "started_ns": started,
                "ended_ns": time.time_ns(),
            }

    def _paced(self, batch, sock, offsets):
        start, errors, number = time.monotonic(), 0, 0
        while number < batch.count:
            due = start + offsets[number] / 1e6
            if due > time.monotonic():
                self.pump(due)
            last = number + 1
            now = time.monotonic()
            while last < batch.count and start + offsets[last] / 1e6 <= now:
                last += 1
            errors += batch.send(sock, number, last - number)
            number = last
        return errors

    def op_exchange(self, body, interface, waves, match=None, linger=0.0):
        """Send waves of frames while capturing; each wave ends when it is answered or times out.

        A wave is ``{"frames": [indices], "await": [indices], "timeout": s, "gap": s}``: its frames
        go out ``gap`` apart, then the agent waits until each frame in ``await`` has an answer
        (``answer_key``), at most ``timeout``.
        """
        frames = unpack_frames(body)
        keys = [flow_key(frame) for frame in frames]
        found = self.interface(interface)
        capture = Capture(found, match or {})
        self.counter += 1
        name = f"exchange-{self.counter}"
        self.captures[name] = capture
        ends, seen, scanned = [], set(), 0
        try:
            with Later(packet_socket(0, found["index"])) as sock:
                for wave in waves:
                    batch = Batch([frames[number] for number in wave["frames"]])
                    gap = float(wave.get("gap") or 0)
                    if gap:
                        offsets = [number * gap * 1e6 for number in range(batch.count)]
                        errors = self._paced(batch, sock, offsets)
                    else:
                        errors = batch.send(sock, 0, batch.count)
                    if errors:
                        raise Refused(
                            f"{errors} of {batch.count} frames were refused by {interface}"
                        )
                    awaited = {keys[n] for n in wave.get("await") or ()} - {None}
                    deadline = time.monotonic() + float(wave.get("timeout") or 0)
                    while True:
                        for record in capture.records[scanned:]:
                            if record[1] != OUTGOING:
                                seen.add(answer_key(record[3]))
                        scanned = len(capture.records)
                        if (awaited and awaited <= seen) or time.monotonic() >= deadline:
                            break
                        self.pump(deadline, [capture.sock])
                    ends.append(
                        {
                            "ended_ns": time.time_ns(),
                            "answered": len(awaited & seen),
                            "awaited": len(awaited),
                        }
                    )
            if linger:
                self.pump(time.monotonic() + linger)
            capture.serve()
            return (
                {"waves": ends, "dropped": capture.dropped() + capture.over},
                pack_records(capture.records),
            )
        finally:
            del self.captures[name]
            capture.close()

    def op_connect(self, body, address, port, source=None, timeout=3.0, payload=""):
        """A TCP connection by the guest's kernel: ``connected``, ``refused`` or ``silent``."""
        started = time.monotonic()
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout)
            try:
                if source:
                    sock.bind((source, 0))
                sock.connect((address, port))
            except ConnectionRefusedError:
                outcome = "refused"
            except socket.timeout:  # noqa: UP041 (not TimeoutError before Python 3.10)
                outcome = "silent"
            except OSError as error:
                outcome = f"unreachable: {error.strerror}"
            else:
                outcome = "connected"
            return {"outcome": outcome, "seconds": time.monotonic() - started}

    def op_http(
        self,
        body,
        address,
        port,
        path="/",
        method="GET",
        headers=None,
        source=None,
        timeout=5.0,
        tls=False,
        name=None,
    ):
        """One HTTP request by the guest's kernel on a connection of its own."""
        import http.client

        host = f"[{address}]" if ":" in address else address
        arguments = {"timeout": timeout, "source_address": (source, 0) if source else None}
        if tls:
            import ssl

            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            client = http.client.HTTPSConnection(address, port, context=context, **arguments)
        else:
            client = http.client.HTTPConnection(address, port, **arguments)
        sending = {"Host": name or f"{host}:{port}", "Connection": "close"}
        sending.update(headers or {})
        started = time.monotonic()
        try:
            client.request(method, path, body=body or None, headers=sending)
            answer = client.getresponse()
            content = answer.read(1 << 24)
        except (OSError, http.client.HTTPException) as error:
            said = f"{type(error).__name__}: {error}"
            raise Refused(f"{method} {host}:{port}{path}: {said}") from error
        finally:
            client.close()
        return (
            {
                "status": answer.status,
                "headers": dict(answer.getheaders()),
                "seconds": time.monotonic() - started,
            },
            content,
        )


def main():
    # Whatever a library prints must not end up in the protocol.
    sink = os.dup(1)
    os.dup2(2, 1)
    agent = Agent(0, sink)

    def leave(number, _):
        raise EOFError

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGHUP, leave)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        agent.run()
    except BrokenPipeError:
        agent.undo()


if __name__ == "__main__":
    main()
