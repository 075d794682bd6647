"""Trained students as model folders: calibrated, written as ONNX, described.

Quantisation is calibrated: the float graph runs on clips, and each convolution's output range is that percentile of
what was seen with which the uint8 graph is nearest to the float one.

    python -m training.export CHECKPOINT --out DIR --data DIR
"""

from __future__ import annotations

import argparse
import hashlib
import math
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from sharpcam.manifest import NAME_PATTERN
from sharpcam.models import find_model
from training.checkpoint import origin, read_checkpoint
from training.data import Clips, ClipSpec, Source, scan
from training.degrade import as_float, to_i420
from training.errors import TrainingError, run
from training.graph import MEANS, NOTHING, PLANES, Array, Ranges, adopt_weights, build_model, folded_weights
from training.networks.student import Student
from training.recipe import Recipe
from training.rounding import round_weights
from training.tasks import build

PERCENTILES = (99.99, 99.9, 99.7, 99.5, 99.0)


def session(model: onnx.ModelProto, threads: int = 1) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


Runner = Callable[[Array, float], Array]


def fresh_states(x: dict[str, Array]) -> dict[str, Array]:
    """What a student remembers before its first frame `x`: that frame, and nothing added to it."""
    return {f"state_{p}": x[p] for p in PLANES} | {
        f"state_added_{p}": np.full_like(x[p], NOTHING) for p in PLANES
    }


