"""Activation checkpointing in the passes of a training: `train.activation_checkpointing`.

The switch of the network is on in training passes alone, so that evaluation and measurements see the plain network.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase


class Recomputation:
    """Switches a network that has ``set_grad_checkpointing(enable)``; does nothing if it is not `enabled`."""

    def __init__(self, model: nn.Module, enabled: bool) -> None:
        self.model, self.enabled = model, enabled

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Forget the activations of the blocks in the forward pass inside the context."""
        if not self.enabled:
            yield
            return
        self.model.set_grad_checkpointing(True)  # type: ignore[operator]
        try:
            yield
        finally:
            self.model.set_grad_checkpointing(False)  # type: ignore[operator]

    @contextmanager
    def backward(self) -> Iterator[None]:
        """Keep the running statistics of BatchNorm in the backward pass inside the context.

        The blocks run forward for a second time there, and would count their batch twice. Tracking cannot be switched
        off for that: the second run has to save the same tensors as the first one.
        """
        buffers = self._running_statistics() if self.enabled else []
        values = [buffer.clone() for buffer in buffers]
        try:
            yield
        finally:
            for buffer, value in zip(buffers, values):
                buffer.copy_(value)

    @torch.no_grad()
    def _running_statistics(self) -> list[torch.Tensor]:
        norms = [m for m in self.model.modules() if isinstance(m, _NormBase) and m.training and m.track_running_stats]
        return [buffer for norm in norms for buffer in norm.buffers(recurse=False)]
