from __future__ import annotations

import json
import re
import threading

import numpy as np
import pytest

from sharpcam.telemetry import COUNTERS, STAGES, CpuClock, Histogram, Telemetry, rss_mb


class Clock:
    def __init__(self) -> None:
        self.ns = 1_000_000_000

    def __call__(self) -> int:
        return self.ns


def test_percentiles_are_within_two_percent() -> None:
    rng = np.random.default_rng(1)
    for values in (
        rng.lognormal(2, 1, 20_000),
        rng.uniform(0.01, 40, 20_000),
        rng.exponential(5, 20_000) + 0.002,
    ):
        histogram = Histogram()
        for ms in values:
            histogram.record(int(ms * 1e6))
        for share in (0.05, 0.5, 0.95, 0.99):
            assert histogram.percentile(share) == pytest.approx(np.quantile(values, share), rel=0.02)


def test_percentiles_of_few_values() -> None:
    histogram = Histogram()
    assert histogram.percentile(0.5) == 0.0
    histogram.record(5_000_000)
    assert histogram.percentiles(50, 99) == {
        "p50": pytest.approx(5, rel=0.01),
        "p99": pytest.approx(5, rel=0.01),
    }
    for _ in range(98):
        histogram.record(5_000_000)
    histogram.record(500_000_000)
    assert histogram.percentile(0.99) == pytest.approx(5, rel=0.01)
    assert histogram.percentile(0.991) == pytest.approx(500, rel=0.01)


def test_how_many_were_at_most_so_long() -> None:
    histogram = Histogram()
    for ms in (1, 5, 5, 30, 700, 10**7):
        histogram.record(ms * 1_000_000)
    below, count, total_ns = histogram.cumulative(*(ms * 1_000_000 for ms in (2, 10, 100, 1000)))
    assert (below, count) == ([1, 3, 4, 5], 6)
    assert total_ns == (1 + 5 + 5 + 30 + 700 + 10**7) * 1_000_000


@pytest.mark.parametrize("ns", [-5, 0, 1, 10**15])
def test_absurd_durations_go_to_the_ends(ns: int) -> None:
    histogram = Histogram()
    histogram.record(ns)
    assert histogram.count == 1
    assert 0 < histogram.percentile(0.5) < 200_000


def test_histogram_does_not_grow() -> None:
    histogram = Histogram()
    size = len(histogram._counts)
    for i in range(10_000):
        histogram.record(i * i * 1000)
    assert len(histogram._counts) == size < 2000


def test_nothing_is_lost_between_threads() -> None:
    telemetry = Telemetry()

    def work() -> None:
        for _ in range(2000):
            telemetry.count("frames_in")
            telemetry.record("send", 1000)
            telemetry.add_cpu("send", 3)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert telemetry["frames_in"] == telemetry.stages["send"].count == 8000
    assert telemetry._cpu_ns["send"] == 24_000


def test_unknown_counters_and_stages_are_mistakes() -> None:
    telemetry = Telemetry()
    with pytest.raises(KeyError):
        telemetry.count("frames")
    with pytest.raises(KeyError):
        telemetry.record("frames", 1)


def test_fps_is_of_new_frames_between_first_and_last() -> None:
    clock = Clock()
    telemetry = Telemetry(clock, Clock())
    assert telemetry.fps == 0.0
    clock.ns += 5_000_000_000  # opening a camera takes its time, and is no part of the rate
    for _ in range(11):
        telemetry.delivered(20_000_000)
        telemetry.count("repeated")
        clock.ns += 40_000_000
    assert telemetry.fps == pytest.approx(25.0)
    assert telemetry.recent() == (pytest.approx(25.0), pytest.approx(20.0))
    clock.ns += 2_000_000_000
    assert telemetry.recent() == (0.0, 0.0)


def test_recent_leaves_out_what_was_before_a_gap() -> None:
    clock = Clock()
    telemetry = Telemetry(clock, Clock())
    for _ in range(20):
        clock.ns += 40_000_000
        telemetry.delivered(5_000_000)
    clock.ns += 60_000_000_000  # nobody watched
    for _ in range(5):
        clock.ns += 40_000_000
        telemetry.delivered(7_000_000)
    assert telemetry.recent() == (pytest.approx(25.0), pytest.approx(7.0))


