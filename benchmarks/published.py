"""The five published systems, trained again, beside our students on the same pictures and for as many steps.

Each report's protocol, networks and losses are those of its recipe (training/recipes, training/PUBLISHED.md). Trained
is by `python -m training.teacher` and `training.distill`, for the steps that `SYSTEMS` gives: a small share of what
the reports had, which every table says. Our students (I420, uint8) see the same pictures for the same number of
steps, without a teacher, and are measured as the product runs them; the published networks are measured on RGB
pictures in float32, as their reports did. Runs are kept in --published-runs and gone on with; the reports' students
are put into --published as model folders, where room quality looks for them. A small run (--quick) keeps both beside
its results.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import plots, quality
from benchmarks.room import Found, Run
from sharpcam.errors import ConfigError
from training.errors import DataError, RecipeError, TrainingError

__all__ = ["add_arguments", "draw", "markdown", "measure", "readme", "settings"]

RUNS = Path("runs/published-runs")
SIZE = (1280, 720)
ROUNDS = 3
TENTH = 0.1


@dataclass(frozen=True)
class System:
    """A published system: its budget here, and what its report says. `sets` change its recipe."""

    name: str
    protocol: str
    steps: int
    batch: int
    crop: int
    sets: tuple[str, ...] = ()
    teacher: str = ""  # recipe of its teacher
    teacher_steps: int = 0
    teacher_batch: int = 8
    teacher_crop: int = 48
    pictures: int = 12  # held-out pairs that are measured
    missing: str = ""  # what could not be had
    unlike: str = ""  # what a reader has to know to compare
    reported: tuple[tuple[str, str], ...] = ()  # row, figures


SYSTEMS = (
    System(
        "restormer-unet", "real motion blur (GoPro, REDS), whole frames", 150, 8, 48, ("loss.vgg16=0",),
        "restormer-pairs", 30, 4, 64, pictures=4,
        missing="VGG-16's weights were not at hand: without that loss. Teacher: our own small Restormer",
        reported=(("student", "SSIM 0.8673"),),
    ),
    System(
        "unet-lightunet", "portraits, 128x128, Gaussian or motion blur", 500, 8, 48, (),
        "unet-lightunet-teacher", 450,
        unlike="Every portrait that was held out is there several times, under another blur. Parameters are those that "
        "train: with batch norms' running statistics, as Keras sums them, 469,155 and 20,190",
        reported=(("teacher", "SSIM 0.9296, MAE 0.0222"), ("student", "SSIM 0.9138, MAE 0.0251")),
    ),
    System(
        "resnet18-cnn", "384x384, Gaussian of 2 pixels", 300, 8, 48, ("loss.resnet18=0",),
        missing="ResNet-18's weights were not at hand: pixel loss alone",
        reported=(("student", "SSIM 0.66 (training pictures)"),),
    ),
    System(
        "unet-resunet", "256x256, Gaussian of 1.5 pixels (as its code, without scaling)", 600, 8, 48,
        ("data.shrink=1",), "unet-resunet-teacher", 400,
        unlike="The input is not the report's: other pictures beside GoPro's, and without the scaling down and up that "
        "its text tells of, which takes some 0.8 dB off GoPro's (training/PUBLISHED.md)",
        reported=(("input", "24.98 / 0.7622"), ("teacher", "31.83 / 0.948"), ("student", "31.61 / 0.9325")),
    ),
    System(
        "restormer-cnn", "real motion blur squashed to 256x256", 200, 4, 64, (),
        "restormer-pairs", 30, 4, 64,
        missing="Teacher: our own small Restormer",
        unlike="The report's student learns from its teacher alone and never sees a true picture; ours learn from the "
        "truth",
        reported=(("student", "12.91 / 0.4584"),),
    ),
)  # fmt: skip

# our students for single pictures: channels and inner convolutions
STUDENTS = {"s": (32, 2), "m": (48, 3), "l": (64, 4)}
# the reports' rates are for ten to a hundred times the steps: all networks learn quickly, then calm down
QUICKLY = ("optimizer.lr=1e-3", "schedule.kind='cosine'", "schedule.warmup=50", "train.stop_after=0")
OURS = (
    "network.kind='student'", "optimizer.name='muon'", "optimizer.lr=2e-3", "optimizer.betas=[0.9,0.99]",
    "loss={psnr=0.02, charbonnier=0.2}", "schedule.kind='cosine'", "schedule.warmup=50",
    "train.ema=0.99", "train.quantize_from=0.6", "train.stop_after=0",
)  # fmt: skip


def add_arguments(group: argparse._ArgumentGroup) -> None:
    """--data and --published are shared with room quality."""
    group.add_argument("--published-runs", type=Path, metavar="DIR",
                       help=f"where their trainings are kept (default: {RUNS})")  # fmt: skip
    group.add_argument("--published-steps", type=int, metavar="N", help="train everything for so many steps")
    group.add_argument("--systems", nargs="+", choices=[s.name for s in SYSTEMS], metavar="NAME",
                       help="only these published systems")  # fmt: skip


def settings(args: argparse.Namespace) -> dict[str, Any]:
    return {"steps": _steps(args), "systems": [system.name for system in _chosen(args)]}


def _steps(args: argparse.Namespace) -> int | None:
    steps: int | None = args.published_steps or (4 if args.quick else None)
    return steps


def folders(args: argparse.Namespace) -> tuple[Path, Path]:
    """Where trainings are kept, and where the reports' students are put. What a small run trains for a few steps
    takes no place of either, unless it is told to."""
    runs: Path = args.published_runs or (args.out / "published-runs" if args.quick else RUNS)
    students: Path = args.published or (args.out / "published" if args.quick else quality.PUBLISHED)
    return runs, students


def _chosen(args: argparse.Namespace) -> list[System]:
    return [s for s in SYSTEMS if not args.systems or s.name in args.systems]


# -- measuring -------------------------------------------------------------------------------------------


def measure(run: Run) -> dict[str, Any]:
    if run.args.data is None:
        raise ConfigError(
            "room published trains networks, and no pictures are named",
            "python -m benchmarks published --data DIR (see python -m training.distill --help)",
        )
    try:
        return _measured(run)
    except (DataError, RecipeError, TrainingError) as error:
        raise ConfigError(f"a published system cannot be trained: {error}") from error


def _measured(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = {}
    exported: dict[str, Path] = {}
    runs, students = folders(run.args)
    for system in _chosen(run.args):
        place = runs / system.name
        rows = found.setdefault(system.name, {})
        if system.teacher:
            work = partial(train_teacher, run, system, place)
            rows["teacher"] = run.step(f"{system.name}: teacher", work)
        for kind in ("student", *STUDENTS):
            rows[kind] = run.step(f"{system.name}: {kind}", partial(train, run, system, place, kind))
            exported[f"{system.name}:{kind}"] = place / kind / system.name
        shutil.copytree(exported[f"{system.name}:student"], students / system.name, dirs_exist_ok=True)
    # our students differ in nothing but their weights from system to system: timed once
    first = _chosen(run.args)[0].name
    timed = {key: folder for key, folder in exported.items() if key.endswith(":student")}
    timed |= {kind: exported[f"{first}:{kind}"] for kind in STUDENTS}
    return {"systems": found, "cost": run.step("cost", lambda: cost(timed, 1 if run.quick else ROUNDS))}


def _words(run: Run, system: System, sets: tuple[str, ...], out: Path) -> list[str]:
    changes = [*system.sets, *sets, "train.precision='bf16-mixed'"]
    resume = ["--resume"] if (out / "last.pt").is_file() else []
    told = [word for change in changes for word in ("--set", change)]
    return ["--data", str(run.args.data), "--out", str(out), "--threads", "1", *told, *resume]


def train_teacher(run: Run, system: System, place: Path) -> dict[str, Any]:
    """Trains the system's teacher into `place`/teacher, or goes on with it; what it is."""
    from training import teacher

    budget = (
        f"train.steps={_steps(run.args) or system.teacher_steps}",
        f"train.batch={system.teacher_batch}", f"data.crop={system.teacher_crop}",
        *(QUICKLY if system.teacher != "restormer-pairs" else ()),
        *(["data.side=256"] if system.name == "restormer-cnn" else []),
    )  # fmt: skip
    # losses that only the student has are none of the teacher's
    own = System(**{**vars(system), "sets": tuple(s for s in system.sets if not s.startswith("loss."))})
    out = place / "teacher"
    with redirect_stdout(sys.stderr):  # stdout is for --json -
        teacher.main(["--recipe", system.teacher, *_words(run, own, budget, out)])
    return facts(out / "last.pt")


