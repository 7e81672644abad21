"""Whether a step is finite, and how a step that is not finite is left out without a read by the host.

A verdict is a bool, or a 0-dim bool tensor on the device. A bool is what the host has read: the rest of a step that is
not finite is then not run. On a GPU the read would make the host wait in each step, and so a step with an unread
verdict runs to its end; the tensor decides what stays of the step. A step that is not finite must leave no trace, and
0 * nan is nan: masks select values, and no value is multiplied by a mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim import Optimizer

from fsamlab.axes._ops import Tensors
from fsamlab.axes.sharded import is_sharded, local

Verdict = bool | Tensor


def both(x: Verdict, y: Verdict) -> Verdict:
    """Return whether x and y are true."""
    if isinstance(x, bool):
        return y if x else False
    if isinstance(y, bool):
        return x if y else False
    return x & y


def is_left_out(verdict: Verdict) -> bool:
    """Return whether the host knows that the step is not finite."""
    return verdict is False


class Mask:
    """An unread verdict, on each device that has tensors of the step."""

    def __init__(self, verdict: Tensor) -> None:
        self.verdict = verdict
        self._good = {verdict.device: verdict}
        self._bad: dict[torch.device, Tensor] = {}

    def good(self, device: torch.device) -> Tensor:
        """Return the verdict on a device."""
        if device not in self._good:
            self._good[device] = self.verdict.to(device, non_blocking=True)
        return self._good[device]

    def zero_(self, xs: Tensors) -> None:
        """x <- 0 where the step is not finite."""
        for x in map(local, xs):
            if x.device not in self._bad:
                self._bad[x.device] = ~self.good(x.device)
            x.masked_fill_(self._bad[x.device], 0)

    def choose_(self, xs: Tensors, olds: Tensors) -> None:
        """x <- old where the step is not finite."""
        for x, old in zip(map(local, xs), map(local, olds)):
            torch.where(self.good(x.device), x, old, out=x)

    def tensor(self, new: Tensor, old: Tensor) -> Tensor:
        """Return `new`, or `old` where the step is not finite."""
        return torch.where(self.good(new.device), new, old)

    def number(self, new: Tensor | float, old: Tensor | float) -> Tensor:
        """Return the number `new`, or `old` where the step is not finite, 0-dim on the device."""
        return torch.where(self.verdict, self._unread(new), self._unread(old))

    def _unread(self, x: Tensor | float) -> Tensor:
        if isinstance(x, Tensor):
            return x
        dtype = torch.float64 if isinstance(x, float) else torch.int64
        return torch.full((), x, dtype=dtype, device=self.verdict.device)


def masks_itself(base: Optimizer) -> bool:
    """Return whether a base of torch leaves weights and state alone where its `found_inf` says so: the fused ones."""
    params = (p for group in base.param_groups for p in group["params"])
    return bool(getattr(base, "_step_supports_amp_scaling", False)) and not any(is_sharded(p) for p in params)


@contextmanager
def telling(base: Optimizer, verdict: Tensor) -> Iterator[None]:
    """Have the steps of a base that masks itself do nothing where the verdict is false."""
    base.found_inf = (~verdict).float()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del base.found_inf  # type: ignore[attr-defined]
