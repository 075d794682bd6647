"""Plots of the results, in one style; matplotlib is imported where something is drawn."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


def caption(axes: Any, found: Found, more: str = "") -> None:
    """Where and when it was measured, above the axes at the right."""
    text = f"{machine_line(found['machine'])}, {found['date'][:10]}{more}"
    axes.set_title(text, loc="right", fontsize=7, color=GREY)


def speed_bars(found: Found, cell: str, path: Path) -> Path:
    """All contenders of a cell, as bars on a logarithmic axis, fastest first."""
    from matplotlib.patches import Patch

    rows = found["cells"][cell]["rows"]
    about = found["contenders"]
    names = sorted(rows, key=lambda n: -float(rows[n]["ms"]["p50"]))
    groups = list(dict.fromkeys(a["group"] for a in about.values()))
    colors = dict(zip(groups, COLORS, strict=False))
    figure = new_figure(8, 1.6 + 0.24 * len(names))
    axes = figure.subplots()
    for place, name in enumerate(names):
        ms = rows[name]["ms"]
        color = colors[about[name]["group"]]
        axes.barh(place, ms["p50"], color=color, height=0.72)
        axes.plot([ms["p25"], ms["p75"]], [place, place], color="black", linewidth=1)
        star = "*" if rows[name]["scaled"] else ""
        axes.annotate(
            f"{ms['p50']:,.3g}{star}" if ms["p50"] < 1000 else f"{ms['p50']:,.0f}{star}",
            (max(ms["p50"], ms["p75"]), place), (4, 0), textcoords="offset points", va="center", fontsize=8,
        )  # fmt: skip
    axes.set_yticks(range(len(names)), [_label(about[n]) for n in names])
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.01)
    axes.axvline(FRAME_MS, color=GREY, linestyle="--", linewidth=1)
    axes.annotate("30 fps", (FRAME_MS, 1), (3, 2), xycoords=("data", "axes fraction"),
                  textcoords="offset points", color=GREY, fontsize=8)  # fmt: skip
    axes.set_xlabel("ms a frame, I420 in and out")
    axes.set_title(cell, loc="left")
    shown = [g for g in groups if any(about[n]["group"] == g for n in names)]
    marks = [Patch(color=colors[group]) for group in shown]
    figure.legend(marks, shown, loc="outside lower center", ncols=3, frameon=False)
    scaled = ", * scaled from smaller pictures" if any(rows[n]["scaled"] for n in names) else ""
    caption(axes, found, scaled)
    return write(figure, path)


def _label(about: dict[str, Any]) -> str:
    """A contender's title, with its arithmetic where the title does not tell."""
    title = plain(about["title"])
    return (
        title if not about["precision"] or about["precision"] in title else f"{title}, {about['precision']}"
    )
