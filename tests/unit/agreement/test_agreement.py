# SPDX-License-Identifier: Apache-2.0
"""Policy, ruleset and wire held against each other; the wire is a function."""

import dataclasses
import ipaddress
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from openstack.load_balancer.v2.listener import Listener
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import ARP, Ether
from scapy.layers.sctp import SCTP, SCTPChunkInit

from sriov_lb_tests import errors
from sriov_lb_tests.agreement import Reach, Seat, Subject, View, look, questions, settle
from sriov_lb_tests.agreement.result import Agreement, Finding
from sriov_lb_tests.agreement.sending import probe_for, sendable
from sriov_lb_tests.amphora import Amphora
from sriov_lb_tests.packets.probe import Identities, Link
from sriov_lb_tests.policy.model import Promise
from sriov_lb_tests.policy.packet import Packet
from sriov_lb_tests.tests.agreement import Agrees
from sriov_lb_tests.verdicts.model import Broken
from sriov_lb_tests.wire.fake import FakeHost
from sriov_lb_tests.wire.vantage import Vantage

VIP, OWN, ALLOWED, DENIED = "198.51.100.20", "198.51.100.30", "198.51.100.10", "198.51.100.11"
MAC = "02:00:00:00:00:01"
LISTINGS = Path(__file__).parents[1] / "policy" / "listings"
REACH = Reach((ALLOWED, DENIED), ("198.51.100.0/24",), frozenset({VIP, OWN}))


def listener(port=80, cidrs=(f"{ALLOWED}/32",), **more):
    return {"name": f"l{port}", "protocol": "HTTP", "protocol_port": port,
            "allowed_cidrs": list(cidrs), "admin_state_up": True,
            "provisioning_status": "ACTIVE", **more}  # fmt: skip


def subject(*listeners, **more):
    return Subject.of({"name": "lb", "vip_address": VIP, **more}, listeners,
                      amphorae=[{"id": "a1", "vrrp_ip": OWN}])  # fmt: skip


class Wire:
    """Answers SYNs of sources and ports in ``open``, and ARP for the VIP."""

    def __init__(self, *open, deaf=False):
        self.open, self.deaf, self.reject = set(open), deaf, set()

    def __call__(self, frame):
        packet = Ether(frame)
        if self.deaf:
            return []
        if ARP in packet and packet[ARP].op == 1:
            asked = packet[ARP]
            answer = ARP(op=2, hwsrc="02:00:00:00:00:02", psrc=asked.pdst, hwdst=asked.hwsrc,
                         pdst=asked.psrc)  # fmt: skip
            return [bytes(Ether(src=packet.dst, dst=packet.src) / answer)]
        if TCP not in packet or packet[TCP].flags.R:
            return []
        key = packet[IP].src, packet[TCP].dport
        if key not in self.open | self.reject:
            return []
        back = TCP(sport=packet[TCP].dport, dport=packet[TCP].sport,
                   flags="SA" if key in self.open else "RA", seq=7,
                   ack=(packet[TCP].seq + 1) & 0xFFFFFFFF)  # fmt: skip
        header = IP(src=packet[IP].dst, dst=packet[IP].src)
        return [bytes(Ether(src=packet.dst, dst=packet.src) / header / back)]


@pytest.fixture
def vantage(tmp_path):
    interfaces = {"eth1": {"name": "eth1", "index": 2, "mac": MAC, "mtu": 1500, "up": True,
                           "addresses": [f"{ALLOWED}/24", f"{DENIED}/24"]}}  # fmt: skip
    host = FakeHost(interfaces=interfaces)
    host.agent.neighbours[VIP] = "02:00:00:00:00:02"
    with Vantage(host, "eth1", artefacts=tmp_path / "wire", run_id="r") as made:
        yield made


def through(vantage, wire, which, **more):
    vantage.host.agent.network = wire
    return look(which, (), vantage, REACH, **more)


# --- questions -------------------------------------------------------------------------------


def asked(which, reach=REACH, **more):
    return {(one.packet.source, one.packet.dport): one
            for one in questions(which.policy(), reach, **more)}  # fmt: skip


def test_each_listener_is_asked_from_who_may_and_who_may_not_and_beside_its_port():
    found = asked(subject(listener(), listener(8080, ())), ports=[9000])
    assert found[ALLOWED, 80].promise is Promise.REQUIRED
    assert found[DENIED, 80].promise is Promise.FORBIDDEN
    assert found[DENIED, 80].control.source == ALLOWED, "differs in the source alone"
    assert found[DENIED, 8080].promise is Promise.REQUIRED
    for port in (79, 81, 8079, 8081, 9000):
        one = found[ALLOWED, port]
        assert one.promise is Promise.FORBIDDEN and one.control.source == ALLOWED
    assert found[ALLOWED, 80].clause == "listener l80"


