# SPDX-License-Identifier: Apache-2.0
"""Is the instrument true? Against real haproxy and nginx, where the answer is known."""

from __future__ import annotations

import signal
import struct
import threading
import time

import numpy as np
import pytest

from sriov_lb_perf import compare
from sriov_lb_perf.clients import Generator
from sriov_lb_perf.engines.probe import Times
from sriov_lb_perf.histogram import Histogram
from sriov_lb_perf.results import store
from sriov_lb_perf.statistics import verdict

LATENCY = {
    "name": "latency",
    "title": "Latency",
    "engine": "http-latency",
    "seconds": 0.3,
    "warmup": 0.1,
    "blocks": 5,
    "parameters": {"rate": 500, "connections": 16, "percentiles": [50, 90]},
}
REQUESTS = {
    "name": "requests",
    "title": "Request rate",
    "engine": "http-rate",
    "seconds": 0.3,
    "warmup": 0.1,
    "blocks": 5,
    "parameters": {"connections": 32},
}


#: Nanoseconds that both ways through a veth pair may take, a softirq each: usually about 10 us.
VETH = 40_000


@pytest.fixture(scope="module")
def normal(bed):
    return bed.vip("normal", 80)


@pytest.fixture(scope="module")
def generator(client):
    with client.open() as host:
        made = Generator.start(client, host)
        yield made
        made.close()


@pytest.mark.series
def test_a_vip_compared_with_itself_is_not_called_different(
    bed, normal, pair_of, profile_of, tmp_path
):
    """A/A: the same load balancer under both names. And the run is whole on disk."""
    outcome = compare.compare(
        pair_of(normal, normal), profile_of(LATENCY, REQUESTS, alpha=0.01), tmp_path, seed=3
    )
    assert outcome.complete, outcome.failure
    # Something could have been told: else the test shows nothing.
    for metric in outcome.analysis.metrics:
        if metric.metric.claim:
            assert not metric.finding.reasons, (metric.identifier, metric.finding.reasons)
            assert metric.finding.ratio is not None, metric.finding
    verdicts = {m.identifier: m.finding.verdict for m in outcome.analysis.metrics}
    assert verdict.FASTER not in verdicts.values(), verdicts
    assert verdict.SLOWER not in verdicts.values(), verdicts
    stored = store.load(outcome.folder)
    assert stored["status"] == "complete"
    assert len(stored["trials"]) == 40
    for trial in stored["trials"]:
        assert (outcome.folder / trial["raw"]["hlog"]["file"]).is_file()
        assert set(trial["members"]) == {"member-1 " + "x" * 51 + " [64 bytes]"}


@pytest.mark.series
def test_a_known_handicap_is_found_and_in_the_right_direction(
    bed, normal, pair_of, profile_of, tmp_path
):
    """The normal VIP's requests pass eight haproxies, the SR-IOV VIP's one."""
    slow = bed.vip("slow", 82, hops=8)
    # On a quiet machine six blocks do; the sequential rule goes on where it is noisy.
    blocks = {"least": 6, "most": 14, "until": 0.3}
    profile = profile_of(LATENCY, {**REQUESTS, "blocks": blocks}, alpha=0.01)
    outcome = compare.compare(pair_of(slow, normal), profile, tmp_path, seed=4)
    assert outcome.complete, outcome.failure
    rate = outcome.analysis.metric("requests.rate").finding
    assert rate.verdict == verdict.FASTER, rate
    assert rate.ratio.low > 1.0, rate
    median = outcome.analysis.metric("latency.p50").finding
    assert median.ratio.estimate < 1.0, median
    assert outcome.analysis.word == verdict.FASTER, outcome.analysis.sentence


