"""The control socket: one JSON object a line in, one a line out, for programs of the same user.

On Windows it is a named pipe (`sharpcam.daemon.pipe`); elsewhere it lies in the user's runtime folder, which
nobody else may enter. A request is `{"v": 1, "cmd": "status"}` with more keys as the command wants them; the
answer is `{"v": 1, "ok": true, "result": ...}` or `{"v": 1, "ok": false, "error": "...", "hint": "..."}`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from sharpcam.errors import ControlError, DeviceBusy, SharpCamError
from sharpcam.holding import WriterLock, check_private, runtime_folder, runtime_hint, writer

log = logging.getLogger(__name__)

VERSION = 1
MAX_LINE = 4096  # bytes of a request
MAX_ANSWER = 1 << 20
MAX_CONNECTIONS = 8
IDLE_S = 10.0  # a connection that is silent for so long is closed
_LAST_ANSWERS_S = 1.0
_NAME = "control"
NOT_RUNNING = "SharpCam does not run", "start it: sharpcam run"

Request = Mapping[str, Any]
Answer = Callable[[str, Request], Any]


class Server(Protocol):
    """Answers until it is closed."""

    def close(self) -> None: ...


def socket_path() -> Path:
    return runtime_folder() / f"{_NAME}.sock"


class ControlServer:
    """Answers requests until it is closed; `answer` gets the command and the request, from several threads.

    What `answer` returns has to be JSON's; SharpCamError and its hint go to who asked. A socket that a
    killed process left behind is replaced.

    Raises ControlError when another SharpCam listens already (with its pid), or the folder is not this user's
    alone.
    """

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._lock = _lock()  # the kernel frees it when the process dies, however that happens
        self.path = socket_path()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.path.unlink(missing_ok=True)
            self._socket.bind(str(self.path))  # nobody else can enter its folder meanwhile
            self.path.chmod(0o600)
            self._socket.listen(MAX_CONNECTIONS)
        except OSError as error:
            self._socket.close()
            self._lock.release()
            too_long = error.errno is None  # so Python says it, before it asks the system
            raise ControlError(
                f"cannot listen at {self.path}: {error.strerror or error}",
                "set XDG_RUNTIME_DIR to a folder of yours with a short path"
                if too_long
                else runtime_hint(error),
            ) from None
        self._over = threading.Event()
        self._room = threading.Semaphore(MAX_CONNECTIONS)
        self._answering = 0
        self._answered = threading.Condition()
        self._bell, self._ring = socket.socketpair()  # wakes the thread that waits for connections
        self._thread = threading.Thread(target=self._accept, name="sharpcam-control", daemon=True)
        self._thread.start()
        log.info("control listening path=%s", self.path)

    def close(self) -> None:
        """Stops listening and removes the socket, once what is being answered has been. May be called twice."""
        if self._over.is_set():
            return
        self._over.set()
        self._ring.send(b"x")
        self._thread.join(5)
        with self._answered:
            self._answered.wait_for(lambda: not self._answering, _LAST_ANSWERS_S)
        for end in (self._socket, self._bell, self._ring):
            end.close()
        with contextlib.suppress(OSError):  # a dead socket is in nobody's way
            self.path.unlink(missing_ok=True)
        self._lock.release()

    def _accept(self) -> None:
        while True:
            select.select([self._socket, self._bell], [], [])
            if self._over.is_set():
                return
            try:
                connection, _ = self._socket.accept()
            except OSError as error:  # who asked has gone, or we have too many files open
                log.warning("control error=%r", str(error))
                self._over.wait(0.1)
                continue
            if (user := peer(connection)) not in (None, os.getuid()):
                log.warning("control refused user=%s", user)
                connection.close()
            elif not self._room.acquire(blocking=False):
                log.warning("control refused connections=%d", MAX_CONNECTIONS)
                connection.close()
            else:
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, contextlib.suppress(OSError):  # who asked has gone
                connection.settimeout(IDLE_S)
                for line in _lines(connection, MAX_LINE):
                    if line is None:
                        connection.sendall(_failure(f"a request is longer than {MAX_LINE} bytes"))
                        break
                    with self._counted():
                        connection.sendall(reply(self._answer, line))
        finally:
            self._room.release()

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        """So that the process does not end between doing what `stop` asks and saying so."""
        with self._answered:
            self._answering += 1
        try:
            yield
        finally:
            with self._answered:
                self._answering -= 1
                self._answered.notify_all()


def serve(answer: Answer) -> Server:
    """A server of this system's kind; raises what `ControlServer` raises."""
    if sys.platform == "win32":
        from sharpcam.daemon.pipe import PipeServer

        return PipeServer(lambda request: reply(answer, request))
    return ControlServer(answer)


