"""A source that is closed while nobody wants it, and opened again after it was lost."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from sharpcam.errors import DeviceLost, FormatMismatch, SharpCamError
from sharpcam.frame import Frame
from sharpcam.sources import Source

log = logging.getLogger(__name__)

STALL_S = 5.0  # a camera that is silent for so long is taken for lost
BACKOFF_S = (0.5, 5.0)  # first and longest pause between tries to open a lost source


class KeptSource:
    """`source` until it is lost or shut, and after that what `reopen` gives, as soon as it gives something.

    Without `reopen` a lost source is an error, and a shut one stays open. `on_return` is called each time
    that a lost source is back. `read` and `shut` are for one thread, the rest is for all.
    """

    def __init__(
        self, source: Source, reopen: Callable[[], Source] | None, on_return: Callable[[], None]
    ) -> None:
        self.source = source
        self.lost: SharpCamError | None = None  # why it is away, None while it is not
        self.lost_at = 0.0  # since when, by time.monotonic
        self._reopen, self._on_return = reopen, on_return
        self._size = source.size
        self._shut = False
        self._next_try, self._backoff = 0.0, BACKOFF_S[0]
        self._heard: float | None = None

    def read(self, frame: Frame, timeout: float) -> bool:
        """As `Source.read`; False also while the source is away.

        Raises EOFError, MediaError, and DeviceLost when it cannot be opened again.
        """
        if self._shut:
            self._open_in_time(timeout)
            return False
        if self._heard is None:
            self._heard = time.monotonic()
        try:
            came = self.source.read(frame, timeout)
            if came:
                self._heard = time.monotonic()
            elif self.source.live and time.monotonic() - self._heard > STALL_S:
                raise DeviceLost(f"{self.source.description} gave no picture for {STALL_S:.0f} s")
            return came
        except DeviceLost as error:
            if self._reopen is None:
                raise
            log.warning("source lost error=%r", str(error))
            self._close_for(BACKOFF_S[0])
            self.lost_at = time.monotonic()
            self.lost = error
            return False

    def shut(self) -> None:
        """Closes the source until the next `read`; it is not looked for meanwhile."""
        if self._reopen is not None and not self._shut:
            self._close_for(0.0)
        self.lost, self._heard = None, None

    def close(self) -> None:
        """Frees the device. May be called twice, and while `read` waits."""
        try:
            self.source.close()
        except SharpCamError as error:
            log.warning("source not closed error=%r", str(error))

    def _close_for(self, pause: float) -> None:
        self.close()
        self._shut, self._backoff, self._next_try = True, BACKOFF_S[0], time.monotonic() + pause

    def _open_in_time(self, timeout: float) -> None:
        """Opens the source when the time for a try has come; waits for it no longer than `timeout`."""
        wait = self._next_try - time.monotonic()
        if wait > 0:
            time.sleep(min(wait, timeout))
            return
        assert self._reopen
        try:
            source = self._reopen()
            if source.size != self._size:
                source.close()
                raise FormatMismatch(f"{source.description} has come back with another size")
        except SharpCamError as failure:
            if self.lost is None:
                self.lost_at = time.monotonic()
            self.lost = failure
            self._backoff = min(self._backoff * 2, BACKOFF_S[1])
            self._next_try = time.monotonic() + self._backoff
            log.info("source away error=%r next_try_s=%.1f", str(failure), self._backoff)
            return
        self.source, self._shut, self._heard = source, False, None
        if self.lost is not None:
            self.lost = None
            self._on_return()
            log.warning("source back source=%r", source.description)
