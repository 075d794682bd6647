"""Model manifests: what a model is, where it lies, and whether it is the one that was published.

A model is a folder `NAME/` with `model.onnx`, `model.toml` and `CARD.md`. The manifest of a yuv420 student::

    name = "m"
    version = "1.0"
    file = "model.onnx"
    sha256 = "..."                # of `file`; a file that does not match is refused
    layout = "yuv420"             # or "rgb"
    precision = "uint8"           # uint8, int8, float16, float32, mixed
    size_multiple = 8             # frame sides are padded to a multiple of this
    strength_input = true         # the graph has the float32 scalar input "strength"
    default = false               # chosen by "auto" where no model is called "m"
    parameters = 123456
    macs_per_pixel = 2400.0
    recipe = "sharpcam"
    teacher = "restormer"
    created = 2026-01-31

    [[state]]                     # carried from frame to frame; none for a still model
    input = "state"
    output = "state_out"
    shape = [1, 96, "H/8", "W/8"] # "H" and "W" are the padded frame's sides
    dtype = "uint8"
    initial = 0                   # or the name of an input: the state starts as what that input is given

    [[training_data]]
    name = "..."
    licence = "..."

    [[metrics]]
    set = "..."
    psnr_before = 30.1            # dB; further numbers may stand beside these four
    psnr_after = 31.2
    ssim_before = 0.90
    ssim_after = 0.92

    [variants.cuda]               # optional: another file where CUDA runs
    file = "model-fp16.onnx"
    sha256 = "..."
    precision = "float16"         # `state` may stand here too if it differs

`inputs` and `outputs` (tables of `name`, `shape`, `dtype`) may be left out: a yuv420 graph has `y`
uint8 (1,1,H,W) and `uv` uint8 (1,2,H/2,W/2) in, `y_out` and `uv_out` out; an rgb graph one float32
(1,3,H,W) RGB picture in 0..1 in and one out, under any names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sharpcam.errors import ModelError

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"

DType = Literal["uint8", "float16", "float32"]
Precision = Literal["uint8", "int8", "float16", "float32", "mixed"]
Dimension = Annotated[int, Field(gt=0)] | Annotated[str, Field(pattern=r"^[HW](/[1-9]\d{0,2})?$")]
Shape = Annotated[tuple[Dimension, ...], Field(strict=False)]
FileName = Annotated[str, Field(pattern=r"^[^./\\][^/\\]*$")]  # beside the manifest, nowhere else
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Layout(StrEnum):
    YUV420 = "yuv420"
    RGB = "rgb"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Tensor(_Strict):
    """One input or output of a graph."""

    name: str
    shape: Shape
    dtype: DType = "uint8"


class State(_Strict):
    """A tensor that the graph gives out and takes back with the next frame."""

    input: str
    output: str
    shape: Shape
    dtype: DType = "uint8"
    initial: Annotated[float, Field(strict=False)] | str = 0


class TrainingData(_Strict):
    name: str
    licence: str
    url: str = ""


class Metrics(_Strict):
    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    set: str
    psnr_before: float | None = None
    psnr_after: float | None = None
    ssim_before: float | None = None
    ssim_after: float | None = None


class Variant(_Strict):
    """The file for one execution provider; what is not named here is as in the manifest."""

    file: FileName
    sha256: Sha256
    precision: Precision
    state: Annotated[tuple[State, ...], Field(strict=False)] | None = None


class Manifest(_Strict):
    """`model.toml`. The fields are explained at the top of this module."""

    name: str = Field(pattern=NAME_PATTERN)
    version: str
    file: FileName
    sha256: Sha256
    layout: Annotated[Layout, Field(strict=False)]
    precision: Precision
    inputs: Annotated[tuple[Tensor, ...], Field(strict=False)] = ()
    outputs: Annotated[tuple[Tensor, ...], Field(strict=False)] = ()
    state: Annotated[tuple[State, ...], Field(strict=False)] = ()
    size_multiple: int = Field(default=8, ge=1, le=256)
    strength_input: bool = False
    default: bool = False
    description: str = ""
    parameters: int | None = Field(default=None, gt=0)
    macs_per_pixel: float | None = Field(default=None, gt=0)
    recipe: str = ""
    teacher: str = ""
    training_data: Annotated[tuple[TrainingData, ...], Field(strict=False)] = ()
    metrics: Annotated[tuple[Metrics, ...], Field(strict=False)] = ()
    created: datetime | date | str = ""
    variants: dict[Literal["cuda"], Variant] = {}

    @model_validator(mode="before")
    @classmethod
    def _yuv420_tensors(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("layout") == "yuv420":
            values = {"inputs": _planes(""), "outputs": _planes("_out")} | values
        return values

    @model_validator(mode="after")
    def _tensors_fit(self) -> Manifest:
        for state in self.state:
            given = {tensor.name: tensor for tensor in self.inputs}
            if isinstance(state.initial, str) and (
                (start := given.get(state.initial)) is None
                or (start.shape, start.dtype) != (state.shape, state.dtype)
            ):
                raise ValueError(
                    f"state {state.input} cannot start as {state.initial!r}: no input of its shape and type"
                )
        if self.layout is Layout.YUV420:
            for what, tensors, suffix in (("inputs", self.inputs, ""), ("outputs", self.outputs, "_out")):
                if tensors != tuple(Tensor(**plane) for plane in _planes(suffix)):
                    raise ValueError(
                        f"{what} of a yuv420 model are uint8 y{suffix} (1,1,H,W), uv{suffix} (1,2,H/2,W/2)"
                    )
        elif len(self.inputs) > 1 or len(self.outputs) > 1:
            raise ValueError("an rgb model has one picture in and one out")
        return self


def _planes(suffix: str) -> tuple[dict[str, Any], ...]:
    return (
        {"name": f"y{suffix}", "shape": (1, 1, "H", "W")},
        {"name": f"uv{suffix}", "shape": (1, 2, "H/2", "W/2")},
    )


def resolve_shape(shape: tuple[int | str, ...], width: int, height: int) -> tuple[int, ...]:
    """Numbers for a shape that names "H", "W" or a fraction of them."""
    sides = {"H": height, "W": width}
    return tuple(side if isinstance(side, int) else sides[side[0]] // int(side[2:] or 1) for side in shape)


# A graph without a manifest, and a graph against its manifest


@dataclass(frozen=True)
class Port:
    """An input or output as the graph itself declares it; a side is a number or a symbolic name."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]

    def __str__(self) -> str:
        return _listed([self])


