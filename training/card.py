"""What goes with an exported model: `model.toml` for the program, `CARD.md` and a picture for people."""

from __future__ import annotations

import hashlib
import math
import tomllib
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sharpcam.benchmark import machine
from sharpcam.engine import Engine
from sharpcam.frame import Frame
from sharpcam.geometry import to_rgb
from sharpcam.sources.testcard import TestCard
from training.account import NOT_RECORDED, Note, data_rows, metrics, rebuild, teacher_line, to_toml
from training.errors import DataError
from training.graph import MEANS, NOTHING, STATES, means_shape
from training.halo import halo
from training.networks import count_macs, count_parameters
from training.networks.student import CHROMA_GRID, GATE_GRID, Student
from training.recipe import Recipe

STRIP = "card.png"
STRIP_SIZE = (1280, 720)
STILL_FRAMES = 3  # of a model without memory
STRIP_FRAMES = 12  # so many come before the one that is shown: the recursion has settled
STRIP_CROPS = ((556, 186, 212, 176), (872, 216, 212, 120))  # x, y, width, height: eyes, and small print


# -- the manifest --------------------------------------------------------------------------------------


def write_manifest(folder: Path, network: nn.Module, recipe: Recipe, content: dict[str, Any]) -> None:
    """Writes `folder`/model.toml for the graphs in `folder`, whose name is the model's: of a student, which
    takes I420 planes, or of another network, which takes RGB.

    `content` is the checkpoint, and may hold `notes`, `reports`, `version` and, of an RGB network,
    `precision` beside. Raises DataError when a report is about another file.
    """
    checksum = _sha256(folder / "model.onnx")
    for name, report in content.get("reports", {}).items():
        measured = report["output"].get("model", {}).get("sha256", checksum)
        if measured != checksum:
            raise DataError(
                f"report {name} is about another file (sha256 {measured[:16]}, this is {checksum[:16]}):"
                " export with the same data as before, or measure again"
            )
    values: dict[str, Any] = {
        "name": folder.name,
        "version": content.get("version", "1.0"),
        "file": "model.onnx",
        "sha256": checksum,
        **(_student_facts(network) if isinstance(network, Student) else _rgb_facts(network, content)),
        "recipe": recipe.name,
        "teacher": teacher_line(content),
        "created": date.today(),
    }
    if isinstance(network, Student) and network.config.temporal:
        planes = (("y", (1, 1, "H", "W")), ("uv", (1, 2, "H/2", "W/2")))
        # the first frame stands in for the one before it, with nothing added, so that nothing is mixed in
        values["state"] = [
            {
                "input": f"{kind}_{p}",
                "output": f"{kind}_{p}_out",
                "shape": s,
                "dtype": "uint8",
                "initial": p if kind == "state" else NOTHING,
            }
            for kind in STATES
            for p, s in planes
        ]
        if network.config.scene:
            ports = {"input": MEANS, "output": f"{MEANS}_out", "shape": means_shape(network)}
            values["state"].append(ports | {"dtype": "float64", "initial": 0})
    values["training_data"] = [
        {"name": f"{n.name} ({n.amount})", "licence": n.licence, **({"url": n.url} if n.url else {})}
        for n in data_rows(content)
        if n.use == "training"
    ]
    values["metrics"] = metrics(content)
    if (folder / "model-float16.onnx").exists():
        half = {"file": "model-float16.onnx", "sha256": _sha256(folder / "model-float16.onnx")}
        values["variants"] = {"cuda": half | {"precision": "float16"}}
    (folder / "model.toml").write_text(to_toml(values), encoding="utf-8")


def _student_facts(student: Student) -> dict[str, Any]:
    config = student.config
    kind = "recurrent: motion-gated noise filter, then sharpener" if config.temporal else "still"
    kind += ", with gains from the whole frame" if config.scene else ""
    multiple = math.lcm(config.grid, GATE_GRID if config.temporal else 2, CHROMA_GRID if config.chroma else 2)
    return {
        "layout": "yuv420",
        "precision": "uint8",
        "size_multiple": multiple,
        "halo": halo(student, multiple),
        "strength_input": True,
        "description": f"{kind}, on I420 planes, {config.channels} channels",
        "parameters": student.parameter_count(),
        "macs_per_pixel": round(student.macs_per_pixel(), 2),
    }


