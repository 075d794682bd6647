"""Restormer against a second implementation: plain numpy float64, from the paper's equations."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sharpcam.errors import ModelError
from training.networks import count_macs, count_parameters
from training.networks.restormer import Restormer, load_weights, pad_to_multiple, tiled

Array = NDArray[np.float64]
Weights = dict[str, Array]
TINY: dict[str, Any] = {
    "dim": 4,
    "num_blocks": (1, 2, 1, 1),
    "num_refinement_blocks": 1,
    "heads": (1, 2, 2, 4),
}


def tiny(seed: int = 0, **changes: Any) -> Restormer:
    torch.manual_seed(seed)
    model = Restormer(**{**TINY, **changes})
    with torch.no_grad():  # norms and temperatures start at one: make every weight matter
        for p in model.parameters():
            p.copy_(torch.randn(p.shape) * 0.3 + (1.0 if p.dim() in (1, 3) else 0.0))
    return model.eval()


# --- the paper in numpy, one picture (C, H, W) at a time --------------------------------------------------


def conv3x3(x: Array, w: Array) -> Array:
    """out[o, y, x] = sum over i and the 3x3 window of w[o, i] * zero-padded input."""
    _, height, width = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    out = np.zeros((w.shape[0], height, width))
    for dy in range(3):
        for dx in range(3):
            window = padded[:, dy : dy + height, dx : dx + width]
            out += np.tensordot(w[:, :, dy, dx], window, axes=(1, 0))
    return out


def depthwise3x3(x: Array, w: Array) -> Array:
    """Every channel with its own 3x3 kernel, pixel by pixel."""
    channels, height, width = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    out = np.zeros_like(x)
    for row in range(height):
        for column in range(width):
            window = padded[:, row : row + 3, column : column + 3]
            out[:, row, column] = (window * w.reshape(channels, 3, 3)).sum(axis=(1, 2))
    return out


def conv1x1(x: Array, w: Array) -> Array:
    return np.asarray(np.einsum("oi,ihw->ohw", w[:, :, 0, 0], x))


def layer_norm(x: Array, weights: Weights, name: str) -> Array:
    out = np.zeros_like(x)
    for row in range(x.shape[1]):
        for column in range(x.shape[2]):
            pixel = x[:, row, column]
            mean = pixel.sum() / len(pixel)
            deviation = math.sqrt(((pixel - mean) ** 2).sum() / len(pixel) + 1e-5)
            if f"{name}.body.bias" in weights:
                scaled = (pixel - mean) / deviation * weights[f"{name}.body.weight"]
                out[:, row, column] = scaled + weights[f"{name}.body.bias"]
            else:
                out[:, row, column] = pixel / deviation * weights[f"{name}.body.weight"]
    return out


def attention(x: Array, weights: Weights, name: str, heads: int) -> Array:
    channels, height, width = x.shape
    qkv = depthwise3x3(conv1x1(x, weights[f"{name}.qkv.weight"]), weights[f"{name}.qkv_dwconv.weight"])
    flat = qkv.reshape(3, channels, height * width)
    attended = np.zeros((channels, height * width))
    size = channels // heads
    for head in range(heads):
        own = slice(head * size, (head + 1) * size)
        q, k, v = flat[0, own], flat[1, own], flat[2, own]
        scores = np.zeros((size, size))
        for i in range(size):
            for j in range(size):
                scores[i, j] = q[i] @ k[j] / (np.linalg.norm(q[i]) * np.linalg.norm(k[j]))
        powers = np.exp(scores * weights[f"{name}.temperature"][head, 0, 0])
        attended[own] = powers / powers.sum(axis=1, keepdims=True) @ v
    return conv1x1(attended.reshape(channels, height, width), weights[f"{name}.project_out.weight"])


def feed_forward(x: Array, weights: Weights, name: str) -> Array:
    inner = depthwise3x3(conv1x1(x, weights[f"{name}.project_in.weight"]), weights[f"{name}.dwconv.weight"])
    hidden = len(inner) // 2
    erf = np.vectorize(math.erf)
    gelu = inner[:hidden] * 0.5 * (1 + erf(inner[:hidden] / math.sqrt(2)))
    return conv1x1(gelu * inner[hidden:], weights[f"{name}.project_out.weight"])


def shuffle(x: Array) -> Array:
    """(4C, H, W) -> (C, 2H, 2W): channel 4c + 2i + j becomes the pixels of row parity i, column parity j."""
    out = np.zeros((len(x) // 4, x.shape[1] * 2, x.shape[2] * 2))
    for channel in range(len(x)):
        out[channel // 4, (channel % 4) // 2 :: 2, channel % 2 :: 2] = x[channel]
    return out


def unshuffle(x: Array) -> Array:
    out = np.zeros((len(x) * 4, x.shape[1] // 2, x.shape[2] // 2))
    for channel in range(len(out)):
        out[channel] = x[channel // 4, (channel % 4) // 2 :: 2, channel % 2 :: 2]
    return out


def restormer(x: Array, weights: Weights, num_blocks: tuple[int, ...], refinement: int, heads: Any) -> Array:
    def blocks(x: Array, name: str, count: int, heads: int) -> Array:
        for i in range(count):
            here = f"{name}.{i}"
            x = x + attention(layer_norm(x, weights, f"{here}.norm1"), weights, f"{here}.attn", heads)
            x = x + feed_forward(layer_norm(x, weights, f"{here}.norm2"), weights, f"{here}.ffn")
        return x

    def up(x: Array, name: str, skip: Array) -> Array:
        return np.concatenate([shuffle(conv3x3(x, weights[f"{name}.body.0.weight"])), skip])

    def down(x: Array, name: str) -> Array:
        return unshuffle(conv3x3(x, weights[f"{name}.body.0.weight"]))

    n, h = num_blocks, heads
    level1 = blocks(conv3x3(x, weights["patch_embed.proj.weight"]), "encoder_level1", n[0], h[0])
    level2 = blocks(down(level1, "down1_2"), "encoder_level2", n[1], h[1])
    level3 = blocks(down(level2, "down2_3"), "encoder_level3", n[2], h[2])
    deep = blocks(down(level3, "down3_4"), "latent", n[3], h[3])
    deep = conv1x1(up(deep, "up4_3", level3), weights["reduce_chan_level3.weight"])
    deep = blocks(deep, "decoder_level3", n[2], h[2])
    deep = conv1x1(up(deep, "up3_2", level2), weights["reduce_chan_level2.weight"])
    deep = blocks(deep, "decoder_level2", n[1], h[1])
    deep = blocks(up(deep, "up2_1", level1), "decoder_level1", n[0], h[0])
    deep = blocks(deep, "refinement", refinement, h[0])
    return conv3x3(deep, weights["output.weight"]) + x


@pytest.mark.parametrize("norm", ["WithBias", "BiasFree"])
def test_agrees_with_the_equations(norm: str) -> None:
    model = tiny(layer_norm=norm).double()
    image = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    with torch.no_grad():
        got = model(image).numpy()
        in_single = model.float()(image.float()).numpy()
    arguments = (TINY["num_blocks"], TINY["num_refinement_blocks"], TINY["heads"])
    for i in range(2):
        want = restormer(image[i].numpy(), weights, *arguments)
        assert np.abs(want - image[i].numpy()).max() > 0.1  # not just the input residual
        np.testing.assert_allclose(got[i], want, rtol=0, atol=1e-9)
        np.testing.assert_allclose(in_single[i], want, rtol=0, atol=1e-3 * np.abs(want).max())


# --- names, shapes, sizes ----------------------------------------------------------------------------------


def published_shapes(with_bias: bool = True) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published motion-deblurring checkpoint, from its naming rules alone."""
    shapes: dict[str, tuple[int, ...]] = {"patch_embed.proj.weight": (48, 3, 3, 3)}
    levels = [
        ("encoder_level1", 4, 48, 1, 127),
        ("encoder_level2", 6, 96, 2, 255),
        ("encoder_level3", 6, 192, 4, 510),
        ("latent", 8, 384, 8, 1021),
        ("decoder_level3", 6, 192, 4, 510),
        ("decoder_level2", 6, 96, 2, 255),
        ("decoder_level1", 4, 96, 1, 255),
        ("refinement", 4, 96, 1, 255),
    ]
    for level, count, c, heads, hidden in levels:
        for i in range(count):
            for norm in ("norm1", "norm2"):
                shapes[f"{level}.{i}.{norm}.body.weight"] = (c,)
                if with_bias:
                    shapes[f"{level}.{i}.{norm}.body.bias"] = (c,)
            shapes[f"{level}.{i}.attn.temperature"] = (heads, 1, 1)
            shapes[f"{level}.{i}.attn.qkv.weight"] = (3 * c, c, 1, 1)
            shapes[f"{level}.{i}.attn.qkv_dwconv.weight"] = (3 * c, 1, 3, 3)
            shapes[f"{level}.{i}.attn.project_out.weight"] = (c, c, 1, 1)
            shapes[f"{level}.{i}.ffn.project_in.weight"] = (2 * hidden, c, 1, 1)
            shapes[f"{level}.{i}.ffn.dwconv.weight"] = (2 * hidden, 1, 3, 3)
            shapes[f"{level}.{i}.ffn.project_out.weight"] = (c, hidden, 1, 1)
    shapes |= {
        "down1_2.body.0.weight": (24, 48, 3, 3),
        "down2_3.body.0.weight": (48, 96, 3, 3),
        "down3_4.body.0.weight": (96, 192, 3, 3),
        "up4_3.body.0.weight": (768, 384, 3, 3),
        "up3_2.body.0.weight": (384, 192, 3, 3),
        "up2_1.body.0.weight": (192, 96, 3, 3),
        "reduce_chan_level3.weight": (192, 384, 1, 1),
        "reduce_chan_level2.weight": (96, 192, 1, 1),
        "output.weight": (3, 96, 3, 3),
    }
    return shapes


