# SPDX-License-Identifier: Apache-2.0
"""The guest's end of the prober: a part of the agent (see ``agent.py`` on parts).

Streams of probes leave on one fixed schedule, one probe of each stream at every slot, while
requests are waited for. Probe number n of a TCP or UDP stream is the stream's frame with source
port, sequence number and identification of its own (``Patch``), so an answer says which probe it
answers; other frames are sent as they came, in turn. SYN-ACKs are answered with RST at once, so
that the target keeps no half-open connection. Beside them flows: connections of the guest's own
kernel with a payload ping, which nobody touches until they end.

A slot that comes late is made up for as long as it is one of the last ``CATCH_UP``; older ones are
left out and show as 0 among the times of sending: nothing is called lost that was not sent. So do
the slots of a stream whose target nobody answers for yet (``absent``), until the follower hears of
it.
"""

import array
import errno
import socket
import struct
import time

if "Agent" not in globals():  # the tester imports this; in the guest the agent's globals are ours
    from sriov_lb_tests.wire.agent import (
        ADVERTISEMENTS,
        ETH_P_ALL,
        ETH_P_ARP,
        ETH_P_IP,
        ETH_P_IPV6,
        LONG,
        OUTGOING,
        PACKET_STATISTICS,
        SOL_PACKET,
        WORD,
        Agent,
        Claims,
        Patch,
        Refused,
        _flow,
        _upper_layer,
        answer_key,
        answers_to,
        arp_frame,
        attach_filter,
        binary_address,
        binary_mac,
        flow_key,
        nd_frame,
        network_layer,
        pack_records,
        packet_socket,
        read_frames,
        reset_frame,
        solicited_node,
        text_address,
        text_mac,
        unpack_frames,
    )

#: What an answer is, as one byte.
OTHER, SYN_ACK, RESET, ICMP_ERROR, DATAGRAM = range(5)

CATCH_UP = 16
#: Errors of sending that say that this frame did not go out, and no more.
PASSING = (errno.EAGAIN, errno.ENOBUFS, errno.ENETDOWN)
#: Answer frames kept of each stream: the first, and of forbidden streams many more.
KEPT, KEPT_FORBIDDEN = 100, 2000


class Stream:
    """One probe, sent again and again, and what came of each."""

    def __init__(self, frames, how):
        self.frames = [bytes(frame) for frame in frames]
        self.patch = self.reset = None
        self.forbidden = bool(how.get("forbidden"))
        self.aimed = not how.get("absent")
        self.absent = 0  # slots before it was
        if how.get("patch"):
            options = (int(how["first"]), int(how["ports"]), int(how["key"]))
            self.patch = Patch(self.frames[0], *options)
            if how.get("reset") and self.patch.protocol == 6:
                self.reset = Patch(reset_frame(self.frames[0]), *options)
        self.sent = array.array("q")  # time of sending by number, 0: left out
        self.number = array.array("I")  # of each answer
        self.ns = array.array("q")
        self.kind = array.array("B")
        self.kept, self.kept_numbers, self.resets, self.errors = [], [], 0, 0

    def aim(self, mac):
        """From now on to this MAC."""
        for patch in filter(None, (self.patch, self.reset)):
            patch.frame[:6] = mac
        self.aimed = True

    def send(self, sock, number):
        if not self.aimed:
            self.sent.append(0)
            self.absent = len(self.sent)
            return
        if self.patch:
            frame = self.patch.at(number)
        else:
            frame = self.frames[number % len(self.frames)]
        now = time.time_ns()
        try:
            sock.send(frame)
        except OSError as error:
            if error.errno not in PASSING:
                raise
            self.errors += 1
            now = 0
        self.sent.append(now)

    def answered(self, sock, ns, number, kind, record):
        self.ns.append(ns)
        self.number.append(number)
        self.kind.append(kind)
        if len(self.kept) < (KEPT_FORBIDDEN if self.forbidden else KEPT):
            self.kept.append(record)
            self.kept_numbers.append(number)
        if kind == SYN_ACK and self.reset:
            try:
                sock.send(self.reset.at(number, 1))
                self.resets += 1
            except OSError as error:
                if error.errno not in PASSING:
                    raise


