# SPDX-License-Identifier: Apache-2.0
"""Every fault in real nft, every test on a real wire, without OpenStack.

A client and something that plays the amphora of a pair that holds the VIP: Octavia's rules as
``nft -o`` loads them, haproxy, and a member on the VIP's network. The other amphora of the pair is
rules in another namespace, which no packet reaches.
"""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import pytest

from sriov_lb_tests import errors
from sriov_lb_tests.agreement import Reach, Seat, Subject
from sriov_lb_tests.amphora import Amphora
from sriov_lb_tests.mutants import seeding
from sriov_lb_tests.mutants.fault import FORWARDING_SETTING, Fault, Target, Test
from sriov_lb_tests.mutants.faults import ALL
from sriov_lb_tests.mutants.faults.listeners import replaced
from sriov_lb_tests.mutants.listing import meta
from sriov_lb_tests.mutants.matrix import Result
from sriov_lb_tests.mutants.run import Run
from sriov_lb_tests.mutants.seeding import Seeder
from sriov_lb_tests.mutants.testing import Subjects
from sriov_lb_tests.policy.model import Policy
from sriov_lb_tests.wire.namespace import NamespaceHost
from sriov_lb_tests.wire.vantage import Vantage

CIDRS = ("198.51.100.0/28", "198.51.100.64/28", "2001:db8:1::/120")
LINES = (
    *(f"{'ip6' if ':' in cidr else 'ip'} saddr {cidr} tcp dport 80 accept" for cidr in CIDRS),
    "tcp dport 8080 accept",
)
LISTENERS = [
    {"name": "guarded", "protocol": "HTTP", "protocol_port": 80, "allowed_cidrs": CIDRS},
    {"name": "open", "protocol": "HTTP", "protocol_port": 8080},
]
FAULTS = {fault.id: fault for fault in ALL}

PEER = "198.51.100.31"


def lines(peer):
    return (*LINES, f"ip saddr {peer}/32 ip protocol 112 accept")


class Other(Amphora):
    """The other amphora; it has a rules file of its own."""

    rules = ""

    def rules_on_disk(self, path=None):
        return super().rules_on_disk(self.rules)


HAPROXY = """\
global
  maxconn 200
defaults
  mode http
  timeout client 60s
  timeout server 5s
  timeout connect 2s
{frontends}
backend members
  server one {member}:9000
"""


@pytest.fixture(scope="module")
def bed(testbed, tmp_path_factory):
    with testbed.bed() as made:
        folder = tmp_path_factory.mktemp("bed")
        frontends = "\n".join(
            f"frontend f{port}\n  bind {testbed.VIP4}:{port}\n  bind {testbed.VIP6}:{port}\n"
            "  default_backend members"
            for port in (80, 8080)
        )
        config = folder / "haproxy.cfg"
        config.write_text(HAPROXY.format(frontends=frontends, member=testbed.CLIENT4))
        member = made.start(
            "client", sys.executable, "-c", testbed.LISTENER, '[["tcp", 9000]]', testbed.CLIENT4
        )
        assert member.stdout.readline().strip() == "ready"
        made.start("amphora", "haproxy", "-f", str(config))
        made.rules, made.other = folder / "nftables-vip.rules", folder / "other.rules"
        for path, role, peer in (
            (made.rules, "amphora", PEER), (made.other, "segment", testbed.AMPHORA4)
        ):  # fmt: skip
            path.write_text(testbed.octavia_rules(*lines(peer)))
            made.within(role, "nft", "-o", "-f", str(path))
        yield made


@pytest.fixture(scope="module")
def inside(bed):
    return Amphora(NamespaceHost(bed.name("amphora")), netns=None)


@pytest.fixture
def text(bed):
    """The rules, word for word, checked again after the test."""
    before = bed.within("amphora", "nft", "list", "ruleset")
    yield before
    assert bed.within("amphora", "nft", "list", "ruleset") == before


