# SPDX-License-Identifier: Apache-2.0
"""The thin thread on real packets: a real ruleset, the real agent, and subjects that are broken.

Every check is seen to fail here: the rule is removed, widened, the service is dead, the control
is dead, the wire is cut.
"""

import subprocess

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.utils import RawPcapReader

from sriov_lb_tests import errors
from sriov_lb_tests.packets.probe import icmp_echo, tcp_segment, tcp_syn, udp
from sriov_lb_tests.wire.namespace import NamespaceHost
from sriov_lb_tests.wire.vantage import Vantage, Verdict

ALLOWED = {4: "198.51.100.99", 6: "2001:db8:1::99"}
DENIED = {4: "198.51.100.200", 6: "2001:db8:1::1:99"}
FAR = {4: "203.0.113.7", 6: "2001:db8:7::7"}
LINES = (
    "ip saddr 198.51.100.0/25 tcp dport 80 accept",
    "ip6 saddr 2001:db8:1::/112 tcp dport 80 accept",
    "ip saddr 203.0.113.0/24 tcp dport 80 accept",
    "ip6 saddr 2001:db8:7::/48 tcp dport 80 accept",
    "udp dport 53 accept",
)
BOTH = pytest.mark.parametrize("version", [4, 6])


@pytest.fixture(scope="module")
def bed(testbed):
    with testbed.bed() as made:
        made.server = made.listen(("tcp", 80), ("tcp", 81), ("udp", 53), ("udp", 80))
        yield made


@pytest.fixture
def rules(bed, testbed):
    """Loads Octavia's rules with the given lines; the usual ones before every test."""

    def load(*lines):
        bed.nft(testbed.octavia_rules(*lines), "-o")

    load(*LINES)
    return load


@BOTH
def test_the_thin_thread(vantage, vip, version):
    target = vip[version]
    good = tcp_syn(target, 80, source=ALLOWED[version])
    seen = vantage.ask_all(
        [
            (good, None),
            (tcp_syn(target, 80, source=DENIED[version]), good),
            (tcp_syn(target, 81, source=ALLOWED[version]), good),
            (udp(target, 80, source=ALLOWED[version]), good),
            (icmp_echo(target, source=ALLOWED[version]), good),
            (udp(target, 53, source=DENIED[version]), None),
            (tcp_segment(target, 80, "SA", source=ALLOWED[version]), good),
        ]
    )
    accepted, dropped = Verdict.ACCEPTED, Verdict.DROPPED
    expected = [accepted, dropped, dropped, dropped, dropped, accepted, dropped]
    assert [one.verdict for one in seen] == expected, "\n".join(map(str, seen))
    assert all(one.pcap.stat().st_size > 24 for one in seen)
    assert 0 < seen[0].seconds < 0.5
    assert vantage.http(target, 80).status == 200
    assert vantage.connect(target, 81, timeout=0.5) == "silent"
    assert vantage.connect(target, 80) == "connected"


@BOTH
def test_a_rule_that_is_gone_is_seen(vantage, rules, vip, version):
    rules("udp dport 53 accept")
    # The control has to differ in what is under test only: here, in the port and protocol.
    seen = vantage.ask(
        tcp_syn(vip[version], 80, source=ALLOWED[version]),
        control=udp(vip[version], 53, source=ALLOWED[version]),
    )
    assert seen.verdict is Verdict.DROPPED, str(seen)


@BOTH
def test_a_rule_that_is_too_wide_is_seen(vantage, rules, vip, version):
    rules("tcp dport 80 accept")
    good = tcp_syn(vip[version], 80, source=ALLOWED[version])
    seen = vantage.ask(tcp_syn(vip[version], 80, source=DENIED[version]), control=good)
    assert seen.verdict is Verdict.ACCEPTED, str(seen)


@BOTH
def test_a_service_that_is_dead_is_not_a_drop(vantage, rules, vip, version):
    rules("tcp dport 99 accept")
    seen = vantage.ask(tcp_syn(vip[version], 99, source=ALLOWED[version]))
    assert seen.verdict is Verdict.REJECTED, str(seen)
    assert "RST" in seen.explanation


