"""Model manifests: what a model is, where it lies, and whether it is the one that was published.

A model is a folder `NAME/` with `model.onnx`, `model.toml` and `CARD.md`. The manifest of a yuv420 student::

    name = "m"
    version = "1.0"
    file = "model.onnx"
    sha256 = "..."                # of `file`; a file that does not match is refused
    layout = "yuv420"             # or "rgb"
    precision = "uint8"           # uint8, int8, float16, float32, mixed
    size_multiple = 8             # frame sides are padded to a multiple of this
    halo = 32                     # so far around a pixel the graph looks, in pixels, a multiple of size_multiple;
                                  # lets the CPU's threads take a tile each. Left out: not known, never tiled
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
    shape = [1, 96, "H/8", "W/8"] # "H" and "W" are the padded frame's sides. A state of one pixel, 1, 1, is of
                                  # the whole frame: tiles have the mean of theirs (of what they give alone,
                                  # where the graph has the optional input "core": tiles.py), and the first
                                  # frame of a scene runs twice, so that it knows its own
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

import math
from datetime import date, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"

DType = Literal["uint8", "float16", "float32", "float64"]
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

    @property
    def whole(self) -> bool:
        """Whether it speaks of the frame as a whole."""
        return self.shape[-2:] == (1, 1)


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
    halo: int | None = Field(default=None, ge=0)
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

    @model_validator(mode="after")
    def _can_be_tiled(self) -> Manifest:
        if self.halo is None:
            return self
        step = math.lcm(self.size_multiple, 2)
        if self.layout is not Layout.YUV420 or self.halo % step:
            raise ValueError(f"halo is for yuv420 models and a multiple of {step}, not {self.halo}")
        for state in self.state:
            sides = [side for side in state.shape if isinstance(side, str)]
            fits = sorted(s[0] for s in sides) == ["H", "W"] and not any(
                step % int(s[2:] or 1) for s in sides
            )
            if not (fits or state.whole):
                raise ValueError(
                    f"state {state.input} of a model with a halo has sides H and W, over divisors of {step}, or"
                    " is one pixel"
                )
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