@pytest.mark.parametrize(("norm", "count"), [("WithBias", 26_126_644), ("BiasFree", 26_111_668)])
def test_has_the_published_names_shapes_and_parameter_count(norm: Any, count: int) -> None:
    with torch.device("meta"):
        model = Restormer(layer_norm=norm)
    assert count_parameters(model) == count
    shapes = published_shapes(with_bias=norm == "WithBias")
    assert {name: tuple(v.shape) for name, v in model.state_dict().items()} == shapes


@pytest.mark.filterwarnings("ignore:.*meta parameter")
def test_takes_a_published_checkpoint_as_it_stands(tmp_path: Path) -> None:
    # expanded scalars and a network without memory: names and shapes are what is at stake
    checkpoint = {name: torch.zeros(1).expand(shape) for name, shape in published_shapes().items()}
    torch.save({"params": checkpoint}, tmp_path / "w.pth")
    with torch.device("meta"):
        load_weights(Restormer(), tmp_path / "w.pth")
        with pytest.raises(ModelError, match=r"unknown encoder_level1\.0\.norm1\.body\.bias"):
            load_weights(Restormer(layer_norm="BiasFree"), tmp_path / "w.pth")


@pytest.mark.parametrize("wrap", [True, False])
def test_loads_weights_wrapped_or_plain(tmp_path: Path, wrap: bool) -> None:
    weights = tiny(seed=1).state_dict()
    torch.save({"params": weights} if wrap else weights, tmp_path / "w.pth")
    model = tiny(seed=2)
    load_weights(model, tmp_path / "w.pth")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), tiny(seed=1).parameters(), strict=True))


