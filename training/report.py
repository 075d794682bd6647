"""What `training.evaluate` found, for people: a table, one line of CSV per picture, and a figure of crops."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.table import Table

Picture = NDArray[np.uint8]

KINDS = ("input", "unsharp", "output", "teacher")  # in the order in which they are shown
TITLES = {
    "input": "before",
    "unsharp": "unsharp mask",
    "output": "output",
    "teacher": "teacher",
    "truth": "truth",
}
NAMES = {"psnr": "PSNR dB", "ssim": "SSIM", "mae": "MAE", "lpips": "LPIPS"}
DIGITS = {"psnr": 2, "ssim": 4, "mae": 4, "lpips": 4, "overshoot": 2}

QUANTILES = (5, 25, 50, 75, 95)
CROP = 192  # pixels a side
GAP, LINE = 6, 20  # between crops, and the height of a line of text
_PAPER, _INK = 255, (30, 30, 30)


def summary(rows: Sequence[dict[str, Any]], kind: str) -> dict[str, Any]:
    """Means and quantiles of the figures of `kind`, and what it gains over the input.

    `worse` is the share of the pictures whose figure is behind the input's, however little.
    """
    names = [name for name in rows[0][kind] if name != "overshoot"]
    values = {name: np.array([row[kind][name] for row in rows]) for name in names}
    block: dict[str, Any] = {name: float(value.mean()) for name, value in values.items()}
    block["quantiles"] = {name: _quantiles(value) for name, value in values.items()}
    if kind != "input":
        gains = {n: values[n] - np.array([row["input"][n] for row in rows]) for n in ("psnr", "ssim")}
        block["gain"] = {n: {"mean": float(g.mean()), **_quantiles(g)} for n, g in gains.items()}
        block["worse"] = {n: float((g < 0).mean()) for n, g in gains.items()}
    return block


def _quantiles(values: NDArray[np.float64]) -> dict[str, float]:
    return {f"p{q}": float(np.percentile(values, q)) for q in QUANTILES}


# -- table and CSV -----------------------------------------------------------------------------------------


def table(report: dict[str, Any]) -> Table:
    """The report of `training.evaluate` in one table: a line for each of what was measured."""
    kinds = [kind for kind in KINDS if report.get(kind)]
    figures = [name for name in NAMES if name in report["input"]]
    what = (
        f"{report['pairs']} frames of {_count(report['clips'], 'clip')}"
        if report["clip"]
        else _count(report["pairs"], "pair")
    )
    shown = Table(title=f"{what}, {report['set']}", title_justify="left")
    shown.add_column("")
    headings = [
        *(NAMES[name] for name in figures),
        "gain dB",
        "median",
        "p5",
        "made worse",
        "overshoot",
    ]
    for heading in [*headings, *(["flicker"] if report["clip"] else [])]:
        shown.add_column(heading, justify="right")
    for kind in kinds:
        block = report[kind]
        gain = block.get("gain", {}).get("psnr")
        cells = [f"{block[name]:.{DIGITS[name]}f}" for name in figures]
        cells += [f"{gain[part]:+.2f}" for part in ("mean", "p50", "p5")] if gain else [""] * 3
        cells.append(f"{block['worse']['psnr']:.0%}" if gain else "")
        cells.append(f"{report['overshoot'][kind]:.2f}")
        if report["clip"]:
            cells.append(f"{report['flicker'][kind]:.3f}")
        shown.add_row(_label(kind, report), *cells)
    if report["clip"]:
        empty = [""] * (len(figures) + 5)
        shown.add_row("truth", *empty, f"{report['flicker']['truth']:.3f}")
    return shown


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _label(kind: str, report: dict[str, Any]) -> str:
    block = report[kind]
    if kind == "unsharp":
        return f"unsharp mask ({block['sigma']:g}, {block['amount']:g})"
    if kind == "output":
        model = block["model"]
        return f"{model['name']} {model['version']}, strength {model['strength']:g}, {model['provider']}"
    return kind


def csv_text(rows: Sequence[dict[str, Any]]) -> str:
    """One line per picture: its name and size, and every figure of everything measured on it."""
    kinds = [kind for kind in KINDS if rows and kind in rows[0]]
    columns = [(kind, name) for kind in kinds for name in rows[0][kind]]
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(["name", "width", "height", *(f"{kind}_{name}" for kind, name in columns)])
    for row in rows:
        numbers = [f"{row[kind][name]:.6g}" for kind, name in columns]
        out.writerow([row["name"], row["width"], row["height"], *numbers])
    return text.getvalue()


# -- figure ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """Crops of one picture: of what was measured, by kind, and the truth; `figures` are the whole one's."""

    name: str
    crops: dict[str, Picture]
    figures: dict[str, dict[str, float]]


