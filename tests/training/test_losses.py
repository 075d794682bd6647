"""Every term: its value against numpy or scikit-image, and its gradient at a student's weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sharpcam.errors import ConfigError, ModelError
from training import losses
from training.losses import (
    LOSSES,
    FeatureDistillation,
    PerceptualLoss,
    Taps,
    WeightedLoss,
    distillation,
    edge,
    laplacian,
    ms_ssim,
    ssim,
    temporal,
)
from training.networks.resnet import ResNet18
from training.networks.vgg import VGG16Features

Array = NDArray[np.float64]


def pictures(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape or (2, 3, 24, 32), generator=torch.Generator().manual_seed(seed))


def like(picture: Tensor, noise: float, seed: int = 5) -> Tensor:
    return (picture + noise * (pictures(seed, *picture.shape) - 0.5)).clamp(0, 1)


def array(x: Tensor) -> Array:
    return x.detach().double().numpy()


def smooth(d: Array) -> Array:
    return np.asarray(np.sqrt(d**2 + 1e-6))


def correlate(x: Array, kernel: list[list[float]]) -> Array:
    """3x3 correlation of (B, C, H, W) by definition, inside the border."""
    out = np.zeros((*x.shape[:2], x.shape[2] - 2, x.shape[3] - 2))
    for i in range(3):
        for j in range(3):
            out += kernel[i][j] * x[:, :, i : i + out.shape[2], j : j + out.shape[3]]
    return out


SOBEL = [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]


def by_definition(name: str, x: Array, y: Array) -> float:
    """The terms of two pictures, each from its formula (edges: filters over both pictures)."""
    if name == "l1":
        return float(np.abs(x - y).mean())
    if name == "mse":
        return float(((x - y) ** 2).mean())
    if name == "charbonnier":
        return float(smooth(x - y).mean())
    if name == "laplacian":
        kernel = [[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]
        return float(smooth(correlate(x, kernel) - correlate(y, kernel)).mean())
    total = 0.0
    for kernel in (SOBEL, np.transpose(SOBEL).tolist()):
        total += smooth((correlate(x, kernel) - correlate(y, kernel)) / 8).mean()
    return total / 2


@pytest.mark.parametrize("name", ["l1", "mse", "charbonnier", "edge", "laplacian"])
def test_differences_by_definition(name: str) -> None:
    x, y = pictures(1), pictures(2)
    compute = LOSSES[name].compute
    assert compute is not None
    assert compute(x, y).item() == pytest.approx(by_definition(name, array(x), array(y)), rel=1e-5)
    assert compute(x, x).item() == pytest.approx(1e-3 if name not in ("l1", "mse") else 0, abs=1e-9)


def test_psnr_counts_every_picture_in_decibels() -> None:
    truth = torch.rand(3, 3, 16, 16)
    output = truth.clone()
    output[0] += 0.1  # 20 dB
    output[1] += 0.01  # 40 dB
    expected = sum(math.log(1 + (255 * d) ** 2) for d in (0.1, 0.01, 0.0)) / 3
    assert float(LOSSES["psnr"].compute(output, truth)) == pytest.approx(expected, abs=1e-5)  # type: ignore[misc]


def test_edge_sees_edges_and_not_brightness() -> None:
    x = pictures(1)
    assert edge(x + 0.3, x).item() == pytest.approx(1e-3, rel=1e-3)
    assert laplacian(x + 0.3, x).item() == pytest.approx(1e-3, rel=1e-3)
    ramp = torch.linspace(0, 1, 32).expand(2, 3, 24, 32)  # 1/31 per pixel, across only
    want = (np.hypot(1 / 31, 1e-3) + 1e-3) / 2
    assert edge(ramp, torch.zeros_like(ramp)).item() == pytest.approx(want, rel=1e-5)
    assert laplacian(ramp, torch.zeros_like(ramp)).item() == pytest.approx(1e-3, rel=1e-3)


# --- structural similarity ---------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.02, 0.3, 1.0])
def test_ssim_is_scikit_images(noise: float) -> None:
    skimage = pytest.importorskip("skimage.metrics")
    y = pictures(1)
    x = like(y, noise)
    for i in range(2):
        want = skimage.structural_similarity(
            array(x[i]),
            array(y[i]),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1.0,
            channel_axis=0,
        )
        assert ssim(x, y)[i].item() == pytest.approx(want, abs=2e-5)
        assert ssim(x.double(), y.double())[i].item() == pytest.approx(want, abs=1e-9)


def test_ssim_agrees_with_the_metric() -> None:
    from training import metrics

    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, 30, 40, 3), np.uint8)
    b = (a // 2 + b // 2).astype(np.uint8)
    x, y = (torch.from_numpy(p).permute(2, 0, 1)[None].double() / 255 for p in (a, b))
    assert ssim(x, y).item() == pytest.approx(metrics.ssim(a, b), abs=1e-9)


def test_ms_ssim_by_definition() -> None:
    filters = pytest.importorskip("scipy.ndimage")
    y = pictures(1, 1, 3, 177, 180).double()
    x = like(y, 0.5).double()

    def gaussian(a: Array) -> Array:
        return np.asarray(filters.gaussian_filter(a, 1.5, truncate=3.5)[5:-5, 5:-5])

    def value(scales: int, weights: list[float]) -> float:
        per_channel = []
        for channel in range(3):
            a, b = array(x[0, channel]), array(y[0, channel])
            product = 1.0
            for scale in range(scales):
                ma, mb = gaussian(a), gaussian(b)
                va, vb, cov = (
                    gaussian(a * a) - ma**2,
                    gaussian(b * b) - mb**2,
                    gaussian(a * b) - ma * mb,
                )
                cs = (2 * cov + 9e-4) / (va + vb + 9e-4)
                luminance = (2 * ma * mb + 1e-4) / (ma**2 + mb**2 + 1e-4)
                product *= (cs if scale < scales - 1 else cs * luminance).mean() ** weights[scale]
                height, width = a.shape[0] // 2 * 2, a.shape[1] // 2 * 2
                a, b = (
                    p[:height, :width].reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))
                    for p in (a, b)
                )
            per_channel.append(product)
        return float(np.mean(per_channel))

    published = [0.0448, 0.2856, 0.3001, 0.2363, 0.1333]  # of sum 1.0001
    assert ms_ssim(x, y).item() == pytest.approx(value(5, published), abs=1e-4)
    three = [w / sum(published[:3]) for w in published[:3]]
    assert ms_ssim(x, y, scales=3).item() == pytest.approx(value(3, three), abs=1e-9)


def test_ms_ssim_uses_the_scales_that_fit() -> None:
    x, y = pictures(1, 1, 3, 47, 60), pictures(2, 1, 3, 47, 60)  # sides of 44 fit three
    assert torch.equal(ms_ssim(x, y), ms_ssim(x, y, scales=3))
    with pytest.raises(ValueError, match=r"4 scales do not fit .* at most 3"):
        ms_ssim(x, y, scales=4)


def test_ms_ssim_of_opposites_is_finite_with_finite_gradients() -> None:
    x = pictures(1, 1, 3, 48, 48).requires_grad_()
    value = losses.ms_ssim_loss(x, 1 - x.detach())
    value.backward()  # type: ignore[no-untyped-call]
    assert 0.9 < value.item() <= 1
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())


def test_ssim_of_huge_contrast_is_right_under_autocast() -> None:
    x, y = pictures(1), pictures(2)
    want = ssim(x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = ssim(x, y)
    assert got.dtype == torch.float32
    assert torch.equal(got, want)


def test_first_use_without_gradients_does_not_spoil_later_ones() -> None:
    losses._window.cache_clear()
    with torch.inference_mode():
        ssim(pictures(1), pictures(2))
    x = pictures(1).requires_grad_()
    losses.ssim_loss(x, pictures(2)).backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None


# --- a teacher, features, time -----------------------------------------------------------------------------


def test_distillation_counts_where_the_teacher_is_nearer() -> None:
    truth = torch.tensor([0.5, 0.5, 0.5, 0.5]).view(1, 1, 2, 2)
    student = torch.tensor([0.5, 0.1, 0.9, 0.55]).view(1, 1, 2, 2)
    teacher = torch.tensor([0.6, 0.4, 0.2, 0.4]).view(1, 1, 2, 2)
    # errors of the student 0, .4, .4, .05; of the teacher .1, .1, .3, .1: nearer at the second and third
    want = (np.hypot(0.3, 1e-3) + np.hypot(0.7, 1e-3)) / 4
    assert distillation(student, teacher, truth).item() == pytest.approx(want, rel=1e-5)
    everywhere = np.hypot([0.1, 0.3, 0.7, 0.15], 1e-3).mean()
    assert distillation(student, teacher, truth, gate=False).item() == pytest.approx(everywhere, rel=1e-5)
    assert distillation(truth, teacher, truth).item() == 0
    half = torch.full_like(truth, 0.25)
    assert distillation(truth + half, truth - half, truth).item() == 0  # as near is not nearer


def test_distillation_pulls_only_at_gated_pixels() -> None:
    truth, teacher = torch.zeros(1, 1, 1, 2), torch.full((1, 1, 1, 2), 0.2)
    student = torch.tensor([0.1, 0.5]).view(1, 1, 1, 2).requires_grad_()
    distillation(student, teacher, truth).backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    first, second = student.grad.flatten().tolist()
    assert first == 0
    assert second == pytest.approx(0.5, rel=1e-4)


def test_temporal_by_definition() -> None:
    o, y = pictures(1, 2, 4, 3, 6, 8), pictures(2, 2, 4, 3, 6, 8)
    a, b = array(o), array(y)
    want = np.mean([np.abs((a[:, t] - a[:, t - 1]) - (b[:, t] - b[:, t - 1])).mean() for t in (1, 2, 3)])
    assert temporal(o, y).item() == pytest.approx(want, rel=1e-5)
    assert temporal(y + 0.3, y).item() == pytest.approx(0, abs=1e-6)  # wrong, but steady
    with pytest.raises(ValueError, match="2 frames or more"):
        temporal(o[:, :1], y[:, :1])
    with pytest.raises(ValueError, match="clips"):
        temporal(o[:, 0], y[:, 0])


class Pool(nn.Module):
    """A stand-in for VGG with features that numpy can make."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.scale * x, self.scale * nn.functional.avg_pool2d(x, 2)]