def train(run: Run, system: System, place: Path, kind: str) -> dict[str, Any]:
    """Trains one student ("student": the report's) into `place`/`kind`, exports and measures it: what it is, and
    the report of training.evaluate."""
    from training import distill

    out = place / kind
    budget: tuple[str, ...] = (
        f"train.steps={_steps(run.args) or system.steps}", f"train.batch={system.batch}",
        f"data.crop={system.crop}", "train.validate_every=1000000",
    )  # fmt: skip
    if kind == "student":
        teacher = ["--teacher-weights", str(place / "teacher" / "last.pt")] if system.teacher else []
        words = _words(run, system, (*budget, *QUICKLY), out) + teacher
    else:
        channels, depth = STUDENTS[kind]
        options = f"network.options={{channels={channels}, depth={depth}, temporal=false}}"
        words = [*_words(run, system, (*budget, *OURS, options), out), "--no-teacher"]
    with redirect_stdout(sys.stderr):
        distill.main(["--recipe", system.name, *words, "--measure", str(system.pictures)])
    report = json.loads((out / "results.json").read_text(encoding="utf-8"))
    kept = {k: report[k] for k in ("pairs", "input", "unsharp", "output", "teacher") if report.get(k)}
    return facts(out / "last.pt") | {"report": kept}


