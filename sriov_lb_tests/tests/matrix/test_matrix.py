# SPDX-License-Identifier: Apache-2.0
"""The matrix: what can differ between load balancers, and all of it has to work."""

from __future__ import annotations

import ipaddress
import random
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from openstack import exceptions as sdk
from tempest import config
from tempest.lib import decorators

from sriov_lb_tests import agreement, errors
from sriov_lb_tests.agreement import Agreement
from sriov_lb_tests.amphora import VIP_INTERFACE, Amphora
from sriov_lb_tests.cloud import scenario
from sriov_lb_tests.policy.packet import Packet
from sriov_lb_tests.tests import base
from sriov_lb_tests.tests.agreement import Agrees
from sriov_lb_tests.tests.base import requirement
from sriov_lb_tests.tests.matrix import cidrs, request, selection
from sriov_lb_tests.tests.matrix.ground import Balancer, Ground
from sriov_lb_tests.tests.matrix.selection import Cell, Row
from sriov_lb_tests.verdicts.defects import Judgement
from sriov_lb_tests.verdicts.model import (
    Broken,
    Inconclusive,
    KnownDefect,
    NotSupported,
    Result,
    Verdict,
)

CONF = config.CONF

MATRIX = "load-balancers"
#: How many test methods there are: one for each load balancer of the pairwise selection. Of a
#: larger one, each takes every METHODSth.
METHODS = 13
#: Port of the first cell of a load balancer; the others follow.
FIRST_PORT = 8100
#: From where on a port is taken that never had a listener: far from all of them.
FAR_PORTS = 20000
#: The next load balancer is asked for ahead when both together take at most this many VFs.
AHEAD = 4

#: What Octavia or Nova say where the cloud is full, which is nobody's defect.
SHORTAGE = re.compile("resources available|No valid host|Failed to claim PCI", re.IGNORECASE)

NEEDS = ("admin_mode",)
SENTENCE = (
    "A load balancer of the matrix serves each listener, and policy, ruleset and wire agree."
)


@dataclass
class Outcome:
    """What became of a cell.

    :param verdict: None as long as nobody has looked at it to the end.
    :param problems: sentences; what Octavia did wrong, and each request that failed.
    :param findings: what the comparison of policy, ruleset and wire found.
    :param notes: what the tests had to do about it; nobody's fault.
    :param failed: how Octavia failed the listener, if it did, until it is among the problems.
    :param judged: problems and findings as :meth:`TestMatrix.judge` puts them: what nobody knows
        yet first.
    """

    cell: Cell
    verdict: Verdict | None = None
    problems: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    defect: str | None = None
    seen: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.time)
    failed: errors.SriovLbError | None = None
    judged: str = ""

    @property
    def broken(self) -> bool:
        return self.verdict is not None and self.verdict.broken

    @property
    def reason(self) -> str:
        said = [self.judged] if self.judged else [*self.problems, *self.findings]
        return "\n".join([*said, *self.notes])


def refused(refusal: sdk.HttpException) -> Verdict:
    """What a refusal means: 4xx is an honest answer to what was asked for, 5xx is none; that the
    user may have no more, or has to wait, is no answer at all."""
    status = refusal.status_code or 500
    if status in (401, 409, 413, 429) or "quota" in str(refusal).lower():
        return Verdict.ERROR
    return Verdict.NOT_SUPPORTED if 400 <= status < 500 else Verdict.FAIL


def fragile(outcome: Outcome) -> bool:
    """Whether some release fails such a listener, and marks every other one with it."""
    return outcome.cell.cidrs == "nested" or outcome.cell.protocol == "PROMETHEUS"


def port_of(packet: Packet) -> int | None:
    """The listener's port that a packet is about; None for what is no listener's but everybody's:
    members' answers, neighbour discovery."""
    request = packet.interface == VIP_INTERFACE and packet.state == "new"
    return packet.dport if request else None


def asked_port(unclear: str) -> int | None:
    """The port that an unclear question was about, which its sentence names before its control's;
    None where it has none."""
    found = re.search(r":(\d+) (?:from|on) ", unclear)
    return int(found[1]) if found else None


