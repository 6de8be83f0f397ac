# SPDX-License-Identifier: Apache-2.0
"""From what was found in a cell to its verdict, and from those of the cells to the test's."""

import ipaddress
import unittest
from types import SimpleNamespace

import pytest
from openstack import exceptions as sdk

from sriov_lb_tests import errors
from sriov_lb_tests.agreement import Reach, Subject, View, questions
from sriov_lb_tests.agreement.result import Agreement, Finding
from sriov_lb_tests.cloud import scenario
from sriov_lb_tests.policy.model import Promise
from sriov_lb_tests.policy.packet import Packet
from sriov_lb_tests.tests.matrix import selection, test_matrix
from sriov_lb_tests.tests.matrix.ground import Balancer, Ground
from sriov_lb_tests.tests.matrix.selection import Cell
from sriov_lb_tests.tests.matrix.test_matrix import Outcome
from sriov_lb_tests.verdicts.model import Broken, Inconclusive, KnownDefect, Verdict

ROWS = selection.rows(scenario.matrix("load-balancers"))
DIRECT = next(row for row in ROWS if row.values["vip"] == "direct")
NORMAL = next(row for row in ROWS if row.values["vip"] == "normal")
DOUBTFUL = next(row for row in ROWS if selection.doubtful(row.values))

ALL_OF_IPV4 = (
    "policy and wire disagree: TCP SYN from 2001:db8:113::5 may not pass (listener a (HTTP 8104) "
    "is open to 0.0.0.0/0, and 2001:db8:113::5 is not in there), but it came through"
)
NOTRACK = (
    "policy and ruleset disagree: TCP SYN from 198.51.100.9:80 to 198.51.100.7:40000 on eth2 "
    "(state established) has to pass (established flows: what was let in goes on)"
)
REQUEST = "HTTP from 203.0.113.5 to 203.0.113.9 port 8104 got no answer: timed out"


def failed(problems=(), findings=(), **seen):
    cell = Cell("HTTP", "all-ipv4")
    return Outcome(cell, Verdict.FAIL, [*problems], [*findings], seen=seen)


def test_a_cell_is_a_known_defect_when_all_that_was_found_is(test):
    outcome = failed([REQUEST], [ALL_OF_IPV4, NOTRACK])
    test.judge(DIRECT, outcome)
    (written,) = test.written()
    assert written.verdict is Verdict.KNOWN_DEFECT
    assert written.defect == "OCTAVIA-ALL-OF-IPV4, OCTAVIA-MEMBER-NOTRACK"


def test_a_dead_data_path_does_not_hide_behind_a_known_finding(test):
    outcome = failed([REQUEST], [ALL_OF_IPV4])
    test.judge(DIRECT, outcome)
    (written,) = test.written()
    assert (written.verdict, written.defect) == (Verdict.FAIL, None)
    assert written.reason.startswith(REQUEST)
    assert "Known besides, OCTAVIA-ALL-OF-IPV4" in written.reason


def test_a_normal_vip_has_no_known_defects(test):
    test.judge(NORMAL, failed(findings=[ALL_OF_IPV4]))
    assert test.written()[0].verdict is Verdict.FAIL


@pytest.mark.parametrize(("others", "defect"), [(2, "OCTAVIA-CIDRS-WITHIN-CIDRS"), (0, None)])
def test_a_listener_that_failed_is_told_with_the_others_as_its_control(
    test, monkeypatch, others, defect
):
    known = SimpleNamespace(listener_on_a_normal_vip="ACTIVE")
    monkeypatch.setattr(test_matrix.TestMatrix, "_ground", known)
    monkeypatch.setattr(test, "wanted", lambda balancer, cell: ["192.0.2.0/24", "192.0.2.1/32"])
    made = {Cell("TCP", f"set{number}"): number for number in range(others)}
    balancer = SimpleNamespace(row=DIRECT, sriov=True, ports=made)
    fault = errors.ResourceFault("The listener x is ERROR.")
    outcome = Outcome(Cell("HTTP", "nested"), Verdict.FAIL, failed=fault)
    fine = Outcome(Cell("TCP", "none"))
    test.tell_failures(balancer, [fine, outcome])
    assert fine.problems == []
    assert ("operation" in outcome.seen) is (not others)
    assert ("though 2 other listeners of it became ACTIVE" in outcome.reason) is bool(others)
    test.judge(DIRECT, outcome)
    assert test.written()[0].defect == defect