class KeptFlow:
    """A TCP connection of the guest's kernel: a ping, its answer, the next ping at its time."""

    def __init__(self, how):
        self.target = (how["address"], int(how["port"]))
        self.payload = bytes.fromhex(how["payload"])
        self.period = 1.0 / float(how["rate"])
        family = socket.AF_INET6 if ":" in how["address"] else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.pings = array.array("q")  # pairs: sent, answered (0: not yet)
        self.state, self.ended_ns, self.connected_ns = "connecting", 0, 0
        self.waiting, self.next = False, 0.0
        try:
            self.sock.settimeout(float(how.get("timeout", 3.0)))
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if how.get("source"):
                self.sock.bind((how["source"], 0))
            self.sock.connect(self.target)
            self.sock.setblocking(False)
        except OSError as error:
            self._end("not connected: " + (error.strerror or str(error)))
        else:
            self.state, self.connected_ns = "open", time.time_ns()
            self.next = time.monotonic()

    def _end(self, state):
        self.state, self.ended_ns = state, time.time_ns()
        self.sock.close()
        self.sock = None

    def due(self):
        return self.next if self.sock and not self.waiting else None

    def tick(self):
        try:
            self.sock.send(self.payload)
        except BlockingIOError:
            self.next += self.period
            return
        except OSError as error:
            self._end(_how_it_ended(error))
            return
        self.pings.extend((time.time_ns(), 0))
        self.waiting = True

    def serve(self):
        try:
            data = self.sock.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(_how_it_ended(error))
            return
        if not data:
            self._end("closed by the other side")
        elif self.waiting:
            self.pings[-1] = time.time_ns()
            self.waiting = False
            # On the schedule, but never two pings for one slot that was missed.
            self.next = max(self.next + self.period, time.monotonic())

    def close(self):
        if self.sock:
            self.sock.close()
            self.sock = None


def _how_it_ended(error):
    if error.errno in (errno.ECONNRESET, errno.EPIPE):
        return "reset by the other side"
    return "ended: " + (error.strerror or str(error))


class Follower:
    """Where the targets of patched streams are on the link: by what they announce, and asked for
    while they are silent. A VIP that moves to another port takes another MAC."""

    EVERY, SILENT = 0.05, 0.1

    def __init__(self, interface, streams):
        self.mac = binary_mac(interface["mac"])
        self.streams = {}
        for stream in streams:
            if stream.patch:
                self.streams.setdefault(bytes(stream.patch.target), []).append(stream)
        self.heard = dict.fromkeys(self.streams, 0.0)
        self.moves, self.next = [], 0.0
        self.arp = packet_socket(ETH_P_ARP, interface["index"])
        self.nd = packet_socket(ETH_P_IPV6, interface["index"], allmulti=True)
        attach_filter(self.nd, ADVERTISEMENTS)

    def sockets(self):
        return [self.arp, self.nd]

    def tick(self, now):
        if now < self.next:
            return
        self.next = now + self.EVERY
        for target, heard in self.heard.items():
            if now - heard < self.SILENT:
                continue
            source = bytes(self.streams[target][0].patch.source)
            try:
                if len(target) == 4:
                    everybody = b"\xff" * 6
                    self.arp.send(arp_frame(1, self.mac, source, b"\0" * 6, target, everybody))
                else:
                    group, group_mac = solicited_node(target)
                    frame = nd_frame(135, 0, self.mac, source, group, group_mac, target, 1)
                    self.nd.send(frame)
            except OSError as error:
                if error.errno not in PASSING:
                    raise

    def serve(self, sock):
        for ns, kind, _, frame in read_frames(sock, 64):
            if kind == OUTGOING:
                continue
            _, at = network_layer(frame)
            target = frame[at + 14 : at + 18] if sock is self.arp else frame[at + 48 : at + 64]
            mac = binary_mac(Agent._holder(frame))
            for stream in self.streams.get(bytes(target), ()):
                stream.aim(mac)
            if target in self.streams and (not self.moves or self.moves[-1][2] != text_mac(mac)):
                self.moves.append((ns, text_address(target), text_mac(mac)))

    def close(self):
        for sock in self.sockets():
            sock.close()


