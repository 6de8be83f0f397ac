# SPDX-License-Identifier: Apache-2.0
"""How a pair elects its master, as its amphorae are configured, and advertisements about it."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field, replace

from scapy.layers.vrrp import VRRP, VRRPv3

from sriov_lb_tests import errors
from sriov_lb_tests.amphora import Amphora
from sriov_lb_tests.packets.probe import Identity, Probe, network
from sriov_lb_tests.policy import packet as headers

#: What Octavia's agent writes (octavia/amphorae/backends/agent/api_server/util.py).
CONFIGURATION = "/var/lib/octavia/vrrp/octavia-keepalived.conf"

#: The highest priority: whoever has it holds the addresses (RFC 9568, 5.2.4).
HIGHEST = 255


@dataclass(frozen=True)
class Election:
    """One amphora's part in it.

    :param router: the virtual router's number.
    :param interval: seconds between two advertisements.
    :param secret: what advertisements of version 2 carry to be believed; "" for nothing.
    :param addresses: what an advertisement lists.
    """

    router: int
    priority: int
    interval: int
    secret: str = field(repr=False)  # nothing for a report
    addresses: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Election:
        """From keepalived's configuration.

        :raises ControlFailed: it does not say what is needed.
        """

        def word(name: str, default: str = "") -> str:
            found = re.search(rf"^\s*{name}\s+(\S+)", text, re.MULTILINE)
            return found.group(1) if found else default

        block = re.search(r"^\s*virtual_ipaddress\s*\{([^}]*)\}", text, re.MULTILINE)
        listed = [line.split()[0].split("/")[0] for line in block.group(1).splitlines()
                  if line.strip()] if block else []  # fmt: skip
        router, priority = word("virtual_router_id"), word("priority")
        if not (router and priority and listed):
            raise errors.ControlFailed(
                "keepalived's configuration names no virtual_router_id, priority or "
                f"virtual_ipaddress: {len(text)} characters of it."
            )
        secret = word("auth_pass") if word("auth_type").upper() == "PASS" else ""
        return cls(int(router), int(priority), int(word("advert_int", "1")), secret, tuple(listed))

    @classmethod
    def of(cls, amphora: Amphora) -> Election:
        """As an amphora is configured.

        :raises ControlFailed: it does not say what is needed.
        :raises CommandFailed: there is no configuration.
        """
        return cls.parse(amphora.host.run(["cat", CONFIGURATION], root=True).stdout)

    @property
    def seconds(self) -> float:
        """After which a backup that hears nobody takes over: three intervals and the skew
        (RFC 3768, 6.1)."""
        return 3 * self.interval + (256 - self.priority) / 256

    def foreign(self) -> Election:
        """One that concerns nobody here: what believes it believes anything."""
        return replace(self, router=self.router % 255 + 1, secret="")


def advertisement(destination: str, source: str, election: Election) -> Probe:
    """A VRRP advertisement of the highest priority, to one amphora (the pair is unicast)."""
    raw = election.secret.encode()[:8].ljust(8, b"\0")
    first, second = int.from_bytes(raw[:4], "big"), int.from_bytes(raw[4:], "big")

    def build(probe: Probe, identity: Identity):
        common = {"vrid": election.router, "priority": HIGHEST}
        listed = [a for a in election.addresses if ipaddress.ip_address(a).version == probe.version]
        common["addrlist"] = listed or [probe.source]
        if probe.version == 4:
            header = network(probe, identity, proto=headers.VRRP, ttl=255)
            return header / VRRP(
                **common, adv=election.interval, authtype=1 if election.secret else 0,
                auth1=first, auth2=second,
            )  # fmt: skip
        header = network(probe, identity, nh=headers.VRRP, hlim=255)
        return header / VRRPv3(**common, adv=100 * election.interval)

    # Never answer for somebody else's address: the real one is there.
    return Probe("VRRP advertisement", destination, build, source, play=False, expects_answer=False)
