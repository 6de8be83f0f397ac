# SPDX-License-Identifier: Apache-2.0
"""The policy, clause by clause: what has to pass, what may not, and what nobody was promised."""

import pytest

from sriov_lb_tests import errors
from sriov_lb_tests.policy.model import Policy, Promise
from sriov_lb_tests.policy.packet import ACK, FIN, ICMP, ICMPV6, SYN, TCP, UDP, VRRP, Packet

VIP, VIP6, EXTRA = "198.51.100.20", "2001:db8:1::20", "198.51.100.21"
OWN, PEER, PEER6 = "198.51.100.30", "198.51.100.31", "2001:db8:1::31"
LB = {
    "vip_address": VIP,
    "additional_vips": [{"ip_address": VIP6}, {"ip_address": EXTRA}],
    "admin_state_up": True,
}
R, T, F = Promise.REQUIRED, Promise.TOLERATED, Promise.FORBIDDEN


def listener(port=80, protocol="HTTP", **more):
    return {"name": f"l{port}", "protocol": protocol, "protocol_port": port, **more}


def policy(*listeners, lb=LB, **options):
    return Policy.of(lb, listeners, **options)


def packet(source="203.0.113.9", destination=VIP, protocol=TCP, dport=80, **more):
    more.setdefault("interface", "eth1")
    return Packet(source=source, destination=destination, protocol=protocol, dport=dport, **more)


def promise(of, *arguments, **more):
    return of.decide(packet(*arguments, **more)).promise


OPEN = policy(listener())
NARROW = policy(listener(allowed_cidrs=["203.0.113.0/24", "2001:db8:5::/48"]))


@pytest.mark.parametrize(
    ("expected", "of", "fields"),
    [
        # the promise itself
        (R, OPEN, {}),
        (R, OPEN, {"destination": EXTRA}),
        (R, OPEN, {"source": "2001:db8:9::1", "destination": VIP6}),
        (F, OPEN, {"dport": 81}),
        (F, OPEN, {"protocol": UDP}),
        (F, OPEN, {"dport": 22}),
        (F, OPEN, {"dport": 9443}),
        # CIDRs: any of either family closes everything else, of both families
        (R, NARROW, {}),
        (F, NARROW, {"source": "203.0.114.0"}),
        (R, NARROW, {"source": "2001:db8:5::1", "destination": VIP6}),
        (F, NARROW, {"source": "2001:db8:6::1", "destination": VIP6}),
        (F, policy(listener(allowed_cidrs=["0.0.0.0/0"])), {"source": "2001:db8::1",
                                                           "destination": VIP6}),
        (R, policy(listener(allowed_cidrs=["0.0.0.0/0"])), {}),
        (F, policy(listener(allowed_cidrs=["::/0"])), {}),
        # beyond the promise: nobody was promised that, and it harms nobody
        (T, OPEN, {"destination": OWN}),
        (T, OPEN, {"tcp_flags": ACK}),
        (T, OPEN, {"tcp_flags": SYN | FIN}),
        (T, OPEN, {"state": "invalid"}),
        (T, OPEN, {"source": "224.0.0.1"}),
        (T, OPEN, {"source": VIP}),
        # but not from the outside as this very host, nor from anywhere else
        (F, OPEN, {"source": "127.0.0.1"}),
        (F, OPEN, {"source": "::1", "destination": VIP6}),
        (F, NARROW, {"source": "203.0.114.0", "destination": OWN}),
        (F, NARROW, {"source": "203.0.114.0", "state": "invalid"}),
        # other interfaces serve nobody
        (F, OPEN, {"interface": "eth2"}),
        (T, OPEN, {"interface": "lo"}),
        # flows
        (R, OPEN, {"state": "established", "dport": 40000}),
        (R, OPEN, {"state": "established", "interface": "eth2"}),
        (T, OPEN, {"state": "established", "protocol": VRRP}),
        (R, OPEN, {"state": "related", "protocol": ICMP, "icmp_type": 3}),
        (T, OPEN, {"state": "related", "protocol": ICMP, "icmp_type": 5}),
        (T, policy(), {"state": "related", "protocol": ICMP, "icmp_type": 3}),
        # what a conntrack helper expects
        (F, OPEN, {"state": "related", "dport": 40000}),
        (F, OPEN, {"state": "related", "protocol": 47}),
        (F, OPEN, {"state": "related", "protocol": ICMP, "icmp_type": 8}),
        (T, policy(), {"state": "established"}),
        # ICMP
        (F, OPEN, {"protocol": ICMP, "icmp_type": 8}),
        (F, OPEN, {"protocol": ICMPV6, "icmp_type": 128, "source": "2001:db8::1",
                   "destination": VIP6}),
        (T, OPEN, {"protocol": ICMP, "icmp_type": 3}),
        (F, OPEN, {"protocol": ICMP, "icmp_type": 5}),
        # what every port lets in
        (T, OPEN, {"protocol": UDP, "sport": 67, "dport": 68}),
        (F, OPEN, {"protocol": UDP, "sport": 66, "dport": 68}),
        # what leaves: answers, and only of what was let in
        (R, OPEN, {"leaving": True, "source": VIP, "sport": 80, "state": "established"}),
        (R, NARROW, {"leaving": True, "source": VIP6, "destination": "2001:db8:5::1", "sport": 80,
                     "state": "established"}),
        (T, OPEN, {"leaving": True, "source": VIP, "sport": 81, "state": "established"}),
        (T, OPEN, {"leaving": True, "source": VIP, "sport": 80}),
        (T, policy(), {"leaving": True, "source": VIP, "sport": 80, "state": "established"}),
        # everything else
        (F, OPEN, {"protocol": VRRP}),
        (F, OPEN, {"protocol": 47}),
        (F, policy(), {}),
    ],
)  # fmt: skip
def test_clauses(expected, of, fields):
    assert promise(of, **fields) is expected, of.explain(packet(**fields))


