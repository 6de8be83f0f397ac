# SPDX-License-Identifier: Apache-2.0
"""What is concluded from a change that was watched; no network, no cloud."""

import contextlib
import threading
import time
from types import SimpleNamespace

import pytest

from sriov_lb_tests import errors
from sriov_lb_tests.agreement import Reach
from sriov_lb_tests.tests.away import Away
from sriov_lb_tests.tests.changes import LONGEST, Broke, Changes
from sriov_lb_tests.tests.lifecycle.test_amphora import MOMENT, age_of_first_process, ending
from sriov_lb_tests.tests.looks import Looks
from sriov_lb_tests.verdicts.model import Broken, Inconclusive

SECOND = 10**9


def report(problem="", rate=1200.0, **streams):
    """Streams as ``(first, last)`` answer in seconds; asked for at 1 s, ACTIVE at 5 s."""
    found = {
        name: SimpleNamespace(first_ns=int(first * SECOND), last_ns=int(last * SECOND),
                              served_ns=int(first * SECOND), probe=f"SYN of {name}")
        for name, (first, last) in streams.items()
    }  # fmt: skip
    return SimpleNamespace(
        streams=found, witnesses=[], offset_error_ns=1_000_000, problem=problem, rate=rate,
        marks=[("asked for", 1 * SECOND), ("ACTIVE", 5 * SECOND)], when=lambda ns: "at 2 s",
    )  # fmt: skip


class Witness(SimpleNamespace):
    def __str__(self):
        return f"SYN, was answered with {self.text}"


def witnesses(*texts):
    return [Witness(sent_ns=2 * SECOND, text=text) for text in texts]


def findings(found, opens=(), closes=(), about=lambda witness: ""):
    return Changes()._findings("A step", "lb", found, opens, closes, about)


def test_what_closes_before_active_and_opens_before_active_is_right():
    found = report(closing=(0.5, 4.9), opening=(4.2, 6.0))
    assert findings(found, ["opening"], ["closing"]) == []
    Changes()._conclusive("A step", found, ["closing"])


def test_what_passes_after_active_and_may_not_is_said_with_the_time():
    (text,) = findings(report(closing=(0.5, 6.1)), closes=["closing"])
    assert text.startswith("A step: SYN of closing may not pass once the API says ACTIVE, and was "
                           "answered 1.10 s after that.")  # fmt: skip


def test_what_opens_late_or_never_is_said():
    (late,) = findings(report(o=(5.8, 6.0)), opens=["o"])
    assert "first answered 0.80 s after that" in late
    (never,) = findings(report(o=(0, 0)), opens=["o"])
    assert "and was not." in never


def test_what_opens_before_it_is_asked_for_is_said():
    (early,) = findings(report(o=(0.4, 6.0)), opens=["o"])
    assert "may not pass before that is asked for, and was answered 0.60 s before it" in early


def test_forbidden_packets_that_passed_come_first_the_worst_kind_in_front():
    found = report(closing=(0.5, 6.1))
    found.witnesses = witnesses("ICMPv6 type 1 code 3", "RST", "SYN-ACK", "RST")
    said = findings(found, closes=["closing"])
    assert [text.split("load balancer lb ")[-1].split(":")[0] for text in said[:3]] == [
        "let in what may not pass",
        "let in what may not pass, to where nobody listens",
        "took what may not pass for something to be forwarded",
    ]
    assert "answered with RST at 2 s (the first of 2)." in said[1]
    assert "may not pass once the API says ACTIVE" in said[3]


def test_what_is_known_about_a_packet_is_said_and_told_apart():
    found = report()
    found.witnesses = witnesses("RST", "RST")
    found.witnesses[0].sent_ns = SECOND
    ends = {SECOND: ", while it ended", 2 * SECOND: ""}
    said = findings(found, about=lambda witness: ends[witness.sent_ns])
    assert ["nobody listens, while it ended: SYN" in text for text in said] == [True, False]
    assert "nobody listens: SYN" in said[1]


def test_for_how_long_the_first_process_runs_is_read_from_proc():
    # Field 22 of /proc/1/stat, 12.34 s after the kernel's start; a name may hold anything.
    process = "1 (a) b (c) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 1234 5 6"
    assert age_of_first_process(f"20.34 38.1\n{process}\n") == 8 * SECOND
    # A container that is told its own uptime and its host's start of the process.
    assert age_of_first_process(f"3.00 2.1\n{process}\n") is None
    assert age_of_first_process("20.34 38.1\n") is None


