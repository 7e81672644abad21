"""Decomposition of the perturbation: the parts of a batch gradient along the full gradient and orthogonal to it.

    g_B   gradient of the batch of the next step              g   gradient of the other samples of the probe set
    m     the optimizer's EMA m_{t-1}, without g_B             d   = g_B - sigma m, F-SAM's direction
    Pi    = (<g_B, g> / |g|^2) g, the full-gradient component  n   = g_B - Pi, the batch-specific noise

The samples of the batches are left out of g. With these samples inside, the cosines of g_B would be too large.

All gradients are computed as in training: batches of training's size, the statistics of each batch, augmentation,
dropout and stochastic depth. A mask of dropout counts like an augmentation: the full gradient is the mean over masks,
and g estimates it with one mask for each sample. The noise of this estimate is part of tr Sigma, and therefore of the
predictions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from enum import IntEnum
from statistics import fmean

import torch
from torch import Tensor

from fsamlab.data import Batch
from fsamlab.diagnostics import curvature
from fsamlab.diagnostics.ema import EmaState
from fsamlab.diagnostics.noise import GradientNoise, Sampling, ema_cosine, gradient_noise
from fsamlab.diagnostics.objective import Objective, Samples
from fsamlab.diagnostics.vectors import cosine, dot, gaussian, norm
from fsamlab.seeding import derive_seed


class Masks(IntEnum):
    """The uses of random masks. Each use has draws of its own."""

    OTHERS = 0
    INSIDE = 1
    TWINS = 2


class Decomposition:
    """Gradients of the next batches and of the other samples of the probe set, at the same weights w.

    To be built inside :func:`~fsamlab.diagnostics.context.measuring` with `batchnorm="batch", dropout=True`.
    Costs one G over the probe set, and one G over the batches.

    Args:
        objective: gives the model and the loss; its batches are not used.
        probe: the probe set, in random order, augmented as in training.
        batches: the batches of the next steps, all of one size, at least two.
        ema: the optimizer's EMA, None if it has none.
        sampling: how the batches behind the EMA were drawn.
        twins: the samples of the batches with new augmentations; None if neither augmentation nor dropout is used.
        masks: a seed for the masks of each batch; other seeds are derived from the first. None without dropout.
    """

    def __init__(
        self,
        objective: Objective,
        probe: Batch,
        batches: list[Batch],
        ema: EmaState | None,
        sampling: Sampling,
        twins: list[Batch] | None = None,
        masks: list[int] | None = None,
    ) -> None:
        if len(batches) < 2:
            raise ValueError("needs at least two batches: SAM-db perturbs along the gradient of another batch")
        self.ema, self.sampling, self.num_probe, self.batch_size = ema, sampling, len(probe), len(batches[0])
        taken = torch.isin(probe.indices, torch.cat([b.indices for b in batches]))
        others = (~taken).nonzero().flatten()
        if len(others) % self.batch_size == 1:  # a batch of one sample has no batch statistics
            others = others[:-1]
        self.masks = masks
        self.others = self._of(objective, chunks(probe, others, self.batch_size), Masks.OTHERS)
        own = [None] * len(batches) if masks is None else [[seed] for seed in masks]
        self.batches = [objective.of([(b.inputs, b.targets)], seeds) for b, seeds in zip(batches, own, strict=True)]
        self.gradients, self.losses = zip(*(b.gradient() for b in self.batches))
        indices = torch.cat([b.indices for b in batches])
        disjoint = len(indices.unique()) == len(indices)  # batches of two epochs may share samples
        self.rest, self.noise = self._rest(self.gradients if disjoint else ())
        self.noise = replace(self.noise, trace_augmentation=self._augmentation(twins or []))
        self.full = self._full(objective, probe, taken.nonzero().flatten())

    def _of(self, objective: Objective, batches: list[Samples], use: Masks) -> Objective:
        """Return the objective over these batches, each batch with masks of its own."""
        if self.masks is None:
            return objective.of(batches)
        return objective.of(batches, [derive_seed(self.masks[0], use, i) for i in range(len(batches))])

    def _rest(self, more: tuple[Tensor, ...]) -> tuple[Tensor, GradientNoise]:
        """Return g, and the noise estimated from its batches of full size and from the gradients `more`."""
        total = self.others.zeros()

        def full_sized() -> Iterator[Tensor]:
            for gradient, losses in self.others.batch_gradients():
                total.add_(gradient, alpha=len(losses) / self.others.num_samples)
                if len(losses) == self.batch_size:
                    yield gradient
            yield from more

        noise = gradient_noise(full_sized(), self.batch_size)
        return total, noise

    def _augmentation(self, twins: list[Batch]) -> float:
        """Return the part of tr Sigma due to augmentation and masks.

        The difference between two draws for the same batch has twice the variance of one draw, hence the factor 1/2.
        """
        if not twins:
            return 0.0
        again = self._of(self.others, [(b.inputs, b.targets) for b in twins], Masks.TWINS)
        squares = [norm(a - b) ** 2 for a, (b, _) in zip(self.gradients, again.batch_gradients())]
        return fmean(squares) * self.batch_size / 2

    def _full(self, objective: Objective, probe: Batch, taken: Tensor) -> Tensor:
        """Return the gradient over the whole probe set, for comparison with m."""
        if not len(taken):
            return self.rest
        inside = self._of(objective, chunks(probe, taken, self.batch_size), Masks.INSIDE).gradient()[0]
        share = len(taken) / (len(taken) + self.others.num_samples)
        return self.rest * (1 - share) + inside * share

    def cosines(self) -> dict[str, float]:
        """Return cosines and norms of the parts, as means over the batches, and the predictions from the noise."""
        g, noise = self.rest, self.noise
        pairs = [(cosine(b, g), norm(b)) for b in self.gradients]
        values = {
            "full_grad_norm": norm(self.full),
            "cos_batch_full": fmean(c for c, _ in pairs),
            "cos_batch_full_predicted": noise.cosine_of(self.batch_size, self.others.num_samples),
            "full_share": fmean(c * c for c, _ in pairs),
            "projection_norm": fmean(abs(c) * length for c, length in pairs),
            "noise_norm": fmean(math.sqrt(max(0.0, 1 - c * c)) * length for c, length in pairs),
        }
        if self.ema is None:
            return values
        m, d = self.ema.m, [self.ema.direction(b) for b in self.gradients]
        independent = replace(self.sampling, independent=True)
        predictions = [
            ema_cosine(noise, self.ema.weights, self.ema.steps, how, self.num_probe)
            for how in (self.sampling, independent)
        ]
        return {
            **values,
            "cos_ema_full": cosine(m, self.full),
            "cos_ema_full_predicted": predictions[0],
            "cos_ema_full_independent": predictions[1],
            "ema_norm_ratio": norm(m) / norm(self.full) if norm(self.full) else math.nan,
            "cos_batch_ema": fmean(cosine(b, m) for b in self.gradients),
            "cos_d_full": fmean(cosine(x, g) for x in d),
        }

    def directions(self, k: int, seed: int) -> dict[str, Tensor]:
        """Return {name of a variant: its direction (P,)} for the k-th batch."""
        batch, g = self.gradients[k], self.rest
        square = dot(g, g)
        projection = g * (dot(batch, g) / square) if square else torch.zeros_like(g)
        found = {
            "sam": batch,
            "sam_full": g,
            "sam_component": projection,
            "sam_noise": batch - projection,
            "sam_db": self.gradients[(k + 1) % len(self.gradients)],
            "random": gaussian(g, derive_seed(seed, k)),
        }
        if self.ema is not None:
            found["fsam"] = self.ema.direction(batch)
        return found

    def friendliness(self, rho: float, seed: int) -> dict[str, float]:
        """Return how much a step of length rho along each direction raises the loss of the batch and of other samples.

        The keys are `rise_batch_X` and `rise_other_X`, as means over the batches, and the first-order parts <eps, g_B>
        and <eps, g>. A friendly direction raises the loss of the batch, but not the loss of the other samples. Costs
        one F over the other samples and one F over the batch, for each batch and direction.
        """
        others_losses = self.others.losses()
        found: dict[str, list[float]] = {}
        for k, batch in enumerate(self.batches):
            for name, d in self.directions(k, seed).items():
                length = norm(d)
                if length == 0:
                    continue
                eps = d * (rho / length)
                entries = {
                    f"rise_batch_{name}": batch.rise(eps, self.losses[k]),
                    f"rise_batch_{name}_first_order": dot(eps, self.gradients[k]),
                    f"rise_other_{name}": self.others.rise(eps, others_losses),
                    f"rise_other_{name}_first_order": dot(eps, self.rest),
                }
                for key, value in entries.items():
                    found.setdefault(key, []).append(value)
        return {key: fmean(values) for key, values in found.items()}

    def curvature(self, seed: int) -> dict[str, float]:
        """Return `along_X`, the curvature of the other samples along each direction X of the first batch.

        Costs a Hessian product for each direction.
        """
        found = curvature.along(self.others, self.directions(0, seed))
        return {f"along_{name}": value for name, value in found.items()}


def chunks(samples: Batch, positions: Tensor, size: int) -> list[Samples]:
    """Return the samples at `positions` in batches of `size`.

    If a single sample remains, it joins the batch before, because a batch of one sample has no batch statistics.
    """
    pieces = list(positions.split(size))
    if len(pieces) > 1 and len(pieces[-1]) == 1:
        pieces[-2:] = [torch.cat(pieces[-2:])]
    return [(samples.inputs[p], samples.targets[p]) for p in pieces]
