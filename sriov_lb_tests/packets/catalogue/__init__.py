# SPDX-License-Identifier: Apache-2.0
"""The catalogue: packet classes a firewall has to have an answer for, as data.

::

    context = Context(version=4, vip="198.51.100.20", allowed="198.51.100.9", ...)
    for case in cases(context):            # those for which the context has what they need
        probe = case.probe(context)        # ready for Vantage.ask or wire.survey

Each :class:`Case` says which fate it deserves (``expected``), which others would break no promise
either (``also``), why, and by which source. A case that the context cannot serve (no UDP listener,
no peer, no live connection) is left out; ``missing(context)`` lists them with what they lack.
Only ``decisive`` cases can fail; the others tell what happens where nothing was promised.

To add a class: one ``add(...)`` in the module of its layer, with a fate, a reason and a source.
"""

from sriov_lb_tests.packets.catalogue import addresses as _addresses
from sriov_lb_tests.packets.catalogue import icmp as _icmp
from sriov_lb_tests.packets.catalogue import ip as _ip
from sriov_lb_tests.packets.catalogue import link as _link
from sriov_lb_tests.packets.catalogue import protocols as _protocols
from sriov_lb_tests.packets.catalogue import tcp as _tcp
from sriov_lb_tests.packets.catalogue import udp as _udp
from sriov_lb_tests.packets.catalogue.case import (
    Case,
    Context,
    Expected,
    Flow,
    Need,
    Registry,
)

_MODULES = (_tcp, _udp, _icmp, _ip, _addresses, _protocols, _link)


def everything(version: int) -> list[Case]:
    """Every case of an IP version, in a fixed order."""
    registry = Registry(version)
    for module in _MODULES:
        module.fill(registry)
    return registry.cases


def cases(context: Context) -> list[Case]:
    """The cases of the context's IP version that the context can serve."""
    return [case for case in everything(context.version) if not case.lacks(context)]


def peer_cases(context: Context) -> list[Case]:
    """Those that are about the other amphora of a pair: from its address and from the one after
    it. They go to the amphora whose address is ``context.own``."""
    return [case for case in cases(context) if Need.PEER in case.needs]


def missing(context: Context) -> dict[str, frozenset[Need]]:
    """Ids of the cases that are left out, with what they would need."""
    found = {case.id: case.lacks(context) for case in everything(context.version)}
    return {name: lacks for name, lacks in found.items() if lacks}


__all__ = [
    "Case",
    "Context",
    "Expected",
    "Flow",
    "Need",
    "cases",
    "everything",
    "missing",
    "peer_cases",
]
