"""`python -m training.distill`: distils a student by a recipe, and exports it.

    python -m training.distill --recipe sharpcam --data DIR --teacher-weights teacher.pt --out runs/sharpcam

Without --teacher-weights it trains a teacher for itself first. It ends with `runs/sharpcam/NAME/`, which
`sharpcam run --model` takes: model.onnx, model.toml and CARD.md. Clips are made while training; `--packed
FILE` reads them from a file of `python -m training.data pack` instead. The recipes of the published systems
(training/PUBLISHED.md) measure their student, too: see training/published.py for what they write.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sharpcam.errors import ModelError
from sharpcam.manifest import NAME_PATTERN
from training.checkpoint import load_average, origin, read_checkpoint
from training.data import Clips, ClipSpec, Interleaved, Source, scan
from training.errors import DataError, RecipeError, TrainingError, run
from training.loop import refuse_overwriting, train
from training.networks.student import Student
from training.protocols import Pictures, PictureSpec
from training.recipe import Network, Recipe, load_recipe
from training.tasks import ClipTask, Task, build, feature_files, make_task, needs_teacher, needs_truth, planes
from training.weights import load_weights

__all__ = ["Job", "add_arguments", "load_teacher", "main", "prepare", "run", "teacher_origin"]

VALIDATION_FRAMES, VALIDATION_SEED = 8, 777
LOOKED_AT = 64  # frames that tell which channels of a student have died
PUBLISHED_RESTORMER = Network(kind="restormer")  # recipes have smaller ones, for machines without a GPU


def add_arguments(parser: argparse.ArgumentParser, recipe: str) -> None:
    """What the commands that train have in common."""
    add = parser.add_argument
    add("--recipe", default=recipe, help="a name in training/recipes, or a .toml file")
    add("--data", type=Path, help="folder of pictures, videos and pairs (see training/library.py)")
    add("--packed", type=Path, help="read clips from this file instead of making them from --data")
    add(
        "--packed-singles",
        type=Path,
        help="single frames for data.singles (default: first frames of the clips)",
    )
    add("--packed-validation", type=Path, help="the same for the clips that measure")
    add("--steps", type=int)
    add("--batch", type=int)
    add("--lr", type=float)
    add("--out", type=Path, help="default: runs/RECIPE")
    add("--resume", action="store_true", help="go on from OUT/last.pt")
    add(
        "--start-from",
        type=Path,
        help="begin with the averaged weights of this checkpoint, or with those of a model folder",
    )
    add("--threads", type=positive, help="CPU threads of torch")
    add("--workers", type=positive, default=1, help="threads that make clips (default: %(default)s)")
    add(
        "--feature-weights",
        type=Path,
        default=Path("runs/weights"),
        help="folder of what training.weights fetches for the losses vgg16 and resnet18 (default: %(default)s)",
    )
    add(
        "--set", action="append", default=[], metavar="KEY=VALUE",
        help="change a recipe's value: loss.edge=0.1",
    )  # fmt: skip


@dataclass
class Job:
    """What the arguments of a training command ask for."""

    recipe: Recipe
    clips: Source
    validation: Source | None
    out: Path
    start_from: Path | None
    resume: bool
    workers: int
    features: dict[str, Path] = field(default_factory=dict)  # files of `training.weights`
    singles: Clips | None = None

    def train(self, task: Task, teacher: dict[str, Any] | None = None, validation_clips: int = 32) -> None:
        """Trains `task`; `teacher` is what the checkpoints say of who taught."""
        data = self.recipe.data
        clips: Source = self.clips
        if data.singles and isinstance(clips, Clips):
            singles = self.singles or clips.singles()
            clips = Interleaved(clips, singles, data.singles, self.recipe.train.batch)
        provenance: dict[str, Any] = {"teacher": teacher, "data": clips.origin}
        if self.start_from and not self.resume:
            provenance["started_from"] = begin_with(task.student, self.start_from)
            whole = isinstance(task, ClipTask) and not self.recipe.optimizer.only
            if whole and isinstance(task.student, Student):
                first, _ = self.clips.batch(range(LOOKED_AT))
                if revived := task.student.revive(planes(torch.as_tensor(first[:, 0]))):
                    print(f"{revived} channels that had died begin anew", file=sys.stderr)
        train(
            task, self.recipe, clips, self.validation, self.out, resume=self.resume,
            workers=self.workers, validation_clips=validation_clips, provenance=provenance,
        )  # fmt: skip


def begin_with(student: nn.Module, start: Path) -> dict[str, Any]:
    """Gives `student` the averaged weights of a checkpoint, or those of an exported model's folder, of which a
    `Student` may have more layers (see `begin_as`); returns where they come from, for provenance.

    Raises TrainingError, ModelError."""
    if start.is_dir():
        from training.export import load_exported

        exported, facts = load_exported(start)
        theirs, recipe = exported.state_dict(), facts["recipe"]
    else:
        content = read_checkpoint(start)
        theirs, recipe, facts = content["average"], content["recipe"], origin(start, content)
    try:
        if isinstance(student, Student):
            student.begin_as(theirs)
        else:
            student.load_state_dict(theirs)
    except RuntimeError as e:
        options = recipe["network"]["options"]
        raise TrainingError(f"{start} holds another network: its recipe has {options}") from e
    return facts


def prepare(args: argparse.Namespace) -> Job:
    """Raises RecipeError, DataError."""
    overrides: dict[str, Any] = {
        "train.steps": args.steps,
        "train.batch": args.batch,
        "optimizer.lr": args.lr,
    }
    overrides = {k: v for k, v in overrides.items() if v is not None}
    for item in args.set:
        key, equals, value = item.partition("=")
        if not (key and equals):
            raise RecipeError(f"--set {item}: say KEY=VALUE, for instance loss.edge=0.1")
        overrides[key] = _parse(value)
    recipe = load_recipe(args.recipe, overrides)
    features = feature_files(recipe, args.feature_weights)
    if args.packed and recipe.task == "pictures":
        raise DataError(f"recipe {recipe.name!r} is for pictures, not for packed clips: name --data DIR")
    if args.packed:
        clips: Source = Clips.open_packed(args.packed)
    elif args.data:
        clips = source(args.data, recipe)
    else:
        raise DataError("say where the pictures are: --data DIR (or --packed FILE)")
    singles = Clips.open_packed(args.packed_singles) if args.packed_singles else None
    if singles and (singles.spec.frames > 1 or not recipe.data.singles):
        raise DataError(
            "--packed-singles is for packed clips of 1 frame, in a recipe with data.singles above 0"
        )
    packed = Clips.open_packed(args.packed_validation) if args.packed_validation else None
    for made in (clips, singles, packed):
        if isinstance(made, Clips) and made.library.share != recipe.data.held_out:
            raise DataError(
                f"the packed clips hold out {made.library.share:g} of the data, data.held_out is "
                f"{recipe.data.held_out:g}: what one trains on the other measures"
            )
    for made in (clips, singles):
        if isinstance(made, Clips):
            made.lenses, made.fresh = recipe.data.lenses, recipe.data.fresh
    validation: Source | None = packed
    if validation is None and args.data:
        try:
            validation = source(args.data, recipe, validation=True)
        except DataError as e:  # a tenth of a few pictures may be none
            print(f"training without validation: {e}", file=sys.stderr)
    if args.threads:
        torch.set_num_threads(args.threads)
    out = args.out or Path("runs") / recipe.name
    return Job(recipe, clips, validation, out, args.start_from, args.resume, args.workers, features, singles)


def source(root: Path, recipe: Recipe, validation: bool = False) -> Clips | Pictures:
    """The clips or pictures of a data folder that a recipe learns from, or those that it never sees.

    A recipe whose losses take no truth does not get to read any. Raises DataError.
    """
    data, seed = recipe.data, VALIDATION_SEED if validation else recipe.train.seed
    library = scan(root, validation, data.held_out, data.only)
    if recipe.task == "pictures":
        blind = not validation and not needs_truth(recipe)
        spec = PictureSpec(data.protocol, data.side, data.crop, data.blur, data.shrink, seed, blind)
        return Pictures(library, spec)
    frames = VALIDATION_FRAMES if validation else data.frames
    return Clips(library, ClipSpec(frames, data.crop, seed, data.identity))


def positive(text: str) -> int:
    """An argument's whole number of 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def _parse(value: str) -> Any:
    try:
        return tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        return value


