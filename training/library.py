"""Pictures, videos and pairs on disk: which files a data folder holds, what each is, and on which side.

Layouts that are understood, in one folder or below it: any folder of pictures (DIV2K, CelebA, photos), any
video files, `blur/` + `sharp/` folders of the same names (also GoPro's `SCENE/blur`, `SCENE/sharp` and REDS'
`train_blur/SCENE`, `train_sharp/SCENE`), and folders named `*240fps*` of consecutive high-speed frames, whose
averages are real motion blur. Low-resolution copies (`*_LR_*`) and blurred pictures without a partner are
left alone: they are no truth.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import av
import av.container
import cv2
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from training.errors import DataError

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
VIDEOS = {".mp4", ".mkv", ".mov", ".webm", ".avi"}
Picture = NDArray[np.uint8]


@dataclass
class Library:
    """The files of a data folder, by what can be made of them. Paths are sorted."""

    stills: list[Path] = field(default_factory=list)
    videos: list[Path] = field(default_factory=list)
    pairs: list[tuple[Path, Path]] = field(default_factory=list)  # (blur, sharp)
    bursts: list[list[Path]] = field(default_factory=list)  # consecutive high-speed frames
    folders: dict[str, int] = field(default_factory=dict)  # how many of these each first folder gave
    share: float = 0.1  # of the data, that is held out

    def __len__(self) -> int:
        return len(self.stills) + len(self.videos) + len(self.pairs) + len(self.bursts)


# -- training or validation ----------------------------------------------------------------------------

# folders that only measure, by a word of their name, and sets and videos that do, by its beginning
HELD_OUT_WORDS = {"val", "valid", "validation", "test", "testing", "eval"}
HELD_OUT = ("kodak", "homeoffice")
# pairs are neighbouring frames of scenes: whole scenes are held out where there are enough to choose from
SCENES = 3


def validation_part(name: str, share: float = 0.1) -> bool:
    """Whether the picture, video or scene of this name is kept out of training: by a hash of the name alone,
    so that no crop, size or copy of one source ever stands on both sides."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32 < share


def in_measuring_folder(path: Path, root: Path) -> bool:
    """Whether a folder between `root` and `path` says that it is for measuring; of `root` itself only a
    validation's name counts (`test` may be somebody's test of this program)."""
    folders = [part.lower() for part in path.relative_to(root).parts[:-1]]
    words = {word for folder in folders for word in re.findall("[a-z]+", folder)}
    words |= set(re.findall("val[a-z]*", root.name.lower()))
    return bool(words & HELD_OUT_WORDS) or any(
        part.startswith(HELD_OUT) for part in (*folders, path.name.lower())
    )


# -- what is on disk -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Side:
    """A picture's place in a set of pairs: which half, a key that both halves share, and its scene."""

    name: str  # "blur" or "sharp"
    key: tuple[str, ...]
    scene: str


def _side(path: Path) -> _Side | None:
    """Reads a path relative to the data folder; None where no folder says "blur" or "sharp"."""
    folders = [part.lower() for part in path.parts[:-1]]
    for i in reversed(range(len(folders))):
        words = re.findall("[a-z]+|[^a-z]+", folders[i])
        names = {"blur", "sharp"} & set(words)
        if len(names) != 1:
            continue
        name = names.pop()
        side = "".join("*" if word == name else word for word in words)
        others = folders[:i] + folders[i + 1 :]
        stem = path.stem.lower()
        # frames that are only numbered lie in the folder of their scene; others begin with its name
        scene = (others or [stem])[-1] if stem.isdigit() else re.sub(r"([-_ ]\d+)+$", "", stem)
        return _Side(name, (*folders[:i], side, *folders[i + 1 :], stem), scene)
    return None


def scan(root: Path, validation: bool = False, share: float = 0.1, only: str = "") -> Library:
    """The training files below `root` (or, with `validation`, the `share` that training never sees).

    Of files whose path below `root` contains the regular expression `only`, in capitals or not. Raises
    DataError when there are none.
    """
    if not root.is_dir():
        raise DataError(f"data folder {root} does not exist")
    library = Library(share=share)
    bursts: dict[Path, list[Path]] = {}
    try:
        chosen = re.compile(only, re.IGNORECASE)
    except re.error as e:
        raise DataError(f"data.only {only!r} is no regular expression: {e}") from e
    files = [p for p in sorted(root.rglob("*")) if _is_wanted(p, root) and p.is_file()]
    files = [p for p in files if chosen.search(p.relative_to(root).as_posix())]
    sides = {p: _side(p.relative_to(root)) for p in files if p.suffix.lower() in PICTURES}
    sharp = {s.key: p for p, s in sides.items() if s and s.name == "sharp"}
    pairs = {
        p: partner for p, s in sides.items() if s and s.name == "blur" and (partner := _partner(s, sharp))
    }
    partners = set(pairs.values())
    scenes = {s.scene for p, s in sides.items() if s and not in_measuring_folder(p, root)}
    by_scene = len(scenes) >= SCENES
    for path in files:
        side = sides.get(path)
        burst = "240fps" in path.parent.name and path.suffix.lower() in PICTURES
        source = side.scene if side and by_scene else path.stem
        held = in_measuring_folder(path, root) or (not burst and validation_part(source, share))
        if held != validation:
            continue
        if burst:
            bursts.setdefault(path.parent, []).append(path)
        elif path.suffix.lower() in VIDEOS:
            library.videos.append(path)
        elif path in pairs:
            library.pairs.append((path, pairs[path]))
        elif (side and side.name == "blur") or path in partners:
            continue
        else:
            library.stills.append(path)
        folder = path.relative_to(root).parts[0] if path.parent != root else root.name
        library.folders[folder] = library.folders.get(folder, 0) + 1
    library.bursts = list(bursts.values())
    if not len(library):
        raise DataError(_nothing(root, validation, len(files), only))
    return library


