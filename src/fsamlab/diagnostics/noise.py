"""Gradient noise: its size, what it does to cosines, and how much of it an EMA averages away.

mu is the mean gradient of the distribution the samples come from, g that of the N training samples, Sigma the
covariance of one sample's gradient. For a mean over b samples E|g_B|^2 = |mu|^2 + tr Sigma / b, and two
disjoint batches share mu alone: E<g_i, g_j> = |mu|^2.
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
        grad_sq: estimate of |mu|^2, the mean of the products of pairs; unbiased, so it may be negative.
        trace_sigma: estimate of tr Sigma, b times the sample variance of the batch gradients; unbiased.
        coherence: mean cosine of two batch gradients (Fort et al., 1901.09491).
        batch_size: b.
        num_batches: K.
    """

    grad_sq: float
    trace_sigma: float
    coherence: float
    batch_size: int
    num_batches: int

    @property
    def scale(self) -> float:
        """Simple noise scale tr Sigma / |mu|^2 in samples (McCandlish et al., 1812.06162): a ratio of means."""
        return self.trace_sigma / self.grad_sq if self.grad_sq else math.nan

    def grad_sq_of(self, num_samples: float) -> float:
        """Return the expected |g|^2 of a mean over `num_samples`: |mu|^2 + tr Sigma / num_samples."""
        return self.grad_sq + self.trace_sigma / num_samples

    def cosine_of(self, num_a: float, num_b: float) -> float:
        """Return the expected cosine of mean gradients over disjoint sets of so many samples.

        |mu|^2 / sqrt of their expected squares. It is negative with `grad_sq`: a set that has been learned by
        heart has a gradient near zero, and then its parts point apart. NaN where an expected square is not positive.
        """
        a, b = self.grad_sq_of(num_a), self.grad_sq_of(num_b)
        return self.grad_sq / math.sqrt(a * b) if a > 0 and b > 0 else math.nan

    def values(self) -> dict[str, float]:
        """Return what is logged below noise/."""
        return {
            "grad_sq": self.grad_sq,
            "trace_sigma": self.trace_sigma,
            "scale": self.scale,
            "coherence": self.coherence,
            "coherence_predicted": self.cosine_of(self.batch_size, self.batch_size),
        }


def gradient_noise(gradients: Iterable[Tensor], batch_size: int) -> GradientNoise:
    """Estimate from gradients (P,) of disjoint batches of `batch_size` samples; they are not kept.

    Raises:
        ValueError: fewer than two batches.
    """
    total: Tensor | None = None
    directions: Tensor | None = None
    squares, k = 0.0, 0
    for g in gradients:
        square, k = dot(g, g), k + 1
        squares += square
        unit = g / math.sqrt(square) if square else g
        total = g.clone() if total is None else total.add_(g)
        directions = unit.clone() if directions is None else directions.add_(unit)
    if total is None or directions is None or k < 2:
        raise ValueError("the gradient noise needs two batches at least")
    pairs = k * (k - 1)
    grad_sq = (dot(total, total) - squares) / pairs
    variance = squares / k - grad_sq  # = sum |g_i - mean|^2 / (k - 1)
    coherence = (norm(directions) ** 2 - k) / pairs
    return GradientNoise(grad_sq, batch_size * variance, coherence, batch_size, k)


def ema_weights(num_updates: int, lmbda: float, ema_init: str) -> Tensor:
    """Return the weights c of the gradients in an EMA after `num_updates`, float64, the newest last.

    m = sum_j c_j g_j with c_j = (1 - lmbda) lmbda^age; with `first_gradient` the oldest has lmbda^age alone.
    Gradients so old that their weight is below 1e-12 are left out.
    """
    horizon = 1 if lmbda == 0 else math.ceil(math.log(1e-12) / math.log(lmbda))
    kept = min(num_updates, horizon)
    weights = (1 - lmbda) * lmbda ** torch.arange(kept - 1, -1, -1, dtype=torch.float64)
    if ema_init == "first_gradient" and kept == num_updates:
        weights[0] = lmbda ** (num_updates - 1)
    return weights


@dataclass(frozen=True)
class Sampling:
    """How the training's batches are drawn.

    Attributes:
        num_samples: N.
        batch_size: b; the last batch of an epoch may be smaller.
        steps_per_epoch: batches of an epoch.
        independent: batches are drawn independently of each other, not by shuffled epochs.
    """

    num_samples: int
    batch_size: int
    steps_per_epoch: int
    independent: bool = False

    def sizes(self, steps: Tensor) -> Tensor:
        """Return the number of samples in the batches of these steps, float64."""
        last = self.num_samples - self.batch_size * (self.steps_per_epoch - 1)
        full = torch.full_like(steps, self.batch_size, dtype=torch.float64)
        if self.independent:
            return full
        return torch.where(steps % self.steps_per_epoch == self.steps_per_epoch - 1, min(last, self.batch_size), full)


def ema_variance(weights: Tensor, steps: Tensor, sampling: Sampling) -> float:
    """Return V / tr Sigma, V the expected |m - (sum c) g|^2 of an EMA of batch gradients at fixed weights w.

    Within an epoch the batches partition the training set, so that their noises are anticorrelated,
    Cov = -Sigma / N, and an epoch's share of the EMA contributes sum c^2 / b - (sum c)^2 / N: nothing
    where the weights are equal. Different epochs are independent given the set. For independent draws
    the second term falls away and lmbda gives (1 - lmbda) / (1 + lmbda) / b.

    Args:
        weights: c, float64 (n,).
        steps: int64 (n,); the global step at which each gradient was taken.
    """
    terms = weights**2 / sampling.sizes(steps)
    if sampling.independent:
        return float(terms.sum())
    epochs = steps // sampling.steps_per_epoch
    variance = 0.0
    for epoch in epochs.unique():
        here = epochs == epoch
        variance += float(terms[here].sum() - weights[here].sum() ** 2 / sampling.num_samples)
    return variance


def ema_cosine(noise: GradientNoise, weights: Tensor, steps: Tensor, sampling: Sampling, num_probe: int) -> float:
    """Return the cosine that an EMA would have with the gradient of a probe set if w had stood still.

    cos = 1 / sqrt(1 + V / (s^2 |g|^2)) with s = sum c, times 1 / sqrt(1 + tr Sigma (1/n - 1/N) / |g|^2) for a
    probe of n of the N training samples. |g|^2 is that of the training set, |mu|^2 + tr Sigma / N. NaN
    where its estimate is negative.
    """
    square = noise.grad_sq_of(sampling.num_samples)
    if square <= 0:
        return math.nan
    of_ema = ema_variance(weights, steps, sampling) * noise.trace_sigma / (float(weights.sum()) ** 2 * square)
    of_probe = noise.trace_sigma * (1 / num_probe - 1 / sampling.num_samples) / square
    return 1 / math.sqrt((1 + of_ema) * (1 + of_probe))
