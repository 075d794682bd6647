"""The cameras of `training.degrade` for whole batches of clips, on the device that trains.

One GPU trains a student faster than many CPU cores make its clips, and what differs from clip to clip is above
all the camera. So clips that lie packed in its memory are seen by new ones there: the same `Webcam`s and
`Lens`es, drawn by the same functions, with every step as one operation on the batch; tests hold each beside its
model in `degrade`. Video codecs and blur that drifts within a clip (noise does) are left to the packed halves.

Clips are uint8 I420 (B, T, S * 3 // 2, S) of one side S, a multiple of 16; between the steps they are float32 RGB
(B, T, 3, S, S) in 0..1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import cache

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from training.degrade import (
    GAMMA,
    Kernel,
    Lens,
    Webcam,
    disk_kernel,
    gaussian_kernel,
    motion_kernel,
    sample_lens,
    sample_webcam,
)
from training.tasks import planes, to_rgb

REACH, LENS_REACH = 16, 24  # pixels: no kernel of a webcam, and none of a lens, is wider to either side
BLOCK = 8  # of JPEG


class Cameras:
    """A table of webcams and one of lenses, on a device, for clips of one side; clips name theirs by number."""

    def __init__(
        self, webcams: Sequence[Webcam], lenses: Sequence[Lens], side: int, device: torch.device | str
    ) -> None:
        self.side, self.device = side, torch.device(device)
        self.blurs = self._table([_blur(w) for w in webcams], REACH)
        self.masks = self._table([gaussian_kernel(w.sharpen_sigma) for w in webcams], REACH)
        self.lens_luma = self._table([lens.luma for lens in lenses], LENS_REACH)
        self.lens_chroma = self._table([lens.chroma for lens in lenses], REACH)
        self.lens_noise = torch.tensor([float(lens.noise) for lens in lenses], device=self.device)
        scalers = [_scaler(w, side) for w in webcams]
        place = {scaler: i for i, scaler in enumerate(sorted(set(scalers)))}
        self.down, self.up = (
            torch.from_numpy(np.stack(matrices)).to(self.device)
            for matrices in zip(*(_scaling(side, *scaler) for scaler in place), strict=True)
        )
        # every number of every webcam, here and on the device
        self.facts = {
            f.name: np.array([float(getattr(w, f.name)) for w in webcams], np.float32)
            for f in fields(Webcam)
            if f.name not in ("blur", "codec")
        }
        self.facts["scaler"] = np.array([place[scaler] for scaler in scalers], np.float32)
        self._columns = {
            name: torch.from_numpy(values).to(self.device) for name, values in self.facts.items()
        }

    @classmethod
    def sample(
        cls, count: int, seed: int, side: int, device: torch.device | str, identity: float = 0.05
    ) -> Cameras:
        """`count` webcams and as many lenses of this seed. A camera with a codec is one without here."""
        streams = [np.random.default_rng((seed, i)) for i in range(count)]
        webcams = [replace(sample_webcam(rng, identity), codec="") for rng in streams]
        return cls(webcams, [sample_lens(rng) for rng in streams], side, device)

    def __len__(self) -> int:
        return len(self.blurs)

    @torch.no_grad()
    def photograph(self, clips: Tensor, which: NDArray[np.int64], generator: torch.Generator) -> Tensor:
        """What webcam `which[i]` makes of clip i: `degrade.photographed` for a batch."""
        rows = upload(which, self.device)
        fact = {name: values[rows].view(-1, 1, 1, 1, 1) for name, values in self._columns.items()}

        def some(image: Tensor, chosen: str | NDArray[np.bool_], step: Callable[..., Tensor]) -> Tensor:
            """`image` with `step` done to the clips whose webcams have this: it gets their images, their places
            and a lookup of their facts."""
            has = self.facts[chosen][which] > 0 if isinstance(chosen, str) else chosen
            if not has.any():
                return image
            at = upload(np.flatnonzero(has), self.device)
            return image.index_copy(0, at, step(image[at], at, lambda name: fact[name][at]))

        def recursive(x: Tensor, at: Tensor, own: Callable[[str], Tensor]) -> Tensor:
            frames = [x[:, t : t + 1] for t in range(x.shape[1])]
            for t in range(1, len(frames)):
                frames[t] = frames[t] + own("temporal") * (frames[t - 1] - frames[t])
            return torch.cat(frames, 1)

        def grainy(x: Tensor, at: Tensor, own: Callable[[str], Tensor]) -> Tensor:
            noise = _noise(x, generator)
            noise = torch.where(own("grey") > 0, noise[:, :, :1], noise)
            return x + own("grain") * wander[at] * (0.5 + 0.5 * x.clamp_min(0).sqrt()) * noise

        def masked(x: Tensor, at: Tensor, own: Callable[[str], Tensor]) -> Tensor:
            return (x + own("sharpen_amount") * (x - correlate(x, self.masks[rows[at]]))).clamp(0, 1)

        encoded, scaler = fact["encoded"] > 0, fact["scaler"].flatten().long()
        rgb = to_rgb(*planes(clips)).clamp(0, 1)
        light = torch.where(encoded, rgb, rgb**GAMMA)
        light = scale(correlate(light, self.blurs[rows]), self.down[scaler])
        wander = self._wander(fact["drift"], light.shape[1], generator)
        variance = light.clamp_min(0) * fact["shot"] * wander + (fact["read"] * wander) ** 2
        light = light + variance.sqrt() * _noise(light, generator)
        image = torch.where(encoded, light, light.clamp(0, 1) ** (1 / GAMMA))
        image = some(image, "grain", grainy).clamp(0, 1)
        image = some(image, "temporal", recursive)
        image = some(
            image, "smear_color", lambda x, at, own: smear(x, own("smear_color"), own("smear_space"))
        )
        image = some(image, "sharpen_amount", masked)
        image = scale(image, self.up[scaler]).clamp(0, 1)
        quality, wide = self.facts["jpeg"][which], self.facts["jpeg_422"][which] > 0
        for chroma_422 in (True, False):
            has = (quality > 0) & (wide == chroma_422)
            image = some(image, has, lambda x, at, own, q=quality[has], w=chroma_422: mjpeg(x, q, w))
        return torch.where(fact["identity"][..., 0] > 0, clips, to_i420(image))

    @torch.no_grad()
    def through_lens(self, clips: Tensor, which: NDArray[np.int64], generator: torch.Generator) -> Tensor:
        """What lens `which[i]` makes of clip i: `degrade.soft_lens` for a batch."""
        rows = upload(which, self.device)
        y, uv = planes(clips)
        noise = self.lens_noise[rows].view(-1, 1, 1, 1, 1)
        out = []
        for plane, kernels in ((y, self.lens_luma), (uv, self.lens_chroma)):
            soft = correlate(plane, kernels[rows])
            soft = soft + noise * _noise(soft, generator)
            out.append(soft.round().clamp(0, 255).to(torch.uint8).flatten(2))
        return torch.cat(out, 2).view(clips.shape)

    def _table(self, kernels: Sequence[Kernel], reach: int) -> Tensor:
        """Kernels of many sizes as one (n, 2 reach + 1, 2 reach + 1)."""
        table = np.zeros((len(kernels), 2 * reach + 1, 2 * reach + 1), np.float32)
        for place, kernel in zip(table, kernels, strict=True):
            r = kernel.shape[0] // 2
            place[reach - r : reach + r + 1, reach - r : reach + r + 1] = kernel
        return torch.from_numpy(table).to(self.device)

    def _wander(self, drift: Tensor, frames: int, generator: torch.Generator) -> Tensor:
        """How much noisier each frame is than the camera's usual, (B, T, 1, 1, 1): a walk from frame to frame."""
        steps = torch.randn((len(drift), frames, 1, 1, 1), generator=generator, device=self.device) * drift
        level, levels = torch.ones_like(steps[:, 0]), []
        for t in range(frames):
            level = (level + steps[:, t]).clamp(0.6, 1.5)
            levels.append(level)
        return torch.stack(levels, 1)


