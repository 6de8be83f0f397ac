# SPDX-License-Identifier: Apache-2.0
"""The engines beside request rate and latency, against targets whose behaviour is known."""

from __future__ import annotations

import dataclasses
import math
import shutil

import numpy as np
import pytest

from sriov_lb_perf import compare, errors
from sriov_lb_perf.clients import Client
from sriov_lb_perf.engines.base import Crew
from sriov_lb_perf.engines.registry import make
from sriov_lb_perf.model import CANDIDATE, REFERENCE, Stage, Trial
from sriov_lb_perf.targets import Pair, Target


@pytest.fixture(scope="module")
def measured(client, tmp_path_factory):
    """measured(stage, normal target, SR-IOV target) -> {side: sample}, one trial each."""

    def run(stage: Stage, *targets: Target, sides: str = REFERENCE + CANDIDATE):
        pair = Pair(*(targets if len(targets) == 2 else targets * 2), (client,), substrate="none")
        engine = make(stage.engine)
        assert engine.unfit(stage, pair) is None
        with Crew(pair.clients, tmp_path_factory.mktemp("crew")) as crew:
            engine.configure(stage, pair, crew)
            return {
                side: engine.measure(Trial(n, stage, side, 0, n), pair, crew)
                for n, side in enumerate(sides)
            }

    return run


def stage_of(engine: str, seconds: float = 0.5, **parameters) -> Stage:
    return Stage("s", "Stage", engine, seconds, 0.1, 1, 1, parameters=parameters)


def test_tls_handshakes_are_full_and_say_what_was_negotiated(bed, measured):
    plain, secure = bed.vip("tls-plain", 120), bed.tls_vip("tls", 121)
    target = Target("normal", plain, tls=secure)
    sample = measured(stage_of("tls-rate", concurrency=8), target, sides=REFERENCE)[REFERENCE]
    assert sample.values["rate"] > 20 and sample.failed == {}
    assert set(sample.members) == {"member-1 " + "x" * 51 + " [64 bytes]"}
    handshakes, tcp = sample.histograms["tls"], sample.histograms["handshake"]
    # A full handshake with an RSA key costs the server more than a SYN does.
    assert handshakes.percentile(50) > tcp.percentile(50) > 0
    assert any("negotiated TLSv1." in note for note in sample.notes), sample.notes


def test_a_vip_without_tls_or_udp_is_unfit_for_these_stages_and_says_why(bed):
    target = Target("normal", "http://192.0.2.1/")
    pair = Pair(target, target, (Client("local", "local"),))
    for engine, word in (("tls-rate", "TERMINATED_HTTPS"), ("udp-latency", "UDP listener")):
        assert word in make(engine).unfit(stage_of(engine, rate=100), pair)


def test_connections_are_held_and_each_is_asked_at_the_end(bed, measured):
    target = Target("normal", bed.vip("holds", 122))
    sample = measured(stage_of("connections-held", connections=400, opening=4000), target)
    for each in sample.values():
        assert each.values == {"held": 400, "loss": 0.0} and each.failed == {}
        assert len(each.histograms["answer"]) == 400 and each.requests == 400


def test_connections_that_a_load_balancer_drops_are_counted_as_lost(bed, measured):
    """Idle ones are closed after 300 ms; the control is the test before."""
    url = bed.vip("drops", 123, extra="  timeout client 300ms\n")
    stage = stage_of("connections-held", 1.0, connections=100, opening=2000)
    sample = measured(stage, Target("normal", url), sides=REFERENCE)[REFERENCE]
    assert sample.values == {"held": 0, "loss": 1.0}
    assert sample.failed == {"lost: status 408 without a request": 100}


def test_connections_that_a_load_balancer_refuses_are_told_apart_from_lost_ones(bed, client):
    """Nothing listens there."""
    with Crew((client,), bed.folder) as crew:
        report = crew.prober.job(
            {
                "job": "hold", "url": "http://10.77.1.2:124/", "connections": 20, "warmup": 0,
                "seconds": 0.1,
            },
            seconds=10,
        )  # fmt: skip
    assert report["held"] == report["opened"] == 0
    assert report["refused"] == {"Connection refused": 20}