@BOTH
def test_a_dead_control_is_inconclusive(vantage, rules, vip, version):
    rules("udp dport 1 accept")
    good = tcp_syn(vip[version], 80, source=ALLOWED[version])
    seen = vantage.ask(tcp_syn(vip[version], 80, source=DENIED[version]), control=good)
    assert seen.verdict is Verdict.INCONCLUSIVE, str(seen)
    assert "got none before and after it either" in seen.explanation


def test_a_cut_wire_is_inconclusive(vantage, bed, vip):
    good = tcp_syn(vip[4], 80, source=ALLOWED[4])
    bed.within("amphora", "ip", "link", "set", "eth1", "down")
    try:
        seen = vantage.ask(tcp_syn(vip[4], 80, source=DENIED[4]), control=good)
    finally:
        bed.within("amphora", "ip", "link", "set", "eth1", "up")
        bed.within("amphora", "ip", "route", "add", "default", "via", "198.51.100.1")
        for address in ("2001:db8:1::30/64", "2001:db8:1::20/128"):
            bed.within("amphora", "ip", "address", "add", address, "dev", "eth1", "nodad")
        bed.within("amphora", "ip", "-6", "route", "add", "default", "via", "2001:db8:1::1")
    assert seen.verdict is Verdict.INCONCLUSIVE, str(seen)
    assert "Nobody answers for 198.51.100.20" in seen.explanation
    assert vantage.ask(good).verdict is Verdict.ACCEPTED


@BOTH
def test_sources_behind_a_router_need_one(vantage, testbed, vip, version):
    far = tcp_syn(vip[version], 80, source=FAR[version])
    assert vantage.ask(far).verdict is Verdict.INCONCLUSIVE
    vantage.play(testbed.GATEWAY4, testbed.GATEWAY6)
    seen = vantage.ask(far)
    assert seen.verdict is Verdict.ACCEPTED, str(seen)


def resets(frames, source):
    found = []
    for frame in frames:
        packet = Ether(frame.data)
        if TCP in packet and packet[TCP].flags.R and packet[IP].src == source:
            found.append(packet)
    return found


