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


def fresh(
    twin: ort.InferenceSession, planes: dict[str, Any], pictures: dict[str, Any] | None = None
) -> dict[str, Any]:
    """What a twin remembers before its first frame: that frame, nothing added to it, and its scene. `pictures`
    are what it takes, if not `planes`."""
    shapes = {i.name: i.shape for i in twin.get_inputs() if i.name.startswith("state_")}
    scene = {n: np.zeros(shape, np.float32) for n, shape in shapes.items() if n == "state_scene"}
    state = {n: planes[n.rpartition("_")[2]] * (0 if "added" in n else 1) for n in shapes if n not in scene}
    return state | {n: step(twin, pictures or planes, state | scene)[-1][n] for n in scene}


def step(twin: ort.InferenceSession, pictures: dict[str, Any], state: dict[str, Any]) -> list[Any]:
    """What comes out for a frame, and last what is remembered."""
    names = [o.name for o in twin.get_outputs()]
    found = dict(zip(names, twin.run(names, pictures | state), strict=True))
    return [found[n] for n in names if not n.startswith("state_")] + [{n: found[f"{n}_out"] for n in state}]


def test_planes_come_out_as_from_the_uint8_graph(shipped: Path, clip: Any) -> None:
    twin = session(float_twin(shipped, "yuv420"))
    state: dict[str, Any] = {}
    for soft, sharp in zip(*clip, strict=True):
        planes = {"y": floats(soft.y), "uv": floats(soft.uv)}
        y, uv, state = step(twin, planes, state or fresh(twin, planes))
        assert psnr(y, sharp.y) > 48, "rounding to uint8 is all that may differ"
        assert psnr(uv, sharp.uv) > 48
        assert psnr(y, sharp.y) > psnr(soft.y, sharp.y) + 12


def test_rgb_comes_out_as_from_the_uint8_graph(shipped: Path, clip: Any) -> None:
    twin = session(float_twin(shipped, "rgb"))
    state: dict[str, Any] = {}
    for soft, sharp in zip(*clip, strict=True):
        before, after = to_rgb(soft), to_rgb(sharp)
        rgb = np.ascontiguousarray(floats(before).transpose(2, 0, 1)[None] / 255)
        state = state or fresh(twin, {"y": floats(soft.y), "uv": floats(soft.uv)}, {"rgb": rgb})
        picture, state = step(twin, {"rgb": rgb}, state)
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
    planes = {"y": y, "uv": uv}
    out = step(twin, planes, fresh(twin, planes))[0]
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
    student = Student(StudentConfig(32, 2, 4, scene=True)).eval()
    for weight in (student.tail.weight, student.scene.gain.weight, student.gate_scene.gain.weight):
        torch.nn.init.normal_(weight, 0, 0.01 if weight is student.tail.weight else 0.3)
    student.quantize_weights()
    clip = np.random.default_rng(0).integers(60, 180, (2, 96, 64), np.uint8)
    path = tmp_path / "model.onnx"
    path.write_bytes(build_model(student, "uint8", calibrate(student, [clip])).SerializeToString())
    shapes = {"y": (1, 1, 64, 64), "uv": (1, 2, 32, 32)}
    pictures = {
        f"{prefix}{name}": (frame[:64] if name == "y" else frame[64:]).reshape(shape)
        for prefix, frame in (("", clip[0]), ("state_", clip[1]))
        for name, shape in shapes.items()
    }
    added = {f"state_added_{name}": np.random.default_rng(1).integers(118, 139, shape, np.uint8)
             for name, shape in shapes.items()}  # fmt: skip
    scene = {"state_scene": np.random.default_rng(2).uniform(0, 1.6, (1, 64, 1, 1))}
    shipped = session(onnx.load(str(path)))
    names = [o.name for o in shipped.get_outputs()]
    exact = shipped.run(names, pictures | added | scene | {"strength": np.array(1, np.float32)})
    twin = session(float_twin(path, "yuv420"))
    levels = {n: (floats(c) - 128) / 4 for n, c in added.items()}
    levels |= {n: floats(means) for n, means in scene.items()}
    inexact = twin.run(names, {name: floats(plane) for name, plane in pictures.items()} | levels)
    for name, ours, theirs in zip(names, exact, inexact, strict=True):
        if "added" in name:
            ours = (floats(ours) - 128) / 4
        if "scene" in name:
            assert np.abs(ours - theirs).max() < 0.05 < theirs.std()
        assert np.abs(ours - theirs).mean() < 0.8, f"{name}: rounding is all that may differ"
        if not name.startswith("state_"):
            assert np.abs(pictures[name.removesuffix("_out")] - theirs).mean() > 3, (
                f"{name}: something was done"
            )
