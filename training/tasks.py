"""What a training step computes: networks, batch -> losses. The loop knows nothing of either.

A task is a module whose `forward(batch, step)` returns the total loss and its parts, so that multi-process
wrappers see one ordinary module (after timm's task objects).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from sharpcam.errors import ConfigError
from training.errors import RecipeError
from training.losses import LOSSES, PLANES, WeightedLoss
from training.metrics import CEILING, flicker, psnr, ssim
from training.networks.published import PUBLISHED
from training.networks.restormer import Restormer
from training.networks.student import WEIGHT_LEVELS, Student, StudentConfig, viewed
from training.recipe import Network, Recipe
from training.weights import REGISTRY

KEPT = 3  # frames of a clip that the losses see
PERFECT = 45.0  # dB: an input this near to the truth only wants to be left alone
# degraded and true, uint8: I420 clips (B, T, H * 3 // 2, W), or RGB pictures (B, 1, 3, H, W)
Batch = tuple[Tensor, Tensor]

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "student": lambda **o: Student(StudentConfig(**o)),
    "restormer": Restormer,
    **PUBLISHED,
}


def build(network: Network) -> nn.Module:
    """The network that a recipe names. Raises RecipeError."""
    if network.kind not in NETWORKS:
        raise RecipeError(f"unknown network {network.kind!r}; known: {', '.join(NETWORKS)}")
    try:
        return NETWORKS[network.kind](**network.options)
    except (TypeError, ValueError, RuntimeError) as e:
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


def to_planes(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """The I420 planes of RGB pictures (B, 3, H, W) in 0..1, limited-range BT.601, rounded to grey levels as
    the product rounds them: y (B, 1, H, W), uv (B, 2, H/2, W/2). Without gradient."""
    r, g, b = (rgb.detach() * 255).round().unbind(1)
    y = 0.299 * r + 0.587 * g + 0.114 * b
    u, v = (b - y) / 1.772, (r - y) / 1.402
    uv = F.avg_pool2d(torch.stack([u, v], dim=1).mul(224 / 255).round(), 2).round() + 128
    return (y * 219 / 255 + 16).round()[:, None], uv


def needs_teacher(loss: str) -> bool:
    """Whether the term of this name compares with what the teacher says."""
    return loss in LOSSES and "teacher" in LOSSES[loss].takes


def refuse_planes(recipe: Recipe) -> None:
    """Raises RecipeError where a loss compares I420 planes, for tasks that have RGB pictures alone."""
    if wrong := [n for n, w in recipe.loss.items() if w and n in LOSSES and LOSSES[n].takes == PLANES]:
        raise RecipeError(f"loss {wrong[0]!r} compares the planes of clips: task {recipe.task!r} has none")


def needs_truth(recipe: Recipe) -> bool:
    """Whether any term of the recipe's loss compares with the true picture."""
    return any(
        weight and "truth" in LOSSES[name].takes for name, weight in recipe.loss.items() if name in LOSSES
    )


def feature_files(recipe: Recipe, folder: Path) -> dict[str, Path]:
    """The files in `folder`, of `training.weights`, that the recipe's feature losses want, by their names.

    Raises ConfigError where one is missing: nothing stands in for it.
    """
    wanted = {LOSSES[n].weights for n, weight in recipe.loss.items() if weight and n in LOSSES} - {""}
    files = {name: folder / REGISTRY[name].file for name in sorted(wanted)}
    for name, file in files.items():
        if not file.is_file():
            raise ConfigError(
                f"loss {name!r} needs {name}'s published weights, and {file} is not there",
                f"fetch them with `python -m training.weights {name} --out {folder}`,"
                f" or do without, which the card will say: --set loss.{name}=0",
            )
    return files


def weighted(terms: Mapping[str, float], features: Mapping[str, Path] | None) -> WeightedLoss:
    """The loss of these terms; `features` as of `feature_files`. Raises ConfigError, ModelError."""
    files = features or {}
    return WeightedLoss(terms, vgg16=files.get("vgg16"), resnet18=files.get("resnet18"))


