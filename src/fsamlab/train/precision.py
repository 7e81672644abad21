"""The number formats of the passes: autocast, the scale of the loss in fp16, and TF32 in products of float32.

Weights, gradients, the state of the optimizer and losses are float32 in every format.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from fsamlab.config import ConfigError
from fsamlab.diagnostics.context import products_in
from fsamlab.optim import SharpnessAware
from fsamlab.train.unread import Number

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}  # train.precision -> the type that autocast computes in


def scaler_for(precision: str, device: torch.device) -> torch.amp.GradScaler | None:
    """Return a scaler with torch's settings for fp16, to be given to the optimizer; None for other formats.

    Without a scale, gradients below 6e-8 are zero in float16.
    """
    return torch.amp.GradScaler(device.type) if precision == "fp16" else None


def check_device(precision: str, device: torch.device) -> None:
    """Refuse to train in TF32 on a device that has no TF32.

    Raises:
        ConfigError: `train.precision=tf32` on the CPU.
    """
    if precision == "tf32" and device.type == "cpu":
        raise ConfigError("train.precision", "tf32", "needs a GPU, and this run is on the CPU; use fp32")


class Precision:
    """How the passes of a run compute.

    Args:
        name: `train.precision`.
        device: the device of the model.
        scaler: the scaler that the optimizer has; None if the gradients are not scaled.

    Raises:
        ValueError: fp16 without a scaler.
    """

    def __init__(self, name: str, device: torch.device, scaler: torch.amp.GradScaler | None) -> None:
        if name == "fp16" and scaler is None:
            raise ValueError("train.precision=fp16 needs an optimizer with a scaler: give it grad_scaler=")
        self.name, self.device, self.scaler = name, device, scaler

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context of a forward pass."""
        dtype = AUTOCAST.get(self.name)
        return torch.autocast(self.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)

    def products(self) -> AbstractContextManager[None]:
        """Return the context of a forward and backward pass, in which a GPU multiplies float32 as `name` says.

        On the CPU nothing is set. torch's own settings differ from fp32: convolutions on a GPU use TF32.
        """
        if self.device.type == "cpu":
            return nullcontext()
        return products_in("tf32" if self.name == "tf32" else "ieee")

    def scaled(self, loss: Tensor) -> Tensor:
        """Return the loss that backward() starts from."""
        return loss if self.scaler is None else self.scaler.scale(loss)

    def after_step(self) -> None:
        """Adapt the scale; call this after each step of the optimizer, also after a step that was left out."""
        if self.scaler is not None:
            self.scaler.update()

    def logged(self, optimizer: SharpnessAware) -> dict[str, Number]:
        """Return the entries of a row that a scaled training has, unread."""
        if self.scaler is None:
            return {}
        left_out = torch.as_tensor(optimizer.counters()["num_nonfinite"]).double()
        scale = self.scaler._get_scale_async()  # get_scale() would wait for the device; None before the first step
        return {
            "train/loss_scale": self.scaler.get_scale() if scale is None else scale,
            "perturbation/skipped_share": left_out / max(1, optimizer.num_steps),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the scaler under its key in a checkpoint; empty without a scaler."""
        return {} if self.scaler is None else {"scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a :meth:`state_dict`; other keys of `state` are not read."""
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
