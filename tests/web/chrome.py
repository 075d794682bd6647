"""Headless Chromium, driven over the DevTools protocol: through two pipes, so that nothing needs to be installed."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from select import select
from typing import Any

LIMIT = 90.0  # seconds after which a test that waits has failed
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-extensions", "--mute-audio"),
    *("--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe"),
)


# Chromium reads file descriptor 3 and writes 4
_START = """
import fcntl, os, sys
for target, fd in enumerate([fcntl.fcntl(int(fd), fcntl.F_DUPFD, 20) for fd in sys.argv[1:3]], 3):
    os.dup2(fd, target)
os.execvp(sys.argv[3], sys.argv[3:])
"""


def chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")


class Chrome:
    """A browser with one tab. `events` are those that came so far."""

    def __init__(self, write: int, read: int, downloads: Path) -> None:
        self._write, self._read, self._buffer, self._number = write, read, b"", 0
        self.downloads = downloads
        self.events: list[dict[str, Any]] = []
        target = self._call("Target.createTarget", {"url": "about:blank"}, "")["targetId"]
        attached = self._call("Target.attachToTarget", {"targetId": target, "flatten": True}, "")
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        where = {"behavior": "allow", "downloadPath": str(downloads)}
        self._call("Browser.setDownloadBehavior", where, "")

    def call(self, method: str, **parameters: Any) -> Any:
        return self._call(method, parameters, self._session)

    def _call(self, method: str, parameters: dict[str, Any], session: str) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not select([self._read], [], [], LIMIT)[0]:
                raise RuntimeError("Chromium does not answer")
            data = os.read(self._read, 1 << 20)
            if not data:
                raise RuntimeError("Chromium has ended")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        told: dict[str, Any] = json.loads(line)
        return told

    def open(self, url: str) -> None:
        self.events.clear()
        self.call("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """The value of an expression on the page; promises are waited for."""
        told = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in told:
            raise RuntimeError(told["exceptionDetails"]["exception"].get("description", script))
        return told["result"].get("value")

    def until(self, script: str, limit: float = LIMIT) -> Any:
        """Waits until an expression is true (a page that is being loaded has none)."""
        end = time.monotonic() + limit
        value: Any = None
        while time.monotonic() < end:
            with contextlib.suppress(RuntimeError):
                value = self.run(script)
            if value:
                return value
            time.sleep(0.05)
        seen = self.run("document.body?.innerText")
        raise AssertionError(f"waited in vain for {script}; the page says {seen!r}; {self.complaints()}")

    def click(self, selector: str) -> None:
        self.run(f"document.querySelector({json.dumps(selector)}).click()")

    def mouse(self, kind: str, x: float, y: float) -> None:
        pressed = {"button": "left", "buttons": 1, "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **pressed)

    def key(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def choose_files(self, selector: str, *files: Path) -> None:
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file) for file in files])

    def drop(self, selector: str, *files: Path, **item: str) -> None:
        """Drags files, or something else such as `mimeType` and `data` tell, onto the middle of an element."""
        self.run(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{ block: 'nearest' }})")
        middle = "(({left, top, width, height}) => [left + width / 2, top + height / 2])"
        x, y = self.run(f"{middle}(document.querySelector({json.dumps(selector)}).getBoundingClientRect())")
        dragged = {"items": [item] if item else [], "files": [str(file) for file in files]}
        for kind in ("dragEnter", "dragOver", "drop"):
            data = {**dragged, "dragOperationsMask": 1}
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def pages(self) -> list[str]:
        """The addresses of all tabs."""
        targets = self._call("Target.getTargets", {}, "")["targetInfos"]
        return sorted(target["url"] for target in targets if target["type"] == "page")

    def look(self, width: int, height: int, scheme: str = "dark", density: float = 1) -> None:
        """Sets the window's size and the colour scheme that the user prefers."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=density,
            mobile=False,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def screenshot(self, path: Path) -> None:
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def complaints(self) -> list[str]:
        """What went wrong on the page so far: exceptions, refused requests, violations of the policy."""
        told = []
        for event in self.events:
            method, facts = event.get("method"), event.get("params", {})
            if method == "Runtime.exceptionThrown":
                told.append(str(facts["exceptionDetails"]))
            elif method == "Log.entryAdded" and facts["entry"]["level"] == "error":
                told.append(str(facts["entry"]))
        return told


@contextmanager
def browser() -> Iterator[Chrome]:
    """Chromium with a fresh profile, until the block ends."""
    program = chromium()
    assert program is not None
    to_chrome, from_us = os.pipe()
    from_chrome, to_us = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        downloads = Path(folder, "downloads")
        downloads.mkdir()
        command = [program, *FLAGS, f"--user-data-dir={folder}/profile", "about:blank"]
        start = [sys.executable, "-c", _START, str(to_chrome), str(to_us), *command]
        process = subprocess.Popen(start, stdin=-3, stdout=-3, stderr=-3, pass_fds=(to_chrome, to_us))
        os.close(to_chrome)
        os.close(to_us)
        try:
            yield Chrome(from_us, from_chrome, downloads)
        finally:
            os.close(from_us)
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.close(from_chrome)
