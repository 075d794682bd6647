"""float16 graphs as a GPU computes them: every tensor rounded to float16, convolutions summed in float32.

ONNX Runtime's CPU keeps float32 between a graph's convolutions, which flatters the graph; this does not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from test_export import U8, graphs, noisy_clip  # noqa: F401

from sharpcam.models import find_model
from training.export import Runner, clip_psnr, fresh_states, runner
from training.graph import MEANS

DTYPES = {1: torch.float32, 2: torch.uint8, 10: torch.float16, 11: torch.float64}


def apply(op: str, x: list[torch.Tensor], a: dict[str, Any]) -> list[torch.Tensor]:
    """One node of a student's float graph, its outputs in the type of its inputs."""
    if op == "Conv":  # the library's own half precision differs from build to build
        top, left, bottom, right = a["pads"]
        x[0] = F.pad(x[0], (left, right, top, bottom))
        out = F.conv2d(*(t.float() for t in x), stride=a.get("strides", [1])[0])
        return [out.to(x[0].dtype)]
    if op == "Gemm":
        return [(x[0].float() @ x[1].float().T + x[2].float()).to(x[0].dtype)]
    if op == "GlobalAveragePool":
        return [x[0].float().mean((2, 3), keepdim=True).to(x[0].dtype)]
    if op == "Split":
        return list(torch.split(x[0], x[1].tolist(), a["axis"]))
    if op == "Div" and not x[0].is_floating_point():
        return [torch.div(*x, rounding_mode="floor")]
    simple: dict[str, Any] = {
        "Add": lambda: x[0] + x[1],
        "Sub": lambda: x[0] - x[1],
        "Mul": lambda: x[0] * x[1],
        "Div": lambda: x[0] / x[1],
        "Cast": lambda: x[0].to(DTYPES[a["to"]]),
        "Clip": lambda: torch.clamp(x[0], x[1], x[2]),
        "Concat": lambda: torch.cat(x, a["axis"]),
        "Relu": lambda: torch.relu(x[0]),
        "Reshape": lambda: x[0].reshape([d or x[0].shape[i] for i, d in enumerate(x[1].tolist())]),
        "Round": lambda: torch.round(x[0]),
        "Shape": lambda: torch.tensor(x[0].shape[a["start"] : a["end"]]),
        "Transpose": lambda: x[0].permute(a["perm"]),
    }
    return [simple[op]()]


def strictly(model: onnx.ModelProto) -> Runner:
    """Like `runner`, but every node is computed by itself."""
    constants = {t.name: torch.tensor(numpy_helper.to_array(t)) for t in model.graph.initializer}
    memory = [i.name for i in model.graph.input if i.name.startswith("state")]
    unknown = {
        i.name: np.zeros([d.dim_value for d in i.type.tensor_type.shape.dim])
        for i in model.graph.input
        if i.name == MEANS
    }

    def run(clip: U8, strength: float = 1.0) -> U8:
        height, width = clip.shape[1] * 2 // 3, clip.shape[2]
        shapes = {"y": (1, 1, height, width), "uv": (1, 2, height // 2, width // 2)}
        states: dict[str, torch.Tensor] = {}
        out = np.empty_like(clip)
        # the first one twice, for what it tells of the scene
        for t, frame in enumerate(torch.tensor(np.concatenate([clip[: len(unknown)], clip])), -len(unknown)):
            x = {"y": frame[:height].reshape(shapes["y"]), "uv": frame[height:].reshape(shapes["uv"])}
            values = constants | x | {"strength": torch.tensor(strength)}
            fresh = fresh_states({p: plane.numpy() for p, plane in x.items()}) | unknown
            values |= {name: states[name] if name in states else torch.tensor(fresh[name]) for name in memory}
            for node in model.graph.node:
                attributes = {p.name: onnx.helper.get_attribute_value(p) for p in node.attribute}
                found = apply(node.op_type, [values[name] for name in node.input], attributes)
                values |= dict(zip(node.output, found, strict=True))
            out[t, :height] = values["y_out"][0, 0].numpy()
            out[t, height:] = values["uv_out"].reshape(height // 2, width).numpy()
            states = {name: values[f"{name}_out"] for name in memory if t >= 0 or name in unknown}
        return out

    return run


@pytest.fixture(scope="module")
def clip() -> U8:
    return noisy_clip()


def test_the_yardstick_is_right(graphs: tuple[Any, dict[str, onnx.ModelProto]], clip: U8) -> None:  # noqa: F811
    wanted = runner(graphs[1]["float32"])(clip, 0.8)
    assert clip_psnr(strictly(graphs[1]["float32"])(clip, 0.8), wanted) > 75


def test_rounding_every_tensor_to_float16_stays_near_float32(
    graphs: tuple[Any, dict[str, onnx.ModelProto]],  # noqa: F811
    clip: U8,
) -> None:
    wanted = runner(graphs[1]["float32"])(clip, 1.0)
    out = strictly(graphs[1]["float16"])(clip, 1.0)
    assert not np.array_equal(out, wanted)  # it is another arithmetic
    assert clip_psnr(out, wanted) > 55
    assert np.array_equal(strictly(graphs[1]["float16"])(clip, 0.0), clip)


def test_the_shipped_float16_is_the_shipped_uint8(clip: U8) -> None:
    model = find_model("m")
    half, whole = (onnx.load_from_string(model.read(model.for_provider(p))) for p in ("cuda", "cpu"))
    assert model.for_provider("cuda").precision == "float16"
    strict = strictly(half)(clip, 1.0)
    assert clip_psnr(strict, runner(half)(clip, 1.0)) > 55
    # nearer to each other than either is to what went in
    assert clip_psnr(strict, runner(whole)(clip, 1.0)) > clip_psnr(strict, clip) + 6


def test_what_is_the_size_of_a_picture_is_float16_or_uint8(
    graphs: tuple[Any, dict[str, onnx.ModelProto]],  # noqa: F811
) -> None:
    """float32 anywhere but in `strength` would double the traffic of the GPU's memory."""
    model = onnx.shape_inference.infer_shapes(graphs[1]["float16"])
    allowed = {onnx.TensorProto.FLOAT16, onnx.TensorProto.UINT8, onnx.TensorProto.INT64}
    wide = [v for v in model.graph.value_info if v.type.tensor_type.elem_type not in allowed]
    sides = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in wide}
    assert all(s[2:] in ([], [1, 1]) for s in sides.values()), sides
    ports = [*model.graph.input, *model.graph.output]
    pictures = [p for p in ports if p.name != "strength" and not p.name.startswith(MEANS)]
    assert {p.type.tensor_type.elem_type for p in pictures} == {onnx.TensorProto.UINT8}
