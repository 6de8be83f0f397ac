# SPDX-License-Identifier: Apache-2.0
"""Faults of a pair, of the rules file, and of the kernel's settings. Pure."""

from __future__ import annotations

import ipaddress

from sriov_lb_tests.mutants.fault import FORWARDING_SETTING, Change, Fault, Target, Test
from sriov_lb_tests.mutants.listing import ACCEPT, match, payload, source

PROOF, DISK, FORWARDING = Test.PROOF, Test.DISK, Test.FORWARDING
PORTS, STRANGERS = Test.PORTS, Test.STRANGERS


def _peer_replaced(new):
    def make(target: Target) -> Change | None:
        entry = target.peer
        if entry is None:
            return None
        listing = target.listing.copy()
        rows = new(entry)
        listing.replace_entry(entry, *rows)
        return Change(f"the row of the peer {entry.network} is another", listing)

    return make


def _next(entry):
    found = entry.network
    return [entry.with_source(source(ipaddress.ip_network(int(found.network_address) + 1)
                                     if found.version == 6 else
                                     f"{found.network_address + 1}/32"))]  # fmt: skip


def _subnet(entry):
    length = 24 if entry.version == 4 else 64
    wide = ipaddress.ip_network(f"{entry.network.network_address}/{length}", strict=False)
    return [entry.with_source(source(wide))]


def _all_of_peer(entry):
    return [[source(entry.network), ACCEPT]]


def _backup_empty(target: Target) -> Change | None:
    """The last change reached one amphora of the pair only."""
    if not target.backup or target.vip_chain is None:
        return None
    doomed = [e for e in target.entries if not e.is_vrrp]
    if not doomed:
        return None
    listing = target.listing.copy()
    for entry in sorted(doomed, key=lambda e: (e.index, e.row), reverse=True):
        listing.replace_entry(entry)
    return Change("the amphora that does not hold the VIP has no listener's rule", listing)


def _backup_open(target: Target) -> Change | None:
    if not target.backup or target.vip_chain is None:
        return None
    listing = target.listing.copy()
    listing.insert_rule(target.vip_chain, [match(payload("tcp", "dport"), 8443), ACCEPT])
    return Change("the amphora that does not hold the VIP kept a deleted listener's port", listing)


def _forwarding(version: int):
    name = FORWARDING_SETTING[version]

    def make(target: Target) -> Change | None:
        now = target.settings.get(name)
        if version not in target.versions() or now is None:
            return None
        # Octavia's amphorae forward without any fault: then what the fault changes is the repair.
        repair = {} if now == "0" else {name: "0"}
        detail = f"{name} = 1{', after it was 0' if repair else ''}"
        return Change(detail, sysctls={name: "1"}, repair=repair, routes=(version,))

    return make


def _file(text: str, detail: str):
    def make(target: Target) -> Change | None:
        if target.rules_file is None or target.vip_chain is None:
            return None
        return Change(detail, rules_file=text)

    return make


def _no_file(target: Target) -> Change | None:
    if target.rules_file is None or target.vip_chain is None:
        return None
    return Change("there is no rules file", no_rules_file=True)


EMPTY_TABLE = "table inet amphora_table {}\n"

CLOSED_FILE = """\
table inet amphora_table {}
delete table inet amphora_table
table inet amphora_table {
  chain amphora_chain {
    type filter hook input priority filter; policy drop;
    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
  }
}
"""

FAULTS: tuple[Fault, ...] = (
    # the pair
    Fault("peer-lost", "VRRP of the peer is not let in", (PROOF,),
          _peer_replaced(lambda e: []),
          unseen="only the peer may send from its address"),
    Fault("peer-wrong", "the peer's address is off by one", (PROOF,), _peer_replaced(_next),
          unseen="only the peer may send from its address"),
    Fault("peer-network", "VRRP of the peer's whole network is let in", (PROOF, STRANGERS),
          _peer_replaced(_subnet)),
    Fault("peer-all", "the peer may do anything", (PROOF,), _peer_replaced(_all_of_peer),
          unseen="only the peer may send from its address"),
    Fault("one-of-pair-closed", "a change reached one amphora of the pair only", (PROOF,),
          _backup_empty, unseen="no packet comes to it until it takes over", backup=True),
    Fault("one-of-pair-open", "a deletion reached one amphora of the pair only", (PROOF,),
          _backup_open, unseen="no packet comes to it until it takes over", backup=True),
    # what a reboot would load
    Fault("file-empty", "the rules file is empty: the next reboot opens everything", (DISK,),
          _file("", "the rules file is empty"), unseen="it matters at the next reboot"),
    Fault("file-missing", "the rules file is gone: the next reboot lets nobody in", (DISK,),
          _no_file, unseen="it matters at the next reboot"),
    Fault("file-no-chain", "the rules file has a table and no rule", (DISK,),
          _file(EMPTY_TABLE, "the rules file has an empty table"),
          unseen="it matters at the next reboot"),
    Fault("file-stale", "the rules file is older than the listeners", (DISK,),
          _file(CLOSED_FILE, "the rules file lets no listener's traffic in"),
          unseen="it matters at the next reboot"),
    Fault("file-damaged", "the rules file does not load", (DISK,),
          _file("table inet amphora_table { chain", "the rules file ends in mid-sentence"),
          unseen="it matters at the next reboot"),
    # the kernel
    Fault("forwarding-v4", "the amphora routes IPv4 between its networks", (FORWARDING,),
          _forwarding(4)),
    Fault("forwarding-v6", "the amphora routes IPv6 between its networks", (FORWARDING,),
          _forwarding(6)),
)  # fmt: skip
