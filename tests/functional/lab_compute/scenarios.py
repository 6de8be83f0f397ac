# SPDX-License-Identifier: Apache-2.0
"""What instances on a simulated host must do; each function is one scenario on a fresh host."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest import mock

from simulated_host import (
    FABRIC,
    VF_ADDRESSES,
    SimulatedHost,
    await_booted,
    await_true,
    in_guest,
    ovs_vif,
    run,
    vf_vif,
)

from sriov_lb_lab.compute import cgroups, guestfiles, network_config, overlay
from sriov_lb_lab.compute.container import Container, State
from sriov_lb_lab.compute.hostfile import HostFile
from sriov_lb_lab.compute.records import Vif
from sriov_lb_lab.substrate import links
from sriov_lb_lab.substrate.errors import CommandFailed, VfInUse

# What an amphora does with its VIP's interface.
INTO_NETNS = """
set -e
ip netns list | grep -q amphora-haproxy || ip netns add amphora-haproxy
ip link set {old} netns amphora-haproxy name {new}
ip netns exec amphora-haproxy ip addr add {address}/24 dev {new}
ip netns exec amphora-haproxy ip link set {new} up
ip netns exec amphora-haproxy ip link set lo up
"""


def life(host: SimulatedHost, host_file: HostFile) -> None:
    """Boot, look inside, shut down, boot again, remove."""
    one = host.instance(host_file, vifs=(ovs_vif(1), vf_vif(1)))
    assert one.state() is State.SHUTDOWN
    one.start()
    assert one.state() is State.RUNNING
    await_booted(one)
    assert _names(one) == {"lo", "ens3", "ens4"}
    assert in_guest(one, "hostname").strip() == "guest-1"
    in_guest(one, "touch", "/var/tmp/kept")
    assert one.stop(60), "the guest did not shut down by itself"
    assert one.state() is State.SHUTDOWN
    assert_nothing_runs(one)
    one.start()
    await_booted(one)
    in_guest(one, "test", "-e", "/var/tmp/kept")
    assert _names(one) == {"lo", "ens3", "ens4"}
    one.destroy()
    assert_nothing_runs(one)
    assert not one.folder.exists()
    one.destroy()


def hot_plug(host: SimulatedHost, host_file: HostFile) -> None:
    """Interfaces come and go while the guest runs, also out of a namespace of its own making."""
    one = host.instance(host_file)
    one.start()
    await_booted(one)
    for number, vif in ((11, ovs_vif(1, "ens3")), (12, vf_vif(1, "ens4"))):
        one.attach(vif)
        in_guest(one, "sh", "-ec", INTO_NETNS.format(old=vif.name, new="eth1", address="192.0.2.9"))
        assert _names(one) == {"lo"}
        inside = ("ip", "netns", "exec", "amphora-haproxy")
        link = in_guest(one, *inside, "ip", "-d", "link", "show", "eth1")
        assert vif.mac in link and "mtu 1450" in link, link
        # Both kinds reach the fabric, and a TCP segment's checksum survives the switch.
        await_true(lambda: _reaches("192.0.2.9"), 20)
        if vif.kind == "vf":
            substrate = host_file.load_substrate()
            assert substrate.mac(vif.device) == vif.mac
            attachment = substrate.attachment(vif.device)
            assert attachment is not None and substrate.is_present(attachment)
        assert one.detach(vif.id)
        assert not one.detach(vif.id)
        assert "eth1" not in in_guest(one, *inside, "ip", "-br", "link"), number
        assert not _reaches("192.0.2.9")
    assert links.names() & {ovs_vif(1).device} == set()
    assert host.vsctl("list-ports", "br-int").split() == ["ovs-public"]
    assert host_file.load_substrate().attachments() == []


def transfer(host: SimulatedHost, host_file: HostFile) -> None:
    """TCP through the userspace switch and through a VF: checksums, sizes, both directions."""
    one = host.instance(host_file, vifs=(ovs_vif(1, "ens3"), vf_vif(1, "ens4")))
    one.start()
    await_booted(one)
    server = "import socket;s=socket.create_server(('{}',9));c=s.accept()[0];c.sendall(b'x'*10**6)"
    for name, address in (("ens3", "192.0.2.11"), ("ens4", "192.0.2.12")):
        in_guest(one, "ip", "addr", "add", f"{address}/24", "dev", name)
        in_guest(one, "ip", "link", "set", name, "up")
        in_guest(one, "systemd-run", "--quiet", "--", "python3", "-c", server.format(address))
        await_true(lambda a=address: f"{a}:9" in in_guest(one, "ss", "-ltnH"), 10)
        received = run(
            sys.executable,
            "-c",
            "import socket,sys;s=socket.create_connection((sys.argv[1],9),10);s.settimeout(20)\n"
            "n=0\nwhile d:=s.recv(65536): n+=len(d)\nprint(n)",
            address,
        )
        assert received.strip() == "1000000", (name, received)


def guest_reboots(host: SimulatedHost, host_file: HostFile) -> None:
    """A reboot from inside brings every interface back where a machine has it, under its name."""
    one = host.instance(host_file, vifs=(ovs_vif(1, "ens3"),))
    one.start()
    await_booted(one)
    one.attach(vf_vif(1, "ens4"))
    in_guest(one, "sh", "-ec", INTO_NETNS.format(old="ens3", new="eth1", address="192.0.2.9"))
    in_guest(one, "sh", "-ec", INTO_NETNS.format(old="ens4", new="eth2", address="192.0.2.8"))
    in_guest(one, "ip", "route", "add", "blackhole", "203.0.113.0/24")
    runner, leader = one.runner(), one.leader()
    subprocess.run(
        ["nsenter", f"--target={leader}", "-m", "-p", "--", "systemctl", "reboot"], check=False
    )
    await_true(lambda: one.leader() not in (None, leader), 60)
    assert one.runner() == runner
    await_booted(one)
    assert _names(one) == {"lo", "ens3", "ens4"}
    assert "203.0.113.0" not in in_guest(one, "ip", "route"), "state of the last boot is left"
    assert in_guest(one, "ip", "netns") == ""


def crash(host: SimulatedHost, host_file: HostFile) -> None:
    """Killed behind everyone's back: found shut down, ports down, and it can be started again."""
    one = host.instance(host_file, vifs=(ovs_vif(1, "ens3"), vf_vif(1, "ens4")))
    for victim in ("leader", "nspawn"):
        one.start()
        await_booted(one)
        in_guest(one, "sh", "-ec", INTO_NETNS.format(old="ens4", new="eth1", address="192.0.2.9"))
        leader = one.leader()
        assert leader is not None
        os.kill(leader if victim == "leader" else _parent(leader), signal.SIGKILL)
        await_true(lambda: one.state() is State.SHUTDOWN, 20)
        assert_nothing_runs(one)
    # Not even the runner lives: nobody cleans up before the next start does.
    one.start()
    runner, leader = one.runner(), one.leader()
    assert runner and leader
    os.kill(runner, signal.SIGKILL)
    await_true(lambda: one.runner() is None, 5)
    assert one.state() is State.RUNNING
    await_booted(one)
    os.kill(leader, signal.SIGKILL)
    await_true(lambda: one.state() is State.SHUTDOWN, 20)
    assert host_file.load_substrate().mac(VF_ADDRESSES[0]) == vf_vif(1).mac
    one.start()
    await_booted(one)
    assert _names(one) == {"lo", "ens3", "ens4"}
    # Stopping works without a runner, too.
    runner = one.runner()
    assert runner
    os.kill(runner, signal.SIGKILL)
    await_true(lambda: one.runner() is None, 5)
    one.stop(0)
    assert_nothing_runs(one)


