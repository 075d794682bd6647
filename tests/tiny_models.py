"""Tiny models with real graphs, and their manifests."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

STATE_INITIAL = 128


def yuv_graph(*, state: bool = True, strength: bool = True, wrong_shape: bool = False) -> bytes:
    """A quantised yuv420 graph in the shape of the real students: out = x + strength * (x - last x) / 2.

    SpaceToDepth on uint8, a residual, QLinearAdd with `strength` in its scale, DepthToSpace. The state is
    the last input. Needs sides that are multiples of 8.
    """
    onnx = pytest.importorskip("onnx", reason="the test models are built with onnx (extra: training)")
    from onnx import TensorProto as T
    from onnx import helper as h
    from onnx import numpy_helper as nh

    nodes: list[Any] = []

    def node(op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        nodes.append(h.make_node(op, inputs, outputs, **attributes))

    node("SpaceToDepth", ["y"], ["y8"], blocksize=8)
    node("SpaceToDepth", ["uv"], ["uv4"], blocksize=4)
    node("Concat", ["y8", "uv4"], ["x"], axis=1)
    node("DequantizeLinear", ["x", "one", "zero"], ["xf"])
    node("DequantizeLinear", ["state" if state else "still", "one", "zero"], ["sf"])
    node("Sub", ["xf", "sf"], ["change"])
    node("QuantizeLinear", ["change", "two", "middle"], ["residual"])
    scale = "strength" if strength else "one"
    add = ["x", "one", "zero", "residual", scale, "middle", "one", "zero"]
    nodes.append(h.make_node("QLinearAdd", add, ["sum"], domain="com.microsoft"))
    node("Split", ["sum", "parts"], ["y8_out", "uv4_out"], axis=1)
    node("DepthToSpace", ["y8_out"], ["y_whole"], blocksize=8)
    node("DepthToSpace", ["uv4_out"], ["uv_out"], blocksize=4)
    if wrong_shape:
        node("Concat", ["y_whole", "y_whole"], ["y_out"], axis=3)
    else:
        node("Identity", ["y_whole"], ["y_out"])
    inputs = [
        h.make_tensor_value_info("y", T.UINT8, [1, 1, "H", "W"]),
        h.make_tensor_value_info("uv", T.UINT8, [1, 2, "H/2", "W/2"]),
    ]
    outputs = [
        h.make_tensor_value_info("y_out", T.UINT8, [1, 1, "H", "W_out" if wrong_shape else "W"]),
        h.make_tensor_value_info("uv_out", T.UINT8, [1, 2, "H/2", "W/2"]),
    ]
    constants = [
        nh.from_array(np.float32(1), "one"),
        nh.from_array(np.float32(2), "two"),
        nh.from_array(np.uint8(0), "zero"),
        nh.from_array(np.uint8(128), "middle"),
        nh.from_array(np.array([64, 32], np.int64), "parts"),
    ]
    if strength:
        inputs.append(h.make_tensor_value_info("strength", T.FLOAT, []))
    if state:
        inputs.append(h.make_tensor_value_info("state", T.UINT8, [1, 96, "H/8", "W/8"]))
        outputs.append(h.make_tensor_value_info("state_out", T.UINT8, [1, 96, "H/8", "W/8"]))
        node("Identity", ["x"], ["state_out"])
    else:
        constants.append(nh.from_array(np.array([STATE_INITIAL], np.uint8), "still"))
    return _model(onnx, h.make_graph(nodes, "yuv", inputs, outputs, constants))


def delay_graph() -> bytes:
    """A yuv420 graph that gives out the frame before: its states are whole planes."""
    onnx = pytest.importorskip("onnx", reason="the test models are built with onnx (extra: training)")
    from onnx import TensorProto as T
    from onnx import helper as h

    shapes: dict[str, list[Any]] = {"y": [1, 1, "H", "W"], "uv": [1, 2, "H/2", "W/2"]}
    moves = [(p, f"state_{p}_out") for p in shapes] + [(f"state_{p}", f"{p}_out") for p in shapes]
    nodes = [h.make_node("Identity", [a], [b]) for a, b in moves]
    inputs, outputs = (
        [
            h.make_tensor_value_info(move[side], T.UINT8, shapes["uv" if "uv" in move[0] else "y"])
            for move in moves
        ]
        for side in (0, 1)
    )
    return _model(onnx, h.make_graph(nodes, "delay", inputs, outputs))


DELAY_STATE = "".join(
    f'\n[[state]]\ninput = "state_{p}"\noutput = "state_{p}_out"\nshape = {shape}\ninitial = "{p}"\n'
    for p, shape in (("y", '[1, 1, "H", "W"]'), ("uv", '[1, 2, "H/2", "W/2"]'))
)


def scene_graph() -> bytes:
    """A yuv420 graph with a state of the whole frame: y less the mean of the y before, plus 128; uv as it is."""
    onnx = pytest.importorskip("onnx", reason="the test models are built with onnx (extra: training)")
    from onnx import TensorProto as T
    from onnx import helper as h
    from onnx import numpy_helper as nh

    steps = [
        ("Cast", ["y"], "levels", {"to": T.FLOAT}),
        ("GlobalAveragePool", ["levels"], "mean", {}),
        ("Round", ["mean"], "rounded", {}),
        ("Cast", ["rounded"], "state_mean_out", {"to": T.UINT8}),
        ("Cast", ["state_mean"], "last", {"to": T.FLOAT}),
        ("Sub", ["levels", "last"], "less", {}),
        ("Add", ["less", "middle"], "around", {}),
        ("Clip", ["around", "low", "high"], "clipped", {}),
        ("Cast", ["clipped"], "y_out", {"to": T.UINT8}),
        ("Identity", ["uv"], "uv_out", {}),
    ]
    nodes = [h.make_node(op, given, [made], **how) for op, given, made, how in steps]
    constants = [nh.from_array(np.float32(v), n) for n, v in (("low", 0), ("middle", 128), ("high", 255))]
    shapes: dict[str, list[Any]] = {"y": [1, 1, "H", "W"], "uv": [1, 2, "H/2", "W/2"]}
    shapes["state_mean"] = [1, 1, 1, 1]
    inputs, outputs = (
        [h.make_tensor_value_info(f"{n}{end}", T.UINT8, shape) for n, shape in shapes.items()]
        for end in ("", "_out")
    )
    return _model(onnx, h.make_graph(nodes, "scene", inputs, outputs, constants))


SCENE_STATE = '\n[[state]]\ninput = "state_mean"\noutput = "state_mean_out"\nshape = [1, 1, 1, 1]\n'


def rgb_graph(sides: tuple[int | str, int | str] = ("H", "W"), gains: tuple[float, ...] = (1, 1, 1)) -> bytes:
    """A float rgb graph: each channel times its gain, clipped to 0..1."""
    onnx = pytest.importorskip("onnx", reason="the test models are built with onnx (extra: training)")
    from onnx import TensorProto as T
    from onnx import helper as h
    from onnx import numpy_helper as nh

    constants = [
        nh.from_array(np.array(gains, np.float32).reshape(1, 3, 1, 1), "gains"),
        nh.from_array(np.float32(0), "low"),
        nh.from_array(np.float32(1), "high"),
    ]
    nodes = [
        h.make_node("Mul", ["picture", "gains"], ["scaled"]),
        h.make_node("Clip", ["scaled", "low", "high"], ["sharp"]),
    ]
    ports = [h.make_tensor_value_info(n, T.FLOAT, [1, 3, *sides]) for n in ("picture", "sharp")]
    return _model(onnx, h.make_graph(nodes, "rgb", ports[:1], ports[1:], constants))


def _model(onnx: Any, graph: Any) -> bytes:
    from onnx import helper as h

    opsets = [h.make_opsetid("", 17), h.make_opsetid("com.microsoft", 1)]
    model = h.make_model(graph, opset_imports=opsets, ir_version=8)
    return bytes(model.SerializeToString())


YUV_STATE = (
    '\n[[state]]\ninput = "state"\noutput = "state_out"\nshape = [1, 96, "H/8", "W/8"]\ndtype = "uint8"\n'
)


def write_model(folder: Path, graph: bytes, text: str = "", **fields: Any) -> Path:
    """A model folder: graph and manifest, of `fields` over those of a yuv420 student, plus `text`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(graph)
    values = {
        "name": folder.name,
        "version": "1.0",
        "file": "model.onnx",
        "sha256": hashlib.sha256(graph).hexdigest(),
        "layout": "yuv420",
        "precision": "uint8",
    } | fields
    lines = [f"{key} = {_toml(value)}" for key, value in values.items() if value is not None]
    (folder / "model.toml").write_text("\n".join(lines) + "\n" + text, encoding="utf-8")
    return folder


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else f'"{value}"'


def write_yuv_model(folder: Path, **fields: Any) -> Path:
    """The recurrent test student as a model folder."""
    state = YUV_STATE + f"initial = {STATE_INITIAL}\n"
    return write_model(folder, yuv_graph(), state, **({"strength_input": True} | fields))
