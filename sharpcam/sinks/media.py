"""Frames into a video file, which appears under its name when it is complete."""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Literal, cast

import av
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from sharpcam.errors import FormatMismatch, MediaError
from sharpcam.files import temporary_beside, write_error
from sharpcam.frame import Color, Frame, check_size
from sharpcam.geometry import to_video_frame

log = logging.getLogger(__name__)

Timing = Literal["sequence", "captured", "media"]

# container by suffix, and the encoders to try
_H264 = ("libx264", "mpeg4")
_KINDS = {
    ".mp4": ("mp4", _H264),
    ".m4v": ("mp4", _H264),
    ".mov": ("mov", _H264),
    ".mkv": ("matroska", _H264),
    ".webm": ("webm", ("libvpx-vp9", "libvpx")),
}
_FINE = Fraction(1, 90_000)  # seconds; the clock of times that follow no rate


def check_video_name(path: Path) -> None:
    """Raises MediaError unless the suffix is one that MediaSink writes."""
    if path.suffix.lower() not in _KINDS:
        raise MediaError(
            f'cannot write {path}: no video format is called "{path.suffix}"',
            f"use one of {' '.join(_KINDS)}",
        )


class MediaSink:
    """A video file of high quality: H.264 (VP9 in .webm), tagged with its colours.

    `timing` says what sets the timestamps: "sequence" numbers at `fps` (files; gaps stay gaps), "media" times (files
    whose rate varies) or "captured" times (cameras, whose rate does). `audio_from` is a file whose audio is copied
    along, unchanged, where the container can hold it: as far as the pictures go, or, where `whole` says at the end that
    they are all that there were, to its own end. `crf` is the encoder's quality (lower is better) and `preset`
    its effort.

    Frames go to a hidden file beside the target; `close` gives it its name, `abort` removes it. A file that
    bore the name before is replaced. Raises MediaError when it cannot be written.
    """

    live = False

    def __init__(
        self,
        path: str | Path,
        size: tuple[int, int],
        fps: float,
        color: Color,
        audio_from: str | Path | None = None,
        *,
        whole: Callable[[], bool] = lambda: False,
        timing: Timing = "sequence",
        pixel_aspect: Fraction = Fraction(1),
        crf: int = 16,
        preset: str = "veryfast",
    ) -> None:
        self.path = Path(path)
        check_size(*size)
        check_video_name(self.path)
        container, codecs = _KINDS[self.path.suffix.lower()]
        codec = _first_encoder(codecs)
        self.size, self.fps, self.color = size, float(fps), color
        self._timing, self._whole = timing, whole
        self._first: int | None = 0 if audio_from is not None and timing != "captured" else None
        self._last_pts = -1
        self._temporary = temporary_beside(self.path)
        self._container: OutputContainer | None = None
        self._audio: _Audio | None = None
        try:
            with self._explained():
                options = {"movflags": "+faststart"} if container in ("mp4", "mov") else {}
                self._container = av.open(str(self._temporary), "w", format=container, options=options)
                rate = Fraction(fps).limit_denominator(1001)
                stream = cast(
                    VideoStream,
                    self._container.add_stream(codec, rate=rate, options=_options(codec, crf, preset)),
                )
                stream.width, stream.height = size
                stream.pix_fmt = "yuv420p"
                stream.codec_context.time_base = 1 / rate if timing == "sequence" else _FINE
                self._clock = stream.codec_context.time_base
                if pixel_aspect != 1:
                    stream.codec_context.sample_aspect_ratio = pixel_aspect
                tags = to_video_frame(Frame(16, 16, color))
                for name in ("color_range", "colorspace", "color_primaries", "color_trc"):
                    setattr(stream.codec_context, name, getattr(tags, name))
                self._stream = stream
                if audio_from is not None:
                    self._audio = _Audio.open(Path(audio_from), self._container, self.path)
        except BaseException:
            self.abort()
            raise
        self.description = f"{self.path}, {_NAMES[codec]} {size[0]}x{size[1]} at {self.fps:.4g} fps"

    def send(self, frame: Frame) -> None:
        """Encodes a copy of `frame`; frames that come twice or go back in time are moved behind the last."""
        if self._container is None:
            raise MediaError(f"{self.path} was closed")
        if frame.size != self.size:
            raise FormatMismatch(f"a frame of {frame.size} does not fit the video of {self.size}")
        picture = to_video_frame(frame)
        picture.pts = self._last_pts = max(self._last_pts + 1, self._stamp(frame))
        picture.time_base = self._clock
        with self._explained():
            for packet in self._stream.encode(picture):
                self._container.mux(packet)
            if self._audio is not None:
                self._audio.copy_until(float(self._last_pts * self._clock), self._container.mux)

    def close(self) -> None:
        """Completes the file and gives it its name; without a single frame there will be none."""
        if self._container is None:
            return
        if self._last_pts < 0:
            log.warning("empty: no frame came, %s is not written", self.path)
            self.abort()
            return
        try:
            with self._explained():
                for packet in self._stream.encode(None):
                    self._container.mux(packet)
                if self._audio is not None:
                    end = math.inf if self._whole() else float((self._last_pts + 1) * self._clock)
                    self._audio.copy_until(end, self._container.mux)
                    self._audio.close()
                container, self._container = self._container, None
                container.close()
                os.replace(self._temporary, self.path)
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Removes what was written so far. May be called at any time."""
        with contextlib.suppress(av.FFmpegError, OSError, ValueError):
            if self._audio is not None:
                self._audio.close()
        container, self._container = self._container, None
        with contextlib.suppress(av.FFmpegError, OSError, ValueError):
            if container is not None:
                container.close()
        with contextlib.suppress(OSError):  # a disk that can only be read now keeps it
            self._temporary.unlink(missing_ok=True)

    def _stamp(self, frame: Frame) -> int:
        if self._timing == "sequence":
            if self._first is None:
                self._first = frame.sequence
            return frame.sequence - self._first
        time_ns = frame.captured_ns if self._timing == "captured" else frame.media_ns
        if self._first is None:
            self._first = time_ns
        return round((time_ns - self._first) / 1e9 / self._clock)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (av.FFmpegError, OSError) as error:
            if isinstance(error, MediaError):
                raise
            raise write_error(self.path, error) from error


class _Audio:
    """Packets of the audio of a file, handed over in time with the pictures."""

    def __init__(self, source: InputContainer, streams: dict[int, AudioStream], offset: float) -> None:
        self._source = source
        self._streams = streams
        self._offset = offset  # seconds in the source at which the pictures begin
        self._packets: Iterator[Packet[AudioStream]] = source.demux(*(source.streams[i] for i in streams))  # type: ignore[assignment]
        self._waiting: Packet[AudioStream] | None = None

    @classmethod
    def open(cls, path: Path, target: OutputContainer, name: Path) -> _Audio | None:
        """The audio of `path`, its streams made in `target`; None when there is nothing to copy."""
        try:
            source = av.open(f"file:{path}")
        except (av.FFmpegError, OSError) as error:
            raise MediaError(f"cannot read the audio of {path}: {error.strerror or error}") from error
        streams = {}
        for stream in source.streams.audio:
            if stream.codec_context.name in target.supported_codecs:
                copy = streams[stream.index] = target.add_stream_from_template(stream)
                copy.metadata.update(stream.metadata)
                copy.disposition = stream.disposition
            else:
                log.warning(
                    "audio: %s cannot hold %s, so it is left out; use .mkv to keep it",
                    name.suffix,
                    stream.codec_context.name,
                )
        if not streams:
            source.close()
            return None
        film = source.streams.video[0] if source.streams.video else None
        start = film.start_time * film.time_base if film and film.start_time and film.time_base else 0
        return cls(source, streams, float(start))

    def copy_until(self, seconds: float, mux: Callable[[Packet[AudioStream]], None]) -> None:
        """Hands over all packets that begin before `seconds` of the pictures."""
        while (packet := self._next()) is not None:
            if packet.pts is None or packet.dts is None or packet.time_base is None:
                self._waiting = None
                continue
            if float(packet.pts * packet.time_base) - self._offset >= seconds:
                return
            self._waiting = None
            shift = round(self._offset / packet.time_base)
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            if packet.pts < 0:  # sound from before the first picture
                continue
            packet.stream = self._streams[packet.stream.index]
            mux(packet)

    def close(self) -> None:
        self._waiting = None
        self._source.close()

    def _next(self) -> Packet[AudioStream] | None:
        if self._waiting is None:
            try:
                self._waiting = next(self._packets, None)
            except av.FFmpegError as error:
                log.warning("audio: damaged, the rest is left out: %s", error)
                self._packets = iter(())
        return self._waiting


_NAMES = {"libx264": "H.264", "mpeg4": "MPEG-4", "libvpx-vp9": "VP9", "libvpx": "VP8"}


def _first_encoder(names: tuple[str, ...]) -> str:
    for name in names:
        with contextlib.suppress(av.codec.codec.UnknownCodecError):
            av.Codec(name, "w")
            if name != names[0]:
                log.warning("encoder: no %s in this FFmpeg, using %s", names[0], name)
            return name
    raise MediaError(f"this FFmpeg has none of the encoders {', '.join(names)}", "install av from PyPI")


def _options(codec: str, crf: int, preset: str) -> dict[str, str]:
    if codec == "libx264":
        return {"crf": str(crf), "preset": preset}
    if codec == "mpeg4":
        return {"qmin": "2", "qmax": "4"}
    speed = (
        {"deadline": "realtime", "cpu-used": "6", "row-mt": "1"}
        if codec == "libvpx-vp9"
        else {"cpu-used": "6"}
    )
    return {"crf": str(crf + 4), "b": "0" if codec == "libvpx-vp9" else "20M", **speed}