def facts(checkpoint: Path) -> dict[str, Any]:
    """Size and budget of what a checkpoint holds."""
    import torch

    from training.checkpoint import read_checkpoint
    from training.networks import count_macs, count_parameters
    from training.networks.student import Student
    from training.recipe import Recipe
    from training.tasks import build

    content = read_checkpoint(checkpoint)
    recipe = Recipe.model_validate(content["recipe"])
    network = build(recipe.network)
    if isinstance(network, Student):
        parameters, macs = network.parameter_count(), network.macs_per_pixel()
    else:
        parameters = count_parameters(network)
        macs = count_macs(network, torch.empty(1, 3, 64, 64)).total / 64**2
    return {
        "network": recipe.network.kind,
        "parameters": parameters,
        "macs_per_pixel": macs,
        "steps": content["step"],
        "batch": recipe.train.batch,
        "crop": recipe.data.crop,
        "minutes": round(content["seconds"] / 60, 1),
        "commit": content["commit"],
    }


def cost(folders: dict[str, Path], rounds: int) -> dict[str, Any]:
    """Milliseconds of CPU for a frame of 1280x720 in the product's engine, on one thread, all in turns."""
    from benchmarks.timing import alternate
    from sharpcam.engine import Engine
    from sharpcam.frame import Frame
    from sharpcam.sources.testcard import TestCard

    frame, out = TestCard(SIZE).soft(0), Frame(*SIZE)
    engines = {name: Engine.load(folder, SIZE, "cpu", 1) for name, folder in folders.items()}
    calls = {name: partial(engine.process, frame, out) for name, engine in engines.items()}
    times = alternate(calls, rounds, slot_ms=150, budget_ms=5_000, at_least=1)
    for engine in engines.values():
        engine.close()
    return {name: one.summary()["cpu_ms"]["p50"] for name, one in times.items()}


# -- telling ---------------------------------------------------------------------------------------------

HEADER = (
    "| | parameters | kMAC/px | ms at 720p | PSNR | SSIM | MAE | steps | reported |\n"
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |"
)


def _figures(block: dict[str, Any]) -> str:
    return f"{block['psnr']:.2f} | {block['ssim']:.4f} | {block['mae']:.4f}"


def _ms(found: Found, system: str, kind: str) -> float:
    ms: float = found["cost"][f"{system}:student" if kind == "student" else kind]
    return ms


def table(found: Found, name: str) -> str:
    """One system: input, unsharp mask, teacher, student and ours, on its held-out pictures."""
    rows = found["systems"][name]
    system = next(s for s in SYSTEMS if s.name == name)
    reported = dict(system.reported)
    report = rows["student"]["report"]
    lines = [HEADER]
    lines.append(f"| input | | | | {_figures(report['input'])} | | {reported.get('input', '')} |")
    lines.append(f"| best unsharp mask | | | | {_figures(report['unsharp'])} | | |")
    if "teacher" in rows:
        one = rows["teacher"]
        size = f"{one['parameters']:,} | {one['macs_per_pixel'] / 1e3:.1f} | "
        figures = f"{_figures(report['teacher'])} | {one['steps']:,} | {reported.get('teacher', '')}"
        lines.append(f"| teacher `{one['network']}` | {size}| {figures} |")
    for kind in ("student", *STUDENTS):
        one = rows[kind]
        label = f"student `{one['network']}`" if kind == "student" else f"ours, {kind}"
        size = f"{one['parameters']:,} | {one['macs_per_pixel'] / 1e3:.2f} | {_ms(found, name, kind):,.0f}"
        told = reported.get("student", "") if kind == "student" else ""
        lines.append(
            f"| {label} | {size} | {_figures(one['report']['output'])} | {one['steps']:,} | {told} |"
        )
    return "\n".join(lines)


