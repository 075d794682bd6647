"""What is told about machines that lack one thing each; and what the look at this machine must hold to."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_gpu import FACTS
from typer.testing import CliRunner

import sharpcam.cli.doctor
import sharpcam.system
from sharpcam.cli import app
from sharpcam.devices import MODPROBE, VideoDevice
from sharpcam.doctor import AT_BOOT, Check, Status, examine, healthy
from sharpcam.errors import ModelError
from sharpcam.holding import Holder
from sharpcam.system import App, Module, Node, Obs, System, look
from sharpcam.v4l2 import Caps

CAMERA = VideoDevice("/dev/video0", "HD Webcam", "uvcvideo", caps=Caps.CAPTURE)
OURS = VideoDevice("/dev/video10", "SharpCam", "v4l2 loopback", caps=Caps.OUTPUT)
FINE = System(
    platform="linux",
    kernel="6.12.0",
    distribution=("debian",),
    user="ann",
    groups=frozenset({"ann", "video"}),
    module=Module("0.15.0", installed=True, loaded=True, headers=True, at_boot=True),
    cameras=(Node(CAMERA),),
    virtual=(Node(OURS),),
    models=("m", "s"),
)
BARE = Module(headers=True)


def found(system: System, name: str) -> Check:
    (check,) = [check for check in examine(system) if check.name == name]
    return check


def names(system: System) -> list[str]:
    return [check.name for check in examine(system)]


def test_a_machine_that_has_all_is_healthy() -> None:
    checks = examine(FINE)
    assert healthy(checks)
    assert {c.status for c in checks} <= {Status.OK, Status.NOTE}
    assert {"kernel module", "virtual camera", "exclusive_caps", "camera", "models", "GPU"} <= set(
        names(FINE)
    )


@pytest.mark.parametrize(
    ("name", "change", "detail", "fix"),
    [
        ("kernel module", {"module": BARE}, "not installed", "sudo apt install v4l2loopback-dkms"),
        ("kernel module", {"module": replace(BARE, installed=True)}, "not loaded", MODPROBE),
        ("kernel module", {"module": replace(BARE, source=True)}, "6.12.0", "sudo dkms autoinstall"),
        (
            "kernel module",
            {"module": Module(source=True)},
            "headers are missing",
            "linux-headers-$(uname -r)",
        ),
        ("virtual camera", {"virtual": ()}, "without a device", MODPROBE),
        ("camera", {"cameras": ()}, "none is connected", "lsusb"),
        ("models", {"models": ()}, "none is installed", "pip install"),
        ("pyvirtualcam", {"pyvirtualcam": "no such thing"}, "no such thing", "pip install pyvirtualcam"),
    ],
)
def test_what_is_missing_comes_with_its_command(
    name: str, change: dict[str, Any], detail: str, fix: str
) -> None:
    system = replace(FINE, **change)
    check = found(system, name)
    assert check.status is Status.MISSING
    assert detail in check.detail
    assert fix in check.fix
    assert not healthy(examine(system))


@pytest.mark.parametrize(
    ("ids", "command"),
    [
        (("ubuntu", "debian"), "sudo apt install"),
        (("linuxmint", "ubuntu", "debian"), "sudo apt install"),
        (("fedora",), "sudo dnf install akmod-v4l2loopback"),
        (("manjaro", "arch"), "sudo pacman -S"),
        (("opensuse-tumbleweed", "opensuse", "suse"), "sudo zypper install"),
        (("nixos",), "from your distribution"),
    ],
)
def test_the_module_is_installed_the_distributions_way(ids: tuple[str, ...], command: str) -> None:
    assert command in found(replace(FINE, module=BARE, distribution=ids), "kernel module").fix


def test_a_module_that_will_be_gone_after_a_restart() -> None:
    system = replace(FINE, module=replace(FINE.module, at_boot=False))
    assert found(system, "at boot") == Check("at boot", Status.NOTE, found(system, "at boot").detail, AT_BOOT)
    assert 'options v4l2loopback devices=1 video_nr=10 card_label="SharpCam" exclusive_caps=1' in AT_BOOT
    assert "at boot" not in names(FINE)


@pytest.mark.parametrize(
    ("version", "old"), [("0.12.7", True), ("0.13.0", False), ("0.15.4", False), (None, False)]
)
def test_an_old_module_does_not_tell_who_watches(version: str | None, old: bool) -> None:
    check = found(replace(FINE, module=replace(FINE.module, version=version)), "kernel module")
    assert (check.status is Status.NOTE) == old
    assert ("does not tell who watches" in check.detail) == old


def test_secure_boot_matters_while_the_module_is_out() -> None:
    assert "Secure Boot" not in names(FINE)
    assert found(replace(FINE, secure_boot=True), "Secure Boot").status is Status.OK
    out = replace(FINE, secure_boot=True, module=replace(FINE.module, loaded=False), virtual=())
    assert found(out, "Secure Boot").status is Status.WARNING
    assert "mokutil --import" in found(out, "Secure Boot").fix


def test_without_exclusive_caps_meeting_programs_are_blind() -> None:
    both = replace(OURS, caps=Caps.CAPTURE | Caps.OUTPUT)
    check = found(replace(FINE, virtual=(Node(both),)), "exclusive_caps")
    assert check.status is Status.WARNING
    assert check.fix == f"sudo modprobe -r v4l2loopback && {MODPROBE}"
    assert found(FINE, "exclusive_caps").status is Status.OK


def test_another_label_is_told() -> None:
    assert "label" not in names(FINE)
    assert '"OBS"' in found(replace(FINE, virtual=(Node(replace(OURS, name="OBS")),)), "label").detail


def test_closed_nodes_need_the_group_video_or_a_rule() -> None:
    closed = replace(FINE, virtual=(Node(OURS, accessible=False),))
    assert found(closed, "permissions").status is Status.MISSING
    assert "ls -l /dev/video10" in found(closed, "permissions").fix, "ann is in the group already"
    outsider = replace(closed, groups=frozenset({"ann"}))
    assert found(outsider, "permissions").fix.startswith("sudo usermod -aG video ann")
    second = replace(CAMERA, node="/dev/video2")
    spare = replace(FINE, cameras=(Node(CAMERA), Node(second, accessible=False)))
    assert found(spare, "permissions").status is Status.WARNING, "there is another camera"
    assert healthy(examine(spare))


def test_who_holds_a_device_is_named() -> None:
    cheese = Holder(77, "cheese")
    busy = found(replace(FINE, cameras=(Node(CAMERA, holders=(cheese,)),)), "camera")
    assert busy.status is Status.WARNING
    assert "cheese (pid 77)" in busy.detail
    idle = found(replace(FINE, cameras=(Node(CAMERA, holders=(Holder(5, "wireplumber"),)),)), "camera")
    assert idle.status is Status.OK, "it holds every camera and uses none"
    daemon = Holder(8, "python")
    running = replace(FINE, virtual=(Node(OURS, sharpcam_pid=8),))
    assert found(replace(running, cameras=(Node(CAMERA, holders=(daemon,)),)), "camera").status is Status.OK
    assert found(replace(FINE, cameras=(Node(CAMERA, holders=(daemon,)),)), "camera").status is Status.WARNING
    fed = replace(OURS, caps=Caps.CAPTURE)
    obs = replace(FINE, virtual=(Node(fed, holders=(Holder(9, "obs"),)),))
    assert "obs (pid 9)" in found(obs, "writer").detail
    we = replace(FINE, virtual=(Node(fed, holders=(Holder(8, "sharpcam"), cheese), sharpcam_pid=8),))
    assert "writer" not in names(we), "they read"
    assert "SharpCam (pid 8)" in found(we, "virtual camera").detail


def test_models_that_were_changed() -> None:
    error = ModelError("checksum of x is 12")
    some = found(replace(FINE, model_errors=(error,)), "models")
    assert some.status is Status.WARNING
    assert "checksum of x" in some.detail
    none = found(replace(FINE, models=(), model_errors=(error,)), "models")
    assert (none.status, none.detail) == (Status.MISSING, "checksum of x is 12")


def test_a_gpu_that_cannot_be_used_says_why() -> None:
    assert found(FINE, "GPU").status is Status.NOTE
    works = found(replace(FINE, gpu=FACTS), "GPU")
    assert (works.status, works.fix) == (Status.OK, "")
    assert works.detail.startswith("Fake 4090, NVIDIA driver 580.65")
    lacking = found(replace(FINE, gpu=replace(FACTS, missing=("libcudnn.so.9",))), "GPU")
    assert lacking.status is Status.WARNING
    assert "580.65, but libraries" in lacking.detail
    assert "libcudnn.so.9" in lacking.detail
    assert "onnxruntime-gpu[cuda,cudnn]" in lacking.fix
    old = replace(FINE, gpu=replace(FACTS, driver="", driver_cuda=(12, 4)))
    assert "Fake 4090, but the NVIDIA driver runs CUDA up to 12.4" in found(old, "GPU").detail
    assert healthy(examine(old)), "the CPU does it, too"


def test_programs_in_sandboxes() -> None:
    apps = (App("us.zoom.Zoom", "flatpak", False), App("zoom", "snap", False), App("teams", "snap", True))
    checks = {c.detail.partition(":")[0].split()[0]: c for c in map(lambda a: found_app(a), apps)}
    assert checks["us.zoom.Zoom"].fix == "flatpak override --user --device=all us.zoom.Zoom"
    assert checks["zoom"].fix == "sudo snap connect zoom:camera"
    assert checks["teams"].status is Status.OK


def found_app(app_: App) -> Check:
    return found(replace(FINE, apps=(app_,)), app_.kind)


def test_pipewire_may_need_a_restart() -> None:
    assert "restart wireplumber" in found(replace(FINE, pipewire=True), "PipeWire").fix
    assert found(replace(FINE, pipewire=False), "PipeWire").fix == ""


def test_windows_and_macos_need_obs() -> None:
    windows = replace(FINE, platform="win32", virtual=())
    assert "kernel module" not in names(windows)
    assert not healthy(examine(replace(windows, obs=Obs(False, False))))
    assert healthy(examine(replace(windows, obs=Obs(True, True))))
    half = [c for c in examine(replace(windows, obs=Obs(True, False))) if c.status is Status.WARNING]
    assert [c.detail for c in half] == ["32-bit programs do not see it"]
    mac = replace(FINE, platform="darwin", virtual=())
    assert found(replace(mac, obs=Obs(False)), "virtual camera").status is Status.MISSING
    assert found(replace(mac, obs=Obs(True)), "virtual camera").status is Status.OK
    assert found(mac, "virtual camera").status is Status.WARNING, "it cannot be told"


# The look itself


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs of our own in place of the system's."""
    monkeypatch.setattr(sharpcam.system.shutil, "which", lambda name, path: str(tmp_path / name))
    return tmp_path


