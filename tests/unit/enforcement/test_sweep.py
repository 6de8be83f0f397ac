# SPDX-License-Identifier: Apache-2.0
"""ENF-020: what is concluded from a sweep that could not decide every port."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest

from sriov_lb_tests.packets.probe import tcp_syn
from sriov_lb_tests.policy.intervals import complement
from sriov_lb_tests.policy.model import Policy
from sriov_lb_tests.tests.enforcement import test_sweep
from sriov_lb_tests.verdicts.model import Broken, Inconclusive
from sriov_lb_tests.wire.sweep import SweepReport

VIP, ALLOWED, DENIED = "198.51.100.20", "198.51.100.10", "198.51.100.11"
LISTENERS = [
    {"name": "guarded", "protocol": "HTTP", "protocol_port": 80,
     "allowed_cidrs": [f"{ALLOWED}/32"]},
    {"name": "open", "protocol": "HTTP", "protocol_port": 8080},
]  # fmt: skip
OPEN, BOTH = ((8080, 8080),), ((80, 80), (8080, 8080))


def report(**states):
    """A report in which every port that is not named is silent."""
    found = dict.fromkeys(("open", "closed", "rejected", "undecided"), ()) | states
    probe = tcp_syn(VIP, 1, source=ALLOWED)
    taken = sorted(pair for pairs in found.values() for pair in pairs)
    problem = "Time was up." if found["undecided"] else ""
    return SweepReport(
        probe=probe, protocol="tcp", control=probe, silent=complement(tuple(taken), 16),
        problem=problem, loss=0.0, credits=1, limited=False, seconds=1.0, cpu=0.1, sent=65536,
        passes=(), answers={}, pcap=Path("x.pcap"), **found,
    )  # fmt: skip


@pytest.fixture
def test(monkeypatch):
    one = test_sweep.TestSweep("test_tcp_ports_ipv4")
    one.seen, one._evidence, reports = {}, [], []
    client = SimpleNamespace(
        allowed=lambda version: ALLOWED, denied=lambda version: DENIED,
        vantage=SimpleNamespace(
            sweep=lambda probe, control: dataclasses.replace(reports.pop(0), probe=probe)
        ),
    )  # fmt: skip
    one.scene = SimpleNamespace(
        client=client, vip=lambda version: VIP, twins=SimpleNamespace(sriov=None),
        guarded=SimpleNamespace(deployment=SimpleNamespace(lb=None)),
        syn=lambda version, listener, source: tcp_syn(VIP, 80, source=source),
    )  # fmt: skip
    policy = Policy.of({"vip_address": VIP}, LISTENERS, own="198.51.100.30")
    monkeypatch.setattr(one, "subject", lambda lb: SimpleNamespace(policy=lambda: policy))
    monkeypatch.setattr(one, "keep", lambda name, content: None)

    def sweep(allowed, denied):
        reports[:] = [allowed, denied]
        one.sweep("tcp", 4)

    return sweep


def test_what_was_promised_is_right(test):
    test(report(open=BOTH), report(open=OPEN))


def test_a_port_that_could_not_be_decided_is_not_too_closed(test):
    with pytest.raises(Inconclusive, match="undecided 80 .*Time was up"):
        test(report(open=OPEN, undecided=((80, 80),)), report(open=OPEN))


@pytest.mark.parametrize("shut", [{}, {"closed": ((80, 80),)}, {"rejected": ((80, 80),)}])
def test_one_that_is_shut_is_whatever_else_could_not_be_decided(test, shut):
    with pytest.raises(AssertionError, match="Too closed: .* SYN-ACK, 80[.]"):
        test(report(open=OPEN, undecided=((443, 443),), **shut), report(open=OPEN))


def test_one_that_answers_is_too_open_whatever_else_could_not_be_decided(test):
    with pytest.raises(AssertionError, match="Too open: "):
        test(report(open=BOTH), report(open=BOTH, undecided=((443, 443),)))


def test_what_one_source_finds_hides_nothing_of_the_other(test):
    """Too open from both: each is told."""
    with pytest.raises(Broken) as failure:
        test(report(open=((22, 22), *BOTH)), report(open=((23, 23), *OPEN)))
    assert "open port 22 first" in str(failure.value) and "open port 23 first" in str(failure.value)
