"""The usual Python loop, as tutorials and most Python camera filters have it: the peer of `sharpcam run`.

OpenCV gives BGR, NumPy makes float32 NCHW of it, ONNX Runtime runs the network, NumPy makes BGR again,
pyvirtualcam sends it. One thread, one frame after the other. Two things are done that many forget, so that the
comparison is with a good one: a single driver buffer (an old picture is not kept waiting), and no sleep after
sending (the camera sets the pace).

    python -m benchmarks.usual_loop CAMERA|FILE --model rgb.onnx [--virtual /dev/videoN]

Without a virtual camera each frame is turned into I420, which is what pyvirtualcam does with it before it writes.
Ctrl-C and SIGTERM end it. `--report` writes frames and CPU time per frame, step by step.
"""

from __future__ import annotations

import argparse
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

Picture = cv2.typing.MatLike  # (H, W, 3) uint8
STEPS = ("capture", "to float", "inference", "to BGR", "send")


def open_camera(name: str, size: tuple[int, int], fps: float, fourcc: str) -> cv2.VideoCapture:
    if not name.startswith("/dev/"):
        return cv2.VideoCapture(name)
    camera = cv2.VideoCapture(name, cv2.CAP_V4L2)
    camera.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*fourcc))
    camera.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
    camera.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])
    camera.set(cv2.CAP_PROP_FPS, fps)
    camera.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    return camera


def open_session(model: str, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class Network:
    """A float32 RGB network, and its states from frame to frame."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self._picture, *states = (port.name for port in session.get_inputs())
        self._outputs = [port.name for port in session.get_outputs()]
        self._memory = {name: f"{name}_out" for name in states}
        shapes = {port.name: port.shape for port in session.get_inputs() if port.name in states}
        # what a student remembers of the whole frame
        self._scenes = {name: s for name, s in shapes.items() if list(s[-2:]) == [1, 1]}
        self._states: dict[str, Any] = {}

    def start(self, bgr: Picture) -> None:
        """The states of a student begin as the planes of the first frame, as nothing added to them, and as what
        the first frame as a whole tells."""
        height, width = bgr.shape[:2]
        planes = cv2.cvtColor(bgr, cv2.COLOR_BGR2YUV_I420).astype(np.float32)
        first = {
            "state_y": planes[:height].reshape(1, 1, height, width),
            "state_uv": planes[height:].reshape(1, 2, height // 2, width // 2),
        }
        first |= {name.replace("state_", "state_added_"): np.zeros_like(p) for name, p in first.items()}
        first |= {name: np.zeros(shape, np.float32) for name, shape in self._scenes.items()}
        self._states = {name: first[name] for name in self._memory}
        if self._scenes:
            self(to_float(bgr))
            self._states |= {name: first[name] for name in self._memory if name not in self._scenes}

    def __call__(self, rgb: NDArray[np.float32]) -> NDArray[np.float32]:
        results: list[Any] = self._session.run(self._outputs, {self._picture: rgb, **self._states})
        given = dict(zip(self._outputs, results, strict=True))
        self._states = {name: given[output] for name, output in self._memory.items()}
        picture: NDArray[np.float32] = results[0]
        return picture


def to_float(bgr: Picture) -> NDArray[np.float32]:
    rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    picture = rgb.astype(np.float32) / 255.0
    return np.ascontiguousarray(picture.transpose(2, 0, 1))[None]


def to_bgr(picture: NDArray[np.float32]) -> Picture:
    rgb = (np.clip(picture[0].transpose(1, 2, 0), 0.0, 1.0) * 255.0).round()
    bgr: Picture = cv2.cvtColor(rgb.astype(np.uint8), cv2.COLOR_RGB2BGR)
    return bgr


class Meter:
    """CPU time of the whole process by step; the loop has one thread, so a step's is all that it cost."""

    def __init__(self) -> None:
        self.frames = 0
        self._ns = dict.fromkeys(STEPS, 0)
        self._last = 0

    def start(self) -> None:
        self._last = time.process_time_ns()

    def lap(self, step: str) -> None:
        now = time.process_time_ns()
        self._ns[step] += now - self._last
        self._last = now

    def report(self) -> dict[str, Any]:
        frames = max(1, self.frames)
        steps = {step: round(ns / frames / 1e6, 4) for step, ns in self._ns.items()}
        return {
            "frames": self.frames,
            "stages_cpu_ms": steps,
            "cpu_ms_per_frame": round(sum(steps.values()), 4),
        }


def loop(
    camera: cv2.VideoCapture,
    network: Network,
    send: Callable[[Picture], Any],
    meter: Meter,
) -> None:
    """Runs until the camera ends or KeyboardInterrupt; the first frame, which warms everything up, is not metered."""
    came, bgr = camera.read()
    if not came:
        return
    network.start(bgr)
    send(to_bgr(network(to_float(bgr))))
    meter.start()
    while True:
        came, bgr = camera.read()
        if not came:
            return
        meter.lap("capture")
        picture = to_float(bgr)
        meter.lap("to float")
        sharp = network(picture)
        meter.lap("inference")
        out = to_bgr(sharp)
        meter.lap("to BGR")
        send(out)
        meter.lap("send")
        meter.frames += 1


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.usual_loop")
    parser.add_argument("camera", help="/dev/videoN or a video file")
    parser.add_argument("--model", required=True, help="a float32 RGB network (1, 3, H, W), 0..1")
    parser.add_argument("--virtual", metavar="/dev/videoN", help="virtual camera; none without it")
    parser.add_argument("--size", type=int, nargs=2, default=(1280, 720))
    parser.add_argument("--fps", type=float, default=30.0)
    parser.add_argument("--fourcc", default="YUYV")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--report", type=Path)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    cv2.setNumThreads(args.threads)  # as every program of the comparison
    meter = Meter()
    try:
        network = Network(open_session(args.model, args.threads))
        camera = open_camera(args.camera, tuple(args.size), args.fps, args.fourcc)
        if args.virtual is None:
            loop(camera, network, lambda bgr: cv2.cvtColor(bgr, cv2.COLOR_BGR2YUV_I420), meter)
        else:
            import pyvirtualcam

            with pyvirtualcam.Camera(
                *args.size, args.fps, fmt=pyvirtualcam.PixelFormat.BGR, device=args.virtual
            ) as virtual:
                loop(camera, network, virtual.send, meter)
    except KeyboardInterrupt:
        pass
    if args.report:
        args.report.write_text(json.dumps(meter.report()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
