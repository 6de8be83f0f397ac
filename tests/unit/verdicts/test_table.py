# SPDX-License-Identifier: Apache-2.0
import io
import json

from rich.console import Console

from sriov_lb_tests.verdicts import record, report, table
from sriov_lb_tests.verdicts.model import Result, Verdict


def result(requirement, verdict, test="t", **kw):
    return Result(requirement, f"Promise {requirement}.", verdict, test, **kw)


def test_the_worst_of_a_requirements_tests_counts():
    rows = table.rows(
        [
            result("B", Verdict.PASS, "t1"),
            result("B", Verdict.FAIL, "t2", reason="why"),
            result("A", Verdict.PASS),
            result("B", Verdict.ERROR, "t3", reason="other"),
        ]
    )
    assert [(row.requirement, row.verdict) for row in rows] == [
        ("A", Verdict.PASS),
        ("B", Verdict.FAIL),
    ]
    assert rows[1].reason == "why"


def test_a_test_that_was_repeated_counts_once_with_what_came_out_last():
    rows = table.rows([result("A", Verdict.FAIL), result("A", Verdict.PASS)])
    assert rows[0].verdict is Verdict.PASS
    assert len(rows[0].results) == 1


def test_a_skipped_test_takes_nothing_from_a_requirement_that_another_one_tried():
    rows = table.rows([result("A", Verdict.PASS, "t1"), result("A", Verdict.SKIPPED, "t2")])
    assert rows[0].verdict is Verdict.PASS
    assert table.rows([result("A", Verdict.SKIPPED)])[0].verdict is Verdict.SKIPPED


def test_the_summary_tells_one_pass_and_a_hundred_skips():
    results = [result("A", Verdict.PASS)] + [result(f"S{n}", Verdict.SKIPPED) for n in range(100)]
    assert table.summary(table.rows(results)) == "101 requirements: 100 SKIPPED, 1 PASS."
    assert table.summary([]) == "Nothing was tested."


def test_render_shows_reason_and_evidence():
    rows = table.rows(
        [result("A", Verdict.FAIL, reason="a [bold] reason", evidence=["a.pcap", "b", "c", "d"])]
    )
    out = io.StringIO()
    table.render(rows, Console(file=out, width=120))
    text = out.getvalue()
    assert "FAIL" in text and "a [bold] reason" in text and "a.pcap" in text
    assert "and 1 more" in text


def test_the_page_is_self_contained_and_escapes(tmp_path):
    recorder = record.Recorder(tmp_path)
    (tmp_path / "ruleset.txt").write_text("iifname <eth1> & drop")
    recorder.describe(run="r1", substrate="macvlan")
    recorder.append(
        result(
            "A",
            Verdict.KNOWN_DEFECT,
            reason="<script>alert(1)</script>",
            evidence=["ruleset.txt", "probe.pcap"],
            observations={"operation": "listener-create"},
        )
    )
    page = report.write(tmp_path)
    text = page.read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "iifname &lt;eth1&gt; &amp; drop" in text
    assert 'href="probe.pcap"' in text
    assert "certifies nothing" in text
    assert "http://" not in text and "https://" not in text
    data = json.loads((tmp_path / report.DATA).read_text())
    assert data["requirements"][0]["verdict"] == "KNOWN_DEFECT"
    assert report.load(tmp_path) == data


def test_broken_promises_are_said_in_words_by_cause():
    rows = table.rows(
        [
            result("A", Verdict.PASS),
            result("B", Verdict.KNOWN_DEFECT, defect="D-1"),
            result("C", Verdict.KNOWN_DEFECT, defect="D-1"),
            result("D", Verdict.KNOWN_DEFECT, "t1", defect="D-1"),
            result("D", Verdict.KNOWN_DEFECT, "t2", defect="D-1, D-2"),
            result("E", Verdict.FAIL),
            result("F", Verdict.ERROR),
        ]
    )
    means = {"D-1": "No traffic passes.", "D-2": "None comes back."}
    unknown, known, both = table.broken_promises(rows, means, "18.0.1")
    assert "because of D-1, D-2:\n  - D: Promise D.\n  No traffic passes. None comes back." in both
    assert known.startswith("Octavia 18.0.1 does not keep, because of D-1:\n  - B: Promise B.")
    assert "- C: Promise C." in known and known.endswith("No traffic passes.")
    assert "no known defect explains it" in unknown and "- E: Promise E." in unknown
    # An error of ours breaks no promise of Octavia's.
    assert "Promise F" not in unknown + known
    assert table.broken_promises(rows[:1], {}) == []
