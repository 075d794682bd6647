"""The room speed: what it does with times, and a whole small run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="the rooms draw with matplotlib (extra: benchmarks)")
pytest.importorskip("onnx", reason="graphs are rewritten with onnx (extra: benchmarks)")

import cv2

import benchmarks.__main__ as frame
from benchmarks import contenders, peaks, plots, speed
from benchmarks.contenders import GROUPS, Contender
from sharpcam.errors import ModelError
from sharpcam.frame import Frame


def test_large_networks_see_smaller_pictures() -> None:
    size = (1280, 720)
    assert speed.affordable(size, None, 1) == size
    assert speed.affordable(size, 69_444, 64.001) == size
    assert speed.affordable(size, 69_445, 64) == (640, 352)
    assert speed.affordable(size, 2_363_000, 64) == (160, 80)
    assert min(speed.affordable(size, 1e9, 1)) >= 32


def test_gops_are_two_operations_a_mac() -> None:
    assert speed.gops(5e9, 100) == 100


def ms(value: float, cpu: float | None = None, **more: Any) -> dict[str, Any]:
    """A row with all its quartiles at one value."""
    told = {"p50": value, "p25": value, "p75": value}
    cpu_ms = dict.fromkeys(told, cpu or value)
    return {
        "ms": told | {"min": value},
        "cpu_ms": cpu_ms,
        "scaled": False,
        "gops": 9,
        "share_of_peak": 0.5,
        "cpu_share_of_peak": 0.6,
        **more,
    }


def about(title: str, group: str, precision: str, deblurs: bool = False, note: str = "") -> dict[str, Any]:
    macs = None if group == "filters" else 2800.0
    return {"title": title, "group": group, "precision": precision, "deblurs": deblurs, "note": note,
            "macs_per_pixel": macs, "parameters": 10}  # fmt: skip


@pytest.fixture
def found() -> dict[str, Any]:
    """Results as a run leaves them."""
    rows = {
        "m": ms(10, 20),
        "m-float32": ms(45, 70),
        "lightunet20k": ms(200, 300),
        "nafnet16": ms(1500, 2000, scaled=True),
        "srvgg": ms(50),
        "obs": ms(0.5),
    }
    peak = {"gops": 600.0, "title": "QLinearConv, 3x3 on 128 channels", "precision": "uint8"}
    cell = {
        "size": [1280, 720], "threads": 2, "load": "idle", "peaks": {"uint8": peak}, "rows": rows,
        "left_out": {"restormer": "it is too slow"}, "load_average": {"before": None, "after": [1.5, 1, 1]},
    }  # fmt: skip
    contenders = {
        "m": about("`m` 1.0", GROUPS[0], "uint8"),
        "m-float32": about("`m` in float32", GROUPS[1], "float32", note="conversions outside"),
        "lightunet20k": about("LightStudentUNet_v2", GROUPS[3], "float32", deblurs=True),
        "nafnet16": about("NAFNet, width 16", GROUPS[4], "float32", deblurs=True),
        "restormer": about("Restormer", GROUPS[4], "float32", deblurs=True),
        "srvgg": about("SRVGG", GROUPS[4], "float32"),
        "obs": about("OBS kernel", GROUPS[5], ""),
    }
    machine = {"cpu": "A processor", "cores": 2, "onnxruntime": "1.0"}
    result = {
        "contenders": contenders,
        "cells": {speed.MAIN: cell},
        "machine": machine,
        "date": "2026-01-02T",
    }
    return result | {"claims": speed.claims(result)}


def test_claims(found: dict[str, Any]) -> None:
    assert found["claims"] == {
        speed.MAIN: {
            "m": {
                "float32": {"name": "m-float32", "ms": 4.5, "cpu_ms": 3.5},
                # not srvgg, which is cheaper but does not deblur
                "cheapest": {"name": "lightunet20k", "ms": 20.0, "cpu_ms": 15.0},
            }
        }
    }
    for name in ("m-float32", "lightunet20k", "nafnet16"):
        del found["cells"][speed.MAIN]["rows"][name]
    assert speed.claims(found) == {speed.MAIN: {"m": {}}}


def test_page(found: dict[str, Any]) -> None:
    page = speed.markdown(found)
    lines = page.splitlines()
    ours = next(line for line in lines if line.startswith("| `m` 1.0"))
    assert ours == "| `m` 1.0 | uint8 | 2.8 | 10.0 (10.0 to 10.0) | 20.0 | 9 | 50% | 60% | 1 |"
    assert (
        "| NAFNet, width 16 \\* | float32 | 2.8 | 1,500 (1,500 to 1,500) | 2,000 | 9 | 50% | 60% | 150 |"
        in lines
    )
    assert "| OBS kernel |  |  | 0.50 (0.50 to 0.50) | 0.50 |  |  |  | 0.05 |" in lines
    assert "times `m`" in page
    claim = (
        "4.5 times (3.5 by CPU time) as fast as `m` in float32 and 20.0 times (15.0 by CPU time) as fast as L"
    )
    assert claim in page
    assert "Left out: Restormer: it is too slow." in page
    assert "Load average at the end: 1.5." in page
    assert "600 GOPS in uint8" in page
    assert "`m` in float32: conversions outside" in page


def test_readme_block(found: dict[str, Any]) -> None:
    text = speed.readme(found)["table"]
    assert speed.table(found, found["cells"][speed.MAIN]) in text
    assert "A processor" in text
    assert "2026-01-02" in text
    claim = (
        "`m` is 4.5 times (3.5 by CPU time) as fast as `m` in float32 and 20.0 times (15.0 by CPU time) as "
    )
    assert speed.readme(found)["claims"].startswith(claim)
    assert "Of a frame, 720p, 2 threads, idle; A processor" in speed.readme(found)["claims"]
    # where the main cell was not measured, the first stands for it
    found["cells"] = {"480p, 1 thread, busy": found["cells"][speed.MAIN]}
    assert "480p, 1 thread, busy" in speed.readme(found)["table"]


def test_tiers_at_every_size(found: dict[str, Any]) -> None:
    found["cells"] |= {
        "720p, 2 threads, busy": {"rows": {"m": ms(30, 21)}},
        "1080p, 1 thread, busy": {"rows": {"m": ms(60, 59)}},
        "480p, 1 thread, idle": {"rows": {}},
    }
    lines = speed.tiers_table(found).splitlines()
    assert lines[0] == "| size, threads | `m` 1.0 |"  # float32 twins are no tiers
    assert lines[2:] == [
        "| 720p, 2 threads | 10.0 / 30.0, CPU 20.0 |",
        "| 1080p, 1 thread | 60.0, CPU 59.0 |",
        "| 480p, 1 thread |  |",
    ]
    assert lines[2] in speed.readme(found)["tiers"]


def test_tiers_tell_the_loads_that_were_measured_and_what_is_scaled(found: dict[str, Any]) -> None:
    alone = "Median ms of a frame, idle, and CPU ms of all threads."
    for text in (speed.markdown(found), speed.readme(found)["tiers"]):
        assert alone in text
        assert "busy" not in text.partition("##")[0]
    assert "smaller pictures" not in speed.readme(found)["tiers"]
    found["cells"]["720p, 2 threads, busy"] = {"rows": {"m": ms(30, 21, scaled=True)}}
    text = speed.readme(found)["tiers"]
    assert "| 720p, 2 threads | 10.0 / 30.0, CPU 20.0 \\* |" in text
    assert "Median ms of a frame, idle / beside another process that keeps one core busy, and" in text
    assert "threads. \\* measured on smaller pictures, times scaled by the pixels. A processor" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.1234, "0.12"), (1.234, "1.23"), (12.34, "12.3"), (123.4, "123"), (12345.6, "12,346")],
)
def test_digits(value: float, text: str) -> None:
    assert speed.digits(value) == text


def test_plot_shows_every_contender(
    found: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Any] = []
    write = plots.write
    monkeypatch.setattr(plots, "write", lambda figure, path: (figures.append(figure), write(figure, path))[1])
    (path,) = speed.draw(found, tmp_path)
    assert cv2.imread(str(path)).shape[1] > 800
    (axes,) = figures[0].axes
    labels = [tick.get_text() for tick in axes.get_yticklabels()]
    assert labels[-2:] == ["m 1.0, uint8", "OBS kernel"]  # fastest last, which is on top
    assert len(labels) == len(found["cells"][speed.MAIN]["rows"])
    assert [round(patch.get_width(), 1) for patch in axes.patches[:6]] == [1500, 200, 50, 45, 10, 0.5]
    assert axes.get_xscale() == "log"
    cpu = [float(line.get_xdata()[0]) for line in axes.lines if line.get_marker() == "D"]
    assert cpu == [2000, 300, 50, 70, 20, 0.5]


def test_shrunk_frames_are_the_same_picture() -> None:
    frame = Frame(64, 48)
    for plane, value in zip(frame.planes, (50, 100, 150), strict=True):
        plane[:] = value
    frame.y[0, 0, :, 32:] = 90
    small = speed.shrunk(frame, (32, 16))
    assert [int(plane[3, 3]) for plane in small.planes] == [50, 100, 150]
    assert (small.y[0, 0, :, 16:] == 90).all()


# --- a whole run --------------------------------------------------------------------------------------------


class Runner:
    """Blurs the frame's luma `work` times."""

    def __init__(self, frames: Sequence[Frame], threads: int, work: int, inference: float | None) -> None:
        self.size, self._frames, self._work = frames[0].size, contenders.Frames(frames), work
        self.inference_ms = inference
        self.closed = False
        Runner.made.append(self)

    made: list[Runner]

    def __call__(self) -> None:
        for _ in range(self._work):
            cv2.GaussianBlur(self._frames.next().y[0, 0], (0, 0), 2.0)

    def close(self) -> None:
        self.closed = True


