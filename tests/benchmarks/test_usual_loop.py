"""The usual Python loop shows what SharpCam shows, and meters all that it costs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from benchmarks import usual_loop
from benchmarks.usual_loop import STEPS, Meter, Network, loop, open_session, to_bgr, to_float
from sharpcam.engine import Engine
from sharpcam.frame import Frame
from sharpcam.geometry import to_rgb
from sharpcam.models import find_model
from sharpcam.sources.testcard import TestCard as Card

pytest.importorskip("onnx", reason="the network is rewritten with onnx (extra: benchmarks)")

SIZE = (256, 192)


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from benchmarks.float_twin import float_twin

    model = find_model("m")
    path = tmp_path_factory.mktemp("twin") / "rgb.onnx"
    path.write_bytes(float_twin(model.folder / model.manifest.file, "rgb").SerializeToString())
    return path


class Camera:
    """Pictures that lie ready."""

    def __init__(self, pictures: list[Any]) -> None:
        self._pictures: Iterator[Any] = iter(pictures)

    def read(self) -> tuple[bool, Any]:
        picture = next(self._pictures, None)
        return picture is not None, picture


def bgr_of(frame: Frame) -> Any:
    return np.ascontiguousarray(to_rgb(frame)[:, :, ::-1])


def psnr(a: Any, b: Any) -> float:
    return float(10 * np.log10(255**2 / np.mean((np.asarray(a, np.float64) - b) ** 2)))


def test_conversions_are_each_others_inverse() -> None:
    bgr = np.random.default_rng(3).integers(0, 256, (48, 64, 3), np.uint8)
    picture = to_float(bgr)
    assert picture.shape == (1, 3, 48, 64)
    assert picture.dtype == np.float32
    assert picture.flags.c_contiguous
    assert np.array_equal(picture[0, 0] * 255, bgr[:, :, 2].astype(np.float32)), "red comes first"
    assert np.array_equal(to_bgr(picture), bgr)
    assert to_bgr(np.full((1, 3, 2, 2), 1.7, np.float32)).max() == 255, "no overflow"
    assert to_bgr(np.full((1, 3, 2, 2), -0.3, np.float32)).max() == 0


def test_it_shows_what_sharpcam_shows(twin: Path) -> None:
    card = Card(SIZE)
    soft = [card.soft(n) for n in range(6)]
    engine = Engine.load("m", SIZE, "cpu", 1)
    wanted = []
    for n, frame in enumerate(soft):
        frame.captured_ns = n * 33_333_333
        out = Frame(*SIZE)
        engine.process(frame, out)
        wanted.append(bgr_of(out))
    engine.close()
    shown: list[Any] = []
    meter = Meter()
    pictures = [bgr_of(frame) for frame in soft]
    loop(Camera(pictures), Network(open_session(str(twin), 1)), shown.append, meter)  # type: ignore[arg-type]
    assert len(shown) == 6
    assert meter.frames == 5, "all but the first, which warms up"
    for before, after, should in zip(pictures, shown, wanted, strict=True):
        assert psnr(after, should) > 38, "the first frame too: no fading in"
        assert psnr(after, should) > psnr(before, should) + 4


class Port:
    def __init__(self, name: str) -> None:
        self.name, self.shape = name, [1, 5, 1, 1] if name == "state_scene" else [1, 1, "H", "W"]


class Echo:
    """A network whose states grow by one every time, and which remembers what it was given."""

    def __init__(self, *states: str) -> None:
        self.states = states
        self.given: list[dict[str, Any]] = []

    def get_inputs(self) -> list[Port]:
        return [Port(name) for name in ("rgb", *self.states)]

    def get_outputs(self) -> list[Port]:
        return [Port(f"{name}_out") for name in ("rgb", *reversed(self.states))]

    def run(self, names: list[str], feeds: dict[str, Any]) -> list[Any]:
        self.given.append(feeds)
        results = {"rgb_out": feeds["rgb"] * 2} | {f"{n}_out": feeds[n] + 1 for n in self.states}
        return [results[name] for name in names]


def test_states_go_from_frame_to_frame() -> None:
    echo = Echo("state_y", "state_uv")
    network = Network(echo)  # type: ignore[arg-type]
    network.start(np.full((4, 8, 3), 128, np.uint8))
    rgb = np.ones((1, 3, 4, 8), np.float32)
    assert all((network(rgb) == 2).all() for _ in range(3))
    luma = 126  # grey of 128 in limited range
    assert [feeds["state_y"].mean() for feeds in echo.given] == [luma, luma + 1, luma + 2]
    assert [feeds["state_uv"].mean() for feeds in echo.given] == [128, 129, 130]
    assert echo.given[0]["state_y"].shape == (1, 1, 4, 8)
    assert echo.given[0]["state_uv"].shape == (1, 2, 2, 4)


def test_the_first_frame_runs_twice_for_the_scene() -> None:
    echo = Echo("state_y", "state_scene")
    network = Network(echo)  # type: ignore[arg-type]
    picture = np.full((4, 8, 3), 128, np.uint8)
    network.start(picture)
    for _ in range(2):
        network(to_float(picture))
    assert [feeds["state_scene"].mean() for feeds in echo.given] == [0, 1, 2]
    assert [feeds["state_y"].mean() for feeds in echo.given] == [126, 126, 127]
    assert echo.given[0]["state_scene"].shape == (1, 5, 1, 1)


def test_the_meter_leaves_nothing_out() -> None:
    meter = Meter()
    before = time.process_time_ns()
    meter.start()
    begun = time.process_time_ns()
    for step in STEPS:
        sum(range(20_000))
        meter.lap(step)
    meter.frames = 2
    ended = time.process_time_ns()
    found = meter.report()
    assert list(found["stages_cpu_ms"]) == list(STEPS)
    assert all(ms > 0 for ms in found["stages_cpu_ms"].values())
    assert found["cpu_ms_per_frame"] == pytest.approx(sum(found["stages_cpu_ms"].values()), abs=1e-3)
    assert found["cpu_ms_per_frame"] * 2e6 <= ended - before + 1000
    assert found["cpu_ms_per_frame"] * 2e6 <= ended - begun + 1e6


def test_from_a_file_to_a_report(twin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip, report = tmp_path / "clip.avi", tmp_path / "report.json"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"MJPG"), 30, SIZE)
    for n in range(4):
        writer.write(np.full((SIZE[1], SIZE[0], 3), 40 * n, np.uint8))
    writer.release()
    argv = ["usual_loop", str(clip), "--model", str(twin), "--report", str(report)]
    monkeypatch.setattr("sys.argv", argv)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        usual_loop.main()
        assert cv2.getNumThreads() == 1  # as many as the network's
    finally:
        cv2.setNumThreads(threads)
    found = json.loads(report.read_text())
    assert found["frames"] == 3
    assert found["stages_cpu_ms"]["inference"] > 0
