"""The data protocols of the published reports: how each makes its blurred input.

Three pure functions, `pairs`, `faces` and `gaussian`, each from a sharp picture (and, for `pairs`, its blurred
partner) to the two whole pictures; `Pictures` draws from them by number, as `training.data.Clips` does from
clips. All pictures are RGB uint8 (H, W, 3). What the reports leave open, and what was chosen, is in
training/PUBLISHED.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from training.degrade import motion_kernel
from training.errors import DataError
from training.library import Library, Picture, Recent, read_picture

Pair = tuple[Picture, Picture]  # blurred, sharp

# of faces: neither kernel sizes nor lengths are in the report
FACE_SIGMAS = (1.0, 2.5)
FACE_MOTIONS = (5.0, 11.0)

_small = Recent(256 << 20)  # sharp pictures at the size that a protocol gives them


def pairs(blur: Picture, sharp: Picture, side: int = 0) -> Pair:
    """Real blur, as it was photographed: both squashed to `side` x `side`, or as they are where it is 0."""
    return squashed(blur, side), squashed(sharp, side)


def faces(sharp: Picture, side: int, rng: np.random.Generator) -> Pair:
    """The square in the middle at `side` x `side`, under a Gaussian or a motion blur, which by chance."""
    truth = squashed(middle(sharp), side)
    if rng.random() < 0.5:
        return blurred(truth, float(rng.uniform(*FACE_SIGMAS))), truth
    kernel = motion_kernel(float(rng.uniform(*FACE_MOTIONS)), float(rng.uniform(0, np.pi)))
    return np.asarray(cv2.filter2D(truth, -1, kernel, borderType=cv2.BORDER_REFLECT_101), np.uint8), truth


def gaussian(sharp: Picture, side: int, sigma: float, shrink: int = 1) -> Pair:
    """Squashed to `side` x `side`, blurred by a Gaussian of `sigma` pixels, then scaled down by `shrink` (mean
    of areas) and up again (bilinear)."""
    truth = squashed(sharp, side)
    soft = blurred(truth, sigma)
    if shrink > 1:
        height, width = truth.shape[:2]
        small = cv2.resize(soft, (width // shrink, height // shrink), interpolation=cv2.INTER_AREA)
        soft = np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    return soft, truth


def middle(picture: Picture) -> Picture:
    """The largest square around the middle."""
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return picture[top : top + side, left : left + side]


def squashed(picture: Picture, side: int) -> Picture:
    """Scaled to `side` x `side` whatever its shape, as three of the reports do; as it is where `side` is 0."""
    if side in (0, *picture.shape[:1]) and side in (0, *picture.shape[1:2]):
        return picture
    kind = cv2.INTER_AREA if min(picture.shape[:2]) >= side else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, (side, side), interpolation=kind), np.uint8)


def blurred(picture: Picture, sigma: float) -> Picture:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma), np.uint8) if sigma else picture


@dataclass(frozen=True)
class PictureSpec:
    """What `Pictures` makes: see `training.recipe.Data`. `blind` never opens a true picture."""

    protocol: str
    side: int = 0
    crop: int = 128
    blur: float = 0.0
    shrink: int = 1
    seed: int = 0
    blind: bool = False

    def __post_init__(self) -> None:
        if self.blind and self.protocol != "pairs":
            raise DataError(
                f"protocol {self.protocol!r} blurs the truth: only pairs can do without reading it"
            )


class Pictures:
    """Pairs of single pictures by number: which one, its blur, crop and mirroring follow from the number.

    Every picture comes once an epoch, in an order of the epoch's own. `origin` says where they come from, for
    checkpoints. Raises DataError where a library has none that the protocol can use.
    """

    def __init__(self, library: Library, spec: PictureSpec) -> None:
        self.library, self.spec = library, spec
        if spec.protocol == "pairs":
            self.files: list[tuple[Path, Path]] = library.pairs
        else:  # the sharp half of a pair is a sharp picture
            truths = sorted({*library.stills, *(sharp for _, sharp in library.pairs)})
            self.files = [(path, path) for path in truths]
        if not self.files:
            wanted = (
                "pairs of a blurred and a sharp picture" if spec.protocol == "pairs" else "sharp pictures"
            )
            raise DataError(f"protocol {spec.protocol!r} needs {wanted}, and the data folder has none")
        self.origin: dict[str, Any] = {"folders": library.folders, "pictures": asdict(spec)}

    def __len__(self) -> int:
        return len(self.files)

    def seeing(self) -> Pictures:
        """The same with the truth in it: for a teacher, whose student is blind."""
        return Pictures(self.library, replace(self.spec, blind=False))

    def name(self, number: int) -> str:
        return self.files[number % len(self)][0].stem.replace(" ", "_")

    def whole(self, number: int) -> Pair:
        """Picture `number` as a whole, in the order of the files; each time round has another blur.

        Raises DataError for a file that cannot be read.
        """
        again, place = divmod(number, len(self))
        return self._made(place, np.random.default_rng((self.spec.seed, again, place)))

    def batch(self, numbers: Iterable[int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """(blurred, true), each (B, 1, 3, crop, crop); the true ones are black where `spec.blind`.

        Raises DataError for a file that cannot be read.
        """
        made = [self._crop(number) for number in numbers]
        soft, sharp = (np.stack([pair[i].transpose(2, 0, 1)[None] for pair in made]) for i in (0, 1))
        return soft, sharp

    def _crop(self, number: int) -> Pair:
        epoch, place = divmod(number, len(self))
        rng = np.random.default_rng((self.spec.seed, number))
        pair = self._made(_order(self.spec.seed, epoch, len(self))[place], rng)
        crop = self.spec.crop
        height, width = pair[0].shape[:2]
        if min(height, width) < crop:
            raise DataError(
                f"{self.files[place][0]} is {width}x{height}: crops of {crop} do not fit; lower data.crop"
            )
        top, left = int(rng.integers(height - crop + 1)), int(rng.integers(width - crop + 1))
        step = -1 if rng.random() < 0.5 else 1
        soft, sharp = (p[top : top + crop, left : left + crop][:, ::step] for p in pair)
        return soft, sharp

    def _made(self, place: int, rng: np.random.Generator) -> Pair:
        spec, (soft, sharp) = self.spec, self.files[place]
        if spec.protocol == "pairs":
            blur = read_picture(soft)
            truth = np.zeros_like(blur) if spec.blind else read_picture(sharp)
            if blur.shape != truth.shape:
                raise DataError(f"{soft} and {sharp} differ in size")
            return pairs(blur, truth, spec.side)
        # scaling a photo down takes longer than a training step of a small network: once is enough
        cut = middle if spec.protocol == "faces" else lambda picture: picture
        truth = _small.get(
            (sharp, spec.side, spec.protocol), lambda: squashed(cut(read_picture(sharp)), spec.side)
        )
        if spec.protocol == "faces":
            return faces(truth, spec.side, rng)
        return gaussian(truth, spec.side, spec.blur, spec.shrink)


@lru_cache(maxsize=8)
def _order(seed: int, epoch: int, count: int) -> list[int]:
    order: list[int] = np.random.default_rng((seed, epoch, count)).permutation(count).tolist()
    return order
