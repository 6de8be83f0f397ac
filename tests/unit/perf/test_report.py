# SPDX-License-Identifier: Apache-2.0
"""The page of a run."""

from __future__ import annotations

import copy
import json
import math
import re
import time
from html.parser import HTMLParser

import pytest

from sriov_lb_perf.report import figures, page, units


class Outline(HTMLParser):
    """What a screen reader would get of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.headings, self.tables, self.images, self.links, self.ids = [], 0, [], [], set()
        self.unscoped = 0
        self.external = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if "id" in values:
            assert values["id"] not in self.ids, f"id {values['id']} twice"
            self.ids.add(values["id"])
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "table":
            self.tables += 1
        if tag == "th" and "scope" not in values:
            self.unscoped += 1
        if values.get("role") == "img":
            self.images.append(values.get("aria-label"))
        if tag == "a":
            self.links.append(values["href"])
        for name in ("src", "href"):
            if re.match(r"(https?:)?//", values.get(name) or ""):
                self.external.append(values[name])


@pytest.fixture(autouse=True)
def small_plotly(monkeypatch):
    """The real one has 5 MB and is looked at in a browser by the functional tests."""
    monkeypatch.setattr(page, "plotly_script", lambda: "/* plotly */")


_made: list[dict] = []


@pytest.fixture
def document(made_run):
    """One result for all tests here; each gets a copy of its own."""
    if _made:
        return copy.deepcopy(_made[0])
    claim = {
        "text": "9 % more", "source": "spec", "metric": ["requests.rate"], "ratio": 1.09,
        "better": "higher",
    }  # fmt: skip
    _made.append(made_run(ratio=1.5, claims=[claim]).document)
    return copy.deepcopy(_made[0])


def test_the_verdict_comes_first_and_everything_is_there(document):
    text = page.render(document)
    assert text.index(document["verdict"]["sentence"][:40]) < text.index("<main>")
    for words in ("Published claims", "Gates", "Environment", "How to read this", "macvlan"):
        assert words in text
    assert "Incomplete" not in text


def test_it_can_be_read_without_seeing_it(document):
    outline = Outline(page.render(document))
    assert outline.headings[0] == 1 and outline.headings.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(outline.headings, outline.headings[1:], strict=False))
    assert outline.unscoped == 0
    assert outline.images and all(outline.images)
    targets = {link[1:] for link in outline.links if link.startswith("#")}
    assert targets <= outline.ids
    assert "<html lang=" in page.render(document)


def test_it_needs_nothing_from_outside(document):
    assert Outline(page.render(document)).external == []


def test_what_a_target_says_cannot_break_the_page(document):
    evil = copy.deepcopy(document)
    evil["targets"]["A"]["role"] = "</script><script>alert(1)</script>"
    evil["trials"][0]["void"] = ["<img src=x onerror=alert(1)>"]
    text = page.render(evil)
    assert "<script>alert" not in text
    assert "<img src=x" not in text


def test_an_incomplete_run_says_so_on_top(document):
    broken = copy.deepcopy(document)
    broken.update(status="incomplete", reason="the VIP went away")
    text = page.render(broken)
    assert text.index("This run is incomplete") < text.index("<main>")
    assert "the VIP went away" in text


def test_a_run_with_nothing_in_it_still_has_a_page(document):
    empty = copy.deepcopy(document)
    empty.update(metrics=[], trials=[], stages=[], gates=[], claims=[])
    assert "Nothing was measured" in page.render(empty)


def test_infinite_latencies_can_be_shown(document):
    lost = copy.deepcopy(document)
    metric = next(m for m in lost["metrics"] if m["id"] == "requests.p50")
    metric["values"]["A"]["value"] = "inf"
    metric["ratio"] = None
    curve = lost["stages"][0]["curves"]["latency"]["A"]
    curve["percentiles"][-1][1] = "inf"
    text = page.render(lost)
    assert "∞" in text
    json.loads(re.search(r"const specs = (.*);", text).group(1))


def test_right_is_better_in_the_overview(document):
    (figure,) = [figures.forest(document)]
    points = {y: x for trace in figure.data for x, y in zip(trace["x"], trace["y"], strict=True)}
    assert points and all(x > 1 for x in points.values())
    assert len(figure.rows) == 2


def test_every_figure_has_its_numbers_in_a_table(document):
    stage = document["stages"][0]
    made = [
        figures.forest(document),
        figures.over_time(document, stage),
        figures.block_pairs(document, stage),
        figures.by_percentile(document, stage, "latency"),
        figures.distribution(document, stage, "latency"),
    ]
    for figure in made:
        assert figure.summary and figure.rows and figure.columns
        assert all(len(row) == len(figure.columns) for row in figure.rows), figure.identifier
    assert len(made[1].rows) == 24


def test_load_against_latency_needs_two_loads(document):
    assert figures.load_against_latency(document) is None
    loaded = copy.deepcopy(document)
    for number, load in enumerate((0.0, 0.5, 0.5)):
        stage = copy.deepcopy(loaded["stages"][0])
        stage.update(name=f"latency{number}", engine="http-latency", load=load)
        if number == 2:
            stage["parameters"] = {"object": 16384}  # larger ones take longer: no point of the line
        loaded["stages"].append(stage)
        for metric in copy.deepcopy(document["metrics"]):
            loaded["metrics"].append(
                {**metric, "stage": stage["name"], "id": f"latency{number}.{metric['name']}"}
            )
        for trial in copy.deepcopy(document["trials"]):
            loaded["trials"].append({**trial, "stage": stage["name"], "load_rate": load * 10_000})
    figure = figures.load_against_latency(loaded)
    assert [row[0] for row in figure.rows] == ["0% (0 /s)", "50% (5,000 /s)"]


def test_a_page_is_rendered_in_under_a_second(document):
    begin = time.process_time()
    page.render(document)
    assert time.process_time() - begin < 1


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (538_123.0, "ns", "538 µs"),
        (1_050_000.0, "ns", "1.05 ms"),
        (24_600.4, "1/s", "24,600 /s"),
        (15.23e9, "bit/s", "15.2 Gbit/s"),
        (0.0123, "share", "1.23 %"),
        (1.0, "share", "100 %"),
        (-5.0, "1", "-5.00"),
        ("inf", "ns", "∞"),
        (None, "ns", "–"),
        (0.0, "ns", "0 ns"),
    ],
)
def test_figures_are_for_people(value, unit, text):
    assert units.quantity(value, unit) == text


@pytest.mark.parametrize(
    ("effect", "value", "unit", "text"),
    [
        (0.042, 740e3, "ns", "4.2 % (31.1 µs)"),
        (0.03, 12_000, "1/s", "3.0 %"),
        ("inf", 740e3, "ns", "∞"),
        (0.5, None, "ns", "50.0 %"),
    ],
)
def test_what_a_run_could_have_seen_is_told_as_a_time_where_it_is_one(effect, value, unit, text):
    metric = {"smallest_effect": effect, "unit": unit, "values": {"A": {"value": value}}}
    assert units.resolution(metric) == text


def test_shares_and_probabilities_are_for_people():
    assert units.percent(0.0456) == "4.6 %"
    assert units.percent(math.inf) == "∞"
    assert units.percent(12) == "> 1,000 %"
    assert units.probability(0.00001) == "< 0.001"
    assert units.ratio({"estimate": 1.861, "low": 1.752, "high": 1.984}) == "1.86 (1.75 to 1.98)"
