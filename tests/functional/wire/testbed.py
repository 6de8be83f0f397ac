# SPDX-License-Identifier: Apache-2.0
"""A client and something that plays the amphora, in network namespaces of their own.

::

    client (c0) ----- segment (bridge) ----- amphora-haproxy (eth1)
                                       (optional) member side: eth2 ---- member (m0)

The namespaces, the bridge among them, carry the number of the process that made them and a
random suffix; they are removed at the end, or by the next bed when that process was killed.
Nothing is made in the namespace of the machine itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import secrets
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

CLIENT4, CLIENT6 = "198.51.100.10", "2001:db8:1::10"
AMPHORA4, AMPHORA6 = "198.51.100.30", "2001:db8:1::30"
VIP4, VIP6 = "198.51.100.20", "2001:db8:1::20"
GATEWAY4, GATEWAY6 = "198.51.100.1", "2001:db8:1::1"

LISTENER = textwrap.dedent(
    """
    import json, selectors, socket, sys, threading

    def serve(c):
        c.settimeout(60)
        try:
            if c.recv(65535):
                body = socket.gethostname().encode()
                c.sendall(b"HTTP/1.0 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%s"
                          % (len(body), body))
        except OSError:
            pass  # the client went away, which is its right
        c.close()

    chosen = selectors.DefaultSelector()
    for kind, port in json.loads(sys.argv[1]):
        for text in sys.argv[2:]:
            family = socket.AF_INET6 if ":" in text else socket.AF_INET
            s = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind((text, port))
            if kind == "tcp":
                s.listen(512)
            chosen.register(s, selectors.EVENT_READ, kind)
    print("ready", flush=True)
    while True:
        for key, _ in chosen.select():
            if key.data == "udp":
                data, peer = key.fileobj.recvfrom(65535)
                try:
                    key.fileobj.sendto(b"echo " + data, peer)
                except OSError:
                    pass  # a sender that cannot be answered (port 0, a mapped address)
            else:
                c, _ = key.fileobj.accept()
                threading.Thread(target=serve, args=(c,), daemon=True).start()
    """
)


CLONE_NEWNET = 0x40000000


@contextlib.contextmanager
def entered(namespace: str) -> Iterator[None]:
    """This thread, and what it starts, is in a network namespace (a name, or the path of its file)
    while the block runs."""
    libc = ctypes.CDLL(None, use_errno=True)

    def enter(descriptor: int) -> None:
        if libc.setns(descriptor, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")

    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(os.path.join("/run/netns", namespace), os.O_RDONLY)
    try:
        enter(there)
        try:
            yield
        finally:
            enter(home)
    finally:
        os.close(home)
        os.close(there)


def run(*argv: str, input: str | None = None) -> str:
    done = subprocess.run(argv, input=input, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr or done.stdout}")
    return done.stdout


def reclaim() -> None:
    """Take away what tests left behind whose process is gone: one that was killed cleans up
    nothing."""
    for namespace in Path("/run/netns").glob("slbwire-*-*-*"):
        owner = namespace.name.split("-")[2]
        if Path("/proc", owner).exists():
            continue
        # Another worker may be at it, too: what is gone already is well.
        inside = subprocess.run(
            ["ip", "netns", "pids", namespace.name], capture_output=True, text=True
        )
        for pid in inside.stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        subprocess.run(["ip", "netns", "del", namespace.name], capture_output=True)


@dataclass
class Bed:
    """The namespaces by role, and what runs in them."""

    suffix: str
    processes: list[subprocess.Popen] = field(default_factory=list)

    def name(self, role: str) -> str:
        return f"slbwire-{role}-{self.suffix}"

    def within(self, role: str, *argv: str, input: str | None = None) -> str:
        return run("ip", "netns", "exec", self.name(role), *argv, input=input)

    def nft(self, text: str, *options: str) -> None:
        """Load rules into the amphora, as Octavia does: ``nft -o -f``."""
        self.within("amphora", "nft", *options, "-f", "-", input=text)

    def ruleset(self) -> dict:
        return json.loads(self.within("amphora", "nft", "-j", "list", "ruleset"))

    def start(self, role: str, *argv: str) -> subprocess.Popen:
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.name(role), *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.processes.append(process)
        return process

    def listen(self, *sockets: tuple[str, int], role: str = "amphora") -> subprocess.Popen:
        """A little server on (``tcp`` or ``udp``, port) of the VIPs, or of the member."""
        where = ["10.9.0.10"] if role == "member" else [VIP4, VIP6]
        process = self.start(role, sys.executable, "-c", LISTENER, json.dumps(sockets), *where)
        line = process.stdout.readline()
        if line.strip() != "ready":
            raise RuntimeError(f"the listener did not start: {line}{process.stdout.read()}")
        return process

    def stop(self, process: subprocess.Popen) -> None:
        process.kill()
        process.wait()
        process.stdout.close()
        self.processes.remove(process)

    def close(self) -> None:
        for process in list(self.processes):
            self.stop(process)
        for role in ("client", "amphora", "segment", "member"):
            subprocess.run(["ip", "netns", "del", self.name(role)], capture_output=True)


@contextlib.contextmanager
def bed(*, member: bool = False) -> Iterator[Bed]:
    """Client and amphora on one segment; the amphora holds the VIPs, default route via a gateway
    that does not exist (a vantage has to play it)."""
    reclaim()
    # Whose it is, so that others can tell that nobody needs it any more.
    made = Bed(f"{os.getpid()}-{secrets.token_hex(3)}")
    roles = ["client", "amphora", "segment"] + (["member"] if member else [])
    try:
        for role in roles:
            run("ip", "netns", "add", made.name(role))
            made.within(role, "ip", "link", "set", "lo", "up")
        made.within("segment", "ip", "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        made.within("segment", "ip", "link", "set", "br0", "up")
        for role, device in (("client", "c0"), ("amphora", "eth1")):
            made.within(
                "segment", "ip", "link", "add", role, "type", "veth",
                "peer", "name", device, "netns", made.name(role),
            )  # fmt: skip
            made.within("segment", "ip", "link", "set", role, "master", "br0", "up")
            with contextlib.suppress(RuntimeError):  # no ethtool: harmless here
                made.within(role, "ethtool", "-K", device, "tx", "off")
        for role, device, addresses in (
            ("client", "c0", (f"{CLIENT4}/24", f"{CLIENT6}/64")),
            ("amphora", "eth1",
             (f"{AMPHORA4}/24", f"{AMPHORA6}/64", f"{VIP4}/32", f"{VIP6}/128")),
        ):  # fmt: skip
            made.within(role, "ip", "link", "set", device, "up")
            for address in addresses:
                extra = ["nodad"] if ":" in address else []
                made.within(role, "ip", "address", "add", address, "dev", device, *extra)
        made.within("amphora", "ip", "route", "add", "default", "via", GATEWAY4)
        made.within("amphora", "ip", "-6", "route", "add", "default", "via", GATEWAY6)
        if member:
            made.within(
                "amphora", "ip", "link", "add", "eth2", "type", "veth",
                "peer", "name", "m0", "netns", made.name("member"),
            )  # fmt: skip
            for role, device, address in (
                ("amphora", "eth2", "10.9.0.30/24"),
                ("member", "m0", "10.9.0.10/24"),
            ):
                made.within(role, "ip", "link", "set", device, "up")
                made.within(role, "ip", "address", "add", address, "dev", device)
        yield made
    finally:
        made.close()


def octavia_rules(*lines: str, drop_all: bool = False) -> str:
    """Octavia's rules file with the given lines in the VIP chain (see the fact of its writer,
    ``octavia/amphorae/backends/utils/nftable_utils.py``)."""
    icmp = """
        icmp type destination-unreachable accept
        icmpv6 type { nd-neighbor-solicit, nd-router-advert, nd-neighbor-advert, packet-too-big, destination-unreachable } accept
        udp sport 67 udp dport 68 accept
        udp sport 547 udp dport 546 accept
    """  # noqa: E501
    if drop_all:
        return f"""
        table inet amphora_table {{
          chain amphora_chain {{
            type filter hook input priority filter; policy drop;
            {icmp}
          }}
        }}
        """
    return f"""
    table inet amphora_table {{}}
    delete table inet amphora_table
    table inet amphora_table {{
      chain amphora_chain {{
        type filter hook input priority filter; policy drop;
        ct state vmap {{ established : accept, related : accept, invalid : drop }}
        iif lo accept
        ip saddr 127.0.0.0/8 drop
        ip6 saddr ::1 drop
        {icmp}
        iifname eth1 goto amphora_vip_chain
      }}
      chain amphora_vip_chain {{
        {chr(10).join(lines)}
      }}
    }}
    """