def test_neighbour_discovery_has_to_pass_and_router_advertisements_may():
    def discovery(kind, **more):
        return packet("fe80::9", VIP6, ICMPV6, 0, icmp_type=kind, hop_limit=255, **more)

    for of in (OPEN, policy()):
        for kind in (135, 136):
            assert of.decide(discovery(kind, state="untracked")).promise is R
            assert of.decide(discovery(kind, state="untracked", interface="eth2")).promise is R
            assert of.decide(discovery(kind, state="invalid")).promise is T
        assert of.decide(discovery(134, state="untracked")).promise is T
        assert of.decide(discovery(137, state="new")).promise is F
    unspecified = packet("::", "ff02::1:ff00:20", ICMPV6, 0, icmp_type=135, hop_limit=255,
                         state="untracked")  # fmt: skip
    assert OPEN.decide(unspecified).promise is R


@pytest.mark.parametrize(
    "changes",
    [
        {"admin_state_up": False},
        {"provisioning_status": "ERROR"},
        {"provisioning_status": "PENDING_UPDATE"},
        {"provisioning_status": "PENDING_DELETE"},
    ],
)
def test_a_listener_that_is_not_served_is_not_promised_and_stays_closed_to_others(changes):
    of = policy(listener(allowed_cidrs=["203.0.113.0/24"], **changes))
    assert promise(of) is T
    assert promise(of, "203.0.114.1") is F
    assert promise(of, dport=81) is F


def test_a_load_balancer_that_is_down_promises_nothing():
    of = policy(listener(), lb={**LB, "admin_state_up": False})
    assert promise(of) is T
    assert promise(of, dport=81) is F


def test_a_deleted_listener_is_no_listener():
    assert promise(policy(listener(provisioning_status="DELETED"))) is F


def test_a_pair_needs_vrrp_from_each_other_and_from_nobody_else():
    of = policy(listener(), own=OWN, peers=[PEER])
    assert promise(of, PEER, OWN, VRRP, 0) is R
    assert promise(of, PEER, OWN, VRRP, 0, state="established") is R
    assert promise(of, PEER, VIP, VRRP, 0) is T
    assert promise(of, "198.51.100.32", OWN, VRRP, 0) is F
    assert promise(of, PEER, OWN, VRRP, 0, interface="eth2") is F
    six = policy(listener(), own="2001:db8:1::30", peers=[PEER6])
    assert promise(six, PEER6, "2001:db8:1::30", VRRP, 0) is R


