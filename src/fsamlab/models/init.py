"""The initialisation that the models of this package share."""

from __future__ import annotations

from torch import nn


def he_init(model: nn.Module) -> None:
    """Draw every convolution from He's normal distribution (fan out, ReLU) and set its bias to zero.

    He et al. 2015 (arXiv 1502.01852), equation 15. BatchNorm and linear layers keep torch's defaults.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