def test_what_may_harm_others_is_tried_first():
    cells = [Cell("TCP", "none"), Cell("HTTP", "nested"), Cell("PROMETHEUS", "none")]
    assert [test_matrix.fragile(Outcome(cell)) for cell in cells] == [False, True, True]


CLIENT = "203.0.113.10"


@pytest.fixture
def compared(test, monkeypatch):
    """What a row without ssh to its amphorae asks of the wire."""
    subject = Subject.of(
        {"id": "lb", "vip_address": "203.0.113.9"},
        [{"name": f"l{port}", "protocol": "HTTP", "protocol_port": port,
          "allowed_cidrs": [f"{CLIENT}/32"]} for port in (8100, 8101)],
    )  # fmt: skip
    place = SimpleNamespace(client=SimpleNamespace(vantage=None))
    monkeypatch.setattr(test_matrix.TestMatrix, "_ground", place)
    monkeypatch.setattr(test, "subject", lambda lb: subject)
    monkeypatch.setattr(test, "seats", lambda subject: [])
    reach = Reach((CLIENT,), ("203.0.113.0/24",), frozenset({"203.0.113.9"}))
    monkeypatch.setattr(test, "reach", lambda subject, vantage: reach)

    def look(subject, seats, vantage, reach, **options):
        assert not seats
        return questions(subject.policy(), reach, **options)

    monkeypatch.setattr(test_matrix.agreement, "look", look)
    return lambda lb: test.compare(SimpleNamespace(lb=SimpleNamespace(id=lb), sriov=False))


def test_each_row_asks_for_ports_without_a_listener(compared):
    """Nothing else would see a load balancer whose every other port is open."""

    def closed(lb):
        return {
            one.packet.dport
            for one in compared(lb)
            if one.promise is Promise.FORBIDDEN and one.packet.source == CLIENT
            and one.control is not None
        }  # fmt: skip

    near, far = {8099, 8102}, closed("x") - {8099, 8102}
    assert closed("x") == near | far and len(far) == 1 and min(far) >= 20000
    assert closed("x") == near | far, "the same again"
    assert closed("y") != near | far, "another one for another load balancer"


def row_of(monkeypatch, test, found):
    """Two listeners, both served, and what the comparison came to."""
    outcomes = [Outcome(Cell("TCP", "none")), Outcome(Cell("HTTP", "one-host"))]
    ports = {one.cell: 8100 + number for number, one in enumerate(outcomes)}
    monkeypatch.setattr(test, "requests", lambda balancer, outcome, patience: patience)
    monkeypatch.setattr(test, "compare", lambda balancer: found)
    monkeypatch.setattr(test, "keep", lambda name, content: None)
    test.look_at(SimpleNamespace(row=DIRECT, ports=ports), outcomes)
    return [one.verdict for one in outcomes]


def unclear(port):
    return (
        f"a neighbour of port 8100: TCP SYN to 203.0.113.9:{port} from 203.0.113.10, sent 3 times, "
        "got no answer, but the control (TCP SYN to 203.0.113.9:8100 from 203.0.113.10) got none "
        "before it either."
    )


@pytest.mark.parametrize(
    ("port", "verdicts"),
    [
        (8102, [Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE]),
        (8101, [Verdict.PASS, Verdict.INCONCLUSIVE]),
    ],
)
def test_what_is_not_clear_of_a_port_without_a_listener_is_everybodys(
    test, monkeypatch, port, verdicts
):
    assert row_of(monkeypatch, test, Agreement("x", unclear=(unclear(port),))) == verdicts


