"""The room of the GPU: what it refuses, and all of it on a GPU that is made up."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from fake_gpu import FakeGpu
from onnx import TensorProto
from tiny_models import write_yuv_model

import benchmarks.__main__ as frame
from benchmarks import gpu as room
from sharpcam import cuda
from sharpcam.engine import Engine
from sharpcam.frame import Frame
from sharpcam.models import find_model
from sharpcam.sources import testcard


@pytest.fixture
def small(gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments for a run that is over soon."""
    monkeypatch.setattr(room, "SIZES", {"720p": (320, 240)})
    monkeypatch.setattr(room, "_PSNR_FRAMES", 3)
    monkeypatch.setattr(room, "LIVE_FPS", 500.0)
    monkeypatch.setattr(cuda, "tensorrt_obstacle", lambda: ("not installed", "install it"))
    model = write_yuv_model(tmp_path / "tiny", precision="float32")
    return [
        *["gpu", "--gpu-frames", "40", "--gpu-sizes", "720p", "--out"],
        str(tmp_path),
        "--gpu-models",
        str(model),
    ]


def test_it_wants_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cuda, "facts", lambda: cuda.Facts(built_cuda=(13, 0)))
    assert frame.main(["gpu", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "these figures want a GPU that runs: no NVIDIA driver" in said
    assert "`sharpcam bench` measures the CPU" in said
    assert not list(tmp_path.glob("gpu*"))


def test_it_is_not_among_all_rooms(tmp_path: Path) -> None:
    rooms = frame.load_rooms()
    assert {"gpu", "training"} <= rooms.keys()
    for given in ([], ["all"]):
        chosen = frame.arguments(rooms, [*given, "--out", str(tmp_path)]).rooms
        assert chosen
        assert not {"gpu", "training"} & set(chosen)
    assert frame.arguments(rooms, ["gpu"]).rooms == ["gpu"]


def test_the_students_are_measured_the_largest_first(gpu: FakeGpu) -> None:
    """A teacher, one file for both, would take minutes on the CPU."""
    args = frame.arguments(frame.load_rooms(), ["gpu"])
    assert list(room.settings(args)["models"]) == ["l", "m", "s"]
    assert room.settings(args)["sizes"] == ["1080p", "720p"]
    args.gpu_models = ["teacher"]
    assert list(room.settings(args)["models"]) == ["teacher"]


def test_every_figure_is_there(gpu: FakeGpu, small: list[str], tmp_path: Path) -> None:
    assert frame.main(small) == 0
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["gpu"]["name"] == "Fake 4090"
    assert list(found["cells"]) == ["tiny, 720p, CUDA"]
    cell = found["cells"]["tiny, 720p, CUDA"]
    ms = cell["frames"]["ms"]
    assert cell["frames"]["provider"] == "cuda"
    assert 0 < ms["kernels"]["p50"] <= ms["total"]["p50"] <= ms["total"]["p99"] <= ms["total"]["max"]
    assert min(ms["upload"]["p50"], ms["download"]["p50"]) > 0
    assert (cell["frames"]["device_mb"], cell["frames"]["device_growth_mb"]) == (2048.0, 0.0)
    assert cell["picture"]["difference_db"] == 0.0  # it is the same arithmetic here
    assert cell["picture"]["between"] > 90
    assert 15 < cell["picture"]["gpu"] < 60
    assert (cell["live"]["frames_out"], cell["live"]["provider"], cell["live"]["fallbacks"]) == (
        40,
        "cuda",
        0,
    )
    loss = cell["loss"]
    assert (loss["provider"], loss["fallbacks"], loss["bypassed"], loss["frames_out"]) == ("cpu", 1, 0, 300)
    assert loss["longest_gap_ms"] > 0
    assert not gpu.driver.streams  # what the engine let go of is freed here: memory is measured after it
    assert cell["ways"].keys() == room.WAYS.keys()
    assert all(way["ms"]["p50"] > 0 for way in cell["ways"].values())
    chosen = {(plan.cuda_graphs, plan.nhwc) for _, plan in gpu.plans}
    assert chosen == {(True, False), (False, False), (True, True), (False, True)}
    page = (tmp_path / "gpu.md").read_text()
    assert f"{ms['total']['p99']:.3f}" in page
    assert "1 fallback, then on cpu" in page
    assert "| Webcam Denoise, 720p | 2.52 | 0.88 | 0.43 | 0.352 |" in page


def test_a_way_that_is_closed_is_a_result(gpu: FakeGpu, small: list[str], tmp_path: Path) -> None:
    gpu.unrecordable = True
    found = room.ways(find_model(tmp_path / "tiny"), [Frame(64, 48)], 10)
    assert "capturing" in found["as SharpCam does it"]["left_out"]
    assert found["without CUDA graphs"]["ms"]["p50"] > 0
    padded = room.ways(find_model(tmp_path / "tiny"), [Frame(50, 34)], 10)
    assert all("multiples of 8" in way["left_out"] for way in padded.values())


def test_memory_that_grows_is_seen(
    gpu: FakeGpu, tmp_path: Path, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    used = iter(range(100 << 20, 1000 << 20, 3 << 20))
    monkeypatch.setattr(gpu.device, "memory", lambda: (next(used), 8 << 30))
    ready = [testcard.TestCard((320, 240)).soft(0)]
    found = room.long_run(find_model(tmp_path / "tiny"), room.Provider.CUDA, ready, 30)
    assert (found["device_mb"], found["device_growth_mb"]) == (100.0, 3.0)


def test_the_float32_twin_computes_what_the_float16_file_says(tmp_path: Path) -> None:
    model = find_model("m")
    half = model.read(model.for_provider("cuda"))
    twin = onnx.load_from_string(room.widened(half))
    onnx.checker.check_model(twin)
    kinds = {t.data_type for t in twin.graph.initializer}
    kinds |= {a.i for n in twin.graph.node if n.op_type == "Cast" for a in n.attribute}
    assert TensorProto.FLOAT16 not in kinds
    outs = []
    soft = testcard.TestCard((320, 240)).soft(0)
    for name, data in (("half", half), ("whole", twin.SerializeToString())):
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(data)
        out = Frame(320, 240)
        engine = Engine.load(path, (320, 240), "cpu", 1)
        engine.process(soft, out)
        outs.append(out.buffer.astype(int))
    assert 0 < np.abs(outs[0] - outs[1]).mean() < 0.2
    assert np.abs(outs[0] - soft.buffer).mean() > 1


def test_nvidias_figures_stand_in_the_docs() -> None:
    page = Path(room.__file__).parents[1] / "docs" / "gpu.md"
    text = page.read_text(encoding="utf-8")
    assert room.published_table() in text
    assert room.SOURCE in text
