"""The initialisations that the models of this package share."""

from __future__ import annotations

from typing import Literal

from torch import nn


def he_init(model: nn.Module, mode: Literal["fan_in", "fan_out"] = "fan_out") -> None:
    """Draw every convolution from He's normal distribution for ReLU and set its bias to zero.

    He et al. 2015 (arXiv 1502.01852): equation 10 with `mode="fan_in"`, equation 15 with `mode="fan_out"`. BatchNorm
    and linear layers keep torch's defaults.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def torch_init(model: nn.Module) -> None:
    """Draw every convolution from torch's default: uniform in +-1/sqrt(fan in), a third of the variance 1/fan in."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()
