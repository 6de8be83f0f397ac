# SPDX-License-Identifier: Apache-2.0
"""The sets of CIDRs of the matrix, around the client's own address. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence

#: Networks that nobody here is in, to make a set large.
_ELSEWHERE = {
    4: ipaddress.ip_network("198.18.128.0/17"),
    6: ipaddress.ip_network("2001:db8:f::/48"),
}

#: How many CIDRs "many" are.
MANY = 200

#: Prefix lengths by IP version: a network around the client, and half of it.
_WIDE, _HALF = {4: 26, 6: 120}, {4: 27, 6: 121}


def cidr_set(name: str, allowed: Mapping[int, str], versions: Sequence[int]) -> list[str] | None:
    """The CIDRs of a set; None for none at all.

    :param allowed: the client's address by IP version; it is in each set, in "all of one IP
        version" in that one's.
    :param versions: IP versions of the VIPs.
    """
    found: list[str] = []
    if name == "none":
        return None
    if name.startswith("all-ipv"):
        return [{4: "0.0.0.0/0", 6: "::/0"}[int(name[-1])]]
    if name == "mixed":
        return [_host(allowed[4]), str(_network(allowed[6], _WIDE[6]))]
    for version in versions:
        own = allowed[version]
        wide, half = (_network(own, sizes[version]) for sizes in (_WIDE, _HALF))
        if name == "one-host":
            found.append(_host(own))
        elif name == "nested":
            found += [str(wide), _host(own)]
        elif name == "overlapping":
            # The same network, written in two ways. Octavia's API makes them one CIDR of the
            # listener, so unlike "nested" this is no conflict in the amphora's ruleset.
            found += [str(wide), f"{own}/{wide.prefixlen}"]
        elif name == "adjacent":
            found += [str(half), str(next(one for one in wide.subnets() if one != half))]
        elif name == "many":
            found += [_host(own), *_many(version, MANY // len(versions) - 1)]
        else:
            raise ValueError(f"no set of CIDRs is called {name!r}")
    return found


def reached(name: str, versions: Sequence[int]) -> tuple[int, ...]:
    """IP versions in which the client may reach a listener with that set."""
    if name.startswith("all-ipv"):
        return tuple(version for version in versions if version == int(name[-1]))
    return tuple(versions)


def _host(address: str) -> str:
    return str(ipaddress.ip_network(address))


def _network(address: str, prefix: int) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network(f"{address}/{prefix}", strict=False)


def _many(version: int, count: int) -> list[str]:
    """Every second network of a range, so that no two are one."""
    length = {4: 26, 6: 64}[version]
    networks = _ELSEWHERE[version].subnets(new_prefix=length)
    return [str(one) for one, _ in zip(_every_second(networks), range(count), strict=False)]


def _every_second(networks):
    for number, one in enumerate(networks):
        if number % 2:
            yield one
