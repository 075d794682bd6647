"""The student: its packing is ONNX's, its recursion a clip's, its folded self itself, its start harmless."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np
import onnxruntime as ort
import pytest
import torch
from made_data import drawn
from onnx import TensorProto, helper
from torch import Tensor, nn
from torch.nn import functional as F

from training.degrade import as_float, to_i420
from training.networks import count_macs, count_parameters
from training.networks.student import (
    GATE_MAX,
    MEMORY_RANGE,
    MEMORY_STEP,
    NOISE,
    BodyConv,
    Conv,
    FromFrequencies,
    Scene,
    State,
    Student,
    StudentConfig,
    ToFrequencies,
    calmed,
    depth_to_space,
    frequencies,
    hold,
    int8_weights,
    pack,
    quantize,
    space_to_depth,
    unpack,
    viewed,
)
from training.recipe import load_recipe
from training.tasks import planes

SMALL = StudentConfig(channels=32, depth=1, gate=16)


def trained(config: StudentConfig = SMALL, seed: int = 0) -> Student:
    """A student as if it had learnt something: every weight is away from where it starts."""
    torch.manual_seed(seed)
    student = Student(config)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.03 * torch.randn_like(parameter)
    return student.eval()


def clip(frames: int = 4, side: int = 32, noise: float = 0.0, count: int = 2) -> tuple[Tensor, Tensor]:
    """Planes (count, frames, ...) of still drawings, with noise that is new in every frame."""
    rng = np.random.default_rng(0)
    buffers = np.stack([np.stack([to_i420(as_float(drawn(side, side, i)))] * frames) for i in range(count)])
    noisy = np.clip(np.round(buffers + noise * rng.standard_normal(buffers.shape)), 0, 255)
    return planes(torch.from_numpy(noisy.astype(np.uint8)))


# -- packing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [2, 4, 8])
@pytest.mark.parametrize("channels", [1, 2])
def test_packing_is_in_the_order_of_onnx(block: int, channels: int) -> None:
    x = torch.arange(channels * 16 * 24, dtype=torch.float32).reshape(1, channels, 16, 24)
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("SpaceToDepth", ["x"], ["packed"], blocksize=block),
        helper.make_node("DepthToSpace", ["packed"], ["back"], blocksize=block, mode="DCR"),
    ]
    shape = [1, channels, 16, 24]
    outputs = [value("packed", TensorProto.FLOAT, None), value("back", TensorProto.FLOAT, shape)]
    graph = helper.make_graph(nodes, "g", [value("x", TensorProto.FLOAT, shape)], outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    packed, back = session.run(None, {"x": x.numpy()})
    assert np.array_equal(space_to_depth(x, block).numpy(), packed)
    assert np.array_equal(depth_to_space(torch.from_numpy(packed), block).numpy(), back)
    assert np.array_equal(back, x.numpy())


@pytest.mark.parametrize("grid", [2, 4, 8])
def test_planes_are_packed_luma_first_and_come_back(grid: int) -> None:
    y, uv = torch.rand(2, 1, 16, 24), torch.rand(2, 2, 8, 12)
    x = pack(y, uv, grid)
    assert x.shape == (2, grid * grid * 3 // 2, 16 // grid, 24 // grid)
    assert torch.equal(x[:, : grid * grid], space_to_depth(y, grid))
    back = unpack(x, grid)
    assert torch.equal(back[0], y)
    assert torch.equal(back[1], uv)


# -- numbers -------------------------------------------------------------------------------------------


def test_quantize_rounds_half_to_even_clamps_and_lets_gradients_pass() -> None:
    x = torch.tensor([-70.0, -0.3, 0.25, 0.74, 1.25, 70.0], requires_grad=True)
    out = quantize(x, 0.5, -64, 63.5)
    assert out.tolist() == [-64, -0.5, 0, 0.5, 1.0, 63.5]
    out.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 1, 0]


def test_what_is_sharpened_is_a_picture_of_whole_grey_levels() -> None:
    out = calmed(torch.tensor([3.0, 250.0, 100.0]), torch.tensor([-5.0, 7.0, 0.6]))
    assert out.tolist() == [0, 255, 101]


@pytest.mark.parametrize("levels", [63, 127])
def test_int8_weights_lie_on_their_channel_s_grid_and_stay_there(levels: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(5, 4, 3, 3) * torch.tensor([1.0, 10.0, 0.01, 1e-12, 0.0])[:, None, None, None]
    weight.requires_grad_()
    kept = int8_weights(weight, levels)
    for before, after in zip(weight.detach()[:3], kept.detach()[:3], strict=True):
        step = before.abs().max() / levels
        assert after / step == pytest.approx((after / step).round(), abs=1e-3)
        assert (after - before).abs().max() <= step * 0.501
        assert len((after / step).round().unique()) > 10
    assert torch.isfinite(kept).all()
    again = int8_weights(kept, levels).detach()
    assert again == pytest.approx(kept.detach(), rel=1e-6, abs=1e-12)
    kept.sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.ones_like(weight))
    assert int8_weights(weight, 0) is weight


def test_an_inner_convolution_is_a_3x3_beside_the_identity() -> None:
    torch.manual_seed(0)
    conv, x = BodyConv(6), torch.randn(2, 6, 9, 7)
    own = F.conv2d(x, conv.weight, conv.bias, padding=1)
    assert torch.allclose(conv(x), own + x, atol=1e-5)
    assert 0.2 < own.std() / x.std() < 0.8  # a correction at first, no more


# -- frequencies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [4, 8])
def test_the_basis_is_a_dct_of_each_plane(grid: int) -> None:
    basis, (natural, lost) = frequencies(grid)
    n = len(basis)
    assert n == len(natural) == len(lost) == grid * grid * 3 // 2
    assert torch.allclose(basis @ basis.T, torch.eye(n), atol=1e-6)
    assert (natural >= NOISE * 0.6).all()
    assert (lost > 0).all()
    rng = np.random.default_rng(0)
    y, uv = rng.standard_normal((grid, grid)), rng.standard_normal((2, grid // 2, grid // 2))
    packed = pack(torch.tensor(y)[None, None], torch.tensor(uv)[None], grid).float()[0, :, 0, 0]
    seen = (basis @ packed).numpy()
    assert seen[: grid * grid].reshape(grid, grid) == pytest.approx(cv2.dct(y), abs=1e-5)
    chroma = seen[grid * grid :].reshape(grid // 2, grid // 2, 2)
    for plane in range(2):
        assert chroma[..., plane] == pytest.approx(cv2.dct(uv[plane]), abs=1e-5)


def test_frequencies_are_whitened_on_the_way_in_and_weighed_on_the_way_out() -> None:
    """A weight that sees one coefficient sees nothing of the others, and one that gives it gives nothing else."""
    basis, (natural, lost) = frequencies(4)
    head, tail = FromFrequencies(24, 4), ToFrequencies(24, 4)
    with torch.no_grad():
        head.weight.copy_(torch.eye(24)[..., None, None])
        tail.weight.copy_(torch.eye(24)[..., None, None])
        tail.bias.fill_(2.0)
    cells = basis.T[:, :, None, None]  # one cell for each coefficient, that one alone
    cells = cells.permute(1, 0, 2, 3)
    assert torch.allclose(head(cells)[..., 0, 0], torch.diag(1 / natural), atol=1e-4)
    out = tail(torch.eye(24)[..., None, None])[..., 0, 0] @ basis.T
    assert torch.allclose(out, torch.diag(lost) + 2 * lost, atol=1e-6)


def test_pictures_have_about_the_sizes_that_whitening_expects() -> None:
    """Within a factor of three for all but brightness, on drawings that were never measured for it."""
    basis, (natural, _) = frequencies(4)
    buffers = np.stack([to_i420(as_float(drawn(128, 128, i))) for i in range(6)])
    y, uv = planes(torch.from_numpy(buffers))
    seen = torch.einsum("ki,nihw->nkhw", basis, pack(y, uv, 4) / 128).std((0, 2, 3))
    coarse = [1, 4, 5]  # lowest frequencies of luma
    assert ((seen / natural)[coarse] > 1 / 3).all()
    assert ((seen / natural)[coarse] < 3).all()


# -- the network ---------------------------------------------------------------------------------------

CONFIGS = [
    SMALL,
    replace(SMALL, temporal=False),
    replace(SMALL, grid=8),
    StudentConfig(64, 0, 8, 16),
    replace(SMALL, scene=True, chroma=16),
]
CONFIGS += [replace(c, scene=True) for c in CONFIGS if c.temporal]
CONFIGS += [replace(SMALL, pointwise=2, scene=True)]


@pytest.mark.parametrize("config", CONFIGS)
def test_a_clip_is_its_frames_one_after_the_other(config: StudentConfig) -> None:
    student, (y, uv) = trained(config), clip(noise=4)
    with torch.no_grad():
        y_clip, uv_clip = student.clip(y, uv)
        state = None
        for t in range(y.shape[1]):
            y_out, uv_out, state = student(y[:, t], uv[:, t], state)
            assert torch.allclose(y_clip[:, t], y_out, atol=1e-3)
            assert torch.allclose(uv_clip[:, t], uv_out, atol=1e-3)
    assert y_clip.shape == y.shape
    assert uv_clip.shape == uv.shape
    assert (y_clip - y).abs().mean() > 0.1


@pytest.mark.parametrize("keep", [slice(1, 3), slice(2, None), slice(0, 1), slice(None), slice(3, 9)])
def test_kept_frames_are_those_of_the_whole_clip(keep: slice) -> None:
    student, (y, uv) = trained(), clip(noise=4)
    with torch.no_grad():
        whole, part = student.clip(y, uv), student.clip(y, uv, keep)
    assert torch.allclose(part[0], whole[0][:, keep], atol=1e-4)
    assert torch.allclose(part[1], whole[1][:, keep], atol=1e-4)


@torch.no_grad()
def test_a_view_is_sharpened_by_what_whole_frames_tell() -> None:
    student, (y, uv) = trained(replace(SMALL, scene=True)), clip(noise=4, side=96)
    top, left, side = place = 24, 16, 64
    whole, part = student.clip(y, uv), student.clip(y, uv, slice(1, 3), place)
    inner = slice(16, -16)  # beyond, a view sees less of what surrounds it
    for all_of_it, seen in zip(viewed(whole, *place), part, strict=True):
        wanted = all_of_it[:, 1:3]
        assert seen.shape == wanted.shape
        assert torch.allclose(seen[..., inner, inner], wanted[..., inner, inner], atol=1e-3)
    alone = student.clip(*viewed((y, uv), top, left, side), slice(1, 3))
    assert not torch.allclose(part[0][..., inner, inner], alone[0][..., inner, inner], atol=1e-3)


def test_what_is_out_of_its_range_can_come_back() -> None:
    x = torch.tensor([-2.0, 0.5, 3.0, -2.0, 0.5, 3.0], requires_grad=True)
    held = hold(x, 0, 1)
    assert held.tolist() == [0, 0.5, 1, 0, 0.5, 1]
    held.backward(torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, -1.0]))
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, -1, -1, 0], "a step goes against its gradient"


@torch.no_grad()
def test_a_scene_learns_from_means_that_are_a_little_off() -> None:
    scene = trained(replace(SMALL, scene=True)).scene
    means = torch.rand(1, 32, 1, 1)
    ships = scene(means)
    assert torch.equal(scene(means), ships)
    learning = torch.stack([scene.train()(means) for _ in range(50)])
    assert not torch.equal(learning[0], learning[1])
    assert torch.allclose(learning.mean(0), ships, atol=0.05)


@pytest.mark.parametrize("config", CONFIGS)
@torch.no_grad()
def test_strength_scales_all_that_is_added(config: StudentConfig) -> None:
    student, (y, uv) = trained(config), clip(frames=2, noise=4)
    with torch.no_grad():
        state = student(y[:, 0], uv[:, 0])[2]
        full, none, half = (student(y[:, 1], uv[:, 1], state, s) for s in (1.0, 0.0, 0.5))
    assert torch.equal(none[0], y[:, 1])
    assert torch.equal(none[1], uv[:, 1])
    c = (0 * y[:, 1], 0 * uv[:, 1])
    if config.temporal:
        c, _ = student.fuse((y[:, 1], uv[:, 1]), state)
    for out, strength in ((full, 1.0), (half, 0.5), (none, 0.0)):
        f = tuple(calmed(x[:, 1], strength * p) for x, p in zip((y, uv), c, strict=True))
        r = student.sharpen(f, state.means)
        for plane in range(2):
            assert torch.allclose(out[plane], f[plane] + strength * r[plane], atol=1e-4)
            # not the memory: whatever the strength was, the next frame finds the same
            assert torch.equal(out[2][0][plane], (y, uv)[plane][:, 1])
            assert torch.equal(out[2][1][plane], c[plane])
    assert (half[0] - y[:, 1]).abs().mean() < (full[0] - y[:, 1]).abs().mean()


def test_it_starts_as_a_filter_over_time_that_leaves_still_pictures_alone() -> None:
    torch.manual_seed(0)
    y, uv = clip(frames=3)
    for config in CONFIGS:
        with torch.no_grad():
            out = Student(config).clip(y, uv)
        assert torch.equal(out[0], y)
        assert torch.equal(out[1], uv)


def with_gate(value: float) -> Student:
    """An untrained student whose gate stands open or shut, whatever it sees."""
    student = Student(SMALL)
    nn.init.zeros_(student.gate_out.weight)
    nn.init.constant_(student.gate_out.bias, value)
    return student.eval()


def test_an_open_gate_calms_a_noisy_still_and_a_shut_one_does_nothing() -> None:
    y, uv = clip(frames=24, noise=5, count=1)
    with torch.no_grad():
        calm, shut = with_gate(0.8).clip(y, uv), with_gate(-1.0).clip(y, uv)
    assert torch.equal(shut[0], y)
    truth = clip(frames=1, count=1)
    for plane, before, still in zip(calm, (y, uv), truth, strict=True):
        late = plane[:, 16:] - still
        assert late.std() < 0.5 * (before[:, 16:] - still).std()
        changes = [(p[:, 17:] - p[:, 16:-1]).abs().mean() for p in (plane, before)]
        assert changes[0] < 0.3 * changes[1]


def test_the_gate_s_weight_of_the_past_has_a_limit() -> None:
    """What a closed eye left in the memory must fade, whatever the gate says: by GATE_MAX a frame from the
    largest difference that it knows.

    Down to where half a step is all that a frame moves: there the memory stays, if no noise pushes it on.
    """
    y = torch.full((1, 30, 1, 16, 16), 100.0)
    y[:, 0] = 140.0
    uv = torch.full((1, 30, 2, 8, 8), 128.0)
    with torch.no_grad():
        out = with_gate(5.0).clip(y, uv)[0][0, :, 0, 8, 8]
    assert out[1] - 100 == pytest.approx(MEMORY_RANGE[1] * GATE_MAX, abs=0.6)
    assert all(after <= before for before, after in pairwise(out[1:]))
    steps = (out[1] - 100) * GATE_MAX ** torch.arange(29)
    assert torch.equal(out[1:], out[1:].clamp(max=100 + steps + 1.5 * MEMORY_STEP / (1 - GATE_MAX)))
    assert out[-1] - 100 <= 0.5 * MEMORY_STEP / (1 - GATE_MAX) + 0.5 + 40 * GATE_MAX**29


def test_noise_vanishes_from_the_memory_and_does_not_freeze() -> None:
    """Behind a gate of 0.85 noise of 2 grey levels is 0.57 of them in the end, and no pixel stays where it began
    (in whole grey levels it was 0.9)."""
    torch.manual_seed(0)
    y = 100 + (2 * torch.randn(1, 60, 1, 64, 64)).round()
    uv = torch.full((1, 60, 2, 32, 32), 128.0)
    with torch.no_grad():
        out = with_gate(0.85).clip(y, uv, slice(40, 60))[0] - 100
    assert out.std() < 0.68
    assert (out[:, 0] != out[:, -1]).float().mean() > 0.3


def test_gradients_reach_every_parameter() -> None:
    student, (y, uv) = trained().train(), clip(noise=4)
    out = student.clip(y, uv)
    (out[0].square().mean() + out[1].square().mean()).backward()
    silent = [n for n, p in student.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_quantised_weights_are_a_switch_and_change_little() -> None:
    student, (y, uv) = trained(), clip(frames=2, noise=4)
    kept = {n: p.clone() for n, p in student.state_dict().items()}
    with torch.no_grad():
        before = student.clip(y, uv)[0]
        student.quantize_weights()
        quantised = student.clip(y, uv)[0]
        student.quantize_weights(0)
        after = student.clip(y, uv)[0]
    assert torch.equal(before, after)
    assert 0 < (before - quantised).abs().mean() < 1
    assert all(torch.equal(p, kept[n]) for n, p in student.state_dict().items())
    student.quantize_weights()
    for module in student.modules():
        if isinstance(module, Conv):
            weight = module.folded()[0].detach()
            assert torch.allclose(int8_weights(weight, 63), weight, rtol=1e-5, atol=1e-9)


def test_quantised_convolutions_still_learn() -> None:
    student, (y, uv) = trained().train(), clip(noise=4)
    student.quantize_weights()
    student.clip(y, uv)[0].square().mean().backward()
    assert all(m.weight.grad is not None for m in student.modules() if isinstance(m, Conv))


# -- what it costs -------------------------------------------------------------------------------------


class Plain(nn.Conv2d):
    """The plain convolution as which `conv` ships."""

    def __init__(self, conv: Conv) -> None:
        weight, bias = conv.folded()
        outputs, inputs, side, _ = weight.shape
        super().__init__(inputs, outputs, side, conv.stride[0], conv.padding[0])
        self.weight, self.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())

    def forward(self, x: Tensor, gains: Tensor | None = None) -> Tensor:
        if self.stride[0] > 1:
            x = F.pad(x, (self.kernel_size[0] // 2, 0) * 2)
        return super().forward(x) * (1 if gains is None else gains)


class Folded(nn.Module):
    """The student, every convolution the plain one that ships, for counting."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student
        for name, conv in list(student.named_modules()):
            if isinstance(conv, Conv):
                student.set_submodule(name, Plain(conv))

    def forward(self, y: Tensor, uv: Tensor, *means: Tensor) -> Tensor:
        """A frame after one just like it, whose `means` were these."""
        state = State((y, uv), (torch.zeros_like(y), torch.zeros_like(uv)), *means)
        out: Tensor = self.student(y, uv, state)[0]
        return out


