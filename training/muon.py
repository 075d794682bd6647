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
    """The nearest (semi-)orthogonal matrix to `matrix` (m, n), about: singular values of 0.7 to 1.2."""
    x = matrix / (matrix.norm() + 1e-12)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    a, b, c = COEFFICIENTS
    for _ in range(ROUNDS):
        s = x @ x.T
        x = a * x + (b * s + c * s @ s) @ x
    result: Tensor = x.T if tall else x
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
            for p in group["params"]:
                if p.grad is not None:
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    (_muon if group["muon"] else _adam)(p, p.grad, self.state[p], group)
        return loss


def _mixes(p: Tensor) -> bool:
    return p.dim() == 4 and p.shape[1] > 1


def _muon(p: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    mean = state.setdefault("mean", torch.zeros_like(p))
    mean.lerp_(grad, 1 - group["momentum"])
    ahead = grad.lerp(mean, group["momentum"])  # Nesterov's
    step = orthogonal(ahead.flatten(1).float()).view_as(p)
    p.sub_(step.to(p.dtype), alpha=group["lr"] * group["ratio"])


def _adam(p: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    first, second = group["betas"]
    mean = state.setdefault("mean", torch.zeros_like(p))
    square = state.setdefault("square", torch.zeros_like(p))
    state["steps"] = steps = state.get("steps", 0) + 1
    mean.lerp_(grad, 1 - first)
    square.lerp_(grad.square(), 1 - second)
    scale = (square / (1 - second**steps)).sqrt_().add_(group["eps"])
    p.addcdiv_(mean, scale, value=-group["lr"] / (1 - first**steps))
