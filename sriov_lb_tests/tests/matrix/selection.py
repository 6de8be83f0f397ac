# SPDX-License-Identifier: Apache-2.0
"""Which cells of a matrix run. Pure.

A load balancer takes half a minute, a listener seconds. So the rows (load balancers) are a
pairwise selection over the factors of a load balancer, and listeners are put on them until every
two values of any two factors, of whichever kind, have met in some cell. A load balancer that some
releases cannot build stands beside them and carries nothing alone: where it fails, nothing else is
lost.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from allpairspy import AllPairs

from sriov_lb_tests.cloud.scenario import Matrix

Pair = frozenset[tuple[str, Any]]

#: Load balancers that some releases of Octavia cannot build: OCTAVIA-IPV6-PAIR in the registry.
DOUBTFUL = {"vip": "direct", "versions": "ipv6", "topology": "ACTIVE_STANDBY"}

#: Listeners of such a one in a pairwise selection.
DOUBTFUL_CELLS = 3


@dataclass(frozen=True)
class Cell:
    """One listener of a row."""

    protocol: str
    cidrs: str

    def __str__(self) -> str:
        return f"{self.protocol.lower().replace('_', '-')}/{self.cidrs}"


@dataclass(frozen=True)
class Row:
    """One load balancer and what is put on it.

    :param number: from 1.
    :param values: by factor of a load balancer.
    """

    number: int
    values: Mapping[str, Any]
    cells: tuple[Cell, ...]

    @property
    def versions(self) -> tuple[int, ...]:
        return {"ipv4": (4,), "ipv6": (6,), "dual": (4, 6)}[self.values["versions"]]

    @property
    def vfs(self) -> int:
        """Virtual functions that its amphorae take."""
        each = (self.values["vip"] == "direct") + (
            self.values["member_port"] == "direct" and self.values["member_place"] == "own"
        )
        return each * (2 if self.values["topology"] == "ACTIVE_STANDBY" else 1)

    def __str__(self) -> str:
        value = self.values
        place = {
            "vip": "on the VIP's subnet", "own": "on a network of their own",
            "second": "on a second subnet of the VIP's network",
        }[value["member_place"]]  # fmt: skip
        more = value["additional_vips"]
        vips = {0: "no additional VIP", 1: "1 additional VIP"}.get(more, f"{more} additional VIPs")
        ip = {"ipv4": "IPv4", "ipv6": "IPv6", "dual": "IPv4 and IPv6"}[value["versions"]]
        return (
            f"{value['vip']} VIP, {value['member_port']} member port, members {place}, {ip}, "
            f"{value['topology']}, {vips}"
        )


def rows(matrix: Matrix, selection: str = "pairwise") -> list[Row]:
    """The rows, always the same for the same matrix.

    :param selection: as in ``[sriov_lb] matrix``. ``full`` is every load balancer that is possible,
        with each protocol and each set of CIDRs that it can have on it; which protocol has which
        set differs from one to the next, and all combinations of these two are among them.
        ``product`` is every load balancer with every protocol with every set.
    """
    return {"pairwise": _pairwise, "full": _full, "product": _product}[selection](matrix)


def needed(matrix: Matrix) -> set[Pair]:
    """Every two values of two factors that can meet in some cell, but for those that take long:
    these are needed with what the matrix names and with nothing else."""
    found: set[Pair] = set()
    for balancer in _possible(matrix):
        for cell in _cells(matrix, balancer):
            found |= _pairs(balancer, cell)
    return {pair for pair in found if all(_wanted(matrix, pair, value) for value in pair)}


def _wanted(matrix: Matrix, pair: Pair, value: tuple[str, Any]) -> bool:
    company = matrix.once.get(value)
    return company is None or all(other in company.items() for other in pair - {value})


def covered(selection: Iterable[Row]) -> set[Pair]:
    """The pairs that meet in some cell of a selection."""
    return {pair for row in selection for cell in row.cells for pair in _pairs(row.values, cell)}


def _possible(matrix: Matrix) -> list[dict[str, Any]]:
    names = list(matrix.load_balancer)
    everything = itertools.product(*matrix.load_balancer.values())
    found = (dict(zip(names, values, strict=True)) for values in everything)
    return [values for values in found if not matrix.ruled_out(values)]


def _cells(matrix: Matrix, balancer: Mapping[str, Any]) -> list[Cell]:
    """Listeners that a load balancer may have, the sets of CIDRs in the file's order."""
    return [
        Cell(protocol, cidrs)
        for cidrs in matrix.listener["cidrs"]
        for protocol in matrix.listener["protocol"]
        if not matrix.ruled_out({**balancer, "protocol": protocol, "cidrs": cidrs})
    ]