def test_perceptual_is_the_mean_over_its_features() -> None:
    x, y = pictures(1), pictures(2)
    d = 3 * (array(x) - array(y))
    pooled = d.reshape(2, 3, 12, 2, 16, 2).mean(axis=(3, 5))
    want = ((d**2).mean() + (pooled**2).mean()) / 2
    assert PerceptualLoss(Pool())(x, y).item() == pytest.approx(want, rel=1e-5)


def test_perceptual_resizes_first_where_asked() -> None:
    x, y = pictures(1), pictures(2)
    both = [nn.functional.interpolate(p, size=(8, 8), mode="bilinear", antialias=True) for p in (x, y)]
    whole = PerceptualLoss(Pool())
    assert PerceptualLoss(Pool(), size=8)(x, y).item() == pytest.approx(whole(*both).item(), rel=1e-6)


def test_perceptual_network_stays_frozen() -> None:
    loss = PerceptualLoss(Pool())
    loss.train()
    assert loss.training
    assert not any(module.training for module in loss.network.modules())
    assert not any(p.requires_grad for p in loss.parameters())


@pytest.mark.parametrize("network", [VGG16Features, ResNet18])
def test_perceptual_with_the_real_networks(network: type[nn.Module]) -> None:
    torch.manual_seed(0)
    loss = PerceptualLoss(network())
    x = pictures(1, 1, 3, 32, 32).requires_grad_()
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    assert loss(x, x.detach()).item() == 0
    loss(x, pictures(2, 1, 3, 32, 32)).backward()
    assert x.grad is not None
    assert x.grad.abs().max() > 0
    assert all(torch.equal(before[name], value) for name, value in loss.state_dict().items())


