"""Trained students as ONNX files: one graph, three arithmetics.

`assemble` writes the student's graph once, through an `Ops` object that knows the arithmetic: `FloatOps` in
float32 or float16 with casts at the ends, `QuantOps` as the fully quantised graph (QLinearConv, QLinearAdd,
QLinearMul) whose tensors are uint8 from the first to the last, which is what runs at the int8 peak of a CPU.

Quantisation is calibrated: the float graph runs on clips, and each convolution's output range is the 99.99th
percentile of what was seen. Weights are per output channel and use 7 of their 8 bits, because processors
without VNNI add pairs of uint8 x int8 products in 16 bits, which 8-bit weights overflow: so every machine gives
the same picture.

    python -m training.export CHECKPOINT --out DIR --data DIR
"""

from __future__ import annotations

import argparse
import hashlib
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from training.data import Clips
from training.loop import read_checkpoint
from training.networks.student import (
    CORRECTION_STEP,
    DIFFERENCE_STEP,
    GATE_GRID,
    GATE_MAX,
    WEIGHT_LEVELS,
    Conv,
    RepConv,
    Student,
)  # fmt: skip
from training.recipe import Recipe
from training.tasks import build

OPSET = 17
PLANES = ("y", "uv")
PERCENTILE = 99.99
Array = NDArray[Any]
Ranges = dict[str, tuple[float, float]]  # (low, high) of a layer's output
Weights = dict[str, tuple[Array, Array]]


def folded_weights(student: Student) -> Weights:
    """Weight and bias of each convolution as it ships, in float32 numpy."""
    convolutions = {n: m for n, m in student.named_modules() if isinstance(m, Conv | RepConv)}
    folded = {n: m.folded() for n, m in convolutions.items()}
    return {n: (w.detach().numpy(), b.detach().numpy()) for n, (w, b) in folded.items()}


