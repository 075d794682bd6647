"""Weights that are kept in float16 and computed with in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from sharpcam.models import find_model
from training.checkpoint import State, save_checkpoint
from training.loop import Average, make_optimizer
from training.networks.restormer import Restormer
from training.published import SMALL, export_rgb, rgb_graph, store_half
from training.recipe import load_recipe
from training.tasks import build

TINY = {
    "dim": 8, "num_blocks": [1, 1, 1, 1], "num_refinement_blocks": 1, "heads": [1, 1, 1, 1],
    "ffn_expansion_factor": 2.0,
}  # fmt: skip


def tiny() -> Restormer:
    torch.manual_seed(0)
    return Restormer(**TINY)  # type: ignore[arg-type]


def run(model: onnx.ModelProto, picture: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    out: np.ndarray = session.run(None, {"input": picture})[0]
    return out


def test_half_the_size_and_the_same_picture() -> None:
    whole = rgb_graph(tiny())
    half = onnx.ModelProto()
    half.CopyFrom(whole)
    store_half(half)
    assert half.ByteSize() < 0.75 * whole.ByteSize()  # a tiny one is mostly nodes
    picture = np.random.default_rng(0).random((1, 3, 32, 40), np.float32)
    a, b = run(whole, picture), run(half, picture)
    assert b.dtype == np.float32
    assert 0 < np.abs(a - b).max() < 2e-3
    kinds = {w.name: w.data_type for w in half.graph.initializer if np.prod(w.dims) >= SMALL}
    floats = [n for n, kind in kinds.items() if kind == onnx.TensorProto.FLOAT]
    assert kinds
    assert not floats


def test_small_numbers_stay_as_they_are() -> None:
    """Shapes, exponents and scales: nothing to save, and some to lose."""
    whole = rgb_graph(tiny())
    half = onnx.ModelProto()
    half.CopyFrom(whole)
    store_half(half)
    small = {w.name: w for w in whole.graph.initializer if np.prod(w.dims) < SMALL}
    after = {w.name: w for w in half.graph.initializer}
    assert small
    assert all(after[name] == weight for name, weight in small.items())


@pytest.mark.usefixtures("small_strip")
def test_an_exported_teacher_says_float16_and_runs(tmp_path: Path) -> None:
    recipe = load_recipe("teacher", {"network.options": TINY})
    network = build(recipe.network)
    state = (network, Average(network, 0.9), make_optimizer(network, recipe), State(step=1))
    save_checkpoint([tmp_path / "last.pt"], recipe, *state)
    sizes = {}
    for half in (False, True):
        folder = export_rgb(tmp_path / "last.pt", tmp_path / f"teacher{half}", half=half)
        model = find_model(str(folder))
        assert model.manifest.precision == ("float16" if half else "float32")
        sizes[half] = (folder / "model.onnx").stat().st_size
    assert sizes[True] < sizes[False]
