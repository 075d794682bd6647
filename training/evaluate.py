"""How good a model is on pairs of pictures: `python -m training.evaluate --model NAME|PATH|none --pairs DIR`.

The model runs by the code of `sharpcam process`, I420 and rounding included: what is measured is what users
get. Beside it stand the input as it is and the best unsharp mask, tuned on the very pictures that it is
judged on, which no model is. PSNR, SSIM and MAE are means over the pictures, of uint8 RGB; a picture that
equals its truth counts as 60 dB. With `--clip` a folder is one clip in name order, the model's state carried
along, and its flicker is measured. Pictures are read one by one: a set may be of any size.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sharpcam.errors import MediaError, SharpCamError
from sharpcam.files import temporary_beside, write_whole
from training import metrics
from training.pairs import Pair, clips, find_pairs, picture_size, read_pair, read_picture
from training.report import Sample, csv_text, figure, sample, summary, table
from training.subjects import Shipped, Subject, Teacher, Unsharp

if TYPE_CHECKING:
    from training.lpips import LPIPS

Picture = NDArray[np.uint8]

TUNED_ON = 40  # pictures at most that the unsharp mask is tuned on
SAMPLES = 6  # rows of the figure at most


@dataclass
class Evaluation:
    """`report` is what `--json` gives, `rows` the figures of each picture, `samples` crops of some."""

    report: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)


Tick = Callable[[str, int, int], None]  # what is being done, how much of it is done, out of how much


def evaluate(
    pairs: Sequence[Pair],
    subjects: dict[str, Subject],
    *,
    clip: bool = False,
    lpips: LPIPS | None = None,
    tuned_on: int = TUNED_ON,
    samples: int = 0,
    tick: Tick = lambda what, done, total: None,
) -> Evaluation:
    """Measures the input, the best unsharp mask and the `subjects` ("output", "teacher") on `pairs`.

    With `clip` the pairs of one folder are consecutive frames. `tuned_on` pictures, evenly spread, find the
    unsharp mask (0: leave it out); crops of `samples` pictures are kept. Raises MediaError for pairs that
    cannot be measured, and whatever the subjects raise.
    """
    if not pairs:
        raise ValueError("no pairs to evaluate on")
    if tuned := spread(pairs, tuned_on):
        best = metrics.best_unsharp(_watched(tuned, "tuning the unsharp mask", tick))
        subjects = {"unsharp": Unsharp(best, len(tuned)), **subjects}
    found = Evaluation()
    kept = set(spread(pairs, samples))
    flickers: list[dict[str, float]] = []
    motion = Motion()
    for scene in clips(pairs) if clip else ([pair] for pair in pairs):
        for subject in subjects.values():
            subject.restart()
        flicker = Flicker(scene) if clip else None
        motion.restart()
        for pair in scene:
            soft, truth = read_pair(pair)
            shown = {"input": soft, **{kind: subject(soft) for kind, subject in subjects.items()}}
            figures = measure(shown, truth, lpips)
            height, width = truth.shape[:2]
            found.rows.append({"name": pair.name, "width": width, "height": height, **figures})
            if flicker:
                flicker.add({**shown, "truth": truth})
                motion.add(shown, truth)
            if pair in kept:
                found.samples.append(sample(pair.name, shown, truth, figures))
            tick("measuring", len(found.rows), len(pairs))
        if flicker:
            flickers.append(flicker.means())
    found.report = {"pairs": len(pairs), "clip": clip, "input": summary(found.rows, "input"), "output": None}
    for kind, subject in subjects.items():
        found.report[kind] = summary(found.rows, kind) | subject.facts
    if clip:
        found.report["clips"] = len(flickers)
        found.report["flicker"] = {k: float(np.mean([f[k] for f in flickers])) for k in flickers[0]}
        found.report["moving"] = motion.report()
    shares = {k: float(np.mean([row[k]["overshoot"] for row in found.rows])) for k in ("input", *subjects)}
    found.report["overshoot"] = shares
    return found


def measure(
    shown: dict[str, Picture], truth: Picture, lpips: LPIPS | None = None
) -> dict[str, dict[str, float]]:
    """All figures of each of the pictures against `truth`."""
    figures = {
        kind: {
            "psnr": min(metrics.psnr(picture, truth), metrics.CEILING),
            "ssim": metrics.ssim(picture, truth),
            "mae": metrics.mae(picture, truth),
            "overshoot": metrics.overshoot(picture, truth),
        }
        for kind, picture in shown.items()
    }
    if lpips is not None:
        try:
            distances = lpips.measure(list(shown.values()), truth)
        except ValueError as error:
            raise MediaError(str(error), "leave these pictures out, or measure with --no-lpips") from error
        for found, distance in zip(figures.values(), distances, strict=True):
            found["lpips"] = distance
    return figures


class Flicker:
    """`metrics.flicker` of several versions of one clip at once, frame by frame."""

    def __init__(self, clip: Sequence[Pair]) -> None:
        """Reads the whole of the true clip, to find where it is calm."""
        if len(clip) < 2:
            raise MediaError(
                f"{clip[0].sharp.parent} holds one picture", "a clip has 2 or more; leave out --clip"
            )
        self.calm = metrics.calm_pixels(self._truths(clip))
        self._last: dict[str, Picture] = {}
        self._changes: dict[str, list[float]] = {}

    @staticmethod
    def _truths(clip: Sequence[Pair]) -> Iterator[Picture]:
        size = ""
        for pair in clip:
            picture = read_picture(pair.sharp)
            size = size or picture_size(picture)
            if picture_size(picture) != size:
                raise MediaError(
                    f"{pair.sharp} is {picture_size(picture)}, the clip begins with {size}",
                    "the frames of a clip have one size; leave out --clip",
                )
            yield picture

    def add(self, shown: dict[str, Picture]) -> None:
        """The next frame of each version."""
        for kind, picture in shown.items():
            if kind in self._last:
                step = metrics.change(self._last[kind], picture, self.calm)
                self._changes.setdefault(kind, []).append(step)
            self._last[kind] = picture

    def means(self) -> dict[str, float]:
        return {kind: float(np.mean(steps)) for kind, steps in self._changes.items()}


class Motion:
    """How near several versions of clips are to the truth where something moves, frame by frame."""

    def __init__(self) -> None:
        self._last: Picture | None = None
        self._errors: dict[str, float] = {}
        self._moving = self._pixels = 0

    def restart(self) -> None:
        """The next frame begins another clip."""
        self._last = None

    def add(self, shown: dict[str, Picture], truth: Picture) -> None:
        """The next frame of each version."""
        if self._last is not None:
            where = metrics.moving_pixels(self._last, truth)
            self._moving += int(where.sum())
            self._pixels += where.size
            for kind, picture in shown.items():
                error = metrics.squared_error(picture, truth, where)
                self._errors[kind] = self._errors.get(kind, 0.0) + error
        self._last = truth

    def report(self) -> dict[str, Any]:
        """The share of pixels that move, and the PSNR of each version over all of them; None without any."""
        share = self._moving / max(1, self._pixels)
        psnr: dict[str, float | None] = dict.fromkeys(self._errors)
        if self._moving:
            floor = 255**2 / 10 ** (metrics.CEILING / 10)  # the mean squared error of CEILING
            for kind, error in self._errors.items():
                psnr[kind] = 10 * math.log10(255**2 / max(floor, error / (3 * self._moving)))
        return {"share": share, "psnr": psnr}


def spread(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """`count` of the pairs, or all when they are fewer, evenly spread, the first and the last among them."""
    places = np.linspace(0, len(pairs) - 1, min(count, len(pairs))).round().astype(int)
    return [pairs[i] for i in places]


def _watched(pairs: Sequence[Pair], what: str, tick: Tick) -> Iterator[tuple[Picture, Picture]]:
    for number, pair in enumerate(pairs, 1):
        yield read_pair(pair)
        tick(what, number, len(pairs))


# -- command line ------------------------------------------------------------------------------------------


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate",
        description="Measures a model on pairs of a damaged and a true picture.",
    )
    parser.add_argument("--model", default="auto", help="auto, a name, a path, or none for the input alone")
    parser.add_argument(
        "--pairs", type=Path, required=True, metavar="DIR", help="holds blur/ and sharp/ of the same names"
    )
    parser.add_argument(
        "--clip", action="store_true", help="a folder is the frames of one clip, in name order"
    )
    parser.add_argument("--strength", type=_share, default=1.0, help="0 (off) to 1 (full, the default)")
    parser.add_argument("--limit", type=_positive, metavar="N", help="only the first N pairs, by name")
    parser.add_argument("--teacher", type=Path, metavar="CHECKPOINT", help="an RGB network beside the model")
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="write the report; - (or nothing) for stdout"
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the figures of every picture")
    parser.add_argument("--figure", type=Path, metavar="FILE.png", help="draw crops of some pictures")
    parser.add_argument("--weights", type=Path, default=Path("runs/weights"), help="folder of LPIPS' weights")
    parser.add_argument("--no-lpips", action="store_true", help="do not measure LPIPS")
    parser.add_argument("--provider", choices=["auto", "cuda", "cpu"], default="auto")
    parser.add_argument("--threads", type=_positive, default=min(2, os.cpu_count() or 1))
    args = parser.parse_args(argv)
    if args.figure is not None and args.figure.suffix.lower() != ".png":
        parser.error(f"--figure {args.figure}: the figure is a PNG; name it so")
    return args


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def work(args: argparse.Namespace) -> None:
    cv2.setNumThreads(args.threads)
    for path in (args.csv, args.figure, None if args.json in (None, "-") else Path(args.json)):
        if path is not None:
            temporary_beside(path).unlink()  # says now, rather than after the run, that it cannot be written
    pairs = find_pairs(args.pairs)[: args.limit]
    if args.clip and len(pairs) < 2:
        raise MediaError(f"{args.pairs} holds one pair", "a clip has 2 frames or more; leave out --clip")
    subjects: dict[str, Subject] = {}
    if args.model != "none":
        subjects["output"] = Shipped.load(args.model, args.strength, args.provider, args.threads, args.clip)
    if args.teacher is not None:
        subjects["teacher"] = Teacher(args.teacher, args.threads)
    lpips, note = (None, "") if args.no_lpips else load_lpips(args.weights, args.threads)
    if note:
        print(note, file=sys.stderr)
    with Bar() as bar:
        found = evaluate(
            pairs, subjects, clip=args.clip, lpips=lpips, samples=SAMPLES if args.figure else 0, tick=bar.tick
        )
    report = {"set": str(args.pairs), **found.report, "notes": [note] if note else []}
    text = json.dumps(report, indent=2) + "\n"
    if args.csv is not None:
        write_whole(args.csv, csv_text(found.rows).encode())
    if args.figure is not None:
        page = np.ascontiguousarray(figure(found.samples)[..., ::-1])
        write_whole(args.figure, cv2.imencode(".png", page)[1].tobytes())
    if args.json == "-":
        sys.stdout.write(text)
    else:
        if args.json is not None:
            write_whole(Path(args.json), text.encode())
        console = Console()
        (console if console.is_terminal else Console(width=150)).print(table(report))
    sys.stdout.flush()


def load_lpips(folder: Path, threads: int) -> tuple[LPIPS | None, str]:
    """LPIPS with the weights in `folder`, or why there is none. Raises ModelError if they do not fit."""
    import torch

    from training.lpips import LPIPS, missing

    if lacking := missing(folder):
        return None, (
            f"LPIPS is not measured: {folder} has no {' and no '.join(lacking)}; "
            f"fetch with: python -m training.weights lpips --out {folder}"
        )
    torch.set_num_threads(threads)
    return LPIPS.from_folder(folder), ""


class Bar:
    """A progress bar on stderr, where that is a terminal."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Bar:
        self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.stop()

    def tick(self, what: str, done: int, total: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what, total=total)
        self._bar.update(self._tasks[what], completed=done)


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    try:
        work(args)
    except SharpCamError as error:
        print(f"evaluate: {error}", file=sys.stderr)
        if error.hint:
            print(f"  hint: {error.hint}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # who asked has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
