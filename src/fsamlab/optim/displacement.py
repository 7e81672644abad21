"""The weights of a step: moved to w + eps in place, and put back exactly."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fsamlab.axes._ops import Number, Ops, Tensors
from fsamlab.axes.axis import Part
from fsamlab.optim.guards import forget_weight_copies
from fsamlab.optim.state import differ
from fsamlab.optim.verdict import Mask, Verdict


class Displacement:
    """Moves weights, and copies the true weights back into the same memory.

    Attributes:
        moved: the parameters that are perturbed now.
        last: those that were perturbed before in the present step.
    """

    def __init__(self) -> None:
        self.moved: Tensors = []
        self.last: Tensors = []
        self._saved: dict[Tensor, Tensor] = {}  # scratch, kept: fresh memory each step costs page faults

    def move(
        self,
        parts: list[Part],
        direction: Tensors,
        scale: Number,
        finite: Verdict,
        ops: Ops,
        sharded_model: nn.Module | None,
    ) -> None:
        """Set w <- w + rho scale T^2 d, keeping w; a weight that is moved already is moved on, from where it is.

        Args:
            parts: what is moved, each with its rho.
            direction: T^2 d of all parts, in their order.
            scale: 1 / |T d|, or 0 where |d| is rounding noise.
            finite: the verdict on the direction; the weights stay where an unread verdict turns out to be false.
            ops: arithmetic on lists of tensors.
            sharded_model: the model, where `fully_shard` keeps gathered copies of its weights.
        """
        params = [p for part in parts for p in part.params]
        if self.moved:
            already = set(self.moved)
            params = [p for p in params if p not in already]
        if params:
            ops.copy_([self._scratch(p) for p in params], params)
        self.moved = [*self.moved, *params]  # from here on there is something to put back
        mask = None if isinstance(finite, bool) else Mask(finite)
        start = 0
        for part in parts:
            stop = start + len(part.params)
            if mask is None:
                ops.add_(part.params, direction[start:stop], alpha=part.rho * scale)
            else:
                eps = ops.scaled(direction[start:stop], part.rho * scale)
                mask.zero_(eps)
                ops.add_(part.params, eps)
            start = stop
        forget_weight_copies(sharded_model)

    def saved(self) -> dict[Tensor, Tensor]:
        """Return copies of w that are there anyway: parameter -> copy, of those perturbed before in this step."""
        return {p: self._saved[p] for p in self.last}

    def put_back(self, ops: Ops, sharded_model: nn.Module | None) -> None:
        """Put the weights back: exactly what was perturbed, exactly as it was. Does nothing where nothing is moved."""
        if self.moved:
            ops.copy_(self.moved, [self._saved[p] for p in self.moved])
            forget_weight_copies(sharded_model)
            self.last, self.moved = self.moved, []

    def _scratch(self, p: Tensor) -> Tensor:
        scratch = self._saved.get(p)
        if scratch is None or differ(scratch, p):
            scratch = self._saved[p] = torch.empty_like(p)
        return scratch

    def __getstate__(self) -> dict[str, Any]:
        """Return all attributes but scratch memory; between the phases the true weights are in it."""
        return {"moved": self.moved, "last": [], "_saved": {p: self._saved[p] for p in self.moved}}
