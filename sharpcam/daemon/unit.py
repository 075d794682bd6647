"""SharpCam as a service of the user's systemd."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from sharpcam.errors import ControlError, SharpCamError
from sharpcam.files import write_error, write_whole

NAME = "sharpcam.service"
# what needs namespaces (ProtectSystem, PrivateTmp, ...) is not to be had in every user's manager
_UNIT = """\
[Unit]
Description=SharpCam: a sharper webcam as a virtual camera
StartLimitIntervalSec=600
StartLimitBurst=120

[Service]
Type=notify
ExecStart={command}
Restart=on-failure
RestartSec=1
FileDescriptorStoreMax=1
RestartPreventExitStatus=2
SuccessExitStatus=130
TimeoutStopSec=15
WatchdogSec=60
UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK

[Install]
WantedBy=default.target
"""


def unit_path() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "systemd" / "user" / NAME


def unit_text(config: Path | None = None) -> str:
    """The unit, for the Python and the SharpCam that run now; `config` is a settings file."""
    # -P: a folder that is called sharpcam in the user's home is not it
    command = [sys.executable, "-P", "-m", "sharpcam", "run", "--wait"]
    if config is not None:
        command += ["--config", str(config.expanduser().absolute())]
    return _UNIT.format(command=" ".join(map(_quoted, command)))


def install(config: Path | None = None) -> Path:
    """Writes the unit, starts it now and at every login; gives its path.

    Raises ControlError when systemd does not do it, MediaError when the file cannot be written.
    """
    _need_systemd()
    path = unit_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path.parent, error) from error
    write_whole(path, unit_text(config).encode())
    _do("daemon-reload")
    _do("enable", NAME)
    _do("restart", NAME)  # starts it, and one that runs already gets the new unit
    return path


def uninstall() -> bool:
    """Stops the service and removes its unit; False when there was none.

    Raises ControlError when systemd does not do it or the unit stays.
    """
    path = unit_path()
    if not path.exists():
        return False
    _need_systemd()
    _do("disable", "--now", NAME)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ControlError(f"cannot remove {path}: {error.strerror}", "remove it by hand") from None
    _do("daemon-reload")
    return True


def state() -> tuple[bool, str, str]:
    """(the unit is there, "enabled" or what systemd says instead, "active" or what it says instead)."""
    _need_systemd()
    answers = [_systemctl(verb, NAME) for verb in ("is-enabled", "is-active")]
    told = [a.stdout.strip() or " ".join(a.stderr.split()) or "unknown" for a in answers]
    return unit_path().exists(), told[0], told[1]


def _need_systemd() -> None:
    if sys.platform != "linux":
        raise SharpCamError(
            "services are for Linux with systemd", "start `sharpcam run` at login by other means"
        )
    if shutil.which("systemctl") is None:
        raise SharpCamError(
            "there is no systemctl here: this Linux has no systemd",
            "start `sharpcam run` at login by other means",
        )


def _systemctl(*arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["systemctl", "--user", *arguments], capture_output=True, text=True, timeout=60, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ControlError(f"systemctl {arguments[0]} failed: {error}") from None


def _do(*arguments: str) -> None:
    done = _systemctl(*arguments)
    if done.returncode:
        cause = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        raise ControlError(
            f"systemctl --user {' '.join(arguments)} failed: {cause}",
            f"journalctl --user -u {NAME} tells more",
        )


def _quoted(word: str) -> str:
    """A word of ExecStart as systemd.service(5) wants it."""
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{word}"' if any(c.isspace() or c in "\\\"';" for c in word) else word
