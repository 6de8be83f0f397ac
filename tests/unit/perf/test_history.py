# SPDX-License-Identifier: Apache-2.0
"""The history, change points, a night, the site and the other formats."""

from __future__ import annotations

import copy
import csv
import io
import json
import math
import os
import re
import sqlite3
import subprocess
import sys
import time
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner

from sriov_lb_perf import cli, errors, nightly
from sriov_lb_perf.history import changes
from sriov_lb_perf.history.store import History, Point
from sriov_lb_perf.report import page, site
from sriov_lb_perf.results import export, store


@pytest.fixture(autouse=True)
def small_plotly(monkeypatch):
    monkeypatch.setattr(page, "plotly_script", lambda: "/* plotly */")


@pytest.fixture
def document(finished):
    """One result for all tests here; each gets a copy of its own."""
    return finished.document


@pytest.fixture
def night_of(document):
    """night_of(number, ratio=…, sound=…): a result as a night would leave it."""

    def make(number, ratio=1.8, *, sound=True, noise=0.02):
        source = np.random.default_rng(number)
        made = copy.deepcopy(document)
        made["id"] = f"night-{number:04d}"
        made["started"] = f"2026-{1 + number // 28:02d}-{1 + number % 28:02d}T02:00:00.000+00:00"
        made["verdict"]["sound"] = sound
        for metric in made["metrics"]:
            if not metric["tested"]:
                continue
            factor = ratio if metric["better"] == "higher" else 1 / ratio
            factor *= float(np.exp(source.normal(0, noise)))
            metric["values"]["A"]["value"] = 10_000 * float(np.exp(source.normal(0, noise)))
            metric["values"]["B"]["value"] = metric["values"]["A"]["value"] * factor
            metric["ratio"] = {
                "estimate": factor, "low": factor * 0.97, "high": factor * 1.03, "level": 0.95,
            }  # fmt: skip
        return made

    return make


@pytest.fixture
def path(tmp_path):
    return tmp_path / "h" / "history.sqlite"


def points(values, sound=lambda i: True):
    return [
        Point(i, f"r{i}", "", sound(i), "", 1.0, 1.0, v, v, v) for i, v in enumerate(values)
    ]


def noisy(count, seed=0, spread=0.03):
    return 1.8 * np.exp(np.random.default_rng(seed).normal(0, spread, count))


def test_a_level_that_moved_is_found_where_it_moved():
    hits = 0
    for seed in range(10):
        values = noisy(36, seed)
        values[24:] *= 0.9
        found = changes.find(points(values), "ratio", least_change=0.02)
        hits += len(found) == 1 and abs(found[0][0].n - 24) <= 2
    assert hits >= 9


def test_noise_alone_never_moved():
    """The control of the test above, with the same noise."""
    for seed in range(10):
        assert changes.find(points(noisy(36, seed)), "ratio", least_change=0.02) == []


def test_one_odd_night_is_a_hint_and_no_change():
    values = noisy(40)
    values[-1] *= 0.5
    assert changes.find(points(values), "ratio", least_change=0.02) == []
    assert changes.odd_night(points(values), "ratio") < -4
    assert changes.odd_night(points(noisy(40)), "ratio") is None


@pytest.mark.parametrize("after", [1, 2, 3, 10])
def test_an_odd_night_starts_no_change_whatever_comes_after_it(after):
    values = noisy(30 + after, spread=0.01)
    values[29] *= 0.5
    assert changes.find(points(values), "ratio", least_change=0.02) == []


def test_an_odd_night_just_before_a_change_is_not_its_beginning():
    values = noisy(40, spread=0.01)
    values[24] *= 1.6
    values[25:] *= 0.8
    ((first, before, after),) = changes.find(points(values), "ratio", least_change=0.02)
    assert first.n == 25
    assert after / before == pytest.approx(0.8, rel=0.02)


def test_runs_that_are_not_sound_take_no_part():
    values = noisy(60)
    values[40:50] *= 0.5
    marked = points(values, sound=lambda i: not 40 <= i < 50)
    assert changes.find(marked, "ratio", least_change=0.02) == []
    assert changes.find(points(values), "ratio", least_change=0.02) != []