def test_an_open_port_without_a_listener_is_everybodys_failure(test, monkeypatch):
    packet = Packet("eth1", CLIENT, "203.0.113.9", 6, sport=40000, dport=30000)
    found = Agreement("x", (Finding(View.WIRE, True, packet, "it came through"),))
    assert row_of(monkeypatch, test, found) == [Verdict.FAIL, Verdict.FAIL]


@pytest.mark.parametrize("which", ["pairwise", "full"])
def test_the_load_balancer_asked_for_ahead_is_the_one_that_is_next(test, monkeypatch, which):
    """Whoever is asked for ahead and not next holds VFs that the next one needs."""
    known = SimpleNamespace(matrix=scenario.matrix("load-balancers"))
    monkeypatch.setattr(test_matrix.TestMatrix, "_ground", known)
    options = SimpleNamespace(sriov_lb=SimpleNamespace(matrix=which))
    monkeypatch.setattr(test_matrix, "CONF", options)
    # Always the same, and half a second to make: once for all groups.
    every = selection.rows(known.matrix, which)
    monkeypatch.setattr(test_matrix.selection, "rows", lambda matrix, selected: every)
    ran = []
    monkeypatch.setattr(test, "run_row", lambda row, following: ran.append((row, following)) or [])
    monkeypatch.setattr(test, "conclude", lambda outcomes: None)
    for number in range(1, test_matrix.METHODS + 1):
        test.group(number)
    rows, following = zip(*ran, strict=True)
    assert [*rows[1:], None] == list(following)
    assert len(set(row.number for row in rows)) == len(every)


METRICS = (
    "On a {} VIP, a PROMETHEUS listener with the allowed_cidrs 192.0.2.1/32, was to be ACTIVE and "
    "ended in ERROR. The listener x is ERROR."
)


@pytest.mark.parametrize("row", [NORMAL, DIRECT])
def test_a_defect_that_is_everywhere_is_known_on_normal_vips_too(test, row):
    kind = row.values["vip"]
    test.judge(row, failed([METRICS.format(kind)]))
    test.judge(row, failed([METRICS.format(kind).replace("PROMETHEUS", "TCP")]))
    test.judge(row, failed([METRICS.format(kind), "Another thing."]))
    known, tcp, more = test.written()
    assert known.defect == "OCTAVIA-PROMETHEUS-HTX"
    assert (tcp.verdict, more.verdict) == (Verdict.FAIL, Verdict.FAIL)


SHUT = (
    "policy and wire disagree: TCP SYN from 203.0.113.5:40000 to 203.0.113.9:8104 on eth1 "
    "(state new) has to pass (listener x is open to everybody), but it did not come "
    "through: no answer"
)
SRIOV_MEMBERS = next(
    row for row in ROWS if row.values["vip"] == "normal" and row.values["member_port"] == "direct"
)
LOST = (
    "policy and wire disagree: nobody answers for the additional VIP 2001:db8::7 on its network, "
    "though ..."
)
SECOND = next(
    row for row in ROWS
    if row.values["member_place"] == "second" and row.values["additional_vips"]
)  # fmt: skip
STRANGER = (
    "The amphora asks the member 192.0.2.28 from 203.0.113.169, which is not on the member's "
    "subnet, though it has 192.0.2.43 there."
)
FIRST_ONLY = next(
    row for row in ROWS
    if row.values["member_place"] == "second" and not row.values["additional_vips"]
)  # fmt: skip


@pytest.mark.parametrize(
    ("row", "finding", "defect"),
    [
        (SRIOV_MEMBERS, SHUT, "OCTAVIA-SRIOV-MEMBER-SHUTS-VIP"),
        (DIRECT, SHUT, None),
        (SECOND, LOST, "OCTAVIA-SECOND-SUBNET"),
        (SECOND, SHUT, None),
        (SECOND, STRANGER, "OCTAVIA-SECOND-SUBNET-SOURCE"),
        (FIRST_ONLY, STRANGER, None),
        (FIRST_ONLY, LOST, None),
        (SRIOV_MEMBERS, LOST, None),
    ],
)
def test_a_defect_of_some_load_balancers_is_known_on_no_other(test, row, finding, defect):
    test.judge(row, failed([REQUEST], [finding], row=str(row)))
    test.judge(row, failed([REQUEST], row=str(row)))
    known, alone = test.written()
    assert known.defect == defect and alone.defect is None


