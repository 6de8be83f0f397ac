# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser: no complaint on the console, right on a telephone and a wide
screen, usable without a mouse, and whole on paper."""

from __future__ import annotations

import browser
import pytest

from sriov_lb_perf import compare
from sriov_lb_perf.report import page

pytestmark = pytest.mark.skipif(browser.executable() is None, reason="chromium is not installed")

STAGES = (
    {
        "name": "latency", "title": "Latency", "engine": "http-latency", "seconds": 0.3,
        "warmup": 0.1, "blocks": 2, "parameters": {"rate": 300, "percentiles": [50, 90]},
    },
    {
        "name": "requests", "title": "Request rate", "engine": "http-rate", "seconds": 0.2,
        "warmup": 0.1, "blocks": 2,
    },
)  # fmt: skip


@pytest.fixture(scope="module")
def report(bed, pair_of, profile_of, tmp_path_factory):
    url = bed.vip("page", 99)
    outcome = compare.compare(pair_of(url, url), profile_of(*STAGES), tmp_path_factory.mktemp("r"))
    assert outcome.complete, outcome.failure
    return page.write(outcome.folder, outcome.document)


@pytest.fixture(scope="module")
def tab():
    with browser.Browser() as made:
        yield made


@pytest.mark.parametrize("width", [400, 1600])
def test_nothing_is_complained_about_and_nothing_sticks_out(tab, report, width):
    tab.open(report, width)
    assert tab.problems() == []
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    drawn = tab.evaluate("[...document.querySelectorAll('.plot')].map(p => p.clientHeight)")
    assert len(drawn) >= 6 and min(drawn) >= 150
    assert tab.evaluate("document.querySelectorAll('.plot .main-svg').length") >= len(drawn)


def test_a_problem_would_be_seen(tab, tmp_path):
    """The control of the test above."""
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<body style='width:3000px'><script>console.error('no'); nothing.here</script>"
        "<img src='http://192.0.2.1/x'>"
    )
    tab.open(bad, 400)
    text = " ".join(tab.problems())
    assert "no" in text and "nothing" in text and "request to http://192.0.2.1" in text
    assert tab.evaluate("document.documentElement.scrollWidth") > 400


def test_it_can_be_used_with_the_keyboard(tab, report):
    """Tab reaches the skip link first, then links and summaries; Enter opens a summary."""
    tab.open(report, 1600)

    def press(key, code, text=None):
        more = {"text": text} if text else {}
        for kind in ("keyDown", "keyUp"):
            tab.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key,
                windowsVirtualKeyCode=code, **more,
            )  # fmt: skip

    press("Tab", 9)
    assert tab.evaluate("document.activeElement.className") == "skip"
    for _ in range(80):
        press("Tab", 9)
        if tab.evaluate("document.activeElement.tagName") == "SUMMARY":
            break
    assert tab.evaluate("document.activeElement.tagName") == "SUMMARY"
    outline = tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"
    press("Enter", 13, "\r")
    assert tab.evaluate("document.activeElement.parentElement.open") is True


def test_a_screen_reader_gets_names_and_tables(tab, report):
    tab.open(report, 400)
    nodes = tab.call("Accessibility.getFullAXTree")["nodes"]
    seen = [
        (node.get("role", {}).get("value"), node.get("name", {}).get("value"))
        for node in nodes
        if not node.get("ignored")
    ]
    roles = [role for role, _ in seen]
    # On a narrow screen too, where the style turns rows into cards.
    assert roles.count("table") >= 3 and "columnheader" in roles and "rowheader" in roles
    images = [name for role, name in seen if role in ("image", "img")]
    assert images and all(images)
    assert [name for role, name in seen if role == "heading"][0]


def test_on_paper_everything_is_open(tab, report, tmp_path):
    tab.open(report, 1600)
    tab.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    closed = tab.evaluate(
        "[...document.querySelectorAll('details:not([open])')].filter(d => "
        "!d.querySelector('.files')).length"
    )
    assert closed == 0
    tab.pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "page.pdf").stat().st_size > 30_000
