# SPDX-License-Identifier: Apache-2.0
"""The audit's comparisons with real nft and a real wire, without OpenStack."""

import json

import jsonschema
import pytest

from sriov_lb_tests.agreement import Reach, Seat, Subject
from sriov_lb_tests.agreement.reboot import DROP_ALL
from sriov_lb_tests.amphora import Amphora
from sriov_lb_tests.audit import checks, report
from sriov_lb_tests.audit.checks import Audit, State
from sriov_lb_tests.audit.command import describe
from sriov_lb_tests.policy.proof import difference
from sriov_lb_tests.policy.ruleset import parse
from sriov_lb_tests.wire.namespace import NamespaceHost
from sriov_lb_tests.wire.vantage import Vantage

LINES = (
    "ip saddr 198.51.100.0/28 tcp dport 80 accept",
    "ip6 saddr 2001:db8:1::/120 tcp dport 80 accept",
)
LISTENER = {"name": "web", "protocol": "HTTP", "protocol_port": 80,
            "allowed_cidrs": ["198.51.100.0/28", "2001:db8:1::/120"]}  # fmt: skip


class Inside(Amphora):
    """An amphora whose rules file is elsewhere; notes what is done to its rules."""

    path = ""

    def rules_on_disk(self, path=None):
        return super().rules_on_disk(self.path)

    def nft(self, *arguments, input=None):
        self.said.append((*arguments, input))
        return super().nft(*arguments, input=input)


@pytest.fixture(scope="module")
def bed(testbed):
    with testbed.bed() as made:
        made.listen(("tcp", 80))
        yield made


@pytest.fixture
def audit(bed, testbed, tmp_path):
    """Load rules into the kernel and the file, and audit them."""
    rules = tmp_path / "nftables-vip.rules"
    subject = Subject.of(
        {"id": "lb", "name": "shop", "vip_address": testbed.VIP4, "provisioning_status": "ACTIVE",
         "additional_vips": [{"ip_address": testbed.VIP6}]},
        [LISTENER], [], [{"id": "a1", "vrrp_ip": testbed.AMPHORA4, "role": "STANDALONE"}],
    )  # fmt: skip

    def run(
        kernel=LINES, disk=LINES, *, links=("198.51.100.0/24", "2001:db8:1::/64"), count=False,
        entered=True,
    ):  # fmt: skip
        bed.within("amphora", "nft", "flush", "ruleset")
        bed.nft(testbed.octavia_rules(*kernel), "-o")
        if disk is not None:
            rules.write_text(testbed.octavia_rules(*disk))
        before = bed.within("amphora", "nft", "list", "ruleset")
        inside = Inside(NamespaceHost(bed.name("amphora")), netns=None)
        inside.path, inside.said = str(rules), []
        seat = Seat.of(subject.amphorae[0], inside)
        found = Audit(describe(subject), started="2026-01-02T03:04:05Z")
        found.checks += checks.inside(subject, seat) if entered else []
        with NamespaceHost(bed.name("client")) as host:
            with Vantage(host, "c0", artefacts=tmp_path / "pcap") as vantage:
                reach = Reach.of(vantage, subject, links)
                counted, rulesets = [seat] if count else [], found.checks[:1]
                found.checks.append(checks.wire(subject, vantage, reach, counted, rulesets))
        assert bed.within("amphora", "nft", "list", "ruleset") == before
        if not count and entered:
            assert {said[:2] for said in inside.said} == {("-j", "list")}, "only read"
        jsonschema.validate(json.loads(json.dumps(report.to_json(found))), report.schema())
        return found, [check.state for check in found.checks]

    return run


CLEAN, BAD = State.CLEAN, State.DISAGREEMENT


@pytest.mark.parametrize("count", [False, True])
def test_a_load_balancer_that_keeps_its_promises(audit, count):
    found, states = audit(count=count)
    assert states == [CLEAN] * 3 and found.status == 0, found.sentence
    assert found.checks[2].packets > 20


def test_own_addresses_are_enough_to_say_something(audit):
    """They are all in the CIDRs: that others are kept out is what the ruleset says."""
    found, states = audit(links=())
    assert states == [CLEAN] * 3 and found.checks[2].packets > 10
    assert len(found.checks[2].one_sided) == 2


def test_but_not_that_others_are_kept_out(audit):
    found, states = audit(links=(), entered=False)
    assert states == [State.UNCLEAR] and found.status == 2
    assert "to sources that it is not open to was not seen" in found.sentence
    # The same vantage with a link may pretend to be somebody else.
    found, states = audit(entered=False)
    assert states == [CLEAN] and not found.checks[0].one_sided


def test_rules_that_are_too_open(audit):
    found, states = audit(kernel=(*LINES, "tcp dport 22 accept"))
    assert states == [BAD, CLEAN, BAD] and found.status == 1
    assert all(one.too_open for check in found.checks for one in check.witnesses)
    assert any(one.packet.dport == 22 and one.pcap for one in found.checks[2].witnesses)


def test_rules_that_are_too_closed(audit):
    found, states = audit(kernel=LINES[1:])
    assert states == [BAD, CLEAN, BAD] and found.status == 1
    assert {one.packet.version for one in found.checks[2].witnesses} == {4}
    assert not any(one.too_open for one in found.checks[2].witnesses)
    assert "has to pass" in found.sentence


def test_rules_that_the_next_reboot_would_load(audit):
    found, states = audit(disk=(*LINES, "tcp dport 8443 accept"))
    assert states == [CLEAN, BAD, CLEAN] and found.status == 1
    assert "reboot" in next(c.name for c in found.checks if c.state is BAD)


@pytest.mark.parametrize(
    ("disk", "words", "too_open"),
    [(None, "no rules file", False), (("tcp dport nonsense accept",), "does not load", True)],
)
def test_a_reboot_that_would_not_load_the_rules(audit, disk, words, too_open):
    found, states = audit(disk=disk)
    assert states == [CLEAN, BAD, CLEAN] and found.status == 1
    (witness,) = found.checks[1].witnesses
    assert words in witness.explanation and witness.too_open is too_open


def test_what_octavia_loads_without_a_file_is_known(bed, testbed):
    bed.within("amphora", "nft", "flush", "ruleset")
    bed.nft(testbed.octavia_rules(drop_all=True), "-o")
    assert difference(parse(bed.ruleset()), parse(DROP_ALL)) is None


def test_a_vip_that_nobody_answers_for(audit, bed, testbed):
    gone = (f"{testbed.VIP6}/128", "dev", "eth1")
    bed.within("amphora", "ip", "address", "del", *gone)
    try:
        found, states = audit()
    finally:
        bed.within("amphora", "ip", "address", "add", *gone, "nodad")
    assert states == [CLEAN, CLEAN, BAD] and found.status == 1
    said = f"nobody answers for the additional VIP {testbed.VIP6} on its network"
    assert f"{said}, though {testbed.VIP4}" in found.sentence
    assert not found.checks[2].unclear