def best_tenth(found: Found, name: str) -> dict[str, Any] | None:
    """Our best student, by PSNR, of those that multiply a tenth of what the report's does, or less; its kind,
    and by what it is ahead: `psnr`, `ssim`, and `ratio` of milliseconds. None where none is small enough."""
    rows = found["systems"][name]
    theirs = rows["student"]
    small = [k for k in STUDENTS if rows[k]["macs_per_pixel"] <= TENTH * theirs["macs_per_pixel"]]
    if not small:
        return None
    kind = max(small, key=lambda k: rows[k]["report"]["output"]["psnr"])
    ours, other = rows[kind]["report"]["output"], theirs["report"]["output"]
    return {
        "kind": kind,
        "psnr": ours["psnr"] - other["psnr"],
        "ssim": ours["ssim"] - other["ssim"],
        "ratio": _ms(found, name, "student") / _ms(found, name, kind),
    }


NOTE = (
    "PSNR in dB, SSIM (Gaussian window 11, sigma 1.5) and MAE of RGB pictures that training never saw; ms of CPU on"
    " one thread, all models in turns in one process. The published networks are float32 at full resolution, ours"
    " uint8 on I420. Steps, batch and crops are far below the reports', and the same for all students of a table."
)


def markdown(found: Found) -> str:
    parts = [NOTE, "", summary(found), ""]
    for name, rows in found["systems"].items():
        system = next(s for s in SYSTEMS if s.name == name)
        one = rows["student"]
        budget = f"{one['steps']:,} steps of {one['batch']} crops of {one['crop']} pixels"
        pairs = f"{one['report']['pairs']} held-out pairs"
        lines = [f"Protocol: {system.protocol}; {pairs}. Budget: {budget}."]
        lines += [f"{told}." for told in (system.missing, system.unlike) if told]
        parts += [f"## {name}", "", " ".join(lines), "", table(found, name), ""]
    return "\n".join(parts)


def summary(found: Found) -> str:
    lines = [
        "| system | input | its student | ours at a tenth of its MACs | ahead by | times faster |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, rows in found["systems"].items():
        student = rows["student"]["report"]
        best = best_tenth(found, name)
        cells = [_pair(student["input"]), _pair(student["output"])]
        if best is None:
            cells += ["none so small", "", ""]
        else:
            ours = rows[best["kind"]]["report"]["output"]
            cells += [f"`{best['kind']}` {_pair(ours)}", f"{best['psnr']:+.2f} dB, {best['ssim']:+.4f}"]
            cells.append(f"{best['ratio']:.0f}")
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _pair(block: dict[str, Any]) -> str:
    return f"{block['psnr']:.2f} / {block['ssim']:.4f}"


def readme(found: Found) -> dict[str, str]:
    return {"published": f"{summary(found)}\n\n{NOTE} {found['date'][:10]}."}


def draw(found: Found, folder: Path) -> list[Path]:
    """Gain over the input against milliseconds, a panel for each system."""
    systems = found["systems"]
    figure = plots.new_figure(2.3 * len(systems) + 0.6, 3.0)
    panels = figure.subplots(1, len(systems), squeeze=False)[0]
    for axes, (name, rows) in zip(panels, systems.items(), strict=True):
        for kind, color in zip(("student", *STUDENTS), plots.COLORS[4:5] + plots.COLORS[:3], strict=False):
            report = rows[kind]["report"]
            gain = report["output"]["psnr"] - report["input"]["psnr"]
            axes.scatter(_ms(found, name, kind), gain, color=color, zorder=3)
            label = rows[kind]["network"] if kind == "student" else kind
            axes.annotate(label, (_ms(found, name, kind), gain), xytext=(0, 6), textcoords="offset points",
                          ha="right" if kind == "student" else "center", fontsize=8,
                          bbox={"color": "white", "pad": 0.5}, zorder=2)  # fmt: skip
        axes.axhline(0, color=plots.GREY, linewidth=0.8, zorder=0.5)
        plots.logarithmic(axes, narrow=True)
        axes.set(xlabel="ms of CPU, 720p")
        axes.set_title(f"{name}\n{rows['student']['steps']:,} steps", fontsize=9)
        axes.margins(x=0.15, y=0.2)
    panels[0].set_ylabel("PSNR gain over the input, dB")
    figure.supxlabel(plots.source(found), x=0.99, ha="right", fontsize=7, color=plots.GREY)
    return [plots.write(figure, folder / "published-gains.png")]
