"""Time of one frame, I420 in and I420 out, beside everything that people would use instead.

Everything runs in one process and in turns, on frames of the test card: SharpCam's models, the same networks in
float32 and in OpenVINO, the published students, other published networks, and classical filters. Wall and CPU
milliseconds are medians of rounds with quartiles. GOPS count two operations a multiply-accumulate and stand
beside the most that ONNX Runtime reaches on this machine in one operation, measured in the same rounds.

Networks of more than `--max-gmacs` per frame are measured on smaller pictures, and their times are scaled by
the number of pixels, which flatters them where they no longer fit a cache; the tables say so.
"""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2

from benchmarks import plots
from benchmarks.contenders import GROUPS, Contender, Runner, Size, all_contenders
from benchmarks.peaks import peaks
from benchmarks.results import load_average
from benchmarks.room import Found, Run
from benchmarks.timing import alternate, busy_process, spread
from sharpcam.benchmark import pictures
from sharpcam.errors import SharpCamError
from sharpcam.frame import Frame
from sharpcam.models import find_models

SIZES = {"480p": (848, 480), "720p": (1280, 720), "1080p": (1920, 1080)}
LOADS = ("idle", "busy")
MAIN = "720p, 2 threads, idle"  # what the README shows


def add_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--sizes", nargs="+", choices=SIZES, metavar="SIZE", help=f"of {', '.join(SIZES)}")
    group.add_argument("--threads", nargs="+", type=int, metavar="N", help="default: 1 2")
    group.add_argument("--loads", nargs="+", choices=LOADS, help="default: both")
    group.add_argument(
        "--contenders", nargs="+", default=[], metavar="NAME", help="only these; * is anything"
    )
    group.add_argument("--rounds", type=int, help="turns that each contender has (default: 9)")
    group.add_argument("--max-gmacs", type=float, help="larger networks see smaller pictures (default: 64)")


def settings(args: argparse.Namespace) -> dict[str, Any]:
    quick = args.quick
    models, _ = find_models()
    return {
        "sizes": args.sizes or (["720p"] if quick else list(SIZES)),
        "threads": args.threads or ([2] if quick else [1, 2]),
        "loads": args.loads or (["idle"] if quick else list(LOADS)),
        "contenders": args.contenders,
        "rounds": args.rounds or (3 if quick else 9),
        "max_gmacs": args.max_gmacs or (8.0 if quick else 64.0),
        "slot_ms": 40.0 if quick else 100.0,
        "budget_ms": 1000.0 if quick else 5000.0,
        "models": {model.name: model.manifest.sha256 for model in models},
    }


# -- measuring ---------------------------------------------------------------------------------------------


def measure(run: Run) -> dict[str, Any]:
    wanted = settings(run.args)
    ready = Ready()
    with all_contenders(wanted["contenders"], run.say) as contenders:
        cells = {}
        for size in wanted["sizes"]:
            for threads in wanted["threads"]:
                for load in wanted["loads"]:
                    name = f"{size}, {_threads(threads)}, {load}"
                    cell = Cell(SIZES[size], threads, load, wanted)
                    cells[name] = run.step(name, partial(cell.measure, contenders, ready, run.say))
    about = {c.name: _facts(c) for c in contenders}
    found = {"contenders": about, "cells": cells}
    return found | {"claims": claims(found)}


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count != 1)}"


def _facts(contender: Contender) -> dict[str, Any]:
    names = ("title", "group", "precision", "macs_per_pixel", "parameters", "deblurs", "note")
    return {name: getattr(contender, name) for name in names}


class Ready:
    """Frames of the test card by size; they take a while to draw."""

    def __init__(self) -> None:
        self._frames: dict[Size, list[Frame]] = {}

    def __call__(self, size: Size, smaller: Size) -> list[Frame]:
        """The card at `size`, shrunk to `smaller`."""
        if size not in self._frames:
            self._frames[size] = pictures(size)
        if smaller not in self._frames:
            self._frames[smaller] = [shrunk(frame, smaller) for frame in self._frames[size]]
        return self._frames[smaller]