def runner(
    model: onnx.ModelProto, watch: Callable[[str, Array], None] | None = None, names: list[str] | None = None
) -> Runner:
    """A function from an I420 clip (T, H * 3 // 2, W) uint8 and a strength to what the model makes of it."""
    s = session(model)
    memory = {i.name: i.shape for i in s.get_inputs() if i.name.startswith("state")}
    wanted = ["y_out", "uv_out", *(f"{m}_out" for m in memory), *(names or [])]

    def run(clip: Array, strength: float = 1.0) -> Array:
        height, width = clip.shape[1] * 2 // 3, clip.shape[2]
        shapes = {"y": (1, 1, height, width), "uv": (1, 2, height // 2, width // 2)}
        states: dict[str, Array] = {}
        out = np.empty_like(clip)
        for t, frame in enumerate(clip):
            x = {"y": frame[:height].reshape(shapes["y"]), "uv": frame[height:].reshape(shapes["uv"])}
            feeds = x | {"strength": np.array(strength, np.float32)}
            if not states:
                states = {m: v for m, v in fresh_states(x).items() if m in memory}
                if MEANS in memory:  # of the first frame, from the first frame
                    unknown = {MEANS: np.zeros(memory[MEANS])}
                    states[MEANS] = s.run([f"{MEANS}_out"], feeds | states | unknown)[0]
            feeds |= states
            results = dict(zip(wanted, s.run(wanted, feeds), strict=True))
            out[t, :height] = results["y_out"][0, 0]
            out[t, height:] = results["uv_out"].reshape(height // 2, width)
            states = {m: results[f"{m}_out"] for m in memory}
            for name in names or []:
                if watch is not None:
                    watch(name, results[name])
        return out

    return run


def calibrate(student: Student, clips: Iterable[Array]) -> Ranges:
    """(low, high) of each convolution's output over I420 `clips`, layer by layer that of `PERCENTILES` with which the
    uint8 graph comes nearest to the float one.

    A wide range is coarse everywhere, for the sake of a few edges that a narrow one clips; which is worse is not the
    same from layer to layer, and from student to student it may be 1 dB."""
    clips = list(clips)
    names = [n for n in folded_weights(student) if n != "gate_out"]
    seen: dict[str, list[Array]] = {n: [] for n in names}
    ends = [[100 - p for p in PERCENTILES], PERCENTILES]

    def watch(name: str, values: Array) -> None:
        seen[name].append(np.percentile(values, ends))

    run = runner(build_model(student, "float32", extra_outputs=names), watch, names)
    wanted = [run(clip, 1.0) for clip in clips]
    # the widest frame decides
    low = {n: np.min(vs, axis=0)[0] for n, vs in seen.items()}
    high = {n: np.max(vs, axis=0)[1] for n, vs in seen.items()}

    def chosen(choice: dict[str, int]) -> Ranges:
        return {n: (float(low[n][i]), float(high[n][i])) for n, i in choice.items()}

    def nearness(choice: dict[str, int]) -> float:
        quantised = runner(build_model(student, "uint8", chosen(choice)))
        return float(np.mean([clip_psnr(quantised(c, 1.0), w) for c, w in zip(clips, wanted, strict=True)]))

    options = range(len(PERCENTILES))
    alike = [dict.fromkeys(names, i) for i in options]
    best, choice = max(((nearness(c), c) for c in alike), key=lambda pair: pair[0])
    for name in names:
        for i in options:
            other = choice | {name: i}
            if i != choice[name] and (near := nearness(other)) > best:
                best, choice = near, other
    return chosen(choice)


def clip_psnr(a: Array, b: Array) -> float:
    """PSNR over all samples of two I420 clips, dB."""
    mse = float(np.mean((a.astype(np.float64) - b) ** 2))
    return 10 * math.log10(255**2 / max(mse, 1e-9))


def load_student(checkpoint: Path, more: Sequence[Path] = ()) -> tuple[Student, Recipe, dict[str, Any]]:
    """The averaged student of a checkpoint, its recipe and the checkpoint itself.

    With `more` checkpoints or model folders of the same network the mean of all their weights: what each owes to
    the chance of its own last steps goes (model soups; Wortsman et al., ICML 2022). One that is named twice counts
    twice. Raises TrainingError, ModelError.
    """
    content = read_checkpoint(checkpoint)
    recipe = Recipe.model_validate(content["recipe"])
    student = build(recipe.network)
    if not isinstance(student, Student):
        raise TrainingError(f"{checkpoint} holds a {recipe.network.kind}, not a student: nothing to export")
    try:
        student.load_state_dict(content["average"])
    except RuntimeError as e:
        raise TrainingError(f"{checkpoint} holds another network than its recipe says") from e
    others = [_averaged(path) for path in more]
    for path, (_, facts) in zip(more, others, strict=True):
        if facts["recipe"]["network"] != content["recipe"]["network"]:
            raise TrainingError(
                f"{path} holds another network than {checkpoint}: there is no mean of the two"
            )
    if others:
        averages = [content["average"], *(weights for weights, _ in others)]
        student.load_state_dict({k: torch.stack([a[k] for a in averages]).mean(0) for k in averages[0]})
        content["mean_with"] = [facts for _, facts in others]
        content["sha256"] = origin(checkpoint)["sha256"]
    return student.eval(), recipe, content


def _averaged(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The averaged weights of a checkpoint, or those of a model folder, and where they come from."""
    if path.is_dir():
        exported, facts = load_exported(path)
        return exported.state_dict(), facts
    content = read_checkpoint(path)
    return content["average"], origin(path, content)


# -- model folders ---------------------------------------------------------------------------------------

PRECISIONS = {"uint8": "model.onnx", "float32": "model-float32.onnx", "float16": "model-float16.onnx"}


def load_exported(folder: Path) -> tuple[Student, dict[str, Any]]:
    """The student of a model folder that `export_student` wrote, and where it comes from, for provenance.

    The weights are those of its float file, so what int8 rounded away is gone. Raises ModelError and
    TrainingError.
    """
    manifest = find_model(folder).manifest
    found = [f for p in ("float32", "float16") if (f := folder / PRECISIONS[p]).is_file()]
    if not found:
        raise TrainingError(f"{folder} has no {PRECISIONS['float16']}, whose weights training could take up")
    content = found[0].read_bytes()
    try:
        model = onnx.load_from_string(content)
        facts = {p.key: p.value for p in model.metadata_props}
        recipe = Recipe.model_validate_json(facts["recipe"])
        student = build(recipe.network)
        if not isinstance(student, Student):
            raise TrainingError(f"{folder} holds a {recipe.network.kind}, not a student")
        adopt_weights(student, model)
    except (DecodeError, KeyError, ValueError, RuntimeError) as e:
        raise TrainingError(f"{found[0]} is no student of this package") from e
    return student.eval(), {
        "model": manifest.name,
        "version": manifest.version,
        "file": found[0].name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "recipe": recipe.model_dump(mode="json"),
        "commit": facts.get("commit"),
        "teacher": manifest.teacher,
    }


def export_student(
    checkpoint: Path,
    folder: Path,
    *,
    clips: Source,
    more: Sequence[Path] = (),
    precisions: Iterable[str] = ("uint8",),
    calibration: int = 48,
    data_notes: Path | None = None,
    evaluations: Iterable[Path] = (),
    version: str = "1.0",
) -> Path:
    """Writes `folder`/model.onnx (uint8), the other asked precisions beside it, model.toml and CARD.md: of one
    checkpoint, or of the mean of it and `more`.

    By what the student makes of `clips` its weights are rounded and its ranges chosen. A float16 file becomes the
    manifest's CUDA variant. `data_notes` and `evaluations` (reports of training.evaluate) go into manifest and card.
    Returns the folder; the product has loaded and run its model before it appears. Raises TrainingError, DataError,
    ModelError, OSError.
    """
    from training.account import read_notes, read_reports
    from training.card import write_card, write_manifest

    student, recipe, content = load_student(checkpoint, more)
    facts = content | {
        "file": checkpoint.name,
        "notes": read_notes(data_notes),
        "reports": read_reports(evaluations),
        "version": version,
    }
    arrays, _ = clips.batch(range(calibration))
    if arrays.ndim == 5:  # RGB pictures (N, 1, 3, H, W)
        arrays = np.stack([to_i420(as_float(a[0].transpose(1, 2, 0)))[None] for a in arrays])
    if student.config.temporal and arrays.shape[1] == 1:
        # after each of single frames comes another: the gate would see no difference, and clip all of them
        arrays = np.concatenate([arrays, np.roll(arrays, 1, axis=0)], axis=1)
    round_weights(student, arrays)
    ranges = calibrate(student, arrays)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".export-") as parent:
        made = Path(parent) / folder.name
        made.mkdir()
        for precision in dict.fromkeys(["uint8", *precisions]):  # all of the same weights: one picture
            model = build_model(student, precision, ranges if precision == "uint8" else None)
            for key, value in (("recipe", recipe.model_dump_json()), ("commit", content["commit"])):
                model.metadata_props.append(onnx.StringStringEntryProto(key=key, value=value))
            (made / PRECISIONS[precision]).write_bytes(model.SerializeToString())
        write_manifest(made, student, recipe, facts)
        write_card(made, recipe, facts)
        folder.mkdir(exist_ok=True)
        for stale in PRECISIONS.values():
            if not (made / stale).exists():
                (folder / stale).unlink(missing_ok=True)
        # the manifest last: it vouches for the others
        for path in sorted(made.iterdir(), key=lambda p: p.name == "model.toml"):
            path.replace(folder / path.name)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.export", description="Exports a checkpoint as a model folder."
    )
    add = parser.add_argument
    add(
        "checkpoint",
        type=Path,
        nargs="+",
        help="a run's last.pt; of several students (behind the first, model folders, too) the mean of their weights",
    )
    add("--out", type=Path, required=True, help="model folder to write; its name is the model's name")
    add("--data", type=Path, help="folder of pictures to calibrate on")
    add("--packed", type=Path, help="packed clips to calibrate on instead")
    add("--precision", nargs="*", default=["uint8", "float16"], choices=list(PRECISIONS))
    add("--data-notes", type=Path, help="TOML file with name, licence and count of the data, for the card")
    add("--evaluation", type=Path, nargs="*", default=[], help="reports of training.evaluate, for the card")
    add("--version", default="1.0", help="of the model (default: %(default)s)")
    add("--half", action="store_true", help="RGB networks: keep the weights in float16, in half the space")
    args = parser.parse_args()
    if not re.match(NAME_PATTERN, args.out.name):
        parser.error(f"--out {args.out}: a model's name has letters, digits, dots, dashes and underscores")
    first, *more = args.checkpoint
    if read_checkpoint(first)["recipe"]["network"]["kind"] != "student":
        from training.published import export_rgb  # which has no use for clips

        if more:
            parser.error("only students have a mean: give one checkpoint")
        folder = export_rgb(
            first, args.out, data_notes=args.data_notes, evaluations=args.evaluation,
            version=args.version, half=args.half,
        )  # fmt: skip
        print(f"wrote {folder}")
        return
    if args.packed:
        clips = Clips.open_packed(args.packed)
    elif args.data:
        clips = Clips(scan(args.data), ClipSpec(seed=4242))
    else:
        parser.error("say what to calibrate on: --data DIR or --packed FILE")
    folder = export_student(
        first, args.out, clips=clips, more=more, precisions=args.precision, data_notes=args.data_notes,
        evaluations=args.evaluation, version=args.version,
    )  # fmt: skip
    print(f"wrote {folder}")


if __name__ == "__main__":
    run(main)
