"""`python -m sharpcam.web.worker THREADS NICE`: one comparison, from a job on stdin to records on stdout.

It starts with `begin` (what comes), goes on with a `picture` for each of the input, the truth where there is one,
and the models, with `progress` between them, and ends with `end` or, at any time, with `failed`.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from sharpcam.engine import Engine
from sharpcam.errors import FormatMismatch, ModelError, SharpCamError
from sharpcam.geometry import to_rgb
from sharpcam.models import Model, find_models
from sharpcam.picture_tiles import goes_in_tiles, in_tiles, tile_size
from sharpcam.quality import psnr, size_text, ssim
from sharpcam.sources.testcard import TestCard
from sharpcam.stills import decode_picture, sharpen_picture
from sharpcam.web.job import Job, record
from sharpcam.web.pictures import check_picture

U8 = NDArray[np.uint8]

WEBCAM = (1280, 720)  # the most that a simulated webcam gives
SCENE_FPS = 30.0
MEMORY = 12  # frames of the test card that a model sees before the one that is shown
_SSIM_SIDE = 11


def main() -> None:
    cv2.setNumThreads(1)
    threads, nice = (int(argument) for argument in sys.argv[1:])
    _give_way(nice)
    stdout = sys.stdout.buffer
    sys.stdout = sys.stderr  # nothing else may come between the records
    try:
        line = sys.stdin.buffer.readline()
        job = Job.model_validate_json(line)
        pictures = job.pictures(sys.stdin.buffer.read())
        Comparison(job, threads, stdout).run(pictures)
    except SharpCamError as error:
        _write(stdout, record("failed", error=str(error), hint=error.hint))
    except BrokenPipeError:
        pass  # nobody waits for it any more


class Comparison:
    def __init__(self, job: Job, threads: int, out: BinaryIO) -> None:
        self._job, self._threads, self._out = job, threads, out

    def run(self, pictures: list[bytes]) -> None:
        clip, truth = self._pictures(pictures)
        models = _named(self._job.models)
        names = ["input", *(["truth"] if truth is not None else []), *(m.name for m in models)]
        self._tell("begin", names=names, width=clip[-1].shape[1], height=clip[-1].shape[0])
        self._show("input", clip[-1], truth)
        if truth is not None:
            self._show("truth", truth, None)
        for model in models:
            try:
                self._sharpen(model, clip, truth)
            except SharpCamError as error:
                self._tell("unable", name=model.name, error=str(error), hint=error.hint)
        self._tell("end")

    def _pictures(self, pictures: list[bytes]) -> tuple[list[U8], U8 | None]:
        """What the models get, the last of it to be shown, and the sharp picture if there is one."""
        if self._job.source == "scene":
            card, last = TestCard(WEBCAM, SCENE_FPS), self._job.scene
            soft = [to_rgb(card.soft(n)) for n in range(max(0, last - MEMORY), last + 1)]
            return soft, to_rgb(card.truth(last))
        first, *rest = (_decode(data) for data in pictures)
        if self._job.soften:
            truth = _webcam_size(first)
            return [soften(truth)], truth
        if rest and rest[0].shape != first.shape:
            raise FormatMismatch(
                f"the soft picture is {size_text(first)}, the sharp one {size_text(rest[0])}",
                "give two pictures of the same scene in the same size",
            )
        return [first], rest[0] if rest else None

    def _sharpen(self, model: Model, clip: list[U8], truth: U8 | None) -> None:
        start = time.perf_counter()
        self._tell("progress", name=model.name, share=0.0)
        tiled = goes_in_tiles(model)
        whole = clip[-1].shape[1], clip[-1].shape[0]
        size = tile_size(whole) if tiled else whole
        engine = Engine.load(model, _even(size), "cpu", self._threads)
        engine.strength = self._job.strength

        def progress(share: float) -> None:
            self._tell("progress", name=model.name, share=round(share, 3))

        try:
            if tiled:
                sharp = in_tiles(engine, clip[-1], progress)
            else:
                for number, picture in enumerate(clip):
                    sharp = sharpen_picture(engine, picture, number)
        finally:
            engine.close()
        self._show(
            model.name, sharp, truth, version=model.manifest.version, seconds=time.perf_counter() - start
        )

    def _show(self, name: str, picture: U8, truth: U8 | None, **more: Any) -> None:
        facts = more
        if truth is not None:
            near = psnr(picture, truth)
            facts["psnr"] = None if math.isinf(near) else round(near, 3)  # JSON has no infinity
            if min(truth.shape[:2]) >= _SSIM_SIDE:
                facts["ssim"] = round(ssim(picture, truth), 5)
        done, png = cv2.imencode(".png", picture[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
        assert done
        _write(self._out, record("picture", png.tobytes(), name=name, **facts))

    def _tell(self, kind: str, **facts: Any) -> None:
        _write(self._out, record(kind, **facts))


def soften(rgb: U8) -> U8:
    """What a cheap webcam makes of a scene: the test card's blur and noise, and JPEG."""
    sigma = 1.25 * max(1.0, rgb.shape[0] / 720)
    blurred = cv2.GaussianBlur(rgb, (0, 0), sigma)
    grain = np.random.default_rng(7).normal(0.0, 2.2, rgb.shape[:2]).astype(np.float32)
    noisy = np.clip(np.rint(blurred + grain[..., None]), 0, 255).astype(np.uint8)
    _, data = cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, 90])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def _webcam_size(rgb: U8) -> U8:
    height, width = rgb.shape[:2]
    scale = min(1.0, WEBCAM[0] / width, WEBCAM[1] / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def _decode(data: bytes) -> U8:
    """RGB (H, W, 3), upright; its header is looked at first, though the server has done so, too."""
    check_picture(data)
    return decode_picture(data, "the picture").rgb


def _named(names: list[str]) -> list[Model]:
    """Installed models, smallest first; a name is all that the page can say."""
    installed = find_models()[0]
    if unknown := set(names) - {model.name for model in installed}:
        raise ModelError(f'there is no model "{min(unknown)}"', "load the page again")
    return [model for model in installed if model.name in names]


def _even(size: tuple[int, int]) -> tuple[int, int]:
    """Of the frame that `sharpen_picture` makes of such a picture."""
    width, height = (max(16, side + side % 2) for side in size)
    return width, height


def _give_way(nice: int) -> None:
    """Where time or memory runs short, this process has to suffer and not the meeting."""
    if hasattr(os, "nice"):
        os.nice(nice)
    with contextlib.suppress(OSError):  # Linux only
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _write(out: BinaryIO, data: bytes) -> None:
    out.write(data)
    out.flush()


if __name__ == "__main__":
    main()
