"""Scenarios of `sharpcam run` as a daemon; guest.py runs them. The camera shows colour bars."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from chart import BARS
from guest import LOOPBACK, SIZE, chart_source, ready, usb_camera

from sharpcam.daemon.control import ask
from sharpcam.errors import ControlError
from sharpcam.holding import holders

os.environ["XDG_RUNTIME_DIR"] = "/run"
RUN = (
    *(sys.executable, "-m", "sharpcam", "--verbose", "run", "--device", "emulated usb"),
    *("--model", os.environ["SHARPCAM_TEST_MODEL"], "--threads", "1"),
)
PLACEHOLDER = 60  # mean luma below which a picture is one
CYCLES = int(os.environ.get("SHARPCAM_VM_CYCLES", "4"))  # how often the camera is pulled out


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
def daemon(*flags: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """`sharpcam run` with `flags`; `options` are Popen's."""
    command = [*options.pop("before", ()), *RUN, "--sink", LOOPBACK, *flags]
    with open("/tmp/daemon.log", "a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, text=True, **options)
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
    """By the scheduler's own clock (clock_getcpuclockid(3)): ticks are charged to whoever a timer wakes."""
    return time.clock_gettime(~pid << 3 | 2)


def on_demand() -> dict[str, Any]:
    """Nobody watches, somebody does, nobody does; then a pause while somebody does."""
    found: dict[str, Any] = {}
    with usb_camera(chart_source()) as camera:
        ready(camera, 1, 2)
        with daemon() as process:
            found["idle after"] = until(lambda: state() == "idle")
            found["closed"] = until(lambda: not held(camera.node, process))
            before, begun = cpu_s(process.pid), time.monotonic()
            time.sleep(10)
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


def rss_mb(pid: int) -> float:
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) / 1024


def unplugging(cycles: int = CYCLES) -> dict[str, Any]:
    """The camera is pulled out and plugged in again and again while somebody watches."""
    found: dict[str, Any] = {"cycles": [], "rss_mb": []}
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
                found["rss_mb"].append(round(rss_mb(process.pid), 1))
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
            until(lambda: viewer.placeholder(0) and state() == "recovering" and ask("status")["clients"])
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


def frozen(seconds: float = 30.0) -> dict[str, Any]:
    """The process is stopped for a while, as in a suspended machine whose meeting does not sleep."""
    found: dict[str, Any] = {}
    with usb_camera(chart_source()) as camera:
        ready(camera, 1, 2)
        with daemon() as process:
            viewer = Viewer()
            until(lambda: viewer.live(0))
            process.send_signal(signal.SIGSTOP)
            time.sleep(seconds)
            process.send_signal(signal.SIGCONT)
            woken = time.monotonic()
            found["live after"] = until(lambda: viewer.live(woken) and state() == "live")
            time.sleep(1.0)
            found["status"] = ask("status")
            found["viewer lives"] = viewer.process.poll() is None
            found["longest gap"] = round(viewer.longest_gap(), 2)
            viewer.close()
    with open("/tmp/daemon.log") as file:
        found["log"] = file.read()[-3000:]
    return found


class Keeper:
    """Does for one open file what systemd does with its file descriptor store."""

    # LISTEN_PID has to be the pid of the program itself
    START = (
        "import os, sys; os.environ['LISTEN_PID'] = str(os.getpid()); os.dup2(int(sys.argv[1]), 3); "
        "os.execv(sys.argv[2], sys.argv[2:])"
    )

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("/run/notify")
        self.kept: list[int] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            data, descriptors, _, _ = socket.recv_fds(self._socket, 4096, 4)
            self.kept += descriptors
            if b"FDSTOREREMOVE=1" in data:
                while self.kept:
                    os.close(self.kept.pop())

    def options(self) -> dict[str, Any]:
        """For `daemon`: what systemd gives to a process that it starts."""
        environment = {**os.environ, "NOTIFY_SOCKET": "/run/notify"}
        if not self.kept:
            return {"env": environment}
        environment |= {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "virtual-camera"}
        before = (sys.executable, "-c", self.START, str(self.kept[0]))
        return {"env": environment, "pass_fds": (self.kept[0],), "before": before}


