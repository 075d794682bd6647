"""`python -m training.distill`: distils a student by a recipe, and exports it.

    python -m training.distill --recipe sharpcam --data DIR --teacher-weights teacher.pt --out runs/sharpcam

ends with `runs/sharpcam/NAME/` that holds model.onnx, model.toml and CARD.md: `sharpcam run --model` takes it.
Clips are made while training; `--packed FILE` reads them from a file of `python -m training.data pack` instead.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from training.data import Clips, ClipSpec, DataError, scan
from training.loop import Interrupted, TrainingError, read_checkpoint, train
from training.networks.restormer import load_weights
from training.recipe import Network, Recipe, RecipeError, load_recipe
from training.tasks import build, make_task


def add_arguments(parser: argparse.ArgumentParser, recipe: str) -> None:
    parser.add_argument("--recipe", default=recipe, help="a name in training/recipes, or a .toml file")
    parser.add_argument(
        "--data", type=Path, help="folder of pictures, videos and pairs (see training/data.py)"
    )
    parser.add_argument(
        "--packed", type=Path, help="read clips from this file instead of making them from --data"
    )
    parser.add_argument("--packed-validation", type=Path, help="the same for the clips that measure")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--out", type=Path, help="default: runs/RECIPE")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/last.pt")
    parser.add_argument("--start-from", type=Path, help="begin with the averaged weights of this checkpoint")
    parser.add_argument("--threads", type=int, help="CPU threads of torch")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a recipe's value: loss.edge=0.1",
    )


def prepare(args: argparse.Namespace) -> tuple[Recipe, Clips, Clips | None, Path]:
    """What the arguments ask for. Raises RecipeError, DataError."""
    overrides: dict[str, Any] = {
        "train.steps": args.steps,
        "train.batch": args.batch,
        "optimizer.lr": args.lr,
    }
    overrides = {k: v for k, v in overrides.items() if v is not None}
    for item in args.set:
        key, _, value = item.partition("=")
        overrides[key] = _parse(value)
    recipe = load_recipe(args.recipe, overrides)
    spec = ClipSpec(recipe.data.frames, recipe.data.crop, recipe.train.seed, recipe.data.identity)
    if args.packed:
        clips = Clips.open_packed(args.packed)
    elif args.data:
        clips = Clips(scan(args.data), spec)
    else:
        raise DataError("say where the pictures are: --data DIR (or --packed FILE)")
    validation: Clips | None = None
    if args.packed_validation:
        validation = Clips.open_packed(args.packed_validation)
    elif args.data:
        validation = Clips(
            scan(args.data, validation=True), ClipSpec(8, recipe.data.crop, 777, recipe.data.identity)
        )
    if args.threads:
        torch.set_num_threads(args.threads)
    return recipe, clips, validation, args.out or Path("runs") / recipe.name


def _parse(value: str) -> Any:
    import tomllib

    try:
        return tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        return value


def load_teacher(recipe: Recipe, weights: Path) -> nn.Module:
    """The teacher of a recipe with the weights of a checkpoint of ours, or of a published file.

    A checkpoint of `training.teacher` says itself how large its network is.
    """
    if recipe.teacher is None:
        raise RecipeError(f"recipe {recipe.name!r} has no teacher")
    network = recipe.teacher
    content = torch.load(weights, map_location="cpu", weights_only=True)
    if isinstance(content, dict) and "recipe" in content:
        teacher = build(Network(**content["recipe"]["network"]))
        teacher.load_state_dict(content["average"])
    else:
        teacher = build(network)
        load_weights(teacher, weights)
    return teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def start_from(student: nn.Module, path: Path) -> None:
    """Loads the averaged weights of a checkpoint into a student of the same shape."""
    try:
        student.load_state_dict(read_checkpoint(path)["average"])
    except RuntimeError as e:
        raise TrainingError(f"{path} holds another network: {str(e).splitlines()[0]}") from e


def run(main: Any) -> None:
    """Calls `main` and turns the failures that we know into one line and an exit code."""
    try:
        main()
    except (RecipeError, DataError, TrainingError, FileNotFoundError) as e:
        print(f"training: {e}", file=sys.stderr)
        raise SystemExit(1) from e
    except Interrupted as e:
        print(f"training: {e}", file=sys.stderr)
        raise SystemExit(130) from e


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.distill", description=__doc__.split("\n")[0])
    add_arguments(parser, "sharpcam")
    parser.add_argument(
        "--teacher-weights", type=Path, help="checkpoint of training.teacher, or published weights"
    )
    parser.add_argument("--no-teacher", action="store_true", help="learn from the truth alone")
    parser.add_argument("--name", help="name of the exported model (default: the recipe's)")
    args = parser.parse_args()
    recipe, clips, validation, out = prepare(args)
    teacher = None
    if args.teacher_weights:
        teacher = load_teacher(recipe, args.teacher_weights)
    elif recipe.teacher and recipe.loss.get("distill") and not args.no_teacher:
        raise TrainingError(
            "this recipe distils from a teacher: train one with `python -m training.teacher` and name its best.pt with"
            " --teacher-weights, or say --no-teacher"
        )
    task = make_task(recipe, teacher)
    if args.start_from:
        start_from(task.student, args.start_from)
    train(task, recipe, clips, validation, out, resume=args.resume)

    from training.export import export_student

    folder = export_student(out / "last.pt", out / (args.name or recipe.name), clips=validation or clips)
    print(f"exported {folder}: try `sharpcam process --model {folder} IN OUT`")


if __name__ == "__main__":
    run(main)
