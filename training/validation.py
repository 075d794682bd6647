"""Validation sets: pictures that training never sees, through cameras that training does not have.

    python -m training.validation --data DIR --out SETS

writes one folder a set, each with `blur/` and `sharp/` of the same names, for `python -m training.evaluate
--pairs` (the `clip-*` ones with `--clip`). Besides the training's own simulator, whose new pictures flatter a
network, there are simulators written another way round; real pairs (GoPro, REDS) need no preparation.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from training import degrade
from training.degrade import Image
from training.errors import DataError, run
from training.library import Library, read_picture, read_video, scan, video_length

CROP = (512, 768)  # height, width at most
CLIP_FRAMES = 24

Simulator = Callable[[Image, np.random.Generator], Image]


def webcam(image: Image, rng: np.random.Generator) -> Image:
    """The training's own simulator."""
    return degrade.degrade_clip([image], degrade.sample_webcam(rng, identity=0), rng)[0]


def webcam2(image: Image, rng: np.random.Generator) -> Image:
    """Another simulator: everything on gamma-encoded values, noise after scaling, JPEG always.

    Gaussian 0.5..1.6, disk 0.8..2 or motion 2..7; area scaling 1..1.6; noise of up to 8 grey levels that
    grows with brightness; bilateral smear half of the time; JPEG 50..92.
    """
    kind = int(rng.integers(3))
    if kind == 0:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.5, 1.6))), np.float32)
    elif kind == 1:
        image = degrade.convolve(image, degrade.disk_kernel(float(rng.uniform(0.8, 2.0))))
    else:
        image = degrade.convolve(
            image, degrade.motion_kernel(float(rng.uniform(2, 7)), float(rng.uniform(0, np.pi)))
        )
    height, width = image.shape[:2]
    scale = float(rng.uniform(1, 1.6))
    image = degrade.resize(image, round(width / scale), round(height / scale), cv2.INTER_AREA)
    level = float(rng.uniform(0, 8)) / 255
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    image = np.clip(image + level * (0.5 + 0.5 * np.sqrt(np.maximum(image, 0))) * noise, 0, 1).astype(
        np.float32
    )
    if rng.random() < 0.5:
        image = degrade.smear(image, 0.06, 1.5)
    image = np.clip(degrade.resize(image, width, height, cv2.INTER_CUBIC), 0, 1)
    return degrade.mjpeg(image, int(rng.integers(50, 93)), chroma_422=False)


def lens(image: Image, rng: np.random.Generator) -> Image:
    """A good camera with a soft lens: blur that grows towards the corners, hardly any noise, JPEG 90."""
    height, width = image.shape[:2]
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    corner = ((x**2 + y**2) / 2)[..., None]
    linear = degrade.to_linear(image)
    middle = cv2.GaussianBlur(linear, (0, 0), float(rng.uniform(0.45, 0.7)))
    edge = cv2.GaussianBlur(linear, (0, 0), float(rng.uniform(0.9, 1.3)))
    blurred = np.asarray(middle * (1 - corner) + edge * corner, np.float32)
    soft = degrade.sensor_noise(blurred, 2e-4, 1e-3, rng)
    return degrade.mjpeg(degrade.to_gamma(soft), 90, chroma_422=True)


def gaussian(image: Image, rng: np.random.Generator) -> Image:
    """Gaussian of radius 1.5 and nothing else: what two of the published reports trained and tested on."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 1.5), np.float32)


def sharp(image: Image, rng: np.random.Generator) -> Image:
    """A perfect camera: what comes in should go out."""
    return image


SIMULATORS: dict[str, Simulator] = {
    "webcam": webcam, "webcam2": webcam2, "lens": lens, "gaussian": gaussian, "sharp": sharp,
}  # fmt: skip


def pictures(library: Library) -> list[tuple[str, NDArray[np.uint8]]]:
    """The held-out pictures, cut to sides of at most CROP around their middle, and a name for each."""
    out: dict[str, NDArray[np.uint8]] = {}
    for path in library.stills:
        image = read_picture(path)
        height, width = (min(a, b) // 16 * 16 for a, b in zip(image.shape, CROP, strict=False))
        y, x = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        name = path.stem.replace(" ", "_")
        if name in out:  # the same name in another folder
            name = f"{path.parent.name}_{name}"
        if height and width:
            out[name] = image[y : y + height, x : x + width]
    return list(out.items())


def write(folder: Path, name: str, soft: Image, truth: NDArray[np.uint8]) -> None:
    for side, picture in (("blur", np.round(np.clip(soft, 0, 1) * 255).astype(np.uint8)), ("sharp", truth)):
        (folder / side).mkdir(parents=True, exist_ok=True)
        if not cv2.imwrite(str(folder / side / f"{name}.png"), np.ascontiguousarray(picture[..., ::-1])):
            raise OSError(f"cannot write {folder / side / name}.png")


def build(data: Path, out: Path, seed: int = 1, share: float = 0.1) -> list[Path]:
    """Writes all sets below `out`, of the `share` of the data that training never sees, and returns their folders.
    Raises DataError."""
    library = scan(data, validation=True, share=share)
    held = pictures(library)
    if not held and not library.videos:
        raise DataError(f"no single pictures and no videos to measure on below {data}")
    for set_name, simulator in SIMULATORS.items():
        for name, truth in held:
            rng = np.random.default_rng((seed, zlib.crc32(f"{set_name}/{name}".encode())))
            write(out / set_name, name, simulator(degrade.as_float(truth), rng), truth)
    # a tripod before a portrait, and a talking head: the noise is new in every frame, blur and scale stay
    camera = degrade.Webcam(
        blur="disk",
        blur_size=1.3,
        scale=1.3,
        shot=0.0015,
        read=0.002,
        smear_color=0.03,
        smear_space=1.0,
        jpeg=80,
        jpeg_422=True,
    )
    if held:
        portrait = next((p for n, p in held if n.startswith(("portrait", "unsplash"))), held[0][1])
        _clip(out / "clip-tripod", [degrade.as_float(portrait)] * CLIP_FRAMES, camera, seed)
    for path in library.videos:
        length = video_length(path)
        frames = read_video(path, min(8, max(0, length - CLIP_FRAMES)), min(CLIP_FRAMES, length))
        height, width = frames.shape[1:3]
        # half the size hides the video's own compression: that is the truth
        size = (width // 32 * 16, height // 32 * 16)
        shrunk = (cv2.resize(f, size, interpolation=cv2.INTER_AREA) for f in frames)
        clip = [degrade.as_float(np.asarray(f, np.uint8)) for f in shrunk]
        _clip(out / f"clip-{path.stem}", clip, camera, seed)
    return sorted(p for p in out.iterdir() if p.is_dir())


def _clip(folder: Path, frames: list[Image], camera: degrade.Webcam, seed: int) -> None:
    soft = degrade.degrade_clip(frames, camera, np.random.default_rng(seed))
    for i, (before, truth) in enumerate(zip(soft, frames, strict=True)):
        write(folder, f"{i:04d}", before, np.round(truth * 255).astype(np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.validation", description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--held-out", type=float, default=0.1, help="share kept out, as the data.held_out of what is measured"
    )
    args = parser.parse_args()
    for folder in build(args.data, args.out, share=args.held_out):
        print(f"{folder}: {len(list((folder / 'sharp').iterdir()))} pictures")


if __name__ == "__main__":
    run(main)
