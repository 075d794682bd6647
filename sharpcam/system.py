"""What there is on this machine that SharpCam needs: facts for `sharpcam.doctor`, which judges them.

Looking changes nothing, needs no privilege, and never fails: what cannot be found out is None.
"""

from __future__ import annotations

import getpass
import importlib
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from sharpcam import cuda, devices, v4l2
from sharpcam.devices import VideoDevice
from sharpcam.errors import SharpCamError
from sharpcam.holding import Holder, holders, writer
from sharpcam.models import find_models

MODULE = "v4l2loopback"
SECURE_BOOT = Path("/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c")
MODULES_LOAD = (Path("/etc/modules-load.d"), Path("/run/modules-load.d"), Path("/usr/lib/modules-load.d"))
OBS_FILTER = r"CLSID\{A3FCE0F5-3493-419F-958A-ABA1250EC20B}\InprocServer32"
MAC_EXTENSION = "com.obsproject.obs-studio.mac-camera-extension"
# programs that hold meetings, by what flatpak and snap call them
MEETING_APPS = re.compile(
    r"zoom|teams|discord|slack|chrom|firefox|brave|webex|skype|signal|element|edge", re.I
)


@dataclass(frozen=True)
class Module:
    """The kernel module v4l2loopback."""

    version: str | None = None  # of the one that is loaded, else of the one that is installed
    installed: bool = False  # for the kernel that runs
    loaded: bool = False
    source: bool = False  # DKMS has it, built or not
    headers: bool = False  # of the kernel that runs, to build it
    at_boot: bool = False  # something loads it then


@dataclass(frozen=True)
class Node:
    """A camera or virtual camera, and who holds it."""

    device: VideoDevice
    accessible: bool = True
    holders: tuple[Holder, ...] = ()
    sharpcam_pid: int | None = None


@dataclass(frozen=True)
class App:
    """A program in a sandbox. `camera`: whether it may open cameras, None when that is not told."""

    name: str
    kind: str  # "flatpak" or "snap"
    camera: bool | None = None


@dataclass(frozen=True)
class Obs:
    """OBS's virtual camera on Windows and macOS. None: not found out."""

    registered: bool | None = None
    registered_32: bool | None = None  # Windows: for 32-bit programs


@dataclass(frozen=True)
class System:
    """All facts of one machine."""

    platform: str
    kernel: str = ""
    distribution: tuple[str, ...] = ()  # ID and ID_LIKE of os-release
    user: str = "you"
    groups: frozenset[str] = frozenset()
    module: Module = Module()
    secure_boot: bool | None = None
    cameras: tuple[Node, ...] = ()
    virtual: tuple[Node, ...] = ()
    pipewire: bool | None = None
    apps: tuple[App, ...] = ()
    gpu: cuda.Facts = field(default_factory=cuda.Facts)
    models: tuple[str, ...] = ()
    model_errors: tuple[SharpCamError, ...] = ()
    pyvirtualcam: str = ""  # why it does not load
    obs: Obs = field(default_factory=Obs)


def look() -> System:
    """The facts of the machine that this runs on."""
    linux = sys.platform == "linux"
    found = devices.video_devices()
    usable, errors = _models()
    return System(
        platform=sys.platform,
        kernel=platform.release(),
        distribution=_distribution(),
        user=_user(),
        groups=_groups(),
        module=_module() if linux else Module(),
        secure_boot=_secure_boot(),
        cameras=tuple(_node(d) for d in found if not d.is_loopback),
        virtual=tuple(_node(d) for d in devices.virtual_cameras()) if linux else (),
        pipewire=_pipewire() if linux else None,
        apps=(*_flatpaks(), *_snaps()) if linux else (),
        gpu=cuda.facts(),
        models=usable,
        model_errors=errors,
        pyvirtualcam=_pyvirtualcam(),
        obs=_obs(),
    )


def _module() -> Module:
    release = platform.release()
    loaded = Path("/sys/module", MODULE)
    told = _output("modinfo", "-F", "version", MODULE)
    return Module(
        version=_read(loaded / "version") or (told.strip() if told else None) or None,
        installed=told is not None,
        loaded=loaded.is_dir(),
        source=Path("/var/lib/dkms", MODULE).is_dir(),
        headers=Path("/lib/modules", release, "build").exists(),
        at_boot=any(
            re.search(rf"^\s*{MODULE}\b", _read(file) or "", re.M)
            for folder in MODULES_LOAD
            for file in folder.glob("*.conf")
        ),
    )


