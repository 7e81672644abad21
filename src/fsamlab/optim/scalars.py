"""Scalars of the perturbation that cost little: vector operations on tensors that the step has in memory anyway."""

from __future__ import annotations

import torch
from torch import Tensor

from fsamlab.axes._ops import Number, Ops, Tensors, inner
from fsamlab.axes.axis import Part
from fsamlab.axes.choices import Choices
from fsamlab.axes.sharded import is_sharded
from fsamlab.optim.length import Move

PIECE = 1 << 16  # entries summed at a time; on the CPU a float32 sum over millions has an error of 1e-4


def _dot(xs: Tensors, ys: Tensors) -> Tensor:
    """Return <x, y> over all tensors together (float64, 0-dim). On the CPU the sum is taken in pieces."""
    pairs = [pair for x, y in zip(xs, ys) for pair in _pieces(x, y)]
    products = [inner(x, y).to(xs[0].device) for x, y in pairs]
    return torch.stack(products).sum(dtype=torch.float64)


def _pieces(x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    if x.device.type != "cpu" or is_sharded(x) or x.numel() <= PIECE:
        return [(x, y)]
    return list(zip(x.flatten().split(PIECE), y.flatten().split(PIECE)))


class Recorder:
    """Reads the tensors of a step before and after the direction is formed.

    It changes no tensor and does not wait for the device. F-SAM's component writes d = alpha a - beta m into the memory
    of a, so a is gone afterwards. No copy of a is needed, because the inner products follow from d and m:
    <a, m> = (<d, m> + beta |m|^2) / alpha and <d, a> = (|d|^2 + beta <d, m>) / alpha. In both sums nothing cancels,
    even if d is much shorter than a.
    """

    def __init__(self, parts: list[Part], norm_a: Number, choices: Choices, ops: Ops) -> None:
        a = [x for part in parts for x in part.a]
        self.norm_a = torch.as_tensor(norm_a, dtype=torch.float64, device=a[0].device)
        self.name = choices.reference.label if choices.reference else ""
        known = [part for part in parts if part.m]
        self.m = [x for part in known for x in part.m]
        self.by_algebra = choices.component.linear and choices.metric.is_identity and len(parts) == 1
        self.a: Tensors = []
        self.dot: Tensor | None = None
        if not self.by_algebra:
            # a copy, because the component may write the direction into the memory of a
            self.a = ops.scaled(a, 1.0) if choices.component.changes else a
            self.dot = _dot([x for part in known for x in part.a], self.m) if known else None

    def scalars(self, parts: list[Part], move: Move) -> dict[str, Tensor]:
        """Return the scalars of docs/metrics.md as 0-dim tensors. The EMA must not contain this step yet.

        Args:
            parts: the tensors of the step, with d.
            move: what the step adds to the weights.
        """
        direction = move.direction
        length = torch.as_tensor(move.norm_d, dtype=torch.float64, device=self.norm_a.device)
        norm_m = _dot(self.m, self.m).sqrt() if self.m else None
        dot = self.dot
        if self.by_algebra:
            (part,) = parts
            square = length**2
            if norm_m is not None:
                along_m = _dot(part.d, self.m)
                square = square + part.beta * along_m
                dot = (along_m + part.beta * norm_m**2) / part.alpha
            cos_eps = square / (part.alpha * length * self.norm_a)
        else:
            cos_eps = _dot(direction, self.a) / (_dot(direction, direction).sqrt() * self.norm_a)
        found = {"grad_norm": self.norm_a, "d_ratio": length / self.norm_a, "cos_eps": cos_eps}
        if move.rho is not None:
            found["rho"] = torch.as_tensor(move.rho, dtype=torch.float64)
        if dot is not None and norm_m is not None:
            found[f"{self.name}_norm"] = norm_m
            found[f"cos_{self.name}"] = dot / (norm_m * self.norm_a)
            found[f"{self.name}_coefficient"] = dot / norm_m**2
        return {f"perturbation/{key}": value for key, value in found.items()}