def sample(
    name: str, shown: dict[str, Picture], truth: Picture, figures: dict[str, dict[str, float]]
) -> Sample:
    """A sample cut out where the model changed most (or, without a model, where most is to be changed)."""
    window = crop_window(shown["input"], shown.get("output", truth))
    crops = {kind: picture[window].copy() for kind, picture in {**shown, "truth": truth}.items()}
    return Sample(name, crops, figures)


def crop_window(before: Picture, after: Picture, side: int = CROP) -> tuple[slice, slice]:
    """The `side` x `side` window (the whole of a shorter axis) in which two pictures differ most.

    Where they are the same, the middle.
    """
    height, width = (min(side, n) for n in before.shape[:2])
    difference = cv2.absdiff(before, after).sum(axis=2, dtype=np.int32)
    sums = np.zeros((difference.shape[0] + 1, difference.shape[1] + 1), np.int64)
    sums[1:, 1:] = difference.cumsum(axis=0).cumsum(axis=1)
    inside = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    if inside.any():
        top, left = (int(i) for i in np.unravel_index(int(np.argmax(inside)), inside.shape))
    else:
        top, left = ((n - side) // 2 for n, side in zip(before.shape[:2], (height, width), strict=True))
    return slice(top, top + height), slice(left, left + width)


def figure(samples: Sequence[Sample]) -> Picture:
    """A row of crops for each sample, with PSNR and SSIM of the whole picture below; RGB uint8.

    (GAP + columns * (w + GAP)) wide and (LINE + rows * (h + 2 LINE)) high, w and h the largest crop's.
    """
    kinds = list(samples[0].crops)
    high = max(crop.shape[0] for s in samples for crop in s.crops.values())
    wide = max(crop.shape[1] for s in samples for crop in s.crops.values())
    page = np.full(
        (LINE + len(samples) * (high + 2 * LINE), GAP + len(kinds) * (wide + GAP), 3), _PAPER, np.uint8
    )
    for column, kind in enumerate(kinds):
        left = GAP + column * (wide + GAP)
        _write(page, TITLES[kind], left, 0, wide)
        for row, one in enumerate(samples):
            top = LINE + row * (high + 2 * LINE)
            if column == 0:
                _write(page, one.name, left, top, page.shape[1] - left)
            crop = one.crops[kind]
            page[top + LINE :, left:][: crop.shape[0], : crop.shape[1]] = crop
            if kind in one.figures:
                text = f"{one.figures[kind]['psnr']:.2f} dB  {one.figures[kind]['ssim']:.4f}"
                _write(page, text, left, top + LINE + high, wide)
    return page


def _write(page: Picture, text: str, left: int, top: int, room: int) -> None:
    """One line of text, as small as `room` pixels want it."""
    text = text.encode("ascii", "replace").decode()  # all that OpenCV's letters hold
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.45
    wide = cv2.getTextSize(text, font, scale, 1)[0][0]
    scale *= min(1.0, room / max(1, wide))
    cv2.putText(page, text, (left, top + LINE - 6), font, scale, _INK, 1, cv2.LINE_AA)