def _secure_boot() -> bool | None:
    """Four bytes of attributes, then one that tells; there is no such file without UEFI."""
    try:
        return SECURE_BOOT.read_bytes()[4:5] == b"\x01"
    except OSError:
        return None


def _node(device: VideoDevice) -> Node:
    if not device.node.startswith("/"):
        return Node(device)
    return Node(
        device,
        accessible=os.access(device.node, os.R_OK | os.W_OK),
        holders=tuple(holders(device.node)),
        sharpcam_pid=writer(device.node),
    )


def _distribution() -> tuple[str, ...]:
    try:
        told = platform.freedesktop_os_release()
    except (OSError, AttributeError):
        return ()
    return tuple([told.get("ID", ""), *told.get("ID_LIKE", "").split()])


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "you"


def _groups() -> frozenset[str]:
    if sys.platform == "win32":
        return frozenset()
    import grp

    names = set()
    for number in (os.getegid(), *os.getgroups()):
        try:
            names.add(grp.getgrgid(number).gr_name)
        except KeyError:
            continue
    return frozenset(names)


def _pipewire() -> bool:
    folder = os.environ.get("XDG_RUNTIME_DIR")
    return bool(folder) and Path(str(folder), "pipewire-0").exists()


def _flatpaks() -> list[App]:
    """Meeting programs from Flatpak; the camera needs `devices=all` in what they ask or were given."""
    mine = Path.home() / ".local/share/flatpak"
    found = []
    for base in (Path("/var/lib/flatpak"), mine):
        for folder in sorted((base / "app").glob("*")):
            if not MEETING_APPS.search(folder.name):
                continue
            told = [_read(folder / "current/active/metadata")]
            told += [_read(b / "overrides" / folder.name) for b in (Path("/var/lib/flatpak"), mine)]
            asked = re.findall(r"^devices=(.*)$", "\n".join(t or "" for t in told), re.M)
            given = [word for line in asked for word in line.split(";")]
            found.append(App(folder.name, "flatpak", ("all" in given and "!all" not in given)))
    return found


def _snaps() -> list[App]:
    """Meeting programs from Snap, and whether their camera plug is connected."""
    names = [f.name for f in sorted(Path("/snap").glob("*")) if MEETING_APPS.search(f.name)]
    found = []
    for name in names:
        told = _output("snap", "connections", name)
        lines = [line.split() for line in (told or "").splitlines() if line.startswith("camera ")]
        found.append(App(name, "snap", lines[0][2] != "-" if lines and len(lines[0]) > 2 else None))
    return found


def _models() -> tuple[tuple[str, ...], tuple[SharpCamError, ...]]:
    """Names of the models whose files are the published ones, and what is wrong with the others."""
    models, broken = find_models()
    usable, errors = [], list[SharpCamError](broken)
    for model in models:
        try:
            for provider in ("cpu", *model.manifest.variants):
                model.read(model.for_provider(provider))
        except SharpCamError as error:
            errors.append(error)
        else:
            usable.append(model.name)
    return tuple(usable), tuple(errors)


def _pyvirtualcam() -> str:
    try:
        importlib.import_module("pyvirtualcam")
    except ImportError as error:
        return str(error)
    return ""


def _obs() -> Obs:
    if sys.platform == "win32":
        return Obs(_registered(0x0100), _registered(0x0200))  # KEY_WOW64_64KEY, KEY_WOW64_32KEY
    if sys.platform == "darwin":
        told = _output("systemextensionsctl", "list")
        lines = [line for line in (told or "").splitlines() if MAC_EXTENSION in line]
        return Obs(None if told is None else any("activated enabled" in line for line in lines))
    return Obs()


def _registered(view: int) -> bool:
    if sys.platform == "win32":
        import winreg

        try:
            winreg.OpenKey(winreg.HKEY_CLASSES_ROOT, OBS_FILTER, 0, winreg.KEY_READ | view).Close()
        except OSError:
            return False
        return True
    return False


def both_ways(device: VideoDevice) -> bool:
    """Whether a loopback shows capture and output at once, as it does without `exclusive_caps`."""
    both = v4l2.Caps.CAPTURE | v4l2.Caps.OUTPUT
    return device.caps is not None and device.caps & both == both


def _output(*command: str) -> str | None:
    """What a command prints; None when it is not there or fails."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    program = shutil.which(command[0], path=path)
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, *command[1:]], capture_output=True, text=True, timeout=10, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None
