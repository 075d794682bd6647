"""The halo that a manifest tells, against what exported graphs really look at."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray

from sharpcam.manifest import Layout
from sharpcam.models import bundled_folder, read_manifest
from training.export import calibrate, session
from training.graph import MEANS, build_model
from training.halo import halo
from training.networks.student import CHROMA_GRID, GATE_GRID, Student, StudentConfig

U8 = NDArray[np.uint8]
STILL = StudentConfig(depth=1, temporal=False)
CONFIGS = [
    StudentConfig(depth=0, gate=16),
    StudentConfig(depth=1, gate=16),
    StudentConfig(depth=3, gate=16),
    StudentConfig(channels=64, depth=1, grid=8, gate=16),
    StudentConfig(depth=1, grid=16, gate=16),
    StudentConfig(depth=1, gate=16, scene=True),
    StudentConfig(depth=1, pointwise=2, gate=16),
    StudentConfig(depth=0, gate=16, scene=True, chroma=16),
    STILL,
    StudentConfig(depth=2, grid=2, temporal=False),
]


def step_of(config: StudentConfig) -> int:
    return math.lcm(config.grid, GATE_GRID if config.temporal else 2)


def open_student(config: StudentConfig, signed: bool = False) -> Student:
    """A student through which the smallest change passes, for its weights are above zero and none is too large;
    `signed`, one that makes large changes."""
    torch.manual_seed(0)
    student = Student(config)
    with torch.no_grad():
        for parameter in student.parameters():
            size = parameter[0].numel() if parameter.ndim == 4 else 10
            sign = torch.randn_like(parameter) * math.sqrt(size) if signed else torch.rand_like(parameter) * 2
            parameter.copy_(sign / size)
        for name in student.scenes():  # larger gains would hold gates at their most, whatever is looked at
            gain = student.get_submodule(name).gain
            gain.weight.zero_()
            gain.bias.fill_(1)
    return student.eval()


class Looker:
    """Runs one frame through a graph and gives what comes out for a block in the middle, as one row.

    What the frame before told as a whole is always the same, and what this one tells does not count: it is what
    the first frame told.
    """

    def __init__(self, s: ort.InferenceSession, around: int, block: int) -> None:
        self.session = s
        self.side, self.start, self.stop = 2 * around + block, around, around + block
        self.rng = np.random.default_rng(0)
        self.known = {i.name: np.zeros(i.shape) for i in s.get_inputs() if i.name == MEANS}
        self.outputs = [o.name for o in s.get_outputs() if o.name != f"{MEANS}_out"]
        if self.known:
            feeds = self.planes() | self.known | {"strength": np.array(1, np.float32)}
            (self.known[MEANS],) = s.run([f"{MEANS}_out"], feeds)

    def planes(self) -> dict[str, U8]:
        """A frame of soft blocks, and a state that is the same picture with other noise."""
        pictures = {"y": self._soft(1, self.side), "uv": self._soft(2, self.side // 2)}
        names = [i.name for i in self.session.get_inputs() if i.name not in ("strength", MEANS)]
        noisy = {n: pictures[n.rpartition("_")[2]] for n in names}
        noisy |= {n: 128 + 0.05 * (p - 128) for n, p in noisy.items() if "added" in n}
        return {
            n: (p + self.rng.normal(0, 3, p.shape)).clip(0, 255).astype(np.uint8) for n, p in noisy.items()
        }

    def _soft(self, channels: int, side: int) -> NDArray[np.float64]:
        blocks = self.rng.integers(0, 256, (channels, side // 4, side // 4)).astype(np.float64)
        return np.stack([cv2.resize(b, (side, side), interpolation=cv2.INTER_LINEAR) for b in blocks])[None]

    def changed(self, planes: dict[str, U8], inner: int, outer: int) -> dict[str, U8]:
        """The same, with other pixels from `inner` to `outer` pixels around the block."""
        other = self.planes()
        for name, plane in planes.items():
            d = self.side // plane.shape[-1]
            ring = np.zeros(plane.shape[-2:], bool)
            ring[self._part(outer, d)] = True
            ring[self._part(inner, d)] = False
            other[name] = np.where(ring, other[name], plane)
        return other

    def _part(self, margin: int, divisor: int) -> tuple[slice, slice]:
        low = max(0, self.start - margin) // divisor
        both = slice(low, (self.stop + margin) // divisor)
        return both, both

    def look(self, planes: dict[str, U8]) -> NDArray[np.float64]:
        feeds = planes | self.known | {"strength": np.array(1, np.float32)}
        outputs = self.session.run(self.outputs, feeds)
        parts = []
        for output in outputs:
            d = self.side / output.shape[-1]
            both = slice(round(self.start / d), round(self.stop / d))
            parts.append(output[..., both, both].astype(np.float64).ravel())
        return np.concatenate(parts)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_all_that_counts_lies_in_the_halo_and_the_halo_is_no_wider(config: StudentConfig) -> None:
    student, step = open_student(config), step_of(config)
    width = halo(student, step)
    assert width % step == 0
    # floats tell of the smallest change
    layers = ["tail", *(["gate_out"] if config.temporal else []), *(["chroma_out"] if config.chroma else [])]
    model = build_model(student, "float32", extra_outputs=layers)
    looker = Looker(session(model), width + 3 * step, step)
    planes = looker.planes()
    seen = looker.look(planes)
    assert np.array_equal(seen, looker.look(looker.changed(planes, width, looker.side)))
    assert not np.array_equal(seen, looker.look(looker.changed(planes, width - step, width)))


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_the_uint8_graph_looks_no_farther(config: StudentConfig) -> None:
    student, step = open_student(config, signed=True), step_of(config)
    student.quantize_weights()
    width = halo(student, step)
    clip = np.random.default_rng(1).integers(0, 256, (2, 96, 64), np.uint8)
    model = build_model(student, "uint8", calibrate(student, [clip]))
    looker = Looker(session(model), width + 3 * step, 8 * step)
    looked = []
    for _ in range(5):
        planes = looker.planes()
        seen = looker.look(planes)
        assert np.array_equal(seen, looker.look(looker.changed(planes, width, looker.side)))
        looked.append(not np.array_equal(seen, looker.look(looker.changed(planes, 0, width))))
    assert any(looked)


def test_more_layers_look_farther() -> None:
    widths = [halo(open_student(StudentConfig(depth=d, temporal=False)), 4) for d in range(4)]
    assert [b - a for a, b in pairwise(widths)] == [4, 4, 4]
    assert halo(open_student(StudentConfig(depth=12, grid=8, channels=32)), 8) >= 8 * 12 + GATE_GRID


def test_weights_do_not_matter_and_stay() -> None:
    """Not even a fresh student's zeros; and the network is as it was."""
    student = Student(STILL).eval()
    before = {n: p.clone() for n, p in student.named_parameters()}
    assert halo(student, 4) == halo(open_student(STILL), 4)
    assert all(torch.equal(p, before[n]) and p.dtype == torch.float32 for n, p in student.named_parameters())


