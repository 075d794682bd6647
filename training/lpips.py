"""LPIPS: how different two pictures look, as learned from people's judgements (Zhang et al., CVPR 2018).

Version 0.1 on AlexNet, written plainly with the names that the published files give their weights:
`features.N.*` of torchvision's AlexNet and `linN.model.1.weight` of the linear heads.
`python -m training.weights lpips` fetches both; nothing is fetched by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.weights import GROUPS, REGISTRY, load_weights

Picture = NDArray[np.uint8]

TAPS = (1, 4, 7, 9, 11)  # AlexNet's five activations
WIDTHS = (64, 192, 384, 256, 256)  # their channels
MIN_SIDE = 31  # so that one pixel is left at the last tap
EPSILON = 1e-10
# ImageNet's mean and deviation for values in -1..1, rounded as in the paper's own code
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
FILES = tuple(REGISTRY[name].file for name in GROUPS["lpips"])


class AlexNetFeatures(nn.Module):
    """The activations of AlexNet's five convolutions, for normalised pictures (B, 3, H, W).

    2,469,696 parameters.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in TAPS:
                found.append(x)
        return found


class Head(nn.Module):
    """One weight per channel. The dropout belongs to its training and to the name of the weight."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Dropout(), nn.Conv2d(channels, 1, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        weighted: Tensor = self.model(x)
        return weighted


class Heads(nn.Module):
    """The linear heads `lin0` to `lin4`, one for each activation."""

    def __init__(self) -> None:
        super().__init__()
        for number, channels in enumerate(WIDTHS):
            self.add_module(f"lin{number}", Head(channels))

    def forward(self, differences: Sequence[Tensor]) -> Tensor:
        """The sum over the activations of the weighted differences' mean over the picture, (B,)."""
        means = [head(x).mean(dim=(1, 2, 3)) for head, x in zip(self.children(), differences, strict=True)]
        return torch.stack(means).sum(dim=0)


class LPIPS(nn.Module):
    """The distance of pictures in AlexNet's eyes, 0 for the same one. Frozen, always in evaluation mode."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.heads = AlexNetFeatures(), Heads()
        self.register_buffer("shift", torch.tensor(SHIFT).view(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).view(3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    @classmethod
    def from_folder(cls, folder: str | Path) -> LPIPS:
        """With the published weights that `python -m training.weights lpips --out folder` put there.

        Raises ModelError when one is missing or is not what its name says.
        """
        model = cls()
        trunk, heads = (Path(folder) / file for file in FILES)
        load_weights(model.trunk, trunk, ignore="classifier.")
        load_weights(model.heads, heads)
        return model

    def train(self, mode: bool = True) -> LPIPS:
        super().train(False)
        return self

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances (B,) of pictures (B, 3, H, W), RGB in 0..1; `b` may be one for all of `a`."""
        if min(a.shape[-2:]) < MIN_SIDE:
            raise ValueError(
                f"LPIPS wants pictures of at least {MIN_SIDE} a side, not {a.shape[-1]}x{a.shape[-2]}"
            )
        features = zip(self._unit_features(a), self._unit_features(b), strict=True)
        distances: Tensor = self.heads([(x - y).square() for x, y in features])
        return distances

    def _unit_features(self, images: Tensor) -> list[Tensor]:
        """Activations of length 1 at every position (or 0, where nothing answers)."""
        activations = self.trunk((2 * images - 1 - self.shift) / self.scale)
        return [x / (x.square().sum(dim=1, keepdim=True).sqrt() + EPSILON) for x in activations]

    @torch.no_grad()
    def measure(self, pictures: Sequence[Picture], truth: Picture) -> list[float]:
        """The distance of each uint8 RGB picture (H, W, 3) from `truth`, of the same size."""
        return [float(d) for d in self(_tensor(pictures), _tensor([truth]))]


def missing(folder: Path) -> list[str]:
    """The files of LPIPS that are not in `folder`."""
    return [file for file in FILES if not (folder / file).is_file()]


def _tensor(pictures: Sequence[Picture]) -> Tensor:
    stack = np.stack([np.ascontiguousarray(p.transpose(2, 0, 1)) for p in pictures])
    return torch.from_numpy(stack).float() / 255
