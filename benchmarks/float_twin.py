"""A shipped uint8 student as the float32 network that others would run: the same weights, over planes or over RGB.

The quantised operators become the plain ones (Conv, Add, Sub, Mul, Clip) with dequantised weights; nothing is
rounded between them, and ranges that only the calibration knows are not clamped, so that the float network is
given no work that it does not need. Strength is 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sharpcam.errors import ModelError

Twin = Literal["yuv420", "rgb"]

_UNCHANGED = (
    "Reshape",
    "Transpose",
    "Concat",
    "Split",
    "Slice",
    "Shape",
    "Div",
    "Identity",
    "Gemm",
    "Relu",
    "Clip",
)
_PLANES = {"y": [1, 1, "H", "W"], "uv": [1, 2, "H/2", "W/2"]}

# ITU-R BT.601, limited range, from RGB in 0..1
_TO_Y = np.array([65.481, 128.553, 24.966])
_TO_UV = np.array([[-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]])


class _Steps(NamedTuple):
    """What a uint8 code means: (code - zero) * scale."""

    scale: float
    zero: int


def float_twin(path: Path, layout: Twin) -> onnx.ModelProto:
    """The student in the uint8 file `path` in float32.

    "yuv420" takes and gives grey levels 0..255: `y` (1, 1, H, W) and `uv` (1, 2, H/2, W/2) to `y_out` and
    `uv_out`. "rgb" takes and gives `rgb` (1, 3, H, W) in 0..1 to `rgb_out` and converts inside the graph. States
    are inputs and outputs as in the file, in float32.

    Raises ModelError when the file is no such student.
    """
    try:
        twin = _Twin(onnx.load(str(path)).graph)
    except Exception as error:  # protobuf's own errors among them
        raise ModelError(
            f"{path} is no uint8 student: {error}", "give the model.onnx of a model folder"
        ) from error
    model = twin.model(layout)
    onnx.checker.check_model(model)
    return model


class _Twin:
    """Rewrites a graph node by node."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.values = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.steps = {port.name: _Steps(1.0, 0) for port in graph.input if _is_plane(port)}
        # of a product, its factors: a layer's gains, its weights' scales
        self.gains: dict[str, tuple[str, str]] = {}
        for node in graph.node:  # a state that is no picture means what its reader takes it for
            for place in (0, 3) if node.op_type == "QLinearAdd" else ():
                if node.input[place].startswith("state_added_"):
                    self.steps[node.input[place]] = self._meaning(*node.input[place + 1 : place + 3])
        for node in graph.node:
            self._rewrite(node)

    # The network

    def _rewrite(self, node: onnx.NodeProto) -> None:
        if node.op_type in _UNCHANGED:
            self._keep(node)
        elif node.op_type == "QLinearConv":
            self._conv(node)
        elif node.op_type == "QLinearAdd":
            self._add(node)
        elif node.op_type == "QLinearMul":
            self._multiply(node)
        elif node.op_type == "MatMulInteger":  # by ones: the sum of codes
            x, ones = node.input
            codes = self._scaled(x, _Steps(1.0, self.steps[x].zero), node.output[0])
            self._node("MatMul", [codes, ones], node.output[0])
        elif node.op_type == "ConstantOfShape":
            ones = numpy_helper.from_array(np.ones(1, np.float32))
            self._node("ConstantOfShape", list(node.input), node.output[0], value=ones)
        elif node.op_type == "Cast":  # float64, which is float32 here
            self._node("Cast", list(node.input), node.output[0], to=TensorProto.FLOAT)
        elif node.op_type == "Mul" and node.input[1] in self.values and node.input[0].endswith("_gains"):
            self.gains[node.output[0]] = node.input[0], node.input[1]
        elif node.op_type == "Mul" and "strength" in node.input:
            (other,) = (name for name in node.input if name != "strength")
            self.values[node.output[0]] = self.values[other]
        elif node.op_type == "Mul" and node.input[1] in self.values:
            x, step = node.input
            self._node("Mul", [x, self._constant(step, self.values[step])], node.output[0])
        else:
            raise ValueError(f"operator {node.op_type} is not known here")

    def _keep(self, node: onnx.NodeProto) -> None:
        known = {self.steps[name] for name in node.input if name in self.steps}
        if len(known) > 1:
            raise ValueError(f"{node.name} joins tensors of different steps")
        if known and node.op_type != "Shape":
            self.steps.update(dict.fromkeys(node.output, *known))
        for name in node.input:
            if name in self.values:
                self.constants.setdefault(name, numpy_helper.from_array(self.values[name], name))
        self.nodes.append(node)

    def _conv(self, node: onnx.NodeProto) -> None:
        x, x_scale, x_zero, weight, w_scale, _, y_scale, y_zero, bias = node.input
        gains, w_scale = self.gains.get(w_scale, ("", w_scale))
        read = self._meaning(x_scale, x_zero)
        x, ratio = self._centred(x, read, node.output[0])
        steps = self.values[w_scale].astype(np.float64)
        kernel = self.values[weight] * steps[:, None, None, None] * ratio
        inputs = [
            x,
            self._constant(weight, kernel),
            self._constant(bias, self.values[bias] * steps * read.scale),
        ]
        if gains:
            column = self._node("Reshape", [gains, self._whole("column", [-1, 1, 1, 1])], f"{weight}_column")
            inputs[1] = self._node("Mul", [inputs[1], column], f"{weight}_times")
            inputs[2] = self._node("Mul", [inputs[2], gains], f"{bias}_times")
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        self._given(node.output[0], self._meaning(y_scale, y_zero), "Conv", inputs, **attributes)

    def _add(self, node: onnx.NodeProto) -> None:
        a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = node.input
        out = node.output[0]
        a = self._scaled(a, self._meaning(a_scale, a_zero), f"{out}_a")
        meaning = self._meaning(b_scale, b_zero)
        if meaning.scale == -self.steps[b].scale and meaning.zero == self.steps[b].zero:
            operator = "Sub"
        else:
            operator, b = "Add", self._scaled(b, meaning, f"{out}_b")
        # what is beyond the memory's range is motion, however far: that is the network's doing, not the codes'
        self._given(
            out,
            self._meaning(y_scale, y_zero),
            operator,
            [a, b],
            saturates=any(name.startswith("state_added_") for name in node.input),
        )

    def _multiply(self, node: onnx.NodeProto) -> None:
        a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = node.input
        out = node.output[0]
        a = self._scaled(a, self._meaning(a_scale, a_zero), f"{out}_a")
        b = self._scaled(b, self._meaning(b_scale, b_zero), f"{out}_b")
        self._given(out, self._meaning(y_scale, y_zero), "Mul", [a, b])

    def _meaning(self, scale: str, zero: str) -> _Steps:
        return _Steps(float(self.values[scale]), int(self.values[zero]))

    def _centred(self, x: str, read: _Steps, name: str) -> tuple[str, float]:
        """`x` where 0 is what its reader takes for 0, and what it still has to be multiplied by."""
        told = self.steps[x]
        if told.zero != read.zero:
            offset = self._constant(f"{name}_offset", np.array((told.zero - read.zero) * told.scale))
            x = self._node("Add", [x, offset], f"{name}_centred")
        return x, read.scale / told.scale

    def _scaled(self, x: str, read: _Steps, name: str) -> str:
        x, ratio = self._centred(x, read, name)
        if ratio == 1.0:
            return x
        return self._node("Mul", [x, self._constant(f"{name}_ratio", np.array(ratio))], f"{name}_scaled")

    def _given(
        self,
        name: str,
        told: _Steps,
        operator: str,
        inputs: list[str],
        saturates: bool = False,
        **attributes: Any,
    ) -> None:
        """A result; where its codes start at zero, saturation is part of the network: a ReLU, a gate, a picture."""
        self.steps[name] = told
        if told.zero and not saturates:
            self._node(operator, inputs, name, **attributes)
            return
        raw = self._node(operator, inputs, f"{name}_raw", **attributes)
        ends = {end: (code - told.zero) * told.scale for end, code in (("low", 0), ("high", 255))}
        low, high = (self._constant(f"{name}_{end}", np.array(value)) for end, value in ends.items())
        self._node("Clip", [raw, low, high], name)

    # What goes in and out

    def model(self, layout: Twin) -> onnx.ModelProto:
        ports = {port.name: _sides(port) for port in (*self.graph.input, *self.graph.output)}
        states = [p.name for p in self.graph.input if p.name.startswith("state_")]
        results = [p.name for p in self.graph.output if p.name not in ("y_out", "uv_out")]
        first, last = ["y", "uv"], ["y_out", "uv_out"]
        if layout == "rgb":
            ports |= {name: [1, 3, "H", "W"] for name in ("rgb", "rgb_out")}
            first, last = ["rgb"], ["rgb_out"]
            ahead = len(self.nodes)
            self._from_rgb()
            self.nodes = self.nodes[ahead:] + self.nodes[:ahead]
            self._to_rgb()
        made = helper.make_graph(
            self.nodes,
            "float_twin",
            [_port(name, ports[name]) for name in (*first, *states)],
            [_port(name, ports[name]) for name in (*last, *results)],
            list(self.constants.values()),
        )
        return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)

    def _from_rgb(self) -> None:
        self._mix("rgb", _TO_Y[None], np.array([16.0]), "y")
        halves = self._node("AveragePool", ["rgb"], "rgb_halves", kernel_shape=[2, 2], strides=[2, 2])
        self._mix(halves, _TO_UV, np.array([128.0, 128.0]), "uv")

    def _to_rgb(self) -> None:
        back = np.linalg.inv(np.concatenate([_TO_Y[None], _TO_UV]))
        bias = -back @ np.array([16.0, 128.0, 128.0])
        luma = self._node("Mul", ["y_out", self._constant("luma", back[0, 0])], "rgb_of_y")
        colour = self._mix("uv_out", back[:, 1:], bias, "rgb_of_uv_halves")
        twice = self._constant("twice", np.array([1, 1, 2, 2]))
        colour = self._node("Resize", [colour, "", twice], "rgb_of_uv", mode="nearest")
        total = self._node("Add", [luma, colour], "rgb_raw")
        low, high = self._constant("zero", np.array(0.0)), self._constant("one", np.array(1.0))
        self._node("Clip", [total, low, high], "rgb_out")

    def _mix(self, x: str, matrix: NDArray[Any], bias: NDArray[Any], name: str) -> str:
        """Every pixel's channels times `matrix` (outputs, inputs) plus `bias`, as (1, outputs, H, W).

        A matrix product: ONNX Runtime's 1 x 1 convolution takes up to twenty times as long on so few channels.
        """
        outputs, inputs = matrix.shape
        flat = self._whole(f"flat{inputs}", [inputs, -1])
        rows = self._node("Reshape", [x, flat], f"{name}_rows")
        factors = [self._constant(f"{name}_matrix", matrix), self._constant(f"{name}_bias", bias[:, None])]
        mixed = self._node("Gemm", [factors[0], rows, factors[1]], f"{name}_mixed")
        sides = self._node("Shape", [x], f"{name}_sides", start=2, end=4)
        shape = self._node(
            "Concat", [self._whole(f"one_{outputs}", [1, outputs]), sides], f"{name}_shape", axis=0
        )
        return self._node("Reshape", [mixed, shape], name)

    def _whole(self, name: str, value: list[int]) -> str:
        self.constants.setdefault(name, numpy_helper.from_array(np.array(value, np.int64), name))
        return name

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        self.constants.setdefault(name, numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def _node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output


def _is_plane(port: onnx.ValueInfoProto) -> bool:
    return bool(port.type.tensor_type.elem_type == TensorProto.UINT8)


def _sides(port: onnx.ValueInfoProto) -> list[int | str]:
    return [d.dim_param or d.dim_value for d in port.type.tensor_type.shape.dim]


def _port(name: str, sides: list[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, sides)
