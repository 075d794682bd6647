"""From settings to the parts of a pipeline: which source, which sink, and whether time presses."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sharpcam.config import Config
from sharpcam.devices import find_virtual_camera
from sharpcam.engine import Engine
from sharpcam.errors import ConfigError, DeviceBusy, DeviceNotFound
from sharpcam.sinks import Sink
from sharpcam.sources import Source
from sharpcam.sources.away import AwaySource

if TYPE_CHECKING:
    from sharpcam.sinks.media import Timing

log = logging.getLogger(__name__)

TESTCARD = "testcard"
NULL = "null"


def is_media(sink: str) -> bool:
    """Whether a sink's name means a media file: it has a suffix and is no device."""
    return bool(re.search(r"\.\w{2,5}$", sink)) and not sink.startswith("/dev/")


def open_source(config: Config, source: str | None = None) -> Source:
    """The camera of the settings, or the test card, or the media file that `source` names.

    Time presses (the source is live) for a camera, for whatever goes to a virtual camera, and for the test
    card unless it is written to a file. A file that goes to a file or nowhere is read as fast as it can be
    worked on, and none of its frames is lost.

    A media file keeps its own size unless one was set or it goes to a virtual camera.
    """
    camera, sink = config.camera, config.output.sink
    to_file, to_camera = is_media(sink), not is_media(sink) and sink != NULL
    if source is None:
        from sharpcam.sources.camera import CameraSource

        return CameraSource(camera.device, camera.size, camera.fps, fit=camera.fit)
    if source == TESTCARD:
        from sharpcam.sources.testcard import TestCardSource

        return TestCardSource(camera.size, camera.fps, live=not to_file)
    from sharpcam.sources.media import MediaSource

    own_size = "size" not in camera.model_fields_set and not to_camera
    path = Path(source).expanduser()
    return MediaSource(path, None if own_size else camera.size, live=to_camera, fit=camera.fit)


def open_source_or_wait(config: Config, source: str | None = None) -> Source:
    """The same, but a camera that is not there or not free yet is waited for while the pipeline runs."""
    try:
        return open_source(config, source)
    except (DeviceNotFound, DeviceBusy) as error:
        if source is not None:
            raise
        log.warning("waiting for the camera: %s", error)
        return AwaySource(error, config.camera.size, config.camera.fps)


def reopener(config: Config, source: Source) -> Callable[[], Source] | None:
    """How a camera that was lost is opened again: by its steadiest name. None for what cannot be lost."""
    from sharpcam.sources.camera import CameraSource

    camera = config.camera
    if isinstance(source, CameraSource):
        address: str | None = source.address
    elif isinstance(source, AwaySource):
        address = camera.device
    else:
        return None

    def reopen() -> Source:
        nonlocal address
        opened = CameraSource(address, camera.size, camera.fps, fit=camera.fit)
        address = opened.address
        return opened

    return reopen


def _is_path(sink: str) -> bool:
    """Whether a sink's name means a place on the disk that is no device."""
    return "/" in sink and not sink.startswith("/dev/")


def check_sink(config: Config) -> None:
    """Raises DeviceNotFound where there is no virtual camera to write to: sooner than a camera's light goes on
    for nothing, which at login, before the driver is loaded, would be every few seconds."""
    sink = config.output.sink
    if sys.platform == "linux" and sink != NULL and not is_media(sink) and not _is_path(sink):
        find_virtual_camera(sink)


def open_sink(
    config: Config, source: Source, kept: int | None = None, forget: Callable[[], None] = lambda: None
) -> Sink:
    """The sink of the settings, for the frames of `source`; a file's sound goes along.

    `kept` is what a dead SharpCam left behind of a virtual camera, and `forget` is called when it is of no use (see
    `VirtualCameraSink`).

    Raises ConfigError when the name means nothing, and what the sinks raise.
    """
    sink, size = config.output.sink, source.size
    if kept is not None and (sink == NULL or is_media(sink)):
        forget()
        os.close(kept)
    if sink == NULL:
        from sharpcam.sinks.null import NullSink

        return NullSink(size, source.fps)
    if is_media(sink):
        from sharpcam.sinks.media import MediaSink
        from sharpcam.sources.media import MediaSource

        path = Path(sink).expanduser()
        if not isinstance(source, MediaSource):
            timing: Timing = "captured" if source.live else "sequence"
            return MediaSink(path, size, source.fps, source.color, timing=timing)
        if path.exists() and path.samefile(source.path):
            raise ConfigError(f"{sink} is the source, too", "name another file with --sink")
        return MediaSink(
            *(path, size, source.fps, source.color, source.path),
            whole=lambda: source.ended,
            timing=source.timing,
            pixel_aspect=source.pixel_aspect,
        )
    if _is_path(sink):
        raise ConfigError(
            f'sink "{sink}" is neither a device nor a video file', "use auto, null, /dev/videoN or FILE.mp4"
        )
    from sharpcam.sinks.virtual_camera import VirtualCameraSink

    return VirtualCameraSink(None if sink == "auto" else sink, size, source.fps, kept=kept, forget=forget)


def load_engine(config: Config, size: tuple[int, int]) -> Engine:
    """The engine of the settings, for frames of `size`."""
    wanted = config.model
    engine = Engine.load(wanted.name, size, wanted.provider, wanted.threads, wanted.temporal)
    engine.strength = wanted.strength
    return engine