def test_feature_distillation_translates_channels() -> None:
    torch.manual_seed(0)
    loss = FeatureDistillation([4, 6], [4, 10])
    ours = [pictures(1, 2, 4, 8, 8).requires_grad_(), pictures(2, 2, 6, 4, 4).requires_grad_()]
    theirs = [pictures(3, 2, 4, 8, 8).requires_grad_(), pictures(4, 2, 10, 4, 4).requires_grad_()]
    assert [sum(p.numel() for p in m.parameters()) for m in loss.adapters] == [0, 70]
    weight, bias = (array(p) for p in loss.adapters[1].parameters())
    translated = np.einsum("oi,bihw->bohw", weight[:, :, 0, 0], array(ours[1])) + bias[:, None, None]
    want = ((array(ours[0]) - array(theirs[0])) ** 2).mean() + ((translated - array(theirs[1])) ** 2).mean()
    value = loss(ours, theirs)
    assert value.item() == pytest.approx(want / 2, rel=1e-5)
    value.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in [*ours, *loss.parameters()])
    assert all(p.grad is None for p in theirs)
    with pytest.raises(ValueError, match="1 and 2 features for 2 adapters"):
        loss(ours[:1], theirs)
    with pytest.raises(ValueError, match="differ"):
        loss(ours, [theirs[0], theirs[1][..., :2]])