def upload(numbers: NDArray[np.int64], device: torch.device) -> Tensor:
    """`numbers` on the device, without waiting for it."""
    tensor = torch.from_numpy(numbers)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _blur(webcam: Webcam) -> Kernel:
    """The kernel of a webcam's optics and motion together."""
    size = webcam.blur_size
    kernel: Kernel = np.ones((1, 1), np.float32)
    if webcam.identity:
        return kernel
    if webcam.blur == "gauss":
        kernel = gaussian_kernel(size)
    elif webcam.blur == "aniso":
        kernel = gaussian_kernel(size, size * webcam.blur_ratio, webcam.blur_angle)
    elif webcam.blur == "disk":
        kernel = disk_kernel(size)
    if webcam.motion:
        motion = motion_kernel(webcam.motion, webcam.motion_angle)
        room = motion.shape[0] // 2
        kernel = np.asarray(
            cv2.filter2D(np.pad(kernel, room), -1, motion[::-1, ::-1], borderType=cv2.BORDER_CONSTANT),
            np.float32,
        )
    return kernel


Scaler = tuple[int, int, int]  # side of the sensor, and OpenCV's interpolations down and up


def _scaler(webcam: Webcam, side: int) -> Scaler:
    if webcam.identity or webcam.scale <= 1.01:
        return side, 0, 0
    return round(side / webcam.scale), webcam.down, webcam.up


