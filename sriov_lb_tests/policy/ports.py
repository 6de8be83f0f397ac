# SPDX-License-Identifier: Apache-2.0
"""What a policy promises one source about all ports at once.

Clauses speak of ports in intervals, so between two of their bounds one packet speaks for all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from sriov_lb_tests.policy.intervals import Intervals, canonical
from sriov_lb_tests.policy.model import Policy, Promise
from sriov_lb_tests.policy.packet import Packet

LAST = 65535


def by_port(policy: Policy, packet: Packet) -> Mapping[Promise, Intervals]:
    """The promise for ``packet`` with each destination port.

    :return: intervals of ports by promise; each port is in exactly one.
    """
    bounds = {0, LAST + 1}
    for clause in policy.clauses:
        for match in clause.matches:
            for low, high in match.dport or ():
                bounds |= {low, high + 1}
    cuts = sorted(bound for bound in bounds if 0 <= bound <= LAST + 1)
    found: dict[Promise, list[tuple[int, int]]] = {promise: [] for promise in Promise}
    for low, after in zip(cuts, cuts[1:], strict=False):
        clause = policy.decide(dataclasses.replace(packet, dport=low))
        found[clause.promise].append((low, after - 1))
    return {promise: canonical(pairs) for promise, pairs in found.items()}
