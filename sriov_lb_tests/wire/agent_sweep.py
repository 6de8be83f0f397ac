# SPDX-License-Identifier: Apache-2.0
"""The guest's end of the port sweep: a part of the agent (see ``agent.py`` on parts).

One frame comes from the tester; the frames of all ports are made of it here, as one matrix whose
columns (port, checksum) are written by slices, and leave by ``sendmmsg``. Answers arrive in a ring
shared with the kernel (``PACKET_RX_RING``, slots of one size), whose columns are read by slices
too. SYN-ACKs are answered with RST.

Between every ``STRETCH`` ports goes a control, a probe that has to be answered. A port is credited
with a silence only when the controls on both sides of it were answered; silent ports are asked
again until they have as many credits as the loss seen on the controls asks for. Then a sample of
them is asked once more: if one of these answers now, answers were limited or lost in some way that
the controls do not show, and all silent ones are asked again, slower, until nothing new comes.
"""

import itertools
import mmap
import os
import random
import socket
import struct
import threading
import time
import zlib

if "Agent" not in globals():  # the tester imports this; in the guest the agent's globals are ours
    from sriov_lb_tests.wire.agent import (
        ETH_P_IP,
        ETH_P_IPV6,
        LONG,
        PACKET_STATISTICS,
        SOL_PACKET,
        WORD,
        Batch,
        Claims,
        Later,
        Patch,
        Refused,
        _flow,
        _fold,
        _upper_layer,
        answers_to,
        array,
        attach_filter,
        binary_address,
        pack_records,
        packet_socket,
        reset_frame,
        unpack_frames,
    )

#: States of a port. SILENT: with enough credits; UNDECIDED: without, or silence means nothing.
SILENT, OPEN, CLOSED, REJECTED, UNDECIDED = range(5)

#: Ports between two controls; frames between two looks at the answers.
STRETCH, STEP = 64, 1024
#: Frames a second below which nothing is slowed down.
SLOWEST = 5000.0
#: Wrong ports that may be expected at most, over the whole sweep.
DOUBT = 0.001
#: Silent ports asked once more in the end.
SAMPLE = 1024
#: Passes without news that end the search, once answers are known to be limited.
CALM = 3
#: Linux sends one ICMP error a second to a destination, or so many at once after a rest
#: (XRLIM_BURST_FACTOR in net/ipv4/route.c): after that silence is no sign of a drop. After a rest
#: of REST seconds it has RESTED of them to send for sure, whatever was before.
ICMP_BURST, REST, RESTED = 6, 2.2, 2
#: Rests after the first pass, at most: then there are too many such ports to tell them all.
RESTS = 2
#: Answers whose frames are kept.
KEPT = 2000
#: Source ports: of controls, and one for each pass; above what kernels use on their own.
CONTROL_PORT, CONTROL_PORTS, PASS_PORT, PASS_PORTS = 61000, 4000, 65001, 499

PACKET_RX_RING = 5
PACKET_VERSION = 10
TPACKET_V2 = 1