def test_udp_requests_are_stamped_by_the_kernel(bed, measured):
    target = Target("normal", bed.vip("beside-udp", 125), udp=bed.udp_echo(9001))
    stage = stage_of("udp-latency", rate=500, percentiles=[50, 99])
    for sample in measured(stage, target, sides=REFERENCE).values():
        assert sample.values["loss"] == 0.0 and sample.requests > 150
        assert 1_000 < sample.histograms["latency"].percentile(50) < 50e6
        stamped = sample.raw["kernel"]
        assert (stamped >= 0).mean() > 0.99
        # What the kernel timed lies within what the process saw.
        own = sample.raw["done"] - sample.raw["sent"]
        both = (stamped >= 0) & (sample.raw["done"] >= 0)
        assert (stamped[both] <= own[both]).all()


def test_every_tenth_datagram_lost_is_a_tenth_infinitely_late(bed, measured):
    target = Target("normal", bed.vip("beside-loss", 126), udp=bed.udp_echo(9002, drop_each=10))
    stage = stage_of("udp-latency", rate=500, timeout=0.2, percentiles=[50])
    sample = measured(stage, target, sides=REFERENCE)[REFERENCE]
    assert sample.values["loss"] == pytest.approx(0.1, abs=0.01)
    assert sample.histograms["latency"].percentile(85) < math.inf
    assert sample.histograms["latency"].percentile(95) == math.inf
    assert sample.values["pdv99.9"] == math.inf


@pytest.mark.parametrize("direction", ["up", "down"])
def test_bandwidth_has_the_sender_s_round_trips_in_both_directions(bed, measured, direction):
    """RFC 6349's figures are the sender's; of a download that is the member."""
    if shutil.which("iperf3") is None:
        pytest.skip("iperf3 is not installed")
    port = {"up": 5201, "down": 5202}[direction]
    target = Target(
        "normal", bed.vip(f"beside-{direction}", port + 1000), iperf3=bed.iperf3(port)
    )
    stage = stage_of("iperf3", 1.0, direction=direction, flows=2, bottleneck=100e9)
    sample = measured(stage, target, sides=REFERENCE)[REFERENCE]
    assert sample.values["rate"] > 1e8
    ideal = sample.values["transfer_time_ratio"] * sample.values["rate"]
    assert 0.93 < ideal / 100e9 < 0.96  # of a link with frames of 1,500 bytes
    assert 1_000 < sample.values["rtt"] < 1e9 and sample.values["buffer_delay"] >= 0
    assert 0.9 < sample.values["efficiency"] <= 1.0
    assert sample.raw["iperf3"]["start"]["test_start"]["num_streams"] == 2
    # And the client's machine was watched meanwhile.
    (watched,) = sample.health.details
    assert watched["client"] == "client" and 1.0 <= watched["wall_s"] < 10
    assert 0 < watched["cpu_share"] and 0 < watched["machine_busy_share"] <= 1
    assert sample.health.steal == watched["machine_steal_share"]


@pytest.mark.series
def test_objects_of_a_size_are_asked_for_by_their_size(bed, measured):
    size = 16384
    target = Target(
        "normal", bed.vip("sized", 141), large="/large", objects={size: f"/object-{size}"}
    )
    for engine in ("http-rate", "connection-rate", "http-goodput"):
        stage = stage_of(engine, object=size, connections=4, concurrency=4)
        sample = measured(stage, target, sides=REFERENCE)[REFERENCE]
        assert sample.failed == {} and sample.requests > 10, engine
        assert set(sample.members) == {"x" * 60 + f" [{size} bytes]"}, engine
        if engine == "http-goodput":
            # Whole objects, but for those under way when it began and ended.
            received = sample.values["rate"] / 8 * sample.window
            assert received / size == pytest.approx(sample.requests, abs=5 * 4 + 1)


