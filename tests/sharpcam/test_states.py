"""The state machine alone: no clock but ours, no device."""

from __future__ import annotations

from sharpcam.daemon.states import HOLD_OFF_S, Machine, Situation, State

WATCHED, UNWATCHED = Situation(clients=1), Situation(clients=0)


def test_idle_only_after_the_hold_off() -> None:
    machine = Machine(100.0)
    assert machine.step(100.0, UNWATCHED) is State.LIVE
    assert machine.step(100.0 + HOLD_OFF_S - 0.01, UNWATCHED) is State.LIVE
    assert machine.step(100.0 + HOLD_OFF_S, UNWATCHED) is State.IDLE
    assert machine.reason == "nobody watches the virtual camera"


def test_a_viewer_wakes_it_at_once_and_a_probe_does_not_make_it_flap() -> None:
    machine = Machine(0.0)
    assert machine.step(10.0, UNWATCHED) is State.IDLE
    assert machine.step(11.0, WATCHED) is State.LIVE
    assert machine.reason == "somebody watches"
    for now in (11.5, 12.0, 12.9):  # it has gone again
        assert machine.step(now, UNWATCHED) is State.LIVE
    assert machine.step(12.95, WATCHED) is State.LIVE
    assert machine.step(13.0, UNWATCHED) is State.LIVE, "the hold-off begins anew"
    assert machine.step(12.95 + HOLD_OFF_S, UNWATCHED) is State.IDLE


def test_without_knowing_who_watches_it_stays_live() -> None:
    machine = Machine(0.0, "v4l2loopback is too old")
    assert machine.step(1e6, Situation(clients=None)) is State.LIVE
    assert machine.reason == "always live: v4l2loopback is too old"


def test_always_live_heeds_nobody() -> None:
    machine = Machine(0.0, "so it was set")
    assert machine.step(1e6, UNWATCHED) is State.LIVE
    assert "so it was set" in machine.reason


def test_a_lost_camera_matters_only_when_somebody_would_see_it() -> None:
    machine = Machine(0.0)
    lost = Situation(clients=1, lost="camera gone")
    assert machine.step(1.0, lost) is State.RECOVERING
    assert machine.reason == "camera gone"
    assert machine.step(2.0, WATCHED) is State.LIVE
    assert machine.step(20.0, Situation(clients=0, lost="camera gone")) is State.IDLE, "do not look for it"
    assert Machine(0.0, "set").step(20.0, Situation(clients=0, lost="gone")) is State.RECOVERING


def test_pause_goes_before_all_else() -> None:
    machine = Machine(0.0)
    for seen in (WATCHED, UNWATCHED, Situation(clients=1, lost="gone"), Situation()):
        paused = Situation(paused=True, clients=seen.clients, lost=seen.lost)
        assert machine.step(50.0, paused) is State.PAUSED
    assert machine.step(51.0, WATCHED) is State.LIVE


def test_the_end_is_told_whatever_else_is_going_on() -> None:
    machine = Machine(0.0)
    for seen in (Situation(stopping=True), Situation(paused=True, clients=0, lost="gone", stopping=True)):
        assert machine.step(50.0, seen) is State.STOPPING
    assert machine.reason == "it was told to"