def test_taps_collect_in_order_and_let_go() -> None:
    torch.manual_seed(0)
    model = student()
    x = pictures(1)
    with Taps(model, ["2", "0"]) as taps:
        model(pictures(2))
        out = model(x)
        torch.testing.assert_close(taps.features[0], out)
        torch.testing.assert_close(taps.features[1], model[0](x))
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(AttributeError):
        Taps(model, ["0", "nothing"])
    assert not any(module._forward_hooks for module in model.modules())


# --- planes --------------------------------------------------------------------------------------------------


def plane_errors(seed: int, *lead: int) -> tuple[Tensor, Tensor]:
    """Differences of some grey levels, y (..., 1, 16, 16) and uv (..., 2, 8, 8)."""
    y, uv = pictures(seed, *lead, 1, 16, 16), pictures(seed + 1, *lead, 2, 8, 8)
    return (y - 0.5) * 20, (uv - 0.5) * 20


def blocks(uv: Tensor) -> Tensor:
    return uv.repeat_interleave(2, -1).repeat_interleave(2, -2)


def test_psnr_of_planes_is_that_of_rgb() -> None:
    """Against the product's own conversion, chroma in blocks, each picture by itself."""
    y, uv = plane_errors(1, 3)
    full = blocks(uv) / 224
    u, v = full[:, :1], full[:, 1:]
    rgb = torch.cat([y / 219 + 1.402 * v, y / 219 - 0.344136 * u - 0.714136 * v, y / 219 + 1.772 * u], 1)
    wanted = losses.psnr_loss(rgb, torch.zeros_like(rgb))
    assert losses.psnr_planes(y, uv).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_charbonnier_of_planes_by_definition() -> None:
    y, uv = plane_errors(2, 2)
    wanted = smooth(array(y) / 219).mean() + smooth(array(uv) / 224).mean() / 2
    assert losses.charbonnier_planes(y, uv).item() == pytest.approx(wanted, rel=1e-5)


def test_temporal_of_planes_sees_change_alone() -> None:
    y, uv = plane_errors(3, 2, 4)
    dy, duv = np.diff(array(y), axis=1) / 219, np.diff(array(uv), axis=1) / 224
    wanted = np.abs(dy).mean() + np.abs(duv).mean() / 2
    assert losses.temporal_planes(y, uv).item() == pytest.approx(wanted, rel=1e-5)
    still = y[:, :1].expand(-1, 4, -1, -1, -1), uv[:, :1].expand(-1, 4, -1, -1, -1)
    assert losses.temporal_planes(*still).item() == 0
    for alone in (y[:, :1], y[:, 0]):
        with pytest.raises(ValueError, match="2 frames or more"):
            losses.temporal_planes(alone, uv[:, :1])


def test_terms_of_planes_need_no_rgb_and_take_clips_frame_by_frame() -> None:
    y, uv = plane_errors(4, 2, 3)
    loss = WeightedLoss({"psnr_planes": 1.0, "charbonnier_planes": 1.0, "temporal_planes": 1.0})
    assert not loss.needs_rgb
    assert WeightedLoss({"psnr_planes": 1.0, "l1": 1.0}).needs_rgb
    total, parts = loss(y=y, uv=uv)
    assert total.item() == pytest.approx(sum(p.item() for p in parts.values()), rel=1e-6)
    frames = losses.psnr_planes(y.flatten(0, 1), uv.flatten(0, 1))
    assert parts["psnr_planes"].item() == pytest.approx(frames.item())
    assert set(loss(y=y[:, :1], uv=uv[:, :1])[1]) == {"psnr_planes", "charbonnier_planes"}
    with pytest.raises(ValueError, match="was not given: y, uv"):
        loss(pictures(1), pictures(2))


# --- what goes wrong ---------------------------------------------------------------------------------------

PAIRS = [name for name, term in LOSSES.items() if term.compute and term.takes == ("output", "truth")]


