# SPDX-License-Identifier: Apache-2.0
"""Profiles and target files: what is wrong is said before anything is started."""

from __future__ import annotations

import copy
import json

import pytest
import yaml

from sriov_lb_perf import errors, profiles, targets
from sriov_lb_perf.agent import schedule
from sriov_lb_perf.clients import Client
from sriov_lb_perf.engines import registry


@pytest.mark.parametrize("name", profiles.names())
def test_every_profile_that_comes_with_the_project_loads_and_fits_its_time(name):
    profile = profiles.load(name)
    assert profile.name == name
    assert profile.most_seconds() <= profile.time_limit


def test_the_profile_of_every_engine_has_every_engine():
    profile = profiles.load("engines")
    assert {stage.engine for stage in profile.stages} == set(registry.ENGINES)
    assert profile.time_limit <= 300
    # And the schema knows them all, and no other.
    schema = json.loads(profiles.folder().joinpath("profile.schema.json").read_text())
    known = schema["$defs"]["stage"]["properties"]["engine"]["enum"]
    assert sorted(known) == sorted(registry.ENGINES)


def test_smoke_takes_at_most_two_minutes():
    assert profiles.load("smoke").time_limit <= 120


LATENCY = {
    "name": "latency", "title": "Latency", "engine": "http-latency", "seconds": 99,
    "warmup": 1, "blocks": 1, "parameters": {"rate": 2000},
}  # fmt: skip


@pytest.mark.parametrize("engine", ["http-latency", "connect-latency", "udp-latency"])
def test_a_probe_may_keep_as_many_times_as_its_agent_does(data, engine):
    data.update(time_limit=10_000, claims=[])
    stage = {**LATENCY, "engine": engine}
    data["stages"][0] = stage
    (kept, *_) = profiles.from_mapping(data, "mine").stages
    job = {"schedule": [[2000, 2000, kept.trial_seconds]], "warmup": kept.warmup}
    assert schedule.plan(job).raw
    with pytest.raises(errors.BadProfile, match="stage latency: rate 2001 .* 200,100 requests"):
        stage["parameters"] = {"rate": 2001}
        profiles.from_mapping(data, "mine")
    # A rate search has a rate that is no probe's.
    stage.update(engine="rate-search", parameters={"rate": 1e6, "highest": 1e6})
    assert profiles.from_mapping(data, "mine")


def test_a_load_beside_a_probe_takes_its_time_and_that_is_counted(data):
    """It outlasts the probe, and its end is reported: measured, 0.63 s a trial, and 0.2 s more
    between two blocks."""
    data["time_limit"] = 1000
    before = profiles.from_mapping(data, "mine").most_seconds()
    loaded = {**LATENCY, "name": "loaded", "seconds": 0.8, "warmup": 0.2, "load": 0.5, "blocks": 5}
    data["stages"].append(loaded)
    more = profiles.from_mapping(data, "mine").most_seconds() - before
    assert 5 * 4 * (1.0 + 0.68) <= more <= 5 * 4 * (1.0 + 1.0)
    data["time_limit"] = before + more - 0.5
    with pytest.raises(errors.BadProfile, match="cannot finish in its time"):
        profiles.from_mapping(data, "mine")


@pytest.fixture
def data():
    return copy.deepcopy(profiles.load("smoke").source)


def change(data, path, value):
    at = data
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (["time_limit"], 60, "cannot finish in its time.*60 s.*longest stage"),
        (["stages", 0, "engine"], "wrk", "stages/0/engine"),
        (["stages", 0, "parameters", "rate"], 0, "stages/0/parameters/rate"),
        (["stages", 0, "parameters", "speed"], 1, "speed"),
        (["stages", 1, "name"], "latency", "used twice"),
        (["stages", 1, "blocks"], {"least": 9, "most": 6, "until": 0.1}, "most .6. is less"),
        (
            ["stages", 0], {**LATENCY, "seconds": 1, "load": 0.5},
            "no http-rate stage comes before",
        ),
        (["stages", 1, "load"], 0.5, "stages/1/engine"),
        (["stages", 0, "parameters", "object"], 0, "stages/0/parameters/object"),
        (["limits", "steady"], 0, "limits/steady"),
        (["claims", 0, "metric"], ["goodput.speed"], "unknown metric goodput.speed"),
        # Also beside one that is known, and whatever the order.
        (["claims", 0, "metric"], ["goodput.rate", "goodptu.rate"], "metric goodptu.rate; this"),
        (["claims", 0, "metric"], ["x.rate", "goodput.rate", "y.rate"], "metric x.rate, y.rate;"),
        # Each connection's first request is to be over when the window begins.
        (
            ["stages", 0],
            {**LATENCY, "warmup": 0.05, "parameters": {"rate": 250, "connections": 32}},
            "stage latency: 12 requests leave in its warm-up .250/s for 0.05 s., .* each of its "
            "32 connections.* Raise warmup to 0.2 s, or lower connections to 8.",
        ),
        (
            ["stages", 0], {**LATENCY, "warmup": 0, "parameters": {"rate": 250}},
            "0 requests leave .* 16 connections.* Raise warmup to 0.1 s.$",
        ),
        (
            ["stages", 0, "blocks"], {"least": 5, "most": 6, "until": 0.1, "spare": 6},
            "spare .6. is not more than most .6.",
        ),
        # The warm-up counts, too.
        (
            ["stages", 0], {**LATENCY, "seconds": 99.5, "warmup": 1.0},
            "stage latency: rate 2000 for 100.5 s .* is 201,000 requests a trial; a probe keeps "
            "the times of 200,000 .*Lower rate to 1990 or less",
        ),
        (["margin"], 0, "margin"),
    ],
)
def test_a_profile_that_cannot_be_run_is_refused_in_words(data, path, value, words):
    with pytest.raises(errors.BadProfile, match=words):
        profiles.from_mapping(change(data, path, value), "mine")


