# SPDX-License-Identifier: Apache-2.0
"""What still differs between the twins, the tester's clock, and a run's time limit."""

from __future__ import annotations

import copy
import time
import types

import pytest

from sriov_lb_perf import cli, compare, errors
from sriov_lb_perf.clients import Client
from sriov_lb_perf.report import page
from sriov_lb_perf.results import amphorae
from sriov_lb_perf.targets import Pair, Target
from sriov_lb_tests.amphora import facts
from sriov_lb_tests.errors import GuestUnreachable
from sriov_lb_tests.wire.host import Result

FACTS = {
    "kernel": "6.1.0", "cpus": 2, "haproxy version": "2.6.12", "haproxy threads": 2,
    "interface driver": "veth", "notrack rules": 4, "MAC": "fa:16:3e:00:00:01",
    "conntrack entries": 0, "os": "Debian", "memory MiB": 1024, "agent version": "16.0.0",
    "congestion control": "cubic",
}  # fmt: skip


def amphora(**changed):
    own = {**FACTS, **{name.replace("_", " "): value for name, value in changed.items()}}
    return {"name": "single", "facts": own, "during": {}, "failed": ""}


def test_what_belongs_to_the_port_is_stated_and_no_gate_fails():
    both = {
        "A": [amphora()],
        "B": [amphora(interface_driver="iavf", notrack_rules=0, MAC="fa:16:3e:00:00:02")],
    }
    known = {"A": {"host": "compute-1", "image": "i"}, "B": {"host": "compute-2", "image": "i"}}
    told = amphorae.differences(both, known)
    assert [(d["fact"], d["A"], d["B"], d["equal"]) for d in told] == [
        ("host", "compute-1", "compute-2", False),
        ("interface driver", "veth", "iavf", False),
        ("notrack rules", 4, 0, False),
    ]
    passed, words = amphorae.equality(both, known)
    assert passed is True and "equal in image, os" in words and "haproxy threads" in words
    assert "not told" not in words


def test_what_nobody_told_is_not_called_equal():
    both = {"A": [amphora(os=None)], "B": [amphora(os=None)]}
    passed, words = amphorae.equality(both)
    assert passed is True and words.endswith("; not told: image and os")
    assert words.startswith("equal in kernel, ")
    bare = {"name": "single", "facts": {"MAC": "fa:16:3e:00:00:01"}, "during": {}, "failed": ""}
    passed, words = amphorae.equality({"A": [bare], "B": [bare]})
    assert passed is None and "nobody tells" in words


@pytest.mark.parametrize(
    ("changed", "known"),
    [({"haproxy_threads": 4}, {}), ({"haproxy_version": "2.8"}, {}), ({}, {"image": "other"})],
)
def test_anything_else_fails_the_gate(changed, known):
    both = {"A": [amphora()], "B": [amphora(**changed)]}
    passed, words = amphorae.equality(both, {"A": {"image": "i"}, "B": {"image": "i", **known}})
    assert passed is False and "something else than the port differs" in words


def test_entries_that_the_load_left_behind_count_and_not_those_of_the_beginning():
    both = {"A": [amphora()], "B": [amphora()]}
    both["B"][0]["during"] = {"conntrack entries": 76}
    (told,) = amphorae.differences(both)
    assert (told["fact"], told["A"], told["B"]) == ("conntrack entries", 0, 76)


def test_without_amphorae_nothing_is_said():
    assert amphorae.equality({"A": [], "B": []}) is None
    failed = {"A": [amphora()], "B": [{**amphora(), "facts": {}, "failed": "no ssh"}]}
    assert amphorae.equality(failed) == (None, "not examined: no ssh")
    assert amphorae.differences(failed) == []


class Inside:
    """ssh to an amphora that is not there, or that answers with a reading."""

    name = "amphora"

    def __init__(self, reading=None):
        self.reading, self.closed, self.asked = reading, False, []

    def run(self, argv, **more):
        self.asked.append((argv, more))
        if self.reading is None:
            raise GuestUnreachable("No ssh to the amphora.")
        return Result(tuple(argv), 0, self.reading, "", 0.0)

    def close(self):
        self.closed = True


