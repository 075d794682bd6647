"""From settings to a daemon."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

import sharpcam.daemon.setup
import sharpcam.sources.camera
from sharpcam.config import CameraConfig, Config, ModelConfig, OutputConfig
from sharpcam.daemon.setup import _governor, _why_always
from sharpcam.errors import DeviceBusy, DeviceDenied, DeviceLost, DeviceNotFound, SharpCamError
from sharpcam.frame import Frame
from sharpcam.sources.away import AwaySource
from sharpcam.wiring import open_source_or_wait, reopener


def manifest(name: str, cost: float | None, recipe: str = "sharpcam", layout: str = "yuv420") -> Any:
    return SimpleNamespace(name=name, macs_per_pixel=cost, recipe=recipe, layout=layout)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    manifests = [
        *(manifest("xs", 500.0), manifest("s", 1000.0), manifest("m", 2000.0), manifest("l", 5000.0)),
        *(manifest("rgb", 100.0, layout="rgb"), manifest("other", 100.0, "resunet"), manifest("bare", None)),
    ]
    models = [SimpleNamespace(name=m.name, manifest=m) for m in manifests]
    monkeypatch.setattr(sharpcam.daemon.setup, "find_models", lambda: (models, []))


@pytest.mark.usefixtures("installed")
def test_the_governor_has_the_smaller_ones_of_the_family() -> None:
    governor = _governor(Config(), manifest("m", 2000.0))
    assert governor is not None
    assert [tier.name for tier in governor._tiers] == ["xs", "s", "m"]
    assert governor.tier.name == "m"


@pytest.mark.usefixtures("installed")
def test_no_governor_without_a_choice() -> None:
    assert _governor(Config(model=ModelConfig(name="m")), manifest("m", 2000.0)) is None, "it was named"
    assert _governor(Config(model=ModelConfig(adapt=False)), manifest("m", 2000.0)) is None
    assert _governor(Config(), manifest("xs", 500.0)) is None
    assert _governor(Config(), manifest("bare", None)) is None


def test_why_the_camera_stays_open() -> None:
    config = Config()
    assert _why_always(config, is_camera=True, limited=False) == ""
    assert "limited" in _why_always(config, is_camera=True, limited=True)
    assert "no camera" in _why_always(config, is_camera=False, limited=False)
    always = Config(output=OutputConfig(on_demand=False))
    assert _why_always(always, is_camera=True, limited=False) == "so it was set"


# A camera that is not there yet


class Camera:
    """Opens when `there` is set to a name; remembers what it was asked for."""

    there: SharpCamError | None = None
    asked: list[Any]

    def __init__(self, device: Any, size: tuple[int, int], fps: float, *, fit: str) -> None:
        type(self).asked.append(device)
        if self.there is not None:
            raise self.there
        self.address = "/dev/v4l/by-id/usb-1"


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> type[Camera]:
    Camera.asked, Camera.there = [], None
    monkeypatch.setattr(sharpcam.sources.camera, "CameraSource", Camera)
    return Camera


@pytest.mark.parametrize("error", [DeviceNotFound("no camera found", "connect one"), DeviceBusy("held")])
def test_a_camera_that_is_not_there_is_waited_for(camera: type[Camera], error: SharpCamError) -> None:
    config = Config(camera=CameraConfig(device="HD Webcam", size=(640, 480), fps=25))
    camera.there = error
    source = open_source_or_wait(config)
    assert isinstance(source, AwaySource)
    assert (source.size, source.fps, source.live) == ((640, 480), 25, True)
    assert str(error) in source.description
    with pytest.raises(DeviceLost, match=str(error)) as caught:
        source.read(Frame(640, 480), 0.1)
    assert caught.value.hint == error.hint
    reopen = reopener(config, source)
    assert reopen is not None
    with pytest.raises(type(error)):
        reopen()
    camera.there = None
    for _ in range(2):
        reopen()
    assert camera.asked == ["HD Webcam"] * 3 + ["/dev/v4l/by-id/usb-1"], "once found, by its steadiest name"


def test_what_waiting_would_not_mend_is_an_error(camera: type[Camera]) -> None:
    camera.there = DeviceDenied("permission denied")
    with pytest.raises(DeviceDenied):
        open_source_or_wait(Config())
    with pytest.raises(SharpCamError):
        open_source_or_wait(Config(), "/nowhere/film.mp4")
