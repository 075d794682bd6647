"""Exported graphs against the network they come from, in every arithmetic, and the folder against the product."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from made_data import drawn
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from torch import nn

import training.card
from sharpcam.engine import Engine
from sharpcam.errors import ModelError
from sharpcam.frame import Frame
from sharpcam.models import find_model
from training.checkpoint import State, save_checkpoint
from training.data import Clips, ClipSpec
from training.degrade import as_float, to_i420
from training.errors import TrainingError, run
from training.export import (
    PERCENTILES,
    PRECISIONS,
    calibrate,
    clip_psnr,
    export_student,
    load_exported,
    load_student,
    main,
    runner,
)
from training.graph import (
    CORE,
    MEANS,
    PLANES,
    adopt_weights,
    build_model,
    folded_weights,
    means_shape,
)
from training.halo import halo
from training.library import Library
from training.loop import Average, make_optimizer
from training.networks.student import (
    BOTH,
    CHROMA,
    CHROMA_GRID,
    LUMA,
    Conv,
    Student,
    StudentConfig,
    frequencies,
)
from training.recipe import load_recipe
from training.rounding import round_weights
from training.tasks import build, planes

U8 = NDArray[np.uint8]
TEMPORAL = StudentConfig(channels=32, depth=1, gate=16)
STILL = replace(TEMPORAL, temporal=False)
WIDE = StudentConfig(channels=64, depth=0, grid=8, gate=16)
SEEING = replace(TEMPORAL, scene=True)
POINTED = replace(SEEING, pointwise=1)
COLOURED = replace(POINTED, chroma=16)
KINDS = {
    "temporal": TEMPORAL,
    "still": STILL,
    "wide": WIDE,
    "seeing": SEEING,
    "pointed": POINTED,
    "coloured": COLOURED,
    "coloured still": replace(STILL, chroma=16),
}


def noisy_clip(frames: int = 4, height: int = 48, width: int = 64, seed: int = 0, noise: float = 4) -> U8:
    """I420 (frames, height * 3 // 2, width): a still drawing with noise, and something that moves over it."""
    rng = np.random.default_rng(seed)
    picture = drawn(height, width, seed)
    out = []
    for t in range(frames):
        frame = picture.copy()
        frame[8:20, 6 * t : 6 * t + 12] = (230, 40, 90)
        buffer = to_i420(as_float(frame)).astype(float)
        out.append(np.clip(np.round(buffer + noise * rng.standard_normal(buffer.shape)), 0, 255))
    return np.stack(out).astype(np.uint8)


def trained(config: StudentConfig = TEMPORAL, seed: int = 0) -> Student:
    """A student that does something of a student's size: residuals of some grey levels, gates half open."""
    torch.manual_seed(seed)
    student = Student(config)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.03 * torch.randn_like(parameter)
    student.quantize_weights()
    return student.eval()


def brighten(student: Student, levels: float) -> None:
    """Adds this many grey levels to every plane's residual."""
    ends = [(student.tail, student.config.grid, BOTH)]
    if student.config.chroma:
        ends = [(student.tail, student.config.grid, LUMA), (student.chroma_out, CHROMA_GRID, CHROMA)]
    for layer, grid, of in ends:
        basis, (_, lost) = frequencies(grid, of)
        layer.bias += basis @ torch.full((len(basis),), levels / 128) / lost  # type: ignore[operator]


def by_torch(student: Student, clip: U8) -> U8:
    """Frame by frame, rounded as a uint8 output is."""
    out, state = [], None
    for frame in torch.from_numpy(clip):
        with torch.no_grad():
            y, uv, state = student(*planes(frame[None]), state)
        both = [p.round().clamp(0, 255).to(torch.uint8).flatten() for p in (y, uv)]
        out.append(torch.cat(both).reshape(frame.shape))
    return torch.stack(out).numpy()


def steps(a: U8, b: U8) -> NDArray[np.int_]:
    return np.abs(a.astype(int) - b)


@pytest.fixture(scope="module")
def clip() -> U8:
    return noisy_clip()


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS)
def graphs(request: pytest.FixtureRequest, clip: U8) -> tuple[Student, dict[str, onnx.ModelProto]]:
    student = trained(request.param)
    ranges = calibrate(student, [clip, noisy_clip(seed=1)])
    return student, {p: build_model(student, p, ranges) for p in PRECISIONS}