def test_a_year_is_partitioned_in_under_a_second():
    begin = time.process_time()
    changes.find(points(noisy(365)), "ratio", least_change=0.02)
    assert time.process_time() - begin < 1


def test_a_regression_is_told_once_with_metric_run_and_size(path, night_of, tmp_path):
    with nightly.held(path) as history:
        told = []
        for number in range(40):
            ratio = 1.8 if number < 25 else 1.5
            night = nightly.conclude(history, night_of(number, ratio), tmp_path)
            told.append(night)
    statuses = [night.status for night in told]
    assert set(statuses[:5]) == {nightly.COULD_NOT_TELL}
    assert "of at least 6 sound runs" in told[0].sentence
    assert set(statuses[6:25]) == {nightly.NOTHING_MOVED}
    when = [i for i, status in enumerate(statuses) if status == nightly.REGRESSION]
    assert when and 26 <= when[0] <= 31
    # Both metrics, each as ratio and as the SR-IOV VIP's own figure, come once each at most.
    assert sum(len(told[i].fresh) for i in when) <= 4
    sentence = told[when[0]].sentence
    assert re.search(r"regression: .* -1\d\.\d %|regression: .* \+\d\d\.\d %", sentence), sentence
    assert re.search(r"since run night-002[3-7]", sentence), sentence


@pytest.mark.parametrize("how", ["no ratio", "not measured"])
def test_a_figure_that_is_gone_is_not_nothing_moved_on_any_night(path, night_of, tmp_path, how):
    with nightly.held(path) as history:
        for number in range(8):
            made = night_of(number)
            night = nightly.conclude(history, made, tmp_path)
        assert night.status == nightly.NOTHING_MOVED
        for number in range(8, 14):
            made = night_of(number)
            tested = [metric for metric in made["metrics"] if metric["tested"]]
            tested[0]["ratio"] = None
            if how == "not measured":
                made["metrics"].remove(tested[0])
            night = nightly.conclude(history, made, tmp_path)
            assert night.status == nightly.COULD_NOT_TELL, number
            assert f"there is no figure of {tested[0]['title']}" in night.sentence
            assert "run night-0007 was the last" in night.sentence
        night = nightly.conclude(history, night_of(14), tmp_path)
    assert night.status == nightly.NOTHING_MOVED


def test_what_the_profile_no_longer_asks_for_is_not_gone(path, night_of, tmp_path):
    with nightly.held(path) as history:
        for number in range(10):
            made = night_of(number)
            if number >= 8:
                first = next(metric for metric in made["metrics"] if metric["tested"])["stage"]
                made["metrics"] = [m for m in made["metrics"] if m["stage"] != first]
                profile = made["profile"]
                profile["stages"] = [s for s in profile["stages"] if s["name"] != first]
            night = nightly.conclude(history, made, tmp_path)
    assert night.status == nightly.NOTHING_MOVED


def test_a_percentile_that_stays_infinite_is_a_regression_told_once(path, night_of, tmp_path):
    with nightly.held(path) as history:
        for number in range(8):
            nightly.conclude(history, night_of(number), tmp_path)
        told = []
        for number in range(8, 13):
            made = night_of(number)
            worst = next(metric for metric in made["metrics"] if metric["tested"])
            worst["ratio"], worst["values"]["B"]["value"] = None, "Infinity"
            told.append(nightly.conclude(history, made, tmp_path))
    assert [night.status for night in told] == [
        nightly.COULD_NOT_TELL, nightly.COULD_NOT_TELL, nightly.REGRESSION,
        nightly.COULD_NOT_TELL, nightly.COULD_NOT_TELL,
    ]  # fmt: skip
    assert f"regression: {worst['title']}" in told[2].sentence
    assert "since run night-0008" in told[2].sentence


def test_the_normal_vip_alone_is_told_without_the_word_regression(path, night_of, tmp_path):
    with nightly.held(path) as history:
        told = []
        for number in range(30):
            made = night_of(number)
            for metric in made["metrics"]:
                if metric["tested"] and number >= 15:
                    factor = 0.8 if metric["better"] == "higher" else 1.25
                    metric["values"]["A"]["value"] *= factor
            told.append(nightly.conclude(history, made, tmp_path))
    moved = [night for night in told if night.fresh]
    assert moved and {night.status for night in moved} == {nightly.NOTHING_MOVED}
    for night in moved:
        assert "worse: " in night.sentence and "regression:" not in night.sentence