class Prober:
    """See the module. A task of the agent."""

    def __init__(self, interface, streams, flows, rate, lasting, follow=False):
        self.period, self.slots = 1.0 / rate, int(rate * lasting)
        self.streams = streams
        self.flows = flows
        self.patched, self.rings = {}, {}
        sources = set()
        for stream in streams:
            if stream.patch:
                patch = stream.patch
                key = (patch.protocol, patch.target, patch.source, patch.target_port)
                self.patched.setdefault(key, []).append(stream)
                sources.add(bytes(patch.source))
                continue
            for turn, frame in enumerate(stream.frames):
                key = flow_key(frame)
                if key is None:
                    raise Refused("a frame has no flow: nobody could tell its answer")
                self.rings.setdefault(key, (stream, turn))
                sources.add(_source(frame))
        self.open(interface, sources)
        self.follower = Follower(interface, streams) if follow else None
        self.next, self.strangers = 0, 0
        self.start_ns, self.start = time.time_ns(), time.monotonic()
        self.worked = time.process_time()

    def open(self, interface, sources):
        self.sender = packet_socket(0, interface["index"])
        try:
            self.sock = packet_socket(ETH_P_ALL, interface["index"], allmulti=True)
            if None not in sources:  # ARP and ND have none: then everything is looked at
                attach_filter(self.sock, answers_to(sorted(sources)))
            self.lost()  # what came before the filter is no loss
        except BaseException:
            self.sender.close()
            raise

    def lost(self):
        """Frames the kernel dropped for want of room, since the last call."""
        data = self.sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
        return struct.unpack("=II", data)[1]

    def sockets(self):
        found = [self.sock] + [flow.sock for flow in self.flows if flow.sock]
        return found + (self.follower.sockets() if self.follower else [])

    def due(self):
        found = [flow.due() for flow in self.flows]
        if self.next < self.slots:
            found.append(self.start + self.next * self.period)
        return min((due for due in found if due is not None), default=None)

    def tick(self):
        now = time.monotonic()
        last = min(int((now - self.start) / self.period), self.slots - 1)
        for number in range(self.next, last + 1):
            for stream in self.streams:
                if last - number >= CATCH_UP:
                    stream.sent.append(0)
                else:
                    stream.send(self.sender, number)
        self.next = max(self.next, last + 1)
        if self.follower:
            self.follower.tick(now)
        for flow in self.flows:
            due = flow.due()
            if due is not None and due <= now:
                flow.tick()

    def serve(self, sock):
        if self.follower and sock in self.follower.sockets():
            self.follower.serve(sock)
            return
        if sock is not self.sock:
            for flow in self.flows:
                if flow.sock is sock:
                    flow.serve()
                    return
            return
        for record in read_frames(sock, 256):
            if record[1] != OUTGOING:
                self.receive(record)

    def receive(self, record):
        ns, _, _, frame = record
        found = self.reading(frame)
        if found is None:
            self.strangers += 1
            return
        stream, number, kind = found
        if self.follower and stream.patch:
            self.follower.heard[bytes(stream.patch.target)] = time.monotonic()
        stream.answered(self.sender, ns, number, kind, record)

    def reading(self, frame):
        """``(stream, number of the probe, kind)`` of an answer, or None."""
        kind, network = network_layer(frame)
        if kind in (ETH_P_IP, ETH_P_IPV6):
            found = _upper_layer(frame[network:])
            if found is None:
                return None
            _, protocol, source, destination, offset = found
            upper = network + offset
            if protocol in (6, 17) and len(frame) >= upper + 8:
                port, mine = struct.unpack_from(">HH", frame, upper)
                seen = self._of(protocol, source, destination, port, mine, frame, upper)
                if seen:
                    return seen
            elif protocol in (1, 58) and len(frame) > upper + 8:
                seen = self._quoted(protocol, frame[upper], frame[upper + 8 :])
                if seen:
                    return seen
        return self._ring(frame)

    def _ring(self, frame):
        found = self.rings.get(answer_key(frame))
        if found is None:
            return None
        stream, turn = found
        sent, size = len(stream.sent), len(stream.frames)
        if sent <= turn:
            return None
        return stream, turn + (sent - 1 - turn) // size * size, OTHER

    def _of(self, protocol, source, destination, port, mine, frame, upper):
        for stream in self.patched.get((protocol, source, destination, port), ()):
            sent = len(stream.sent)
            if protocol == 17:
                number = stream.patch.number(mine, None, sent)
                if number is not None:
                    return stream, number, DATAGRAM
                continue
            if len(frame) < upper + 20:
                continue
            flags = frame[upper + 13]
            (acknowledged,) = LONG.unpack_from(frame, upper + 8)
            if flags & 0x10:
                number = stream.patch.number(mine, (acknowledged - 1) & 0xFFFFFFFF, sent)
                if number is not None:
                    if flags & 0x04:
                        return stream, number, RESET
                    return stream, number, SYN_ACK if flags & 0x02 else OTHER
            # A challenge ACK, or a reset without ACK: the latest probe from that port.
            number = stream.patch.number(mine, None, sent)
            if number is not None:
                return stream, number, RESET if flags & 0x04 else OTHER
        return None

    def _quoted(self, protocol, kind, packet):
        if not (protocol == 1 and kind in (3, 11, 12) or protocol == 58 and kind in (1, 3, 4)):
            return None
        key, quoted, offset = _flow(packet)
        if key is None or quoted not in (6, 17):
            return None
        _, _, source, first, target, second = key
        port = WORD.unpack(first)[0]
        for stream in self.patched.get((quoted, target, source, WORD.unpack(second)[0]), ()):
            sequence = None
            if quoted == 6 and len(packet) >= offset + 8:
                (sequence,) = LONG.unpack_from(packet, offset + 4)
            number = stream.patch.number(port, sequence, len(stream.sent))
            if number is not None:
                return stream, number, ICMP_ERROR
        return None

    def stop(self):
        self.slots = min(self.slots, self.next)
        for flow in self.flows:
            flow.next = float("inf")

    def report(self):
        head = {
            "start_ns": self.start_ns,
            "period": self.period,
            "slots": self.next,
            "over": self.next >= self.slots,
            "dropped": self.lost(),
            "cpu": (time.process_time() - self.worked) / (time.monotonic() - self.start),
            "strangers": self.strangers,
            "moves": self.follower.moves if self.follower else [],
            "streams": [],
            "flows": [],
        }
        body = []
        for stream in self.streams:
            head["streams"].append(
                {
                    "sent": len(stream.sent),
                    "absent": stream.absent,
                    "answers": len(stream.ns),
                    "kept": stream.kept_numbers,
                    "resets": stream.resets,
                    "errors": stream.errors,
                }
            )
            body += [stream.sent, stream.ns, stream.number, stream.kind]
        for flow in self.flows:
            head["flows"].append(
                {
                    "state": flow.state,
                    "ended_ns": flow.ended_ns,
                    "connected_ns": flow.connected_ns,
                    "pings": len(flow.pings),
                }
            )
            body.append(flow.pings)
        body += [pack_records(stream.kept) for stream in self.streams]
        return head, b"".join(body)

    def close(self):
        self.sender.close()
        self.sock.close()
        if self.follower:
            self.follower.close()
        for flow in self.flows:
            flow.close()