def test_only_a_short_end_before_the_new_one_began_is_excused():
    def said(*times, began=10 * SECOND, offset=0):
        found = report()
        found.offset_ns = offset
        found.witnesses = [
            SimpleNamespace(sent_ns=int(at * SECOND), answered_ns=int(at * SECOND) + 40_000)
            for at in times
        ]
        return [bool(ending(found, began)(one)) for one in found.witnesses]

    assert said(5.0, 5.2) == [True, True]
    assert said(0.5, 5.0) == [False, True], "before it was asked for"
    assert said(5.0, 10.5) == [True, False], "the new one runs"
    assert said(5.0, 5.0 + 1.5 * MOMENT / SECOND) == [True, False], "that is no moment"
    # The client's clock is 4 s ahead of the tester's, by which the new one began.
    assert said(13.0, offset=4 * SECOND) == [True] and said(14.5, offset=4 * SECOND) == [False]
    assert said(5.0, began=None) == [False]


def test_a_reset_before_a_port_is_to_open_says_that_it_was_open():
    found = report(o=(0.4, 6.0))
    found.streams["o"].served_ns = int(4.2 * SECOND)
    (early,) = findings(found, ["o"])
    assert "may not pass before that is asked for" in early
    assert Changes()._findings("A step", "lb", found, ["o"], [], refusing=["o"]) == []


class Watched(Changes):
    """A change of a load balancer that is not there, watched by a prober that saw ``witnesses``."""

    def __init__(self, *texts):
        stream = SimpleNamespace(sent=9, longest=0.1, total=0.1, first_ns=1, last_ns=1, served_ns=1)
        self.found = report()
        self.found.streams = {"allowed IPv4": stream}
        self.found.witnesses = witnesses(*texts)
        self.found.pcap, self.found.flows = None, {}
        self.found.lag = SimpleNamespace(p99=0.0)
        self.own = SimpleNamespace(
            versions=(4,), syn=lambda *a: ("SYN", *a), vip=lambda version: "192.0.2.1",
            bare=SimpleNamespace(name="lb"), asked=SimpleNamespace(name="lb"),
            cidrs=lambda which: ["192.0.2.2/32", "192.0.2.3/32", "2001:db8::2/128"],
        )  # fmt: skip
        self.begin()
        self.seen, self.kept, self.probed = {}, [], []
        self.asks, self.agent = [], None

    @property
    def client(self):
        @contextlib.contextmanager
        def prober(streams, **options):
            self.probed.append((streams, options))
            yield SimpleNamespace(mark=lambda name: None, report=self.found)

        def ask(*args, **options):
            if self.asks and (error := self.asks.pop(0)):
                raise error

        host = SimpleNamespace(open_agent=lambda netns: self.agent)
        vantage = SimpleNamespace(prober=prober, ask=ask, host=host, netns=None)
        return SimpleNamespace(vantage=vantage, allowed=lambda version: "192.0.2.2")

    def keep(self, name, content):
        self.kept.append(name)

    def evidence(self, *paths):
        pass


def test_who_guards_a_changed_port_may_never_pass():
    seen = Watched()
    opened = {"first_ns": 2 * SECOND, "last_ns": 6 * SECOND, "served_ns": 2 * SECOND}
    seen.found.streams["o"] = SimpleNamespace(sent=9, probe="SYN", **opened)
    seen.change("A step", lambda: None, agree=False, opens={"o": "SYN"}, guards={"g": "SYN"})
    ((streams, options),) = seen.probed
    assert set(streams) == {"allowed IPv4", "denied IPv4", "no listener", "o", "g"}
    assert options["forbidden"] == {"denied IPv4", "no listener", "g"}
    # It ends with the change, however long that takes, and asks for nobody who is not there.
    assert options["lasting"] == LONGEST > 1800
    assert (options["follow"], options["absent"]) == (False, False)
    with pytest.raises(ValueError, match="to do two things"):
        seen.change("A step", lambda: None, opens={"o": "SYN"}, guards={"o": "SYN"})


def test_what_is_being_built_is_waited_for():
    seen = Watched()
    seen.found.streams = {}
    seen.change("A step", lambda: None, agree=False, web=False, building=True)
    ((streams, options),) = seen.probed
    assert set(streams) == options["forbidden"] == {"denied IPv4", "no listener"}
    assert options["follow"] and options["absent"]


