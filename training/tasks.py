"""What a training step computes: networks, batch -> losses. The loop knows nothing of either.

A task is a module whose `forward(batch, step)` returns the total loss and its parts, so that multi-process
wrappers see one ordinary module (after timm's task objects).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from training.errors import RecipeError
from training.losses import LOSSES, WeightedLoss
from training.metrics import CEILING, flicker, psnr, ssim
from training.networks.restormer import Restormer
from training.networks.student import WEIGHT_LEVELS, Student, StudentConfig
from training.recipe import Network, Recipe

KEPT = 3  # frames of a clip that the losses see
PERFECT = 45.0  # dB: an input this near to the truth only wants to be left alone
Batch = tuple[Tensor, Tensor]  # degraded and true I420 clips, uint8 (B, T, H * 3 // 2, W)

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "student": lambda **o: Student(StudentConfig(**o)),
    "restormer": Restormer,
}


def build(network: Network) -> nn.Module:
    """The network that a recipe names. Raises RecipeError."""
    if network.kind not in NETWORKS:
        raise RecipeError(f"unknown network {network.kind!r}; known: {', '.join(NETWORKS)}")
    try:
        return NETWORKS[network.kind](**network.options)
    except TypeError as e:
        raise RecipeError(f"network {network.kind!r}: {e}") from e


def planes(clips: Tensor) -> tuple[Tensor, Tensor]:
    """uint8 I420 (..., H * 3 // 2, W) -> float grey levels y (..., 1, H, W) and uv (..., 2, H/2, W/2)."""
    height, width = clips.shape[-2] * 2 // 3, clips.shape[-1]
    lead = clips.shape[:-2]
    y = clips[..., :height, :].reshape(*lead, 1, height, width)
    uv = clips[..., height:, :].reshape(*lead, 2, height // 2, width // 2)
    return y.float(), uv.float()


def to_rgb(y: Tensor, uv: Tensor) -> Tensor:
    """Limited-range BT.601 planes (..., 1, H, W), (..., 2, H/2, W/2) in grey levels -> RGB (..., 3, H, W),
    0..1, not clamped. The losses and metrics see what people see: RGB with bilinear chroma."""
    lead = y.shape[:-3]
    y, uv = y.reshape(-1, *y.shape[-3:]), uv.reshape(-1, *uv.shape[-3:])
    y = (y - 16) / 219
    uv = F.interpolate((uv - 128) / 224, scale_factor=2, mode="bilinear")
    u, v = uv[:, :1], uv[:, 1:]
    rgb = torch.cat([y + 1.402 * v, y - 0.344136 * u - 0.714136 * v, y + 1.772 * u], dim=1)
    return rgb.reshape(*lead, *rgb.shape[1:])


def needs_teacher(loss: str) -> bool:
    """Whether the term of this name compares with what the teacher says."""
    return loss in LOSSES and "teacher" in LOSSES[loss].takes


class Task(nn.Module):
    """Base: `student` is what is trained."""

    student: nn.Module

    def forward(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        raise NotImplementedError

    def restore(self, soft: Tensor) -> Tensor:
        """Degraded uint8 clips (B, T, H * 3 // 2, W) -> RGB (B, T, 3, H, W), 0..1."""
        raise NotImplementedError

    @torch.no_grad()
    def validate(self, soft: Tensor, sharp: Tensor) -> dict[str, float]:
        """Mean figures of a batch of clips, RGB, over the later half of each: PSNR and SSIM of input and
        output where the input is damaged, `kept` (PSNR to the input) where it is not, and both flickers in
        grey levels."""
        out = _uint8(self.restore(soft))
        before, truth = (_uint8(to_rgb(*planes(c))) for c in (soft, sharp))
        rows: dict[str, list[float]] = {}

        def note(**values: float) -> None:
            for name, value in values.items():
                rows.setdefault(name, []).append(value)

        for i in range(len(truth)):
            for t in range(truth.shape[1] // 2, truth.shape[1]):
                level = psnr(before[i, t], truth[i, t])
                if level > PERFECT:
                    note(kept=min(psnr(out[i, t], truth[i, t]), CEILING))
                    continue
                after = min(psnr(out[i, t], truth[i, t]), CEILING)
                note(psnr_input=level, psnr=after, gain=after - level)
                note(ssim_input=ssim(before[i, t], truth[i, t]), ssim=ssim(out[i, t], truth[i, t]))
            if len(truth[i]) > 1:
                note(flicker_input=flicker(before[i], truth[i]), flicker=flicker(out[i], truth[i]))
        return {name: float(np.mean(values)) for name, values in rows.items()}


def _uint8(rgb: Tensor) -> NDArray[np.uint8]:
    """RGB (..., 3, H, W) 0..1 -> numpy (..., H, W, 3) uint8."""
    return (rgb.clamp(0, 1) * 255).round().to(torch.uint8).movedim(-3, -1).cpu().numpy()


class ClipTask(Task):
    """The recurrent student on clips, with a frozen RGB teacher beside it where the recipe has one.

    The teacher sees one frame of each clip (it costs many times the student); its word fades out along a
    cosine, so that the truth has the last word; with the loss `distill` it counts only where it is nearer to
    the truth than the student. A recipe without a loss against the truth has the teacher's word alone.
    """

    def __init__(self, recipe: Recipe, teacher: nn.Module | None = None) -> None:
        super().__init__()
        self.student = build(recipe.network)
        self.steps, self.seed = recipe.train.steps, recipe.train.seed
        self.share, self.frames = recipe.data.taught, recipe.data.frames
        self.quantize_from, self.quantized = recipe.train.quantize_from, False
        if recipe.loss.get("temporal") and recipe.data.frames < 2:
            raise RecipeError("loss 'temporal' compares frames: data.frames has to be 2 or more")
        taught = {name: weight for name, weight in recipe.loss.items() if needs_teacher(name)}
        own = {name: weight for name, weight in recipe.loss.items() if name not in taught}
        self.taught = WeightedLoss(taught) if teacher is not None and any(taught.values()) else None
        self.loss = WeightedLoss(own) if any(own.values()) or self.taught is None else None
        self.teacher = teacher
        if teacher is not None:
            teacher.requires_grad_(False).eval()

    def forward(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        soft, sharp = batch
        self.quantized = step >= self.quantize_from * self.steps
        self._quantize()
        # clips may be longer than this recipe looks at; and neighbouring frames are nearly the same lesson,
        # so the recursion runs through all, and the losses see a few
        rng = np.random.default_rng((self.seed, step))
        start = int(rng.integers(max(1, soft.shape[1] - self.frames + 1)))
        soft, sharp = (c[:, start : start + self.frames] for c in (soft, sharp))
        first = int(rng.integers(max(1, soft.shape[1] - KEPT + 1)))
        keep = slice(first, first + KEPT)
        y, uv = planes(soft)
        y_out, uv_out = self.student.clip(y, uv, keep)  # type: ignore[operator]
        out, truth = to_rgb(y_out.float(), uv_out.float()), to_rgb(*planes(sharp[:, keep]))
        total, parts = self.loss(out, truth) if self.loss is not None else (out.new_zeros(()), {})
        if self.taught is not None and self.teacher is not None:
            frame = int(rng.integers(out.shape[1]))
            pupils = max(1, round(self.share * len(out)))
            with torch.no_grad():
                word = self.teacher(to_rgb(y[:pupils, first + frame], uv[:pupils, first + frame])).float()
            taught, more = self.taught(out[:pupils, frame], truth[:pupils, frame], word)
            fade = 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.steps)))
            total = total + taught * (fade if self.loss is not None else 1.0)
            parts |= more
        return total, parts

    def _quantize(self) -> None:
        if isinstance(self.student, Student):
            self.student.quantize_weights(WEIGHT_LEVELS if self.quantized else 0)

    def restore(self, soft: Tensor) -> Tensor:
        self._quantize()  # the averaged student, too, which a validation puts in the place of the trained one
        y, uv = self.student.clip(*planes(soft))  # type: ignore[operator]
        return to_rgb(y.clamp(0, 255).round().float(), uv.clamp(0, 255).round().float())


class FrameTask(Task):
    """An RGB network on single frames of clips: the teacher's own training."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.student = build(recipe.network)
        if wrong := [n for n, w in recipe.loss.items() if w and (n == "temporal" or needs_teacher(n))]:
            raise RecipeError(f"single frames without a teacher cannot have the loss {wrong[0]!r}")
        self.loss, self.seed = WeightedLoss(recipe.loss), recipe.train.seed

    def forward(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        soft, sharp = batch
        frame = int(np.random.default_rng((self.seed, step)).integers(soft.shape[1]))
        total, parts = self.loss(
            self.student(to_rgb(*planes(soft[:, frame]))), to_rgb(*planes(sharp[:, frame]))
        )
        return total, parts

    def restore(self, soft: Tensor) -> Tensor:
        frames = to_rgb(*planes(soft))
        out = [self.student(f) for f in torch.split(frames.flatten(0, 1), 8)]
        return torch.cat(out).float().view_as(frames)


def make_task(recipe: Recipe, teacher: nn.Module | None = None) -> Task:
    """The task of a recipe, its weights from the recipe's seed alone. Raises RecipeError, ConfigError."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.train.seed)
        return ClipTask(recipe, teacher) if recipe.task == "clips" else FrameTask(recipe)
