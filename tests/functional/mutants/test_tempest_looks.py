# SPDX-License-Identifier: Apache-2.0
"""What the Tempest tests look with, before an amphora with a fault in it.

The matrix of the mutants shows that its own columns catch faults. The Tempest tests have eyes of
their own: the prober in a change, the sweep, the catalogue, the reading of the isolation tests, the
advertisements of those of the pair. Each is shown here a fault that it has to see, and the
same place without the fault, where it has to be silent.
"""

import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from sriov_lb_tests.agreement import Reach, Seat, Subject, look
from sriov_lb_tests.agreement.sending import link_probe
from sriov_lb_tests.amphora import Amphora, Stage
from sriov_lb_tests.mutants.fault import Target
from sriov_lb_tests.mutants.faults import ALL
from sriov_lb_tests.mutants.seeding import Seeder
from sriov_lb_tests.packets.catalogue import Context, cases
from sriov_lb_tests.packets.probe import icmp_echo, tcp_syn, udp
from sriov_lb_tests.policy.model import Policy
from sriov_lb_tests.tests.isolation import reading
from sriov_lb_tests.tests.isolation.place import through
from sriov_lb_tests.tests.pair.election import Election, advertisement
from sriov_lb_tests.tests.pair.watched import advertise
from sriov_lb_tests.wire.namespace import NamespaceHost
from sriov_lb_tests.wire.survey import survey
from sriov_lb_tests.wire.vantage import Vantage, Verdict

FAULTS = {fault.id: fault for fault in ALL}
CIDRS = ("198.51.100.0/25", "2001:db8:1::/112")
LINES = (
    "ip saddr 198.51.100.0/25 tcp dport 80 accept",
    "ip6 saddr 2001:db8:1::/112 tcp dport 80 accept",
    "tcp dport 8080 accept",
)
LISTENERS = [
    {"name": "guarded", "protocol": "HTTP", "protocol_port": 80, "allowed_cidrs": CIDRS},
    {"name": "open", "protocol": "HTTP", "protocol_port": 8080},
]
PEER = "198.51.100.31"
ALLOWED, DENIED = "198.51.100.99", "198.51.100.200"
MEMBER, MEMBER_HOP = "10.9.0.10", "10.9.0.30"
EATEN = "the security group of its member port, not the amphora, stopped it"
#: What stands before a normal port: the frame never comes to the amphora's interface.
SECURITY_GROUP = (
    "table netdev group { chain c { type filter hook ingress device eth2 priority -500; "
    "meta protocol ip drop; }; }"
)


@pytest.fixture(scope="module")
def bed(testbed):
    with testbed.bed(member=True) as made:
        made.listen(("tcp", 80), ("tcp", 8080))
        for role, peer in (("amphora", PEER), ("segment", testbed.AMPHORA4)):
            text = testbed.octavia_rules(*LINES, f"ip saddr {peer}/32 ip protocol 112 accept")
            made.within(role, "nft", "-o", "-f", "-", input=text)
        yield made


@pytest.fixture(scope="module")
def inside(bed):
    return Amphora(NamespaceHost(bed.name("amphora")), netns=None)


@pytest.fixture(scope="module")
def other(bed):
    """The amphora of the pair that does not hold the VIP; no packet comes to it."""
    return Amphora(NamespaceHost(bed.name("segment")), netns=None)


@pytest.fixture
def vantage(bed, tmp_path):
    with NamespaceHost(bed.name("client")) as host:
        with Vantage(host, "c0", artefacts=tmp_path / "client") as made:
            yield made


@pytest.fixture
def member(bed, tmp_path):
    with NamespaceHost(bed.name("member")) as host:
        with Vantage(host, "m0", artefacts=tmp_path / "member") as made:
            yield made


