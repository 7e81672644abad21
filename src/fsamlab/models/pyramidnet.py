"""PyramidNet (Han, Kim, Kim 2017, arXiv 1610.02915) with basic blocks, for small images."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from fsamlab.config import ConfigError
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
        # ceil_mode rounds odd sizes up, as the strided convolution does
        self.pool = nn.AvgPool2d(2, ceil_mode=True) if stride == 2 else nn.Identity()
        self.num_new_channels = channels_out - channels_in

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels_in, height, width) to (batch, channels_out, height/stride, width/stride)."""
        out = self.bn3(self.conv2(F.relu(self.bn2(self.conv1(self.bn1(x))))))
        return out + F.pad(self.pool(x), (0, 0, 0, 0, 0, self.num_new_channels))


def pyramidnet110(num_classes: int, in_channels: int, depth: int = 110, alpha: int = 270) -> nn.Module:
    """Return a PyramidNet in which block k of N has floor(16 + k alpha / N) channels (equation 2 of the paper).

    Input (batch, in_channels, height, width), output (batch, num_classes) logits; He's initialisation.

    Args:
        num_classes: width of the classifier.
        in_channels: channels of the images.
        depth: number of layers, 6n + 2.
        alpha: number of channels that are added over the whole depth.

    Raises:
        ConfigError: the depth is not of this form.
    """
    if depth < 8 or (depth - 2) % 6:
        raise ConfigError("model.depth", depth, "must be 6n+2 (8, 14, 20, ..., 110)")
    num_blocks = (depth - 2) // 2
    layers: list[nn.Module] = [nn.Conv2d(in_channels, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)]
    channels = 16
    for block in range(num_blocks):
        widened = 16 + (block + 1) * alpha // num_blocks
        halves = block in (num_blocks // 3, 2 * num_blocks // 3)  # the first of the second and third stage
        layers.append(PyramidBlock(channels, widened, stride=2 if halves else 1))
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
