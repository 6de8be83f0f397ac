# SPDX-License-Identifier: Apache-2.0
"""How a pair elects its master, as its amphorae are configured, and advertisements about it."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field, replace
from typing import ClassVar

from scapy.layers.vrrp import VRRP, VRRPv3

from sriov_lb_tests import errors
from sriov_lb_tests.amphora import Amphora
from sriov_lb_tests.packets.probe import Identity, Probe, network
from sriov_lb_tests.policy import packet as headers

#: What Octavia's agent writes (octavia/amphorae/backends/agent/api_server/util.py).
CONFIGURATION = "/var/lib/octavia/vrrp/octavia-keepalived.conf"

#: Bytes of a secret that an advertisement carries (RFC 2338, 5.3.10).
SECRET = 8

#: Whoever has the highest priority holds the addresses; a master that lets go of them sends the
#: lowest (RFC 9568, 5.2.4).
HIGHEST, RESIGNS = 255, 0

#: Intervals between two advertisements of ours. Each resignation that a backup believes sets its
#: timer anew, to the skew, and each advertisement of the true master to the full time. So they are
#: further apart than the skew, and each comes at another moment after the true master's: one of
#: four is early enough for the skew to end before the next of these.
PACE = {HIGHEST: 0.25, RESIGNS: 1.3}


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

    def moments(self, priority: int) -> list[float]:
        """When to send advertisements of that priority, seconds since the first one: for as long
        as an election takes, so that who believes them has shown it by then."""
        step = PACE[priority] * self.interval
        return [number * step for number in range(int(self.seconds / step) + 3)]

    #: What somebody can say who does not know the secret.
    GUESSES: ClassVar = ("without a secret", "with a wrong secret")

    def guess(self, words: str) -> Election:
        """What one of :data:`GUESSES` comes to.

        The wrong secret is right but for its end, so whether all of it is looked at counts, too.
        """
        if words == self.GUESSES[0]:
            return replace(self, secret="")
        begin, last = self.secret[:SECRET][:-1], self.secret[:SECRET][-1:]
        return replace(self, secret=begin + ("0" if last != "0" else "1"))


def advertisement(
    destination: str, source: str, election: Election, priority: int = HIGHEST
) -> Probe:
    """A VRRP advertisement to one amphora (the pair is unicast)."""
    raw = election.secret.encode()[:SECRET].ljust(SECRET, b"\0")
    first, second = int.from_bytes(raw[:4], "big"), int.from_bytes(raw[4:], "big")

    def build(probe: Probe, identity: Identity):
        common = {"vrid": election.router, "priority": priority}
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
