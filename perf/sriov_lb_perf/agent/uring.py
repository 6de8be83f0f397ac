# SPDX-License-Identifier: Apache-2.0
"""io_uring without a compiler: the three system calls through ctypes, the rings through mmap.

One ``io_uring_enter`` submits a whole batch of sends and receives, where epoll needs two system
calls for each. A request is two fixed entries of the submission queue (SEND, RECV) which are
written once per connection; to repeat it only their *indices* go into the queue, one 8-byte
store. So the interpreter does little more per request than look at the answer.

Layouts and numbers: <linux/io_uring.h>. Needs Linux 6.1; many machines switch it off (the sysctl
kernel.io_uring_disabled, or a container's seccomp filter), so callers try and fall back.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct

SETUP, ENTER, REGISTER = 425, 426, 427  # the same on every architecture but alpha
REGISTER_FILES2, RSRC_SPARSE = 13, 1
OFF_SQ_RING, OFF_SQES = 0, 0x10000000
SETUP_CQSIZE, SETUP_SINGLE_ISSUER, SETUP_DEFER_TASKRUN = 1 << 3, 1 << 12, 1 << 13
FEAT_SINGLE_MMAP, FEAT_EXT_ARG, FEAT_CQE_SKIP = 1, 1 << 8, 1 << 11
ENTER_GETEVENTS, ENTER_EXT_ARG = 1, 1 << 3
FIXED_FILE, IO_LINK, CQE_SKIP = 1, 1 << 2, 1 << 6
OP_POLL_ADD, OP_ASYNC_CANCEL, OP_CONNECT, OP_CLOSE = 6, 14, 16, 19
OP_SEND, OP_RECV, OP_SOCKET = 26, 27, 45
CANCEL_ALL, CANCEL_ANY = 1, 1 << 2
RECV_POLL_FIRST = 1  # in ioprio: the answer cannot be there yet, so do not try before waiting

_PARAMS = struct.Struct("=IIIIIII3I" "IIIIIIIIQ" "IIIIIIIIQ")
_SQE = struct.Struct("=BBHiQQIIQHHiQQ")
_CQE = struct.Struct("=QiI")


class Unavailable(Exception):
    """This kernel, or what confines this process, has no io_uring to offer."""


class Ring:
    """A submission and a completion queue.

    :param slots: submission entries; each is written once (:meth:`prepare`) and queued by its
        number as often as wanted (:attr:`queue`).
    """

    def __init__(self, slots: int) -> None:
        try:
            import ctypes
        except ImportError as error:  # a minimal Python
            raise Unavailable(f"no ctypes: {error}") from error
        self._ctypes = ctypes
        self._call = ctypes.CDLL(None, use_errno=True).syscall
        self._call.restype = ctypes.c_long
        # Widths must be told: what is passed on the stack would have garbage in its upper half.
        self._call.argtypes = [ctypes.c_long] * 5 + [ctypes.c_void_p, ctypes.c_size_t]
        entries = 1 << max(3, slots.bit_length())  # one more than asked for: see close()
        wanted = bytearray(_PARAMS.size)
        flags = SETUP_CQSIZE | SETUP_SINGLE_ISSUER | SETUP_DEFER_TASKRUN
        struct.pack_into("=III", wanted, 0, 0, 4 * entries, flags)
        block = (ctypes.c_char * len(wanted)).from_buffer(wanted)
        descriptor = self._call(SETUP, entries, ctypes.addressof(block), 0, 0, None, 0)
        if descriptor < 0:
            code = ctypes.get_errno()
            raise Unavailable(f"io_uring_setup: {os.strerror(code)}")
        self.descriptor = descriptor
        found = _PARAMS.unpack(wanted)
        size, room, features = found[0], found[1], found[5]
        needed = FEAT_SINGLE_MMAP | FEAT_EXT_ARG | FEAT_CQE_SKIP
        if features & needed != needed:
            os.close(descriptor)
            raise Unavailable(f"io_uring lacks features: has {features:#x}, needs {needed:#x}")
        _, sq_tail, sq_mask, _, _, _, sq_array = found[10:17]
        cq_head, cq_tail, cq_mask, _, _, cqes = found[19:25]
        length = max(sq_array + 4 * size, cqes + 16 * room)
        self._rings = mmap.mmap(
            descriptor, length, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE,
            offset=OFF_SQ_RING,
        )  # fmt: skip
        self._entries = mmap.mmap(
            descriptor, 64 * size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE,
            offset=OFF_SQES,
        )  # fmt: skip
        whole = memoryview(self._rings)
        self._views = [whole]

        def words(at: int, count: int):
            part = whole[at : at + 4 * count]
            view = part.cast("I")
            self._views += [view, part]
            return view

        self._array = sq_array
        self._sq_tail = words(sq_tail, 1)
        self._cq_head, self._cq_tail = words(cq_head, 1), words(cq_tail, 1)
        self._sq_mask = struct.unpack_from("=I", self._rings, sq_mask)[0]
        self._cq_mask = struct.unpack_from("=I", self._rings, cq_mask)[0]
        self._cqes, self._room = cqes, room
        self._last = size - 1
        self._time = (ctypes.c_longlong * 2)()
        self._argument = struct.pack("=QIIQ", 0, 0, 0, ctypes.addressof(self._time))
        self._argument = (ctypes.c_char * 24).from_buffer_copy(self._argument)
        #: Numbers of entries to submit at the next :meth:`enter`, in order.
        self.queue: list = []

    def prepare(self, slot, opcode, fd, tag, *, address=0, length=0, offset=0, flags=0, mode=0,
                message=0, file_index=0) -> None:  # fmt: skip
        """Write entry ``slot``; ``tag`` comes back with its completion."""
        _SQE.pack_into(
            self._entries, 64 * slot, opcode, flags, mode, fd, offset, address, length, message,
            tag, 0, 0, file_index, 0, 0,
        )  # fmt: skip

    def reserve_files(self, count: int) -> None:
        """A table of ``count`` sockets of the ring's own, which cost no descriptor.

        :raises Unavailable: not on this kernel.
        """
        asked = struct.pack("=IIQQQ", count, RSRC_SPARSE, 0, 0, 0)
        table = self._ctypes.create_string_buffer(asked, len(asked))
        done = self._call(
            REGISTER, self.descriptor, REGISTER_FILES2, self._ctypes.addressof(table), 32, None, 0
        )
        if done < 0:
            code = self._ctypes.get_errno()
            raise Unavailable(f"io_uring_register: {os.strerror(code)}")

    def enter(self, least: int, wait_ns: int):
        """Submit :attr:`queue`, wait for ``least`` completions or ``wait_ns``; returns
        [(tag, result, flags), …]."""
        queue = self.queue
        count = len(queue)
        if count:
            tail = self._sq_tail[0]
            at = tail & self._sq_mask
            size = self._sq_mask + 1
            if at + count <= size:
                struct.pack_into(f"={count}I", self._rings, self._array + 4 * at, *queue)
            else:
                first = size - at
                struct.pack_into(f"={first}I", self._rings, self._array + 4 * at, *queue[:first])
                struct.pack_into(f"={count - first}I", self._rings, self._array, *queue[first:])
            self._sq_tail[0] = (tail + count) & 0xFFFFFFFF
            queue.clear()
        self._time[0], self._time[1] = divmod(max(0, wait_ns), 1_000_000_000)
        flags = ENTER_GETEVENTS | ENTER_EXT_ARG
        while True:
            done = self._call(ENTER, self.descriptor, count, least, flags, self._argument, 24)
            if done < 0:
                code = self._ctypes.get_errno()
                if code in (errno.ETIME, errno.EINTR):
                    break
                raise OSError(code, f"io_uring_enter: {os.strerror(code)}")
            count -= done
            if count <= 0:
                break
        return self.completed()

    def completed(self):
        """What has been completed and not been taken."""
        head, tail = self._cq_head[0], self._cq_tail[0]
        if head == tail:
            return ()
        first, last = head & self._cq_mask, tail & self._cq_mask
        base = self._cqes
        if first < last:
            data = self._rings[base + 16 * first : base + 16 * last]
        else:
            data = (
                self._rings[base + 16 * first : base + 16 * self._room]
                + self._rings[base : base + 16 * last]
            )
        self._cq_head[0] = tail
        return _CQE.iter_unpack(data)

    def close(self) -> None:
        """Call everything off and end. Afterwards the kernel writes into no buffer any more."""
        self.queue.clear()
        self.prepare(self._last, OP_ASYNC_CANCEL, -1, 0, message=CANCEL_ALL | CANCEL_ANY)
        self.queue.append(self._last)
        self.enter(1, 100_000_000)
        for view in reversed(self._views):
            view.release()
        self._rings.close()
        self._entries.close()
        os.close(self.descriptor)


class Pool:
    """Buffers of equal size that the kernel may write into; slices of it are ``bytes``.

    """

    def __init__(self, count: int, size: int) -> None:
        import ctypes

        self.size = size
        self.memory = mmap.mmap(-1, max(1, count) * size)
        anchor = ctypes.c_char.from_buffer(self.memory)
        self.address = ctypes.addressof(anchor)
        del anchor  # it would keep the memory from being closed

    def at(self, number: int) -> int:
        """Address of buffer ``number``."""
        return self.address + number * self.size

    def close(self) -> None:
        self.memory.close()