def test_streams_to_a_port_are_named_after_who_sends_them():
    assert Watched().towards(8081, "denied") == {"denied IPv4 to 8081": ("SYN", 4, 8081, "denied")}


def test_a_stranger_has_an_address_that_nobody_has():
    seen = Watched()
    seen.subject = lambda lb: None
    seen.reach = lambda subject, vantage: Reach(
        ("192.0.2.2", "192.0.2.3"), ("192.0.2.0/24",), frozenset(["192.0.2.4"])
    )
    ((name, probe),) = seen.strangers(8081).items()
    assert name == "stranger IPv4 to 8081"
    assert (probe.destination, probe.port) == ("192.0.2.1", 8081)
    # Before the client's is the first host, which may be a router; after them somebody's.
    assert probe.source == "192.0.2.5"
    seen.own.versions = (6,)
    assert seen.strangers(8081) == {}, "no address of that kind may be pretended"


def refuse():
    raise OSError("Octavia said no")


def test_what_a_prober_saw_outlives_a_change_that_breaks():
    seen = Watched("SYN-ACK")
    with pytest.raises(Broken, match="let in what may not pass.*(?s:.*)broke: Octavia said no"):
        seen.change("A step", refuse, agree=False)
    assert "change-01.txt" in seen.kept
    with pytest.raises(OSError, match="Octavia said no"):
        Watched().change("A step", refuse, agree=False)
    assert Watched().change("A step", lambda: "done", agree=False) == "done"


@pytest.mark.parametrize("asks", [[errors.CaptureFailed("it lost 3 frames")],
                                  [None, errors.CaptureFailed("it lost 3 frames")]])  # fmt: skip
def test_what_a_prober_saw_outlives_a_control_that_breaks(asks):
    seen, acted = Watched("SYN-ACK"), []
    seen.asks = list(asks)
    with pytest.raises(Broken, match="let in what may not pass.*(?s:.*)broke: it lost 3 frames"):
        seen.change("A step", lambda: acted.append(1), agree=False)
    # Without a look before it there is no change.
    assert len(acted) == len(asks) - 1
    alone = Watched()
    alone.asks = list(asks)
    with pytest.raises(errors.CaptureFailed):
        alone.change("A step", lambda: None, agree=False)


def test_of_a_change_that_was_not_watched_to_the_end_what_passes_late_is_said():
    seen = Watched()
    times = {"first_ns": SECOND // 2, "last_ns": 7 * SECOND, "served_ns": SECOND // 2}
    seen.found.streams["c"] = SimpleNamespace(sent=9, probe="SYN of c", **times)
    never = {"first_ns": 0, "last_ns": 0, "served_ns": 0}
    seen.found.streams["o"] = SimpleNamespace(sent=9, probe="SYN of o", **never)
    seen.asks = [None, errors.CaptureFailed("it lost 3 frames")]
    with pytest.raises(Broken, match="SYN of c may not pass once the API says ACTIVE") as raised:
        seen.change("A step", lambda: None, agree=False, opens={"o": 1}, closes={"c": 1})
    assert len(raised.value.findings) == 1, "nobody knows what opened"


def test_of_what_breaks_the_first_is_told_and_the_next_is_noted():
    broke = Broke()
    assert not broke
    broke.conclude()
    for text in ("first", "second"):
        with broke:
            raise OSError(text)
    assert broke
    with pytest.raises(OSError, match="first") as raised:
        broke.conclude()
    assert raised.value.__notes__ == ["Then: second"]
    with pytest.raises(KeyboardInterrupt), Broke():
        raise KeyboardInterrupt


def test_what_breaks_later_takes_nothing_back():
    looks = Looks()
    with looks:
        raise Broken("it was let in", findings=["it was let in"])
    with pytest.raises(Broken, match="it was let in\nThen .* broke: no ssh") as raised, looks:
        raise OSError("no ssh")
    assert raised.value.findings == ("it was let in",)
    fresh = Looks()
    with pytest.raises(OSError), fresh:
        raise OSError("no ssh")


def test_an_answer_that_nobody_expected_counts_as_let_in():
    found = report()
    found.witnesses = witnesses("a segment that is no answer to a first SYN")
    (said,) = findings(found)
    assert "lb let in what may not pass: SYN" in said


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (report(problem="the capture lost 3 frames."), "the capture lost 3 frames"),
        (report(rate=900.0, closing=(0.5, 4.0)), "only 900 probes a second"),
        (report(closing=(0, 0)), "SYN of closing did not pass before either"),
        (report(closing=(1.5, 4.0)), "SYN of closing did not pass before either"),
    ],
)
def test_without_a_control_nothing_is_concluded(found, why):
    with pytest.raises(Inconclusive, match=why):
        Changes()._conclusive("A step", found, ["closing"] if found.streams else [])


