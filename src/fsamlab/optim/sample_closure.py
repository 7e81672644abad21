"""A closure that can run on a part of its batch, for descents that select samples."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fsamlab.axes.axis import Pass


class SampleClosure:
    """The closure of a batch, made of the losses of its samples.

        closure = SampleClosure(lambda i: F.cross_entropy(model(x[i]), y[i], reduction="none"), optimizer.zero_grad)
        optimizer.step(closure)

    Any object with the three methods below is as good.

    Args:
        losses: returns the losses (n,) of the samples at an index: a slice, or positions as int64.
        zero_grad: zeroes the gradients.
        scale: the scale() of a GradScaler.
    """

    def __init__(
        self,
        losses: Callable[[slice | Tensor], Tensor],
        zero_grad: Callable[[], object],
        scale: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._losses, self._zero_grad, self._scale = losses, zero_grad, scale

    def __call__(self) -> Pass:
        """Leave the gradient of the mean loss of all samples in p.grad; return the losses."""
        return self.on(slice(None))

    def losses(self) -> Tensor:
        """Return the losses (n,) of all samples, without a backward pass."""
        with torch.no_grad():
            return self._losses(slice(None))

    def on(self, samples: slice | Tensor) -> Pass:
        """Leave the gradient of the mean loss of some samples in p.grad; return their losses."""
        self._zero_grad()
        losses = self._losses(samples)
        loss = losses.mean()
        (loss if self._scale is None else self._scale(loss)).backward()
        return Pass(loss.detach(), losses.detach())
