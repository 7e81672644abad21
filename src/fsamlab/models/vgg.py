"""VGG (Simonyan, Zisserman 2015, arXiv 1409.1556) for 32x32 images, with and without BatchNorm."""

from __future__ import annotations

from torch import nn

from fsamlab.models.init import he_init

WIDTHS = (64, 128, 256, 512, 512)  # of the five stages
CONVOLUTIONS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}  # in each stage; configurations D and E


def vgg16_bn(num_classes: int, in_channels: int, dropout: float = 0.5) -> nn.Module:
    """Return VGG-16 with BatchNorm."""
    return _vgg(16, True, num_classes, in_channels, dropout)


def vgg16(num_classes: int, in_channels: int, dropout: float = 0.5) -> nn.Module:
    """Return VGG-16 without BatchNorm."""
    return _vgg(16, False, num_classes, in_channels, dropout)


def vgg19_bn(num_classes: int, in_channels: int, dropout: float = 0.5) -> nn.Module:
    """Return VGG-19 with BatchNorm."""
    return _vgg(19, True, num_classes, in_channels, dropout)


def vgg19(num_classes: int, in_channels: int, dropout: float = 0.5) -> nn.Module:
    """Return VGG-19 without BatchNorm."""
    return _vgg(19, False, num_classes, in_channels, dropout)


def _vgg(layers_with_weights: int, batch_norm: bool, num_classes: int, in_channels: int, dropout: float) -> nn.Module:
    """Return a VGG with two hidden layers of 512 units in the classifier, each after a dropout.

    Five max-poolings reduce 32x32 pixels to one; of larger images the remaining pixels are averaged. Input (batch,
    in_channels, height, width), output (batch, num_classes) logits; He's initialisation (fan out), as in the code of
    the F-SAM authors (nblt/F-SAM).
    """
    layers: list[nn.Module] = []
    channels = in_channels
    for width, convolutions in zip(WIDTHS, CONVOLUTIONS[layers_with_weights], strict=True):
        for _ in range(convolutions):
            layers.append(nn.Conv2d(channels, width, 3, padding=1))
            layers += [nn.BatchNorm2d(width)] if batch_norm else []
            layers.append(nn.ReLU(inplace=True))
            channels = width
        layers.append(nn.MaxPool2d(2))
    model = nn.Sequential(
        *layers,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(512, 512),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Linear(512, 512),
        nn.ReLU(inplace=True),
        nn.Linear(512, num_classes),
    )
    he_init(model)
    return model
