"""Images a second that teacher and student train on, in mixed precision and in float32.

Only where it is asked for (`python -m benchmarks training`). It is the step of the training loop itself (networks,
losses, gradients and optimiser of the recipes) on batches that lie ready: reading and degrading pictures is left out.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import machine_line
from benchmarks.room import Found, Run

RECIPES = {"teacher": "teacher", "student": "sharpcam"}
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
_GPU_BATCH = 64  # that of the recipes is for CPUs: a GPU would wait for Python, and all precisions be as fast
_WARM_UP = 3


def add_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--batch", type=int, metavar="N", help=f"default: {_GPU_BATCH} on a GPU, else that of the recipes"
    )
    group.add_argument("--steps", type=int, metavar="N", help="measured of each kind (default: 50)")
    group.add_argument(
        "--precisions", nargs="+", choices=PRECISIONS, help="default: all; 16-mixed on a GPU only"
    )


def settings(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    on_gpu = torch.cuda.is_available()
    return {
        "batch": args.batch or (_GPU_BATCH if on_gpu else None),
        "steps": args.steps or (3 if args.quick else 50),
        "precisions": args.precisions or [p for p in PRECISIONS if on_gpu or p != "16-mixed"],
        "device": torch.cuda.get_device_name() if on_gpu else "CPU",
        "threads": torch.get_num_threads(),
    }


def measure(run: Run) -> dict[str, Any]:
    wanted = settings(run.args)
    rows: dict[str, Any] = {}
    for who, recipe in RECIPES.items():
        for precision in wanted["precisions"]:
            work = partial(rate, recipe, precision, wanted["batch"], wanted["steps"])
            rows[f"{who}, {precision}"] = run.step(f"{who}, {precision}", work)
    return {"rows": rows}


def rate(name: str, precision: str, batch: int | None, steps: int) -> dict[str, Any]:
    """Images a second (frames that a step is given), and the device's memory at its most in MB."""
    import torch

    from training.loop import gradient_norm, make_fabric, make_optimizer
    from training.recipe import load_recipe
    from training.tasks import build, make_task

    overrides = {"train.precision": precision} | ({"train.batch": batch} if batch else {})
    recipe = load_recipe(name, overrides)
    fabric = make_fabric(precision)
    fabric.launch()
    teacher = build(recipe.teacher) if recipe.teacher else None
    task = make_task(recipe, teacher).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model, optimizer = fabric.setup(task, make_optimizer(task.student, recipe))
    clips = _clips(recipe.train.batch, recipe.data.frames, recipe.data.crop)
    ready = tuple(fabric.to_device(torch.from_numpy(part)) for part in clips)
    on_gpu = fabric.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for step in range(_WARM_UP + steps):
        start = time.perf_counter()
        loss, _ = model(ready, step)
        optimizer.zero_grad()
        fabric.backward(loss)
        gradient_norm(fabric, model, optimizer, recipe)
        optimizer.step()
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    images = clips[0].shape[0] * clips[0].shape[1]
    median = float(np.median(seconds[_WARM_UP:]))
    return {
        "images_per_second": round(images / median, 2),
        "step_ms": round(median * 1e3, 2),
        "images": images,
        "crop": recipe.data.crop,
        "peak_mb": round(torch.cuda.max_memory_allocated() / 2**20) if on_gpu else None,
    }


def _clips(batch: int, frames: int, crop: int) -> tuple[Any, Any]:
    """Degraded and true I420 clips of noise: what is in a picture changes nothing about the time."""
    rng = np.random.default_rng(0)
    shape = (batch, frames, crop * 3 // 2, crop)
    return tuple(rng.integers(16, 236, shape, np.uint8) for _ in range(2))  # type: ignore[return-value]


def markdown(found: Found) -> str:
    wanted = found["settings"]
    lines = ["| | images a second | against float32 | step, ms | images a step | peak MB |"]
    lines += ["| --- | ---: | ---: | ---: | ---: | ---: |"]
    for name, row in found["rows"].items():
        whole = found["rows"].get(f"{name.partition(',')[0]}, 32-true")
        times = f"{row['images_per_second'] / whole['images_per_second']:.2f}" if whole else ""
        size = f"{row['images']} of {row['crop']}x{row['crop']}"
        lines.append(
            f"| {name} | {row['images_per_second']:,.1f} | {times} | {row['step_ms']:,.1f} | {size} | "
            f"{row['peak_mb'] or ''} |"
        )
    where = wanted["device"] if wanted["device"] != "CPU" else machine_line(found["machine"])
    # what PyTorch makes of float32 by default
    tf32 = "" if wanted["device"] == "CPU" else " 32-true has TF32 in convolutions."
    return "\n".join([*lines, "", f"Medians of {wanted['steps']} steps; {where}.{tf32}"])


def draw(found: Found, folder: Path) -> list[Path]:
    return []


def readme(found: Found) -> dict[str, str]:
    return {"table": f"{markdown(found)} {found['date'][:10]}."}
