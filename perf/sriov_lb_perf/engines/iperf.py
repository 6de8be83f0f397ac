# SPDX-License-Identifier: Apache-2.0
"""Bandwidth: iperf3 through a TCP listener, with the figures RFC 6349 asks for."""

from __future__ import annotations

import json
import math
import re
import shlex
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from .. import errors
from ..model import Metric, Sample, Stage, Trial
from ..targets import Pair
from .base import Crew, Limits, lacking, machine_of

#: What iperf3's server says while it serves somebody else, and for how long that is believed.
BUSY, BUSY_SECONDS = "busy running a test", 10.0

_Said = TypeVar("_Said", bound=tuple)


class Bandwidth:
    """One iperf3 run per trial, from the first client to a member behind the VIP.

    ``direction`` is ``up`` (client sends) or ``down``; ``flows`` parallel streams. The figures of
    RFC 6349 are the sender's; where that is the member they are had only if the server there
    prints JSON (``iperf3 --server --json``). Its transfer time ratio needs ``bottleneck``, the
    bit/s of the slowest link, which nobody but the operator knows.
    """

    name = "iperf3"
    needs = "iperf3"

    def metrics(self, stage: Stage) -> list[Metric]:
        way = {"up": "client to member", "down": "member to client"}
        direction = stage.parameters.get("direction", "down")
        flows = int(stage.parameters.get("flows", 1))
        plural = "flow" if flows == 1 else "flows"
        found = [
            Metric(
                "rate", f"Bandwidth, {way[direction]}, {flows} {plural}", "bit/s", "higher"
            ),
            Metric(
                "efficiency", "TCP efficiency (share of segments not retransmitted)", "share",
                "higher", claim=False, note="RFC 6349",
            ),
            Metric(
                "buffer_delay", "Buffer delay (mean over smallest round trip, minus one)", "share",
                "lower", claim=False, note="RFC 6349; from the sender's TCP_INFO",
            ),
            Metric(
                "rtt", "Mean round trip while sending", "ns", "lower", claim=False,
                note="from the sender's TCP_INFO",
            ),
        ]  # fmt: skip
        if "bottleneck" in stage.parameters:
            found.append(
                Metric(
                    "transfer_time_ratio", "TCP transfer time over the ideal one", "1", "lower",
                    claim=False, note="RFC 6349; ideal: what the stated bottleneck can carry",
                )
            )  # fmt: skip
        return found

    def unfit(self, stage: Stage, pair: Pair) -> str | None:
        return lacking(
            pair,
            "iperf3",
            "no iperf3 listener is known on the VIP of {vips} (`iperf3` in the target file)",
        )

    def configure(self, stage: Stage, pair: Pair, crew: Crew) -> None:
        _ = crew.prober  # starting it is not to be a trial's
        client = crew.clients[0]
        found = crew.hosts[client.name].run(["iperf3", "--version"], check=False)
        if found.status != 0:
            raise errors.ClientFailed(
                f"iperf3 does not run on client {client.describe()}: "
                f"{(found.stderr or found.stdout).strip()[:200]}",
                remedy="Use a client image with iperf3, or a profile without iperf3 stages.",
            )
        self.version = found.stdout.split("\n", 1)[0]

    def measure(self, trial: Trial, pair: Pair, crew: Crew) -> Sample:
        stage = trial.stage
        address, port = pair.side(trial.side).iperf3
        argv = [
            "iperf3", "--json", "--client", address, "--port", str(port),
            "--connect-timeout", "3000", "--omit", f"{stage.warmup:.0f}",
            "--time", f"{stage.seconds:.0f}",
            "--parallel", str(int(stage.parameters.get("flows", 1))), "--get-server-output",
        ]  # fmt: skip
        if stage.parameters.get("direction", "down") == "down":
            argv.append("--reverse")
        client = crew.clients[0]
        timeout = stage.trial_seconds + 20

        def run() -> tuple[float, dict, dict]:
            started = time.time()
            # By the agent there, which knows how the machine was meanwhile.
            done = crew.prober.job(
                {"job": "command", "argv": argv, "timeout": timeout}, seconds=timeout
            )
            try:
                return started, done, json.loads(done["stdout"])
            except ValueError as error:
                raise errors.EngineFailed(
                    f"{shlex.join(argv)} on {client.name}: status {done['status']}, no JSON: "
                    f"{(done['stderr'] or done['stdout']).strip()[:300]}"
                ) from error

        started, done, report = when_free(run)
        if report.get("error"):
            raise errors.TargetFailed(
                f"iperf3 from {client.name} to {address} port {port}: {report['error']}."
            )
        return sample_of(trial, started, report, {client.name: done}, crew.limits)


