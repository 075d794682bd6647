"""Plots of the results, in one style; matplotlib is imported where something is drawn."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.contenders import GROUPS
from benchmarks.results import machine_line
from benchmarks.room import Found
from sharpcam.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which people with colour blindness tell apart
COLORS = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#999999", "#CC79A7", "#000000")
GREY = "#666666"
FRAME_MS = 1000 / 30


def new_figure(width: float, height: float) -> Figure:
    """Inches; drawn without a display and with nothing that depends on the user's settings."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    matplotlib.rcParams.update(matplotlib.rcParamsDefault)
    matplotlib.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def write(figure: Figure, path: Path) -> Path:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=130, facecolor="white")
    write_whole(path, data.getvalue())
    return path


def plain(title: str) -> str:
    """A title without Markdown's marks."""
    return title.replace("`", "")


def source(found: Found) -> str:
    """Where and when it was measured."""
    return f"{machine_line(found['machine'])}, {found['date'][:10]}"


def caption(axes: Any, found: Found, more: str = "") -> None:
    """Where and when it was measured, below the axes at the right."""
    axes.annotate(
        f"{source(found)}{more}", (1, 0), (0, -34), xycoords="axes fraction", textcoords="offset points",
        ha="right", va="top", fontsize=7, color=GREY,
    )  # fmt: skip


def logarithmic(axes: Any, narrow: bool = False) -> None:
    """A logarithmic x axis with numbers as people write them; `narrow` has room for powers of ten alone."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if narrow or high >= 1000 * low else (1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.9g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def mark_frame_time(axes: Any) -> None:
    """The time between two frames at 30 fps, on an x axis of milliseconds."""
    axes.axvline(FRAME_MS, color=GREY, linestyle="--", linewidth=1, zorder=0.5)
    axes.annotate("30 fps", (FRAME_MS, 1), (3, 2), xycoords=("data", "axes fraction"),
                  textcoords="offset points", color=GREY, fontsize=8)  # fmt: skip


def speed_bars(found: Found, cell: str, path: Path) -> Path:
    """All contenders of a cell, as bars on a logarithmic axis, fastest first."""
    from matplotlib.artist import Artist
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    rows = found["cells"][cell]["rows"]
    about = found["contenders"]
    names = sorted(rows, key=lambda n: -float(rows[n]["ms"]["p50"]))
    colors = dict(zip(GROUPS, COLORS, strict=False))
    figure = new_figure(8, 1.6 + 0.24 * len(names))
    axes = figure.subplots()
    for place, name in enumerate(names):
        ms = rows[name]["ms"]
        color = colors[about[name]["group"]]
        axes.barh(place, ms["p50"], color=color, height=0.72)
        axes.plot([ms["p25"], ms["p75"]], [place, place], color="black", linewidth=1)
        cpu = rows[name]["cpu_ms"]["p50"]
        axes.plot(cpu, place, "D", color="white", markeredgecolor="black", markersize=4)
        star = "*" if rows[name]["scaled"] else ""
        axes.annotate(
            f"{ms['p50']:,.3g}{star}" if ms["p50"] < 1000 else f"{ms['p50']:,.0f}{star}",
            (max(ms["p50"], ms["p75"], cpu), place), (6, 0), textcoords="offset points", va="center", fontsize=8,
            bbox={"color": "white", "pad": 0.5},  # above the mark of 30 fps
        )  # fmt: skip
    axes.set_yticks(range(len(names)), [_label(about[n]) for n in names])
    logarithmic(axes)
    axes.margins(x=0.12, y=0.01)
    mark_frame_time(axes)
    axes.set_xlabel("ms a frame, I420 in and out")
    axes.set_title(cell, loc="left", pad=16)  # above the mark of 30 fps
    shown = [g for g in GROUPS if any(about[n]["group"] == g for n in names)]
    marks: list[Artist] = [Patch(color=colors[group]) for group in shown]
    marks.append(Line2D([], [], marker="D", color="white", markeredgecolor="black", markersize=4))
    figure.legend(marks, [*shown, "CPU ms, all threads"], loc="outside lower center", ncols=3, frameon=False)
    scaled = ", * scaled from smaller pictures" if any(rows[n]["scaled"] for n in names) else ""
    caption(axes, found, scaled)
    return write(figure, path)


def _label(about: dict[str, Any]) -> str:
    """A contender's title, with its arithmetic where the title does not tell."""
    title = plain(about["title"])
    return (
        title if not about["precision"] or about["precision"] in title else f"{title}, {about['precision']}"
    )