def own_teacher(job: Job) -> Path:
    """The checkpoint of a teacher that this job trained for itself, in OUT/teacher, for as many steps as its
    student; trained now if it is not there. A longer teacher is worth more: see training.teacher."""
    if job.recipe.teacher is None:
        raise RecipeError(f"recipe {job.recipe.name!r} has no teacher: name one with --teacher-weights")
    folder = job.out / "teacher"
    best = folder / ("best.pt" if job.validation else "last.pt")
    if job.resume and not any((place / "last.pt").exists() for place in (job.out, folder)):
        raise TrainingError(f"no checkpoint {job.out / 'last.pt'}, nor one of its teacher")
    if job.resume and best.exists() and (job.out / "last.pt").exists():
        return best  # a student goes on with the teacher that it began with
    given = {
        "network": job.recipe.teacher.model_dump(include={"kind", "options"}),
        "train.steps": job.recipe.train.steps,
        "train.seed": job.recipe.train.seed,
    }
    clips = job.clips
    if isinstance(clips, Pictures):  # of the same protocol, but a teacher may see the truth
        given["data"] = job.recipe.data.model_dump()
        clips = clips.seeing()
    recipe = load_recipe(job.recipe.teacher.recipe, given)
    print(
        f"no --teacher-weights: training a teacher of {recipe.train.steps} steps in {folder} first",
        file=sys.stderr,
    )
    unfinished = job.resume and (folder / "last.pt").exists()
    first = replace(job, recipe=recipe, clips=clips, out=folder, start_from=None, resume=unfinished)
    first.train(make_task(recipe, features=job.features), validation_clips=12)
    return best


