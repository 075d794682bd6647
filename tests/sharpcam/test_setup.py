"""From settings to a daemon."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import sharpcam.sources.camera
from sharpcam.calibration import Calibration, Cost
from sharpcam.config import CameraConfig, Config, ModelConfig, OutputConfig
from sharpcam.daemon import ladder
from sharpcam.daemon.ladder import Ladder
from sharpcam.daemon.lighter import Passing, ScaledEngine
from sharpcam.daemon.setup import _why_always
from sharpcam.engine import Engine
from sharpcam.errors import DeviceBusy, DeviceDenied, DeviceLost, DeviceNotFound, ModelError, SharpCamError
from sharpcam.frame import Frame
from sharpcam.governor import Step
from sharpcam.models import find_model
from sharpcam.sources.away import AwaySource
from sharpcam.wiring import open_source_or_wait, reopener


def model(name: str, cost: float | None, recipe: str = "sharpcam", layout: str = "yuv420") -> Any:
    manifest = SimpleNamespace(name=name, macs_per_pixel=cost, recipe=recipe, layout=layout, sha256=name)
    return SimpleNamespace(name=name, manifest=manifest, bare=False)


XS, S, M, L = model("xs", 500.0), model("s", 1000.0), model("m", 2000.0), model("l", 5000.0)
OTHERS = [model("rgb", 100.0, layout="rgb"), model("other", 100.0, "resunet"), model("bare", None)]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    models = [*OTHERS, XS, S, M, L]
    by_name = {"auto": M, "/my/model": model("mine", 1500.0)} | {m.name: m for m in models}
    monkeypatch.setattr(ladder, "find_models", lambda: (models, []))
    monkeypatch.setattr(ladder, "find_model", lambda name: by_name[name])
    monkeypatch.setattr(ladder, "usable_cores", lambda: 2)
    return models


class Costs:
    """A calibration that knows all costs, in milliseconds at full size; at half size it is a quarter."""

    def __init__(self, cpu: float = 1.0, **ms: float) -> None:
        self.ms, self.cpu = ms, cpu
        self.asked: list[dict[str, Any]] = []

    def cost(self, about: dict[str, Any], measured: Any) -> Cost:
        self.asked.append(about)
        seconds = self.ms[about["model"]] / 1000 * about["scale"] ** 2
        return Cost(seconds, seconds * self.cpu)


def names(steps: Sequence[Step]) -> list[str]:
    return [step.name for step in steps]


def auto(costs: Costs, fps: float = 30.0) -> tuple[Step, ...]:
    return Ladder(Config(), (1280, 720), fps, True, costs).steps("auto")  # type: ignore[arg-type]


@pytest.mark.usefixtures("installed")
def test_auto_begins_with_the_largest_that_this_machine_affords() -> None:
    costs = Costs(xs=4, s=8, m=16, l=40)
    steps = auto(costs)
    assert names(steps) == ["m", "s", "xs", "xs at half size", "off"]
    assert [step.cost for step in steps] == pytest.approx([0.016, 0.008, 0.004, 0.001, 0.0])
    assert [(step.model, step.scale) for step in steps[-2:]] == [("xs", 0.5), ("", 1.0)]
    assert {about["model"] for about in costs.asked} == {"xs", "s", "m", "l"}
    about = costs.asked[0]
    assert (about["sha256"], about["size"], about["provider"]) == ("l", (1280, 720), "auto")
    assert {"cpu", "cores", "onnxruntime", "threads", "gpu"} <= about.keys()


@pytest.mark.usefixtures("installed")
def test_how_much_auto_takes() -> None:
    assert auto(Costs(xs=1, s=2, m=4, l=10))[0].name == "l"
    assert auto(Costs(xs=1, s=2, m=4, l=10, cpu=4))[0].name == "m", "1.2 of 2 cores is too much, 0.5 is not"
    assert auto(Costs(xs=4, s=8, m=16, l=40), fps=60)[0].name == "s"
    assert auto(Costs(xs=100, s=200, m=300, l=400))[0].name == "xs", "none fits: the smallest"


@pytest.mark.usefixtures("installed")
def test_a_model_that_cannot_run_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Costs):
        def cost(self, about: dict[str, Any], measured: Any) -> Cost:
            if about["model"] in self.broken:
                raise ModelError(f"{about['model']} is damaged")
            return super().cost(about, measured)

    costs = Broken(s=8, l=40)
    costs.broken = {"xs", "m"}  # type: ignore[attr-defined]
    assert names(auto(costs)) == ["s", "s at half size", "off"]
    assert "left out: model=m: m is damaged" in caplog.text
    costs.broken = {"xs", "s", "m", "l"}  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match="is damaged"):
        auto(costs)


@pytest.mark.usefixtures("installed")
def test_a_step_that_costs_no_less_is_left_out() -> None:
    assert names(auto(Costs(xs=9, s=8, m=16, l=40))) == ["m", "s", "xs at half size", "off"]


@pytest.mark.usefixtures("installed")
def test_below_a_named_model_are_the_cheaper_ones_of_its_family_unmeasured() -> None:
    costs = Costs()
    named = Ladder(Config(), (1280, 720), 30, True, costs)  # type: ignore[arg-type]
    assert names(named.steps("m")) == ["m", "s", "xs", "xs at half size", "off"]
    assert names(named.steps("xs")) == ["xs", "xs at half size", "off"]
    assert names(named.steps("bare")) == ["bare", "bare at half size", "off"]
    mine = named.steps("/my/model")
    assert names(mine) == ["mine", "s", "xs", "xs at half size", "off"]
    assert mine[0].model == "/my/model", "it is loaded from where it lies"
    assert not costs.asked


@pytest.mark.usefixtures("installed")
def test_where_time_does_not_press_auto_is_the_default_and_nothing_is_measured() -> None:
    costs = Costs()
    steps = Ladder(Config(), (1280, 720), 25, False, costs).steps("auto")  # type: ignore[arg-type]
    assert names(steps) == ["m", "s", "xs", "xs at half size", "off"]
    assert not costs.asked


def test_one_model_alone(installed: list[Any]) -> None:
    installed[:] = [M]
    assert names(auto(Costs(m=100))) == ["m", "m at half size", "off"]


def test_each_step_has_its_engine(yuv_model: Path, tmp_path: Path) -> None:
    config = Config(model=ModelConfig(name=str(yuv_model), provider="cpu", threads=1, strength=0.5))
    calibration = Calibration(tmp_path / "c.json")
    real = Ladder(config, (64, 48), 30, True, calibration)
    full, half, off = real.steps(str(yuv_model))
    frame, out = Frame(64, 48), Frame(64, 48)
    for step, kind in ((full, Engine), (half, ScaledEngine), (off, Passing)):
        engine = real.load(step)
        assert isinstance(engine, kind)
        assert engine.model.name == "tiny"
        engine.process(frame, out)
        engine.close()
    cost = real._measured(find_model(yuv_model), str(yuv_model), 0.5)
    assert 0 < cost.seconds < 10
    (entry,) = json.loads((tmp_path / "c.json").read_text()).values()
    assert (entry["model"], entry["size"], entry["threads"]) == ("tiny", [32, 24], 1)


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
