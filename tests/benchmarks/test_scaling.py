"""The scaling room: students that are what they are called, stopwatches that stop at the right line, memory."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import scaling, scaling_page
from benchmarks.room import Journal, Run
from sharpcam.engine import Engine
from sharpcam.errors import MediaError
from sharpcam.models import find_model

SIZE = (160, 128)
TOLD: dict[str, Any] = {
    "model": "m", "size": list(SIZE), "sizes": [[64, 48], [128, 96]], "threads": [1], "students": [[32, 0, 8]],
    "rounds": 2, "slot_ms": 1.0, "memory_s": 2.0,
}  # fmt: skip


def test_frames_differ_in_noise_alone() -> None:
    first, second = scaling.still(SIZE)
    assert first.size == second.size == SIZE
    difference = first.buffer.astype(int) - second.buffer
    assert 0 < np.abs(difference).max() <= 6
    assert first.buffer.std() > 20


def test_sizes_are_measured_in_turns() -> None:
    rows = scaling.over_sizes(find_model("m"), [(64, 48), (128, 96)], 1, TOLD)
    assert [row["size"] for row in rows] == [[64, 48], [128, 96]]
    for row in rows:
        assert row["rounds"] == 2
        assert row["ms"]["p50"] > 0
        assert row["cpu_ms"]["p50"] > 0


def test_engines_are_closed_even_when_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []

    class Broken:
        size = SIZE

        def process(self, *_: Any) -> None:
            raise MediaError("broken")

        def close(self) -> None:
            closed.append("broken")

    with pytest.raises(MediaError, match="broken"):
        scaling.in_turns({"a": Broken(), "b": Broken()}, TOLD)  # type: ignore[dict-item]
    assert len(closed) == 2


def test_students_have_the_macs_that_are_told(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    onnx = pytest.importorskip("onnx")
    made = list(scaling.made_students([(32, 1, 4), (64, 2, 8)], tmp_path))
    assert [name for name, _, _ in made] == ["c32-d1-g4", "c64-d2-g8"]
    for name, path, macs in made:
        graph = onnx.load(str(path)).graph
        weights = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
        total = 0.0
        for node in graph.node:
            if node.op_type == "QLinearConv":
                grid = 8 if node.output[0].startswith("gate") else int(name[-1])
                total += weights[node.input[3]].size / grid**2
        assert macs == pytest.approx(total)
        engine = Engine.load(path, SIZE, "cpu", 1)
        assert engine.model.layout == "yuv420"
        engine.close()


def test_shipped_models_stand_beside_made_ones() -> None:
    pytest.importorskip("torch")
    found = scaling.over_models(TOLD, 1, print)
    rows = {row["name"]: row for row in found["rows"]}
    assert found["without"] == ""
    assert rows["m"]["shipped"]
    assert not rows["c32-d0-g8"]["shipped"]
    m = rows["m"]
    assert m["gops"] == pytest.approx(2 * m["macs_per_pixel"] * 160 * 128 / m["ms"]["p50"] / 1e6, rel=0.01)


def test_without_torch_there_are_the_shipped_models(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> Iterator[Any]:
        raise ImportError("No module named 'torch'", name="torch")

    monkeypatch.setattr(scaling, "made_students", none)
    said: list[str] = []
    found = scaling.over_models(TOLD, 1, said.append)
    assert all(row["shipped"] for row in found["rows"])
    assert "torch is not installed" in found["without"]
    assert said == [found["without"]]


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_stopwatch_stops_at_lines() -> None:
    code = "import time\nprint('open', flush=True)\nsum(range(10**6))\nprint('1 frames', flush=True)\ntime.sleep(0.3)"
    found = scaling.stopwatch(python(code), {"opened": "^open", "first frame": "^1 frames"})()
    assert list(found) == ["opened", "first frame"]
    wall, cpu = zip(*found.values(), strict=True)
    assert 0 < wall[0] < wall[1]
    assert 0 < cpu[0] < cpu[1]


def test_a_stopwatch_without_lines_stops_at_the_end() -> None:
    ((wall, cpu),) = scaling.stopwatch(python("sum(range(10**6))"))().values()
    assert 0 < cpu < wall + 1


@pytest.mark.parametrize(
    ("code", "lines", "why"),
    [
        ("raise SystemExit('no camera')", None, "no camera"),
        ("print('open')", {"first frame": "^1 frames"}, "did not work"),
    ],
)
def test_a_stopwatch_tells_failures(code: str, lines: dict[str, str] | None, why: str) -> None:
    with pytest.raises(MediaError, match=why):
        scaling.stopwatch(python(code), lines)()


def test_starting_goes_through_its_stages() -> None:
    pytest.importorskip("onnx")
    said: list[str] = []
    found = scaling.starting({**TOLD, "rounds": 1, "size": [256, 192]}, said.append)
    assert list(found["SharpCam"]) == ["interpreter", "imports", "opened", "first frame"]
    assert list(found["usual Python loop"]) == ["imports", "first frame"]
    for key in ("ms", "cpu_ms"):
        took = [row[key][0] for row in found["SharpCam"].values()]
        assert all(value > 0 for value in took)
        assert found["SharpCam"]["opened"][key][0] < found["SharpCam"]["first frame"][key][0]
    assert "round 1: first frame after SharpCam" in said[0]


def test_memory_of_a_real_run() -> None:
    found = scaling.memory({**TOLD, "size": [256, 192], "memory_s": 3.0}, print)
    assert 50 < found["settled_mb"] < 1000
    assert found["samples"][0][0] < 3
    assert all(row[1] > 0 for row in found["samples"])
    assert found["threads"][0] >= 4
    assert "ended: duration" in found["summary"]


def test_memory_of_a_run_that_fails() -> None:
    with pytest.raises(MediaError, match='there is no model "none"'):
        scaling.memory({**TOLD, "model": "none"}, print)


# the page


@pytest.fixture
def found() -> dict[str, Any]:
    def row(ms: float) -> dict[str, Any]:
        spread = {"p50": ms, "p25": ms - 0.5, "p75": ms + 1, "min": ms - 1}
        return {"ms": spread, "cpu_ms": {"p50": ms + 2, "p25": ms, "p75": ms}, "rounds": 7, "calls": 9}

    sizes = [{"size": [1280, 720], **row(18.432)}, {"size": [1920, 1080], **row(41.0)}]
    models = [
        {"name": "m", "shipped": True, "macs_per_pixel": 2832.0, "gops": 300.0, **row(17.4)},
        {"name": "c32-d0-g8", "shipped": False, "macs_per_pixel": 500.0, "gops": 120.0, **row(7.0)},
        {"name": "other", "shipped": True, "macs_per_pixel": None, "gops": None, **row(70.0)},
    ]

    def start(*values: float) -> dict[str, Any]:
        names = ("interpreter", "imports", "opened", "first frame")
        pairs = [(n, v) for n, v in zip(names, values, strict=True) if v]
        return {
            name: {"ms": [value, value + 2, value + 90], "cpu_ms": [value / 2] * 3} for name, value in pairs
        }

    return {
        "room": "scaling", "date": "2026-11-20T12:00:00+00:00",
        "machine": {"cpu": "a processor", "cores": 2, "onnxruntime": "1.31"},
        "settings": {"model": "m", "rounds": 7, "size": [1280, 720]},
        "pixels": {"1": sizes, "2": sizes},
        "models": {"1": {"rows": models, "without": ""}, "2": {"rows": models[:1], "without": "torch is not there"}},
        "starting": {"SharpCam": start(20, 600, 660, 700), "usual Python loop": start(0, 300, 0, 900)},
        "memory": {
            "seconds": 90.0, "summary": "2700 frames", "settled_mb": 170.4, "growth_mb": 0.25, "growth_s": 68.0,
            "threads": [5, 5], "files": [12, 12], "samples": [[0.0, 20.0, 1, 3], [1.0, 170.0, 5, 12]],
        },
    }  # fmt: skip


def test_stages_are_what_each_adds(found: dict[str, Any]) -> None:
    sharpcam, loop = (scaling_page.stages(rows, "ms") for rows in found["starting"].values())
    assert sharpcam == {"interpreter": 22, "imports": 580, "opening": 60, "first frame": 40}
    assert loop == {"imports": 302, "first frame": 600}


def test_a_start_takes_no_longer_than_until_its_first_frame(found: dict[str, Any]) -> None:
    """Importing is timed in a process of its own, which may have been held up more than the whole start."""
    rows = found["starting"]["SharpCam"]
    rows["imports"]["ms"] = [1600.0, 1621.0, 1650.0]
    alone = scaling_page.stages(rows, "ms")
    assert alone == {"interpreter": 22, "imports": 680, "opening": 0, "first frame": 0}
    assert "SharpCam 0.7 s (" in scaling.readme(found)["starting"]


def test_the_page(found: dict[str, Any]) -> None:
    page = scaling.markdown(found)
    assert "| 1280x720 | 0.92 | 18.43 (17.93 to 19.43) | 20.43 | 20.0 | 18.43" in page
    assert "| **m** | 2,832 | 17.40 (16.90 to 18.40) | 19.40 | 300 |" in page
    assert "| **other** | ? |" in page
    assert page.index("c32-d0-g8") < page.index("**m**"), "in order of their MACs"
    assert "torch is not there." in page
    assert "| SharpCam | 22 (10) | 580 (290) | 60 (30) | 40 (20) | 702 (350) |" in page
    assert "| usual Python loop |  | 302 (150) |  | 600 (300) | 902 (450) |" in page
    assert "watched for only 90 s (`--memory-duration 3600`" in page
    assert "170 MB resident; from its settling on, +0.2 MB in 68 s" in page


def test_an_hour_is_called_an_hour(found: dict[str, Any]) -> None:
    found["memory"]["seconds"] = 3600.0
    assert "watched for an hour:" in scaling_page.memory_line(found)


def test_readme_blocks(found: dict[str, Any]) -> None:
    blocks = scaling.readme(found)
    assert "| 1920x1080 | 41.0 ms | 41.0 ms |" in blocks["pixels"]
    assert blocks["starting"].endswith(
        "SharpCam 0.7 s (0.3 s of CPU), usual Python loop 0.9 s (0.5 s of CPU)."
    )
    assert "only 90 s" in blocks["memory"]


def test_plots_are_written(found: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    files = scaling.draw(found, tmp_path)
    assert [path.name for path in files] == ["scaling-cost.png", "scaling-starting.png", "scaling-memory.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in files)


def test_a_run_takes_its_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    scaling.add_arguments(parser.add_argument_group("scaling"))
    args = parser.parse_args(["--quick", "--scaling-threads", "1", "3", "--memory-duration", "3600"])
    told = scaling.settings(args)
    assert (told["threads"], told["memory_s"]) == ([1, 3], 3600)
    asked: list[Any] = []
    monkeypatch.setattr(
        scaling, "over_sizes", lambda model, sizes, threads, told: asked.append(threads) or []
    )
    monkeypatch.setattr(scaling, "over_models", lambda told, threads, say: {"threads": threads})
    monkeypatch.setattr(scaling, "starting", lambda told, say: {"started": True})
    monkeypatch.setattr(scaling, "memory", lambda told, say: {"seconds": told["memory_s"]})
    body = scaling.measure(Run("scaling", args, Journal(tmp_path / "journal", {})))
    assert asked == [1, 3]
    assert body["models"] == {"1": {"threads": 1}, "3": {"threads": 3}}
    assert body["memory"] == {"seconds": 3600}
    assert json.loads(json.dumps(body)) == body