@pytest.fixture
def subject(testbed):
    amphorae = [
        {"id": "amphora-1", "vrrp_ip": testbed.AMPHORA4, "role": "MASTER"},
        {"id": "amphora-2", "vrrp_ip": PEER, "role": "BACKUP"},
    ]
    load_balancer = {
        "id": "lb", "name": "shop", "vip_address": testbed.VIP4,
        "additional_vips": [{"ip_address": testbed.VIP6}],
    }  # fmt: skip
    return Subject.of(load_balancer, LISTENERS, [], amphorae)


@pytest.fixture
def seeded(inside, subject, tmp_path):
    """``with seeded("port-stale") as change: …``"""

    @contextmanager
    def seed(name, amphora=inside, backup=False):
        seeder = Seeder(amphora, "one", tmp_path, rules_file=None)
        before = seeder.listing()
        policy: Policy = subject.policy(PEER if backup else "198.51.100.30")
        target = Target(before, policy, backup=backup, settings=seeder.settings())
        change = FAULTS[name].make(target)
        assert change is not None, f"{name} finds nothing to damage here"
        with seeder.seeded(name, before, change):
            yield change

    return seed


# --- ENF-002: the allowed source ------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 6])
def test_a_lost_rule_is_told_from_a_dead_link_whatever_other_rule_is_lost(
    bed, vantage, seeded, testbed, version
):
    vip = testbed.VIP4 if version == 4 else testbed.VIP6
    source = vantage.interface.address(version)
    control = link_probe(vip, source, vantage.interface.mac)
    allowed, free = (tcp_syn(vip, port, source=source) for port in (80, 8080))

    def seen(control):
        return vantage.ask(allowed, control=control).verdict

    def load(*lines):
        bed.within("amphora", "nft", "-o", "-f", "-", input=testbed.octavia_rules(*lines))

    assert seen(control) is Verdict.ACCEPTED
    with seeded(f"rule-removed-v{version}"):
        assert seen(control) is seen(free) is Verdict.DROPPED
    try:
        load()
        assert (seen(control), seen(free)) == (Verdict.DROPPED, Verdict.INCONCLUSIVE)
    finally:
        load(*LINES, f"ip saddr {PEER}/32 ip protocol 112 accept")
    assert seen(control) is Verdict.ACCEPTED


# --- ENF-020: the sweep --------------------------------------------------------------------------


def test_the_sweep_sees_a_port_that_stayed_open(vantage, seeded, testbed):
    probe = tcp_syn(testbed.VIP4, 1, source=DENIED)
    control = tcp_syn(testbed.VIP4, 8080, source=DENIED)
    clean = vantage.sweep(probe, control=control)
    assert not clean.problem and clean.open == ((8080, 8080),) and not clean.closed
    with seeded("port-stale") as change:
        found = vantage.sweep(probe, control=control)
    (port,) = change.stale_ports
    assert found.state(port) == "closed" and clean.state(port) == "silent"
    assert found.open == clean.open


# --- LIF: the prober in a change -----------------------------------------------------------------


def test_the_prober_sees_a_rule_that_is_there_for_a_moment(vantage, seeded, testbed):
    streams = {
        "allowed": tcp_syn(testbed.VIP4, 80, source=ALLOWED),
        "denied": tcp_syn(testbed.VIP4, 80, source=DENIED),
    }
    with vantage.prober(streams, forbidden={"denied"}) as probing:
        time.sleep(0.3)
    assert not probing.report.problem and not probing.report.witnesses
    with vantage.prober(streams, forbidden={"denied"}) as probing:
        time.sleep(0.2)
        with seeded("cidr-any-v4"):
            time.sleep(0.05)
        time.sleep(0.2)
    assert not probing.report.problem and probing.report.witnesses
    assert "denied" in str(probing.report.witnesses[0])


# --- CAT: the catalogue --------------------------------------------------------------------------


