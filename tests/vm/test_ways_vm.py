"""The benchmark's camera with numbers in its pixels, between real devices: what it tells is possible."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks import pipeline
from benchmarks.ways import SHARPCAM, Plan

FFMPEG = "ffmpeg unsharp"


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="no ffmpeg here")
def test_pictures_are_followed_from_camera_to_virtual_camera(tmp_path: Path) -> None:
    rig = pipeline._find_rig("auto")
    if isinstance(rig, str):
        pytest.skip(rig)
    plan = Plan((640, 360), 30.0, "MJPG", 1, 2.0, "m", "", (FFMPEG, SHARPCAM))
    found = rig.run(plan, tmp_path, print)
    for way in (FFMPEG, SHARPCAM):
        one = found[way]
        assert one["latency_ms"][0] > 0, "nothing arrives before it was sent"
        assert one["latency_ms"] == sorted(one["latency_ms"])
        assert one["fps"] > 0
        assert 0 <= one["lost"] < one["sent"]
        assert one["unreadable"] == 0, "the numbers survive JPEG, sharpening, and two drivers"
        assert one["memory_mb"] > 10
        assert one["first_picture_s"] > 0
    assert found[SHARPCAM]["stages_cpu_ms"], "the program's own report came through, too"
    assert found["about"]["decoding"]["FFmpeg"] > 0