@cache
def _scaling(side: int, sensor: int, down: int, up: int) -> tuple[Kernel, Kernel]:
    """OpenCV's scaling of `side` pixels to `sensor` and back, as matrices (side, side).

    Where the smaller picture ends, it is mirrored, as filters do at borders; the way back looks at none of that.
    """
    if sensor == side:
        return np.eye(side, dtype=np.float32), np.eye(side, dtype=np.float32)

    def matrix(n: int, out: int, interpolation: int) -> Kernel:
        return np.asarray(
            cv2.resize(np.eye(n, dtype=np.float32), (n, out), interpolation=interpolation), np.float32
        )

    rows = np.arange(side)
    smaller = matrix(side, sensor, down)[np.where(rows < sensor, rows, 2 * (sensor - 1) - rows)]
    larger = np.zeros((side, side), np.float32)
    larger[:, :sensor] = matrix(sensor, side, up)
    return smaller, larger


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=like.device)


# -- steps ---------------------------------------------------------------------------------------------


def scale(image: Tensor, matrices: Tensor) -> Tensor:
    """Rows and columns of images (B, T, C, S, S) through matrices (B, S, S)."""
    m = matrices[:, None, None]
    return m @ image @ m.transpose(-1, -2)


def correlate(image: Tensor, kernels: Tensor) -> Tensor:
    """`degrade.convolve` of each clip (B, T, C, S, S) with its own kernel (B, K, K), borders reflected."""
    reach, side = kernels.shape[-1] // 2, image.shape[-1]
    size = side + 2 * reach
    wide = F.pad(image.flatten(0, 1), (reach,) * 4, "reflect").view(*image.shape[:3], size, size)
    spread = torch.zeros((len(kernels), size, size), device=image.device)
    spread[:, : 2 * reach + 1, : 2 * reach + 1] = kernels
    spectrum = torch.fft.rfft2(spread).conj()[:, None, None]
    out: Tensor = torch.fft.irfft2(torch.fft.rfft2(wide) * spectrum, s=(size, size))
    return out[..., :side, :side]


def smear(image: Tensor, sigma_color: Tensor, sigma_space: Tensor) -> Tensor:
    """`degrade.smear`: OpenCV's bilateral filter over the 13 pixels within 2 of each."""
    wide = F.pad(image.flatten(0, 1), (2,) * 4, "reflect").view(
        *image.shape[:3], *(n + 4 for n in image.shape[-2:])
    )
    height, width = image.shape[-2:]
    total, weights = torch.zeros_like(image), torch.zeros_like(image[:, :, :1])
    for dy in range(-2, 3):
        for dx in range(-2, 3):
            if (far := dy * dy + dx * dx) > 4:
                continue
            near = wide[..., 2 + dy : 2 + dy + height, 2 + dx : 2 + dx + width]
            change = (near - image).abs().sum(2, keepdim=True)
            weight = torch.exp(-0.5 * ((change / sigma_color) ** 2 + far / sigma_space**2))
            total, weights = total + weight * near, weights + weight
    return total / weights


