"""The scaling room's page, plots and README blocks, from its results alone."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.plots import COLORS, FRAME_MS, GREY, caption, new_figure, write
from benchmarks.room import Found

HOUR_S = 3600
_STAGES = {"interpreter": COLORS[5], "imports": COLORS[1], "opening": COLORS[2], "first frame": COLORS[4]}


def threads_of(found: Found) -> list[str]:
    return list(found["pixels"])


def many(threads: str) -> str:
    return f"{threads} thread{'s' * (threads != '1')}"


def stages(rows: dict[str, dict[str, list[float]]], key: str) -> dict[str, float]:
    """Median ms (`key` "ms" or "cpu_ms") that each stage of a start takes by itself; together they are the time to
    the first frame, even where a process that only imports took longer, as happens on a busy machine."""
    until = {name: statistics.median(row[key]) for name, row in rows.items()}
    until = {name: min(reached, until["first frame"]) for name, reached in until.items()}
    at = 0.0
    alone = {}
    for name, reached in (
        ("interpreter", until.get("interpreter")),
        ("imports", until["imports"]),
        ("opening", until.get("opened")),
        ("first frame", until["first frame"]),
    ):
        if reached is not None:
            alone[name] = max(0.0, reached - at)
            at = max(at, reached)
    return alone


def ns_per_pixel(row: dict[str, Any], key: str = "ms") -> float:
    width, height = row["size"]
    return float(row[key]["p50"] * 1e6 / (width * height))


def markdown(found: Found) -> str:
    told = found["settings"]
    lines = [
        f"Model `{told['model']}`; medians of {told['rounds']} rounds with quartiles, in turns. CPU ms is of all "
        "threads.",
        "",
        "## Pixels and threads",
        "",
        "| size | Mpx |" + "".join(f" {many(t)}, ms | CPU ms | ns/px |" for t in threads_of(found)),
        "| --- | ---: |" + " ---: | ---: | ---: |" * len(threads_of(found)),
    ]
    for place, row in enumerate(found["pixels"][threads_of(found)[0]]):
        width, height = row["size"]
        cells = [f"{width}x{height}", f"{width * height / 1e6:.2f}"]
        for threads in threads_of(found):
            one = found["pixels"][threads][place]
            ms = one["ms"]
            cells += [f"{ms['p50']:.2f} ({ms['p25']:.2f} to {ms['p75']:.2f})", f"{one['cpu_ms']['p50']:.2f}"]
            cells += [f"{ns_per_pixel(one):.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    size = "x".join(map(str, told["size"]))
    lines += ["", f"## The model's MACs, {size}", ""]
    lines += [
        "Students of the trainer's family (channels, inner convolutions, grid in pixels) with random weights, and "
    ]
    lines[-1] += "the shipped models. GOPS: two operations a multiply-accumulate."
    for threads, answer in found["models"].items():
        lines += ["", f"### {many(threads)}", ""]
        if answer["without"]:
            lines += [f"{answer['without']}.", ""]
        lines += ["| student | MACs/px | ms | CPU ms | GOPS |", "| --- | ---: | ---: | ---: | ---: |"]
        for row in sorted(answer["rows"], key=lambda r: r["macs_per_pixel"] or 0):
            name = f"**{row['name']}**" if row["shipped"] else row["name"]
            ms = row["ms"]
            spread = f"{ms['p50']:.2f} ({ms['p25']:.2f} to {ms['p75']:.2f})"
            macs = f"{row['macs_per_pixel']:,.0f}" if row["macs_per_pixel"] else "?"
            gops = f"{row['gops']:.0f}" if row["gops"] else "?"
            lines.append(f"| {name} | {macs} | {spread} | {row['cpu_ms']['p50']:.2f} | {gops} |")
    lines += [
        "",
        "## Starting",
        "",
        f"`sharpcam run` on a {size} MJPEG clip, one thread: ms from the process's start",
    ]
    lines[-1] += (
        ", stage by stage, wall and (CPU). Interpreter and imports are processes of their own that do nothing else. "
        "The usual Python loop's first frame is its end, after two frames."
    )
    names = list(_STAGES)
    lines += ["", f"| | {' | '.join(names)} | all |", f"| --- |{' ---: |' * (len(names) + 1)}"]
    for who, rows in found["starting"].items():
        wall, cpu = stages(rows, "ms"), stages(rows, "cpu_ms")
        cells = [f"{wall[n]:.0f} ({cpu[n]:.0f})" if n in wall else "" for n in names]
        cells.append(f"{sum(wall.values()):.0f} ({sum(cpu.values()):.0f})")
        lines.append(f"| {who} | {' | '.join(cells)} |")
    lines += ["", "## Memory", "", memory_line(found)]
    return "\n".join(lines)


def memory_line(found: Found) -> str:
    told = found["memory"]
    seconds = told["seconds"]
    long = (
        "an hour" if seconds >= HOUR_S else f"only {seconds:g} s (`--memory-duration 3600` watches an hour)"
    )
    return (
        f"`sharpcam run --source testcard --sink null`, watched for {long}: {told['settled_mb']:.0f} MB resident; "
        f"from its settling on, {told['growth_mb']:+.1f} MB in {told['growth_s']:.0f} s; "
        f"threads {told['threads'][0]} and {told['threads'][1]}, open files {told['files'][0]} and "
        f"{told['files'][1]}, at the beginning and at the end. It said: {told['summary']}"
    )


def readme(found: Found) -> dict[str, str]:
    first = threads_of(found)[0]
    rows = ["| size | " + " | ".join(many(t) for t in threads_of(found)) + " |"]
    rows.append("| --- |" + " ---: |" * len(threads_of(found)))
    for place, row in enumerate(found["pixels"][first]):
        times = [found["pixels"][t][place]["ms"]["p50"] for t in threads_of(found)]
        rows.append(f"| {row['size'][0]}x{row['size'][1]} | {' | '.join(f'{ms:.1f} ms' for ms in times)} |")
    starts = []
    for who, taken in found["starting"].items():
        wall, cpu = (sum(stages(taken, key).values()) / 1e3 for key in ("ms", "cpu_ms"))
        starts.append(f"{who} {wall:.1f} s ({cpu:.1f} s of CPU)")
    return {
        "pixels": "\n".join(rows),
        "starting": f"From the start of the process to the first frame: {', '.join(starts)}.",
        "memory": memory_line(found),
    }


def draw(found: Found, folder: Path) -> list[Path]:
    return [
        _draw_cost(found, folder / "scaling-cost.png"),
        _draw_starting(found, folder / "scaling-starting.png"),
        _draw_memory(found, folder / "scaling-memory.png"),
    ]


def _draw_cost(found: Found, path: Path) -> Path:
    figure = new_figure(10, 4.2)
    pixels, models = figure.subplots(1, 2)
    for threads, color in zip(threads_of(found), COLORS, strict=False):
        rows = found["pixels"][threads]
        x = [row["size"][0] * row["size"][1] / 1e6 for row in rows]
        _line(pixels, x, rows, color, many(threads))
    ticks = {
        row["size"][0] * row["size"][1] / 1e6: f"{row['size'][1]}p"
        for row in found["pixels"][threads_of(found)[0]]
    }
    pixels.set_xscale("log")
    pixels.set_xticks(list(ticks), list(ticks.values()))
    pixels.minorticks_off()
    pixels.set_title(f"pixels, model {found['settings']['model']}", loc="left")
    tops: dict[str, tuple[float, float]] = {}  # of shipped models, above all that is drawn of them
    for threads, color in zip(found["models"], COLORS, strict=False):
        rows = sorted((r for r in found["models"][threads]["rows"] if r["macs_per_pixel"]), key=_macs)
        x = [row["macs_per_pixel"] / 1e3 for row in rows]
        _line(models, x, rows, color, many(threads), join=False)
        for row, at in zip(rows, x, strict=True):
            if row["shipped"]:
                models.plot(at, row["ms"]["p50"], "o", color=color, markersize=9, markerfacecolor="none")
                tops[row["name"]] = at, max(row["ms"]["p75"], tops.get(row["name"], (at, 0.0))[1])
    for name, top in tops.items():
        models.annotate(name, top, (0, 7), textcoords="offset points", ha="center")
    models.set_xscale("log")
    _plain_ticks(models.xaxis)
    models.set_xlabel("kMAC a pixel")
    models.set_title("x".join(map(str, found["settings"]["size"])), loc="left")
    for ax in (pixels, models):
        ax.set_yscale("log")
        _plain_ticks(ax.yaxis)
        ax.set_ylabel("ms a frame")
        ax.axhline(FRAME_MS, color=GREY, linestyle="--", linewidth=1)
        ax.annotate("30 fps", (0.01, FRAME_MS), (0, 3), xycoords=("axes fraction", "data"),
                    textcoords="offset points", color=GREY, fontsize=8)  # fmt: skip
        ax.grid(alpha=0.25)
        ax.legend(frameon=False, loc="lower right")
    caption(models, found)
    return write(figure, path)


def _plain_ticks(axis: Any) -> None:
    """1, 2, 5, 10 ... on a logarithmic axis."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def _macs(row: dict[str, Any]) -> float:
    return float(row["macs_per_pixel"])