class Graph:
    """Nodes and constants of a graph in the making."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def constant(self, value: Array, name: str) -> str:
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.array(value, order="C"), name)
        return name

    def node(self, op: str, inputs: Iterable[str], output: str, **attributes: Any) -> str:
        domain = attributes.pop("domain", "")
        self.nodes.append(
            helper.make_node(op, list(inputs), [output], name=output, domain=domain, **attributes)
        )
        return output

    def pack(self, planes: dict[str, str], grid: int, name: str) -> str:
        parts = [
            self.node("SpaceToDepth", [planes[p]], f"{name}_{p}_blocks", blocksize=grid // (1 + (p == "uv")))
            for p in PLANES
        ]
        return self.node("Concat", parts, f"{name}_blocks", axis=1)

    def unpack(self, x: str, grid: int, name: str) -> dict[str, str]:
        split = self.constant(np.array([grid * grid, grid * grid // 2], np.int64), f"split{grid}")
        parts = [f"{name}_{p}_blocks" for p in PLANES]
        self.nodes.append(helper.make_node("Split", [x, split], parts, name=f"{name}_split", axis=1))
        return {
            p: self.node("DepthToSpace", [part], f"{name}_{p}", blocksize=grid // (1 + (p == "uv")))
            for p, part in zip(PLANES, parts, strict=True)
        }


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

    def store(self, x: str, name: str) -> str:
        rounded = self.graph.node("Round", [x], f"{name}_rounded")
        return self.graph.node("Cast", [rounded], name, to=TensorProto.UINT8)

    def pack(self, planes: dict[str, str], grid: int, name: str) -> str:
        return self.graph.pack(planes, grid, name)

    def unpack(self, x: str, grid: int, name: str) -> dict[str, str]:
        return self.graph.unpack(x, grid, name)

    def clip(self, x: str, low: float, high: float, name: str) -> str:
        return self.graph.node(
            "Clip", [x, self._scalar(low, f"k{low}"), self._scalar(high, f"k{high}")], name
        )

    def difference(self, a: str, b: str, name: str) -> str:
        raw = self.graph.node("Sub", [a, b], f"{name}_raw")
        return self.clip(raw, -128 * DIFFERENCE_STEP, 127 * DIFFERENCE_STEP, name)

    def conv(
        self, x: str, layer: str, *, relu: bool, scale: float = 1.0, offset: float = 0.0, gate: bool = False
    ) -> str:
        """A convolution of (x - offset) * scale, then ReLU, or the clamp of the gate."""
        weight, bias = self.weights[layer]
        g = self.graph
        if offset:
            x = g.node("Sub", [x, self._scalar(offset, f"k{offset}")], f"{x}_{layer}_centred")
        inputs = [
            x,
            g.constant((weight * scale).astype(self.dtype), f"{layer}.weight"),
            g.constant(bias.astype(self.dtype), f"{layer}.bias"),
        ]
        k = weight.shape[2]
        out = g.node(
            "Conv",
            inputs,
            f"{layer}.linear" if relu or gate else layer,
            kernel_shape=[k, k],
            pads=[k // 2] * 4,
        )
        if gate:
            return self.clip(out, 0, GATE_MAX, layer)
        return g.node("Relu", [out], layer) if relu else out

    def correction(self, difference: str, gate: str, name: str) -> str:
        product = self.graph.node("Mul", [difference, gate], f"{name}_product")
        step = self._scalar(CORRECTION_STEP, "correction_step")
        rounded = self.graph.node(
            "Round", [self.graph.node("Div", [product, step], f"{name}_steps")], f"{name}_rounded"
        )
        return self.clip(self.graph.node("Mul", [rounded, step], f"{name}_raw"), -64, 63.5, name)

    def apply(self, x: str, correction: str, name: str) -> str:
        """x + correction, rounded to grey levels, in 0..255."""
        rounded = self.graph.node(
            "Round", [self.graph.node("Add", [x, correction], f"{name}_sum")], f"{name}_rounded"
        )
        return self.clip(rounded, 0, 255, name)

    def residual(self, tail: str, correction: str | None, name: str) -> str:
        scaled = self.graph.node("Mul", [tail, self._scalar(128.0, "levels")], f"{name}_levels")
        return scaled if correction is None else self.graph.node("Add", [scaled, correction], name)

    def output(self, x: str, residual: str, strength: str, name: str) -> str:
        if self.dtype is np.float16 and f"{strength}_half" not in {n.name for n in self.graph.nodes}:
            self.graph.node("Cast", [strength], f"{strength}_half", to=self.kind)
        strength = f"{strength}_half" if self.dtype is np.float16 else strength
        scaled = self.graph.node("Mul", [residual, strength], f"{name}_scaled")
        total = self.graph.node("Add", [f"{x}_float", scaled], f"{name}_sum")
        return self.store(self.clip(total, 0, 255, f"{name}_clipped"), name)


class QuantOps:
    """Tensors are uint8; each knows its scale (grey levels or activation units per step) and zero point."""

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

    def store(self, x: str, name: str) -> str:
        return self.graph.node("Identity", [x], name)

    def pack(self, planes: dict[str, str], grid: int, name: str) -> str:
        out = self.graph.pack(planes, grid, name)
        self.steps[out] = self.steps[planes["y"]]
        return out

    def unpack(self, x: str, grid: int, name: str) -> dict[str, str]:
        out = self.graph.unpack(x, grid, name)
        self.steps |= dict.fromkeys(out.values(), self.steps[x])
        return out

    def _binary(self, op: str, a: list[str], b: list[str], out: tuple[float, int], name: str) -> str:
        self.steps[name] = out
        return self.graph.node(op, [*a, *b, *self._q(*out)], name, domain="com.microsoft")

    def difference(self, a: str, b: str, name: str) -> str:
        # saturation is the clamp; the negative scale subtracts
        step, zero = self.steps[b]
        return self._binary(
            "QLinearAdd", [a, *self._of(a)], [b, *self._q(-step, zero)], (DIFFERENCE_STEP, 128), name
        )

    def conv(
        self, x: str, layer: str, *, relu: bool, scale: float = 1.0, offset: float = 0.0, gate: bool = False
    ) -> str:
        weight, bias = self.weights[layer]
        g = self.graph
        step, zero = self.steps[x]
        step, zero = step * scale, zero + int(offset)
        w_step = np.maximum(np.abs(weight).max(axis=(1, 2, 3)), 1e-8) / WEIGHT_LEVELS
        w_step = np.maximum(
            w_step, np.abs(bias) / (step * 2**30)
        )  # a bias of nearly dead weights fits int32 too
        q = np.round(weight / w_step[:, None, None, None]).astype(np.int8)
        b = np.round(bias / (step * w_step))
        out = (GATE_MAX / 255, 0) if gate else self._range(layer, relu)
        self.steps[layer] = out
        k = weight.shape[2]
        inputs = [
            x, *self._q(step, zero), g.constant(q, f"{layer}.weight"), g.constant(w_step.astype(np.float32), f"{layer}.step"),
            g.constant(np.zeros(len(weight), np.int8), f"{layer}.zero"), *self._q(*out), g.constant(b.astype(np.int32), f"{layer}.bias"),
        ]  # fmt: skip
        return g.node("QLinearConv", inputs, layer, kernel_shape=[k, k], pads=[k // 2] * 4)

    def correction(self, difference: str, gate: str, name: str) -> str:
        a, b = [difference, *self._of(difference)], [gate, *self._of(gate)]
        return self._binary("QLinearMul", a, b, (CORRECTION_STEP, 128), name)

    def apply(self, x: str, correction: str, name: str) -> str:
        return self._binary(
            "QLinearAdd", [x, *self._of(x)], [correction, *self._of(correction)], (1.0, 0), name
        )

    def residual(self, tail: str, correction: str | None, name: str) -> str:
        step, zero = self.steps[tail]
        levels = (step * 128, zero)
        if correction is None:
            self.steps[tail] = levels
            return tail
        return self._binary(
            "QLinearAdd",
            [tail, *self._q(*levels)],
            [correction, *self._of(correction)],
            self._range(name, False),
            name,
        )

    def output(self, x: str, residual: str, strength: str, name: str) -> str:
        # strength scales the residual's step: 0 gives the input bit for bit
        step, zero = self.steps[residual]
        scale = self.graph.node("Mul", [strength, self._q(step, zero)[0]], f"{name}_step")
        b = [residual, scale, self._q(step, zero)[1]]
        return self._binary("QLinearAdd", [x, *self._q(1.0, 0)], b, (1.0, 0), name)


def assemble(graph: Graph, ops: FloatOps | QuantOps, student: Student) -> None:
    """The student's graph, as in the picture at the top of networks/student.py."""
    config = student.config
    x = {p: ops.load(p) for p in PLANES}
    corrections: dict[str, str] = {}
    f = x
    if config.temporal:
        d = {p: ops.difference(ops.load(f"state_{p}"), x[p], f"difference_{p}") for p in PLANES}
        e = ops.conv(ops.pack(d, GATE_GRID, "difference"), "gate_in", relu=True, scale=1 / 128)
        e = ops.conv(e, "gate_mid", relu=True)
        gates = ops.unpack(ops.conv(e, "gate_out", relu=False, gate=True), GATE_GRID, "gate")
        corrections = {p: ops.correction(d[p], gates[p], f"correction_{p}") for p in PLANES}
        f = {p: ops.apply(x[p], corrections[p], f"fused_{p}") for p in PLANES}
        for p in PLANES:
            ops.store(f[p], f"state_{p}_out")
    h = ops.conv(ops.pack(f, config.grid, "fused"), "head", relu=True, scale=1 / 128, offset=128)
    for i in range(config.depth):
        h = ops.conv(h, f"body.{i}", relu=True)
    residuals = ops.unpack(ops.conv(h, "tail", relu=False), config.grid, "tail")
    for p in PLANES:
        residual = ops.residual(residuals[p], corrections.get(p), f"residual_{p}")
        ops.output(p, residual, "strength", f"{p}_out")


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
    state = [(f"state_{n}", s) for n, s in planes] if student.config.temporal else []
    value = helper.make_tensor_value_info
    inputs = [value(n, TensorProto.UINT8, s) for n, s in planes] + [value("strength", TensorProto.FLOAT, [])]
    inputs += [value(n, TensorProto.UINT8, s) for n, s in state]
    outputs = [value(f"{n}_out", TensorProto.UINT8, s) for n, s in planes + state]
    outputs += [value(n, TensorProto.FLOAT, [None] * 4) for n in extra_outputs]
    proto = helper.make_graph(graph.nodes, "sharpcam", inputs, outputs, list(graph.constants.values()))
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(proto, opset_imports=opsets, ir_version=9, producer_name="sharpcam")
    onnx.checker.check_model(model)
    return model


