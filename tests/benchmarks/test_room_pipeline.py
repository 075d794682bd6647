"""The pipeline room: rounds, where the devices are, and what is made of the numbers."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import pipeline, pipeline_page
from benchmarks.room import Journal, Run
from benchmarks.ways import SHARPCAM, USUAL, WAYS, Plan
from sharpcam.errors import DeviceNotFound, MediaError

PLAN = Plan((256, 192), 30.0, "YUYV", 1, 1.0, "m", "twin.onnx")


def file_rounds(total: float, inference: float) -> dict[str, Any]:
    return {
        "cpu_ms_per_frame": [total, total + 1, total + 2],
        "inference_cpu_ms": [inference] * 3,
        "stages_cpu_ms": [{}] * 3,
    }


def live_rounds(delay: float) -> dict[str, Any]:
    curve = [delay + n for n in range(21)]
    return {
        "fps": [30.0, 29.0, 28.0], "sent": [100, 100, 100], "lost": [0, 1, 2], "unreadable": [0, 0, 0],
        "latency_ms": [curve] * 3, "cpu_ms_per_frame": [21.5] * 3, "inference_cpu_ms": [18.0] * 3,
        "memory_mb": [170.0] * 3, "first_picture_s": [1.5] * 3, "stages_cpu_ms": [{}] * 3,
    }  # fmt: skip


@pytest.fixture
def found() -> dict[str, Any]:
    costs = dict(zip(WAYS, [(24.0, 20.0), (100.0, 80.0), (6.0, 0.0), (12.0, 0.0)], strict=True))
    files = {way: file_rounds(*cost) for way, cost in costs.items()}
    delays = dict(zip(WAYS, [22.0, 104.0, 8.0, 13.0], strict=True))
    live = {way: live_rounds(delay) for way, delay in delays.items()}
    about = {"clock_step_ms": [0.001] * 3, "decoding": [{"FFmpeg": 2.0, "OpenCV": 3.0}] * 3}
    return {
        "room": "pipeline", "date": "2026-11-20T12:00:00+00:00",
        "machine": {"cpu": "a processor", "cores": 2, "onnxruntime": "1.31"},
        "settings": {"size": [1280, 720], "fps": 30.0, "model": "m", "threads": 1, "rounds": 3, "seconds": 10.0},
        "ways": list(WAYS),
        "files": {"YUYV": files, "MJPG": {**files, "decoding": {"FFmpeg": [2.0] * 3, "OpenCV": [3.0] * 3}}},
        "devices": {"where": "V4L2 VM", **{f: {**live, "about": about} for f in ("YUYV", "MJPG")}},
    }  # fmt: skip


def test_overhead_is_all_but_decoding_and_inference(found: dict[str, Any]) -> None:
    raw, jpeg = (pipeline_page.shares(found, fourcc) for fourcc in ("YUYV", "MJPG"))
    assert raw[SHARPCAM]["overhead"] == [4, 5, 6]
    assert jpeg[SHARPCAM]["overhead"] == [2, 3, 4]
    assert jpeg[USUAL]["overhead"] == [18, 19, 20]
    assert pipeline_page.overhead_ratio(found, "MJPG") == [2 / 18, 3 / 19, 4 / 20]


def test_claims_are_of_the_worse_camera(found: dict[str, Any]) -> None:
    told = pipeline_page.claims(found)
    assert told["overhead_over_usual_loop"] == {"YUYV": 5 / 21, "MJPG": 3 / 19}
    assert told["overhead_at_most_a_quarter"]
    assert told["latency_over_usual_loop"] == {"YUYV": 32 / 114, "MJPG": 32 / 114}
    assert told["latency_lower"]
    found["files"]["YUYV"] = {**found["files"]["YUYV"], SHARPCAM: file_rounds(25.0, 20.0)}
    found["devices"]["MJPG"] = {**found["devices"]["MJPG"], SHARPCAM: live_rounds(105.0)}
    told = pipeline_page.claims(found)
    assert not told["overhead_at_most_a_quarter"], "6 of 21"
    assert not told["latency_lower"]
    assert pipeline_page.claims(found | {"devices": None})["latency_lower"] is None


def test_the_page_tells_medians_and_spread(found: dict[str, Any]) -> None:
    found["devices"]["YUYV"]["about"] = {"clock_step_ms": [0.001] * 3}
    page = pipeline_page.markdown(found)
    assert "| SharpCam | 25.0 (24.0 to 26.0) | 2.0 (2.0 to 2.0) |" in page
    assert "3.00 (2.00 to 4.00) |" in page
    assert "SharpCam's overhead is 0.16 (0.11 to 0.20) of the usual loop's" in page
    assert (
        "| SharpCam | 29.0 (28.0 to 30.0) | 1.0 (0.0 to 2.0) | 32.0 (32.0 to 32.0) | 41.0 (41.0 to 41.0) |"
        in page
    )
    assert f"SharpCam's median latency is {32 / 114:.2f}" in page
    assert page.count("CPU ms a frame") == 2


def test_cpu_in_timer_ticks_is_not_told(found: dict[str, Any]) -> None:
    for fourcc in ("YUYV", "MJPG"):
        found["devices"][fourcc]["about"]["clock_step_ms"] = [0.001, 10.0, 0.001]
    page = pipeline_page.markdown(found)
    assert "CPU ms a frame" not in page
    assert "timer ticks" in page


def test_without_devices_the_page_says_why(found: dict[str, Any], tmp_path: Path) -> None:
    found |= {"devices": None, "why_no_devices": "there are none"}
    assert "Not measured: there are none." in pipeline_page.markdown(found)
    assert "devices" not in pipeline_page.readme(found)
    pytest.importorskip("matplotlib")
    assert [path.name for path in pipeline_page.draw(found, tmp_path)] == ["pipeline-cpu.png"]


def test_readme_blocks(found: dict[str, Any]) -> None:
    blocks = pipeline_page.readme(found)
    assert "| SharpCam | 25.0 | 2.0 | 20.0 | 3.0 |" in blocks["cpu"]
    assert "| ffmpeg cas | 13.0 | 2.0 |  | 11.0 |" in blocks["cpu"]
    assert "| usual Python loop | 29.0 | 1 % | 114 / 123 | 170 MB |" in blocks["devices"]
    assert "0.24 " in blocks["ratio"], "the worse of the two cameras: 5 of 21"


def test_plots_are_written(found: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for path in pipeline.draw(found, tmp_path):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_everyone_goes_first_once() -> None:
    orders = [pipeline._turned(WAYS, n) for n in range(len(WAYS))]
    assert {order[0] for order in orders} == set(WAYS)
    assert all(sorted(order) == sorted(WAYS) for order in orders)
    assert pipeline._turned(WAYS, len(WAYS)) == list(WAYS)


def test_rounds_become_lists() -> None:
    rounds = [{"a": {"fps": 1, "ms": [1, 2]}}, {"a": {"fps": 3, "ms": [4, 5]}}]
    assert pipeline._together(rounds) == {"a": {"fps": [1, 3], "ms": [[1, 2], [4, 5]]}}


def rig(tmp_path: Path, code: str) -> pipeline._Rig:
    """A rig whose launcher runs `code` instead of what it is given."""
    return pipeline._Rig("a rig", [sys.executable, "-c", code], "/dev/video11", "/dev/video10")


def test_a_round_is_what_the_program_says(tmp_path: Path) -> None:
    code = """
