# SPDX-License-Identifier: Apache-2.0
"""The prober on real packets, before subjects that are broken on purpose."""

import os
import signal
import threading
import time

import pytest

from sriov_lb_tests.packets.probe import icmp_echo, tcp_syn, udp
from sriov_lb_tests.wire.prober import Connection

ALLOWED = {4: "198.51.100.99", 6: "2001:db8:1::99"}
DENIED = {4: "198.51.100.200", 6: "2001:db8:1::1:99"}
BOTH = pytest.mark.parametrize("version", [4, 6])
RULES = (
    "ip saddr 198.51.100.0/25 tcp dport 80 accept",
    "ip6 saddr 2001:db8:1::/112 tcp dport 80 accept",
    "udp dport 53 accept",
)
#: Drops everything for the VIPs before any other rule; loaded and removed within a test.
DEAF = "table inet deaf { chain c { type filter hook prerouting priority -400; policy drop; }; }"

ECHO = """
import socket, threading
def serve(c):
    while True:
        try:
            data = c.recv(65535)
        except OSError:
            return
        if not data:
            return c.close()
        c.sendall(data)
s = socket.socket(socket.AF_INET6)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("::", 80))
s.listen(512)
print("ready", flush=True)
while True:
    threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
"""


@pytest.fixture(scope="module")
def bed(testbed):
    with testbed.bed() as made:
        made.listen(("udp", 53), ("udp", 80))
        echo = made.start("amphora", "python3", "-c", ECHO)
        assert echo.stdout.readline().strip() == "ready"
        yield made


@pytest.fixture
def rules(bed, testbed):
    def load(*lines):
        bed.nft(testbed.octavia_rules(*lines), "-o")

    load(*RULES)
    return load


def streams(target, version):
    return {
        "allowed": tcp_syn(target, 80, source=ALLOWED[version]),
        "denied": tcp_syn(target, 80, source=DENIED[version]),
        "other port": tcp_syn(target, 81, source=ALLOWED[version]),
    }


FORBIDDEN = {"denied", "other port"}


def half_open(bed):
    text = bed.within("amphora", "ss", "-Htn", "state", "syn-recv")
    return [line for line in text.splitlines() if line.strip()]


@BOTH
def test_a_whole_firewall(vantage, bed, vip, version):
    """A thousand slots a second, nothing forbidden passes, nothing is left behind."""
    with vantage.prober(streams(vip[version], version), forbidden=FORBIDDEN) as probing:
        time.sleep(1.0)
        assert len(half_open(bed)) <= 8
        # The vantage stays free for other questions meanwhile.
        assert vantage.ask(streams(vip[version], version)["allowed"]).verdict.value == "accepted"
    report = probing.report
    assert report.problem == "" and report.witnesses == [], str(report)
    # A machine that is busy otherwise costs slots, but none goes unmentioned.
    assert report.rate > 300 and report.seconds >= 1.0, str(report)
    allowed, denied = report.streams["allowed"], report.streams["denied"]
    assert allowed.sent + report.lag.left_out >= 1000 and denied.sent == allowed.sent
    assert allowed.answers == {"SYN-ACK": allowed.answered} and allowed.lost <= allowed.sent // 100
    assert denied.answers == {} and denied.answered == 0
    assert allowed.first_ns < allowed.last_ns
    assert report.pcap.stat().st_size > 1000
    assert half_open(bed) == []


@BOTH
def test_a_hole_of_a_few_milliseconds_is_seen(vantage, rules, vip, version):
    """The forbidden source is let in for a moment: every packet of it that passed is a witness."""
    with vantage.prober(streams(vip[version], version), forbidden=FORBIDDEN) as probing:
        time.sleep(0.2)
        probing.mark("hole")
        rules("tcp dport 80 accept")
        rules(*RULES)
        probing.mark("closed")
        time.sleep(0.2)
    report = probing.report
    assert report.problem == ""
    assert report.witnesses, str(report)
    (name,) = {witness.stream for witness in report.witnesses}
    assert name == "denied"
    hole, closed = (at for _, at in report.marks)
    slack = report.offset_error_ns + 20_000_000
    for witness in report.witnesses:
        assert hole - slack < witness.sent_ns < closed + slack
        assert witness.text == "SYN-ACK" and witness.sent and witness.answer
    assert "May not pass, and did: TCP SYN" in str(report)