@pytest.mark.parametrize(("source", "known"), [("192.0.2.7", True), ("198.51.100.7", False)])
def test_a_subnet_that_lost_its_route_does_not_answer_either(test, source, known):
    no_way_back = SHUT.replace("203.0.113.5", source)
    test.judge(SECOND, failed(findings=[LOST, no_way_back], row=str(SECOND)))
    test.judge(SECOND, failed(findings=[no_way_back], row=str(SECOND)))
    lost, alone = test.written()
    assert (lost.defect == "OCTAVIA-SECOND-SUBNET") is known and alone.defect is None


@pytest.mark.parametrize(
    ("source", "own", "said"),
    [
        ("203.0.113.169", "192.0.2.43/26", STRANGER),
        ("192.0.2.43", "192.0.2.43/26", ""),
        ("203.0.113.169", "192.0.2.143/26", ""),
    ],
)
def test_a_member_is_to_be_asked_from_its_own_subnet(source, own, said):
    class Inside:
        """Stands in for an amphora."""

        def source_to(self, member):
            return source

        def interfaces(self):
            own_ones = map(ipaddress.ip_interface, ("203.0.113.169/24", own))
            return {"eth1": SimpleNamespace(addresses=tuple(own_ones))}

    assert test_matrix.stranger_to(Inside(), "192.0.2.28") == said


@pytest.mark.parametrize(
    ("status", "words", "verdict"),
    [
        (400, "Invalid protocol", Verdict.NOT_SUPPORTED),
        (403, "Quota has been met for resources: listener", Verdict.ERROR),
        (429, "Too many requests", Verdict.ERROR),
        (409, "is immutable", Verdict.ERROR),
        (500, "Internal error", Verdict.FAIL),
    ],
)
def test_a_refusal_is_an_answer_or_none(status, words, verdict):
    refusal = sdk.HttpException(words, http_status=status)
    assert test_matrix.refused(refusal) is verdict


def test_a_load_balancer_of_which_nothing_was_looked_at_is_skipped(test):
    skipped, refused = failed(), failed()
    skipped.verdict, refused.verdict = Verdict.SKIPPED, Verdict.NOT_SUPPORTED
    with pytest.raises(unittest.SkipTest):
        test.conclude([skipped, refused])


def test_what_the_tests_had_to_do_is_told_and_not_judged(test):
    outcome = failed(findings=[ALL_OF_IPV4])
    outcome.notes.append("The load balancer was damaged and replaced.")
    test.judge(DIRECT, outcome)
    (written,) = test.written()
    assert written.verdict is Verdict.KNOWN_DEFECT
    assert written.reason.endswith("damaged and replaced.")


def test_the_test_ends_as_the_worst_of_its_cells(test):
    known, new = failed(findings=[ALL_OF_IPV4]), failed([REQUEST])
    for outcome in (known, new):
        test.judge(DIRECT, outcome)
    with pytest.raises(KnownDefect) as caught:
        test.conclude([Outcome(Cell("TCP", "none"), Verdict.PASS), known])
    assert caught.value.defect == "OCTAVIA-ALL-OF-IPV4"
    with pytest.raises(Broken, match="got no answer") as caught:
        test.conclude([known, new])
    assert not isinstance(caught.value, KnownDefect)
    with pytest.raises(Inconclusive):
        test.conclude([Outcome(Cell("TCP", "none"), Verdict.INCONCLUSIVE)])


@pytest.mark.parametrize("row", [NORMAL, DIRECT])
def test_the_verdict_of_the_test_is_that_of_its_cells(test, row):
    outcome = failed(findings=[ALL_OF_IPV4])
    test.judge(row, outcome)
    promise = test_matrix.base.Promise(f"MTX-{row.number:02d}", "It serves.")
    with pytest.raises(Broken), test._verdict(promise):
        test.conclude([outcome])
    cell, whole = test.written()
    assert (cell.verdict, cell.defect) == (whole.verdict, whole.defect)
    assert (cell.verdict is Verdict.KNOWN_DEFECT) == (row is DIRECT)


