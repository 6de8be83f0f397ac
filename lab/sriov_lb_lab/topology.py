# SPDX-License-Identifier: Apache-2.0
"""The lab's cables: control network, fabrics, simulated hosts, and each host's switch database.

Run once inside the lab by its first process. A fabric is one Linux bridge per physical network; a
host hangs on it with one veth for its Open vSwitch and, on SR-IOV networks, another that plays the
PF. The two are separate links, as a card's embedded switch and a host's software switch are
separate paths, on one L2 segment.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from sriov_lb_lab.settings import CONTROLLER, HOSTS, PHYSNETS, Host, Physnet

SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"


def main() -> None:
    """Make everything; any failing step ends the lab's start."""
    _run(["ip", "link", "set", "lo", "up"])
    control_prefix = "24"
    batch = [
        "link add ctl type bridge",
        f"addr add {CONTROLLER}/{control_prefix} dev ctl",
        "link set ctl up",
    ]
    for net in PHYSNETS:
        batch += _fabric(net)
    for host in HOSTS:
        batch += [f"netns add {host.name}"]
        batch += _cable(f"ctl-{host.number}", "ctl", host, "ctl0")
        for net in PHYSNETS:
            batch += _cable(f"{net.name}-{host.number}", f"fab-{net.name}", host, f"ovs-{net.name}")
            if net.sriov and host.sriov:
                batch += _cable(
                    f"{net.name}-{host.number}pf", f"fab-{net.name}", host, f"pf-{net.name}"
                )
    _run(["ip", "-batch", "-"], stdin="\n".join(batch) + "\n")
    for link in _veth_names():
        _offloads_off([], link)
    for host in HOSTS:
        _host(host)


def _fabric(net: Physnet) -> list[str]:
    bridge = f"fab-{net.name}"
    # Multicast snooping without a querier would drop neighbour discovery after a while.
    lines = [
        f"link add {bridge} type bridge mcast_snooping 0 forward_delay 0",
        f"link set {bridge} up",
    ]
    if net.controller:
        lines.append(f"addr add {net.controller} dev {bridge}")
    return lines


def _cable(name: str, bridge: str, host: Host, far: str) -> list[str]:
    return [
        f"link add {name} type veth peer name {far} netns {host.name}",
        f"link set {name} master {bridge} up",
    ]


def _veth_names() -> list[str]:
    names = []
    for host in HOSTS:
        names += [f"{net.name}-{host.number}" for net in PHYSNETS]
        names += [f"{net.name}-{host.number}pf" for net in PHYSNETS if net.sriov and host.sriov]
    return names


def _host(host: Host) -> None:
    inside = ["ip", "netns", "exec", host.name]
    far = [f"ovs-{net.name}" for net in PHYSNETS] + [pf["device"] for pf in host.pfs()]
    batch = ["link set lo up", f"addr add {host.address}/24 dev ctl0", "link set ctl0 up"]
    batch += [f"link set {name} up" for name in far]
    _run(["ip", "-n", host.name, "-batch", "-"], stdin="\n".join(batch) + "\n")
    for name in far:
        _offloads_off(inside, name)
    database = Path("/var/lib/lab/hosts") / host.name / "ovs" / "conf.db"
    database.parent.mkdir(parents=True, exist_ok=True)
    Path(host.ovs_run).mkdir(parents=True, exist_ok=True)
    if not database.exists():
        _run(["ovsdb-tool", "create", str(database), SCHEMA])


def _offloads_off(prefix: list[str], link: str) -> None:
    # A veth leaves checksums to the "hardware"; the userspace switch's conntrack then calls every
    # such segment invalid.
    _run([*prefix, "ethtool", "-K", link, "tx", "off"], quiet=True)


def _run(argv: list[str], stdin: str | None = None, quiet: bool = False) -> None:
    subprocess.run(
        argv, check=True, text=True, input=stdin, stdout=subprocess.DEVNULL if quiet else None
    )


if __name__ == "__main__":
    main()
