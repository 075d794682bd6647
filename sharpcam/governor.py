"""Keeps the frame rate: step by step something cheaper when frames would be late, and back.

The steps are the models of one family, then the cheapest of them on a picture of half the size, then the picture
as it comes. That it does not swing between two of them follows from three things: going up asks for much more
room than going down leaves, both have to hold for a while, and every step up that had to be taken back makes
the next one wait twice as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# shares of the time between two frames
TOO_MUCH = 0.95  # a 95th percentile above it means that frames are late
EASY = 0.5  # where this is usual, a late frame now and then is made up for by the next ones
ROOM = 0.75  # what a frame may usually take at the next step up, as far as can be told
DOWN_AFTER_S = 2.0
UP_AFTER_S = 15.0
LONGEST_S = 1800.0  # that a step up is put off
REGRET_S = 120.0  # a step down within so long of a step up takes it back


@dataclass(frozen=True, slots=True)
class Step:
    """One way to work: `model` on pictures of `scale` times the frame's sides; no model lets them pass.

    `cost` is what a frame takes beside the other steps, in any unit; 0 for none.
    """

    name: str
    model: str
    scale: float
    cost: float


class Governor:
    """Chooses among `steps`, of which the dearest is the one that is wanted and runs at the start."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = sorted(steps, key=lambda s: s.cost)
        self._at = len(self._steps) - 1
        self._direction, self._since = 0, 0.0  # of the change that is due, and since when
        self._patience = UP_AFTER_S
        self._stepped_up, self._regretted = float("-inf"), False

    @property
    def present(self) -> Step:
        """The step that runs."""
        return self._steps[self._at]

    @property
    def steps(self) -> tuple[Step, ...]:
        """The dearest first."""
        return tuple(reversed(self._steps))

    def step(self, now: float, usual: float, late: float) -> Step | None:
        """The step to change to, None for no change; `changed` or `drop` then tells what came of it.

        `now` is in seconds of a clock that does not go back; `usual` and `late` are the median and the 95th
        percentile of the time that a frame takes at the present step, as shares of that between two frames.
        What is late now decides about going down; what is usual about going up, for stalls of the machine
        do not grow with what a step costs.
        """
        direction = self._wanted(usual, late)
        if direction != self._direction:
            self._direction, self._since = direction, now
        patience = self._patience if direction > 0 else DOWN_AFTER_S
        if direction and now - self._since >= patience:
            return self._steps[self._at + direction]
        return None

    def changed(self, now: float, step: Step) -> None:
        """`step` runs from now on."""
        at = self._steps.index(step)
        if at > self._at:
            self._stepped_up, self._regretted = now, False
        elif now - self._stepped_up >= REGRET_S:
            self._patience = UP_AFTER_S
        elif not self._regretted:
            self._patience, self._regretted = min(self._patience * 2, LONGEST_S), True
        self._at = at
        self.pause()

    def drop(self, step: Step) -> None:
        """`step` cannot be had, and is not asked for again."""
        present = self.present
        self._steps.remove(step)
        self._at = self._steps.index(present)
        self.pause()

    def pause(self) -> None:
        """Nothing can be told now, such as while nobody watches: what was due has to show itself anew."""
        self._direction = 0

    def _wanted(self, usual: float, late: float) -> int:
        """-1 for a cheaper step, 1 for a dearer one, 0 for none of them."""
        if late > TOO_MUCH:
            return -1 if usual > EASY and self._at > 0 else 0
        if self._at < len(self._steps) - 1 and self._expected_above(usual) < ROOM:
            return 1
        return 0

    def _expected_above(self, usual: float) -> float:
        """What would be usual at the next step up; without a model there is nothing to judge it by."""
        if not self.present.cost:
            return 0.0
        return usual * self._steps[self._at + 1].cost / self.present.cost