def test_nobody_elses_address_is_ever_pretended():
    reach = Reach((), ("198.51.100.0/24",), frozenset({VIP, "198.51.100.12", "198.51.100.14"}))
    found = asked(subject(listener(cidrs=["198.51.100.12/30"])), reach)
    sources = {source for source, _ in found}
    assert "198.51.100.13" in sources, "in the CIDR, and free"
    assert not sources & {VIP, "198.51.100.12", "198.51.100.14", "198.51.100.0", "198.51.100.1"}


@pytest.mark.parametrize(
    ("own", "kept"),
    [
        (["198.51.100.10/24", "192.0.2.74/26"], ["198.51.100.10"]),
        (["192.0.2.74/26"], ["192.0.2.74"]),
        (["198.51.100.10/24", "2001:db8::5/64"], ["198.51.100.10", "2001:db8::5"]),
    ],
)
def test_of_own_addresses_those_count_that_answers_come_back_to(own, kept):
    addresses = tuple(map(ipaddress.ip_interface, own))
    vantage = SimpleNamespace(interface=SimpleNamespace(addresses=addresses))
    assert Reach.of(vantage, subject(listener())).own == tuple(kept)


def test_with_port_security_only_own_addresses_are_used():
    found = asked(subject(listener()), Reach((ALLOWED, DENIED)))
    assert {source for source, _ in found} == {ALLOWED, DENIED}


def test_a_disabled_listener_is_required_of_nobody():
    found = asked(subject(listener(admin_state_up=False)))
    assert Promise.REQUIRED not in {one.promise for one in found.values()}
    assert found[DENIED, 80].promise is Promise.FORBIDDEN


def test_without_listeners_usual_ports_and_the_forgotten_one_are_asked():
    assert {port for _, port in asked(subject(), ports=[8081])} == {80, 443, 8081}


def test_thorough_goes_beyond_listeners():
    whys = {one.why for one in questions(subject(listener()).policy(), REACH, thorough=True)}
    assert {"a ping", "VRRP from a stranger", "a service of the amphora itself"} <= whys


def test_sdk_objects_are_read_by_their_names_in_the_api():
    found = Subject.of({"vip_address": VIP}, [
        Listener.existing(id="x", name="x", protocol="HTTP", protocol_port=80,
                          admin_state_up=False, provisioning_status="ACTIVE")])  # fmt: skip
    assert found.policy().listeners[0].enabled is False


SECOND, THIRD = "198.51.100.40", "198.51.100.41"


def destinations(found, **fields):
    """Where packets go that may not pass; with these fields."""
    return {
        one.packet.destination
        for one in found
        if one.promise is Promise.FORBIDDEN
        and all(getattr(one.packet, name) == value for name, value in fields.items())
    }


def test_what_may_not_pass_is_asked_of_every_vip_and_of_base_ports():
    which = subject(listener(), additional_vips=[{"ip_address": SECOND}, {"ip_address": THIRD}])
    found = questions(which.policy(), REACH, bases=[OWN], ports=[9000])
    everywhere = {VIP, SECOND, THIRD, OWN}
    assert destinations(found, dport=80) == everywhere
    thorough = questions(which.policy(), REACH, bases=[OWN], thorough=True)
    assert destinations(thorough) == everywhere
    for one in (*found, *thorough):
        if one.control is not None:
            assert one.control.destination == one.packet.destination, "differs in one thing"
        elif one.promise is Promise.FORBIDDEN:
            assert one.packet.destination == OWN, "its link is the control"


def test_a_base_port_is_not_asked_where_nothing_could_be_its_control():
    reach = Reach((), ("198.51.100.0/24",), frozenset({VIP, OWN}))
    found = questions(subject(listener()).policy(), reach, bases=[OWN, "2001:db8:1::30"])
    assert destinations(found) == {VIP}