def test_a_whole_small_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_models: object) -> None:
    Runner.made = []

    def refuse(frames: Sequence[Frame], threads: int) -> Any:
        raise ModelError("it does not run here")

    def make(work: int, inference: float | None) -> Any:
        return lambda frames, threads: Runner(frames, threads, work, inference)

    said: list[Any] = []

    @contextmanager
    def all_contenders(patterns: Sequence[str], say: Any) -> Iterator[list[Contender]]:
        said.append(patterns)
        yield [
            Contender("m", "`m`", GROUPS[0], make(1, 0.5), "uint8", 100.0),
            Contender("big", "Big", GROUPS[4], make(8, None), "float32", 1000.0, deblurs=True),
            Contender("bad", "Bad", GROUPS[4], refuse, "float32", 100.0),
            Contender("filter", "Filter", GROUPS[5], make(2, None)),
        ]

    monkeypatch.setattr(speed, "all_contenders", all_contenders)
    monkeypatch.setattr(speed, "SIZES", {"720p": (320, 240)})
    monkeypatch.setattr(peaks, "SIDE", 32)
    monkeypatch.setattr(peaks, "MAP", (8, 8))
    options = [
        "--sizes",
        "720p",
        "--threads",
        "1",
        "--rounds",
        "4",
        "--max-gmacs",
        "0.05",
        "--out",
        str(tmp_path),
    ]
    assert frame.main(["speed", *options]) == 0
    found = json.loads((tmp_path / "speed.json").read_text())
    assert list(found["cells"]) == ["720p, 1 thread, idle", "720p, 1 thread, busy"]
    cell = found["cells"]["720p, 1 thread, idle"]
    rows = cell["rows"]
    assert list(rows) == ["m", "big", "filter"]
    assert cell["left_out"] == {"bad": "it does not run here"}
    assert all(row["rounds"] == 4 for row in rows.values())
    # 77 MMACs are more than 50: on half the sides
    assert rows["m"]["measured_at"] == [320, 240]
    assert not rows["m"]["scaled"]
    assert rows["big"]["measured_at"] == [160, 112]
    assert rows["big"]["scaled"]
    assert {r.size for r in Runner.made} == {(320, 240), (160, 112)}
    assert all(r.closed for r in Runner.made)
    # GOPS of the network alone, and their share of the peak in its own arithmetic
    macs = 100 * 320 * 240
    assert rows["m"]["inference_ms"]["p50"] == 0.5
    assert rows["m"]["gops"] == pytest.approx(2 * macs / 0.5 / 1e6, rel=0.01)
    peak = cell["peaks"]["uint8"]["gops"]
    assert peak == max(p["gops"] for p in cell["peak_candidates"].values() if p["precision"] == "uint8")
    cpu_peak = max(p["cpu_gops"] for p in cell["peak_candidates"].values() if p["precision"] == "uint8")
    assert rows["m"]["cpu_share_of_peak"] == pytest.approx(rows["m"]["cpu_gops"] / cpu_peak, abs=1e-3)
    assert rows["m"]["share_of_peak"] == pytest.approx(rows["m"]["gops"] / peak, abs=1e-3)
    assert rows["big"]["gops"] == pytest.approx(20 * macs / rows["big"]["ms"]["p50"] / 1e6, rel=0.02)
    assert "gops" not in rows["filter"]
    assert rows["m"]["cpu_ms"]["p50"] > 0
    assert found["claims"]["720p, 1 thread, idle"]["m"]["cheapest"]["name"] == "big"
    assert found["settings"]["max_gmacs"] == 0.05
    assert (tmp_path / "speed-720p.png").is_file()
    assert "| Big \\* | float32 |" in (tmp_path / "speed.md").read_text()
    assert cv2.getNumThreads() == 1


