"""`sharpcam process`: a video file, a picture, or a folder of pictures instead of a camera."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from sharpcam.errors import ConfigError, FormatMismatch, MediaError, SharpCamError
from sharpcam.frame import MAX_SIDE, Frame
from sharpcam.picture_tiles import in_tiles, tile_size
from sharpcam.sinks.media import MediaSink, check_video_name
from sharpcam.sources.media import MediaSource
from sharpcam.stills import SUFFIXES, Picture, Sharpener, beside, read_picture, sharpen_picture, write_picture

log = logging.getLogger(__name__)

LoadEngine = Callable[[tuple[int, int]], Sharpener]
OnProgress = Callable[[int, int | None], None]  # done, and of how many when that is known

_DIVIDER = 4  # columns between before and after


@dataclass
class Job:
    """What goes where: one video, or pictures in pairs."""

    output: Path
    video: Path | None = None
    pictures: list[tuple[Path, Path]] = field(default_factory=list)
    is_folder: bool = False
    clip: bool = False
    failures: list[SharpCamError] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """How many frames or pictures were written to `output`, and what stood in the way of others."""

    output: Path
    done: int
    failures: list[SharpCamError]
    engine: str


def plan(source: Path, output: Path, clip: bool = False) -> Job:
    """Finds out what is to be done, before anything is loaded or written.

    Raises MediaError for what is not there or cannot be named so, ConfigError for what makes no sense.
    """
    if not source.exists():
        raise MediaError(f"there is no {source}", "check the name")
    if source.is_dir():
        return _plan_folder(source, output, clip)
    if clip:
        raise ConfigError(f"{source} is not a folder, so its frames are no clip", "leave --clip away")
    is_picture = source.suffix.lower() in SUFFIXES
    if output.is_dir():
        suffix = ".png" if is_picture else source.suffix if _can_be_written(source) else ".mp4"
        output = output / (source.stem + suffix)
    _refuse_same(source, output)
    if not is_picture:
        check_video_name(output)
        return Job(output, video=source)
    if output.suffix.lower() != ".png":
        raise MediaError(
            f"cannot write {output}: pictures come out as PNG, which keeps every pixel",
            f"name it {output.with_suffix('.png').name}",
        )
    return Job(output, pictures=[(source, output)])


def _plan_folder(source: Path, output: Path, clip: bool) -> Job:
    if output.exists() and not output.is_dir():
        raise MediaError(f"{source} is a folder and {output} is a file", "name a folder to write to")
    _refuse_same(source, output)
    names = [p for p in source.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
    if not names:
        raise MediaError(f"there are no pictures in {source}", f"pictures are {' '.join(SUFFIXES)}")
    job = Job(output, is_folder=True, clip=clip)
    taken: dict[Path, Path] = {}
    for path in sorted(names, key=_by_name):
        target = output / f"{path.stem}.png"
        if target in taken:
            other = taken[target].name
            job.failures.append(
                MediaError(f"{path} and {other} would both become {target.name}", "rename one of them")
            )
            continue
        taken[target] = path
        job.pictures.append((path, target))
    return job


def _by_name(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Order of names in which 2 comes before 10."""
    parts = re.split(r"(\d+)", path.stem)
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in parts], path.name


def _can_be_written(path: Path) -> bool:
    try:
        check_video_name(path)
    except MediaError:
        return False
    return True


def _refuse_same(source: Path, output: Path) -> None:
    same = os.path.samefile(source, output) if output.exists() else source.resolve() == output.resolve()
    if same:
        raise ConfigError(f"{output} is the input itself", "name another output")


def run_job(
    job: Job,
    load: LoadEngine,
    *,
    strength: float = 1.0,
    compare: bool = False,
    tiled: bool = False,
    on_progress: OnProgress = lambda done, total: None,
) -> Outcome:
    """Does the job with the engine that `load` makes for frames of a size; pictures piece by piece where `tiled`.

    A picture that cannot be read or sharpened is left out and listed; anything else that goes wrong is
    raised, with nothing half-written. Pictures that were finished before stay.
    """
    if job.video is not None:
        return _run_video(job.video, job.output, load, strength, compare, on_progress)
    return _run_pictures(job, load, strength, compare, tiled, on_progress)