def shrunk(frame: Frame, size: Size) -> Frame:
    small = Frame(*size, frame.color)
    for source, target in zip(frame.planes, small.planes, strict=True):
        cv2.resize(source, target.shape[::-1], dst=target, interpolation=cv2.INTER_AREA)
    return small


class Cell:
    """All contenders at one size, on a number of threads, with or without another busy process."""

    def __init__(self, size: Size, threads: int, load: str, settings: dict[str, Any]) -> None:
        self.size, self.threads, self.load, self.settings = size, threads, load, settings

    def measure(
        self, contenders: Sequence[Contender], ready: Ready, say: Callable[[str], None]
    ) -> dict[str, Any]:
        cv2.setNumThreads(self.threads)
        sizes = {
            c.name: affordable(self.size, c.macs_per_pixel, self.settings["max_gmacs"]) for c in contenders
        }
        left_out: dict[str, str] = {}
        with contextlib.ExitStack() as stack:
            runners: dict[str, Watched] = {}
            for contender in contenders:
                try:
                    runner = contender.open(ready(self.size, sizes[contender.name]), self.threads)
                    stack.callback(runner.close)
                    runner()
                except SharpCamError as error:
                    left_out[contender.name] = str(error)
                    say(f"{contender.title} is left out: {error}")
                    continue
                runners[contender.name] = Watched(runner)
            candidates = peaks(self.threads)
            calls: dict[str, Callable[[], object]] = dict(runners)
            calls |= {f"peak {name}": peak.call for name, peak in candidates.items()}
            for peak in candidates.values():
                peak.call()
            if self.load == "busy":
                stack.enter_context(busy_process())
            settings = self.settings
            before = load_average()
            times = alternate(calls, settings["rounds"], settings["slot_ms"], settings["budget_ms"])
        cv2.setNumThreads(1)
        summaries = {name: found.summary() for name, found in times.items()}
        reached: dict[str, dict[str, Any]] = {
            name: {
                "title": peak.title,
                "precision": peak.precision,
                "gops": gops(peak.macs, summaries[f"peak {name}"]["ms"]["p50"]),
                "cpu_gops": gops(peak.macs, summaries[f"peak {name}"]["cpu_ms"]["p50"]),
            }
            for name, peak in candidates.items()
        }
        best = {}
        for precision in ("float32", "uint8"):
            those = [r for r in reached.values() if r["precision"] == precision]
            fastest = max(those, key=lambda r: float(r["gops"]))
            best[precision] = fastest | {"cpu_gops": max(r["cpu_gops"] for r in those)}
        rows = {}
        for contender in contenders:
            if contender.name in runners:
                watched, size = runners[contender.name], sizes[contender.name]
                rows[contender.name] = self._row(contender, summaries[contender.name], watched, size, best)
        return {
            "size": self.size,
            "threads": self.threads,
            "load": self.load,
            "load_average": {"before": before, "after": load_average()},
            "peaks": best,
            "peak_candidates": reached,
            "left_out": left_out,
            "rows": rows,
        }

    def _row(
        self, contender: Contender, row: dict[str, Any], watched: Watched, size: Size, best: dict[str, Any]
    ) -> dict[str, Any]:
        scale = self.size[0] * self.size[1] / (size[0] * size[1])
        if watched.inference:
            row["inference_ms"] = spread(watched.inference)
        for what in ("ms", "cpu_ms", "inference_ms"):
            if what in row:
                row[what] = {name: round(value * scale, 4) for name, value in row[what].items()}
        row |= {"measured_at": size, "scaled": scale != 1}
        if contender.macs_per_pixel:
            macs = contender.macs_per_pixel * self.size[0] * self.size[1]
            row["gops"] = gops(macs, row.get("inference_ms", row["ms"])["p50"])
            row["cpu_gops"] = gops(macs, row["cpu_ms"]["p50"])
            peak = best["uint8" if contender.precision == "uint8" else "float32"]
            row["share_of_peak"] = round(row["gops"] / peak["gops"], 4)
            row["cpu_share_of_peak"] = round(row["cpu_gops"] / peak["cpu_gops"], 4)
        return row