def _source(frame):
    key = flow_key(frame)
    return bytes(key[2]) if key and len(key) == 6 else None


def prober_start(
    agent, body, interface, streams, flows=(), rate=1000.0, lasting=600.0, follow=False
):
    """Begin. ``streams``: for each the number of its ``frames`` in the body, and how to send
    them; sources that the guest does not own are played. ``flows``: see ``KeptFlow``.

    One at a time; its report by ``prober_stop``.
    """
    if "prober" in agent.tasks:
        raise Refused("a prober is running")
    frames = unpack_frames(body)
    made = []
    for how in streams:
        count = int(how["frames"])
        made.append(Stream(frames[:count], how))
        frames = frames[count:]
    found = agent.interface(interface)
    for text in sorted({text for how in streams for text in how.get("play", ())}):
        if interface not in agent.claims:
            agent.claims[interface] = Claims(found)
        address = binary_address(text)
        if address not in agent.claims[interface].addresses:
            agent.claims[interface].addresses.add(address)
            agent.claims[interface].announce(address)
    connected = [KeptFlow(how) for how in flows]
    prober = Prober(found, made, connected, float(rate), float(lasting), follow)
    agent.tasks["prober"] = prober
    return {"start_ns": prober.start_ns, "flows": [flow.state for flow in connected]}


def prober_stop(agent, body, linger=0.3):
    """End the sending, wait ``linger`` for the last answers, report."""
    prober = agent.tasks.get("prober")
    if prober is None:
        raise Refused("no prober is running")
    prober.stop()
    agent.pump(time.monotonic() + linger)
    del agent.tasks["prober"]
    try:
        prober.serve(prober.sock)
        return prober.report()
    finally:
        prober.close()


OPERATIONS = {"prober_start": prober_start, "prober_stop": prober_stop}
