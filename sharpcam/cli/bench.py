"""`sharpcam bench`: speed, latency and CPU of the whole pipeline on this machine."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path
from typing import Any

import cv2
from rich.console import Console
from rich.table import Table

from sharpcam.benchmark import PACED_FPS, machine, measure, pictures
from sharpcam.cli.run import check_writable, write_json
from sharpcam.errors import ModelError
from sharpcam.models import Model, find_model, find_models
from sharpcam.runtime import Provider


def run_bench(
    models: list[str],
    *,
    size: tuple[int, int],
    provider: str,
    threads: int | None,
    frames: int,
    json: str | None,
) -> int:
    """Measures, prints a table for people unless JSON goes to stdout, and gives the exit code."""
    cv2.setNumThreads(1)
    chosen = _chosen(models)
    if json not in (None, "-"):
        check_writable(Path(str(json)))
    results = []
    ready = pictures(size)
    for model in chosen:
        print(f"measuring {model.name} at {size[0]}x{size[1]} ...", file=sys.stderr, flush=True)
        results += measure(model, ready, provider=provider, threads=threads, frames=frames)
    found = {"machine": machine(), "results": results}
    if json == "-":
        print(json_module.dumps(found, indent=2))
        return 0
    if json is not None:
        write_json(Path(json), found)
    _print(found)
    return 0


def _chosen(names: list[str]) -> list[Model]:
    if "all" not in names:
        return [find_model(name) for name in names]
    models, errors = find_models()
    if errors:
        raise errors[0]
    if not models:
        raise ModelError("no model is installed", "name a model file with --model PATH")
    return models


def _print(found: dict[str, Any]) -> None:
    about = found["machine"]
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    console.print(f"{about['cpu']}, {about['cores']} cores ({' '.join(about['isa'][-6:])}); {about['os']}")
    if about["gpu"]:
        console.print(about["gpu"])
    console.print(
        f"ONNX Runtime {about['onnxruntime']}, Python {about['python']}, SharpCam {about['sharpcam']}\n"
    )
    unpaced = [result for result in found["results"] if result["mode"] == "unpaced"]
    paced = [result for result in found["results"] if result["mode"] == "paced"]

    speed = Table(title="As fast as it goes", title_justify="left")
    for heading in ("model", "size", "on", "fps", "inference ms p50", "p95", "p99", "MACs/px", "GOPS", "MB"):
        speed.add_column(heading, justify="left" if heading in ("model", "size", "on") else "right")
    for r in unpaced:
        inference = r["inference_ms"]
        speed.add_row(
            *_names(r),
            f"{r['fps']:.1f}",
            *(f"{inference[p]:.2f}" for p in ("p50", "p95", "p99")),
            f"{r['macs_per_pixel']:,.0f}" if r["macs_per_pixel"] else "?",
            f"{r['gops']:.0f}" if r["gops"] else "?",
            f"{r['rss_mb']:.0f}",
        )
    console.print(speed)

    live = Table(title=f"Live, {PACED_FPS:g} fps", title_justify="left")
    for heading in (
        "model",
        "size",
        "on",
        "fps",
        "dropped",
        "latency ms p50",
        "p95",
        "p99",
        "CPU ms a frame",
    ):
        live.add_column(heading, justify="left" if heading in ("model", "size", "on") else "right")
    for r in paced:
        latency = r["latency_ms"]
        live.add_row(
            *_names(r),
            f"{r['fps']:.1f}",
            str(r["dropped"]),
            *(f"{latency[p]:.1f}" for p in ("p50", "p95", "p99")),
            f"{r['cpu_ms_per_frame']:.1f}",
        )
    console.print(live)

    stages = Table(title="Live, stage by stage (ms)", title_justify="left")
    names = list(paced[0]["stages_ms"])
    for heading in ("model", "", *names, "all but inference"):
        stages.add_column(heading, justify="left" if heading in ("model", "") else "right")
    for r in paced:
        for share in ("p50", "p95"):
            stages.add_row(r["model"], share, *(f"{r['stages_ms'][name][share]:.2f}" for name in names), "")
        cpu = r["stages_cpu_ms"] | {"send": r["stages_cpu_ms"].get("deliver", 0.0)}
        shown = (f"{cpu[name]:.2f}" if name in cpu else "" for name in names)
        stages.add_row(r["model"], "CPU", *shown, f"{r['overhead_cpu_ms']:.2f}")
    console.print(stages)


def _names(result: dict[str, Any]) -> tuple[str, str, str]:
    provider = Provider(result["provider"])
    where = f"CPU, {result['threads']} thr." if provider is Provider.CPU else provider.label
    return result["model"], "x".join(map(str, result["size"])), where