# Annex K of the JPEG standard (ITU-T T.81), as libjpeg scales them by quality
_LUMA = """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"""
_CHROMA = """17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99
99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99"""


@cache
def _all_tables(device: torch.device) -> Tensor:
    """libjpeg's tables of qualities 0 (which is 1) to 100, luma and chroma, (101, 2, 8, 8)."""
    base = np.array([_LUMA.split(), _CHROMA.split()], np.int64).reshape(2, BLOCK, BLOCK)
    factors = [5000 // max(q, 1) if q < 50 else 200 - 2 * q for q in range(101)]
    tables = [np.clip((base * factor + 50) // 100, 1, 255) for factor in factors]
    return torch.from_numpy(np.stack(tables).astype(np.float32)).to(device)


@cache
def _dct(side: int, device: torch.device) -> Tensor:
    """The orthonormal DCT of every 8 pixels of a row, as one matrix (side, side)."""
    k = np.arange(BLOCK)
    dct = np.cos(np.pi / BLOCK * (k[None] + 0.5) * k[:, None]) * np.sqrt(2 / BLOCK)
    dct[0] /= np.sqrt(2)
    return torch.from_numpy(np.kron(np.eye(side // BLOCK), dct).astype(np.float32)).to(device)


def _coded(plane: Tensor, tables: Tensor) -> Tensor:
    """One plane (B, T, 1, H, W) of a JPEG, 0..255, quantised by tables (B, 8, 8)."""
    down, across = _dct(plane.shape[-2], plane.device), _dct(plane.shape[-1], plane.device)
    steps = tables.repeat(1, plane.shape[-2] // BLOCK, plane.shape[-1] // BLOCK)[:, None, None]
    waves = down @ (plane - 128) @ across.T
    waves = (waves / steps).round() * steps
    return (down.T @ waves @ across + 128).round().clamp(0, 255)


def mjpeg(image: Tensor, qualities: NDArray[np.float32], chroma_422: bool) -> Tensor:
    """`degrade.mjpeg`, but for libjpeg's rounding within: clips (B, T, 3, S, S), one quality a clip."""
    tables = _all_tables(image.device)[upload(qualities.astype(np.int64), image.device)]
    r, g, b = (image.clamp(0, 1) * 255).round().unbind(2)
    y = 0.299 * r + 0.587 * g + 0.114 * b
    chroma = torch.stack([(b - y) / 1.772 + 128, (r - y) / 1.402 + 128], 2).round()
    block = (1, 2) if chroma_422 else (2, 2)
    flat = F.avg_pool2d(chroma.flatten(0, 1), block)
    small = flat.view(*chroma.shape[:3], *flat.shape[-2:]).round()
    y = _coded(y.round()[:, :, None], tables[:, 0])
    coded = torch.cat([_coded(small[:, :, i : i + 1], tables[:, 1]) for i in (0, 1)], 2).flatten(0, 1)
    wide = F.interpolate(coded, size=y.shape[-2:], mode="bilinear").view(chroma.shape).round() - 128
    return _rgb(y, wide[:, :, :1], wide[:, :, 1:]).round().clamp(0, 255) / 255


def _rgb(y: Tensor, u: Tensor, v: Tensor) -> Tensor:
    return torch.cat([y + 1.402 * v, y - 0.344136 * u - 0.714136 * v, y + 1.772 * u], 2)


def to_i420(image: Tensor) -> Tensor:
    """`degrade.to_i420`, limited range, of a batch."""
    r, g, b = (image.clamp(0, 1) * 255).round().unbind(2)
    y = 0.299 * r + 0.587 * g + 0.114 * b
    uv = torch.stack([(b - y) / 1.772, (r - y) / 1.402], 2) * (224 / 255)
    half = F.avg_pool2d(uv.flatten(0, 1), 2).view(*image.shape[:2], -1) + 128
    luma = (y * (219 / 255) + 16).flatten(2)
    side = image.shape[-1]
    levels = torch.cat([luma, half], 2).round().clamp(0, 255).to(torch.uint8)
    return levels.view(*image.shape[:2], side * 3 // 2, side)