@BOTH
def test_an_interruption_of_150_ms(vantage, bed, vip, version):
    with vantage.prober(streams(vip[version], version), forbidden=FORBIDDEN) as probing:
        time.sleep(0.3)
        times = [time.monotonic()]
        bed.nft(DEAF)
        times.append(time.monotonic())
        time.sleep(0.15)
        times.append(time.monotonic())
        bed.nft("delete table inet deaf")
        times.append(time.monotonic())
        time.sleep(0.3)
    report = probing.report
    assert report.problem == ""
    allowed = report.streams["allowed"]
    longest = max(allowed.interruptions, key=lambda one: one.seconds)
    # The rules came and went at some moment while nft ran.
    least, most = times[2] - times[1], times[3] - times[0]
    assert least - 0.005 < longest.seconds < most + 0.005, str(report)
    assert longest.over and longest.probes > 100
    assert allowed.longest == longest.seconds <= allowed.total
    assert report.unproven == allowed.total


def test_late_answers_interrupt_as_lost_ones_do(vantage, bed, vip):
    """A target that stands still answers everything later; who waits for it is interrupted."""
    with vantage.prober({"allowed": streams(vip[4], 4)["allowed"]}) as probing:
        time.sleep(0.2)
        bed.within("segment", "ip", "link", "set", "amphora", "down")
        time.sleep(0.15)
        bed.within("segment", "ip", "link", "set", "amphora", "up")
        time.sleep(0.5)
    assert probing.report.streams["allowed"].longest > 0.14, str(probing.report)


def test_a_sender_that_stands_still_is_no_interruption(vantage, host, vip):
    probing = vantage.prober({"allowed": streams(vip[4], 4)["allowed"]})
    with probing:
        time.sleep(0.3)
        pid = probing._agent.hello["pid"]
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.2)
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.3)
    report = probing.report
    assert report.lag.left_out > 100 and report.problem == ""
    assert report.streams["allowed"].longest < 0.05, str(report)


def test_no_control_no_verdict(vantage, rules, vip):
    rules("udp dport 1 accept")
    with vantage.prober(streams(vip[4], 4), forbidden=FORBIDDEN) as probing:
        time.sleep(0.1)
    assert "control allowed never was answered" in probing.report.problem
    (silence,) = probing.report.streams["allowed"].interruptions
    assert not silence.over
    with vantage.prober({"denied": streams(vip[4], 4)["denied"]}, forbidden={"denied"}) as probing:
        time.sleep(0.05)
    assert "no control" in probing.report.problem


def test_other_probes(vantage, vip):
    """UDP is patched as TCP is; what is neither is sent in turn, and each has its answers."""
    own = tcp_syn(vip[4], 80)
    with vantage.prober(
        {
            "udp": udp(vip[4], 53, source=ALLOWED[4]),
            "forbidden udp": udp(vip[4], 80, source=ALLOWED[4]),
            "ping": icmp_echo(vip[4], source=ALLOWED[4]),
            "own": own,
        },
        forbidden={"forbidden udp", "ping"},
    ) as probing:
        time.sleep(0.5)
    report = probing.report
    assert report.problem == "" and report.witnesses == [], str(report)
    assert report.streams["udp"].answers == {"UDP answer": report.streams["udp"].answered}
    assert report.streams["udp"].answered > 300
    assert report.streams["own"].probe.source == str(vantage.interface.address(4))


