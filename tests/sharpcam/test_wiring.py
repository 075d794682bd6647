"""Real sources, sinks and engine behind one pipeline; only the two kinds of camera are pretended."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sharpcam.sinks.virtual_camera
import sharpcam.sources.camera
from sharpcam.config import Config, load_config
from sharpcam.errors import ConfigError, MediaError
from sharpcam.frame import Color, Frame
from sharpcam.pipeline import Pipeline
from sharpcam.sinks.media import MediaSink
from sharpcam.sinks.null import NullSink
from sharpcam.sources import testcard
from sharpcam.sources.media import MediaSource
from sharpcam.wiring import is_media, load_engine, open_sink, open_source, reopener

SIZE = (160, 120)


def settings(**flags: Any) -> Config:
    return load_config(
        Path("/dev/null"), {key.replace("_", ".", 1): value for key, value in flags.items()}, {}
    )


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Twelve frames of 160x120 whose luma is 60, 65, 70, ..."""
    path = tmp_path / "clip.mp4"
    sink, frame = MediaSink(path, SIZE, 25, Color(), crf=1), Frame(*SIZE)
    for i in range(12):
        frame.fill(60 + 5 * i)
        frame.sequence = i
        sink.send(frame)
    sink.close()
    return path


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Calls of the two device classes, which do nothing else."""
    calls: list[tuple[Any, ...]] = []

    def pretend(name: str) -> Callable[..., Any]:
        class Pretended:
            live, fps, color, address = True, 30.0, Color(), "/dev/v4l/by-id/cam"

            def __init__(self, device: Any, size: Any, fps: Any, **more: Any) -> None:
                calls.append((name, device, size, fps, more))
                self.size = size

        return Pretended

    monkeypatch.setattr(sharpcam.sources.camera, "CameraSource", pretend("camera"))
    monkeypatch.setattr(sharpcam.sinks.virtual_camera, "VirtualCameraSink", pretend("virtual"))
    return calls


@pytest.mark.parametrize(
    ("sink", "media"),
    [
        ("out.mp4", True),
        ("a/b.MKV", True),
        ("~/x.webm", True),
        ("x.avi", True),
        ("auto", False),
        ("null", False),
        ("/dev/video10", False),
        ("/dev/v4l/by-id/usb-x.5", False),
        ("OBS Virtual Camera", False),
    ],
)
def test_names_of_media_files(sink: str, media: bool) -> None:
    assert is_media(sink) == media


def test_camera_gets_its_settings_and_comes_back_by_its_address(devices: list[tuple[Any, ...]]) -> None:
    config = settings(camera_device="2", camera_size="640x480", camera_fps=25, camera_fit="crop")
    source = open_source(config)
    reopen = reopener(config, source)
    assert reopen
    reopen()
    assert devices == [
        ("camera", device, (640, 480), 25, {"fit": "crop"}) for device in ("2", "/dev/v4l/by-id/cam")
    ]


def test_what_is_no_camera_is_not_opened_again(clip: Path) -> None:
    for name in ("testcard", str(clip)):
        config = settings(camera_size="160x120")
        assert reopener(config, open_source(config, name)) is None


@pytest.mark.parametrize(
    ("source", "sink", "live"),
    [
        ("testcard", "null", True),
        ("testcard", "auto", True),
        ("testcard", "out.mp4", False),
        ("clip", "null", False),
        ("clip", "out.mp4", False),
        ("clip", "auto", True),
        ("clip", "/dev/video10", True),
    ],
)
def test_when_time_presses(source: str, sink: str, live: bool, clip: Path) -> None:
    name = str(clip) if source == "clip" else source
    opened = open_source(settings(camera_size="160x120", output_sink=sink), name)
    assert opened.live == live
    assert isinstance(opened, MediaSource if source == "clip" else testcard.TestCardSource)
    opened.close()


def test_size_of_a_file(clip: Path) -> None:
    for flags, size in (
        ({"output_sink": "null"}, SIZE),
        ({"output_sink": "x.mp4"}, SIZE),
        ({"output_sink": "null", "camera_size": "320x240"}, (320, 240)),
        ({"output_sink": "auto"}, (1280, 720)),
    ):
        assert open_source(settings(**flags), str(clip)).size == size


def test_virtual_camera_gets_size_and_rate_of_the_source(devices: list[tuple[Any, ...]], clip: Path) -> None:
    for sink, device in (("auto", None), ("/dev/video9", "/dev/video9"), ("My Camera", "My Camera")):
        config = settings(output_sink=sink, camera_size="320x240")
        open_sink(config, open_source(config, str(clip)), 7, print)
        assert devices[-1] == ("virtual", device, (320, 240), 25, {"kept": 7, "forget": print})


@pytest.mark.parametrize("sink", ["null", "x.mp4"])
def test_what_was_left_of_a_virtual_camera_is_given_up_for_another_sink(sink: str, tmp_path: Path) -> None:
    left, other = os.pipe()
    os.close(other)
    calls: list[str] = []
    path = sink if sink == "null" else str(tmp_path / sink)
    config = settings(camera_size="160x120", output_sink=path)
    open_sink(config, open_source(config, "testcard"), left, lambda: calls.append("forgotten")).abort()
    assert calls == ["forgotten"]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(left)


def test_sinks_that_mean_nothing(tmp_path: Path) -> None:
    config = settings(camera_size="160x120", output_sink="some/where")
    with pytest.raises(ConfigError, match="neither a device nor a video file"):
        open_sink(config, open_source(config, "testcard"))
    config = settings(camera_size="160x120", output_sink=str(tmp_path / "x.xyz"))
    with pytest.raises(MediaError, match="xyz"):
        open_sink(config, open_source(config, "testcard"))


def test_a_file_is_not_written_over_itself(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = clip.read_bytes()
    monkeypatch.chdir(clip.parent)
    config = settings(output_sink="./clip.mp4")
    with pytest.raises(ConfigError, match="is the source, too"):
        open_sink(config, open_source(config, str(clip)))
    assert clip.read_bytes() == before


def test_missing_file() -> None:
    with pytest.raises(MediaError, match="there is no file"):
        open_source(settings(output_sink="null"), "gone.mp4")


def test_file_to_file_keeps_every_frame(clip: Path, tmp_path: Path, yuv_model: Path) -> None:
    out = tmp_path / "out.mp4"
    config = settings(output_sink=str(out), model_name=str(yuv_model), model_provider="cpu", model_threads=1)
    source = open_source(config, str(clip))
    pipeline = Pipeline(source, load_engine(config, source.size), open_sink(config, source))
    assert pipeline.run() == "end"
    assert pipeline.telemetry["frames_out"] == 12
    assert pipeline.telemetry["dropped"] == 0
    got, frame, lumas = MediaSource(out), Frame(*SIZE), []
    assert (got.size, got.fps) == (SIZE, 25)
    for _ in range(12):
        assert got.read(frame, 0)
        lumas.append(float(np.median(frame.y)))
    with pytest.raises(EOFError):
        got.read(frame, 0)
    # the graph of the test model: x + (x - last) / 2, from 128
    assert lumas == pytest.approx([60 - 34, *(60 + 5 * i + 2 for i in range(1, 12))], abs=2)


def test_strength_and_temporal_reach_the_engine(yuv_model: Path) -> None:
    config = settings(model_name=str(yuv_model), model_strength=0.25, model_temporal=False, model_threads=2)
    engine = load_engine(config, SIZE)
    assert (engine.strength, engine.temporal, engine.threads, engine.size) == (0.25, False, 2, SIZE)


def test_card_to_nowhere(yuv_model: Path) -> None:
    config = settings(camera_size="320x240", camera_fps=100, output_sink="null", model_name=str(yuv_model))
    source = open_source(config, "testcard")
    sink = open_sink(config, source)
    assert isinstance(sink, NullSink)
    assert Pipeline(source, load_engine(config, source.size), sink, frames=10).run() == "frames"
    assert sink.frames == 10
