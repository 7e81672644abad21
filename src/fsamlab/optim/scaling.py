"""A GradScaler's part in a step: gradients are unscaled in both passes, and one overflow leaves the step out."""

from __future__ import annotations

import math
import sys
from typing import Any

import torch
from torch import Tensor

from fsamlab.axes._ops import Ops, Tensors
from fsamlab.axes.sharded import local
from fsamlab.checks import ConfigError
from fsamlab.optim.verdict import Mask, Verdict, is_left_out

_SCALERS_STEP = torch.amp.GradScaler.step.__code__
FRAMES = 12  # decorators of step() and a framework's own may lie between the scaler's call and step()


def refuse_a_scalers_step() -> None:
    """Refuse a step() that a GradScaler makes: the scaler knows of one pass alone, and the ascent was scaled.

    Raises:
        RuntimeError: a GradScaler calls.
    """
    # A scaler tells an optimizer nothing that frameworks do not also take for a fused optimizer; hence the call stack.
    frame = sys._getframe()
    for _ in range(FRAMES):
        if frame.f_back is None:
            return
        frame = frame.f_back
        if frame.f_code is _SCALERS_STEP and frame.f_locals["self"].is_enabled():  # a disabled one only passes on
            raise RuntimeError(
                "GradScaler.step() knows of one of the two passes alone: give the scaler as grad_scaler=, call "
                "step(closure) in place of the scaler's step(), and then the scaler's update(); or use bfloat16, which "
                "needs no scaler (docs/loops.md)"
            )


class Scaling:
    """The scale of the closures' gradients; without a scaler nothing is scaled and nothing done.

    Raises:
        ConfigError: overflows are to be stepped with.
    """

    def __init__(self, scaler: torch.amp.GradScaler | None, skip_nonfinite: bool) -> None:
        if scaler is not None and not skip_nonfinite:
            raise ConfigError("skip_nonfinite", False, "a step in which scaled gradients overflow has to be left out")
        self.scaler = scaler

    def undo(self, gradients: Tensors, ops: Ops) -> None:
        """Divide gradients by the scale; what overflowed is found by the verdict on the step."""
        if self._acts_on(gradients):
            ops.mul_(gradients, 1 / self._scale(gradients))

    def redo(self, gradients: Tensors, ops: Ops) -> None:
        """Multiply gradients by the scale, which the step of the base divides by."""
        if self._acts_on(gradients):
            ops.mul_(gradients, self._scale(gradients))

    def before_the_base(self, optimizer: Any, finite: Verdict) -> None:
        """Let the scaler unscale the descent gradients, and see an overflow, whichever pass or rank it was in.

        The scaler looks for infinities in p.grad and nowhere else. Its update() then works on the device.
        """
        if self.scaler is None:
            return
        params = list(optimizer.parameters())
        if isinstance(finite, Tensor):
            first = next((local(p.grad) for p in params if p.grad is not None), None)
            if first is not None:
                first.masked_fill_(~Mask(finite).good(first.device), math.inf)
        if not is_left_out(finite):
            self.scaler.unscale_(optimizer)
            return
        for p in params:
            p.grad = None
        params[0].grad = torch.full_like(params[0], math.inf)
        self.scaler.unscale_(optimizer)
        params[0].grad = None

    def _acts_on(self, gradients: Tensors) -> bool:
        return self.scaler is not None and self.scaler.is_enabled() and bool(gradients)

    def _scale(self, gradients: Tensors) -> Tensor:
        assert self.scaler is not None
        return self.scaler.scale(torch.ones((), device=gradients[0].device))
