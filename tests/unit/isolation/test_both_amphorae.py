# SPDX-License-Identifier: Apache-2.0
"""ISO-004 and ISO-005: what either amphora of a pair forwards counts."""

import ipaddress
from types import SimpleNamespace

import pytest

from sriov_lb_tests.tests.isolation import test_isolation
from sriov_lb_tests.tests.isolation.place import Inside
from sriov_lb_tests.tests.isolation.reading import Reading
from sriov_lb_tests.verdicts import defects
from sriov_lb_tests.verdicts.model import Broken, Inconclusive
from sriov_lb_tests.wire.host import Interface


def interface(name, mac, *addresses):
    return Interface(name, 2, mac, 1500, True, tuple(map(ipaddress.ip_interface, addresses)))


def amphora(number, *vips):
    """One of a pair; the standby has no IPv6 address on the VIP network but a link-local one."""
    return Inside(
        amphora=None, host=None, mgmt=f"198.18.0.{number}", base=f"203.0.113.{number}",
        vip_side=interface("eth1", f"02:00:00:00:01:0{number}", f"203.0.113.{number}/24",
                           f"fe80::{number}/64", *vips),
        member_side=interface("eth2", f"02:00:00:00:02:0{number}", f"198.51.100.{number}/24",
                              f"2001:db8:100::{number}/64"),
        ports=(), udp_ports=(),
    )  # fmt: skip


HOLDER, PEER = amphora(1, "203.0.113.9/32", "2001:db8:113::9/128"), amphora(2)
VIPS = {4: "203.0.113.9", 6: "2001:db8:113::9"}


@pytest.fixture
def test(monkeypatch):
    """A test of isolation whose ``carried`` notes the way, and reads what ``says`` has."""
    one = test_isolation.TestIsolation("test_forwarding_to_the_member_network_ipv4")
    one.seen, one.ways, one.says = {}, [], {}
    client = SimpleNamespace(allowed=lambda version: {4: "203.0.113.41", 6: "2001:db8:113::41"}[
        version])  # fmt: skip
    member = SimpleNamespace(addresses=lambda role, version: [
        {4: "198.51.100.110", 6: "2001:db8:100::110"}[version]])  # fmt: skip
    one.hosts = SimpleNamespace(
        client=client, member=member,
        vip_side=SimpleNamespace(next_hop=None), member_side=SimpleNamespace(next_hop=None),
    )  # fmt: skip
    one.place = SimpleNamespace(vip=VIPS.get)
    monkeypatch.setattr(one, "amphorae", lambda: (HOLDER, PEER))

    def carried(what, sender, far, inside, side, probes, control, came):
        one.ways.append((what, sender.next_hop, inside, side))
        return one.says.get(inside.base, Reading(note="0 of 4"))

    monkeypatch.setattr(one, "carried", carried)
    return one


def hops(test):
    return [hop for _, hop, _, _ in test.ways]


@pytest.mark.parametrize(("version", "standby"), [(4, "203.0.113.2"), (6, "fe80::2")])
def test_members_are_looked_at_behind_both(test, version, standby):
    test.not_forwarded_to_members(version)
    assert hops(test) == [VIPS[version], standby]
    assert [side for *_, side in test.ways] == [HOLDER.vip_side, PEER.vip_side]


@pytest.mark.parametrize(("version", "net"), [(4, "198.51.100."), (6, "2001:db8:100::")])
def test_clients_are_looked_at_behind_both(test, version, net):
    test.not_forwarded_to_clients(version)
    assert hops(test) == [f"{net}1", f"{net}2"]
    assert [side for *_, side in test.ways] == [HOLDER.member_side, PEER.member_side]


FORWARDED = "TCP SYN to 198.51.100.110:22 was forwarded, and arrived at m ens4 as x. Forwarded: x."


@pytest.mark.parametrize("which", ["not_forwarded_to_members", "not_forwarded_to_clients"])
def test_what_the_standby_alone_forwards_fails_and_has_its_name(test, which):
    getattr(test, which)(4)
    what = next(name for name, _, inside, _ in test.ways if inside is PEER)
    test.says[PEER.base] = Reading(broken=f"{what}: {FORWARDED}")
    with pytest.raises(Broken, match="by its peer, from the ") as caught:
        getattr(test, which)(4)
    found = defects.load().judge("ISO-004", caught.value.findings, {}, "16.0.0")
    assert found.known and found.ids == "OCTAVIA-AMPHORA-FORWARDS"


def test_a_known_finding_of_one_hides_no_other(test):
    test.says = {HOLDER.base: Reading(broken="one"), PEER.base: Reading(broken="two")}
    with pytest.raises(Broken) as caught:
        test.not_forwarded_to_members(4)
    assert caught.value.findings == ("one", "two")


def test_one_of_which_nothing_is_known_is_inconclusive_and_no_failure_is_lost_for_it(test):
    test.says = {PEER.base: Reading(unclear="it never came")}
    with pytest.raises(Inconclusive, match="never came"):
        test.not_forwarded_to_members(4)
    test.says[HOLDER.base] = Reading(broken="one")
    with pytest.raises(Broken):
        test.not_forwarded_to_members(4)
    assert "it never came" in str(test.seen)


def test_a_single_amphora_is_called_so(test, monkeypatch):
    monkeypatch.setattr(test, "amphorae", lambda: (HOLDER,))
    test.not_forwarded_to_members(4, " behind a normal port")
    assert [what for what, *_ in test.ways] == [
        "by the amphora, from the VIP network to the member network behind a normal port, IPv4"
    ]
