"""A caller in a room, drawn by the program: the project's poster, and a source whose sharp truth is known."""

from __future__ import annotations

import threading
import time
from fractions import Fraction
from typing import cast

import av
import cv2
import numpy as np

from sharpcam.errors import ConfigError, FormatMismatch
from sharpcam.frame import Color, ColorRange, Frame, check_size
from sharpcam.geometry import Converter, from_rgb, to_video_frame
from sharpcam.sources.pixelclock import has_room, write_clock
from sharpcam.sources.scene.actor import Planes, Pose, Rect, Sprite
from sharpcam.sources.scene.body import HAND_BOX, TORSO_BOX, draw_hand, draw_torso
from sharpcam.sources.scene.canvas import U8, Canvas
from sharpcam.sources.scene.face import EYES_BOX, HAIR, draw_eyes, draw_face
from sharpcam.sources.scene.hair import draw_hair, draw_hair_behind
from sharpcam.sources.scene.room import draw_room

_HEAD_BOX = (-172.0, -186.0, 172.0, 246.0)
_FINE = 2.0  # pixels of the drawings per pixel of the picture
_LOOP = 4.0  # seconds after which head and body move as before
_WAVES = 12.0  # seconds after which the hand waves again
MIN_SIDE = 100  # pixels: below it, parts of the scene vanish
_CACHE = 88  # bytes for each pixel of the picture that moving parts may be kept in (80 MB at 720p)


