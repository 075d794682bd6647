"""From settings to a daemon."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

import sharpcam.daemon.setup
from sharpcam.config import Config, ModelConfig, OutputConfig
from sharpcam.daemon.setup import _governor, _why_always


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
