"""The state of a training at one step, as far as the measurements need it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer

from fsamlab.diagnostics.noise import Sampling
from fsamlab.diagnostics.samples import Coming
from fsamlab.optim import SharpnessAware


@dataclass(frozen=True)
class Snapshot:
    """The state of a training between two steps, with unperturbed weights.

    Model and optimizer are the loop's own objects and not copies. A measurement leaves them bitwise as they were. The
    first three attributes are enough for all measured values except `perturbation/cos_ema_full_predicted`.

    Attributes:
        model: the network.
        optimizer: any torch optimizer. If it is from fsamlab.optim, its EMA and the radii of its groups are read.
        step: number of optimizer steps so far.
        seed: the random numbers of a training step (masks of dropout) are a function of this seed and the step.
        sampling: how training draws its batches, for the prediction of the EMA; None if it is not known.
        coming: returns the batches of the next steps, for the decomposition; None if they are not known, and then
            random batches are decomposed.
        memory_format: memory format of the inputs in training.
    """

    model: nn.Module
    optimizer: Optimizer
    step: int
    seed: int = 0
    sampling: Sampling | None = None
    coming: Coming | None = None
    memory_format: torch.memory_format = torch.contiguous_format

    @property
    def sharpness_aware(self) -> SharpnessAware | None:
        """The optimizer if it is from fsamlab.optim, else None."""
        return self.optimizer if isinstance(self.optimizer, SharpnessAware) else None
