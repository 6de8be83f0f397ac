# SPDX-License-Identifier: Apache-2.0
"""What a stranger needs to know of this machine to judge its numbers (RFC 8172)."""

from __future__ import annotations

import array
import fcntl
import os
import platform
import resource
import socket
import struct

from . import PROTOCOL
from .machine import cpu_times, read_file
from .stamps import RX_HARDWARE, RX_SOFTWARE, TX_HARDWARE, TX_SOFTWARE
from .target import Target


def run_facts(job: dict, link) -> dict:
    """What a stranger needs to know of this machine to judge its numbers (RFC 8172)."""
    cpu = [line for line in read_file("/proc/cpuinfo").split("\n") if ":" in line]
    fields = {}
    for line in cpu:
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    memory = read_file("/proc/meminfo").split("\n", 1)[0].split()
    facts = {
        "protocol": PROTOCOL,
        "hostname": socket.gethostname(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "cpu_model": fields.get("model name", platform.processor() or "unknown"),
        "cpus": len(os.sched_getaffinity(0)),
        "virtual": "hypervisor" in fields.get("flags", ""),
        "memory_kib": int(memory[1]) if len(memory) > 1 else None,
        "clocksource": read_file(
            "/sys/devices/system/clocksource/clocksource0/current_clocksource"
        ),
        "boot_id": read_file("/proc/sys/kernel/random/boot_id"),
        "os": next(
            (
                line.split("=", 1)[1].strip('"')
                for line in read_file("/etc/os-release").split("\n")
                if line.startswith("PRETTY_NAME=")
            ),
            "",
        ),
        "descriptor_limit": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        "cpu_times": cpu_times(),
    }
    if job.get("url"):
        facts["path"] = _path_to(Target(job))
    return facts


def _path_to(target: Target) -> dict:
    """The interface and source address the kernel would use towards ``target``."""
    with socket.socket(target.family, socket.SOCK_DGRAM) as sock:
        sock.connect(target.address)
        source = sock.getsockname()[0]
        path = {"source": source, "interface": None}
        for _, name in socket.if_nameindex():
            if _owns(sock, name, source):
                path["interface"] = name
                break
        name = path["interface"]
        if name is None:
            return path
        base = "/sys/class/net/" + name
        path["mtu"] = int(read_file(base + "/mtu") or 0)
        path["speed_mbit"] = read_file(base + "/speed") or None
        path["address"] = read_file(base + "/address")
        for field, command, layout in (("driver", 0x03, 196), ("stamps", 0x41, 44)):
            block = array.array("B", struct.pack("=I", command) + bytes(layout - 4))
            pointer, _ = block.buffer_info()
            try:
                fcntl.ioctl(sock, 0x8946, struct.pack("16sP", name.encode(), pointer))
            except OSError:
                path[field] = None
                continue
            if field == "driver":
                texts = [bytes(block[4 + 32 * i : 36 + 32 * i]) for i in range(3)]
                driver, version, firmware = (t.split(b"\0")[0].decode() for t in texts)
                path["driver"] = driver
                path["driver_version"] = version
                path["firmware"] = firmware
            else:
                modes = struct.unpack_from("=I", block, 4)[0]
                path["stamps"] = {
                    "software": bool(modes & TX_SOFTWARE and modes & RX_SOFTWARE),
                    "hardware": bool(modes & TX_HARDWARE and modes & RX_HARDWARE),
                }
    return path


def _owns(sock: socket.socket, name: str, address: str) -> bool:
    """Whether interface ``name`` has ``address``."""
    if ":" in address:
        wanted = socket.inet_pton(socket.AF_INET6, address.split("%")[0]).hex()
        rows = (line.split() for line in read_file("/proc/net/if_inet6").split("\n"))
        return any(row and row[0] == wanted and row[-1] == name for row in rows)
    try:
        found = fcntl.ioctl(sock, 0x8915, struct.pack("16s24x", name.encode()))
    except OSError:
        return False
    return socket.inet_ntoa(found[20:24]) == address
