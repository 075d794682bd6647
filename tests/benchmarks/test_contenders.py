"""What is timed does what it is said to do: the shipped model in other clothes, and the filters."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="graphs are rewritten with onnx (extra: benchmarks)")
import onnxruntime as ort  # noqa: E402
from tiny_models import rgb_graph, write_model, write_yuv_model  # noqa: E402

from benchmarks import contenders, peaks  # noqa: E402
from benchmarks.contenders import FloatTwin, InEngine, InFFmpeg, InOpenVINO, LumaFilter, UnsharpBGR  # noqa: E402
from benchmarks.qdq import qdq_form  # noqa: E402
from sharpcam.errors import MediaError, ModelError  # noqa: E402
from sharpcam.frame import Frame  # noqa: E402
from sharpcam.models import find_model  # noqa: E402

SIZE = (96, 64)


@pytest.fixture
def frames() -> list[Frame]:
    """Three frames of something soft that moves, with noise."""
    made = []
    rng = np.random.default_rng(0)
    for number in range(3):
        frame = Frame(*SIZE)
        for plane in frame.planes:
            coarse = np.random.default_rng(plane.shape[0]).integers(60, 200, (8, 12), np.uint8)
            whole = np.asarray(cv2.resize(coarse, plane.shape[::-1], interpolation=cv2.INTER_CUBIC))
            shown = np.roll(whole, 2 * number, axis=1) + rng.integers(-4, 5, plane.shape)
            plane[:] = shown.clip(0, 255)
        made.append(frame)
    return made


def outputs(runner: Any, count: int = 4) -> list[np.ndarray[Any, Any]]:
    """What a runner gives for its frames, one after the other."""
    found = []
    for _ in range(count):
        runner()
        found.append(runner._frames.out.buffer.astype(int))
    runner.close()
    return found


def distance(a: list[Any], b: list[Any]) -> list[float]:
    return [float(np.abs(x - y).mean()) for x, y in zip(a, b, strict=True)]


# --- the same network ---------------------------------------------------------------------------------------


def test_float_twin_does_what_the_model_does_state_included(frames: list[Frame]) -> None:
    model, rng = find_model("m"), np.random.default_rng(1)
    scene = frames[0].buffer.astype(int)
    for frame in frames:  # the same scene with other noise, or there were little to remember
        frame.buffer[:] = (scene + rng.integers(-6, 7, scene.shape)).clip(0, 255)
    ours = outputs(InEngine(model, frames, 1))
    twin = FloatTwin(model, frames, 1)
    near = max(distance(ours, outputs(twin)))
    assert near < 0.6
    assert twin.inference_ms is not None
    assert twin.inference_ms > 0
    # it matters: the input is further away, and so is the answer to the same frame without a past
    seen = [frames[n % 3].buffer.astype(int) for n in range(4)]
    assert min(distance(ours, seen)) > 1.5
    fresh = outputs(FloatTwin(model, frames[2:], 1), 1)
    assert distance(ours[2:3], fresh)[0] > 4 * near


@pytest.mark.parametrize("precision", ["uint8", "float32"])
def test_openvino_does_what_the_model_does(frames: list[Frame], precision: str) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed (extra: openvino)")
    model = find_model("m")
    ours = outputs(InEngine(model, frames, 1))
    assert max(distance(ours, outputs(InOpenVINO(model, frames, 1, precision)))) < 0.8


def test_without_openvino_it_says_how_to_get_it(frames: list[Frame], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ModelError, match="OpenVINO is not installed") as error:
        InOpenVINO(find_model("m"), frames, 1, "uint8")
    assert "openvino" in error.value.hint


def test_frames_that_do_not_fit_the_grid_are_padded(frames: list[Frame]) -> None:
    model = find_model("m")
    frame = Frame(92, 58)
    for plane, whole in zip(frame.planes, frames[0].planes, strict=True):
        plane[:] = whole[: plane.shape[0], : plane.shape[1]]
    ours, twin = (outputs(cls(model, [frame], 1), 2)[1] for cls in (InEngine, FloatTwin))
    assert ours.shape == frame.buffer.shape
    # what lies outside differs: the border sees it, and a little of it is in what the whole frame tells
    assert np.median(np.abs(ours - twin)) <= 2


def run_graph(model: Any, inputs: dict[str, Any]) -> list[Any]:
    options = ort.SessionOptions()
    # else ONNX Runtime makes the quantised operations of the pairs again
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: list[Any] = session.run(None, inputs)
    return found


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_qdq_form_gives_the_same_numbers(frames: list[Frame], strength: float) -> None:
    shipped = find_model("m")
    model = onnx.load_from_string(shipped.read(shipped.manifest))
    form = qdq_form(model)
    assert not any(node.domain or node.op_type.startswith("QLinear") for node in form.graph.node)
    first, second = frames[:2]
    inputs = {"y": second.y, "uv": second.uv, "state_y": first.y, "state_uv": first.uv}
    rng = np.random.default_rng(0)
    inputs |= {f"state_added_{p}": rng.integers(118, 139, inputs[p].shape, np.uint8) for p in ("y", "uv")}
    inputs["strength"] = np.array(strength, np.float32)
    scene = {"state_scene": rng.uniform(0, 1.6, (1, 64, 1, 1))}
    inputs |= {name: means for name, means in scene.items() if name in {i.name for i in model.graph.input}}
    for a, b in zip(run_graph(model, inputs), run_graph(form, inputs), strict=True):
        off = np.abs(a.astype(np.float64) - b)
        assert off.mean() < 0.02
        assert off.max() <= 1


def test_qdq_form_knows_what_it_does_not_know() -> None:
    helper = onnx.helper
    ports = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1]) for n in "ab"]
    node = helper.make_node("Gelu", ["a"], ["b"], domain="com.microsoft")
    model = helper.make_model(helper.make_graph([node], "g", ports[:1], ports[1:]))
    with pytest.raises(ModelError, match="Gelu"):
        qdq_form(model)


# --- filters ------------------------------------------------------------------------------------------------


def test_unsharp_mask_on_luma(frames: list[Frame]) -> None:
    runner = LumaFilter(frames, 1, contenders.unsharp_luma)
    runner()
    y = frames[0].y[0, 0].astype(np.float64)
    expected = y + (y - cv2.GaussianBlur(y, (0, 0), 1.5))
    assert np.abs(runner._frames.out.y[0, 0] - expected.clip(0, 255)).max() <= 2  # the blur is rounded
    assert (runner._frames.out.uv == frames[0].uv).all()


def test_obs_kernel_is_the_shaders(frames: list[Frame]) -> None:
    target = np.empty_like(frames[0].y[0, 0])
    contenders.obs_kernel(frames[0].y[0, 0], target)
    y = frames[0].y[0, 0].astype(float)
    around = sum(np.roll(y, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1)) - y
    expected = (y + 0.08 * (8 * y - around)).clip(0, 255)[1:-1, 1:-1]
    assert np.abs(target[1:-1, 1:-1] - expected).max() <= 0.5 + 1e-3


def test_unsharp_mask_on_bgr(frames: list[Frame]) -> None:
    flat = Frame(*SIZE)
    flat.buffer[:] = 128
    assert np.abs(outputs(UnsharpBGR([flat], 1), 1)[0] - 128).max() <= 1
    runner = UnsharpBGR(frames, 1)
    runner()
    sharp, soft = runner._frames.out.y[0, 0], frames[0].y[0, 0]
    assert cv2.Laplacian(sharp, cv2.CV_64F).var() > 2 * cv2.Laplacian(soft, cv2.CV_64F).var()


@pytest.mark.parametrize(("name", "options"), [("unsharp", "7:7:1.0:5:5:0"), ("cas", "strength=0.6")])
def test_ffmpegs_filters_sharpen(frames: list[Frame], name: str, options: str) -> None:
    runner = InFFmpeg(frames, 1, name, options)
    pulled: list[Any] = []
    out = runner._out
    runner._out = type("Tap", (), {"pull": lambda self: pulled.append(out.pull())})()
    for _ in range(4):
        runner()
    assert len(pulled) == 4
    luma = [p.to_ndarray()[: SIZE[1]] for p in pulled]
    assert (luma[3] == luma[0]).all()
    assert (luma[1] != luma[0]).any()
    soft = frames[0].y[0, 0]
    assert cv2.Laplacian(luma[0], cv2.CV_64F).var() > 1.2 * cv2.Laplacian(soft, cv2.CV_64F).var()


def test_a_filter_that_ffmpeg_does_not_have(frames: list[Frame]) -> None:
    with pytest.raises(MediaError, match="no filter sharpest"):
        InFFmpeg(frames, 1, "sharpest", "")


def test_graphs_that_do_not_run_are_explained(frames: list[Frame], monkeypatch: pytest.MonkeyPatch) -> None:
    empty = onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], []))
    monkeypatch.setattr(contenders, "twin_of", lambda model: empty)
    monkeypatch.setattr(contenders, "qdq_form", lambda model: empty)
    with pytest.raises(ModelError, match='"m" in float32 cannot be loaded'):
        FloatTwin(find_model("m"), frames, 1)
    pytest.importorskip("openvino", reason="OpenVINO is not installed (extra: openvino)")
    with pytest.raises(ModelError, match='"m" cannot be loaded by OpenVINO'):
        InOpenVINO(find_model("m"), frames, 1, "uint8")


# --- which there are ----------------------------------------------------------------------------------------


def test_frames_come_in_turns_and_in_order(frames: list[Frame]) -> None:
    turns = contenders.Frames(frames)
    seen = [turns.next() for _ in range(4)]
    assert seen[3] is frames[0]
    assert [f is g for f, g in zip(seen, frames, strict=False)] == [True] * 3
    assert frames[0].sequence == 3


def test_tiers_are_the_installed_models(no_models: tuple[Path, Path]) -> None:
    write_yuv_model(no_models[0] / "s", macs_per_pixel=700.0, parameters=10)
    write_model(no_models[1] / "big", rgb_graph(), layout="rgb", precision="float32")
    with contenders.all_contenders(["s", "s-*", "big*"], lambda text: None) as found:
        names = {c.name: (c.group, c.precision, c.macs_per_pixel, c.parameters) for c in found}
    assert list(names) == ["big", "s", "s-float32", "s-openvino-uint8", "s-openvino-float32"]
    assert names["s"] == ("SharpCam", "uint8", 700, 10)
    assert names["s-float32"][:2] == ("the same networks in float32", "float32")


def test_only_what_is_wanted_is_exported(no_models: tuple[Path, Path]) -> None:
    pytest.importorskip("torch", reason="the peers are built with torch (extra: training)")
    said: list[str] = []
    with contenders.all_contenders(["obs", "espc?"], said.append) as found:
        assert [c.name for c in found] == ["espcn", "obs"]  # in the order of the groups
        assert not found[0].deblurs
        runner = found[0].open([Frame(32, 32)], 1)
        runner()
        runner.close()
    assert said == ["exporting ESPCN"]


def test_without_torch_the_networks_of_others_are_left_out(
    no_models: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "benchmarks.peers", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    said: list[str] = []
    with contenders.all_contenders([], said.append) as found:
        assert {c.group for c in found} == {"filters"}
    assert len(said) == 1
    assert "torch is not installed" in said[0]


# --- the machine's peak -------------------------------------------------------------------------------------


def test_peaks_are_one_operation_each_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "SIDE", 32)
    monkeypatch.setattr(peaks, "MAP", (6, 8))
    found = peaks.peaks(1)
    shapes = {name: np.asarray(peak.call()[0]).shape for name, peak in found.items()}  # type: ignore[index]
    assert shapes["matmul-float32"] == shapes["matmul-uint8"] == shapes["qlinearmatmul-uint8"] == (32, 32)
    assert shapes["conv64-uint8"] == (1, 64, 6, 8)
    assert found["matmul-uint8"].macs == 32**3
    assert found["conv128-float32"].macs == 128 * 128 * 9 * 6 * 8
    assert {name: peak.precision for name, peak in found.items()} == {n: n.split("-")[1] for n in found}


def test_the_matrix_product_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "SIDE", 16)
    monkeypatch.setattr(peaks, "MAP", (4, 4))
    product: Callable[[], Any] = peaks.peaks(1)["matmul-float32"].call
    floats = np.random.default_rng(0).random((16, 16), np.float32)
    assert np.allclose(product()[0], floats @ floats)