def outlives_its_starter(host: SimulatedHost, host_file: HostFile) -> None:
    """The process that started it may be killed with its whole group; the instance goes on."""
    one = host.instance(host_file, vifs=(ovs_vif(1, "ens3"),))
    code = (
        "import sys,time\n"
        "from sriov_lb_lab.compute.container import Container\n"
        "from sriov_lb_lab.compute.hostfile import HostFile\n"
        "Container(HostFile.read(), sys.argv[1]).start()\n"
        "print('started', flush=True)\n"
        "time.sleep(600)\n"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", code, one.uuid], stdout=subprocess.PIPE, start_new_session=True
    )
    assert starter.stdout is not None and starter.stdout.readline() == b"started\n"
    os.killpg(starter.pid, signal.SIGKILL)
    starter.wait()
    starter.stdout.close()
    await_booted(one)
    runner = one.runner()
    assert runner and _parent(runner) == 1
    assert one.stop(60)
    assert_nothing_runs(one)


def pause(host: SimulatedHost, host_file: HostFile) -> None:
    """Frozen, thawed; a frozen one can be stopped."""
    one = host.instance(host_file, vifs=(vf_vif(1, "ens4"),))
    one.start()
    await_booted(one)
    in_guest(one, "systemd-run", "--quiet", "sh", "-c", "while :; do date +%N >/tick; done")
    tick = overlay.root(one.folder) / "tick"
    await_true(tick.exists, 10)
    one.pause()
    assert one.state() is State.PAUSED
    seen = tick.stat().st_mtime_ns
    assert seen == tick.stat().st_mtime_ns
    one.unpause()
    assert one.state() is State.RUNNING
    await_true(lambda: tick.stat().st_mtime_ns > seen, 10)
    one.pause()
    one.stop(0)
    assert one.state() is State.SHUTDOWN
    one.start()
    await_booted(one)
    one.pause()
    one.stop(60)
    assert_nothing_runs(one)