def _pairs(balancer: Mapping[str, Any], cell: Cell) -> set[Pair]:
    values = [*balancer.items(), ("protocol", cell.protocol), ("cidrs", cell.cidrs)]
    return {frozenset(pair) for pair in itertools.combinations(values, 2)}


def _balancers(matrix: Matrix) -> list[dict[str, Any]]:
    """Load balancers in which every two of their own values meet that can, also where the doubtful
    ones, which come last, cannot be built."""
    names = list(matrix.load_balancer)

    def fine(values: list[Any]) -> bool:
        known = dict(zip(names, values, strict=False))
        return not matrix.ruled_out(known) and not doubtful(known)

    always = [_first(matrix, values) for values in matrix.always]
    seeds = [values for values in always if not doubtful(values)]
    chosen = AllPairs(
        list(matrix.load_balancer.values()),
        filter_func=fine,
        previously_tested=[list(values.values()) for values in seeds],
    )
    found = seeds + [dict(zip(names, values, strict=True)) for values in chosen]
    possible = [values for values in _possible(matrix) if not doubtful(values)]
    wanted = {
        frozenset(pair)
        for values in possible
        for pair in itertools.combinations(values.items(), 2)
    }
    for values in found:
        wanted -= {frozenset(pair) for pair in itertools.combinations(values.items(), 2)}
    # With rules, allpairspy may end before every pair has met.
    while wanted:
        best = max(
            possible,
            key=lambda v: len(wanted & set(map(frozenset, itertools.combinations(v.items(), 2)))),
        )
        found.append(best)
        wanted -= set(map(frozenset, itertools.combinations(best.items(), 2)))
    return found + [values for values in always if doubtful(values)]


def _first(matrix: Matrix, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The plainest possible load balancer with these values."""
    return next(v for v in _possible(matrix) if wanted.items() <= v.items())


def doubtful(balancer: Mapping[str, Any]) -> bool:
    """Whether some releases cannot build it."""
    return DOUBTFUL.items() <= balancer.items()


def _pairwise(matrix: Matrix) -> list[Row]:
    balancers = _balancers(matrix)
    missing = needed(matrix)
    chosen: list[list[Cell]] = [
        _each_value(matrix, balancer, 0)[:DOUBTFUL_CELLS] if doubtful(balancer) else []
        for balancer in balancers
    ]
    options = [
        [] if doubtful(balancer) else _cells(matrix, balancer) for balancer in balancers
    ]
    while missing:
        gain, least, where, cell = max(
            (
                (len(missing & _pairs(balancers[n], cell)), -len(chosen[n]), n, cell)
                for n, cells in enumerate(options)
                for cell in cells
                if cell not in chosen[n]
            ),
            key=lambda entry: (entry[0], entry[1], -entry[2]),
        )
        if not gain:
            break
        chosen[where].append(cell)
        missing -= _pairs(balancers[where], cell)
    return [
        Row(number, balancer, _ordered(matrix, cells))
        for number, (balancer, cells) in enumerate(zip(balancers, chosen, strict=True), 1)
    ]


def _full(matrix: Matrix) -> list[Row]:
    found = []
    for number, balancer in enumerate(_possible(matrix)):
        # Neighbours differ in the last factors only: an even step would tie these to protocols.
        turn = number + number // len(matrix.listener["protocol"])
        cells = _each_value(matrix, balancer, turn)
        found.append(Row(number + 1, balancer, _ordered(matrix, cells)))
    return found


def _product(matrix: Matrix) -> list[Row]:
    return [
        Row(number, balancer, _ordered(matrix, _cells(matrix, balancer)))
        for number, balancer in enumerate(_possible(matrix), 1)
    ]


def _each_value(matrix: Matrix, balancer: Mapping[str, Any], turn: int) -> list[Cell]:
    """Few listeners with every protocol and every set of CIDRs that a load balancer can have.

    :param turn: by how much protocols are shifted against sets.
    """
    protocols, sets = matrix.listener["protocol"], matrix.listener["cidrs"]

    def shift(cell: Cell) -> int:
        own = protocols.index(cell.protocol) - sets.index(cell.cidrs)
        return (own - turn) % len(protocols)

    options = _cells(matrix, balancer)
    lacking = {("protocol", cell.protocol) for cell in options}
    lacking |= {("cidrs", cell.cidrs) for cell in options}
    chosen = []
    for cell in sorted(options, key=shift):
        brings = {("protocol", cell.protocol), ("cidrs", cell.cidrs)} & lacking
        if brings:
            chosen.append(cell)
            lacking -= brings
    return chosen


def _ordered(matrix: Matrix, cells: Iterable[Cell]) -> tuple[Cell, ...]:
    order = matrix.listener["cidrs"].index, matrix.listener["protocol"].index
    return tuple(sorted(cells, key=lambda cell: (order[0](cell.cidrs), order[1](cell.protocol))))
