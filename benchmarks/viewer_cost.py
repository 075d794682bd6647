"""`python -m benchmarks.viewer_cost`: what the page costs the pipeline, with and without people who look at it.

The test card at 30 fps through the default model to nowhere, and the page beside it as in the daemon. Viewers and
attackers are processes of their own. CPU time is that of the page's own threads and of copying frames for it, in
percent of a core; the modes take turns, so that a machine that is busy is busy for all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import cv2

from benchmarks.page_guests import entered
from sharpcam.daemon.live_engine import LiveEngine
from sharpcam.engine import Engine
from sharpcam.frame import Frame
from sharpcam.pipeline import Pipeline
from sharpcam.sinks.null import NullSink
from sharpcam.sources.testcard import TestCardSource
from sharpcam.web.page import Page

SIZE, FPS = (1280, 720), 30.0
MODES = {"closed": 0, "open": 0, "1 viewer": 1, "8 viewers": 8, "attacked": 1}  # and how many guests


class Watched:
    """A pipeline as the page sees it, with a clock on what it does for the page in the sharpening thread."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self.copy_s = 0.0

    @property
    def watcher(self) -> Callable[[Frame, Frame], None] | None:
        return self._pipeline.watcher

    @watcher.setter
    def watcher(self, watcher: Callable[[Frame, Frame], None] | None) -> None:
        def timed(before: Frame, after: Frame) -> None:
            start = time.thread_time()
            if watcher is not None:
                watcher(before, after)
            self.copy_s += time.thread_time() - start

        self._pipeline.watcher = timed if watcher else None


def page_cpu_s() -> float:
    """CPU time so far of the threads that are the page's."""
    threads = [t for t in threading.enumerate() if t.name.startswith("sharpcam-page") and t.ident]
    return sum(time.clock_gettime(time.pthread_getcpuclockid(t.ident)) for t in threads if t.ident)


@contextlib.contextmanager
def guests(mode: str, page: Mapping[str, str], seconds: float) -> Iterator[subprocess.Popen[str] | None]:
    """The process of a mode, if it has any; it ends by itself."""
    if not MODES[mode]:
        yield None
        return
    what = ["attack", "1"] if mode == "attacked" else ["look", str(MODES[mode])]
    command = [sys.executable, "-m", "benchmarks.page_guests", json.dumps(dict(page)), str(seconds), *what]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process


def stretch(mode: str, pipeline: Pipeline, watched: Watched, page: Page, seconds: float) -> dict[str, float]:
    """What one mode costs over so many seconds, once it has begun."""
    facts = {} if mode == "closed" else entered(page.open())
    with guests(mode, facts, seconds + 4) as process:
        if process is not None and process.stdout is not None:
            process.stdout.readline()  # it has begun
        time.sleep(1)
        telemetry = pipeline.telemetry
        before = (
            page_cpu_s() + watched.copy_s,
            telemetry["frames_out"],
            telemetry["dropped"],
            time.monotonic(),
        )
        time.sleep(seconds)
        after = page_cpu_s() + watched.copy_s, telemetry["frames_out"], telemetry["dropped"], time.monotonic()
        served = float(process.communicate()[0]) if process is not None else 0.0
    took = after[3] - before[3]
    page.close()
    return {
        "cpu": 100 * (after[0] - before[0]) / took,
        "fps": (after[1] - before[1]) / took,
        "dropped": (after[2] - before[2]) / took,
        "served": served,
    }


def measure(seconds: float, rounds: int) -> dict[str, list[dict[str, float]]]:
    cv2.setNumThreads(1)
    sys.setswitchinterval(0.001)  # as `sharpcam run` does
    engine = LiveEngine(Engine.load("auto", SIZE, "cpu"))
    pipeline = Pipeline(TestCardSource(SIZE, FPS), engine, NullSink(SIZE, FPS))
    watched = Watched(pipeline)

    def status(command: str, request: Mapping[str, Any]) -> dict[str, Any]:
        fps, latency_ms = pipeline.telemetry.recent()
        return {"state": "live", "fps": fps, "latency_ms": latency_ms}

    page = Page(status, watched)
    found: dict[str, list[dict[str, float]]] = {mode: [] for mode in MODES}
    pipeline.start()
    try:
        time.sleep(5)  # the test card keeps its moving parts after one turn
        for _ in range(rounds):
            for mode, seen in found.items():
                seen.append(stretch(mode, pipeline, watched, page, seconds))
    finally:
        page.close()
        pipeline.stop()
        while not pipeline.wait(0.1):
            pass
        engine.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.viewer_cost", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--seconds", type=float, default=15.0, help="of each stretch")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print("mode         CPU %   fps  dropped/s  served/s  (each round)")
    for mode, rounds in measure(args.seconds, args.rounds).items():
        for seen in rounds:
            columns = (seen["cpu"], seen["fps"], seen["dropped"], seen["served"])
            print(
                f"{mode:10}{columns[0]:8.2f}{columns[1]:6.1f}{columns[2]:11.1f}{columns[3]:10.1f}", flush=True
            )


if __name__ == "__main__":
    main()
