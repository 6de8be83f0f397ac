# SPDX-License-Identifier: Apache-2.0
"""ACTIVE_STANDBY: two amphorae, one policy, one VIP."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tempest import config
from tempest.lib import decorators

from sriov_lb_tests import errors
from sriov_lb_tests.agreement import Agreement
from sriov_lb_tests.amphora import Amphora, Stage
from sriov_lb_tests.cloud.awaiting import until
from sriov_lb_tests.packets.catalogue import Context, peer_cases
from sriov_lb_tests.packets.probe import tcp_syn
from sriov_lb_tests.policy import packet as headers
from sriov_lb_tests.policy.model import PEER_PORT
from sriov_lb_tests.policy.packet import Packet
from sriov_lb_tests.tests import base, scene
from sriov_lb_tests.tests.agreement import Agrees
from sriov_lb_tests.tests.away import Away
from sriov_lb_tests.tests.base import requirement
from sriov_lb_tests.tests.changes import RATE, Broke, too_slow
from sriov_lb_tests.tests.lifecycle.base import LifecycleTest
from sriov_lb_tests.tests.looks import Looks
from sriov_lb_tests.tests.own import NEVER, OTHER, THIRD, WEB, Own
from sriov_lb_tests.tests.pair.election import HIGHEST, RESIGNS, Election, advertisement
from sriov_lb_tests.tests.pair.watched import Watched, advertise
from sriov_lb_tests.verdicts.model import Broken
from sriov_lb_tests.wire.survey import survey

CONF = config.CONF

#: Seconds that Octavia may knock at a dead amphora.
KNOCKING = 1800.0

#: Seconds a pair may take to elect its master, or to take over.
ELECTION = 60.0


@dataclass(frozen=True)
class Holders:
    """Who has the VIPs of a pair, by amphora id, or by MAC for a VF of neither.

    :param every: who has all of them. :param some: who has one at least.
    """

    every: frozenset[str]
    some: frozenset[str]

    @classmethod
    def of(cls, by_vip: Iterable[Iterable[str]]) -> Holders:
        """From the holders of each VIP."""
        sets = [frozenset(names) for names in by_vip]
        if not sets:
            return cls(frozenset(), frozenset())
        return cls(frozenset.intersection(*sets), frozenset.union(*sets))

    def __str__(self) -> str:
        every, some = (", ".join(sorted(names)) or "none" for names in (self.every, self.some))
        return f"holding all of them: {every}; holding at least one: {some}"


class TestPair(LifecycleTest):
    """Both amphorae of a pair hold the same policy, one of them the VIP; a takeover keeps it.

    The API reference promises for the topology ACTIVE_STANDBY that a standby takes over. The pair
    elects its master by unicast VRRP (keepalived_base.template) and copies stick tables to each
    other (haproxy's peers), so both have to pass the SR-IOV ruleset; and since the VIP has no
    security groups there, nobody else may get to keepalived.
    """

    WHAT = "pair"
    TOPOLOGY = "ACTIVE_STANDBY"

    #: What the takeover was like; told once, see :meth:`taken_over`.
    story: dict[str, Any] | None = None

    # --- who is who --------------------------------------------------------------------------

    def pair(self) -> list[Any]:
        return self.in_use(2, "a pair of amphorae")

    def held_by(self, master: Any, when: str) -> None:
        """That amphora holds the VIPs and the other holds none of them."""
        found = self.holders()
        if not found.every == found.some == {master.id}:
            self.fail(
                f"{when}: the VIPs of load balancer {self.own.bare.id} were on amphora "
                f"{master.id} alone. Now {found}."
            )

    def holders(self) -> Holders:
        """Who has the VIPs: by the amphorae's interfaces where the tests may log in, by who answers
        on the link otherwise."""
        vips = {self.own.vip(version) for version in self.own.versions}
        if not CONF.sriov_lb.amphora_ssh:
            return Holders.of({self.on_the_link(vip)} - {""} for vip in vips)
        there = {
            one.id: Amphora(self.stage.amphora_host(one)).interfaces().values()
            for one in self.pair()
        }
        return Holders.of(
            {name for name, found in there.items() if any(one.owns(vip) for one in found)}
            for vip in vips
        )

    def on_the_link(self, vip: str) -> str:
        """Id of the amphora whose VF answers for a VIP, the MAC that does when it is of neither; ""
        when nobody does."""
        try:
            mac = self.client.vantage.resolve(vip).lower()
        except errors.ControlFailed:
            return ""
        for amphora in self.pair():
            if self.mac_of(amphora) == mac:
                return amphora.id
        return mac

    def mac_of(self, amphora: Any) -> str:
        """Of its port on the VIP network, in lower case."""
        admin = self.stage.clouds.by("admin")
        return admin.network.get_port(amphora.vrrp_port_id).mac_address.lower()

    def master(self) -> tuple[Any, Any]:
        """(master, backup) once one amphora holds every VIP and the other none; a pair that elects
        no master is broken."""
        seen = Holders.of([])

        def elected() -> tuple[Any, Any] | None:
            nonlocal seen
            one, other = self.pair()
            seen = self.holders()
            for master, backup in ((one, other), (other, one)):
                if seen.every == seen.some == {master.id}:
                    return master, backup
            return None

        try:
            return until(
                elected,
                what="exactly one amphora of the pair to hold the VIPs, and all of them",
                timeout=ELECTION,
                interval=0.5,
                explain=lambda: f"In load balancer {self.own.bare.id}, {seen}.",
            )
        except errors.StuckPending as error:
            self.fail(error.message)

    # --- tests -------------------------------------------------------------------------------

    @decorators.idempotent_id("c36eaf80-eb1d-4253-949f-80ab1c2d3e01")
    @requirement(
        "PAI-001",
        "Both amphorae of a pair hold the same policy, and exactly one of them the VIP.",
        needs=("admin",),
    )
    def test_one_policy_one_vip(self) -> None:
        """Steps:

        1. Build a load balancer of two amphorae with a listener.
        2. Create a second listener, open it to everybody, narrow it again, delete it.

        Verify: after each step the rulesets of both agree with the policy of each, and so does the
        wire; exactly one of them holds the VIPs, and its VF is the one that answers for them.
        """
        lb = self.ready()
        master, backup = self.master()
        self.seen["master"], self.seen["backup"] = master.vrrp_ip, backup.vrrp_ip
        self.agrees(lb, "A pair was built")
        for version in self.own.versions:
            vip = self.own.vip(version)
            answers = self.on_the_link(vip)
            if answers != master.id:
                self.fail(
                    f"Amphora {master.id} holds the VIP {vip}, and on the VIP network "
                    f"{answers or 'nobody'} answers for it."
                )
        self.own_listener_changes()
        self.held_by(master, "After four changes of a listener")

    def own_listener_changes(self) -> None:
        denied, strangers = self.towards(OTHER, "denied"), self.strangers(OTHER)
        listener = self.change(
            "A listener of the pair was created",
            lambda: self.own.listener("second", OTHER, self.own.cidrs()),
            opens=self.towards(OTHER),
            guards={**denied, **strangers},
        )
        self.change(
            "A listener of the pair was opened to everybody",
            lambda: self.lbs.update_listener(self.own.bare, listener, allowed_cidrs=[]),
            opens={**denied, **strangers},
        )
        self.change(
            "A listener of the pair was narrowed",
            lambda: self.lbs.update_listener(
                self.own.bare, listener, allowed_cidrs=self.own.cidrs()
            ),
            closes={**denied, **strangers},
        )
        self.change(
            "A listener of the pair was deleted",
            lambda: self.lbs.delete_listener(self.own.bare, listener),
            ports=[OTHER],
            closes=self.towards(OTHER),
            guards={**denied, **strangers},
        )

    @decorators.idempotent_id("d47fb091-fc2e-4364-a5a0-91bc2d3e4f02")
    @requirement(
        "PAI-002",
        "When the master crashes the backup takes the VIP over, with the same policy.",
        needs=("admin", "disruptive"),
    )
    def test_takeover(self) -> None:
        """Steps:

        1. Power off the master's instance; connect all the while.

        Verify: the VIP answers again, from the other amphora's VF; nothing forbidden passed; the
        survivor's ruleset and the wire agree with the policy. Reported: for how long no connection
        was possible.
        """
        story = self.taken_over()
        self.seen["no connection possible, seconds"] = round(story["away"], 2)
        if story["holder"] != story["backup"]:
            self.fail(
                f"The master {story['master']} was powered off, and not the VF of the backup "
                f"{story['backup']} answers for the VIP but {story['holder'] or 'nobody'}."
            )
        self.told(story["problems"])
        if story["unclear"]:
            base.inconclusive(f"After the takeover: {story['unclear'][0]}")

    @decorators.idempotent_id("e580c1a2-0d3f-4475-b6b1-a2cd3e4f5a03")
    @requirement(
        "PAI-003",
        "An amphora that replaces a dead one of a pair holds the same policy.",
        needs=("admin", "disruptive"),
    )
    def test_takeover_and_replacement(self) -> None:
        """Steps:

        1. After the takeover, have Octavia replace the dead amphora.

        Verify: once the API says ACTIVE there are two amphorae again, both with the policy of
        each, and exactly one holds the VIP; no forbidden packet passed meanwhile.
        """
        story = self.taken_over()
        dead = story["master"]
        left = [one for one in self.lbs.amphorae(self.own.bare.id) if one.id == dead]
        type(self).story = None

        def replace() -> None:
            if left:
                self.lbs.failover_amphora(self.own.bare, left[0])
            self.lbs.wait(self.own.bare.id)

        self.change("The dead amphora was replaced", replace, moves=True)
        self.replaced({dead})
        self.master()

    @decorators.idempotent_id("b49f0464-0f5f-4936-9fcb-ac5ffa665415")
    @requirement(
        "PAI-010",
        "A listener made while one amphora of a pair is dead is served, and its rules hold.",
        needs=("admin", "disruptive", "slow"),
    )
    def test_takeover_and_listener(self) -> None:
        """Steps:

        1. After the takeover, before anybody replaced the dead amphora, create a listener that is
           open to one source.

        Verify: it becomes ACTIVE, what has to pass passes by then, and no forbidden packet ever, to
        the new port neither; then the survivor's ruleset and the wire agree with the policy. That
        the dead one's successor holds it, too, is for PAI-003, which comes next.

        Octavia knocks at the dead amphora [haproxy_amphora] connection_max_retries times before it
        goes on, and meanwhile nothing else can be changed: that takes many minutes.
        """
        story = self.taken_over()
        if story["master"] not in {one.id for one in self.lbs.amphorae(self.own.bare.id)}:
            base.inconclusive(
                f"The dead amphora {story['master']} was replaced before a listener could be made."
            )
        lbs = self.own.lbs
        self.addCleanup(setattr, lbs, "change_timeout", lbs.change_timeout)
        lbs.change_timeout = KNOCKING
        step = "A listener was created while one amphora is dead"
        try:
            self.change(
                step,
                lambda: self.own.listener("meanwhile", THIRD, self.own.cidrs()),
                opens=self.towards(THIRD),
                guards=self.towards(THIRD, "denied"),
                only=[story["backup"]],
            )
        except errors.ResourceFault as error:
            # No forbidden packet passed, or that would be the failure.
            self.fail(f"{step}, and the survivor {story['backup']} does not serve it: {error}")

    def replaced(self, gone: set[str]) -> None:
        """None of these amphorae serves the load balancer any more."""
        left = gone & {one.id for one in self.pair()}
        if left:
            self.fail(
                f"Load balancer {self.own.bare.id} is ACTIVE after the failover, and "
                f"{', '.join(sorted(left))}, which was to be replaced, serves it still."
            )

    def taken_over(self) -> dict[str, Any]:
        """Crash the master, once; what was seen."""
        if self.story is not None:
            self.involved = {"lb": self.own.bare}
            return self.story
        self.ready()
        master, backup = self.master()
        own, vantage = self.own, self.client.vantage
        version = own.versions[0]
        where = own.vip(version), WEB, self.client.allowed(version)
        allowed, forbidden = self.streams()
        host = self.stage.amphora_host(master)
        host.close()
        story: dict[str, Any] = {"master": master.id, "backup": backup.id, "problems": []}

        def connected() -> bool:
            return bool(away.successes) and away.successes[-1] > stopped + 1

        broke = Broke()
        with (
            Away(vantage, *where) as away,
            vantage.prober(
                {**allowed, **forbidden}, forbidden=set(forbidden), follow=True, rate=RATE,
                title="takeover",
            ) as probing,
        ):
            stopped = time.monotonic()
            probing.mark("power off")
            with broke:
                self.lbs.stop_amphora(master)
                probing.mark("SHUTOFF")
                try:
                    until(
                        lambda: self.on_the_link(where[0]) == backup.id
                        and (away.failed is not None or connected()),
                        what=f"the backup {backup.id} to answer for {where[0]}",
                        timeout=ELECTION,
                        interval=0.2,
                    )
                except errors.StuckPending as error:
                    story["problems"].append(error.message)
        report = probing.report
        self.keep("takeover.txt", str(report))
        self.evidence(report.pcap)
        story["problems"] += [str(one) for one in report.witnesses]
        looks = Looks()
        with looks:
            # For whatever breaks after it; otherwise it is part of the story.
            self.told(story["problems"])
        with looks:
            broke.conclude()
            story["away"] = away.longest
            story["holder"] = self.on_the_link(where[0])
            found = self.look(own.bare, only=[backup.id])
            self.keep("takeover-agreement.json", found.to_json())
            story["problems"] += [str(one) for one in found.findings]
            story["unclear"] = [*self.doubts(report, away), *found.unclear]
            type(self).story = story
            return story
        looks.conclude()

    @staticmethod
    def told(problems: list[str]) -> None:
        """:raises Broken: with a finding for each of them."""
        found = [f"During the takeover, or after it: {one}" for one in problems]
        if found:
            raise Broken("\n".join(found), findings=found)

    @staticmethod
    def doubts(report: Any, away: Away) -> list[str]:
        """Why what was seen during the takeover proves nothing."""
        blind = ""
        if away.failed is not None:
            blind = (
                "for how long a client could not connect was not seen to the end: "
                f"{away.failed.message}"
            )
        return [doubt for doubt in (report.problem or too_slow(report), blind) if doubt]

    @decorators.idempotent_id("f691d2b3-1e40-4586-87c2-b3de4f5a6b04")
    @requirement(
        "PAI-004",
        "VRRP from anybody but the peer does not reach keepalived, and with the peer's address it "
        "moves no VIP without the pair's secret.",
        needs=("admin", "amphora_ssh"),
    )
    def test_a_stranger_is_no_peer(self) -> None:
        """Steps:

        1. Read in each amphora how the pair elects its master. From the client's VF, from its own
           address, send each advertisements as the pair's own are, with the highest priority, for
           as long as an election takes; count them on their way in.
        2. The same with the peer's address, once without the pair's secret and once with a wrong
           one: to the master with the highest priority, to the backup as of a master that resigns.
        3. The control: the same with the pair's own secret.

        Verify: the first reach the filter, and none passes it. The second do, since the policy
        tells the peer by its address alone, and are not believed: the VIPs stay on the master,
        nobody else announces them, and each answers all the while. The third are believed, or that
        the second were not proves nothing; then the pair elects one master.
        """
        self.ready()
        master, backup = self.master()
        looks = Looks()
        for amphora, role in ((master, "master"), (backup, "backup")):
            with looks:
                self.unheard(amphora, role, master)
        for priority in (HIGHEST, RESIGNS):
            with looks:
                self.unbelieved(priority)
        looks.conclude()

    def unheard(self, amphora: Any, role: str, master: Any) -> None:
        """A stranger's advertisements, though right in all else, do not pass the filter."""
        stranger = self.client.denied(6 if ":" in amphora.vrrp_ip else 4)
        election = Election.of(Amphora(self.stage.amphora_host(amphora)))
        title = f"stranger to the {role}"
        seen = self.advertise(title, amphora, stranger, election, HIGHEST)
        if seen.stages[Stage.PASSED_FILTER]:
            self.fail(
                f"{seen.stages[Stage.PASSED_FILTER]} VRRP advertisements from {stranger}, which is "
                f"not the peer, passed the filter of amphora {amphora.id}."
            )
        what = f"VRRP from the stranger {stranger} came to amphora {amphora.id}"
        self.stays(seen, what, master, election)
        doubt = seen.doubt(Stage.REACHED_FILTER)
        if doubt:
            base.inconclusive(f"That no VRRP of {stranger} passed proves nothing: {doubt}")

    def unbelieved(self, priority: int) -> None:
        """Advertisements with the peer's address move nothing without the pair's secret, and
        something with it, which is the control."""
        looks = Looks()
        for words in Election.GUESSES:
            with looks:
                master, amphora, peer, election = self.to_move_it(priority)
                role, guess = "master" if amphora is master else "backup", election.guess(words)
                title = f"peer {words} to the {role}"
                seen = self.advertise(title, amphora, peer.vrrp_ip, guess, priority)
                what = f"VRRP with the peer's address {words} came to the {role} {amphora.id}"
                self.stays(seen, what, master, election)
                doubt = seen.doubt(Stage.PASSED_FILTER)
                if doubt:
                    base.inconclusive(f"While {what}, nothing moved, which says nothing: {doubt}")
        if not looks.failures:
            with looks:
                self.believed(priority)
        looks.conclude()

    def believed(self, priority: int) -> None:
        """The control: said with the pair's secret, the same is believed."""
        master, amphora, peer, election = self.to_move_it(priority)
        title = f"peer with its secret to the {'master' if amphora is master else 'backup'}"
        seen = self.advertise(title, amphora, peer.vrrp_ip, election, priority)
        if not seen.moved(self.mac_of(master), election.interval):
            base.inconclusive(
                f"VRRP of priority {priority} with the peer's address and the pair's own secret "
                f"moved nothing at amphora {amphora.id} either ({seen}): so that nothing else did "
                "need not have been for want of the secret."
            )
        self.master()

    def to_move_it(self, priority: int) -> tuple[Any, Any, Any, Election]:
        """(master, to whom, as if from whom, how that one elects) for an advertisement of that
        priority which moves the VIPs if it is believed."""
        master, backup = self.master()
        # A backup obeys the highest as it is, and a master that hears of a resignation stays.
        amphora, peer = (backup, master) if priority == RESIGNS else (master, backup)
        return master, amphora, peer, Election.of(Amphora(self.stage.amphora_host(amphora)))

    def stays(self, seen: Watched, what: str, master: Any, election: Election) -> None:
        """The VIPs are where they were, and were nowhere else meanwhile."""
        names = {self.mac_of(one): f"amphora {one.id}" for one in self.pair()}
        findings = [
            f"While {what}, {one}."
            for one in seen.moved(self.mac_of(master), election.interval, names)
        ]
        looks = Looks()
        with looks:
            if findings:
                raise Broken("\n".join([*findings, str(seen.report)]), findings=findings)
        with looks:
            self.held_by(master, f"After {what}")
        looks.conclude()

    def advertise(
        self, title: str, amphora: Any, source: str, election: Election, priority: int
    ) -> Watched:
        """Send an amphora advertisements for as long as an election takes; watch the VIPs."""
        probe = advertisement(amphora.vrrp_ip, source, election, priority)
        seen = advertise(
            self.client.vantage,
            Amphora(self.stage.amphora_host(amphora)),
            probe,
            election.moments(priority),
            self.streams()[0],
            title,
        )
        self.keep(f"{title.replace(' ', '-')}.txt", str(seen.report))
        self.evidence(seen.report.pcap)
        self.seen[title] = str(seen)
        return seen

    @decorators.idempotent_id("07a2e3c4-2f51-4697-98d3-c4ef5a6b7c05")
    @requirement(
        "PAI-005",
        "The pair can copy its stick tables: haproxy's peers reach each other.",
        needs=("admin", "amphora_ssh"),
    )
    def test_stick_tables_can_be_copied(self) -> None:
        """Steps:

        1. Give the pool session persistence by source address, for which haproxy keeps a table.
        2. In each amphora look whether haproxy listens for its peer, and connect to the other's.
        3. Take the session persistence away.

        Verify: policy, ruleset and wire agree; each can connect to the other; while persistence
        comes and goes no forbidden packet passes, to the ports where haproxy listens for its peer
        neither.
        """
        lb = self.ready()
        pool = self.own.pool
        source = self.client.allowed(6 if ":" in self.pair()[0].vrrp_ip else 4)
        guards = {
            f"client to {one.vrrp_ip}, the port of the peers": tcp_syn(
                one.vrrp_ip, PEER_PORT, source=source
            )
            for one in self.pair()
        }

        def persist(step: str, how: dict[str, str] | None) -> None:
            self.change(
                step,
                lambda: self.lbs.update_pool(lb, pool, session_persistence=how),
                guards=guards,
                agree=False,
            )

        looks, problems = Looks(), []
        self.own.damage("its pool has session persistence")
        try:
            with looks:
                persist("Session persistence was added", {"type": "SOURCE_IP"})
            with looks:
                problems = self.unreachable_peers()
            found = self.look(lb)
        finally:
            with looks:
                persist("Session persistence was removed", None)
            self.own.mended()
        self.harmless = True
        self.keep("agreement.json", found.to_json())
        with looks:
            self.can_be_copied(problems, found)
        looks.conclude()

    def can_be_copied(self, problems: list[str], found: Agreement) -> None:
        """Each reached its peer, and policy, ruleset and wire agree.

        :param problems: see :meth:`unreachable_peers`. :param found: with session persistence.
        """
        # The port of the peers is one matter, whoever says so; anything else is another.
        about = [
            one for one in found.findings
            if one.packet.protocol == headers.TCP
            and one.packet.dport == PEER_PORT
            and not one.too_open
        ]  # fmt: skip
        findings = [
            f"With session persistence, {one}" for one in found.findings if one not in about
        ]
        if problems or about:
            lines = [*problems, *(f"  {one}" for one in about)]
            findings.append(
                "The amphorae of a pair cannot copy their stick tables: session persistence does "
                "not outlive a takeover.\n" + "\n".join(lines)
            )
        if findings:
            raise Broken("\n".join(findings), findings=findings)
        if found.unclear:
            base.inconclusive(f"Each can connect to its peer, but: {found.unclear[0]}")

    def unreachable_peers(self) -> list[str]:
        """What became of connections from either amphora to the other that failed."""
        master, backup = self.master()
        problems = []
        for amphora, peer in ((master, backup), (backup, master)):
            inside = Amphora(self.stage.amphora_host(amphora))
            own = self.connects(inside, amphora.vrrp_ip)
            other = self.connects(inside, peer.vrrp_ip)
            self.seen[f"{amphora.role} to itself"] = own
            self.seen[f"{amphora.role} to its peer"] = other
            if own != "connected":
                base.inconclusive(f"haproxy does not listen for peers in {amphora.id}: {own}.")
            if other != "connected":
                packet = Packet("eth1", amphora.vrrp_ip, peer.vrrp_ip, headers.TCP,
                                sport=40000, dport=PEER_PORT)  # fmt: skip
                problems.append(f"  from within the pair: {packet}: {other}")
        return problems

    @staticmethod
    def connects(inside: Amphora, address: str) -> str:
        """What a connection to an address's port for peers comes to, from within an amphora."""
        program = (
            "import socket, sys\n"
            "try:\n"
            f"    socket.create_connection(({address!r}, {PEER_PORT}), 2)\n"
            "    print('connected')\n"
            "except OSError as error:\n"
            "    print(type(error).__name__)\n"
        )
        return inside.within("python3", "-c", program).stdout.strip()

    @decorators.idempotent_id("c5a01575-1a60-4a47-a0dc-bd60ab776516")
    @requirement(
        "PAI-009",
        "What comes from the peer's place meets the fate it deserves: VRRP of the peer passes, and "
        "nothing else of it that no listener is open to.",
        needs=("admin", "amphora_ssh"),
    )
    def test_packet_classes_from_the_peers_place(self) -> None:
        """Steps:

        1. From the client's VF send each amphora the catalogue's packet classes that are about its
           peer, with the peer's address and with the one beside it, while counters in the amphora
           tell how far each came.

        Verify: each meets the fate it deserves; all of them arrived. The control: a SYN to the
        listener is answered before and after each.
        """
        self.ready()
        master, backup = self.master()
        looks = Looks()
        for amphora, peer in ((master, backup), (backup, master)):
            with looks:
                self.from_the_peers_place(amphora, peer)
        with looks:
            self.held_by(master, "After packets with the peer's address")
        looks.conclude()

    def from_the_peers_place(self, amphora: Any, peer: Any) -> None:
        """Send one amphora what is about its peer; hold each packet class to its promise."""
        version = 6 if ":" in amphora.vrrp_ip else 4
        client = self.client
        # The frames go to this amphora's VF, whoever has the VIP now.
        context = Context(
            version=version,
            vip=amphora.vrrp_ip,
            own=amphora.vrrp_ip,
            peer=peer.vrrp_ip,
            allowed=client.allowed(version),
            denied=client.denied(version),
            tcp_port=WEB,
            closed_port=NEVER,
        )
        found = survey(
            client.vantage,
            context,
            control=self.own.syn(version, WEB),
            chosen=peer_cases(context),
            counting=Amphora(self.stage.amphora_host(amphora)).counting(
                client.vantage.interface.mac
            ),
        )
        self.evidence(*{one.observation.pcap for one in found})
        name = str(amphora.role or amphora.id).lower()
        self.keep(f"peers-place-{name}.txt", "\n".join(map(str, found)))
        self.seen[f"to the {name}"] = f"{len(found)} packet classes"
        wrong = [f"Amphora {amphora.id} ({name}): {one}" for one in found if one.right is False]
        if wrong:
            raise Broken("\n".join(wrong), findings=wrong)
        unknown = [one for one in found if one.right is None]
        if unknown or not found:
            base.inconclusive(
                f"Of {len(found)} packet classes with the peer's address, {len(unknown)} cannot be "
                f"judged at amphora {amphora.id}. {unknown[0] if unknown else ''}"
            )

    @decorators.idempotent_id("18b3f4d5-3a62-47a8-a9e4-d5fa6b7c8d06")
    @requirement(
        "PAI-006",
        "After the failover of the load balancer both new amphorae hold the same policy, and "
        "exactly one the VIP.",
        needs=("admin", "disruptive"),
    )
    def test_whole_failover(self) -> None:
        """Steps:

        1. Have Octavia fail over the load balancer, which replaces one amphora after the other.

        Verify: no forbidden packet passes; once ACTIVE there are two others, both with the policy
        of each; exactly one holds the VIP.
        """
        self.ready()
        before = {one.id for one in self.pair()}
        self.master()
        self.change(
            "The load balancer was failed over",
            lambda: self.lbs.failover(self.own.bare),
            moves=True,
        )
        self.replaced(before)
        self.master()

    @decorators.idempotent_id("a38ef353-fe4e-4825-ba1e-9b4fe9554313")
    @requirement(
        "PAI-008",
        "The failover of a living master leaves the pair with the same policy, and exactly one of "
        "it with the VIP.",
        needs=("admin", "disruptive"),
    )
    def test_failover_of_a_living_master(self) -> None:
        """Steps:

        1. Have Octavia replace the amphora that holds the VIPs, while both are well; probe and
           connect all the while.

        Verify: no forbidden packet passes; once ACTIVE the other amphora is there still, with a
        new one beside it, both with the policy of each; exactly one holds the VIP. Reported: for
        how long no connection was possible.
        """
        self.ready()
        master, backup = self.master()
        self.change(
            "The living master was failed over",
            lambda: self.lbs.failover_amphora(self.own.bare, master),
            moves=True,
        )
        self.replaced({master.id})
        if backup.id not in {one.id for one in self.pair()}:
            self.fail(
                f"Only the master {master.id} was to be replaced, and the backup {backup.id} does "
                f"not serve load balancer {self.own.bare.id} any more either."
            )
        self.master()


class TestIpv6Pair(Agrees, base.SriovLbTest):
    """A pair may have an IPv6 VIP and no other: nothing in the API limits pairs to IPv4."""

    @decorators.idempotent_id("29c4a5e6-4b73-48b9-baf5-e6ab7c8d9e07")
    @requirement(
        "PAI-007",
        "A pair of amphorae can be built on an IPv6 VIP, and both hold the same policy.",
        needs=("admin_mode", "ipv6"),
    )
    def test_ipv6_pair(self) -> None:
        """Steps:

        1. Create a load balancer of two amphorae on the IPv6 subnet alone, with a listener.
        2. If that fails: the same without SR-IOV (the control).

        Verify: it becomes ACTIVE; the rulesets of both agree with the policy of each, and so does
        the wire.
        """
        own = Own(scene.of(self.stage), "pair6", "ACTIVE_STANDBY", versions=(6,))
        self.addCleanup(own.close)
        self.involved = {"lb": own.asked}
        scene.operate("loadbalancer-create", lambda: own.bare, self.normal_pair)
        scene.operate("listener-create", lambda: own.listener("web", WEB, None), None)
        self.agrees(own.bare, "A pair was built on IPv6")

    def normal_pair(self) -> None:
        """The control: the same pair on virtual ports; gone at once."""
        lbs = self.site.lbs
        flavor = self.site.flavor_of("normal", topology="ACTIVE_STANDBY")
        lb = self.site.ask_load_balancer(
            "normal", versions=(6,), what="pair6-normal", flavor_id=flavor
        )
        try:
            lbs.wait(lb.id)
        finally:
            lbs.delete(lb.id)
