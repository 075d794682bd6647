"""From a USB camera to a page in Chromium."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import browser
import pytest
from chart import off_by

SCENARIOS = ("meeting", "end_to_end")
ON_HOST = ()

Answer = Callable[[str], Any]
pytestmark = pytest.mark.skipif(browser.chromium() is None, reason="Chromium is not installed")


def test_chromium_sees_size_rate_and_colours(answer: Answer) -> None:
    seen = answer("meeting")
    assert seen["opened"]["label"] == "SharpCam"
    assert seen["opened"]["settings"]["width"] == 1280
    assert seen["opened"]["settings"]["height"] == 720
    assert seen["opened"]["settings"]["frameRate"] == 30
    assert seen["sample"]["size"] == [1280, 720]
    assert seen["sample"]["fps"] > 5
    assert off_by(seen["sample"]["colors"]) <= 3


def test_the_page_gets_sharper_frames_than_the_camera_gives(answer: Answer) -> None:
    seen = answer("end_to_end")
    assert seen["rc"] == 0, seen["output"]
    assert seen["samples"][-1]["size"] == [1280, 720]
    blurred = sum(seen["camera"]) / len(seen["camera"])
    assert min(s["sharpness"] for s in seen["samples"]) > 1.5 * blurred


def test_the_camera_stays_visible_when_the_real_one_is_pulled_out(answer: Answer) -> None:
    seen = answer("end_to_end")
    assert seen["looks"] > 50
    assert seen["hidden"] == 0
    assert set(seen["events"]) == {"devices", "opened", "sample"}, "the track neither ended nor was muted"
    for sample in (*seen["samples"], seen["after replug"]):
        assert sample["listed"]
        assert sample["state"] == "live"
        assert not sample["muted"]
    assert seen["report"]["reconnects"] == 1, seen["output"]
    assert seen["report"]["exit"] == "interrupted"
    assert "Traceback" not in seen["output"]
