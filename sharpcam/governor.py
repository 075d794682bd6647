"""Keeps the frame rate: a smaller model of the same family when frames would be late, and the old one back.

It only ever goes down from the model that was chosen, and back up to it. That it does not swing between two
models follows from three things: going up asks for much more room than going down leaves, both have to hold
for a while, and every step up that had to be taken back makes the next one wait twice as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

TOO_MUCH = 0.9  # share of the time between two frames that a model may take; above it, frames are dropped
GOOD = 0.7  # what a smaller model should take at most to be the one to step down to
ROOM = 0.6  # what a larger one may take, as far as can be told, to be stepped up to
DOWN_AFTER_S = 2.0
UP_AFTER_S = 15.0
LONGEST_S = 1800.0  # that a step up is put off
REGRET_S = 120.0  # a step down within so long of a step up takes it back


@dataclass(frozen=True, slots=True)
class Tier:
    """A model, and what it costs beside the others of its family."""

    name: str
    macs_per_pixel: float


class Governor:
    """Chooses among `tiers`, of which the largest is the one that the user wants and has at the start."""

    def __init__(self, tiers: Sequence[Tier]) -> None:
        self._tiers = sorted(tiers, key=lambda t: t.macs_per_pixel)
        self._at = len(self._tiers) - 1
        self._direction, self._since = 0, 0.0  # of the change that is due, and since when
        self._patience = UP_AFTER_S
        self._stepped_up = float("-inf")

    @property
    def tier(self) -> Tier:
        """The one that runs."""
        return self._tiers[self._at]

    def step(self, now: float, load: float) -> Tier | None:
        """The tier to change to, None for no change; `changed` or `drop` then tells what came of it.

        `now` is in seconds of a clock that does not go back, `load` the share of the time between two frames
        that the present model takes, averaged over a good many of them.
        """
        direction = self._wanted(load)
        if direction != self._direction:
            self._direction, self._since = direction, now
        if direction < 0 and now - self._since >= DOWN_AFTER_S:
            return self._tiers[self._fitting(load)]
        if direction > 0 and now - self._since >= self._patience:
            return self._tiers[self._at + 1]
        return None

    def changed(self, now: float, tier: Tier) -> None:
        """`tier` runs from now on."""
        at = self._tiers.index(tier)
        if at > self._at:
            self._stepped_up = now
        elif now - self._stepped_up < REGRET_S:
            self._patience = min(self._patience * 2, LONGEST_S)
        else:
            self._patience = UP_AFTER_S
        self._at = at
        self.pause()

    def drop(self, tier: Tier) -> None:
        """`tier` cannot be had, and is not asked for again."""
        present = self.tier
        self._tiers.remove(tier)
        self._at = self._tiers.index(present)
        self.pause()

    def pause(self) -> None:
        """Nothing can be told now, such as while nobody watches: what was due has to show itself anew."""
        self._direction = 0

    def _wanted(self, load: float) -> int:
        """-1 for a smaller model, 1 for a larger one, 0 for none of them."""
        if load > TOO_MUCH and self._at > 0:
            return -1
        if self._at < len(self._tiers) - 1 and self._expected(self._at + 1, load) < ROOM:
            return 1
        return 0

    def _expected(self, at: int, load: float) -> float:
        """The share that another tier would take now, if a frame cost nothing but its arithmetic."""
        return load * self._tiers[at].macs_per_pixel / self.tier.macs_per_pixel

    def _fitting(self, load: float) -> int:
        smaller = range(self._at - 1, -1, -1)
        return next((at for at in smaller if self._expected(at, load) <= GOOD), 0)