class TestCard:
    """The scene as I420 pictures of `size`, limited range, BT.601; frame `n` is the moment `n / fps`.

    `softness` 1 is a cheap webcam: a Gaussian of 1.25 pixels (more above 720 rows), motion blur of half a
    frame time, noise of 2.2 codes. 0 is the truth. `mjpeg` puts the soft pictures through a real encoder of
    that quantiser (2 good to 31 bad), as most webcams do. The same arguments give the same pictures.
    """

    def __init__(
        self,
        size: tuple[int, int] = (1280, 720),
        fps: float = 30.0,
        softness: float = 1.0,
        seed: int = 7,
        mjpeg: int | None = None,
    ) -> None:
        check_size(*size)
        if min(size) < MIN_SIDE:
            raise FormatMismatch(
                f"a {size[0]}x{size[1]} picture is too small for the test card",
                f"use {MIN_SIDE} pixels a side or more",
            )
        if not 0 <= softness <= 4:
            raise ConfigError(f"softness {softness:g} is out of range", "choose 0 (sharp) to 4")
        if mjpeg is not None and not 2 <= mjpeg <= 31:
            raise ConfigError(f"MJPEG quantiser {mjpeg} is out of range", "choose 2 (good) to 31 (bad)")
        self.size, self.fps, self.softness, self.color = size, fps, softness, Color()
        self._mjpeg = mjpeg
        width, height = size
        self._scale = height / 720
        self._blur = 1.25 * softness * max(1.0, self._scale)
        self._middle = width / self._scale / 2
        self._seed = seed
        self._room = Frame(*size, self.color)
        room = draw_room(width / self._scale, _FINE * self._scale, seed)
        from_rgb(cast(U8, cv2.resize(room, size, interpolation=cv2.INTER_AREA)), self._room)
        fine = _FINE * self._scale
        self._heads = _heads(fine, seed, self.color)
        self._torso = Sprite(draw_torso(fine, seed + 1), TORSO_BOX, fine, self.color)
        self._hand = Sprite(draw_hand(fine, seed + 2), HAND_BOX, fine, self.color)
        self._soft_room = Frame(*size, self.color)
        np.copyto(self._soft_room.buffer, self._room.buffer)
        self._defocus(self._soft_room.planes)
        self._noise = _noise_tiles(size, softness, seed)
        self._moving = self._moving_rect()
        self._scratch = Frame(*size, self.color)
        self._cache: dict[int, Planes] = {}
        self._cached = 0

    def truth(self, n: int, frame: Frame | None = None) -> Frame:
        """Frame `n` as a perfect camera would see it, in `frame` or a new one."""
        frame = self._start(n, frame, self._room)
        self._people(frame.planes, n)
        self._wave(frame.planes, n)
        return frame

    def soft(self, n: int, frame: Frame | None = None) -> Frame:
        """Frame `n` as the webcam sees it."""
        if self.softness == 0:
            return self.truth(n, frame)
        frame = self._start(n, frame, self._soft_room)
        for plane, part in zip(_parts(frame.planes, self._moving), self._soft_people(n), strict=True):
            np.copyto(plane, part)
        self._wave(frame.planes, n, soft=True)
        offsets = np.random.default_rng((self._seed, n)).integers(0, 64, (3, 2))
        for plane, tile, (row, column) in zip(frame.planes, self._noise, offsets, strict=True):
            high, wide = plane.shape
            grain = tile[row : row + high, column : column + wide]
            cv2.addWeighted(plane, 1, grain, 1, -128, plane)
        if self._mjpeg is not None:
            _through_mjpeg(frame, self._mjpeg)
        return frame

    def _start(self, n: int, frame: Frame | None, room: Frame) -> Frame:
        frame = frame or Frame(*self.size, self.color)
        np.copyto(frame.buffer, room.buffer)
        frame.color, frame.sequence = self.color, n
        return frame

    def _soft_people(self, n: int) -> Planes:
        """The moving part, defocused. Head and body repeat, so each of their moments is made only once."""
        key = n % self._period()
        if key in self._cache:
            return self._cache[key]
        left, top, right, bottom = self._moving
        whole = self._scratch
        planes = _parts(whole.planes, self._moving)
        for plane, part in zip(planes, _parts(self._room.planes, self._moving), strict=True):
            np.copyto(plane, part)
        self._people(whole.planes, n)
        self._defocus(planes)
        made = cast(Planes, tuple(plane.copy() for plane in planes))
        weight = (right - left) * (bottom - top) * 3 // 2
        if self._cached + weight <= _CACHE * self.size[0] * self.size[1]:
            self._cache[key] = made
            self._cached += weight
        return made

    def _defocus(self, planes: Planes) -> None:
        if self._blur > 0:
            for plane, sigma in zip(planes, (self._blur, self._blur / 2, self._blur / 2), strict=True):
                cv2.GaussianBlur(plane, (0, 0), max(sigma, 0.3), plane, borderType=cv2.BORDER_REPLICATE)

    # --- motion ---

    def _period(self) -> int:
        return max(1, round(_LOOP * self.fps))

    def _people(self, planes: Planes, n: int) -> None:
        turn = n % self._period() / self._period()
        self._torso.lay(planes, self._torso_pose(turn), self._scale)
        seconds = turn * _LOOP
        look = 0
        for start in (0.9, 2.75):
            since = (seconds - start) / 0.05  # half shut, shut for two steps, half shut
            if 0 <= since < 4:
                look = (1, 2, 2, 1)[int(since)]
        self._heads[look].lay(planes, self._head_pose(turn), self._scale)

    def _head_pose(self, turn: float) -> Pose:
        a = 2 * np.pi * turn
        x = self._middle - 10 + 7 * np.sin(a) + 2.2 * np.sin(2 * a + 1)
        y = 296 + 2.4 * np.sin(2 * a) + 1.3 * np.cos(a)
        return Pose(x, y, 1.7 * np.sin(a + 0.5), 1.1 + 0.006 * np.sin(a + 2), (0, 170))

    def _torso_pose(self, turn: float) -> Pose:
        a = 2 * np.pi * turn
        return Pose(
            self._middle - 10 + 1.9 * np.sin(a - 0.3), 296 + 1.1 * np.sin(2 * a + 0.6), 0, 1.1, (0, 450)
        )

    def _moving_rect(self) -> Rect:
        """All that head and torso touch during a loop, and the blur around it."""
        rects = []
        for turn in np.linspace(0, 1, 16, endpoint=False):
            rects.append(self._torso.rect(self._torso_pose(turn), self._scale, self.size))
            rects.append(self._heads[0].rect(self._head_pose(turn), self._scale, self.size))
        low, high = np.min(rects, 0), np.max(rects, 0)
        margin = 2 * int(np.ceil(2 * self._blur + 1))
        left, top = (max(0, int(v) - margin) for v in low[:2])
        right, bottom = (min(n, int(v) + margin) for v, n in zip(high[2:], self.size, strict=True))
        return left, top, right, bottom

    def _wave(self, planes: Planes, n: int, soft: bool = False) -> None:
        """The hand comes up for three seconds and waves about its elbow."""
        seconds = (n / self.fps) % _WAVES - 5.0
        if not 0 < seconds < 3.2:
            return
        up = min(1.0, seconds / 0.55, (3.2 - seconds) / 0.55)
        up = up * up * (3 - 2 * up)
        rate = 2 * np.pi * 1.9
        angle = 4 + 11 * up * np.sin(rate * seconds)
        pose = Pose(self._middle + 292, 452 + 520 * (1 - up), angle, 1.0, (10, 330))
        speed = (
            np.deg2rad(11 * up * rate * np.cos(rate * seconds)) * 330 * self._scale
        )  # of the palm, pixels a second
        smear = abs(speed) * 0.5 / self.fps * min(1.0, self.softness) if soft else 0.0
        self._hand.lay(planes, pose, self._scale, smear, self._blur if soft else 0.0)


