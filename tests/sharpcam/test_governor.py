"""The governor on simulated machines: an hour of them takes no time."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

import pytest

from sharpcam.governor import DOWN_AFTER_S, UP_AFTER_S, Governor, Tier

SMALL, MIDDLE, LARGE = Tier("s", 1000), Tier("m", 2000), Tier("l", 6000)
TICK_S, NOTICE_S = 0.1, 1.0  # a change is in the average only a second later


def simulate(
    governor: Governor, load: Callable[[float, Tier], float], hours: float = 1.0, seed: int = 1
) -> list[tuple[float, str]]:
    """(time, name) of every change on a machine where `load(now, tier)` is what a tier takes."""
    noise, changes, ready = random.Random(seed), list[tuple[float, str]](), 0.0
    for i in range(int(hours * 3600 / TICK_S)):
        now = i * TICK_S
        if now < ready:
            continue
        tier = governor.step(now, load(now, governor.tier) * noise.uniform(0.95, 1.05))
        if tier is not None:
            assert tier is not governor.tier
            governor.changed(now, tier)
            changes.append((now, tier.name))
            ready = now + NOTICE_S
    return changes


def test_a_machine_that_has_room_keeps_what_was_chosen() -> None:
    assert simulate(Governor([LARGE, SMALL, MIDDLE]), lambda _, tier: tier.macs_per_pixel / 10_000) == []


def test_one_that_cannot_steps_down_at_once_to_what_it_can_and_stays() -> None:
    changes = simulate(Governor([SMALL, MIDDLE, LARGE]), lambda _, tier: tier.macs_per_pixel / 3_000)
    assert [name for _, name in changes] == ["m"]
    assert changes[0][0] == pytest.approx(DOWN_AFTER_S, abs=0.3)


def test_two_steps_at_once_when_it_needs_both() -> None:
    changes = simulate(Governor([SMALL, MIDDLE, LARGE]), lambda _, tier: tier.macs_per_pixel / 1_600)
    assert [name for _, name in changes] == ["s"]


def test_the_smallest_is_kept_however_late_it_is() -> None:
    changes = simulate(Governor([SMALL, MIDDLE]), lambda _, tier: 3.0)
    assert [name for _, name in changes] == ["s"]


def test_a_hiccup_changes_nothing() -> None:
    assert simulate(Governor([SMALL, MIDDLE]), lambda now, _: 2.0 if now % 60 < 1.5 else 0.5) == []


def test_after_a_busy_time_it_comes_back() -> None:
    def load(now: float, tier: Tier) -> float:
        return tier.macs_per_pixel / (1_500 if now < 300 else 15_000)

    changes = simulate(Governor([SMALL, MIDDLE, LARGE]), load)
    assert [name for _, name in changes] == ["s", "m", "l"]
    assert changes[1][0] == pytest.approx(300 + UP_AFTER_S, abs=1)
    assert changes[2][0] == pytest.approx(300 + 2 * UP_AFTER_S, abs=3)


def test_what_would_just_fit_is_not_stepped_up_to() -> None:
    governor = Governor([SMALL, MIDDLE])
    governor.changed(0.0, SMALL)
    assert simulate(governor, lambda _, tier: tier.macs_per_pixel / 2_700) == [], "0.74 is too near to 0.9"


def test_no_swinging_where_the_costs_mislead() -> None:
    """A small model so cheap that the larger one seems to fit, which it does not."""
    true = {SMALL: 0.25, MIDDLE: 0.95}
    changes = simulate(Governor([SMALL, MIDDLE]), lambda _, tier: true[tier], hours=8)
    times = [now for now, _ in changes]
    assert len([t for t in times if t < 3600]) <= 16, "8 steps up, each after twice the time"
    ups = times[1::2]
    waits = [b - a for a, b in pairwise(ups)]
    assert all(later > sooner * 1.5 for sooner, later in pairwise(waits[:6]))
    assert len(times) <= 44, "at worst once in half an hour"


@pytest.mark.parametrize("period", [10, 25, 40, 90, 300])
def test_no_swinging_with_a_load_that_comes_and_goes(period: float) -> None:
    def load(now: float, tier: Tier) -> float:
        return tier.macs_per_pixel / (2_000 if (now // period) % 2 else 8_000)

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
    assert governor.step(10_000.0, 0.1) is None
    assert governor.step(10_000.0 + UP_AFTER_S, 0.1) is MIDDLE


def test_a_pause_starts_the_waiting_anew() -> None:
    governor = Governor([SMALL, MIDDLE])
    assert governor.step(0.0, 2.0) is None
    governor.pause()
    assert governor.step(DOWN_AFTER_S + 1, 2.0) is None
    assert governor.step(2 * DOWN_AFTER_S + 1, 2.0) is SMALL


def test_a_model_that_cannot_be_had_is_not_asked_for_again() -> None:
    governor = Governor([SMALL, MIDDLE, LARGE])
    governor.step(0.0, 1.2)
    assert governor.step(DOWN_AFTER_S, 1.2) is MIDDLE
    governor.drop(MIDDLE)
    assert governor.tier is LARGE
    governor.step(10.0, 1.2)
    assert governor.step(10.0 + DOWN_AFTER_S, 1.2) is SMALL
    governor.drop(SMALL)
    assert governor.step(100.0, 9.0) is None
    assert governor.step(200.0, 9.0) is None
