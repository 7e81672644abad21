"""A training at one step: all that the measurements read of the loop that trains."""

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
    """A training at one step, between two steps: the weights are unperturbed.

    Model and optimizer are the loop's own, not copies; a measurement leaves them bitwise as they were. A loop that
    sets nothing but the first three has all measured values but one, `perturbation/cos_ema_full_predicted`.

    Attributes:
        model: the network.
        optimizer: any torch optimizer. Of one from fsamlab.optim its EMA and the radii of its groups are read.
        step: optimizer steps that have been made.
        seed: the random numbers of a training step (masks of dropout) are a function of this seed and the step.
        sampling: how training draws its batches, which the prediction for the EMA needs; None where it is not told.
        coming: gives the batches that training is about to make, which are then taken apart; None where nobody knows
            them: batches that are drawn at random take their place.
        memory_format: of the inputs in training.
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
        """The optimizer where it is one of this family."""
        return self.optimizer if isinstance(self.optimizer, SharpnessAware) else None
