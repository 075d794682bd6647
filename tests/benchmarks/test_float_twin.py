"""The float twin computes what the uint8 student computes, over planes and over RGB."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from sharpcam.engine import Engine
from sharpcam.errors import ModelError
from sharpcam.frame import Frame
from sharpcam.geometry import to_rgb
from sharpcam.models import find_model
from sharpcam.sources.testcard import TestCard as Card

onnx = pytest.importorskip("onnx", reason="the twin is built with onnx (extra: benchmarks)")

from benchmarks.float_twin import float_twin  # noqa: E402

SIZE = (256, 192)
FRAMES = 6  # the recursion has to have gone round


@pytest.fixture(scope="module")
def shipped() -> Path:
    model = find_model("m")
    return model.folder / model.manifest.file


@pytest.fixture(scope="module")
def clip() -> tuple[list[Frame], list[Frame]]:
    """Soft frames, and what the product makes of them."""
    card = Card(SIZE)
    engine = Engine.load("m", SIZE, "cpu", 1)
    soft = [card.soft(n) for n in range(FRAMES)]
    sharp = [Frame(*SIZE) for _ in soft]
    for n, (frame, out) in enumerate(zip(soft, sharp, strict=True)):
        frame.captured_ns = n * 33_333_333
        engine.process(frame, out)
    engine.close()
    return soft, sharp


def session(model: Any) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def psnr(a: Any, b: Any) -> float:
    return float(10 * np.log10(255**2 / np.mean((np.asarray(a, np.float64) - b) ** 2)))


def floats(plane: Any) -> Any:
    return plane.astype(np.float32)


def test_planes_come_out_as_from_the_uint8_graph(shipped: Path, clip: Any) -> None:
    twin = session(float_twin(shipped, "yuv420"))
    state: dict[str, Any] = {}
    for soft, sharp in zip(*clip, strict=True):
        planes = {"y": floats(soft.y), "uv": floats(soft.uv)}
        state = state or {f"state_{name}": plane for name, plane in planes.items()}
        names = ["y_out", "uv_out", "state_y_out", "state_uv_out"]
        y, uv, state_y, state_uv = twin.run(names, planes | state)
        state = {"state_y": state_y, "state_uv": state_uv}
        assert psnr(y, sharp.y) > 48, "rounding to uint8 is all that may differ"
        assert psnr(uv, sharp.uv) > 48
        assert psnr(y, sharp.y) > psnr(soft.y, sharp.y) + 12


def test_rgb_comes_out_as_from_the_uint8_graph(shipped: Path, clip: Any) -> None:
    twin = session(float_twin(shipped, "rgb"))
    state: dict[str, Any] = {}
    for soft, sharp in zip(*clip, strict=True):
        before, after = to_rgb(soft), to_rgb(sharp)
        rgb = np.ascontiguousarray(floats(before).transpose(2, 0, 1)[None] / 255)
        state = state or {"state_y": floats(soft.y), "state_uv": floats(soft.uv)}
        picture, state_y, state_uv = twin.run(
            ["rgb_out", "state_y_out", "state_uv_out"], {"rgb": rgb} | state
        )
        state = {"state_y": state_y, "state_uv": state_uv}
        assert picture.shape == rgb.shape
        assert 0 <= picture.min() < 0.2
        assert 0.8 < picture.max() <= 1
        assert psnr(picture[0].transpose(1, 2, 0) * 255, after) > 40
        assert psnr(picture[0].transpose(1, 2, 0) * 255, after) > psnr(before, after) + 8


def test_saturation_of_pictures_is_kept(shipped: Path) -> None:
    """A checkerboard of black and white overshoots; pictures stay within 0..255."""
    twin = session(float_twin(shipped, "yuv420"))
    y = np.kron(np.indices((12, 16)).sum(0) % 2, np.ones((16, 16)))[None, None].astype(np.float32) * 255
    uv = np.full((1, 2, 96, 128), 128, np.float32)
    out = twin.run(["y_out"], {"y": y, "uv": uv, "state_y": y, "state_uv": uv})[0]
    assert out.min() >= 0
    assert out.max() <= 255


def test_all_arithmetic_is_float(shipped: Path) -> None:
    operators = {node.op_type for node in float_twin(shipped, "rgb").graph.node}
    assert not [name for name in operators if name.startswith(("QLinear", "Quantize", "Dequantize"))]
    assert "Conv" in operators


def test_what_is_no_student_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(ModelError, match="no uint8 student"):
        float_twin(path, "rgb")
    path.write_bytes(b"no graph")
    with pytest.raises(ModelError, match="no uint8 student"):
        float_twin(path, "rgb")
    helper, kind = onnx.helper, onnx.TensorProto.UINT8
    ports = [helper.make_tensor_value_info(name, kind, [1, 1, "H", "W"]) for name in ("y", "y_out")]
    node = helper.make_node("MaxPool", ["y"], ["y_out"], kernel_shape=[1, 1])
    onnx.save(helper.make_model(helper.make_graph([node], "g", ports[:1], ports[1:])), str(path))
    with pytest.raises(ModelError, match="MaxPool"):
        float_twin(path, "rgb")


def test_what_the_trainer_exports_now_has_a_twin(tmp_path: Path) -> None:
    """The shipped file may be older than the exporter."""
    torch = pytest.importorskip("torch")
    from training.export import calibrate
    from training.graph import build_model
    from training.networks.student import Student, StudentConfig

    torch.manual_seed(1)
    student = Student(StudentConfig(32, 2, 4)).eval()
    torch.nn.init.normal_(student.tail.weight, 0, 0.01)
    student.quantize_weights()
    clip = np.random.default_rng(0).integers(60, 180, (2, 96, 64), np.uint8)
    path = tmp_path / "model.onnx"
    path.write_bytes(build_model(student, "uint8", calibrate(student, [clip])).SerializeToString())
    shapes = {"y": (1, 1, 64, 64), "uv": (1, 2, 32, 32)}
    feeds = {
        f"{prefix}{name}": (frame[:64] if name == "y" else frame[64:]).reshape(shape)
        for prefix, frame in (("", clip[0]), ("state_", clip[1]))
        for name, shape in shapes.items()
    }
    names = ["y_out", "uv_out", "state_y_out", "state_uv_out"]
    shipped = session(onnx.load(str(path)))
    exact = shipped.run(names, feeds | {"strength": np.array(1, np.float32)})
    twin = session(float_twin(path, "yuv420"))
    for name, ours, theirs in zip(
        names, exact, twin.run(names, {k: floats(v) for k, v in feeds.items()}), strict=True
    ):
        assert np.abs(ours - theirs).mean() < 0.8, f"{name}: rounding is all that may differ"
        plane = "uv" if "uv" in name else "y"
        assert np.abs(feeds[plane] - theirs).mean() > 3, f"{name}: something was done"
