"""Pictures, clips and pairs on disk, and the training clips that are made of them.

A clip is one training sample: `frames` degraded and as many true I420 frames of `crop` x `crop` pixels.
Clip number i of a seed is a pure function of (seed, i): nothing depends on workers or on the order of
access, so a run resumes exactly. `python -m training.data pack` writes clips to one file once, for machines
that should not spend their time (or their network) on making them.

Layouts that are understood, in one folder or below it: any folder of pictures (DIV2K, CelebA, photos), any
video files, `blur/` + `sharp/` folders of the same names (also GoPro's `SCENE/blur`, `SCENE/sharp` and
REDS' `train_blur/SCENE`, `train_sharp/SCENE`), and folders named `*240fps*` of consecutive high-speed frames,
whose averages are real motion blur.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from training.degrade import Image, degrade_clip, sample_webcam, to_i420

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
VIDEOS = {".mp4", ".mkv", ".mov", ".webm", ".avi"}
MARGIN = 16  # context around a crop, so that its border is degraded like its middle


class DataError(ValueError):
    """A data folder is empty or holds nothing that can be read."""


# -- what is on disk -----------------------------------------------------------------------------------


@dataclass
class Library:
    """The files of a data folder, by what can be made of them. Paths are sorted."""

    stills: list[Path] = field(default_factory=list)
    videos: list[Path] = field(default_factory=list)
    pairs: list[tuple[Path, Path]] = field(default_factory=list)  # (blur, sharp)
    bursts: list[list[Path]] = field(default_factory=list)  # consecutive high-speed frames

    def __len__(self) -> int:
        return len(self.stills) + len(self.videos) + len(self.pairs) + len(self.bursts)


def validation_part(name: str, share: float = 0.1) -> bool:
    """Whether the picture or video of this file name is kept out of training: by a hash of its name alone,
    so that no crop, size or copy of one source ever stands on both sides."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32 < share


# folders and files that only measure, whatever their names hash to
HELD_OUT = ("gopro_val", "reds_val", "kodak", "homeoffice", "test", "valid", "DIV2K_valid")


def held_out(path: Path) -> bool:
    parts = [p.lower() for p in path.parts[-4:]]
    return any(p.startswith(h.lower()) for p in parts for h in HELD_OUT) or validation_part(path.stem)


def scan(root: Path, validation: bool = False) -> Library:
    """The training files below `root` (or, with `validation`, those that training never sees)."""
    if not root.is_dir():
        raise DataError(f"data folder {root} does not exist")
    library = Library()
    bursts: dict[Path, list[Path]] = {}
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        kind, folder = path.suffix.lower(), path.parent
        if "240fps" in folder.name and kind in PICTURES:
            bursts.setdefault(folder, []).append(path)
        elif held_out(path.relative_to(root)) != validation:
            continue
        elif kind in VIDEOS:
            library.videos.append(path)
        elif kind not in PICTURES:
            continue
        elif (partner := _sharp_partner(path)) is not None:
            library.pairs.append((path, partner))
        elif not _is_sharp_side(path):
            library.stills.append(path)
    if not validation:
        library.bursts = list(bursts.values())
    if not len(library):
        raise DataError(f"no {'validation' if validation else 'training'} pictures or videos below {root}")
    return library


def _sharp_partner(path: Path) -> Path | None:
    parts = list(path.parts)
    for i in range(len(parts) - 2, -1, -1):
        if "blur" in parts[i].lower():
            parts[i] = parts[i].lower().replace("blur_gamma", "sharp").replace("blur", "sharp")
            partner = Path(*parts)
            return partner if partner.exists() else None
    return None


def _is_sharp_side(path: Path) -> bool:
    return any("sharp" in p.lower() for p in path.parts[-3:-1])


@lru_cache(maxsize=160)
def read_picture(path: Path) -> NDArray[np.uint8]:
    """RGB uint8 (H, W, 3). Raises DataError for a file that is no picture."""
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise DataError(f"{path} is not a readable picture")
    return np.ascontiguousarray(bgr[..., ::-1])


