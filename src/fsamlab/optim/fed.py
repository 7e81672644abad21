"""What the host makes for a step, as tensors at fixed addresses: for a step that is captured as a CUDA graph.

A graph repeats the kernels of one step on the addresses of that step, and no Python runs. A number from a schedule (a
learning rate, a radius) would stay what it was in the captured step, and so would a random direction, whose generator
is seeded in each step. Here both are tensors, which are filled before each step.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor


class Fed:
    """The numbers and the random tensors that a step reads, filled before the step.

    Args:
        device: of the parameters.
        dtype: of the numbers but for learning rates: that of the norms that the numbers are multiplied with.

    Attributes:
        closed: whether a new number is an error: in a captured step, into which no number can be filled any more.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype, self.closed = device, dtype, False
        # torch's fused optimizers read a learning rate on a GPU as float32, and one on the CPU as a number
        self._of_rates = torch.float32 if device.type == "cuda" else torch.float64
        self._numbers: dict[Hashable, Tensor] = {}
        self._now: dict[Hashable, Callable[[], float]] = {}
        self._noise: dict[Tensor, Tensor] = {}

    def number(self, key: Hashable, now: Callable[[], float], dtype: torch.dtype | None = None) -> Tensor:
        """Return the tensor (0-dim) that has the value of `now()` in each step; made by the first call with `key`.

        Raises:
            RuntimeError: a captured step asks for a number that no step before has asked for.
        """
        if key not in self._numbers:
            if self.closed:
                raise RuntimeError(f"{key} is a number that the steps before the captured one did not read")
            self._numbers[key] = torch.full((), now(), dtype=dtype or self.dtype, device=self.device)
        self._now[key] = now
        return self._numbers[key]

    @contextmanager
    def rates(self, groups: list[dict[str, Any]]) -> Iterator[None]:
        """Give the groups their learning rates as tensors inside the context."""
        rates = [group["lr"] for group in groups]
        try:
            for i, group in enumerate(groups):
                group["lr"] = self.number(("lr", i), partial(_lr, group), self._of_rates)
            yield
        finally:
            for group, rate in zip(groups, rates):
                group["lr"] = rate

    def fill(self) -> None:
        """Write the present values into all numbers: one copy to the device, which the host does not wait for."""
        if not self._numbers:
            return
        values = torch.tensor([now() for now in self._now.values()], dtype=torch.float64)
        if self.device.type == "cuda":
            values = values.pin_memory().to(self.device, non_blocking=True)
        for number, value in zip(self._numbers.values(), values):
            number.copy_(value)

    @torch.no_grad()
    def keep(self, params: list[Tensor], drawn: list[Tensor | None]) -> None:
        """Take the random tensors of the coming step, one for each parameter."""
        for p, z in zip(params, drawn):
            if z is None:
                continue
            if p in self._noise:
                self._noise[p].copy_(z)
            else:
                self._noise[p] = z

    def noise(self, params: list[Tensor]) -> list[Tensor | None]:
        """Return copies of the random tensors of this step, since components may write to them; empty if none are."""
        kept = [self._noise.get(p) for p in params] if self._noise else []
        return [None if z is None else z.clone() for z in kept]


def _lr(group: dict[str, Any]) -> float:
    return float(group["lr"])
