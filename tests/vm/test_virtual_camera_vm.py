"""The virtual camera sink against the real v4l2loopback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from chart import off_by

ON_HOST = ("ffmpeg_view", "kept_format", "second_writer", "client_usage")
SCENARIOS = (*ON_HOST, "listing", "choice")

Answer = Callable[[str], Any]


def test_ffmpeg_reads_size_rate_and_colours(answer: Answer) -> None:
    seen = answer("ffmpeg_view")
    assert seen["description"] == 'virtual camera "SharpCam" (/dev/video10), I420 1280x720 at 60 fps'
    assert seen["told"] == {"width": 1280, "height": 720, "pix_fmt": "yuv420p", "avg_frame_rate": "60/1"}
    assert off_by(seen["plain"]) <= 3
    assert off_by(seen["709"]) <= 3, "frames in other colours are converted"


def test_after_close_the_device_takes_a_writer_again(answer: Answer) -> None:
    assert answer("ffmpeg_view")["after close"]["error"] == ""


def test_a_format_that_the_driver_keeps_is_noticed(answer: Answer) -> None:
    seen = answer("kept_format")
    assert seen["other size"]["error"] == "FormatMismatch"
    assert "keeps YU12 640x480" in seen["other size"]["text"]
    assert "keep_format=0" in seen["other size"]["hint"]
    assert "--size 640x480" in seen["other size"]["hint"]
    assert seen["same size"]["error"] == "", "a writer of just that format is let in"
    assert seen["still kept"] == 1


def test_a_reader_of_another_size_is_named(answer: Answer) -> None:
    seen = answer("kept_format")
    assert seen["reader"]["error"] == "FormatMismatch"
    assert f"v4l2-ctl (pid {seen['reader']['pid']})" in seen["reader"]["hint"]
    assert "keep_format" not in seen["reader"]["hint"], "that would not help here"
    assert seen["reader, same size"]["error"] == ""
    assert seen["reader gone"]["error"] == ""


def test_one_device_has_one_writer(answer: Answer) -> None:
    seen = answer("second_writer")
    for who in ("same process", "other process"):
        assert seen[who]["error"] == "DeviceBusy"
        assert f"another SharpCam (pid {seen['pid']})" in seen[who]["text"]
    assert seen["foreign"]["error"] == "DeviceBusy"
    assert f"ffmpeg (pid {seen['foreign']['ffmpeg']})" in seen["foreign"]["text"]


def test_the_driver_tells_when_somebody_watches(answer: Answer) -> None:
    assert answer("client_usage")["counts"] == [0, None, 1, 0]


def test_devices_are_listed_with_their_holders(answer: Answer) -> None:
    seen = answer("listing")
    (virtual,) = seen["json"]["virtual_cameras"]
    camera = next(c for c in seen["json"]["cameras"] if c["device"] == "/dev/video0")
    assert camera["name"] == "vivid"
    assert camera["chosen"] == {"pixel_format": "YUYV", "size": [1280, 720], "fps": 30.0}
    assert {"pid": seen["reader"], "name": "v4l2-ctl"} in camera["held_by"]
    assert virtual["state"] == "streaming"
    assert virtual["format"] == {"pixel_format": "YU12", "size": [1280, 720], "fps": 30.0}
    assert virtual["sharpcam_pid"] == seen["writer"]
    assert virtual["default"]
    assert virtual["exclusive_caps"]
    assert "/dev/video10" in seen["text"]
    assert "v4l2-ctl" in seen["text"]


def test_auto_prefers_the_device_labelled_sharpcam(answer: Answer) -> None:
    seen = answer("choice")
    assert seen["auto"] == "/dev/video10"
    assert seen["label"] == "/dev/video8"
    assert seen["camera"] == "/dev/video0"
    assert seen["not virtual"]["error"] == "DeviceNotFound"
    assert "/dev/video8" in seen["not virtual"]["hint"]


def test_another_programs_loopback_may_be_a_source_while_it_is_fed(answer: Answer) -> None:
    seen = answer("choice")
    assert "no program feeds it" in seen["unfed"]["text"]
    assert seen["fed"]["came"]
    assert seen["our own, by its lock"]["error"] == "ConfigError", "whatever its label"


def test_without_the_module_the_command_is_given(answer: Answer) -> None:
    seen = answer("choice")["none"]
    assert seen["error"] == "DeviceNotFound"
    assert "sudo modprobe v4l2loopback" in seen["hint"]
    assert "exclusive_caps=1" in seen["hint"]
