"""The control channel on Windows: a named pipe, with the requests and answers of `sharpcam.daemon.control`.

`multiprocessing.connection` carries them. Who connects, and who answers, has to know a key that lies in a file of
the user's own (HMAC challenges both ways). Tested over Unix sockets only; never run on Windows.
"""

from __future__ import annotations

import contextlib
import getpass
import logging
import os
import secrets
import threading
from collections.abc import Callable
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path

from sharpcam.errors import ControlError, MediaError
from sharpcam.files import write_error, write_whole

log = logging.getLogger(__name__)

FAMILY = "AF_PIPE"
MAX_REQUEST = 4096  # bytes
MAX_ANSWER = 1 << 20
MAX_CONNECTIONS = 8
IDLE_S = 10.0  # a connection that is silent for so long is closed


def address() -> str:
    return rf"\\.\pipe\sharpcam-{getpass.getuser()}"


def key_file() -> Path:
    return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local") / "sharpcam" / "control.key"


class PipeServer:
    """Gives every request to `reply`, from several threads, and sends back what that returns.

    Raises ControlError when another SharpCam listens there already, MediaError when the key cannot be kept.
    """

    def __init__(self, reply: Callable[[bytes], bytes], where: str = "", family: str = FAMILY) -> None:
        self._reply = reply
        self._key = secrets.token_bytes(32)
        self._where, self._family = where or address(), family
        try:
            # Windows lets one process only make the pipe first
            self._listener = Listener(self._where, family, authkey=self._key)
        except OSError:
            raise ControlError(
                "another SharpCam takes the orders here", "stop that one: sharpcam stop"
            ) from None
        try:
            _keep_key(self._key)
        except MediaError:
            self._listener.close()
            raise
        self._over = threading.Event()
        self._room = threading.Semaphore(MAX_CONNECTIONS)
        self._thread = threading.Thread(target=self._accept, name="sharpcam-control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops listening. May be called twice."""
        if self._over.is_set():
            return
        self._over.set()
        # on a thread of its own: where the other has just seen that it is over, nobody answers any more
        threading.Thread(target=self._wake, daemon=True).start()
        self._thread.join(5)
        self._listener.close()

    def _wake(self) -> None:
        with contextlib.suppress(OSError, EOFError, AuthenticationError):
            Client(self._where, self._family, authkey=self._key).close()

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                connection = self._listener.accept()
            except (OSError, EOFError, AuthenticationError) as error:  # who asked has gone, or knows no key
                log.warning("control refused error=%r", str(error))
                continue
            if not self._room.acquire(blocking=False):
                connection.close()
                continue
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: Connection) -> None:
        try:
            with connection, contextlib.suppress(OSError, EOFError):  # who asked has gone, or asks too much
                while connection.poll(IDLE_S):
                    connection.send_bytes(self._reply(connection.recv_bytes(MAX_REQUEST)))
        finally:
            self._room.release()


def _keep_key(key: bytes) -> None:
    file = key_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(file.parent, error) from error
    write_whole(file, key)


def exchange(request: bytes, timeout: float, where: str = "", family: str = FAMILY) -> bytes | None:
    """The answer to one request; None when nobody listens, b"" when they break off.

    Raises ControlError when no answer comes within `timeout` seconds or the key is not theirs.
    """
    try:
        with Client(where or address(), family, authkey=key_file().read_bytes()) as connection:
            connection.send_bytes(request)
            if connection.poll(timeout):
                return connection.recv_bytes(MAX_ANSWER)
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    except AuthenticationError:
        raise ControlError("who listens at SharpCam's pipe is not SharpCam", "restart SharpCam") from None
    except (OSError, EOFError):
        return b""
    raise ControlError("SharpCam does not answer", "end it in the Task Manager")
