"""Gradient noise: its size, its effect on cosines, and how much of it an EMA averages away.

mu is the mean gradient of the distribution of the samples, g the mean gradient of the N training samples, and Sigma the
covariance of the gradient of one sample. A mean over b samples has E|g_B|^2 = |mu|^2 + tr Sigma / b. Two disjoint
batches have only mu in common: E<g_i, g_j> = |mu|^2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from fsamlab.diagnostics.vectors import dot, norm


@dataclass(frozen=True)
class GradientNoise:
    """Estimates from K gradients of disjoint batches of b samples at the same weights.

    Attributes:
        grad_sq: estimate of |mu|^2, the mean of <g_i, g_j> over pairs. It is unbiased and may therefore be negative.
        trace_sigma: unbiased estimate of tr Sigma: b times the sample variance of the batch gradients.
        coherence: mean cosine of two batch gradients (Fort et al., 1901.09491).
        batch_size: b.
        num_batches: K.
        trace_augmentation: the part of tr Sigma that is due to new augmentations. This part is drawn independently in
            every epoch and in the probe set.
    """

    grad_sq: float
    trace_sigma: float
    coherence: float
    batch_size: int
    num_batches: int
    trace_augmentation: float = 0.0

    @property
    def scale(self) -> float:
        """Simple noise scale tr Sigma / |mu|^2, in samples (McCandlish et al., 1812.06162).

        NaN if the estimate of |mu|^2 is not positive.
        """
        return self.trace_sigma / self.grad_sq if self.grad_sq > 0 else math.nan

    @property
    def trace_samples(self) -> float:
        """The part of tr Sigma that is due to the choice of samples; a pass over all N samples averages it away."""
        return self.trace_sigma - self.trace_augmentation

    def grad_sq_of(self, num_samples: float) -> float:
        """Return the expected |g|^2 of a mean over `num_samples`: |mu|^2 + tr Sigma / num_samples."""
        return self.grad_sq + self.trace_sigma / num_samples

    def cosine_of(self, num_a: float, num_b: float) -> float:
        """Return the expected cosine between the mean gradients of two disjoint sets of num_a and num_b samples.

        This is |mu|^2 divided by the root of the two expected squares. It has the sign of `grad_sq`: if the network has
        memorised a set, the gradient of the set is near zero, and the gradients of its parts point in opposite
        directions. NaN if an expected square is not positive.
        """
        a, b = self.grad_sq_of(num_a), self.grad_sq_of(num_b)
        return self.grad_sq / math.sqrt(a * b) if a > 0 and b > 0 else math.nan

    def values(self) -> dict[str, float]:
        """Return the values that are logged below `noise/`."""
        return {
            "grad_sq": self.grad_sq,
            "trace_sigma": self.trace_sigma,
            "trace_augmentation": self.trace_augmentation,
            "scale": self.scale,
            "coherence": self.coherence,
            "coherence_predicted": self.cosine_of(self.batch_size, self.batch_size),
        }


def gradient_noise(gradients: Iterable[Tensor], batch_size: int) -> GradientNoise:
    """Return the noise estimated from gradients (P,) of disjoint batches of `batch_size` samples.

    The gradients are read one after another and are not kept.

    Raises:
        ValueError: fewer than two batches.
    """
    total: Tensor | None = None
    directions: Tensor | None = None
    squares, k, num_directions = 0.0, 0, 0
    for g in gradients:
        square, k = dot(g, g), k + 1
        squares += square
        total = g.clone() if total is None else total.add_(g)
        if square:  # a zero has no direction
            unit, num_directions = g / math.sqrt(square), num_directions + 1
            directions = unit if directions is None else directions.add_(unit)
    if total is None or k < 2:
        raise ValueError("the gradient noise needs at least two batches")
    # |sum g_i|^2 - sum |g_i|^2 is the sum of <g_i, g_j> over all pairs i != j. Two batches share no noise, so the mean
    # over the pairs estimates |mu|^2 without bias; |mean g_i|^2 would be too large by the variance of the mean.
    grad_sq = (dot(total, total) - squares) / (k * (k - 1))
    variance = squares / k - grad_sq  # = sum |g_i - mean|^2 / (k - 1)
    coherence = math.nan  # mean cosine over all pairs, by the same identity for the unit vectors
    if directions is not None and num_directions > 1:
        coherence = (norm(directions) ** 2 - num_directions) / (num_directions * (num_directions - 1))
    return GradientNoise(grad_sq, batch_size * variance, coherence, batch_size, k)


@dataclass(frozen=True)
class Sampling:
    """How training draws the batches whose gradients an EMA contains.

    Attributes:
        num_samples: N, the number of training samples.
        batch_size: samples of a batch; the last batch of an epoch may be smaller.
        steps_per_epoch: batches of an epoch; None if it is not known how batches are drawn.
        ascent_size: number of samples behind each gradient in the EMA, if it is not the batch size. A smaller number
            means the first samples of the batch; a larger number means all its samples and others drawn at random.
        parts: number of micro-batches of a batch whose gradients enter the EMA one by one.
        independent: whether batches are drawn independently of each other (each without replacement), and not from
            shuffled epochs.
    """

    num_samples: int
    batch_size: int
    steps_per_epoch: int | None = None
    ascent_size: int | None = None
    parts: int = 1
    independent: bool = False

    @property
    def is_known(self) -> bool:
        """Whether it is known how batches are drawn; otherwise an EMA of their gradients has no prediction."""
        return self.independent or self.steps_per_epoch is not None

    @property
    def coupling(self) -> float:
        """How far the gradients of an epoch partition the training set: 1 for its batches, 0 for independent batches.

        The coupling is the share kappa of a batch's own noise in a gradient over s samples. The other s - b samples are
        drawn from outside the batch; averaged over them, kappa = (b / s) (N - s) / (N - b).
        """
        n, b, s = self.num_samples, self.batch_size, self.ascent_size or self.batch_size
        if self.independent:
            return 0.0
        return 1.0 if s <= b else b * (n - s) / (s * (n - b))

    def sizes(self, steps: Tensor) -> Tensor:
        """Return the number of samples behind each gradient that was taken at these steps, float64."""
        full = torch.full_like(steps, self.batch_size, dtype=torch.float64)
        fed = self.ascent_size or self.batch_size
        if self.independent or fed > self.batch_size:
            return torch.full_like(full, fed / self.parts)
        assert self.steps_per_epoch is not None  # callers check `is_known` first
        last = self.num_samples - self.batch_size * (self.steps_per_epoch - 1)
        is_last = steps % self.steps_per_epoch == self.steps_per_epoch - 1
        sizes = torch.where(is_last, min(last, self.batch_size), full)
        return sizes.clamp(max=fed) / self.parts


def ema_variance(
    weights: Tensor, steps: Tensor, sampling: Sampling, *, trace_sigma: float = 1.0, trace_augmentation: float = 0.0
) -> float:
    """Return V, the expected |m - (sum c) g|^2 of an EMA of batch gradients at fixed weights w.

    Within an epoch the batches partition the training set. The part of their noise that is due to the choice of samples
    is therefore anticorrelated, Cov = -Sigma / N, and the gradients of one epoch contribute sum c^2 / b - (sum c)^2 /
    N, which is zero for a whole epoch with equal weights. Given the training set, different epochs are independent. A
    batch that is drawn independently contributes c^2 (1 / b - 1 / N); all such batches together contribute
    (1 - lmbda) / (1 + lmbda) times the variance of one batch. The noise of augmentation is always independent.

    Args:
        weights: c, float64 (n,).
        steps: int64 (n,); the global step at which each gradient was taken.
        sampling: how the batches are drawn.
        trace_sigma: tr Sigma; 1 gives V / tr Sigma.
        trace_augmentation: the part of tr Sigma that is due to augmentation.
    """
    independent = float((weights**2 / sampling.sizes(steps)).sum())
    coupled = sampling.coupling**2
    shared = (1 - coupled) * float((weights**2).sum())
    if coupled and sampling.steps_per_epoch is not None:
        epochs = steps // sampling.steps_per_epoch
        shared += coupled * sum(float(weights[epochs == epoch].sum()) ** 2 for epoch in epochs.unique())
    return trace_sigma * independent - (trace_sigma - trace_augmentation) * shared / sampling.num_samples


def ema_cosine(noise: GradientNoise, weights: Tensor, steps: Tensor, sampling: Sampling, num_probe: int) -> float:
    """Return the cosine that an EMA would have with the gradient of a probe set if w had not moved.

    The EMA gives the factor 1 / sqrt(1 + V / (s^2 |g|^2)) with s = sum c. The probe set, n of the N training samples,
    each augmented once, gives the factor 1 / sqrt(1 + (tr Sigma / n - tr Sigma_samples / N) / |g|^2). |g|^2 belongs to
    the training set: |mu|^2 + tr Sigma_samples / N. NaN if the estimate of |g|^2 is not positive, or if the sampling is
    not known.
    """
    square = noise.grad_sq + noise.trace_samples / sampling.num_samples
    if not square > 0 or not sampling.is_known:
        return math.nan
    traces = {"trace_sigma": noise.trace_sigma, "trace_augmentation": noise.trace_augmentation}
    of_ema = ema_variance(weights, steps, sampling, **traces) / (float(weights.sum()) ** 2 * square)
    of_probe = (noise.trace_sigma / num_probe - noise.trace_samples / sampling.num_samples) / square
    return 1 / math.sqrt((1 + of_ema) * (1 + of_probe))
