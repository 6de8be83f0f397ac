# SPDX-License-Identifier: Apache-2.0
"""What a matrix says, and that it says so in every form."""

import csv
import json
import pathlib

import pytest

from sriov_lb_tests.mutants.fault import Fault, Test
from sriov_lb_tests.mutants.faults import ALL
from sriov_lb_tests.mutants.matrix import Cell, Matrix, Result, judge, mark

ALARM, SILENT = Cell(True, ("TCP SYN … may not pass, but it came through.",)), Cell(False)
DUMB = Cell(False, (), ("the control was not answered",))


def fault(*tests, name="port-plus-one"):
    return Fault(name, "the port is one too high", tests, lambda target: None, "a reason")


def judged(which, cells, **more):
    values = {"detail": "done", "differs": True, "broken": True, "seen": True, "sendable": True,
              "applicable": cells}  # fmt: skip
    return judge(which, cells, **{**values, **more})


def test_every_test_that_should_catch_it_has_to():
    which = fault(Test.PROOF, Test.PORTS)
    cells = {Test.PROOF: ALARM, Test.PORTS: ALARM, Test.WITNESSES: ALARM, Test.DENIED: SILENT}
    row = judged(which, cells)
    assert row.result is Result.CAUGHT
    assert row.wanted == (Test.PROOF, Test.PORTS, Test.WITNESSES)
    assert "came through" in row.sentence
    for missed in row.wanted:
        row = judged(which, {**cells, missed: SILENT})
        assert row.result is Result.MISSED and missed.value in row.why
        assert mark(row, missed) == "-"


def test_what_no_packet_shows_is_not_asked_of_the_wire():
    which = fault(Test.PROOF, Test.ALLOWED)
    cells = {Test.PROOF: ALARM, Test.ALLOWED: SILENT, Test.WITNESSES: SILENT}
    for more in ({"sendable": False}, {"seen": False}):
        row = judged(which, cells, **more)
        assert row.result is Result.CAUGHT and row.wanted == (Test.PROOF,)


def test_flows_are_asked_though_no_single_packet_shows_them():
    which = fault(Test.PROOF, Test.FLOWS)
    row = judged(which, {Test.PROOF: ALARM, Test.FLOWS: SILENT}, sendable=False)
    assert row.result is Result.MISSED


def test_a_control_that_failed_is_no_miss():
    which = fault(Test.PROOF, Test.PORTS)
    row = judged(which, {Test.PROOF: ALARM, Test.PORTS: DUMB, Test.WITNESSES: ALARM})
    assert row.result is Result.UNCLEAR and "control was not answered" in row.why
    assert mark(row, Test.PORTS) == "?"


@pytest.mark.parametrize(
    ("differs", "expected"), [(False, Result.EQUIVALENT), (True, Result.TOLERATED)]
)
def test_a_change_that_breaks_no_promise_is_listed(differs, expected):
    cells = {Test.PROOF: SILENT, Test.PORTS: SILENT}
    row = judged(fault(), cells, broken=False, differs=differs)
    assert row.result is expected
    row = judged(fault(), {**cells, Test.PORTS: ALARM}, broken=False, differs=differs)
    assert row.result is Result.FALSE_ALARM and "ports" in row.why


def whole(*results, clean=((),)):
    matrix = Matrix(clean=list(clean), tests=(Test.PROOF, Test.PORTS))
    for number, result in enumerate(results):
        which = fault(Test.PROOF, name=f"fault-{number}")
        cells = {Test.PROOF: ALARM if result is Result.CAUGHT else SILENT}
        row = judged(which, cells, sendable=False)
        matrix.rows.append(row if row.result is result else type(row)(which, result, cells))
    return matrix


@pytest.mark.parametrize(
    ("matrix", "status"),
    [
        (whole(Result.CAUGHT, Result.EQUIVALENT, Result.TOLERATED, Result.NOT_APPLICABLE), 0),
        (whole(Result.CAUGHT, Result.MISSED), 1),
        (whole(Result.CAUGHT, Result.FALSE_ALARM), 1),
        (whole(Result.CAUGHT, clean=[(), ("an alarm",)]), 1),
        (whole(Result.CAUGHT, Result.UNCLEAR), 2),
        (whole(Result.NOT_APPLICABLE), 2),
    ],
)
def test_the_exit_status(matrix, status):
    assert matrix.status == status


def test_the_sentence_names_what_was_missed():
    text = whole(Result.CAUGHT, Result.MISSED).sentence
    assert "1 of 2 faults caught" in text and "fault-1" in text
    assert "0 alarms in 1 looks" in text


def test_files(tmp_path):
    matrix = whole(Result.CAUGHT, Result.MISSED)
    matrix.facts["load balancer"] = "<b>web</b>"
    paths = matrix.write(tmp_path / "out")
    data = json.loads(paths["json"].read_text())
    assert data["faults"][0]["result"] == "caught"
    assert data["faults"][0]["tests"]["proof"]["sentences"]
    rows = list(csv.reader(paths["csv"].open()))
    assert rows[0][:3] == ["Fault", "What it breaks", "Result"] and rows[1][3] == "X"
    page = paths["html"].read_text()
    assert "came through" in page and "&lt;b&gt;web" in page and "fault-1" in page


def test_the_published_matrix_is_about_the_faults_there_are():
    """A fault without a row is named beside the table, and none that tests have to catch is said
    to be harmless."""
    folder = pathlib.Path(__file__).parents[3] / "doc" / "source" / "mutants"
    with (folder / "matrix.csv").open() as file:
        rows = {row["Fault"]: row["Result"] for row in csv.DictReader(file)}
    faults = {one.id: one for one in ALL}
    assert rows.keys() <= faults.keys()
    beside = (folder / "summary.inc").read_text()
    assert [name for name in faults if name not in rows and f"``{name}``" not in beside] == []
    harmless = {name for name, result in rows.items() if result in ("equivalent", "tolerated")}
    # What only a PROMETHEUS listener was promised, and that load balancer had none.
    elsewhere = {"loopback-lost"}
    assert {name for name in harmless if faults[name].tests} <= elsewhere
    assert {n for n, one in faults.items() if n in rows and one.harmless} == harmless - elsewhere