def _rgb_facts(network: nn.Module, content: dict[str, Any]) -> dict[str, Any]:
    side = 64
    return {
        "layout": "rgb",
        "precision": content.get("precision", "float32"),
        "size_multiple": 8,
        "description": (type(network).__doc__ or type(network).__name__).partition("\n")[0],
        "parameters": count_parameters(network),
        "macs_per_pixel": round(count_macs(network, torch.empty(1, 3, side, side)).total / side**2, 2),
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# -- the card ------------------------------------------------------------------------------------------


def write_card(folder: Path, recipe: Recipe, content: dict[str, Any]) -> None:
    """Writes `folder`/CARD.md and its picture. Loads the model in the product's engine to do so.

    Raises ModelError when that cannot run it.
    """
    manifest = tomllib.loads((folder / "model.toml").read_text(encoding="utf-8"))
    ms = write_strip(folder)
    rows = data_rows(content)
    rgb = manifest["layout"] == "rgb"
    sections = [
        f"# {manifest['name']} {manifest['version']}\n\n{_what(manifest, recipe.task == 'pictures')}",
        f"![The test card: as a soft webcam sees it, sharpened, and the truth]({STRIP})\n\n"
        "The program's own test card, from left to right: as a soft, noisy webcam sees it; sharpened by this"
        " model; the truth. It was not trained on it.",
        f"## Cost\n\n{_cost(folder, manifest)}{_speed(ms) if rgb else ''}",
        f"## How it was made\n\n{_made(recipe, content)}\n\n```\n{rebuild(recipe, content, folder.name)}\n```",
        f"## Data and licences\n\n{_data(rows, recipe.data.held_out)}",
        f"## How good it is\n\n{_quality(metrics(content))}",
        f"## Limits\n\n{_limits(manifest, metrics(content))}",
        f"## The whole recipe\n\n```toml\n{to_toml(recipe.model_dump(mode='json', exclude_none=True))}```",
    ]
    (folder / "CARD.md").write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def _what(manifest: dict[str, Any], pictures: bool) -> str:
    if manifest["layout"] == "rgb":
        report = ", which follows a published report (see training/PUBLISHED.md)"
        return (
            f"{manifest['description']} Trained by the recipe `{manifest['recipe']}`"
            f"{report if pictures else ''}; it takes and gives RGB pictures, float32 in 0..1."
        )
    state = (
        " It remembers the frame before, calmed, and so takes noise and flicker away with the softness;"
        if manifest.get("state")
        else " Every frame stands for itself;"
    )
    if any(s["input"] == MEANS for s in manifest.get("state", ())):
        state = state[:-1] + ", and what that frame as a whole told of the camera: how soft, how noisy;"
    return (
        "A student network that sharpens webcam pictures for `sharpcam`. It takes and gives I420 planes as"
        f" they are (uint8 in, uint8 out), everything between lies in the graph.{state} strength 0 gives the"
        " picture back bit for bit."
    )


def _cost(folder: Path, manifest: dict[str, Any]) -> str:
    macs = manifest["macs_per_pixel"]
    files = ", ".join(f"`{p.name}` {p.stat().st_size / 1000:.0f} kB" for p in sorted(folder.glob("*.onnx")))
    return (
        f"{manifest['parameters']:,} parameters, {macs / 1000:.2f} thousand multiply-accumulates per pixel:"
        f" {macs * 1280 * 720 / 1e9:.2f} billion for a frame of 1280x720. Files: {files}. How long that takes"
        f" on your machine is told by `sharpcam bench --model {manifest['name']}`."
    )


def _speed(ms: float) -> str:
    about = machine()
    return (
        f"\n\nMeasured {date.today()} in `sharpcam`: {ms:,.0f} ms of CPU for a frame of 1280x720, on one thread"
        f" of {about['cpu']}, ONNX Runtime {about['onnxruntime']}. Live video at 30 fps leaves 33 ms."
    )


def _made(recipe: Recipe, content: dict[str, Any]) -> str:
    lines = [
        f"- recipe `{recipe.name}`, seed {recipe.train.seed}, {content['step']:,} steps of"
        f" {recipe.train.batch} clips, {content.get('seconds', 0) / 3600:.1f} hours",
        f"- teacher: {teacher_line(content)}",
        f"- commit: {content.get('commit') or NOT_RECORDED}",
    ]
    for entry in content.get("provenance") or []:
        if start := entry.get("started_from"):
            lines.append(f"- started from {_whose(start)} (sha256 {start['sha256'][:16]})")
    for other in content.get("mean_with", ()):
        if other["sha256"] == content.get("sha256"):
            lines.append("- in the mean that follows its own weights count once more")
        else:
            what = f"{_whose(other)} (sha256 {other['sha256'][:16]})"
            lines.append(f"- the weights are the mean of its own and those of {what}")
    return "\n".join(lines)


def _whose(weights: dict[str, Any]) -> str:
    """What the weights of this origin are: a model's that shipped, or a run's."""
    if "model" in weights:
        return f"model `{weights['model']}` {weights['version']}"
    return f"step {weights['step']:,} of recipe `{weights['recipe']['name']}`"


def _data(rows: list[Note], held_out: float) -> str:
    if not rows:
        return f"{NOT_RECORDED.capitalize()}."
    lines = ["| what | how many | licence | for |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {f'[{n.name}]({n.url})' if n.url else n.name} | {n.amount} | {n.licence} | {n.use} |"
        for n in rows
    ]
    share = "a tenth" if held_out == 0.1 else f"{held_out:.0%}"
    kept = f"About {share} of the training files, told by a hash of their names, served to measure only."
    return "\n".join(lines) + f"\n\n{kept}"


def _quality(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "Not measured."
    figures = "PSNR before | unsharp mask | after | SSIM before | unsharp mask | after | flicker"
    lines = [f"| set | pictures | {figures} |", "| --- |" + " ---: |" * 8]
    for row in rows:

        def cell(name: str, digits: int, row: dict[str, Any] = row) -> str:
            return f"{row[name]:.{digits}f}" if name in row else "-"

        psnr = " | ".join(cell(f"psnr_{k}", 2) for k in ("before", "unsharp", "after"))
        ssim = " | ".join(cell(f"ssim_{k}", 4) for k in ("before", "unsharp", "after"))
        flicker = "-"
        if "flicker_input" in row:
            flicker = f"{cell('flicker_input', 2)} to {cell('flicker_output', 2)}"
        lines.append(f"| {row['set']} | {row.get('pictures', '-')} | {psnr} | {ssim} | {flicker} |")
    return "\n".join(lines) + (
        "\n\nPSNR in dB and SSIM (Gaussian window 11, sigma 1.5) of RGB pictures. The unsharp mask is the"
        " best of its kind on each set. Flicker: mean change from frame to frame where the truth is calm, in"
        " grey levels, before and after."
    )


def _limits(manifest: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    worse = [r["set"] for r in rows if r.get("psnr_after", 0) < r.get("psnr_before", 0)]
    none = [f"Measured to be no gain in PSNR: {', '.join(worse)}."] if worse else []
    if manifest["layout"] == "rgb":
        limits = ["It knows the blur of its recipe's data and no other; each frame stands for itself."]
        return "\n".join(f"- {limit}" for limit in limits + none)
    limits = [
        "It sharpens what is soft; it does not invent what is gone. Faces that are badly out of focus or"
        " smeared by fast motion stay so.",
        "It was trained on simulated webcams (`training/degrade.py`): lens blur, motion, sensor noise, the"
        " camera's own smoothing and sharpening, MJPEG. Other damage, such as a call's heavy compression, is"
        " rare there.",
        "It sees the numbers of the planes, not their colour range; both ranges were in the training.",
    ]
    if manifest.get("state"):
        limits.append(
            "It looks back, never ahead: the first frames after a cut are less calm than those after."
        )
    return "\n".join(f"- {limit}" for limit in limits + none)


def write_strip(folder: Path) -> float:
    """Writes the card's picture: the test card before, after and in truth. Returns the milliseconds of CPU
    that the model took for a frame, the median. Raises ModelError."""
    card = _test_card()
    engine = Engine.load(folder, STRIP_SIZE, provider="cpu", threads=1)
    before, after = Frame(*STRIP_SIZE), Frame(*STRIP_SIZE)
    frames = STRIP_FRAMES if engine.model.state else STILL_FRAMES
    times = []
    for n in range(frames):
        card.soft(n, before)
        before.captured_ns = n * 33_000_000
        engine.process(before, after)
        times.append(engine.run_cpu_ns / 1e6)
    engine.close()
    pictures = [to_rgb(frame) for frame in (before, after, card.truth(frames - 1))]
    rows = [np.hstack([_crop(picture, crop) for picture in pictures]) for crop in STRIP_CROPS]
    strip = np.ascontiguousarray(np.vstack(rows)[..., ::-1])
    if not cv2.imwrite(str(folder / STRIP), strip, [cv2.IMWRITE_PNG_COMPRESSION, 9]):
        raise OSError(f"cannot write {folder / STRIP}")
    return float(np.median(times))


@cache
def _test_card() -> TestCard:
    return TestCard(STRIP_SIZE)


def _crop(picture: NDArray[np.uint8], crop: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    x, y, width, height = crop
    return picture[y : y + height, x : x + width]
