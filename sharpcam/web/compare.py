"""Comparisons, each in a process of its own: what a stranger's picture or a huge model does there harms no meeting.

A request's body is one line of JSON (`Job`) and then the pictures, as they were in their files. So is what the
process reads. What it answers goes to the page as it comes: records of a length (4 bytes, big-endian), so much
JSON, and the `bytes` that this announces (see `sharpcam.web.worker`). Whoever leaves ends the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from io import BufferedReader
from typing import BinaryIO, cast

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sharpcam.errors import validation_line
from sharpcam.web.job import Job, record
from sharpcam.web.pictures import check_picture

log = logging.getLogger(__name__)

SLOW_S = 30.0  # in which the page has to take what it is sent
_CHUNK = 1 << 16


class Comparisons:
    """At most one at a time, with `threads` CPU threads for its models, `nice` steps behind other programs."""

    def __init__(self, threads: int, nice: int) -> None:
        self._settings = str(threads), str(nice)
        self.running = False

    async def answer(self, read: Callable[[], Awaitable[bytes]]) -> Response:
        """The response to a request, whose body `read` gives: it is not read while another is worked on."""
        if self.running:
            raise HTTPException(409, "another comparison runs; cancel it, or wait for its end")
        self.running = True
        try:
            return _Relay(_checked(await read()), self._settings, self._done)
        except BaseException:
            self._done()
            raise

    def _done(self) -> None:
        self.running = False


def _checked(body: bytes) -> bytes:
    """`body`, or HTTPException and MediaError where it is not what the process should be given."""
    line, _, rest = body.partition(b"\n")
    try:
        job = Job.model_validate_json(line)
    except ValidationError as error:
        raise HTTPException(422, validation_line(error.errors())) from None
    wanted = (0,) if job.source == "scene" else (1,) if job.soften else (1, 2)
    if len(job.sizes) not in wanted:
        raise HTTPException(422, f"{len(job.sizes)} pictures are not what such a comparison needs")
    if sum(job.sizes) != len(rest):
        raise HTTPException(422, "the pictures do not have the sizes that were announced")
    for picture in job.pictures(rest):
        check_picture(picture)
    return body


class _Relay(Response):
    """Sends what the process says, as it says it."""

    media_type = "application/octet-stream"

    def __init__(self, job: bytes, settings: tuple[str, str], done: Callable[[], None]) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._job, self._settings, self._done = job, settings, done
        self._ended = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
            await send(start)
            relay = asyncio.ensure_future(self._relay(send))
            gone = asyncio.ensure_future(_disconnected(receive))
            try:
                await asyncio.wait((relay, gone), return_when=asyncio.FIRST_COMPLETED)
            finally:
                gone.cancel()
                relay.cancel()
                with contextlib.suppress(asyncio.CancelledError, TimeoutError, OSError):
                    await relay
        finally:
            self._end()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._done()

    async def _relay(self, send: Send) -> None:
        async def pass_on(data: bytes, more: bool = True) -> None:
            async with asyncio.timeout(SLOW_S):
                await send({"type": "http.response.body", "body": data, "more_body": more})

        # not asyncio's own subprocesses: whoever stops waiting for one while it starts, waits for ever
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "sharpcam.web.worker", *self._settings],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        stdin, stdout = cast(BinaryIO, process.stdin), cast(BufferedReader, process.stdout)
        feeding = threading.Thread(target=_feed, args=(stdin, self._job), daemon=True)
        feeding.start()
        try:
            while data := await asyncio.to_thread(stdout.read1, _CHUNK):
                await pass_on(data)
            code = await asyncio.to_thread(process.wait)
            last = b""
            if code:
                log.warning("comparison: exit status %d", code)
                last = record("failed", error="the comparison broke off", hint=_hint(code))
            self._end()  # before the page hears of it and perhaps asks for the next
            await pass_on(last, more=False)
        finally:
            process.kill()
            process.wait()
            stdout.close()
            feeding.join()


def _hint(code: int) -> str:
    return (
        "there was not enough memory; choose a smaller picture" if code == -9 else "this is a bug in SharpCam"
    )


def _feed(stdin: BinaryIO, data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError), stdin:  # it has ended: its status tells
        stdin.write(data)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
