"""When a live sink has to be sent something again."""

from __future__ import annotations


class Pace:
    """Tells when a repeat is due, in seconds of the caller's clock.

    New frames set the pace. Half a period of grace passes before the first repeat: a camera is never quite
    on time, and a repeat would be one too many. Further repeats keep to the rate by the clock, without drift;
    time that was missed is not made up for.
    """

    def __init__(self, fps: float, now: float) -> None:
        self._period = 1.0 / fps
        self.repeat_at = now + 1.5 * self._period

    def sent_new(self, now: float) -> None:
        self.repeat_at = now + 1.5 * self._period

    def sent_again(self, now: float) -> None:
        self.repeat_at += self._period
        if self.repeat_at <= now:
            self.repeat_at = now + self._period