def load_teacher(recipe: Recipe, weights: Path) -> nn.Module:
    """The teacher of a recipe with the weights of a checkpoint of ours, or of a published file.

    A checkpoint of `training.teacher` says itself how large its network is. Raises RecipeError and, for a
    file that does not fit, TrainingError or ModelError.
    """
    if recipe.teacher is None:
        raise RecipeError(f"recipe {recipe.name!r} has no teacher")
    if (content := _ours(weights)) is not None:
        teacher = build(Network(**content["recipe"]["network"]))
        load_average(teacher, weights)
    else:
        teacher = _published_teacher(recipe.teacher, weights)
    return teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _published_teacher(network: Network, weights: Path) -> nn.Module:
    """The network of a recipe, or else Restormer as published, with the weights of a file. Raises ModelError."""
    teacher = build(network)
    try:
        load_weights(teacher, weights)
    except ModelError as first:
        if network.kind != PUBLISHED_RESTORMER.kind:
            raise
        teacher = build(PUBLISHED_RESTORMER)
        try:
            load_weights(teacher, weights)
        except ModelError:
            raise first from None
    return teacher


def teacher_origin(teacher: nn.Module, weights: Path) -> dict[str, Any]:
    """What the checkpoints say of the teacher. Raises TrainingError when it can be none."""
    if isinstance(teacher, Student):
        raise TrainingError(f"{weights} holds a student; a teacher is one of `python -m training.teacher`")
    facts = {"kind": type(teacher).__name__, "parameters": sum(p.numel() for p in teacher.parameters())}
    return origin(weights, _ours(weights)) | facts


def _ours(weights: Path) -> dict[str, Any] | None:
    try:
        return read_checkpoint(weights)
    except TrainingError:
        return None


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.distill", description=__doc__.split("\n")[0])
    add_arguments(parser, "sharpcam")
    add = parser.add_argument
    add("--teacher-weights", type=Path, help="checkpoint of training.teacher, or published weights")
    add("--no-teacher", action="store_true", help="learn from the truth alone")
    add("--name", help="name of the exported model (default: the recipe's)")
    add("--data-notes", type=Path, help="TOML file with name, licence and count of the data, for the card")
    add("--measure", type=int, metavar="N", help="of pictures: on N of the held-out ones (default: all)")
    args = parser.parse_args(argv)
    job = prepare(args)
    name = args.name or job.recipe.name
    if not re.match(NAME_PATTERN, name):
        parser.error(f"--name {name}: letters, digits, dots, dashes and underscores make a model's name")
    refuse_overwriting(job.out, job.resume)  # before a teacher is trained for hours
    teacher, facts, weights = None, None, None
    if any(w and needs_teacher(n) for n, w in job.recipe.loss.items()) and not args.no_teacher:
        weights = args.teacher_weights or own_teacher(job)
        if not args.teacher_weights:  # what was stopped in its teacher has no checkpoint of its own yet
            job.resume = job.resume and (job.out / "last.pt").exists()
        teacher = load_teacher(job.recipe, weights)
        facts = teacher_origin(teacher, weights)
    elif args.teacher_weights:
        raise TrainingError(
            "--teacher-weights makes no sense with --no-teacher or without a loss that asks a teacher"
        )
    job.train(make_task(job.recipe, teacher, job.features), facts)
    if int(os.environ.get("RANK", 0)):  # one of many processes writes
        return

    folder = export(job, name, weights, args.data_notes, args.measure)
    print(f"exported {folder}: try `sharpcam process --model {folder} IN OUT`")


def export(
    job: Job,
    name: str,
    teacher_weights: Path | None = None,
    data_notes: Path | None = None,
    limit: int | None = None,
) -> Path:
    """Exports the student of a finished job to OUT/name; one of single pictures is measured beside its input
    and its teacher first, on `limit` of the pictures that were held out.

    A recipe that listens to its validations gives the best by them, others the last."""
    from training.export import export_student
    from training.published import export_rgb, measure
    from training.subjects import Shipped, Subject, Teacher

    recipe, held = job.recipe, job.validation
    listens = recipe.train.stop_after or recipe.schedule.kind == "plateau"
    checkpoint = job.out / ("best.pt" if listens and held else "last.pt")
    ours = recipe.network.kind == "student"
    if ours:
        folder = export_student(checkpoint, job.out / name, clips=job.clips, data_notes=data_notes)
    reports: list[Path] = []
    if isinstance(held, Pictures):
        student: Subject = Shipped.load(str(folder), 1.0, "cpu", 1, False) if ours else Teacher(checkpoint)
        report = measure(held, student, Teacher(teacher_weights) if teacher_weights else None, job.out, limit)
        reports.append(job.out / "results.json")
        for kind in ("input", "unsharp", "output", "teacher"):
            if figures := report.get(kind):
                print(f"{report['set']}: {kind:7} {figures['psnr']:.2f} dB  SSIM {figures['ssim']:.4f}")
    if not ours:
        folder = export_rgb(checkpoint, job.out / name, data_notes=data_notes, evaluations=reports)
    return folder


if __name__ == "__main__":
    run(main)
