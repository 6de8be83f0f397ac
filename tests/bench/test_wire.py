# SPDX-License-Identifier: Apache-2.0
"""The sweep beside nmap, masscan and scapy on one target; how fast the agent sends and starts.

Every round each tool has its turn. A tool is right when it calls every one of the 65,536 ports what
it is: open, closed, or dropped ("filtered"). The targets are a namespace of its own, as a firewall
and as none, and an SR-IOV load balancer in a lab, swept from the instance of a client: its network
is one of this machine, so that the other tools can work there as well.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import pytest

from sriov_lb_tests import errors
from sriov_lb_tests.packets.probe import Identity, Link, tcp_syn
from sriov_lb_tests.wire.namespace import NamespaceHost
from sriov_lb_tests.wire.ssh import SshHost
from sriov_lb_tests.wire.vantage import Vantage

HERE = Path(__file__).parents[1] / "functional" / "wire"
REPEATS = int(os.environ.get("SRIOV_LB_BENCH_REPEATS", 20))
#: Rounds with the other tools among them; their slow settings have one turn.
ROUNDS = min(5, REPEATS)
OPEN = frozenset({80, *range(8001, 8032)})
CLOSED = frozenset(range(9000, 9032))
EVERY = frozenset(range(65536))
RULE = "tcp dport { 80, 8001-8031, 9000-9031 } accept"
LB = "SR-IOV load balancer in the lab"
LOSS = """
table inet loss {
  chain a { type filter hook prerouting priority -400; numgen random mod 100 < 2 drop; }
  chain b { type filter hook output priority 400; numgen random mod 100 < 2 drop; }
}
"""
SCAPY = """
import sys, time
from scapy.config import conf
conf.verb = 0
from scapy.layers.inet import IP, TCP
from scapy.sendrecv import sr
started = time.monotonic()
sr(IP(dst=sys.argv[1]) / TCP(dport=list(range(int(sys.argv[2]))), flags="S"), timeout=1)
print(time.monotonic() - started - 1)
"""
SCAPY_PORTS = 1024


def load(name: str):
    """A helper of the functional tests of wire."""
    private = f"_sriov_lb_bench_{name}"
    if private not in sys.modules:
        spec = importlib.util.spec_from_file_location(private, HERE / f"{name}.py")
        sys.modules[private] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[private]


testbed = load("testbed")


@dataclass
class Target:
    """What is swept, from where, and what it really is."""

    name: str
    host: NamespaceHost
    vantage: Vantage
    vip: str
    control: int
    open: frozenset[int]
    closed: frozenset[int]

    def wrong(self, open_ports: set[int], closed: set[int]) -> int:
        return len(self.open ^ open_ports) + len(self.closed ^ closed)


@dataclass
class Line:
    """One tool on one target: seconds of each run, wrong ports of each run that ended."""

    seconds: list[float] = field(default_factory=list)
    wrong: list[int] = field(default_factory=list)
    stopped: float = 0.0

    @property
    def median(self) -> float:
        return statistics.median(self.seconds) if self.seconds else float("inf")

    @property
    def right(self) -> bool:
        return bool(self.wrong) and not any(self.wrong) and not self.stopped

    def row(self, target: str, tool: str, ours: float) -> tuple[str, ...]:
        if not self.seconds:
            return target, tool, f"stopped after {self.stopped:.0f} s", "", ""
        worst = max(self.wrong)
        said = f"{sum(not n for n in self.wrong)} of {len(self.wrong)}"
        said += f", up to {worst:,} wrong" if worst else ""
        said += ", and did not end once" if self.stopped else ""
        spread = f"{self.median:.2f} s ({min(self.seconds):.2f}-{max(self.seconds):.2f})"
        return target, tool, spread, said, f"{self.median / ours:.1f}"


def members(intervals) -> set[int]:
    return {port for low, high in intervals for port in range(low, high + 1)}


def ours(target: Target) -> tuple[set[int], set[int]]:
    control = tcp_syn(target.vip, target.control)
    report = target.vantage.sweep(tcp_syn(target.vip, 1), control=control)
    assert not report.problem, str(report)
    return members(report.open), members(report.closed)


def nmap(*options: str) -> Callable:
    def scan(target: Target, limit: float) -> tuple[set[int], set[int]]:
        argv = ["nmap", "-sS", "-Pn", "-n", *options, "-p0-65535", "-oX", "-", target.vip]
        tree = ElementTree.fromstring(target.host.run(argv, timeout=limit).stdout)
        found: dict[str, set[int]] = {"open": set(), "closed": set()}
        for entry in tree.iter("extraports"):
            for reason in entry.iter("extrareasons"):
                for part in reason.get("ports").split(","):
                    low, _, high = part.partition("-")
                    found.setdefault(entry.get("state"), set()).update(
                        range(int(low), int(high or low) + 1)
                    )
        for port in tree.iter("port"):
            found.setdefault(port.find("state").get("state"), set()).add(int(port.get("portid")))
        return found["open"], found["closed"]

    return scan


def masscan(rate: int, wait: int) -> Callable:
    def scan(target: Target, limit: float) -> tuple[set[int], set[int]]:
        own = str(target.vantage.interface.address(4))
        argv = [
            "masscan", target.vip, "-p0-65535", "--rate", str(rate), "--wait", str(wait),
            "--adapter", target.vantage.interface.name, "--adapter-ip", own,
            "--router-mac", target.vantage.resolve(target.vip), "--show", "closed", "-oL", "-",
        ]  # fmt: skip
        lines = target.host.run(argv, timeout=limit).stdout.splitlines()
        found: dict[str, set[int]] = {"open": set(), "closed": set()}
        for line in lines:
            words = line.split()
            if len(words) > 3 and words[0] in found:
                found[words[0]].add(int(words[2]))
        return found["open"], found["closed"]

    return scan


#: Name, tool, rounds at most, seconds after which it is stopped.
OTHERS = (
    ("nmap -T5 --min-rate 100000 --max-retries 0",
     nmap("-T5", "--min-rate", "100000", "--max-retries", "0"), 5, 30),
    ("nmap -T5 --min-rate 20000 --max-retries 1",
     nmap("-T5", "--min-rate", "20000", "--max-retries", "1"), 1, 30),
    ("nmap -T4", nmap("-T4"), 2, 30),
    ("masscan --rate 1000000 --wait 0", masscan(1_000_000, 0), 2, 20),
    ("masscan --rate 100000 --wait 1", masscan(100_000, 1), 1, 20),
)  # fmt: skip


def timed(line: Line, target: Target, run: Callable, limit: float | None = None) -> None:
    started = time.monotonic()
    try:
        found = run(target) if limit is None else run(target, limit)
    except errors.CommandFailed as error:
        if "did not end within" not in error.message:
            raise
        line.stopped = limit
        return
    line.seconds.append(time.monotonic() - started)
    line.wrong.append(target.wrong(*found))


@pytest.fixture(scope="module")
def bed():
    with testbed.bed() as made:
        made.listen(*(("tcp", port) for port in sorted(OPEN)))
        yield made


@pytest.fixture(scope="module")
def client(bed, tmp_path_factory):
    with NamespaceHost(bed.name("client")) as host:
        with Vantage(host, "c0", artefacts=tmp_path_factory.mktemp("bench")) as vantage:
            yield host, vantage


@pytest.fixture(scope="module")
def balancer(lab, tmp_path_factory):
    """An SR-IOV load balancer as a target, see lab_target.py."""
    folder = tmp_path_factory.mktemp("balancer")
    with lab.exec([sys.executable, str(Path(__file__).with_name("lab_target.py")),
                   lab.facts["tempest_conf"], str(folder)]) as builder:  # fmt: skip
        said = builder.stdout.readline()
        assert said, "no load balancer to sweep: what went wrong is in the output above"
        what = json.loads(said)
        where = f"/proc/{instance_pid(what['server'])}/ns/net"
        with NamespaceHost(where) as host:
            with Vantage(host, what["interface"], artefacts=folder) as vantage:
                yield Target(LB, host, vantage, what["vip"], what["open"][0],
                             frozenset(what["open"]), frozenset()), what  # fmt: skip
        builder.stdin.close()
        assert builder.wait(120) == 0, "the load balancer was not taken away cleanly"


def instance_pid(server_id: str) -> int:
    """Any process of an instance of the lab; their cgroups bear its id."""
    for found in sorted(Path("/proc").glob("[0-9]*/cgroup"), key=lambda p: int(p.parent.name)):
        try:
            if f"/{server_id}/payload" in found.read_text():
                return int(found.parent.name)
        except OSError:  # It ended between the listing and the look.
            continue
    raise AssertionError(f"no process on this machine belongs to the instance {server_id}")


def targets(bed, client, request):
    """Each target, prepared when its turn comes: a lab is not there before it has to be."""
    host, vantage = client
    rules = testbed.octavia_rules(RULE)
    for name, texts, closed in (
        ("firewall", [rules], CLOSED),
        ("no firewall", [], EVERY - OPEN),
        ("firewall, 2 % lost each way", [rules, LOSS], CLOSED),
        ("no firewall, 2 % lost each way", [LOSS], EVERY - OPEN),
    ):
        bed.nft("flush ruleset")
        for text in texts:
            bed.nft(text)
        yield Target(name, host, vantage, testbed.VIP4, 80, OPEN, closed)
    yield request.getfixturevalue("balancer")[0]


@pytest.mark.parametrize("rate", [1000])
def test_the_prober_keeps_its_schedule(bed, client, publish, rate):
    """Four streams at 1 kHz for five seconds."""
    _, vantage = client
    bed.nft("flush ruleset")
    bed.nft(testbed.octavia_rules(RULE))
    vip = testbed.VIP4
    streams = {
        "allowed": tcp_syn(vip, 80, source="198.51.100.99"),
        "other": tcp_syn(vip, 8001, source="198.51.100.99"),
        "forbidden": tcp_syn(vip, 81, source="198.51.100.99"),
        "forbidden too": tcp_syn(vip, 82, source="198.51.100.98"),
    }
    forbidden = {"forbidden", "forbidden too"}
    with vantage.prober(streams, forbidden=forbidden, rate=rate) as probing:
        time.sleep(5)
    report = probing.report
    lag = report.lag
    publish(
        "wire-prober", "The prober: four streams, one probe of each a millisecond",
        ("slots", "left out", "lag: median", "p99", "worst", "of a core"),
        [(f"{report.rate:.0f}/s", str(lag.left_out), f"{lag.median * 1e6:.0f} us",
          f"{lag.p99 * 1e6:.0f} us", f"{lag.worst * 1e3:.1f} ms", f"{report.cpu:.0%}")],
    )  # fmt: skip
    assert report.problem == "" and report.witnesses == [], str(report)
    assert report.rate >= 0.999 * rate and report.streams["allowed"].lost == 0, str(report)


def test_the_sweep(bed, client, request, publish):
    """65,536 TCP ports: at most 0.8 s, right every time, twice as fast as the others are when they
    are right, 40 times as fast as scapy."""
    header = ("target", "tool", "seconds: median (least-most)", "right", "times ours")
    lines: dict[tuple[str, str], Line] = {}
    scapy: list[float] = []
    for target in targets(bed, client, request):
        mine = lines.setdefault((target.name, "sweep"), Line())
        for turn in range(REPEATS):
            timed(mine, target, ours)
            for name, tool, rounds, limit in OTHERS if turn < ROUNDS else ():
                line = lines.setdefault((target.name, name), Line())
                if turn < rounds and not line.stopped:
                    timed(line, target, tool, limit)
        if target.name == "firewall":
            for _ in range(2):
                script = [sys.executable, "-c", SCAPY, target.vip, str(SCAPY_PORTS)]
                scapy.append(float(target.host.run(script).stdout) * 65536 / SCAPY_PORTS)
    plain = lines["firewall", "sweep"].median
    rows = [
        line.row(target, tool, lines[target, "sweep"].median)
        for (target, tool), line in lines.items()
    ]
    seconds = statistics.median(scapy)
    rows.append(
        ("firewall", f"scapy sr(), from {SCAPY_PORTS} ports", f"{seconds:.0f} s", "",
         f"{seconds / plain:.0f}")
    )  # fmt: skip
    publish("wire-sweep", "Sweep of 65,536 TCP ports", header, rows)

    for (target, tool), line in lines.items():
        if tool == "sweep":
            assert line.right and len(line.wrong) == REPEATS, f"{target}: {line}"
    quiet = ("firewall", "no firewall", LB)
    for target in quiet:
        assert lines[target, "sweep"].median <= 0.8, f"{target}: more than 0.8 s"
    # A setting counts where it is right about every port, whether a firewall is there or not:
    # who sweeps does not know.
    names = [name for name, *_ in OTHERS]
    always = [n for n in names if all(lines[t, n].right for t in quiet)]
    for target in quiet:
        for name in always:
            assert lines[target, name].median >= 2 * lines[target, "sweep"].median, (target, name)
    # And on the target with all three kinds of ports, the fastest that is right there.
    best = min((lines["firewall", n].median for n in names if lines["firewall", n].right),
               default=float("inf"))  # fmt: skip
    assert best >= 2 * plain, f"the fastest other tool took {best:.2f} s, the sweep {plain:.2f} s"
    assert seconds >= 40 * plain


def frames(vantage, vip, count):
    link = Link(vantage.interface.mac, vantage.resolve(vip))
    probe = tcp_syn(vip, 7, source=str(vantage.interface.address(4)))
    few = [probe.frames(link, Identity(1, n, 1 + n, 30000 + n))[0] for n in range(64)]
    return few * (count // 64)


def test_the_agent_sends(bed, client, balancer, publish):
    """150,000 prepared frames a second on one core, through a firewall that drops them."""
    bed.nft("flush ruleset")
    bed.nft(testbed.octavia_rules(RULE))
    rows, slow = [], []
    lb = balancer[0]
    for name, vantage, vip in (
        ("a veth pair", client[1], testbed.VIP4), ("a VF of the lab", lb.vantage, lb.vip)
    ):  # fmt: skip
        prepared = frames(vantage, vip, 100_000)
        rates = []
        for _ in range(5):
            done = vantage.agent.send(vantage.interface.name, prepared)
            rates.append(len(prepared) / (done["ended_ns"] - done["started_ns"]) * 1e9)
        usual = statistics.median(rates)
        rows.append((f"SYNs to a port that is dropped, {name}", f"{usual:,.0f}/s",
                     f"{max(rates):,.0f}/s"))  # fmt: skip
        if usual < 150_000:
            slow.append(name)
    publish(
        "wire-agent", "Prepared frames by the agent, one core", ("frames", "median", "best"), rows
    )
    assert not slow, rows


def test_the_agent_starts(bed, lab, balancer, publish, tmp_path):
    """Less than a second over ssh."""
    sshd = load("sshd")
    found = {}
    with testbed.entered(bed.name("client")):
        with sshd.sshd(tmp_path / "sshd", namespace=bed.name("client")) as server:
            with SshHost("127.0.0.1", port=server.port, user="root",
                         key_file=server.key_file, deadline=30) as host:  # fmt: skip
                found["a namespace"] = starts(host)
    what = balancer[1]
    with testbed.entered(lab.network):
        with SshHost(
            what["address"], user=what["user"], key_file=what["key"],
            pins=tmp_path / "pins", pin_name=what["server"], deadline=30,
        ) as host:  # fmt: skip
            found["an instance of the lab"] = starts(host)
    publish(
        "wire-start", "Start of the agent over ssh, from the request to its greeting",
        ("where", "starts", "median", "longest"),
        [(where, str(len(seconds)), f"{statistics.median(seconds):.2f} s",
          f"{max(seconds):.2f} s") for where, seconds in found.items()],
    )  # fmt: skip
    assert all(statistics.median(seconds) < 1.0 for seconds in found.values()), found


def starts(host: SshHost) -> list[float]:
    """Seconds of ten starts."""
    host.connect()
    seconds = []
    for _ in range(10):
        started = time.monotonic()
        agent = host.open_agent()
        seconds.append(time.monotonic() - started)
        agent.close()
    return seconds