@pytest.fixture
def watched(monkeypatch):
    """watched(hosts of A, of B): a Watch on them."""

    def make(first, second):
        hosts = {"198.18.16.5": first, "198.18.16.6": second}
        monkeypatch.setattr(Client, "open", lambda self, pins=None: hosts[self.where])

        def one(where):
            return (Client("single", "ssh", where, key_file="/key"),)

        pair = Pair(
            Target("normal", "http://192.0.2.1/", amphorae=one("198.18.16.5")),
            Target("sriov", "http://192.0.2.2/", amphorae=one("198.18.16.6")),
            (Client("local", "local"),),
        )
        return amphorae.Watch(pair)

    return make


READING = (
    '{"facts": {"kernel": "6.1.0", "conntrack entries": 3}, "counters": '
    '{"haproxy_ticks": 50, "hertz": 100, "cpu": [1, 0, 1, 8, 0, 0, 0, 0]}}'
)


def test_an_amphora_that_cannot_be_reached_is_stated_and_ends_nothing(watched):
    there, gone = Inside(READING), Inside()
    with watched(there, gone) as watch:
        found = watch.now()
    assert found["A"][0]["facts"]["kernel"] == "6.1.0"
    assert found["B"][0]["failed"].startswith("No ssh to the amphora")
    argv, more = there.asked[0]
    assert argv == ["python3", "-", "amphora-haproxy", "eth1"] and more["root"] is True
    assert there.closed and gone.closed


def test_an_amphora_that_goes_away_keeps_what_was_read_before(watched):
    there, goes = Inside(READING), Inside(READING)
    with watched(there, goes) as watch:
        goes.reading = None
        found = watch.now()
    assert found["B"][0]["facts"]["kernel"] == "6.1.0"
    assert found["B"][0]["failed"].startswith("at the end: No ssh")
    assert found["A"][0]["during"]["conntrack entries"] == 3


def test_shares_between_two_readings():
    def reading(ticks, cpu):
        return {
            "facts": {"conntrack entries": 9},
            "counters": {"haproxy_ticks": ticks, "hertz": 100, "cpu": cpu},
        }

    before = reading(100, [10, 0, 10, 80, 0, 0, 0, 0])
    told = facts.between(before, reading(400, [20, 0, 20, 150, 0, 0, 0, 10]), 10.0)
    assert told == {"haproxy cores": 0.3, "steal share": 0.1, "conntrack entries": 9}
    # It was restarted: what it spent before is gone.
    assert facts.between(before, reading(5, [20] * 8), 10.0)["haproxy cores"] is None


def stolen(share):
    return {"name": "single", "facts": {}, "during": {"steal share": share}, "failed": ""}


def test_amphorae_that_are_robbed_of_their_cpu_fail_a_gate():
    passed, words = amphorae.steal({"A": [stolen(0.01)], "B": [stolen(0.24)]}, 0.1)
    assert passed is False and "24.0% of the CPU of amphora single of side B" in words
    assert amphorae.steal({"A": [stolen(0.01)], "B": [stolen(0.1)]}, 0.1)[0] is True
    # One that could not be read proves nothing, unless the other is robbed.
    assert amphorae.steal({"A": [stolen(None)], "B": [stolen(0.0)]}, 0.1)[0] is None
    assert amphorae.steal({"A": [stolen(None)], "B": [stolen(0.5)]}, 0.1)[0] is False
    assert amphorae.steal({}, 0.1) is None


def test_a_run_with_robbed_amphorae_is_not_sound(made_run, monkeypatch):
    told = {"A": [stolen(0.0)], "B": [stolen(0.3)]}
    monkeypatch.setattr(amphorae.Watch, "now", lambda self: told)
    monkeypatch.setattr(amphorae, "equality", lambda *_: None)
    monkeypatch.setattr(
        compare.fingerprint, "take", lambda pair, crew: {"substrate": "none", "tester": {}}
    )
    document = made_run(ratio=1.0, blocks=2).document
    (gate,) = [gate for gate in document["gates"] if gate["name"] == "steal"]
    assert gate["passed"] is False and document["verdict"]["sound"] is False
    told["B"] = [stolen(0.0)]
    assert made_run(ratio=1.0, blocks=2).document["verdict"]["sound"] is True


