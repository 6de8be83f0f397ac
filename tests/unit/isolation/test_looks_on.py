# SPDX-License-Identifier: Apache-2.0
"""ISO-001, ISO-002, ISO-003, ISO-008: what one look cannot tell, or knows, hides no other."""

import contextlib
import ipaddress
from types import SimpleNamespace

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from sriov_lb_tests.tests.isolation import test_isolation
from sriov_lb_tests.tests.isolation.place import Inside
from sriov_lb_tests.tests.isolation.reading import Reading
from sriov_lb_tests.verdicts.model import Broken, Inconclusive
from sriov_lb_tests.wire.capture import Frame
from sriov_lb_tests.wire.host import Interface

CLIENT, MEMBER, VIP = "203.0.113.41", "198.51.100.110", "203.0.113.9"


def interface(name, mac, *addresses):
    return Interface(name, 2, mac, 1500, True, tuple(map(ipaddress.ip_interface, addresses)))


def amphora(number, status):
    mgmt = f"198.18.0.{number}"
    host = SimpleNamespace(
        run=lambda argv, **_options: SimpleNamespace(status=status, stderr="refused"),
        interfaces=lambda: {"ens2": interface("ens2", f"02:00:00:00:03:0{number}", f"{mgmt}/24")},
    )
    return Inside(
        amphora=None, host=host, mgmt=mgmt, base=f"203.0.113.{number}",
        vip_side=interface("eth1", f"02:00:00:00:01:0{number}", f"203.0.113.{number}/24"),
        member_side=interface("eth2", f"02:00:00:00:02:0{number}", f"198.51.100.{number}/24"),
        ports=(22,), udp_ports=(),
    )  # fmt: skip


def frame(source, destination):
    data = bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
                 / IP(src=source, dst=destination) / TCP())  # fmt: skip
    return Frame(0, 0, len(data), data)


@pytest.fixture
def test(monkeypatch, tmp_path):
    """A test of isolation whose ``silence`` says what ``says`` has for an amphora's address, and on
    whose management interfaces ``arrives`` comes in."""
    one = test_isolation.TestIsolation("test_management_address")
    one.seen, one._evidence, one.folder = {}, [], tmp_path
    one.status, one.says, one.arrives, one.looked = 0, {}, {}, []
    vantage = SimpleNamespace(interface=SimpleNamespace(mac="02:00:00:00:00:01"), next_hop=None)
    one.hosts = SimpleNamespace(
        client=SimpleNamespace(allowed=lambda version: CLIENT),
        member=SimpleNamespace(addresses=lambda role, version: [MEMBER]),
        vip_side=vantage, member_side=vantage,
    )  # fmt: skip

    def listening(inside, name, netns):
        ours = [frame("198.18.0.99", inside.mgmt)]
        captured = SimpleNamespace(frames=one.arrives.get(inside.base, ours))
        return SimpleNamespace(capture=lambda match: contextlib.nullcontext(captured))

    one.place = SimpleNamespace(versions=(4,), vip=lambda version: VIP, listening=listening)

    def silence(what, vantage, inside, interface, questions, *, refusing=()):
        one.looked.append(inside.base)
        return one.says.get(inside.base, Reading(note="42 probes"))

    monkeypatch.setattr(one, "silence", silence)
    monkeypatch.setattr(one, "amphorae", lambda: (amphora(1, one.status), amphora(2, one.status)))
    return one


FIRST, SECOND = "203.0.113.1", "203.0.113.2"
LOST = Reading(unclear="one control of 40 was lost")
LOOKS = {
    "management": lambda test: test.management_hidden("VIP"),
    "management, members": lambda test: test.management_hidden("member"),
    "services": lambda test: test.services_hidden(4),
    "services, members": lambda test: test.services_hidden_from_members(4),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_both_amphorae_are_looked_at_and_what_each_has_is_told(test, look):
    look(test)
    assert test.looked == [FIRST, SECOND]
    test.says = {FIRST: LOST}
    with pytest.raises(Inconclusive, match="one control of 40"):
        look(test)
    test.says[SECOND] = Reading(broken="the second was broken")
    with pytest.raises(Broken, match="the second was broken"):
        look(test)
    test.says[FIRST] = Reading(broken="a known one")
    with pytest.raises(Broken) as caught:
        look(test)
    assert list(caught.value.findings) == ["a known one", "the second was broken"]


@pytest.mark.parametrize("side", ["VIP", "member"])
def test_what_arrived_on_the_management_interface_is_told_whatever_control_was_lost(test, side):
    source = {"VIP": CLIENT, "member": MEMBER}[side]
    test.says, test.status = {FIRST: LOST, SECOND: LOST}, 1
    test.arrives = {base: [frame(source, "198.18.0.1")] for base in (FIRST, SECOND)}
    with pytest.raises(Broken, match="1 frames of the sender arrived on ens2") as caught:
        test.management_hidden(side)
    assert len(caught.value.findings) == 2


def test_a_deaf_capture_or_a_dead_agent_proves_nothing(test):
    test.arrives = {SECOND: []}
    with pytest.raises(Inconclusive, match="did not even see our ssh"):
        test.management_hidden("VIP")
    test.status = 1
    with pytest.raises(Inconclusive, match="sshd or agent of 198.18.0.1 do not answer: refused"):
        test.management_hidden("VIP")


def test_without_the_ip_version_it_is_skipped(test):
    test.place.versions = (6,)
    with pytest.raises(test.skipException, match="is IPv4, of which"):
        test.management_hidden("VIP")
