# SPDX-License-Identifier: Apache-2.0
"""What keepalived of an amphora is told, and advertisements that its pair would believe."""

import dataclasses

import pytest
from scapy.layers.inet import IP
from scapy.layers.l2 import Ether
from scapy.layers.vrrp import VRRP, VRRPv3
from scapy.utils import checksum

from sriov_lb_tests import errors
from sriov_lb_tests.packets.probe import Identity, Link
from sriov_lb_tests.tests.pair.election import HIGHEST, RESIGNS, Election, advertisement

#: As Octavia 16.0.0 renders it for a VIP of each IP version.
TEXT = """\
vrrp_script check_script {
    script /var/lib/octavia/vrrp/check_script.sh
    interval 5
    fall 2
    rise 2
}

vrrp_instance 5e2f {
    interface eth1
    virtual_router_id 7
    priority 100
    nopreempt
    accept
    garp_master_refresh 5
    garp_master_refresh_repeat 2
    advert_int 1
    authentication {
        auth_type PASS
        auth_pass a1b2c3d
    }

    unicast_src_ip 198.51.100.30
    unicast_peer {
        198.51.100.31
    }

    virtual_ipaddress {
        198.51.100.20
        198.51.100.21/32 dev eth1
    }

    virtual_ipaddress_excluded {
        2001:db8::20
    }
}
"""
LINK, WHO = Link("02:00:00:00:00:01", "02:00:00:00:00:02"), Identity(1, 2, 3, 30000)


def sent(election, destination="198.51.100.30", source="198.51.100.10"):
    probe = advertisement(destination, source, election)
    assert not probe.play and not probe.expects_answer
    (frame,) = probe.frames(LINK, WHO)
    return Ether(frame)


def test_what_an_amphora_is_told():
    found = Election.parse(TEXT)
    assert found == Election(7, 100, 1, "a1b2c3d", ("198.51.100.20", "198.51.100.21"))
    assert found.seconds == pytest.approx(3.609, abs=0.001)
    assert "a1b2c3d" not in repr(found), "no secret in evidence"


def test_a_configuration_that_does_not_say_it_is_no_control():
    with pytest.raises(errors.ControlFailed, match="virtual_router_id"):
        Election.parse(TEXT.replace("virtual_router_id", "router"))
    with pytest.raises(errors.ControlFailed):
        Election.parse("")


def test_an_advertisement_is_as_the_pair_sends_them():
    packet = sent(Election.parse(TEXT))
    vrrp = packet[VRRP]
    assert (packet[IP].ttl, packet[IP].proto, vrrp.vrid, vrrp.priority) == (255, 112, 7, 255)
    assert (vrrp.authtype, vrrp.adv) == (1, 1)
    assert vrrp.addrlist == ["198.51.100.20", "198.51.100.21"]
    assert bytes(vrrp)[-8:] == b"a1b2c3d\0"
    assert checksum(bytes(vrrp)) == 0


def test_who_does_not_know_the_secret_says_none_or_a_wrong_one():
    own = Election.parse(TEXT)
    without, wrong = (sent(own.guess(words))[VRRP] for words in Election.GUESSES)
    true = sent(own)[VRRP]
    assert (without.authtype, bytes(without)[-8:]) == (0, bytes(8))
    # Right in all but the last letter, so that nothing else is a reason not to believe it.
    assert (wrong.authtype, bytes(wrong)[-8:]) == (1, b"a1b2c30\0")
    for one in (without, wrong):
        assert (one.vrid, one.priority, one.addrlist) == (7, 255, true.addrlist)
        assert checksum(bytes(one)) == 0
    ends = dataclasses.replace(own, secret="secret-0-and-more")
    assert ends.guess("with a wrong secret").secret == "secret-1"
    none = dataclasses.replace(own, secret="")
    assert [none.guess(words).secret for words in Election.GUESSES] == ["", "0"]


def test_a_master_that_resigns_has_the_lowest_priority():
    (frame,) = advertisement(
        "198.51.100.31", "198.51.100.30", Election.parse(TEXT), RESIGNS
    ).frames(LINK, WHO)
    assert Ether(frame)[VRRP].priority == 0


def test_advertisements_go_on_for_as_long_as_an_election_takes():
    own = Election.parse(TEXT)
    for priority in (HIGHEST, RESIGNS):
        moments = own.moments(priority)
        assert moments[0] == 0 and moments[-1] > own.seconds
    # The timer of a backup that believed a resignation ends before the next one, and, after one of
    # them at least, before the true master says that it is there, which it does once a second.
    moments, skew = own.moments(RESIGNS), (256 - own.priority) / 256
    assert min(b - a for a, b in zip(moments, moments[1:], strict=False)) > skew
    for phase in range(100):
        after = [(phase / 100 + at) % 1 for at in moments[:-1]]
        assert any(one + skew < 1 for one in after)


def test_over_ipv6_it_is_version_3_without_a_secret():
    text = TEXT.replace("198.51.100.20\n", "2001:db8::21\n").replace("198.51.100.21/32", "::2/128")
    vrrp = sent(Election.parse(text), "2001:db8::30", "2001:db8::10")[VRRPv3]
    assert vrrp.version == 3 and vrrp.adv == 100 and vrrp.ipcount == 2
