# SPDX-License-Identifier: Apache-2.0
"""The promise for every port, against asking port by port."""

import dataclasses

import pytest

from sriov_lb_tests.policy.intervals import contains
from sriov_lb_tests.policy.model import Policy, Promise
from sriov_lb_tests.policy.packet import TCP, UDP, Packet
from sriov_lb_tests.policy.ports import by_port

VIP = "198.51.100.20"
POLICY = Policy.of(
    {"vip_address": VIP},
    [
        {"name": "web", "protocol": "HTTP", "protocol_port": 80},
        {"name": "few", "protocol": "TCP", "protocol_port": 81, "allowed_cidrs": ["10.0.0.0/8"]},
        {"name": "off", "protocol": "TCP", "protocol_port": 90, "admin_state_up": False},
        {"name": "dns", "protocol": "UDP", "protocol_port": 53},
    ],
    own="198.51.100.30",
    peers=["198.51.100.31"],
)


@pytest.mark.parametrize("source", ["10.1.2.3", "203.0.113.9", "198.51.100.31"])
@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_each_port_has_the_promise_that_it_has_alone(source, protocol):
    packet = Packet("eth1", source, VIP, protocol, sport=40000, state="new")
    found = by_port(POLICY, packet)
    for port in [*range(0, 120), 546, 1024, 1025, 1026, 9443, 65534, 65535]:
        alone = POLICY.decide(dataclasses.replace(packet, dport=port)).promise
        assert [p for p in Promise if contains(found[p], port)] == [alone]
    assert sum(high - low + 1 for one in found.values() for low, high in one) == 65536


def test_in_words():
    packet = Packet("eth1", "203.0.113.9", VIP, TCP, sport=40000, state="new")
    assert by_port(POLICY, packet)[Promise.REQUIRED] == ((80, 80),)
    packet = dataclasses.replace(packet, source="10.1.2.3")
    assert by_port(POLICY, packet)[Promise.REQUIRED] == ((80, 81),)
    assert by_port(POLICY, packet)[Promise.TOLERATED] == ((90, 90),)