def test_multiply_accumulates_are_those_of_the_paper() -> None:
    with torch.device("meta"):
        model = Restormer()
    macs = count_macs(model, torch.empty(1, 3, 256, 256))
    assert round(macs.convolutions / 1e9, 2) == 140.99  # the published 141 G leaves the attention out
    assert round(macs.total / 1e9, 2) == 154.88


def test_explains_weights_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    with pytest.raises(ModelError, match=r"no weights at .*w\.pth") as missing:
        load_weights(tiny(), path)
    assert "training.weights" in missing.value.hint

    path.write_bytes(b"<html>moved</html>")
    with pytest.raises(ModelError, match="not a checkpoint"):
        load_weights(tiny(), path)
    path.write_bytes(b"")
    with pytest.raises(ModelError, match="not a checkpoint"):
        load_weights(tiny(), path)

    torch.save([1, 2], path)
    with pytest.raises(ModelError, match="holds no state dict"):
        load_weights(tiny(), path)

    torch.save(tiny(layer_norm="BiasFree").state_dict(), path)
    model = tiny()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ModelError, match=r"no encoder_level1\.0\.norm1\.body\.bias.* and \d+ more"):
        load_weights(model, path)

    weights = tiny(seed=1).state_dict()
    weights["output.weight"] = torch.zeros(3, 5, 3, 3)
    weights["skip_conv.weight"] = torch.zeros(1)
    torch.save(weights, path)
    with pytest.raises(ModelError, match=r"unknown skip_conv.weight; output.weight is \(3, 5, 3, 3\), not"):
        load_weights(model, path)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_never_runs_code_from_a_checkpoint(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path(tmp_path / "sprung").touch, ())

    torch.save({"params": {"x": Trap()}}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="not a checkpoint that can be read safely"):
        load_weights(tiny(), tmp_path / "w.pth")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        {"dim": 5},
        {"heads": (1, 2, 3, 4)},
        {"num_blocks": (1, 1, 1)},
        {"in_channels": 6},
        {"layer_norm": "None"},
    ],
)
def test_refuses_arguments_that_make_no_network(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"even|numbers each|channels differ|layer_norm is"):
        Restormer(**{**TINY, **arguments})