def test_times_of_smaller_pictures_are_scaled_by_the_pixels() -> None:
    cell = speed.Cell((320, 240), 1, "idle", {})
    contender = Contender("a", "A", GROUPS[4], None, "float32", 1000.0)  # type: ignore[arg-type]
    watched = speed.Watched(None)  # type: ignore[arg-type]
    watched.inference = [2.0]
    best = {"float32": {"gops": 10.0, "cpu_gops": 4.0}, "uint8": {"gops": 100.0, "cpu_gops": 40.0}}
    row = cell._row(contender, {"ms": {"p50": 3.0}, "cpu_ms": {"p50": 5.0}}, watched, (160, 112), best)
    scale = 320 * 240 / (160 * 112)
    scaled = [row[what]["p50"] for what in ("ms", "cpu_ms", "inference_ms")]
    assert scaled == pytest.approx([3 * scale, 5 * scale, 2 * scale], abs=1e-3)
    assert row["gops"] == pytest.approx(2 * 1000 * 160 * 112 / 2e6, abs=0.02)
    assert row["share_of_peak"] == pytest.approx(row["gops"] / 10, abs=1e-3)
    assert row["cpu_share_of_peak"] == pytest.approx(2 * 1000 * 160 * 112 / 5e6 / 4, abs=1e-2)