def balancers(state, asked, deleted):
    """What the site does with the control; ``state`` is what becomes of it."""

    def wait(lb_id):
        if state == "ERROR":
            raise errors.ResourceFault("it went to ERROR")
        if state == "PENDING":
            raise errors.StuckPending("it is PENDING")
        return SimpleNamespace(id=lb_id, provisioning_status=state)

    def ask(kind, **named):
        asked.append((kind, named["versions"], named["flavor_id"]))
        return SimpleNamespace(id="control")

    site = SimpleNamespace(
        ask_load_balancer=ask, flavor_of=lambda kind, topology: f"{kind} {topology}"
    )
    return site, SimpleNamespace(wait=wait, delete=deleted.append)


@pytest.mark.parametrize("state", ["ACTIVE", "ERROR", "PENDING"])
def test_the_control_of_a_build_is_a_normal_one_and_asked_for_once(state):
    asked, deleted = [], []
    site, lbs = balancers(state, asked, deleted)
    ground = Ground(SimpleNamespace(site=site), scenario.matrix("load-balancers"))
    ground._made["lbs"] = lbs
    assert [ground.normal_state(DOUBTFUL) for _ in range(2)] == [state, state]
    assert asked == [("normal", (6,), "normal ACTIVE_STANDBY")] and deleted == ["control"]
    ground.normal_state(DIRECT)
    assert asked[1:] == [("normal", DIRECT.versions, f"normal {DIRECT.values['topology']}")]


@pytest.mark.parametrize("state", ["ERROR", "PENDING"])
def test_a_normal_one_that_fails_says_nothing_of_its_listeners_and_goes(state):
    deleted = []
    _, lbs = balancers(state, [], deleted)
    site = SimpleNamespace(ask_load_balancer=lambda kind, what: SimpleNamespace(id="control"))
    ground = Ground(SimpleNamespace(site=site), scenario.matrix("load-balancers"))
    ground._made["lbs"] = lbs
    with pytest.raises(errors.CloudError):
        _ = ground.listener_on_a_normal_vip
    assert deleted == ["control"]


def ground(normal, said="it went to ERROR"):
    def wait(lb_id):
        raise errors.ResourceFault(said)

    return SimpleNamespace(lbs=SimpleNamespace(wait=wait), normal_state=lambda row: normal)


def build(test, monkeypatch, row, normal="ACTIVE", said="it went to ERROR"):
    """The verdicts of the cells of a load balancer that fails to be built."""
    monkeypatch.setattr(test_matrix.TestMatrix, "_ground", ground(normal, said))
    outcomes = [Outcome(cell) for cell in row.cells]
    with pytest.raises((Broken, errors.ResourceFault)) as caught:
        test.built(Balancer(test.ground, row, SimpleNamespace(id="x")), outcomes)
    for outcome in outcomes:
        outcome.verdict = test_matrix.base.classify(caught.value)
        outcome.problems.append(f"{row}: {caught.value}")
        test.judge(row, outcome)
    return {(one.verdict, one.defect) for one in test.written()}


def test_a_pair_on_ipv6_that_cannot_be_built_is_known(test, monkeypatch):
    found = build(test, monkeypatch, DOUBTFUL)
    assert found == {(Verdict.KNOWN_DEFECT, "OCTAVIA-IPV6-PAIR")}


def test_not_when_a_normal_one_fails_too(test, monkeypatch):
    assert build(test, monkeypatch, DOUBTFUL, "ERROR") == {(Verdict.FAIL, None)}


@pytest.mark.parametrize("row", [DIRECT, NORMAL])
def test_another_one_that_cannot_be_built_is_news(test, monkeypatch, row):
    assert build(test, monkeypatch, row) == {(Verdict.FAIL, None)}


def test_a_full_cloud_is_nobodys_defect(test, monkeypatch):
    found = build(test, monkeypatch, DOUBTFUL, said="No valid host was found")
    assert found == {(Verdict.ERROR, None)}