def test_a_regression_near_an_improvement_is_another_change(path, night_of, tmp_path):
    change = {"metric": "requests.rate", "what": "ratio", "since": 3, "before": 1.0, "after": 1.2}
    with nightly.held(path) as history:
        for number in range(6):
            history.add(night_of(number), tmp_path, "s")
        assert history.add_changes("s", [change], 5) == [change]
        moved = {**change, "since": 4}
        assert history.add_changes("s", [moved], 6) == []
        worse = {**change, "since": 5, "before": 1.2, "after": 0.9}
        assert history.add_changes("s", [worse], 6) == [worse]


def test_an_improvement_is_told_and_is_no_regression(path, night_of, tmp_path):
    with nightly.held(path) as history:
        told = [
            nightly.conclude(history, night_of(n, 1.5 if n < 20 else 1.9), tmp_path)
            for n in range(35)
        ]
    assert nightly.REGRESSION not in {night.status for night in told}
    assert any("improvement" in night.sentence for night in told)


def test_a_night_that_failed_its_gates_tells_nothing(path, night_of, tmp_path):
    with nightly.held(path) as history:
        for number in range(10):
            nightly.conclude(history, night_of(number), tmp_path)
        night = nightly.conclude(history, night_of(10, 0.5, sound=False), tmp_path)
        assert night.status == nightly.COULD_NOT_TELL
        assert "not used for trends" in night.sentence
        after = nightly.conclude(history, night_of(11), tmp_path)
        assert after.status == nightly.NOTHING_MOVED


def test_two_nightlies_at_once_second_is_told_who_holds_it(path):
    with nightly.held(path):
        with pytest.raises(errors.Busy, match=str(os.getpid())), nightly.held(path):
            pass
    with nightly.held(path):
        pass  # let go again


def test_reading_needs_no_lock(path, document, tmp_path):
    with nightly.held(path) as history:
        history.add(document, tmp_path, "s")
        with History(path) as reader:
            assert [run["id"] for run in reader.runs()] == [document["id"]]


def test_a_kill_in_mid_write_damages_nothing(path, document, tmp_path):
    with nightly.held(path) as history:
        history.add(document, tmp_path, "s")
    again = copy.deepcopy(document)
    again["id"] = "second"
    (tmp_path / "second.json").write_text(json.dumps(again))
    program = (
        "import json, os, sys; from pathlib import Path\n"
        "from sriov_lb_perf.history import store\n"
        "real = store._real\n"
        "calls = []\n"
        "def dying(value):\n"
        "    calls.append(value)\n"
        "    if len(calls) > 6: os.kill(os.getpid(), 9)\n"
        "    return real(value)\n"
        "store._real = dying\n"
        "with store.History(Path(sys.argv[1]), writing=True) as h:\n"
        "    h.add(json.loads(Path(sys.argv[2]).read_text()), Path('.'), 's')\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    argv = [sys.executable, "-c", program, str(path), str(tmp_path / "second.json")]
    assert subprocess.run(argv, env=env).returncode == -9
    with nightly.held(path) as history:
        assert [run["id"] for run in history.runs()] == [document["id"]]
        history.add(again, tmp_path, "s")  # the control
        assert len(history.runs()) == 2
        assert len(history.figures(2)) == 2


def test_a_full_disk_is_named_and_the_history_is_as_before(path, document, tmp_path):
    with nightly.held(path) as history:
        history.add(document, tmp_path, "s")
        # As many pages as there are: the next one does not fit.
        (pages,) = history._database.execute("PRAGMA page_count").fetchone()
        history._database.execute(f"PRAGMA max_page_count = {pages}")
        big = copy.deepcopy(document)
        big["verdict"]["sentence"] = "x" * 100_000
        big["id"] = "big"
        with pytest.raises(errors.HistoryFailed, match="is full.*history add"):
            history.add(big, tmp_path, "s")
        assert [run["id"] for run in history.runs()] == [document["id"]]


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"no database at all, this is text" * 40, "damaged"), (None, "no history")],
)
def test_a_history_that_is_none_is_told_in_words(path, content, words):
    if content:
        path.parent.mkdir()
        path.write_bytes(content)
    with pytest.raises(errors.HistoryFailed, match=words), History(path):
        pass


