"""PyramidNet (Han, Kim, Kim 2017, arXiv 1610.02915) for small images."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from fsamlab.config.model import PYRAMID_DEPTH, check_depth
from fsamlab.models.init import he_init


class PyramidBlock(nn.Module):
    """BN-conv-BN-ReLU-conv-BN (the paper's figure 6d) with a parameter-free shortcut.

    The shortcut averages 2x2 pixels where the resolution halves and fills new channels with zeros.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.pool = _halved(stride)
        self.num_new_channels = channels_out - channels_in

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels_in, height, width) to (batch, channels_out, height/stride, width/stride)."""
        out = self.bn3(self.conv2(F.relu(self.bn2(self.conv1(self.bn1(x))))))
        return out + _widened(self.pool(x), self.num_new_channels)


class PyramidBottleneck(nn.Module):
    """BN-1x1 conv-BN-ReLU-3x3 conv-BN-ReLU-1x1 conv-BN with the shortcut of :class:`PyramidBlock`.

    The last convolution widens `channels` to 4 times as many; the 3x3 convolution halves the resolution.
    """

    EXPANSION = 4

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, self.EXPANSION * channels, 1, bias=False)
        self.bn4 = nn.BatchNorm2d(self.EXPANSION * channels)
        self.pool = _halved(stride)
        self.num_new_channels = self.EXPANSION * channels - channels_in

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels_in, height, width) to (batch, 4 channels, height/stride, width/stride)."""
        out = F.relu(self.bn2(self.conv1(self.bn1(x))))
        out = self.bn4(self.conv3(F.relu(self.bn3(self.conv2(out)))))
        return out + _widened(self.pool(x), self.num_new_channels)


def _halved(stride: int) -> nn.Module:
    # ceil_mode rounds odd sizes up, as the strided convolution does
    return nn.AvgPool2d(2, ceil_mode=True) if stride == 2 else nn.Identity()


def _widened(x: Tensor, num_new_channels: int) -> Tensor:
    return F.pad(x, (0, 0, 0, 0, 0, num_new_channels))


def pyramidnet110(
    num_classes: int, in_channels: int, depth: int = 110, alpha: int = 270, block: str = "basic"
) -> nn.Module:
    """Return a PyramidNet, by default PyramidNet-110 with alpha 270.

    Input (batch, in_channels, height, width), output (batch, num_classes) logits; He's initialisation (fan out), as
    in the code of the F-SAM authors (nblt/F-SAM).

    Args:
        num_classes: width of the classifier.
        in_channels: channels of the images.
        depth: number of layers; 6n + 2 with basic blocks and 9n + 2 with bottlenecks, n blocks in each of three stages.
        alpha: number of channels that are added over the whole depth; of bottlenecks, to their narrow part.
        block: `basic`: block k of N has floor(16 + k alpha / N) channels (equation 2 of the paper). `bottleneck`: the
            3x3 convolution of block k has 16 + k alpha / N channels, rounded to the nearest number and halves to the
            even one, as in the code of the F-SAM authors.

    Raises:
        ConfigError: the depth is not of this form.
    """
    bottleneck = block == "bottleneck"
    step, rest = PYRAMID_DEPTH[block]
    check_depth(depth, step, rest)
    num_blocks = 3 * ((depth - rest) // step)
    layers: list[nn.Module] = [nn.Conv2d(in_channels, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)]
    channels = 16
    for k in range(num_blocks):
        halves = k in (num_blocks // 3, 2 * num_blocks // 3)  # the first of the second and third stage
        stride = 2 if halves else 1
        if bottleneck:
            narrow = round(16 + (k + 1) * alpha / num_blocks)
            layers.append(PyramidBottleneck(channels, narrow, stride))
            channels = PyramidBottleneck.EXPANSION * narrow
        else:
            widened = 16 + (k + 1) * alpha // num_blocks
            layers.append(PyramidBlock(channels, widened, stride))
            channels = widened
    model = nn.Sequential(
        *layers,
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, num_classes),
    )
    he_init(model)
    return model
