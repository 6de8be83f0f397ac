# SPDX-License-Identifier: Apache-2.0
"""The catalogue as data: complete, unambiguous, and of one mind with the policy."""

import re
from dataclasses import replace

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from sriov_lb_tests.packets.catalogue import (
    Context,
    Expected,
    Flow,
    Need,
    cases,
    everything,
    missing,
    peer_cases,
)
from sriov_lb_tests.packets.catalogue.case import Registry, pick
from sriov_lb_tests.packets.probe import Identities, Link
from sriov_lb_tests.policy.model import Policy, Promise
from sriov_lb_tests.policy.packet import Packet

LINK = Link("02:00:00:00:00:01", "02:00:00:00:00:02")
ADDRESSES = {
    4: {"vip": "198.51.100.20", "allowed": "198.51.100.99", "denied": "198.51.100.200",
        "own": "198.51.100.30", "peer": "198.51.100.31", "subnet": "198.51.100.0/24"},
    6: {"vip": "2001:db8:1::20", "allowed": "2001:db8:1::99", "denied": "2001:db8:1::1:99",
        "own": "2001:db8:1::30", "peer": "2001:db8:1::31", "subnet": "2001:db8:1::/64"},
}  # fmt: skip


def context(version, **more):
    flow = Flow(ADDRESSES[version]["allowed"], 40000, 80, 1000, 2000)
    values = {"open_port": 82, "udp_port": 53, "sctp_port": 9, "flow": flow}
    return Context(version, **{**ADDRESSES[version], **values, **more})


BOTH = pytest.mark.parametrize("version", [4, 6])
ALL = [case for version in (4, 6) for case in everything(version)]


def test_there_are_enough_of_them_in_every_group():
    assert len(ALL) >= 220 and len({case.id for case in ALL}) == len(ALL)
    for version in (4, 6):
        here = [case for case in ALL if case.version == version]
        assert sum(case.decisive for case in here) >= 220
        groups = {case.group for case in here}
        assert groups == {
            "tcp", "udp", "sctp", "icmp", "ip", "addresses", "protocols", "vrrp", "tunnels", "link",
        }  # fmt: skip
        numbers = {int(case.id.split("-")[1]) for case in here if case.group == "protocols"}
        assert numbers | {1, 6, 17, 58, 112, 132} == set(range(256))
    assert {case.expected for case in ALL} == set(Expected) - {
        Expected.REJECT, Expected.NOT_ARRIVED,
    }  # fmt: skip


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.id)
def test_every_case_says_why_and_can_be_built(case):
    assert re.fullmatch(r"[a-z]+-[a-z0-9-]+-v[46]", case.id)
    assert case.description and case.reason and case.source
    assert case.expected not in case.also
    made = context(case.version)
    if case.lacks(made):
        assert case.lacks(made) == {Need.CLOSED}
        made = context(case.version, udp_port=3, sctp_port=4)
    identity = Identities("run", seed=5).next()
    frames = case.probe(made).frames(LINK, identity)
    assert frames and all(14 <= len(frame) <= 1514 for frame in frames)
    if case.counted and "fragments" not in case.id and "version" not in case.id:
        below = Ether(frames[0]).getlayer(IP if case.version == 4 else IPv6)
        if "ethertype" in case.id:
            assert below is None or below.version != case.version
        elif case.version == 4:
            assert below.id == identity.sequence
        else:
            assert below.fl == identity.flow_label


@BOTH
def test_what_a_context_lacks_is_left_out_and_named(version):
    bare = Context(version, **{k: ADDRESSES[version][k] for k in ("vip", "allowed", "denied")})
    lacking = missing(bare)
    assert f"udp-open-v{version}" in lacking
    assert lacking[f"udp-open-v{version}"] == {Need.UDP_LISTENER}
    assert lacking[f"vrrp-peer-v{version}"] == {Need.PEER, Need.OWN}
    assert not {case.id for case in cases(bare)} & set(lacking)
    assert sum(case.decisive for case in cases(bare)) >= 220
    full = context(version)
    assert missing(full)[f"udp-closed-53-v{version}"] == {Need.CLOSED}


def test_ids_are_not_given_twice():
    registry = Registry(4)
    registry.add("tcp", "x", "d", None, Expected.DROP, "r", "s")
    with pytest.raises(ValueError, match="tcp-x-v4"):
        registry.add("tcp", "x", "d", None, Expected.DROP, "r", "s")