def test_the_kernel_stays_out_of_played_conversations(vantage, testbed, vip):
    """Exactly one RST per half-open connection: ours. With forwarding on, none either."""
    switch = ["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]
    vantage.host.run(switch)
    read = ["cat", "/proc/sys/net/ipv4/conf/c0/forwarding"]
    with vantage.capture({"addresses": [ALLOWED[4]]}) as captured:
        seen = vantage.ask(tcp_syn(vip[4], 80, source=ALLOWED[4]), attempts=2)
        assert seen.verdict is Verdict.ACCEPTED
        assert vantage.host.run(read).stdout.strip() == "0"
    assert len(resets(captured.frames, ALLOWED[4])) == 2
    vantage.stop_playing(ALLOWED[4])
    assert vantage.host.run(read).stdout.strip() == "1"
    vantage.host.run(["sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward"])


def test_an_own_address_cannot_be_played(vantage, testbed):
    with pytest.raises(errors.AgentFailed, match="guest's own address"):
        vantage.play(testbed.CLIENT4)


def test_addresses_come_and_go(vantage, host, vip):
    with vantage.address("198.51.100.77/24"):
        assert vantage.http(vip[4], 80, source="198.51.100.77").status == 200
        assert vantage.interface.owns("198.51.100.77")
    assert "198.51.100.77" not in host.run(["ip", "address"]).stdout


def test_an_agent_that_loses_its_tester_cleans_up(host, rules, tmp_path):
    made = Vantage(host, "c0", artefacts=tmp_path)
    made.agent.call("add_address", interface="c0", address="198.51.100.78/24")
    made.agent.call("quiet", ports=[12345])
    assert "198.51.100.78" in host.run(["ip", "address"]).stdout
    assert "sriov_lb_agent" in host.run(["nft", "list", "tables"]).stdout
    made.agent._channel.close()  # the connection is gone; no goodbye
    assert "198.51.100.78" not in host.run(["ip", "address"]).stdout
    assert "sriov_lb_agent" not in host.run(["nft", "list", "tables"]).stdout


def test_quiet_ports_send_no_resets(vantage, vip):
    probe = tcp_syn(vip[4], 80, source_port=23456)
    with vantage.capture({"ports": [23456]}) as before:
        assert vantage.ask(probe, attempts=1).verdict is Verdict.ACCEPTED
    vantage.agent.call("quiet", ports=[23456])
    with vantage.capture({"ports": [23456]}) as after:
        assert vantage.ask(probe, attempts=1).verdict is not None
    own = str(vantage.interface.address(4))
    assert resets(before.frames, own) and not resets(after.frames, own)


def test_captures_tell_time_direction_and_tags(vantage, bed, testbed):
    """Tags are put back where the kernel took them out; times come from the kernel."""
    with NamespaceHost(bed.name("amphora")) as amphora:
        with amphora.capture("eth1", {"needle": b"tagged".hex()}) as captured:
            mac = vantage.resolve(testbed.VIP4)
            tagged = Ether(src=vantage.interface.mac, dst=mac) / Dot1Q(vlan=7, type=0x88B5)
            done = vantage.send([bytes(tagged / b"tagged frame of ours")] * 3, 1000)
            # Whatever was sent before this answer has arrived.
            vantage.resolve(testbed.VIP4)
    assert len(captured.frames) == 3
    assert all(Ether(frame.data)[Dot1Q].vlan == 7 for frame in captured.incoming)
    times = [frame.ns for frame in captured.frames]
    assert times == sorted(times)
    assert done["started_ns"] - 10_000_000 < times[0] < done["ended_ns"] + 50_000_000
    assert times[-1] - times[0] > 1_000_000  # 1,000 a second: 2 ms for three


def test_captures_can_be_narrow(vantage, vip):
    with vantage.capture({"ethertypes": [0x0806]}) as captured:
        vantage.ask(tcp_syn(vip[4], 80))
    assert captured.frames and all(ARP in Ether(frame.data) for frame in captured.frames)


def test_the_pcap_holds_what_the_verdict_says(vantage, vip):
    good = tcp_syn(vip[4], 80, source=ALLOWED[4])
    seen = vantage.ask(tcp_syn(vip[4], 80, source=DENIED[4]), control=good, attempts=3)
    with RawPcapReader(str(seen.pcap)) as reader:
        packets = [Ether(data) for data, _ in reader]
    sent = [p for p in packets if TCP in p and p[IP].src == DENIED[4]]
    answers = [p for p in packets if TCP in p and p[IP].dst == DENIED[4]]
    controls = [p for p in packets if TCP in p and p[IP].dst == ALLOWED[4]]
    assert (len(sent), len(answers), len(controls)) == (3, 0, 2)
    assert {p[TCP].seq for p in sent} == {identity.nonce for identity in seen.identities}
    tcpdump = subprocess.run(["tcpdump", "-nr", str(seen.pcap)], capture_output=True, text=True)
    assert tcpdump.returncode == 0 and "Flags [S]" in tcpdump.stdout


def test_interfaces_as_ip_shows_them(host, testbed):
    found = host.interfaces()
    assert set(found) == {"lo", "c0"}
    assert found["c0"].owns(testbed.CLIENT4) and found["c0"].owns(testbed.CLIENT6)
    assert found["c0"].mac in host.run(["ip", "link", "show", "c0"]).stdout
    assert found["c0"].mtu == 1500 and found["c0"].up


def test_commands(host):
    assert host.run(["cat"], input=b"hello").stdout == "hello"
    with pytest.raises(errors.CommandFailed, match="ended with status 3, expected 0: oh") as caught:
        host.run(["sh", "-c", "echo oh >&2; exit 3"])
    assert caught.value.status == 3
    with pytest.raises(errors.CommandFailed, match="did not end within"):
        host.run(["sleep", "5"], timeout=0.2)


def test_a_namespace_that_is_not_there():
    with pytest.raises(errors.AgentFailed, match="did not come up.*nonesuch"):
        NamespaceHost("nonesuch").open_agent()