def program(folder: Path, name: str, text: str, code: int = 0) -> None:
    (folder / name).write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {code}\n")
    (folder / name).chmod(0o755)


@pytest.mark.skipif(sharpcam.system.sys.platform != "linux", reason="Linux's module tools")
def test_the_module_is_looked_up(tools: Path) -> None:
    program(tools, "modinfo", "0.12.7")
    told = sharpcam.system._module()
    assert told.installed
    assert told.loaded or told.version == "0.12.7"
    program(tools, "modinfo", "not found", code=1)
    assert not sharpcam.system._module().installed
    (tools / "modinfo").unlink()
    assert not sharpcam.system._module().installed


def test_secure_boot_is_the_fifth_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "SecureBoot"
    monkeypatch.setattr(sharpcam.system, "SECURE_BOOT", file)
    assert sharpcam.system._secure_boot() is None
    for byte, on in ((b"\x01", True), (b"\x00", False)):
        file.write_bytes(b"\x06\x00\x00\x00" + byte)
        assert sharpcam.system._secure_boot() is on


def test_flatpaks_are_asked_what_they_may_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    base = tmp_path / ".local/share/flatpak"
    for name, asked in {
        "us.zoom.Zoom": "dri;",
        "org.mozilla.firefox": "all;",
        "org.gnome.Maps": "all;",
    }.items():
        folder = base / "app" / name / "current/active"
        folder.mkdir(parents=True)
        (folder / "metadata").write_text(f"[Context]\nshared=network;\ndevices={asked}\n")
    apps = {
        a.name: a.camera
        for a in sharpcam.system._flatpaks()
        if a.name in ("us.zoom.Zoom", "org.mozilla.firefox")
    }
    assert apps == {"us.zoom.Zoom": False, "org.mozilla.firefox": True}
    (base / "overrides").mkdir()
    (base / "overrides/us.zoom.Zoom").write_text("[Context]\ndevices=all;\n")
    assert [a.camera for a in sharpcam.system._flatpaks() if a.name == "us.zoom.Zoom"] == [True]
    assert "org.gnome.Maps" not in [a.name for a in sharpcam.system._flatpaks()]