def test_recent_forgets() -> None:
    clock = Clock()
    telemetry = Telemetry(clock, Clock())
    for _ in range(100):
        clock.ns += 100_000_000
        telemetry.delivered(90_000_000)
    for _ in range(200):
        clock.ns += 20_000_000
        telemetry.delivered(10_000_000)
    assert telemetry.recent() == (pytest.approx(50.0), pytest.approx(10.0))
    assert telemetry.latency.percentile(0.9) == pytest.approx(90, rel=0.02)


def test_report_has_the_promised_keys() -> None:
    clock, cpu = Clock(), Clock()
    telemetry = Telemetry(clock, cpu)
    for _ in range(10):
        clock.ns += 10_000_000
        telemetry.count("frames_in")
        telemetry.record("inference", 4_000_000)
        telemetry.add_cpu("capture", 500_000)
        telemetry.delivered(12_000_000)
    cpu.ns += 70_000_000
    report = telemetry.report()
    promised = "frames_in frames_out dropped repeated reconnects fps latency_ms cpu_ms_per_frame rss_mb"
    assert set(promised.split()) <= report.keys()
    assert report["frames_out"] == 10
    assert report["cpu_ms_per_frame"] == pytest.approx(7.0)
    assert report["stages_cpu_ms"] == {"capture": 0.5}
    assert report["fps"] == pytest.approx(100.0)
    assert set(report["latency_ms"]) == {"p50", "p95", "p99"}
    assert report["latency_ms"]["p95"] == pytest.approx(12, rel=0.02)
    assert set(report["stages_ms"]) == {"inference"}
    json.dumps(report)


def test_report_before_anything_happened() -> None:
    report = Telemetry().report()
    assert (report["frames_out"], report["fps"]) == (0, 0.0)
    json.dumps(report)


def test_start_sets_to_zero() -> None:
    telemetry = Telemetry()
    telemetry.count("dropped")
    telemetry.delivered(5)
    telemetry.record("send", 5)
    telemetry.start()
    report = telemetry.report()
    assert all(report[counter] == 0 for counter in COUNTERS)
    assert not report["stages_ms"]


def test_cpu_clock_parts_inference_from_the_rest() -> None:
    telemetry = Telemetry()
    clock = CpuClock(telemetry, "sharpen")
    sum(range(200_000))
    clock.lap(1_000)
    assert telemetry._cpu_ns["inference"] == 1_000
    assert telemetry._cpu_ns["sharpen"] > 0


def test_resident_memory_is_that_of_this_process() -> None:
    before = rss_mb()
    assert 5 < before < 20_000
    block = np.ones(64 << 20, np.uint8)
    assert rss_mb() - before > 50
    del block


def test_prometheus_text() -> None:
    telemetry = Telemetry()
    telemetry.count("dropped", 3)
    telemetry.record("inference", 8_000_000)
    telemetry.delivered(20_000_000)
    text = telemetry.prometheus()
    line = re.compile(
        r'^[a-z_]+(\{[a-z]+="[a-z0-9.]+"(,[a-z]+="[a-z0-9.+Inf]+")*\}|\{le="[0-9.+Inf]+"\})? [0-9.e+-]+$'
    )
    assert text.endswith("\n")
    seen = set()
    for row in text.splitlines():
        if row.startswith("# TYPE "):
            assert row.split()[2] not in seen, "a metric is declared twice"
            seen.add(row.split()[2])
        else:
            assert line.match(row), row
    assert "sharpcam_dropped_total 3" in text
    assert 'sharpcam_stage_seconds_count{stage="inference"} 1' in text
    buckets = re.findall(r'^sharpcam_latency_seconds_bucket\{le="(.*)"\} (\d+)$', text, re.M)
    assert {number for edge, number in buckets if float(edge) < 0.020} == {"0"}
    assert {number for edge, number in buckets if float(edge) > 0.020} == {"1"}
    assert buckets[-1] == ("+Inf", "1")
    assert [float(edge) for edge, _ in buckets] == sorted(float(edge) for edge, _ in buckets)
    assert "sharpcam_latency_seconds_sum 0.02\n" in text
    assert all(f'stage="{stage}"' in text for stage in STAGES)