def test_other_ports_are_asked_for_by_whoever_a_listener_is_open_to():
    """A row that lost its port is open to its own sources alone."""
    other = listener(8080, ("198.51.100.64/30",))
    found = [one.packet for one in questions(subject(listener(), other).policy(), REACH,
                                             ports=[9000])]  # fmt: skip
    by_port = {}
    for packet in found:
        by_port.setdefault(packet.dport, set()).add(packet.source)
    assert by_port[79] == by_port[81] == {ALLOWED}
    assert by_port[8079] == by_port[8081] == {"198.51.100.64"}
    assert by_port[9000] == {ALLOWED, "198.51.100.64"}


def closed(found, listeners=(80, 8080)):
    """Who asks for each port without a listener."""
    by_port = {}
    for one in found:
        if one.packet.dport not in listeners and one.packet.protocol == 6:
            by_port.setdefault(one.packet.dport, set()).add(one.packet.source)
    return by_port


def test_other_ports_are_asked_for_from_each_cidr_of_a_listener():
    """A row is one CIDR's: the one that lost its port may be any of them."""
    cidrs = [f"{ALLOWED}/32", "198.51.100.64/30", "198.51.100.68/30"]
    found = questions(subject(listener(cidrs=cidrs)).policy(), REACH, ports=[9000])
    everybody = {ALLOWED, "198.51.100.64", "198.51.100.68"}
    # The last two are one interval, and two rows of a ruleset.
    assert closed(found) == {79: everybody, 81: everybody, 9000: everybody}
    for one in found:
        if one.packet.dport == 80 and one.promise is Promise.REQUIRED:
            everybody.discard(one.packet.source)
        elif one.packet.dport != 80:
            assert (one.control.source, one.control.dport) == (one.packet.source, 80)
    assert not everybody, "and each of them has to be served"


def test_the_control_of_another_port_differs_in_the_port_alone_on_every_vip():
    """A source that the link itself keeps back would be taken for one that is dropped."""
    which = subject(listener(cidrs=[f"{ALLOWED}/32", "198.51.100.64/30"]),
                    additional_vips=[{"ip_address": SECOND}, {"ip_address": THIRD}])  # fmt: skip
    found = questions(which.policy(), REACH, ports=[9000, 9001, 9002])
    asked = [one for one in found if one.packet.dport != 80]
    assert {(one.packet.source, one.packet.destination) for one in asked} == {
        (source, vip) for source in (ALLOWED, "198.51.100.64") for vip in (VIP, SECOND, THIRD)
    }
    for one in asked:
        assert (one.control.source, one.control.destination) == (
            one.packet.source, one.packet.destination)  # fmt: skip


def test_one_source_stands_for_each_cidr_that_it_is_in():
    nested = listener(cidrs=["198.51.100.0/26", f"{ALLOWED}/32"])
    again = listener(8080, ("198.51.100.0/25", "198.51.100.128/25"))
    found = questions(subject(nested, again).policy(), REACH, ports=[9000])
    assert closed(found)[79] == {ALLOWED}
    assert closed(found)[8079] == closed(found)[9000] == {ALLOWED, "198.51.100.128"}


def test_of_very_many_cidrs_some_ask_and_the_ends_among_them():
    many = [f"198.51.100.{number}/31" for number in range(40, 240, 2)]
    which = subject(listener(cidrs=many))
    for thorough, number in ((False, 6), (True, 24)):
        asking = closed(questions(which.policy(), REACH, thorough=thorough))[79]
        assert len(asking) == number and {"198.51.100.40", "198.51.100.238"} <= asking


def test_between_listeners_the_next_port_without_one_is_the_neighbour():
    found = questions(
        subject(listener(80), listener(81, ("198.51.100.64/30",)), listener(82)).policy(), REACH
    )
    assert closed(found, (80, 81, 82)) == dict.fromkeys((79, 83), {ALLOWED, "198.51.100.64"})


def test_udp_to_a_listeners_port_is_asked_from_each_of_its_cidrs():
    cidrs = [f"{ALLOWED}/32", "198.51.100.64/30"]
    found = questions(subject(listener(cidrs=cidrs)).policy(), REACH, thorough=True)
    udp = {one.packet.source for one in found if one.packet.protocol == 17
           and one.packet.dport == 80}  # fmt: skip
    assert udp == {ALLOWED, "198.51.100.64"}


# --- policy and wire -------------------------------------------------------------------------


def test_agreement(vantage):
    found = through(vantage, Wire((ALLOWED, 80)), subject(listener()))
    assert found.agreed and not found.unclear and found.sent >= 5, str(found)
    assert str(found) == "policy = wire for load balancer lb."
    assert not vantage.host.agent.played, "no crafted source is left behind"


