"""VGG-16 with BatchNorm (Simonyan, Zisserman 2015, arXiv 1409.1556) for 32x32 images."""

from __future__ import annotations

from torch import nn

from fsamlab.models.init import he_init

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))  # configuration D


def vgg16_bn(num_classes: int, in_channels: int, dropout: float = 0.5) -> nn.Module:
    """Return VGG-16-BN with two hidden layers of 512 units in the classifier, each after a dropout.

    Five max-poolings reduce 32x32 pixels to one; of larger images the remaining pixels are averaged. Input (batch,
    in_channels, height, width), output (batch, num_classes) logits; He's initialisation.
    """
    layers: list[nn.Module] = []
    channels = in_channels
    for stage in STAGES:
        for width in stage:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
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