def test_a_newer_history_is_not_touched(path):
    with nightly.held(path):
        pass
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(errors.HistoryFailed, match="version 99"), nightly.held(path):
        pass


def test_a_clock_that_was_set_back_does_not_reorder_the_past(path, night_of, tmp_path):
    with nightly.held(path) as history:
        first, second = night_of(1), night_of(2)
        second["started"] = "2020-01-01T00:00:00.000+00:00"
        history.add(first, tmp_path, "s")
        history.add(second, tmp_path, "s")
        assert [run["id"] for run in history.runs()] == [first["id"], second["id"]]


def test_a_run_stored_twice_is_there_once(path, document, tmp_path):
    with nightly.held(path) as history:
        assert history.add(document, tmp_path, "s") == history.add(document, tmp_path, "s")
        assert len(history.runs()) == 1


@pytest.fixture
def published(path, night_of, made_run, tmp_path):
    with nightly.held(path) as history:
        for number in range(12):
            nightly.conclude(history, night_of(number), tmp_path / "gone", series="smoke@macvlan")
        outcome = made_run(ratio=1.8)
        page.write(outcome.folder, outcome.document)
        night = nightly.conclude(
            history, outcome.document, outcome.folder, series="smoke@macvlan"
        )
        nightly.publish(history, outcome.document, night, tmp_path / "site")
    return tmp_path / "site", outcome


def test_the_site_has_an_index_trends_pages_and_other_formats(published):
    folder, outcome = published
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    raw = {name for name in names if "/raw/" in name}
    assert len(raw) == len(list((outcome.folder / "raw").iterdir())) > 0
    assert names - raw == {
        "index.html", "compare.html", "trends-smoke_macvlan.html", "plotly.min.js",
        f"runs/{outcome.document['id']}/index.html",
        f"runs/{outcome.document['id']}/result.json", "latest.json", "latest.csv", "latest.xml",
        "metrics.txt",
    }  # fmt: skip
    index = (folder / "index.html").read_text()
    assert f'href="runs/{outcome.document["id"]}/index.html"' in index
    assert "Nothing moved in 13 sound runs." in index
    # The pages of the other nights are gone: no link to nowhere.
    assert "runs/night-0003" not in index
    for link in re.findall(r'href="([^"#:]+)"', index):
        assert (folder / link).is_file(), link
    # The run's page there: every link leads somewhere, and plotly is the site's.
    own = folder / "runs" / outcome.document["id"]
    text = (own / "index.html").read_text()
    links = re.findall(r'(?:href|src)="([^"#:]+)"', text)
    assert "../../plotly.min.js" in links and "result.json" in links
    assert any(link.startswith("raw/") for link in links)
    for link in links:
        assert (own / link).is_file(), link
    assert "/* plotly */" not in text
    assert "/* plotly */" in (outcome.folder / "report.html").read_text()
    trends = (folder / "trends-smoke_macvlan.html").read_text()
    specs = re.search(r"new Map\((.*)\.map\(spec", trends)
    assert len(json.loads(specs.group(1))) == 4
    runs = re.search(r"const runs = (.*);", (folder / "compare.html").read_text())
    assert len(json.loads(runs.group(1))) == 13


def test_csv_junit_and_openmetrics_say_the_same(document):
    rows = list(csv.DictReader(io.StringIO(export.csv_text(document))))
    rate = next(row for row in rows if row["metric"] == "requests.rate")
    metric = next(m for m in document["metrics"] if m["id"] == "requests.rate")
    assert float(rate["ratio"]) == metric["ratio"]["estimate"]
    text = export.open_metrics(document, "s")
    assert text.endswith("# EOF\n")
    value = re.search(
        r'sriov_lb_perf_ratio\{.*metric="requests.rate",bound="estimate"\} (\S+)', text
    )
    assert float(value.group(1)) == pytest.approx(metric["ratio"]["estimate"])
    seconds = re.search(r'latency_seconds\{.*vip="normal"\} (\S+)', text)
    assert 1e-5 < float(seconds.group(1)) < 1
    suite = ElementTree.fromstring(export.junit(document, {"requests.rate": "it got slower"}))
    assert suite.get("failures") == "1" and suite.get("errors") == "0"
    names = [case.get("name") for case in suite.iter("testcase")]
    assert "requests.rate" in names and "members" in names


