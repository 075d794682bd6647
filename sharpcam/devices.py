"""Which cameras and virtual cameras there are, how they are called, and who holds them."""

from __future__ import annotations

import logging
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av

from sharpcam import v4l2
from sharpcam.errors import ConfigError, DeviceNotFound
from sharpcam.holding import writer

log = logging.getLogger(__name__)

LABEL = "SharpCam"
LOOPBACK_DRIVER = "v4l2 loopback"
MODPROBE = f'sudo modprobe v4l2loopback devices=1 video_nr=10 card_label="{LABEL}" exclusive_caps=1'
INPUT_FORMATS = {"win32": "dshow", "darwin": "avfoundation"}  # PyAV's, where there is no Video4Linux
SYSFS = Path("/sys/class/video4linux")
LINKS = (Path("/dev/v4l/by-id"), Path("/dev/v4l/by-path"))


@dataclass(frozen=True, slots=True)
class VideoDevice:
    """A camera or virtual camera. `node` is what one opens: /dev/videoN, elsewhere the system's name.

    `caps` is None and `problem` says why when the node could not be looked into.
    """

    node: str
    name: str
    driver: str = ""
    bus: str = ""
    links: tuple[str, ...] = ()
    caps: v4l2.Caps | None = v4l2.Caps.CAPTURE
    problem: str = ""
    shares_bus: bool = False  # with another camera: two in one case, of which one may see infrared

    @property
    def is_loopback(self) -> bool:
        return self.driver == LOOPBACK_DRIVER

    @property
    def is_ours(self) -> bool:
        """Labelled SharpCam, or written to by SharpCam right now: as a source it would feed back."""
        return self.is_loopback and (
            LABEL.casefold() in self.name.casefold() or writer(self.node) is not None
        )

    @property
    def captures(self) -> bool:
        """Delivers pictures now. A node that cannot be looked into is given the benefit of the doubt."""
        return self.caps is None or v4l2.Caps.CAPTURE in self.caps

    @property
    def address(self) -> str:
        """The steadiest name under which this device comes back after a replug: by-id, port, node."""
        if self.links:
            return self.links[0]
        return self.node if self.shares_bus else self.bus or self.node

    def __str__(self) -> str:
        return f'"{self.name}" ({self.node})' if self.name != self.node else f'"{self.name}"'


def video_devices() -> list[VideoDevice]:
    """Every capture device and loopback, in the system's order; metadata and codec nodes are left out."""
    if sys.platform in INPUT_FORMATS:
        try:
            found = av.enumerate_input_devices(INPUT_FORMATS[sys.platform])
        except (av.FFmpegError, ValueError) as error:
            log.warning("enumeration failed format=%s error=%s", INPUT_FORMATS[sys.platform], error)
            return []
        kinds = {"audio"}
        return [
            # dshow's `name` is a path made for programs, its `description` what people read
            VideoDevice(d.description or d.name, d.description or d.name, bus=d.name)
            for d in found
            if set(getattr(d, "media_types", [])) != kinds
        ]
    entries = sorted(SYSFS.glob("video*"), key=lambda p: int(p.name[5:]) if p.name[5:].isdigit() else 0)
    links = _links()
    devices = [_examine(f"/dev/{entry.name}", entry, links) for entry in entries]
    wanted = v4l2.Caps.CAPTURE | v4l2.Caps.OUTPUT
    devices = [d for d in devices if d.caps is None or d.caps & wanted or d.is_loopback]
    buses = Counter(d.bus for d in devices if d.bus)
    return [replace(d, shares_bus=buses[d.bus] > 1) for d in devices]


def cameras() -> list[VideoDevice]:
    """What can be a source: cameras, and loopbacks which another program feeds."""
    return [d for d in video_devices() if d.captures and not d.is_ours]


def virtual_cameras(label: str = LABEL) -> list[VideoDevice]:
    """The v4l2loopback devices, those called `label` first."""
    found = [d for d in video_devices() if d.is_loopback]
    return sorted(found, key=lambda d: d.name.casefold() != label.casefold())


def find_camera(wanted: str | int | None = None) -> VideoDevice:
    """The camera meant by an index, a node, a by-id path, a bus address or (a part of) its name.

    None or "auto" is the first one. On Linux the index N is /dev/videoN, elsewhere the place in the list.
    Raises DeviceNotFound, and ConfigError when a name fits several or the device is our own output.
    """
    devices = video_devices()
    real = [d for d in devices if d.captures and not d.is_loopback]
    if wanted is None or wanted == "auto":
        if not real:
            raise DeviceNotFound("no camera found", _camera_hint(devices))
        return real[0]
    device = _pick(str(wanted).strip(), devices)
    if device.is_ours:
        raise ConfigError(
            f"{device} is SharpCam's own virtual camera and cannot be its source", _camera_hint(devices)
        )
    if not device.captures:
        cause = "no program feeds it" if device.is_loopback else "it does not capture video"
        raise DeviceNotFound(f"{device} is not a camera now: {cause}", _camera_hint(devices))
    return device


