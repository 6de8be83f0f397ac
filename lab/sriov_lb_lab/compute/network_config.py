# SPDX-License-Identifier: Apache-2.0
"""systemd-networkd units for the interfaces an instance boots with, from Nova's network_info.

There is no DHCP agent in the lab: like a cloud image with a config drive, a guest gets its
addresses from what Nova knows. An interface that is attached later stays unconfigured, as on a
real machine.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any

FOLDER = "/etc/systemd/network"


def units(network_info: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Path in the guest -> content, one unit per interface, matched by MAC."""
    found = {}
    for index, vif in enumerate(network_info):
        found[f"{FOLDER}/10-lab-{index}.network"] = unit(vif, index)
    return found


def unit(vif: Mapping[str, Any], index: int) -> str:
    """One interface's unit.

    :param index: its place among the instance's interfaces; the first one's gateway wins.
    """
    network = vif["network"]
    mtu = (network.get("meta") or {}).get("mtu")
    lines = ["[Match]", f"MACAddress={vif['address'].lower()}", "", "[Link]"]
    if mtu:
        lines.append(f"MTUBytes={mtu}")
    if any(subnet["ips"] for subnet in network["subnets"]):
        # A link-local address, which is there first, is not enough to be online with.
        lines.append("RequiredForOnline=routable")
    lines += ["", "[Network]", "DHCP=no", "IPv6AcceptRA=no", "LinkLocalAddressing=ipv6"]
    routes: list[str] = []
    for subnet in network["subnets"]:
        length = ipaddress.ip_network(subnet["cidr"]).prefixlen
        lines += [f"Address={ip['address']}/{length}" for ip in subnet["ips"]]
        lines += [f"DNS={server['address']}" for server in subnet.get("dns") or []]
        gateway = (subnet.get("gateway") or {}).get("address")
        if gateway:
            routes += ["", "[Route]", f"Gateway={gateway}", f"Metric={100 * (index + 1)}"]
        for route in subnet.get("routes") or []:
            via = (route.get("gateway") or {}).get("address")
            routes += ["", "[Route]", f"Destination={route['cidr']}", f"Gateway={via}"]
    return "\n".join([*lines, *routes]) + "\n"