@pytest.mark.parametrize("name", PAIRS)
def test_wrong_kinds_and_shapes_are_named(name: str) -> None:
    compute = LOSSES[name].compute
    assert compute is not None
    shape = (1, 2, 3, 16, 16) if name == "temporal" else (1, 3, 16, 16)
    x = pictures(1, *shape)
    with pytest.raises(TypeError, match=r"floats in 0\.\.1, not torch.float32 with torch.uint8"):
        compute(x, (x * 255).byte())
    with pytest.raises(ValueError, match=r"shapes .*16, 16\) and .*16, 15\) differ"):
        compute(x, x[..., :15])


@pytest.mark.parametrize(("name", "side"), [("ssim", 11), ("ms_ssim", 11), ("edge", 3), ("laplacian", 3)])
def test_pictures_too_small_for_a_window_are_named(name: str, side: int) -> None:
    compute = LOSSES[name].compute
    assert compute is not None
    small = pictures(1, 1, 3, side - 1, 40)
    with pytest.raises(ValueError, match=f"sides of {side} or more"):
        compute(small, small)
    with pytest.raises(ValueError, match="B, C, H, W"):
        compute(pictures(1, 3, 40, 40), pictures(2, 3, 40, 40))


@pytest.mark.parametrize("name", PAIRS)
def test_half_precision_is_widened(name: str) -> None:
    compute = LOSSES[name].compute
    assert compute is not None
    shape = (1, 2, 3, 16, 16) if name == "temporal" else (1, 3, 16, 16)
    x, y = pictures(1, *shape).bfloat16(), pictures(2, *shape)
    assert compute(x, y).dtype == torch.float32
    assert compute(x, y).item() == pytest.approx(compute(x.float(), y).item(), rel=1e-6)


# --- recipes -----------------------------------------------------------------------------------------------


def student() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.LeakyReLU(), nn.Conv2d(4, 3, 3, padding=1))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random VGG-16 and ResNet-18 weights in torchvision's form."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    torch.save(VGG16Features().state_dict(), folder / "vgg16.pth")
    torch.save(ResNet18().state_dict(), folder / "resnet18.pth")
    return {name: folder / f"{name}.pth" for name in ("vgg16", "resnet18")}


def everything(weights: dict[str, float], files: dict[str, Path]) -> WeightedLoss:
    return WeightedLoss(weights, **files, features=FeatureDistillation([4], [6]))


def given(clip: bool = False) -> dict[str, Any]:
    lead = (1, 2) if clip else (2,)
    shape = (*lead, 3, 24, 32)
    return {
        "truth": pictures(2, *shape),
        "teacher": like(pictures(2, *shape), 0.2, seed=3),
        "student_features": None,
        "teacher_features": [pictures(4, 2, 6, 24, 32)],
    }


@pytest.mark.parametrize("name", [n for n, term in LOSSES.items() if term.takes != losses.PLANES])
def test_every_term_reaches_every_weight_of_a_student(name: str, files: dict[str, Path]) -> None:
    loss = everything({name: 0.5}, files).train()
    model = student()
    tensors = given(clip=name == "temporal")
    soft = pictures(1, 2, 3, 24, 32)
    with Taps(model, ["0"]) as taps:
        output = model(soft).view_as(tensors["truth"])
    tensors["student_features"] = taps.features
    total, parts = loss(output, **tensors)
    assert list(parts) == [name]
    assert not parts[name].requires_grad
    assert total.item() == pytest.approx(0.5 * parts[name].item())
    assert parts[name].item() > 0
    total.backward()
    last = [] if name == "features" else ["2.weight", "2.bias"]  # features end at the first layer
    if name in ("edge", "laplacian", "temporal"):
        last.remove("2.bias")  # they do not see brightness
    for wanted in ["0.weight", "0.bias", *last]:
        grad = model.get_parameter(wanted).grad
        assert grad is not None, wanted
        assert grad.abs().max() > 0, wanted


@pytest.mark.parametrize(
    "weights",
    [
        {"l1": 1.0, "vgg16": 0.1, "ssim": 0.2, "charbonnier": 1.0},  # restormer-unet
        {"mse_teacher": 0.7, "mse": 0.3, "ssim": 0.1},  # unet-lightunet
        {"mse": 1.0, "resnet18": 0.1},  # resnet18-cnn
        {"mse_teacher": 1.0, "mse": 1.0},  # unet-resunet
        {"l1_teacher": 1.0},  # restormer-cnn: no truth
    ],
)
def test_recipes_of_the_reports_add_up(weights: dict[str, float], files: dict[str, Path]) -> None:
    loss = WeightedLoss(weights, **files)
    tensors = given()
    if set(weights) == {"l1_teacher"}:
        tensors["truth"] = None
    total, parts = loss(pictures(1), **tensors)
    assert list(parts) == list(weights)
    assert total.item() == pytest.approx(sum(weights[k] * parts[k].item() for k in parts), rel=1e-6)
    assert loss.needs_teacher == any("teacher" in name for name in weights)


