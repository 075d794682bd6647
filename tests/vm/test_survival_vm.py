"""What a daemon outlives, and what it refuses, on real drivers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import browser
import pytest

SCENARIOS = ("frozen", "kept", "refused")
ON_HOST = ()

Answer = Callable[[str], Any]


def test_a_reader_does_not_notice_that_the_process_stood_still(answer: Answer) -> None:
    seen = answer("frozen")
    assert seen["viewer lives"]
    assert seen["longest gap"] < 1.5, "the driver repeats the last frame"
    assert seen["live after"] >= 0, seen["log"]
    assert seen["status"]["state"] == "live"
    assert "Traceback" not in seen["log"]


def test_a_reader_does_not_notice_a_kill_and_a_restart_by_systemd(answer: Answer) -> None:
    seen = answer("kept")
    assert seen["kept"] == 1
    assert seen["viewer lives"]
    assert seen["longest gap"] < 1.5
    assert seen["live after"] >= 0, seen["log"]
    assert seen["kept in the end"] == 0, "after an orderly end nothing holds the device"


@pytest.mark.skipif(browser.chromium() is None, reason="Chromium is not installed")
def test_a_meeting_does_not_notice_it_either(answer: Answer) -> None:
    seen = answer("kept")
    assert set(seen["events"]) == {"devices", "opened", "sample"}, "the track neither ended nor was muted"
    for sample in seen["samples"]:
        assert sample["listed"]
        assert sample["state"] == "live"
        assert sample["fps"] > 5
    assert seen["page's state"] == "live", seen["log"]


def test_a_folder_of_somebody_else_is_refused(answer: Answer) -> None:
    seen = answer("refused")["theirs"]
    assert seen["rc"] == 1
    assert "does not belong to this user" in seen["text"]
    assert "does not belong to this user" in seen["status"]
    assert "Traceback" not in seen["text"] + seen["status"]


def test_a_missing_runtime_folder_is_made(answer: Answer) -> None:
    seen = answer("refused")["missing"]
    assert seen["rc"] == 0, seen["text"]
    assert seen["mode"] == "0o700"
