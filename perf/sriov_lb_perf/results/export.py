# SPDX-License-Identifier: Apache-2.0
"""A result in other people's formats: OpenMetrics, CSV, JUnit."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from xml.etree import ElementTree

from .store import number

#: Our units -> (suffix OpenMetrics asks for, factor to the base unit).
BASE = {
    "ns": ("seconds", 1e-9),
    "1/s": ("per_second", 1.0),
    "bit/s": ("bytes_per_second", 1 / 8),
    "share": ("ratio", 1.0),
    "1": ("ratio", 1.0),
}


#: What a verdict may be, for a gauge of each.
VERDICTS = ("faster", "slower", "equivalent", "could not tell")


def open_metrics(document: Mapping[str, Any], series: str, status: int | None = None) -> str:
    """OpenMetrics text, for node_exporter's textfile collector or any static web server.

    :param status: what the night came to (0, 1, 2), where there was one.
    """
    labels = {"series": series, "profile": document["profile"]["name"]}
    families: dict[str, list[tuple[dict[str, str], float]]] = {}
    helps: dict[str, str] = {}

    def add(name: str, text: str, value: float, **more: str) -> None:
        if math.isnan(value):
            return
        helps[name] = text
        families.setdefault(name, []).append(({**labels, **more}, value))

    for metric in document["metrics"]:
        if not metric["tested"]:
            continue
        suffix, factor = BASE[metric["unit"]]
        kind = "latency" if metric["unit"] == "ns" else "rate"
        for side in ("A", "B"):
            add(
                f"sriov_lb_perf_{kind}_{suffix}",
                f"Measured {kind}.",
                number(metric["values"][side]["value"]) * factor,
                metric=metric["id"],
                vip=document["targets"][side]["role"],
            )
        ratio = metric["ratio"]
        if ratio is not None:
            for bound in ("estimate", "low", "high"):
                add(
                    "sriov_lb_perf_ratio",
                    "SR-IOV VIP over normal VIP, with its 95 % interval.",
                    number(ratio[bound]),
                    metric=metric["id"],
                    bound=bound,
                )
        for word in VERDICTS:
            add(
                "sriov_lb_perf_verdict",
                "1 for the verdict on a metric, 0 for the other words.",
                float(metric["verdict"] == word),
                metric=metric["id"],
                verdict=word,
            )
    if status is not None:
        add(
            "sriov_lb_perf_night_status",
            "The night: 0 nothing got worse, 1 a regression, 2 could not tell.",
            float(status),
        )
    add(
        "sriov_lb_perf_gates_failed",
        "Gates of the run that failed.",
        float(sum(gate["passed"] is False for gate in document["gates"])),
    )
    add(
        "sriov_lb_perf_run_sound",
        "1 if the run was complete and passed its gates.",
        float(document["verdict"]["sound"]),
    )
    started = datetime.fromisoformat(document["started"]).timestamp()
    add("sriov_lb_perf_run_started_seconds", "When the run began.", started)
    lines = []
    for name, samples in families.items():
        lines += [f"# TYPE {name} gauge", f"# HELP {name} {helps[name]}"]
        for found, value in samples:
            text = ",".join(f'{key}="{_escape(each)}"' for key, each in found.items())
            shown = "+Inf" if math.isinf(value) else f"{value:.10g}"
            lines.append(f"{name}{{{text}}} {shown}")
    return "\n".join([*lines, "# EOF"]) + "\n"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


COLUMNS = (
    "run", "started", "status", "sound", "metric", "title", "unit", "better", "normal", "sriov",
    "ratio", "low", "high", "p_holm", "smallest_effect", "verdict",
)  # fmt: skip


def csv_text(document: Mapping[str, Any]) -> str:
    """One row per metric, values in the metric's unit; empty where there is none."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for metric in document["metrics"]:
        ratio = metric["ratio"] or {}
        writer.writerow(
            [
                document["id"], document["started"], document["status"],
                int(document["verdict"]["sound"]), metric["id"], metric["title"], metric["unit"],
                metric["better"], metric["values"]["A"]["value"], metric["values"]["B"]["value"],
                ratio.get("estimate"), ratio.get("low"), ratio.get("high"), metric["p_holm"],
                metric["smallest_effect"], metric["verdict"],
            ]
        )  # fmt: skip
    return out.getvalue()


def junit(document: Mapping[str, Any], moved: Mapping[str, str] | None = None) -> str:
    """JUnit XML: a case per tested metric and per gate.

    A metric fails only when it moved (``moved``: metric -> in words); "slower" is a finding,
    not a failure. A gate that failed is an error: the measurement's, not the product's.
    """
    moved = moved or {}
    suite = ElementTree.Element("testsuite", name=f"sriov-lb-perf.{document['profile']['name']}")
    counts = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}

    def case(group: str, name: str, text: str) -> ElementTree.Element:
        counts["tests"] += 1
        made = ElementTree.SubElement(
            suite, "testcase", classname=f"sriov_lb_perf.{group}", name=name
        )
        ElementTree.SubElement(made, "system-out").text = text
        return made

    for metric in document["metrics"]:
        if not metric["tested"]:
            continue
        ratio = metric["ratio"]
        text = metric["verdict"]
        if ratio is not None:
            text += "; ratio {:.4g} ({:.4g} to {:.4g})".format(
                *(number(ratio[key]) for key in ("estimate", "low", "high"))
            )
        made = case("metric", metric["id"], text)
        if metric["id"] in moved:
            counts["failures"] += 1
            ElementTree.SubElement(made, "failure", message=moved[metric["id"]])
        elif metric["reasons"]:
            counts["skipped"] += 1
            ElementTree.SubElement(made, "skipped", message="; ".join(metric["reasons"]))
    for gate in document["gates"]:
        made = case("gate", gate["name"], gate["text"])
        if gate["passed"] is False:
            counts["errors"] += 1
            ElementTree.SubElement(made, "error", message=gate["text"])
        elif gate["passed"] is None:
            counts["skipped"] += 1
            ElementTree.SubElement(made, "skipped", message=gate["text"])
    for key, value in counts.items():
        suite.set(key, str(value))
    suite.set("timestamp", document["started"][:19])
    ElementTree.indent(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(
        suite, encoding="unicode"
    ) + "\n"
