"""How near the results are to the truth, on pictures and clips that training never saw, and on real pairs.

Measured by `training.evaluate` and its subjects: PSNR, SSIM, MAE, halo overshoot, LPIPS where its weights are
there; on clips also flicker where the truth is calm, and the error where something moves, with the models' memory
and without (frame by frame): what the memory loses there is ghosting. Beside SharpCam's models stand the input,
the best unsharp mask and the best strength of FFmpeg's CAS, both tuned on the very set, the teacher, and the
published students that were trained.

Sets: those of `python -m training.validation`, and pairs such as GoPro's and REDS' in the data folder. Networks of
more than `SLOW` MACs a pixel see a few pictures of each set, and everything else sees these once more beside them.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from benchmarks import plots, results
from benchmarks.contenders import chosen
from benchmarks.room import Found, Run
from sharpcam.errors import MediaError
from sharpcam.frame import Frame
from sharpcam.geometry import Converter, to_video_frame
from sharpcam.models import Model, find_model, find_models
from sharpcam.runtime import default_threads
from sharpcam.stills import sharpen_picture
from training import metrics
from training.evaluate import TUNED_ON, evaluate, load_lpips, spread
from training.pairs import Pair, Picture, find_pairs, read_pair
from training.subjects import Shipped, Subject, Teacher

REAL = ("gopro_val", "reds_val")
PUBLISHED = Path("runs/published")  # where room published puts the students that it has trained
SLOW = 200e3  # MACs a pixel
STRENGTHS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # of CAS, that are tried
TEACHER = "teacher"
WORTH = 0.1  # dB: of a smaller gain a share says nothing
STILL = "-still"  # what is behind the name of a model without its memory


def add_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--sets", type=Path, default=Path("runs/sets"), metavar="DIR",
                       help="of python -m training.validation (default: runs/sets)")  # fmt: skip
    group.add_argument("--data", type=Path, metavar="DIR", help=f"holds {' and '.join(REAL)}")
    group.add_argument("--only", nargs="+", default=[], metavar="SET", help="only these sets; * is anything")
    group.add_argument("--pictures", type=int, metavar="N", help="of each set at most (default: all)")
    group.add_argument("--slow-pictures", type=int, metavar="N", help="for what is slow (default: 4)")
    group.add_argument("--subjects", nargs="+", default=[], metavar="NAME", help="only these; * is anything")
    group.add_argument("--published", type=Path, metavar="DIR",
                       help=f"trained published students, a model folder each (default: {PUBLISHED})")  # fmt: skip
    group.add_argument("--teacher", type=Path, metavar="FILE", help="a checkpoint of training.teacher")
    group.add_argument("--weights", type=Path, default=Path("runs/weights"), metavar="DIR",
                       help="LPIPS' weights (default: runs/weights)")  # fmt: skip


def settings(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "sets": [name for name, _ in find_sets(args)],
        "pictures": args.pictures or (3 if args.quick else None),
        "slow_pictures": args.slow_pictures or (1 if args.quick else 4),
        "subjects": args.subjects,
        "models": {name: model.manifest.sha256 for name, model in models(args).items()},
        "teacher": teacher_file(args.teacher) if args.teacher else None,
        "lpips": args.weights.is_dir(),
    }


def teacher_file(path: Path) -> dict[str, str]:
    """Name and checksum: a run does not go on with another checkpoint of the same name. Raises MediaError."""
    try:
        with path.open("rb") as file:
            return {"file": path.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    except OSError as error:
        hint = "train one with: python -m training.teacher"
        raise MediaError(f"cannot read the teacher {path}: {error.strerror}", hint) from error


def find_sets(args: argparse.Namespace) -> list[tuple[str, Path]]:
    """Names and folders of the sets that are asked for, clips first, real pairs last.

    Raises MediaError when there is none.
    """
    sides = ("blur", "sharp")
    made = sorted(p for p in args.sets.glob("*") if all((p / side).is_dir() for side in sides))
    made.sort(key=lambda p: not p.name.startswith("clip-"))
    real = [args.data / name for name in REAL if args.data and (args.data / name).is_dir()]
    found = [(p.name, p) for p in [*made, *real] if chosen(p.name, args.only)]
    if not found:
        raise MediaError(
            f"there are no sets to measure on in {args.sets}",
            f"make them with: python -m training.validation --data DIR --out {args.sets}",
        )
    return found


def models(args: argparse.Namespace) -> dict[str, Model]:
    """The installed models and the trained published ones, by name."""
    installed, errors = find_models()
    if errors:
        raise errors[0]
    found = {model.name: model for model in installed}
    for folder in sorted(p.parent for p in (args.published or PUBLISHED).glob("*/model.toml")):
        found.setdefault(folder.name, find_model(folder))
    return found


# -- subjects ----------------------------------------------------------------------------------------------


class Cas:
    """FFmpeg's contrast-adaptive sharpening, on I420 frames; stands where the product has its engine."""

    def __init__(self, strength: float) -> None:
        self.strength = strength
        self._graphs: dict[tuple[int, int], tuple[Any, Any, Any, Converter]] = {}

    def process(self, frame: Frame, out: Frame) -> None:
        if frame.size not in self._graphs:
            graph = av.filter.Graph()
            layout = av.VideoFormat("yuv420p", *frame.size)
            source = graph.add_buffer(
                width=frame.width, height=frame.height, format=layout, time_base=Fraction(1, 30)
            )
            sink = graph.add("buffersink")
            graph.link_nodes(source, graph.add("cas", f"strength={self.strength}"), sink).configure()
            self._graphs[frame.size] = graph, source, sink, Converter(*frame.size, frame.color)
        _, source, sink, converter = self._graphs[frame.size]
        source.push(to_video_frame(frame))
        converter.into(sink.pull(), out)

    def reset(self) -> None:
        pass

    def close(self) -> None:
        self._graphs.clear()


