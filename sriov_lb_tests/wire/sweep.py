# SPDX-License-Identifier: Apache-2.0
"""All 65,536 ports of an address, from one source: open, closed, dropped.

::

    good = tcp_syn(vip, 80, source=allowed)              # a control: it has to be answered
    report = vantage.sweep(tcp_syn(vip, 0, source=denied), control=good)
    assert not report.problem, report.problem
    assert report.open == ((8080, 8080),) and report.closed == (), str(report)

*TCP*: open is a SYN-ACK, closed is a RST, rejected an ICMP error, dropped is silence with answered
controls before and behind it. *UDP*: open is a datagram, closed is "port unreachable". A Linux
target sends one ICMP error a second, or six at once after a rest; so among many closed UDP ports
most are silent, silence decides nothing, and the ports are called undecided. But when a pass after
a rest brought fewer errors than the limiter had to send, none was kept from us: what is silent
then was dropped, or is open and mute. (A target whose limiter is set slower than Linux' default
can pass as one that drops.)

How often a silent port is asked, and when its silence counts, is in ``agent_sweep``.
"""

from __future__ import annotations

import ipaddress
import itertools
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sriov_lb_tests.packets.probe import Probe
from sriov_lb_tests.policy.intervals import Intervals, contains
from sriov_lb_tests.wire import agent_sweep as guest
from sriov_lb_tests.wire.agent import pack_frames, unpack_records
from sriov_lb_tests.wire.capture import Frame

if TYPE_CHECKING:
    from sriov_lb_tests.wire.vantage import Vantage

_LENGTH = 4


@dataclass(frozen=True)
class SweepReport:
    """What each port is, as sorted intervals ``((first, last), …)``.

    :param probe: the probe, with its source.
    :param protocol: ``tcp`` or ``udp``.
    :param open, closed, rejected: answered; rejected are those with an ICMP error that does not
        simply say that the port is closed.
    :param silent: never answered, with every control beside them answered.
    :param undecided: never answered, and nothing follows from it.
    :param problem: why ports are undecided; "" if none are.
    :param loss: share of the controls that got no answer.
    :param credits: silences, each between answered controls, that every silent port has at least.
    :param limited: answers came in later rounds that loss does not explain.
    :param seconds: in the guest, from the first frame prepared to the last answer judged.
    :param cpu: seconds of processor time that took there, the kernel's part included.
    :param sent: frames sent, controls included. :param passes: the rounds, for the curious.
    :param answers: frames of answers, by port; those of 2,000 ports at most.
    """

    probe: Probe
    protocol: str
    control: Probe
    open: Intervals
    closed: Intervals
    rejected: Intervals
    silent: Intervals
    undecided: Intervals
    problem: str
    loss: float
    credits: int
    limited: bool
    seconds: float
    cpu: float
    sent: int
    passes: tuple[Mapping, ...]
    answers: Mapping[int, Frame]
    pcap: Path | None = None

    @property
    def dropped(self) -> Intervals:
        """Ports whose packets were dropped; for UDP, or are served by something that is mute."""
        return self.silent

    def state(self, port: int) -> str:
        """``open``, ``closed``, ``rejected``, ``silent``, ``undecided`` or ``not asked``."""
        for name in ("open", "closed", "rejected", "silent", "undecided"):
            if contains(getattr(self, name), port):
                return name
        return "not asked"

    def __str__(self) -> str:
        mute = "dropped" if self.protocol == "tcp" else "dropped or mute"
        parts = [
            f"{word} {ranges(found)}"
            for word, found in (
                ("open", self.open),
                ("closed", self.closed),
                ("rejected", self.rejected),
                (mute, self.silent),
                ("undecided", self.undecided),
            )
            if found
        ]
        problem = f" {self.problem}" if self.problem else ""
        evidence = f" Evidence: {self.pcap}" if self.pcap else ""
        return (
            f"{self.protocol.upper()} ports of {self.probe.destination} from {self.probe.source}: "
            f"{'; '.join(parts)} ({self.sent} frames in {self.seconds:.2f} s, {self.loss:.1%} of "
            f"the controls lost).{problem}{evidence}"
        )


def ranges(intervals: Intervals, limit: int = 20) -> str:
    """``22, 80, 8000-8999``."""
    texts = [str(low) if low == high else f"{low}-{high}" for low, high in intervals[:limit]]
    more = len(intervals) - limit
    return ", ".join(texts) + (f" and {more} more intervals" if more > 0 else "")


