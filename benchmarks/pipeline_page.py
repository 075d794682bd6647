"""The pipeline room's page, plots and README blocks, from its results alone."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.plots import COLORS, caption, new_figure, write
from benchmarks.room import Found
from benchmarks.ways import SHARPCAM, USUAL

FOURCCS = {"YUYV": "raw (YUYV)", "MJPG": "MJPEG"}
_COARSE_MS = 1.0  # CPU time told in larger steps is left out of the tables


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Median, and least and greatest where there were several rounds."""
    middle = f"{statistics.median(values):.{digits}f}"
    if len(values) < 2:
        return middle
    return f"{middle} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def shares(found: Found, fourcc: str) -> dict[str, dict[str, list[float]]]:
    """CPU ms per frame of each way from files, round by round: decoding, inference, overhead (all the rest).

    All ways decode MJPEG with FFmpeg there. A filter inside ffmpeg is not told apart from the rest.
    """
    measured = found["files"][fourcc]
    rounds = len(measured[found["ways"][0]]["cpu_ms_per_frame"])
    decoding = measured["decoding"]["FFmpeg"] if "decoding" in measured else [0.0] * rounds
    split = {}
    for way in found["ways"]:
        total, inference = measured[way]["cpu_ms_per_frame"], measured[way]["inference_cpu_ms"]
        rest = [t - i - d for t, i, d in zip(total, inference, decoding, strict=True)]
        split[way] = {"decoding": decoding, "inference": inference, "overhead": rest, "total": total}
    return split


def overhead_ratio(found: Found, fourcc: str) -> list[float]:
    """SharpCam's overhead over the usual loop's, round by round."""
    split = shares(found, fourcc)
    return [a / b for a, b in zip(split[SHARPCAM]["overhead"], split[USUAL]["overhead"], strict=True)]


