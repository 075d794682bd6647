"""The most that ONNX Runtime gets out of this machine in one operation: what networks are held against.

Each candidate is a graph of one node on constant weights, in the shape in which it is fastest. Matrix products
are 1024 x 1024 x 1024; convolutions are 3 x 3 on maps of 180 x 320, where a student at 720p has them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sharpcam.runtime import session_options

SIDE = 1024
MAP = (180, 320)


@dataclass(frozen=True)
class Peak:
    """A call that computes `macs` multiply-accumulates in `precision`."""

    title: str
    precision: str
    macs: int
    call: Callable[[], object]


def peaks(threads: int) -> dict[str, Peak]:
    """The candidates by name."""
    rng = np.random.default_rng(0)
    square, product = (SIDE, SIDE), SIDE**3
    floats, bytes_ = rng.random(square, np.float32), rng.integers(0, 256, square, np.uint8)
    # 7 bits, as the students have them
    weights = rng.integers(-63, 64, square, np.int8)
    found = {
        "matmul-float32": _peak("MatMul", [floats, floats], threads, "float32", product),
        "matmul-uint8": _peak("MatMulInteger", [bytes_, weights], threads, "uint8", product),
    }
    steps = [_f(0.01), _u(128)]
    arguments: list[Any] = [bytes_, *steps, weights, _f(0.01), np.array(0, np.int8), _f(3.0), _u(128)]
    found["qlinearmatmul-uint8"] = _peak("QLinearMatMul", arguments, threads, "uint8", product)
    for channels in (64, 128):
        macs = channels**2 * 9 * MAP[0] * MAP[1]
        kernel = rng.integers(-63, 64, (channels, channels, 3, 3), np.int8)
        picture = rng.integers(0, 256, (1, channels, *MAP), np.uint8)
        arguments = [picture, *steps, kernel, _f(0.01), np.array(0, np.int8), _f(3.0), _u(128)]
        found[f"conv{channels}-uint8"] = _peak("QLinearConv", arguments, threads, "uint8", macs)
        wide: list[Any] = [picture.astype(np.float32), kernel.astype(np.float32)]
        found[f"conv{channels}-float32"] = _peak("Conv", wide, threads, "float32", macs)
    return found


def _peak(op: str, arguments: list[NDArray[Any]], threads: int, precision: str, macs: int) -> Peak:
    first, *constants = arguments
    names = [f"c{i}" for i in range(len(constants))]
    attributes: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]} if "Conv" in op else {}
    kind = helper.np_dtype_to_tensor_dtype(first.dtype)
    output = {"MatMulInteger": TensorProto.INT32}.get(op, kind)
    graph = helper.make_graph(
        [helper.make_node(op, ["x", *names], ["y"], **attributes)],
        "peak",
        [helper.make_tensor_value_info("x", kind, first.shape)],
        [helper.make_tensor_value_info("y", output, first.shape)],  # as square as the input
        [numpy_helper.from_array(c, n) for c, n in zip(constants, names, strict=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    session = ort.InferenceSession(
        model.SerializeToString(), session_options(threads), providers=["CPUExecutionProvider"]
    )
    what = f"3x3 on {first.shape[1]} channels" if "Conv" in op else f"{SIDE} x {SIDE} x {SIDE}"
    return Peak(f"{op}, {what}", precision, macs, lambda: session.run(None, {"x": first}))


def _f(value: float) -> NDArray[Any]:
    return np.array(value, np.float32)


def _u(value: int) -> NDArray[Any]:
    return np.array(value, np.uint8)