class BestCas:
    """CAS at the strength that is best on these pairs, as the unsharp mask is."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        filters = [Cas(strength) for strength in STRENGTHS]
        total = np.zeros(len(filters))
        for pair in pairs:
            soft, truth = read_pair(pair)
            for place, one in enumerate(filters):
                total[place] += min(metrics.psnr(sharpen_picture(one, soft), truth), metrics.CEILING)
        self._filter = filters[int(np.argmax(total))]
        self.facts: dict[str, Any] = {"strength": self._filter.strength, "tuned_on": len(pairs)}

    def restart(self) -> None:
        pass

    def __call__(self, picture: Picture) -> Picture:
        return np.ascontiguousarray(sharpen_picture(self._filter, picture))


class Subjects:
    """What is measured, loaded once; `quick` ones on all pictures, `slow` ones on a few."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._wanted = args.subjects
        threads = min(2, default_threads() + 1)
        self.quick: dict[str, Subject] = {}
        self.still: dict[str, Subject] = {}
        self.slow: dict[str, Subject] = {}
        self.about: dict[str, dict[str, Any]] = {}
        for name, model in models(args).items():
            if not chosen(name, self._wanted):
                continue
            macs = model.manifest.macs_per_pixel
            side = self.slow if (macs or 0) > SLOW else self.quick
            side[name] = Shipped.load(self._spec(model), 1.0, "cpu", threads, True)
            if model.manifest.state:
                self.still[name + STILL] = Shipped.load(self._spec(model), 1.0, "cpu", threads, False)
            self.about[name] = {"macs_per_pixel": macs, "parameters": model.manifest.parameters}
        if args.teacher:
            self.slow["teacher-checkpoint"] = Teacher(args.teacher, threads)
            self.slow["teacher-checkpoint"].facts.pop("checkpoint")  # no paths in results

    @staticmethod
    def _spec(model: Model) -> str:
        return str(model.folder / ("model.toml" if not model.bare else model.manifest.file))

    def for_set(self, pairs: Sequence[Pair], clip: bool, slow: bool) -> dict[str, Subject]:
        found: dict[str, Subject] = {}
        if chosen("cas", self._wanted):
            found["cas"] = BestCas(spread(pairs, TUNED_ON))
        return found | self.quick | (self.still if clip else {}) | (self.slow if slow else {})


