# SPDX-License-Identifier: Apache-2.0
"""What a profile will ask for is looked at before anything is measured."""

from __future__ import annotations

import dataclasses
import socket
import threading

import pytest

from sriov_lb_perf import errors, preflight, profiles
from sriov_lb_perf.clients import Client, Generator, LocalHost
from sriov_lb_perf.engines import base
from sriov_lb_perf.targets import Pair, Target, at_path
from sriov_lb_perf.trials.run import run_profile
from sriov_lb_tests.wire.host import Result

HERE = Client("here", "local")
COMMON = {"title": "Stage", "seconds": 1, "warmup": 0, "blocks": 1}
STAGES = {
    "tls": {"engine": "tls-rate"},
    "udp": {"engine": "udp-latency", "parameters": {"rate": 100, "timeout": 0.2}},
    "sized": {"engine": "http-rate", "parameters": {"object": 64}},
    "large": {"engine": "http-goodput"},
    "iperf3": {"engine": "iperf3"},
}


def profile_of(*names: str, optional: bool = True):
    plain = {"name": "plain", "engine": "http-rate", **COMMON}
    stages = [{"name": n, "optional": optional, **COMMON, **STAGES[n]} for n in names]
    return profiles.from_mapping(
        {
            "name": "look", "title": "Look", "time_limit": 1000, "margin": 0.05,
            "stages": [plain, *stages],
        },
        "the test's profile",
    )  # fmt: skip


class Commands:
    """A host whose every command ends in the same way."""

    def __init__(self, status: int, stdout: str = "", stderr: str = "") -> None:
        self.result = Result((), status, stdout, stderr, 0.0)
        self.ran: list[list[str]] = []

    def run(self, argv, **_options):
        self.ran.append(argv)
        return self.result


@pytest.fixture
def crew():
    class Crew:
        clients = (HERE,)
        hosts = {HERE.name: Commands(0, "{}")}
        prober = Generator.start(HERE, LocalHost())
        lengths: dict[str, int] = {}

    yield Crew
    Crew.prober.close()


def pair_of(server, **more) -> Pair:
    target = Target("normal", server.url, **more)
    return Pair(target, Target("sriov", server.url, **more), (HERE,))


@pytest.fixture
def mute():
    """A UDP port that takes everything and says nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()


@pytest.fixture
def echo():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(20)

        def serve():
            while True:
                try:
                    data, peer = sock.recvfrom(2048)
                except OSError:
                    return
                if not data:
                    return
                sock.sendto(data, peer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield sock.getsockname()
        sock.sendto(b"", sock.getsockname())
        thread.join(5)


def reason(pair, profile, crew, what):
    """Why a stage of the profile would be left out; "" if it would not."""
    _, seen = preflight.look(pair, profile, crew)
    lacks = [vip.lacks.get(what, "") for vip in (seen.reference, seen.candidate)]
    return "; ".join(filter(None, lacks))


def test_what_answers_is_kept(crew, server, echo):
    """The body of the test's server has 64 bytes, whatever the path."""
    pair = pair_of(server, udp=echo, large="/large", objects={64: "/object-64"})
    found, seen = preflight.look(pair, profile_of("udp", "sized", "large"), crew)
    assert seen == pair
    assert found["sriov"]["length"] == 64 and found["normal"]["port"] == server.port


def test_a_tls_listener_that_speaks_no_tls_is_told(crew, server, monkeypatch):
    monkeypatch.setattr(base, "PATIENCE", 0.5)  # it is waited for to the end
    pair = pair_of(server, tls=f"https://127.0.0.1:{server.port}/")
    why = reason(pair, profile_of("tls"), crew, "tls")
    assert "TLS listener of the sriov VIP" in why and "TLS handshake" in why
    # Nobody looks at what no stage asks for.
    assert reason(pair, profile_of("udp"), crew, "tls") == ""


def test_a_udp_listener_that_answers_nothing_is_told(crew, server, mute):
    why = reason(pair_of(server, udp=mute), profile_of("udp"), crew, "udp")
    assert f"UDP listener of the normal VIP, 127.0.0.1 port {mute[1]}" in why
    assert "answers none of 10 datagrams" in why


def test_an_object_of_another_size_or_none_at_all_is_told(crew, server, response):
    pair = pair_of(server, objects={64: "/object-64"}, large="/large")
    server.answer = lambda request: response(200, b"x" * 65)
    assert "an object of 64 bytes, has 65" in reason(pair, profile_of("sized"), crew, "objects")
    server.answer = lambda request: response(404 if b"/l" in request else 200, b"x" * 64)
    assert reason(pair, profile_of("sized"), crew, "objects") == ""
    assert "answers status 404" in reason(pair, profile_of("large"), crew, "large")


