# SPDX-License-Identifier: Apache-2.0
"""Nothing that was measured is thrown away, and a reader finds it again."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sriov_lb_perf import errors
from sriov_lb_perf.report import figures, page
from sriov_lb_perf.results import store


def test_arrays_reports_and_intervals_are_kept_beside_each_other(sample_of, tmp_path):
    folder = store.Folder(tmp_path / "run")
    sample = sample_of(
        "B", 2, 1, durations=[1000, 2000],
        raw={"done": np.arange(3), "iperf3": {"end": {"rate": float("nan")}}},
        series=[{"t": 0.0, "done": 5}],
    )  # fmt: skip
    where = folder.keep_raw(sample)
    assert set(where) == {"hlog", "npz", "json"}
    assert list(np.load(folder.path / where["npz"])["done"]) == [0, 1, 2]
    assert json.loads((folder.path / where["json"]).read_text()) == {
        "iperf3": {"end": {"rate": None}}, "intervals": [{"t": 0.0, "done": 5}],
    }  # fmt: skip
    line = (folder.path / where["hlog"]["file"]).read_text().splitlines()
    assert line[where["hlog"]["lines"]["latency"] - 1].startswith("Tag=B.10.latency")
    told = figures.raw_places({"raw": where})
    for name in (where["npz"], where["json"], "raw/requests.hlog line 4 (latency)"):
        assert name in told


def test_a_trial_without_any_says_so(sample_of, tmp_path):
    folder = store.Folder(tmp_path / "run")
    sample = sample_of("A", 0, 0)
    sample.histograms = {}
    assert folder.keep_raw(sample) == {}
    assert figures.raw_places({"raw": {}}) == "none but result.json"


def test_every_trial_of_a_page_names_its_raw_data(finished, monkeypatch):
    monkeypatch.setattr(page, "plotly_script", lambda: "")
    text = page.render(finished.document)
    assert "Raw data</th>" in text
    for trial in finished.document["trials"]:
        assert figures.raw_places(trial) in text
        for kind in ("npz", "json"):
            if kind in trial["raw"]:
                assert (finished.folder / trial["raw"][kind]).is_file()


def test_metrics_of_one_title_in_several_stages_are_told_apart(finished):
    document = finished.document
    (rate,) = [m for m in document["metrics"] if m["id"] == "requests.rate"]
    document["stages"].append({**document["stages"][0], "name": "again", "title": "Once more"})
    document["metrics"].append({**rate, "id": "again.rate", "stage": "again"})
    rows = figures.forest(document).rows
    titles = [row[0] for row in rows]
    assert len(set(titles)) == len(titles) == 3
    assert "Requests per second (Once more)" in titles


@pytest.mark.parametrize("free", [0, store.ROOM - 1])
def test_a_disk_without_room_is_refused(tmp_path, monkeypatch, free):
    usage = store.shutil.disk_usage(tmp_path)._replace(free=free)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(errors.EngineFailed, match="MiB free; a run may take 64 MiB"):
        store.require_room(tmp_path / "not" / "there" / "yet")
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: usage._replace(free=store.ROOM))
    store.require_room(tmp_path)
    with pytest.raises(errors.EngineFailed, match="may take 65 MiB"):
        store.require_room(tmp_path, 1 << 20)
