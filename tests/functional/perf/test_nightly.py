# SPDX-License-Identifier: Apache-2.0
"""A night from the command line, and the site it publishes."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import browser
import pytest
import yaml
import year

import sriov_lb_perf
import sriov_lb_tests
from sriov_lb_perf.history.store import History
from sriov_lb_perf.report import site

PROFILE = {
    "name": "tiny",
    "title": "Tiny",
    "time_limit": 60,
    "margin": 0.2,
    "limits": {"steal": 1.0, "failed": 0.01},
    "stages": [
        {
            "name": "requests", "title": "Request rate", "engine": "http-rate", "seconds": 0.2,
            "warmup": 0.1, "blocks": 2, "parameters": {"connections": 8},
        },
        {
            "name": "goodput", "title": "Goodput", "engine": "http-goodput", "optional": True,
            "seconds": 0.2, "warmup": 0.1, "blocks": 2,
        },
        {
            "name": "bandwidth", "title": "Bandwidth", "engine": "iperf3", "optional": True,
            "seconds": 1, "warmup": 0, "blocks": 2,
        },
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def night(bed, tmp_path_factory):
    """`sriov-lb-perf nightly` with a target file; (exit status, output, folder)."""
    folder = tmp_path_factory.mktemp("night")
    url = bed.vip("night", 89)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(PROFILE))
    targets = {
        "substrate": "none",
        "vips": {name: {"url": url, "large": "/large"} for name in ("normal", "sriov")},
        "clients": [{"name": "client", "namespace": bed.client}],
    }
    (folder / "targets.yaml").write_text(yaml.safe_dump(targets))
    roots = [os.path.dirname(os.path.dirname(m.__file__)) for m in (sriov_lb_perf, sriov_lb_tests)]
    done = subprocess.run(
        [
            sys.executable, "-m", "sriov_lb_perf.cli", "nightly",
            "--profile", str(folder / "tiny.yaml"), "--targets", str(folder / "targets.yaml"),
            "--artifacts", str(folder / "runs"), "--history", str(folder / "history.sqlite"),
            "--site", str(folder / "site"),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(roots)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr, folder


def test_the_first_night_cannot_tell_and_says_why(night):
    status, output, folder = night
    assert status == 2, output
    assert "1 of at least 6 sound runs" in output or "not used for trends" in output
    assert "Bandwidth: left out, no iperf3 listener is known" in output
    with History(folder / "history.sqlite") as history:
        (run,) = history.runs()
        assert run["series"] == "tiny@none" and run["status"] == "complete"
        metrics = {figure["metric"] for figure in history.figures(run["n"])}
        assert metrics == {"requests.rate", "goodput.rate"}


@pytest.mark.skipif(browser.executable() is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [400, 1600])
def test_its_site_is_right_in_a_browser(night, width):
    _, output, folder = night
    with browser.Browser() as tab:
        (own,) = (folder / "site" / "runs").glob("*/index.html")
        names = ("index.html", "trends-tiny_none.html", "compare.html", str(own))
        for name in names:
            tab.open(folder / "site" / name, width)
            assert tab.problems() == [], name
            assert tab.evaluate("document.documentElement.scrollWidth") == width, name
        # The run's page there draws with the site's plotly, and has its raw data.
        assert tab.evaluate("document.querySelectorAll('.plot .main-svg').length") >= 4
        assert (own.parent / "result.json").is_file() and list((own.parent / "raw").iterdir())


@pytest.fixture(scope="module")
def a_year(tmp_path_factory):
    """The site of a year of nights of the standard profile; (folder, metrics, seconds of CPU)."""
    folder = tmp_path_factory.mktemp("year")
    metrics = year.fill(folder / "history.sqlite")
    with History(folder / "history.sqlite") as history:
        began = time.process_time()
        site.publish(history, folder / "site")
        return folder / "site", metrics, time.process_time() - began


def test_the_site_of_a_year_is_written_in_a_second(a_year):
    folder, metrics, seconds = a_year
    assert metrics >= 12 and seconds < 1
    trends = (folder / "trends-standard_hardware.html").read_text()
    assert trends.count('class="plot"') == 2 * metrics


@pytest.mark.series
@pytest.mark.skipif(browser.executable() is None, reason="chromium is not installed")
def test_of_a_year_only_what_is_seen_is_drawn(a_year):
    """How fast that makes it is for `make bench` to say."""
    folder, metrics, _ = a_year
    with browser.Browser() as tab:
        for name in ("index.html", "compare.html"):
            tab.open(folder / name, 1600)
            assert tab.problems() == [], name
        tab.open(folder / "trends-standard_hardware.html", 1600)
        assert tab.problems() == []
        shown = "[...document.querySelectorAll('.plot')].filter(p => p.querySelector('svg')).length"
        deadline = time.monotonic() + 30
        while not tab.evaluate(shown):
            assert time.monotonic() < deadline, "nothing is drawn"
            tab.problems()
        assert tab.evaluate(shown) < 2 * metrics, "all at once"
        # On paper all of them are.
        tab.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        tab.problems()
        assert tab.evaluate(shown) == 2 * metrics


@pytest.mark.skipif(browser.executable() is None, reason="chromium is not installed")
def test_any_two_runs_are_compared_by_address(a_year):
    folder, metrics, _ = a_year
    with browser.Browser() as tab:
        tab.open(folder / "compare.html", 1600)
        assert tab.evaluate("document.querySelectorAll('#rows tr').length") == 3 * metrics
        assert "Nothing that is known" in tab.evaluate("document.getElementById('facts').innerText")
        ids = tab.evaluate("[runs[300].id, runs[10].id]")
        tab.evaluate(f"location.hash = 'before={ids[0]}&after={ids[1]}'")
        tab.problems()
        assert tab.evaluate("document.getElementById('before').value") == "300"
        told = tab.evaluate("document.getElementById('facts').innerText")
        assert "6.1.0-26" in told and "6.1.0-27" in told
