# SPDX-License-Identifier: Apache-2.0
"""ISO-009: what is concluded from looks from the management network."""

import ipaddress
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from sriov_lb_tests.amphora import Stage
from sriov_lb_tests.packets.probe import Identity, Link
from sriov_lb_tests.tests.isolation import test_management
from sriov_lb_tests.tests.isolation.place import Inside
from sriov_lb_tests.verdicts.model import Broken, Inconclusive
from sriov_lb_tests.wire.capture import Frame
from sriov_lb_tests.wire.exchange import Verdict
from sriov_lb_tests.wire.host import Interface

VIP, CLIENT, MEMBER = "203.0.113.9", "203.0.113.41", "198.51.100.110"
LINK, WHO = Link("02:00:00:00:03:02", "02:00:00:00:03:01"), Identity(1, 2, 3, 30000)


def interface(name, mac, *addresses):
    return Interface(name, 2, mac, 1500, True, tuple(map(ipaddress.ip_interface, addresses)))


def amphora(number, open_now="22\n"):
    mgmt = f"198.18.0.{number}"
    host = SimpleNamespace(
        run=lambda argv, **_options: SimpleNamespace(stdout=open_now),
        interfaces=lambda: {"ens2": interface("ens2", f"02:00:00:00:03:0{number}", f"{mgmt}/24")},
    )
    return Inside(
        amphora=None, host=host, mgmt=mgmt, base=f"203.0.113.{number}",
        vip_side=interface("eth1", f"02:00:00:00:01:0{number}", f"203.0.113.{number}/24"),
        member_side=interface("eth2", f"02:00:00:00:02:0{number}", f"198.51.100.{number}/24"),
        ports=(), udp_ports=(),
    )  # fmt: skip


class Sender:
    """The other amphora's management interface: nobody answers what it sends."""

    def __init__(self):
        self.interface, self.next_hop, self.asked = SimpleNamespace(mac="02:00:00:00:03:02"), "", []

    def ask_all(self, questions):
        self.asked.append((self.next_hop, questions))
        return [
            SimpleNamespace(probe=probe, identities=(WHO,), answers=(), pcap=None,
                            verdict=Verdict.DROPPED)
            for probe, _ in questions
        ]  # fmt: skip


@pytest.fixture
def test(monkeypatch, tmp_path):
    one = test_management.TestManagementSide("test_nothing_goes_through_from_the_management_side")
    one.seen, one.involved, one._evidence, one.folder = {}, {}, [], tmp_path
    one.arrived, one.leaks, one.deaf, one.ours = True, [], False, False
    sender = Sender()
    one.place = SimpleNamespace(
        what="isolation", lb=None, versions=(4,), vip=lambda version: VIP,
        amphorae=(amphora(1), amphora(2)), listening=lambda *a, **k: sender,
    )  # fmt: skip
    one.hosts = SimpleNamespace(
        client=SimpleNamespace(allowed=lambda version: CLIENT),
        member=SimpleNamespace(addresses=lambda role, version: [MEMBER]),
    )
    one.stage = SimpleNamespace(site=SimpleNamespace(member_net=SimpleNamespace(subnets={4: None})))
    one.sender = sender

    class Counts:
        def of(self, identity, version):
            return {stage: int(one.arrived and stage is Stage.ARRIVED) for stage in Stage}

    @contextmanager
    def counting(mac):
        yield Counts()

    @contextmanager
    def watched(inside, version):
        ends = {"src": inside.member_side.mac, "dst": LINK.source}
        if one.ours:
            ends = {"src": ends["dst"], "dst": ends["src"]}
        own = Ether(**ends) / IP() / TCP()
        frames = [] if one.deaf else [Frame(0, 0, 60, bytes(own))]
        yield {
            "the member": (inside.member_side.mac, SimpleNamespace(frames=frames + one.leaks))
        }

    monkeypatch.setattr(
        test_management, "Amphora", lambda host, netns: SimpleNamespace(counting=counting)
    )
    monkeypatch.setattr(one, "watched", watched)
    return one


def look(test):
    test.test_nothing_goes_through_from_the_management_side.__wrapped__(test)


def test_nothing_that_comes_out_is_right_and_both_amphorae_are_asked(test):
    look(test)
    assert [hop for hop, _ in test.sender.asked] == ["198.18.0.1", "198.18.0.2"]
    _, questions = test.sender.asked[0]
    assert {probe.destination for probe, _ in questions} == {
        VIP, "203.0.113.1", "198.51.100.1", CLIENT, MEMBER
    }  # fmt: skip
    assert {probe.source for probe, _ in questions} == {"198.18.0.2"}
    # The control is sshd at the management address: the same MAC, and an answer.
    assert {(c.destination, c.port) for _, c in questions} == {("198.18.0.1", 22)}


def test_what_comes_out_on_the_other_side_is_a_failure(test):
    probe = test_management.tcp_syn(MEMBER, 22, source="198.18.0.2")
    test.leaks = [Frame(0, 0, 60, frame) for frame in probe.frames(LINK, WHO)]
    with pytest.raises(Broken, match=f"arrived at the member as .* > {MEMBER}:ssh"):
        look(test)


def test_what_never_came_to_the_amphora_proves_nothing(test):
    test.arrived = False
    with pytest.raises(Inconclusive, match="security group of its management port"):
        look(test)


def test_a_capture_that_saw_nothing_of_the_amphora_proves_nothing(test):
    test.deaf = True
    with pytest.raises(Inconclusive, match="the capture at the member did not see"):
        look(test)


def test_our_own_frames_to_the_amphora_are_not_its_own(test):
    test.ours = True
    with pytest.raises(Inconclusive, match="the capture at the member did not see"):
        look(test)


def test_a_listener_at_the_management_address_is_a_failure(test):
    test.place.amphorae = (amphora(1), amphora(2, "22\n80\n"))
    with pytest.raises(Broken, match="serves port 80 at the management address 198.18.0.2"):
        look(test)
    test.place.amphorae = (amphora(1, ""), amphora(2))
    with pytest.raises(Inconclusive, match="sshd does not answer at 198.18.0.1 itself"):
        look(test)


def test_without_the_ip_version_there_is_nothing_to_look_at(test):
    test.place.versions = (6,)
    with pytest.raises(Inconclusive, match="have no IPv4"):
        look(test)
