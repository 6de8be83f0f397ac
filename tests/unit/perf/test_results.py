# SPDX-License-Identifier: Apache-2.0
"""A run from beginning to end with a made-up engine: what is found, and what is left on disk."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from sriov_lb_perf import errors
from sriov_lb_perf.histogram import Histogram
from sriov_lb_perf.model import SETTLING, Metric, in_a_sentence
from sriov_lb_perf.report import page
from sriov_lb_perf.results import analysis, store
from sriov_lb_perf.statistics import verdict
from sriov_lb_perf.statistics.estimates import Interval


def test_a_difference_ends_up_in_the_sentence_the_gates_and_the_document(made_run):
    outcome = made_run(ratio=1.5)
    assert outcome.complete
    assert outcome.analysis.word == verdict.FASTER
    sentence = outcome.analysis.sentence
    assert sentence.startswith("The SR-IOV VIP is faster: ")
    assert "% more requests per second (" in sentence
    # One figure a stage; the others are in the table.
    assert "latency" not in sentence
    found = store.load(outcome.folder)
    assert found["status"] == "complete" and found["verdict"]["sound"] is True
    assert found["environment"]["substrate"] == "macvlan"
    metric = next(m for m in found["metrics"] if m["id"] == "requests.rate")
    assert metric["ratio"]["low"] < 1.5 < metric["ratio"]["high"]
    assert len(metric["blocks"]) == 6
    untested = next(m for m in found["metrics"] if m["id"] == "requests.loss")
    assert untested["verdict"] == "not tested" and untested["p"] is None
    assert {gate["passed"] for gate in found["gates"]} == {True}


def test_a_run_of_several_rounds_a_block_is_kept_and_shown(made_run):
    outcome = made_run(ratio=1.5, blocks=5, rounds=3)
    assert outcome.analysis.word == verdict.FASTER
    found = store.load(outcome.folder)
    assert found["status"] == "complete"
    assert found["stages"][0]["rounds"] == 3 and found["stages"][0]["blocks"] == 5
    assert len(found["trials"]) == 60
    assert {trial["position"] for trial in found["trials"]} == set(range(12))
    assert "5 blocks, as fixed, of 3 rounds each" in page.render(found)


def test_no_difference_is_not_called_one(made_run):
    outcome = made_run(ratio=1.0, spread=0.1)
    assert outcome.analysis.word == verdict.UNCLEAR
    assert "could not tell" in outcome.analysis.sentence


def test_equal_vips_are_equivalent(made_run):
    outcome = made_run(ratio=1.0, spread=0.004, blocks=8)
    assert outcome.analysis.word == verdict.EQUIVALENT
    assert "equivalent within 5%" in outcome.analysis.sentence


def results_of(*verdicts):
    """Median latency of as many stages, each with that verdict; and the stages."""
    names = [f"stage_{number}" for number in range(len(verdicts))]
    metric = Metric("p50", "Latency, median", "ns", "lower")
    results = [
        analysis.MetricResult(
            f"{name}.p50", name, metric,
            verdict.Finding(f"{name}.p50", 6, Interval(0.5, 0.4, 0.6), verdict=word), None,
        )
        for name, word in zip(names, verdicts, strict=True)
    ]  # fmt: skip
    stages = [SimpleNamespace(name=name, title=name.title()) for name in names]
    return results, SimpleNamespace(stages=stages, margin=0.05)


@pytest.mark.parametrize(
    ("verdicts", "text"),
    [
        ("f", "median latency (40 to 60 %)."),
        ("ff", "[Stage_0] (40 to 60 %), likewise in 1 more stage."),
        ("fffu", "likewise in 2 more stages; could not tell: median latency [Stage_3]."),
        # What is worse is told of each.
        ("ffss", "likewise in 1 more stage, 50 % less median latency [Stage_2] (40 to 60 %), "
                 "50 % less median latency [Stage_3] (40 to 60 %)."),
    ],
)  # fmt: skip
def test_what_is_better_in_several_stages_is_told_once(verdicts, text):
    word = {"f": verdict.FASTER, "s": verdict.SLOWER, "u": verdict.UNCLEAR}
    metrics, profile = results_of(*(word[each] for each in verdicts))
    pair = SimpleNamespace(
        candidate=SimpleNamespace(role="sriov"), reference=SimpleNamespace(role="normal")
    )
    _, sentence = analysis._sentence(metrics, [], pair, profile, complete=True)
    assert sentence.endswith(text)
    assert sentence.count("Stage_1") == 0


@pytest.mark.parametrize(
    ("ratio", "noun", "text"),
    [
        ((1.86, 1.75, 1.98), "requests per second", "86 % more requests per second (75 to 98 %)"),
        ((0.22, 0.15, 0.33), "median latency", "78 % less median latency (67 to 85 %)"),
        ((1.04, 0.99, 1.08), "goodput", "4.0 % more goodput (-1.0 to 8.0 %)"),
        ((7.5, 6.0, 9.2), "goodput", "7.5 times the goodput (6.0 to 9.2)"),
    ],
)
def test_effects_are_told_in_words(ratio, noun, text):
    assert analysis.change_in_words(Interval(*ratio), noun) == text


def test_claims_of_the_profile_are_judged(made_run):
    claim = {
        "text": "twice as fast", "source": "a leaflet", "metric": ["requests.rate"],
        "ratio": 2.0, "better": "higher",
    }  # fmt: skip
    outcome = made_run(ratio=1.5, claims=[claim])
    assert outcome.document["claims"][0]["verdict"] == verdict.CONTRADICTED


def test_every_number_can_be_traced_to_its_raw_file(made_run):
    outcome = made_run()
    for trial in outcome.document["trials"]:
        where = trial["raw"]["hlog"]
        lines = (outcome.folder / where["file"]).read_text().split("\n")
        tag, _, rest = lines[where["lines"]["latency"] - 1].partition(",")
        assert tag == f"Tag={trial['side']}.{trial['number']}.latency"
        logged = Histogram.decode(rest.split(",")[-1])
        assert logged.percentile(50) == pytest.approx(trial["percentiles"]["latency"]["p50"])
        raw = np.load(outcome.folder / trial["raw"]["npz"])["done"]
        assert (Histogram.of(raw).counts == logged.counts).all()


def test_the_log_is_read_by_hdrhistogram_s_own_reader(made_run):
    from hdrh.histogram import HdrHistogram
    from hdrh.log import HistogramLogReader

    outcome = made_run()
    whole = HdrHistogram(1, 3_600 * 10**9, 3)
    reader = HistogramLogReader(str(outcome.folder / "raw" / "requests.hlog"), whole)
    count = 0
    while (interval := reader.get_next_interval_histogram()) is not None:
        count += interval.get_total_count()
    assert count == 24 * 2000


def test_a_failure_in_mid_run_keeps_what_was_measured(made_run):
    error = errors.TargetFailed("the VIP went away")
    outcome = made_run(ratio=1.5, fail_at=22, error=error)
    assert outcome.failure is error
    found = store.load(outcome.folder)
    assert found["status"] == "incomplete" and "went away" in found["reason"]
    assert len(found["trials"]) == 21
    assert found["verdict"]["sound"] is False
    assert outcome.analysis.sentence.startswith("Incomplete run")
    metric = next(m for m in found["metrics"] if m["id"] == "requests.rate")
    assert len(metric["blocks"]) == 5


def test_a_failure_before_the_first_trial_is_an_error_and_leaves_a_marked_result(
    made_run, tmp_path
):
    with pytest.raises(errors.TargetFailed):
        made_run(fail_at=1, error=errors.TargetFailed("it answers 503"), output=tmp_path / "r")
    (folder,) = (tmp_path / "r").iterdir()
    assert store.load(folder)["status"] == "incomplete"
    assert "503" in store.load(folder)["reason"]


def test_ctrl_c_ends_the_run_in_order(made_run):
    outcome = made_run(fail_at=10, error=KeyboardInterrupt())
    assert "told to end" in str(outcome.failure)
    assert store.load(outcome.folder)["status"] == "incomplete"


def test_a_result_is_on_disk_marked_incomplete_while_the_run_lasts(made_run, tmp_path):
    """What a kill -9 at that moment would leave."""
    seen = []

    def look(event, run, sample):
        if event in ("start", "block"):
            (folder,) = (tmp_path / "r").iterdir()
            found = store.load(folder)
            seen.append((found["status"], len(found["trials"])))

    outcome = made_run(output=tmp_path / "r", progress=look)
    assert seen == [("incomplete", 4 * n) for n in range(7)]
    assert store.load(outcome.folder)["status"] == "complete"


def test_a_kill_while_writing_leaves_the_old_document_whole(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("old")
    program = (
        "import os, sys; from pathlib import Path; from sriov_lb_perf.results import store\n"
        "os.fsync = lambda fd: os.kill(os.getpid(), 9)\n"
        "store.write_atomically(Path(sys.argv[1]), b'new')\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", program, str(path)], env=env)
    assert done.returncode == -9
    assert path.read_text() == "old"
    store.write_atomically(path, b"new")  # the control
    assert path.read_text() == "new"


def test_a_full_disk_is_named_and_damages_nothing(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    path.write_text("old")

    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(errors.EngineFailed, match=r"No space left.*Free disk space"):
        store.write_atomically(path, b"new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda d: d.update(version=99), "version 99"),
        (lambda d: d.update(schema="other"), "not a result"),
        (lambda d: d["metrics"][0].pop("ratio"), "breaks the result schema"),
    ],
)
def test_a_result_of_another_kind_is_refused_in_words(made_run, spoil, words):
    outcome = made_run()
    path = outcome.folder / "result.json"
    document = json.loads(path.read_text())
    spoil(document)
    path.write_text(json.dumps(document))
    with pytest.raises(errors.BadResult, match=words):
        store.load(path)


def test_figures_that_json_lacks_survive():
    assert store.plain([math.nan, math.inf, -math.inf, np.float64(1.5)]) == [
        None, "inf", "-inf", 1.5,
    ]  # fmt: skip
    assert math.isnan(store.number(None)) and store.number("inf") == math.inf


def test_members_that_differ_fail_a_gate(made_run, fake_engine):
    engine = fake_engine(ratio=1.5)
    measure = engine.measure

    def other_members(trial, pair, crew):
        sample = measure(trial, pair, crew)
        sample.members = {"member-2" if trial.side == "B" else "member-1": 1}
        return sample

    engine.measure = other_members
    outcome = made_run(engine=engine)
    failed = [gate for gate in outcome.analysis.gates if gate.passed is False]
    assert [gate.name for gate in failed] == ["members"]
    assert not outcome.document["verdict"]["sound"]
    assert "not used for trends" in outcome.analysis.sentence
    # And nothing is claimed: it is not the port that differs.
    tested = [m for m in outcome.analysis.metrics if m.metric.claim]
    assert {m.finding.verdict for m in tested} == {verdict.UNCLEAR}


@pytest.mark.parametrize(("drift", "failed"), [(0.4, ["requests: sriov VIP settled"]), (0.02, [])])
def test_trials_that_had_not_settled_support_no_claim(made_run, fake_engine, drift, failed):
    engine = fake_engine(ratio=1.5)
    measure, metrics = engine.measure, engine.metrics
    engine.metrics = lambda stage: [
        *metrics(stage), Metric(SETTLING, "Settling", "share", "lower", claim=False)
    ]  # fmt: skip

    def drifting(trial, pair, crew):
        sample = measure(trial, pair, crew)
        sample.values[SETTLING] = (drift if trial.side == "B" else 0.01) + trial.number / 1e5
        return sample

    engine.measure = drifting
    outcome = made_run(engine=engine)
    assert [gate.name for gate in outcome.analysis.gates if gate.passed is False] == failed
    finding = outcome.analysis.metric("requests.rate").finding
    assert (finding.verdict == verdict.UNCLEAR) is bool(failed)
    assert bool(finding.reasons) is bool(failed)
    if failed:
        assert "against the second +40.0 %" in finding.reasons[0]


@pytest.mark.parametrize(("sides", "passed"), [("B", False), ("AB", True)])
def test_a_vip_is_not_judged_by_the_blocks_in_which_it_did_not_fail(
    made_run, fake_engine, sides, passed
):
    engine = fake_engine(ratio=1.5)
    measure = engine.measure

    def failing(trial, pair, crew):
        sample = measure(trial, pair, crew)
        if trial.block < 2 and trial.side in sides:
            sample.void, sample.broke = ["7 of 100 requests failed (7 x reset)"], True
        return sample

    engine.measure = failing
    outcome = made_run(engine=engine)
    gates = [gate for gate in outcome.analysis.gates if gate.name.endswith("trials")]
    assert {gate.passed for gate in gates} == {passed}
    assert ("through VIP B alone" in gates[0].text) is not passed


def test_a_generator_at_its_limit_supports_no_claim(made_run, fake_engine):
    engine = fake_engine(ratio=1.5)
    measure = engine.measure

    def limited(trial, pair, crew):
        sample = measure(trial, pair, crew)
        if trial.side == "B":
            sample.void.append("the generator used 97% of its core")
        return sample

    engine.measure = limited
    outcome = made_run(engine=engine)
    finding = outcome.analysis.metric("requests.rate").finding
    assert finding.verdict == verdict.UNCLEAR
    assert any("97%" in reason for reason in finding.reasons + [outcome.analysis.gates[0].text])
    assert outcome.analysis.gates[0].passed is False


def test_the_same_seed_repeats_the_order(made_run, fake_engine):
    def order(seed):
        engine = fake_engine()
        made_run(seed=seed, engine=engine, blocks=2)
        return [trial.side for trial in engine.measured]

    assert order(5) == order(5)
    assert len({tuple(order(seed)) for seed in range(5)}) == 2


@pytest.mark.parametrize(
    ("title", "text"),
    [
        ("Requests per second", "requests per second"),
        ("TCP connect, median", "TCP connect, median"),
        ("UDP latency, median", "UDP latency, median"),
        ("Full TLS handshakes per second", "full TLS handshakes per second"),
    ],
)
def test_a_title_in_a_sentence_keeps_its_abbreviation(title, text):
    assert in_a_sentence(title) == text
