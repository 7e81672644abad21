"""The moving average of the weights over the steps, `train.ema_decay`, beside the weights that are trained."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class AveragedWeights:
    """timm's ModelEmaV3 over the steps of a training.

    The average starts as the weights after the first step; then each step makes it decay * average + (1 - decay) *
    weights. Buffers of floating-point numbers (the running statistics of BatchNorm) are averaged alike, counters are
    copied. A step that is left out counts as well: the weights stand still in it, and to ask whether a step was taken
    a GPU would have to be waited for.

    Attributes:
        model: the network with the averaged weights, in eval mode.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        from timm.utils import ModelEmaV3  # slow to import, and most runs average no weights

        self._ema = ModelEmaV3(model, decay=decay)
        self.model: nn.Module = self._ema.module
        self.model.requires_grad_(False)

    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after step number `step`, counted from 1."""
        self._ema.update(model, step=step)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averaged weights and buffers under the keys of the network."""
        found: dict[str, Tensor] = self.model.state_dict()
        return found

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a :meth:`state_dict`."""
        self.model.load_state_dict(state)