def _is_wanted(path: Path, root: Path) -> bool:
    parts = path.relative_to(root).parts
    hidden = any(part.startswith(".") for part in parts)
    low_resolution = any("lr" in re.findall("[a-z]+", part.lower()) for part in parts[:-1])
    return path.suffix.lower() in PICTURES | VIDEOS and not hidden and not low_resolution


def _partner(blur: _Side, sharp: dict[tuple[str, ...], Path]) -> Path | None:
    """GoPro's `blur_gamma` and REDS' `train_blur_jpeg` have the partners of `blur` and `train_blur`."""
    plain = tuple(re.sub(r"(?<=\*)_(gamma|jpeg|comp)$", "", part) for part in blur.key)
    return sharp.get(blur.key) or sharp.get(plain)


def _nothing(root: Path, validation: bool, files: int, only: str) -> str:
    what = "validation" if validation else "training"
    if not files:
        return f"no pictures or videos below {root}" + (f" whose path contains {only!r}" if only else "")
    return (
        f"no {what} pictures or videos below {root}: "
        + ("the hash of their names keeps" if validation else "folder names (test, val) or names keep")
        + f" all {files} files for {'training' if validation else 'validation'}"
    )


# -- reading -------------------------------------------------------------------------------------------


class Recent:
    """The arrays that were asked for last, as many as fit into `limit` bytes. For many threads."""

    def __init__(self, limit: int) -> None:
        self.limit, self.size = limit, 0
        self._kept: OrderedDict[Hashable, Picture] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Picture]) -> Picture:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = make()
        with self._lock:
            if key not in self._kept:
                self._kept[key] = made
                self.size += made.nbytes
            while self.size > self.limit and len(self._kept) > 1:
                self.size -= self._kept.popitem(last=False)[1].nbytes
        return made


_pictures, _videos = Recent(512 << 20), Recent(512 << 20)
# from here on, decoding all that lies before a frame takes longer than looking for it
_SEEK_FROM = 300


def read_picture(path: Path) -> Picture:
    """RGB uint8 (H, W, 3). Raises DataError for a file that is no picture."""

    def read() -> Picture:
        bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if bgr is None:
            raise DataError(f"{path} is not a readable picture")
        return np.ascontiguousarray(np.asarray(bgr, np.uint8)[..., ::-1])

    return _pictures.get(path, read)


def read_video(path: Path, start: int, count: int) -> Picture:
    """`count` consecutive RGB frames (count, H, W, 3) uint8 from frame `start` on. Raises DataError."""

    def read() -> Picture:
        frames: list[Picture] = []
        with _video(path) as container:
            skip, first = start, None
            stream = container.streams.video[0]
            if start >= _SEEK_FROM and stream.average_rate and stream.time_base:
                first = int(start / stream.average_rate / stream.time_base) + (stream.start_time or 0)
                container.seek(first, stream=stream)
                skip = 0
            for frame in container.decode(video=0):
                if first is not None and frame.pts is not None and frame.pts < first:
                    continue
                if skip:
                    skip -= 1
                    continue
                frames.append(frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False))
                if len(frames) == count:
                    return np.stack(frames)
        raise DataError(f"{path} has fewer than {start + count} frames")

    return _videos.get((path, start, count), read)


@lru_cache(maxsize=4096)
def video_length(path: Path) -> int:
    """Number of frames. Raises DataError."""
    with _video(path) as container:
        length = sum(packet.size > 0 for packet in container.demux(video=0))
    if not length:
        raise DataError(f"{path} holds no frames")
    return length


@contextmanager
def _video(path: Path) -> Iterator[av.container.InputContainer]:
    """The opened file; what goes wrong while it is open becomes a DataError."""
    try:
        with av.open(f"file:{path}", "r") as container:
            if not container.streams.video:
                raise DataError(f"{path} holds no video")
            yield container
    except (FFmpegError, OSError) as e:
        raise DataError(f"{path} is not a readable video: {e.strerror or e}") from e