def test_a_stop_of_200_ms_is_seen_by_the_open_loop_and_missed_by_the_closed_one(
    bed, normal, generator
):
    """Of 2 s of requests a tenth fall into the stop and wait for the rest of it: so 5 % of all
    wait 100 ms or more, and the 99th percentile is near 180 ms, by arithmetic. A closed loop
    has at most one request per connection in the stop: its 99th percentile stays small."""
    stop, seconds = 0.2, 2.0
    stops = []

    def run(job):
        def halt():
            started.wait()
            stops.append(bed.pause("normal", stop))

        started = threading.Event()
        thread = threading.Thread(target=halt)
        thread.start()
        generator.send(job)
        timer = threading.Timer(0.9, started.set)
        timer.start()
        report = generator.finish(job["job"], seconds + 2)
        thread.join()
        return report

    common = {"url": normal, "warmup": 0.2, "connections": 16}
    report = run(
        {**common, "job": "open", "schedule": [[500, 500, seconds + 0.2]], "stamps": True}
    )
    times = Times(report["raw"])
    latency = Histogram.of(np.maximum(times.latency(), 0), times.lost)
    late = float((times.response() >= 100e6).mean())
    # As long as the stop really was; another job on this machine can add a little to the waiting.
    waiting, tail = (stops[0] - 0.1) / seconds, (stops[0] - 0.01 * seconds) * 1e9
    assert 0.7 * waiting <= late <= 1.7 * waiting, (late, stops)
    assert 0.7 * tail <= latency.percentile(99) <= 1.5 * tail, (latency.percentile(99), stops)
    closed = run({**common, "job": "closed", "seconds": seconds, "tick": 60})
    naive = Histogram.of_sparse(closed["latency"])
    slow = sum(int(c) for v, c in zip(*naive.stretch(), strict=True) if v >= 100e6)
    # Evidence that the stop happened in there too; one request per connection can be in it.
    assert 1 <= slow <= 2 * common["connections"], slow
    assert slow / len(naive) < late / 3, (slow, len(naive), late)


def test_a_request_that_is_sent_again_is_timed_from_the_first_time(bed, normal, generator):
    """Every 40th segment with a request is lost. Linux sends it again after 200 ms at least, so
    that long it took, by whatever clock."""
    job = {
        "job": "open", "url": normal, "connections": 16, "warmup": 0.2, "stamps": True,
        "schedule": [[300, 300, 1.7]],
    }  # fmt: skip
    with bed.losing(80, 40):
        report = generator.job(job, seconds=3.0)
    times = Times(report["raw"])
    own, stamped = times.done - times.sent, times.kernel >= 0
    again = times.answered & stamped & (own > 190e6)
    assert again.sum() >= 5, "nothing was lost: the test shows nothing"
    # Not later than the user's clock has it, and not much earlier: nothing is hidden.
    assert (times.kernel[again] > 190e6).all(), sorted(times.kernel[again])[:5]


def conversations(path) -> list[tuple[int, int]]:
    """(time of a request, time of its answer), ns, of a capture of HTTP on one server port.

    One request at a time is under way on a connection, so the next segment with data in the
    other direction is its answer.
    """
    data = path.read_bytes()
    if len(data) < 24:
        return []
    magic, _, _, _, _, _, link = struct.unpack_from("=IHHiIII", data)
    assert magic == 0xA1B23C4D and link == 1, (hex(magic), link)  # ns, Ethernet
    found, open_, at = [], {}, 24
    while at + 16 <= len(data):
        seconds, nanoseconds, kept, _ = struct.unpack_from("=IIII", data, at)
        if at + 16 + kept > len(data):
            break  # it is being written
        frame = data[at + 16 : at + 16 + kept]
        at += 16 + kept
        header = 14 + 4 * (frame[14] & 15)
        total = struct.unpack_from("!H", frame, 16)[0]
        if total - (header - 14) - 4 * (frame[header + 12] >> 4) <= 0:
            continue  # no data
        ports = struct.unpack_from("!HH", frame, header)
        when = seconds * 1_000_000_000 + nanoseconds
        if frame[26:30] < frame[30:34]:  # from 10.77.1.1, the client
            open_[ports] = when
        elif ports[::-1] in open_:
            found.append((open_.pop(ports[::-1]), when))
    return found