def find_virtual_camera(wanted: str | None = None, label: str = LABEL) -> VideoDevice:
    """The v4l2loopback device meant by a node or name; None or "auto" prefers one called `label`.

    Raises DeviceNotFound with the command that creates one.
    """
    found = virtual_cameras(label)
    if wanted is None or wanted == "auto":
        if not found:
            raise DeviceNotFound("no virtual camera found: v4l2loopback is not loaded", f"run: {MODPROBE}")
        return found[0]
    try:
        device = _pick(wanted, video_devices())
    except DeviceNotFound as error:
        there = ", ".join(map(str, found))
        raise DeviceNotFound(str(error), f"found: {there}" if there else f"run: {MODPROBE}") from None
    if not device.is_loopback and device.caps is not None:
        raise DeviceNotFound(
            f"{device} is not a virtual camera (its driver is {device.driver or 'unknown'})",
            f"found: {', '.join(map(str, found))}" if found else f"run: {MODPROBE}",
        )
    return device


def modes(device: VideoDevice, wanted: tuple[int, int] = (1280, 720)) -> list[v4l2.Mode]:
    """The capture modes of a Linux device; empty when it cannot be asked."""
    if not device.node.startswith("/"):
        return []
    try:
        with v4l2.Node(device.node) as node:
            return node.modes(wanted)
    except OSError as error:
        log.warning("no modes device=%s error=%s", device.node, error)
        return []


def bus_bytes(node: str) -> int | None:
    """Bytes per second that a USB camera's bus carries at most; None for others and where it is not told."""
    # the node belongs to an interface, whose parent is the USB device
    speed = _text((SYSFS / Path(node).name / "device").resolve().parent / "speed")
    # bulk transfers at 480 Mbit/s: 13 packets of 512 bytes in each of 8000 microframes; others in proportion
    return int(float(speed) / 480 * 13 * 512 * 8000) if speed.replace(".", "", 1).isdigit() else None


def loopback_format(node: str) -> tuple[str, int, int, Fraction | None] | None:
    """(pixel format, width, height, rate) that a v4l2loopback device really has; None when none."""
    try:
        text = (SYSFS / Path(node).name / "format").read_text().strip()
        code, _, rest = text.partition(":")
        size, _, rate = rest.partition("@")
        width, height = map(int, size.split("x"))
        return code, width, height, Fraction(rate) if rate else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


def is_old_loopback(node: str) -> bool:
    """Whether the node's v4l2loopback is older than 0.13, which cannot do without `v4l2.revive`."""
    return not (SYSFS / Path(node).name / "state").exists()


def _links() -> dict[str, list[str]]:
    """Device node -> its stable names, the best first."""
    found: dict[str, list[str]] = {}
    for folder in LINKS:
        for link in sorted(folder.glob("*")) if folder.is_dir() else ():
            found.setdefault(os.path.realpath(link), []).append(str(link))
    return found


def _examine(node: str, entry: Path, links: dict[str, list[str]]) -> VideoDevice:
    stable = tuple(links.get(node, ()))
    try:
        with v4l2.Node(node) as opened:
            told = opened.capability()
        return VideoDevice(node, told.card, told.driver, told.bus_info, stable, told.caps)
    except OSError as error:
        # sysfs tells everybody the name; `max_openers` is an attribute of v4l2loopback alone
        name = _text(entry / "name") or node
        driver = LOOPBACK_DRIVER if (entry / "max_openers").exists() else ""
        return VideoDevice(node, name, driver, "", stable, None, os.strerror(error.errno or 0))


def _pick(wanted: str, devices: Sequence[VideoDevice]) -> VideoDevice:
    if wanted.isdigit():
        number = int(wanted)
        if sys.platform in INPUT_FORMATS:
            if number < len(devices):
                return devices[number]
            raise DeviceNotFound(f"there is no camera {number}", _camera_hint(devices))
        wanted = f"/dev/video{number}"
    if wanted.startswith("/"):
        node = os.path.realpath(wanted)
        for device in devices:
            if node == device.node:
                return device
        cause = "it is not a camera" if os.path.exists(node) else "no such device"
        raise DeviceNotFound(f"cannot use {wanted}: {cause}", _camera_hint(devices))
    asked = wanted.casefold()
    for test in (
        [d for d in devices if d.bus and d.bus == wanted],
        [d for d in devices if d.name.casefold() == asked],
        [d for d in devices if asked and asked in d.name.casefold()],
    ):
        if len(test) > 1:
            raise ConfigError(
                f'"{wanted}" fits {len(test)} devices: {", ".join(map(str, test))}',
                "name one by its path or by-id",
            )
        if test:
            return test[0]
    raise DeviceNotFound(f'no camera is called "{wanted}"', _camera_hint(devices))


def _camera_hint(devices: Sequence[VideoDevice]) -> str:
    there = [str(d) for d in devices if d.captures and not d.is_ours]
    return (
        f"found: {', '.join(there)}" if there else "connect a camera; `sharpcam devices` lists what is found"
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
