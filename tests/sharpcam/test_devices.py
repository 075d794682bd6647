"""Finding and naming devices, who holds them, and the list that `sharpcam devices` prints."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sharpcam import devices, holding, v4l2
from sharpcam.cli.devices import run_devices
from sharpcam.devices import VideoDevice, find_camera, find_virtual_camera, video_devices
from sharpcam.errors import ConfigError, DeviceBusy, DeviceDenied, DeviceNotFound
from sharpcam.v4l2 import Caps, Mode

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a fake of Linux's devices")

LOOPBACK = "v4l2 loopback"


@dataclass
class Machine:
    """A fake /sys/class/video4linux with drivers behind it."""

    sysfs: Path
    links: Path
    nodes: dict[str, Any] = field(default_factory=dict)  # node -> Capability or OSError
    modes: dict[str, list[Mode]] = field(default_factory=dict)

    def add(
        self,
        number: int,
        card: str,
        driver: str = "uvcvideo",
        caps: Caps = Caps.CAPTURE | Caps.STREAMING,
        *,
        by_id: str = "",
        modes: list[Mode] | None = None,
        error: int = 0,
        **attributes: str,
    ) -> str:
        node, entry = f"/dev/video{number}", self.sysfs / f"video{number}"
        entry.mkdir()
        (entry / "name").write_text(card + "\n")
        for name, text in attributes.items():
            (entry / name).write_text(text)
        failure = OSError(error, os.strerror(error))
        self.nodes[node] = failure if error else v4l2.Capability(driver, card, f"usb-{number}", caps)
        self.modes[node] = modes or []
        if by_id:
            (self.links / by_id).symlink_to(node)
        return node

    def loopback(self, number: int, label: str, caps: Caps = Caps.OUTPUT, **more: Any) -> str:
        return self.add(number, label, LOOPBACK, caps, max_openers="10", state="output", **more)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path / "sys", tmp_path / "by-id")
    made.sysfs.mkdir()
    made.links.mkdir()

    class FakeNode:
        def __init__(self, path: str, flags: int = 0) -> None:
            self.path, self.told = path, made.nodes[path]
            if isinstance(self.told, OSError):
                raise self.told

        def __enter__(self) -> FakeNode:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def capability(self) -> v4l2.Capability:
            return self.told

        def modes(self, wanted: tuple[int, int]) -> list[Mode]:
            return made.modes[self.path]

    monkeypatch.setattr(devices, "SYSFS", made.sysfs)
    monkeypatch.setattr(devices, "LINKS", (made.links,))
    monkeypatch.setattr(v4l2, "Node", FakeNode)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    return made


# -- finding cameras


def test_devices_come_in_the_order_of_their_numbers_without_metadata_nodes(machine: Machine) -> None:
    machine.add(10, "Ten")
    machine.add(2, "Two")
    machine.add(3, "Two", caps=Caps.STREAMING)  # the metadata node of 2
    assert [d.node for d in video_devices()] == ["/dev/video2", "/dev/video10"]


def test_auto_is_the_first_real_camera(machine: Machine) -> None:
    machine.loopback(0, "Other", Caps.CAPTURE)
    machine.add(2, "HD Webcam")
    assert find_camera().node == find_camera("auto").node == "/dev/video2"


@pytest.mark.parametrize("wanted", [2, "2", "/dev/video2", "hd web", "HD WEBCAM", "usb-2", "BY_ID"])
def test_a_camera_is_found_by_index_node_name_port_and_id(machine: Machine, wanted: str | int) -> None:
    machine.add(0, "Integrated Camera")
    machine.add(2, "HD Webcam", by_id="usb-Maker_HD_Webcam-index0")
    if wanted == "BY_ID":
        wanted = str(machine.links / "usb-Maker_HD_Webcam-index0")
    assert find_camera(wanted).node == "/dev/video2"


def test_two_cameras_in_one_case_are_found_again_each(machine: Machine) -> None:
    """One that sees infrared has the same bus."""
    machine.add(0, "Front", caps=Caps.CAPTURE)
    machine.add(2, "Front IR", caps=Caps.CAPTURE)
    front, infrared = (machine.nodes[f"/dev/video{n}"] for n in (0, 2))
    machine.nodes["/dev/video2"] = replace(infrared, bus_info=front.bus_info)  # type: ignore[type-var, union-attr]
    for wanted in (None, "front ir"):
        camera = find_camera(wanted)
        assert find_camera(camera.address) == camera
    machine.add(4, "Other")
    assert find_camera("other").address == "usb-4"


def test_an_ambiguous_name_lists_all_that_fit(machine: Machine) -> None:
    machine.add(0, "HD Webcam left")
    machine.add(2, "HD Webcam right")
    with pytest.raises(ConfigError) as caught:
        find_camera("webcam")
    assert '"HD Webcam left" (/dev/video0), "HD Webcam right" (/dev/video2)' in str(caught.value)
    assert find_camera("hd webcam LEFT").node == "/dev/video0"


def test_a_whole_name_goes_before_a_part_of_another(machine: Machine) -> None:
    machine.add(0, "Webcam Pro")
    machine.add(2, "Webcam")
    assert find_camera("webcam").node == "/dev/video2"


@pytest.mark.parametrize("wanted", ["nonesuch", 7, "/dev/video7", "/dev/null", ""])
def test_what_is_not_there_says_what_is(machine: Machine, wanted: str | int) -> None:
    machine.add(0, "HD Webcam")
    with pytest.raises(DeviceNotFound) as caught:
        find_camera(wanted)
    assert '"HD Webcam" (/dev/video0)' in caught.value.hint


def test_without_any_camera_the_hint_says_so(machine: Machine) -> None:
    with pytest.raises(DeviceNotFound, match="no camera found") as caught:
        find_camera()
    assert "sharpcam devices" in caught.value.hint


def test_our_own_virtual_camera_is_no_source(machine: Machine) -> None:
    machine.loopback(10, "SharpCam 2", Caps.CAPTURE)
    machine.add(0, "HD Webcam")
    for wanted in (10, "sharpcam", "/dev/video10"):
        with pytest.raises(ConfigError, match="own virtual camera") as caught:
            find_camera(wanted)
        assert "/dev/video0" in caught.value.hint
        assert "/dev/video10" not in caught.value.hint


def test_another_programs_virtual_camera_is_a_source_while_it_is_fed_and_not_by_us(machine: Machine) -> None:
    node = machine.loopback(8, "OBS", Caps.CAPTURE)
    assert find_camera("obs").node == node
    lock = holding.WriterLock(node)
    with pytest.raises(ConfigError, match="own virtual camera"):
        find_camera("obs")
    lock.release()
    assert find_camera("obs").node == node


def test_a_loopback_that_nobody_feeds_is_no_source(machine: Machine) -> None:
    machine.loopback(8, "OBS", Caps.OUTPUT)
    with pytest.raises(DeviceNotFound, match="no program feeds it"):
        find_camera(8)


def test_a_node_that_may_not_be_opened_is_listed_by_its_name_in_sysfs(machine: Machine) -> None:
    machine.add(0, "HD Webcam", error=errno.EACCES)
    machine.loopback(10, "SharpCam", error=errno.EACCES)
    camera, loopback = video_devices()
    assert camera == VideoDevice("/dev/video0", "HD Webcam", caps=None, problem="Permission denied")
    assert loopback.is_loopback
    assert find_camera().node == "/dev/video0", "opening it will tell what is wrong"


def test_the_address_is_the_steadiest_name(machine: Machine) -> None:
    machine.add(0, "HD Webcam", by_id="usb-Maker-index0")
    machine.add(1, "Other")
    first, second = video_devices()
    assert first.address == str(machine.links / "usb-Maker-index0")
    assert second.address == "usb-1"
    assert find_camera(second.address) == second
    assert VideoDevice("HD Cam", "HD Cam").address == "HD Cam"


# -- finding virtual cameras


def test_a_virtual_camera_labelled_sharpcam_is_preferred(machine: Machine) -> None:
    machine.loopback(8, "OBS")
    machine.loopback(10, "SharpCam")
    assert find_virtual_camera().node == "/dev/video10"
    assert find_virtual_camera("obs").node == "/dev/video8"
    assert find_virtual_camera("auto", label="OBS").node == "/dev/video8"


def test_without_a_virtual_camera_the_command_is_given(machine: Machine) -> None:
    machine.add(0, "HD Webcam")
    for wanted in (None, "/dev/video10", "/dev/video0"):
        with pytest.raises(DeviceNotFound) as caught:
            find_virtual_camera(wanted)
        assert caught.value.hint == f"run: {devices.MODPROBE}"


def test_what_is_no_virtual_camera_says_which_is(machine: Machine) -> None:
    machine.add(0, "HD Webcam")
    machine.loopback(10, "SharpCam")
    for wanted in ("/dev/video0", "/dev/video77"):
        with pytest.raises(DeviceNotFound) as caught:
            find_virtual_camera(wanted)
        assert '"SharpCam" (/dev/video10)' in caught.value.hint


# -- what sysfs tells


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("YU12:1280x720@30\n", ("YU12", 1280, 720, Fraction(30))),
        ("YUYV:640x480@30000/1001", ("YUYV", 640, 480, Fraction(30000, 1001))),
        ("YU12:1280x720", ("YU12", 1280, 720, None)),
        ("", None),
        ("YU12:1280x720@30/0", None),
        ("rubbish", None),
    ],
)
def test_the_loopbacks_format(machine: Machine, text: str, told: object) -> None:
    node = machine.loopback(10, "SharpCam", format=text)
    assert devices.loopback_format(node) == told


def test_no_format_of_what_is_no_loopback(machine: Machine) -> None:
    assert devices.loopback_format(machine.add(0, "HD Webcam")) is None
    assert devices.is_old_loopback("/dev/video0")
    assert not devices.is_old_loopback(machine.loopback(10, "SharpCam"))


@pytest.mark.parametrize(
    ("speed", "told"), [("480\n", 53_248_000), ("12", 1_331_200), ("5000", 554_666_666), ("", None)]
)
def test_what_the_bus_carries(machine: Machine, tmp_path: Path, speed: str, told: int | None) -> None:
    node = machine.add(0, "HD Webcam")
    interface = tmp_path / "usb" / "1-1" / "1-1:1.0"
    interface.mkdir(parents=True)
    if speed:
        (interface.parent / "speed").write_text(speed)
    (machine.sysfs / "video0" / "device").symlink_to(interface)
    assert devices.bus_bytes(node) == told


# -- other systems


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        SimpleNamespace(name="@device_pnp_1", description="HD Webcam", media_types=["video"]),
        SimpleNamespace(name="@device_cm_2", description="Microphone", media_types=["audio"]),
        SimpleNamespace(name="@device_pnp_3", description="Capture Card", media_types=["video", "audio"]),
    ]
    monkeypatch.setattr(devices, "sys", SimpleNamespace(platform="win32"))
    monkeypatch.setattr(devices.av, "enumerate_input_devices", {"dshow": found}.__getitem__)


@pytest.mark.usefixtures("windows")
def test_elsewhere_ffmpeg_lists_the_cameras() -> None:
    assert [d.name for d in video_devices()] == ["HD Webcam", "Capture Card"]
    assert find_camera().name == find_camera("0").name == find_camera("hd").name == "HD Webcam"
    assert find_camera(1).address == "@device_pnp_3"
    with pytest.raises(DeviceNotFound, match="no camera 2"):
        find_camera(2)


@pytest.mark.usefixtures("windows")
def test_enumeration_that_fails_is_no_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> Any:
        raise ValueError("no such format")

    monkeypatch.setattr(devices.av, "enumerate_input_devices", fail)
    assert video_devices() == []


# -- who holds a device


def test_holders_are_other_processes_that_have_it_open(tmp_path: Path) -> None:
    path = tmp_path / "video0"
    path.write_text("")
    assert holding.holders(str(path)) == []
    code = "import sys; file = open(sys.argv[1]); print(flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with path.open(), subprocess.Popen([sys.executable, "-c", code, str(path)], **pipes) as other:  # type: ignore[call-overload]
        other.stdout.readline()
        (holder,) = holding.holders(str(path))
        assert holder.pid == other.pid
        assert holding.held_by([holder]) == f"{holder.name} (pid {other.pid})"
        other.stdin.close()
    assert holding.held_by([]) == "another program"


def test_a_name_cut_within_a_letter_is_a_name(tmp_path: Path) -> None:
    """The kernel keeps 15 bytes of it."""
    path = tmp_path / "video0"
    path.write_text("")
    program = tmp_path / "видеосвязь"
    program.write_bytes(Path(shutil.which("cat") or "").read_bytes())
    program.chmod(0o700)
    with path.open() as held, subprocess.Popen([program], stdin=subprocess.PIPE, stdout=held) as other:
        limit = time.monotonic() + 10
        while not (found := holding.holders(str(path))) and time.monotonic() < limit:
            time.sleep(0.01)
        assert [holder.pid for holder in found] == [other.pid]
        assert found[0].name.startswith("видеосв")
        other.stdin.close()  # type: ignore[union-attr]


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "sharpcam"


def test_one_writer_at_a_time_and_its_pid_is_told(runtime: Path) -> None:
    assert holding.writer("/dev/video10") is None
    runtime.mkdir(0o700)
    (runtime / "video10.lock").write_text("98765432109876543210")  # of a process long dead
    lock = holding.WriterLock("/dev/video10")
    assert holding.writer("/dev/video10") == os.getpid()
    assert holding.writer("/dev/video11") is None
    with pytest.raises(DeviceBusy, match=f"pid {os.getpid()}"):
        holding.WriterLock("/dev/video10")
    holding.WriterLock("/dev/video11").release()
    lock.release()
    lock.release()
    assert holding.writer("/dev/video10") is None
    holding.WriterLock("/dev/video10").release()


def test_a_lock_dies_with_its_process(runtime: Path) -> None:
    code = "from sharpcam.holding import *; lock = WriterLock('/dev/video10'); print(flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as other:  # type: ignore[call-overload]
        other.stdout.readline()
        assert holding.writer("/dev/video10") == other.pid
        with pytest.raises(DeviceBusy, match=f"pid {other.pid}"):
            holding.WriterLock("/dev/video10")
        other.kill()
    assert holding.writer("/dev/video10") is None
    holding.WriterLock("/dev/video10").release()


def test_the_lock_folder_is_for_nobody_else(runtime: Path) -> None:
    holding.WriterLock("/dev/video10").release()
    assert runtime.stat().st_mode & 0o777 == 0o700


def test_a_lock_folder_that_is_a_link_is_refused(runtime: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    runtime.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DeviceDenied, match="does not belong"):
        holding.WriterLock("/dev/video10")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_lock_file_that_is_a_link_is_refused(runtime: Path, tmp_path: Path) -> None:
    runtime.mkdir()
    target = tmp_path / "precious"
    target.write_text("text")
    (runtime / "video10.lock").symlink_to(target)
    with pytest.raises(DeviceDenied, match="symbolic links"):
        holding.WriterLock("/dev/video10")
    assert target.read_text() == "text"


def test_without_a_runtime_folder_the_lock_is_in_the_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(holding.tempfile, "gettempdir", lambda: str(tmp_path))
    lock = holding.WriterLock("/dev/video10")
    assert (tmp_path / f"sharpcam-{os.getuid()}" / "video10.lock").read_text() == str(os.getpid())
    lock.release()


# -- the command


Output = Callable[[], str]


@pytest.fixture
def full_machine(machine: Machine) -> Machine:
    modes = [
        Mode("YUYV", 640, 480, (Fraction(30),)),
        Mode("YUYV", 1280, 720, (Fraction(10),)),
        Mode("MJPG", 1280, 720, (Fraction(30),)),
        Mode("Y16", 640, 480, (Fraction(30),)),
    ]
    machine.add(0, "HD [red] Webcam", modes=modes)
    machine.loopback(10, "SharpCam", Caps.CAPTURE, format="YU12:1280x720@30")
    return machine


@pytest.mark.usefixtures("full_machine")
def test_devices_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    lock = holding.WriterLock("/dev/video10")
    assert run_devices(True) == 0
    told = json.loads(capsys.readouterr().out)
    lock.release()
    (camera,), (virtual,) = told["cameras"], told["virtual_cameras"]
    assert camera["device"] == "/dev/video0"
    assert camera["chosen"] == {"pixel_format": "MJPG", "size": [1280, 720], "fps": 30.0}
    assert camera["formats"][0] == {
        "pixel_format": "YUYV",
        "usable": True,
        "sizes": [{"size": [640, 480], "fps": [30.0]}, {"size": [1280, 720], "fps": [10.0]}],
    }
    assert not camera["formats"][2]["usable"]
    assert virtual["state"] == "streaming"
    assert virtual["format"] == {"pixel_format": "YU12", "size": [1280, 720], "fps": 30.0}
    assert virtual["sharpcam_pid"] == os.getpid()
    assert virtual["default"]


@pytest.mark.usefixtures("full_machine")
def test_devices_as_tables(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert run_devices(False) == 0
    text = capsys.readouterr().out
    assert "HD [red] Webcam" in text
    assert "YUYV: 640x480 1280x720, up to 30 fps" in text
    assert "and 1 that SharpCam does not read" in text
    assert "for 1280x720 at 30: MJPG 1280x720 at 30" in text
    assert "streaming, YU12 1280x720 at 30 fps" in text


def test_devices_without_any(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_devices(False) == 0
    text = capsys.readouterr().out
    assert "No camera found" in text
    assert devices.MODPROBE in text
    assert run_devices(True) == 0
    assert json.loads(capsys.readouterr().out) == {"cameras": [], "virtual_cameras": []}


@pytest.mark.parametrize(
    ("caps", "state"),
    [
        (Caps.OUTPUT, "waiting"),
        (Caps.CAPTURE, "idle"),
        (Caps(0), "unknown"),
        (Caps.CAPTURE | Caps.OUTPUT, "idle"),
    ],
)
def test_states_of_a_virtual_camera(
    machine: Machine, capsys: pytest.CaptureFixture[str], caps: Caps, state: str
) -> None:
    machine.loopback(10, "SharpCam", caps)
    run_devices(True)
    (virtual,) = json.loads(capsys.readouterr().out)["virtual_cameras"]
    assert virtual["state"] == state
    assert virtual["exclusive_caps"] == (caps != Caps.CAPTURE | Caps.OUTPUT)
    run_devices(False)
    assert ("not seen by Chromium" in capsys.readouterr().out) != virtual["exclusive_caps"]


def test_a_device_that_may_not_be_opened_says_why(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.add(0, "HD Webcam", error=errno.EACCES)
    assert run_devices(False) == 0
    assert "Permission denied" in capsys.readouterr().out