def test_a_port_that_was_forgotten_is_one_sentence_and_a_witness(vantage):
    found = through(vantage, Wire((ALLOWED, 80), (ALLOWED, 81)), subject(listener()))
    first, *rest = str(found).splitlines()
    assert first == (
        f"Load balancer lb lets in TCP port 81 from {ALLOWED} on eth1, which may not pass (seen on "
        "the wire)."
    )
    assert "no listener is on TCP port 81" in rest[0] and "SYN-ACK" in rest[0]
    assert found.findings[0].pcap.is_file()
    assert found.to_json()["findings"][0]["too open"] is True


class Everything(Wire):
    """One network reaches every port, as when its row of the ruleset lost the port."""

    def __init__(self, network, *open):
        super().__init__(*open)
        self.network = ipaddress.ip_network(network)

    def __call__(self, frame):
        packet = Ether(frame)
        if TCP in packet and ipaddress.ip_address(packet[IP].src) in self.network:
            self.open.add((packet[IP].src, packet[TCP].dport))
        return super().__call__(frame)


@pytest.mark.parametrize("lost", [f"{ALLOWED}/32", "198.51.100.64/30", "198.51.100.128/28"])
def test_a_cidr_whose_rule_lost_its_port_is_seen_on_the_wire_whichever_it_is(vantage, lost):
    cidrs = [f"{ALLOWED}/32", "198.51.100.64/30", "198.51.100.128/28"]
    own = ("198.51.100.64", "198.51.100.128", "198.51.100.67", "198.51.100.143", ALLOWED)
    wire = Everything(lost, *((source, 80) for source in own))
    found = through(vantage, wire, subject(listener(cidrs=cidrs)))
    assert {one.packet.dport for one in found.findings} == {79, 81}
    for one in found.findings:
        assert one.too_open and ipaddress.ip_address(one.packet.source) in wire.network
    wire.network = ipaddress.ip_network("192.0.2.0/24")
    wire.open = {(source, 80) for source in own}
    assert through(vantage, wire, subject(listener(cidrs=cidrs))).agreed, "and else there is none"


def test_a_reset_from_a_closed_port_came_through_the_filter(vantage):
    wire = Wire((ALLOWED, 80))
    wire.reject.add((DENIED, 80))
    found = through(vantage, wire, subject(listener()))
    assert [one.too_open for one in found.findings] == [True]


def test_a_listener_that_answers_nobody_is_kept_out(vantage):
    found = through(vantage, Wire(), subject(listener()))
    assert found.sentence == (
        f"Load balancer lb keeps out TCP port 80 from {ALLOWED} on eth1, which has to pass (seen "
        "on the wire)."
    )


def test_a_listener_that_resets_is_let_in_and_not_served(vantage):
    wire = Wire()
    wire.reject.add((ALLOWED, 80))
    found = through(vantage, wire, subject(listener()))
    assert "it came through and nobody serves it" in str(found)


def test_silence_of_everything_proves_nothing(vantage):
    found = through(vantage, Wire(deaf=True), subject(listener()))
    assert found.agreed and found.unclear and not found.sent


def two(vantage, *there):
    """A load balancer with two VIPs; for those ``there`` somebody answers."""
    vantage.host.agent.neighbours = dict.fromkeys(there, "02:00:00:00:00:02")
    which = subject(listener(), additional_vips=[{"ip_address": SECOND}])
    return through(vantage, Wire((ALLOWED, 80)), which)


@pytest.mark.parametrize("other", [VIP, OWN, "198.51.100.1"])
def test_a_vip_that_nobody_answers_for_while_others_are_there_is_shut(vantage, other):
    found = two(vantage, other)
    said = [str(one) for one in found.findings]
    assert any(f"nobody answers for the additional VIP {SECOND} on" in text for text in said)
    assert not any(one.too_open for one in found.findings)
    assert "VIP" in found.sentence and other in found.sentence
    assert not found.unclear, "it is said once, and well"


def test_if_nobody_answers_for_anything_the_vantage_may_be_what_is_cut_off(vantage):
    found = two(vantage)
    assert found.agreed and found.unclear and not found.sent


def test_a_load_balancer_that_serves_nobody_need_not_be_there(vantage):
    vantage.host.agent.neighbours = {OWN: "02:00:00:00:00:02"}
    for which in (subject(), subject(listener(), admin_state_up=False)):
        found = through(vantage, Wire(), which)
        assert found.agreed and found.unclear


