"""The governor on simulated machines: an hour of them takes no time."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

import pytest

from sharpcam.governor import DOWN_AFTER_S, UP_AFTER_S, Governor, Step

LARGE, MIDDLE, SMALL = Step("l", "l", 1.0, 6000), Step("m", "m", 1.0, 2000), Step("s", "s", 1.0, 1000)
HALF, OFF = Step("s at half size", "s", 0.5, 300), Step("off", "", 1.0, 0)
TICK_S, NOTICE_S = 0.1, 1.0  # a change is in the average only a second later


def tell(governor: Governor, now: float, load: float) -> Step | None:
    """A step of a machine on which every frame takes the same."""
    return governor.step(now, load, load)


def simulate(
    governor: Governor, load: Callable[[float, Step], float], hours: float = 1.0, seed: int = 1
) -> list[tuple[float, str]]:
    """(time, name) of every change on a machine where `load(now, step)` is what a step takes."""
    noise, changes, ready = random.Random(seed), list[tuple[float, str]](), 0.0
    for i in range(int(hours * 3600 / TICK_S)):
        now = i * TICK_S
        if now < ready:
            continue
        usual = load(now, governor.present)
        step = governor.step(now, usual * noise.uniform(0.95, 1.05), usual * noise.uniform(1.0, 1.1))
        if step is not None:
            places = [governor.steps.index(s) for s in (governor.present, step)]
            assert abs(places[0] - places[1]) == 1, "one step at a time"
            governor.changed(now, step)
            changes.append((now, step.name))
            ready = now + NOTICE_S
    return changes


def test_a_machine_that_has_room_keeps_what_was_chosen() -> None:
    assert simulate(Governor([LARGE, SMALL, MIDDLE]), lambda _, step: step.cost / 10_000) == []


def test_one_that_cannot_steps_down_at_once_to_what_it_can_and_stays() -> None:
    changes = simulate(Governor([SMALL, MIDDLE, LARGE]), lambda _, step: step.cost / 3_000)
    assert [name for _, name in changes] == ["m"]
    assert changes[0][0] == pytest.approx(DOWN_AFTER_S, abs=0.3)


def test_it_goes_on_down_until_it_fits() -> None:
    changes = simulate(Governor([OFF, LARGE, HALF, SMALL, MIDDLE]), lambda _, step: step.cost / 500)
    assert [name for _, name in changes] == ["m", "s", "s at half size"]
    assert changes[-1][0] == pytest.approx(3 * DOWN_AFTER_S + 2 * NOTICE_S, abs=0.5)


def test_the_last_step_down_is_no_model_and_it_is_left_when_there_is_room_again() -> None:
    def load(now: float, step: Step) -> float:
        return step.cost / (100 if now < 50 else 3000)

    changes = simulate(Governor([OFF, SMALL, HALF]), load)
    downs = [name for now, name in changes if now < 50]
    assert downs == ["s at half size", "off", "s at half size", "off"], "tried once in vain"
    assert [name for now, name in changes if now >= 50] == ["s at half size", "s"]


def test_the_smallest_is_kept_however_late_it_is() -> None:
    changes = simulate(Governor([SMALL, MIDDLE]), lambda _, step: 3.0)
    assert [name for _, name in changes] == ["s"]


def test_a_hiccup_changes_nothing() -> None:
    assert simulate(Governor([SMALL, MIDDLE]), lambda now, _: 2.0 if now % 60 < 1.5 else 0.5) == []


def test_after_a_busy_time_it_comes_back() -> None:
    def load(now: float, step: Step) -> float:
        return step.cost / (1_500 if now < 300 else 15_000)

    changes = simulate(Governor([SMALL, MIDDLE, LARGE]), load)
    assert [name for _, name in changes] == ["m", "s", "m", "l"]
    assert changes[2][0] == pytest.approx(300 + UP_AFTER_S, abs=1)
    assert changes[3][0] == pytest.approx(300 + 2 * UP_AFTER_S, abs=3)


def test_what_would_just_fit_is_not_stepped_up_to() -> None:
    governor = Governor([SMALL, MIDDLE])
    governor.changed(0.0, SMALL)
    assert simulate(governor, lambda _, step: step.cost / 2_500) == [], "0.8 is too near to 0.95"


def test_stalls_alone_neither_bring_it_back_nor_keep_it_down() -> None:
    """One frame in ten takes much longer at the small step: that says nothing of the larger one."""
    governor = Governor([SMALL, MIDDLE])
    governor.changed(0.0, SMALL)
    assert governor.step(1.0, 0.3, 0.9) is None
    assert governor.step(1.0 + UP_AFTER_S, 0.3, 0.9) is MIDDLE
    governor.pause()
    assert governor.step(40.0, 0.3, 0.96) is None
    assert governor.step(40.0 + 10 * UP_AFTER_S, 0.3, 0.96) is None, "late frames are no time to go up"


def test_a_late_frame_now_and_then_is_made_up_for_where_the_others_are_quick() -> None:
    governor = Governor([SMALL, MIDDLE])
    for now in (0.0, 100.0):
        assert governor.step(now, 0.45, 1.5) is None
    assert governor.step(101.0, 0.55, 1.5) is None
    assert governor.step(101.0 + DOWN_AFTER_S, 0.55, 1.5) is SMALL


def test_no_swinging_where_the_costs_mislead() -> None:
    """A small model so cheap that the larger one seems to fit, which it does not."""
    true = {SMALL: 0.25, MIDDLE: 1.1}
    changes = simulate(Governor([SMALL, MIDDLE]), lambda _, step: true[step], hours=8)
    times = [now for now, _ in changes]
    assert len([t for t in times if t < 3600]) <= 9, "4 steps up, each after eight times as long"
    ups = times[1::2]
    waits = [b - a for a, b in pairwise(ups)]
    assert waits[1] > waits[0] * 6
    assert 2 * 15 < len(times) <= 2 * 18 + 1, "at worst once in half an hour, but it is tried"


@pytest.mark.parametrize("unseen", [False, True])
def test_beside_a_busy_program_it_tries_once_and_comes_back_soon_after(unseen: bool) -> None:
    """Half of the time is taken for two minutes, and the latest frames have more bad luck than usual: at the middle
    step they are just late, while the usual ones at the small step seem to leave room; `unseen`: and take no longer."""
    governor = Governor([OFF, SMALL, MIDDLE])
    changes, ready = list[tuple[float, str]](), 0.0
    for now in range(600):
        step = governor.present
        slower = 2.0 if 20 <= now < 140 and not (unseen and step is SMALL) else 1.0
        usual = step.cost / 2000 * 0.36 * slower
        late = usual * (1.35 if slower > 1 else 1.1)
        if now >= ready and (wanted := governor.step(now, usual, late)) is not None:
            governor.changed(now, wanted)
            changes.append((now, wanted.name))
            ready = now + NOTICE_S
    assert [name for _, name in changes] == ["s", "m", "s", "m"]
    assert changes[2][0] < 45, "one step up, taken back at once"
    back = changes[3][0]
    assert 140 <= back < (200 if unseen else 140 + UP_AFTER_S + 2)


@pytest.mark.parametrize("period", [10, 25, 40, 90, 300])
def test_no_swinging_with_a_load_that_comes_and_goes(period: float) -> None:
    def load(now: float, step: Step) -> float:
        return step.cost / (2_000 if (now // period) % 2 else 8_000)

    changes = simulate(Governor([SMALL, MIDDLE]), load, hours=2)
    if period < 300:
        assert len(changes) <= 10, "it comes too often to follow it"
    else:
        assert len(changes) == 23, "it is followed: twelve times down, eleven times back up"


def test_a_long_good_time_forgives() -> None:
    governor = Governor([SMALL, MIDDLE])
    for now in (0.0, 10.0, 20.0):  # taken back twice
        governor.changed(now, SMALL)
        governor.changed(now + 1, MIDDLE)
    governor.changed(10_000.0, SMALL)
    assert tell(governor, 10_000.0, 0.1) is None
    assert tell(governor, 10_000.0 + UP_AFTER_S, 0.1) is MIDDLE


def test_a_pause_starts_the_waiting_anew() -> None:
    governor = Governor([SMALL, MIDDLE])
    assert tell(governor, 0.0, 2.0) is None
    governor.pause()
    assert tell(governor, DOWN_AFTER_S + 1, 2.0) is None
    assert tell(governor, 2 * DOWN_AFTER_S + 1, 2.0) is SMALL


def test_a_model_that_cannot_be_had_is_not_asked_for_again() -> None:
    governor = Governor([SMALL, MIDDLE, LARGE])
    tell(governor, 0.0, 1.2)
    assert tell(governor, DOWN_AFTER_S, 1.2) is MIDDLE
    governor.drop(MIDDLE)
    assert governor.present is LARGE
    tell(governor, 10.0, 1.2)
    assert tell(governor, 10.0 + DOWN_AFTER_S, 1.2) is SMALL
    governor.drop(SMALL)
    assert tell(governor, 100.0, 9.0) is None
    assert tell(governor, 200.0, 9.0) is None
