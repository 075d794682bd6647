from __future__ import annotations

import pytest

from sharpcam.pace import Pace


def test_first_repeat_after_half_a_period_of_grace() -> None:
    pace = Pace(10, now=5.0)
    assert pace.repeat_at == pytest.approx(5.15)
    pace.sent_new(5.12)
    assert pace.repeat_at == pytest.approx(5.27)


def test_repeats_do_not_drift() -> None:
    pace = Pace(10, now=0.0)
    for i in range(100):
        assert pace.repeat_at == pytest.approx(0.15 + i * 0.1)
        pace.sent_again(pace.repeat_at + 0.03)  # the thread wakes up a little late each time


def test_missed_repeats_are_not_made_up_for() -> None:
    pace = Pace(10, now=0.0)
    pace.sent_again(3.0)
    assert pace.repeat_at == pytest.approx(3.1)
    pace.sent_again(3.1)
    assert pace.repeat_at == pytest.approx(3.2)