class Task(nn.Module):
    """Base: `student` is what is trained, `teacher` (frozen) whom it may ask."""

    student: nn.Module
    teacher: nn.Module | None

    def __init__(self, recipe: Recipe, teacher: nn.Module | None = None) -> None:
        super().__init__()
        self.student = build(recipe.network)
        self.steps, self.seed = recipe.train.steps, recipe.train.seed
        self.quantize_from, self.quantized = recipe.train.quantize_from, False
        self.teacher = teacher.requires_grad_(False).eval() if teacher is not None else None

    def train(self, mode: bool = True) -> Task:
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()  # its dropout and batch norms are done with learning
        return self

    def forward(
        self, batch: Batch, step: int, passed: float | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a step and its parts; `passed` is the share of the run that is over (by default, of its
        steps)."""
        raise NotImplementedError

    def passed(self, step: int, passed: float | None) -> float:
        """The share of the run that is over; from `quantize_from` on weights are int8."""
        passed = min(1.0, step / self.steps) if passed is None else passed
        self.quantized = passed >= self.quantize_from
        self.quantize()
        return passed

    def show(self, pictures: Tensor) -> Tensor:
        """One half of a batch as RGB (B, T, 3, H, W), about 0..1."""
        return to_rgb(*planes(pictures))

    def restore(self, soft: Tensor) -> Tensor:
        """The degraded half of a batch, sharpened, as RGB (B, T, 3, H, W), about 0..1."""
        raise NotImplementedError

    def quantize(self) -> None:
        """Gives the student, or the average that stands in for it, int8 weights where it is time for them."""
        if isinstance(self.student, Student):
            self.student.quantize_weights(WEIGHT_LEVELS if self.quantized else 0)

    @torch.no_grad()
    def validate(self, soft: Tensor, sharp: Tensor) -> dict[str, float]:
        """Mean figures of a batch, RGB, over the later half of each clip: PSNR and SSIM of input and output
        where the input is damaged, `kept` (PSNR to the input) where it is not, and both flickers in grey
        levels."""
        out = _uint8(self.restore(soft))
        before, truth = (_uint8(self.show(c)) for c in (soft, sharp))
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
    """The recurrent student on clips, with a frozen RGB teacher beside it where the recipe has one; in the
    steps that see single frames (`data.singles`) the temporal losses have nothing to say.

    The teacher sees one frame of each clip (it costs many times the student); its word fades out along a
    cosine, so that the truth has the last word; with the loss `distill` it counts only where it is nearer to
    the truth than the student. A recipe without a loss against the truth has the teacher's word alone.
    """

    def __init__(
        self, recipe: Recipe, teacher: nn.Module | None = None, features: Mapping[str, Path] | None = None
    ) -> None:
        super().__init__(recipe, teacher)
        self.share, self.frames, self.side = recipe.data.taught, recipe.data.frames, recipe.data.view
        if recipe.data.frames < 2 and any(w and n.startswith("temporal") for n, w in recipe.loss.items()):
            raise RecipeError("loss 'temporal' compares frames: data.frames has to be 2 or more")
        taught = {name: weight for name, weight in recipe.loss.items() if needs_teacher(name)}
        own = {name: weight for name, weight in recipe.loss.items() if name not in taught}
        weighty = [name for name, weight in own.items() if weight]
        if recipe.data.singles and weighty and all(name.startswith("temporal") for name in weighty):
            raise RecipeError("data.singles is for a recipe with a loss against the truth of single frames")
        self.taught = WeightedLoss(taught) if teacher is not None and any(taught.values()) else None
        self.loss = weighted(own, features) if any(own.values()) or self.taught is None else None

    def forward(
        self, batch: Batch, step: int, passed: float | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        soft, sharp = batch
        passed = self.passed(step, passed)
        # clips may be longer than this recipe looks at; and neighbouring frames are nearly the same lesson,
        # so the recursion runs through all, and the losses see a few
        rng = np.random.default_rng((self.seed, step))
        start = int(rng.integers(max(1, soft.shape[1] - self.frames + 1)))
        soft, sharp = (c[:, start : start + self.frames] for c in (soft, sharp))
        # the later of two draws: a memory is worth most after some frames, and live it has thousands
        first = int(rng.integers(max(1, soft.shape[1] - KEPT + 1), size=2).max())
        keep = slice(first, first + KEPT)
        y, uv = planes(soft)
        truth = planes(sharp[:, keep])
        view = self.view(y.shape[-2], y.shape[-1], rng)
        out = tuple(p.float() for p in self.student.clip(y, uv, keep, view))  # type: ignore[operator]
        if view is not None:
            truth, (y, uv) = viewed(truth, *view), viewed((y, uv), *view)
        total, parts = out[0].new_zeros(()), {}
        if self.loss is not None:
            rgb = (to_rgb(*out), to_rgb(*truth)) if self.loss.needs_rgb else (None, None)
            total, parts = self.loss(*rgb, y=out[0] - truth[0], uv=out[1] - truth[1])
        if self.taught is not None and self.teacher is not None:
            frame = int(rng.integers(out[0].shape[1]))
            pupils = max(1, round(self.share * len(y)))
            with torch.no_grad():
                word = self.teacher(to_rgb(y[:pupils, first + frame], uv[:pupils, first + frame])).float()
            mine, wanted = (to_rgb(*(p[:pupils, frame] for p in pair)) for pair in (out, truth))
            taught, more = self.taught(mine, wanted, word)
            fade = 0.5 * (1 + math.cos(math.pi * passed))
            total = total + taught * (fade if self.loss is not None else 1.0)
            parts |= more
        return total, parts

    def view(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int] | None:
        """The square of a frame that a step sharpens, (top, left, side); None for all of it."""
        side = self.side
        if not side or side >= min(height, width):
            return None
        top, left = (8 * int(rng.integers((length - side) // 8 + 1)) for length in (height, width))
        return top, left, side

    def restore(self, soft: Tensor) -> Tensor:
        self.quantize()
        y, uv = self.student.clip(*planes(soft))  # type: ignore[operator]
        return to_rgb(y.clamp(0, 255).round().float(), uv.clamp(0, 255).round().float())


class FrameTask(Task):
    """An RGB network on single frames of clips: the teacher's own training."""

    def __init__(self, recipe: Recipe, features: Mapping[str, Path] | None = None) -> None:
        super().__init__(recipe)
        if wrong := [n for n, w in recipe.loss.items() if w and (n == "temporal" or needs_teacher(n))]:
            raise RecipeError(f"single frames without a teacher cannot have the loss {wrong[0]!r}")
        refuse_planes(recipe)
        self.loss = weighted(recipe.loss, features)

    def forward(
        self, batch: Batch, step: int, passed: float | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
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


class PictureTask(Task):
    """Single RGB pictures, as the published reports train: their networks, or a student that sees I420.

    The teacher, where there is one, looks at every picture and has the same say to the end. Where no loss
    takes the truth, none is looked at.
    """

    def __init__(
        self, recipe: Recipe, teacher: nn.Module | None = None, features: Mapping[str, Path] | None = None
    ) -> None:
        super().__init__(recipe, teacher)
        if recipe.loss.get("temporal"):
            raise RecipeError("loss 'temporal' compares frames: single pictures have none")
        refuse_planes(recipe)
        self.truthful = needs_truth(recipe)
        terms = {n: w for n, w in recipe.loss.items() if teacher is not None or not needs_teacher(n)}
        self.loss = weighted(terms, features)

    def forward(
        self, batch: Batch, step: int, passed: float | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        self.passed(step, passed)
        soft = self.show(batch[0]).flatten(0, 1)
        truth = self.show(batch[1]).flatten(0, 1) if self.truthful else None
        word = None
        if self.teacher is not None:
            with torch.no_grad():
                word = self.teacher(soft).float()
        found: tuple[Tensor, dict[str, Tensor]] = self.loss(self._sharpened(soft), truth, word)
        return found

    def _sharpened(self, rgb: Tensor) -> Tensor:
        """(B, 3, H, W), 0..1. Of a student's I420 answer the change is added, as `sharpcam process` does."""
        if not isinstance(self.student, Student):
            out: Tensor = self.student(rgb)
            return out
        y, uv = to_planes(rgb)
        y_out, uv_out = (p[:, 0] for p in self.student.clip(y[:, None], uv[:, None]))
        if not self.training:
            y_out, uv_out = y_out.clamp(0, 255).round(), uv_out.clamp(0, 255).round()
        return rgb + to_rgb(y_out, uv_out) - to_rgb(y, uv)

    def show(self, pictures: Tensor) -> Tensor:
        return pictures.float() / 255

    def restore(self, soft: Tensor) -> Tensor:
        self.quantize()
        pictures = self.show(soft)
        out = [self._sharpened(p) for p in torch.split(pictures.flatten(0, 1), 4)]
        return torch.cat(out).float().view_as(pictures)


def make_task(
    recipe: Recipe, teacher: nn.Module | None = None, features: Mapping[str, Path] | None = None
) -> Task:
    """The task of a recipe, its weights from the recipe's seed alone; `features` as of `feature_files`.

    Raises RecipeError, ConfigError, ModelError.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.train.seed)
        if recipe.task == "frames":
            return FrameTask(recipe, features)
        return (ClipTask if recipe.task == "clips" else PictureTask)(recipe, teacher, features)
