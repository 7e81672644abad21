"""A training at one step: all that the measurements read of the loop that trains."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from fsamlab.diagnostics.noise import Sampling
from fsamlab.optim import SharpnessAware


@dataclass(frozen=True)
class Snapshot:
    """A training at one step, between two steps: the weights are unperturbed.

    The objects are the loop's own, and a measurement leaves them bitwise as they were.

    Attributes:
        model: the network.
        optimizer: its EMA, its choices and the radii of its groups are read.
        step: optimizer steps that have been made.
        seed: the random numbers of a training step (masks of dropout) are a function of this seed and the step.
        sampling: how training draws its batches.
        memory_format: of the images in training.
    """

    model: nn.Module
    optimizer: SharpnessAware
    step: int
    seed: int
    sampling: Sampling
    memory_format: torch.memory_format = torch.contiguous_format