def test_the_probe_agrees_with_captures_at_both_ends(bed, normal, generator, tmp_path):
    """The kernel's stamps against tcpdump on the client's device and on the load balancer's:
    p50 and p99 within 2 us or 2 %."""
    paths = {"client": tmp_path / "client.pcap", "lb": tmp_path / "lb.pcap"}
    dumps = [
        bed.capture("client", "to-lb", 80, paths["client"]),
        bed.capture("lb", "to-client", 80, paths["lb"]),
    ]
    report = generator.job(
        {
            "job": "open", "url": normal, "connections": 16, "warmup": 0, "stamps": True,
            "schedule": [[500, 500, 4.0]],
        },
        seconds=6,
    )  # fmt: skip
    times = Times(report["raw"])
    stamped = times.kernel[times.answered]
    # What users are told: the histogram of what the probe takes for the latency.
    told = Histogram.of(times.latency(), times.lost)
    # tcpdump gets its packets a block at a time.
    deadline = time.monotonic() + 15
    while any(len(conversations(path)) < len(stamped) for path in paths.values()):
        assert time.monotonic() < deadline, {k: len(conversations(v)) for k, v in paths.items()}
        time.sleep(0.2)
    for dump in dumps:
        dump.send_signal(signal.SIGINT)
        dump.wait(10)
        dump.stderr.close()
    assert len(stamped) == 2000 and (stamped >= 0).all()
    seen = {
        name: np.array([back - out for out, back in conversations(path)])
        for name, path in paths.items()
    }
    assert len(seen["client"]) == len(seen["lb"]) == len(stamped)
    for q in (50, 99):
        client, server = (float(np.percentile(seen[name], q)) for name in ("client", "lb"))
        allowed = max(2_000, 0.02 * client)
        for probe in (float(np.percentile(stamped, q)), told.percentile(q)):
            assert abs(probe - client) <= allowed, (q, probe, client)
        # The rest of the way is a veth pair.
        assert 0 <= client - server <= allowed + VETH, (q, server, client)
    # Request by request, not only as a distribution.
    order = np.argsort(times.sent[times.answered], kind="stable")
    out = np.array(sorted(conversations(paths["client"])))
    apart = np.abs(stamped[order] - (out[:, 1] - out[:, 0]))
    assert np.percentile(apart, 95) <= 5_000, np.percentile(apart, [50, 95, 99, 100])


def handshakes(path) -> list[tuple[int, int]]:
    """(time of a SYN, time of its SYN/ACK), ns, in the order of the SYNs."""
    data = path.read_bytes()
    found, asked, at = {}, {}, 24
    while at + 16 <= len(data):
        seconds, nanoseconds, kept, _ = struct.unpack_from("=IIII", data, at)
        if at + 16 + kept > len(data):
            break  # it is being written
        frame = data[at + 16 : at + 16 + kept]
        at += 16 + kept
        header = 14 + 4 * (frame[14] & 15)
        ports = struct.unpack_from("!HH", frame, header)
        when = seconds * 1_000_000_000 + nanoseconds
        flags = frame[header + 13] & 0x12
        if flags == 0x02:
            asked[ports] = when
        elif flags == 0x12 and ports[::-1] in asked:
            found[asked.pop(ports[::-1])] = when
    return sorted(found.items())


@pytest.mark.series
def test_the_time_to_connect_agrees_with_a_capture(bed, normal, generator, tmp_path):
    """The kernel's first round trip against SYN and SYN/ACK on the client's device. TCP takes its
    times above IP, tcpdump below it: a few us more, and never less. One by one they agree within
    10 us in 95 of 100."""
    path = tmp_path / "syn.pcap"
    dump = bed.capture("client", "to-lb", 80, path)
    report = generator.job(
        {"job": "dial", "url": normal, "warmup": 0, "schedule": [[300, 300, 3.0]]}, seconds=5
    )
    times = Times(report["raw"])
    stamped = times.kernel[times.answered]
    deadline = time.monotonic() + 15
    while len(handshakes(path)) < len(stamped):
        assert time.monotonic() < deadline, len(handshakes(path))
        time.sleep(0.2)  # tcpdump gets its packets a block at a time
    dump.send_signal(signal.SIGINT)
    dump.wait(10)
    dump.stderr.close()
    assert len(stamped) == 900 and (stamped > 0).all() and report["failed"] == {}
    seen = np.array([back - out for out, back in handshakes(path)])
    assert len(seen) == len(stamped)
    for q in (50, 99):
        probe, wire = float(np.percentile(stamped, q)), float(np.percentile(seen, q))
        # Down to the microsecond that it is rounded to.
        assert -1_000 <= probe - wire <= max(10_000, 0.02 * wire), (q, probe, wire)
    apart = stamped[np.argsort(times.sent[times.answered], kind="stable")] - seen
    assert np.percentile(apart, 2.5) >= -1_000, np.percentile(apart, [0, 2.5, 50])
    assert np.percentile(apart, 97.5) <= 10_000, np.percentile(apart, [50, 97.5, 100])