def test_the_page_says_what_differs_and_that_a_clock_was_set(finished, monkeypatch):
    monkeypatch.setattr(page, "plotly_script", lambda: "")
    document = copy.deepcopy(finished.document)
    both = {"A": [amphora()], "B": [amphora(haproxy_threads=4, notrack_rules=0)]}
    document["environment"] |= {
        "amphorae": both,
        "differences": amphorae.differences(both),
        "tester": {"clock_step_s": -3600.0},
    }
    text = page.render(document)
    assert "Beside the port these differ: haproxy threads, notrack rules." in text
    assert "ought to be equal" in text and "of the port or its place" in text
    assert "clock was set during the run, by -3600.0 s" in text
    # The control: nothing known, nothing set.
    plain = page.render(finished.document)
    assert "No amphora was named" in plain and "clock was set" not in plain


def test_a_clock_that_is_set_back_in_mid_run_changes_no_duration(made_run, monkeypatch):
    offset = [0.0]
    clock = types.SimpleNamespace(
        time=lambda: time.time() + offset[0],
        monotonic=time.monotonic, strftime=time.strftime, gmtime=time.gmtime,
    )  # fmt: skip
    monkeypatch.setattr(compare, "time", clock)
    monkeypatch.setattr(
        compare.fingerprint, "take", lambda pair, crew: {"substrate": "none", "tester": {}}
    )

    def step(event, run, sample):
        if event == "block":
            offset[0] = -7200.0

    outcome = made_run(ratio=1.0, progress=step, blocks=2)
    assert outcome.complete
    assert outcome.document["environment"]["tester"]["clock_step_s"] == pytest.approx(-7200, abs=1)
    assert outcome.document["finished"] >= outcome.document["started"]


def test_a_run_that_takes_much_too_long_is_ended_and_kept(made_run, monkeypatch):
    monkeypatch.setattr(compare, "OVERRUN", -1.0)
    outcome = made_run(ratio=1.0, blocks=3)
    assert isinstance(outcome.failure, compare.TimeUp)
    assert isinstance(outcome.failure, errors.PerfError)
    assert outcome.document["status"] == "incomplete" and len(outcome.document["trials"]) == 4
    assert "time limit of profile test is 1000 s" in outcome.document["reason"]


def test_a_client_behind_a_jump_host_in_one_word():
    client = Client.parse("ssh://debian@198.51.100.7?key=/k&jump=stack@bastion:2222&jump_key=/j")
    assert (client.where, client.user, client.port, client.key_file) == (
        "198.51.100.7", "debian", 22, "/k",
    )  # fmt: skip
    jump = client.jump
    assert (jump.where, jump.user, jump.port, jump.key_file) == ("bastion", "stack", 2222, "/j")
    # The key of the client serves, where no other is named.
    other = Client.parse("ssh://debian@198.51.100.7?jump=stack@bastion", key_file="/k")
    assert other.jump.key_file == other.key_file == "/k"
    assert "/k" not in client.describe() and "through stack@bastion" in client.describe()


@pytest.mark.parametrize("query", ["jump_key=/j", "proxy=bastion", "jump="])
def test_half_a_jump_host_is_refused(query):
    with pytest.raises(errors.BadTarget, match="ssh://USER@HOST"):
        Client.parse(f"ssh://debian@198.51.100.7?{query}&key=/k")


def test_no_key_is_in_the_command_that_is_kept(monkeypatch):
    words = [
        "sriov-lb-perf", "compare", "--client", "ssh://u@h?key=/secret&jump=b&jump_key=/secret",
        "--client=ssh://u@g?key=/secret", "--ssh-key", "/secret", "--ssh-key=/secret",
        "--normal-vip", "http://203.0.113.9/?size=1",
    ]  # fmt: skip
    monkeypatch.setattr("sys.argv", words)
    told = cli._command()
    assert "secret" not in " ".join(told)
    assert told[-1] == "http://203.0.113.9/?size=1" and "ssh://u@h" in told
