"""The scalars of the perturbation in one step: when the optimizer records them, and how a row takes them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fsamlab.optim import SharpnessAware
from fsamlab.train.unread import read_together

UNDEFINED = ("perturbation/cos_", "perturbation/d_ratio")  # 0 / 0 and x / 0 are possible: left out if not finite


class StepScalars:
    """Asks the optimizer for its scalars every `every_steps` steps, and holds the scalars of the step just made.

    Attributes:
        due: whether the next step that perturbs records its scalars.
        values: {metric key: value on the device}; empty if the last step recorded nothing.
    """

    def __init__(self, every_steps: int | None, device: torch.device) -> None:
        self.every_steps, self.device = every_steps, device
        self.due = False
        self.values: dict[str, Tensor] = {}

    def request(self, optimizer: SharpnessAware, step: int) -> None:
        """Tell the optimizer whether to record; call this before the step that makes `step` the number of steps."""
        if self.every_steps is not None and step % self.every_steps == 0:
            self.due = True  # it stays true until a step perturbs: with optimizer.every > 1, this step may not
        optimizer.record_scalars = self.due

    def take(self, optimizer: SharpnessAware, loss: Tensor) -> None:
        """Take the scalars of the step just made; `loss` is the batch's loss that the step returned."""
        self.values = {k: v for k, v in optimizer.scalars.items() if "/" in k}
        if self.values:  # the two losses, at w and at w + eps: their difference is the batch's sharpness at rho
            if optimizer.has_clean_loss:
                self.values["perturbation/loss_clean"] = loss.detach()
            if "loss_perturbed" in optimizer.scalars:
                self.values["perturbation/loss_perturbed"] = optimizer.scalars["loss_perturbed"]
        self.due = self.due and not self.values

    @staticmethod
    def defined(read: dict[str, float]) -> dict[str, float]:
        """Return the scalars that were read, without those that are undefined in the step."""
        return {
            key: value
            for key, value in read.items()
            if math.isfinite(value) or not (key.startswith(UNDEFINED) or key.endswith("_coefficient"))
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the state; the keys are part of the trainer's state."""
        return {"record_due": self.due, "scalars": self.defined(read_together(self.values)[0])}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a :meth:`state_dict`; other keys of `state` are not read."""
        self.due = state["record_due"]
        self.values = {k: torch.tensor(v, dtype=torch.float64, device=self.device) for k, v in state["scalars"].items()}
