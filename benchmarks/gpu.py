"""What a GPU gives: time of copies and kernels, memory, the picture beside the CPU's, and the loss of the device.

Only where it is asked for (`python -m benchmarks gpu`), and only with an NVIDIA GPU: there is no other way to know
these figures. Beside them stand NVIDIA's own for its video effects.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks.room import Found, Run
from sharpcam import cuda
from sharpcam.benchmark import MemorySource, Nowhere, pictures
from sharpcam.device_binding import DeviceBinding
from sharpcam.engine import Engine
from sharpcam.errors import ModelError, ProviderUnavailable
from sharpcam.frame import Frame
from sharpcam.models import Model, find_model, find_models
from sharpcam.pipeline import Pipeline
from sharpcam.runtime import Plan, Provider, open_session
from sharpcam.sources.testcard import TestCard
from sharpcam.telemetry import Telemetry

SIZES = {"1080p": (1920, 1080), "720p": (1280, 720)}  # what matters most first: a run may be stopped
LIVE_FPS = 60.0
_LIVE_FRAMES, _LOST_FRAMES, _LOST_AT = 600, 300, 100
_WAY_FRAMES = 500
_SETTLED = 200  # frames after which the device's memory should grow no more
_PSNR_FRAMES = 24
# what may be chosen about a session; the product takes the first
WAYS: dict[str, dict[str, bool]] = {
    "as SharpCam does it": {},
    "without CUDA graphs": {"cuda_graphs": False},
    "convolutions in NHWC": {"nhwc": True},
    "NHWC, without CUDA graphs": {"nhwc": True, "cuda_graphs": False},
    "frames not pinned": {"pinned": False},
}
# milliseconds a frame on T4, A40, L40 and B40, as NVIDIA publishes them for its Video Effects SDK
# (docs.nvidia.com/maxine/vfx/LinuxVFXSDK/PerformanceReference.html)
PUBLISHED_GPUS = ("T4", "A40", "L40", "B40")
PUBLISHED = {
    "Webcam Denoise, 720p": (2.52, 0.88, 0.43, 0.352),
    "Artifact Reduction, 720p": (4.83, 1.1, 0.65, 0.344),
    "Super Resolution, 360p to 720p": (3.11, 1.14, 0.55, 0.371),
    "Upscale with sharpening, 360p to 720p": (0.21, 0.07, 0.04, 0.0247),
    "AI Green Screen, 720p": (2.97, 1.3, 0.749, 0.887),
    "Video Super Resolution, 720p to 1080p (SDK 1.2.0)": (19.9, 3.04, 1.89, 1.03),
}
SOURCE = "docs.nvidia.com/maxine/vfx/LinuxVFXSDK/PerformanceReference.html"


def add_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--gpu-models", nargs="+", metavar="NAME", help="default: all that have a GPU's file")
    group.add_argument("--gpu-sizes", nargs="+", choices=SIZES, metavar="SIZE", help=f"of {', '.join(SIZES)}")
    group.add_argument("--gpu-frames", type=int, metavar="N", help="frames of each run (default: 10000)")


def settings(args: argparse.Namespace) -> dict[str, Any]:
    models = _models(args)
    return {
        "models": {model.name: model.for_provider("cuda").sha256 for model in models},
        "sizes": args.gpu_sizes or list(SIZES),
        "frames": args.gpu_frames or (500 if args.quick else 10_000),
        "gpu": cuda.facts().gpu,
    }


def _models(args: argparse.Namespace) -> list[Model]:
    """Those that were asked for, or all with a file for a GPU beside that for the CPU, the largest first: a teacher
    has one file for both, and its loss would go on for minutes on the CPU. Raises ModelError when there is none."""
    if args.gpu_models:
        return [find_model(name) for name in args.gpu_models]
    fitting = [m for m in find_models()[0] if "cuda" in m.manifest.variants]
    if not fitting:
        raise ModelError("no model has a file for a GPU", "export one with --precision uint8 float16")
    return sorted(fitting, key=lambda m: m.manifest.macs_per_pixel or 0, reverse=True)


# -- measuring -------------------------------------------------------------------------------------------------


def measure(run: Run) -> dict[str, Any]:
    if found := cuda.obstacle(cuda.facts()):
        raise ProviderUnavailable(
            f"these figures want a GPU that runs: {found[0]}",
            f"{found[1].removesuffix(', or use --provider cpu')}; `sharpcam bench` measures the CPU",
        )
    facts, wanted = cuda.facts(), settings(run.args)
    providers = [Provider.CUDA]
    if missing := cuda.tensorrt_obstacle():
        run.say(f"without TensorRT: {missing[0]}")
    else:
        providers.append(Provider.TENSORRT)
    cells: dict[str, Any] = {}
    for model in _models(run.args):
        for size in wanted["sizes"]:
            ready = pictures(SIZES[size])
            for provider in providers:
                name = f"{model.name}, {size}, {provider.label}"
                steps: dict[str, Callable[[], Any]] = {
                    "frames": partial(long_run, model, provider, ready, wanted["frames"]),
                    "live": partial(live, model, provider, ready, min(wanted["frames"], _LIVE_FRAMES)),
                    "picture": partial(beside_the_cpu, model, provider, SIZES[size]),
                    "loss": partial(live, model, provider, ready, _LOST_FRAMES, lose_at=_LOST_AT),
                }
                if provider is Provider.CUDA:
                    steps["ways"] = partial(ways, model, ready, min(wanted["frames"], _WAY_FRAMES))
                cells[name] = {what: run.step(f"{name}: {what}", work) for what, work in steps.items()}
    return {
        "gpu": {
            "name": facts.gpu,
            "driver": facts.driver,
            "driver_cuda": facts.driver_cuda,
            "built_cuda": facts.built_cuda,
            "capability": facts.capability,
        },
        "cells": cells,
    }


def long_run(model: Model, provider: Provider, ready: list[Frame], frames: int) -> dict[str, Any]:
    """Milliseconds a frame, copies and kernels apart, and what the device's memory does meanwhile."""
    engine = Engine.load(model, ready[0].size, provider)
    try:
        given = [_in_memory_of(engine, frame) for frame in ready]
        out = Frame(*ready[0].size, allocate=engine.allocate)
        parts: dict[str, list[float]] = {"upload": [], "kernels": [], "download": [], "total": []}
        settled_bytes = 0
        for i in range(frames):
            frame = given[i % len(given)]
            frame.sequence, frame.captured_ns = i, i * 16_666_667
            start = time.perf_counter_ns()
            engine.process(frame, out)
            total = time.perf_counter_ns() - start
            if i == min(_SETTLED, frames // 2):
                settled_bytes = cuda.device().memory()[0]
            for name, ns in (
                ("upload", engine.upload_ns),
                ("kernels", engine.run_ns),
                ("download", engine.download_ns),
                ("total", total),
            ):
                parts[name].append(ns / 1e6)
        return {
            "frames": frames,
            "provider": engine.provider,
            "precision": engine.model.precision,
            "cuda_graphs": engine.records,
            "ms": {name: _spread(values) for name, values in parts.items()},
            "device_mb": round(settled_bytes / 2**20, 1),
            "device_growth_mb": round((cuda.device().memory()[0] - settled_bytes) / 2**20, 2),
        }
    finally:
        engine.close()


def _in_memory_of(engine: Engine, frame: Frame) -> Frame:
    copy = Frame(*frame.size, allocate=engine.allocate)
    np.copyto(copy.buffer, frame.buffer)
    copy.copy_facts(frame)
    return copy


def _spread(values: list[float]) -> dict[str, float]:
    """Once the first frames on this thread are through: ONNX Runtime records its graphs in them."""
    later = values[min(20, len(values) // 2) :]
    found = {f"p{q}": round(float(np.percentile(later, q)), 4) for q in (50, 95, 99)}
    return found | {"max": round(max(later), 4)}


def live(
    model: Model, provider: Provider, ready: list[Frame], frames: int, lose_at: int | None = None
) -> dict[str, Any]:
    """The whole pipeline at 60 fps; with `lose_at`, the session fails from that frame on."""
    engine = Engine.load(model, ready[0].size, provider)
    telemetry = Telemetry()
    sink, loss = _Watching(ready[0].size), _Loss(engine)
    try:
        pipeline = Pipeline(
            *(MemorySource(ready, LIVE_FPS, live=True), engine, sink),
            telemetry=telemetry,
            frames=frames,
            allocate=engine.allocate,
        )
        if lose_at is not None:
            sink.at(lose_at, loss.happen)
        pipeline.run()
    finally:
        engine.close()
        loss.undo()
    numbers = telemetry.report()
    names = ("fps", "frames_out", "dropped", "bypassed", "fallbacks", "latency_ms", "cpu_ms_per_frame")
    return {name: numbers[name] for name in names} | {
        "provider": engine.provider,
        "longest_gap_ms": round(sink.longest_gap_ns / 1e6, 1),
    }


class _Watching(Nowhere):
    """Notes the longest time between two new frames."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__(size, LIVE_FPS)
        self.longest_gap_ns = 0
        self._count = self._last_ns = 0
        self._planned: tuple[int, Callable[[], None]] | None = None

    def at(self, frame: int, work: Callable[[], None]) -> None:
        self._planned = frame, work

    def send(self, frame: Frame) -> None:
        super().send(frame)
        now = time.monotonic_ns()
        if self._count > 10:  # the first ones include the recording of the graphs
            self.longest_gap_ns = max(self.longest_gap_ns, now - self._last_ns)
        self._count, self._last_ns = self._count + 1, now
        if self._planned and self._count == self._planned[0]:
            self._planned[1]()


class _Loss:
    """As if the device had gone: every run of the session fails from then on."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lost: tuple[DeviceBinding, Any] | None = None

    def happen(self) -> None:
        if isinstance(self._engine._bound, DeviceBinding):
            self._lost = self._engine._bound, self._engine._bound._session
            self._engine._bound._session = self

    def run_with_iobinding(self, *arguments: object) -> None:
        raise RuntimeError("CUDA failure 999: unknown error (made up by the benchmark)")

    def undo(self) -> None:
        """Frees what the engine let go of: the device is there, and its memory is to be measured again."""
        if self._lost is not None:
            bound, session = self._lost
            bound._session = session
            bound.close()
            self._lost = None


def beside_the_cpu(model: Model, provider: Provider, size: tuple[int, int]) -> dict[str, Any]:
    """PSNR against the truth of the test card, in dB over all samples of I420: by the GPU, and in float32 by the
    CPU."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = model.for_provider(provider.variant)
        graph = widened(model.read(manifest))
        (Path(folder) / "float32.onnx").write_bytes(graph)
        facts = {"file": "float32.onnx", "sha256": hashlib.sha256(graph).hexdigest(), "precision": "float32"}
        twin = Model(manifest.model_copy(update=facts | {"variants": {}}), Path(folder))
        card = TestCard(size)
        engines = {
            "gpu": Engine.load(model, size, provider),
            "cpu_float32": Engine.load(twin, size, "cpu"),
        }
        found: dict[str, list[float]] = {name: [] for name in (*engines, "between")}
        soft, outs = Frame(*size), {name: Frame(*size) for name in engines}
        for i in range(_PSNR_FRAMES):
            card.soft(i, soft)
            soft.sequence, soft.captured_ns = i, i * 33_000_000
            truth = card.truth(i)
            for name, engine in engines.items():
                engine.process(soft, outs[name])
                found[name].append(_psnr(outs[name].buffer, truth.buffer))
            found["between"].append(_psnr(outs["gpu"].buffer, outs["cpu_float32"].buffer))
        for engine in engines.values():
            engine.close()
    means = {name: round(float(np.mean(values)), 4) for name, values in found.items()}
    return means | {"difference_db": round(means["gpu"] - means["cpu_float32"], 4)}


def _psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    mse = float(np.mean((a.astype(np.float32) - b) ** 2))
    return 10 * math.log10(255**2 / max(mse, 1e-6))


def widened(graph: bytes) -> bytes:
    """A float16 graph with the same numbers in float32."""
    model = onnx.load_from_string(graph)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            wide = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.CopyFrom(helper.make_attribute("to", TensorProto.FLOAT))
    return bytes(model.SerializeToString())


def ways(model: Model, ready: list[Frame], frames: int) -> dict[str, Any]:
    """The same frames by each of `WAYS`, ms a frame in all."""
    return {name: _one_way(model, ready, frames, **chosen) for name, chosen in WAYS.items()}


def _one_way(
    model: Model,
    ready: list[Frame],
    frames: int,
    *,
    cuda_graphs: bool = True,
    nhwc: bool = False,
    pinned: bool = True,
) -> dict[str, Any]:
    size, device = ready[0].size, cuda.device()
    step = find_step(model)
    if size[0] % step or size[1] % step:
        return {"left_out": f"frames would be padded to multiples of {step}"}
    try:
        with device.lock:
            stream = device.open_stream()
            plan = Plan(size, stream, cuda_graphs, nhwc)
            session, manifest = open_session(model, Provider.CUDA, 1, plan)
            bound = DeviceBinding(session, manifest, device, stream, *size)
        given, out = (Frame(*size, allocate=_pinned if pinned else np.empty) for _ in range(2))
        totals = []
        for i in range(frames):
            np.copyto(given.buffer, ready[i % len(ready)].buffer)
            start = time.perf_counter_ns()
            bound.run(given, out, 1.0)
            totals.append((time.perf_counter_ns() - start) / 1e6)
        bound.close()
    except Exception as error:  # whatever ONNX Runtime raises: that this way is closed is a result, too
        return {"left_out": " ".join(str(error).split())[:200]}
    return {"ms": _spread(totals)}


def find_step(model: Model) -> int:
    return int(np.lcm(model.manifest.size_multiple, 2))


def _pinned(shape: tuple[int, int], dtype: type[np.uint8]) -> Any:
    return cuda.device().pinned(shape)


# -- showing -----------------------------------------------------------------------------------------------------


def published_table() -> str:
    """NVIDIA's figures as a Markdown table."""
    lines = [f"| | {' | '.join(PUBLISHED_GPUS)} |", f"| --- |{' ---: |' * len(PUBLISHED_GPUS)}"]
    lines += [f"| {name} | {' | '.join(f'{v:g}' for v in values)} |" for name, values in PUBLISHED.items()]
    return "\n".join(lines)


def times_table(found: Found) -> str:
    parts = ("upload", "kernels", "download", "total")
    lines = [
        f"| | {' | '.join(parts)} | p95 | p99 | device MB (growth) | dB beside CPU |",
        f"| --- |{' ---: |' * (len(parts) + 4)}",
    ]
    for name, cell in found["cells"].items():
        frames = cell["frames"]
        ms = frames["ms"]
        cells = [f"{ms[part]['p50']:.3f}" for part in parts]
        cells += [f"{ms['total'][share]:.3f}" for share in ("p95", "p99")]
        cells += [f"{frames['device_mb']:.0f} ({frames['device_growth_mb']:+.1f})"]
        cells += [f"{cell['picture']['difference_db']:+.3f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def markdown(found: Found) -> str:
    gpu = found["gpu"]
    frames = found["settings"]["frames"]
    parts = [
        f"{gpu['name']}, NVIDIA driver {gpu['driver'] or '?'}. Medians of {frames:,} frames in ms, and the 95th and "
        "99th percentile of the total; memory of the device in use after warming up, and what was added until the "
        "end; PSNR of the test card against that of the same graph in float32 on the CPU.",
        times_table(found),
    ]
    for name, cell in found["cells"].items():
        run, loss = cell["live"], cell["loss"]
        parts += [
            f"## {name}",
            f"Live at {LIVE_FPS:g} fps: {run['frames_out']:,} frames, {run['dropped']} dropped, latency "
            f"{run['latency_ms']['p50']:.2f} ms, p99 {run['latency_ms']['p99']:.2f} ms, CPU "
            f"{run['cpu_ms_per_frame']:.2f} ms a frame.",
            f"With the device lost in the middle (made up): {loss['frames_out']} frames delivered, "
            f"{loss['dropped']} dropped, {loss['fallbacks']} fallback, then on {loss['provider']}; the longest "
            f"gap was {loss['longest_gap_ms']:.0f} ms.",
        ]
        if "ways" in cell:
            parts.append("\n".join(_way_rows(cell["ways"])))
    parts += ["## NVIDIA's own, for comparison", published_table(), f"Milliseconds a frame, from {SOURCE}."]
    return "\n\n".join(parts)


def _way_rows(ways: dict[str, Any]) -> list[str]:
    lines = ["| | total p50 | p99 |", "| --- | ---: | ---: |"]
    for name, way in ways.items():
        ms = way.get("ms")
        told = f"{ms['p50']:.3f} | {ms['p99']:.3f}" if ms else f"{way['left_out']} |"
        lines.append(f"| {name} | {told} |")
    return lines


def draw(found: Found, folder: Path) -> list[Path]:
    return []


def readme(found: Found) -> dict[str, str]:
    return {"table": f"{times_table(found)}\n\n{found['gpu']['name']}, {found['date'][:10]}."}