def stranger_to(amphora: Amphora, member: str) -> str:
    """What is wrong with the address a member is asked from, as a sentence; "" when nothing is.

    An amphora with an address on the member's subnet has to ask from that one: to any other the
    member answers by way of a router, where there is one.
    """
    source = amphora.source_to(member)
    near = [
        str(one.ip)
        for interface in amphora.interfaces().values()
        for one in interface.addresses
        if ipaddress.ip_address(member) in one.network
    ]
    if source is None or not near or source in near:
        return ""
    subnet_has = " and ".join(near)
    return (
        f"The amphora asks the member {member} from {source}, which is not on the member's "
        f"subnet, though it has {subnet_has} there."
    )


class TestMatrix(Agrees, base.SriovLbTest):
    """Whatever is combined, a listener serves whom it may serve, and nobody else.

    Octavia's API reference promises listeners of each protocol, ``allowed_cidrs``, additional VIPs
    and topologies without exceptions for SR-IOV; its document on SR-IOV adds that VIP and member
    ports may each be a virtual function. ``scenarios/matrices/load-balancers.yaml`` holds the
    factors and what cannot meet; each test is one load balancer of the selection, each listener on
    it a cell with a verdict of its own (``MTX-03 http/nested``).

    Steps, for each load balancer:

    1. Build it; make the pools, the members and one listener after the other. A listener that
       Octavia fails is removed again, and a load balancer that is damaged is replaced.
    2. From the client make a request to each VIP through each listener it may use.
    3. Compare policy, ruleset and wire, each listener's probes on their own; the wire for ports
       without a listener, too: beside the listeners' and far from them, from sources that may use
       a listener.

    Verify: each request reaches the member and comes back (a PROMETHEUS listener answers itself),
    on normal VIPs, the controls, too; nothing disagrees.
    """

    _ground: Ground | None = None
    _ahead: dict[int, Any] = {}

    @classmethod
    def resource_cleanup(cls) -> None:
        """What was asked for ahead and never looked at goes."""
        if cls._ground is not None:
            for lb in cls._ahead.values():
                cls._ground.lbs.delete(lb.id)
        cls._ahead.clear()
        super().resource_cleanup()

    # --- rows ------------------------------------------------------------------------------

    @property
    def ground(self) -> Ground:
        if TestMatrix._ground is None:
            self.stage.take_back()
            TestMatrix._ground = Ground(self.stage, scenario.matrix(MATRIX))
        return TestMatrix._ground

    def group(self, number: int) -> None:
        """Run the rows that fall to a test method, then say what the worst of their cells is."""
        rows = selection.rows(self.ground.matrix, CONF.sriov_lb.matrix)
        # In the order in which they are run, one method after the other.
        rows.sort(key=lambda row: ((row.number - 1) % METHODS, row.number))
        mine = [row for row in rows if (row.number - 1) % METHODS == number - 1]
        if not mine:
            raise self.skipException(f"The selection has {len(rows)} load balancers.")
        outcomes: list[Outcome] = []
        for row in mine:
            following = rows[rows.index(row) + 1 :][:1]
            outcomes += self.run_row(row, following[0] if following else None)
        self.conclude(outcomes)

    def run_row(self, row: Row, following: Row | None) -> list[Outcome]:
        """Build the load balancer of a row, look at its cells, take it away."""
        ground = self.ground
        self.seen[f"row {row.number}"] = str(row)
        balancer = Balancer(ground, row, self._ahead.pop(row.number, None))
        outcomes = [Outcome(cell, seen={"row": str(row)}) for cell in row.cells]
        try:
            _ = ground.client, ground.member
            if balancer.lb is None:
                balancer.lb = ground.ask(row)
            self.involve(balancer)
            self.ask_ahead(row, following)
            balancer.lb = self.built(balancer, outcomes)
            # What some releases fail comes first, while there is no other listener to be harmed.
            for number, outcome in sorted(enumerate(outcomes), key=lambda one: not fragile(one[1])):
                balancer = self.try_cell(balancer, outcome, FIRST_PORT + number)
            self.repair(balancer)
            self.tell_failures(balancer, outcomes)
            self.look_at(balancer, [one for one in outcomes if one.cell in balancer.ports])
        except Exception as error:
            # Octavia could not build it at all, or the tests broke: what was seen of a cell stays.
            for outcome in outcomes:
                if outcome.verdict is None:
                    outcome.verdict = base.classify(error)
                    outcome.problems.append(f"{row}: {error}")
            self.tell_failures(balancer, outcomes)
        finally:
            broken = [one for one in outcomes if one.broken]
            if broken:
                lacking = self._not_collected().strip()
                broken[0].notes += [lacking] if lacking else []
                # Once it is deleted, the test's own end would put "not found" in its place.
                self.involved = {}
            for outcome in outcomes:
                self.judge(row, outcome)
            if balancer.lb is not None:
                ground.lbs.delete(balancer.lb.id)
            self.involved = {}
        return outcomes

    def involve(self, balancer: Balancer) -> None:
        """This load balancer's API view is the evidence."""
        self.involved = {f"matrix-{balancer.row.number}": balancer.lb}

    def ask_ahead(self, row: Row, following: Row | None) -> None:
        """Ask for the next row's load balancer, if both together are few enough."""
        if following and len(self._ahead) < 1 and row.vfs + following.vfs <= AHEAD:
            try:
                self._ahead[following.number] = self.ground.ask(following)
            except (errors.SriovLbError, sdk.SDKException) as error:
                # Not this row's trouble: the next one asks again when it is its turn.
                self.seen[f"row {following.number}, asked for ahead"] = str(error)

    def built(self, balancer: Balancer, outcomes: Iterable[Outcome]) -> Any:
        """The load balancer, ACTIVE.

        :param outcomes: of its cells; that of an SR-IOV VIP is told what became of a normal one,
            the control.
        :raises Broken: Octavia failed it, and not for want of hosts or VFs.
        """
        try:
            return self.ground.lbs.wait(balancer.lb.id)
        except errors.ResourceFault as error:
            if SHORTAGE.search(str(error)):
                raise
            if balancer.sriov:
                normal = self.ground.normal_state(balancer.row)
                for outcome in outcomes:
                    outcome.seen.update(
                        operation="loadbalancer-create", sriov="ERROR", normal=normal
                    )
            raise Broken(f"It was to be ACTIVE and ended in ERROR: {error.message}") from error

    # --- cells -------------------------------------------------------------------------------

    def try_cell(self, balancer: Balancer, outcome: Outcome, port: int) -> Balancer:
        """Make the listener of a cell; returns the load balancer to go on with."""
        cell = outcome.cell
        outcome.started = time.time()
        if cell.protocol in ("UDP", "SCTP") and not self._kernel_can(balancer):
            outcome.verdict = Verdict.SKIPPED
            outcome.problems.append(
                f"{cell.protocol} listeners need ip_vs in the amphora's kernel, which has none."
            )
            return balancer
        wanted = self.wanted(balancer, cell)
        try:
            self.add(balancer, cell, port)
        except sdk.HttpException as refusal:
            outcome.verdict = refused(refusal)
            outcome.problems.append(f"Octavia refuses {self._listener(cell, wanted)} {refusal}")
        except (errors.ResourceFault, errors.StuckPending) as error:
            outcome.verdict = Verdict.FAIL
            outcome.failed = error
            return self._mend(balancer, outcome, port)
        return balancer

    def tell_failures(self, balancer: Balancer, outcomes: Iterable[Outcome]) -> None:
        """What became of listeners that Octavia failed, with the control: the others."""
        others = len(balancer.ports)
        noun = "listener" if others == 1 else "listeners"
        control = f", though {others} other {noun} of it became ACTIVE" if others else ""
        for outcome in outcomes:
            if outcome.failed is None:
                continue
            outcome.seen["cidrs"] = outcome.cell.cidrs
            if balancer.sriov and not others:
                # Maybe no listener can be had at all: then that is what has a name.
                stuck = isinstance(outcome.failed, errors.StuckPending)
                outcome.seen.update(
                    operation="listener-create",
                    sriov="PENDING" if stuck else "ERROR",
                    normal=self.listener_on_a_normal_vip(outcome),
                )
            listener = self._listener(outcome.cell, self.wanted(balancer, outcome.cell))
            outcome.problems.insert(
                0,
                f"On a {balancer.row.values['vip']} VIP, {listener} was to be ACTIVE and ended in "
                f"ERROR{control}. {outcome.failed.message}",
            )
            outcome.failed = None

    def listener_on_a_normal_vip(self, outcome: Outcome) -> str:
        """The state of the control; "unknown" if it cannot be had, and the outcome is told why."""
        try:
            return self.ground.listener_on_a_normal_vip
        except (errors.SriovLbError, sdk.SDKException) as error:
            outcome.notes.append(f"The same on a normal VIP could not be tried: {error}")
            return "unknown"

    def repair(self, balancer: Balancer) -> None:
        """Make the listeners again that another one's failure put into ERROR."""
        for cell in balancer.damaged():
            balancer.remove(balancer.ports[cell])
            self.add(balancer, cell, balancer.ports[cell])

    @staticmethod
    def _listener(cell: Cell, wanted: Iterable[str] | None) -> str:
        words = {
            "nested": "contain one another", "overlapping": "are one network written twice",
            "adjacent": "are neighbours", "many": "are 200",
        }  # fmt: skip
        some = ", ".join(list(wanted or ())[:4]) or "none"
        which = f", which {words[cell.cidrs]}" if cell.cidrs in words else ""
        return f"a {cell.protocol} listener with the allowed_cidrs {some}{which},"

    def _mend(self, balancer: Balancer, outcome: Outcome, port: int) -> Balancer:
        """Remove the listener that failed; a load balancer it damaged is built anew."""
        ground, row = self.ground, balancer.row
        # By a name of its own, so that what is collected in the end does not take its place.
        damage = {f"matrix-{row.number}-{port}": balancer.lb}
        self.evidence(*self.stage.collect(self.folder, damage))
        try:
            balancer.remove(port)
            if balancer.healthy():
                return balancer
        except (errors.CloudError, sdk.SDKException) as error:
            outcome.problems.append(f"It could not be removed either: {error}")
        outcome.notes.append("The load balancer was damaged and replaced.")
        ground.lbs.delete(balancer.lb.id)
        self.involved = {}
        # Known to run_row before it is waited for: whatever happens here, that one is deleted.
        balancer.lb = ground.ask(row)
        self.involve(balancer)
        fresh = Balancer(ground, row, ground.lbs.wait(balancer.lb.id))
        for cell, was in balancer.ports.items():
            self.add(fresh, cell, was)
        return fresh

    def wanted(self, balancer: Balancer, cell: Cell) -> list[str] | None:
        """The CIDRs of a cell."""
        versions = balancer.row.versions
        allowed = {version: self.ground.client.allowed(version) for version in versions}
        return cidrs.cidr_set(cell.cidrs, allowed, versions)

    def add(self, balancer: Balancer, cell: Cell, port: int) -> None:
        """Make the listener of a cell; raises what :meth:`Balancer.add` raises."""
        balancer.add(cell, port, self.wanted(balancer, cell), CONF.sriov_lb.tls_container_ref)

    def _kernel_can(self, balancer: Balancer) -> bool:
        """Whether the amphora's kernel has ip_vs; taken for granted where nobody may look."""
        if not CONF.sriov_lb.amphora_ssh:
            return True
        hosts = [host for _, host in self.ground.scene.amphorae(balancer.lb)]
        return all(Amphora(host).has_ip_vs() for host in hosts)

    # --- looking -----------------------------------------------------------------------------

    def look_at(self, balancer: Balancer, outcomes: list[Outcome]) -> None:
        """Requests and the comparison, for the listeners that are there."""
        patience = request.ALL
        for outcome in outcomes:
            patience = self.requests(balancer, outcome, patience)
        if not outcomes:
            return
        unserved = [one for one in outcomes if one.problems and one.cell.protocol != "PROMETHEUS"]
        for sentence in self.strangers(balancer) if unserved else ():
            for outcome in unserved:
                outcome.problems.insert(0, sentence)
        found = self.compare(balancer)
        self.keep(f"row-{balancer.row.number:02d}-agreement.json", found.to_json())
        for amphora, text in found.rulesets.items():
            self.keep(f"row-{balancer.row.number:02d}-{amphora}.nft.txt", text)
        ports = {balancer.ports[outcome.cell]: outcome for outcome in outcomes}
        for finding in found.findings:
            self.evidence(finding.pcap)
            # A finding that has a sentence of its own is about more than one packet.
            owner = None if finding.summary else ports.get(port_of(finding.packet))
            for outcome in [owner] if owner else outcomes:
                outcome.findings.append(str(finding))
                outcome.verdict = Verdict.FAIL
        for text in found.unclear:
            # What is no listener's is everybody's, as with findings.
            owner = ports.get(asked_port(text))
            for outcome in [owner] if owner else outcomes:
                if outcome.verdict is None:
                    outcome.verdict = Verdict.INCONCLUSIVE
                    outcome.problems.append(text)
        for outcome in outcomes:
            outcome.verdict = outcome.verdict or Verdict.PASS

    def requests(self, balancer: Balancer, outcome: Outcome, patience: float) -> float:
        """One request to each VIP that the client may reach; returns the patience that is left."""
        cell, client = outcome.cell, self.ground.client
        versions = cidrs.reached(cell.cidrs, balancer.row.versions)
        asked = 0
        for vip in balancer.vips:
            version = 6 if ":" in vip else 4
            if version not in versions:
                continue
            asked += 1
            problem = request.through(
                client, cell.protocol, vip, balancer.ports[cell], client.allowed(version),
                self.ground.member.name, patience=patience,
            )  # fmt: skip
            if problem:
                outcome.problems.append(problem)
                outcome.verdict = Verdict.FAIL
                patience = 0.0
        outcome.seen["requests"] = asked
        return patience

    def strangers(self, balancer: Balancer) -> list[str]:
        """What requests that failed may have failed of, where the tests may log in."""
        if not CONF.sriov_lb.amphora_ssh:
            return []
        every = [Amphora(host) for _, host in self.ground.scene.amphorae(balancer.lb)]
        # Of a pair the one that serves.
        amphorae = [one for one in every if one.holds(balancer.vips[0])]
        members = balancer.members
        found = (stranger_to(amphora, member) for amphora in amphorae for member in members)
        return sorted({sentence for sentence in found if sentence})

    def compare(self, balancer: Balancer) -> Agreement:
        """Policy, ruleset and wire; on a normal VIP there is no ruleset but security groups.

        The wire is also asked for ports without a listener, from sources that have one: those on
        either side of the listeners', and one far from them.
        """
        vantage = self.ground.client.vantage
        subject = self.subject(balancer.lb)
        seats = self.seats(subject) if balancer.sriov else []
        reach = self.reach(subject, vantage)
        # Another one for each load balancer; the evidence names it.
        far = random.Random(balancer.lb.id).randrange(FAR_PORTS, 65535)
        return agreement.look(subject, seats, vantage, reach, ports=[far])

    # --- verdicts ----------------------------------------------------------------------------

    def judge(self, row: Row, outcome: Outcome) -> None:
        """Give a cell its verdict line. It is a known defect when each finding is, and each
        request that failed."""
        name = f"MTX-{row.number:02d} {outcome.cell}"
        if outcome.verdict is None:
            outcome.verdict = Verdict.ERROR
            outcome.problems.append(f"{row}: interrupted before this listener was looked at.")
        if outcome.failed is not None:
            # Interrupted before its control was looked at.
            outcome.problems.insert(0, outcome.failed.message)
        if outcome.verdict is Verdict.FAIL:
            found = self.stage.registry.judge(
                name,
                [*outcome.problems, *outcome.findings],
                outcome.seen,
                self.stage.octavia_release,
            )
            # A normal VIP that fails as an SR-IOV one does is news, unless all are known to.
            excused = row.values["vip"] == "direct" or all(d.normal_vips for d in found.defects)
            if found.known and excused:
                outcome.verdict, outcome.defect = Verdict.KNOWN_DEFECT, found.ids
            elif excused:
                outcome.judged = str(found)
        self.stage.recorder.append(
            Result(
                requirement=name,
                sentence=f"{row}: a {outcome.cell.protocol} listener open to "
                f"{outcome.cell.cidrs.replace('-', ' ')} serves, and policy, ruleset and wire "
                "agree.",
                verdict=outcome.verdict,
                test=f"{type(self).__module__}.{type(self).__qualname__}.{self._testMethodName}",
                reason=outcome.reason,
                evidence=[self.stage.recorder.relative(path) for path in self._evidence],
                observations=outcome.seen,
                defect=outcome.defect,
                started=outcome.started,
                seconds=time.time() - outcome.started,
            )
        )

    def _judge(self, promise: base.Promise, error: Exception) -> Judgement:
        """Each cell was judged; the sum of them is not asked for again, without what was seen."""
        return Judgement({}, (str(error),))

    def conclude(self, outcomes: list[Outcome]) -> None:
        """The test ends as the worst of its cells did."""
        counted: dict[str, int] = {}
        for outcome in outcomes:
            counted[outcome.verdict.value] = counted.get(outcome.verdict.value, 0) + 1
        self.seen["cells"] = counted
        worst = max(outcomes, key=lambda outcome: outcome.verdict.rank)
        same = [str(one.cell) for one in outcomes if one.verdict is worst.verdict]
        text = f"{', '.join(same)}: {worst.reason}"
        if worst.verdict is Verdict.KNOWN_DEFECT:
            found = {one.defect for one in outcomes if one.verdict is worst.verdict and one.defect}
            ids = {one for defects in found for one in defects.split(", ")}
            raise KnownDefect(text, defect=", ".join(sorted(ids)))
        if worst.verdict.broken:
            raise Broken(text)
        if worst.verdict is Verdict.ERROR:
            raise errors.CloudError(text)
        if worst.verdict is Verdict.INCONCLUSIVE:
            raise Inconclusive(text)
        looked_at = [one for one in outcomes if one.verdict is Verdict.PASS]
        if not looked_at and any(one.verdict is Verdict.SKIPPED for one in outcomes):
            raise self.skipException(text)
        if all(outcome.verdict is Verdict.NOT_SUPPORTED for outcome in outcomes):
            raise NotSupported(text)

    @decorators.idempotent_id("66f9a7df-54e4-433d-be07-10046b040bc2")
    @requirement("MTX-01", SENTENCE, needs=NEEDS)
    def test_load_balancer_01(self) -> None:
        """See the class; this is load balancer 1."""
        self.group(1)

    @decorators.idempotent_id("5017ad52-f116-4f7d-8e5b-026b53d73d72")
    @requirement("MTX-02", SENTENCE, needs=NEEDS)
    def test_load_balancer_02(self) -> None:
        """See the class; this is load balancer 2."""
        self.group(2)

    @decorators.idempotent_id("b3a22dc1-437c-4662-93d7-866c4ff529ec")
    @requirement("MTX-03", SENTENCE, needs=NEEDS)
    def test_load_balancer_03(self) -> None:
        """See the class; this is load balancer 3."""
        self.group(3)

    @decorators.idempotent_id("451e8557-6b39-4712-b8ef-51b2098388ee")
    @requirement("MTX-04", SENTENCE, needs=NEEDS)
    def test_load_balancer_04(self) -> None:
        """See the class; this is load balancer 4."""
        self.group(4)

    @decorators.idempotent_id("4378c068-b8de-46bc-ad94-4e3ba976a494")
    @requirement("MTX-05", SENTENCE, needs=NEEDS)
    def test_load_balancer_05(self) -> None:
        """See the class; this is load balancer 5."""
        self.group(5)

    @decorators.idempotent_id("2acbfebb-819c-4a40-9563-88d65c312ed3")
    @requirement("MTX-06", SENTENCE, needs=NEEDS)
    def test_load_balancer_06(self) -> None:
        """See the class; this is load balancer 6."""
        self.group(6)

    @decorators.idempotent_id("9c849d8f-9728-4a63-a9eb-a0c741fa0140")
    @requirement("MTX-07", SENTENCE, needs=NEEDS)
    def test_load_balancer_07(self) -> None:
        """See the class; this is load balancer 7."""
        self.group(7)

    @decorators.idempotent_id("13e02e5b-0385-46a1-8247-87e2b907f6f0")
    @requirement("MTX-08", SENTENCE, needs=NEEDS)
    def test_load_balancer_08(self) -> None:
        """See the class; this is load balancer 8."""
        self.group(8)

    @decorators.idempotent_id("f2b1c984-7f58-4ff7-8e74-220feb3423fa")
    @requirement("MTX-09", SENTENCE, needs=NEEDS)
    def test_load_balancer_09(self) -> None:
        """See the class; this is load balancer 9."""
        self.group(9)

    @decorators.idempotent_id("7a74ac71-645b-4cd0-925c-7d49fb7a8cb1")
    @requirement("MTX-10", SENTENCE, needs=NEEDS)
    def test_load_balancer_10(self) -> None:
        """See the class; this is load balancer 10."""
        self.group(10)

    @decorators.idempotent_id("a5d1952b-297d-4e93-bd1f-0b2584f258b9")
    @requirement("MTX-11", SENTENCE, needs=NEEDS)
    def test_load_balancer_11(self) -> None:
        """See the class; this is load balancer 11."""
        self.group(11)

    @decorators.idempotent_id("5cea2ebb-3e1e-4409-83ce-0a0a244bb108")
    @requirement("MTX-12", SENTENCE, needs=NEEDS)
    def test_load_balancer_12(self) -> None:
        """See the class; this is load balancer 12."""
        self.group(12)

    @decorators.idempotent_id("1a82355f-220d-4bc7-aed5-e64c4f3f38fd")
    @requirement("MTX-13", SENTENCE, needs=NEEDS)
    def test_load_balancer_13(self) -> None:
        """See the class; this is load balancer 13."""
        self.group(13)