def test_the_room_that_raw_times_take_is_known_before():
    room = {name: profiles.load(name).room for name in ("smoke", "standard", "soak")}
    assert room["smoke"] < room["standard"] < 64 << 20 < room["soak"]


def test_a_search_has_room_to_search():
    every = copy.deepcopy(profiles.load("engines").source)
    (search,) = [stage for stage in every["stages"] if stage["engine"] == "rate-search"]
    search["parameters"]["lowest"] = search["parameters"]["highest"]
    with pytest.raises(errors.BadProfile, match="stage search: lowest .20000. is not below"):
        profiles.from_mapping(every, "mine")


def test_iperf3_takes_whole_seconds(data):
    stage = {"name": "b", "title": "B", "engine": "iperf3", "seconds": 1.5, "warmup": 0}
    stage["blocks"] = 1
    data["stages"].append(stage)
    with pytest.raises(errors.BadProfile, match="stage b: iperf3 takes whole seconds.*1.5"):
        profiles.from_mapping(data, "mine")


def test_an_unknown_profile_names_the_known_ones():
    with pytest.raises(errors.BadProfile, match="smoke"):
        profiles.load("fast")


def test_a_profile_can_be_a_file(tmp_path, data):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**data, "name": "mine"}))
    assert profiles.load(str(path)).name == "mine"
    path.write_text("a: [")
    with pytest.raises(errors.BadProfile, match="not YAML"):
        profiles.load(str(path))
    with pytest.raises(errors.BadProfile, match="no profile file"):
        profiles.load(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize(
    ("text", "kind", "where"),
    [
        ("ssh://debian@10.0.0.7", "ssh", "10.0.0.7"),
        ("ssh://debian@[2001:db8::7]:2222?key=/k", "ssh", "2001:db8::7"),
        ("namespace:perf-client", "namespace", "perf-client"),
        ("local", "local", ""),
    ],
)
def test_clients_are_named_on_the_command_line(text, kind, where):
    client = Client.parse(text, key_file="/default")
    assert (client.kind, client.where) == (kind, where)
    if kind == "ssh":
        assert client.key_file == ("/k" if "key=" in text else "/default")


@pytest.mark.parametrize("text", ["10.0.0.7", "ssh://", "namespace:", "ssh://h?port=3", "http://h"])
def test_other_words_are_no_clients(text):
    with pytest.raises(errors.BadTarget, match="ssh://USER@HOST"):
        Client.parse(text)


def test_an_ssh_client_without_a_key_says_so(tmp_path):
    with pytest.raises(errors.BadTarget, match="--ssh-key"):
        Client.parse("ssh://debian@192.0.2.1").open()
    with pytest.raises(errors.BadTarget, match="no ssh key"):
        Client.parse("ssh://debian@192.0.2.1", key_file=str(tmp_path / "none")).open()


GOOD = {
    "substrate": "macvlan",
    "vips": {
        "normal": {"url": "http://192.0.2.1/", "large": "/l"},
        "sriov": {"url": "http://192.0.2.2:8080/x?y=1", "large": "l"},
    },
    "clients": [
        {"name": "c", "ssh": {"address": "192.0.2.9", "key_file": "/k"}, "sources": ["192.0.2.10"]}
    ],
}


def test_a_target_file_describes_vips_and_clients(tmp_path):
    path = tmp_path / "targets.yaml"
    path.write_text(yaml.safe_dump(GOOD))
    pair = targets.load(path)
    assert pair.names == ("normal", "sriov")
    assert pair.candidate.large_url == "http://192.0.2.2:8080/l"
    assert pair.clients[0].sources == ("192.0.2.10",)
    assert "/k" not in pair.clients[0].describe()


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (["vips", "normal", "url"], "192.0.2.1", "vips/normal/url"),
        (["clients"], [], "clients"),
        (["clients", 0, "namespace"], "x", "clients/0"),
        (["substrate"], "vf", "substrate"),
    ],
)
def test_a_wrong_target_file_is_refused_in_words(path, value, words):
    with pytest.raises(errors.BadTarget, match=words):
        targets.from_mapping(change(copy.deepcopy(GOOD), path, value), "targets.yaml")


def test_two_clients_of_one_name_are_refused():
    again = copy.deepcopy(GOOD)
    again["clients"] *= 2
    with pytest.raises(errors.BadTarget, match="used twice"):
        targets.from_mapping(again, "targets.yaml")