def test_a_ping_that_passes_is_a_witness(vantage, rules, vip):
    rules(*RULES, "icmp type echo-request accept", "icmpv6 type echo-request accept")
    for version in (4, 6):
        probes = {
            "allowed": streams(vip[version], version)["allowed"],
            "ping": icmp_echo(vip[version], source=ALLOWED[version]),
        }
        with vantage.prober(probes, forbidden={"ping"}) as probing:
            time.sleep(0.1)
        assert probing.report.witnesses[0].text == "echo reply", str(probing.report)


@BOTH
def test_connections_that_are_kept(vantage, bed, rules, vip, version):
    """A source loses its permission: its connection goes on (conntrack), until it is cut."""
    flows = {
        "kept": Connection(vip[version], 80, source=ALLOWED[version], payload=b"ping"),
        "never": Connection(vip[version], 81, source=ALLOWED[version]),
    }
    target = vip[version]
    probe = {"allowed": tcp_syn(target, 80, source=str(vantage.interface.address(version)))}
    with vantage.prober(probe, flows=flows) as probing:
        time.sleep(0.3)
        rules("ip saddr 198.51.100.10 tcp dport 80 accept", "ip6 saddr 2001:db8:1::10 accept")
        probing.mark("no longer allowed")
        time.sleep(0.3)
    report = probing.report
    kept = report.flows["kept"]
    assert kept.state == "open" and kept.answered > 20, str(report)
    assert kept.last_ns > report.marks[0][1]
    assert report.flows["never"].state.startswith("not connected"), str(report)
    assert ALLOWED[version] not in vantage.host.run(["ip", "address"]).stdout

    rules(*RULES)
    flows.pop("never")
    with vantage.prober(probe, flows=flows) as probing:
        time.sleep(0.2)
        bed.nft(DEAF)
        time.sleep(0.3)
    bed.nft("delete table inet deaf")
    kept = probing.report.flows["kept"]
    assert kept.state == "silent" and 0.2 < kept.longest < 2, str(probing.report)


def test_a_flow_that_is_reset(vantage, bed, vip):
    flows = {"kept": Connection(vip[4], 80, payload=b"ping")}
    with vantage.prober({"allowed": tcp_syn(vip[4], 80)}, flows=flows) as probing:
        time.sleep(0.2)
        bed.nft(
            "table inet cut { chain c { type filter hook input priority -10; "
            "tcp dport 80 tcp flags & (psh|ack) == (psh|ack) reject with tcp reset; }; }"
        )
        time.sleep(0.2)
        bed.nft("delete table inet cut")
    kept = probing.report.flows["kept"]
    assert kept.state == "reset by the other side" and kept.ended_ns, str(probing.report)


def test_it_ends_by_itself(vantage, vip):
    probes = {"allowed": tcp_syn(vip[4], 80, source=ALLOWED[4])}
    with vantage.prober(probes, lasting=0.2) as probing:
        time.sleep(0.5)
    report = probing.report
    assert report.streams["allowed"].sent + report.lag.left_out == 200, str(report)
    assert report.problem.startswith("it ended by itself, after 0.2 s")