def failures_leave_nothing(host: SimulatedHost, host_file: HostFile) -> None:
    """What cannot be attached is not half attached; what cannot start is not half started."""
    one = host.instance(host_file, vifs=(vf_vif(1, "ens4"),))
    one.start()
    await_booted(one)
    before = links.names()
    refused = {
        "the name is taken in the guest": ovs_vif(2, "ens4"),
        "the name of a VF is taken": vf_vif(2, "ens4", VF_ADDRESSES[1]),
        "the VF is taken": vf_vif(3, "ens5"),
        "the MTU is beyond the PF's": _with_mtu(vf_vif(4, "ens5", VF_ADDRESSES[1]), 9000),
    }
    for why, vif in refused.items():
        try:
            one.attach(vif)
        except (CommandFailed, VfInUse) as failure:
            print(why, "->", failure)
        else:
            raise AssertionError(f"attached although {why}")
        assert links.names() == before, why
        assert host.vsctl("list-ports", "br-int").split() == ["ovs-public"], why
        assert one.store.load(one.uuid).vif(vif.id) is None, why
    substrate = host_file.load_substrate()
    assert [a.address for a in substrate.attachments()] == [VF_ADDRESSES[0]]
    # The control: the second VF is as free as it seems.
    one.attach(vf_vif(5, "ens5", VF_ADDRESSES[1]))
    assert _names(one) == {"lo", "ens4", "ens5"}, _names(one)

    two = host.instance(host_file, 2, vifs=(ovs_vif(7, "ens3"), vf_vif(6, "ens4")))
    try:
        two.start()
    except VfInUse as failure:
        print("second instance ->", failure)
    else:
        raise AssertionError("two instances share a VF")
    assert_nothing_runs(two)
    assert one.state() is State.RUNNING
    assert substrate.mac(VF_ADDRESSES[0]) == vf_vif(1).mac, "it took the other instance's VF away"


def switched_off_at_once(host: SimulatedHost, host_file: HostFile) -> None:
    """A guest that is switched off answers nothing any more, least of all without its firewall.

    The kernel takes a namespace apart in the background, its nftables before its interfaces, and
    now and then a packet comes in between. So what is looked at is the order, too.
    """
    chain = "{ type filter hook input priority 0; policy drop; }"
    drop = f"add table inet t; add chain inet t c {chain}"
    nft = ("ip", "netns", "exec", "amphora-haproxy", "nft", drop)
    one = host.instance(host_file, vifs=(vf_vif(1, "ens4"),))
    killed_with_vf: list[bool] = []
    kill = cgroups.kill

    def watched(cgroup: str) -> None:
        killed_with_vf.append(one.plugger.is_plugged(vf_vif(1, "ens4"), one.uuid))
        kill(cgroup)

    for firewall in (False, True):
        one.start()
        await_booted(one)
        in_guest(one, "sh", "-ec", INTO_NETNS.format(old="ens4", new="eth1", address="192.0.2.9"))
        if firewall:
            in_guest(one, *nft)
        with _resets_from("192.0.2.9", vf_vif(1).mac) as resets:
            if not firewall:
                # The control: it answers, so that silence says something.
                await_true(lambda seen=resets: len(seen) > 100, 10)
            with mock.patch.object(cgroups, "kill", watched):
                one.stop(0)
        assert firewall is not bool(resets), f"{len(resets)} resets, firewall {firewall}"
    assert killed_with_vf and not any(killed_with_vf), "its VF was there when it was killed"


