"""Muon: its steps are orthogonal, its Adam is PyTorch's, its state survives a checkpoint."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from training.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(32, 288), (96, 32), (16, 16)])
def test_a_step_has_singular_values_near_one(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.linalg.svdvals(orthogonal(torch.randn(shape, generator=generator)))
    assert values.max() < 1.3
    # square random matrices have directions that are all but lost, which five rounds do not find again
    assert values.min() > (0.5 if shape[0] != shape[1] else 0.01)


def test_it_points_where_the_matrix_points() -> None:
    generator = torch.Generator().manual_seed(1)
    matrix = torch.randn((8, 40), generator=generator)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    assert F.cosine_similarity(orthogonal(matrix).flatten(), (u @ v).flatten(), dim=0) > 0.97


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1))


def fit(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, first: int = 0) -> float:
    loss = torch.zeros(())
    for step in range(first, first + steps):
        x = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(step))
        loss = (model(x) - x.roll(1, -1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def test_convolutions_move_by_muon_and_all_else_by_adam() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    optimizer = Muon(model, 1e-3, ratio=10)
    fit(model, optimizer, 1)
    moved = {n: p - before[n] for n, p in model.state_dict().items()}
    for name in ("0.weight", "2.weight"):
        norm = torch.linalg.matrix_norm(moved[name].flatten(1), 2)
        assert norm == pytest.approx(0.01, rel=0.35), name  # lr * ratio, whatever the gradient
    for name in ("0.bias", "2.bias"):
        assert moved[name].abs() == pytest.approx(torch.full_like(moved[name], 1e-3), rel=0.01), name


def test_its_adam_is_pytorchs() -> None:
    """On a network without convolutions nothing else is left."""
    torch.manual_seed(0)
    model = nn.Linear(5, 4)
    twin = copy.deepcopy(model)
    mine = Muon(model, 1e-2, weight_decay=0.1)
    theirs = torch.optim.AdamW(twin.parameters(), lr=1e-2, betas=(0.9, 0.99), weight_decay=0.1)
    for step in range(5):
        x = torch.randn(6, 5, generator=torch.Generator().manual_seed(step))
        for net, optimizer in ((model, mine), (twin, theirs)):
            optimizer.zero_grad()
            net(x).square().sum().backward()
            optimizer.step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-6)


def test_it_learns_and_resumes_exactly() -> None:
    whole, half = network(), network()
    first = fit(whole, Muon(whole, 1e-12), 1)
    whole = network()
    assert fit(whole, Muon(whole, 2e-3), 40) < first / 2
    optimizer = Muon(half, 2e-3)
    fit(half, optimizer, 20)
    resumed = copy.deepcopy(half)
    again = Muon(resumed, 2e-3)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    fit(resumed, again, 20, first=20)
    for p, q in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(p, q)


def test_depthwise_convolutions_are_adams() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 2, 1))
    by_muon = [g for g in Muon(model, 1e-3).param_groups if g["muon"]]
    assert [tuple(p.shape) for g in by_muon for p in g["params"]] == [(2, 4, 1, 1)]


def test_a_learning_rate_of_nothing_moves_nothing() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    optimizer = Muon(model, 1e-3)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    fit(model, optimizer, 2)
    assert all(torch.equal(p, before[n]) for n, p in model.state_dict().items())