# -- measuring ---------------------------------------------------------------------------------------------


def measure(run: Run) -> dict[str, Any]:
    args, told = run.args, settings(run.args)
    if told["lpips"]:
        lpips, note = load_lpips(args.weights, min(2, default_threads() + 1))
    else:
        lpips, note = None, f"LPIPS is not measured: there is no {args.weights}"
    if note:
        run.say(note)
    if args.data is None:
        run.say(f"{' and '.join(REAL)} are left out: name their folder with --data")
    cv2.setNumThreads(1)
    subjects = Subjects(args)

    def reported(pairs: list[Pair], clip: bool, slow: bool) -> dict[str, Any]:
        chosen_ones = subjects.for_set(pairs, clip, slow)
        report = evaluate(pairs, chosen_ones, clip=clip, lpips=lpips).report
        return {kind: block for kind, block in report.items() if block is not None}

    sets, few = {}, {}
    for name, folder in find_sets(args):
        pairs = find_pairs(folder)
        clip = name.startswith("clip-")
        some = subset(pairs, told["pictures"], clip)
        report = run.step(f"{name}, {len(some)} pictures", partial(reported, some, clip, slow=False))
        sets[name] = {"clip": clip, "pictures": len(some), "of": len(pairs), "report": report}
        if subjects.slow:
            some = subset(pairs, told["slow_pictures"], clip)
            what = f"{name}, {len(some)} pictures, with what is slow"
            report = run.step(what, partial(reported, some, clip, slow=True))
            few[name] = {"clip": clip, "pictures": len(some), "of": len(pairs), "report": report}
    return {"sets": sets, "few": few, "about": subjects.about}


def subset(pairs: list[Pair], count: int | None, clip: bool) -> list[Pair]:
    """`count` of the pairs: the first frames of a clip (two at least), or stills evenly spread."""
    if count is None or count >= len(pairs):
        return pairs
    return pairs[: max(2, count)] if clip else spread(pairs, count)


# -- showing -----------------------------------------------------------------------------------------------

_NO_SUBJECTS = ("pairs", "clip", "clips", "flicker", "moving", "overshoot")
TITLES = {"input": "input", "unsharp": "unsharp mask", "cas": "CAS"}


def kinds(report: dict[str, Any]) -> list[str]:
    """What was measured in a report: input, filters, models."""
    return [kind for kind in report if kind not in _NO_SUBJECTS]


def title(kind: str, report: dict[str, Any] | None = None) -> str:
    block = (report or {}).get(kind, {})
    if kind == "unsharp" and report:
        return f"unsharp mask ({block['sigma']:g}, {block['amount']:g})"
    if kind == "cas" and report:
        return f"CAS ({block['strength']:g})"
    if kind.endswith(STILL):
        return f"`{kind.removesuffix(STILL)}` frame by frame"
    return TITLES.get(kind, f"`{kind}`")


def ghosting(report: dict[str, Any], kind: str) -> float | None:
    """dB that a model's memory loses (below 0: gains) where something moves, against itself frame by frame."""
    psnr = report.get("moving", {}).get("psnr", {})
    mine, still = psnr.get(kind), psnr.get(kind + STILL)
    return None if mine is None or still is None else still - mine


