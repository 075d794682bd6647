"""What is missing on this machine, and the command that mends each thing; nothing is ever run.

Every check is a function of the facts alone (`sharpcam.system.System`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from sharpcam import cuda
from sharpcam.devices import LABEL, MODPROBE, VideoDevice
from sharpcam.holding import held_by
from sharpcam.system import App, Node, System, both_ways

AT_BOOT = (
    "echo v4l2loopback | sudo tee /etc/modules-load.d/v4l2loopback.conf && "
    f"echo 'options {MODPROBE.removeprefix('sudo modprobe ')}' | sudo tee /etc/modprobe.d/v4l2loopback.conf"
)
RELOAD = f"sudo modprobe -r v4l2loopback && {MODPROBE}"
_INSTALL = {  # by the IDs of os-release
    "debian": "sudo apt install v4l2loopback-dkms linux-headers-$(uname -r)",
    "ubuntu": "sudo apt install v4l2loopback-dkms linux-headers-$(uname -r)",
    "fedora": "sudo dnf install akmod-v4l2loopback  # from RPM Fusion, https://rpmfusion.org",
    "arch": "sudo pacman -S v4l2loopback-dkms linux-headers",
    "suse": "sudo zypper install v4l2loopback-kmp-default",
    "opensuse": "sudo zypper install v4l2loopback-kmp-default",
}
_INSTALL_ELSEWHERE = (
    "install v4l2loopback from your distribution, or https://github.com/v4l2loopback/v4l2loopback"
)
OBS_SITE = "https://obsproject.com"


class Status(StrEnum):
    OK = "ok"
    NOTE = "note"  # not needed, but good to know
    WARNING = "warning"  # works, but not for everybody or not as well as it could
    MISSING = "missing"  # SharpCam cannot do its job


@dataclass(frozen=True, slots=True)
class Check:
    """What was found about one thing. `fix` is a command, or a sentence when no command does it."""

    name: str
    status: Status
    detail: str
    fix: str = ""


def examine(system: System) -> list[Check]:
    """All checks that mean something on this platform."""
    checks: list[Check] = []
    if system.platform == "linux":
        checks += [_module(system), *_at_boot(system), *_secure_boot(system)]
        checks += [*_virtual(system), *_permissions(system)]
    elif system.platform == "win32":
        checks += [*_obs_windows(system)]
    elif system.platform == "darwin":
        checks += [_obs_mac(system)]
    if system.pyvirtualcam:
        checks.append(
            Check(
                *("pyvirtualcam", Status.MISSING, f"does not load: {system.pyvirtualcam}"),
                "pip install pyvirtualcam",
            )
        )
    checks += [_camera(system), _models(system), _gpu(system)]
    if system.platform == "linux":
        checks += [_pipewire(system), *map(_app, system.apps)]
    return checks


def healthy(checks: list[Check]) -> bool:
    """Whether nothing is missing that SharpCam needs."""
    return all(check.status is not Status.MISSING for check in checks)


def _module(system: System) -> Check:
    name, module = "kernel module", system.module
    version = f"v4l2loopback {module.version}" if module.version else "v4l2loopback"
    if module.loaded:
        if _older(module.version, (0, 13)):
            return Check(
                *(name, Status.NOTE, f"{version} is loaded; before 0.13 it does not tell who watches"),
                "nothing: SharpCam goes by who has the device open; 0.13 or newer is more exact",
            )
        return Check(name, Status.OK, f"{version} is loaded")
    if module.installed:
        return Check(name, Status.MISSING, f"{version} is installed but not loaded", MODPROBE)
    if module.source:
        detail = f"v4l2loopback is there but was not built for this kernel ({system.kernel})"
        if module.headers:
            return Check(name, Status.MISSING, detail, "sudo dkms autoinstall")
        ids = set(system.distribution)
        headers = "linux-headers-$(uname -r)" if ids & {"debian", "ubuntu"} else "the kernel's headers"
        how = f"sudo apt install {headers} && " if ids & {"debian", "ubuntu"} else f"install {headers}, then "
        return Check(
            name, Status.MISSING, f"{detail}, whose headers are missing", f"{how}sudo dkms autoinstall"
        )
    fixes = [_INSTALL[i] for i in system.distribution if i in _INSTALL]
    return Check(name, Status.MISSING, "v4l2loopback is not installed", (fixes or [_INSTALL_ELSEWHERE])[0])


def _at_boot(system: System) -> Iterator[Check]:
    if system.module.loaded and not system.module.at_boot:
        yield Check("at boot", Status.NOTE, "v4l2loopback will not be loaded after a restart", AT_BOOT)


def _secure_boot(system: System) -> Iterator[Check]:
    if not system.secure_boot:
        return
    if system.module.loaded:
        yield Check("Secure Boot", Status.OK, "is on, and the module was let in")
    else:
        yield Check(
            *("Secure Boot", Status.WARNING, "is on: the kernel refuses a module that is not signed"),
            "sudo mokutil --import /var/lib/dkms/mok.pub, then restart and enrol the key",
        )


def _virtual(system: System) -> Iterator[Check]:
    name = "virtual camera"
    if not system.virtual:
        if system.module.loaded:
            yield Check(name, Status.MISSING, "v4l2loopback is loaded without a device", RELOAD)
        return
    chosen = system.virtual[0]
    device = chosen.device
    yield Check(name, Status.OK, f"{device} is taken by --sink auto{_held(chosen)}")
    if both_ways(device):
        yield Check(
            *(
                "exclusive_caps",
                Status.WARNING,
                f"is off for {device}: Chrome, Zoom and Teams do not list it",
            ),
            RELOAD,
        )
    elif device.caps is not None:
        yield Check("exclusive_caps", Status.OK, "is on: meeting programs list the camera once it is fed")
    if device.name.casefold() != LABEL.casefold():
        yield Check(
            *("label", Status.NOTE, f'the virtual camera is called "{device.name}", not "{LABEL}"'), RELOAD
        )
    foreign = [h for h in chosen.holders if h.pid != chosen.sharpcam_pid]
    if foreign and chosen.sharpcam_pid is None and device.captures:
        yield Check(
            *("writer", Status.WARNING, f"{device} is held by {held_by(foreign)}, perhaps as its writer"),
            "stop that program when SharpCam cannot open the virtual camera",
        )


def _permissions(system: System) -> Iterator[Check]:
    closed = [node.device for node in (*system.virtual, *system.cameras) if not node.accessible]
    if not closed:
        return
    names = ", ".join(map(str, closed))
    if "video" in system.groups:
        fix = f"ls -l {' '.join(d.node for d in closed)}  # whose are they? a udev rule may be missing"
    else:
        fix = f"sudo usermod -aG video {system.user}, then log out and in again"
    status = Status.MISSING if _needed(system, closed) else Status.WARNING
    yield Check("permissions", status, f"{system.user} may not open {names}", fix)


def _needed(system: System, closed: list[VideoDevice]) -> bool:
    """Whether the default virtual camera or the only camera is among the closed ones."""
    open_cameras = [n for n in system.cameras if n.accessible]
    return bool(system.virtual and system.virtual[0].device in closed) or not open_cameras


def _camera(system: System) -> Check:
    usable = [node for node in system.cameras if node.device.captures]
    if not usable:
        fix = "lsusb  # is it on the bus? then dmesg tells why it has no driver"
        return Check("camera", Status.MISSING, "none is connected", fix if system.platform == "linux" else "")
    told = "; ".join(f"{node.device}{_held(node)}" for node in usable)
    ours = {node.sharpcam_pid for node in system.virtual}
    busy = [node for node in usable if _others(node, ours)]
    if len(busy) == len(usable):
        return Check(
            *("camera", Status.WARNING, f"{told}: perhaps not free for SharpCam"),
            "close that program, or let it use the virtual camera",
        )
    return Check("camera", Status.OK, told)


def _others(node: Node, ours: set[int | None]) -> bool:
    """Held by somebody who streams: session servers hold every camera, idly, and SharpCam is no stranger."""
    return any(h.name not in ("wireplumber", "pipewire") and h.pid not in ours for h in node.holders)


def _held(node: Node) -> str:
    if node.sharpcam_pid:
        return f", written to by SharpCam (pid {node.sharpcam_pid})"
    return f", held by {held_by(node.holders)}" if node.holders else ""


def _models(system: System) -> Check:
    broken = "; ".join(map(str, system.model_errors))
    if not system.models:
        detail = broken or "none is installed"
        return Check("models", Status.MISSING, detail, "pip install --force-reinstall --no-deps sharpcam")
    names = ", ".join(system.models)
    if broken:
        return Check(
            *("models", Status.WARNING, f"{names} are fine; {broken}"),
            "pip install --force-reinstall --no-deps sharpcam",
        )
    return Check("models", Status.OK, f"{names}: all files are the published ones")


def _gpu(system: System) -> Check:
    name, facts = "GPU", system.gpu
    if not facts.gpu:
        return Check(name, Status.NOTE, "no NVIDIA GPU answers; models run on the CPU")
    driver = f"{facts.gpu}, NVIDIA driver {facts.driver}".rstrip() if facts.driver else facts.gpu
    if obstacle := cuda.obstacle(facts):
        return Check(name, Status.WARNING, f"{driver}, but {obstacle[0]}", obstacle[1])
    return Check(name, Status.OK, f"{driver}; ONNX Runtime finds CUDA and cuDNN")


def _pipewire(system: System) -> Check:
    if not system.pipewire:
        return Check("PipeWire", Status.NOTE, "does not run; programs open the camera directly")
    return Check(
        *("PipeWire", Status.NOTE, "runs; it may list a new virtual camera only after a restart of its own"),
        "systemctl --user restart wireplumber pipewire",
    )


def _app(app: App) -> Check:
    if app.camera:
        return Check(app.kind, Status.OK, f"{app.name} may open cameras")
    if app.kind == "snap":
        detail = f"{app.name}: its camera plug is not connected" if app.camera is False else f"{app.name}"
        return Check(app.kind, Status.WARNING, detail, f"sudo snap connect {app.name}:camera")
    return Check(
        *(app.kind, Status.WARNING, f"{app.name} opens cameras through the portal at most"),
        f"flatpak override --user --device=all {app.name}",
    )


def _obs_windows(system: System) -> Iterator[Check]:
    if not system.obs.registered:
        yield Check(
            *("virtual camera", Status.MISSING, "OBS's virtual camera is not registered"),
            f"install OBS Studio ({OBS_SITE}); a portable OBS does not register it",
        )
        return
    yield Check("virtual camera", Status.OK, "OBS's virtual camera is registered")
    if system.obs.registered_32 is False:
        yield Check(
            *("virtual camera", Status.WARNING, "32-bit programs do not see it"),
            f"install OBS Studio again ({OBS_SITE})",
        )


def _obs_mac(system: System) -> Check:
    name, how = "virtual camera", "start the virtual camera in OBS 30 or newer once, allow it, stop it"
    if system.obs.registered is None:
        return Check(name, Status.WARNING, "whether OBS's camera extension is active cannot be told", how)
    if system.obs.registered:
        return Check(name, Status.OK, "OBS's camera extension is active")
    return Check(name, Status.MISSING, "OBS's camera extension is not active", f"{how} ({OBS_SITE})")


def _older(version: str | None, than: tuple[int, int]) -> bool:
    parts = (version or "").split(".")
    return len(parts) > 1 and all(p.isdigit() for p in parts[:2]) and (int(parts[0]), int(parts[1])) < than