@pytest.mark.parametrize(
    ("host", "told"),
    [
        (Commands(0, '{"end": {}}'), ""),
        (Commands(1, '{"error": "unable to connect to server"}'), "ends with: unable to connect"),
        (Commands(127, "", "iperf3: not found"), "cannot be run (status 127: iperf3: not found)"),
    ],
)
def test_iperf3_that_does_not_run_or_reaches_nobody_is_told(crew, server, host, told):
    crew.hosts[HERE.name] = host
    pair = pair_of(server, iperf3=("127.0.0.1", 5201))
    why = reason(pair, profile_of("iperf3"), crew, "iperf3")
    if told:
        assert why.count(told) == 2 and "iperf3 to the normal VIP, 127.0.0.1 port 5201, " in why
    else:
        assert why == ""
    # Each VIP was tried, at its address.
    assert [argv[argv.index("--client") + 1] for argv in host.ran] == ["127.0.0.1"] * 2


def test_a_stage_that_may_not_be_left_out_ends_the_run_before_anything_is_measured(
    crew, server, mute
):
    profile = profile_of("udp", optional=False)
    _, seen = preflight.look(pair_of(server, udp=mute), profile, crew)
    runs, told = [], []
    with pytest.raises(errors.BadTarget, match="'udp' .* answers none of 10 datagrams"):
        run_profile(
            profile, seen, crew, seed=1, runs=runs, listener=lambda *each: told.append(each)
        )
    # Also of the stage before it.
    assert runs == told == []


def test_a_stage_that_may_be_left_out_is_with_its_reason(crew, server, mute, monkeypatch):
    from sriov_lb_perf.engines import registry

    profile = profile_of("udp")

    class NoRate:
        needs = ""

        def unfit(self, stage, pair):
            return None

        def metrics(self, stage):
            return []

        def configure(self, stage, pair, crew):
            raise errors.EngineFailed("as far as this test goes")

    monkeypatch.setitem(registry.ENGINES, "http-rate", NoRate)
    _, seen = preflight.look(pair_of(server, udp=mute), profile, crew)
    order = [*profile.stages[1:], *profile.stages[:1]]
    runs = []
    with pytest.raises(errors.EngineFailed):
        run_profile(
            dataclasses.replace(profile, stages=tuple(order)), seen, crew, seed=1,
            runs=runs, listener=lambda *_: None,
        )  # fmt: skip
    assert "answers none of 10 datagrams" in runs[0].skipped and runs[0].samples == []


def test_vips_that_serve_objects_of_two_sizes_are_no_pair(crew, server, response):
    server.answer = lambda request: response(200, b"x" * (64 if b"/one" in request else 8192))
    pair = pair_of(server)
    one = dataclasses.replace(pair.reference, url=at_path(pair.reference.url, "/one"))
    with pytest.raises(errors.TargetFailed, match="64 bytes through the normal VIP, 8192 bytes"):
        preflight.look(dataclasses.replace(pair, reference=one), profile_of("udp"), crew)


def test_a_large_object_of_two_sizes_is_none_and_told_beforehand(crew, server, response):
    server.answer = lambda request: response(200, b"x" * (8192 if b"/other" in request else 64))
    pair = pair_of(server, large="/large")
    other = dataclasses.replace(pair.candidate, large="/other")
    why = reason(dataclasses.replace(pair, candidate=other), profile_of("large"), crew, "large")
    assert "/large has 64 bytes and " in why and "/other 8192: not the same object" in why
    # Nobody compares what no stage asks for.
    other = dataclasses.replace(pair, candidate=other)
    assert reason(other, profile_of("udp"), crew, "large") == ""


def test_lengths_are_those_before_the_first_trial(crew, server):
    """What no stage asks for has none."""
    pair = pair_of(server, large="/large")
    url = pair.reference.url
    preflight.look(pair, profile_of("udp"), crew)
    assert crew.lengths == {url: 64}
    preflight.look(pair, profile_of("large"), crew)
    assert crew.lengths == {url: 64, pair.reference.large_url: 64}


def test_a_vip_that_answers_503_is_no_target_at_all(crew, server, response):
    server.answer = lambda request: response(503, b"no")
    with pytest.raises(errors.TargetFailed, match="normal VIP .* answers status 503"):
        preflight.look(pair_of(server), profile_of("udp"), crew)