def infer_manifest(path: Path, inputs: Sequence[Port], outputs: Sequence[Port], sha256: str) -> Manifest:
    """What can be told from a bare graph; raises ModelError, with its inputs, when that is not enough."""
    facts: dict[str, Any] = {
        "name": re.sub(r"^[^A-Za-z0-9]+|[^A-Za-z0-9._-]", "_", path.stem)[:64].lstrip("_") or "model",
        "version": "?",
        "file": path.name,
        "sha256": sha256,
    }
    dtypes = {port.name: port.dtype for port in inputs}
    if dtypes.get("y") == dtypes.get("uv") == "uint8":
        facts |= {"layout": Layout.YUV420, "precision": "uint8", "strength_input": "strength" in dtypes}
        others = [port for port in inputs if port.name not in ("y", "uv", "strength")]
        facts["state"] = [_infer_state(path, port, inputs, outputs) for port in others]
    elif len(inputs) == len(outputs) == 1 and _is_picture(inputs[0]) and _is_picture(outputs[0]):
        # the file does not say how often it halves the picture; 16 is right for up to four times
        facts |= {"layout": Layout.RGB, "precision": "float32", "size_multiple": 16}
    else:
        raise ModelError(
            f"{path}: cannot tell how to feed this graph; its inputs are {_listed(inputs)}",
            "expected y and uv uint8 (yuv420) or one float32 (1,3,H,W) RGB picture; others need a model.toml",
        )
    return complete(Manifest.model_validate(facts), inputs, outputs)


