"""How long each step of a ladder takes on this machine, measured once and kept.

The cache is one JSON file, `calibration.json` in the user's cache folder. An entry belongs to one processor,
number of cores, ONNX Runtime, GPU or none, model file, picture size and number of threads: with any other of
these, it is measured anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sharpcam.errors import SharpCamError
from sharpcam.files import write_whole
from sharpcam.frame import Frame

log = logging.getLogger(__name__)

FRAMES = 24
LONGEST_S = 2.0  # for the frames of one step; what is so slow is known to be by then
KEPT = 200  # entries


@dataclass(frozen=True, slots=True)
class Cost:
    """What a frame takes while nothing else disturbs: seconds by the clock, and of CPU in all threads."""

    seconds: float
    cpu_seconds: float


class Processor(Protocol):
    """What is needed of an Engine."""

    def process(self, frame: Frame, out: Frame) -> None: ...


def measure(
    engine: Processor,
    size: tuple[int, int],
    clock: Callable[[], float] = time.perf_counter,
    cpu_clock: Callable[[], float] = time.process_time,
) -> Cost:
    """Runs `engine` on frames of noise, and takes what the quickest eighth of them did not exceed; but for the
    first, which may run twice.

    The quickest, because what else the machine does at the moment is not to be remembered for good. CPU time is
    the mean: its clock may tick as slowly as every 16 ms.
    """
    frame, out = Frame(*size), Frame(*size)
    frame.buffer[:] = np.random.default_rng(1).integers(16, 236, frame.buffer.shape, np.uint8)
    taken, end = list[tuple[float, float]](), clock() + LONGEST_S
    while len(taken) < FRAMES and (len(taken) < 3 or clock() < end):
        frame.sequence, frame.captured_ns = len(taken), time.monotonic_ns()
        begun, cpu_begun = clock(), cpu_clock()
        engine.process(frame, out)
        taken.append((clock() - begun, cpu_clock() - cpu_begun))
    seconds, cpu_seconds = zip(*taken[1:], strict=True)
    return Cost(sorted(seconds)[len(seconds) // 8], sum(cpu_seconds) / len(cpu_seconds))


def cache_file() -> Path:
    """Where the costs are kept, by the platform's custom."""
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData/Local")
    elif sys.platform == "darwin":
        base = home / "Library/Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "sharpcam" / "calibration.json"


class Calibration:
    """Costs from the cache, or measured now. A cache that cannot be read or written is done without."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file or cache_file()
        self._entries: dict[str, Any] = {}
        try:
            told = json.loads(self._file.read_text(encoding="utf-8"))
            self._entries = told if isinstance(told, dict) else {}
        except (OSError, ValueError):
            pass

    def cost(self, about: dict[str, Any], measured: Callable[[], Cost]) -> Cost:
        """The cost of what `about` describes (all that it depends on, as JSON); `measured` finds it out."""
        key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
        try:
            entry = self._entries[key]
            return Cost(float(entry["seconds"]), float(entry["cpu_seconds"]))
        except (KeyError, TypeError, ValueError):
            pass
        cost = measured()
        log.info("calibrated %s seconds=%.4f", " ".join(f"{k}={v}" for k, v in about.items()), cost.seconds)
        self._entries[key] = {**about, **asdict(cost), "at": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        while len(self._entries) > KEPT:
            del self._entries[next(iter(self._entries))]  # the oldest
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._file, json.dumps(self._entries, indent=1).encode())
        except (OSError, SharpCamError) as error:
            log.info("calibration is not kept: %s", error)
        return cost