def test_looks_go_on_after_a_failure_and_show_all_of_them():
    looks = Looks()
    with looks:
        raise Inconclusive("could not be told")
    with looks:
        raise Broken("first\nwith more", findings=["first", "second"])
    with looks:
        raise AssertionError("third")
    with pytest.raises(Broken, match="^first\nwith more\nthird$") as raised:
        looks.conclude()
    assert raised.value.findings == ("first", "second", "third")


def test_looks_without_a_failure_are_as_unclear_as_the_first():
    looks = Looks()
    looks.conclude()
    with looks:
        raise Inconclusive("could not be told")
    with pytest.raises(Inconclusive, match="could not be told"):
        looks.conclude()


def test_looks_hide_no_error_of_the_test():
    looks = Looks()
    with pytest.raises(KeyError), looks:
        raise KeyError("x")


class Kernel:
    """Connects while the clock is not in the outage."""

    closed = False

    def __init__(self):
        self.calls = 0

    def call(self, op, **arguments):
        assert op == "connect" and arguments["port"] == 80
        self.calls += 1
        silent = 3 <= self.calls < 6
        if silent:
            time.sleep(0.01)
        return {"outcome": "silent" if silent else "connected"}, b""

    def close(self):
        self.closed = True


def test_away_is_the_longest_time_without_a_connection():
    kernel = Kernel()
    vantage = SimpleNamespace(netns=None, host=SimpleNamespace(open_agent=lambda netns: kernel))
    with Away(vantage, "192.0.2.1", 80, "192.0.2.2") as away:
        deadline = time.monotonic() + 5
        while kernel.calls < 9 and time.monotonic() < deadline:
            time.sleep(0.005)
    assert kernel.closed and away.attempts >= 9
    steps = sorted(b - a for a, b in zip(away.successes, away.successes[1:], strict=False))
    assert away.longest == steps[-1] > 0.08, "three attempts and the pauses between them"


def watched_by(kernel):
    vantage = SimpleNamespace(netns=None, host=SimpleNamespace(open_agent=lambda netns: kernel))
    return Away(vantage, "192.0.2.1", 80, "192.0.2.2")


def until_called(kernel, calls):
    deadline = time.monotonic() + 5
    while kernel.calls < calls and time.monotonic() < deadline:
        time.sleep(0.005)


def test_who_never_connected_was_away_all_the_while():
    kernel = Kernel()
    kernel.call = lambda op, **arguments: ({"outcome": "silent"}, b"")
    with watched_by(kernel) as away:
        time.sleep(0.1)
    assert not away.successes and away.failed is None
    assert away.longest >= 0.1


def test_the_time_before_the_first_connection_counts():
    kernel = Kernel()
    kernel.calls = 2  # the outage is first
    with watched_by(kernel) as away:
        until_called(kernel, 9)
    assert away.longest >= away.successes[0] - away._started > 0.05


class Dying(Kernel):
    """Ends at the third request."""

    def __init__(self):
        super().__init__()
        self.died = threading.Event()

    def call(self, op, **arguments):
        if self.calls == 2:
            self.died.set()
            raise errors.AgentFailed("the guest is gone")
        return super().call(op, **arguments)


def test_an_agent_that_dies_is_told_and_raises_nothing():
    with watched_by(Dying()) as away:
        away._thread.join(5)
        time.sleep(0.3)
    assert len(away.successes) == 2 and away.longest < 0.3, "nobody looked any more"
    assert away.failed.message == "the guest is gone"


def test_what_a_prober_saw_outlives_a_client_that_ends():
    def step(*texts):
        seen = Watched(*texts)
        seen.agent = Dying()
        seen.change("A step", lambda: seen.agent.died.wait(5), agree=False, moves=True)

    with pytest.raises(Broken, match="let in what may not pass"):
        step("SYN-ACK")
    with pytest.raises(Inconclusive, match="not seen to the end: the guest is gone"):
        step()