def _is_picture(port: Port) -> bool:
    if port.dtype != "float32" or len(port.shape) != 4:
        return False
    return port.shape[1] == 3 or (not isinstance(port.shape[1], int) and port.shape[3] != 3)


def _infer_state(path: Path, port: Port, inputs: Sequence[Port], outputs: Sequence[Port]) -> dict[str, Any]:
    told = all(isinstance(side, int) or re.match(r"^[HW](/[1-9]\d*)?$", str(side)) for side in port.shape)
    if not told or port.dtype not in ("uint8", "float16", "float32"):
        raise ModelError(
            f"{path}: cannot tell what the graph's input {port} is",
            "a state has sides such as H/8 and an output of its name with _out; others need a model.toml",
        )
    if not any(out.name == f"{port.name}_out" for out in outputs):
        raise ModelError(
            f"{path}: the graph's input {port} has no output {port.name}_out", "others need a model.toml"
        )
    plane = port.name.removeprefix("state_")
    like = [
        p.name for p in inputs if (p.name, p.dtype, p.shape) == (plane, port.dtype, port.shape) and p != port
    ]
    return {
        "input": port.name,
        "output": f"{port.name}_out",
        "shape": port.shape,
        "dtype": port.dtype,
        "initial": like[0] if like else 0,  # a state_y of the shape of y is the picture before
    }


def complete(manifest: Manifest, inputs: Sequence[Port], outputs: Sequence[Port]) -> Manifest:
    """The manifest with the names that an rgb manifest may leave to the graph.

    Raises ModelError unless the graph has just the inputs and outputs that the manifest promises.
    """
    found = {}
    for what, ports, told, states in (
        ("inputs", inputs, manifest.inputs, [s.input for s in manifest.state]),
        ("outputs", outputs, manifest.outputs, [s.output for s in manifest.state]),
    ):
        if not told:
            told = tuple(
                Tensor(name=port.name, shape=_picture_shape(port), dtype="float32")
                for port in ports
                if port.name not in (*states, "strength")
            )
        wanted = [*told]
        wanted += [
            Tensor(name=name, shape=state.shape, dtype=state.dtype)
            for name, state in zip(states, manifest.state, strict=True)
        ]
        if what == "inputs" and manifest.strength_input:
            wanted.append(Tensor(name="strength", shape=(), dtype="float32"))
        if len(told) != len(getattr(manifest, what) or (1,)) or not _same(ports, wanted):
            raise ModelError(
                f'model "{manifest.name}": the graph\'s {what} are {_listed(ports)}; '
                f"its manifest promises {_listed(wanted)}",
                "graph and manifest do not belong together; export or install the model again",
            )
        found[what] = told
    return manifest.model_copy(update=found)


def _picture_shape(port: Port) -> tuple[int | str, ...]:
    """(1, 3, "H", "W"), with numbers for sides that the graph has fixed."""
    sides = zip(port.shape[2:4], "HW", strict=False)
    return 1, 3, *(side if isinstance(side, int) else free for side, free in sides)


def _same(ports: Sequence[Port], wanted: Sequence[Tensor]) -> bool:
    """Same names, types and ranks, and no two different numbers for one side."""
    by_name = {port.name: port for port in ports}
    return by_name.keys() == {tensor.name for tensor in wanted} and all(
        by_name[t.name].dtype == t.dtype
        and len(by_name[t.name].shape) == len(t.shape)
        and not any(
            isinstance(side, int) and isinstance(want, int) and side != want
            for side, want in zip(by_name[t.name].shape, t.shape, strict=True)
        )
        for t in wanted
    )


def _listed(ports: Sequence[Port | Tensor]) -> str:
    return (
        ", ".join(
            f"{port.name} {port.dtype} ({','.join(str(side) for side in port.shape)})" for port in ports
        )
        or "none"
    )
