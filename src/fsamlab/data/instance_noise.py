"""Instance-dependent label noise: how likely a label is wrong, and which class stands there, depends on the image.

Algorithm 2 of Xia et al. 2020 (arXiv 2006.07836), with ratio tau, S pixels and C classes:

1. Each image draws a flip rate q from a normal distribution with mean tau and deviation 0.1, truncated to [0, 1].
2. Each class c draws a projection w_c, (S, C), of standard normal numbers.
3. An image x of class y keeps its label with probability 1 - q. The probability of another class j is q times the
   softmax of x w_y over all classes but y.

The pixels are those that the files hold (0..255 for CIFAR), as in the authors' code. So the softmax of an image of
CIFAR is close to one class, and similar images of one class get the same wrong class.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fsamlab.data.sampling import generator
from fsamlab.seeding import Stream

RATE_DEVIATION = 0.1  # of the flip rates, before they are truncated


def flip_rates(uniform: Tensor, ratio: float) -> Tensor:
    """Return the flip rates q, float64 (n,), as quantiles of the truncated normal distribution at `uniform` (n,).

    A quantile rises with the mean of the distribution. So an image with a large rate at one ratio has a large rate at
    every ratio.
    """
    low, high = (torch.special.ndtr(torch.tensor((x - ratio) / RATE_DEVIATION).double()) for x in (0.0, 1.0))
    return (ratio + RATE_DEVIATION * torch.special.ndtri(low + uniform * (high - low))).clamp(0, 1)


def add_instance_noise(pixels: Tensor, labels: Tensor, num_classes: int, ratio: float, seed: int) -> Tensor:
    """Return a copy of `labels` with instance-dependent noise. A label that is drawn anew always changes.

    For one seed and one training set the noise is nested in the ratio: an image with a wrong label at a small ratio has
    the same wrong label at every larger ratio, because its rate only rises and all its draws stay.

    The share of wrong labels is the mean of the truncated normal distribution on average: `ratio` between 0.25 and
    0.75; 0.206 for a ratio of 0.2, 0.129 for 0.1. A ratio of 0 means no noise.

    Args:
        pixels: (n, channels, height, width), uint8 or float.
        labels: true labels, int64 (n,).
        num_classes: the number of classes C.
        ratio: the mean tau of the flip rates, before they are truncated.
        seed: determines rates, projections and draws.
    """
    noisy = labels.clone()
    if ratio == 0:
        return noisy
    rate, flip = torch.rand(2, len(labels), dtype=torch.float64, generator=generator(seed, Stream.LABEL_NOISE))
    flipped = flip < flip_rates(rate, ratio)
    for c in range(num_classes):
        members = (labels == c).nonzero().squeeze(1)
        gen = generator(seed, Stream.LABEL_NOISE, c)  # a stream for each class: all projections at once need gigabytes
        # in float64, so that other kernels or threads, which round otherwise, choose the same classes
        projection = torch.randn(pixels[0].numel(), num_classes, dtype=torch.float64, generator=gen)
        scores = pixels[members].double().flatten(1) @ projection
        scores[:, c] = -torch.inf
        # score + Gumbel noise: the class with the highest sum is a draw from the softmax of the scores
        gumbel = -torch.empty_like(scores).exponential_(generator=gen).log()
        noisy[members] = torch.where(flipped[members], (scores + gumbel).argmax(1), c)
    return noisy
