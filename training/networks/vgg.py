"""VGG-16's convolutions (Simonyan and Zisserman, ICLR 2015), for the perceptual loss.

Written plainly, with the names that torchvision gives the weights (features.0.weight, ...), so that its
file loads without torchvision; `python -m training.weights vgg16` fetches it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from training.weights import load_weights

LAYERS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))  # channels, stage by stage
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class VGG16Features(nn.Module):
    """Features of pictures (B, 3, H, W) in 0..1, which are normalised here as ImageNet's were.

    `taps` names the activations to return, "relu1_1" to "relu5_3", in that order; stage s has 1/2^(s-1) of
    the size. 14,714,688 parameters; layers behind the last tap are kept, for the file's sake, but not run.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, taps: Sequence[str] = ("relu2_2",)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        index: dict[str, int] = {}
        inputs = 3
        for stage, widths in enumerate(LAYERS, 1):
            for number, outputs in enumerate(widths, 1):
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
                index[f"relu{stage}_{number}"] = len(layers) - 1
                inputs = outputs
            layers.append(nn.MaxPool2d(2))
        unknown = [tap for tap in taps if tap not in index]
        if unknown or not taps:
            raise ValueError(f"taps {list(taps)}: choose some of {', '.join(index)}")
        self.features = nn.Sequential(*layers)
        self.taps = sorted(index[tap] for tap in taps)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = (images - self.mean) / self.std
        found = []
        for number in range(self.taps[-1] + 1):
            x = self.features[number](x)
            if number in self.taps:
                found.append(x)
        return found

    @classmethod
    def from_file(cls, path: str | Path, taps: Sequence[str] = ("relu2_2",)) -> VGG16Features:
        """With torchvision's weights, their classifier left aside. Raises ModelError if they do not fit."""
        model = cls(taps)
        load_weights(model, path, ignore="classifier.")
        return model