# -- the graphs ----------------------------------------------------------------------------------------


def test_the_scene_is_told_of_the_core_alone_where_one_is_given() -> None:
    torch.manual_seed(4)
    student = Student(SEEING).eval()
    nn.init.normal_(student.look_mid.weight, std=0.02)
    clips = noisy_clip(2, 96, 128, noise=8)[None]
    model = build_model(student, "uint8", calibrate(student, clips))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert CORE not in {i.name for i in session.get_inputs()}  # nobody has to know of it
    frames = [{"y": f[:96][None, None], "uv": f[96:].reshape(1, 2, 48, 64)} for f in clips[0]]
    given: dict[str, NDArray[Any]] = frames[1] | {"strength": np.array(1, np.float32)}
    given |= {f"state_{n}": frames[0][n] for n in PLANES}
    given |= {f"state_added_{n}": np.full_like(frames[0][n], 128) for n in PLANES}
    given |= {MEANS: np.full(means_shape(student), 0.15)}

    def means(*core: int) -> NDArray[np.float64]:
        told = {CORE: np.array(core)} if core else {}
        (made,) = session.run([f"{MEANS}_out"], given | told)
        assert made.shape == tuple(means_shape(student))
        flat: NDArray[np.float64] = made.ravel()
        return flat

    whole = means()
    assert (whole > 0.03).sum() > 20
    assert np.array_equal(means(0, 0, 96, 128), whole)
    left, right = means(0, 0, 96, 48), means(0, 48, 96, 128)
    assert np.abs(left - right).max() > 0.03
    assert (48 * left + 80 * right) / 128 == pytest.approx(whole, rel=1e-12)


def test_float32_is_the_network(graphs: tuple[Student, dict[str, onnx.ModelProto]], clip: U8) -> None:
    student, models = graphs
    wanted, out = by_torch(student, clip), runner(models["float32"])(clip, 1.0)
    assert steps(out, wanted).max() <= 1
    assert (out != wanted).mean() < 0.01
    assert steps(wanted, clip).mean() > 0.5  # it does something


def test_float16_and_uint8_are_near(graphs: tuple[Student, dict[str, onnx.ModelProto]], clip: U8) -> None:
    _, models = graphs
    wanted = runner(models["float32"])(clip, 1.0)
    assert clip_psnr(runner(models["float16"])(clip, 1.0), wanted) > 55
    assert clip_psnr(runner(models["uint8"])(clip, 1.0), wanted) > 52


def test_strength_0_gives_the_input_bit_for_bit(
    graphs: tuple[Student, dict[str, onnx.ModelProto]], clip: U8
) -> None:
    for model in graphs[1].values():
        assert np.array_equal(runner(model)(clip, 0.0), clip)
    extremes = np.tile(np.arange(256, dtype=np.uint8), (2, 24, 1)).reshape(2, 48, 128)  # every level
    for model in graphs[1].values():
        assert np.array_equal(runner(model)(extremes, 0.0), extremes)


def test_strength_between_is_between(graphs: tuple[Student, dict[str, onnx.ModelProto]], clip: U8) -> None:
    for name, model in graphs[1].items():
        first = clip[:1]  # later frames go on from states of another strength
        full, half = (runner(model)(first, s).astype(int) - first for s in (1.0, 0.5))
        inside = (first > 60) & (first < 195)
        assert np.abs(half - full / 2)[inside].max() <= 1, name
        assert np.abs(half[inside]).mean() > 0.2


