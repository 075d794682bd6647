"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from pathlib import Path

from sharpcam.errors import MediaError


def temporary_beside(path: Path) -> Path:
    """A new hidden file in the folder of `path`, with the rights that a new file gets there."""
    try:
        handle, name = tempfile.mkstemp(
            dir=path.absolute().parent, prefix=".sharpcam-", suffix=f".part{path.suffix}"
        )
        os.close(handle)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
    except OSError as error:
        raise write_error(path, error) from error
    if path.is_dir():
        os.unlink(name)
        raise MediaError(f"cannot write {path}: it is a folder", "name a file")
    return Path(name)


def write_whole(path: Path, data: bytes) -> None:
    """Writes `data` under a hidden name and then gives it its own; where links lead, and into what is no file
    (/dev/stdout, a pipe) as it stands. Raises MediaError."""
    if is_stream(path):
        try:
            path.write_bytes(data)
        except OSError as error:
            raise write_error(path, error) from error
        return
    path = path.resolve()
    temporary = temporary_beside(path)
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # a disk that can only be read now keeps it, and is told of below
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise write_error(path, error) from error
        raise


def is_stream(path: Path) -> bool:
    """Whether `path` is there and no file that another one may take the place of."""
    by_number = path.as_posix().startswith(("/dev/std", "/dev/fd/", "/proc/self/fd/"))
    return path.exists() and not path.is_dir() and (by_number or not path.is_file())


def write_error(path: Path, error: Exception) -> MediaError:
    """What went wrong in writing `path`, with the way out; `error` is an OSError or one of FFmpeg's."""
    number = getattr(error, "errno", None)
    hints = {
        errno.ENOSPC: ("the disk is full", "free some space, or write to another disk"),
        errno.EDQUOT: ("the disk quota is used up", "free some space, or write to another disk"),
        errno.EFBIG: ("the file has grown too large", "write to another disk"),
        errno.ENOENT: ("there is no such folder", f"run: mkdir -p {path.absolute().parent}"),
        errno.ENOTDIR: ("its folder is a file", "name a file in a folder"),
        errno.EACCES: ("permission denied", "name a file in a folder of yours"),
        errno.EPERM: ("permission denied", "name a file in a folder of yours"),
        errno.EROFS: ("the disk can only be read", "name a file in a folder of yours"),
    }
    cause, hint = hints.get(number or 0, (str(error), "try another name or format"))
    return MediaError(f"cannot write {path}: {cause}", hint)