def intervals_of(states: bytes) -> dict[int, Intervals]:
    """Where ``states`` has which byte."""
    found: dict[int, list[tuple[int, int]]] = {}
    start = 0
    for state, run in itertools.groupby(states):
        after = start + len(list(run))
        found.setdefault(state, []).append((start, after - 1))
        start = after
    return {state: tuple(pairs) for state, pairs in found.items()}


def sweep(
    vantage: Vantage,
    probe: Probe,
    *,
    control: Probe,
    ports: tuple[int, int] = (0, 65535),
    attempts: int = 1,
    rate: float | None = None,
    limit: float = 30.0,
) -> SweepReport:
    """Sweep; see :meth:`Vantage.sweep`."""
    probe, crafted = vantage.home(probe)
    control, crafted_control = vantage.home(control)
    # The same address, as a rule: asked for once.
    links = {one: vantage.link(one) for one in {probe.destination, control.destination}}
    first, second = (
        one.frames(links[one.destination], vantage.identities.next()) for one in (probe, control)
    )
    if len(first) != 1 or len(second) != 1:
        raise ValueError("the sweep takes probes of one frame")
    protocol = "udp" if probe.title.startswith("UDP") else "tcp"
    play = [one.source for one, c in ((probe, crafted), (control, crafted_control)) if c]
    near = [
        one.source
        for one in (probe, control)
        if any(_on(one.source, entry) for entry in vantage.interface.addresses)
    ]
    # The target must know where the sources are before thousands of answers wait for that. Of a
    # source behind a router nothing is known: every silent port is asked twice.
    if len(near) < 2:
        attempts = max(attempts, 2)
    head, body = vantage.agent_part("agent_sweep").call(
        "sweep",
        pack_frames([*first, *second]),
        wait=limit + 60.0,
        interface=vantage.interface.name,
        play=play,
        # The vantage's own address is known since its link was asked for.
        warm=[(probe.destination, one) for one in dict.fromkeys(near) if one in play],
        protocol=protocol,
        ports=list(ports),
        attempts=attempts,
        rate=rate,
        limit=limit,
        quiet=vantage.quiet,
        reset=crafted,
        reset_control=crafted_control,
    )
    return _report(vantage, probe, control, protocol, ports, head, body)


def _on(source: str, entry) -> bool:
    return ipaddress.ip_address(source) in entry.network


def _problem(head: Mapping, undecided: Intervals, control: Probe) -> str:
    if not undecided:
        return ""
    if head["lost"] == head["controls"]:
        return f"The control ({control}) was not answered: nothing can be said."
    if 2 * head["lost"] > head["controls"]:
        return (
            f"The control ({control}) was not answered {head['lost']} of {head['controls']} times: "
            "nothing can be said."
        )
    if head["icmp"] and not head["decided"]:
        return (
            f"The target sent {head['icmp']} ICMP errors, as many as its limiter lets through: "
            "silence does not say that a port is dropped."
        )
    if head["limited"]:
        return "Answers still came in the last round: they are limited, or lost in a pattern."
    return (
        f"Time was up while {head['lost']} of {head['controls']} controls had no answer: silent "
        "ports were not asked often enough."
    )


def _report(vantage, probe, control, protocol, ports, head, body) -> SweepReport:
    size = int.from_bytes(body[:_LENGTH], "big")
    states = bytearray(zlib.decompress(body[_LENGTH : _LENGTH + size]))
    outside = 255
    low, high = ports
    states[:low] = bytes([outside]) * low
    states[high + 1 :] = bytes([outside]) * (65535 - high)
    kept = [Frame(*record) for record in unpack_records(body[_LENGTH + size :])]
    answers = {}
    for port, one in zip(head["kept"], kept, strict=True):
        answers.setdefault(port, one)
    found = intervals_of(states)
    undecided = found.get(guest.UNDECIDED, ())
    return SweepReport(
        probe=probe,
        protocol=protocol,
        control=control,
        open=found.get(guest.OPEN, ()),
        closed=found.get(guest.CLOSED, ()),
        rejected=found.get(guest.REJECTED, ()),
        silent=found.get(guest.SILENT, ()),
        undecided=undecided,
        problem=_problem(head, undecided, control),
        loss=head["lost"] / max(head["controls"], 1),
        credits=head["credits"],
        limited=head["limited"],
        seconds=head["seconds"],
        cpu=head["cpu"],
        sent=head["sent"],
        passes=tuple(head["passes"]),
        answers=answers,
        pcap=vantage.archive.keep(f"sweep {probe}", kept),
    )