def latency(rounds: Sequence[Sequence[float]], percent: int) -> list[float]:
    """A percentile (a multiple of 5) of the delay, round by round, in ms."""
    return [curve[percent // 5] for curve in rounds]


def latency_ratio(found: Found, fourcc: str) -> list[float]:
    """SharpCam's median delay over the usual loop's, round by round."""
    ours, theirs = (latency(found["devices"][fourcc][way]["latency_ms"], 50) for way in (SHARPCAM, USUAL))
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def claims(found: Found) -> dict[str, Any]:
    """What the room has to show, by camera: medians of rounds, and whether they hold; None where not measured."""
    overhead = {fourcc: statistics.median(overhead_ratio(found, fourcc)) for fourcc in FOURCCS}
    delay = {f: statistics.median(latency_ratio(found, f)) for f in FOURCCS} if found["devices"] else None
    return {
        "overhead_over_usual_loop": overhead,
        "overhead_at_most_a_quarter": max(overhead.values()) <= 0.25,
        "latency_over_usual_loop": delay,
        "latency_lower": max(delay.values()) < 1 if delay else None,
    }


def markdown(found: Found) -> str:
    told = found["settings"]
    plural = "s" if told["threads"] > 1 else ""
    rounds = f"median of {told['rounds']} rounds (least to greatest)" if told["rounds"] > 1 else "one round"
    lines = [
        f"{told['size'][0]}x{told['size'][1]}, model `{told['model']}`, {told['threads']} thread{plural}; {rounds}. "
        "Every program has a process of its own; they take turns, and another one goes first in every round. The usual "
        "loop (`benchmarks/usual_loop.py`) runs the same network: its weights in float32, RGB in and out.",
        "",
        "## CPU per frame, from a file",
        "",
        "ms. Overhead is all but decoding and inference: taking the picture, changing its format, handing it on, "
        "waiting and counting. Writing to the virtual camera, a copy in the kernel and the same for all, is left out.",
    ]
    for fourcc, name in FOURCCS.items():
        split = shares(found, fourcc)
        lines += ["", f"### {name} clip", "", "| | all | decoding | inference | overhead |"]
        lines += ["| --- | ---: | ---: | ---: | ---: |"]
        for way, parts in split.items():
            cells = [spread(parts["total"]), spread(parts["decoding"]), spread(parts["inference"], 1)]
            overhead = spread(parts["overhead"], 2)
            if not any(parts["inference"]):
                cells[2], overhead = "", f"{overhead}, its filter included"
            lines.append(f"| {way} | {' | '.join(cells)} | {overhead} |")
        lines += [
            "",
            f"SharpCam's overhead is {spread(overhead_ratio(found, fourcc), 2)} of the usual loop's, round by round.",
        ]
    lines += ["", "## With devices", ""]
    devices = found["devices"]
    if not devices:
        return "\n".join([*lines, f"Not measured: {found['why_no_devices']}."])
    lines += [
        f"Where: {devices['where']}. The camera is a v4l2loopback device that gets {told['fps']:g} pictures a second "
        f"with their number in their pixels; each run is watched for {told['seconds']:g} s at the virtual camera, from "
        "two seconds after its first picture on. Added latency: from the moment when the camera gives a picture until "
        "the program has handed it to the virtual camera, ms, median and 95th percentile. Lost: pictures of the "
        "camera that never arrived.",
    ]
    for fourcc, name in FOURCCS.items():
        seen = devices[fourcc]
        exact = max(seen["about"]["clock_step_ms"]) < _COARSE_MS
        lines += ["", f"### {name} camera", ""]
        heads = ["fps", "lost %", "latency p50", "latency p95", "memory MB", "first picture s"]
        heads += ["CPU ms a frame"] if exact else []
        lines += [f"| | {' | '.join(heads)} |", f"| --- |{' ---: |' * len(heads)}"]
        for way in found["ways"]:
            one = seen[way]
            lost = [100 * a / max(1, b) for a, b in zip(one["lost"], one["sent"], strict=True)]
            cells = [spread(one["fps"]), spread(lost), spread(latency(one["latency_ms"], 50))]
            cells += [spread(latency(one["latency_ms"], 95)), spread(one["memory_mb"], 0)]
            cells += [spread(one["first_picture_s"])]
            cells += [spread(one["cpu_ms_per_frame"])] if exact else []
            lines.append(f"| {way} | {' | '.join(cells)} |")
        ratio = spread(latency_ratio(found, fourcc), 2)
        lines += ["", f"SharpCam's median latency is {ratio} of the usual loop's, round by round."]
        if not exact:
            lines += [
                "",
                "This kernel counts CPU time in timer ticks, too coarse to tell; it is measured from files, above.",
            ]
    return "\n".join(lines)


def readme(found: Found) -> dict[str, str]:
    rows = [
        "| CPU ms a frame | all | decoding | inference | overhead |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for way, parts in shares(found, "MJPG").items():
        numbers = [statistics.median(parts[key]) for key in ("total", "decoding", "inference", "overhead")]
        rows.append(f"| {way} | {' | '.join(f'{n:.1f}' if n else '' for n in numbers)} |")
    blocks = {"cpu": "\n".join(rows)}
    devices = found["devices"]
    if devices:
        rows = ["| | fps | lost | added latency, ms | memory |", "| --- | ---: | ---: | ---: | ---: |"]
        for way in found["ways"]:
            one = devices["MJPG"][way]
            p50, p95 = (statistics.median(latency(one["latency_ms"], p)) for p in (50, 95))
            lost = 100 * sum(one["lost"]) / max(1, sum(one["sent"]))
            fps, memory = statistics.median(one["fps"]), statistics.median(one["memory_mb"])
            rows.append(f"| {way} | {fps:.1f} | {lost:.0f} % | {p50:.0f} / {p95:.0f} | {memory:.0f} MB |")
        blocks["devices"] = "\n".join(rows)
    ratios = claims(found)["overhead_over_usual_loop"].values()
    blocks["ratio"] = (
        f"{SHARPCAM}'s overhead is {max(ratios):.2f} of the {USUAL}'s or less (raw and MJPEG cameras, medians)."
    )
    return blocks


def draw(found: Found, folder: Path) -> list[Path]:
    files = [_draw_cpu(found, folder / "pipeline-cpu.png")]
    if found["devices"]:
        files.append(_draw_latency(found, folder / "pipeline-latency.png"))
    return files


_PARTS = {"decoding": COLORS[5], "inference": COLORS[0], "overhead": COLORS[4]}


def _draw_cpu(found: Found, path: Path) -> Path:
    figure = new_figure(9, 3.6)
    axes = figure.subplots(1, len(FOURCCS), sharex=True, sharey=True)
    for ax, (fourcc, name) in zip(axes, FOURCCS.items(), strict=True):
        split = shares(found, fourcc)
        for row, parts in enumerate(split.values()):
            left = 0.0
            for part, color in _PARTS.items():
                width = statistics.median(parts[part])
                ax.barh(row, width, left=left, color=color, label=part if row == 0 else None, height=0.62)
                left += width
            rest = statistics.median(parts["overhead"])
            what = "overhead" if any(parts["inference"]) else "all but decoding"
            ax.text(left, row, f"  {left:.1f}, {what} {rest:.1f}", va="center", fontsize=8)
        ax.set_yticks(range(len(split)), list(split))
        ax.set_title(f"{name} clip", loc="left")
        ax.set_xlabel("CPU ms a frame")
    longest = max(max(one["total"]) for fourcc in FOURCCS for one in shares(found, fourcc).values())
    axes[0].set_xlim(0, 1.55 * longest)  # room for the words behind the longest bar
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    caption(axes[-1], found)
    return write(figure, path)


def _draw_latency(found: Found, path: Path) -> Path:
    figure = new_figure(9, 3.8)
    axes = figure.subplots(1, len(FOURCCS), sharex=True, sharey=True)
    percents = list(range(0, 101, 5))
    for ax, (fourcc, name) in zip(axes, FOURCCS.items(), strict=True):
        for way, color in zip(found["ways"], (COLORS[0], COLORS[4], COLORS[2], COLORS[3]), strict=True):
            curves = found["devices"][fourcc][way]["latency_ms"]
            for curve in curves:
                ax.plot(curve, percents, color=color, alpha=0.25, linewidth=0.8)
            middle = [statistics.median(values) for values in zip(*curves, strict=True)]
            ax.plot(middle, percents, color=color, linewidth=2.2, label=way)
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter("{x:g}")
        ax.set_title(f"{name} camera", loc="left")
        ax.set_xlabel("added latency, ms")
        ax.grid(alpha=0.25, which="both")
    axes[0].set_ylabel("% of the pictures arrive sooner")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    caption(axes[-1], found)
    return write(figure, path)