def when_free(run: Callable[[], _Said]) -> _Said:
    """What ``run`` returns, asked again while the server is busy: it serves one test at a time, and
    the load balancer between tells it late that the one before has ended.

    :param run: returns a tuple that ends with iperf3's report.
    """
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        found = run()
        if BUSY not in found[-1].get("error", "") or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def sample_of(
    trial: Trial, started: float, report: Mapping, ran: Mapping[str, Mapping], limits: Limits
) -> Sample:
    """From iperf3's JSON report.

    :param ran: the client -> what its agent reports of the command.
    """
    end = report["end"]
    received = end["sum_received"]
    rate = float(received["bits_per_second"])
    cores = _threads(report)
    used = {
        f"iperf3 {where}": float(end["cpu_utilization_percent"].get(name, 0.0)) / 100 / cores
        for where, name in (("on the client", "host_total"), ("on the member", "remote_total"))
    }
    sent = end["sum_sent"]
    mss = report["start"].get("tcp_mss_default") or report["start"].get("tcp_mss") or 1448
    segments = max(1.0, sent["bytes"] / mss)
    values = {"rate": rate, "efficiency": math.nan, "buffer_delay": math.nan, "rtt": math.nan}
    if "retransmits" in sent:
        values["efficiency"] = 1 - min(1.0, sent["retransmits"] / segments)
    if "bottleneck" in trial.stage.parameters:
        ideal = trial.stage.parameters["bottleneck"] * _payload_share(report, mss)
        values["transfer_time_ratio"] = ideal / rate if rate else math.inf
    flows = _senders(report)
    means = [flow["mean_rtt"] for flow in flows if flow.get("mean_rtt")]
    least = [flow["min_rtt"] for flow in flows if flow.get("min_rtt")]
    if means and least:
        mean = sum(means) / len(means)
        values["rtt"] = mean * 1e3  # iperf3 counts us
        values["buffer_delay"] = mean / min(least) - 1
    # Both ends are the instrument: what is between them is to be the limit.
    health = machine_of(ran, limits)
    health.cpu = max(used.values())
    health.bottleneck[:0] = [
        f"{name} used {share:.0%} of its core"
        for name, share in used.items()
        if share >= limits.cpu
    ]
    return Sample(
        trial=trial,
        started=started,
        window=float(received["seconds"]),
        requests=0,
        values=values,
        health=health,
        void=list(health.bottleneck),
        raw={"iperf3": report},
        series=[
            {"t": interval["sum"]["start"], "bit_per_s": interval["sum"]["bits_per_second"]}
            for interval in report.get("intervals", ())
            if not interval["sum"].get("omitted")
        ],
    )


#: Bytes of a full segment on an Ethernet link beside its payload: preamble, header, frame check
#: sequence and gap (IEEE 802.3), and TCP's header with the time stamps that Linux sends (RFC 7323).
FRAME, TCP = 8 + 14 + 4 + 12, 20 + 12


def _payload_share(report: Mapping, mss: int) -> float:
    """Of a link's bits those that a TCP connection's full segments can carry as payload (RFC 6349,
    section 4.1.1)."""
    (connected, *_) = report["start"]["connected"]
    header = 40 if ":" in connected["remote_host"] else 20
    return mss / (mss + TCP + header + FRAME)


def _threads(report: Mapping) -> int:
    """How many threads share its work: from version 3.16 on one for each flow, so that the whole of
    it may use more than one core (iperf3's release notes)."""
    found = re.match(r"iperf (\d+)\.(\d+)", report["start"].get("version", ""))
    if found is None or (int(found[1]), int(found[2])) < (3, 16):
        return 1
    return max(1, int(report["start"].get("test_start", {}).get("num_streams", 1)))


def _senders(report: Mapping) -> list[Mapping]:
    """What the sender says of each flow: with ``--reverse`` that is the server, whose own report
    is part of the client's when it is JSON."""
    if report["start"].get("test_start", {}).get("reverse"):
        report = report.get("server_output_json") or {}
    streams = report.get("end", {}).get("streams", ())
    return [stream["sender"] for stream in streams if "sender" in stream]
