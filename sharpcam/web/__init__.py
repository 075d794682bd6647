"""The page on this machine alone: live before and after, comparison of models, opinion study.

Needs the extra `ui`. Nothing listens until a page is opened, and nothing else here is imported until then.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from sharpcam.errors import ControlError

if TYPE_CHECKING:
    from sharpcam.web.page import Page


class LazyPage:
    """A `Page`, made of the same arguments when it is first opened."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._arguments, self._named = arguments, named
        self._page: Page | None = None
        self._making = threading.Lock()

    def open(self, port: int = 0) -> str:
        """See `Page.open`; raises ControlError where the extra is not installed, too."""
        with self._making:
            if self._page is None:
                try:
                    from sharpcam.web.page import Page
                except ImportError as error:
                    raise ControlError(
                        f"the page needs {error.name}, which is not installed", "pip install 'sharpcam[ui]'"
                    ) from None
                self._page = Page(*self._arguments, **self._named)
        return self._page.open(port)

    @property
    def looking(self) -> int:
        """How many look at the live picture now."""
        return self._page.looking if self._page is not None else 0

    def wait(self) -> None:
        """Until the page is closed, or has closed itself."""
        if self._page is not None:
            self._page.wait()

    def close(self) -> None:
        """May be called twice, and without `open`."""
        if self._page is not None:
            self._page.close()