def _run_pictures(
    job: Job, load: LoadEngine, strength: float, compare: bool, tiled: bool, on_progress: OnProgress
) -> Outcome:
    failures = list(job.failures)
    engine: Sharpener | None = None
    done = 0
    total = len(job.pictures)
    try:
        for number, (source, target) in enumerate(job.pictures):
            on_progress(number, total)
            try:
                picture = read_picture(source)
                if max(picture.rgb.shape[:2]) > MAX_SIDE:
                    width, height = reversed(picture.rgb.shape[:2])
                    raise FormatMismatch(
                        f"{source} is {width}x{height}: a side may have {MAX_SIDE} pixels",
                        "scale it down first",
                    )
                if engine is None:
                    size = _engine_size(picture)
                    engine = load(tile_size(size) if tiled else size)
                    engine.strength = strength
                if not job.clip:
                    engine.reset()
                if tiled:
                    rgb = in_tiles(engine, picture.rgb)
                else:
                    rgb = sharpen_picture(engine, picture.rgb, number)
            except (MediaError, FormatMismatch) as error:
                if not job.is_folder:
                    raise
                failures.append(error)
                continue
            if job.is_folder:
                _make_folder(job.output)
            if compare:
                both = beside(picture.rgb, rgb, _DIVIDER)
                write_picture(target, Picture(both, profile=picture.profile))
            else:
                write_picture(target, replace(picture, rgb=rgb))
            done += 1
        on_progress(total, total)
        return Outcome(job.output, done, failures, _description(engine))
    finally:
        if engine is not None:
            engine.close()


def _engine_size(picture: Picture) -> tuple[int, int]:
    height, width = picture.rgb.shape[:2]
    return max(16, width + width % 2), max(16, height + height % 2)


def _make_folder(path: Path) -> None:
    """Only when there is something to put in: a failure before that leaves nothing behind."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MediaError(f"cannot make the folder {path}: {error.strerror}", "name another folder") from error


def _run_video(
    path: Path, output: Path, load: LoadEngine, strength: float, compare: bool, on_progress: OnProgress
) -> Outcome:
    source = MediaSource(path)
    try:
        width, height = source.size
        if compare and 2 * width + _DIVIDER > MAX_SIDE:
            raise FormatMismatch(f"{path} is too wide to be shown twice side by side", "leave --compare away")
        engine = load(source.size)
        try:
            engine.strength = strength
            sink = MediaSink(
                output,
                (2 * width + _DIVIDER, height) if compare else source.size,
                source.fps,
                source.color,
                audio_from=path if source.has_audio else None,
                whole=lambda: source.ended,
                timing=source.timing,
                pixel_aspect=source.pixel_aspect,
                preset="fast",
            )
            try:
                done = _sharpen_video(source, engine, sink, compare, on_progress)
                sink.close()
            except BaseException:  # Ctrl-C too: half a film is no film
                sink.abort()
                raise
            return Outcome(output, done, [], _description(engine))
        finally:
            engine.close()
    finally:
        source.close()


def _sharpen_video(
    source: MediaSource, engine: Sharpener, sink: MediaSink, compare: bool, on_progress: OnProgress
) -> int:
    frame, out = (Frame(*source.size, source.color) for _ in range(2))
    both = Frame(*sink.size, source.color)
    both.fill(235 if source.color.range == "limited" else 255)
    done = 0
    while True:
        on_progress(done, source.frame_count)
        try:
            source.read(frame, timeout=1.0)
        except EOFError:
            on_progress(done, done)
            return done
        engine.process(frame, out)
        if compare:
            _lay_beside(both, frame, out)
        sink.send(both if compare else out)
        done += 1


def _lay_beside(both: Frame, before: Frame, after: Frame) -> None:
    both.copy_facts(after)
    for whole, left, right in zip(both.planes, before.planes, after.planes, strict=True):
        width = left.shape[1]
        np.copyto(whole[:, :width], left)
        np.copyto(whole[:, -width:], right)


def _description(engine: Sharpener | None) -> str:
    return str(getattr(engine, "description", ""))