def _line(
    ax: Any, x: list[float], rows: list[dict[str, Any]], color: str, label: str, join: bool = True
) -> None:
    middle = np.array([row["ms"]["p50"] for row in rows])
    low, high = (np.array([row["ms"][q] for row in rows]) for q in ("p25", "p75"))
    ax.errorbar(
        x, middle, [middle - low, high - middle], color=color, label=label, capsize=2, marker="o", markersize=4,
        linestyle="-" if join else "none",
    )  # fmt: skip


def _draw_starting(found: Found, path: Path) -> Path:
    figure = new_figure(8, 2.6)
    axes = figure.subplots()
    labels: list[str] = []
    for who, rows in found["starting"].items():
        for key, what in (("ms", "wall"), ("cpu_ms", "CPU")):
            left = 0.0
            for stage, width in stages(rows, key).items():
                color = _STAGES[stage]
                axes.barh(
                    len(labels),
                    width,
                    left=left,
                    color=color,
                    height=0.6,
                    label=stage if not labels else None,
                )
                left += width
            axes.text(left, len(labels), f"  {left:.0f}", va="center", fontsize=8)
            labels.append(f"{who}, {what}")
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlabel("ms from the start of the process")
    axes.set_title("until the first frame", loc="left")
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    caption(axes, found)
    return write(figure, path)


def _draw_memory(found: Found, path: Path) -> Path:
    figure = new_figure(8, 2.8)
    axes = figure.subplots()
    samples = found["memory"]["samples"]
    minutes = found["memory"]["seconds"] > 300
    axes.plot(
        [row[0] / (60 if minutes else 1) for row in samples], [row[1] for row in samples], color=COLORS[0]
    )
    axes.set_ylim(0, 1.15 * max(row[1] for row in samples))
    axes.set_xlabel("minutes" if minutes else "seconds")
    axes.set_ylabel("MB resident")
    axes.set_title("sharpcam run, test card", loc="left")
    caption(axes, found)
    return write(figure, path)
