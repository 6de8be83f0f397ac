# SPDX-License-Identifier: Apache-2.0
"""The comparison with the verdicts on file: whatever is new and whatever is gone breaks it."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from sriov_lb_tests import cli, errors
from sriov_lb_tests.verdicts import onfile, record
from sriov_lb_tests.verdicts.model import Result, Verdict

HERE = Path(__file__).parents[2] / "lab" / "verdicts"


def result(requirement, verdict, test="test_it", defect=None, reason=""):
    name = f"sriov_lb_tests.tests.some.test_module.TestClass.{test}"
    return Result(requirement, "A promise.", verdict, name, reason=reason, defect=defect)


RUN = [
    result("ENF-001", Verdict.PASS, "test_ipv4"),
    result("ENF-001", Verdict.PASS, "test_ipv6"),
    result("LIF-002", Verdict.KNOWN_DEFECT, defect="OCTAVIA-B, OCTAVIA-A"),
    result("MTX-01", Verdict.PASS, "test_load_balancer_01"),
    result("MTX-01 tcp/none", Verdict.SKIPPED, "test_load_balancer_01"),
]
TABLE = {
    "ENF-001 TestClass.test_ipv4": "PASS",
    "ENF-001 TestClass.test_ipv6": "PASS",
    "LIF-002 TestClass.test_it": "KNOWN_DEFECT OCTAVIA-A OCTAVIA-B",
    "MTX-01 TestClass.test_load_balancer_01": "PASS",
    "MTX-01 tcp/none TestClass.test_load_balancer_01": "SKIPPED",
}


def test_each_test_has_a_line_of_its_own_and_the_last_run_of_it_counts():
    assert onfile.of(RUN) == TABLE
    again = onfile.of([*RUN, result("ENF-001", Verdict.FAIL, "test_ipv6")])
    assert again == {**TABLE, "ENF-001 TestClass.test_ipv6": "FAIL"}


def test_what_was_recorded_is_read_back(tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text(onfile.text(TABLE, "16.0.0"))
    assert onfile.read(path) == TABLE
    assert "Octavia 16.0.0" in path.read_text()
    assert onfile.differences(onfile.read(path), onfile.of(RUN)) == []


@pytest.mark.parametrize("content", ["a: b: c", "[PASS]", "ENF-001 T.t: WELL", "ENF-001: [PASS]"])
def test_a_file_that_is_none_is_an_error(tmp_path, content):
    path = tmp_path / "file.yaml"
    path.write_text(content)
    with pytest.raises(errors.ConfigurationError, match=r"file\.yaml"):
        onfile.read(path)


@pytest.mark.parametrize(
    ("test", "now", "said"),
    [
        ("ENF-001 TestClass.test_ipv6", "FAIL", "is FAIL; on file it is PASS. It was open."),
        ("ENF-001 TestClass.test_ipv6", "KNOWN_DEFECT OCTAVIA-A", "on file it is PASS"),
        ("ENF-001 TestClass.test_ipv6", "INCONCLUSIVE", "on file it is PASS"),
        ("ENF-001 TestClass.test_ipv6", "SKIPPED", "is SKIPPED; on file it is PASS."),
        ("ENF-001 TestClass.test_ipv6", None, "did not run; on file it is PASS."),
        ("LIF-002 TestClass.test_it", "PASS", "a failure that is gone"),
        ("LIF-002 TestClass.test_it", "SKIPPED", "a failure that is gone"),
        ("LIF-002 TestClass.test_it", "KNOWN_DEFECT OCTAVIA-A", "KNOWN_DEFECT OCTAVIA-A OCTAVIA-B"),
        ("LIF-002 TestClass.test_it", "FAIL", "is FAIL; on file it is KNOWN_DEFECT"),
        ("ENF-009 TestClass.test_new", "PASS", "is PASS; it is not on file."),
        ("ENF-009 TestClass.test_new", "FAIL", "is FAIL; it is not on file."),
    ],
)
def test_each_difference_is_said(test, now, said):
    found = {name: text for name, text in TABLE.items() if name != test}
    found |= {test: now} if now else {}
    (sentence,) = onfile.differences(TABLE, found, {test: "It\nwas open."})
    assert sentence.startswith(test) and said in sentence


def test_new_failures_come_first():
    found = {**TABLE, "LIF-002 TestClass.test_it": "PASS", "MTX-01 tcp/none TestClass."
             "test_load_balancer_01": "ERROR"}  # fmt: skip
    first, last = onfile.differences(TABLE, found)
    assert "is ERROR" in first and "gone" in last


def test_a_run_is_to_fail_exactly_when_the_file_says_so():
    assert onfile.failures(TABLE) == ["LIF-002 TestClass.test_it"]
    assert onfile.failures({"a": "PASS", "b": "SKIPPED", "c": "NOT_SUPPORTED"}) == []
    for verdict in ("FAIL", "NOT_ENFORCED", "INCONCLUSIVE", "ERROR"):
        assert onfile.failures({"a": verdict}) == ["a"]


@pytest.mark.parametrize("path", sorted(HERE.glob("*.yaml")), ids=lambda path: path.name)
def test_what_is_on_file_can_be_read(path):
    assert onfile.read(path)


@pytest.fixture
def run(tmp_path):
    """A recorded run; call with arguments to compare it and the like."""
    recorder = record.Recorder(tmp_path / "run")
    recorder.describe(octavia_release="16.0.0")
    for one in RUN:
        recorder.append(one)

    def call(*arguments):
        return CliRunner().invoke(cli.main, ["verdicts", str(tmp_path / "run"), *arguments])

    call.recorder = recorder
    return call


def test_a_run_equals_what_was_recorded_of_it(run, tmp_path):
    on_file = tmp_path / "file.yaml"
    on_file.write_text(run("--record").output)
    assert onfile.read(on_file) == TABLE
    same = run("--compare", str(on_file))
    assert (same.exit_code, same.output.split()[0]) == (0, "5")


@pytest.mark.parametrize(
    "later",
    [
        result("ENF-001", Verdict.FAIL, "test_ipv4", reason="It was open."),
        result("LIF-002", Verdict.PASS),
    ],
)
def test_a_new_failure_and_one_that_is_gone_both_end_with_1(run, tmp_path, later):
    on_file = tmp_path / "file.yaml"
    on_file.write_text(run("--record").output)
    run.recorder.append(later)
    done = run("--compare", str(on_file))
    assert done.exit_code == 1
    assert done.output.count("\n") == 1 and later.requirement in done.output


def test_what_is_known_and_was_not_looked_for_is_listed(run):
    shown = run().output
    assert "did not look for" in shown
    assert "cannot copy their stick tables. (OCTAVIA-PEERS-PORT)" in shown
    # LIF-002 was looked at.
    assert "(OCTAVIA-LAST-LISTENER)" not in shown


def test_of_a_release_that_is_not_told_nothing_is_known(run):
    run.recorder.describe(octavia_release="not told")
    assert "did not look for" not in run().output
