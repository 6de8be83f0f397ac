# SPDX-License-Identifier: Apache-2.0
"""Seeds each fault, runs the tests, takes it out, and writes the matrix down."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from sriov_lb_tests import errors
from sriov_lb_tests.agreement import Seat
from sriov_lb_tests.mutants.fault import Change, Fault, Target, Test
from sriov_lb_tests.mutants.faults import ALL
from sriov_lb_tests.mutants.matrix import KEPT, Cell, Matrix, Result, Row, judge
from sriov_lb_tests.mutants.seeding import Seeder
from sriov_lb_tests.mutants.testing import Outcomes, Subjects, Tests
from sriov_lb_tests.policy.proof import difference, disagreements
from sriov_lb_tests.policy.ruleset import parse


class Run:
    """One load balancer, every fault.

    :param folder: where the rules of its amphorae are kept while faults are in, and the matrix is
        written.
    :param ways: by amphora id, what whoever restores needs to get there.
    :param say: progress, one line each.
    """

    def __init__(
        self,
        subjects: Subjects,
        folder: Path,
        *,
        ways: Mapping[str, Mapping[str, Any]] | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.on, self.say = subjects, say
        self.tests = Tests(subjects)
        self.folder = folder
        self.seeders = {
            seat.id: Seeder(
                seat.inside,
                seat.id,
                folder,
                rules_file=subjects.rules_file,
                way=(ways or {}).get(seat.id),
            )
            for seat in subjects.seats
        }
        self.matrix = Matrix(
            tests=tuple(test for test in Test if test in self.tests.applicable())
        )
        if self.tests.routes:
            self.matrix.facts["routes without a fault"] = "; ".join(self.tests.routes)

    @property
    def backup(self) -> Seat | None:
        """The amphora of a pair that does not hold the VIP."""
        others = [seat for seat in self.on.seats if seat is not self.on.holder]
        return others[0] if others else None

    # without a fault

    def look(self) -> list[str]:
        """Every test without a fault; its alarms."""
        with self._flows() as contexts:
            found = self.tests.everything(contexts)
        return [text for outcome in found.values() for text in outcome.alarms]

    def clean(self, repeats: int) -> None:
        """Several looks without a fault.

        :raises NotRestored: never; alarms go into the matrix.
        """
        for number in range(repeats):
            alarms = self.look()
            self.matrix.clean.append(tuple(alarms))
            self.say(f"without a fault, {number + 1} of {repeats}: {len(alarms)} alarms")

    def _flows(self):
        return self.tests.flows() if self.on.vantage is not None else nullcontext({})

    # with faults

    def all(self, faults: Sequence[Fault] = ALL) -> Matrix:
        """Every fault, one after the other."""
        for number, fault in enumerate(faults, 1):
            row = self.one(fault)
            self.matrix.rows.append(row)
            words = row.why or row.sentence or row.detail
            self.say(f"{number} of {len(faults)}: {fault.id}: {row.result.value}: {words[:160]}")
        return self.matrix

    def one(self, fault: Fault) -> Row:
        """One fault in, tests, fault out."""
        found = self._aim(fault)
        if found is None:
            return Row(fault, Result.NOT_APPLICABLE)
        return self._seeded(fault, *found)

    def hold(self, fault: Fault, seconds: float) -> str:
        """One fault in, nothing for a while, fault out; for whoever looks meanwhile.

        :return: what was done.
        :raises ResourceMissing: this load balancer's rules have nothing for it.
        """
        found = self._aim(fault)
        if found is None:
            raise errors.ResourceMissing(
                f"The rules of the load balancer have nothing for the fault {fault.id}.",
                remedy="`sriov-lb mutants --list` says what each is about.",
            )
        seat, seeder, target, change = found
        with seeder.seeded(fault.id, target.listing, change):
            seeder.set(change.sysctls)
            self.say(f"{fault.id} is in {seat} for {seconds:.0f} s: {change.detail}")
            time.sleep(seconds)
        return change.detail

    def _aim(self, fault: Fault) -> tuple[Seat, Seeder, Target, Change] | None:
        """Where a fault goes and what it is there; None when there is nothing for it."""
        seat = self.backup if fault.backup else self.on.holder
        if seat is None:
            return None
        seeder = self.seeders[seat.id]
        target = Target(
            seeder.listing(),
            self.on.policies[seat.id],
            backup=fault.backup,
            rules_file=seeder.saved.rules_file,
            settings=seeder.settings(),
            aimed=self.tests.aimed,
        )
        change = fault.make(target)
        return None if change is None else (seat, seeder, target, change)

    def _seeded(
        self, fault: Fault, seat: Seat, seeder: Seeder, target: Target, change: Change
    ) -> Row:
        unasked = [why for one in change.routes if (why := self.tests.no_forwarding(one))]
        if unasked:
            why = "; ".join(unasked)
            return Row(fault, Result.NOT_APPLICABLE, detail=change.detail, why=why)
        started = time.monotonic()
        try:
            differs, broken, sendable = self._read(seat, target, change, fault)
            with self._flows() as contexts:
                with seeder.seeded(fault.id, target.listing, change):
                    if change.repair:
                        self._repaired(change)
                        seeder.set(change.sysctls)
                    found = self.tests.everything(
                        contexts,
                        stale_ports=change.stale_ports,
                        disk=change.listing is None,
                        routes=change.routes,
                    )
        except errors.NotRestored:
            raise
        except errors.SriovLbError as error:
            return Row(fault, Result.UNCLEAR, detail=change.detail, why=str(error))
        return judge(
            fault,
            _cells(found),
            detail=change.detail,
            differs=differs,
            broken=broken,
            seen=seat is self.on.holder and not fault.unseen,
            sendable=sendable,
            applicable=found,
            seconds=time.monotonic() - started,
        )

    def _repaired(self, change: Change) -> None:
        """Without the fault the test that has to catch it is silent.

        :raises ControlFailed: it is not.
        """
        found = self.tests.forwarding(change.routes)
        for text in (*found.alarms, *found.unclear):
            settings = ", ".join(f"{name} = {value}" for name, value in change.repair.items())
            raise errors.ControlFailed(f"With {settings} nothing is different: {text}")

    def _read(self, seat: Seat, target: Target, change: Change, fault: Fault):
        """What the change means by the proof: differs, breaks a promise, a witness can be sent."""
        if change.listing is None:
            return True, not fault.harmless, False
        policy = self.on.policies[seat.id]
        old, new = (parse(one.document()) for one in (target.listing, change.listing))
        names = self.tests.interfaces(seat)
        broken = bool(disagreements(policy, new, interfaces=names, limit=1))
        differs = broken or difference(old, new, interfaces=names) is not None
        here = self.on.vantage is not None and seat is self.on.holder
        return differs, broken, here and broken and self.tests.sendable(new)


def _cells(found: Outcomes) -> dict[Test, Cell]:
    return {
        test: Cell(
            bool(outcome.alarms), tuple(outcome.alarms[:KEPT]), tuple(outcome.unclear[:KEPT])
        )
        for test, outcome in found.items()
    }
