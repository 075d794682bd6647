"""Scenarios of `sharpcam run` as a daemon; guest.py runs them. The camera shows colour bars."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from guest import LOOPBACK, chart_source, ready, usb_camera

from sharpcam.daemon.control import ask
from sharpcam.errors import ControlError
from sharpcam.holding import holders

os.environ["XDG_RUNTIME_DIR"] = "/run"
RUN = (
    *(sys.executable, "-m", "sharpcam", "--verbose", "run", "--device", "emulated usb"),
    *("--model", os.environ["SHARPCAM_TEST_MODEL"], "--threads", "1"),
)
PLACEHOLDER = 60  # mean luma below which a picture is one


class Viewer:
    """ffmpeg as a program that watches the virtual camera: when each picture came, and its mean luma."""

    def __init__(self) -> None:
        self.begun = time.monotonic()
        quick = ["-probesize", "32", "-analyzeduration", "0", "-fflags", "nobuffer"]
        small = ["-fps_mode", "passthrough", "-vf", "scale=16:9", "-pix_fmt", "gray", "-f", "rawvideo"]
        self.process = subprocess.Popen(
            [
                "ffmpeg",
                "-loglevel",
                "fatal",
                *quick,
                "-f",
                "v4l2",
                "-i",
                LOOPBACK,
                *small,
                "-flush_packets",
                "1",
                "-",
            ],
            stdin=-3,
            stdout=subprocess.PIPE,
        )
        self.seen: list[tuple[float, float]] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout
        while picture := self.process.stdout.read(144):
            self.seen.append((time.monotonic(), float(np.frombuffer(picture, np.uint8).mean())))

    def live(self, since: float) -> float | None:
        """When the first picture of the camera came after `since`."""
        return next((at for at, luma in list(self.seen) if at > since and luma > PLACEHOLDER), None)

    def placeholder(self, since: float) -> float | None:
        return next((at for at, luma in list(self.seen) if at > since and luma < PLACEHOLDER), None)

    def longest_gap(self) -> float:
        times = [at for at, _ in list(self.seen)]
        return max(b - a for a, b in itertools.pairwise(times))

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def until(condition: Callable[[], Any], timeout: float = 15.0) -> float:
    """How many seconds it took until `condition` held; -1 when it never did."""
    begun = time.monotonic()
    while not condition():
        if time.monotonic() - begun > timeout:
            return -1.0
        time.sleep(0.02)
    return round(time.monotonic() - begun, 2)


@contextmanager
def daemon(*flags: str) -> Iterator[subprocess.Popen[str]]:
    with open("/tmp/daemon.log", "w") as log:
        process = subprocess.Popen([*RUN, "--sink", LOOPBACK, *flags], stdout=log, stderr=log, text=True)
    try:
        until(answers)
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)


def answers() -> bool:
    try:
        return bool(ask("status"))
    except ControlError:
        return False


def state() -> str:
    return str(ask("status")["state"])


def held(node: str, process: subprocess.Popen[str]) -> bool:
    return any(h.pid == process.pid for h in holders(node))


def cpu_s(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def on_demand() -> dict[str, Any]:
    """Nobody watches, somebody does, nobody does; then a pause while somebody does."""
    found: dict[str, Any] = {}
    with usb_camera(chart_source()) as camera:
        ready(camera, 1, 2)
        with daemon() as process:
            found["idle after"] = until(lambda: state() == "idle")
            found["closed"] = until(lambda: not held(camera.node, process))
            before, begun = cpu_s(process.pid), time.monotonic()
            time.sleep(5)
            found["idle cpu %"] = 100 * (cpu_s(process.pid) - before) / (time.monotonic() - begun)
            found["first"] = first = ask("status")
            viewer = Viewer()
            until(lambda: viewer.live(0))
            found["first frame after"] = round(viewer.seen[0][0] - viewer.begun, 2)
            found["live after"] = round((viewer.live(0) or 0) - viewer.begun, 2)
            found["live after first frame"] = round((viewer.live(0) or 0) - viewer.seen[0][0], 2)
            time.sleep(2)
            found["watched"] = ask("status")
            found["held while watched"] = held(camera.node, process)
            doctor = [sys.executable, "-m", "sharpcam", "doctor", "--json"]
            checks = json.loads(subprocess.run(doctor, capture_output=True).stdout)["checks"]
            found["doctor"] = {c["name"]: c for c in checks}

            ask("pause")
            paused = time.monotonic()
            until(lambda: viewer.placeholder(paused))
            found["placeholder after"] = round((viewer.placeholder(paused) or 0) - paused, 2)
            found["paused, closed after"] = until(lambda: not held(camera.node, process))
            still = time.monotonic()
            time.sleep(1.5)
            found["paused"] = ask("status")
            lumas = [luma for at, luma in list(viewer.seen) if at > still]
            found["pictures while paused"] = [len(lumas), max(lumas, default=-1.0)]
            ask("resume")
            resumed = time.monotonic()
            until(lambda: viewer.live(resumed))
            found["resumed after"] = round((viewer.live(resumed) or 0) - resumed, 2)
            ask("set", key="strength", value="0.5")
            found["strength"] = ask("status")["strength"]

            viewer.close()
            left = time.monotonic()
            found["idle after viewer"] = until(lambda: state() == "idle")
            until(lambda: not held(camera.node, process))
            found["camera closed after viewer"] = round(time.monotonic() - left, 2)
            found["reconnects"] = ask("status")["reconnects"] - first["reconnects"]
            second = subprocess.run(
                [*RUN, "--sink", LOOPBACK],
                capture_output=True,
                text=True,
            )
            found["second"] = {"rc": second.returncode, "text": second.stderr, "pid": process.pid}
            ask("stop")
            process.wait(20)
        found["rc"] = process.returncode
        found["then"] = answers()
    with open("/tmp/daemon.log") as file:
        found["log"] = file.read()[-3000:]
    return found


def unplugging(cycles: int = 4) -> dict[str, Any]:
    """The camera is pulled out and plugged in again and again while somebody watches."""
    found: dict[str, Any] = {"cycles": []}
    with usb_camera(chart_source()) as camera:
        ready(camera, 1, 2)
        with daemon() as process:
            viewer = Viewer()
            found["live"] = until(lambda: viewer.live(0))
            for cycle in range(cycles):
                camera.unplug()
                out = time.monotonic()
                seen = {"recovering after": until(lambda: state() == "recovering")}
                if cycle % 2:  # every other time it is away for long enough to see the placeholder
                    until(lambda since=out: viewer.placeholder(since))  # type: ignore[misc]
                    seen["placeholder after"] = round((viewer.placeholder(out) or 0) - out, 2)
                camera.node = camera.plug()
                back = time.monotonic()
                until(lambda since=back: viewer.live(since) and state() == "live")  # type: ignore[misc]
                seen["live after"] = round(time.monotonic() - back, 2)
                time.sleep(0.5)
                found["cycles"].append(seen)
            found["status"] = ask("status")
            found["viewer lives"] = viewer.process.poll() is None
            found["longest gap"] = round(viewer.longest_gap(), 2)
            with open(f"/proc/{process.pid}/status") as file:
                found["threads"] = [line for line in file if line.startswith("Threads")]
            viewer.close()
    with open("/tmp/daemon.log") as file:
        found["log"] = file.read()[-3000:]
    return found


def late() -> dict[str, Any]:
    """Started before the camera is there."""
    found: dict[str, Any] = {}
    with usb_camera(chart_source()) as camera:
        ready(camera, 1, 2)
        camera.unplug()
        with daemon("--wait"):
            viewer = Viewer()
            until(lambda: viewer.placeholder(0) and state() == "recovering")
            found["before"] = ask("status")
            camera.node = camera.plug()
            found["live after"] = until(lambda: viewer.live(0) and state() == "live")
            found["then"] = ask("status")
            camera.unplug()
            found["away again"] = until(lambda: state() == "recovering")
            camera.node = camera.plug()
            found["live again after"] = until(lambda: state() == "live")
            viewer.close()
    with open("/tmp/daemon.log") as file:
        found["log"] = file.read()[-3000:]
    return found


def killed() -> dict[str, Any]:
    """kill -9 while somebody watches, then a new start."""
    found: dict[str, Any] = {}
    with usb_camera(chart_source()) as camera:
        ready(camera, 1, 2)

        with daemon("--always-on") as process:
            viewer = Viewer()
            until(lambda: viewer.live(0))
            process.kill()
            process.wait()
        found["socket left"] = os.path.exists("/run/sharpcam/control.sock")
        begun = time.monotonic()
        with daemon("--always-on") as process:
            found["answers after"] = round(time.monotonic() - begun, 2)
            found["status"] = ask("status") if answers() else None
            time.sleep(1.5)
            found["old viewer lives"] = viewer.process.poll() is None
            found["old viewer sees"] = bool(viewer.live(begun + found["answers after"]))
            viewer.close()
            second = Viewer()
            found["new viewer"] = until(lambda: second.live(0))
            second.close()
    with open("/tmp/daemon.log") as file:
        found["log"] = file.read()[-3000:]
    return found