import json, sys
plan = json.load(open(sys.argv[-1]))
print("noise")
found = {"fps": 30.0, "latency_ms": list(range(21)), "ends": [plan["camera"], plan["virtual"]]}
print("RESULT " + json.dumps([plan["fourcc"], found]))
"""
    said: list[str] = []
    found = rig(tmp_path, code).run(PLAN, tmp_path, said.append)
    assert found["YUYV"]["ends"] == ["/dev/video11", "/dev/video10"]
    assert said == ["  YUYV: 30.0 fps, 10 ms"]


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ('print(\'RESULT ["failure", "the camera broke"]\'); raise SystemExit(1)', "the camera broke"),
        ("raise SystemExit('no boot')", "no boot"),
    ],
)
def test_a_round_that_fails_says_why(tmp_path: Path, code: str, why: str) -> None:
    with pytest.raises(MediaError, match=why):
        rig(tmp_path, code).run(PLAN, tmp_path, lambda _: None)


def test_where_the_devices_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starter = tmp_path / "v4l2vm"
    monkeypatch.setenv("SHARPCAM_V4L2VM", str(starter))
    monkeypatch.setattr("sharpcam.devices.virtual_cameras", lambda: [])
    assert "two v4l2loopback" in str(pipeline._find_rig("auto"))
    assert pipeline._find_rig("none") == "not asked for"
    for wanted in ("vm", "host"):
        with pytest.raises(DeviceNotFound) as caught:
            pipeline._find_rig(wanted)
        assert "modprobe v4l2loopback" in caught.value.hint
    starter.touch()
    for wanted in ("auto", "vm"):
        chosen = pipeline._find_rig(wanted)
        assert isinstance(chosen, pipeline._Rig)
        assert chosen.name == "V4L2 VM"


def test_the_hosts_own_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Device:
        def __init__(self, node: str) -> None:
            self.node = node

    monkeypatch.setenv("SHARPCAM_V4L2VM", str(tmp_path / "none"))
    monkeypatch.setattr(
        "sharpcam.devices.virtual_cameras", lambda: [Device("/dev/video4"), Device("/dev/video5")]
    )
    chosen = pipeline._find_rig("auto")
    assert isinstance(chosen, pipeline._Rig)
    assert (chosen._camera, chosen._virtual) == ("/dev/video5", "/dev/video4")


def test_a_run_measures_all_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs and the devices stand in; the order of steps, the journal and the body are real."""
    pytest.importorskip("onnx")
    runs: list[str] = []

    def run_file(way: str, plan: Plan, clip: Path, frames: int) -> dict[str, Any]:
        assert clip.exists()
        runs.append(f"{plan.fourcc} {way}")
        return {"cpu_ms_per_frame": 24.0, "inference_cpu_ms": 20.0, "stages_cpu_ms": {}}

    class Stand(pipeline._Rig):
        def run(self, plan: Plan, folder: Path, say: Any) -> dict[str, Any]:
            assert Path(plan.float_model).stat().st_size > 100_000
            runs.append(f"live {plan.fourcc} {plan.ways[0]}")
            about = {"clock_step_ms": 10.0, "decoding": {"FFmpeg": 2.0, "OpenCV": 2.0}}
            one = {k: v[0] for k, v in live_rounds(9.0).items()}
            return {"about": about, **dict.fromkeys(plan.ways, one)}

    monkeypatch.setattr("benchmarks.ways.run_file", run_file)
    monkeypatch.setattr(pipeline, "SIZE", (256, 192))
    monkeypatch.setattr(pipeline, "_find_rig", lambda wanted: Stand("a stand", [], "", ""))
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    pipeline.add_arguments(parser.add_argument_group("pipeline"))
    args = parser.parse_args(["--quick", "--pipeline-rounds", "2"])
    about = {"settings": pipeline.settings(args)}
    assert about["settings"]["rounds"] == 2
    path = tmp_path / "journal"
    body = pipeline.measure(Run("pipeline", args, Journal(path, about)))
    assert len(body["files"]["MJPG"][SHARPCAM]["cpu_ms_per_frame"]) == 2
    assert len(body["devices"]["YUYV"][USUAL]["fps"]) == 2
    assert runs.count("YUYV SharpCam") == 2
    assert [r for r in runs if r.startswith("live MJPG")] == [f"live MJPG {way}" for way in WAYS[:2]]
    body |= {"room": "pipeline", "date": "2026-11-20", "machine": {}, **about}
    assert "timer ticks" in pipeline.markdown(json.loads(json.dumps(body)))
    before = len(runs)
    assert pipeline.measure(Run("pipeline", args, Journal(path, about))) == {
        k: body[k] for k in ("ways", "files", "devices", "claims")
    }
    assert len(runs) == before, "measured before"
