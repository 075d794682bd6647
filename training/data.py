"""Clips by number: made on the fly, or packed into one file.

Which clips a step sees follows from its number alone, so a run resumes exactly. `python -m training.data
pack` writes clips to one file once, for machines that should not spend their time on making them.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from training.clips import ClipSpec, make_clip
from training.degrade import photographed, sample_webcam, soft_lens
from training.errors import DataError, run
from training.library import Library, read_picture, read_video, scan

__all__ = [
    "ClipSpec",
    "Clips",
    "DataError",
    "Interleaved",
    "Library",
    "Source",
    "orient",
    "pack",
    "read_picture",
    "read_video",
    "scan",
]

Array = NDArray[np.uint8]


class Source(Protocol):
    """What the loop draws its batches from: `Clips`, or `training.protocols.Pictures`.

    `origin` says in words and numbers where they come from, for the checkpoint: folders and counts, no paths.
    """

    origin: dict[str, Any]

    def batch(self, indices: Iterable[int], /) -> tuple[Any, Any]:
        """The degraded and the true halves of these samples: arrays, or tensors on the device that trains."""
        ...


class Clips:
    """Clips by number: made on the fly from a library, or read from a packed file (`open_packed`)."""

    def __init__(self, library: Library, spec: ClipSpec) -> None:
        self.library, self.spec = library, spec
        self.packed: Array | None = None
        # packed clips come round again: these shares of them through a soft lens alone, or another camera
        self.lenses = self.fresh = 0.0
        self.origin: dict[str, Any] = {"folders": library.folders, "clips": asdict(spec)}

    @classmethod
    def open_packed(cls, path: Path) -> Clips:
        """Clips of a file that `pack` wrote. Raises DataError."""
        try:
            facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            library = Library(folders=facts.get("folders", {}), share=facts.get("held_out", 0.1))
            clips = cls(library, ClipSpec(**facts["spec"]))
            packed = np.load(path, mmap_mode="r")
        except FileNotFoundError as e:
            raise DataError(
                f"no packed clips {e.filename}: write them with `python -m training.data pack`"
            ) from e
        except (OSError, ValueError, TypeError, KeyError, EOFError) as e:
            raise DataError(f"{path} holds no packed clips: {str(e).splitlines()[0]}") from e
        side, frames = clips.spec.crop, clips.spec.frames
        if (
            packed.dtype != np.uint8
            or packed.shape[1:] != (2, frames, side * 3 // 2, side)
            or not len(packed)
        ):
            raise DataError(
                f"{path} holds {packed.dtype} {packed.shape}, not the clips that its .json describes"
            )
        clips.packed = packed
        clips.origin["packed"] = {"file": path.name, "count": len(packed), "first": facts.get("first", 0)}
        return clips

    def singles(self) -> Clips:
        """The same scenes as clips of one frame; of packed ones the first frame."""
        clips = Clips(self.library, replace(self.spec, frames=1))
        clips.packed = None if self.packed is None else self.packed[:, :, :1]
        clips.lenses, clips.fresh, clips.origin = self.lenses, self.fresh, dict(self.origin)
        return clips

    def batch(self, indices: Iterable[int]) -> tuple[Array, Array]:
        """(degraded, truth), each (B, T, H * 3 // 2, W).

        Packed clips repeat, each time in another of the eight orientations, so that a small pack lasts.
        """
        soft, sharp = [], []
        for i in indices:
            if self.packed is None:
                a, b = make_clip(self.library, self.spec, i)
                turn = i
            else:
                again, number = divmod(i, len(self.packed))
                a, b = self.packed[number]
                turn = number + again
            rng = np.random.default_rng((self.spec.seed, i))
            chance = rng.random()
            if chance < self.lenses:
                a = soft_lens(b, rng)
            elif chance < self.lenses + self.fresh:
                a = photographed(b, sample_webcam(rng, self.spec.identity), rng)
            soft.append(orient(a, turn))
            sharp.append(orient(b, turn))
        return np.stack(soft), np.stack(sharp)


class Interleaved:
    """Clips in most steps, single frames in a share of them.

    A sharpener that only ever follows a memory comes to count on a calmed picture, and serves the first frame,
    and whatever moves, the worse for it. Frames have no neighbours to pay for, so there are twice as many.
    """

    def __init__(self, clips: Source, singles: Source, share: float, batch: int) -> None:
        self.clips, self.singles, self.share, self.size = clips, singles, share, batch
        self.origin: dict[str, Any] = clips.origin | {"singles": singles.origin}

    def batch(self, indices: Iterable[int]) -> tuple[Any, Any]:
        """A step's share of samples, which come from one source: its number within the run says from which."""
        numbers = list(indices)
        step = numbers[0] // self.size
        before, after = math.floor(step * self.share), math.floor((step + 1) * self.share)
        if after == before:
            return self.clips.batch(i - before * self.size for i in numbers)
        first = [2 * (i - (step - before) * self.size) for i in numbers]
        return self.singles.batch(k for i in first for k in (i, i + 1))


def orient(clip: Array, turn: int) -> Array:
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


# -- packing -------------------------------------------------------------------------------------------


def pack(library: Library, spec: ClipSpec, count: int, path: Path, first: int = 0, workers: int = 1) -> None:
    """Writes clips first..first+count-1 to `path`, a .npy of uint8 (count, 2, T, H * 3 // 2, W), and a .json.

    Nothing stays behind when it fails. Raises DataError and OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    shape = (count, 2, spec.frames, spec.crop * 3 // 2, spec.crop)
    facts = {"spec": asdict(spec), "first": first, "count": count, "folders": library.folders}
    facts["held_out"] = library.share
    try:
        # a fork would inherit locks that OpenCV's threads hold
        context = get_context("spawn")
        begin = (context, _begin, (library, spec))
        with partial.open("wb") as file, ProcessPoolExecutor(workers, *begin) as pool:
            np.lib.format.write_array_header_1_0(
                file, {"descr": "|u1", "fortran_order": False, "shape": shape}
            )
            for clip in pool.map(_packed_clip, range(first, first + count), chunksize=4):
                file.write(clip.tobytes())
        path.with_suffix(".json").write_text(json.dumps(facts), encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


_job: tuple[Library, ClipSpec] | None = None  # of a worker process


def _begin(library: Library, spec: ClipSpec) -> None:
    global _job
    _job = library, spec
    cv2.setNumThreads(1)


def _packed_clip(index: int) -> Array:
    assert _job is not None
    return np.stack(make_clip(*_job, index))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.data", description="Packs training clips into one file."
    )
    parser.add_argument("action", choices=["pack"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="a .npy file")
    parser.add_argument("--clips", type=int, default=4000)
    parser.add_argument("--frames", type=int, default=6)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--validation", action="store_true", help="of the pictures kept out of training")
    parser.add_argument(
        "--held-out", type=float, default=0.1, help="share kept out, as a recipe's data.held_out"
    )
    parser.add_argument("--only", default="", help="files whose path has this, as a recipe's data.only")
    args = parser.parse_args()
    spec = ClipSpec(args.frames, args.crop, args.seed)
    if args.clips < 1 or args.workers < 1 or args.out.suffix != ".npy":
        parser.error("--clips and --workers are 1 or more, --out ends with .npy")
    library = scan(args.data, args.validation, args.held_out, args.only)
    pack(library, spec, args.clips, args.out, workers=args.workers)
    print(f"wrote {args.clips} clips to {args.out}")


if __name__ == "__main__":
    run(main)
