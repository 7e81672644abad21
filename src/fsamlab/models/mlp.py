"""A multilayer perceptron for tables."""

from __future__ import annotations

from torch import nn


def mlp(num_classes: int, in_channels: int, width: int = 64, depth: int = 2) -> nn.Module:
    """Return `depth` hidden layers of `width` units with ReLU and a linear layer on top.

    Input (batch, in_channels), output (batch, num_classes): logits, or the values of a regression. The weights are
    drawn from He's normal distribution (fan in, ReLU; 1502.01852, equation 10), those of the last layer from torch's
    default; biases of the hidden layers are zero.
    """
    layers: list[nn.Module] = []
    size = in_channels
    for _ in range(depth):
        hidden = nn.Linear(size, width)
        nn.init.kaiming_normal_(hidden.weight, nonlinearity="relu")
        nn.init.zeros_(hidden.bias)
        layers += [hidden, nn.ReLU()]
        size = width
    return nn.Sequential(*layers, nn.Linear(size, num_classes))
