"""Restormer, the teacher: Zamir et al., "Restormer: Efficient Transformer for High-Resolution Image
Restoration", CVPR 2022 (arXiv 2111.09881), written from the paper.

Read from top to bottom: a normalisation, the two halves of a block (attention, feed-forward), the block,
and the four-level network. Shapes in comments are (B, C, H, W): batch, channels, height, width; N = H * W
and h is the number of heads. Parameter names and shapes are those of the published checkpoints, which
therefore load as they stand (`load_weights`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.weights import load_weights

__all__ = ["Restormer", "load_weights", "pad_to_multiple", "tiled"]

NormKind = Literal["WithBias", "BiasFree"]


class LayerNorm(nn.Module):
    """Normalises every pixel over its channels; population variance, eps 1e-5.

    "WithBias" is the usual one. "BiasFree" divides by the deviation but leaves the mean where it is and adds
    no bias, so that the network scales with its input (the published denoisers use it).
    """

    def __init__(self, channels: int, kind: NormKind) -> None:
        super().__init__()
        self.body = nn.Module()  # only for the published names norm.body.weight and norm.body.bias
        self.body.register_parameter("weight", nn.Parameter(torch.ones(channels)))
        if kind == "WithBias":
            self.body.register_parameter("bias", nn.Parameter(torch.zeros(channels)))
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        weight = self.body.get_parameter("weight")
        pixels = x.permute(0, 2, 3, 1)  # (B, H, W, C), a view
        if self.kind == "WithBias":
            bias = self.body.get_parameter("bias")
            pixels = F.layer_norm(pixels, weight.shape, weight, bias, eps=1e-5)
        else:
            pixels = pixels.to(
                torch.promote_types(x.dtype, torch.float32)
            )  # variances overflow half precision
            pixels = pixels * torch.rsqrt(pixels.var(-1, unbiased=False, keepdim=True) + 1e-5) * weight
        return pixels.permute(0, 3, 1, 2)


class Attention(nn.Module):
    """Multi-Dconv head transposed attention (MDTA, equation 1 of the paper).

    Channels attend to channels, so that the cost grows with the pixels and not with their square: a
    (C/h, C/h) map per head says how alike the channels' whole pictures are.
    """

    def __init__(self, channels: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=bias)
        self.qkv_dwconv = nn.Conv2d(3 * channels, 3 * channels, 3, padding=1, groups=3 * channels, bias=bias)
        self.project_out = nn.Conv2d(channels, channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        b, c, height, width = x.shape
        qkv = self.qkv_dwconv(self.qkv(x))  # (B, 3C, H, W)
        q, k, v = qkv.reshape(b, 3, self.heads, c // self.heads, height * width).unbind(
            1
        )  # each (B, h, C/h, N)
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)  # unit length over the pixels: cosines below
        weights = (q @ k.transpose(-2, -1) * self.temperature).softmax(dim=-1)  # (B, h, C/h, C/h)
        out: Tensor = self.project_out((weights @ v).reshape(b, c, height, width))
        return out


class FeedForward(nn.Module):
    """Gated-Dconv feed-forward network (GDFN, equation 2): one half of the channels gates the other."""

    def __init__(self, channels: int, expansion: float, bias: bool) -> None:
        super().__init__()
        hidden = int(channels * expansion)
        self.project_in = nn.Conv2d(channels, 2 * hidden, 1, bias=bias)
        self.dwconv = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=bias)
        self.project_out = nn.Conv2d(hidden, channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.dwconv(self.project_in(x)).chunk(2, dim=1)  # each (B, hidden, H, W)
        out: Tensor = self.project_out(F.gelu(gate) * value)
        return out


class TransformerBlock(nn.Module):
    def __init__(self, channels: int, heads: int, expansion: float, kind: NormKind, bias: bool) -> None:
        super().__init__()
        self.norm1 = LayerNorm(channels, kind)
        self.attn = Attention(channels, heads, bias)
        self.norm2 = LayerNorm(channels, kind)
        self.ffn = FeedForward(channels, expansion, bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.ffn(self.norm2(x))
        return out


class PatchEmbed(nn.Module):
    def __init__(self, in_channels: int, channels: int, bias: bool) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, channels, 3, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.proj(x)
        return out


class Downsample(nn.Module):
    """(B, C, H, W) -> (B, 2C, H/2, W/2): halves the channels, then 2x2 pixels become channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels // 2, 3, padding=1, bias=False), nn.PixelUnshuffle(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out


