"""Every failure that SharpCam explains.

Each class is a `SharpCamError` and the fitting builtin in one (the way PyAV does it), so that callers may
catch either. `str(error)` is one line with the thing and the cause; `error.hint` is the way out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class SharpCamError(Exception):
    """Base of all errors that SharpCam raises on purpose.

    `hint` tells in one line what the user can do about it; it may be empty.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        return str(self.args[0])


class ConfigError(SharpCamError, ValueError):
    """A flag, an environment variable or a configuration file holds something that cannot be used."""


class DeviceNotFound(SharpCamError, FileNotFoundError):
    """No such camera or virtual camera."""


class DeviceBusy(SharpCamError, BlockingIOError):
    """Another program holds the camera or virtual camera."""


class DeviceLost(SharpCamError, ConnectionResetError):
    """A device that was open has gone away or stopped answering."""


class DeviceDenied(SharpCamError, PermissionError):
    """The user may not open the device."""


class FormatMismatch(SharpCamError, ValueError):
    """A device or file cannot deliver or take the asked format or size."""


class MediaError(SharpCamError, OSError):
    """A picture or video file cannot be read or written."""


class ModelError(SharpCamError, ValueError):
    """A model is unknown, corrupt, or not one that SharpCam can run."""


class ControlError(SharpCamError, ConnectionError):
    """No SharpCam runs that could be told what to do, or it refuses."""


class ProviderUnavailable(SharpCamError, RuntimeError):
    """The asked execution provider does not run here."""


def validation_line(errors: Sequence[Mapping[str, Any]]) -> str:
    """The first of pydantic's `ValidationError.errors()` as "key: what is wrong", and how many more."""
    first = errors[0]
    key = ".".join(str(part) for part in first["loc"])
    text = str(first["msg"]).removeprefix("Value error, ")
    text = "this key is not known" if first["type"] == "extra_forbidden" else text[:1].lower() + text[1:]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{key}: {text}{more}" if key else f"{text}{more}"