def test_where_a_packet_is_lost_does_not_matter_whether_it_passes_does():
    (case,) = [case for case in ALL if case.id == "tcp-syn-closed-v4"]
    assert case.allowed == {Expected.DROP, Expected.BEFORE_FILTER}
    (case,) = [case for case in ALL if case.id == "tcp-syn-open-v4"]
    assert case.allowed == {Expected.ACCEPT}


def case_of(identifier):
    (found,) = [case for case in ALL if case.id == identifier]
    return found


def test_what_can_fail_is_told_from_what_cannot():
    assert case_of("tcp-syn-open-v4").decisive and case_of("tcp-syn-denied-v6").decisive
    # Either fate breaks no promise.
    assert not case_of("icmp-unreachable-1-v4").decisive
    # Neither counted nor answered.
    assert not case_of("link-ethertype-88cc-v4").decisive
    # Not counted, but an answer would show it.
    assert case_of("link-arp-stranger-v4").decisive
    # The kernel's drop and the filter's are both right; passing is not.
    assert case_of("addresses-from-broadcast-v4").decisive
    assert case_of("addresses-from-broadcast-narrow-v4").decisive


def test_few_frames_may_be_lost_before_they_are_counted():
    """Those are looked at by luck only; a firewall is judged by the others."""
    lost = [case for case in ALL if case.lost]
    assert len(lost) < 75 and all(case.counted for case in lost)
    # IPv4 leaves martians to the routing decision, behind the counters: their fate can be proved.
    assert not case_of("addresses-from-127-0-0-1-v4").lost
    assert case_of("addresses-from-1-v6").lost
    for version in (4, 6):
        judged = [c for c in ALL if c.version == version and c.decisive and not c.lost]
        assert len(judged) >= 450


@BOTH
def test_cases_about_the_peer_are_found_and_harmless(version):
    found = {case.id: case for case in peer_cases(context(version))}
    assert {f"vrrp-{name}-v{version}" for name in
            ("peer", "peer-ttl", "peer-vip", "peer-next", "peer-tcp")} == set(found)  # fmt: skip
    assert not peer_cases(context(version, peer=None))
    for case in found.values():
        probe = case.probe(context(version))
        # Nobody may answer for the peer: it is there.
        assert not probe.play
        frame = Ether(probe.frames(LINK, Identities("r", seed=1).next())[0])
        if Expected.ACCEPT in case.allowed:
            assert frame.lastlayer().priority == 1


def header(case, frame):
    """The packet as the policy knows it; None where it cannot (fragments, extension headers)."""
    found = Ether(frame)
    below = found.getlayer(IP if case.version == 4 else IPv6)
    if below is None or below.version != case.version:
        return None
    protocol = below.proto if case.version == 4 else below.nh
    if case.version == 6 and protocol in (0, 43, 44, 51, 60, 135, 139, 140):
        return None
    fields = {}
    upper = bytes(below.payload)
    if protocol in (6, 17, 132) and len(upper) >= 4:
        fields = {"sport": int.from_bytes(upper[:2], "big"),
                  "dport": int.from_bytes(upper[2:4], "big")}  # fmt: skip
    if protocol == 6 and TCP in found:
        fields["tcp_flags"] = int(found[TCP].flags) & 0xFF
    if protocol in (1, 58) and len(upper) >= 2:
        fields |= {"icmp_type": upper[0], "icmp_code": upper[1]}
    hop_limit = below.ttl if case.version == 4 else below.hlim
    return Packet("eth1", below.src, below.dst, protocol, hop_limit=hop_limit, **fields)


def listeners():
    return [
        {"name": "a", "protocol": "TCP", "protocol_port": 80,
         "allowed_cidrs": ["198.51.100.0/25", "2001:db8:1::/112"]},
        {"name": "b", "protocol": "TCP", "protocol_port": 82},
        {"name": "c", "protocol": "UDP", "protocol_port": 53},
        {"name": "d", "protocol": "SCTP", "protocol_port": 9},
    ]  # fmt: skip


