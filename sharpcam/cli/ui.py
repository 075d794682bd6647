"""`sharpcam ui`: the page of the running SharpCam in the browser."""

from __future__ import annotations

import os
import sys
import webbrowser

from sharpcam.daemon.control import NOT_RUNNING, ask
from sharpcam.errors import ControlError
from sharpcam.web import LazyPage

_OPEN_S = 20.0  # the daemon loads the server's libraries first


def run_ui(port: int, open_browser: bool, standalone: bool) -> int:
    """Opens the page and prints its link; without a daemon (`standalone`) it is there until Ctrl-C."""
    if standalone:
        return _run_standalone(port, open_browser)
    try:
        link = ask("ui", timeout=_OPEN_S, port=port)["url"]
    except ControlError as error:
        if str(error) != NOT_RUNNING[0]:
            raise
        raise ControlError(
            str(error), f"{error.hint}; or, to compare pictures alone: sharpcam ui --standalone"
        ) from None
    _show(link, open_browser)
    return 0


def _run_standalone(port: int, open_browser: bool) -> int:
    # not at the top: it loads ONNX Runtime, which to ask a daemon needs not
    from sharpcam.runtime import default_threads

    page = LazyPage(threads=default_threads(), nice=0)
    try:
        _show(page.open(port), open_browser)
        print("Ctrl-C closes the page", flush=True)
        page.wait()
    finally:
        page.close()
    return 0


def _show(link: str, open_browser: bool) -> None:
    print(f"{link}\nThe link works once, within a minute", flush=True)
    if open_browser and _has_screen():
        webbrowser.open(link)


def _has_screen() -> bool:
    """Whether a browser would be a window, not a program in this terminal."""
    return sys.platform != "linux" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