def test_openmetrics_is_well_formed(document):
    """Each sample follows its family's TYPE, families do not repeat, labels are quoted."""
    text = export.open_metrics(document, 'a "quoted"\nname')
    families = re.findall(r"# TYPE (\S+) gauge", text)
    assert len(families) == len(set(families))
    for line in text.splitlines():
        if not line.startswith("#"):
            assert re.fullmatch(r'[a-z_]+\{([a-z]+="(\\.|[^"\\])*",?)+\} \S+', line), line


def test_a_gate_that_failed_is_an_error_in_junit(document):
    broken = copy.deepcopy(document)
    broken["gates"][0]["passed"] = False
    suite = ElementTree.fromstring(export.junit(broken))
    assert suite.get("errors") == "1" and suite.get("failures") == "0"


def run(*words):
    return CliRunner().invoke(cli.main, [str(word) for word in words], catch_exceptions=False)


def test_the_history_can_be_listed_extended_and_published(made_run, path, tmp_path):
    outcome = made_run(ratio=1.8)
    assert run("history", "add", outcome.folder, "--history", path).exit_code == 0
    listed = run("history", "list", "--history", path)
    assert outcome.document["id"] in listed.output and "sound" in listed.output
    assert run("history", "changes", "--history", path).exit_code == 0
    done = run("history", "publish", tmp_path / "site", "--history", path)
    assert done.output.strip().endswith("index.html")
    missing = run("history", "list", "--history", tmp_path / "none")
    assert missing.exit_code == 2 and "no history" in missing.output


