# SPDX-License-Identifier: Apache-2.0
import json

import pytest
from click.testing import CliRunner

from sriov_lb_tests import cli
from sriov_lb_tests.cloud import sweep
from sriov_lb_tests.cloud.ledger import Ledger
from sriov_lb_tests.verdicts import record
from sriov_lb_tests.verdicts.model import Result, Verdict


@pytest.fixture
def run(monkeypatch):
    monkeypatch.delenv("OS_CLOUD", raising=False)
    return lambda *args: CliRunner().invoke(cli.main, [str(a) for a in args])


def record_run(folder, *verdicts):
    recorder = record.Recorder(folder)
    recorder.describe(run=folder.name)
    for number, verdict in enumerate(verdicts):
        recorder.append(Result(f"R-{number}", "A promise.", verdict, "t", reason="because"))


def test_verdicts_prints_the_table_and_the_page(run, tmp_path):
    record_run(tmp_path / "r1", Verdict.PASS, Verdict.SKIPPED)
    done = run("verdicts", tmp_path / "r1")
    assert done.exit_code == 0, done.output
    assert "R-0" in done.output and "2 requirements: 1 SKIPPED, 1 PASS." in done.output
    assert str(tmp_path / "r1" / "report.html") in done.output
    assert (tmp_path / "r1" / "report.html").is_file()


@pytest.mark.parametrize("verdict", [Verdict.FAIL, Verdict.KNOWN_DEFECT, Verdict.INCONCLUSIVE])
def test_verdicts_exits_1_when_a_promise_does_not_hold(run, tmp_path, verdict):
    record_run(tmp_path / "r1", Verdict.PASS, verdict)
    done = run("verdicts", tmp_path / "r1")
    assert done.exit_code == 1
    assert "because" in done.output


def test_verdicts_as_json(run, tmp_path):
    record_run(tmp_path / "r1", Verdict.PASS)
    data = json.loads(run("verdicts", "--json", tmp_path / "r1").output)
    assert data["requirements"][0]["requirement"] == "R-0"


def test_verdicts_of_no_run_says_so_without_a_traceback(run, tmp_path):
    done = run("verdicts", tmp_path)
    assert done.exit_code == 2
    assert "is not the folder of a run" in done.output
    assert "Traceback" not in done.output


def test_defects_of_a_release(run):
    assert "OCTAVIA-FIREWALL-TASK" in run("defects", "--release", "18.0.1").output
    assert "OCTAVIA-FIREWALL-TASK" not in run("defects", "--release", "16.0.0").output


def test_cleanup_without_a_journal_folder(run, tmp_path):
    done = run("cleanup", "--journal-dir", tmp_path / "none")
    assert done.exit_code == 2 and "--journal-dir" in done.output


def test_cleanup_asks_which_cloud_when_the_journals_do_not_say(run, tmp_path):
    Ledger(tmp_path, "r1").close()
    done = run("cleanup", "--journal-dir", tmp_path)
    assert done.exit_code == 2 and "--cloud" in done.output


def finish(monkeypatch, outcome):
    monkeypatch.setattr(cli, "_clouds", lambda *a: None)
    monkeypatch.setattr(sweep, "cleanup", lambda *a, **k: [outcome])


def test_cleanup_that_left_nothing(run, tmp_path, monkeypatch):
    finish(monkeypatch, sweep.Outcome("r1", [], deleted=7, left=[]))
    done = run("cleanup", "--journal-dir", tmp_path)
    assert done.exit_code == 0
    assert "7 undone, nothing is left in any service" in done.output


def test_cleanup_lists_what_is_left_and_exits_1(run, tmp_path, monkeypatch):
    left = [sweep.Leftover("Nova", "server", "id-1", "name-1", "it resists")]
    finish(monkeypatch, sweep.Outcome("r1", [], deleted=7, left=left))
    done = run("cleanup", "--journal-dir", tmp_path)
    assert done.exit_code == 1
    assert "Nova server name-1 id-1: it resists" in done.output


def test_cleanup_of_a_run_that_is_alive_is_no_success(run, tmp_path, monkeypatch):
    outcome = sweep.Outcome("r1", [], alive=["process 4711"], left=[])
    finish(monkeypatch, outcome)
    done = run("cleanup", "--journal-dir", tmp_path)
    assert done.exit_code == 1 and "4711" in done.output
