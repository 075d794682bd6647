"""A model that visibly sharpens: an unsharp mask on the luma, as a yuv420 graph with a strength."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
from tiny_models import write_model


def write_sharpen_model(folder: Path) -> Path:
    onnx = pytest.importorskip("onnx", reason="the test model is built with onnx (extra: training)")
    from onnx import TensorProto as T
    from onnx import helper as h
    from onnx import numpy_helper as nh

    kernel = np.full((3, 3), -1 / 8, np.float32)
    kernel[1, 1] = 1.0
    constants = [
        nh.from_array(kernel.reshape(1, 1, 3, 3) * 3, "kernel"),
        nh.from_array(np.float32(0), "low"),
        nh.from_array(np.float32(255), "high"),
    ]
    nodes = [
        h.make_node("Cast", ["y"], ["luma"], to=T.FLOAT),
        h.make_node("Conv", ["luma", "kernel"], ["edges"], pads=[1, 1, 1, 1]),
        h.make_node("Mul", ["edges", "strength"], ["more"]),
        h.make_node("Add", ["luma", "more"], ["sum"]),
        h.make_node("Clip", ["sum", "low", "high"], ["clipped"]),
        h.make_node("Cast", ["clipped"], ["y_out"], to=T.UINT8),
        h.make_node("Identity", ["uv"], ["uv_out"]),
    ]
    y, uv = [1, 1, "H", "W"], [1, 2, "H/2", "W/2"]
    inputs = [
        h.make_tensor_value_info("y", T.UINT8, y),
        h.make_tensor_value_info("uv", T.UINT8, uv),
        h.make_tensor_value_info("strength", T.FLOAT, []),
    ]
    outputs = [h.make_tensor_value_info("y_out", T.UINT8, y), h.make_tensor_value_info("uv_out", T.UINT8, uv)]
    graph = h.make_graph(nodes, "unsharp", inputs, outputs, constants)
    opsets = [h.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return write_model(folder, bytes(model.SerializeToString()), strength_input=True)