def test_all_that_is_uint8_is_uint8(graphs: tuple[Student, dict[str, onnx.ModelProto]]) -> None:
    """No float tensor of a picture's size anywhere: that is where the time would go."""
    model = onnx.shape_inference.infer_shapes(graphs[1]["uint8"])
    kinds = {
        "Reshape", "Transpose", "Concat", "Slice", "Split", "QLinearConv", "QLinearAdd", "QLinearMul", "Identity",
        "Mul", "Shape", "Div",
    }  # fmt: skip
    if graphs[0].config.scene:
        kinds |= {"ConstantOfShape", "MatMulInteger", "Cast", "Gemm", "Relu", "Clip"}
    assert {n.op_type for n in model.graph.node} <= kinds
    floats = [v for v in model.graph.value_info if v.type.tensor_type.elem_type == TensorProto.FLOAT]
    for value in floats:
        sides = [d.dim_value for d in value.type.tensor_type.shape.dim]
        assert all(sides), f"{value.name} grows with the picture"
        assert math.prod(sides) < 1000
    scales = [n.input[0] for n in model.graph.node if n.op_type == "Mul" and n.input[0] == "strength"]
    memory = any(i.name == "state_y" for i in model.graph.input)
    assert scales == ["strength"] * (4 if memory else 2)


@pytest.mark.parametrize("precision", list(PRECISIONS))
def test_the_state_is_carried(precision: str, clip: U8) -> None:
    student = trained()
    model = build_model(student, precision, calibrate(student, [clip]))
    run = runner(model)
    together = run(clip, 1.0)
    alone = np.concatenate([run(clip[t : t + 1], 1.0) for t in range(len(clip))])
    assert np.array_equal(together[0], alone[0])
    assert steps(together[1:], alone[1:]).mean() > 0.3
    assert np.array_equal(run(clip, 1.0), together)  # and not from one clip to the next


def test_a_still_student_has_no_state(clip: U8) -> None:
    student = trained(STILL)
    model = build_model(student, "uint8", calibrate(student, [clip]))
    assert [i.name for i in model.graph.input] == ["y", "uv", "strength"]
    run = runner(model)
    alone = np.concatenate([run(clip[t : t + 1], 1.0) for t in range(len(clip))])
    assert np.array_equal(run(clip, 1.0), alone)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (40, 72), (64, 24)])
def test_any_size_of_eights(height: int, width: int, clip: U8) -> None:
    student = trained()
    ranges = calibrate(student, [clip])
    small = noisy_clip(2, height, width, seed=5)
    for precision in PRECISIONS:
        out = runner(build_model(student, precision, ranges))(small, 1.0)
        assert out.shape == small.shape
        assert clip_psnr(out, by_torch(student, small)) > 40


def test_black_and_white_do_not_wrap_round(clip: U8) -> None:
    """Sums that leave 0..255 saturate, in the state too."""
    student = trained()
    with torch.no_grad():
        brighten(student, 38)
    checker = np.zeros((3, 48, 32), np.uint8)
    checker[:, ::8], checker[1] = 255, 255
    for precision in PRECISIONS:
        model = build_model(student, precision, calibrate(student, [clip, checker]))
        out = runner(model)(checker, 1.0)
        assert steps(out, by_torch(student, checker)).max() < 12, precision
        assert (out[checker == 255] > 200).all()


# -- calibration ---------------------------------------------------------------------------------------