def test_new_connections_are_timed_by_the_kernel(bed, measured):
    """The way to haproxy's kernel and back is shorter than that to its member."""
    target = Target("normal", bed.vip("dialled", 142))
    stage = stage_of("connect-latency", rate=300, arrivals="constant", percentiles=[50, 90])
    sample = measured(stage, target, sides=REFERENCE)[REFERENCE]
    assert sample.values["loss"] == 0.0 and sample.failed == {} and sample.requests == 150
    assert sample.notes == [make("connect-latency").clocks["kernel"]]
    assert set(sample.members) == {"member-1 " + "x" * 51 + " [64 bytes]"}
    connect, first = sample.histograms["latency"], sample.histograms["first_byte"]
    assert 1_000 < connect.percentile(50) < first.percentile(50)


@pytest.mark.series
def test_the_rate_search_finds_the_rate_the_target_was_made_for(bed, measured):
    """The target answers one request each 500 us: 2,000/s, whoever asks. What is asked above
    that queues up: after 0.5 s at 2,400/s the last ones wait 100 ms, which is the goal's end."""
    (url,) = bed.metronome((127, 500, 0))
    stage = stage_of(
        "rate-search", 20.0, highest=8_000, lowest=250, trial=0.5, width=0.1, p99=0.1,
        failed=0.001, connections=32,
    )  # fmt: skip
    sample = measured(stage, Target("normal", url), sides=REFERENCE)[REFERENCE]
    assert 1_500 <= sample.values["rate"] <= 2_500, (sample.values, sample.series)
    rates = {round(each["rate"]): each["met"] for each in sample.series}
    assert not any(met for rate, met in rates.items() if rate > 2_600), rates
    assert sample.raw["search"] == sample.series


@pytest.mark.series
def test_a_whole_comparison_can_hold_all_of_them(bed, client, profile_of, tmp_path):
    """Through the profile's schema, the runner and the result document."""
    url = bed.vip("whole", 128)
    target = Target(
        "normal", url, tls=bed.tls_vip("whole-tls", 129), udp=bed.udp_echo(9003),
        objects={16384: "/object-16384"},
    )  # fmt: skip
    pair = Pair(target, dataclasses.replace(target, role="sriov"), (client,), substrate="none")
    common = {"seconds": 0.2, "warmup": 0.05, "blocks": 1}
    profile = profile_of(
        {
            **common, "name": "tls", "title": "TLS", "engine": "tls-rate",
            "parameters": {"concurrency": 4},
        },
        {
            **common, "name": "held", "title": "Held", "engine": "connections-held",
            "parameters": {"connections": 50},
        },
        {
            **common, "name": "udp", "title": "UDP", "engine": "udp-latency",
            "parameters": {"rate": 200},
        },
        {
            **common, "name": "dial", "title": "Connect", "engine": "connect-latency",
            "parameters": {"rate": 200},
        },
        {
            **common, "name": "sized", "title": "Sized", "engine": "http-rate",
            "parameters": {"connections": 4, "object": 16384},
        },
        {
            **common, "name": "search", "title": "Search", "engine": "rate-search", "seconds": 4,
            "parameters": {"highest": 400, "lowest": 100, "trial": 0.2},
        },
        time_limit=300,
    )  # fmt: skip
    outcome = compare.compare(pair, profile, tmp_path, seed=1)
    assert outcome.complete, outcome.failure
    measured = {metric["id"] for metric in outcome.document["metrics"]}
    assert {
        "tls.rate", "held.held", "udp.p50", "dial.p50", "sized.rate", "search.rate"
    } <= measured, measured  # fmt: skip
    search = next(t for t in outcome.document["trials"] if t["stage"] == "search")
    assert search["values"]["rate"] == pytest.approx(400)
    assert any("met at the highest rate tried" in reason for reason in search["void"])
    assert np.isfinite(search["window"])


def test_a_rate_search_needs_its_library(bed, client, monkeypatch):
    from sriov_lb_perf.engines import search

    def absent(_name):
        raise ImportError("No module named 'MLRsearch'")

    monkeypatch.setattr(search.importlib, "import_module", absent)
    with pytest.raises(errors.MissingPackage, match="MLRsearch"):
        search.search(lambda s, r: None, search.Goal(0.0), lowest=1, highest=2)
