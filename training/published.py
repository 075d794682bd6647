"""What a recipe on single pictures leaves behind: an RGB model that the product runs, and how good it is.

OUT/NAME/       model.onnx, model.toml, CARD.md: for `sharpcam run --model` and `process --model`
OUT/held-out/   blur/ and sharp/, the protocol's pictures that training never saw
OUT/results/    what the student made of them
OUT/results.csv, results.json, results.png   figures of each, their means, and crops side by side
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from sharpcam.files import write_whole
from training.account import read_notes, read_reports
from training.card import write_card, write_manifest
from training.checkpoint import load_average, read_checkpoint
from training.errors import TrainingError
from training.evaluate import SAMPLES, evaluate
from training.networks.student import Student
from training.pairs import find_pairs
from training.protocols import Pictures
from training.recipe import Recipe
from training.report import csv_text, figure
from training.subjects import Picture, Subject
from training.tasks import build

TUNED_ON = 1 << 21  # pixels, about, that the unsharp mask is tuned on
SMALL = 64  # numbers: what is fewer stays float32
PASSES = 4  # times that each held-out picture is blurred anew where the blur is a matter of chance


# -- how good it is ------------------------------------------------------------------------------------


def write_pairs(pictures: Pictures, folder: Path, limit: int | None = None) -> Path:
    """Writes `pictures`, or `limit` of them, evenly spread, as lossless `folder`/blur/NAME.png and
    `folder`/sharp/NAME.png. Raises DataError, OSError.
    """
    count = (PASSES if pictures.spec.protocol == "faces" else 1) * len(pictures)
    numbers = np.linspace(0, count - 1, min(limit or count, count)).round().astype(int)
    for side in ("blur", "sharp"):
        (folder / side).mkdir(parents=True, exist_ok=True)
        for old in (folder / side).glob("*.png"):
            old.unlink()
    for number in map(int, numbers):
        for side, picture in zip(("blur", "sharp"), pictures.whole(number), strict=True):
            _write_png(folder / side / f"{number:03d}-{pictures.name(number)}.png", picture)
    return folder


def measure(
    pictures: Pictures, student: Subject, teacher: Subject | None, out: Path, limit: int | None = None
) -> dict[str, Any]:
    """Input, best unsharp mask, student and teacher on the held-out `pictures`, or `limit` of them: the report,
    which is also written, with all else, below `out` (see above). Raises DataError, MediaError, OSError."""
    pairs = find_pairs(write_pairs(pictures, out / "held-out", limit))
    (out / "results").mkdir(exist_ok=True)
    for old in (out / "results").glob("*.png"):
        old.unlink()
    names = [pair.name for pair in pairs]
    subjects: dict[str, Subject] = {"output": _Kept(student, [out / "results" / f"{n}.png" for n in names])}
    if teacher is not None:
        subjects["teacher"] = teacher
    tuned_on = min(8, 1 + TUNED_ON // pictures.whole(0)[1][..., 0].size)
    found = evaluate(pairs, subjects, tuned_on=tuned_on, samples=SAMPLES)
    if teacher is not None:
        found.report["teacher"].pop("checkpoint", None)  # no paths in reports
    report = {"set": f"{pictures.spec.protocol}, held out", **found.report}
    write_whole(out / "results.json", (json.dumps(report, indent=2) + "\n").encode())
    write_whole(out / "results.csv", csv_text(found.rows).encode())
    _write_png(out / "results.png", figure(found.samples))
    return report


class _Kept:
    """A subject whose answers are written to files, one after the other."""

    def __init__(self, subject: Subject, paths: Iterable[Path]) -> None:
        self._subject, self._paths = subject, iter(paths)
        self.facts = {k: v for k, v in subject.facts.items() if k != "checkpoint"}

    def restart(self) -> None:
        self._subject.restart()

    def __call__(self, picture: Picture) -> Picture:
        answer = self._subject(picture)
        _write_png(next(self._paths), answer)
        return answer


def _write_png(path: Path, rgb: NDArray[np.uint8]) -> None:
    write_whole(path, cv2.imencode(".png", np.ascontiguousarray(rgb[..., ::-1]))[1].tobytes())


# -- the model -----------------------------------------------------------------------------------------


def export_rgb(
    checkpoint: Path,
    folder: Path,
    *,
    data_notes: Path | None = None,
    evaluations: Iterable[Path] = (),
    version: str = "1.0",
    half: bool = False,
) -> Path:
    """Writes an RGB network of a checkpoint as `folder`/model.onnx, model.toml and CARD.md; returns the folder.

    `half` keeps the weights in float16. The card says how long the product took for a frame here. The product
    has loaded and run the model before it appears. Raises TrainingError, DataError, ModelError, OSError.
    """
    content = read_checkpoint(checkpoint)
    recipe = Recipe.model_validate(content["recipe"])
    network = build(recipe.network)
    if isinstance(network, Student):
        raise TrainingError(f"{checkpoint} holds a student: training.export writes it as a uint8 graph")
    load_average(network, checkpoint)
    facts = content | {
        "file": checkpoint.name,
        "notes": read_notes(data_notes),
        "reports": read_reports(evaluations),
        "version": version,
        "precision": "float16" if half else "float32",
    }
    model = rgb_graph(network)
    if half:
        store_half(model)
    for key, value in (("recipe", recipe.model_dump_json()), ("commit", content["commit"])):
        model.metadata_props.append(onnx.StringStringEntryProto(key=key, value=value))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".export-") as parent:
        made = Path(parent) / folder.name
        made.mkdir()
        (made / "model.onnx").write_bytes(model.SerializeToString())
        write_manifest(made, network, recipe, facts)
        write_card(made, recipe, facts)
        folder.mkdir(exist_ok=True)
        for path in sorted(made.iterdir(), key=lambda p: p.name == "model.toml"):
            path.replace(folder / path.name)
    return folder


def rgb_graph(network: nn.Module) -> onnx.ModelProto:
    """The network as a float32 graph "input" (1, 3, H, W) -> "output", sides free (multiples of 8)."""
    free = {2: "H", 3: "W"}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        file = Path(folder) / "model.onnx"
        # traced: the newer exporter wants another package, and these networks have no branches to lose
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(), (torch.zeros(1, 3, 64, 64),), file, dynamo=False, opset_version=17,
            input_names=["input"], output_names=["output"], dynamic_axes={"input": free, "output": free},
        )  # fmt: skip
        return onnx.load(str(file))


def store_half(model: onnx.ModelProto) -> None:
    """Stores the float32 weights of a graph as float16 and widens them when it is loaded: half the file, the same
    arithmetic, which no CPU has in float16."""
    casts = []
    for weight in model.graph.initializer:
        array = numpy_helper.to_array(weight)
        if array.dtype != np.float32 or array.size < SMALL:
            continue
        stored = f"{weight.name}_half"
        casts.append(helper.make_node("Cast", [stored], [weight.name], to=TensorProto.FLOAT))
        weight.CopyFrom(numpy_helper.from_array(array.astype(np.float16), stored))
    for number, cast in enumerate(casts):
        model.graph.node.insert(number, cast)
    onnx.checker.check_model(model)