def test_looking_here_changes_nothing_and_never_fails() -> None:
    system = look()
    assert system.platform == sharpcam.system.sys.platform
    assert examine(system)


def test_a_tool_that_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("modinfo", 10)

    monkeypatch.setattr(sharpcam.system.subprocess, "run", hang)
    assert sharpcam.system._output("ls") is None


# The command


def test_the_command_prints_checks_and_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharpcam.cli.doctor, "look", lambda: FINE)
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0
    assert "ok       kernel module: v4l2loopback 0.15.0 is loaded\n" in result.stdout
    monkeypatch.setattr(sharpcam.cli.doctor, "look", lambda: replace(FINE, module=BARE, virtual=()))
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "MISSING  kernel module: v4l2loopback is not installed\n" in result.stdout
    assert "-> sudo apt install v4l2loopback-dkms" in result.stdout


def test_the_command_speaks_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharpcam.cli.doctor, "look", lambda: replace(FINE, cameras=()))
    result = CliRunner().invoke(app, ["doctor", "--json"])
    told = json.loads(result.stdout)
    assert result.exit_code == 1
    assert told["ok"] is False
    (camera,) = [c for c in told["checks"] if c["name"] == "camera"]
    assert camera["status"] == "missing"
    assert set(camera) == {"name", "status", "detail", "fix"}