def test_behind_a_router_nobody_is_said_to_be_missing(vantage):
    vantage.next_hop = "198.51.100.1"
    found = two(vantage)
    assert found.agreed and found.unclear


def test_the_first_vip_is_called_so(vantage):
    found = two(vantage, SECOND)
    assert any(f"nobody answers for the VIP {VIP} on" in str(one) for one in found.findings)


def test_what_the_wire_says_nothing_of_is_named(vantage):
    def unseen(*listeners):
        found = through(vantage, Wire((ALLOWED, 80)), subject(*listeners))
        return len(found.unseen), len(found.partly)

    assert unseen(listener()) == (0, 0)
    # Nobody sees an answer to a datagram, and nobody counts.
    datagrams = listener(53, protocol="UDP")
    found = through(vantage, Wire((ALLOWED, 80)), subject(listener(), datagrams))
    assert "what listener l53 does over IPv4" in found.unseen[0] and not found.partly
    # No source in reach that it is open to.
    assert unseen(listener(), listener(81, cidrs=["203.0.113.0/24"])) == (0, 1)


def test_sctp_asks_for_the_listeners_port():
    packet = Packet("eth1", ALLOWED, VIP, 132, sport=40000, dport=2905)
    (frame,) = probe_for(packet).frames(Link(MAC, MAC), Identities("r", seed=1).next())
    assert Ether(frame)[SCTP].dport == 2905 and SCTPChunkInit in Ether(frame)


def test_a_look_that_breaks_takes_nothing_back():
    bad = Agreement("lb", (Finding(View.WIRE, True, None, "it came through"),))
    looks = iter([bad])

    def look():
        try:
            return next(looks)
        except StopIteration:
            raise errors.GuestUnreachable("it is away") from None

    settled = settle(look)
    assert settled.first is bad and settled.late is None and not settled.agreed
    looks = iter([bad, Agreement("lb", (Finding(View.WIRE, False, None, "it is shut"),))])
    assert [one.explanation for one in settle(look).seen.findings] == [
        "it came through", "it is shut"]  # fmt: skip


def test_what_two_looks_found_is_told_once():
    """Packets that read alike may differ in a field that no rule asks for."""
    packet = Packet("eth1", ALLOWED, VIP, 6, sport=40000, dport=81, tcp_flags=2, state="new")
    other = dataclasses.replace(packet, icmp_type=3)
    assert str(other) == str(packet) and other != packet
    found = [Finding(View.WIRE, True, one, "open") for one in (packet, other)]
    looks = iter([Agreement("lb", (one,)) for one in found])

    def look():
        try:
            return next(looks)
        except StopIteration:
            raise errors.GuestUnreachable("it is away") from None

    assert [one.packet for one in settle(look).seen.findings] == [packet]


# --- ruleset ---------------------------------------------------------------------------------


def keeping_back(text):
    """The listing with a chain that lets nothing out."""
    listing = json.loads(text)
    listing["nftables"].append(
        {"chain": {"family": "inet", "table": "amphora_table", "name": "out", "type": "filter",
                   "hook": "output", "prio": 0, "policy": "drop"}})  # fmt: skip
    return json.dumps(listing)


def test_a_ruleset_that_keeps_answers_back_is_found_and_not_sent():
    which = Subject.of({"name": "lb", "vip_address": VIP}, [
        listener(cidrs=["198.51.100.0/25", "2001:db8:1::/112"])])  # fmt: skip
    found = look(which, [seat("octavia-one-listener.json", keeping_back)])
    (kept,) = found.findings
    assert kept.packet.leaving and not kept.too_open and not sendable(kept.packet, "eth1")
    assert found.sentence == (
        "Load balancer lb keeps back TCP from port 80 (established) to 203.0.113.0 by eth1, which "
        "has to leave (seen in the ruleset)."
    )


def seat(listing, change=str):
    inside = ("ip", "netns", "exec", "amphora-haproxy")
    addresses = (
        '[{"ifindex": 2, "ifname": "eth1", "flags": ["UP"], "mtu": 1500, "addr_info": '
        f'[{{"local": "{VIP}", "prefixlen": 24}}]}}]'
    )
    commands = {
        (*inside, "nft", "-j", "list", "ruleset"): change((LISTINGS / listing).read_text()),
        (*inside, "ip", "-j", "address", "show"): addresses,
    }
    return Seat("a1", OWN, "", Amphora(FakeHost(commands=commands)))


