"""Networks that others publish, written plainly from their papers for the sake of their cost, and their export.

They have random weights: how fast a network is does not depend on what it has learnt. Sizes are those of the
papers or of the published configurations; super-resolution networks are taken at factor 1, where their last
layer gives the picture itself. All take and give RGB pictures (B, 3, H, W) in 0..1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sharpcam.manifest import Layout, Manifest
from sharpcam.models import Model
from training.networks import count_macs, count_parameters
from training.networks.published import PUBLISHED
from training.networks.restormer import Restormer, pad_to_multiple
from training.published import rgb_graph


class ESPCN(nn.Sequential):
    """Shi et al., CVPR 2016: 5x5 to 64, 3x3 to 32, 3x3 to the picture; tanh in the paper, ReLU as is usual."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 64, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(64, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 3, 3, padding=1),
        )


class FSRCNN(nn.Sequential):
    """Dong et al., ECCV 2016, FSRCNN(56, 12, 4): shrink to 12 channels, map four times, expand, 9x9."""

    def __init__(self, channels: int = 3, d: int = 56, s: int = 12, m: int = 4) -> None:
        layers: list[nn.Module] = [nn.Conv2d(channels, d, 5, padding=2), nn.PReLU(d)]
        layers += [nn.Conv2d(d, s, 1), nn.PReLU(s)]
        for _ in range(m):
            layers += [nn.Conv2d(s, s, 3, padding=1), nn.PReLU(s)]
        layers += [nn.Conv2d(s, d, 1), nn.PReLU(d), nn.Conv2d(d, channels, 9, padding=4)]
        super().__init__(*layers)


class SRVGGCompact(nn.Module):
    """SRVGGNetCompact of Real-ESRGAN (Wang et al., ICCVW 2021): plain 3x3 with PReLU, 64 channels, 16 inner."""

    def __init__(self, channels: int = 64, inner: int = 16, factor: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1), nn.PReLU(channels)]
        for _ in range(inner):
            layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.PReLU(channels)]
        layers += [nn.Conv2d(channels, 3 * factor**2, 3, padding=1), nn.PixelShuffle(factor)]
        self.body = nn.Sequential(*layers)
        self.up = nn.Upsample(scale_factor=factor)

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.body(image) + self.up(image)
        return out


class ChannelNorm(nn.Module):
    """Normalises every pixel over its channels, eps 1e-6."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = x - x.mean(1, keepdim=True)
        return x / (x.square().mean(1, keepdim=True) + 1e-6).sqrt() * self.weight + self.bias


class NAFBlock(nn.Module):
    """Chen et al., "Simple Baselines for Image Restoration", ECCV 2022, figure 3c."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = ChannelNorm(c), ChannelNorm(c)
        self.conv1 = nn.Conv2d(c, 2 * c, 1)
        self.conv2 = nn.Conv2d(2 * c, 2 * c, 3, padding=1, groups=2 * c)
        self.attention = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, c, 1))
        self.conv3 = nn.Conv2d(c, c, 1)
        self.conv4, self.conv5 = nn.Conv2d(c, 2 * c, 1), nn.Conv2d(c, c, 1)
        self.beta, self.gamma = (nn.Parameter(torch.zeros(1, c, 1, 1)) for _ in range(2))

    def forward(self, image: Tensor) -> Tensor:
        x = gated(self.conv2(self.conv1(self.norm1(image))))
        image = image + self.conv3(x * self.attention(x)) * self.beta
        out: Tensor = image + self.conv5(gated(self.conv4(self.norm2(image)))) * self.gamma
        return out


def gated(x: Tensor) -> Tensor:
    """One half of the channels times the other."""
    a, b = x.chunk(2, dim=1)
    return a * b


class NAFNet(nn.Module):
    """NAFNet in the published GoPro configuration: 1, 1, 1, 28 blocks down, 1 in the middle, 1 each up."""

    def __init__(self, width: int, encoder: Sequence[int] = (1, 1, 1, 28), middle: int = 1) -> None:
        super().__init__()
        self.intro, self.ending = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 3, 3, padding=1)
        widths = [width * 2**level for level in range(len(encoder))]
        blocks = zip(encoder, widths, strict=True)
        self.encoders = nn.ModuleList(nn.Sequential(*(NAFBlock(c) for _ in range(n))) for n, c in blocks)
        self.downs = nn.ModuleList(nn.Conv2d(c, 2 * c, 2, stride=2) for c in widths)
        self.middle = nn.Sequential(*(NAFBlock(2 * widths[-1]) for _ in range(middle)))
        self.ups = nn.ModuleList(
            nn.Sequential(nn.Conv2d(2 * c, 4 * c, 1, bias=False), nn.PixelShuffle(2)) for c in widths[::-1]
        )
        self.decoders = nn.ModuleList(NAFBlock(c) for c in widths[::-1])

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        padded = pad_to_multiple(image, 2 ** len(self.encoders))
        x, skips = self.intro(padded), []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            x = encoder(x)
            skips.append(x)
            x = down(x)
        x = self.middle(x)
        for up, decoder, skip in zip(self.ups, self.decoders, reversed(skips), strict=True):
            x = decoder(up(x) + skip)
        out: Tensor = self.ending(x) + padded
        return out[..., :height, :width]


@dataclass(frozen=True)
class Peer:
    """`deblurs`: it was published to take blur away (the others enlarge pictures)."""

    title: str
    build: Callable[[], nn.Module]
    deblurs: bool
    student: bool = False  # of one of the five reports that SharpCam grew from
    size_multiple: int = 16


_STUDENTS = {
    "unet32": "U-Net, base 32",
    "lightunet20k": "LightStudentUNet_v2",
    "cnn58k": "CNN 64-64-32",
    "resunet405k": "UNetDeblur, 1 block",
    "cnn76k": "CNN 32-64-64-32",
}
PEERS: dict[str, Peer] = {
    **{name: Peer(title, PUBLISHED[name], True, True) for name, title in _STUDENTS.items()},
    "espcn": Peer("ESPCN", ESPCN, deblurs=False),
    "fsrcnn": Peer("FSRCNN(56,12,4)", FSRCNN, deblurs=False),
    "srvgg": Peer("SRVGGNetCompact 64x16", SRVGGCompact, deblurs=False),
    "nafnet16": Peer("NAFNet, width 16", lambda: NAFNet(16), deblurs=True),
    "nafnet32": Peer("NAFNet, width 32", lambda: NAFNet(32), deblurs=True),
    "restormer": Peer("Restormer", Restormer, deblurs=True),
}


def export(name: str, folder: Path) -> Model:
    """The peer `name` as a float32 RGB model that the product's engine runs, written to `folder`/`name`.onnx."""
    peer = PEERS[name]
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the traced picture is tiny: threads would wait for one another
    network = peer.build().eval()
    path = folder / f"{name}.onnx"
    path.write_bytes(rgb_graph(network).SerializeToString())
    macs = count_macs(network, torch.zeros(1, 3, 256, 256))
    manifest = Manifest(
        name=name,
        version="0",
        file=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        layout=Layout.RGB,
        precision="float32",
        size_multiple=peer.size_multiple,
        parameters=count_parameters(network),
        macs_per_pixel=macs.total / 256**2,
    )
    return Model(manifest, folder)
