"""What the pipeline does, in numbers: latency per stage, counters, CPU and memory.

Memory is bounded however long it runs: a histogram is a fixed row of counts.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

# bucket edges grow by 2 %: a percentile is off by 1 % at most. 1 µs to 100 s, shorter and longer at the ends
_GROWTH = 1.02
_LOWEST_NS = 1_000
_BUCKETS = math.ceil(math.log(1e11 / _LOWEST_NS) / math.log(_GROWTH))
_SCALE = 1 / math.log(_GROWTH)

COUNTERS = (
    "frames_in",  # frames that the source gave
    "frames_out",  # frames delivered, each once; frames_in = frames_out + dropped at the end of a run
    "dropped",  # frames replaced by newer ones before they could be delivered
    "repeated",  # times that the last frame was sent again because nothing new had come
    "placeholders",  # times that a placeholder was sent because there was no frame to show
    "bypassed",  # frames delivered as they came because the model failed; part of frames_out
    "reconnects",  # times that a lost source was opened again
    "fallbacks",  # times that a GPU was lost and the CPU took over
)
STAGES = (
    "capture",  # from the moment of capture until the frame is here: decoding, conversion
    "wait",  # until the model has time for it
    "sharpen",  # the engine: the next three, and what lies between them
    "upload",  # the frame to where the model reads: bound on the CPU, copied to a GPU
    "inference",  # inside ONNX Runtime
    "download",  # what the model has written back to the frame
    "queue",  # until the sink has time for it
    "send",  # handing over to the sink
)
# upper edges of the histograms that monitoring gets: a frame's time at 60, 30, 15 fps lies among them
_EDGES_MS = (0.1, 0.5, 1, 2, 5, 10, 16.7, 20, 25, 33.3, 50, 66.7, 100, 200, 500, 1000)
_RECENT = 90  # frames over which the current rate and latency are taken


class Histogram:
    """Durations in nanoseconds, in log-spaced buckets. Thread-safe."""

    __slots__ = ("_counts", "_lock", "count", "total_ns")

    def __init__(self) -> None:
        self._counts = [0] * (_BUCKETS + 1)
        self._lock = threading.Lock()
        self.count = 0
        self.total_ns = 0

    def record(self, ns: int) -> None:
        ns = max(ns, _LOWEST_NS)
        index = self._index(ns)
        with self._lock:
            self._counts[index] += 1
            self.count += 1
            self.total_ns += ns

    @staticmethod
    def _index(ns: int) -> int:
        return min(int(math.log(ns / _LOWEST_NS) * _SCALE), _BUCKETS)

    def percentile(self, share: float) -> float:
        """The duration in ms below which `share` (0..1) of the values lie, within 1 %; 0 without values."""
        with self._lock:
            counts, count = list(self._counts), self.count
        if not count:
            return 0.0
        rank, index, seen = max(1, math.ceil(share * count)), 0, counts[0]
        while seen < rank:
            index += 1
            seen += counts[index]
        return float(_LOWEST_NS * _GROWTH ** (index + 0.5) / 1e6)

    def cumulative(self, *edges_ns: int) -> tuple[list[int], int, int]:
        """(how many values were at most each edge, how many there are, their sum in ns).

        As exact as the buckets: values that are up to 2 % above an edge may count, too.
        """
        with self._lock:
            counts, count, total_ns = list(self._counts), self.count, self.total_ns
        return [sum(counts[: self._index(edge) + 1]) for edge in edges_ns], count, total_ns

    def percentiles(self, *shares: int) -> dict[str, float]:
        """{"p50": ms, ...} for percentages such as 50."""
        return {f"p{share}": round(self.percentile(share / 100), 3) for share in shares}


class Telemetry:
    """The numbers of one run. Thread-safe; stages and counters are those named above."""

    def __init__(
        self,
        clock: Callable[[], int] = time.monotonic_ns,
        cpu_clock: Callable[[], int] = time.process_time_ns,
    ) -> None:
        self._clock, self._cpu_clock = clock, cpu_clock
        self._lock = threading.Lock()
        self.start()

    def start(self) -> None:
        """Sets everything to zero: what was before (loading, warming up) does not count."""
        with self._lock:
            self.stages = {name: Histogram() for name in STAGES}
            self.latency = Histogram()
            self._counters = dict.fromkeys(COUNTERS, 0)
            self._cpu_ns: dict[str, int] = {}
            self._recent: deque[tuple[int, int]] = deque(maxlen=_RECENT)
            self._first_ns = self._last_ns = 0
            self._start_ns, self._start_cpu_ns = self._clock(), self._cpu_clock()

    def count(self, counter: str, n: int = 1) -> None:
        with self._lock:
            self._counters[counter] += n

    def __getitem__(self, counter: str) -> int:
        with self._lock:
            return self._counters[counter]

    def record(self, stage: str, ns: int) -> None:
        self.stages[stage].record(ns)

    def add_cpu(self, stage: str, ns: int) -> None:
        """CPU time that a stage's own thread spent."""
        with self._lock:
            self._cpu_ns[stage] = self._cpu_ns.get(stage, 0) + ns

    def delivered(self, latency_ns: int) -> None:
        """A new frame (no repeat) has gone out `latency_ns` after its capture."""
        now = self._clock()
        self.latency.record(latency_ns)
        with self._lock:
            self._counters["frames_out"] += 1
            self._first_ns = self._first_ns or now
            self._last_ns = now
            self._recent.append((now, latency_ns))

    @property
    def seconds(self) -> float:
        """Since the start."""
        return (self._clock() - self._start_ns) / 1e9

    @property
    def fps(self) -> float:
        """New frames delivered in a second, from the first to the last one."""
        with self._lock:
            frames, span = self._counters["frames_out"], self._last_ns - self._first_ns
        return (frames - 1) * 1e9 / span if frames > 1 and span else 0.0

    def recent(self) -> tuple[float, float]:
        """(fps, median latency in ms) over the last few seconds; (0, 0) when nothing has come for two.

        What was before a gap of a second (the camera was away or closed) is left out.
        """
        with self._lock:
            frames = list(self._recent)
        for i in range(len(frames) - 1, 0, -1):
            if frames[i][0] - frames[i - 1][0] > 1_000_000_000:
                del frames[:i]
                break
        if len(frames) < 2 or self._clock() - frames[-1][0] > 2_000_000_000:
            return 0.0, 0.0
        span = max(frames[-1][0] - frames[0][0], 1)
        latencies = sorted(latency for _, latency in frames)
        return (len(frames) - 1) * 1e9 / span, latencies[len(latencies) // 2] / 1e6

    def report(self) -> dict[str, Any]:
        """The run so far, with the keys of `sharpcam run --report` that are numbers.

        `cpu_ms_per_frame` is the whole process; `stages_cpu_ms` are the pipeline's threads and those
        that take tiles of its frames, without ONNX Runtime's own ones.
        """
        with self._lock:
            counters, cpu = dict(self._counters), dict(self._cpu_ns)
        frames = max(counters["frames_out"], 1)
        return counters | {
            "seconds": round(self.seconds, 3),
            "fps": round(self.fps, 2),
            "latency_ms": self.latency.percentiles(50, 95, 99),
            "stages_ms": {name: h.percentiles(50, 95, 99) for name, h in self.stages.items() if h.count},
            "stages_cpu_ms": {name: round(ns / frames / 1e6, 3) for name, ns in cpu.items()},
            "cpu_ms_per_frame": round((self._cpu_clock() - self._start_cpu_ns) / frames / 1e6, 3),
            "rss_mb": round(rss_mb(), 1),
        }

    def prometheus(self) -> str:
        """The same in Prometheus' text format."""
        with self._lock:
            counters = dict(self._counters)
        lines = []
        for name, value in counters.items():
            metric = f"sharpcam_{name}_total"
            lines += [f"# TYPE {metric} counter", f"{metric} {value}"]
        for metric, number in (
            ("sharpcam_fps", self.recent()[0]),
            ("sharpcam_resident_memory_bytes", rss_mb() * 2**20),
        ):
            lines += [f"# TYPE {metric} gauge", f"{metric} {number:.6g}"]
        cpu_s = (self._cpu_clock() - self._start_cpu_ns) / 1e9
        lines += ["# TYPE sharpcam_cpu_seconds_total counter", f"sharpcam_cpu_seconds_total {cpu_s:.6g}"]
        lines.append("# TYPE sharpcam_latency_seconds histogram")
        lines += _histogram("sharpcam_latency_seconds", "", self.latency)
        lines.append("# TYPE sharpcam_stage_seconds histogram")
        for stage, histogram in self.stages.items():
            lines += _histogram("sharpcam_stage_seconds", f'stage="{stage}"', histogram)
        return "\n".join(lines) + "\n"


class CpuClock:
    """Adds up the CPU time of the thread that made it."""

    def __init__(self, telemetry: Telemetry, stage: str) -> None:
        self._telemetry, self._stage = telemetry, stage
        self._last = time.thread_time_ns()

    def lap(self, inference_ns: int = 0) -> None:
        """Counts the time since the last lap; the part of it that was inference goes under that name."""
        now = time.thread_time_ns()
        self._telemetry.add_cpu(self._stage, now - self._last - inference_ns)
        if inference_ns:
            self._telemetry.add_cpu("inference", inference_ns)
        self._last = now


def _histogram(metric: str, label: str, histogram: Histogram) -> list[str]:
    below, count, total_ns = histogram.cumulative(*(int(edge * 1e6) for edge in _EDGES_MS))
    comma = "," if label else ""
    edges = [f"{edge / 1e3:g}" for edge in _EDGES_MS]
    lines = [
        f'{metric}_bucket{{{label}{comma}le="{edge}"}} {number}'
        for edge, number in zip([*edges, "+Inf"], [*below, count], strict=True)
    ]
    braces = f"{{{label}}}" if label else ""
    return [*lines, f"{metric}_sum{braces} {total_ns / 1e9:.6g}", f"{metric}_count{braces} {count}"]


def rss_mb() -> float:
    """Resident memory of this process in MiB; where the system does not tell (Windows), 0."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            pages = int(file.read().split()[1])
        import resource

        return pages * resource.getpagesize() / 2**20
    except (OSError, ImportError):
        pass
    try:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: bytes, and the peak, not now
        return float(peak) / (2**20 if sys.platform == "darwin" else 2**10)
    except ImportError:
        return 0.0