def link_state(host: SimulatedHost, host_file: HostFile) -> None:
    """The host takes a VF's carrier away, wherever in the guest the device is."""
    one = host.instance(host_file, vifs=(vf_vif(1, "ens4"),))
    one.start()
    await_booted(one)
    in_guest(one, "sh", "-ec", INTO_NETNS.format(old="ens4", new="eth1", address="192.0.2.9"))
    await_true(lambda: _reaches("192.0.2.9"), 10)
    substrate = host_file.load_substrate()
    substrate.set_link_state(VF_ADDRESSES[0], False)
    await_true(lambda: not _reaches("192.0.2.9"), 10)
    substrate.set_link_state(VF_ADDRESSES[0], True)
    await_true(lambda: _reaches("192.0.2.9"), 10)


def first_boot(host: SimulatedHost, host_file: HostFile) -> None:
    """Identity, key, files, addresses, first-boot script: as the instance finds them."""
    vifs = (ovs_vif(1, "ens3"), vf_vif(1, "ens4"))
    one = host.instance(host_file, vifs=vifs)
    root = overlay.mount(one.folder, overlay.tree(host_file.trees, host.tree.name))
    network_info = [
        {
            "address": vif.mac,
            "network": {
                "meta": {"mtu": 1450},
                "subnets": [
                    {
                        "cidr": f"192.0.2.{64 * index}/26",
                        "ips": [{"address": f"192.0.2.{64 * index + 5}"}],
                        "gateway": {"address": f"192.0.2.{64 * index + 1}"},
                    },
                    {
                        "cidr": f"2001:db8:{index}::/64",
                        "ips": [{"address": f"2001:db8:{index}::5"}],
                        "gateway": {"address": None},
                    },
                ],
            },
        }
        for index, vif in enumerate(vifs)
    ]
    guestfiles.write(
        root,
        guestfiles.Identity(one.uuid, "guest-1", "debian", "ssh-ed25519 AAAA test"),
        guestfiles.Contents(
            injected=[("/etc/octavia/conf", b"injected")],
            config_drive={"openstack/latest/meta_data.json": b"{}"},
            network_units=network_config.units(network_info),
            user_data=b"#!/bin/sh\necho ran >> /var/tmp/user-data; ip -br addr > /var/tmp/addr\n",
        ),
    )
    one.start()
    await_booted(one)
    await_true(lambda: "ran" in in_guest(one, "sh", "-c", "cat /var/tmp/user-data || true"), 60)
    addresses = in_guest(one, "cat", "/var/tmp/addr")
    for expected in ("192.0.2.5/26", "2001:db8::5/64", "192.0.2.69/26", "2001:db8:1::5/64"):
        assert expected.replace("2001:db8::", "2001:db8:0:") in addresses.replace(
            "2001:db8::", "2001:db8:0:"
        ), addresses
    routes = in_guest(one, "ip", "-4", "route", "show", "default").splitlines()
    assert [("192.0.2.1 " in line, "192.0.2.65 " in line) for line in routes] == [
        (True, False),
        (False, True),
    ], routes
    assert in_guest(one, "cat", "/etc/machine-id").strip() == one.uuid.replace("-", "")
    assert in_guest(one, "cat", "/etc/octavia/conf") == "injected"
    assert in_guest(one, "stat", "-c", "%U %a", "/home/debian/.ssh/authorized_keys").split() == [
        "debian",
        "600",
    ]
    if Path("/sys/bus/pci/rescan").exists():
        # The machine's PCI bus is out of reach, and a write that means it does no harm.
        in_guest(one, "sh", "-c", "echo 1 > /sys/bus/pci/rescan")
        assert in_guest(one, "sh", "-c", "ls -A /sys/bus/pci").split() == ["rescan"]
    one.stop(60)
    one.start()
    await_booted(one)
    assert in_guest(one, "cat", "/var/tmp/user-data") == "ran\n", "ran at the second boot, too"
    # Hot-plugged ones stay as they come.
    one.detach(vifs[1].id)
    one.attach(vf_vif(9, "ens4"))
    assert "DOWN" in in_guest(one, "ip", "-br", "link", "show", "ens4")
    log = (one.folder / "console.log").read_text(errors="replace")
    assert "Reached target multi-user.target" in log, log[-2000:]