@pytest.mark.parametrize("folder", sorted(bundled_folder().iterdir()), ids=lambda p: p.name)
def test_the_halo_of_what_ships(folder: Path) -> None:
    model = read_manifest(folder / "model.toml")
    manifest = model.manifest
    if manifest.layout is not Layout.YUV420:
        pytest.skip("an rgb model")
    graph = onnx.load_from_string(model.read(manifest))
    step = math.lcm(manifest.size_multiple, 2)
    assert manifest.halo == by_hand(graph, step)
    looker = Looker(session(graph), manifest.halo + 2 * step, 8 * step)
    narrower = []
    for _ in range(12):
        planes = looker.planes()
        seen = looker.look(planes)
        assert np.array_equal(seen, looker.look(looker.changed(planes, manifest.halo, looker.side)))
        less = looker.look(looker.changed(planes, manifest.halo - step, manifest.halo))
        narrower.append(not np.array_equal(seen, less))
    assert any(narrower), f"{manifest.halo - step} would do"


def by_hand(graph: onnx.ModelProto, step: int) -> int:
    """From the kernels: those of luma or of chroma on their grids, beyond them those of the gate on its."""
    shapes = {i.name.removesuffix(".weight"): i.dims for i in graph.graph.initializer if len(i.dims) == 4}
    colours = sum(d[2] // 2 for name, d in shapes.items() if name.startswith("chroma"))
    grid = math.isqrt(shapes["tail"][0] if colours else shapes["tail"][0] * 2 // 3)
    others = "gate", "look", "chroma"
    sharpener = sum(d[2] // 2 for name, d in shapes.items() if not name.startswith(others))
    gate = sum(d[2] // 2 for name, d in shapes.items() if name.startswith("gate"))
    reach = max(sharpener * grid, colours * CHROMA_GRID)
    if gate:
        reach = (math.ceil(reach / GATE_GRID) + gate) * GATE_GRID
    return math.ceil(reach / step) * step
