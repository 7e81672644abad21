"""Decisions that all ranks of torch.distributed must make alike.

A rank that leaves a step alone while the others take the step has other weights from then on, or hangs in the next
collective. So every verdict on a step is reduced over the ranks, at the same points on each of them. Without
torch.distributed, or with one rank, nothing here communicates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fsamlab.axes._ops import Number
from fsamlab.optim.verdict import Verdict

SAME_GRADIENT = 1e-5  # relative; averaged gradients have equal norms up to the rounding of unlike devices


@dataclass
class Ranks:
    """The ranks that train one model together.

    Args:
        group: a process group; None is the default group.
        device: of the parameters, where verdicts are reduced.
    """

    group: Any
    device: torch.device

    @property
    def number(self) -> int:
        """The number of ranks; 1 if torch.distributed is not initialised."""
        return dist.get_world_size(self.group) if dist.is_available() and dist.is_initialized() else 1

    @property
    def rank(self) -> int:
        """The rank of this process in the group."""
        return dist.get_rank(self.group) if self.number > 1 else 0

    def average_(self, x: Tensor) -> None:
        """Set x to its mean over the ranks, in place."""
        if self.number > 1:
            dist.all_reduce(x, dist.ReduceOp.SUM, group=self.group)
            x.div_(self.number)

    def all_agree(self, answer: bool | Tensor) -> bool:
        """Return whether the answer is yes on all ranks: a decision at the edge may differ by rounding."""
        return bool(answer) if self.number == 1 else bool(self._reduced([torch.as_tensor(answer)])[0] > 0)

    def all_finite(self, values: list[Number]) -> Verdict:
        """Return whether all values of all ranks are finite; unread unless the values are on the CPU."""
        if self.number == 1:
            return _finite(values)
        return self._reduced([_finite_tensor(values, self.device)])[0] > 0

    def all_finite_and_alike(self, length: Number) -> tuple[Verdict, Verdict]:
        """Return whether `length` is finite on all ranks, and whether all ranks have the same one; both unread.

        Ranks whose gradients were not averaged (`no_sync`) have different ones. A length that is not finite on some
        rank says nothing about the second question.
        """
        if self.number == 1:
            return _finite([length]), True
        finite = _finite_tensor([length], self.device)
        length = torch.as_tensor(length, dtype=torch.float64, device=self.device)
        length = torch.where(torch.isfinite(length), length, 0.0)
        everywhere, smallest, minus_largest = self._reduced([finite, length, -length]).unbind()
        apart = -minus_largest - smallest > SAME_GRADIENT * -minus_largest
        return everywhere > 0, (everywhere == 0) | ~apart

    def _reduced(self, values: list[Tensor]) -> Tensor:
        """Return the smallest of each value over the ranks."""
        stacked = torch.stack([v.to(self.device, torch.float64) for v in values])
        dist.all_reduce(stacked, dist.ReduceOp.MIN, group=self.group)
        return stacked


def _finite(values: list[Number]) -> Verdict:
    tensors = [v for v in values if isinstance(v, Tensor)]
    if not all(math.isfinite(v) for v in values if not isinstance(v, Tensor)):
        return False
    if all(v.device.type == "cpu" for v in tensors):
        return all(math.isfinite(v.item()) for v in tensors)
    return _finite_tensor(list(tensors), tensors[0].device)


def _finite_tensor(values: list[Number], device: torch.device) -> Tensor:
    on_device = [torch.as_tensor(v, device=device).detach().reshape(()) for v in values]
    return (
        torch.isfinite(torch.stack(on_device)).all() if on_device else torch.ones((), dtype=torch.bool, device=device)
    )