def asked(version):
    """(case, packet, clause) for every case of which the policy can be asked."""
    made, identities = context(version), Identities("run", seed=5)
    policy = Policy.of(
        {"vip_address": made.vip}, listeners(), own=made.own, peers=[made.peer],
        subnets=[made.subnet],
    )  # fmt: skip
    for case in cases(made):
        frames = case.probe(made).frames(LINK, identities.next())
        packet = header(case, frames[0]) if len(frames) == 1 else None
        if packet is None:
            continue
        yield case, replace(packet, state=state(case, packet, made.flow)), policy


def state(case, packet, flow):
    """What conntrack takes a packet for that is what it says it is."""
    if packet.protocol == 58 and packet.icmp_type in (*range(130, 137), 143):
        return "untracked"
    if Need.FLOW not in case.needs:
        return "new"
    if packet.protocol != 6:
        return "related"
    same = (packet.source, packet.sport) == (flow.source, flow.port)
    return "established" if same else "new"


def at_odds(case, promise):
    """Whether the catalogue allows what the policy does not."""
    accept, refuse = Expected.ACCEPT in case.allowed, bool(case.allowed - {Expected.ACCEPT})
    return promise is Promise.REQUIRED and refuse or promise is Promise.FORBIDDEN and accept


@BOTH
def test_the_catalogue_is_of_one_mind_with_the_policy(version):
    compared = set()
    for case, packet, policy in asked(version):
        promise = policy.decide(packet).promise
        said = f"{case.id}: {packet} {promise.value} ({policy.explain(packet)}), " + (
            f"the catalogue allows {sorted(e.value for e in case.allowed)}"
        )
        if case.unseen:
            # A reason that explains nothing is none.
            assert at_odds(case, promise), f"{said}: what is unseen ({case.unseen})?"
        else:
            assert not at_odds(case, promise), said
            compared.add(case.id)
    assert len(compared) > 500
    decidable = pick(
        version,
        {"addresses-from-broadcast", "addresses-from-broadcast-narrow"},
        {"addresses-from-fd00-1-narrow", "icmp-solicitation"},
    ) | {"tcp-stray-denied-sa", "tcp-stray-closed-fpu", "addresses-to-own-denied"}
    assert {f"{name}-v{version}" for name in decidable} <= compared


def test_no_solicitation_leads_later_answers_astray():
    """A station learns the sender's MAC from it: any other than the vantage's is where the answers
    to all that follows would go."""
    identities, told = Identities("r", seed=1), {}
    for case in cases(context(6)):
        frame = Ether(case.probe(context(6)).frames(LINK, identities.next())[0])
        if ICMPv6NDOptSrcLLAddr in frame:
            told[case.id] = frame[ICMPv6NDOptSrcLLAddr].lladdr
    assert "icmp-solicitation-v6" in told and set(told.values()) == {LINK.source}, told


def test_fragments_put_together_are_the_packet_they_are_pieces_of():
    made = context(4)
    (case,) = [case for case in cases(made) if case.id == "ip-fragments-tiny-v4"]
    probe, identity = case.probe(made), Identities("r", seed=1).next()
    pieces = [Ether(frame)[IP] for frame in probe.frames(LINK, identity)]
    assert [(p.frag, int(p.flags)) for p in pieces] == [(0, 1), (1, 0)]
    assert len(bytes(pieces[0].payload)) == 8
    together = b"".join(bytes(piece.payload) for piece in pieces)
    whole = Ether(probe.questions(LINK, identity)[0])
    assert together == bytes(whole[TCP])
    again = whole.copy()
    del again[TCP].chksum
    assert bytes(again) == bytes(whole)


def test_datagrams_carry_their_tag():
    made = context(4)
    (case,) = [case for case in cases(made) if case.id == "udp-open-v4"]
    identity = Identities("r", seed=1).next()
    frame = Ether(case.probe(made).frames(LINK, identity)[0])
    assert frame[UDP].payload.getlayer(Raw).load.startswith(b"SLB1") or identity.tag in bytes(frame)


def test_icmp_messages_carry_the_identifier_of_their_frame():
    made = context(4)
    probes = [case.probe(made) for case in cases(made) if case.id.startswith("icmp-type-8")]
    identities = Identities("r", seed=3)
    for probe in probes:
        one = identities.next()
        (frame,) = probe.frames(LINK, one)
        seen = Ether(frame)[ICMP]
        assert (seen.id, seen.seq) == (one.port, one.sequence)
        again = seen.copy()
        del again.chksum
        assert bytes(again) == bytes(seen)
    assert probes
