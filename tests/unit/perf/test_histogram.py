# SPDX-License-Identifier: Apache-2.0
"""Latency distributions."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram

from sriov_lb_perf import histogram as histograms
from sriov_lb_perf.agent.recording import Counts
from sriov_lb_perf.histogram import Histogram, index_of, merge


@pytest.fixture
def values():
    return np.random.default_rng(1).lognormal(np.log(200_000), 1.5, 20_000).astype(np.int64)


def test_buckets_are_hdrhistogram_s_own():
    other = HdrHistogram(histograms.LOWEST, histograms.HIGHEST, histograms.DIGITS)
    assert other.counts_len == histograms.SIZE
    chosen = [0, 1, 2047, 2048, 2049, 4095, 4096, 99_999, 10**9, histograms.HIGHEST]
    assert index_of(np.array(chosen)).tolist() == [other._counts_index_for(v) for v in chosen]


def test_resolution_is_below_a_microsecond_at_100_us():
    at = index_of(np.array([100_000]))[0]
    assert histograms._WIDTH[at] <= 1000


def test_its_text_is_what_hdrhistogram_writes_and_reads(values):
    other = HdrHistogram(histograms.LOWEST, histograms.HIGHEST, histograms.DIGITS)
    for value in values[:3000]:
        other.record_value(int(value))
    mine = Histogram.of(values[:3000])
    assert mine.encode().encode() == other.encode()
    assert (Histogram.decode(other.encode().decode()).counts == mine.counts).all()


def test_a_damaged_text_is_a_value_error():
    with pytest.raises(ValueError, match="HdrHistogram"):
        Histogram.decode("HISTFAAAAB")


@pytest.mark.parametrize("q", [0.1, 50, 90, 99, 99.9, 100])
def test_percentiles_are_those_of_the_values_within_the_resolution(values, q):
    exact = np.sort(values)[max(0, math.ceil(q / 100 * len(values) - 1e-9) - 1)]
    assert Histogram.of(values).percentile(q) == pytest.approx(exact, rel=1e-3)


def test_a_lost_request_is_infinitely_late():
    found = Histogram.of([1000] * 98, lost=2)
    assert len(found) == 100
    assert found.percentile(98) == pytest.approx(1000, rel=1e-3)
    assert found.percentile(99) == math.inf
    assert math.isnan(Histogram().percentile(50))


def test_a_clock_that_went_backwards_is_not_recorded():
    with pytest.raises(ValueError, match="backwards"):
        Histogram.of([5, -1])


def test_a_thousand_workers_merge_to_the_percentiles_of_the_raw_data_in_under_5_s():
    source = np.random.default_rng(2)
    parts = [source.lognormal(np.log(100_000 + 50 * i), 0.6, 300).astype(int) for i in range(1000)]
    texts = [Histogram.of(part).encode() for part in parts]
    begin = time.process_time()
    merged = merge(Histogram.decode(text) for text in texts)
    assert time.process_time() - begin < 5
    raw = np.sort(np.concatenate(parts))
    for q in (50, 90, 99, 99.9, 99.99):
        exact = raw[math.ceil(q / 100 * len(raw) - 1e-9) - 1]
        assert merged.percentile(q) == pytest.approx(exact, rel=1e-3)


def test_what_the_agent_counts_arrives(values):
    counts = Counts()
    for value in values.tolist():
        counts.add(value)
    found = Histogram.of_sparse(counts.take())
    assert len(found) == len(values)
    for q in (50, 99, 99.9):
        exact = Histogram.of(values).percentile(q)
        # 512 ns fine, 8 us (0.1 %) coarse
        assert found.percentile(q) == pytest.approx(exact, rel=2e-3, abs=512)
    assert counts.take() == [{"shift": 9, "bins": []}]


def test_what_the_agent_counts_of_slow_answers_fits_a_few_bins_however_many_they_are():
    """From the first coarse one to two minutes; each within 0.1 % of what it was."""
    counts = Counts()
    slow = np.geomspace(8.5e6, 120e9, 100_000).astype(int).tolist()
    for value in slow:
        counts.add(value)
    parts = counts.take()
    assert sum(len(part["bins"]) for part in parts) < 20_000
    assert sum(count for part in parts for _, count in part["bins"]) == len(slow)
    bins = iter((part["shift"], at) for part in parts for at, n in part["bins"] for _ in range(n))
    for value, (shift, at) in zip(slow, bins, strict=True):
        assert at << shift <= value < at + 1 << shift and 1 << shift <= value / 1000