def kept() -> dict[str, Any]:
    """kill -9 and a restart by a service manager, with ffmpeg and then with Chromium attached."""
    import browser

    found: dict[str, Any] = {}
    keeper = Keeper()
    with usb_camera(chart_source()) as camera:
        ready(camera, 1, 2)

        with daemon(**keeper.options()) as process:
            viewer = Viewer()
            until(lambda: viewer.live(0))
            found["kept"] = len(keeper.kept)
            process.kill()
            process.wait()
        time.sleep(1.0)  # RestartSec
        with daemon(**keeper.options()) as process:
            begun = time.monotonic()
            found["live after"] = until(lambda: viewer.live(begun) and state() == "live")
            time.sleep(1.0)
            found["viewer lives"] = viewer.process.poll() is None
            found["longest gap"] = round(viewer.longest_gap(), 2)
            viewer.close()
            if browser.chromium():
                with browser.page("SharpCam", SIZE, len(BARS)) as page:
                    page.next("opened")
                    page.next("sample")
                    process.kill()
                    process.wait()
                    time.sleep(1.0)
                    with daemon(**keeper.options()):
                        found["samples"] = [page.next("sample") for _ in range(8)]
                        found["events"] = [report["step"] for report in page.all]
                        found["page's state"] = ask("status")["state"]
    found["kept in the end"] = len(keeper.kept)
    with open("/tmp/daemon.log") as file:
        found["log"] = file.read()[-3000:]
    return found


def refused() -> dict[str, Any]:
    """A runtime folder of somebody else's, and none at all."""
    found: dict[str, Any] = {}
    command = [*RUN[:-6], "--source", "testcard", *RUN[-4:], "--sink", LOOPBACK, "--frames", "5"]
    os.mkdir("/run/theirs")
    os.mkdir("/run/theirs/sharpcam", 0o777)
    os.chown("/run/theirs/sharpcam", 65534, 65534)
    for name, folder in {"theirs": "/run/theirs", "missing": "/run/not/there"}.items():
        environment = {**os.environ, "XDG_RUNTIME_DIR": folder}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        status = [sys.executable, "-m", "sharpcam", "status"]
        asked = subprocess.run(status, capture_output=True, text=True, env=environment)
        found[name] = {"rc": done.returncode, "text": done.stderr, "status": asked.stderr}
    found["missing"]["mode"] = oct(os.stat("/run/not/there/sharpcam").st_mode & 0o777)
    return found


def governed(quiet: float = 20.0, busy: float = 120.0, after: float = 60.0) -> dict[str, Any]:
    """Another process wants the only core for a while. By hand: it takes minutes. It begins with a model that fits
    the core alone; "auto" would begin with one that fits beside the other process, too."""
    found: dict[str, Any] = {"seconds": []}
    with usb_camera(chart_source()) as camera:
        ready(camera, 1, 2)
        with daemon("--model", os.environ.get("SHARPCAM_VM_GOVERNED", "m")):
            ask("set", 60.0, key="governor", value="on")
            viewer = Viewer()
            until(lambda: viewer.live(0))
            begun, hog, frames = time.monotonic(), None, ask("status")["frames_out"]
            last = begun
            while (now := time.monotonic() - begun) < quiet + busy + after:
                if hog is None and quiet <= now < quiet + busy:
                    hog = subprocess.Popen([sys.executable, "-c", "while True: pass"])
                elif hog is not None and now >= quiet + busy:
                    hog.kill()
                    hog.wait()
                    hog = None
                time.sleep(1.0)
                told, at = ask("status"), time.monotonic()
                fps = (told["frames_out"] - frames) / (at - last)
                frames, last = told["frames_out"], at
                load = None if told["load"] is None else round(told["load"], 2)
                found["seconds"].append([round(at - begun), round(fps, 1), told["step"], load])
            found["metrics"] = [line for line in ask("metrics").splitlines() if "governor" in line]
            viewer.close()
    rates = [fps for at, fps, _, _ in found["seconds"] if quiet <= at < quiet + busy]
    found["fps while busy"] = round(sum(rates) / len(rates), 2)
    with open("/tmp/daemon.log") as file:
        found["log"] = file.read()[-3000:]
    return found
