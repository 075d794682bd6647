"""A student as an ONNX graph: one description, three arithmetics.

`assemble` writes the student's graph once, through an `Ops` object that knows the arithmetic: `FloatOps` in
float32 or float16 with casts at the ends, `QuantOps` as the fully quantised graph (QLinearConv, QLinearAdd,
QLinearMul) whose tensors of a picture's size are all uint8, which is what runs at the int8 peak of a CPU. What
it knows of the scene, some hundred numbers a frame, becomes gains in float32.

Weights are per output channel and use 7 of their 8 bits, because processors without VNNI add pairs of uint8 x
int8 products in 16 bits, which 8-bit weights overflow: so every machine gives the same picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sharpcam.binding import CORE as CORE
from training.networks.student import (
    CHANGE,
    CHROMA_GRID,
    GAINS,
    GATE_GRID,
    GATE_MAX,
    MEMORY_RANGE,
    MEMORY_STEP,
    MOST,
    MOVE_RANGE,
    MOVE_STEP,
    SCENE,
    WEIGHT_LEVELS,
    Conv,
    Scene,
    Student,
)

OPSET = 17
PLANES = ("y", "uv")
STATES = ("state", "state_added")  # of each plane: the frame before as it came, and what was added to it
NOTHING = 128  # the code of 0 in the second
# the mean activations of the frame before: the gate's, then the sharpener's; in float64, because tiles and the whole of
# a frame add them up in another order and must come to the same gains
MEANS = "state_scene"
# the part of the picture that the means are of, (top, left, bottom, right) in pixels: all of it unless a runtime
# that works in tiles says otherwise by CORE (an initializer that is an input as well)
EVERYTHING = 0, 0, 1 << 30, 1 << 30
Array = NDArray[Any]
Ranges = dict[str, tuple[float, float]]  # (low, high) of a layer's output
Weights = dict[str, tuple[Array, Array]]
# what the float graphs multiply into the weights of layers that see grey levels
SCALES = {"gate_in": 1 / CHANGE, "head": 1 / 128, "look_in": 1 / 128, "chroma_in": 1 / 128}


def adopt_weights(student: Student, model: onnx.ModelProto) -> None:
    """Gives `student` the weights of a float graph that `build_model` made of its like.

    They are as fine as int8 keeps them, for so they ship. Raises KeyError and RuntimeError where the graph is
    another network's.
    """
    stored = {
        t.name: torch.from_numpy(numpy_helper.to_array(t).astype("f4")) for t in model.graph.initializer
    }
    for name, module in student.named_modules():
        if isinstance(module, Conv):
            module.adopt(stored[f"{name}.weight"] / SCALES.get(name, 1), stored[f"{name}.bias"])
        elif isinstance(module, Scene):
            own = module.state_dict()
            module.load_state_dict({n: stored[f"{name}.{n}"].view_as(t) for n, t in own.items()})


def folded_weights(student: Student) -> Weights:
    """Weight and bias of each convolution as it ships, in float32 numpy."""
    convolutions = {n: m for n, m in student.named_modules() if isinstance(m, Conv)}
    folded = {n: m.folded() for n, m in convolutions.items()}
    return {n: (w.detach().numpy(), b.detach().numpy()) for n, (w, b) in folded.items()}


class Graph:
    """Nodes and constants of a graph in the making."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.made: set[str] = set()  # outputs of nodes

    def constant(self, value: Array, name: str) -> str:
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.array(value, order="C"), name)
        return name

    def node(self, op: str, inputs: Iterable[str], output: str, **attributes: Any) -> str:
        domain = attributes.pop("domain", "")
        self.nodes.append(
            helper.make_node(op, list(inputs), [output], name=output, domain=domain, **attributes)
        )
        self.made.add(output)
        return output

    def row(self, x: str, kind: int) -> str:
        """(1, n, 1, 1) -> (1, n), of an ONNX type of this `kind`."""
        row = self.reshape(x, self.sides(1, -1), f"{x}_row")
        return self.node("Cast", [row], f"{x}_means", to=kind)

    def split(self, x: str, sizes: str, parts: list[str], axis: int) -> None:
        self.nodes.append(helper.make_node("Split", [x, sizes], parts, name=f"{parts[0]}_split", axis=axis))

    # SpaceToDepth and DepthToSpace, each as two transposes of contiguous rows: ONNX Runtime's own kernels
    # take up to five times as long on uint8, on one thread, which in a whole student is every tenth millisecond

    def pack(self, planes: dict[str, str], grid: int, name: str) -> str:
        parts = [self._space_to_depth(planes[p], p, grid, f"{name}_{p}_blocks") for p in planes]
        return self.node("Concat", parts, f"{name}_blocks", axis=1) if len(parts) > 1 else parts[0]

    def unpack(self, x: str, grid: int, name: str, of: Sequence[str] = PLANES) -> dict[str, str]:
        parts = [x]
        if len(of) > 1:
            split = self.constant(np.array([grid * grid, grid * grid // 2], np.int64), f"split{grid}")
            parts = [f"{name}_{p}_blocks" for p in of]
            self.split(x, split, parts, axis=1)
        return {
            p: self._depth_to_space(part, p, grid, f"{name}_{p}") for p, part in zip(of, parts, strict=True)
        }

    def _space_to_depth(self, x: str, plane: str, grid: int, name: str) -> str:
        """(1, c, H, W) -> (1, b * b * c, H / b, W / b), block position first."""
        c, b = _layout(plane, grid)
        rows = self.reshape(x, self.sides(c, -1, b, 0), f"{name}_rows")  # (c, H / b, b, W)
        rows = self.node("Transpose", [rows], f"{name}_by_row", perm=[2, 0, 1, 3])
        columns = self.reshape(rows, self.sides(b, -1, b), f"{name}_columns")
        columns = self.node("Transpose", [columns], f"{name}_by_column", perm=[0, 2, 1])
        return self.reshape(columns, self.sides(1, b * b * c, -1, width=(plane, b)), name)

    def _depth_to_space(self, x: str, plane: str, grid: int, name: str) -> str:
        """The inverse of `_space_to_depth` (ONNX's DCR mode)."""
        c, b = _layout(plane, grid)
        columns = self.reshape(x, self.sides(b, b, -1), f"{name}_by_column")
        columns = self.node("Transpose", [columns], f"{name}_columns", perm=[0, 2, 1])
        rows = self.reshape(columns, self.sides(b, c, -1, width=(plane, 1)), f"{name}_by_row")
        rows = self.node("Transpose", [rows], f"{name}_rows", perm=[1, 2, 0, 3])  # (c, H / b, b, W)
        return self.reshape(rows, self.sides(1, c, -1, 0), name)

    def reshape(self, x: str, sides: str, name: str) -> str:
        return self.node("Reshape", [x, sides], name)

    def sides(self, *sides: int, width: tuple[str, int] | None = None) -> str:
        """A shape for Reshape (0: as it was, -1: the rest); its last side is a plane's `width` over a divisor."""
        known = "_".join(str(side).replace("-", "m") for side in sides)
        fixed = self.constant(np.array(sides, np.int64), f"sides_{known}")
        if width is None:
            return fixed
        plane, divisor = width
        name = f"{plane}_width_{divisor}"
        if name not in self.made:
            self.node("Shape", [plane], f"{plane}_width_of_{divisor}", start=3, end=4)
            over = self.constant(np.array([divisor], np.int64), f"divisor_{divisor}")
            self.node("Div", [f"{plane}_width_of_{divisor}", over], name)
        if (shape := f"{fixed}_{name}") not in self.made:
            self.node("Concat", [fixed, name], shape, axis=0)
        return shape


def _window(weight: Array, stride: int) -> dict[str, Any]:
    """The attributes of a convolution of these weights."""
    k = weight.shape[2]
    pads = [k // 2, k // 2] + ([k // 2, k // 2] if stride == 1 else [0, 0])
    return {"kernel_shape": [k, k], "pads": pads, "strides": [stride, stride]}


def _layout(plane: str, grid: int) -> tuple[int, int]:
    """Pictures in a plane (U and V are one plane of two), and pixels along a block of it."""
    return (2, grid // 2) if plane == "uv" else (1, grid)


class FloatOps:
    """Tensors are grey levels in float32 or float16."""

    def __init__(self, graph: Graph, weights: Weights, half: bool = False) -> None:
        self.graph, self.weights = graph, weights
        self.dtype: type[np.floating[Any]] = np.float16 if half else np.float32
        self.kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT

    def _scalar(self, value: float, name: str) -> str:
        return self.graph.constant(np.array(value, self.dtype), name)

    def load(self, x: str) -> str:
        return self.graph.node("Cast", [x], f"{x}_float", to=self.kind)

    def load_memory(self, x: str) -> str:
        """Grey levels of codes of MEMORY_STEP around NOTHING."""
        centred = self.graph.node("Sub", [self.load(x), self._scalar(NOTHING, "centre")], f"{x}_centred")
        return self.graph.node("Mul", [centred, self._scalar(MEMORY_STEP, "memory_step")], f"{x}_levels")

    def store(self, x: str, name: str) -> str:
        rounded = self.graph.node("Round", [x], f"{name}_rounded")
        return self.graph.node("Cast", [rounded], name, to=TensorProto.UINT8)

    def store_memory(self, x: str, name: str) -> str:
        steps = self.graph.node("Div", [x, self._scalar(MEMORY_STEP, "memory_step")], f"{name}_steps")
        return self.store(
            self.graph.node("Add", [steps, self._scalar(NOTHING, "centre")], f"{name}_codes"), name
        )

    def pack(self, planes: dict[str, str], grid: int, name: str) -> str:
        return self.graph.pack(planes, grid, name)

    def unpack(self, x: str, grid: int, name: str, of: Sequence[str] = PLANES) -> dict[str, str]:
        return self.graph.unpack(x, grid, name, of)

    def clip(self, x: str, low: float, high: float, name: str) -> str:
        return self.graph.node(
            "Clip", [x, self._scalar(low, f"k{low}"), self._scalar(high, f"k{high}")], name
        )

    def difference(self, last: str, added: str, x: str, name: str) -> str:
        """last + added - x, within the ranges that uint8 has for it."""
        move = self.clip(self.graph.node("Sub", [last, x], f"{name}_raw"), *MOVE_RANGE, f"{name}_move")
        return self.clip(self.graph.node("Add", [move, added], f"{name}_sum"), *MEMORY_RANGE, name)

    def conv(
        self, x: str, layer: str, *, relu: bool, gains: str = "", stride: int = 1,
        scale: float = 1.0, offset: float = 0.0, gate: bool = False,
    ) -> str:  # fmt: skip
        """A convolution of (x - offset) * scale, then ReLU, or the clamp of the gate. `gains` is a tensor
        (outputs,) of factors."""
        weight, bias = self.weights[layer]
        g = self.graph
        if offset:
            x = g.node("Sub", [x, self._scalar(offset, f"k{offset}")], f"{x}_{layer}_centred")
        inputs = [
            x,
            g.constant((weight * scale).astype(self.dtype), f"{layer}.weight"),
            g.constant(bias.astype(self.dtype), f"{layer}.bias"),
        ]
        if gains:  # into the weights, which are smaller than what comes out
            column = g.node(
                "Reshape", [gains, g.constant(np.array([-1, 1, 1, 1]), "column")], f"{layer}_column"
            )
            inputs[1] = g.node("Mul", [inputs[1], column], f"{layer}_weight")
            inputs[2] = g.node("Mul", [inputs[2], gains], f"{layer}_bias")
        out = g.node("Conv", inputs, f"{layer}.linear" if relu or gate else layer, **_window(weight, stride))
        if gate:
            return self.clip(out, 0, GATE_MAX, layer)
        return g.node("Relu", [out], layer) if relu else out

    def load_means(self, x: str) -> str:
        """Means (1, n), none above MOST."""
        return self.clip(self.graph.row(x, self.kind), 0, MOST, f"{x}_held")

    def means(self, x: str, name: str, cell: int) -> str:
        """Mean of each channel, (1, channels, 1, 1) float64, of cells of so many pixels. No float graph runs in
        tiles."""
        means = self.graph.node("GlobalAveragePool", [x], f"{name}_pooled")
        return self.graph.node("Cast", [means], name, to=TensorProto.DOUBLE)

    def correction(self, difference: str, gate: str, name: str) -> str:
        product = self.graph.node("Mul", [difference, gate], f"{name}_product")
        step = self._scalar(MEMORY_STEP, "memory_step")
        steps = self.graph.node("Div", [product, step], f"{name}_steps")
        rounded = self.graph.node("Round", [steps], f"{name}_rounded")
        return self.graph.node("Mul", [rounded, step], name)

    def apply(self, x: str, correction: str, strength: str, name: str) -> str:
        """x + strength * correction, rounded to grey levels, in 0..255."""
        scaled = self.graph.node("Mul", [correction, self._half(strength)], f"{name}_scaled")
        total = self.graph.node("Add", [x, scaled], f"{name}_sum")
        return self.clip(self.graph.node("Round", [total], f"{name}_rounded"), 0, 255, name)

    def output(self, f: str, tail: str, strength: str, name: str) -> str:
        """f + strength * residual; the last convolution gives halves of 256 grey levels."""
        residual = self.graph.node("Mul", [tail, self._scalar(128.0, "levels")], f"{name}_residual")
        scaled = self.graph.node("Mul", [residual, self._half(strength)], f"{name}_scaled")
        total = self.graph.node("Add", [f, scaled], f"{name}_sum")
        return self.store(self.clip(total, 0, 255, f"{name}_clipped"), name)

    def _half(self, strength: str) -> str:
        """The strength in the arithmetic of the graph."""
        if self.dtype is not np.float16:
            return strength
        if f"{strength}_half" not in self.graph.made:
            self.graph.node("Cast", [strength], f"{strength}_half", to=self.kind)
        return f"{strength}_half"


class QuantOps:
    """Tensors are uint8; each knows its scale (grey levels or activation units per step) and zero point."""

    dtype = np.float32  # of what is computed once a frame

    def __init__(self, graph: Graph, weights: Weights, ranges: Ranges) -> None:
        self.graph, self.weights, self.ranges = graph, weights, ranges
        self.steps: dict[str, tuple[float, int]] = {}

    def _q(self, step: float, zero: int) -> list[str]:
        scale = self.graph.constant(np.array(step, np.float32), f"step{step:.9g}")
        return [scale, self.graph.constant(np.array(zero, np.uint8), f"zero{zero}")]

    def _of(self, x: str) -> list[str]:
        return self._q(*self.steps[x])

    def _range(self, layer: str, relu: bool) -> tuple[float, int]:
        low, high = self.ranges[layer]
        if relu:
            return max(high, 1e-3) / 255, 0
        return max(-low, high, 1e-3) / 127, 128

    def load(self, x: str) -> str:
        self.steps[x] = (1.0, 0)
        return x

    def load_memory(self, x: str) -> str:
        self.steps[x] = (MEMORY_STEP, NOTHING)
        return x

    def store(self, x: str, name: str) -> str:
        return self.graph.node("Identity", [x], name)

    store_memory = store

    def pack(self, planes: dict[str, str], grid: int, name: str) -> str:
        out = self.graph.pack(planes, grid, name)
        self.steps[out] = self.steps[next(iter(planes.values()))]
        return out

    def unpack(self, x: str, grid: int, name: str, of: Sequence[str] = PLANES) -> dict[str, str]:
        out = self.graph.unpack(x, grid, name, of)
        self.steps |= dict.fromkeys(out.values(), self.steps[x])
        return out

    def _binary(self, op: str, a: list[str], b: list[str], out: tuple[float, int], name: str) -> str:
        self.steps[name] = out
        return self.graph.node(op, [*a, *b, *self._q(*out)], name, domain="com.microsoft")

    def difference(self, last: str, added: str, x: str, name: str) -> str:
        """last + added - x: saturation keeps it within the ranges, and a negative scale subtracts."""
        step, zero = self.steps[x]
        minus_x = [x, *self._q(-step, zero)]
        move = self._binary("QLinearAdd", [last, *self._of(last)], minus_x, (MOVE_STEP, 128), f"{name}_move")
        parts = [move, *self._of(move)], [added, *self._of(added)]
        return self._binary("QLinearAdd", *parts, (MEMORY_STEP, NOTHING), name)

    def conv(
        self, x: str, layer: str, *, relu: bool, gains: str = "", stride: int = 1,
        scale: float = 1.0, offset: float = 0.0, gate: bool = False,
    ) -> str:  # fmt: skip
        weight, bias = self.weights[layer]
        g = self.graph
        step, zero = self.steps[x]
        step, zero = step * scale, zero + int(offset)
        w_step = np.maximum(np.abs(weight).max(axis=(1, 2, 3)), 1e-8) / WEIGHT_LEVELS
        # a bias of nearly dead weights fits int32 too
        w_step = np.maximum(w_step, np.abs(bias) / (step * 2**30))
        q = np.round(weight / w_step[:, None, None, None]).astype(np.int8)
        b = np.round(bias / (step * w_step))
        w_scale = g.constant(w_step.astype(np.float32), f"{layer}.step")
        if gains:
            w_scale = g.node("Mul", [gains, w_scale], f"{layer}_step")
        out = (GATE_MAX / 255, 0) if gate else self._range(layer, relu)
        self.steps[layer] = out
        inputs = [
            x,
            *self._q(step, zero),
            g.constant(q, f"{layer}.weight"),
            w_scale,
            g.constant(np.zeros(len(weight), np.int8), f"{layer}.zero"),
            *self._q(*out),
            g.constant(b.astype(np.int32), f"{layer}.bias"),
        ]
        return g.node("QLinearConv", inputs, layer, **_window(weight, stride))

    def load_means(self, x: str) -> str:
        g = self.graph
        ends = [g.constant(np.array(end, np.float32), f"k{end}") for end in (0.0, MOST)]
        return g.node("Clip", [g.row(x, TensorProto.FLOAT), *ends], f"{x}_held")

    def means(self, x: str, name: str, cell: int) -> str:
        g = self.graph
        corners = ["core_first", "core_last"]
        if CORE not in g.constants:
            g.split(
                g.constant(np.array(EVERYTHING, np.int64), CORE),
                g.constant(np.array([2, 2]), "corners"),
                corners,
                axis=0,
            )
        over = g.constant(np.array([cell, cell]), f"cell_{cell}")
        ends = [g.node("Div", [corner, over], f"{name}_{corner}") for corner in corners]
        inside = g.node("Slice", [x, *ends, g.constant(np.array([2, 3]), "sides")], f"{name}_core")
        channels = len(self.weights[x][0])
        rows = g.reshape(inside, g.sides(channels, -1), f"{name}_rows")
        count = g.node("Shape", [rows], f"{name}_count", start=1, end=2)
        column = g.node("Concat", [count, g.sides(1)], f"{name}_column", axis=0)
        one = numpy_helper.from_array(np.ones(1, np.int8))
        ones = g.node("ConstantOfShape", [column], f"{name}_ones", value=one)
        # whole numbers, in the fastest kernel that adds them up; of one dimension, ones would take the slowest
        parts = g.node("MatMulInteger", [rows, ones], f"{name}_sums"), count
        total, cells = (g.node("Cast", [p], f"{p}_wide", to=TensorProto.DOUBLE) for p in parts)
        mean = g.node("Div", [total, cells], f"{name}_mean")
        step, zero = self.steps[x]
        assert zero == 0, x
        levels = g.node("Mul", [mean, g.constant(np.array(step), f"{name}_step")], f"{name}_levels")
        return g.reshape(levels, g.sides(1, channels, 1, 1), name)

    def correction(self, difference: str, gate: str, name: str) -> str:
        a, b = [difference, *self._of(difference)], [gate, *self._of(gate)]
        return self._binary("QLinearMul", a, b, (MEMORY_STEP, NOTHING), name)

    def apply(self, x: str, correction: str, strength: str, name: str) -> str:
        """x + strength * correction: the strength scales its step, so that 0 gives x bit for bit."""
        b = [correction, *self._scaled(correction, 1.0, strength, name)]
        return self._binary("QLinearAdd", [x, *self._of(x)], b, (1.0, 0), name)

    def output(self, f: str, tail: str, strength: str, name: str) -> str:
        """f + strength * residual; the last convolution gives halves of 256 grey levels."""
        b = [tail, *self._scaled(tail, 128.0, strength, name)]
        return self._binary("QLinearAdd", [f, *self._of(f)], b, (1.0, 0), name)

    def _scaled(self, x: str, factor: float, strength: str, name: str) -> list[str]:
        step, zero = self.steps[x]
        scale, zero_point = self._q(step * factor, zero)
        return [self.graph.node("Mul", [strength, scale], f"{name}_step"), zero_point]


def assemble(graph: Graph, ops: FloatOps | QuantOps, student: Student) -> None:
    """The student's graph, as in the picture at the top of networks/student.py."""
    config = student.config
    x = {p: ops.load(p) for p in PLANES}
    f = x
    gains = scene_gains(graph, ops, student) if config.scene else {}

    def conv(x: str, layer: str, **how: Any) -> str:
        return ops.conv(x, layer, gains=gains.get(layer, ""), **how)

    if config.temporal:
        d = {
            p: ops.difference(
                ops.load(f"state_{p}"), ops.load_memory(f"state_added_{p}"), x[p], f"difference_{p}"
            )
            for p in PLANES
        }
        first = conv(ops.pack(d, GATE_GRID, "difference"), "gate_in", relu=True, scale=SCALES["gate_in"])
        gate = conv(conv(first, "gate_mid", relu=True), "gate_out", relu=False, gate=True)
        gates = ops.unpack(gate, GATE_GRID, "gate")
        c = {p: ops.correction(d[p], gates[p], f"correction_{p}") for p in PLANES}
        f = {p: ops.apply(x[p], c[p], "strength", f"fused_{p}") for p in PLANES}
        for p in PLANES:
            ops.store(x[p], f"state_{p}_out")
            ops.store_memory(c[p], f"state_added_{p}_out")
    cells = ops.pack(f, config.grid, "fused")
    h = conv(cells, "head", relu=True, scale=SCALES["head"], offset=128)
    for i in range(len(student.body)):
        h = conv(h, f"body.{i}", relu=True)
    h = conv(h, "tail", relu=False)
    if config.chroma:
        colours = ops.pack({"uv": f["uv"]}, CHROMA_GRID, "chroma")
        colours = conv(colours, "chroma_in", relu=False, scale=SCALES["chroma_in"], offset=128)
        colours = conv(colours, "chroma_out", relu=False)
        residuals = ops.unpack(h, config.grid, "tail", ["y"])
        residuals |= ops.unpack(colours, CHROMA_GRID, "chroma_out", ["uv"])
    else:
        residuals = ops.unpack(h, config.grid, "tail")
    for p in PLANES:
        ops.output(f[p], residuals[p], "strength", f"{p}_out")
    if config.scene:
        look = conv(cells, "look_in", relu=True, stride=2, scale=SCALES["look_in"], offset=128)
        look = conv(look, "look_mid", relu=True, stride=2)
        means = [
            ops.means(first, "gate_means", GATE_GRID),
            ops.means(look, "look_means", 4 * config.grid),
        ]
        graph.node("Concat", means, f"{MEANS}_out", axis=1)


def scene_gains(graph: Graph, ops: FloatOps | QuantOps, student: Student) -> dict[str, str]:
    """A tensor (outputs,) of gains for each layer that the scene multiplies, from what the last frame left."""
    parts = ["gate_seen", "look_seen"]
    sizes = graph.constant(np.array([student.config.gate, SCENE]), "seen")
    graph.split(ops.load_means(MEANS), sizes, parts, axis=1)
    gains: dict[str, str] = {}
    for name, layers in student.scenes().items():
        seen = parts[0] if name == "gate_scene" else parts[1]
        values = {n: t.detach().numpy() for n, t in student.get_submodule(name).state_dict().items()}

        def dense(x: str, layer: str, name: str = name, values: dict[str, Array] = values) -> str:
            weight, bias = values[f"{layer}.weight"][..., 0, 0], values[f"{layer}.bias"]
            constants = [
                graph.constant(v.astype(ops.dtype), f"{name}.{layer}.{kind}")
                for kind, v in (("weight", weight), ("bias", bias))
            ]
            return graph.node("Gemm", [x, *constants], f"{name}.{layer}", transB=1)

        rows = dense(graph.node("Relu", [dense(seen, "hidden")], f"{name}_hidden"), "gain")
        ends = [graph.constant(np.array(end, ops.dtype), f"gain{end}") for end in GAINS]
        within = graph.node("Clip", [rows, *ends], f"{name}_within")
        flat = graph.node("Reshape", [within, graph.constant(np.array([-1]), "flat")], f"{name}_flat")
        gains |= {layer: f"{layer}_gains" for layer in layers}
        outputs = graph.constant(np.array(list(layers.values())), f"{name}_layers")
        graph.split(flat, outputs, [gains[n] for n in layers], axis=0)
    return gains


def means_shape(student: Student) -> list[int]:
    """Of the state MEANS."""
    return [1, student.config.gate + SCENE, 1, 1]


def build_model(
    student: Student, precision: str, ranges: Ranges | None = None, extra_outputs: Iterable[str] = ()
) -> onnx.ModelProto:
    """The student as an ONNX model of `precision` float32, float16 or uint8 (which needs `ranges`)."""
    graph = Graph()
    weights = folded_weights(student)
    ops: FloatOps | QuantOps
    if precision == "uint8":
        if ranges is None:
            raise ValueError("a uint8 graph needs calibrated ranges")
        ops = QuantOps(graph, weights, ranges)
    else:
        ops = FloatOps(graph, weights, half=precision == "float16")
    assemble(graph, ops, student)
    planes: list[tuple[str, list[int | str]]] = [("y", [1, 1, "H", "W"]), ("uv", [1, 2, "H/2", "W/2"])]
    kinds = STATES if student.config.temporal else ()
    state = [(f"{kind}_{n}", s) for kind in kinds for n, s in planes]
    scene = [(MEANS, means_shape(student))] if student.config.scene else []
    value = helper.make_tensor_value_info
    inputs = [value(n, TensorProto.UINT8, s) for n, s in planes] + [value("strength", TensorProto.FLOAT, [])]
    inputs += [value(n, TensorProto.UINT8, s) for n, s in state]
    inputs += [value(n, TensorProto.DOUBLE, s) for n, s in scene]
    if CORE in graph.constants:
        inputs.append(value(CORE, TensorProto.INT64, [len(EVERYTHING)]))
    outputs = [value(f"{n}_out", TensorProto.UINT8, s) for n, s in planes + state]
    outputs += [value(f"{n}_out", TensorProto.DOUBLE, s) for n, s in scene]
    outputs += [value(n, TensorProto.FLOAT, [None] * 4) for n in extra_outputs]
    proto = helper.make_graph(graph.nodes, "sharpcam", inputs, outputs, list(graph.constants.values()))
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(proto, opset_imports=opsets, ir_version=9, producer_name="sharpcam")
    onnx.checker.check_model(model)
    return model
