"""What the teacher is worth: `python -m training.ablate --data DIR --teacher-weights FILE --seeds K`.

Trains a recipe with its teacher and without it, from the same first weights on the same clips for as many
steps, once for each seed, and compares the two on clips (and with `--pairs` and `--clip` on sets) that
neither has seen. A difference counts only when the 95 % interval of the differences seed by seed leaves zero
out; what is smaller is called within the spread. The teacher's work is not counted as steps, but the seconds
of both trainings are told.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import cv2
from rich.console import Console
from rich.table import Table

from sharpcam.files import temporary_beside, write_whole
from training.checkpoint import read_checkpoint
from training.data import DataError
from training.distill import Job, add_arguments, load_teacher, positive, prepare, run, teacher_origin
from training.evaluate import evaluate
from training.pairs import find_pairs
from training.recipe import RecipeError
from training.subjects import Shipped
from training.tasks import make_task, needs_teacher

HELD_OUT = "held-out clips"
LESS_IS_BETTER = {"mae", "flicker"}
# 97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom; for more the last, which is a little wide
STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)

Figures = dict[str, dict[str, float]]  # of each set, by name


@dataclass
class Run:
    """One training: what it was and what came out."""

    seed: int
    taught: bool
    folder: str
    seconds: float = 0.0
    figures: Figures = field(default_factory=dict)


def compare(name: str, taught: Sequence[float], alone: Sequence[float]) -> dict[str, Any]:
    """The figure `name` with the teacher less that without it, paired by seed.

    `verdict` is "better" or "worse" when the 95 % interval of the mean difference (Student's t) leaves zero
    out, "the same" when nothing differs, "within the spread" otherwise, and "one seed" when there is no
    spread to judge by.
    """
    differences = [a - b for a, b in zip(taught, alone, strict=True)]
    mean, count = fmean(differences), len(differences)
    found: dict[str, Any] = {"with": list(taught), "without": list(alone), "difference": mean}
    if count < 2:
        return found | {"spread": None, "interval": None, "verdict": "one seed"}
    spread = stdev(differences)
    reach = STUDENT_T[min(count - 1, len(STUDENT_T)) - 1] * spread / math.sqrt(count)
    if not any(differences):
        verdict = "the same"
    elif abs(mean) <= reach:
        verdict = "within the spread"
    else:
        verdict = "better" if (mean < 0) == (name in LESS_IS_BETTER) else "worse"
    return found | {"spread": spread, "interval": [mean - reach, mean + reach], "verdict": verdict}


def compare_all(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """`compare` for every figure of every set."""
    sides = [
        sorted((r for r in runs if r.taught is taught), key=lambda r: r.seed) for taught in (True, False)
    ]
    return {
        place: {
            name: compare(name, *([r.figures[place][name] for r in side] for side in sides)) for name in names
        }
        for place, names in runs[0].figures.items()
    }


# -- training and measuring ------------------------------------------------------------------------------


def ablate(args: argparse.Namespace) -> dict[str, Any]:
    """Trains and measures what `args` ask for, and returns the report. Raises what training raises."""
    out = args.out or Path("runs") / f"ablation-{Path(args.recipe).stem}"
    runs: list[Run] = []
    facts: dict[str, Any] = {}
    steps = 0
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        # stopping early would give the two sides different budgets
        changes = [*args.set, f"train.seed={seed}", "train.stop_after=0"]
        job = prepare(argparse.Namespace(**{**vars(args), "set": changes}))
        check(job, args)
        steps = job.recipe.train.steps
        for taught in (True, False):
            folder = out / f"seed-{seed}" / ("taught" if taught else "alone")
            one = replace(job, out=folder, resume=args.resume and (folder / "last.pt").is_file())
            teacher = None
            if taught:
                teacher = load_teacher(job.recipe, args.teacher_weights)
                facts = teacher_origin(teacher, args.teacher_weights)
            print(f"seed {seed}, {'with' if taught else 'without'} the teacher: {folder}", flush=True)
            task = make_task(one.recipe, teacher, one.features)
            one.train(task, facts if taught else None, validation_clips=args.clips)
            runs.append(measure(one, Run(seed, taught, str(folder)), args))
    return {
        "recipe": job.recipe.name,
        "steps": steps,
        "seeds": sorted({r.seed for r in runs}),
        "teacher": facts,
        "sets": compare_all(runs),
        "seconds": {
            side: [r.seconds for r in runs if r.taught is taught]
            for side, taught in (("with", True), ("without", False))
        },
        "runs": [vars(r) for r in runs],
    }


def check(job: Job, args: argparse.Namespace) -> None:
    """Raises RecipeError and DataError for what cannot be compared, before hours are spent on it."""
    taught = {name for name, weight in job.recipe.loss.items() if weight and needs_teacher(name)}
    if not taught:
        raise RecipeError(f"recipe {job.recipe.name!r} has no loss that asks a teacher: nothing to compare")
    if not any(weight for name, weight in job.recipe.loss.items() if name not in taught):
        raise RecipeError(
            f"recipe {job.recipe.name!r} learns from its teacher alone: nothing is left without"
        )
    if not job.validation and not args.pairs and not args.clip:
        raise DataError("nothing to compare on: name --packed-validation FILE, --pairs DIR or --clip DIR")


def measure(job: Job, one: Run, args: argparse.Namespace) -> Run:
    """Fills in the figures of a finished training: of the averaged weights on held-out clips, and of the
    exported model on pairs and clips."""
    content = read_checkpoint(job.out / "last.pt")
    one.seconds = float(content["seconds"])
    if job.validation:
        wanted = ("psnr", "ssim", "kept", "flicker")
        one.figures[HELD_OUT] = {n: content["figures"][n] for n in wanted if n in content["figures"]}
    if args.pairs or args.clip:
        from training.export import export_student

        model = export_student(job.out / "last.pt", job.out / "model", clips=job.clips)
        for folders, clip in ((args.pairs, False), (args.clip, True)):
            for folder in folders:
                subject = Shipped.load(str(model), 1.0, "cpu", args.threads or 1, clip)
                report = evaluate(find_pairs(folder), {"output": subject}, clip=clip, tuned_on=0).report
                figures = {name: report["output"][name] for name in ("psnr", "ssim", "mae")}
                if clip:
                    figures["flicker"] = report["flicker"]["output"]
                one.figures[f"{folder} (clip)" if clip else str(folder)] = figures
    return one


# -- command line ------------------------------------------------------------------------------------------


def table(report: dict[str, Any]) -> Table:
    seeds = len(report["seeds"])
    shown = Table(
        title=f"{report['recipe']}, {report['steps']} steps, {seeds} seed{'s' * (seeds > 1)}: "
        "with the teacher against without",
        title_justify="left",
    )
    for heading in ("", "", "with", "without", "difference", "95 % interval", ""):
        shown.add_column(heading, justify="left" if not heading else "right")
    for place, figures in report["sets"].items():
        for name, found in figures.items():
            digits = 4 if name in ("ssim", "mae") else 3
            interval = (
                " .. ".join(f"{x:+.{digits}f}" for x in found["interval"]) if found["interval"] else "?"
            )
            means = (f"{fmean(found[side]):.{digits}f}" for side in ("with", "without"))
            difference = f"{found['difference']:+.{digits}f}"
            shown.add_row(place, name, *means, difference, interval, found["verdict"])
            place = ""
    return shown


def conclusion(report: dict[str, Any]) -> str:
    """In one sentence what may be said, and what it cost."""
    verdicts = [found["verdict"] for figures in report["sets"].values() for found in figures.values()]
    told = {kind: verdicts.count(kind) for kind in ("better", "worse", "within the spread", "the same")}
    if "one seed" in verdicts:
        text = "One seed tells nothing of the spread: no difference here can be called one."
    elif not told["better"] and not told["worse"]:
        text = "No difference is larger than the spread over the seeds."
    else:
        counts = f"{told['better']} of {len(verdicts)} figures are better, {told['worse']} worse"
        text = f"With the teacher {counts}; what else differs is within the spread over the seeds."
    seconds = {side: fmean(report["seconds"][side]) for side in ("with", "without")}
    return f"{text} A training took {seconds['with']:.0f} s with it, {seconds['without']:.0f} s without."


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.ablate", description=__doc__.split("\n")[0])
    add_arguments(parser, "sharpcam")
    add = parser.add_argument
    add(
        "--teacher-weights",
        type=Path,
        required=True,
        help="checkpoint of training.teacher, or published weights",
    )
    add("--seeds", type=positive, default=3, help="trainings of each kind (default: %(default)s)")
    add("--first-seed", type=int, default=0)
    add("--clips", type=positive, default=64, help="held-out clips to measure on (default: %(default)s)")
    add("--pairs", type=Path, nargs="+", default=[], metavar="DIR", help="sets of pairs to measure on, too")
    add("--clip", type=Path, nargs="+", default=[], metavar="DIR", help="clips to measure on, too")
    add("--json", type=Path, metavar="FILE", help="write the report")
    args = parser.parse_args(argv)
    cv2.setNumThreads(min(2, os.cpu_count() or 1))
    if args.json is not None:
        temporary_beside(args.json).unlink()
    for folder in [*args.pairs, *args.clip]:
        find_pairs(folder)
    report = ablate(args)
    if args.json is not None:
        write_whole(args.json, (json.dumps(report, indent=2) + "\n").encode())
    console = Console()
    console = console if console.is_terminal else Console(width=130)
    console.print(table(report))
    console.print(conclusion(report), soft_wrap=True, highlight=False)


if __name__ == "__main__":
    run(main)
