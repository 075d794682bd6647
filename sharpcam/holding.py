"""Who holds a video device: other programs, by /proc, and SharpCam itself, by a lock."""

from __future__ import annotations

import errno
import os
import stat
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sharpcam.errors import DeviceBusy, DeviceDenied

if sys.platform != "win32":  # there, OBS itself refuses a second writer
    import fcntl


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that has a device open."""

    pid: int
    name: str

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"


def holders(node: str) -> list[Holder]:
    """Other processes that have `node` open, as far as /proc tells this user."""
    found = []
    target = os.path.realpath(node)
    for entry in os.scandir("/proc") if os.path.isdir("/proc") else ():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            with os.scandir(f"{entry.path}/fd") as files:
                if any(os.readlink(f.path) == target for f in files):
                    # cut at 15 bytes, be it within a letter
                    name = Path(entry.path, "comm").read_text(errors="replace").strip()
                    found.append(Holder(int(entry.name), name))
        except OSError:  # another user's, or gone meanwhile
            continue
    return sorted(found, key=lambda h: h.pid)


def held_by(people: Sequence[Holder]) -> str:
    """For messages: who holds a device."""
    return ", ".join(map(str, people)) or "another program"


class WriterLock:
    """Keeps two SharpCam processes from writing to one device. Frees itself when the process dies.

    Raises DeviceBusy (with the other's pid) and DeviceDenied when the lock's folder is not ours alone or takes no
    file, such as on a full disk.
    """

    def __init__(self, node: str) -> None:
        self._fd = -1
        if sys.platform == "win32":
            return
        path = _lock_path(node)
        try:
            _make_private(path.parent)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _denied(path, node, error) from None
        if not _locked(fd):
            pid = os.read(fd, 20).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            raise DeviceBusy(
                f"{node} is already written to by another SharpCam (pid {pid})",
                "stop that one first, or choose another device with --sink",
            )
        try:
            os.ftruncate(fd, 0)
            os.write(fd, str(os.getpid()).encode())
        except OSError as error:  # who is asked to stop us has to know the pid
            os.close(fd)
            raise _denied(path, node, error) from None
        self._fd = fd

    def release(self) -> None:
        """May be called twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def writer(node: str) -> int | None:
    """The pid of the SharpCam (perhaps this one) that writes to `node`, None when there is none."""
    if sys.platform == "win32":
        return None
    try:
        fd = os.open(_lock_path(node), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        text = os.read(fd, 20)
        return int(text) if text.isdigit() else 0
    finally:
        os.close(fd)
    return None


def _locked(fd: int) -> bool:
    for _ in range(5):  # `writer` holds the lock for a moment to look
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(0.01)
        else:
            return True
    return False


def runtime_folder() -> Path:
    """Where locks and the control socket of this user lie, whether it is there yet or not."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    return Path(base, "sharpcam") if base else Path(tempfile.gettempdir(), f"sharpcam-{os.getuid()}")


def runtime_hint(error: OSError) -> str:
    """The way out when a file cannot be made in the runtime folder."""
    first = "remove what is there, or "
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        first = "free some space there, or "
    elif error.errno in (errno.EROFS, errno.EFBIG):
        first = ""
    return f"{first}set XDG_RUNTIME_DIR to a folder of yours"


def check_private(folder: Path) -> os.stat_result:
    """Raises OSError unless `folder` is a real folder (no link) of this user."""
    facts = folder.lstat()
    # in /tmp somebody else could have made it first and would then hold our locks
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
        raise OSError(errno.EACCES, "its folder does not belong to this user")
    return facts


def _denied(lock: Path, node: str, error: OSError) -> DeviceDenied:
    return DeviceDenied(f"cannot make the lock {lock} for {node}: {error.strerror}", runtime_hint(error))


def _lock_path(node: str) -> Path:
    return runtime_folder() / f"{Path(node).name}.lock"


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if check_private(folder).st_mode & 0o077:
        folder.chmod(0o700)