def gain_dots(found: Found, path: Path) -> Path:
    """For each set, what everything gains over the input, in dB of PSNR.

    Sets that are sharp already have no dB to gain, and would squeeze all others: they are in the tables alone.
    """
    from benchmarks.quality import STILL, kinds, title
    from training.metrics import CEILING

    soft = {n: one for n, one in found["sets"].items() if one["report"]["input"]["psnr"] < CEILING}
    sets = dict(reversed(soft.items()))
    names = dict.fromkeys(k for one in found["sets"].values() for k in kinds(one["report"]))
    subjects = [k for k in names if k != "input" and not k.endswith(STILL)]
    colors = dict(zip(subjects, ("#999999", "#000000", *COLORS[:5], COLORS[6]) * 2, strict=False))
    figure = new_figure(8, 1.5 + 0.34 * len(sets))
    axes = figure.subplots()
    for place, one in enumerate(sets.values()):
        for kind in subjects:
            if block := one["report"].get(kind):
                gain = block["gain"]["psnr"]
                axes.plot(gain["mean"], place, "o", color=colors[kind], markersize=7)
    for kind in subjects:
        axes.plot([], [], "o", color=colors[kind], label=plain(title(kind)))
    axes.axvline(0, color=GREY, linewidth=1)
    axes.set_yticks(range(len(sets)), list(sets))
    axes.grid(axis="y", color="#EEEEEE")
    axes.set_axisbelow(True)
    axes.set_xlabel("gain over the input, dB of PSNR")
    figure.legend(loc="outside lower center", ncols=5, frameon=False)
    caption(axes, found)
    return write(figure, path)


def pareto(panels: dict[str, list[tuple[str, float, float]]], speed: Found, cell: str, path: Path) -> Path:
    """Gain in dB against ms a frame; the line joins what nothing beats in both."""
    shown = {name: points for name, points in panels.items() if points}
    figure = new_figure(4.6 * len(shown), 4)
    for axes, (name, points) in zip(
        figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True
    ):
        front = frontier(points)
        axes.plot([p[1] for p in front], [p[2] for p in front], color=COLORS[1], linewidth=1.5, zorder=1)
        for label, ms, gain in points:
            best = (label, ms, gain) in front
            axes.plot(ms, gain, "o", color=COLORS[0] if best else "#999999", markersize=7)
            axes.annotate(plain(label), (ms, gain), (0, -8), textcoords="offset points", ha="center", va="top",
                          fontsize=8, bbox={"color": "white", "pad": 0.5}, zorder=2)  # fmt: skip
        axes.axhline(0, color=GREY, linewidth=1, zorder=0.5)
        logarithmic(axes)
        axes.margins(x=0.2, y=0.12)
        mark_frame_time(axes)
        axes.set_xlabel(f"ms a frame, {cell}")
        axes.set_ylabel("gain over the input, dB of PSNR")
        axes.set_title(name, loc="left")
    caption(axes, speed)
    return write(figure, path)


def frontier(points: list[tuple[str, float, float]]) -> list[tuple[str, float, float]]:
    """Those that nothing beats in both time and gain, fastest first."""
    front: list[tuple[str, float, float]] = []
    for point in sorted(points, key=lambda p: (p[1], -p[2])):
        if not front or point[2] > front[-1][2]:
            front.append(point)
    return front
