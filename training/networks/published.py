"""The networks of the five student reports that SharpCam grew from, rebuilt so that they can be trained again.

No report says everything about its network, and most contradict themselves; each docstring says where, and
which reading was chosen. Sizes that a report states are met to the parameter. All take and give RGB pictures
(B, 3, H, W) in 0..1 of any size (padded by reflection where the network halves it).

| name         | report                         | role    | parameters            | kMAC per pixel |
| ------------ | ------------------------------ | ------- | --------------------- | -------------- |
| unet32       | Restormer -> light U-Net       | student | 1,928,483             | 140.7          |
| unet469k     | U-Net -> LightStudentUNet_v2   | teacher | 469,155 as Keras sums | 97.2           |
| lightunet20k | U-Net -> LightStudentUNet_v2   | student | 20,190 as Keras sums  | 12.9           |
| cnn58k       | ResNet-18 features -> CNN      | student | 58,051                | 57.9           |
| resunet1m3   | residual U-Net -> fewer blocks | teacher | 1,290,883             | 325.0          |
| resunet405k  | residual U-Net -> fewer blocks | student | 405,379               | 103.8          |
| cnn76k       | Restormer -> light CNN         | student | 75,651                | 75.5           |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from training.networks.restormer import pad_to_multiple


class UNet32(nn.Module):
    """The "improved lightweight Unet (base=32)", student of Restormer on GoPro. 1,928,483 parameters.

    The report gives neither layers nor size. Chosen: the usual U-Net, twice Conv3x3 + batch norm + ReLU at
    32, 64, 128 and 256 channels, 2x2 transposed convolutions, concatenated skips, 1x1 head without activation.
    Its crops of 100 pixels do not halve three times, and it says nothing of padding: here 100 becomes 104 and
    back. It calls the teacher's output "the target reference", yet every loss that it lists is against the
    sharp picture; "real-time" comes without a time, and SSIM 0.8673 without the blurred input's.
    """

    def __init__(self, base: int = 32) -> None:
        super().__init__()
        widths = [base, base * 2, base * 4, base * 8]
        self.encoder = nn.ModuleList(_double(i, o) for i, o in zip([3, *widths], widths, strict=False))
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in reversed(widths[:-1]))
        self.decoder = nn.ModuleList(_double(2 * w, w) for w in reversed(widths[:-1]))
        self.head = nn.Conv2d(base, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = pad_to_multiple(image, 8)
        skips: list[Tensor] = []
        for level, block in enumerate(self.encoder):
            x = block(x if level == 0 else self.pool(x))
            skips.append(x)
        for up, block, skip in zip(self.up, self.decoder, skips[-2::-1], strict=True):
            x = block(torch.cat((up(x), skip), dim=1))
        return _cropped(self.head(x), image)


class EnhancedUNet(nn.Module):
    """The "Enhanced U-Net", also "U-Net++ based": the teacher on faces of 128x128. 469,155 parameters.

    The report calls all of them trainable; the sum is Keras', which counts the batch norms' 1,280 running
    statistics too (467,875 train). It says that skips are concatenated (section I.1) and added (II.1):
    the sum only comes out with concatenation. ReLU (I.1) or LeakyReLU (II.1): the latter, with the student's
    slope 0.1. Nothing in it is nested, whatever its heading says. Dropout "in the bottleneck" has no rate:
    0.3. The output's activation is not said: sigmoid, like the student's. Batch norms have Keras' eps 0.001
    and momentum 0.99.
    """

    def __init__(self, dropout: float = 0.3) -> None:
        super().__init__()
        self.encoder1 = _double(3, 32, _leaky, _keras_norm)
        self.encoder2 = _double(32, 64, _leaky, _keras_norm)
        self.pool = nn.MaxPool2d(2)
        self.bottleneck = _double(64, 128, _leaky, _keras_norm)
        self.dropout = nn.Dropout(dropout)
        self.up2 = nn.ConvTranspose2d(128, 64, 2, stride=2)
        self.decoder2 = _double(128, 64, _leaky, _keras_norm)
        self.up1 = nn.ConvTranspose2d(64, 32, 2, stride=2)
        self.decoder1 = _double(64, 32, _leaky, _keras_norm)
        self.head = nn.Conv2d(32, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        full = self.encoder1(pad_to_multiple(image, 4))  # (B, 32, H, W)
        half = self.encoder2(self.pool(full))  # (B, 64, H/2, W/2)
        x = self.dropout(self.bottleneck(self.pool(half)))  # (B, 128, H/4, W/4)
        x = self.decoder2(torch.cat((self.up2(x), half), dim=1))
        x = self.decoder1(torch.cat((self.up1(x), full), dim=1))
        return _cropped(torch.sigmoid(self.head(x)), image)


class LightStudentUNet(nn.Module):
    """LightStudentUNet_v2: the student of `EnhancedUNet`. 20,190 parameters as Keras sums them.

    The report lists separable convolutions, a dilated bottleneck, added skips, LeakyReLU(0.1), a "refinement"
    and a sigmoid, but no widths; the sum alone has thousands of solutions. Chosen: one that has every listed
    part and the teacher's batch norms throughout: 32 and 64 channels, two halvings, a bottleneck of dilation
    2, nearest-neighbour enlargement, a plain 3x3 refinement (19,742 train, 448 are running statistics). The
    losses' weights 0.7, 0.3, 0.1 sum to 1.1; at its best epoch 87 % of the loss is SSIM to the truth.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder1 = _separable(3, 32)
        self.encoder2 = _separable(32, 64)
        self.pool = nn.MaxPool2d(2)
        self.bottleneck = _separable(64, 64, dilation=2)
        self.up = nn.Upsample(scale_factor=2)
        self.decoder = _separable(64, 32)
        self.refinement = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), _keras_norm(32), _leaky())
        self.head = nn.Conv2d(32, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        full = self.encoder1(pad_to_multiple(image, 4))  # (B, 32, H, W)
        half = self.encoder2(self.pool(full))  # (B, 64, H/2, W/2)
        x = self.bottleneck(self.pool(half))  # (B, 64, H/4, W/4)
        x = self.decoder(self.up(self.up(x) + half)) + full
        return _cropped(torch.sigmoid(self.head(self.refinement(x))), image)


class PlainCNN(nn.Module):
    """3x3 convolutions with ReLU between them, all at full resolution: the students of two reports.

    `cnn58k`: widths 64, 64, 32, taught by "ResNet18". What its report calls feature distillation compares the
    pooled ImageNet features of the output with those of the *sharp* picture: a perceptual loss, no teacher. The
    code beside the report has a fifth convolution (widths 64, 64, 64, 32: 94,979 parameters); the report's
    four are chosen. No output activation is listed, so there is none.

    `cnn76k`: widths 32, 64, 64, 32 and a sigmoid (from the code beside the report, which has no layers),
    taught by Restormer's output alone. The report says "trained on blurred-sharp pairs" and "no ground truth";
    its code loads the deraining weights and trains for two epochs. Its 12.91 dB is far below what the blurred
    input itself has: without an input residual, a network must first learn to reproduce its input.
    """

    def __init__(self, widths: Sequence[int], sigmoid: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in zip([3, *widths], [*widths, 3], strict=True):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
        layers[-1] = nn.Sigmoid() if sigmoid else nn.Identity()
        self.layers = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.layers(image)
        return out


class UNetDeblur(nn.Module):
    """UNetDeblur, teacher and student of the GoPro report: 1,290,883 parameters with 4 blocks, 405,379 with 1.

    The one report with code, which is followed: the text's "U-Net with skip connections" has one halving and
    no skip (the first features go nowhere else). The residual block is not shown: two plain 3x3 convolutions
    with a ReLU between and the input added. The student has "fewer residual blocks": one. Attributes have the
    report's names, so that its checkpoints would load.

    Reported numbers do not carry over: its pairs are (sharp, sharp) with a Gaussian blur of radius 1.5 made on
    the fly, GoPro's own blur is never read; its SSIM loss is computed by numpy on detached pictures and has no
    gradient; SSIM is 0.9408 in the text and 0.9325 in the table.
    """

    def __init__(self, num_blocks: int = 4) -> None:
        super().__init__()
        self.enc1 = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU())
        self.enc2 = nn.Sequential(nn.Conv2d(64, 128, 3, stride=2, padding=1), nn.ReLU())
        self.res = nn.Sequential(*(ResidualBlock(128) for _ in range(num_blocks)))
        self.dec1 = nn.Sequential(nn.ConvTranspose2d(128, 64, 2, stride=2), nn.ReLU())
        self.out = nn.Conv2d(64, 3, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.enc2(self.enc1(pad_to_multiple(image, 2)))  # (B, 128, H/2, W/2)
        x = self.out(self.dec1(self.res(x)))
        return _cropped(torch.sigmoid(x), image)


class ResidualBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv2(torch.relu(self.conv1(x)))
        return out


PUBLISHED: dict[str, Callable[[], nn.Module]] = {
    "unet32": UNet32,
    "unet469k": EnhancedUNet,
    "lightunet20k": LightStudentUNet,
    "cnn58k": lambda: PlainCNN((64, 64, 32), sigmoid=False),
    "resunet1m3": UNetDeblur,
    "resunet405k": lambda: UNetDeblur(num_blocks=1),
    "cnn76k": lambda: PlainCNN((32, 64, 64, 32), sigmoid=True),
}


# -- parts -----------------------------------------------------------------------------------------------


def _keras_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)  # Keras' momentum 0.99 is the share that stays


def _leaky() -> nn.Module:
    return nn.LeakyReLU(0.1)


def _double(
    inputs: int,
    outputs: int,
    activation: Callable[[], nn.Module] = nn.ReLU,
    norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
) -> nn.Sequential:
    """Twice: 3x3 convolution, batch norm, activation."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        norm(outputs),
        activation(),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        norm(outputs),
        activation(),
    )


def _separable(inputs: int, outputs: int, dilation: int = 1) -> nn.Sequential:
    """Keras' SeparableConv2D (a bias behind the 1x1 convolution only), batch norm, LeakyReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, padding=dilation, dilation=dilation, groups=inputs, bias=False),
        nn.Conv2d(inputs, outputs, 1),
        _keras_norm(outputs),
        _leaky(),
    )


def _cropped(padded: Tensor, image: Tensor) -> Tensor:
    return padded[..., : image.shape[-2], : image.shape[-1]]