class Watched:
    """A runner whose own times of the network are kept."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.inference: list[float] = []

    def __call__(self) -> None:
        self._runner()
        if self._runner.inference_ms is not None:
            self.inference.append(self._runner.inference_ms)


def gops(macs: float, ms: float) -> float:
    """10^9 operations a second, two a multiply-accumulate."""
    return round(2 * macs / ms / 1e6, 2)


def affordable(size: Size, macs_per_pixel: float | None, max_gmacs: float) -> Size:
    """`size`, its sides halved (to multiples of 16) until a frame costs no more than `max_gmacs`."""
    width, height = size
    while macs_per_pixel and width * height * macs_per_pixel > max_gmacs * 1e9 and min(width, height) > 64:
        width, height = (max(32, side // 2 // 16 * 16) for side in (width, height))
    return width, height


# -- what is to be shown -----------------------------------------------------------------------------------


def claims(found: Found) -> dict[str, Any]:
    """By cell: how many times faster each quantised model of ours is than its float32 twin with conversions
    outside, and than the cheapest published deblurring network; by the clock and by CPU time."""
    about = found["contenders"]
    result: dict[str, Any] = {}
    for name, cell in found["cells"].items():
        rows = cell["rows"]
        deblurring = [n for n in rows if about[n]["deblurs"]]
        cheapest = min(deblurring, key=lambda n: float(rows[n]["ms"]["p50"]), default=None)
        for model in [n for n in rows if about[n]["group"] == GROUPS[0] and about[n]["precision"] == "uint8"]:
            others = {"float32": f"{model}-float32", "cheapest": cheapest}
            result.setdefault(name, {})[model] = {
                what: {"name": other, **_over(rows[other], rows[model])}
                for what, other in others.items()
                if other in rows
            }
    return result


def _over(other: dict[str, Any], ours: dict[str, Any]) -> dict[str, float]:
    return {what: round(other[what]["p50"] / ours[what]["p50"], 2) for what in ("ms", "cpu_ms")}


# -- showing -----------------------------------------------------------------------------------------------

_HEADINGS = ("", "arithmetic", "kMAC/px", "ms", "CPU ms", "GOPS", "of peak", "by CPU", "times `{}`")


def reference(found: Found, cell: dict[str, Any]) -> str | None:
    """The model of ours that the others are held against: m, or else the first quantised one."""
    ours = [n for n in cell["rows"] if found["contenders"][n]["group"] == GROUPS[0]]
    return "m" if "m" in ours else (ours[0] if ours else None)


def table(found: Found, cell: dict[str, Any], groups: Sequence[str] = GROUPS) -> str:
    """One cell as a Markdown table."""
    ours = reference(found, cell)
    base = cell["rows"][ours]["ms"]["p50"] if ours else None
    headings = [h.format(ours) for h in _HEADINGS[: None if ours else -1]]
    lines = [f"| {' | '.join(headings)} |", f"|{' --- |' * 2}{' ---: |' * (len(headings) - 2)}"]
    for name, row in cell["rows"].items():
        about = found["contenders"][name]
        if about["group"] not in groups:
            continue
        ms = row["ms"]
        macs = about["macs_per_pixel"]
        cells = [
            about["title"] + (_STAR if row["scaled"] else ""),
            about["precision"],
            f"{macs / 1e3:,.1f}" if macs else "",
            f"{digits(ms['p50'])} ({digits(ms['p25'])} to {digits(ms['p75'])})",
            digits(row["cpu_ms"]["p50"]),
            f"{row['gops']:.0f}" if macs else "",
            *(f"{row[share]:.0%}" if macs else "" for share in ("share_of_peak", "cpu_share_of_peak")),
            *(
                [f"{ms['p50'] / base:.2g}" if ms["p50"] < 10 * base else f"{ms['p50'] / base:,.0f}"]
                if base
                else []
            ),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def digits(ms: float) -> str:
    """Three significant digits, no more than two behind the point."""
    return f"{ms:,.{max(0, min(2, 2 - math.floor(math.log10(ms))))}f}" if ms > 0 else "0"


def _peak_line(cell: dict[str, Any]) -> str:
    told = [f"{p['gops']:.0f} GOPS in {precision} ({p['title']})" for precision, p in cell["peaks"].items()]
    return f"Peak: {', '.join(told)}."


def _title(found: Found, name: str) -> str:
    title: str = found["contenders"][name]["title"]
    return title


_STAR = " \\*"
_SCALED = "\\* measured on smaller pictures, times scaled by the pixels."
NOTE = (
    "Median of the rounds' medians (quartiles) for one frame, I420 in and out; CPU is that of all threads. "
    "GOPS and their share of the machine's peak count the network alone; the share by CPU time counts all that is done "
    f"and does not mind what else the machine does. {_SCALED}"
)


def markdown(found: Found) -> str:
    parts = [NOTE, "", tiers_table(found), "", tiers_note(found), ""]
    for name, cell in found["cells"].items():
        parts += [f"## {name}", "", table(found, cell), "", _peak_line(cell)]
        for line in claim_lines(found, name):
            parts += ["", line]
        if average := cell["load_average"]["after"]:
            parts += ["", f"Load average at the end: {average[0]:g}."]
        for contender, why in cell["left_out"].items():
            parts += ["", f"Left out: {_title(found, contender)}: {why}."]
        parts.append("")
    notes = [f"{about['title']}: {about['note']}" for about in found["contenders"].values() if about["note"]]
    return "\n".join([*parts, "Notes: " + "; ".join(notes) + "."])


def main_cell(found: Found) -> str:
    """The cell that is shown where there is room for one."""
    return MAIN if MAIN in found["cells"] else next(iter(found["cells"]))


def draw(found: Found, folder: Path) -> list[Path]:
    return [plots.speed_bars(found, main_cell(found), folder / "speed-720p.png")]


def tiers_table(found: Found) -> str:
    """Our models at every size and on every number of threads: ms idle / beside a busy process, CPU ms."""
    ours = [n for n, about in found["contenders"].items() if about["group"] == GROUPS[0]]
    lines = [
        f"| size, threads | {' | '.join(found['contenders'][n]['title'] for n in ours)} |",
        f"| --- |{' ---: |' * len(ours)}",
    ]
    places = dict.fromkeys(name.rpartition(", ")[0] for name in found["cells"])
    for place in places:
        cells = []
        for name in ours:
            rows = {
                load: found["cells"].get(f"{place}, {load}", {"rows": {}})["rows"].get(name) for load in LOADS
            }
            times = [digits(row["ms"]["p50"]) for row in rows.values() if row]
            cpu = next((digits(row["cpu_ms"]["p50"]) for row in rows.values() if row), None)
            star = _STAR if any(row and row["scaled"] for row in rows.values()) else ""
            cells.append(f"{' / '.join(times)}, CPU {cpu}{star}" if cpu else "")
        lines.append(f"| {place} | {' | '.join(cells)} |")
    return "\n".join(lines)


def tiers_note(found: Found) -> str:
    """What the figures of that table are: under which of the loads they were measured, and which are scaled."""
    words = {"idle": "idle", "busy": "beside another process that keeps one core busy"}
    told = " / ".join(words[load] for load in LOADS if any(n.endswith(f", {load}") for n in found["cells"]))
    note = f"Median ms of a frame, {told}, and CPU ms of all threads."
    return f"{note} {_SCALED}" if _STAR in tiers_table(found) else note


def claim_lines(found: Found, cell: str) -> list[str]:
    """What each of our models is faster than, in words."""
    lines = []
    for model, claim in found["claims"].get(cell, {}).items():
        told = [
            f"{c['ms']:.1f} times ({c['cpu_ms']:.1f} by CPU time) as fast as {_title(found, c['name'])}"
            for c in claim.values()
        ]
        if told:
            lines.append(f"`{model}` is {' and '.join(told)}.")
    return lines


def readme(found: Found) -> dict[str, str]:
    name = main_cell(found)
    cell = found["cells"][name]
    about = found["machine"]
    where = (
        f"{about['cpu']}, {about['cores']} cores, ONNX Runtime {about['onnxruntime']}, {found['date'][:10]}."
    )
    return {
        "table": f"{table(found, cell)}\n\n{name}; {where} {NOTE} {_peak_line(cell)}",
        "claims": "\n".join([*claim_lines(found, name), "", f"Of a frame, {name}; {where}"]),
        "tiers": f"{tiers_table(found)}\n\n{tiers_note(found)} {where}",
    }
