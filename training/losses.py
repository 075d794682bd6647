"""What a student is punished for.

Pictures are float tensors (B, C, H, W), values 0..1; clips are (B, T, C, H, W). Every term is the mean over
all elements, is computed in float32 under autocast too, and sends gradients to its first argument only.
`LOSSES` names the terms for recipes; `WeightedLoss` adds them up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpcam.errors import ConfigError
from training.networks.resnet import ResNet18
from training.networks.vgg import VGG16Features

WINDOW, SIGMA = 11, 1.5  # of SSIM's Gaussian
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # finest scale first; Wang et al., 2003


# -- differences of pixels -------------------------------------------------------------------------------


def l1(output: Tensor, truth: Tensor) -> Tensor:
    """Mean absolute difference."""
    return _difference(output, truth).abs().mean()


def mse(output: Tensor, truth: Tensor) -> Tensor:
    """Mean squared difference."""
    return _difference(output, truth).square().mean()


def psnr_loss(output: Tensor, truth: Tensor, eps: float = (1 / 255) ** 2) -> Tensor:
    """Mean over the pictures of ln(1 + mean squared error / eps): minus PSNR, up to scale and a constant.

    After NAFNet's loss (Chen et al., ECCV 2022).
    A dB is a dB: a mildly soft picture counts as much as one that is beyond help, whose error is a hundred times
    larger. `eps`, one grey level, lets perfect pictures rest.
    """
    return _difference(output, truth).square().flatten(1).mean(1).div(eps).log1p().mean()


def charbonnier(output: Tensor, truth: Tensor, eps: float = 1e-3) -> Tensor:
    """Mean of sqrt(d^2 + eps^2): the absolute difference, smooth at zero (Charbonnier et al., 1994)."""
    return _smooth(_difference(output, truth), eps).mean()


def edge(output: Tensor, truth: Tensor, eps: float = 1e-3) -> Tensor:
    """Charbonnier of the horizontal and vertical Sobel gradients, inside the border. Sides of 3 or more."""
    d = _difference(output, truth, side=3)  # the filters are linear: once over the difference is enough
    across = d[..., 2:] - d[..., :-2]
    down = d[..., 2:, :] - d[..., :-2, :]
    across = (across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]) / 8
    down = (down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]) / 8
    return (_smooth(across, eps).mean() + _smooth(down, eps).mean()) / 2


def laplacian(output: Tensor, truth: Tensor, eps: float = 1e-3) -> Tensor:
    """Charbonnier of the Laplacian (four neighbours minus four times the pixel), inside the border."""
    d = _difference(output, truth, side=3)
    middle = d[..., 1:-1, 1:-1]
    around = d[..., :-2, 1:-1] + d[..., 2:, 1:-1] + d[..., 1:-1, :-2] + d[..., 1:-1, 2:]
    return _smooth(around - 4 * middle, eps).mean()


# -- differences of planes -------------------------------------------------------------------------------
#
# A student puts out I420, and to make RGB of it costs as much as to train it: these terms take the differences
# of planes, y (B, 1, H, W) and uv (B, 2, H/2, W/2) or clips (B, T, ...) of them, in limited-range BT.601 grey
# levels, and mean nearly the same.

Y_RANGE, UV_RANGE = 219.0, 224.0
# R = y + 1.402 v, G = y - 0.344136 u - 0.714136 v, B = y + 1.772 u: sums over RGB of what u, v and their products add
_U, _V, _UU, _VV, _UV = 1.427864, 0.687864, 3.258413, 2.475594, 0.491520


def psnr_planes(y: Tensor, uv: Tensor, eps: float = (1 / 255) ** 2) -> Tensor:
    """`psnr_loss` of the RGB pictures, chroma taken as blocks of 2 x 2."""
    y, uv = y.float() / Y_RANGE, uv.float() / UV_RANGE
    u, v = uv[:, :1], uv[:, 1:]
    chroma = _UU * u.square() + _VV * v.square() + _UV * u * v + 2 * F.avg_pool2d(y, 2) * (_U * u + _V * v)
    mse = y.square().flatten(1).mean(1) + chroma.flatten(1).mean(1) / 3
    return mse.clamp_min(0).div(eps).log1p().mean()


def charbonnier_planes(y: Tensor, uv: Tensor, eps: float = 1e-3) -> Tensor:
    """`charbonnier` of luma plus half of that of chroma."""
    return _smooth(y.float() / Y_RANGE, eps).mean() + _smooth(uv.float() / UV_RANGE, eps).mean() / 2


def temporal_planes(y: Tensor, uv: Tensor) -> Tensor:
    """`temporal` of luma plus half of that of chroma, of clips (B, T, ...)."""
    if y.dim() != 5 or y.shape[1] < 2:
        raise ValueError(f"clips (B, T, C, H, W) of 2 frames or more are wanted, not {tuple(y.shape)}")
    y, uv = y.float() / Y_RANGE, uv.float() / UV_RANGE
    return (y[:, 1:] - y[:, :-1]).abs().mean() + (uv[:, 1:] - uv[:, :-1]).abs().mean() / 2


# -- structural similarity -------------------------------------------------------------------------------


def ssim(output: Tensor, truth: Tensor) -> Tensor:
    """SSIM per picture (B,), mean over channels and valid pixels (Wang et al., 2004).

    Gaussian window 11 with sigma 1.5, population covariance, data range 1: the figure of
    `skimage.metrics.structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)`.
    """
    return _ssim_parts(*_prepare(output, truth, WINDOW))[0].mean(dim=1)


def ms_ssim(output: Tensor, truth: Tensor, scales: int | None = None) -> Tensor:
    """Multi-scale SSIM per picture (B,), mean over channels (Wang et al., 2003).

    Five scales want sides of 176; smaller pictures use as many as fit (or `scales`), with the weights of
    these scaled to sum 1. A scale's negative similarity counts as 0.0001: it has no real power.
    """
    x, y = _prepare(output, truth, WINDOW)
    fit = min(5, 1 + int(math.log2(min(x.shape[-2:]) / WINDOW)))
    scales = scales or fit
    if not 1 <= scales <= fit:
        raise ValueError(
            f"{scales} scales do not fit {tuple(x.shape)}: at most {fit}, sides of {WINDOW} at the last"
        )
    weights = [w / sum(MS_SSIM_WEIGHTS[:scales]) for w in MS_SSIM_WEIGHTS[:scales]]
    product = torch.ones(x.shape[:2], dtype=x.dtype, device=x.device)
    for scale, weight in enumerate(weights, 1):
        similarity, contrast = _ssim_parts(x, y)
        product = product * (similarity if scale == scales else contrast).clamp(min=1e-4) ** weight
        if scale < scales:
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return product.mean(dim=1)


def ssim_loss(output: Tensor, truth: Tensor) -> Tensor:
    """1 - SSIM."""
    return 1 - ssim(output, truth).mean()


def ms_ssim_loss(output: Tensor, truth: Tensor) -> Tensor:
    """1 - MS-SSIM, with as many scales as fit."""
    return 1 - ms_ssim(output, truth).mean()


def _ssim_parts(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM and its contrast-structure half, each (B, C)."""
    c = x.shape[1]
    window = _window(x.device, x.dtype).expand(4 * c, 1, 1, WINDOW)  # one filter a map: depthwise is fastest
    maps = torch.cat((x, y, x * x + y * y, x * y), dim=1)
    with torch.autocast(x.device.type, enabled=False):
        maps = F.conv2d(F.conv2d(maps, window, groups=4 * c), window.transpose(2, 3), groups=4 * c)
    mean_x, mean_y, squares, product = maps.flatten(2).chunk(4, dim=1)
    c1, c2 = 0.01**2, 0.03**2
    variances = squares - mean_x * mean_x - mean_y * mean_y  # the sum of both
    contrast = (2 * (product - mean_x * mean_y) + c2) / (variances + c2)
    luminance = (2 * mean_x * mean_y + c1) / (mean_x * mean_x + mean_y * mean_y + c1)
    return (luminance * contrast).mean(-1), contrast.mean(-1)


