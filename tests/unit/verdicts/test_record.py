# SPDX-License-Identifier: Apache-2.0
import json
import multiprocessing
import threading

import pytest

from sriov_lb_tests import errors
from sriov_lb_tests.verdicts import record, run
from sriov_lb_tests.verdicts.model import Result, Verdict


def result(number=1, verdict=Verdict.PASS):
    return Result(f"ENF-{number:03}", "A promise.", verdict, f"t{number}", reason="x" * 500)


def write_many(folder, worker):
    recorder = record.Recorder(folder)
    for number in range(50):
        recorder.append(result(worker * 100 + number))


def take_and_wait(folder, taken, go):
    run.Turn(folder).take(lambda: None)
    taken.set()
    go.wait(20)


def test_one_process_of_a_run_at_a_time(tmp_path):
    """Also when the one before was killed."""
    context = multiprocessing.get_context("fork")
    taken, go = context.Event(), context.Event()
    first = context.Process(target=take_and_wait, args=(tmp_path, taken, go))
    first.start()
    assert taken.wait(20)
    told, turn = [], run.Turn(tmp_path)
    second = threading.Thread(target=lambda: (turn.take(lambda: told.append(1)), told.append(2)))
    second.start()
    second.join(0.2)
    assert second.is_alive() and told == [1]
    first.kill()
    second.join(20)
    assert told == [1, 2]
    first.join()
    turn.give()
    run.Turn(tmp_path).take(lambda: told.append(3))
    assert told == [1, 2]


def test_parallel_workers_do_not_mix_their_lines(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=write_many, args=(tmp_path, w)) for w in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    lines = (tmp_path / record.RESULTS).read_text().splitlines()
    assert len(lines) == 200
    assert len({json.loads(line)["requirement"] for line in lines}) == 200


def test_half_a_line_of_a_killed_worker_is_skipped_and_spoils_nothing(tmp_path):
    recorder = record.Recorder(tmp_path)
    recorder.append(result(1))
    with open(tmp_path / record.RESULTS, "ab") as file:
        file.write(b'{"requirement": "ENF-0')
    recorder.append(result(2))
    assert [r.requirement for r in record.read(tmp_path)[1]] == ["ENF-001", "ENF-002"]


def test_facts_are_merged(tmp_path):
    recorder = record.Recorder(tmp_path)
    recorder.describe(run="r", mode="admin")
    recorder.describe(mode="adopt")
    recorder.append(result())
    assert record.read(tmp_path)[0] == {"run": "r", "mode": "adopt"}


def test_evidence_inside_the_run_is_relative(tmp_path):
    recorder = record.Recorder(tmp_path / "run")
    assert recorder.relative(tmp_path / "run" / "a" / "b.pcap") == "a/b.pcap"
    assert recorder.relative("/elsewhere/c.pcap") == "/elsewhere/c.pcap"


def test_a_folder_that_is_no_run_names_the_runs_in_it(tmp_path):
    record.Recorder(tmp_path / "abc").append(result())
    with pytest.raises(errors.ResourceMissing, match="abc"):
        record.read(tmp_path)


def join_and_wait(folder, chosen, go, out):
    joined = run.join(folder, "", chosen)
    out.put(joined.id)
    go.wait(10)


def test_siblings_that_live_together_are_one_run_and_later_ones_are_not(tmp_path):
    context = multiprocessing.get_context("fork")
    go, out = context.Event(), context.Queue()
    first = [
        context.Process(target=join_and_wait, args=(tmp_path, name, go, out)) for name in "ab"
    ]
    for process in first:
        process.start()
    ids = {out.get(timeout=10) for _ in first}
    go.set()
    for process in first:
        process.join()
    assert len(ids) == 1
    later = context.Process(target=join_and_wait, args=(tmp_path, "c", go, out))
    later.start()
    assert out.get(timeout=10) == "c"
    later.join()


def test_a_chosen_id_is_kept_and_latest_points_to_it(tmp_path):
    joined = run.join(tmp_path, "nightly-1", "random")
    assert joined.id == "nightly-1"
    assert (tmp_path / "latest").resolve() == joined.folder
    assert joined.evidence("Test Class", "a/b").is_dir()


def test_a_folder_for_evidence_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.JournalUnwritable, match="artifacts_dir"):
        run.join(tmp_path / "file" / "artifacts", "", "x")
