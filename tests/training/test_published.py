"""The reports' networks: their sizes and costs, and what runs inside them, worked out a second time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.networks import count_macs, count_parameters
from training.networks.published import (
    PUBLISHED,
    EnhancedUNet,
    LightStudentUNet,
    PlainCNN,
    UNet32,
    UNetDeblur,
)


def conv(inputs: int, outputs: int, kernel: int = 3) -> int:
    return kernel * kernel * inputs * outputs + outputs


def separable(inputs: int, outputs: int) -> int:
    return 9 * inputs + inputs * outputs + outputs


# layer sums: the reports' totals, or (unet32) the usual U-Net's
TEACHER = [
    *(conv(3, 32), conv(32, 32), conv(32, 64), conv(64, 64), conv(64, 128), conv(128, 128)),
    *(
        conv(128, 64, 2),
        conv(128, 64),
        conv(64, 64),
        conv(64, 32, 2),
        conv(64, 32),
        conv(32, 32),
        conv(32, 3, 1),
    ),
]
TEACHER_NORMS = 2 * (32 + 64 + 128 + 64 + 32)
LIGHT = [
    separable(3, 32),
    separable(32, 64),
    separable(64, 64),
    separable(64, 32),
    conv(32, 32),
    conv(32, 3, 1),
]
LIGHT_NORMS = 32 + 64 + 64 + 32 + 32
DEBLUR = [conv(3, 64), conv(64, 128), conv(128, 64, 2), conv(64, 3)]
BLOCK = 2 * conv(128, 128)


@pytest.mark.parametrize(
    ("name", "stated", "layers"),
    [
        ("unet32", 1_928_483, None),
        ("unet469k", 469_155, sum(TEACHER) + 4 * TEACHER_NORMS),
        ("lightunet20k", 20_190, sum(LIGHT) + 4 * LIGHT_NORMS),
        ("cnn58k", 58_051, conv(3, 64) + conv(64, 64) + conv(64, 32) + conv(32, 3)),
        ("resunet1m3", 1_290_883, sum(DEBLUR) + 4 * BLOCK),
        ("resunet405k", 405_379, sum(DEBLUR) + BLOCK),
        ("cnn76k", 75_651, conv(3, 32) + conv(32, 64) + conv(64, 64) + conv(64, 32) + conv(32, 3)),
    ],
)
def test_parameters_are_the_reports(name: str, stated: int, layers: int | None) -> None:
    keras = name in ("unet469k", "lightunet20k")
    assert count_parameters(PUBLISHED[name](), keras=keras) == stated
    assert layers in (None, stated)


def test_trainable_parameters_leave_running_statistics_out() -> None:
    assert count_parameters(EnhancedUNet()) == 469_155 - 1_280
    assert count_parameters(LightStudentUNet()) == 20_190 - 448
    assert count_parameters(PlainCNN((64, 64, 64, 32), sigmoid=False)) == 94_979  # the code beside the report


@pytest.mark.parametrize(
    ("name", "macs_per_pixel"),
    [
        # twice 3x3 at each level, 2x2 transposed ones and the head, over 1, 4, 16 and 64 pixels
        (
            "unet32",
            9 * (3 * 32 + 32 * 32 + 64 * 32 + 32 * 32)
            + 9 * (32 * 64 + 64 * 64 + 128 * 64 + 64 * 64) / 4
            + 9 * (64 * 128 + 128 * 128 + 256 * 128 + 128 * 128) / 16
            + 9 * (128 * 256 + 256 * 256) / 64
            + (256 * 128 / 16 + 128 * 64 / 4 + 64 * 32)
            + 3 * 32,
        ),
        ("unet469k", 97_216),
        ("lightunet20k", 12_935),
        ("cnn58k", 9 * (3 * 64 + 64 * 64 + 64 * 32 + 32 * 3)),
        ("resunet1m3", 9 * (3 * 64 + 64 * 3) + (9 * 64 * 128 + 8 * 9 * 128 * 128) / 4 + 128 * 64),
        ("resunet405k", 9 * (3 * 64 + 64 * 3) + (9 * 64 * 128 + 2 * 9 * 128 * 128) / 4 + 128 * 64),
        ("cnn76k", 9 * (3 * 32 + 32 * 64 + 64 * 64 + 64 * 32 + 32 * 3)),
    ],
)
def test_cost_per_pixel(name: str, macs_per_pixel: float) -> None:
    macs = count_macs(PUBLISHED[name](), torch.empty(1, 3, 32, 64))
    assert macs.total / (32 * 64) == macs_per_pixel
    assert macs.matmuls == 0


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("size", [(32, 32), (21, 30), (3, 5)])
@torch.no_grad()
def test_any_size_comes_out_as_it_went_in(name: str, size: tuple[int, int]) -> None:
    out = PUBLISHED[name]().eval()(torch.rand(1, 3, *size))
    assert out.shape == (1, 3, *size)
    if name not in ("unet32", "cnn58k"):  # the others end with a sigmoid
        assert out.min() > 0
        assert out.max() < 1


@pytest.mark.parametrize("name", PUBLISHED)
def test_gradients_reach_every_parameter(name: str) -> None:
    torch.manual_seed(0)
    model = PUBLISHED[name]().train()
    if isinstance(model, EnhancedUNet):
        model.dropout.p = 0.0
    F.mse_loss(model(torch.rand(2, 3, 16, 16)), torch.rand(2, 3, 16, 16)).backward()
    for parameter, p in model.named_parameters():
        assert p.grad is not None, parameter
        assert p.grad.abs().max() > 0, parameter


def settled(model: nn.Module) -> nn.Module:
    """In evaluation, with batch norms that do something."""
    torch.manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for value in (module.weight, module.bias, module.running_mean, module.running_var):
                    assert value is not None
                    value.copy_(torch.rand(value.shape) + 0.5)
    return model.eval()


def norm(x: Tensor, weights: dict[str, Tensor], name: str, eps: float) -> Tensor:
    w, b, m, v = (
        weights[f"{name}.{k}"][:, None, None] for k in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - m) / (v + eps).sqrt() * w + b


@torch.no_grad()
def test_light_unet_adds_its_skips_around_a_dilated_bottleneck() -> None:
    model = settled(LightStudentUNet())
    w = model.state_dict()

    def block(x: Tensor, name: str, dilation: int = 1) -> Tensor:
        x = F.conv2d(F.pad(x, [dilation] * 4), w[f"{name}.0.weight"], dilation=dilation, groups=x.shape[1])
        x = (
            torch.einsum("oi,bihw->bohw", w[f"{name}.1.weight"][:, :, 0, 0], x)
            + w[f"{name}.1.bias"][:, None, None]
        )
        x = norm(x, w, f"{name}.2", 1e-3)
        return torch.where(x > 0, x, 0.1 * x)

    def halved(x: Tensor) -> Tensor:
        return x.unfold(2, 2, 2).unfold(3, 2, 2).amax(dim=(-2, -1))

    def doubled(x: Tensor) -> Tensor:
        return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)

    image = torch.rand(2, 3, 16, 24)
    first = block(image, "encoder1")
    second = block(halved(first), "encoder2")
    x = doubled(block(halved(second), "bottleneck", dilation=2)) + second
    x = block(doubled(x), "decoder") + first
    x = F.conv2d(x, w["refinement.0.weight"], w["refinement.0.bias"], padding=1)
    x = norm(x, w, "refinement.1", 1e-3)
    x = torch.where(x > 0, x, 0.1 * x)
    x = torch.sigmoid(F.conv2d(x, w["head.weight"], w["head.bias"]))
    torch.testing.assert_close(model(image), x, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_enhanced_unet_concatenates_and_drops_out_only_in_training() -> None:
    model = settled(EnhancedUNet())
    assert isinstance(model, EnhancedUNet)
    image = torch.rand(1, 3, 16, 16)
    full = model.encoder1(image)
    half = model.encoder2(F.max_pool2d(full, 2))
    x = model.bottleneck(F.max_pool2d(half, 2))
    x = model.decoder2(torch.cat([model.up2(x), half], 1))
    x = model.decoder1(torch.cat([model.up1(x), full], 1))
    torch.testing.assert_close(model(image), torch.sigmoid(model.head(x)))
    assert torch.equal(model(image), model(image))
    model.dropout.train()
    assert not torch.equal(model(image), model(image))
    leaky = [m.negative_slope for m in model.modules() if isinstance(m, nn.LeakyReLU)]
    assert leaky == [0.1] * 10
    assert {(m.eps, m.momentum) for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {(1e-3, 0.01)}


@torch.no_grad()
def test_unet32_hands_each_level_its_own_skip() -> None:
    model = settled(UNet32())
    assert isinstance(model, UNet32)
    image = torch.rand(1, 3, 16, 16)
    x, skips = image, []
    for block in model.encoder:
        x = block(x)
        skips.append(x)
        x = F.max_pool2d(x, 2)
    x = skips[3]
    for level in (2, 1, 0):
        x = model.decoder[2 - level](torch.cat([model.up[2 - level](x), skips[level]], 1))
    torch.testing.assert_close(model(image), model.head(x))


@torch.no_grad()
def test_unet_deblur_is_the_printed_one() -> None:
    torch.manual_seed(0)
    model, image = UNetDeblur(num_blocks=2), torch.rand(1, 3, 8, 12)
    w = model.state_dict()
    assert list(w)[:4] == ["enc1.0.weight", "enc1.0.bias", "enc2.0.weight", "enc2.0.bias"]
    assert list(w)[-4:] == ["dec1.0.weight", "dec1.0.bias", "out.weight", "out.bias"]

    def apply(x: Tensor, name: str, stride: int = 1) -> Tensor:
        return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride, padding=1)

    x = apply(apply(image, "enc1.0").relu(), "enc2.0", stride=2).relu()
    for i in range(2):
        x = x + apply(apply(x, f"res.{i}.conv1").relu(), f"res.{i}.conv2")
    x = F.conv_transpose2d(x, w["dec1.0.weight"], w["dec1.0.bias"], stride=2).relu()
    torch.testing.assert_close(model(image), apply(x, "out").sigmoid())


@torch.no_grad()
def test_plain_cnn_rectifies_between_its_layers_only() -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 3, 9, 9)
    for sigmoid in (False, True):
        model = PlainCNN((4, 5), sigmoid)
        first, second, third = (m for m in model.layers if isinstance(m, nn.Conv2d))
        want = third(second(first(image).relu()).relu())
        assert (want < 0).any()
        torch.testing.assert_close(model(image), want.sigmoid() if sigmoid else want)
