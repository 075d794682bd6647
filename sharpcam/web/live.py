"""The live picture, before and after: copied and encoded only while somebody looks at it.

A viewer asks for each picture, when it has shown the last one: whoever is slow gets fewer of them, and nothing
queues. The pipeline copies the newest two frames when one is asked for (`Tap`), one thread encodes them once
for all viewers, and the server's event loop sends them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from starlette.websockets import WebSocket, WebSocketDisconnect

from sharpcam.frame import Color, Frame
from sharpcam.geometry import to_rgb

log = logging.getLogger(__name__)

FPS = 15.0  # at most
SHARE = 0.1  # of a core that encoding may take; where that means fewer pictures, there are fewer
MAX_WIDTH = 1280  # of each of the two halves
MIN_WIDTH = 160
QUALITY = 80  # of JPEG
_BLOCK = 16  # rows that share chroma in a JPEG
MAX_VIEWERS = 8
STATUS_S = 0.5  # between two reports of how it goes
SLOW_S = 10.0  # in which a viewer has to take what it asked for, and to ask again
LINGER_S = 1.0  # after the last viewer, until the pipeline is left alone
_NICE = 5  # the meeting goes before the page


class Watchable(Protocol):
    """What is needed of a Pipeline."""

    watcher: Callable[[Frame, Frame], None] | None


class Tap:
    """Copies of a frame before and after, made when one thread waits for them and never else."""

    def __init__(self) -> None:
        self._pair: tuple[Frame, Frame] | None = None
        self._wanted = False
        self._came = threading.Event()

    def __call__(self, before: Frame, after: Frame) -> None:
        """For the sharpening thread."""
        if not self._wanted:
            return
        if self._pair is None or self._pair[0].size != before.size:
            self._pair = Frame(*before.size), Frame(*before.size)
        for copy, frame in zip(self._pair, (before, after), strict=True):
            np.copyto(copy.buffer, frame.buffer)
            copy.copy_facts(frame)
        self._wanted = False
        self._came.set()

    def take(self, timeout: float) -> tuple[Frame, Frame] | None:
        """The next two frames, which stay as they are until the next call; None when none come in time."""
        self._came.clear()
        self._wanted = True
        return self._pair if self._came.wait(timeout) else None


def encode(before: Frame, after: Frame, width: int) -> bytes:
    """One JPEG with `before` above `after`, in one picture so that they cannot come apart.

    Each is `MAX_WIDTH` pixels wide at most, and where `width` pixels are enough, a whole fraction of the frame:
    other sizes take longer to make than they save.
    Four bytes stand before it: the row where `after` begins and how many rows each has, both big-endian. The
    rows between them keep the two from sharing blocks of the JPEG, and so from colouring each other.
    """
    fraction = max(-(-before.width // MAX_WIDTH), before.width // width, 1)
    wide = before.width // fraction // 2 * 2
    high = max(2, round(before.height * wide / before.width / 2) * 2)
    start = (-(-high // _BLOCK) + 1) * _BLOCK
    both = np.empty((start + high, wide, 3), np.uint8)
    for frame, half in ((before, both[:high]), (after, both[start:])):
        _to_bgr(_shrunk(frame, wide, high), half)
    both[high : start - _BLOCK], both[start - _BLOCK : start] = both[high - 1], both[start]
    done, data = cv2.imencode(".jpg", both, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    assert done  # it has a size that fits
    return struct.pack(">HH", start, high) + data.tobytes()


def _to_bgr(frame: Frame, out: NDArray[np.uint8]) -> None:
    if frame.color == Color():  # as nearly all are: OpenCV knows this one, in a third of the time
        cv2.cvtColor(frame.buffer, cv2.COLOR_YUV2BGR_I420, out)
    else:
        cv2.cvtColor(to_rgb(frame), cv2.COLOR_RGB2BGR, out)


def _shrunk(frame: Frame, width: int, height: int) -> Frame:
    if frame.size == (width, height):
        return frame
    small = Frame(width, height, frame.color)
    for source, target in zip(frame.planes, small.planes, strict=True):
        cv2.resize(source, target.shape[::-1], target, interpolation=cv2.INTER_AREA)
    return small


def lossless(frame: Frame) -> bytes:
    """`frame` as PNG."""
    bgr: NDArray[Any] = cv2.cvtColor(to_rgb(frame), cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert done
    return data.tobytes()


class _Viewer:
    """One connection. `width` is that of the picture which it waits for, 0 while it waits for none."""

    def __init__(self) -> None:
        self.width = 0
        self.looks = False  # it has not said that it rests
        self.picture: bytes | None = None  # to be sent
        self.shown_at = 0.0
        self.stirred = asyncio.Event()


class Live:
    """Pictures and status for everybody who looks.

    `looking` may be read from any thread; `serve` and `snapshot` are coroutines of the event loop that `start`
    was called in.
    """

    def __init__(self, pipeline: Watchable, status: Callable[[], dict[str, Any]]) -> None:
        self._pipeline, self._status = pipeline, status
        self._tap = Tap()
        self._viewers: set[_Viewer] = set()
        self._snapshots: list[asyncio.Future[bytes]] = []
        self._asked = threading.Event()
        self._over = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._work, name="sharpcam-page-pictures", daemon=True)

    @property
    def connected(self) -> int:
        return len(self._viewers)

    @property
    def looking(self) -> int:
        """How many want pictures now, shown or not: for them the camera is open."""
        return sum(viewer.looks for viewer in tuple(self._viewers)) + len(self._snapshots)

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread. May be called from any other, and without `start`."""
        self._over = True
        self._asked.set()
        if self._thread.ident is not None:
            self._thread.join(5)

    # In the event loop

    async def serve(self, socket: WebSocket) -> None:
        """Talks to one viewer until it goes, is slow, or says what is not understood."""
        if self.connected >= MAX_VIEWERS:
            await socket.close()  # before it is accepted: 403
            return
        viewer = _Viewer()
        self._viewers.add(viewer)
        try:
            await socket.accept()
            talk = [asyncio.ensure_future(work(socket, viewer)) for work in (self._listen, self._tell)]
            try:
                await asyncio.wait(talk, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in talk:
                    task.cancel()
                for result in await asyncio.gather(*talk, return_exceptions=True):
                    if isinstance(result, Exception) and not isinstance(result, _GONE):
                        raise result
        finally:
            self._viewers.discard(viewer)
            with contextlib.suppress(*_GONE):
                async with asyncio.timeout(1):
                    await socket.close()

    async def _listen(self, socket: WebSocket, viewer: _Viewer) -> None:
        """`look WIDTH` asks for one picture; `rest` says that none is wanted until then."""
        async for text in socket.iter_text():
            word, _, number = text.partition(" ")
            if word == "look" and number.isdecimal() and len(number) < 6:
                viewer.looks, viewer.width = True, min(max(int(number), MIN_WIDTH), MAX_WIDTH)
                self._asked.set()
            elif text == "rest":
                viewer.looks, viewer.width = False, 0
            else:
                return

    async def _tell(self, socket: WebSocket, viewer: _Viewer) -> None:
        status_at = 0.0
        while True:
            now = time.monotonic()
            if now >= status_at:
                status_at = now + STATUS_S
                async with asyncio.timeout(SLOW_S):
                    await socket.send_json(self._status())
            if viewer.picture is not None:
                picture, viewer.picture = viewer.picture, None
                async with asyncio.timeout(SLOW_S):
                    await socket.send_bytes(picture)
                viewer.shown_at = now
            elif viewer.looks and not viewer.width and now > viewer.shown_at + SLOW_S:
                return  # it has not asked again
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, status_at - now)):
                    await viewer.stirred.wait()
            viewer.stirred.clear()

    async def snapshot(self, timeout: float = 5.0) -> bytes:
        """The next frame as it comes from the camera, as PNG; raises TimeoutError when none does."""
        asked = asyncio.get_running_loop().create_future()
        self._snapshots.append(asked)
        self._asked.set()
        try:
            async with asyncio.timeout(timeout):
                return bytes(await asked)
        finally:
            if asked in self._snapshots:
                self._snapshots.remove(asked)

    def _publish(self, picture: bytes, snapshot: bytes) -> None:
        for viewer in self._viewers:
            if picture and viewer.width:
                viewer.picture, viewer.width = picture, 0
                viewer.stirred.set()
        if snapshot:
            asked, self._snapshots = self._snapshots, []
            for future in asked:
                if not future.done():
                    future.set_result(snapshot)

    # In the thread

    def _work(self) -> None:
        _be_nice()
        loop = self._loop
        assert loop is not None
        try:
            while not self._over:
                if not self._asked.wait(LINGER_S):
                    self._pipeline.watcher = None
                    continue
                self._asked.clear()
                self._pipeline.watcher = self._tap
                pair = None
                while pair is None and not self._over and self.looking:
                    pair = self._tap.take(0.2)
                if pair is None:
                    continue
                start, cpu = time.monotonic(), time.thread_time()
                width = max((viewer.width for viewer in tuple(self._viewers)), default=0)
                picture = encode(*pair, width) if width else b""
                snapshot = lossless(pair[0]) if self._snapshots else b""
                loop.call_soon_threadsafe(self._publish, picture, snapshot)
                pause = max(1 / FPS, (time.thread_time() - cpu) / SHARE)
                time.sleep(max(0.0, start + pause - time.monotonic()))
        except RuntimeError as error:  # the loop is closed
            log.debug("page: %s", error)
        finally:
            self._pipeline.watcher = None


_GONE = (WebSocketDisconnect, TimeoutError, RuntimeError, OSError)  # in the ways that Starlette tells it


def _be_nice() -> None:
    """Lowers the priority of this thread, where a system has one for each (Linux)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