def set_table(one: dict[str, Any]) -> str:
    """Everything about one set."""
    report, clip = one["report"], one["clip"]
    names = {"psnr": "PSNR dB", "gain": "gain", "ssim": "SSIM", "mae": "MAE", "lpips": "LPIPS"}
    measured = [n for n in names if n == "gain" or n in report["input"]]
    headings = ["", *(names[n] for n in measured), "made worse", "overshoot"]
    headings += ["flicker", "PSNR moving", "ghosting dB"] if clip else []
    lines = [f"| {' | '.join(headings)} |", f"| --- |{' ---: |' * (len(headings) - 1)}"]
    for kind in kinds(report):
        block = report[kind]
        cells = [title(kind, report)]
        for name in measured:
            if name == "gain":
                cells.append(f"{block['gain']['psnr']['mean']:+.2f}" if "gain" in block else "")
            else:
                cells.append(f"{block[name]:.{2 if name == 'psnr' else 4}f}")
        cells.append(f"{block['worse']['psnr']:.0%}" if "worse" in block else "")
        cells.append(f"{report['overshoot'][kind]:.2f}")
        if clip:
            moving, ghosts = report["moving"]["psnr"][kind], ghosting(report, kind)
            cells.append(f"{report['flicker'][kind]:.2f}")
            cells.append("" if moving is None else f"{moving:.2f}")
            cells.append("" if ghosts is None else f"{ghosts:+.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def gains_table(sets: dict[str, Any]) -> str:
    """A line for each set: the input, and what each subject gains on it."""
    columns = list(
        dict.fromkeys(k for one in sets.values() for k in kinds(one["report"]) if not k.endswith(STILL))
    )[1:]
    flicker = [
        c for c in columns if any(one["clip"] and c in one["report"]["flicker"] for one in sets.values())
    ]
    flicker = [c for c in flicker if c not in ("unsharp", "cas")]
    headings = ["set", "input", *(title(c) for c in columns), *(f"flicker {title(c)}" for c in flicker)]
    lines = [f"| {' | '.join(headings)} |", f"| --- | --- |{' ---: |' * (len(headings) - 2)}"]
    for name, one in sets.items():
        report = one["report"]
        cells = [name, f"{report['input']['psnr']:.2f} / {report['input']['ssim']:.4f}"]
        for c in columns:
            block = report.get(c)
            cells.append(f"{block['gain']['psnr']['mean']:+.2f} / {block['ssim']:.4f}" if block else "")
        for c in flicker:
            shown = one["clip"] and c in report["flicker"]
            cells.append(f"{report['flicker'][c] / report['flicker']['input']:.2f}" if shown else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def shares_table(sets: dict[str, Any]) -> str:
    """What share of the teacher's gain each model has, on the sets where the teacher gains and the models were
    measured beside it; nothing without such a set."""
    told = {name: one["report"] for name, one in sets.items() if _gain(one["report"], TEACHER) > WORTH}
    found = dict.fromkeys(k for report in told.values() for k in kinds(report) if not k.endswith(STILL))
    models = [k for k in found if k not in (*TITLES, TEACHER)]
    if not models:
        return ""
    lines = [f"| {' | '.join(['set', *map(title, models)])} |", f"| --- |{' ---: |' * len(models)}"]
    for name, report in told.items():
        shares = [f"{_gain(report, k) / _gain(report, TEACHER):.0%}" if k in report else "" for k in models]
        lines.append(f"| {' | '.join([name, *shares])} |")
    return "\n".join(lines)


def _gain(report: dict[str, Any], kind: str) -> float:
    return float(report[kind]["gain"]["psnr"]["mean"]) if kind in report else 0.0


NOTE = (
    "The input's RGB PSNR in dB / SSIM, then each one's gain in dB / SSIM. Unsharp mask and CAS are the best of "
    "their kind, tuned on each very set. Flicker is the share of the input's that is left where the truth is "
    "calm."
)
_MORE = (
    "Overshoot: grey levels by which the result leaves the truth's range around strong edges. Flicker: mean change "
    "from frame to frame in grey levels where the truth is calm. PSNR moving: where something moves. Ghosting: dB "
    "that the memory loses there against the same model frame by frame (below 0: it gains)."
)


def _counts(sets: dict[str, Any]) -> str:
    parts = [one for one in sets.values() if one["pictures"] < one["of"]]
    if not parts:
        return "All pictures of each set."
    told = (f"{name} {one['pictures']} of {one['of']}" for name, one in sets.items() if one in parts)
    return f"Not all pictures: {', '.join(told)}."


def markdown(found: Found) -> str:
    parts = [NOTE, _counts(found["sets"]), "", gains_table(found["sets"]), ""]
    if found["few"]:
        parts += ["## With what is slow", "", _counts(found["few"]), "", gains_table(found["few"]), ""]
    for where in ("sets", "few"):
        if shares := shares_table(found[where]):
            parts += ["Share of the teacher's gain:", "", shares, ""]
            break
    parts += [_MORE, ""]
    for where, heading in (("sets", ""), ("few", ", with what is slow")):
        for name, one in found[where].items():
            count = f"{one['pictures']} of {one['of']}" if one["pictures"] < one["of"] else f"{one['of']}"
            parts += [f"## {name}{heading}, {count} {'frames' if one['clip'] else 'pictures'}", ""]
            parts += [set_table(one), ""]
    return "\n".join(parts)


def readme(found: Found) -> dict[str, str]:
    where = f"{found['date'][:10]}. {_counts(found['sets'])}"
    blocks = {"gains": f"{gains_table(found['sets'])}\n\n{NOTE} {where}"}
    if found["few"]:
        blocks["slow"] = f"{gains_table(found['few'])}\n\n{_counts(found['few'])}"
    return blocks


# -- plots -------------------------------------------------------------------------------------------------

# by the name here (of a published student: its recipe's), the name in room speed
_SPEED_NAMES = {
    "unsharp": "unsharp-bgr",
    "cas": "ffmpeg-cas",
    "restormer-unet": "unet32",
    "unet-lightunet": "lightunet20k",
    "resnet18-cnn": "cnn58k",
    "unet-resunet": "resunet405k",
    "restormer-cnn": "cnn76k",
}
STILLS = ("webcam", "webcam2", "lens", "gaussian")
_PANELS: dict[str, Callable[[str], bool]] = {
    "clips": lambda name: name.startswith("clip-"),
    "stills": lambda name: name in STILLS,
}


def mean_gain(sets: dict[str, Any], kind: str) -> float | None:
    """Mean over the sets of what `kind` gains in PSNR; None where it was not measured on all."""
    blocks = [one["report"].get(kind) for one in sets.values()]
    if not blocks or not all(blocks):
        return None
    return float(np.mean([block["gain"]["psnr"]["mean"] for block in blocks if block]))


def points(found: Found, speed: Found, cell: str, panel: str) -> list[tuple[str, float, float]]:
    """(title, ms, mean gain in dB) of everything that was measured in both rooms, on the panel's sets.

    What is slow counts with its few pictures. A model that has another file there than here is left out.
    """
    mine, theirs = (room["settings"]["models"] for room in (found, speed))
    rows = {
        name: row
        for name, row in speed["cells"][cell]["rows"].items()
        if name not in theirs or theirs[name] == mine.get(name)
    }
    told: list[tuple[str, float, float]] = []
    for where in ("sets", "few"):
        sets = {name: one for name, one in found[where].items() if _PANELS[panel](name)}
        names = dict.fromkeys(k for one in sets.values() for k in kinds(one["report"]))
        for kind in names:
            row = rows.get(_SPEED_NAMES.get(kind, kind))
            gain = None if kind == "input" else mean_gain(sets, kind)
            shown = title(kind) + (" (few)" if where == "few" else "")
            if row and gain is not None and not any(t.startswith(title(kind)) for t, *_ in told):
                told.append((shown, float(row["ms"]["p50"]), gain))
    return told


def draw(found: Found, folder: Path) -> list[Path]:
    made = [plots.gain_dots(found, folder / "quality-gains.png")]
    try:
        speed = results.load("speed", folder)
    except MediaError:  # the plot needs both rooms
        return made
    from benchmarks.speed import main_cell

    cell = main_cell(speed)
    panels = {panel: points(found, speed, cell, panel) for panel in _PANELS}
    if any(panels.values()):
        made.append(plots.pareto(panels, speed, cell, folder / "quality-pareto.png"))
    return made
