# SPDX-License-Identifier: Apache-2.0
"""An amphora over a wire host.

Octavia puts haproxy, the VIP and the ruleset into the network namespace ``amphora-haproxy``; the
VIP interface is always ``eth1`` there (octavia/common/constants.py: AMPHORA_NAMESPACE,
NETNS_PRIMARY_INTERFACE).
"""

from __future__ import annotations

import ipaddress
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sriov_lb_tests import errors
from sriov_lb_tests.amphora import counting
from sriov_lb_tests.policy.ruleset import Ruleset, parse
from sriov_lb_tests.wire.host import Host, Interface

NAMESPACE = "amphora-haproxy"
VIP_INTERFACE = "eth1"

#: Octavia's own file of rules, loaded again when the interface comes up.
RULES_FILE = "/var/lib/octavia/nftables-vip.rules"

#: Exit status by which the shell says that it was nft that failed.
REFUSED = 77


@dataclass(frozen=True)
class Service:
    """A systemd unit: ``active``/``running`` and the like."""

    name: str
    active: str
    sub: str


class Amphora:
    """What can be seen, and counted, inside one amphora. Changes nothing that outlives it.

    :param host: how to get there; its user has to be root or have sudo.
    :param netns: the namespace of haproxy; None when ``host`` is that namespace already.
    """

    def __init__(
        self, host: Host, *, netns: str | None = NAMESPACE, vip_interface: str = VIP_INTERFACE
    ) -> None:
        self.host, self.netns, self.vip_interface = host, netns, vip_interface

    def within(self, *argv: str, input: str | None = None, check: bool = True):
        """Run a command as root in haproxy's namespace."""
        prefix = ["ip", "netns", "exec", self.netns] if self.netns else []
        data = input.encode() if input is not None else None
        return self.host.run([*prefix, *argv], input=data, check=check, root=True)

    def nft(self, *arguments: str, input: str | None = None) -> str:
        """nft in haproxy's namespace; what it printed."""
        return self.within("nft", *arguments, input=input).stdout

    def ruleset_json(self) -> str:
        """``nft -j list ruleset`` as text."""
        return self.nft("-j", "list", "ruleset")

    def ruleset(self) -> Ruleset:
        """The ruleset, parsed; our own counting tables are left out.

        :raises UnknownExpression: it holds something that is not understood.
        """
        listing = json.loads(self.ruleset_json())
        kept = [
            entry
            for entry in listing["nftables"]
            if not _table_of(entry).startswith(counting.PREFIX)
        ]
        return parse({"nftables": kept})

    def rules_on_disk(self, path: str = RULES_FILE) -> str | None:
        """What a reboot would load, as ``nft -j list ruleset`` has it; None without such a file.

        It is loaded into a network namespace of its own, which ends with the command, and as
        Octavia loads it: ``nft -o`` makes sets of its rules, and fails of some files that nft
        alone takes (octavia/amphorae/backends/utils/nftable_utils.py).

        :raises RulesDoNotLoad: nft refuses it; its words are in ``stderr``.
        :raises CommandFailed: nobody could look.
        """
        script = (
            f'[ -e "{path}" ] || exit 0; nft -o -f "{path}" >/dev/null || exit {REFUSED}; '
            "nft -j list ruleset"
        )
        done = self.host.run(["unshare", "--net", "sh", "-c", script], root=True, check=False)
        if done.status == REFUSED:
            said = done.stderr.strip()
            raise errors.RulesDoNotLoad(f"{path} on {self.host.name}: {said}", stderr=said)
        return done.checked(self.host.name).stdout or None

    def interfaces(self) -> dict[str, Interface]:
        """Interfaces of haproxy's namespace by name."""
        listing = json.loads(self.within("ip", "-j", "address", "show").stdout)
        found = {}
        for entry in listing:
            if not entry:
                continue
            found[entry["ifname"]] = Interface(
                name=entry["ifname"],
                index=entry["ifindex"],
                mac=entry.get("address", ""),
                mtu=entry["mtu"],
                up="UP" in entry["flags"],
                addresses=tuple(
                    ipaddress.ip_interface(f"{one['local']}/{one['prefixlen']}")
                    for one in entry["addr_info"]
                ),
            )
        return found

    def holds(self, *addresses: str) -> bool:
        """Whether all of these addresses are on its interfaces now."""
        found = self.interfaces().values()
        return all(any(interface.owns(one) for interface in found) for one in addresses)

    def source_to(self, address: str) -> str | None:
        """From which of its own haproxy's namespace would ask an address; None without a route."""
        done = self.within("ip", "-j", "route", "get", address, check=False)
        return json.loads(done.stdout)[0].get("prefsrc") if done.status == 0 else None

    def has_ip_vs(self) -> bool:
        """Whether UDP and SCTP listeners can be served: ip_vs is loaded, or there to be loaded,
        which keepalived does when it is asked for a virtual server."""
        look = "test -e /proc/net/ip_vs || modprobe --dry-run --quiet ip_vs"
        return self.host.run(["sh", "-c", look], check=False, root=True).status == 0

    @contextmanager
    def counting(self, mac: str) -> Iterator[counting.Counts]:
        """Count frames from ``mac`` at arrival, before and after the filter; see ``counting``."""
        with counting.counting(self, mac, secrets.token_hex(4)) as counts:
            yield counts

    def services(self) -> dict[str, Service]:
        """haproxy, keepalived and agent units by name."""
        done = self.host.run(
            ["systemctl", "list-units", "--all", "--plain", "--no-legend", "--no-pager",
             "haproxy-*", "octavia-keepalived*", "amphora-*"],
            root=True,
        )  # fmt: skip
        found = {}
        for line in done.stdout.splitlines():
            parts = line.split(None, 4)
            if len(parts) >= 4:
                found[parts[0]] = Service(parts[0], parts[2], parts[3])
        return found

    def agent_log(self, lines: int = 400) -> str:
        """The end of the amphora agent's log."""
        path = "/var/log/amphora-agent.log"
        done = self.host.run(["tail", "-n", str(lines), path], root=True, check=False)
        if done.status == 0:
            return done.stdout
        unit = ["journalctl", "--no-pager", "-n", str(lines), "-u", "amphora-agent"]
        return self.host.run(unit, root=True).stdout

    def collect(self, folder: Path | str) -> dict[str, Path]:
        """Everything worth having after a failure, one file each; by title.

        A command that fails leaves its error in its file; a host that is gone leaves one file
        that says so. Never raises for what it could not collect.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        inside = ["ip", "netns", "exec", self.netns] if self.netns else []
        wanted = {
            "ruleset.json": [*inside, "nft", "-j", "list", "ruleset"],
            "ruleset.txt": [*inside, "nft", "-a", "list", "ruleset"],
            "rules-file.txt": ["cat", RULES_FILE],
            "addresses.txt": [*inside, "ip", "-s", "address", "show"],
            "routes.txt": [*inside, "ip", "route", "show", "table", "all"],
            "routes6.txt": [*inside, "ip", "-6", "route", "show", "table", "all"],
            "neighbours.txt": [*inside, "ip", "neighbour", "show"],
            "sockets.txt": [*inside, "ss", "-tulpn"],
            "conntrack.txt": [*inside, "cat", "/proc/net/nf_conntrack"],
            "conntrack-stat.txt": [*inside, "cat", "/proc/net/stat/nf_conntrack"],
            "sysctl.txt": [*inside, "sysctl", "-a", "-r", r"net\.(ipv4|ipv6)\.conf|nf_conntrack_"],
            "processes.txt": ["ps", "axww", "-o", "pid,ppid,stat,etime,args"],
            "units.txt": ["systemctl", "list-units", "--all", "--no-pager"],
            "haproxy.cfg.txt": ["sh", "-c", "cat /var/lib/octavia/*/haproxy.cfg"],
            "keepalived.txt": ["sh", "-c", "cat /var/lib/octavia/vrrp/octavia-keepalived.conf"],
            "journal.txt": ["journalctl", "--no-pager", "-n", "2000"],
            "agent.log": ["tail", "-n", "4000", "/var/log/amphora-agent.log"],
        }
        found: dict[str, Path] = {}
        for title, argv in wanted.items():
            path = folder / title
            try:
                done = self.host.run(argv, root=True, check=False, timeout=20)
                text = done.stdout
                if done.status:
                    text += f"\n[status {done.status}] {done.stderr}"
            except errors.GuestUnreachable as error:
                path.write_text(f"{error}\n")
                found[title] = path
                return found
            except errors.SriovLbError as error:
                text = f"{error}\n"
            path.write_text(text)
            found[title] = path
        return found


def _table_of(entry: dict) -> str:
    """The table that an object of a listing belongs to; "" for none."""
    ((kind, value),) = entry.items()
    if not isinstance(value, dict):
        return ""
    return value.get("name", "") if kind == "table" else value.get("table", "")