@lru_cache(maxsize=6)
def read_video(path: Path, start: int, count: int) -> NDArray[np.uint8]:
    """`count` RGB frames (count, H, W, 3) uint8 from frame `start` on (modulo what the file holds)."""
    import av

    frames: list[NDArray[np.uint8]] = []
    with av.open(str(path)) as container:
        for i, frame in enumerate(container.decode(video=0)):
            if i >= start:
                frames.append(frame.to_ndarray(format="rgb24"))
            if len(frames) == count:
                break
    if len(frames) < count:
        raise DataError(f"{path} has fewer than {start + count} frames")
    return np.stack(frames)


@lru_cache(maxsize=64)
def video_length(path: Path) -> int:
    import av

    with av.open(str(path)) as container:
        return sum(1 for _ in container.demux(video=0)) - 1


# -- clips ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClipSpec:
    frames: int = 6
    crop: int = 128
    seed: int = 0
    identity: float = 0.08


def make_clip(library: Library, spec: ClipSpec, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Clip `index`: (degraded, truth), each uint8 I420 (frames, crop * 3 // 2, crop)."""
    rng = np.random.default_rng((spec.seed, index))
    weights = np.array(
        [
            10.0 * bool(library.stills),
            1.5 * bool(library.videos),
            1.2 * bool(library.pairs),
            1.2 * bool(library.bursts),
        ]
    )
    kind = int(rng.choice(4, p=weights / weights.sum()))
    size = spec.crop + 2 * MARGIN
    soft: list[Image]
    if kind == 2:
        soft, sharp = _pair_clip(library, spec, size, rng)
    elif kind == 3:
        soft, sharp = _burst_clip(library, spec, size, rng)
    else:
        sharp = _still_clip(library, spec, size, rng) if kind == 0 else _video_clip(library, spec, size, rng)
        soft = sharp
    webcam = sample_webcam(rng, spec.identity)
    if kind >= 2:  # real blur is in it already: a good camera around it, sometimes a mildly bad one
        mild = sample_webcam(rng, 0.5)
        webcam = type(webcam)(
            shot=mild.shot * 0.5,
            read=mild.read * 0.5,
            jpeg=mild.jpeg and max(mild.jpeg, 70),
            identity=mild.identity,
        )
    soft = degrade_clip(soft, webcam, rng)
    full_range = bool(rng.random() < 0.2)
    inner = slice(MARGIN, MARGIN + spec.crop)
    return (
        np.stack([to_i420(f[inner, inner], full_range) for f in soft]),
        np.stack([to_i420(f[inner, inner], full_range) for f in sharp]),
    )


def _still_clip(library: Library, spec: ClipSpec, size: int, rng: np.random.Generator) -> list[Image]:
    """A camera looking at a photo: tripod, pan, zoom or shake; at times something moves in front of it."""
    if rng.random() < 0.1:
        base = screen(size * 2, rng)
    else:
        base = read_picture(library.stills[int(rng.integers(len(library.stills)))])
    motion = str(rng.choice(["tripod", "pan", "zoom", "shake"], p=[0.45, 0.25, 0.1, 0.2]))
    # photos are sharpest a little below their own size; the scale also varies how large faces are
    scale = float(rng.uniform(0.45, 1.0)) if motion == "tripod" else float(rng.uniform(0.4, 0.8))
    scale = max(scale, (size + 24) / min(base.shape[:2]))
    path = _camera_path(spec.frames, motion, rng)
    frames = _look(base, size, scale, path, rng)
    if rng.random() < 0.4:
        other = read_picture(library.stills[int(rng.integers(len(library.stills)))])
        frames = _put_in_front(frames, other, size, rng)
    if rng.random() < 0.3:  # auto-exposure and lamps: truth and input change together
        gains = 1 + np.cumsum(rng.normal(0, 0.006, spec.frames))
        frames = [np.clip(f * np.float32(g), 0, 1) for f, g in zip(frames, gains, strict=True)]
    return frames


def _camera_path(count: int, motion: str, rng: np.random.Generator) -> NDArray[np.float64]:
    """(count, 3): x and y in output pixels, and zoom factor, per frame."""
    t = np.arange(count, dtype=np.float64)
    path = np.zeros((count, 3))
    path[:, 2] = 1
    if motion == "pan":
        speed = float(rng.choice([rng.uniform(0.1, 1.0), rng.uniform(1.0, 8.0)]))
        angle = rng.uniform(0, 2 * np.pi)
        path[:, 0], path[:, 1] = speed * np.cos(angle) * t, speed * np.sin(angle) * t
    elif motion == "zoom":
        path[:, 2] = 1 + rng.uniform(-0.012, 0.012) * t
    elif motion == "shake":
        path[:, :2] = np.cumsum(rng.normal(0, rng.uniform(0.1, 1.2), (count, 2)), axis=0)
    return path


def _look(
    base: NDArray[np.uint8], size: int, scale: float, path: NDArray[np.float64], rng: np.random.Generator
) -> list[Image]:
    """`size` x `size` views of `base` along `path`. A still camera is cut out without any interpolation."""
    height, width = base.shape[:2]
    if scale < 0.98:  # shrink the neighbourhood once, with an anti-aliasing filter
        reach = min(height, width, int((size + 2 * np.abs(path[:, :2]).max() + 24) / scale))
        y0, x0 = int(rng.integers(height - reach + 1)), int(rng.integers(width - reach + 1))
        part = base[y0 : y0 + reach, x0 : x0 + reach]
        side = max(size + 2, round(reach * scale))
        part = cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    else:
        part = base
    height, width = part.shape[:2]
    cx = float(rng.integers(size // 2, max(size // 2 + 1, width - size // 2)))
    cy = float(rng.integers(size // 2, max(size // 2 + 1, height - size // 2)))
    still = np.abs(path - path[0]).max() < 1e-9
    frames: list[Image] = []
    for x, y, zoom in path[:1] if still else path:
        if still:
            x0, y0 = (
                int(np.clip(cx - size // 2, 0, width - size)),
                int(np.clip(cy - size // 2, 0, height - size)),
            )
            view = part[y0 : y0 + size, x0 : x0 + size]
        else:
            matrix = np.array(
                [[1 / zoom, 0, cx + x - size / 2 / zoom], [0, 1 / zoom, cy + y - size / 2 / zoom]]
            )
            view = cv2.warpAffine(  # type: ignore[assignment]
                part,
                matrix,
                (size, size),
                flags=cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REFLECT_101,
            )
        frames.append(view.astype(np.float32) / 255)
    if still:
        frames = frames * len(path)
    if rng.random() < 0.5:
        frames = [np.ascontiguousarray(f[:, ::-1]) for f in frames]
    return frames


def _put_in_front(
    frames: list[Image], other: NDArray[np.uint8], size: int, rng: np.random.Generator
) -> list[Image]:
    """A soft-edged piece of another photo (a hand, a cup) moves over the frames, fast or slowly."""
    count = len(frames)
    scale = max(0.5, (size + 24) / min(other.shape[:2]))
    texture = _look(other, size, scale, np.tile([0.0, 0.0, 1.0], (1, 1)), rng)[0]
    axes = rng.uniform(10, size / 3, 2)
    angle = float(rng.uniform(0, np.pi))
    speed = float(rng.choice([rng.uniform(0.3, 2.0), rng.uniform(2.0, 16.0)]))
    direction = rng.uniform(0, 2 * np.pi)
    start = rng.uniform(MARGIN, size - MARGIN, 2) - speed * count / 2 * np.array(
        [np.cos(direction), np.sin(direction)]
    )
    edge = float(rng.uniform(0.5, 2.0))
    out: list[Image] = []
    yy, xx = np.mgrid[:size, :size].astype(np.float32)
    for t, frame in enumerate(frames):
        px, py = start + speed * t * np.array([np.cos(direction), np.sin(direction)])
        u = (xx - px) * np.cos(angle) + (yy - py) * np.sin(angle)
        v = -(xx - px) * np.sin(angle) + (yy - py) * np.cos(angle)
        radius = np.sqrt((u / axes[0]) ** 2 + (v / axes[1]) ** 2)
        alpha = np.clip((1 - radius) * axes.min() / edge + 0.5, 0, 1)[..., None].astype(np.float32)
        shift = np.array([[1, 0, px - start[0]], [0, 1, py - start[1]]])
        moved = cv2.warpAffine(
            texture, shift, (size, size), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
        )
        out.append((frame * (1 - alpha) + np.clip(moved, 0, 1) * alpha).astype(np.float32))
    return out


def _video_clip(library: Library, spec: ClipSpec, size: int, rng: np.random.Generator) -> list[Image]:
    """Consecutive frames of a real video, shrunk so that its own compression and softness vanish."""
    path = library.videos[int(rng.integers(len(library.videos)))]
    chunk = max(spec.frames, 24)
    length = video_length(path)
    start = int(rng.integers(max(1, (length - chunk) // chunk + 1))) * chunk if length > chunk else 0
    frames = read_video(path, start, min(chunk, length))
    offset = int(rng.integers(len(frames) - spec.frames + 1))
    height, width = frames.shape[1:3]
    scale = max(float(rng.uniform(0.4, 0.6)), (size + 2) / min(height, width))
    reach = min(height, width, int(size / scale) + 1)
    y0, x0 = int(rng.integers(height - reach + 1)), int(rng.integers(width - reach + 1))
    part = frames[offset : offset + spec.frames, y0 : y0 + reach, x0 : x0 + reach]
    return [cv2.resize(f, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255 for f in part]


def _pair_clip(
    library: Library, spec: ClipSpec, size: int, rng: np.random.Generator
) -> tuple[list[Image], list[Image]]:
    """A pair of real blur and truth, seen by a camera that stands still or moves in whole pixels."""
    blur, sharp = (read_picture(p) for p in library.pairs[int(rng.integers(len(library.pairs)))])
    if blur.shape != sharp.shape:
        raise DataError("a blur/sharp pair differs in size")
    height, width = blur.shape[:2]
    step = rng.integers(-4, 5, 2) if rng.random() < 0.5 else np.zeros(2, int)
    travel = np.abs(step) * (spec.frames - 1)
    y0 = int(rng.integers(travel[0], height - size - travel[0]))
    x0 = int(rng.integers(travel[1], width - size - travel[1]))
    soft, true = [], []
    for t in range(spec.frames):
        y, x = y0 + step[0] * t, x0 + step[1] * t
        soft.append(blur[y : y + size, x : x + size].astype(np.float32) / 255)
        true.append(sharp[y : y + size, x : x + size].astype(np.float32) / 255)
    return soft, true


def _burst_clip(
    library: Library, spec: ClipSpec, size: int, rng: np.random.Generator
) -> tuple[list[Image], list[Image]]:
    """High-speed frames, averaged over an exposure: real motion blur with its middle frame as truth."""
    burst = library.bursts[int(rng.integers(len(library.bursts)))]
    exposure = int(rng.choice([1, 3, 5, 7, 9, 11]))
    step = int(rng.choice([2, 4, 8]))
    needed = step * (spec.frames - 1) + exposure
    start = int(rng.integers(max(1, len(burst) - needed)))
    height, width = read_picture(burst[0]).shape[:2]
    y0, x0 = int(rng.integers(height - size + 1)), int(rng.integers(width - size + 1))
    soft, true = [], []
    for t in range(spec.frames):
        first = start + t * step
        files = burst[first : first + exposure]
        window = (
            np.stack([read_picture(p)[y0 : y0 + size, x0 : x0 + size] for p in files]).astype(np.float32)
            / 255
        )
        # exposure adds light, not gamma-encoded values
        soft.append((np.mean(window**2.2, axis=0) ** (1 / 2.2)).astype(np.float32))
        true.append(window[len(window) // 2])
    return soft, true


def screen(size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A rendered screen or page: lines of text, rules and boxes, dark on light or light on dark."""
    paper, ink = rng.integers(180, 256, 3), rng.integers(0, 90, 3)
    if rng.random() < 0.4:
        paper, ink = ink, paper
    s = 2
    canvas = np.empty((size * s, size * s, 3), np.uint8)
    canvas[:] = paper
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:()"
    fonts = [
        cv2.FONT_HERSHEY_SIMPLEX,
        cv2.FONT_HERSHEY_DUPLEX,
        cv2.FONT_HERSHEY_COMPLEX,
        cv2.FONT_HERSHEY_TRIPLEX,
    ]
    y = 0.0
    while y < size * s:
        height = float(rng.uniform(7, 30)) * s
        y += height * 1.5
        text = "".join(rng.choice(list(letters + "        "), 60))
        color = [int(c) for c in (ink if rng.random() < 0.8 else rng.integers(0, 256, 3))]
        cv2.putText(
            canvas, text, (int(rng.integers(-40, 40)), int(y)), int(rng.choice(fonts)), height / 22, color,
            max(1, int(height / 14 * rng.uniform(0.7, 1.6))), cv2.LINE_AA,
        )  # fmt: skip
        if rng.random() < 0.2:
            x0, y0 = (int(v) for v in rng.integers(0, size * s, 2))
            cv2.rectangle(
                canvas,
                (x0, y0),
                (x0 + int(rng.integers(20, 300)), y0 + int(rng.integers(10, 200))),
                color,
                int(rng.choice([-1, 1, 2, 4])),
            )
    return np.asarray(cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA), np.uint8)


# -- packed clips ----------------------------------------------------------------------------------------


class Clips:
    """Clips by number: made on the fly from a library, or read from a packed file (`open_packed`)."""

    def __init__(self, library: Library, spec: ClipSpec) -> None:
        self.library, self.spec = library, spec
        self.packed: NDArray[np.uint8] | None = None

    @classmethod
    def open_packed(cls, path: Path) -> Clips:
        facts = json.loads(path.with_suffix(".json").read_text())
        clips = cls(Library(), ClipSpec(**facts["spec"]))
        clips.packed = np.load(path, mmap_mode="r")
        return clips

    def batch(self, indices: Iterable[int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """(degraded, truth), each (B, T, H * 3 // 2, W). Packed clips repeat, each time in another of the eight
        orientations, so that a small pack lasts."""
        soft, sharp = [], []
        for i in indices:
            if self.packed is None:
                a, b = make_clip(self.library, self.spec, i)
                turn = i
            else:
                a, b = self.packed[i % len(self.packed)]
                turn = i // len(self.packed) + i
            soft.append(orient(a, turn))
            sharp.append(orient(b, turn))
        return np.stack(soft), np.stack(sharp)


def orient(clip: NDArray[np.uint8], turn: int) -> NDArray[np.uint8]:
    """One of eight flips and quarter turns of square I420 frames (T, H * 3 // 2, H)."""
    side = clip.shape[2]
    y, uv = clip[:, :side], clip[:, side:].reshape(len(clip), 2, side // 2, side // 2)
    if turn & 1:
        y, uv = y[:, :, ::-1], uv[..., ::-1]
    if turn & 2:
        y, uv = y[:, ::-1], uv[..., ::-1, :]
    if turn & 4:
        y, uv = y.swapaxes(1, 2), uv.swapaxes(2, 3)
    return np.concatenate([y, np.ascontiguousarray(uv).reshape(len(clip), side // 2, side)], axis=1)


def pack(library: Library, spec: ClipSpec, count: int, path: Path, first: int = 0, workers: int = 1) -> None:
    """Writes clips first..first+count-1 to `path` (.npy, uint8 (count, 2, T, H * 3 // 2, W)) with a .json of facts."""
    from concurrent.futures import ProcessPoolExecutor

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part.npy")
    shape = (count, 2, spec.frames, spec.crop * 3 // 2, spec.crop)
    out = np.lib.format.open_memmap(str(partial), mode="w+", dtype=np.uint8, shape=shape)
    with ProcessPoolExecutor(workers) as pool:
        jobs = pool.map(
            _packed_clip, *zip(*((library, spec, first + i) for i in range(count)), strict=True), chunksize=16
        )
        for i, clip in enumerate(jobs):
            out[i] = clip
    out.flush()
    partial.rename(path)
    path.with_suffix(".json").write_text(json.dumps({"spec": vars(spec), "first": first, "count": count}))


def _packed_clip(library: Library, spec: ClipSpec, index: int) -> NDArray[np.uint8]:
    cv2.setNumThreads(1)
    return np.stack(make_clip(library, spec, index))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.data", description="Packs training clips into one file."
    )
    parser.add_argument("action", choices=["pack"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=4000)
    parser.add_argument("--frames", type=int, default=6)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--validation", action="store_true", help="of the pictures kept out of training")
    args = parser.parse_args()
    spec = ClipSpec(args.frames, args.crop, args.seed)
    pack(scan(args.data, args.validation), spec, args.clips, args.out, workers=args.workers)
    print(f"wrote {args.clips} clips to {args.out}")


if __name__ == "__main__":
    main()