def before_the_power_cut(host: SimulatedHost, host_file: HostFile) -> None:
    """First half of a crash of the machine: an instance runs, and this process ends at once."""
    one = host.instance(host_file, vifs=(ovs_vif(1, "ens3"), vf_vif(1, "ens4")))
    one.start()
    await_booted(one)
    in_guest(one, "sh", "-c", "echo kept > /var/tmp/kept; sync")
    sys.stdout.flush()
    os._exit(0)


def after_the_power_cut(host: SimulatedHost, host_file: HostFile) -> None:
    """Second half, on the same folder: it is found shut down, and starts."""
    (record,) = list(Container(host_file, "none").store)
    one = Container(host_file, record.uuid)
    assert one.state() is State.SHUTDOWN
    one.start()
    await_booted(one)
    assert in_guest(one, "cat", "/var/tmp/kept") == "kept\n"
    assert _names(one) == {"lo", "ens3", "ens4"}


def assert_nothing_runs(container: Container) -> None:
    """None of what only a running instance has is there."""
    record = container.store.load(container.uuid) if container.folder.exists() else None
    assert container.leader() is None
    assert container.runner() is None
    assert not os.path.exists(container.scope.netns)
    assert not overlay.is_mounted(container.folder)
    for vif in record.vifs if record else ():
        assert not container.plugger.is_plugged(vif, container.uuid), vif
    for hierarchy in Path("/sys/fs/cgroup").iterdir():
        assert not (hierarchy / container.scope.cgroup).exists(), hierarchy
    assert not (Path("/sys/fs/cgroup") / container.scope.cgroup).exists()


def _names(container: Container) -> set[str]:
    return {
        line.split()[0].split("@")[0]
        for line in in_guest(container, "ip", "-br", "link").splitlines()
    }


def _reaches(address: str) -> bool:
    """Whether the guest there answers; nothing listens, so its answer is a reset."""
    run("ip", "neigh", "flush", "dev", FABRIC)
    try:
        socket.create_connection((address, 9), timeout=1).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    raise AssertionError(f"something listens on port 9 of {address}")


@contextmanager
def _resets_from(address: str, mac: str) -> Iterator[list[bytes]]:
    """Ask a closed port as fast as it goes; collects the resets that come back meanwhile."""
    own = bytes.fromhex(links.mac(FABRIC).replace(":", ""))
    frame = bytes.fromhex(mac.replace(":", "")) + own + b"\x08\x00" + _syn("192.0.2.1", address)
    seen: list[bytes] = []
    done = threading.Event()

    def ask() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800)) as wire:
            wire.bind((FABRIC, 0))
            wire.setblocking(False)
            while not done.is_set():
                wire.send(frame)
                with suppress(BlockingIOError):
                    while True:
                        answer = wire.recv(128)
                        # Flags of a TCP segment behind an IPv4 header without options.
                        if answer[26:30] == socket.inet_aton(address) and answer[47] & 4:
                            seen.append(answer)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield seen
    finally:
        done.set()
        asking.join()


def _syn(source: str, destination: str) -> bytes:
    """IPv4 packet with a SYN to port 9. There is no scapy in the system's tree."""
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    ip = [struct.pack("!BBHHHBB", 0x45, 0, 40, 1, 0, 64, socket.IPPROTO_TCP), addresses]
    tcp = [struct.pack("!HHIIBBH", 40000, 9, 1, 0, 5 << 4, 2, 1024), struct.pack("!H", 0)]
    pseudo = addresses + struct.pack("!BBH", 0, socket.IPPROTO_TCP, 20)
    return _summed(b"", *ip) + _summed(pseudo, *tcp)


def _summed(pseudo: bytes, before: bytes, after: bytes) -> bytes:
    """A header with its RFC 1071 checksum between its two parts."""
    words = struct.unpack(f"!{len(pseudo + before + after) // 2}H", pseudo + before + after)
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return before + struct.pack("!H", ~total & 0xFFFF) + after


def _parent(pid: int) -> int:
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return int(fields["PPid"])


def _with_mtu(vif: Vif, mtu: int) -> Vif:
    return Vif(vif.id, vif.kind, vif.mac, mtu, vif.name, vif.device)