# --- sizes, tiles, training, export ------------------------------------------------------------------------


def test_pads_by_reflection_right_and_below() -> None:
    image = torch.arange(2 * 3 * 13 * 10.0).reshape(2, 3, 13, 10)
    padded = pad_to_multiple(image, 8)
    assert torch.equal(padded, torch.from_numpy(np.pad(image, ((0, 0), (0, 0), (0, 3), (0, 6)), "reflect")))
    assert pad_to_multiple(padded, 8) is padded


def test_pads_what_is_too_small_to_be_reflected_by_repeating() -> None:
    image = torch.rand(1, 3, 2, 9)
    want = np.pad(image, ((0, 0), (0, 0), (0, 0), (0, 7)), "reflect")
    want = np.pad(want, ((0, 0), (0, 0), (0, 6), (0, 0)), "edge")
    assert torch.equal(pad_to_multiple(image, 8), torch.from_numpy(want))


@pytest.mark.parametrize("size", [(13, 22), (1, 1), (8, 5), (4, 16)])
@torch.no_grad()
def test_any_size_goes_through_padded_and_cropped(size: tuple[int, int]) -> None:
    model, image = tiny(), torch.rand(1, 3, *size)
    out = model(image)
    assert out.shape == image.shape
    whole = model(pad_to_multiple(image, 8))
    torch.testing.assert_close(out, whole[..., : size[0], : size[1]], rtol=0, atol=0)


@torch.no_grad()
def test_tiles_equal_the_whole_when_one_suffices() -> None:
    model, image = tiny(), torch.rand(1, 3, 24, 32)
    assert torch.equal(tiled(model, image, tile=32, overlap=8), model(image))


@torch.no_grad()
def test_tiles_cover_every_pixel_and_average_where_they_overlap() -> None:
    image = torch.rand(2, 3, 41, 50)
    assert torch.allclose(tiled(torch.nn.Identity(), image, tile=16, overlap=5), image)

    class Numbers(torch.nn.Module):  # each call paints its tile with its number: 1, 2, ...
        calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return torch.full_like(x, float(self.calls))

    out = tiled(Numbers(), torch.zeros(1, 3, 16, 28), tile=16, overlap=4)  # columns 0..15 and 12..27
    assert out[0, 0, 0].tolist() == [1.0] * 12 + [1.5] * 4 + [2.0] * 12


@torch.no_grad()
def test_tiles_of_a_real_network_change_it_only_a_little() -> None:
    torch.manual_seed(0)
    model, image = Restormer(**TINY).eval(), torch.rand(1, 3, 40, 64)
    correction = (model(image) - image).abs().mean()
    assert (tiled(model, image, tile=32, overlap=16) - model(image)).abs().mean() < correction


@pytest.mark.parametrize(("tile", "overlap"), [(20, 4), (16, 16), (16, -1)])
def test_tiles_that_cannot_be_laid_are_refused(tile: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="multiple of 8"):
        tiled(tiny(), torch.rand(1, 3, 32, 32), tile, overlap)


@pytest.mark.parametrize("norm", ["WithBias", "BiasFree"])
def test_gradients_reach_every_parameter(norm: str) -> None:
    model = tiny(layer_norm=norm).train()
    torch.nn.functional.l1_loss(model(torch.rand(1, 3, 16, 16)), torch.rand(1, 3, 16, 16)).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().max() > 0, name


@torch.no_grad()
def test_runs_under_autocast_and_in_either_memory_order() -> None:
    torch.manual_seed(0)
    model, image = Restormer(**TINY).eval(), torch.rand(1, 3, 16, 24)
    want = model(image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(model(image).float(), want, rtol=0, atol=0.03)
    model.to(memory_format=torch.channels_last)
    got = model(image.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_exports_to_one_graph() -> None:
    model, image = tiny(), torch.rand(1, 3, 13, 16)
    program = torch.export.export(model, (image,), strict=False)
    torch.testing.assert_close(program.module()(image), model(image))