class Upsample(nn.Module):
    """(B, C, H, W) -> (B, C/2, 2H, 2W): doubles the channels, then four of them become 2x2 pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels * 2, 3, padding=1, bias=False), nn.PixelShuffle(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out


class Restormer(nn.Module):
    """Four-level encoder-decoder of transformer blocks with an input residual.

    The defaults are the published motion-deblurring network: 26,126,644 parameters (26,111,668 with
    `layer_norm="BiasFree"`, the denoising ones) and 2.36 million multiply-accumulates per pixel.

    Args:
        dim: channels at full resolution; even. Levels have dim, 2 dim, 4 dim, 8 dim; the decoder's
            full-resolution level and the refinement keep the skip's 2 dim.
        num_blocks: blocks of the three encoder levels and the bottleneck; the decoder mirrors the encoder.
        num_refinement_blocks: blocks after the decoder.
        heads: attention heads per level; each must divide its level's channels.
        ffn_expansion_factor: hidden channels of a feed-forward half = int(channels * factor).
        layer_norm: "WithBias" or "BiasFree".
        in_channels, out_channels: planes of the picture; equal, because the input is added to the output.
        bias: whether the convolutions have biases (the published ones have none).
    """

    def __init__(
        self,
        dim: int = 48,
        num_blocks: Sequence[int] = (4, 6, 6, 8),
        num_refinement_blocks: int = 4,
        heads: Sequence[int] = (1, 2, 4, 8),
        ffn_expansion_factor: float = 2.66,
        layer_norm: NormKind = "WithBias",
        in_channels: int = 3,
        out_channels: int = 3,
        bias: bool = False,
    ) -> None:
        super().__init__()
        if len(num_blocks) != 4 or len(heads) != 4:
            raise ValueError(
                f"Restormer has 4 levels: num_blocks {num_blocks} and heads {heads} need 4 numbers each"
            )
        if dim % 2 or any(dim * 2**level % heads[level] for level in range(4)) or 2 * dim % heads[0]:
            raise ValueError(
                f"dim {dim} must be even, and each level's channels divisible by its heads {heads}"
            )
        if in_channels != out_channels:
            raise ValueError(
                f"the input is added to the output: {in_channels} and {out_channels} channels differ"
            )
        if layer_norm not in ("WithBias", "BiasFree"):
            raise ValueError(f'layer_norm is "WithBias" or "BiasFree", not {layer_norm!r}')

        def blocks(count: int, channels: int, level: int) -> nn.Sequential:
            return nn.Sequential(
                *(
                    TransformerBlock(channels, heads[level], ffn_expansion_factor, layer_norm, bias)
                    for _ in range(count)
                )
            )

        self.patch_embed = PatchEmbed(in_channels, dim, bias)
        self.encoder_level1 = blocks(num_blocks[0], dim, 0)
        self.down1_2 = Downsample(dim)
        self.encoder_level2 = blocks(num_blocks[1], dim * 2, 1)
        self.down2_3 = Downsample(dim * 2)
        self.encoder_level3 = blocks(num_blocks[2], dim * 4, 2)
        self.down3_4 = Downsample(dim * 4)
        self.latent = blocks(num_blocks[3], dim * 8, 3)

        self.up4_3 = Upsample(dim * 8)
        self.reduce_chan_level3 = nn.Conv2d(dim * 8, dim * 4, 1, bias=bias)
        self.decoder_level3 = blocks(num_blocks[2], dim * 4, 2)
        self.up3_2 = Upsample(dim * 4)
        self.reduce_chan_level2 = nn.Conv2d(dim * 4, dim * 2, 1, bias=bias)
        self.decoder_level2 = blocks(num_blocks[1], dim * 2, 1)
        self.up2_1 = Upsample(dim * 2)
        self.decoder_level1 = blocks(num_blocks[0], dim * 2, 0)  # no reduction here: 2 dim to the end
        self.refinement = blocks(num_refinement_blocks, dim * 2, 0)
        self.output = nn.Conv2d(dim * 2, out_channels, 3, padding=1, bias=bias)

    def forward(self, image: Tensor) -> Tensor:
        """Restores pictures (B, 3, H, W) of any size, values in 0..1; the output is not clamped."""
        height, width = image.shape[-2:]
        image = pad_to_multiple(image, 8)

        level1 = self.encoder_level1(self.patch_embed(image))  # (B, dim, H, W)
        level2 = self.encoder_level2(self.down1_2(level1))  # (B, 2 dim, H/2, W/2)
        level3 = self.encoder_level3(self.down2_3(level2))  # (B, 4 dim, H/4, W/4)
        x = self.latent(self.down3_4(level3))  # (B, 8 dim, H/8, W/8)

        x = self.decoder_level3(self.reduce_chan_level3(torch.cat((self.up4_3(x), level3), dim=1)))
        x = self.decoder_level2(self.reduce_chan_level2(torch.cat((self.up3_2(x), level2), dim=1)))
        x = self.decoder_level1(torch.cat((self.up2_1(x), level1), dim=1))  # (B, 2 dim, H, W)
        restored = self.output(self.refinement(x)) + image
        cropped: Tensor = restored[..., :height, :width]
        return cropped


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Pads (B, C, H, W) on the right and at the bottom to a multiple of `multiple`.

    By reflection; an axis too short to be reflected that far repeats its last row or column instead.
    """
    for axis in (-1, -2):
        size = image.shape[axis]
        extra = -size % multiple
        if extra:
            amounts = (0, extra) if axis == -1 else (0, 0, 0, extra)
            image = F.pad(image, (*amounts, 0, 0)[:4], mode="reflect" if extra < size else "replicate")
    return image


def tiled(model: nn.Module, image: Tensor, tile: int = 720, overlap: int = 32) -> Tensor:
    """Runs `model` over `image` (B, C, H, W) in tiles, for frames too big for memory.

    Tiles of `tile` pixels a side overlap by at least `overlap`; where they do, their outputs are averaged. An
    image no larger than one tile goes through whole. Attention is over the tile, so the result differs a
    little from the whole frame's.
    """
    if tile % 8 or not 0 <= overlap < tile:
        raise ValueError(f"tile {tile} must be a multiple of 8 and overlap {overlap} smaller than it")
    height, width = image.shape[-2:]
    total = torch.zeros_like(image)
    count = torch.zeros_like(image[:1, :1])
    for top in _starts(height, tile, tile - overlap):
        for left in _starts(width, tile, tile - overlap):
            window = (..., slice(top, top + tile), slice(left, left + tile))
            total[window] += model(image[window])
            count[window] += 1
    return total / count


def _starts(size: int, tile: int, stride: int) -> list[int]:
    """Where tiles begin: every `stride`, the last one flush with the end."""
    return [*range(0, size - tile, stride), max(size - tile, 0)]