class Ring:
    """Frames that came in, in memory shared with the kernel: slots of ``SLOT`` bytes, a header
    (``struct tpacket2_hdr``) and the frame's beginning in each."""

    SLOT, BLOCK, BLOCKS = 256, 1 << 18, 48
    SLOTS = BLOCK // SLOT * BLOCKS

    def __init__(self, index, ethertype, program):
        self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            attach_filter(self.sock, program)
            self.sock.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V2)
            request = struct.pack("=IIII", self.BLOCK, self.BLOCKS, self.SLOT, self.SLOTS)
            self.sock.setsockopt(SOL_PACKET, PACKET_RX_RING, request)
            self.map = mmap.mmap(self.sock.fileno(), self.BLOCK * self.BLOCKS)
            self.sock.bind((socket.if_indextoname(index), ethertype))
        except BaseException:
            self.sock.close()
            raise
        self.head = self.frame = 0
        self.free = bytes(self.SLOTS)

    def ready(self):
        """``(first byte of the first slot, slots)`` that wait, at most to the ring's end."""
        slot, head = self.SLOT, self.head
        last = min(head + STEP, self.SLOTS)
        # The low byte of the status: 0 while the slot is the kernel's.
        status = self.map[head * slot : last * slot : slot]
        count = status.find(0)
        count = last - head if count < 0 else count
        if count and not self.frame:
            self.frame = struct.unpack_from("=H", self.map, head * slot + 12)[0]
        return head * slot, count

    def column(self, start, count, offset):
        """Byte ``offset`` of each frame."""
        first = start + self.frame + offset
        return self.map[first : first + (count - 1) * self.SLOT + 1 : self.SLOT]

    def record(self, start):
        """``(ns, packet type, wire length, bytes)`` of the slot at ``start``."""
        wire, size = struct.unpack_from("=II", self.map, start + 4)
        seconds, nanoseconds = struct.unpack_from("=II", self.map, start + 16)
        first = start + self.frame
        return seconds * 1000000000 + nanoseconds, 0, wire, self.map[first : first + size]

    def release(self, count):
        slot, head = self.SLOT, self.head
        # The whole status has to be 0; its low byte last, which says whose the slot is.
        for byte in (3, 2, 1, 0):
            first = head * slot + byte
            self.map[first : first + (count - 1) * slot + 1 : slot] = self.free[:count]
        self.head = (head + count) % self.SLOTS

    def dropped(self):
        data = self.sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 12)
        return struct.unpack_from("=II", data)[1]

    def close(self):
        self.map.close()
        self.sock.close()


def matrix(frame, patch, ports):
    """The frame for each of these destination ports, one after the other."""
    size, count = len(frame), len(ports)
    (found,) = WORD.unpack_from(frame, patch.sum_at)
    (port,) = WORD.unpack_from(frame, patch.upper + 2)
    rest = _fold((~found & 0xFFFF) + (~port & 0xFFFF))
    if isinstance(ports, range):
        wrap = max(ports.start, min(ports.stop, 0x10000 - rest))
        sums = NUMBERS[rest + ports.start : rest + wrap]
        sums += NUMBERS[rest + wrap - 0xFFFF : rest + ports.stop - 0xFFFF]
        numbers = NUMBERS[ports.start : ports.stop].tobytes()
    else:
        sums = array.array("H", [(rest + port - 1) % 0xFFFF + 1 for port in ports])
        numbers = array.array("H", ports).tobytes()
    # In one's complement arithmetic, the checksum is what is missing to 0xFFFF.
    checks = bytes(sums.tobytes()).translate(COMPLEMENT)
    low, high = (0, 1) if struct.pack("=H", 1)[0] else (1, 0)
    made = bytearray(bytes(frame) * count)
    made[patch.upper + 2 :: size] = numbers[high::2]
    made[patch.upper + 3 :: size] = numbers[low::2]
    if patch.zero_sum:
        return made
    made[patch.sum_at :: size] = checks[high::2]
    made[patch.sum_at + 1 :: size] = checks[low::2]
    if patch.protocol == 17 and 0xFFFF in sums:
        at = sums.index(0xFFFF) * size + patch.sum_at
        made[at : at + 2] = b"\xff\xff"  # 0 would mean: no checksum
    return made


def words(high, low):
    """Numbers of two bytes, from a column of each."""
    both = bytearray(2 * len(high))
    both[0::2], both[1::2] = high, low
    made = array.array("H", bytes(both))
    if struct.pack("=H", 1)[0]:
        made.byteswap()
    return made


def unlike(columns, row):
    """For each line a byte: 0 where every column has what the row has."""
    count, found = len(columns[0]), 0
    for column, wanted in zip(columns, row):  # noqa: B905 (strict is Python 3.10)
        alike = int.from_bytes(bytes([wanted]) * count, "little")
        found |= int.from_bytes(column, "little") ^ alike
    return found.to_bytes(count, "little")


NUMBERS = array.array("H", range(65536))
COMPLEMENT = bytes(255 - byte for byte in range(256))
IS_ZERO = bytes(not byte for byte in range(256))
ONE_MORE = bytes(min(byte + 1, 255) for byte in range(256))


