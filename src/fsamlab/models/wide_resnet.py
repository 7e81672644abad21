"""Wide residual networks (Zagoruyko, Komodakis 2016, arXiv 1605.07146), pre-activation, for small images."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from fsamlab.config.model import WIDE_DEPTH, check_depth
from fsamlab.models.init import he_init


class WideBlock(nn.Module):
    """BN-ReLU-conv-BN-ReLU-dropout-conv; the shortcut is a 1x1 convolution where the shape changes.

    The convolution of the shortcut reads the activated input, the identity reads the input itself.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.shortcut: nn.Module | None = None
        if channels_in != channels_out or stride != 1:
            self.shortcut = nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels_in, height, width) to (batch, channels_out, height/stride, width/stride)."""
        activated = F.relu(self.bn1(x))
        out = self.dropout(F.relu(self.bn2(self.conv1(activated))))
        return self.conv2(out) + (x if self.shortcut is None else self.shortcut(activated))


def wrn28_10(
    num_classes: int, in_channels: int, depth: int = 28, width: int = 10, dropout: float = 0.0, init: str = "he"
) -> nn.Module:
    """Return a wide ResNet, by default WRN-28-10.

    Input (batch, in_channels, height, width), output (batch, num_classes) logits. The classifier starts at zero
    (weights and bias), as in the code of the F-SAM authors.

    Args:
        num_classes: width of the classifier.
        in_channels: channels of the images.
        depth: number of layers as the paper counts them, 6n + 4: n blocks in each of the three stages.
        width: widening factor of the 16, 32 and 64 channels.
        dropout: probability, between the two convolutions of each block.
        init: convolutions from He's normal distribution, `he`: fan out; `official`: fan in, as in the code of the F-SAM
            authors (nblt/F-SAM).

    Raises:
        ConfigError: the depth is not of this form.
    """
    check_depth(depth, *WIDE_DEPTH)
    layers: list[nn.Module] = [nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)]
    channels = 16
    for stage, stride in ((16, 1), (32, 2), (64, 2)):
        for block in range((depth - 4) // 6):
            layers.append(WideBlock(channels, stage * width, stride if block == 0 else 1, dropout))
            channels = stage * width
    classifier = nn.Linear(channels, num_classes)
    model = nn.Sequential(
        *layers,
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        classifier,
    )
    he_init(model, mode="fan_in" if init == "official" else "fan_out")
    nn.init.zeros_(classifier.weight)
    nn.init.zeros_(classifier.bias)
    return model


def wrn28_10_official(
    num_classes: int, in_channels: int, depth: int = 34, width: int = 10, dropout: float = 0.0, init: str = "official"
) -> nn.Module:
    """Return what the code of the F-SAM authors (nblt/F-SAM) calls WideResNet28x10; arguments as in :func:`wrn28_10`.

    That code makes (28 - 4) // 6 = 4 blocks in each stage after the block that widens: five blocks, hence 34 layers.
    """
    return wrn28_10(num_classes, in_channels, depth, width, dropout, init)


def wrn16_8_official(
    num_classes: int, in_channels: int, depth: int = 22, width: int = 8, dropout: float = 0.0, init: str = "official"
) -> nn.Module:
    """Return what the code of the F-SAM authors calls WideResNet16x8: 2 + 1 blocks in each stage, hence 22 layers."""
    return wrn28_10(num_classes, in_channels, depth, width, dropout, init)
