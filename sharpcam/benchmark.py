"""How fast this machine is: the real pipeline on test card frames that lie ready in memory."""

from __future__ import annotations

import platform
import threading
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from sharpcam import __version__, cuda
from sharpcam.engine import Engine
from sharpcam.frame import Frame
from sharpcam.models import Model
from sharpcam.pipeline import Pipeline
from sharpcam.runtime import usable_cores
from sharpcam.telemetry import Telemetry

PACED_FPS = 30.0
_READY = 12  # frames in memory; shown back and forth, so that the picture never jumps
_WARM_UP = 8
_X86 = ("sse4_2", "avx", "avx2", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16")
_AMX = ("amx_tile", "amx_int8", "amx_bf16")
_ARM = ("asimd", "asimddp", "i8mm", "bf16", "sve", "sve2")


class MemorySource:
    """Frames that lie ready: costs one copy each. Live, it comes at `fps`; else as fast as it is asked.

    A live one that is not asked in time skips the frames it missed, as a camera does.
    """

    def __init__(self, pictures: list[Frame], fps: float, live: bool) -> None:
        self.size, self.color = pictures[0].size, pictures[0].color
        self.fps, self.live = fps, live
        self.description = f"{len(pictures)} frames in memory"
        self._pictures = [*pictures, *pictures[-2:0:-1]]
        self._period_ns = int(1e9 / fps)
        self._next = 0
        self._start_ns = 0
        self._closed = threading.Event()

    def read(self, frame: Frame, timeout: float) -> bool:
        now = time.monotonic_ns()
        if self.live:
            self._start_ns = self._start_ns or now
            missed = (now - self._start_ns) // self._period_ns - self._next
            self._next += max(0, missed)
            due = self._start_ns + self._next * self._period_ns
            if due > now:
                wait = (due - now) / 1e9
                if self._closed.wait(min(wait, timeout)):
                    raise EOFError
                if wait > timeout:
                    return False
        elif self._closed.is_set():
            raise EOFError
        frame.captured_ns = time.monotonic_ns()
        np.copyto(frame.buffer, self._pictures[self._next % len(self._pictures)].buffer)
        frame.sequence, frame.color = self._next, self.color
        self._next += 1
        return True

    def close(self) -> None:
        self._closed.set()


class Nowhere:
    """A sink that costs nothing."""

    description = "nowhere"
    live = False

    def __init__(self, size: tuple[int, int], fps: float) -> None:
        self.size, self.fps = size, fps

    def send(self, frame: Frame) -> None:
        pass

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass


def pictures(size: tuple[int, int]) -> list[Frame]:
    """Frames of the test card, one after the other."""
    # here: `run` imports this module too, and would wait for the whole scene to be loaded
    from sharpcam.sources.testcard import TestCard

    card = TestCard(size, PACED_FPS)
    return [card.soft(i) for i in range(_READY)]


def measure(
    model: Model, ready: list[Frame], *, provider: str = "auto", threads: int | None = None, frames: int = 300
) -> list[dict[str, Any]]:
    """Two results: `mode` "unpaced" (throughput) and "paced" at 30 fps (latency, drops), warmed up.

    `cpu_ms_per_frame` is the whole process; `stages_cpu_ms` are the pipeline's threads, `overhead_cpu_ms`
    their sum without inference. Of `stages_ms`, "upload", "inference" and "download" tell the copies to and from
    a GPU and its work apart, and "sharpen" is all of it. `gops` is what was reached: two operations a MAC, at the
    median inference.
    """
    size = ready[0].size
    engine = Engine.load(model, size, provider, threads)
    try:
        out = Frame(*size)
        for picture in ready[:_WARM_UP]:
            engine.process(picture, out)
        return [_run(engine, ready, frames, paced) for paced in (False, True)]
    finally:
        engine.close()


def _run(engine: Engine, ready: list[Frame], frames: int, paced: bool) -> dict[str, Any]:
    engine.reset()
    source = MemorySource(ready, PACED_FPS, live=paced)
    telemetry = Telemetry()
    sink = Nowhere(source.size, source.fps)
    Pipeline(source, engine, sink, telemetry=telemetry, frames=frames, allocate=engine.allocate).run()
    numbers = telemetry.report()
    stages_cpu = numbers["stages_cpu_ms"]
    inference = telemetry.stages["inference"]
    macs, pixels = engine.model.macs_per_pixel, source.size[0] * source.size[1]
    seconds = inference.percentile(0.5) / 1e3
    return {
        "mode": "paced" if paced else "unpaced",
        "model": engine.model.name,
        "size": list(source.size),
        "provider": engine.provider,
        "threads": engine.threads,
        "frames": numbers["frames_out"],
        "fps": numbers["fps"],
        "dropped": numbers["dropped"],
        "inference_ms": inference.percentiles(50, 95, 99),
        "stages_ms": numbers["stages_ms"],
        "latency_ms": numbers["latency_ms"],
        "cpu_ms_per_frame": numbers["cpu_ms_per_frame"],
        "stages_cpu_ms": stages_cpu,
        "overhead_cpu_ms": round(sum(ms for stage, ms in stages_cpu.items() if stage != "inference"), 3),
        "rss_mb": numbers["rss_mb"],
        "macs_per_pixel": macs,
        "gops": round(2 * macs * pixels / seconds / 1e9, 1) if macs and seconds else None,
        "bypassed": numbers["bypassed"],
        "fallbacks": numbers["fallbacks"],
    }


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    name, flags = _cpu()
    return {
        "cpu": name,
        "cores": usable_cores(),
        "isa": [flag for flag in _X86 + _AMX + _ARM if flag in flags],
        "os": f"{platform.system()} {platform.release().partition('-')[0]} {platform.machine()}",
        "python": platform.python_version(),
        "sharpcam": __version__,
        "gpu": _gpu(),
        **{name: _version(*packages) for name, packages in _PACKAGES.items()},
    }


def _gpu() -> str:
    """The GPU and its driver, empty when there is none."""
    facts = cuda.facts()
    driver = f", driver {facts.driver}" if facts.driver else ""
    return f"{facts.gpu}{driver}, CUDA {facts.driver_cuda[0]}.{facts.driver_cuda[1]}" if facts.gpu else ""


_PACKAGES = {
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime"),
    "opencv": ("opencv-python", "opencv-python-headless"),
    "numpy": ("numpy",),
    "av": ("av",),
}


def _version(*packages: str) -> str:
    for package in packages:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return ""


def _cpu() -> tuple[str, set[str]]:
    """The processor's name and what it can; where the system does not tell, what Python knows."""
    name, flags = platform.processor() or platform.machine(), set[str]()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return name, flags
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            name = value.strip()
        elif key.strip() in ("flags", "Features"):
            flags |= set(value.split())
    return name, flags
