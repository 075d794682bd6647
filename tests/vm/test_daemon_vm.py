"""`sharpcam run` as a daemon on real drivers: on demand, paused, unplugged, killed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

SCENARIOS = ("on_demand", "unplugging", "late", "killed")
ON_HOST = ()

Answer = Callable[[str], Any]


def test_the_camera_is_closed_while_nobody_watches(answer: Answer) -> None:
    seen = answer("on_demand")
    assert seen["idle after"] >= 0, seen["log"]
    assert seen["closed"] >= 0
    assert seen["first"]["clients"] == 0
    assert seen["first"]["reason"] == "nobody watches the virtual camera"


def test_who_begins_to_watch_sees_the_camera_soon(answer: Answer) -> None:
    seen = answer("on_demand")
    assert 0 < seen["live after"] < 4, seen["log"]
    assert seen["held while watched"]
    assert (seen["watched"]["state"], seen["watched"]["clients"]) == ("live", 1)
    assert seen["watched"]["fps"] > 10
    assert seen["reconnects"] == 0, "it was closed on purpose"


def test_doctor_finds_a_running_daemon_in_order(answer: Answer) -> None:
    seen = answer("on_demand")
    checks, pid = seen["doctor"], seen["watched"]["pid"]
    assert checks["kernel module"]["status"] == checks["exclusive_caps"]["status"] == "ok"
    assert "is loaded" in checks["kernel module"]["detail"]
    assert checks["virtual camera"]["status"] == checks["camera"]["status"] == "ok"
    assert f"written to by SharpCam (pid {pid})" in checks["virtual camera"]["detail"]
    assert '"Emulated USB Camera"' in checks["camera"]["detail"]
    assert "writer" not in checks
    assert "permissions" not in checks


def test_the_camera_is_closed_soon_after_the_last_one_left(answer: Answer) -> None:
    seen = answer("on_demand")
    assert 0 < seen["camera closed after viewer"] < 4, seen["log"]


def test_a_pause_shows_the_placeholder_and_closes_the_camera(answer: Answer) -> None:
    seen = answer("on_demand")
    assert seen["placeholder after"] > 0, seen["log"]
    assert 0 <= seen["paused, closed after"] < 2
    assert seen["paused"]["state"] == "paused"
    pictures, brightest = seen["pictures while paused"]
    assert pictures > 10, "who watches is not starved"
    assert brightest < 60, "and sees nothing of the camera"
    assert seen["resumed after"] > 0
    assert seen["strength"] == 0.5


def test_a_second_daemon_is_told_the_pid_of_the_first(answer: Answer) -> None:
    second = answer("on_demand")["second"]
    assert second["rc"] == 1
    assert f"another SharpCam (pid {second['pid']})" in second["text"]
    assert "Traceback" not in second["text"]


def test_stop_ends_it_well(answer: Answer) -> None:
    seen = answer("on_demand")
    assert seen["rc"] == 0, seen["log"]
    assert not seen["then"]
    assert "Traceback" not in seen["log"]


def test_it_comes_back_after_every_unplugging(answer: Answer) -> None:
    seen = answer("unplugging")
    cycles = len(seen["cycles"])
    assert cycles >= 4
    for cycle in seen["cycles"]:
        assert cycle["recovering after"] >= 0, seen["log"]
        assert cycle.get("placeholder after", 1) > 0, seen["log"]
        assert 0 < cycle["live after"] < 10, seen["log"]
    assert seen["status"]["reconnects"] == cycles
    assert seen["viewer lives"]
    assert seen["longest gap"] < 1, "who watches is never starved"
    assert seen["rss_mb"][-1] - seen["rss_mb"][1] < 2 + cycles / 4, "memory stays what it was"
    assert "Traceback" not in seen["log"]


def test_it_may_start_before_the_camera_is_there(answer: Answer) -> None:
    seen = answer("late")
    assert seen["before"]["state"] == "recovering"
    assert seen["before"]["clients"] == 1, "who watches sees the placeholder"
    assert "emulated usb" in seen["before"]["reason"]
    assert seen["live after"] >= 0, seen["log"]
    assert '"Emulated USB Camera"' in seen["then"]["source"]
    assert seen["away again"] >= 0, seen["log"]
    assert seen["live again after"] >= 0, seen["log"]


def test_after_kill_9_a_new_one_takes_over(answer: Answer) -> None:
    seen = answer("killed")
    assert seen["socket left"], "else this shows nothing"
    assert seen["status"], seen["log"]
    assert seen["new viewer"] >= 0, seen["log"]
    assert "Traceback" not in seen["log"]