def test_results_can_be_printed_and_pages_written_again(made_run):
    outcome = made_run(ratio=1.8)
    assert "requests.rate" in run("export", outcome.folder).output
    assert run("export", outcome.folder, "--format", "openmetrics").output.endswith("# EOF\n")
    done = run("report", outcome.folder / "result.json")
    assert (outcome.folder / "report.html").is_file() and "report.html" in done.output
    (outcome.folder / "result.json").write_text("{")
    assert run("report", outcome.folder).exit_code == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "--sriov-vip, --normal-vip, --client"),
        (["--profile", "slow"], "no profile 'slow'"),
        (["--targets", "none.yaml"], "--targets none.yaml"),
        (["--from-cloud"], "--config-file"),
        (["--from-cloud", "--sriov-vip", "http://x/"], "exclude each other"),
        (["--from-cloud", "--substrate", "hardware"], "--from-cloud and --substrate exclude"),
        (["--from-cloud", "--client", "local", "--targets", "f"], "and --targets, --client ex"),
        (["--targets", "f", "--ssh-key", "k"], "--targets and --ssh-key exclude each other"),
        (["--from-cloud", "--config-file", "none.conf"], "no such file"),
    ],
)
def test_bad_options_are_refused_in_words(options, words, monkeypatch, tmp_path):
    monkeypatch.delenv("TEMPEST_CONFIG", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    done = run("compare", *options)
    assert done.exit_code == 2
    assert words in done.output
    assert "Traceback" not in done.output


def test_an_error_nobody_expected_is_no_regression(monkeypatch):
    def broken(*_arguments):
        raise RuntimeError("what is this")

    monkeypatch.setattr(store, "load", broken)
    done = run("report", ".")
    assert done.exit_code == 2 and "this is a bug" in done.output


def test_a_site_that_cannot_be_written_hides_no_regression(monkeypatch, made_run, path, tmp_path):
    outcome = made_run(ratio=1.5)
    monkeypatch.setattr(cli, "_compare", lambda options: outcome)
    told = nightly.Night(nightly.REGRESSION, "regression: something.")
    monkeypatch.setattr(nightly, "conclude", lambda *a, **k: told)

    def full(*_arguments):
        raise errors.EngineFailed("No space left on device")

    monkeypatch.setattr(nightly, "publish", full)
    done = run("nightly", "--history", str(path), "--site", str(tmp_path / "site"))
    assert done.exit_code == 1 and "site was not published: No space left" in done.output


def test_thresholds_decide_the_exit_status(made_run):
    outcome = made_run(ratio=1.8)
    told = dict(
        (text.split(":")[0], crossed)
        for text, crossed in cli._thresholds(outcome, {"min_rate_ratio": 1.5})
    )
    assert told == {"--min-rate-ratio 1.5": False}
    assert [c for _, c in cli._thresholds(outcome, {"min_rate_ratio": 3.0})] == [True]
    near = outcome.analysis.metric("requests.rate").finding.ratio.estimate
    assert [c for _, c in cli._thresholds(outcome, {"min_rate_ratio": near})] == [None]
    assert [c for _, c in cli._thresholds(outcome, {"max_latency_ratio": 0.5})] == [None]
    assert math.isfinite(near) and store.VERSION == 1


def with_kernel(document, kernel):
    """The result, as of machines with that kernel."""
    document["environment"] |= {
        "clients": [{"name": "any", "kernel": kernel, "paths": {"sriov": {"driver": "iavf"}}}],
        "amphorae": {
            side: [{"name": "single", "facts": {"kernel": kernel, "MAC": str(id(document))},
                    "during": {}, "failed": ""}]
            for side in ("A", "B")
        },
    }  # fmt: skip
    return document


def test_a_change_is_told_with_what_changed_that_night(path, night_of, tmp_path):
    with nightly.held(path) as history:
        told = []
        for number in range(16):
            ratio, kernel = (1.8, "6.1.0-26") if number < 10 else (1.4, "6.1.0-27")
            document = with_kernel(night_of(number, ratio), kernel)
            told.append(nightly.conclude(history, document, tmp_path, series="s"))
        hints = [hint for night in told for hint in night.hints if "changed too" in hint]
        assert hints and "kernel 6.1.0-26 -> 6.1.0-27" in hints[0]
        assert "MAC" not in hints[0]
        # The night before it: the control.
        assert history.changed_with(10) == []
        site.publish(history, tmp_path / "site")
    assert "6.1.0-26 → 6.1.0-27" in (tmp_path / "site" / "index.html").read_text()
    compared = (tmp_path / "site" / "compare.html").read_text()
    facts = json.loads(re.search(r"const facts = (.*);", compared).group(1))
    # Each set of facts is there once, however many nights had it.
    assert len(facts) == 2


def test_a_stage_that_was_edited_is_told_beside_what_moved(path, document, tmp_path):
    """Other trials are another measurement; more blocks of the same are not."""
    (stage,) = document["profile"]["stages"]
    longer = {**document["profile"], "stages": [{**stage, "blocks": 50}]}
    edited = {**longer, "stages": [{**stage, "blocks": 50, "warmup": 0.5}]}
    with nightly.held(path) as history:
        for number, profile in enumerate((document["profile"], longer, edited)):
            history.add({**document, "id": str(number), "profile": profile}, tmp_path, "s")
        assert history.changed_with(2) == []
        assert history.changed_with(3) == [
            (
                "profile: requests", "engine http-rate, seconds 1, warmup 0.1, rounds 1",
                "engine http-rate, seconds 1, warmup 0.5, rounds 1",
            )
        ]  # fmt: skip


def test_a_history_of_version_1_is_read_and_then_extended(path, document, tmp_path):
    with nightly.held(path) as history:
        history.add(document, tmp_path, "s")
    with sqlite3.connect(path) as database:
        database.executescript("DROP TABLE fact; PRAGMA user_version = 1;")
    with History(path) as history:
        assert history.facts(1) == {} and history.changed_with(1) == []
        assert len(history.runs()) == 1
    with nightly.held(path) as history:
        history.add({**document, "id": "next"}, tmp_path, "s")
        assert history.facts(1) == {} and history.facts(2)["substrate"] == "macvlan"
        assert history.changed_with(2) == []
