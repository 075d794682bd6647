"""How the cost grows: with pixels, threads and the model's MACs; and starting, and memory over time.

The student's time of a frame is measured in this process, in turns. Starting and memory are those of `sharpcam run`
as a user starts it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pixel_camera import scenes
from benchmarks.room import Run
from benchmarks.scaling_page import draw, markdown, readme
from benchmarks.timing import Times, alternate
from benchmarks.ways import cpu_ns, resident_mb, write_clip
from sharpcam.engine import Engine
from sharpcam.errors import MediaError
from sharpcam.frame import Frame
from sharpcam.models import Model, find_model, find_models
from sharpcam.runtime import usable_cores

__all__ = ["add_arguments", "draw", "markdown", "measure", "readme", "settings"]

SIZES = (
    (320, 180),
    (640, 360),
    (960, 540),
    (1280, 720),
    (1600, 900),
    (1920, 1080),
    (2560, 1440),
    (3840, 2160),
)
QUICK_SIZES = ((320, 180), (640, 360), (1280, 720))
SIZE = (1280, 720)  # where MACs are compared, and for starting and memory
# (channels, inner convolutions, grid): students of the trainer's own family, with random weights
STUDENTS = (
    *((32, 0, 8), (32, 2, 8), (64, 2, 8), (128, 2, 8), (32, 1, 4)),
    *((32, 3, 4), (32, 6, 4), (64, 2, 4), (64, 4, 4), (96, 4, 4)),
)
QUICK_STUDENTS = ((32, 2, 8), (64, 2, 8), (32, 3, 4))
SETTLE_S = 20.0  # until the test card has drawn its loop, and memory is what it stays
_THREADS = 4  # the pipeline's and the main one: with these it has begun
_IMPORTS = "import sharpcam.cli.run, sharpcam.sources.media, sharpcam.sinks.null"
_LOOP_IMPORTS = "import cv2, numpy, onnxruntime, benchmarks.usual_loop"


def add_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--scaling-rounds", type=int, metavar="N", help="default: 7; with --quick 3")
    group.add_argument("--scaling-model", default="m", metavar="NAME", help="default: m")
    group.add_argument(
        "--scaling-threads", nargs="+", type=int, metavar="N", help="default: 1, 2, 4 ... all cores"
    )
    group.add_argument(
        "--memory-duration", type=float, metavar="S",
        help="how long memory is watched; default: 90, with --quick 10; 3600 is the hour",
    )  # fmt: skip


def settings(args: argparse.Namespace) -> dict[str, Any]:
    cores = usable_cores()
    doubling = [n for n in (1, 2, 4, 8, 16) if n < cores] + [cores]
    return {
        "model": args.scaling_model,
        "models": {model.name: model.manifest.sha256 for model in find_models()[0]},
        "sizes": [list(size) for size in (QUICK_SIZES if args.quick else SIZES)],
        "threads": args.scaling_threads or doubling,
        "students": [list(student) for student in (QUICK_STUDENTS if args.quick else STUDENTS)],
        "size": list(SIZE),
        "rounds": args.scaling_rounds or (3 if args.quick else 7),
        "slot_ms": 60.0 if args.quick else 200.0,
        "memory_s": args.memory_duration or (10.0 if args.quick else 90.0),
    }


def measure(run: Run) -> dict[str, Any]:
    told = settings(run.args)
    model = find_model(told["model"])
    found: dict[str, Any] = {"pixels": {}, "models": {}, "starting": {}}
    for threads in told["threads"]:
        step = partial(over_sizes, model, [tuple(s) for s in told["sizes"]], threads, told)
        found["pixels"][str(threads)] = run.step(f"pixels, {threads} threads", step)
    for threads in dict.fromkeys((1, told["threads"][-1])):
        models = partial(over_models, told, threads, run.say)
        found["models"][str(threads)] = run.step(f"models, {threads} threads", models)
    found["starting"] = run.step("starting", partial(starting, told, run.say))
    found["memory"] = run.step(f"memory, {told['memory_s']:g} s", partial(memory, told, run.say))
    return found


# -- time of a frame


def still(size: tuple[int, int]) -> list[Frame]:
    """Two frames that differ in their noise alone; what they show changes nothing of a student's time."""
    rng = np.random.default_rng(5)
    ramp = np.linspace(40, 200, size[0])[None, :] + np.zeros((size[1] * 3 // 2, 1))
    frames = [Frame(*size), Frame(*size)]
    for frame in frames:
        np.copyto(frame.buffer, ramp + rng.integers(-3, 4, ramp.shape), casting="unsafe")
    return frames


def calls(engine: Engine) -> Callable[[], None]:
    """Sharpens one frame, as the pipeline does."""
    pictures, out = still(engine.size), Frame(*engine.size)
    turn = 0

    def call() -> None:
        nonlocal turn
        turn += 1
        frame = pictures[turn % 2]
        frame.sequence, frame.captured_ns = turn, time.monotonic_ns()
        engine.process(frame, out)

    return call


def in_turns(engines: dict[str, Engine], told: dict[str, Any]) -> dict[str, Times]:
    """The times of all engines, which are closed afterwards."""
    try:
        return alternate(
            {name: calls(engine) for name, engine in engines.items()},
            told["rounds"],
            told["slot_ms"],
            told["slot_ms"] * told["rounds"] * 3,
        )
    finally:
        for engine in engines.values():
            engine.close()


def over_sizes(
    model: Model, sizes: Sequence[tuple[int, int]], threads: int, told: dict[str, Any]
) -> list[dict[str, Any]]:
    engines = {f"{w}x{h}": Engine.load(model, (w, h), "cpu", threads) for w, h in sizes}
    times = in_turns(engines, told)
    return [{"size": [w, h], **times[f"{w}x{h}"].summary()} for w, h in sizes]


def over_models(told: dict[str, Any], threads: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Shipped models, and, where torch is, students of the trainer's family with random weights."""
    size = tuple(told["size"])
    shipped, _ = find_models()
    costs: dict[str, float | None] = {model.name: model.manifest.macs_per_pixel for model in shipped}
    engines = {model.name: Engine.load(model, size, "cpu", threads) for model in shipped}
    without = ""
    with tempfile.TemporaryDirectory() as folder:
        try:
            for name, path, macs in made_students(told["students"], Path(folder)):
                costs[name] = macs
                engines[name] = Engine.load(path, size, "cpu", threads)
        except ImportError as error:
            without = f"{error.name} is not installed: shipped models only"
            say(without)
        times = in_turns(engines, told)
    rows = []
    for name, taken in times.items():
        summary, cost = taken.summary(), costs[name]
        operations = 2 * cost * size[0] * size[1] if cost else None
        seconds = summary["ms"]["p50"] / 1e3
        gops = round(operations / seconds / 1e9, 1) if operations else None
        shipped_too = any(name == model.name for model in shipped)
        rows.append({"name": name, "shipped": shipped_too, "macs_per_pixel": cost, "gops": gops, **summary})
    return {"rows": rows, "without": without}


def made_students(configs: Sequence[Sequence[int]], folder: Path) -> Iterator[tuple[str, Path, float]]:
    """Name, uint8 graph and MACs per pixel of a student of each (channels, depth, grid), with random weights.

    Raises ImportError without torch and onnx.
    """
    import torch

    from training.export import calibrate
    from training.graph import build_model
    from training.networks.student import Student, StudentConfig

    rng = np.random.default_rng(11)
    clip = rng.integers(0, 256, (2, 96, 64), np.uint8)  # the ranges do not change the time
    for channels, depth, grid in configs:
        torch.manual_seed(channels + depth + grid)
        student = Student(StudentConfig(channels=channels, depth=depth, grid=grid)).eval()
        student.quantize_weights()
        path = folder / f"c{channels}-d{depth}-g{grid}.onnx"
        path.write_bytes(build_model(student, "uint8", calibrate(student, [clip])).SerializeToString())
        yield path.stem, path, student.macs_per_pixel()


# -- starting


def starting(told: dict[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    """Wall and CPU ms from a process's start until each stage, for SharpCam and for the usual Python loop.

    "imports" is a process of its own that imports and ends, "opened" is when source, model and sink are open,
    "first frame" when it has been delivered. Lists of rounds.
    """
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.avi"
        write_clip(clip, scenes(tuple(told["size"]), 30, 2), "MJPG")
        run = [sys.executable, "-m", "sharpcam", "run", "--source", str(clip), "--sink", "null"]
        command = [*run, "--frames", "1", "--model", told["model"], "--threads", "1", "--provider", "cpu"]
        programs = {
            "SharpCam": {
                "interpreter": stopwatch([sys.executable, "-c", "pass"]),
                "imports": stopwatch([sys.executable, "-c", _IMPORTS]),
                "first frame": stopwatch(command, {"opened": "^sink:", "first frame": "^1 frames"}),
            }
        }
        with contextlib.suppress(ImportError):
            programs["usual Python loop"] = loop_programs(told, clip, Path(folder))
        found: dict[str, Any] = {}
        for n in range(told["rounds"]):
            for who, stages in programs.items():
                for stage, watched in stages.items():
                    for name, (wall, cpu) in watched().items():
                        row = found.setdefault(who, {}).setdefault(name or stage, {"ms": [], "cpu_ms": []})
                        row["ms"].append(wall)
                        row["cpu_ms"].append(cpu)
            walls = ", ".join(f"{who} {rows['first frame']['ms'][-1]:.0f} ms" for who, rows in found.items())
            say(f"  round {n + 1}: first frame after {walls}")
    return found


def loop_programs(told: dict[str, Any], clip: Path, folder: Path) -> dict[str, Any]:
    """The usual loop does not tell how far it is: its end, after two frames, stands for the first."""
    from benchmarks.float_twin import float_twin

    model = find_model(told["model"])
    twin = folder / "rgb.onnx"
    twin.write_bytes(float_twin(model.folder / model.manifest.file, "rgb").SerializeToString())
    run = [sys.executable, "-m", "benchmarks.usual_loop", str(clip), "--model", str(twin)]
    return {
        "imports": stopwatch([sys.executable, "-c", _LOOP_IMPORTS]),
        "first frame": stopwatch(run),
    }


Watched = Callable[[], dict[str, tuple[float, float]]]


def stopwatch(command: list[str], lines: dict[str, str] | None = None) -> Watched:
    """Runs `command` when called: (wall, CPU) ms from its start until its output has a line that fits, by name.

    Without `lines` until its end, under the name "". Raises MediaError when it fails or a line does not come.
    """

    def watch() -> dict[str, tuple[float, float]]:
        found: dict[str, tuple[float, float]] = {}
        began = time.perf_counter()
        with tempfile.TemporaryFile("w+") as errors:
            program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
            assert program.stdout
            cpu = 0.0
            for line in program.stdout:
                wall = (time.perf_counter() - began) * 1e3
                with contextlib.suppress(OSError):  # it has ended meanwhile: what it had is near enough
                    cpu = cpu_ns(program.pid) / 1e6
                for name, pattern in (lines or {}).items():
                    if re.search(pattern, line):
                        found.setdefault(name, (wall, cpu))
            _, status, usage = os.wait4(program.pid, 0)
            program.returncode = os.waitstatus_to_exitcode(status)
            wall = (time.perf_counter() - began) * 1e3
            errors.seek(0)
            said = errors.read().strip()[-600:]
        if program.returncode or (lines or {}).keys() - found.keys():
            raise MediaError(f"{' '.join(command[:4])} ... did not work: {said or 'it said nothing'}")
        return found if lines else {"": (wall, (usage.ru_utime + usage.ru_stime) * 1e3)}

    return watch


# -- memory


def memory(told: dict[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    """Resident memory, threads and open files of `sharpcam run` on the test card, once a second or oftener."""
    size = f"{told['size'][0]}x{told['size'][1]}"
    run = [sys.executable, "-m", "sharpcam", "run", "--source", "testcard", "--sink", "null", "--size", size]
    how = ["--model", told["model"], "--provider", "cpu", "--threads", "1"]
    seconds = told["memory_s"]
    rows: list[tuple[float, float, int, int]] = []
    with tempfile.TemporaryFile("w+") as output:
        program = subprocess.Popen([*run, *how, "--duration", str(seconds)], stdout=output, stderr=output)
        began = said = time.monotonic()
        while program.poll() is None:
            now = time.monotonic()
            with contextlib.suppress(OSError):  # it is just ending
                tasks, files = (len(os.listdir(f"/proc/{program.pid}/{what}")) for what in ("task", "fd"))
                if resident := round(resident_mb(program.pid), 2):  # nothing yet, just after the fork
                    rows.append((round(now - began, 1), resident, tasks, files))
            if now - said > 60:
                said = now
                say(f"  {rows[-1][0]:.0f} s: {rows[-1][1]:.0f} MB")
            time.sleep(min(1.0, seconds / 30))
        output.seek(0)
        text = output.read().strip()
    running = [row for row in rows if row[2] >= _THREADS]  # neither beginning nor ending
    if program.returncode or not running:
        raise MediaError(f"sharpcam run did not work: {text[-600:]}")
    begun = running[0][0]
    settled = [row for row in running if row[0] > begun + min(SETTLE_S, seconds / 3)] or running
    part = max(1, len(settled) // 10)
    every = max(1, len(rows) // 300)
    return {
        "seconds": seconds,
        "summary": text.splitlines()[-1],
        "samples": rows[::every],
        "settled_mb": statistics.median(row[1] for row in settled),
        "growth_mb": statistics.mean(r[1] for r in settled[-part:])
        - statistics.mean(r[1] for r in settled[:part]),
        "growth_s": settled[-1][0] - settled[0][0],
        "threads": [settled[0][2], settled[-1][2]],
        "files": [settled[0][3], settled[-1][3]],
    }