@cache
def _window(device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # kept for later calls, which may want gradients through it
        x = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
        weights = torch.exp(-0.5 * (x / SIGMA) ** 2)
        return (weights / weights.sum()).to(device, dtype)


# -- features --------------------------------------------------------------------------------------------


class PerceptualLoss(nn.Module):
    """Mean squared difference of a frozen network's features (Johnson et al., ECCV 2016).

    `network(pictures)` gives a list of feature tensors: `VGG16Features` or `ResNet18`, which normalise by
    themselves. `size` resizes the pictures first (the ResNet report: 224). On tiny students it breeds texture
    that flickers: opt in, and look.
    """

    def __init__(self, network: nn.Module, size: int | None = None) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()
        self.size = size

    def train(self, mode: bool = True) -> PerceptualLoss:
        super().train(mode)
        self.network.eval()  # its batch norms must not follow the student's pictures
        return self

    def forward(self, output: Tensor, truth: Tensor) -> Tensor:
        output, truth = _prepare(output, truth)
        with torch.no_grad():
            wanted = self.network(self._resized(truth))
        pairs = zip(self.network(self._resized(output)), wanted, strict=True)
        return torch.stack([(a.float() - b.float()).square().mean() for a, b in pairs]).mean()

    def _resized(self, x: Tensor) -> Tensor:
        if self.size is None:
            return x
        return F.interpolate(x, size=(self.size, self.size), mode="bilinear", antialias=True)


class FeatureDistillation(nn.Module):
    """Mean squared difference of student's and teacher's features (FitNets, Romero et al., 2015).

    Pairs of features have the same height and width; where their channels differ, a 1x1 convolution
    translates the student's. These adapters learn too: give `parameters()` to the optimiser.
    """

    def __init__(self, student_channels: Sequence[int], teacher_channels: Sequence[int]) -> None:
        super().__init__()
        self.adapters = nn.ModuleList(
            nn.Identity() if ours == theirs else nn.Conv2d(ours, theirs, 1)
            for ours, theirs in zip(student_channels, teacher_channels, strict=True)
        )

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        if not len(student) == len(teacher) == len(self.adapters):
            raise ValueError(f"{len(student)} and {len(teacher)} features for {len(self.adapters)} adapters")
        pairs = zip(self.adapters, student, teacher, strict=True)
        return torch.stack([mse(adapt(ours), theirs) for adapt, ours, theirs in pairs]).mean()


class Taps(AbstractContextManager["Taps"]):
    """Collects what submodules of `model` put out, by name, while the context is open.

    `with Taps(model, ["latent"]) as taps: model(x); taps.features` is a list in the order of the names, of
    the latest forward pass. Raises AttributeError for a name that the model has not.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self._names = list(names)
        self._found: dict[str, Tensor] = {}
        modules = [model.get_submodule(name) for name in names]
        self._hooks = [
            module.register_forward_hook(lambda _m, _i, out, name=name: self._found.update({name: out}))
            for module, name in zip(modules, names, strict=True)
        ]

    @property
    def features(self) -> list[Tensor]:
        return [self._found[name] for name in self._names]

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()


# -- a teacher's word, and time --------------------------------------------------------------------------


def distillation(
    output: Tensor, teacher: Tensor, truth: Tensor, gate: bool = True, eps: float = 1e-3
) -> Tensor:
    """Charbonnier towards the teacher's output, where that is nearer to the truth than the student's.

    Without `gate`, everywhere. The mean is over all elements, so that the term fades as the student
    overtakes.
    """
    toward = _smooth(_difference(output, teacher), eps)
    if not gate:
        return toward.mean()
    nearer = _difference(teacher, truth).abs() < _difference(output.detach(), truth).abs()
    return (toward * nearer).mean()


def temporal(output: Tensor, truth: Tensor) -> Tensor:
    """Mean |(o_t - o_(t-1)) - (y_t - y_(t-1))| of clips (B, T, C, H, W): flicker that the truth has not."""
    if output.dim() != 5 or output.shape[1] < 2:
        raise ValueError(f"clips (B, T, C, H, W) of 2 frames or more are wanted, not {tuple(output.shape)}")
    d = _difference(output, truth)  # (B, T, C, H, W): the formula, put the other way round
    return (d[:, 1:] - d[:, :-1]).abs().mean()


# -- recipes ---------------------------------------------------------------------------------------------


PLANES = ("y", "uv")


@dataclass(frozen=True)
class Term:
    """One entry of a recipe's [loss]: a function, and which of WeightedLoss.forward's tensors it takes."""

    compute: Callable[..., Tensor] | None  # None: a module that WeightedLoss is given or builds
    takes: tuple[str, ...] = ("output", "truth")
    weights: str = ""  # the published weights that the module wants


LOSSES: dict[str, Term] = {
    "l1": Term(l1),
    "mse": Term(mse),
    "psnr": Term(psnr_loss),
    "charbonnier": Term(charbonnier),
    "ssim": Term(ssim_loss),
    "ms_ssim": Term(ms_ssim_loss),
    "edge": Term(edge),
    "laplacian": Term(laplacian),
    "temporal": Term(temporal),
    "vgg16": Term(None, weights="vgg16"),
    "resnet18": Term(None, weights="resnet18"),
    "psnr_planes": Term(psnr_planes, PLANES),
    "charbonnier_planes": Term(charbonnier_planes, PLANES),
    "temporal_planes": Term(temporal_planes, PLANES),
    "distill": Term(distillation, ("output", "teacher", "truth")),
    "l1_teacher": Term(l1, ("output", "teacher")),
    "mse_teacher": Term(mse, ("output", "teacher")),
    "charbonnier_teacher": Term(charbonnier, ("output", "teacher")),
    "features": Term(None, ("student_features", "teacher_features")),
}


class WeightedLoss(nn.Module):
    """The weighted sum of a recipe's terms.

    Args:
        weights: term -> weight, terms of `LOSSES`; a weight of 0 leaves its term out.
        vgg16, resnet18: files of the published weights that the terms of these names want.
        features: the module of the term "features".

    Raises ConfigError for an unknown term, a weight that is no number of 0 or more, a module that is missing;
    ModelError for a file of weights that cannot be used.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        *,
        vgg16: str | Path | None = None,
        resnet18: str | Path | None = None,
        features: FeatureDistillation | None = None,
    ) -> None:
        super().__init__()
        for name, weight in weights.items():
            if name not in LOSSES:
                raise ConfigError(f"unknown loss {name!r}", f"known: {', '.join(LOSSES)}")
            if not (math.isfinite(weight) and weight >= 0):
                raise ConfigError(f"loss {name!r} has the weight {weight}", "give a number of 0 or more")
        self.weights = {name: float(weight) for name, weight in weights.items() if weight}
        if not self.weights:
            raise ConfigError("no loss has a weight above 0", f"known losses: {', '.join(LOSSES)}")
        self.modules_of = nn.ModuleDict()
        for name in self.weights:
            path = {"vgg16": vgg16, "resnet18": resnet18}.get(name)
            if (file := LOSSES[name].weights) and path is None:
                raise ConfigError(
                    f"loss {name!r} needs the file of {file}'s weights",
                    f"fetch it with: python -m training.weights {file}",
                )
            if name == "vgg16" and path is not None:
                self.modules_of[name] = PerceptualLoss(VGG16Features.from_file(path))
            elif name == "resnet18" and path is not None:
                self.modules_of[name] = PerceptualLoss(ResNet18.from_file(path), size=224)
            elif name == "features":
                if features is None:
                    raise ConfigError("loss 'features' needs a FeatureDistillation", "pass it as features=")
                self.modules_of[name] = features

    @property
    def needs_teacher(self) -> bool:
        return any("teacher" in LOSSES[name].takes for name in self.weights)

    @property
    def needs_rgb(self) -> bool:
        return any(LOSSES[name].takes != PLANES for name in self.weights)

    def forward(
        self,
        output: Tensor | None = None,
        truth: Tensor | None = None,
        teacher: Tensor | None = None,
        student_features: Sequence[Tensor] | None = None,
        teacher_features: Sequence[Tensor] | None = None,
        y: Tensor | None = None,
        uv: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The total, and each term's unweighted value, detached.

        Pictures (B, C, H, W), or clips (B, T, C, H, W), whose frames all terms but temporal ones see one by one;
        `y` and `uv` are differences of planes. Of clips of a single frame the temporal ones say nothing.
        Raises ValueError when a term's tensor is not given.
        """
        given = {
            "output": output,
            "truth": truth,
            "teacher": teacher,
            "student_features": student_features,
            "teacher_features": teacher_features,
            "y": y,
            "uv": uv,
        }
        values = {}
        for name in self.weights:
            term = LOSSES[name]
            missing = [what for what in term.takes if given[what] is None]
            if missing:
                raise ValueError(f"loss {name!r} was not given: {', '.join(missing)}")
            arguments = [given[what] for what in term.takes]
            if name.startswith("temporal") and all(a.dim() == 5 and a.shape[1] == 1 for a in arguments):  # type: ignore[union-attr]
                continue
            if not name.startswith("temporal"):
                arguments = [
                    a.flatten(0, 1) if isinstance(a, Tensor) and a.dim() == 5 else a for a in arguments
                ]
            values[name] = (term.compute or self.modules_of[name])(*arguments)
        total = torch.stack([self.weights[name] * value for name, value in values.items()]).sum()
        return total, {name: value.detach() for name, value in values.items()}


# -- shared ----------------------------------------------------------------------------------------------


def _prepare(output: Tensor, wanted: Tensor, side: int = 1) -> tuple[Tensor, Tensor]:
    """Both in float32 (float64 stays), `wanted` without gradient, once they are known to be comparable."""
    if not (output.is_floating_point() and wanted.is_floating_point()):
        raise TypeError(f"losses compare floats in 0..1, not {output.dtype} with {wanted.dtype}")
    if output.shape != wanted.shape:
        raise ValueError(f"shapes {tuple(output.shape)} and {tuple(wanted.shape)} differ")
    if side > 1 and (output.dim() != 4 or min(output.shape[-2:]) < side):
        raise ValueError(f"(B, C, H, W) with sides of {side} or more is wanted, not {tuple(output.shape)}")
    dtype = torch.promote_types(output.dtype, torch.float32)
    return output.to(dtype), wanted.detach().to(dtype)


def _difference(output: Tensor, wanted: Tensor, side: int = 1) -> Tensor:
    output, wanted = _prepare(output, wanted, side)
    return output - wanted


def _smooth(d: Tensor, eps: float) -> Tensor:
    return (d.square() + eps * eps).sqrt()
