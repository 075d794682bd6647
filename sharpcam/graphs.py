"""Graphs without a manifest, and graphs held against their manifest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharpcam.errors import ModelError
from sharpcam.manifest import Layout, Manifest, Tensor


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
    if not told or port.dtype not in ("uint8", "float16", "float32", "float64"):
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
        # a state_y of the shape of y is the picture before; what our students added to it is in steps around 128
        "initial": like[0] if like else 128 if port.name.startswith("state_added_") else 0,
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
