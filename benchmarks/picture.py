"""`python -m benchmarks.picture OUT.png [--model NAME]`: the README's before/after picture, from the test card.

Prints the PSNR of both halves against the scene's known truth.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from sharpcam.engine import Engine
from sharpcam.frame import Frame
from sharpcam.geometry import to_rgb
from sharpcam.sources.testcard import TestCard

SIZE = (1280, 720)
WARM_UP = 20  # frames that the recursion sees before the one that is shown


def before_and_after(
    model: str, size: tuple[int, int] = SIZE, last: int = WARM_UP
) -> tuple[Frame, Frame, Frame]:
    """Frame number `last` of the test card: soft, sharpened and true."""
    card = TestCard(size, mjpeg=4)
    engine = Engine.load(model, size)
    out = Frame(*size)
    for n in range(last + 1):
        soft = card.soft(n)
        soft.sequence, soft.captured_ns = n, n * 33_333_333
        engine.process(soft, out)
    engine.close()
    return soft, out, card.truth(last)


def rgb(frame: Frame) -> NDArray[np.uint8]:
    picture = np.empty((frame.height, frame.width, 3), np.uint8)
    to_rgb(frame, picture)
    return picture


def compose(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The whole picture, split in the middle, above three details at twice their size, before beside after."""
    height, width = before.shape[:2]
    whole = np.concatenate([before[:, : width // 2], after[:, width // 2 :]], axis=1)
    whole[:, width // 2 - 1 : width // 2 + 1] = 255
    side = width // 6
    details = []
    for y, x in ((0.31, 0.42), (0.10, 0.69), (0.66, 0.02)):
        top, left = int(y * height), int(x * width)
        for picture in (before, after):
            crop = picture[top : top + side // 2, left : left + side // 2]
            detail = cv2.resize(crop, (side, side), interpolation=cv2.INTER_NEAREST)
            detail[:, -1] = 255
            details.append(detail)
    strip = np.concatenate(details, axis=1)
    strip = np.pad(strip, ((2, 0), (0, width - strip.shape[1]), (0, 0)), constant_values=255)
    return np.concatenate([whole, strip])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.picture", description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="auto")
    args = parser.parse_args()
    before, after, truth = (rgb(frame) for frame in before_and_after(args.model))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    picture = np.ascontiguousarray(compose(before, after)[..., ::-1])
    if not cv2.imwrite(str(args.out), picture, [cv2.IMWRITE_PNG_COMPRESSION, 9]):
        raise SystemExit(f"cannot write {args.out}")
    for name, half in (("before", before), ("after", after)):
        print(f"{name}: {cv2.PSNR(half, truth):.2f} dB to the true scene")


if __name__ == "__main__":
    main()
