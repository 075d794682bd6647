"""Keeps the frame rate: step by step something cheaper when frames would be late, and back.

The steps are the models of one family, then the cheapest of them on a picture of half the size, then the picture
as it comes. That it does not swing between two of them follows from three things: going up asks for much more
room than going down leaves, both have to hold for a while, and after a step up that had to be taken back the next one
waits eight times as long, unless there is clearly more room than there was then.
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
IN_VAIN = 8  # how many times as long after a step up that had to be taken back
BETTER = 0.8  # of what was expected of that step, for which it need not wait so long
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
        self._expected = self._hoped = 0.0  # of the next step up, and of the last one when it was taken
        self._in_vain: dict[Step, float] = {}  # what was hoped of steps that had to be taken back
        self._no_better = 0.0  # when it last looked as it did then

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
            self._direction, self._since, self._no_better = direction, now, now
        if direction > 0:
            due = self._is_time_to_go_up(now, usual)
        else:
            due = direction < 0 and now - self._since >= DOWN_AFTER_S
        return self._steps[self._at + direction] if due else None

    def _is_time_to_go_up(self, now: float, usual: float) -> bool:
        self._expected = self._expected_above(usual)
        if self._expected >= BETTER * self._in_vain.get(self._steps[self._at + 1], 0.0):
            self._no_better = now
        return now - self._no_better >= UP_AFTER_S or now - self._since >= self._patience

    def changed(self, now: float, step: Step) -> None:
        """`step` runs from now on."""
        at = self._steps.index(step)
        if at > self._at:
            self._stepped_up, self._regretted, self._hoped = now, False, self._expected
        elif now - self._stepped_up >= REGRET_S:
            self._patience = UP_AFTER_S
            self._in_vain.clear()
        elif not self._regretted:
            self._patience, self._regretted = min(self._patience * IN_VAIN, LONGEST_S), True
            self._in_vain[self.present] = self._hoped
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
