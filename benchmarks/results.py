"""Results of the rooms on disk: `NAME.json`, `NAME.md` and `NAME-*.png` in one folder.

The JSON holds `room`, `machine` (processor, system, versions), `date` (UTC, when the run ended), `load` (the
system's load averages when it began and ended, where it tells), `settings`, and what the room found.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.room import Found
from sharpcam.benchmark import machine as product_machine
from sharpcam.errors import MediaError
from sharpcam.files import write_whole

FOLDER = Path(__file__).resolve().parent / "results"
_MORE_PACKAGES = ("torch", "openvino")


def machine() -> dict[str, Any]:
    """What `sharpcam bench` tells of the machine, and the versions of the benchmarks' own packages."""
    about = product_machine()
    for package in _MORE_PACKAGES:
        try:
            about[package] = version(package)
        except PackageNotFoundError:
            about[package] = ""
    return about


def machine_line(about: dict[str, Any]) -> str:
    """The machine in one line, for pages and plots."""
    plural = "s" if about["cores"] != 1 else ""
    return f"{about['cpu']}, {about['cores']} core{plural}, ONNX Runtime {about['onnxruntime']}"


def load_average() -> list[float] | None:
    """Runnable processes in the last 1, 5 and 15 minutes; None where the system does not tell."""
    try:
        return [round(value, 2) for value in os.getloadavg()]
    except (AttributeError, OSError):
        return None


def today() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def save(found: Found, folder: Path = FOLDER) -> Path:
    path = folder / f"{found['room']}.json"
    write_whole(path, (json.dumps(found, indent=1) + "\n").encode())
    return path


def load(room: str, folder: Path = FOLDER) -> Found:
    """Raises MediaError when there are no results of this room, or they cannot be read."""
    path = folder / f"{room}.json"
    hint = f"measure with: python -m benchmarks {room}"
    try:
        found: Found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MediaError(f"cannot read {path}: {error.strerror}", hint) from error
    except ValueError as error:
        raise MediaError(f"{path} holds no results: {error}", hint) from error
    return found


def page(found: Found, body: str, figures: list[Path]) -> str:
    """The Markdown page of a room: when and where it was measured, `body`, and the plots."""
    about = found["machine"]
    versions = ", ".join(
        f"{name} {about[key]}"
        for name, key in {
            "Python": "python",
            "SharpCam": "sharpcam",
            "ONNX Runtime": "onnxruntime",
            "OpenCV": "opencv",
            "PyAV": "av",
            "torch": "torch",
            "OpenVINO": "openvino",
        }.items()
        if about.get(key)
    )
    lines = [
        f"# {found['room'].capitalize()}",
        "",
        f"Measured {found['date'][:10]} on {about['cpu']}, {about['cores']} cores ({' '.join(about['isa'])}), "
        f"{about['os']}; {versions}. Made by `python -m benchmarks {found['room']}`; all figures are in "
        f"`{found['room']}.json`.",
        "",
        body.strip(),
        "",
        *(f"![{path.stem}]({path.name})" for path in figures),
    ]
    return "\n".join(lines).rstrip() + "\n"
