"""`sharpcam devices`: cameras and virtual cameras, what they offer, who holds them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sharpcam import devices, v4l2
from sharpcam.devices import VideoDevice
from sharpcam.holding import holders, writer
from sharpcam.sources.v4l2_pictures import COMPRESSED, RAW, rank

SIZE, FPS = (1280, 720), 30


def run_devices(as_json: bool) -> int:
    """Prints a table for people or JSON for programs; 0 also when nothing is there."""
    found = devices.video_devices()
    listing = {
        "cameras": [_camera(d) for d in found if not d.is_loopback or (d.captures and not d.is_ours)],
        "virtual_cameras": [_virtual(d) for d in found if d.is_loopback],
    }
    if as_json:
        print(json.dumps(listing, indent=2))
    else:
        _print(listing)
    return 0


def _facts(device: VideoDevice) -> dict[str, Any]:
    return {
        "device": device.node,
        "name": device.name,
        "driver": device.driver,
        "bus": device.bus,
        "by_id": list(device.links),
        "problem": device.problem,
        "held_by": [{"pid": h.pid, "name": h.name} for h in holders(device.node)],
    }


def _camera(device: VideoDevice) -> dict[str, Any]:
    modes = devices.modes(device)
    best = rank(modes, SIZE, FPS, devices.bus_bytes(device.node))
    chosen = None
    if best:
        mode, rate = best[0]
        chosen = {
            "pixel_format": mode.fourcc,
            "size": [mode.width, mode.height],
            "fps": float(rate) if rate else None,
        }
    return {
        **_facts(device),
        "formats": [_format(code, modes) for code in dict.fromkeys(m.fourcc for m in modes)],
        "chosen": chosen,  # what would be taken for 1280x720 at 30 fps
    }


def _format(code: str, modes: Sequence[v4l2.Mode]) -> dict[str, Any]:
    sizes = [
        {"size": [m.width, m.height], "fps": [round(float(r), 3) for r in m.rates]}
        for m in modes
        if m.fourcc == code
    ]
    return {"pixel_format": code, "usable": code in RAW or code in COMPRESSED, "sizes": sizes}


def _virtual(device: VideoDevice) -> dict[str, Any]:
    told = devices.loopback_format(device.node)
    caps = device.caps or v4l2.Caps(0)
    capture, output = v4l2.Caps.CAPTURE in caps, v4l2.Caps.OUTPUT in caps
    format_ = None
    if told:
        format_ = {
            "pixel_format": told[0],
            "size": list(told[1:3]),
            "fps": float(told[3]) if told[3] else None,
        }
    return {
        **_facts(device),
        "default": device == next(iter(devices.virtual_cameras()), None),
        # both at once: exclusive_caps is off, and Chromium does not see the camera
        "exclusive_caps": not (capture and output),
        "state": "unknown"
        if not caps
        else "waiting"
        if output and not capture
        else "streaming"
        if told
        else "idle",
        "format": format_,
        "sharpcam_pid": writer(device.node),
    }


def _print(listing: dict[str, list[dict[str, Any]]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    if listing["cameras"]:
        table = Table("camera", "device", "formats", "held by", title="Cameras", title_justify="left")
        for camera in listing["cameras"]:
            cells = (camera["name"], camera["device"], _offers(camera), _holders(camera))
            table.add_row(*(escape(c) for c in cells))
        console.print(table)
    else:
        console.print("No camera found. Connect one; under Linux you must be in the group video.")
    if listing["virtual_cameras"]:
        table = Table(
            "virtual camera", "device", "state", "held by", title="Virtual cameras", title_justify="left"
        )
        for camera in listing["virtual_cameras"]:
            cells = (camera["name"], camera["device"], _state(camera), _holders(camera))
            table.add_row(*(escape(c) for c in cells))
        console.print(table)
    else:
        console.print(
            f"No virtual camera found. To make one, run:\n  {devices.MODPROBE}", soft_wrap=True, markup=False
        )


def _offers(camera: dict[str, Any]) -> str:
    """A line for all formats that come in the same sizes: "YUYV, MJPG: 640x480 1280x720, up to 30 fps"."""
    if camera["problem"]:
        return str(camera["problem"])
    lines: dict[str, list[str]] = {}
    for format_ in camera["formats"]:
        if format_["usable"]:
            lines.setdefault(_sizes(format_), []).append(format_["pixel_format"])
    text = [f"{', '.join(codes)}: {sizes}" for sizes, codes in lines.items()]
    others = sum(not f["usable"] for f in camera["formats"])
    if others:
        text.append(f"and {others} that SharpCam does not read")
    if chosen := camera["chosen"]:
        rate = f" at {chosen['fps']:g}" if chosen["fps"] else ""
        width, height = chosen["size"]
        text.append(f"for {SIZE[0]}x{SIZE[1]} at {FPS}: {chosen['pixel_format']} {width}x{height}{rate}")
    return "\n".join(text)


def _sizes(format_: dict[str, Any]) -> str:
    sizes = [f"{w}x{h}" for w, h in sorted(s["size"] for s in format_["sizes"])]
    if len(sizes) > 5:
        sizes = [*sizes[:2], "...", *sizes[-2:]]
    rates = [rate for s in format_["sizes"] for rate in s["fps"]]
    return " ".join(sizes) + (f", up to {max(rates):g} fps" if rates else "")


def _state(camera: dict[str, Any]) -> str:
    lines = [camera["problem"] or camera["state"]]
    if camera["format"]:
        told = camera["format"]
        lines[0] += f", {told['pixel_format']} {told['size'][0]}x{told['size'][1]}"
        lines[0] += f" at {told['fps']:g} fps" if told["fps"] else ""
    if camera["default"]:
        lines.append("taken by --sink auto")
    if camera["sharpcam_pid"]:
        lines.append(f"SharpCam (pid {camera['sharpcam_pid']}) writes to it")
    if not camera["exclusive_caps"]:
        lines.append("not seen by Chromium: load v4l2loopback with exclusive_caps=1")
    return "\n".join(lines)


def _holders(camera: dict[str, Any]) -> str:
    return "\n".join(f"{h['name']} (pid {h['pid']})" for h in camera["held_by"])
