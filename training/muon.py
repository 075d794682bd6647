"""Muon (Jordan et al., 2024, kellerjordan.github.io/posts/muon) for convolutions, Adam for all else.

The momentum of a weight, as a matrix of outputs by inputs, is replaced by the nearest orthogonal matrix, so that
every direction that a layer can learn is learned at the same pace. On the students it was worth as much as
twice the channels (training/EXPERIMENTS.md). PyTorch's own Muon takes matrices only and stands alone; this one
is a single optimizer of both kinds, so that checkpoints and schedules see one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

# of Newton and Schulz's iteration: steep at zero, so that five rounds bring singular values into 0.7..1.2
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ROUNDS = 5


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest (semi-)orthogonal matrix to `matrix` (..., m, n), about: singular values of 0.7 to 1.2."""
    x = matrix / (torch.linalg.matrix_norm(matrix, keepdim=True) + 1e-12)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    a, b, c = COEFFICIENTS
    for _ in range(ROUNDS):
        s = x @ x.mT
        x = a * x + (b * s + c * s @ s) @ x
    result: Tensor = x.mT if tall else x
    return result


class Muon(torch.optim.Optimizer):
    """Muon for the weights of convolutions of `model`, AdamW for its other parameters (and depthwise ones,
    whose outputs are not directions of one space).

    Args:
        lr: of Adam. Muon's is `ratio` times as large, schedules included: it is the spectral norm of a step.
        momentum: of Muon.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        *,
        ratio: float = 10.0,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        learned = [p for p in model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in learned if _mixes(p)], "muon": True},
            {"params": [p for p in learned if not _mixes(p)], "muon": False},
        ]
        defaults = {"lr": lr, "ratio": ratio, "momentum": momentum, "betas": betas, "eps": eps}
        super().__init__([g for g in groups if g["params"]], defaults | {"weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            moving = [p for p in group["params"] if p.grad is not None]
            if moving and group["weight_decay"]:
                torch._foreach_mul_(moving, 1 - group["lr"] * group["weight_decay"])
            if moving:
                (_muon if group["muon"] else _adam)(moving, [self.state[p] for p in moving], group)
        return loss


def _mixes(p: Tensor) -> bool:
    return p.dim() == 4 and p.shape[1] > 1


# Lists go through one operation each, and matrices of one shape through one iteration: a network of a hundred small
# tensors would keep a GPU waiting for Python otherwise.


def _muon(params: list[Tensor], states: list[dict[str, Any]], group: dict[str, Any]) -> None:
    grads = [p.grad for p in params if p.grad is not None]
    means = [s.setdefault("mean", torch.zeros_like(p)) for p, s in zip(params, states, strict=True)]
    torch._foreach_lerp_(means, grads, 1 - group["momentum"])
    ahead = torch._foreach_lerp(grads, means, group["momentum"])  # Nesterov's
    shapes: dict[tuple[int, int], list[int]] = {}
    for i, p in enumerate(params):
        shapes.setdefault((p.shape[0], p.shape[1:].numel()), []).append(i)
    for same in shapes.values():
        steps = orthogonal(torch.stack([ahead[i].flatten(1).float() for i in same])).unbind()
        torch._foreach_add_(
            [params[i] for i in same],
            [step.view_as(params[i]).to(params[i].dtype) for i, step in zip(same, steps, strict=True)],
            alpha=-group["lr"] * group["ratio"],
        )


def _adam(params: list[Tensor], states: list[dict[str, Any]], group: dict[str, Any]) -> None:
    first, second = group["betas"]
    grads = [p.grad for p in params if p.grad is not None]
    means = [s.setdefault("mean", torch.zeros_like(p)) for p, s in zip(params, states, strict=True)]
    squares = [s.setdefault("square", torch.zeros_like(p)) for p, s in zip(params, states, strict=True)]
    for s in states:
        s["steps"] = s.get("steps", 0) + 1
    torch._foreach_lerp_(means, grads, 1 - first)
    torch._foreach_lerp_(squares, torch._foreach_mul(grads, grads), 1 - second)
    scales = torch._foreach_div(squares, [1 - second ** s["steps"] for s in states])
    torch._foreach_sqrt_(scales)
    torch._foreach_add_(scales, group["eps"])
    torch._foreach_addcdiv_(params, means, scales, [-group["lr"] / (1 - first ** s["steps"]) for s in states])