def test_several_at_once(vantage, vip):
    """Two probers of one guest do not take each other's answers."""
    reports = {}

    def run(name, source):
        with vantage.prober({name: tcp_syn(vip[4], 80, source=source)}) as probing:
            time.sleep(0.4)
        reports[name] = probing.report

    threads = [
        threading.Thread(target=run, args=(f"source {n}", f"198.51.100.{60 + n}")) for n in (1, 2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, report in reports.items():
        assert report.problem == "" and report.streams[name].lost < 40, str(report)
    assert len(reports) == 2


@pytest.mark.parametrize("forwarding", [1, 0])
def test_an_address_that_is_tentative_is_taken_for_anothers(vantage, bed, testbed, vip, forwarding):
    """What an amphora does while it boots: it forwards, and its VIP is not its own yet.

    Duplicate address detection (RFC 4862 section 5.4) lasts a second; meanwhile a kernel that
    forwards looks for the address on the link, and says so when nobody is found (RFC 4861 section
    7.2.2: three seconds). The filter for what comes in never sees such a packet.
    """
    bed.within("amphora", "sysctl", "-qw", f"net.ipv6.conf.all.forwarding={forwarding}",
               "net.ipv6.conf.eth1.accept_dad=1", "net.ipv6.conf.eth1.dad_transmits=1")  # fmt: skip
    streams = {
        "control": tcp_syn(vip[4], 80, source=ALLOWED[4]),
        "denied": tcp_syn(vip[6], 80, source=DENIED[6]),
    }

    def tentative():
        return "tentative" in bed.within("amphora", "ip", "-6", "addr", "show", "to", vip[6])

    with vantage.prober(streams, forbidden={"denied"}, rate=200) as probing:
        bed.within("amphora", "ip", "addr", "del", f"{vip[6]}/128", "dev", "eth1")
        bed.within("amphora", "ip", "addr", "add", f"{vip[6]}/128", "dev", "eth1")
        assert tentative()
        probing.mark("added")
        deadline = time.monotonic() + 10
        while tentative():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        probing.mark("its own")
        # Three solicitations of a second each, for what came last while it was tentative.
        ends = time.monotonic() + 3.5
        while time.monotonic() < ends:
            vantage.ask(streams["control"], tries=1)
    report = probing.report
    assert not report.problem, report.problem
    if forwarding:
        assert report.witnesses, str(report)
        assert {one.text for one in report.witnesses} == {"ICMPv6 type 1 code 3"}
        owned = dict(report.marks)["its own"]
        assert all(one.sent_ns < owned < one.answered_ns for one in report.witnesses)
    else:
        assert not report.witnesses, str(report)


@BOTH
def test_a_target_that_is_not_there_yet(vantage, bed, vip, version):
    """As an amphora that is being built: probes leave from when it answers for its address."""
    probes = streams(vip[version], version)

    def link(state):
        bed.within("amphora", "ip", "link", "set", "eth1", state)
        if state == "up":
            # An interface that went down lost its IPv6 addresses, and the way to others.
            for address in ("2001:db8:1::30/64", f"{vip[6]}/128"):
                bed.within("amphora", "ip", "addr", "replace", address, "dev", "eth1", "nodad")

    link("down")
    try:
        with vantage.prober(probes, forbidden=FORBIDDEN, follow=True, absent=True) as probing:
            time.sleep(0.5)
            probing.mark("up")
            link("up")
            time.sleep(0.8)
    finally:
        link("up")
    report = probing.report
    assert report.problem == "" and report.witnesses == [], str(report)
    allowed, up = report.streams["allowed"], dict(report.marks)["up"]
    assert 0.5 < (allowed.first_ns - report.started_ns) / 1e9 and allowed.first_ns > up
    # Half of the slots had nobody to ask; of the others few were left out.
    assert 300 < allowed.sent < 900 and report.rate > 300, str(report)


@BOTH
def test_a_target_that_moves(vantage, bed, vip, version):
    """Another MAC, announced or not: with ``follow`` the stream finds it, without it is lost."""
    probes = {"allowed": streams(vip[version], version)["allowed"]}
    reports = {}
    for number, follow in enumerate((True, False)):
        with vantage.prober(probes, follow=follow) as probing:
            time.sleep(0.2)
            mac = f"02:00:00:00:77:{version * 10 + number:02x}"
            bed.within("amphora", "ip", "link", "set", "eth1", "address", mac)
            time.sleep(0.6)
        reports[follow] = probing.report
        if follow:
            assert (vip[version], mac) in [move[1:] for move in probing.report.moves]
    (kept,) = reports[True].streams["allowed"].interruptions[:1] or [None]
    assert kept is None or (kept.over and kept.seconds < 0.4), str(reports[True])
    assert not reports[False].streams["allowed"].interruptions[-1].over, str(reports[False])
