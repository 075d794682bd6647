"""Each way really runs, from a file, and its cost is told; clocks and counts are right."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest

from benchmarks import ways
from benchmarks.pixel_camera import scenes
from benchmarks.ways import FILTERS, SHARPCAM, USUAL, Plan, command, run_file, write_clip
from sharpcam.errors import MediaError

SIZE = (256, 192)
FRAMES = 6


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    pytest.importorskip("onnx", reason="the network is rewritten with onnx (extra: benchmarks)")
    from benchmarks.float_twin import float_twin
    from sharpcam.models import find_model

    model = find_model("m")
    path = tmp_path_factory.mktemp("twin") / "rgb.onnx"
    path.write_bytes(float_twin(model.folder / model.manifest.file, "rgb").SerializeToString())
    return Plan(SIZE, 30.0, "MJPG", 1, 1.0, "m", str(path))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.avi"
    frames = scenes(SIZE, 30, 2)
    write_clip(path, [frames[n % 2] for n in range(FRAMES)], "MJPG")
    return path


@pytest.mark.parametrize(("fourcc", "codec"), [("MJPG", "mjpeg"), ("YUYV", "rawvideo")])
def test_a_clip_holds_the_frames(tmp_path: Path, fourcc: str, codec: str) -> None:
    frames = scenes(SIZE, 30, 2)
    write_clip(tmp_path / "clip.avi", frames, fourcc)
    with av.open(str(tmp_path / "clip.avi")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == codec
        assert stream.average_rate == 30
        pictures = [picture.reformat(format="gray").to_ndarray() for picture in container.decode(stream)]
    assert len(pictures) == 2
    for picture, frame in zip(pictures, frames, strict=True):
        same = np.corrcoef(picture.ravel(), frame.planes[0].ravel())[0, 1]
        assert same > 0.99


def test_sharpcam_from_a_file(plan: Plan, clip: Path) -> None:
    found = run_file(SHARPCAM, plan, clip, FRAMES)
    assert 0 < found["inference_cpu_ms"] < found["cpu_ms_per_frame"]
    assert {"capture", "sharpen", "deliver"} <= found["stages_cpu_ms"].keys()


def test_the_usual_loop_from_a_file(plan: Plan, clip: Path) -> None:
    found = run_file(USUAL, plan, clip, FRAMES)
    assert 0 < found["inference_cpu_ms"] < found["cpu_ms_per_frame"]


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="no ffmpeg here")
@pytest.mark.parametrize("way", FILTERS)
def test_ffmpeg_from_a_file(plan: Plan, clip: Path, way: str) -> None:
    found = run_file(way, plan, clip, FRAMES)
    assert found["inference_cpu_ms"] == 0
    assert found["cpu_ms_per_frame"] > 0


def test_a_way_that_fails_says_why(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"SharpCam did not work: .*none\.avi"):
        run_file(SHARPCAM, plan, tmp_path / "none.avi", 1)


def test_a_way_without_its_program_says_so(
    plan: Plan, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MediaError, match="ffmpeg cas cannot be run: there is no ffmpeg"):
        run_file("ffmpeg cas", plan, clip, 6)


def test_commands_name_devices_on_both_ends(plan: Plan, tmp_path: Path) -> None:
    report = tmp_path / "r.json"
    for way in ways.WAYS:
        words = command(way, dataclasses.replace(plan, threads=3), "/dev/video7", "/dev/video8", report)
        assert "/dev/video7" in words
        assert "/dev/video8" in words
        assert "3" in words
    sharpcam = command(SHARPCAM, plan, "/dev/video7", "/dev/video8", report)
    assert sharpcam[sharpcam.index("--model") + 1] == "m"
    assert "--always-on" in sharpcam, "the watcher comes and goes"
    assert "mjpeg" in command("ffmpeg cas", plan, "/dev/video7", "/dev/video8", report)


def test_cpu_clock_of_another_process() -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", "print(sum(range(10**6)), flush=True); input()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert program.stdout
        program.stdout.readline()
        used = ways.cpu_ns(program.pid)
        assert used > 1_000_000, "it has added up a million numbers"
        assert ways.resident_mb(program.pid) > 3
    finally:
        program.kill()
        program.wait()


def test_cpu_clock_of_this_process() -> None:
    before = time.process_time_ns()
    told = ways.cpu_ns(os.getpid())
    assert before <= told <= time.process_time_ns()


def test_end_is_ctrl_c_and_then_a_kill(monkeypatch: pytest.MonkeyPatch) -> None:
    polite = subprocess.Popen([sys.executable, "-c", "print(1, flush=True); input()"], **PIPES)
    deaf = "import signal; signal.signal(2, signal.SIG_IGN); print(1, flush=True); input()"
    stubborn = subprocess.Popen([sys.executable, "-c", deaf], **PIPES)
    for program, patience in ((polite, 60.0), (stubborn, 1.0)):
        monkeypatch.setattr(ways, "STOP_S", patience)
        assert program.stdout
        program.stdout.readline()
        ways.end(program)
    assert polite.returncode in (1, -signal.SIGINT, 130)
    assert stubborn.returncode == -signal.SIGKILL
    ways.end(polite)


PIPES: dict[str, int] = {
    "stdin": subprocess.PIPE,
    "stdout": subprocess.PIPE,
    "stderr": subprocess.DEVNULL,
}


def test_percentiles_are_the_whole_curve() -> None:
    curve = ways.percentiles([float(v) for v in range(101)])
    assert curve == [float(v) for v in range(0, 101, 5)]


def test_decoding_is_measured_for_both_decoders() -> None:
    found = ways.decoding_cpu_ms(scenes(SIZE, 30, 2))
    assert set(found) == {"FFmpeg", "OpenCV"}
    assert all(ms > 0 for ms in found.values())
    assert ways.clock_step_ms() > 0