def test_a_ruleset_that_is_closed_to_a_listener_is_found_without_a_wire():
    found = look(subject(listener()), [seat("octavia-drop-all.json")])
    worst = found.findings[0]
    assert worst.view is View.RULESET and not worst.too_open and worst.where == "amphora a1"
    assert "keeps out" in found.sentence and "seen in the ruleset" in found.sentence


def test_without_a_listener_the_first_ruleset_is_right():
    found = look(subject(), [seat("octavia-drop-all.json")])
    assert found.agreed, str(found)
    assert found.sentence == "policy = ruleset for load balancer lb."


# --- settling --------------------------------------------------------------------------------


def bad():
    packet = Packet("eth1", DENIED, VIP, 6, dport=80)
    return Agreement("lb", findings=(Finding(View.WIRE, True, packet, "why."),))


def sequence(*found):
    left, now = list(found), [0.0]

    def one():
        now[0] += 2.0
        return left.pop(0) if len(left) > 1 else left[0]

    return settle(one, patience=5, clock=lambda: now[0])


def test_agreement_at_once():
    settled = sequence(Agreement("lb"))
    assert settled.agreed and settled.late == 0


def test_agreement_that_comes_late_fails_and_says_by_how_much():
    settled = sequence(bad(), bad(), Agreement("lb"))
    assert not settled.agreed and settled.late == 6.0
    assert "that was over 6.0 s later." in str(settled).splitlines()[0]


def test_agreement_that_never_comes():
    settled = sequence(bad())
    assert not settled.agreed and settled.late is None
    assert str(settled).startswith("Load balancer lb lets in TCP port 80")


def port(number, text="it came through", too_open=True):
    packet = Packet("eth1", DENIED, VIP, 6, dport=number)
    return Finding(View.WIRE, too_open, packet, f"port {number}: {text}")


def test_what_the_first_look_found_is_not_lost_when_the_last_one_finds_less():
    first, last = (port(80, "known"), port(81)), (port(80, "known, again"), port(82, "shut", False))
    settled = sequence(Agreement("lb", first), Agreement("lb", last))
    said = ["port 80: known", "port 81: it came through", "port 82: shut"]
    assert [one.explanation for one in settled.seen.findings] == said
    assert all(text in str(settled) for text in said) and "again" not in str(settled)


class Seen(Agrees):
    """A test whose looks find what it is told to."""

    def __init__(self, *found):
        self.found, self.seen, self.kept = list(found), {}, {}

    def look(self, lb, **options):
        return self.found.pop(0) if len(self.found) > 1 else self.found[0]

    def keep(self, name, content):
        self.kept[name] = content


def test_a_hole_that_was_there_for_a_moment_is_a_finding_of_the_test():
    test = Seen(Agreement("lb", (port(80), port(81))), Agreement("lb", (port(80),)))
    with pytest.raises(Broken, match="port 81") as raised:
        test.agrees(None, "A step", patience=0.01)
    assert [text.split(": ")[2] for text in raised.value.findings] == ["port 80", "port 81"]
    assert len(test.kept["agreement-01.json"]["findings"]) == 2
    late = Seen(Agreement("lb", (port(80),)), Agreement("lb"))
    with pytest.raises(Broken, match="that was over") as raised:
        late.agrees(None, "A step", patience=5)
    assert len(raised.value.findings) == 1


LINK = "198.51.100.0/24"


@pytest.mark.parametrize(
    ("project", "admin", "links"),
    [("mine", None, [LINK]), ("theirs", None, []), ("theirs", "an administrator", [LINK])],
)
def test_nobodys_address_is_pretended_where_neutron_hides_who_is_there(
    vantage, project, admin, links
):
    ports = [SimpleNamespace(fixed_ips=[{"ip_address": "198.51.100.12"}])]
    network = SimpleNamespace(ports=lambda network_id: ports)
    cloud = SimpleNamespace(network=network, current_project_id="mine")
    test = Seen()
    test.stage = SimpleNamespace(clouds=SimpleNamespace(member=cloud, admin=admin and cloud))
    subnet = SimpleNamespace(cidr=LINK, gateway_ip="198.51.100.1")
    net = SimpleNamespace(network=SimpleNamespace(id="n", project_id=project), subnets={4: subnet})
    test.site = SimpleNamespace(vip_net=net)
    reach = test.reach(subject(listener()), vantage)
    assert list(reach.links) == links and reach.own == (ALLOWED, DENIED)
    assert {"198.51.100.12", "198.51.100.1", VIP, OWN} <= reach.taken