def test_ranges_are_percentiles_of_the_widest_frame(clip: U8) -> None:
    student = trained(STILL)
    seen: dict[str, list[Any]] = {}

    def watch(name: str, relu: bool) -> Callable[..., None]:
        def hook(module: object, inputs: object, output: torch.Tensor) -> None:
            values = output.relu() if relu else output
            seen.setdefault(name, []).append(
                [np.percentile(values.numpy(), (100 - p, p)) for p in PERCENTILES]
            )

        return hook

    for name, module in student.named_modules():
        if isinstance(module, Conv):
            module.register_forward_hook(watch(name, relu=name != "tail"))
    both = [clip, noisy_clip(seed=1)]
    ranges = calibrate(student, both)
    for c in both:
        by_torch(student, c)
    assert ranges.keys() == seen.keys() == {"head", "body.0", "tail"}
    for name, ends in ranges.items():
        low, high = (pick(np.array(seen[name])[..., i], axis=0) for i, pick in enumerate((np.min, np.max)))
        assert any(ends == pytest.approx(known, rel=1e-3, abs=1e-3) for known in zip(low, high, strict=True))


def test_ranges_are_those_that_lose_least(clip: U8) -> None:
    """A frame with a few edges as no other has them must not make all others coarse."""
    student = trained(STILL)
    with torch.no_grad():
        for layer in (student.head, student.body[0]):
            layer.bias -= 0.2  # what is usual stays small, what is loud passes
    harsh = clip.copy()
    harsh[:, 8:14, 8:14] = 0
    harsh[:, 10:12, 10:12] = 255
    clips = [clip, noisy_clip(seed=1), harsh]

    def nearness(ranges: dict[str, tuple[float, float]]) -> float:
        run = runner(build_model(student, "uint8", ranges))
        return float(np.mean([clip_psnr(run(c, 1.0), exact(c, 1.0)) for c in clips]))

    exact = runner(build_model(student, "float32"))
    chosen = calibrate(student, clips)
    wide = {n: (low * 2, high * 2) for n, (low, high) in chosen.items()}
    narrow = {n: (low / 2, high / 2) for n, (low, high) in chosen.items()}
    assert nearness(chosen) > max(nearness(wide), nearness(narrow))


def test_ranges_of_a_recurrent_student_are_of_all_its_parts(clip: U8) -> None:
    ranges = calibrate(trained(), [clip])
    assert ranges.keys() == {"gate_in", "gate_mid", "head", "body.0", "tail"}
    assert all(low <= high for low, high in ranges.values())
    assert all(ranges[n][0] >= 0 for n in ("gate_in", "gate_mid", "head", "body.0"))


@pytest.mark.parametrize("sign", [-1, 1])
def test_ranges_of_residuals_hold_both_signs(sign: int, clip: U8) -> None:
    student = trained(STILL)
    with torch.no_grad():
        brighten(student, sign * 32)
    model = build_model(student, "uint8", calibrate(student, [clip]))
    assert clip_psnr(runner(model)(clip, 1.0), by_torch(student, clip)) > 45


def test_a_uint8_graph_wants_ranges() -> None:
    with pytest.raises(ValueError, match="needs calibrated ranges"):
        build_model(trained(), "uint8")


def test_a_dead_channel_does_not_overflow(clip: U8) -> None:
    """Hardly any weight and a large bias: the bias in steps of so small a weight has no place in int32."""
    student = trained()
    with torch.no_grad():
        for layer in ("head", "body.0"):
            conv = student.get_submodule(layer)
            conv.weight[3] = 1e-12
            conv.bias[3] = 7.0
        student.body[0].weight[3, 3, 1, 1] = -1  # takes the identity away
        student.tail.weight[:, 3] = 0.002
    model = build_model(student, "uint8", calibrate(student, [clip]))
    biases = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if t.name.endswith(".bias")}
    assert all(b.dtype == np.int32 for b in biases.values())
    assert abs(int(biases["body.0.bias"][3])) > 2**20
    assert clip_psnr(runner(model)(clip, 1.0), by_torch(student, clip)) > 40


def test_weights_keep_a_bit_for_processors_without_vnni(clip: U8) -> None:
    student = trained()
    model = build_model(student, "uint8", calibrate(student, [clip]))
    quantised = [numpy_helper.to_array(t) for t in model.graph.initializer if t.data_type == TensorProto.INT8]
    assert len(quantised) > 5
    assert max(np.abs(w.astype(int)).max() for w in quantised) == 63
    for name, (weight, _) in folded_weights(student).items():
        tensors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        kept = tensors[f"{name}.weight"] * tensors[f"{name}.step"][:, None, None, None]
        assert kept == pytest.approx(weight, abs=1e-6)  # quantised once in training is quantised for good