class Sweep:
    """One sweep; see the module."""

    def __init__(self, agent, interface, frame, control, how):
        self.agent, self.how = agent, how
        self.frame = frame
        self.protocol = 6 if how["protocol"] == "tcp" else 17
        probe = Patch(frame, PASS_PORT, PASS_PORTS, 0)
        if probe.protocol != self.protocol:
            raise Refused("the frame is not {}".format(how["protocol"]))
        options = (CONTROL_PORT, CONTROL_PORTS, random.getrandbits(31))
        self.control = Patch(control, *options)
        self.control_reset = None
        if self.control.protocol == 6 and how.get("reset_control"):
            self.control_reset = Patch(reset_frame(control), *options)
        self.family, self.target = probe.family, bytes(probe.target)
        self.source = bytes(probe.source)
        sources = sorted({self.source, bytes(self.control.source)})
        ethertype = ETH_P_IP if self.family == 4 else ETH_P_IPV6
        if self.control.family != self.family:
            raise Refused("the control is of the other IP version")
        self.ring = Ring(interface["index"], ethertype, answers_to(sources))
        self.sender = packet_socket(0, interface["index"])
        cores = len(os.sched_getaffinity(0))
        self.second = packet_socket(0, interface["index"]) if cores > 1 else None
        self.states = bytearray(65536)
        self.credits = bytearray(65536)
        self.keys = {}  # by source port of a pass, the acknowledgement its answers have
        self.usual = None  # of an answer to this pass, if most are alike: see take()
        self.resets = {}
        self.answered, self.sent_controls = set(), 0
        self.controls = self.lost = self.errors = self.sent = self.fresh = 0
        self.passes, self.kept, self.turn = [], [], random.randrange(PASS_PORTS)
        self.pace, self.limited = how.get("rate"), False
        self.icmp = self.rested = 0  # ICMP errors so far, and when the limiter was last full

    def close(self):
        self.ring.close()
        self.sender.close()
        if self.second:
            self.second.close()

    # what comes back

    def drain(self):
        """Take in what waits in the ring; returns how many frames that was."""
        total = 0
        while True:
            start, count = self.ring.ready()
            if not count:
                return total
            self.take(start, count)
            self.ring.release(count)
            total += count

    def take(self, start, count):
        """What ``count`` slots from ``start`` hold. Most answers differ from each other in the port
        alone: those are told from the others a whole column at a time."""
        first, upper = (9, 34) if self.family == 4 else (6, 54)
        offsets = (14, 14 + first, upper + 2, upper + 3)
        offsets += (upper + 8, upper + 9, upper + 10, upper + 11, upper + 13)
        columns = [self.ring.column(start, count, offset) for offset in offsets]
        ports = words(*(self.ring.column(start, count, upper + offset) for offset in (0, 1)))
        unusual = unlike(columns, self.usual) if self.usual else b"\1" * count
        usual = list(itertools.compress(range(count), unusual.translate(IS_ZERO)))
        states, fresh = self.states, self.fresh
        for number in usual:
            port = ports[number]
            if states[port] != OPEN:
                fresh += not states[port]
                states[port] = CLOSED
        self.fresh = fresh
        for number in usual[: max(0, KEPT - len(self.kept))]:
            self.kept.append((ports[number], self.ring.record(start + number * self.ring.SLOT)))
        opened = []
        for number in itertools.compress(range(count), unusual):
            row = [column[number] for column in columns]
            self.one(ports[number], row, start + number * self.ring.SLOT, opened)
        if opened:
            self.reset(opened)

    def one(self, port, row, slot, opened):
        """One answer by itself. ``opened`` gets the port, and our own, of a SYN-ACK."""
        head, protocol, mine, own, a, b, c, d, flags = row
        plain = (0x45, 0x45) if self.family == 4 else (0x60, 0x6F)
        key = self.keys.get(mine << 8 | own)
        if key is None or protocol != self.protocol or not plain[0] <= head <= plain[1]:
            self.other(self.ring.record(slot))
            return
        state = OPEN
        if protocol == 6:
            if not flags & 0x10 or (a << 24 | b << 16 | c << 8 | d) != key:
                return  # an answer to something else
            if flags & 0x04:
                state = CLOSED
            elif flags & 0x02:
                opened.append((port, mine << 8 | own))
            else:
                return
        if self.states[port] != OPEN:
            self.fresh += not self.states[port]
            self.states[port] = state
        if len(self.kept) < KEPT:
            self.kept.append((port, self.ring.record(slot)))

    def reset(self, opened):
        """RST for each SYN-ACK: half-open connections are a load, and the target asks again."""
        if not self.how.get("reset"):
            return
        by_pass = {}
        for port, own in opened:
            by_pass.setdefault(own, []).append(port)
        for own, ports in by_pass.items():
            frame, patch = self.resets[own]
            batch = Batch(())
            size = len(frame)
            batch.lay(matrix(frame, patch, ports), range(0, size * len(ports), size),
                      [size] * len(ports))  # fmt: skip
            self.errors += batch.send(self.sender, 0, batch.count)

    def other(self, record):
        """A control's answer, an ICMP error, or nobody's."""
        frame = record[3]
        found = _upper_layer(frame[14:])
        if found is None:
            return
        _, protocol, _, _, offset = found
        upper = 14 + offset
        if protocol == self.control.protocol and len(frame) >= upper + 8:
            self.control_answer(frame, protocol, upper)
        elif protocol in (1, 58) and len(frame) > upper + 8:
            kind, code = frame[upper], frame[upper + 1]
            if kind != (3 if protocol == 1 else 1):
                return
            key = _flow(frame[upper + 8 :])[0]
            if key is None or key[1] != self.protocol or bytes(key[4]) != self.target:
                return
            if WORD.unpack(key[3])[0] not in self.keys:
                return
            (port,) = WORD.unpack(key[5])
            self.icmp += 1
            self.passes[-1]["icmp"] += 1
            closed = self.protocol == 17 and code == (3 if protocol == 1 else 4)
            if self.states[port] == SILENT:
                self.fresh += 1
                self.states[port] = CLOSED if closed else REJECTED
            if len(self.kept) < KEPT:
                self.kept.append((port, record))

    def control_answer(self, frame, protocol, upper):
        (mine,) = WORD.unpack_from(frame, upper + 2)
        sequence = flags = None
        if protocol == 6:
            if len(frame) < upper + 14:
                return
            flags = frame[upper + 13]
            sequence = (LONG.unpack_from(frame, upper + 8)[0] - 1) & 0xFFFFFFFF
        number = self.control.number(mine, sequence, self.sent_controls)
        if number is None:
            return
        self.answered.add(number)
        if flags is not None and flags & 0x12 == 0x12 and self.control_reset:
            self.sender.send(self.control_reset.at(number, 1))

    # what goes out

    def once(self, ports):
        """One pass over these ports (a range or a list); credits the silent ones."""
        started = time.monotonic()
        self.turn = (self.turn + 1) % PASS_PORTS
        own, key = PASS_PORT + self.turn, random.getrandbits(31)
        patch = Patch(self.frame, own, 1, key)
        frame = bytes(patch.at(0))
        self.keys[own] = (key + 1) & 0xFFFFFFFF
        if self.protocol == 6:
            # A RST of a closed port (RFC 9293, section 3.5.2) without options or extensions.
            head = 0x45 if self.family == 4 else 0x60
            self.usual = (head, 6, *WORD.pack(own), *LONG.pack(self.keys[own]), 0x14)
            reset = Patch(reset_frame(self.frame), own, 1, key)
            self.resets[own] = (bytes(reset.at(0, 1)), reset)
        report = {"ports": len(ports), "icmp": 0, "rate": self.pace}
        self.passes.append(report)
        self.fresh, first = 0, self.sent_controls

        stretches = range(0, len(ports), STRETCH)
        buffer = matrix(frame, patch, ports)
        size, room = len(frame), len(buffer)
        numbers = range(first, first + len(stretches) + 1)
        controls = [bytes(self.control.at(number)) for number in numbers]
        buffer += b"".join(controls)
        starts, sizes, long = array.array("L"), array.array("L"), len(controls[0])
        for turn, low in enumerate(stretches):
            high = min(low + STRETCH, len(ports))
            starts.append(room + turn * long)
            starts.extend(range(low * size, high * size, size))
            sizes.append(long)
            sizes.extend([size] * (high - low))
        starts.append(room + len(stretches) * long)
        sizes.append(long)
        batch = Batch(())
        batch.lay(buffer, starts, sizes)
        self.sent_controls = first + len(numbers)
        report["prepared"] = time.monotonic() - started

        begun = time.monotonic()
        if self.pace:
            self.paced(batch, begun)
        else:
            self.at_once(batch)
        report["sending"] = time.monotonic() - begun
        self.sent += batch.count
        self.settle(numbers[-1])

        lost = [number not in self.answered for number in numbers]
        self.controls += len(numbers)
        self.lost += sum(lost)
        states, credits = self.states, self.credits
        for turn, low in enumerate(stretches):
            if lost[turn] or lost[turn + 1]:
                continue
            stretch = ports[low : low + STRETCH]
            if isinstance(stretch, range):
                part = slice(stretch.start, stretch.stop)
                credits[part] = credits[part].translate(ONE_MORE)
                continue
            for port in stretch:
                credits[port] = min(credits[port] + 1, 255)
        if isinstance(ports, range):
            silent = states.count(SILENT, ports.start, ports.stop)
        else:
            silent = sum(1 for port in ports if not states[port])
        report.update(
            controls=len(numbers),
            lost=sum(lost),
            fresh=self.fresh,
            silent=silent,
            seconds=time.monotonic() - started,
        )
        if sum(lost) > len(numbers) // 20:
            # More than one in twenty: too fast for the path, or a bad one. Half as fast.
            self.pace = max(batch.count / max(report["sending"], 0.001) / 2, SLOWEST)
        return report

    def paced(self, batch, begun):
        """What is due within 5 ms at a time. What is not sent before the time is up has no answered
        control behind it."""
        step = max(16, min(STEP, int(self.pace / 200)))
        for start in range(0, batch.count, step):
            self.wait(begun + start / self.pace)
            if time.monotonic() > self.limit:
                break
            self.errors += batch.send(self.sender, start, min(step, batch.count - start))
            self.drain()
            self.agent.pump(0.0)

    def at_once(self, batch):
        """As fast as two cores can: the kernel does not need Python's lock to send."""
        starts, errors = iter(range(0, batch.count, STEP)), []

        def work(sock):
            for start in starts:
                errors.append(batch.send(sock, start, min(STEP, batch.count - start)))
                if sock is self.sender:
                    self.drain()
                    self.agent.pump(0.0)

        helper = None
        if self.second and batch.count > 4 * STEP:
            helper = threading.Thread(target=work, args=(self.second,))
            helper.start()
        work(self.sender)
        if helper:
            helper.join()
        self.errors += sum(errors)

    def wait(self, due):
        while time.monotonic() < due:
            self.agent.pump(min(due, time.monotonic() + 0.002))
            self.drain()

    def settle(self, last):
        """Until the last control is answered and nothing more comes."""
        deadline = time.monotonic() + self.how.get("quiet", 0.1)
        calm = 0
        while time.monotonic() < deadline and calm < 2:
            got = self.drain()
            if last in self.answered and not got:
                calm += 1
            self.agent.pump(time.monotonic() + 0.001)
        self.drain()

    # how often

    def wanted(self):
        """Credits that a silent port needs: so many that the answers expected to be lost in all
        of its passes are fewer than DOUBT of one port."""
        wanted = max(1, int(self.how.get("attempts", 1)))
        if not self.lost:
            return wanted
        loss = (self.lost + 1) / (self.controls + 2)
        answering = len(self.states) - self.states.count(SILENT) + 1
        while answering * loss**wanted > DOUBT and wanted < 50:
            wanted += 1
        return wanted

    def unsure(self):
        """Silent ports without their credits."""
        wanted, credits = self.wanted(), self.credits
        return [port for port in self.silent() if credits[port] < wanted]

    def silent(self):
        states = self.states[self.ports.start : self.ports.stop]
        return list(itertools.compress(self.ports, states.translate(IS_ZERO)))

    def run(self):
        low, high = self.how.get("ports") or (0, 65535)
        self.ports = range(low, high + 1)
        started, worked = time.monotonic(), time.process_time()
        self.limit = started + float(self.how.get("limit", 30.0))
        seen = self.agent.limiters.get(self.key())
        self.unrested = seen is not None and seen > started - ICMP_BURST
        if self.protocol == 17:
            self.rest()  # "closed" comes by ICMP alone
        decided = self.rounds(self.ports) and self.unlimited()
        while decided and self.unsure() and time.monotonic() < self.limit:
            self.once(self.unsure())  # the last passes showed more loss than was known
        wanted = self.wanted()
        for port in self.silent():
            if not (decided and self.credits[port] >= wanted):
                self.states[port] = UNDECIDED
        if self.icmp:
            self.agent.limiters[self.key()] = time.monotonic()
        return {
            "seconds": time.monotonic() - started,
            "cpu": time.process_time() - worked,
            "passes": self.passes,
            "controls": self.controls,
            "lost": self.lost,
            "sent": self.sent,
            "errors": self.errors,
            "icmp": self.icmp,
            "limited": self.limited,
            "decided": decided,
            "credits": wanted,
            "dropped": self.ring.dropped(),
            "kept": [port for port, _ in self.kept],
        }

    def key(self):
        return self.target, self.source

    def rounds(self, todo):
        """Ask until every silent port has its credits and nothing new comes. False: time is up,
        or the control is dead."""
        report, sampled, calm = None, False, 0
        while time.monotonic() < self.limit:
            report, before = self.once(todo), report
            dead = [one for one in (before, report) if one and 2 * one["lost"] > one["controls"]]
            if len(dead) == 2 or not self.answered:
                return False  # what is left answers by chance
            todo = self.unsure()
            if todo:
                continue
            silent = self.silent()
            if not silent:
                return True
            if not self.limited and not sampled:
                # Once more, a sample: those beside ports that answer, and others at random.
                report, sampled = self.once(self.sample(silent)), True
                self.limited = report["fresh"] > report["icmp"]
                todo = self.unsure()
                if todo and not self.limited:
                    continue  # the sample showed more loss than was known
            calm = calm + 1 if report["fresh"] <= report["icmp"] else 0
            if not self.limited or calm == CALM:
                return report["lost"] < report["controls"]
            # Something answers late, seldom or by luck: all of them again, slower.
            self.pace = max((self.pace or self.speed()) / 2, SLOWEST)
            todo = self.silent()
        return False

    def rest(self):
        """Let the target's ICMP limiter fill up again."""
        self.agent.pump(time.monotonic() + REST)
        self.drain()
        self.rested, self.unrested = self.icmp, False

    def unlimited(self):
        """Whether the limiter on ICMP errors kept none from us: after a rest, fewer came than it
        had to send. Asks again until that is so, or there are too many."""
        for turn in range(RESTS + 1):
            if not self.silent():
                return True
            came = self.icmp - self.rested
            # TCP begins without a rest: one error, and more may have been kept back.
            enough = RESTED if self.protocol == 17 or turn else 1
            if came < enough and not self.unrested:
                return True
            if came >= ICMP_BURST or turn == RESTS or time.monotonic() + REST > self.limit:
                return False
            self.rest()
            self.once(self.silent())
        return False

    def speed(self):
        """Frames a second of the passes so far."""
        return self.sent / max(sum(report["sending"] for report in self.passes), 0.001)

    def sample(self, silent):
        near = set()
        if len(silent) > SAMPLE:
            for port in self.ports:
                if self.states[port]:
                    near.update((port - 2, port - 1, port + 1, port + 2))
            if len(near) > SAMPLE:
                near = set(random.sample(sorted(near), SAMPLE))
            near.update(random.sample(silent, SAMPLE))
            silent = [port for port in silent if port in near]
        return silent


def sweep(agent, body, interface, play=(), warm=(), **how):
    """Sweep: the body is the probe's frame and the control's. ``warm``: pairs (target, source) by
    which the target learns where the sources are."""
    frame, control = unpack_frames(body)
    found = agent.interface(interface)
    for text in play:
        if interface not in agent.claims:
            agent.claims[interface] = Claims(found)
        address = binary_address(text)
        if address not in agent.claims[interface].addresses:
            agent.claims[interface].addresses.add(address)
            agent.claims[interface].announce(address)
    for target, source in warm:
        agent.op_resolve(b"", interface, target, source)
    with Later(Sweep(agent, found, frame, control, how)) as made:
        result = made.run()
    states = zlib.compress(bytes(made.states), 1)
    return result, LONG.pack(len(states)) + states + pack_records([r for _, r in made.kept])


OPERATIONS = {"sweep": sweep}
