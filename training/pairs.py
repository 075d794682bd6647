"""Pairs of a damaged and a true picture in a folder: what there is to measure on.

Understood are `blur/` and `sharp/` with pictures of the same names, also below (`blur/SCENE`), in every scene
(GoPro: `SCENE/blur`, `SCENE/sharp`), with the part of the set in the folder's name (REDS: `val_blur/SCENE`,
`val_sharp/SCENE`), and as `input/` and `target/`. Nothing is left out in silence: a picture without a partner
is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sharpcam import stills
from sharpcam.errors import MediaError

Picture = NDArray[np.uint8]

MIN_SIDE = 11  # SSIM's window
_SIDE = re.compile(r"(train_|val_|test_)?(blur|input|sharp|target|blur_gamma)")
_LAYOUTS = (
    "blur/ and sharp/ with pictures of the same names (or SCENE/blur and SCENE/sharp, or val_blur/SCENE)"
)


@dataclass(frozen=True)
class Pair:
    """Files of a damaged picture and of its truth; `clip` is the folder of their scene, or ""."""

    name: str
    clip: str
    soft: Path
    sharp: Path


def find_pairs(root: Path) -> list[Pair]:
    """The pairs below `root`, in the order of their names, 2 before 10.

    Where a scene has `blur` and `blur_gamma`, as GoPro's, it is `blur` that counts. Raises MediaError when
    there is no pair, when a picture has no partner, and when two have one name.
    """
    if not root.is_dir():
        raise MediaError(f"there is no folder {root}", f"name a folder that holds {_LAYOUTS}")
    sides: dict[str, dict[tuple[str, ...], Path]] = {"blur": {}, "sharp": {}, "blur_gamma": {}}
    for path in root.rglob("*"):
        parts = path.relative_to(root).parts
        if (
            path.suffix.lower() not in stills.SUFFIXES
            or any(p.startswith(".") for p in parts)
            or not path.is_file()
        ):
            continue
        for i, part in enumerate(parts[:-1]):
            if match := _SIDE.fullmatch(part.lower()):
                half = (match[1] or "").strip("_")
                side = {"input": "blur", "target": "sharp"}.get(match[2], match[2])
                key = (*parts[:i], *([half] if half else []), *parts[i + 1 : -1], path.stem)
                if other := sides[side].get(key):
                    both = " and ".join(sorted([str(other), str(path)]))
                    raise MediaError(f"{both} have one name", "take one of them away")
                sides[side][key] = path
                break
    soft, sharp = sides["blur_gamma"] | sides["blur"], sides["sharp"]
    if not soft and not sharp:
        hint = (
            "name the folder above it" if _SIDE.fullmatch(root.name.lower()) else f"it should hold {_LAYOUTS}"
        )
        raise MediaError(f"{root} holds no pairs of pictures", hint)
    lonely = [f"{_some(soft.keys() - sharp.keys())} of blur/ in sharp/" if soft.keys() - sharp.keys() else ""]
    lonely += [
        f"{_some(sharp.keys() - soft.keys())} of sharp/ in blur/" if sharp.keys() - soft.keys() else ""
    ]
    if any(lonely):
        raise MediaError(
            f"{root}: no partner for {', nor for '.join(filter(None, lonely))}",
            "both sides need pictures of the same names; take away or add what is missing",
        )
    return [Pair("/".join(k), "/".join(k[:-1]), soft[k], sharp[k]) for k in sorted(soft, key=_in_order)]


def _in_order(key: tuple[str, ...]) -> tuple[tuple[str, ...], list[tuple[int, str]]]:
    """Scene by scene, and within a scene by name, where 2 comes before 10: as `sharpcam process --clip`."""
    parts = re.split(r"(\d+)", key[-1])
    return key[:-1], [(int(p), "") if p.isdecimal() else (-1, p) for p in parts]


def _some(keys: Iterable[tuple[str, ...]]) -> str:
    names = sorted("/".join(key) for key in keys)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"


def clips(pairs: Iterable[Pair]) -> Iterator[list[Pair]]:
    """The pairs of each folder of scenes, as one clip in name order."""
    for _, group in groupby(pairs, lambda pair: pair.clip):
        yield list(group)


def read_pair(pair: Pair) -> tuple[Picture, Picture]:
    """The damaged and the true picture, RGB uint8 (H, W, 3).

    Raises MediaError when one cannot be read, when their sizes differ, and when they are too small.
    """
    soft, sharp = read_picture(pair.soft), read_picture(pair.sharp)
    if soft.shape != sharp.shape:
        raise MediaError(
            f"{pair.soft} is {picture_size(soft)}, {pair.sharp} is {picture_size(sharp)}",
            "a picture and its truth must have one size",
        )
    if min(soft.shape[:2]) < MIN_SIDE:
        raise MediaError(
            f"{pair.soft} is {picture_size(soft)}: too small to measure",
            f"{MIN_SIDE} pixels a side are needed",
        )
    return soft, sharp


def read_picture(path: Path) -> Picture:
    """RGB uint8 (H, W, 3), as `sharpcam process` reads it. Raises MediaError for what is no picture."""
    return stills.read_picture(path).rgb


def picture_size(picture: Picture) -> str:
    return f"{picture.shape[1]}x{picture.shape[0]}"
