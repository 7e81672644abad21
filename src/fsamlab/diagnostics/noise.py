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
        trace_augmentation: the part of tr Sigma that comes from augmenting a sample anew each time, and that
            is drawn independently in every epoch and in the probe.
    """

    grad_sq: float
    trace_sigma: float
    coherence: float
    batch_size: int
    num_batches: int
    trace_augmentation: float = 0.0

    @property
    def scale(self) -> float:
        """Simple noise scale tr Sigma / |mu|^2 in samples (McCandlish et al., 1812.06162): a ratio of means.

        NaN where the estimate of |mu|^2 is not positive.
        """
        return self.trace_sigma / self.grad_sq if self.grad_sq > 0 else math.nan

    @property
    def trace_samples(self) -> float:
        """The part of tr Sigma between the samples, which a pass over all N of them averages away."""
        return self.trace_sigma - self.trace_augmentation

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
            "trace_augmentation": self.trace_augmentation,
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
    squares, k, num_directions = 0.0, 0, 0
    for g in gradients:
        square, k = dot(g, g), k + 1
        squares += square
        total = g.clone() if total is None else total.add_(g)
        if square:  # a zero has no direction
            unit, num_directions = g / math.sqrt(square), num_directions + 1
            directions = unit if directions is None else directions.add_(unit)
    if total is None or k < 2:
        raise ValueError("the gradient noise needs two batches at least")
    grad_sq = (dot(total, total) - squares) / (k * (k - 1))
    variance = squares / k - grad_sq  # = sum |g_i - mean|^2 / (k - 1)
    coherence = math.nan
    if directions is not None and num_directions > 1:
        coherence = (norm(directions) ** 2 - num_directions) / (num_directions * (num_directions - 1))
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
    """How the batches were drawn whose gradients an EMA is made of.

    Attributes:
        num_samples: N.
        batch_size: of training; the last batch of an epoch may be smaller.
        steps_per_epoch: batches of an epoch; None where nobody has said how batches are drawn.
        ascent_size: samples that feed the EMA, where these are not the batch's own: the first of its samples, or
            all of them with others drawn at random.
        parts: micro-batches of a batch that feed the EMA one by one.
        independent: batches are drawn independently of each other (each without replacement), not by
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
        """Whether the draws are told: without that there is no prediction for an EMA of these batches."""
        return self.independent or self.steps_per_epoch is not None

    @property
    def coupling(self) -> float:
        """How far the gradients of an epoch partition the training set: 1 for its batches, 0 for independent ones.

        It is the share kappa of a batch's own noise in a gradient, its other samples averaged over: the s - b
        others come from outside the batch, so kappa = (b / s) (N - s) / (N - b).
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
        assert self.steps_per_epoch is not None  # the caller has asked `is_known`
        last = self.num_samples - self.batch_size * (self.steps_per_epoch - 1)
        is_last = steps % self.steps_per_epoch == self.steps_per_epoch - 1
        sizes = torch.where(is_last, min(last, self.batch_size), full)
        return sizes.clamp(max=fed) / self.parts


def ema_variance(
    weights: Tensor, steps: Tensor, sampling: Sampling, *, trace_sigma: float = 1.0, trace_augmentation: float = 0.0
) -> float:
    """Return V, the expected |m - (sum c) g|^2 of an EMA of batch gradients at fixed weights w.

    Within an epoch the batches partition the training set, so that the samples' share of their noises is
    anticorrelated, Cov = -Sigma / N, and an epoch's share of the EMA contributes sum c^2 / b - (sum c)^2 / N:
    nothing where the weights are equal. Different epochs are independent given the set. Batches drawn
    independently contribute c^2 (1 / b - 1 / N) each: (1 - lmbda) / (1 + lmbda) times that of one batch. The
    noise of augmentation is independent everywhere.

    Args:
        weights: c, float64 (n,).
        steps: int64 (n,); the global step at which each gradient was taken.
        trace_sigma: of one sample's gradient; 1 gives V / tr Sigma.
        trace_augmentation: its part that comes from augmentation.
    """
    independent = float((weights**2 / sampling.sizes(steps)).sum())
    coupled = sampling.coupling**2
    shared = (1 - coupled) * float((weights**2).sum())
    if coupled and sampling.steps_per_epoch is not None:
        epochs = steps // sampling.steps_per_epoch
        shared += coupled * sum(float(weights[epochs == epoch].sum()) ** 2 for epoch in epochs.unique())
    return trace_sigma * independent - (trace_sigma - trace_augmentation) * shared / sampling.num_samples


def ema_cosine(noise: GradientNoise, weights: Tensor, steps: Tensor, sampling: Sampling, num_probe: int) -> float:
    """Return the cosine that an EMA would have with the gradient of a probe set if w had stood still.

    cos = 1 / sqrt(1 + V / (s^2 |g|^2)) with s = sum c, times the same for the probe, n of the N training samples
    augmented once: 1 / sqrt(1 + (tr Sigma / n - tr Sigma_samples / N) / |g|^2). |g|^2 is that of the training set,
    |mu|^2 + tr Sigma_samples / N. NaN where its estimate is negative, or where the sampling is not known.
    """
    square = noise.grad_sq + noise.trace_samples / sampling.num_samples
    if not square > 0 or not sampling.is_known:
        return math.nan
    traces = {"trace_sigma": noise.trace_sigma, "trace_augmentation": noise.trace_augmentation}
    of_ema = ema_variance(weights, steps, sampling, **traces) / (float(weights.sum()) ** 2 * square)
    of_probe = (noise.trace_sigma / num_probe - noise.trace_samples / sampling.num_samples) / square
    return 1 / math.sqrt((1 + of_ema) * (1 + of_probe))