def session(model: onnx.ModelProto, threads: int = 1) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


Runner = Callable[[Array, float], Array]


def runner(
    model: onnx.ModelProto, watch: Callable[[str, Array], None] | None = None, names: list[str] | None = None
) -> Runner:
    """A function from an I420 clip (T, H * 3 // 2, W) uint8 and a strength to the clip that the model makes of it."""
    s = session(model)
    memory = [i.name for i in s.get_inputs() if i.name.startswith("state")]
    wanted = ["y_out", "uv_out", *(f"{m}_out" for m in memory), *(names or [])]

    def run(clip: Array, strength: float = 1.0) -> Array:
        height, width = clip.shape[1] * 2 // 3, clip.shape[2]
        shapes = {"y": (1, 1, height, width), "uv": (1, 2, height // 2, width // 2)}
        states = {f"state_{p}": np.zeros(shapes[p], np.uint8) for p in PLANES}
        out = np.empty_like(clip)
        for t, frame in enumerate(clip):
            feeds = {"strength": np.array(strength, np.float32)} | {m: states[m] for m in memory}
            feeds |= {"y": frame[:height].reshape(shapes["y"]), "uv": frame[height:].reshape(shapes["uv"])}
            results = dict(zip(wanted, s.run(wanted, feeds), strict=True))
            out[t, :height] = results["y_out"][0, 0]
            out[t, height:] = results["uv_out"].reshape(height // 2, width)
            states = {m: results[f"{m}_out"] for m in memory}
            for name in names or []:
                if watch is not None:
                    watch(name, results[name])
        return out

    return run


def calibrate(student: Student, clips: Iterable[Array]) -> Ranges:
    """(low, high) of each convolution's output over I420 `clips`: percentiles, so that one outlier does not cost
    everybody their resolution."""
    layers = [n for n in folded_weights(student) if n != "gate_out"]
    names = layers + (["residual_y", "residual_uv"] if student.config.temporal else [])
    seen: dict[str, list[Array]] = {n: [] for n in names}

    def watch(name: str, values: Array) -> None:
        flat = np.sort(values.ravel())
        cut = [np.percentile(flat, 100 - PERCENTILE), np.percentile(flat, PERCENTILE)]
        seen[name].append(np.array(cut))

    run = runner(build_model(student, "float32", extra_outputs=names), watch, names)
    for clip in clips:
        run(clip, 1.0)
    # the widest frame decides: what saturates there would be seen
    return {
        n: (float(np.min([v[0] for v in vs])), float(np.max([v[1] for v in vs]))) for n, vs in seen.items()
    }


def clip_psnr(a: Array, b: Array) -> float:
    """PSNR over all samples of two I420 clips, dB."""
    mse = float(np.mean((a.astype(np.float64) - b) ** 2))
    return 10 * math.log10(255**2 / max(mse, 1e-9))


def load_student(checkpoint: Path) -> tuple[Student, Recipe, dict[str, Any]]:
    """The averaged student of a checkpoint, its recipe and the checkpoint itself."""
    content = read_checkpoint(checkpoint)
    recipe = Recipe.model_validate(content["recipe"])
    student = build(recipe.network)
    student.load_state_dict(content["average"])
    if not isinstance(student, Student):
        raise ValueError(f"{checkpoint} holds a {recipe.network.kind}, not a student")
    student.quantize_weights()  # in every precision, so that all files of a model give one picture
    return student.eval(), recipe, content


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# -- model folders ---------------------------------------------------------------------------------------

PRECISIONS = {"uint8": "model.onnx", "float32": "model-float32.onnx", "float16": "model-float16.onnx"}


def export_student(
    checkpoint: Path,
    folder: Path,
    *,
    clips: Clips,
    precisions: Iterable[str] = ("uint8",),
    calibration: int = 24,
) -> Path:
    """Writes `folder`/model.onnx (uint8), the other asked precisions beside it, model.toml and CARD.md.

    `clips` calibrate the ranges. Returns the folder. A float16 file becomes the manifest's CUDA variant.
    """
    from training.card import write_card, write_manifest

    student, recipe, content = load_student(checkpoint)
    arrays, _ = clips.batch(range(calibration))
    ranges = calibrate(student, arrays)
    folder.mkdir(parents=True, exist_ok=True)
    for precision in dict.fromkeys(["uint8", *precisions]):
        model = build_model(student, precision, ranges if precision == "uint8" else None)
        for key, value in (("recipe", recipe.model_dump_json()), ("commit", content["commit"])):
            model.metadata_props.append(onnx.StringStringEntryProto(key=key, value=value))
        target = folder / PRECISIONS[precision]
        partial = target.with_suffix(".part")
        partial.write_bytes(model.SerializeToString())
        partial.rename(target)
    write_manifest(folder, student, recipe, content)
    write_card(folder, recipe, content)
    return folder


def main() -> None:
    from training.data import scan

    parser = argparse.ArgumentParser(
        prog="python -m training.export", description="Exports a checkpoint as a model folder."
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument(
        "--out", type=Path, required=True, help="model folder to write; its name is the model's name"
    )
    parser.add_argument("--data", type=Path, help="folder of pictures to calibrate on")
    parser.add_argument("--packed", type=Path, help="packed clips to calibrate on instead")
    parser.add_argument("--precision", nargs="*", default=["uint8"], choices=list(PRECISIONS))
    args = parser.parse_args()
    if args.packed:
        clips = Clips.open_packed(args.packed)
    elif args.data:
        from training.data import ClipSpec

        clips = Clips(scan(args.data), ClipSpec(seed=4242))
    else:
        parser.error("say what to calibrate on: --data DIR or --packed FILE")
    print(f"wrote {export_student(args.checkpoint, args.out, clips=clips, precisions=args.precision)}")


if __name__ == "__main__":
    from training.distill import run

    run(main)
