# SPDX-License-Identifier: Apache-2.0
"""What keepalived of an amphora is told, and advertisements that its pair would believe."""

import dataclasses

import pytest
from scapy.layers.inet import IP
from scapy.layers.vrrp import VRRP, VRRPv3
from scapy.utils import checksum

from sriov_lb_tests import errors
from sriov_lb_tests.packets.probe import Identity, Link
from sriov_lb_tests.tests.pair.election import Election, advertisement

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
    from scapy.layers.l2 import Ether

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


def test_and_a_foreign_one_is_about_nobody_here():
    own = Election.parse(TEXT)
    vrrp = sent(own.foreign())[VRRP]
    assert vrrp.vrid not in (0, 7) and vrrp.authtype == 0 and bytes(vrrp)[-8:] == bytes(8)
    last = dataclasses.replace(own, router=255)
    assert last.foreign().router == 1


def test_over_ipv6_it_is_version_3_without_a_secret():
    text = TEXT.replace("198.51.100.20\n", "2001:db8::21\n").replace("198.51.100.21/32", "::2/128")
    vrrp = sent(Election.parse(text), "2001:db8::30", "2001:db8::10")[VRRPv3]
    assert vrrp.version == 3 and vrrp.adv == 100 and vrrp.ipcount == 2
