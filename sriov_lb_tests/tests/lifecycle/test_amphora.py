# SPDX-License-Identifier: Apache-2.0
"""The amphora restarts, reboots and is replaced: what is behind the VIP is never open meanwhile."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from typing import Any

from tempest import config
from tempest.lib import decorators

from sriov_lb_tests import errors
from sriov_lb_tests.cloud.awaiting import until
from sriov_lb_tests.tests import base
from sriov_lb_tests.tests.base import requirement
from sriov_lb_tests.tests.lifecycle.base import LifecycleTest
from sriov_lb_tests.tests.looks import Looks
from sriov_lb_tests.tests.own import OTHER, WEB
from sriov_lb_tests.wire.exchange import Verdict

CONF = config.CONF

#: Lines of a unit's journal that say what went wrong.
WRONG = re.compile(r"^Error|Cannot find device|Could not configure|ALERT|failed", re.IGNORECASE)

#: Seconds an amphora may take to serve again after its instance is ACTIVE in Nova.
BOOT = 90.0

#: For how long an amphora that ends may be without its rules and be excused with that, ns.
MOMENT = 10**9

#: Seconds a new amphora may take, at ACTIVE, until its neighbours know it.
ANNOUNCED = 5.0


def age_of_first_process(text: str) -> int | None:
    """For how long process 1 runs, ns; None where that cannot be read.

    :param text: /proc/uptime and /proc/1/stat, one after the other (proc(5)).
    """
    uptime = re.match(r"(\d+)\.(\d\d) ", text)
    process = re.search(r"^1 \(.*\) (.+)$", text, re.MULTILINE)
    if uptime is None or process is None:
        return None
    # Field 22, and two are in front of what is kept; USER_HZ is 100 wherever there is Octavia.
    ticks = int(uptime[1] + uptime[2]) - int(process[1].split()[19])
    # Negative where the two clocks are of two worlds, as in some containers.
    return ticks * 10**7 if ticks >= 0 else None


def ending(report: Any, began: int | None) -> Callable[[Any], str]:
    """Words about what a forbidden packet met while the amphora still shut down.

    :param report: of the prober. :param began: of the new amphora, ns of this machine's clock;
        None where nobody knows.
    :return: from a witness to the words. They are given after the change was asked for, before
        the new amphora's first process, and for no longer than :data:`MOMENT`: an end is short,
        and whatever lasts is something else.
    """
    if began is None:
        return lambda witness: ""
    asked = dict(report.marks)["asked for"]
    late = began + report.offset_ns - report.offset_error_ns
    sent = [w.sent_ns for w in report.witnesses if w.sent_ns >= asked and w.answered_ns < late]
    until_ns = min(sent, default=0) + MOMENT
    within = {at for at in sent if at <= until_ns}
    return lambda witness: ", while it still shut down" if witness.sent_ns in within else ""


class TestAmphoraLifecycle(LifecycleTest):
    """Whatever happens to the amphora, the firewall is closed or as the API says, never open.

    No API state promises when an amphora that was rebooted serves again; but from the moment
    its VF is up, nothing may pass that the policy forbids: octavia/amphorae/backends/utils/
    interface.py loads the rules before it sets the link up. After a failover, ACTIVE promises that
    the new amphora holds the same policy.
    """

    WHAT = "life-amphora"

    def amphora(self) -> Any:
        """The one that serves the load balancer."""
        return self.in_use(1, "of one amphora")[0]

    def serving(self, versions: Iterable[int] | None = None) -> bool:
        """Whether the listener ``web`` answers on every VIP now, or on those of some versions."""
        vantage = self.client.vantage
        wanted = self.own.versions if versions is None else versions
        seen = vantage.ask_all([(self.own.syn(version, WEB), None) for version in wanted], tries=1)
        return all(one.verdict is Verdict.ACCEPTED for one in seen)

    def interrupted(self, step: str, act: Callable[[Any], Any]) -> None:
        """Do something to the amphora that stops it for a while; nothing forbidden may pass."""
        self.ready()
        amphora = self.amphora()
        host = self.stage.amphora_host(amphora)
        host.close()

        problem = []

        def change() -> None:
            act(amphora)
            try:
                until(
                    self.serving,
                    what=f"load balancer {self.own.bare.name} to serve again",
                    timeout=BOOT,
                    interval=0.2,
                )
            except errors.StuckPending:
                problem.append(self.why_not(amphora))

        def about(report: Any) -> Callable[[Any], str]:
            return ending(report, self.booted(amphora) if report.witnesses else None)

        looks = Looks()
        with looks:
            self.change(step, change, agree=False, about=about)
        with looks:
            if problem:
                self.fail(
                    f"{step}: load balancer {self.own.bare.name} did not serve again within "
                    f"{BOOT:.0f} s. {problem[0]}"
                )
            seconds = self.until_agrees(self.own.bare, step, timeout=30)
            self.seen["agreed after it served again, seconds"] = round(seconds, 1)
            # Whatever passed meanwhile, it is as it was.
            self.harmless = True
        looks.conclude()

    def booted(self, amphora: Any) -> int | None:
        """When the first process of the amphora began, ns of this machine's clock, or a little
        before; None where the tests may not look, or cannot."""
        if not CONF.sriov_lb.amphora_ssh:
            return None
        asked = time.time_ns()
        try:
            said = self.stage.amphora_host(amphora).run(["cat", "/proc/uptime", "/proc/1/stat"])
        except errors.SriovLbError:
            return None
        age = age_of_first_process(said.stdout)
        return None if age is None else asked - age

    def why_not(self, amphora: Any) -> str:
        """What the amphora's own units say, where the tests may look."""
        if not CONF.sriov_lb.amphora_ssh:
            return "The tests may not log in to the amphora to see why."
        host = self.stage.amphora_host(amphora)
        try:
            said = host.run(
                ["journalctl", "--no-pager", "-b", "-o", "cat", "-u", "amphora-netns",
                 "-u", "haproxy-*"],
                root=True,
            ).stdout  # fmt: skip
        except errors.SriovLbError as error:
            return f"Its amphora cannot be entered: {error.message}"
        wrong = [line for line in said.splitlines() if WRONG.search(line)]
        return "Its units say: " + ("; ".join(wrong[-4:]) or "nothing of an error") + "."

    @decorators.idempotent_id("6d0e4f2a-85b7-4c9d-8e3f-2a4b5c6d7e11")
    @requirement(
        "LIF-011",
        "A restart of the amphora's agent changes nothing, and listeners can be made after it.",
        needs=("admin", "amphora_ssh", "disruptive"),
    )
    def test_agent_restart(self) -> None:
        """Steps:

        1. Restart amphora-agent by ssh; wait until it listens again.
        2. Create a listener.

        Verify: after each step policy, ruleset and wire agree, and no forbidden packet passed.
        """
        self.ready()
        host = self.stage.amphora_host(self.amphora())

        def restart() -> None:
            host.run(["systemctl", "restart", "amphora-agent"], root=True)
            until(
                lambda: host.run(["ss", "-ltn", "sport = :9443"], root=True).stdout.count(":9443"),
                what="the amphora's agent to listen again",
                timeout=60,
                interval=0.5,
            )

        self.change("The agent was restarted", restart)
        self.change(
            "A listener was created after it",
            lambda: self.own.listener("second", OTHER, self.own.cidrs()),
            opens=self.towards(OTHER),
            guards=self.towards(OTHER, "denied"),
        )

    @decorators.idempotent_id("7e1f5a3b-96c8-4d0e-8f4a-3b5c6d7e8f12")
    @requirement(
        "LIF-012",
        "After a soft reboot the amphora holds the same policy; no forbidden packet passes "
        "meanwhile.",
        needs=("admin", "disruptive"),
    )
    def test_soft_reboot(self) -> None:
        """Steps:

        1. Have Nova reboot the amphora's instance, soft; probe until it serves again.

        Verify: no forbidden packet passes; then policy, ruleset and wire agree.
        """
        self.interrupted(
            "It was rebooted (soft)", lambda one: self.lbs.reboot_amphora(one, "SOFT")
        )

    @decorators.idempotent_id("8f2a6b4c-a7d9-4e1f-905b-4c6d7e8f9a13")
    @requirement(
        "LIF-013",
        "After a hard reboot the amphora holds the same policy; no forbidden packet passes "
        "meanwhile.",
        needs=("admin", "disruptive"),
    )
    def test_hard_reboot(self) -> None:
        """The same with a hard reboot."""
        self.interrupted(
            "It was rebooted (hard)", lambda one: self.lbs.reboot_amphora(one, "HARD")
        )

    @decorators.idempotent_id("903b7c5d-b8ea-4f20-816c-5d7e8f9a0b14")
    @requirement(
        "LIF-014",
        "After a stop and a start the amphora holds the same policy; no forbidden packet passes "
        "meanwhile.",
        needs=("admin", "disruptive"),
    )
    def test_stop_and_start(self) -> None:
        """The same with the instance powered off and on again."""

        def off_and_on(amphora: Any) -> None:
            self.lbs.stop_amphora(amphora)
            self.lbs.start_amphora(amphora)

        self.interrupted("It was stopped and started", off_and_on)

    def answers_on_the_link(self, step: str, vip: str, amphora: Any) -> None:
        """The VF of this amphora answers for a VIP; a member's address is the control."""
        vantage = self.client.vantage
        port = self.stage.clouds.by("admin").network.get_port(amphora.vrrp_port_id)
        said = [""]

        def new_one_answers() -> bool:
            try:
                said[0] = vantage.resolve(vip).lower()
            except errors.ControlFailed as error:
                said[0] = ""
                said[1:] = [error.message]
            return said[0] == port.mac_address.lower()

        try:
            until(new_one_answers, what=f"its new amphora to answer for {vip}", timeout=ANNOUNCED)
            return
        except errors.StuckPending:
            pass  # which it says below, in the words of this test
        if said[0]:
            self.fail(
                f"{step}: the API says ACTIVE, and {said[0]} answers for the VIP {vip}, which is "
                f"not the port of its new amphora {amphora.id} ({port.mac_address})."
            )
        which = "VIP" if vip == self.own.bare.vip_address else "additional VIP"
        try:
            vantage.resolve(self.own.member(0)["address"])
        except errors.ControlFailed as error:
            base.inconclusive(f"{step}: nobody answers for a member either: {error.message}")
        self.fail(
            f"{step}: the API says ACTIVE, and nobody answers for the {which} {vip} on its "
            f"network, though somebody did before and a member does now. {said[1]}"
        )

    # --- failover --------------------------------------------------------------------------

    def replaced(self, step: str, act: Callable[[Any], Any]) -> None:
        """Have the amphora replaced; the new one has to hold the same policy at ACTIVE."""
        self.ready()
        self.own.listener("second", OTHER, None)
        before = self.amphora()
        looks = Looks()
        with looks:
            self.change(step, lambda: act(before), moves=True, agree=False)
        after = None
        with looks:
            after = self.amphora()
        there = []
        # Without one successor nobody can say whose VF has to answer.
        for version in self.own.versions if after is not None else ():
            with looks:
                self.answers_on_the_link(step, self.own.vip(version), after)
                there.append(version)
        with looks:
            self.agrees(self.own.bare, step)
        with looks:
            if after is not None and before.id == after.id:
                self.fail(f"{step}, and the amphora is the same, {after.id}.")
            if not self.serving(there):
                self.fail(f"{step}, and a VIP that somebody answers for serves nobody.")
        looks.conclude()

    @decorators.idempotent_id("a14c8d6e-c9fb-4031-927d-6e8f9a0b1c15")
    @requirement(
        "LIF-015",
        "After the failover of an amphora its successor holds the same policy, once the API says "
        "ACTIVE.",
        needs=("admin", "disruptive"),
    )
    def test_amphora_failover(self) -> None:
        """Steps:

        1. Have Octavia fail over the amphora of a load balancer with two listeners.

        Verify: no forbidden packet passes; once ACTIVE another amphora serves, and policy, ruleset
        and wire agree.
        """
        lb = self.own
        self.replaced(
            "The amphora was failed over", lambda one: self.lbs.failover_amphora(lb.bare, one)
        )

    @decorators.idempotent_id("b25d9e7f-da0c-4142-838e-7f9a0b1c2d16")
    @requirement(
        "LIF-016",
        "After the failover of a load balancer its new amphora holds the same policy, once the API "
        "says ACTIVE.",
        needs=("admin", "disruptive"),
    )
    def test_load_balancer_failover(self) -> None:
        """The same, asked for the load balancer."""
        self.replaced(
            "The load balancer was failed over", lambda _: self.lbs.failover(self.own.bare)
        )