def test_a_pair_needs_no_authentication_header():
    of = policy(listener(), own=OWN, peers=[PEER])
    assert promise(of, PEER, OWN, 51, 0) is F


def test_dhcp_answers_of_the_other_ip_version_are_a_leniency_and_say_so():
    def decides(*arguments, **more):
        return OPEN.decide(packet(*arguments, protocol=UDP, **more))

    six = ("2001:db8:1::9", VIP6)
    own = [decides(sport=67, dport=68), decides(*six, sport=547, dport=546)]
    other = [decides(*six, sport=67, dport=68), decides(sport=547, dport=546)]
    assert {clause.promise for clause in (*own, *other)} == {T}
    assert {clause.name for clause in own} == {"what every OpenStack port lets in"}
    (lenient,) = {clause.name: clause for clause in other}.values()
    assert "leniency" in lenient.reason and "per ethertype" in lenient.source


def test_nobody_is_promised_service_to_the_broadcast_address_of_the_vips_subnet():
    of = policy(listener(), subnets=["198.51.100.0/26", "203.0.113.8/31", "2001:db8:1::/64"])
    assert promise(of, "198.51.100.63") is T
    for source in ("198.51.100.62", "198.51.100.64", "203.0.113.9"):
        assert promise(of, source) is R
    assert promise(of, "2001:db8:1:0:ffff:ffff:ffff:ffff", VIP6) is R
    assert promise(OPEN, "198.51.100.63") is R, "the subnet is not known"


def test_stick_tables_are_promised_with_the_persistence_that_needs_them():
    sticky = {"session_persistence": {"type": "SOURCE_IP"}}
    cookie = {"session_persistence": {"type": "HTTP_COOKIE"}}
    for pools, expected in (([sticky], R), ([cookie], T), ([{"session_persistence": None}], T)):
        of = policy(listener(), own=OWN, peers=[PEER], pools=pools)
        assert promise(of, PEER, OWN, TCP, 1025) is expected
        assert promise(of, "198.51.100.99", OWN, TCP, 1025) is F


def test_metrics_come_over_the_loopback():
    of = policy(listener(9100, "PROMETHEUS"))
    assert promise(of, "127.0.0.1", "127.0.0.1", TCP, 9102, interface="lo") is R
    assert promise(OPEN, "127.0.0.1", "127.0.0.1", TCP, 9102, interface="lo") is T


@pytest.mark.parametrize(
    ("protocol", "number"),
    [("TCP", 6), ("HTTPS", 6), ("TERMINATED_HTTPS", 6), ("PROXY", 6), ("PROXYV2", 6), ("UDP", 17),
     ("SCTP", 132)],
)  # fmt: skip
def test_protocols(protocol, number):
    of = policy(listener(protocol=protocol))
    assert promise(of, protocol=number) is R
    assert promise(of, protocol={6: 17, 17: 132, 132: 6}[number]) is F


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"name": "x", "protocol": "QUIC", "protocol_port": 1}, "protocol 'QUIC'"),
        ({"name": "x", "protocol": "TCP", "protocol_port": 0}, "protocol_port 0"),
        ({"name": "x", "protocol": "TCP", "protocol_port": "80"}, "protocol_port '80'"),
        ({"name": "x", "protocol": "TCP"}, "no 'protocol_port'"),
        ({"name": "x", "protocol": "TCP", "protocol_port": 1, "allowed_cidrs": ["a/8"]}, "CIDR"),
        ({"name": "x", "protocol": "TCP", "protocol_port": 1, "allowed_cidrs": ["1.2.3.4/33"]},
         "CIDR"),
    ],
)  # fmt: skip
def test_listeners_that_cannot_be_read_are_named(entry, words):
    with pytest.raises(errors.UnknownListener, match=words) as caught:
        policy(entry)
    assert "x" in caught.value.message


def test_explanations():
    assert "203.0.114.1 is not in there" in NARROW.explain(packet("203.0.114.1"))
    assert "203.0.113.0/24, 2001:db8:5::/48" in NARROW.explain(packet("203.0.114.1"))
    assert "no listener is on TCP port 22" in OPEN.explain(packet(dport=22))
    assert "on eth2" in OPEN.explain(packet(interface="eth2", dport=22))
    assert OPEN.explain(packet()).startswith("listener l80: HTTP listener on port 80")