def reply(answer: Answer, line: bytes) -> bytes:
    """What is sent back for one request."""
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        return _failure("the request is not JSON")
    if not isinstance(request, dict) or not isinstance(request.get("cmd"), str):
        return _failure('the request is no object with a "cmd"')
    if request.get("v") != VERSION:
        told = f"this SharpCam speaks version {VERSION} of the protocol, not {request.get('v')!r}"
        return _failure(told[:200], "use the `sharpcam` that belongs to the running one, or restart it")
    try:
        return _line({"v": VERSION, "ok": True, "result": answer(request["cmd"], request)})
    except SharpCamError as error:
        return _failure(str(error), error.hint)
    except Exception as error:
        log.exception("control: %s", request["cmd"][:50])
        return _failure(f"unexpected failure: {error}", "this is a bug in SharpCam")


def ask(command: str, timeout: float = 5.0, **more: Any) -> Any:
    """Sends one command to the running SharpCam and gives its result.

    Raises ControlError when none runs or it does not answer within `timeout` seconds, and with the text of
    its failure when it refuses.
    """
    request = _line({"v": VERSION, "cmd": command, **more})
    if sys.platform == "win32":
        from sharpcam.daemon.pipe import exchange

        line = exchange(request, timeout)
        if line is None:
            raise ControlError(*NOT_RUNNING)
        return _result(line)
    return _result(_exchange(request, timeout))


def _exchange(request: bytes, timeout: float) -> bytes:
    """The answer to one request over the Unix socket; b"" when it broke off."""
    path = socket_path()
    try:
        check_private(path.parent)
    except FileNotFoundError:
        raise ControlError(*NOT_RUNNING) from None
    except OSError as error:
        raise ControlError(f"cannot use {path.parent}: {error.strerror}", "remove what is there") from None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(str(path))
            connection.sendall(request)
            return next(_lines(connection, MAX_ANSWER), None) or b""
        except (FileNotFoundError, ConnectionRefusedError):
            raise ControlError(*NOT_RUNNING) from None
        except TimeoutError:
            pid = writer(_NAME)
            raise ControlError(f"SharpCam (pid {pid}) does not answer", f"kill {pid}") from None
        except OSError as error:
            raise ControlError(f"cannot ask SharpCam at {path}: {error.strerror or error}") from None


def _result(line: bytes) -> Any:
    try:
        answer = json.loads(line)
        failed = not answer["ok"]
        result, error_text, hint = answer.get("result"), answer.get("error", ""), answer.get("hint", "")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ControlError("SharpCam broke off the connection", "ask again") from None
    if failed:
        raise ControlError(str(error_text), str(hint))
    return result


def peer(connection: socket.socket) -> int | None:
    """The user id of the process at the other end; None where the system does not tell (not on Linux)."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", told)[1])


def _lock() -> WriterLock:
    try:
        return WriterLock(_NAME)
    except DeviceBusy:
        raise ControlError(
            f"another SharpCam (pid {writer(_NAME)}) takes the orders here", "stop that one: sharpcam stop"
        ) from None
    except SharpCamError as error:
        raise ControlError(str(error), error.hint) from None


def _lines(connection: socket.socket, most: int) -> Iterator[bytes | None]:
    """Line after line; None, as the last one, for a line that is longer than `most` bytes."""
    rest = b""
    while True:
        line, newline, after = rest.partition(b"\n")
        if newline:
            rest = after
            yield line if len(line) <= most else None
        elif len(rest) > most:
            yield None
            return
        elif more := connection.recv(4096):
            rest += more
        else:
            return


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _failure(error: str, hint: str = "") -> bytes:
    return _line({"v": VERSION, "ok": False, "error": error, "hint": hint})