@pytest.fixture(scope="module")
def run(testbed, bed, inside, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mutants")
    load_balancer = {
        "id": "lb", "name": "shop", "vip_address": testbed.VIP4,
        "additional_vips": [{"ip_address": testbed.VIP6}],
    }  # fmt: skip
    amphorae = [
        {"id": "amphora-1", "vrrp_ip": testbed.AMPHORA4, "role": "MASTER"},
        {"id": "amphora-2", "vrrp_ip": PEER, "role": "BACKUP"},
    ]
    subject = Subject.of(load_balancer, LISTENERS, [], amphorae)
    other = Other(NamespaceHost(bed.name("segment")), netns=None)
    other.rules = str(bed.other)
    seats = [Seat.of(amphorae[0], inside), Seat.of(amphorae[1], other)]
    with NamespaceHost(bed.name("client")) as host:
        with Vantage(host, "c0", artefacts=folder / "pcap") as vantage:
            reach = Reach.of(vantage, subject, ["198.51.100.0/24", "2001:db8:1::/64"])
            policies = {seat.id: subject.policy(seat.own) for seat in seats}
            on = Subjects(policies, seats, seats[0], vantage, reach, rules_file=str(bed.rules))
            yield Run(on, folder, say=print)


def test_without_a_fault_there_is_no_alarm(run, text):
    run.clean(3)
    assert run.matrix.clean == [(), (), ()]
    assert set(run.matrix.tests) == set(Test)


# One of each kind in every check; all of them take ten minutes: `make bench`.
SAMPLE = ("policy-accept", "port-stale", "forwarding-v4")
EACH = [
    pytest.param(name, marks=() if name in SAMPLE else pytest.mark.series) for name in FAULTS
]


def test_the_sample_names_faults_that_exist():
    assert set(SAMPLE) <= set(FAULTS)


@pytest.mark.parametrize("name", EACH)
def test_every_fault_is_caught_by_the_tests_that_should(run, text, name):
    fault = FAULTS[name]
    row = run.one(fault)
    run.matrix.rows.append(row)
    if fault.harmless or name == "loopback-lost":
        assert row.result in (Result.EQUIVALENT, Result.TOLERATED), row.why
    else:
        assert row.result is Result.CAUGHT, row.why
        assert row.sentence
        on_the_wire = [test for test in fault.tests if not test.static]
        assert set(on_the_wire) <= set(row.wanted), "what the fault's entry says holds here"
    assert seeding.left(run.folder) == []


def row_of(cidr):
    """Picks the row of one CIDR of the guarded listener."""
    return lambda target: next(e for e in target.entries if str(e.network) == cidr)


# The fault itself takes the first row, which the vantage's own address is in.
@pytest.mark.parametrize("cidr", CIDRS[1:])
def test_a_port_that_is_lost_is_caught_on_the_wire_in_the_row_of_any_cidr(run, text, cidr):
    lost = replaced(row_of(cidr), lambda e: [e.with_port(meta("l4proto", "tcp"))], "lost its port")
    row = run.one(dataclasses.replace(FAULTS["port-lost"], make=lost))
    assert row.result is Result.CAUGHT, row.why
    assert f"port 80 for {cidr} lost its port" in row.detail
    assert Test.PORTS in row.wanted and row.cells[Test.PORTS].alarm


def test_and_afterwards_neither(run, text, tmp_path):
    assert run.look() == []
    if len(run.matrix.rows) == len(ALL):
        assert run.matrix.status == 0, run.matrix.sentence
    run.matrix.write(tmp_path)


@pytest.fixture
def forwards(bed, inside):
    """The amphora passes packets on without any fault, as Octavia's do."""
    names = FORWARDING_SETTING.values()
    for name in names:
        inside.within("sysctl", "-q", "-w", f"{name}=1")
    yield names
    for name in names:
        inside.within("sysctl", "-q", "-w", f"{name}=0")


@pytest.mark.series
def test_forwarding_is_switched_off_first_where_it_is_on(run, inside, text, forwards, tmp_path):
    here = Run(run.on, tmp_path, say=print)
    assert here.tests.routes and here.look() == []
    for name in ("forwarding-v4", "forwarding-v6"):
        row = here.one(FAULTS[name])
        assert row.result is Result.CAUGHT and row.wanted == (Test.FORWARDING,), row.why
        assert "after it was 0" in row.detail and "it routes" in row.sentence
    assert "forwarding" in here.matrix.table()[0]
    for name in forwards:
        assert "= 1" in inside.within("sysctl", name).stdout


def test_a_repair_that_repairs_nothing_is_no_proof(run, inside, text, forwards, tmp_path):
    here = Run(run.on, tmp_path, say=print)
    fault = FAULTS["forwarding-v4"]
    found = here._aim(fault)
    change = dataclasses.replace(found[3], repair={"net.ipv4.conf.eth1.proxy_arp": "0"})
    row = here._seeded(fault, *found[:3], change)
    assert row.result is Result.UNCLEAR and "nothing is different" in row.why


def test_a_fault_can_be_held_for_others_to_look(run, inside, text, tmp_path):
    seen = []
    here = Run(run.on, tmp_path, say=lambda line: seen.append((line, inside.nft("list ruleset"))))
    assert here.hold(FAULTS["policy-accept"], 0.1)
    ((line, ruleset),) = seen
    assert "policy-accept is in amphora amphora-1" in line and "policy accept" in ruleset
    with pytest.raises(errors.ResourceMissing, match="nothing for the fault"):
        here.hold(Fault("none", "nothing", (), lambda target: None), 0.1)


# --- whatever happens, it comes out again ---------------------------------------------------------


def target(seeder, run):
    return Target(seeder.listing(), run.on.policy)


def test_a_failure_in_between_takes_the_fault_out(run, inside, text, tmp_path):
    seeder = Seeder(inside, "a", tmp_path, rules_file=None)
    before = seeder.listing()
    change = FAULTS["policy-accept"].make(target(seeder, run))
    with pytest.raises(KeyboardInterrupt), seeder.seeded("policy-accept", before, change):
        assert "policy accept" in inside.nft("list", "ruleset")
        raise KeyboardInterrupt
    assert seeding.left(tmp_path) == []


KILLED = """
    import os, pathlib, signal, sys
    from sriov_lb_tests.amphora import Amphora
    from sriov_lb_tests.mutants.fault import Target
    from sriov_lb_tests.mutants.faults import ALL
    from sriov_lb_tests.mutants.seeding import Seeder
    from sriov_lb_tests.policy.model import Policy
    from sriov_lb_tests.wire.namespace import NamespaceHost
    inside = Amphora(NamespaceHost(sys.argv[1]), netns=None)
    seeder = Seeder(inside, "a", pathlib.Path(sys.argv[2]), rules_file=sys.argv[4])
    fault = next(f for f in ALL if f.id == sys.argv[3])
    before = seeder.listing()
    policy = Policy.of({"vip_address": "198.51.100.20"}, [])
    change = fault.make(Target(before, policy, rules_file="", settings=seeder.settings()))
    with seeder.seeded(fault.id, before, change):
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    "name", ["ruleset-lost", "policy-accept", "forwarding-v4", "file-empty", "file-missing"]
)
def test_a_run_that_was_killed_is_put_back(bed, inside, text, tmp_path, name):
    rules = bed.rules.read_text()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), bed.name("amphora"), str(tmp_path), name,
         str(bed.rules)],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    (path,) = seeding.left(tmp_path)
    with pytest.raises(errors.NotRestored, match="--restore"):
        Seeder(inside, "a", tmp_path)
    Seeder.resume(inside, path, rules_file=str(bed.rules)).restore()
    assert seeding.left(tmp_path) == [] and bed.rules.read_text() == rules
    assert [path.name for path in bed.rules.parent.glob("*.aside")] == []
    assert "= 0" in bed.within("amphora", "sysctl", "net.ipv4.conf.eth1.forwarding")


def test_what_somebody_else_changed_meanwhile_is_left_alone(run, bed, inside, text, tmp_path):
    seeder = Seeder(inside, "a", tmp_path, rules_file=None)
    before = seeder.listing()
    change = FAULTS["port-stale"].make(target(seeder, run))
    seeder.seed("port-stale", before, change)
    bed.within("amphora", "nft", "add rule inet amphora_table amphora_vip_chain tcp dport 7 drop")
    with pytest.raises(errors.NotRestored, match="somebody changed them"):
        seeder.restore()
    seeder.restore(force=True)


def test_a_rule_that_nft_refuses_changes_nothing(run, inside, text, tmp_path):
    seeder = Seeder(inside, "a", tmp_path, rules_file=None)
    before = seeder.listing()
    change = FAULTS["port-stale"].make(target(seeder, run))
    change.listing.insert_rule(run_chain(run, seeder), [{"jump": {"target": "nowhere"}}])
    with pytest.raises(errors.CommandFailed), seeder.seeded("port-stale", before, change):
        pass
    assert seeding.left(tmp_path) == []


def run_chain(run, seeder):
    return target(seeder, run).vip_chain


def test_counters_of_the_rules_survive(bed, inside, tmp_path, testbed):
    rules = bed.within("amphora", "nft", "list", "ruleset")
    try:
        bed.within("amphora", "nft", "add rule inet amphora_table amphora_vip_chain counter packets"
                   " 5 bytes 300 drop")  # fmt: skip
        seeder = Seeder(inside, "a", tmp_path, rules_file=None)
        seeder.seed("x", seeder.listing(), FAULTS["ruleset-lost"].make(
            Target(seeder.listing(), plain_policy(testbed))))  # fmt: skip
        seeder.restore()
        assert "counter packets 5 bytes 300" in inside.nft("list", "ruleset")
    finally:
        bed.within("amphora", "nft", "-f", "-", input="flush ruleset\n" + rules)


def plain_policy(testbed):
    return Policy.of({"vip_address": testbed.VIP4}, [])


def test_what_is_kept_on_disk_can_be_read_by_people(run, inside, text, tmp_path):
    seeder = Seeder(inside, "a", tmp_path, rules_file=None, way={"address": "192.0.2.1"})
    before = seeder.listing()
    change = FAULTS["rule-removed-v4"].make(target(seeder, run))
    with seeder.seeded("rule-removed-v4", before, change):
        data = json.loads(next(pathlib.Path(tmp_path).glob("restore-*.json")).read_text())
    assert data["seeded"] == "rule-removed-v4" and data["way"] == {"address": "192.0.2.1"}
    assert "amphora_vip_chain" in data["tables"]["inet amphora_table"]