# -- the folder ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def calibration(clip: U8) -> Clips:
    clips = Clips(Library(), ClipSpec(frames=2, crop=48))
    square = np.stack([noisy_clip(2, 48, 48, seed) for seed in range(3)])
    clips.packed = np.stack([square, square], axis=1)
    return clips


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "last.pt"
    options = {"channels": 32, "depth": 1, "gate": 16, "scene": True}
    recipe = load_recipe("sharpcam", {"network.options": options})
    student = trained(SEEING)
    state = State(step=5, figures={"psnr_input": 30.0, "psnr": 31.0, "ssim_input": 0.8, "ssim": 0.9})
    save_checkpoint([path], recipe, student, Average(student, 0.9), make_optimizer(student, recipe), state)
    return path


@pytest.fixture(scope="module")
def folder(checkpoint: Path, calibration: Clips) -> Path:
    return export_student(
        checkpoint, checkpoint.parent / "tiny", clips=calibration, precisions=["float16"], calibration=3
    )


def test_the_product_runs_the_folder_and_gives_the_same_planes(folder: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == [
        "CARD.md", "card.png", "model-float16.onnx", "model.onnx", "model.toml",
    ]  # fmt: skip
    clip = noisy_clip(5, 48, 64, seed=2)
    wanted = runner(onnx.load(folder / "model.onnx"))
    engine = Engine.load(folder, (64, 48), provider="cpu", threads=1)
    for strength in (1.0, 0.4):
        engine.strength = strength
        engine.reset()
        expected = wanted(clip, strength)
        for n, buffer in enumerate(clip):
            frame, out = Frame(64, 48), Frame(64, 48)
            np.copyto(frame.buffer, buffer)
            frame.sequence, frame.captured_ns = n, n * 33_000_000
            engine.process(frame, out)
            assert np.array_equal(out.buffer, expected[n])
    engine.close()


def test_the_manifest_tells_what_the_graph_is(folder: Path) -> None:
    manifest = find_model(folder).manifest
    student = load_student(folder.parent / "last.pt")[0]
    assert (manifest.name, manifest.layout, manifest.precision) == ("tiny", "yuv420", "uint8")
    assert manifest.strength_input
    assert manifest.size_multiple == 8
    assert manifest.halo == halo(student, 8) > 0
    assert [(s.input, s.output, s.shape, s.dtype, s.initial) for s in manifest.state] == [
        ("state_y", "state_y_out", (1, 1, "H", "W"), "uint8", "y"),
        ("state_uv", "state_uv_out", (1, 2, "H/2", "W/2"), "uint8", "uv"),
        ("state_added_y", "state_added_y_out", (1, 1, "H", "W"), "uint8", 128),
        ("state_added_uv", "state_added_uv_out", (1, 2, "H/2", "W/2"), "uint8", 128),
        ("state_scene", "state_scene_out", (1, 48, 1, 1), "float64", 0),
    ]
    assert manifest.parameters == student.parameter_count()
    assert manifest.macs_per_pixel == pytest.approx(student.macs_per_pixel(), abs=0.01)
    assert manifest.variants["cuda"].file == "model-float16.onnx"
    assert manifest.variants["cuda"].precision == "float16"


def test_the_same_checkpoint_gives_the_same_file(folder: Path, checkpoint: Path, calibration: Clips) -> None:
    again = export_student(checkpoint, folder.parent / "again", clips=calibration, calibration=3)
    assert (again / "model.onnx").read_bytes() == (folder / "model.onnx").read_bytes()


def test_a_new_export_leaves_nothing_old(checkpoint: Path, calibration: Clips, tmp_path: Path) -> None:
    out = tmp_path / "m"
    export_student(checkpoint, out, clips=calibration, precisions=["float16", "float32"], calibration=1)
    assert find_model(out).manifest.variants
    export_student(checkpoint, out, clips=calibration, calibration=2)
    assert sorted(p.name for p in out.iterdir()) == ["CARD.md", "card.png", "model.onnx", "model.toml"]
    assert not find_model(out).manifest.variants
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_an_export_that_fails_changes_nothing(
    checkpoint: Path, calibration: Clips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise ModelError("the engine cannot run it")

    monkeypatch.setattr(training.card, "write_card", fail)
    with pytest.raises(ModelError):
        export_student(checkpoint, tmp_path / "new", clips=calibration, calibration=1)
    assert list(tmp_path.iterdir()) == []


def test_single_frames_calibrate_a_memory_too(
    checkpoint: Path, calibration: Clips, tmp_path: Path, clip: U8
) -> None:
    assert calibration.packed is not None
    folder = export_student(checkpoint, tmp_path / "m", clips=calibration.singles(), calibration=3)
    run = runner(onnx.load(folder / "model.onnx"))
    assert (
        clip_psnr(run(clip, 1.0), by_torch(load_student(checkpoint)[0], clip)) > 55
    )  # 53 without a difference


@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
def test_a_float_graph_gives_its_weights_back(config: StudentConfig, clip: U8) -> None:
    student, other = trained(config), Student(config).eval()
    adopt_weights(other, build_model(student, "float32"))
    assert clip_psnr(by_torch(other, clip), by_torch(student, clip)) > 70
    for name, (weight, bias) in folded_weights(other).items():
        np.testing.assert_allclose(weight, folded_weights(student)[name][0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(bias, folded_weights(student)[name][1], rtol=1e-4, atol=1e-5)
    shipped = Student(config).eval()
    adopt_weights(shipped, build_model(student, "float16"))
    assert clip_psnr(by_torch(shipped, clip), by_torch(student, clip)) > 50


def ships_rounded(shipped: Student, student: Student, calibration: Clips) -> None:
    """Whether `shipped`, exported with three clips, has the weights of `student`, which are rounded here."""
    round_weights(student, calibration.batch(range(3))[0])
    for ours, wanted in zip(
        folded_weights(shipped)["gate_mid"], folded_weights(student)["gate_mid"], strict=True
    ):
        np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-5)


def test_several_checkpoints_give_the_mean_of_their_weights(
    checkpoint: Path, calibration: Clips, tmp_path: Path
) -> None:
    mine, recipe, _ = load_student(checkpoint)
    other = trained(SEEING, seed=3)
    second = tmp_path / "second.pt"
    keep = Average(other, 0.9), make_optimizer(other, recipe), State(step=7)
    save_checkpoint([second], recipe, other, *keep)
    folder = export_student(checkpoint, tmp_path / "mean", clips=calibration, more=[second], calibration=3,
                            precisions=["float32"])  # fmt: skip
    student, _ = load_exported(folder)
    both = load_student(checkpoint, [second])[0]
    mean = folded_weights(both)["gate_mid"][0]
    ships_rounded(student, both, calibration)
    halves = (folded_weights(mine)["gate_mid"][0] + folded_weights(other)["gate_mid"][0]) / 2
    assert np.abs(mean - halves).max() < 0.02 < np.abs(mean - folded_weights(mine)["gate_mid"][0]).max()
    card = (folder / "CARD.md").read_text()
    assert "- the weights are the mean of its own and those of step 7 of recipe `sharpcam` (sha256 " in card
    assert "training.export runs/sharpcam/last.pt ANOTHER/second.pt --out models/mean" in card
    # a model folder has its share, too, and what is named twice counts twice
    thirds = export_student(checkpoint, tmp_path / "thirds", clips=calibration, more=[checkpoint, folder],
                            calibration=3, precisions=["float32"])  # fmt: skip
    third = load_student(checkpoint, [checkpoint, folder])[0]
    weights = folded_weights(third)["gate_mid"][0]
    ships_rounded(load_exported(thirds)[0], third, calibration)
    own, shipped = (folded_weights(s)["gate_mid"][0] for s in (mine, student))
    np.testing.assert_allclose(weights, (2 * own + shipped) / 3, rtol=1e-4, atol=1e-5)
    assert np.abs(mean - own).max() > 0.02
    card = (thirds / "CARD.md").read_text()
    assert "- in the mean that follows its own weights count once more\n" in card
    assert "- the weights are the mean of its own and those of model `mean` 1.0 (sha256 " in card
    again = "runs/sharpcam/last.pt runs/sharpcam/last.pt models/mean --out models/thirds"
    assert f"python -m training.export {again}" in card
    still = trained(STILL)
    recipe = load_recipe("sharpcam", {"network.options": {"channels": 32, "depth": 1, "temporal": False}})
    save_checkpoint(
        [second], recipe, still, Average(still, 0.9), make_optimizer(still, recipe), State(step=7)
    )
    with pytest.raises(TrainingError, match="another network"):
        load_student(checkpoint, [second])


def test_a_model_folder_gives_its_student_back(folder: Path, checkpoint: Path, clip: U8) -> None:
    student, facts = load_exported(folder)
    student.quantize_weights()
    assert clip_psnr(by_torch(student, clip), by_torch(load_student(checkpoint)[0], clip)) > 50
    assert (facts["model"], facts["version"]) == (folder.name, find_model(folder).manifest.version)
    assert facts["recipe"]["network"] == load_student(checkpoint)[1].network.model_dump(mode="json")


def test_a_folder_without_float_weights_says_so(folder: Path, tmp_path: Path) -> None:
    for name in ("model.onnx", "model.toml"):
        text = (folder / name).read_bytes()
        (tmp_path / name).write_bytes(text.split(b"[variants]")[0] if name == "model.toml" else text)
    with pytest.raises(TrainingError, match="has no model-float16"):
        load_exported(tmp_path)
    (tmp_path / "model-float16.onnx").write_bytes(b"no graph")
    with pytest.raises(TrainingError, match="no student of this package"):
        load_exported(tmp_path)


def test_what_is_no_student_is_refused(tmp_path: Path, calibration: Clips) -> None:
    recipe = load_recipe(
        "teacher", {"network.options": {"dim": 8, "num_blocks": [1, 1, 1, 1], "heads": [1, 1, 1, 1]}}
    )
    network = build(recipe.network)
    path = tmp_path / "best.pt"
    save_checkpoint([path], recipe, network, Average(network, 0.9), make_optimizer(network, recipe), State())
    with pytest.raises(TrainingError, match=r"best\.pt holds a restormer, not a student"):
        export_student(path, tmp_path / "m", clips=calibration)
    assert not (tmp_path / "m").exists()


def test_command_line_errors(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["training.export", *arguments])
        with pytest.raises(SystemExit) as caught:
            run(main)
        return int(caught.value.code or 0), capsys.readouterr().err.strip().splitlines()[-1]

    done = call(str(tmp_path / "no.pt"), "--out", str(tmp_path / "m"), "--data", str(tmp_path))
    assert done == (1, f"training: no checkpoint {tmp_path / 'no.pt'}")
    done = call(str(checkpoint), "--out", str(tmp_path / "m"), "--data", str(tmp_path))
    assert done == (1, f"training: no pictures or videos below {tmp_path}")
    code, line = call(str(checkpoint), "--out", str(tmp_path / "a model"), "--data", str(tmp_path))
    assert code == 2
    assert "a model's name has letters" in line
    code, line = call(str(checkpoint), "--out", str(tmp_path / "m"))
    assert code == 2
    assert "say what to calibrate on" in line