def test_the_catalogue_sees_that_stray_segments_get_in(vantage, inside, seeded, testbed):
    made = Context(4, vip=testbed.VIP4, allowed=ALLOWED, denied=DENIED, open_port=8080,
                   own=testbed.AMPHORA4, subnet="198.51.100.0/24")  # fmt: skip
    strays = [case for case in cases(made) if case.id.startswith("tcp-stray-")]
    assert len(strays) > 10

    def wrong():
        found = survey(
            vantage, made, control=tcp_syn(testbed.VIP4, 8080, source=ALLOWED), chosen=strays,
            counting=inside.counting(vantage.interface.mac),
        )  # fmt: skip
        return {one.case.id for one in found if one.right is not True}

    assert wrong() == set()
    with seeded("state-invalid-accept"):
        assert wrong()
    assert wrong() == set()


# --- ISO: isolation ------------------------------------------------------------------------------


def from_the_member_side(member, inside, testbed):
    """As ISO-003 looks."""
    control = link_probe(MEMBER_HOP, MEMBER, member.interface.mac)
    probes = [tcp_syn(testbed.VIP4, port, source=MEMBER) for port in (22, 80, 8080)]
    probes += [udp(testbed.VIP4, 53, source=MEMBER), icmp_echo(MEMBER_HOP, source=MEMBER)]
    with through(member, MEMBER_HOP), inside.counting(member.interface.mac) as counts:
        seen = member.ask_all([(probe, control) for probe in probes])
    return reading.silence("services from the member network", seen, counts, eaten=EATEN)


def test_isolation_sees_listeners_that_are_served_to_members(member, inside, seeded, testbed):
    found = from_the_member_side(member, inside, testbed)
    assert (found.broken, found.unclear) == ("", "")
    with seeded("interface-lost"):
        found = from_the_member_side(member, inside, testbed)
    assert f"TCP SYN to {testbed.VIP4}:8080 from {MEMBER} was answered" in found.broken