def test_an_odd_side_adds_no_border_to_the_scene() -> None:
    """Of 4 by 8 cells of 8 pixels and of 5 by 9 the same is seen where all is alike."""
    student = trained(replace(SMALL, scene=True))
    grey = [planes(torch.full((1, h * 3 // 2, w), 90, dtype=torch.uint8)) for h, w in ((32, 64), (40, 72))]
    with torch.no_grad():
        even, odd = (student.look(frame) for frame in grey)
    assert even.max() > 0.1
    assert torch.equal(even, odd)


@pytest.mark.parametrize("config", CONFIGS)
def test_costs_are_those_that_are_counted(config: StudentConfig) -> None:
    student = Student(config)
    y, uv = torch.zeros(1, 1, 64, 32), torch.zeros(1, 2, 32, 16)
    with torch.no_grad():
        before, _, state = student(y, uv)
    cost, parameters = student.macs_per_pixel() * 64 * 32, student.parameter_count()
    means = [m for m in state[2:] if m is not None]
    plain = Folded(student)
    assert parameters == count_parameters(plain)
    assert torch.allclose(plain(y, uv, *means), before, atol=1e-3)
    scenes = (m for m in student.modules() if isinstance(m, Scene))
    once_a_frame = sum(m.hidden.weight.numel() + m.gain.weight.numel() for m in scenes)
    assert count_macs(plain, y, uv, *means).total == pytest.approx(cost + once_a_frame)


def test_the_shipped_size_is_pinned() -> None:
    """Who changes these changes what users' machines have to do."""
    options = load_recipe("sharpcam").network.options
    student = Student(StudentConfig(**options))
    sizes = {"channels": 48, "depth": 3, "grid": 4, "gate": 32, "pointwise": 4, "chroma": 24}
    assert options == {**sizes, "scene": True}
    assert student.parameter_count() == 127904
    assert student.macs_per_pixel() == 4992.0
    assert student.describe() == {**options, "temporal": True}


@pytest.mark.parametrize("old", [SMALL, replace(SMALL, scene=True)], ids=["plain", "seeing"])
@pytest.mark.parametrize(
    "more",
    [{"depth": 3}, {"pointwise": 2}, {"depth": 2, "pointwise": 1}, {"scene": True}],
    ids=str,
)
def test_more_layers_begin_as_what_was_there(old: StudentConfig, more: dict[str, int]) -> None:
    torch.manual_seed(3)
    before = Student(old).eval()
    with torch.no_grad():
        for p in before.parameters():
            p.add_(0.05 * torch.randn_like(p))
    after = Student(replace(old, **more)).eval()  # type: ignore[arg-type]
    after.begin_as(before.state_dict())
    clip = 255 * torch.rand(2, 3, 1, 32, 48), 255 * torch.rand(2, 3, 2, 16, 24)
    with torch.no_grad():
        for a, b, x in zip(before.clip(*clip), after.clip(*clip), clip, strict=True):
            assert (a - x).abs().mean() > 0.3
            torch.testing.assert_close(a, b, rtol=0, atol=1e-3)
    y, uv = after.train().clip(*clip)
    (y.square().mean() + uv.square().mean()).backward()
    for i in range(len(before.body), len(after.body)):
        assert after.body[i].weight.grad.abs().sum() > 0  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("scene", [False, True])
def test_colours_begin_as_they_are(scene: bool) -> None:
    """What cleans them is new; luma goes on as it was."""
    before = trained(replace(SMALL, scene=scene))
    after = Student(replace(SMALL, scene=scene, chroma=16)).eval()
    after.begin_as(before.state_dict())
    y, uv = clip(noise=4)
    with torch.no_grad():
        (wanted, _), (luma, chroma) = before.clip(y, uv), after.clip(y, uv)
    torch.testing.assert_close(luma, wanted, rtol=0, atol=1e-3)
    assert (luma - y).abs().mean() > 0.3
    torch.testing.assert_close(chroma[:, :1], uv[:, :1])  # the first frame, which nothing has calmed
    y, uv = after.train().clip(y, uv)
    uv.square().mean().backward()
    assert after.chroma_out.weight.grad.abs().sum() > 0  # type: ignore[union-attr, operator]
    assert after.tail.weight.grad is None, "luma's last convolution gives no chroma"


def test_the_scene_decides_how_much_of_each_pattern_of_chroma_is_added() -> None:
    student = trained(replace(SMALL, scene=True, chroma=16))
    f = tuple(p[:, 0] for p in clip(noise=4))
    with torch.no_grad():
        means = student.look(f)  # type: ignore[arg-type]
        student.chroma_in.bias.zero_()
        student.chroma_out.bias.zero_()
        student.chroma_scene.gain.weight.zero_()
        residuals = []
        for gain in (1.0, 2.0):
            student.chroma_scene.gain.bias.fill_(gain)
            residuals.append(student.sharpen(f, means)[1])  # type: ignore[arg-type]
    assert residuals[0].abs().mean() > 0.1
    torch.testing.assert_close(residuals[1], 2 * residuals[0], rtol=1e-4, atol=1e-4)


def killed(student: Student, *places: tuple[int, int]) -> Student:
    """With channels of inner convolutions, (convolution, channel), that are 0 whatever they see."""
    with torch.no_grad():
        for layer, channel in places:
            student.body[layer].bias[channel] = -1e4  # type: ignore[union-attr, operator]
    return student


@pytest.mark.parametrize("scene", [False, True])
def test_dead_channels_come_back_and_change_nothing(scene: bool) -> None:
    student = trained(StudentConfig(channels=32, depth=2, gate=16, scene=scene, pointwise=2))
    # one dead from the second on, one that comes back by itself, one in the middle alone, one at the end
    killed(student, (1, 3), (2, 3), (3, 3), (0, 5), (2, 7), (3, 9))
    y, uv = (p[:, 0] for p in clip())
    with torch.no_grad():
        before = student.look((y, uv)) if scene else None
        residual = student.sharpen((y, uv), before)
        assert student.revive((y, uv)) == 6
        for a, b in zip(residual, student.sharpen((y, uv), before), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-4)
        for h in student._features((y, uv), before):
            assert (h.amax((0, 2, 3)) > 0).all()
        assert student.revive((y, uv)) == 0
    out = student.train().sharpen((y, uv), before)
    (out[0].square().mean() + out[1].square().mean()).backward()
    assert student.tail.weight.grad[:, [3, 9]].abs().sum() > 0  # type: ignore[index]


def test_what_nothing_feeds_stays_dead() -> None:
    student = trained(StudentConfig(channels=32, depth=1, gate=16))
    with torch.no_grad():
        student.head.bias[4] = -1e4
    killed(student, (0, 4))
    weights = {k: v.clone() for k, v in student.state_dict().items()}
    assert student.revive(tuple(p[:, 0] for p in clip())) == 0  # type: ignore[arg-type]
    assert all(torch.equal(v, weights[k]) for k, v in student.state_dict().items())


def test_another_network_is_no_beginning() -> None:
    weights = Student(replace(SMALL, pointwise=1)).state_dict()
    for other in (
        SMALL,
        replace(SMALL, depth=2),
        replace(SMALL, channels=48, pointwise=1),
        replace(SMALL, pointwise=1, gate=32),
    ):
        with pytest.raises(RuntimeError):
            Student(other).begin_as(weights)
    with pytest.raises(RuntimeError):
        Student(SMALL).begin_as({k: v for k, v in Student(SMALL).state_dict().items() if k != "head.weight"})


def test_weights_have_the_names_that_checkpoints_know() -> None:
    names = set(Student(StudentConfig(depth=2)).state_dict())
    convolutions = ("gate_in", "gate_mid", "gate_out", "head", "body.0", "body.1", "tail")
    assert names == {f"{n}.{k}" for n in convolutions for k in ("weight", "bias")}
