"""Muon in the precision of its parameters.

torch's own orthogonalises in bfloat16, which costs 50 times the time on a CPU without such units.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


class Muon(torch.optim.Optimizer):  # type: ignore[misc]  # torch is Any to mypy
    """Momentum whose update is orthogonalised (Keller Jordan, 2024), for matrices only.

    The update is scaled to the root mean square that AdamW's has (Moonshot, arXiv 2502.16982), so
    that one learning rate fits both.
    """

    def __init__(
        self, params: Iterable[Tensor], *, weight_decay: float, momentum: float = 0.95
    ) -> None:
        super().__init__(params, {"lr": 1.0, "weight_decay": weight_decay, "momentum": momentum})

    def step(self, closure: None = None) -> None:
        """Take one step with the gradients as they are."""
        if closure is not None:
            raise ValueError("this optimizer evaluates no closure")
        with torch.no_grad():
            self._step()

    def _step(self) -> None:
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                state["momentum"].lerp_(weight.grad, 1 - momentum)
                update = orthogonal(weight.grad.lerp(state["momentum"], momentum))
                weight.mul_(1 - rate * group["weight_decay"])
                weight.add_(update, alpha=-0.2 * rate * max(weight.shape) ** 0.5)


def orthogonal(matrix: Tensor) -> Tensor:
    """Return nearly the nearest semi-orthogonal matrix, by Newton-Schulz iterations."""
    a, b, c = _QUINTIC
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x
