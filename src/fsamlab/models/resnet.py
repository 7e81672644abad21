"""Residual networks (He et al. 2016, arXiv 1512.03385) from torchvision's blocks, for small images."""

from __future__ import annotations

import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from fsamlab.models.init import he_init, torch_init


def resnet18(num_classes: int, in_channels: int, init: str = "he") -> nn.Module:
    """Return ResNet-18 with the stem for 32x32 images: one 3x3 convolution, no max-pooling.

    Input (batch, in_channels, height, width), output (batch, num_classes) logits.

    Args:
        num_classes: width of the classifier.
        in_channels: channels of the images.
        init: `he`: convolutions from He's normal distribution (fan out), as in torchvision. `official`: torch's
            default, as in the code of the F-SAM authors (nblt/F-SAM), with less than half the norm of `he`.
    """
    return _for_small_images(torchvision.models.resnet18(num_classes=num_classes), in_channels, init)


def resnet34(num_classes: int, in_channels: int, init: str = "official") -> nn.Module:
    """Return ResNet-34, basic blocks [3, 4, 6, 3], with the stem for 32x32 images; arguments as in :func:`resnet18`.

    The code of the F-SAM authors calls this network "resnet50".
    """
    return _for_small_images(torchvision.models.resnet34(num_classes=num_classes), in_channels, init)


def _for_small_images(model: ResNet, in_channels: int, init: str) -> nn.Module:
    model.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    if init == "official":
        torch_init(model)
    else:
        he_init(model.conv1)  # torchvision has drawn the other convolutions in this way
    return model


def small_cnn(num_classes: int, in_channels: int, width: int = 32) -> nn.Module:
    """Return a small residual network: 3x3 stem, three stages of one basic block with w, 2w, 4w channels.

    The second and third stage halve the resolution; their shortcuts are 1x1 convolutions with BatchNorm.
    Input (batch, in_channels, height, width), output (batch, num_classes) logits; He's initialisation.
    """
    model = nn.Sequential(
        nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        BasicBlock(width, width),
        BasicBlock(width, 2 * width, stride=2, downsample=_shortcut(width, 2 * width)),
        BasicBlock(2 * width, 4 * width, stride=2, downsample=_shortcut(2 * width, 4 * width)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, num_classes),
    )
    he_init(model)
    return model


def _shortcut(channels_in: int, channels_out: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, stride=2, bias=False), nn.BatchNorm2d(channels_out))
