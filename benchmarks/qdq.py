"""A quantised graph in the form that other runtimes take: float operations between QuantizeLinear and
DequantizeLinear (QDQ), rewritten from the file that ships.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from sharpcam.errors import ModelError

Array = NDArray[Any]


def qdq_form(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model`, with inputs and outputs as they are, its quantised operations written as QDQ.

    The numbers are the same but for rounding. Raises ModelError for another operation of Microsoft's.
    """
    new = _Rewriter(model)
    for node in model.graph.node:
        if node.op_type == "QLinearConv":
            new.conv(node)
        elif node.op_type in ("QLinearAdd", "QLinearMul"):
            new.binary(node, node.op_type.removeprefix("QLinear"))
        elif node.domain:
            raise ModelError(f"operation {node.op_type} ({node.domain}) has no QDQ form here")
        else:
            new.nodes.append(node)
    return new.finish()


class _Rewriter:
    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._values = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
        self._made: dict[str, onnx.TensorProto] = {}
        # steps that are computed: gains (n,) times what is known beforehand
        self._products = {n.output[0]: n.input for n in model.graph.node if n.op_type == "Mul"}
        self.nodes: list[onnx.NodeProto] = []

    def conv(self, node: onnx.NodeProto) -> None:
        x, x_step, x_zero, w, w_step, w_zero, y_step, y_zero, *bias = node.input
        y = node.output[0]
        gains, w_step = self._products.get(w_step, ("", w_step))
        inputs = [
            self._real(x, x_step, x_zero),
            self._node("DequantizeLinear", [w, w_step, w_zero], f"{y}.real_weight", axis=0),
        ]
        if bias:
            step = self._values[x_step].astype(np.float64) * self._values[w_step]
            inputs.append(self._constant(self._values[bias[0]] * step, f"{y}.real_bias"))
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        result = self._node("Conv", inputs, f"{y}.real", **attributes)
        if gains:  # of the result, so that the weights stay known beforehand
            self._made["column"] = numpy_helper.from_array(np.array([1, -1, 1, 1]), "column")
            column = self._node("Reshape", [gains, "column"], f"{y}.gains")
            result = self._node("Mul", [result, column], f"{y}.times")
        self._node("QuantizeLinear", [result, y_step, y_zero], y)

    def binary(self, node: onnx.NodeProto, op: str) -> None:
        a, a_step, a_zero, b, b_step, b_zero, y_step, y_zero = node.input
        y = node.output[0]
        result = self._node(op, [self._real(a, a_step, a_zero), self._real(b, b_step, b_zero)], f"{y}.real")
        self._node("QuantizeLinear", [result, y_step, y_zero], y)

    def _real(self, x: str, step: str, zero: str) -> str:
        """What the codes of `x` stand for."""
        name = f"{x}.real{len(self.nodes)}"
        if step in self._values and (self._values[step] > 0).all():
            return self._node("DequantizeLinear", [x, step, zero], name)
        # a step that is computed from the strength, or the negative one that subtracts
        one = self._constant(np.array(1.0), "one")
        return self._node(
            "Mul", [self._node("DequantizeLinear", [x, one, zero], f"{name}.codes"), step], name
        )

    def _constant(self, value: Array, name: str) -> str:
        self._made[name] = numpy_helper.from_array(value.astype(np.float32), name)
        return name

    def _node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=f"{output}_{op}", **attributes))
        return output

    def finish(self) -> onnx.ModelProto:
        wanted = {name for node in self.nodes for name in node.input}
        old = self._model.graph
        constants = [*self._made.values(), *(i for i in old.initializer if i.name in wanted)]
        graph = helper.make_graph(self.nodes, old.name, list(old.input), list(old.output), constants)
        opsets = [opset for opset in self._model.opset_import if not opset.domain]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=self._model.ir_version)
        onnx.checker.check_model(model)
        return model
