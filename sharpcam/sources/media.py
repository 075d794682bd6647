"""Frames from a video file."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from sharpcam.errors import MediaError
from sharpcam.frame import Color, ColorMatrix, ColorRange, Frame, check_size
from sharpcam.geometry import Converter, Fit, picture_color

log = logging.getLogger(__name__)

_MAX_SKIP = 4  # pictures in a row that a late live source leaves out
_HDR_TRANSFERS = {16, 18}  # PQ and HLG
_HINT_CONVERT = "convert it first: ffmpeg -i IN -c:v libx264 -pix_fmt yuv420p OUT.mp4"


class MediaSource:
    """A video file as I420 frames of `size`, upright; None is the file's own size.

    An odd side of the file's own size loses its last row or column. `live` paces the frames by their
    timestamps and leaves out what is too late; otherwise every frame comes as fast as it is asked for.
    `sequence` counts at the file's average rate and follows its timestamps, so a pause in the file is a gap there.
    A file that is damaged further on ends at the damage with a warning.

    Besides what a Source has: `duration` in seconds and `frame_count`, both as the file tells (None when it
    does not), `has_audio`, `start_time` (seconds of the first picture in the file's own time), `pixel_aspect`
    (width to height of a pixel of the given frames), `is_uneven`: whether pictures may follow one another
    faster than at the average rate, so that only `media_ns` tells when each is due, and `timing`: which of the
    two a MediaSink should go by.

    Raises MediaError when there is no such file, it is not a video, or not one picture can be decoded.
    """

    def __init__(
        self,
        path: str | Path,
        size: tuple[int, int] | None = None,
        *,
        live: bool = False,
        loop: bool = False,
        fit: Fit = "letterbox",
    ) -> None:
        self.path = Path(path)
        self.live, self.loop = live, loop
        self.damaged = False
        self._lock = threading.Lock()
        self.ended = False
        self._closed = threading.Event()
        self._container, stream = _open(self.path)
        try:
            self._pictures = self._decode(self._container, stream)
            first = next(self._pictures, None)
            if first is None:
                raise MediaError(
                    f"no picture in {self.path} can be decoded", "the file is damaged or cut short"
                )
            turned = round(first.rotation) % 180 == 90
            own = (first.height, first.width) if turned else (first.width, first.height)
            self.size = size or (own[0] - own[0] % 2, own[1] - own[1] % 2)
            check_size(*self.size)
        except BaseException:
            self._container.close()
            raise
        self._pending: av.VideoFrame | None = first
        self.color = _own_color(first)
        rate = stream.average_rate or stream.guessed_rate or Fraction(30)
        self.fps = min(1000.0, max(0.1, float(rate)))
        # a film of 30 frames a second that lacks a few has fewer on average; numbered by these it would run ahead
        steady = float(stream.base_rate or 0)
        self.is_uneven = not 0 < steady <= 1.01 * self.fps
        if not self.is_uneven:
            self.fps = max(self.fps, steady)
        self.duration = _duration(self._container, stream)
        self.frame_count = stream.frames or (round(self.duration * self.fps) if self.duration else None)
        self.has_audio = bool(self._container.streams.audio)
        aspect = stream.sample_aspect_ratio or Fraction(1)
        self.pixel_aspect = (1 / aspect if turned else aspect) if size is None else Fraction(1)
        self.start_time = first.time or 0.0
        codec = stream.codec_context.name
        self.description = f"{self.path.name}, {codec} {own[0]}x{own[1]} at {self.fps:.4g} fps"
        if first.color_trc in _HDR_TRANSFERS:
            log.warning("hdr: %s is shown without tone mapping and will look pale", self.path)
        self._converter = Converter(*self.size, self.color, fit)
        self._base = 0.0  # seconds of play before this round of the loop
        self._last_seconds = 0.0
        self._last_sequence = -1
        self._epoch_ns = 0  # monotonic time of second 0, when live

    def read(self, frame: Frame, timeout: float) -> bool:
        """See `Source.read`."""
        with self._lock:
            if self._closed.is_set():
                raise EOFError(f"{self.path} was closed")
            picture = self._next_picture()
            if self.live:
                picture = self._skip_late(picture)
                if not self._wait_for(picture, timeout):
                    return False
            self._pending = None
            self._converter.into(picture, frame)
            self._last_seconds = self._seconds(picture)
            self._last_sequence = max(self._last_sequence + 1, round(self._last_seconds * self.fps))
            frame.sequence, frame.captured_ns = self._last_sequence, time.monotonic_ns()
            frame.media_ns = round(self._last_seconds * 1e9)
            return True

    @property
    def timing(self) -> Literal["sequence", "media"]:
        return "media" if self.is_uneven else "sequence"

    def close(self) -> None:
        self._closed.set()
        with self._lock:  # a read that waits is woken, one that decodes ends soon
            self._pending = None
            self._container.close()

    def _next_picture(self) -> av.VideoFrame:
        if self._pending is None:
            self._pending = next(self._pictures, None)
        if self._pending is None and self.loop:
            self._base = self._last_seconds + 1 / self.fps
            self._container.close()
            self._container, stream = _open(self.path)
            self._pictures = self._decode(self._container, stream)
            self._pending = next(self._pictures, None)
        if self._pending is None:
            self.ended = True
            raise EOFError(f"end of {self.path}")
        return self._pending

    def _skip_late(self, picture: av.VideoFrame) -> av.VideoFrame:
        """The picture that is due; when the machine is too slow for all of them, time is stretched."""
        now = time.monotonic_ns()
        if not self._epoch_ns:
            self._epoch_ns = now - int(self._seconds(picture) * 1e9)
        for _ in range(_MAX_SKIP):
            if self._lateness(picture) <= 1 / self.fps:
                return picture
            self._last_seconds = self._seconds(picture)
            self._pending = None
            picture = self._next_picture()
        self._epoch_ns += int(max(0.0, self._lateness(picture)) * 1e9)
        return picture

    def _wait_for(self, picture: av.VideoFrame, timeout: float) -> bool:
        early = -self._lateness(picture)
        if early > 0 and self._closed.wait(min(early, timeout)):
            raise EOFError(f"{self.path} was closed")
        return early <= timeout

    def _lateness(self, picture: av.VideoFrame) -> float:
        return (time.monotonic_ns() - self._epoch_ns) / 1e9 - self._seconds(picture)

    def _seconds(self, picture: av.VideoFrame) -> float:
        """When the picture is due, in seconds after the first one; untimed ones follow their forerunner."""
        if picture.pts is None:
            return self._last_seconds + 1 / self.fps
        return self._base + max(0.0, picture.time - self.start_time)

    def _decode(self, container: InputContainer, stream: VideoStream) -> Iterator[av.VideoFrame]:
        """All pictures that can be decoded; damage is passed over where decoders can, else it is the end."""
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.FFmpegError as error:
                self._damage(error)
                return
            try:
                yield from packet.decode()
            except av.FFmpegError as error:
                self._damage(error)

    def _damage(self, error: Exception) -> None:
        if not self.damaged:
            self.damaged = True
            log.warning("damaged: %s: %s; what can be read is used", self.path, error)


def _open(path: Path) -> tuple[InputContainer, VideoStream]:
    """The container and its video stream, MediaError when there is none."""
    if path.is_dir():
        raise MediaError(f"{path} is a folder", "name a video file")
    try:
        container = av.open(f"file:{path}")  # a name with a colon is no address, and no address is opened
    except FileNotFoundError as error:
        raise MediaError(f"there is no file {path}", "check the name") from error
    except PermissionError as error:
        raise MediaError(f"cannot read {path}: permission denied", "check its permissions") from error
    except (av.FFmpegError, OSError) as error:
        raise MediaError(
            f"{path} is not a video that can be read: {error.strerror or error}", _HINT_CONVERT
        ) from error
    # cover art is a video stream by name, and FFmpeg draws text files as terminal pictures
    films = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not films or container.format.name == "tty":
        container.close()
        raise MediaError(f"{path} has no video in it", "name a video file")
    stream = films[0]
    stream.thread_type = "AUTO"
    return container, stream


def _own_color(picture: av.VideoFrame) -> Color:
    """The colour that needs least conversion; video that does not tell its matrix is taken as players do."""
    high_definition = max(picture.width, picture.height) > 1024 or min(picture.width, picture.height) > 576
    color = picture_color(picture, ColorMatrix.BT709 if high_definition else ColorMatrix.BT601)
    is_yuv = picture.format.name.startswith(("yuv", "nv", "p0", "uyvy", "yuyv"))
    return color if is_yuv else Color(ColorRange.LIMITED, color.matrix)


def _duration(container: InputContainer, stream: VideoStream) -> float | None:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else None
