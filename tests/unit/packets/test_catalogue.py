# SPDX-License-Identifier: Apache-2.0
"""The catalogue as data: complete, unambiguous, and of one mind with the policy."""

import re

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
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
)
from sriov_lb_tests.packets.catalogue.case import Registry
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
        assert len(here) >= 220
        groups = {case.group for case in here}
        assert groups == {
            "tcp", "udp", "sctp", "icmp", "ip", "addresses", "protocols", "vrrp", "tunnels", "link",
        }  # fmt: skip
        numbers = {int(case.id.split("-")[1]) for case in here if case.group == "protocols"}
        assert numbers | {1, 6, 17, 58, 112, 132} == set(range(256))
    assert {case.expected for case in ALL} == set(Expected) - {Expected.REJECT}


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
    assert len(cases(bare)) >= 220
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


def header(case, frame):
    """The packet as the policy knows it; None where it cannot (fragments, extension headers)."""
    found = Ether(frame)
    below = found[IP] if IP in found else found[IPv6] if IPv6 in found else None
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


#: Cases whose point is something headers do not show: damage, state, pieces, a live connection.
UNSEEN = re.compile(
    r"-flow-|checksum|truncated|offset|length|version|fragments|option|header-(4|15)|"
    r"stray|reserved|ttl-0|hop-limit|ethertype|(other|broadcast)-mac|vlan|sctp-[^i]|sctp-init-(ack|with)|"
    r"solicitation-|unreachable-(empty|half)|narrow|other-family|addresses-to-|from-broadcast"
)


@BOTH
def test_the_catalogue_is_of_one_mind_with_the_policy(version):
    made = context(version)
    lb = {"vip_address": made.vip}
    listeners = [
        {"name": "a", "protocol": "TCP", "protocol_port": 80,
         "allowed_cidrs": ["198.51.100.0/25", "2001:db8:1::/112"]},
        {"name": "b", "protocol": "TCP", "protocol_port": 82},
        {"name": "c", "protocol": "UDP", "protocol_port": 53},
        {"name": "d", "protocol": "SCTP", "protocol_port": 9},
    ]  # fmt: skip
    policy = Policy.of(lb, listeners, own=made.own, peers=[made.peer])
    identities, compared = Identities("run", seed=5), 0
    for case in cases(made):
        if UNSEEN.search(case.id):
            continue
        frames = case.probe(made).frames(LINK, identities.next())
        packet = header(case, frames[0]) if len(frames) == 1 else None
        if packet is None:
            continue
        untracked = packet.protocol == 58 and packet.icmp_type in (*range(130, 137), 143)
        if untracked:
            packet = Packet(**{**packet.__dict__, "state": "untracked"})
        promise = policy.decide(packet).promise
        accept = Expected.ACCEPT in case.allowed
        refuse = bool(case.allowed - {Expected.ACCEPT})
        said = f"{case.id}: {packet} {promise.value} ({policy.explain(packet)}), " + (
            f"the catalogue allows {sorted(e.value for e in case.allowed)}"
        )
        if promise is Promise.REQUIRED:
            assert accept and not refuse, said
        elif promise is Promise.FORBIDDEN:
            assert not accept, said
        compared += 1
    assert compared > 300


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