def test_isolation_sees_that_the_filter_passes_what_nobody_answers(
    member, inside, seeded, testbed
):
    """UDP that is let in to no socket that speaks: no answer, and yet it got in."""
    with seeded("gate-accept-first"):
        control = link_probe(MEMBER_HOP, MEMBER, member.interface.mac)
        mute = subprocess.Popen(
            ["ip", "netns", "exec", inside.host.namespace, sys.executable, "-c",
             "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('', 5555));"
             "print('ready', flush=True); input()"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert mute.stdout.readline().strip() == "ready"
            with through(member, MEMBER_HOP), inside.counting(member.interface.mac) as counts:
                seen = member.ask_all([(udp(MEMBER_HOP, 5555, source=MEMBER), control)])
        finally:
            mute.communicate("\n")
    assert not seen[0].answers
    assert "passed the filter" in reading.silence("x", seen, counts, eaten=EATEN).broken


def test_isolation_says_who_ate_what_never_came(bed, member, inside, testbed):
    bed.nft(SECURITY_GROUP)
    try:
        found = from_the_member_side(member, inside, testbed)
    finally:
        bed.nft("delete table netdev group")
    assert not found.broken and f"never reached the amphora: {EATEN}" in found.unclear


def to_the_member_side(vantage, member, inside, testbed):
    """As ISO-004 looks."""
    source = vantage.interface.address(4)
    probes = [tcp_syn(MEMBER, 22, source=source), udp(MEMBER, 9, source=source),
              icmp_echo(MEMBER, source=source)]  # fmt: skip
    with member.capture() as captured, inside.counting(vantage.interface.mac) as counts:
        with through(vantage, testbed.VIP4):
            seen = vantage.ask_all([(probe, None) for probe in probes], tries=1)
    return reading.carried(
        "to members", seen, captured.incoming, counts, far=member.name, eaten=EATEN
    )


def test_isolation_sees_an_amphora_that_forwards(vantage, member, inside, seeded, testbed):
    found = to_the_member_side(vantage, member, inside, testbed)
    assert (found.broken, found.unclear) == ("", "") and found.note.startswith("0 of 3")
    with seeded("forwarding-v4"):
        found = to_the_member_side(vantage, member, inside, testbed)
    assert "was forwarded, and arrived at" in found.broken and found.note.startswith("3 of 3")


# --- PAI: the pair -------------------------------------------------------------------------------


def test_the_pairs_look_sees_what_only_the_other_amphora_has(
    vantage, inside, other, subject, seeded
):
    """As PAI-001 looks, and every test of a change of a pair."""

    def agreement():
        seats = [
            Seat.of(entry, place)
            for entry, place in zip(subject.amphorae, (inside, other), strict=True)
        ]
        reach = Reach.of(vantage, subject, ["198.51.100.0/24"])
        return look(subject, seats, vantage, reach)

    assert agreement().agreed
    with seeded("one-of-pair-open", other, backup=True):
        found = agreement()
    assert not found.agreed and "8443" in str(found) and "amphora-2" in str(found)


def test_a_strangers_advertisement_that_passes_is_counted(vantage, inside, seeded, testbed):
    """As PAI-004 looks."""
    election = Election(7, 100, 1, "a1b2c3d", (testbed.VIP4,))
    probe = advertisement(testbed.AMPHORA4, vantage.interface.address(4), election)

    def stages():
        with inside.counting(vantage.interface.mac) as counts:
            seen = vantage.ask(probe, tries=1)
        found = [counts.of(who, 4) for who in seen.identities]
        return {stage: sum(bool(one[stage]) for one in found) for stage in Stage}

    clean = stages()
    assert clean[Stage.REACHED_FILTER] and not clean[Stage.PASSED_FILTER]
    with seeded("vrrp-any"):
        assert stages()[Stage.PASSED_FILTER]


#: In place of keepalived: who believes an advertisement that ends in its secret lets go of the VIP
#: for a while.
BELIEVER = """
import socket, subprocess, sys, time
vip, secret = sys.argv[1], sys.argv[2].encode()
heard = socket.socket(socket.AF_INET, socket.SOCK_RAW, 112)
print("ready", flush=True)
while True:
    if heard.recv(65535)[-8:].startswith(secret):
        for what in ("del", "add"):
            subprocess.run(["ip", "address", what, vip + "/32", "dev", "eth1"])
            time.sleep(0.4)
"""


@pytest.mark.parametrize(("asked_for", "moves"), [("a1b2c3d", []), ("", ["without", "wrong"])])
def test_an_amphora_that_believes_without_the_secret_is_seen(
    vantage, inside, bed, testbed, asked_for, moves
):
    """As PAI-004 looks: at one that asks for the secret, and at one that asks for none."""
    election = Election(7, 100, 1, "a1b2c3d", (testbed.VIP4,))
    said = {words: election.guess(words) for words in Election.GUESSES}
    said["control"] = election
    keepalived = bed.start(
        "amphora", sys.executable, "-c", BELIEVER, testbed.VIP4, asked_for
    )
    try:
        assert keepalived.stdout.readline().strip() == "ready"
        seen = {
            words: advertise(
                vantage, inside, advertisement(testbed.AMPHORA4, PEER, one), [0.0, 0.1, 0.8],
                {"allowed": tcp_syn(testbed.VIP4, 80, source=ALLOWED)}, words,
            )
            for words, one in said.items()
        }  # fmt: skip
    finally:
        bed.stop(keepalived)
        bed.within("amphora", "ip", "address", "replace", f"{testbed.VIP4}/32", "dev", "eth1")
    mac = bed.within("amphora", "cat", "/sys/class/net/eth1/address").strip()
    for words, one in seen.items():
        assert one.doubt(Stage.PASSED_FILTER) == ""
        expected = words == "control" or any(part in words for part in moves)
        assert bool(one.moved(mac, 0.3)) is expected, f"{words}: {one.report}"
