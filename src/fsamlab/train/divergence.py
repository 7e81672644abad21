"""The first step whose training loss is not finite."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Diverged(RuntimeError):
    """The training loss became NaN or infinite."""

    def __init__(self, step: int) -> None:
        super().__init__(f"diverged at step {step}: the training loss is not finite")
        self.step = step


class Divergence:
    """Finds the first step with a NaN or infinite loss.

    The step number is a tensor on the device: a Python number would make the program wait for the GPU in each step.

    Attributes:
        at: the step, int64 (); -1 if all losses were finite.
    """

    def __init__(self, device: torch.device) -> None:
        self.at = torch.full((), -1, dtype=torch.int64, device=device)

    def look(self, loss: Tensor, step: int) -> None:
        """Note the step if its loss is the first one that is not finite."""
        if loss.device.type == "cpu":  # where a read costs less than arithmetic on tensors
            if int(self.at) < 0 and not math.isfinite(loss.item()):
                self.at.fill_(step)
            return
        first = (self.at < 0) & ~torch.isfinite(loss)
        self.at.copy_(torch.where(first, step, self.at))

    def stop(self) -> None:
        """Raise if a loss was not finite; this waits for the device.

        Raises:
            Diverged: names the step.
        """
        if int(self.at) >= 0:
            raise Diverged(int(self.at))