def test_kd_loss_of_the_light_unet_by_its_formula() -> None:
    skimage = pytest.importorskip("skimage.metrics")
    tensors = given()
    output = pictures(1)
    o, y, t = array(output), array(tensors["truth"]), array(tensors["teacher"])
    similar = [
        skimage.structural_similarity(
            a,
            b,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1.0,
            channel_axis=0,
        )
        for a, b in zip(o, y, strict=True)
    ]
    want = 0.7 * ((o - t) ** 2).mean() + 0.3 * ((o - y) ** 2).mean() + 0.1 * (1 - np.mean(similar))
    total, _ = WeightedLoss({"mse_teacher": 0.7, "mse": 0.3, "ssim": 0.1})(output, **tensors)
    assert total.item() == pytest.approx(want, rel=1e-5)


def test_clips_are_seen_frame_by_frame() -> None:
    weights = {"ssim": 1.0, "edge": 0.5, "distill": 0.2}
    o, y, t = (pictures(i, 2, 3, 3, 16, 20) for i in (1, 2, 3))
    whole, _ = WeightedLoss(weights)(o, y, t)
    flat, _ = WeightedLoss(weights)(o.flatten(0, 1), y.flatten(0, 1), t.flatten(0, 1))
    assert torch.equal(whole, flat)
    _, parts = WeightedLoss({**weights, "temporal": 1.0})(o, y, t)
    assert torch.equal(parts["temporal"], temporal(o, y))


def test_weight_0_leaves_a_term_out() -> None:
    loss = WeightedLoss({"l1": 1, "vgg16": 0, "distill": 0.0})  # and asks for none of its files
    total, parts = loss(pictures(1), pictures(2))
    assert list(parts) == ["l1"]
    assert torch.equal(total, parts["l1"])


def refused(build: Callable[[], object], match: str, kind: type[Exception] = ConfigError) -> str:
    with pytest.raises(kind, match=match) as failure:
        build()
    return str(getattr(failure.value, "hint", ""))


def test_recipes_that_cannot_be_are_explained(tmp_path: Path) -> None:
    assert "charbonnier" in refused(lambda: WeightedLoss({"L1": 1.0}), "unknown loss 'L1'")
    refused(lambda: WeightedLoss({"l1": -1.0}), r"'l1' has the weight -1\.0")
    refused(lambda: WeightedLoss({"l1": float("nan")}), "'l1' has the weight nan")
    refused(lambda: WeightedLoss({"l1": float("inf")}), "'l1' has the weight inf")
    refused(lambda: WeightedLoss({"l1": 0.0}), "no loss has a weight")
    refused(lambda: WeightedLoss({}), "no loss has a weight")
    hint = refused(lambda: WeightedLoss({"vgg16": 1.0}), "needs the file of vgg16's weights")
    assert "python -m training.weights vgg16" in hint
    refused(lambda: WeightedLoss({"resnet18": 1.0}), "needs the file of resnet18's weights")
    refused(lambda: WeightedLoss({"features": 1.0}), "needs a FeatureDistillation")
    refused(lambda: WeightedLoss({"vgg16": 1.0}, vgg16=tmp_path / "no.pth"), "no weights at", ModelError)
    refused(
        lambda: WeightedLoss({"mse_teacher": 1.0})(pictures(1), pictures(2)), "not given: teacher", ValueError
    )
    refused(lambda: WeightedLoss({"distill": 1.0})(pictures(1)), "not given: teacher, truth", ValueError)


def test_resnet_sees_pictures_at_its_own_size(files: dict[str, Path]) -> None:
    x, y = pictures(1), pictures(2)
    _, parts = WeightedLoss({"resnet18": 1.0}, **files)(x, y)
    want = PerceptualLoss(ResNet18.from_file(files["resnet18"]), size=224)(x, y)
    assert parts["resnet18"].item() == pytest.approx(want.item(), rel=1e-6)


def test_adapters_of_features_are_there_for_the_optimiser(files: dict[str, Path]) -> None:
    loss = everything({"features": 1.0, "vgg16": 1.0}, files)
    trainable = [p for p in loss.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trainable) == 4 * 6 + 6