class TestCardSource:
    """The test card as a camera (`live`) or as a file that is read as fast as it is asked for.

    Frames carry their number and capture time in pixels (`clock`), see `pixelclock.read_clock`, where they are
    wide enough for it. With `frames`, the source ends after as many.
    """

    def __init__(
        self,
        size: tuple[int, int] = (1280, 720),
        fps: float = 30.0,
        *,
        live: bool = True,
        frames: int | None = None,
        softness: float = 1.0,
        clock: bool = True,
        seed: int = 7,
    ) -> None:
        if not 1 <= fps <= 1000:
            raise ConfigError(f"{fps:g} frames a second is out of range", "choose 1 to 1000")
        self.card = TestCard(size, fps, softness, seed)
        self.size, self.fps, self.color, self.live = size, float(fps), self.card.color, live
        self.frames = frames
        self.description = f"test card {size[0]}x{size[1]} at {fps:g} fps"
        self._clock = clock and has_room(size)
        self._next = 0
        self._start_ns = 0
        self._closed = threading.Event()

    def read(self, frame: Frame, timeout: float) -> bool:
        """See `Source.read`; a live source that was not asked in time skips frames."""
        if self._closed.is_set() or (self.frames is not None and self._next >= self.frames):
            raise EOFError("the test card is over")
        if self.live and not self._wait(timeout):
            return False
        self.card.soft(self._next, frame)
        frame.captured_ns = time.monotonic_ns()
        if self._clock:
            write_clock(frame, frame.captured_ns)
        self._next += 1
        return True

    def close(self) -> None:
        self._closed.set()

    def _wait(self, timeout: float) -> bool:
        now = time.monotonic_ns()
        if not self._start_ns:
            self._start_ns = now - int(self._next * 1e9 / self.fps)
        due = self._start_ns + int(self._next * 1e9 / self.fps)
        late = int((now - due) * self.fps / 1e9)
        if late > 0:
            self._next += late
            if self.frames is not None and self._next >= self.frames:
                raise EOFError("the test card is over")
            return True
        wait = (due - now) / 1e9
        if self._closed.wait(min(wait, timeout)) if wait > 0 else False:
            raise EOFError("the test card is closed")
        return wait <= timeout


def _parts(planes: Planes, rect: Rect) -> Planes:
    left, top, right, bottom = rect
    y, u, v = planes
    half = (slice(top // 2, bottom // 2), slice(left // 2, right // 2))
    return y[top:bottom, left:right], u[half], v[half]


def _heads(fine: float, seed: int, color: Color) -> list[Sprite]:
    """The head with open, half shut and shut eyes."""
    rng = np.random.default_rng(seed)
    head = Canvas.clear(_HEAD_BOX, fine, HAIR * 0.7)
    draw_hair_behind(head, rng)
    draw_face(head, rng)
    draw_hair(head, rng)
    looks = draw_eyes(head, seed)
    face = head.part(*EYES_BOX)
    box = (*face.origin, face.origin[0] + looks[0].shape[1] / fine, face.origin[1] + looks[0].shape[0] / fine)
    first = Sprite(head.pixels, _HEAD_BOX, fine, color)
    return [first, *(first.patched(Sprite(look, box, fine, color)) for look in looks[1:])]


def _through_mjpeg(frame: Frame, quantiser: int) -> None:
    """Encodes and decodes `frame` in place."""
    full = Color(ColorRange.FULL, frame.color.matrix)
    wide = Frame(*frame.size, full)
    Converter(*frame.size, full).into(to_video_frame(frame), wide)
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height = frame.size
    encoder.pix_fmt, encoder.time_base = "yuvj420p", Fraction(1, 30)
    encoder.qmin = encoder.qmax = quantiser
    picture = to_video_frame(wide).reformat(format="yuvj420p")
    packets = encoder.encode(picture) + encoder.encode(None)
    decoder = av.CodecContext.create("mjpeg", "r")
    decoded = [p for packet in packets for p in decoder.decode(packet)] + decoder.decode(None)
    Converter(*frame.size, frame.color).into(decoded[0], frame)


def _noise_tiles(size: tuple[int, int], softness: float, seed: int) -> list[U8]:
    """Noise about 128, a little larger than the planes so that each frame can take another part of it."""
    rng = np.random.default_rng(seed + 3)
    tiles = []
    for width, height, sigma in ((*size, 2.2), *((size[0] // 2, size[1] // 2, 1.3) for _ in range(2))):
        grain = rng.standard_normal((height + 64, width + 64), np.float32)
        noise = np.asarray(cv2.GaussianBlur(grain, (0, 0), 0.55), np.float32)
        noise *= sigma * min(1.0, softness) / float(noise.std())
        tiles.append(np.clip(np.round(128 + noise), 0, 255).astype(np.uint8))
    return tiles
