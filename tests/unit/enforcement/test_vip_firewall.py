# SPDX-License-Identifier: Apache-2.0
"""ENF-002, ENF-006, ENF-008: what is concluded when the listener does not answer, and when both
amphorae of a pair have something."""

import contextlib
from types import SimpleNamespace

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import ARP, Ether

from sriov_lb_tests import errors
from sriov_lb_tests.packets.probe import tcp_syn
from sriov_lb_tests.tests.enforcement import test_vip_firewall
from sriov_lb_tests.verdicts.model import Broken, Inconclusive
from sriov_lb_tests.wire.capture import Captured
from sriov_lb_tests.wire.fake import FakeHost
from sriov_lb_tests.wire.vantage import Vantage

VIP, MAC, CLIENT = "198.51.100.20", "02:00:00:00:00:02", "198.51.100.10"
INTERFACES = {
    "eth1": {
        "name": "eth1", "index": 2, "mac": "02:00:00:00:00:01", "mtu": 1500, "up": True,
        "addresses": [f"{CLIENT}/24"],
    }
}  # fmt: skip


class Amphora:
    """Answers ARP, and SYNs with ``flags``; either not where it is told so."""

    def __init__(self):
        self.alive, self.flags = True, ""

    def __call__(self, frame):
        asked = Ether(frame)
        if not self.alive:
            return []
        head = Ether(src=MAC, dst=asked.src)
        if ARP in asked:
            return [bytes(head / ARP(op=2, hwsrc=MAC, psrc=VIP, hwdst=asked.src, pdst=CLIENT))]
        if not self.flags or asked[TCP].flags.R:
            return []
        said = TCP(sport=asked[TCP].dport, dport=asked[TCP].sport, flags=self.flags,
                   ack=asked[TCP].seq + 1 & 0xFFFFFFFF)  # fmt: skip
        return [bytes(head / IP(src=VIP, dst=CLIENT) / said)]


@pytest.fixture
def test(tmp_path, monkeypatch):
    one = test_vip_firewall.TestVipFirewall("test_allowed_source_ipv4")
    one.seen, one._evidence, one.folder = {}, [], tmp_path
    one.amphora = Amphora()
    host = FakeHost(network=one.amphora, interfaces=INTERFACES)
    host.agent.neighbours[VIP] = MAC
    one.client = SimpleNamespace(
        vantage=Vantage(host, "eth1", artefacts=tmp_path / "wire", run_id="r"),
        allowed=lambda version: CLIENT,
    )
    one.listener = SimpleNamespace(port=80)
    one.scene = SimpleNamespace(
        client=one.client, vip=lambda version: VIP, members=[SimpleNamespace(name="m1")],
        syn=lambda version, listener, source: tcp_syn(VIP, 80, source=source),
    )  # fmt: skip
    wanted = SimpleNamespace(listener=lambda name: one.listener)
    guarded = SimpleNamespace(wanted=wanted, deployment=SimpleNamespace(lb=None))
    monkeypatch.setattr(one, "guarded", lambda: guarded)
    monkeypatch.setattr(one, "keep", lambda name, content: None)
    return one


def test_a_listener_that_drops_its_allowed_source_is_a_failure(test):
    why = rf"no answer, while the control \(ARP request to {VIP}"
    with pytest.raises(AssertionError, match=why):
        test.allowed_passes(4)


def test_a_reset_is_one_too_and_a_syn_ack_is_right(test):
    test.amphora.flags = "RA"
    with pytest.raises(AssertionError, match="was rejected: RST"):
        test.allowed_passes(4)
    test.amphora.flags = "SA"
    test.allowed_passes(4)


def test_silence_on_a_dead_link_proves_nothing(test):
    test.amphora.alive = False
    with pytest.raises(Inconclusive, match="the control .* got none before and after it either"):
        test.allowed_passes(4)


# --- ENF-006 ---------------------------------------------------------------------------------


def test_a_vip_that_answers_no_request_is_a_failure(test):
    answers = [(None, "timed out")]
    test.client.vantage = SimpleNamespace(
        http_or_why=lambda *a, **k: answers.pop(),
        capture=lambda match: contextlib.nullcontext(Captured(host="fake", interface="eth1")),
    )
    with pytest.raises(AssertionError, match=f"from {CLIENT} to {VIP}:80 got no answer: timed out"):
        test.requests_reach_members(4)


# --- ENF-008 ---------------------------------------------------------------------------------


class Found(SimpleNamespace):
    def __str__(self):
        return "; ".join([*self.too_open, *self.too_closed])


@pytest.fixture
def pair(test, monkeypatch):
    """A pair whose amphorae have what ``test.holes`` says, by number."""
    amphorae = [(SimpleNamespace(vrrp_ip=f"198.51.100.3{n}"), n) for n in (0, 1)]
    test.holes = {}

    class Inside:
        def __init__(self, number):
            self.number = number

        def ruleset_json(self):
            return "{}"

        def ruleset(self):
            if isinstance(test.holes.get(self.number), Exception):
                raise test.holes[self.number]
            return self.number

        def interfaces(self):
            return {"eth1": None}

    def disagreements(policy, ruleset, interfaces):
        return Found(too_open=test.holes.get(ruleset, []), too_closed=[])

    lb = SimpleNamespace(id="lb", to_dict=lambda computed: {"vip_address": VIP})
    test.guarded().deployment.lb = lb
    test.scene.lbs = SimpleNamespace(show=lambda lb_id: lb)
    test.scene.amphorae = lambda lb: amphorae
    api = SimpleNamespace(listeners=lambda **query: [])
    member = SimpleNamespace(load_balancer=api)
    test.stage = SimpleNamespace(clouds=SimpleNamespace(member=member))
    monkeypatch.setattr(test_vip_firewall, "Amphora", Inside)
    monkeypatch.setattr(test_vip_firewall, "disagreements", disagreements)
    return test


def look(pair):
    pair.test_ruleset_equals_policy.__wrapped__(pair)


def test_a_hole_of_the_second_amphora_is_told_beside_that_of_the_first(pair):
    look(pair)
    pair.holes = {0: ["a known one"], 1: ["a new one"]}
    with pytest.raises(Broken) as caught:
        look(pair)
    assert list(caught.value.findings) == ["a known one", "a new one"]


def test_a_hole_stays_one_though_the_second_amphora_cannot_be_read(pair):
    pair.holes = {0: ["a hole"], 1: errors.CommandFailed("nft is gone", argv=["nft"])}
    with pytest.raises(Broken, match="nft is gone") as caught:
        look(pair)
    assert list(caught.value.findings) == ["a hole"]
