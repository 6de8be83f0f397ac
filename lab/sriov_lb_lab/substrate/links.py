# SPDX-License-Identifier: Apache-2.0
"""Network links, read and changed through iproute2's JSON, in any network namespace."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable
from typing import Any

from sriov_lb_lab.substrate.errors import CommandFailed
from sriov_lb_lab.substrate.execute import run


def links(netns: str | None = None) -> list[dict[str, Any]]:
    """All links of a namespace as ``ip -j -d link`` describes them."""
    return json.loads(run("ip", "-j", "-d", "link", "show", netns=netns) or "[]")


def names(netns: str | None = None) -> set[str]:
    """Names of all links of a namespace."""
    return {link["ifname"] for link in links(netns)}


def exists(name: str) -> bool:
    """Whether the caller's namespace has a link of that name. Costs next to nothing."""
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True


def mac(name: str, netns: str | None = None) -> str:
    """A link's address, lower-case.

    :raises CommandFailed: there is no such link.
    """
    (link,) = json.loads(run("ip", "-j", "link", "show", "dev", name, netns=netns))
    return link["address"].lower()


def delete(name: str, netns: str | None = None) -> bool:
    """Delete a link; False if it was not there (any more)."""
    try:
        run("ip", "link", "delete", "dev", name, netns=netns)
    except CommandFailed as failure:
        if "Cannot find device" in failure.stderr:
            return False
        raise
    return True


def find_by_alias(alias: str, namespaces: Iterable[str]) -> tuple[str, str] | None:
    """Where the link with that ifalias is, however it was renamed and moved since it got it.

    :param namespaces: paths to search, in order. One that vanishes meanwhile is passed over.
    :returns: (path of the namespace, present name of the link), or None.
    """
    for netns in namespaces:
        try:
            found = links(netns)
        except CommandFailed:
            # Its last process ended between listing and entering: nothing is in it any more.
            continue
        for link in found:
            if link.get("ifalias") == alias:
                return netns, link["ifname"]
    return None
