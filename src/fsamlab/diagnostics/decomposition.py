"""The perturbation taken apart: how much of a batch gradient is full gradient, how much noise, and what each does.

    g_B   gradient of the batch about to be trained on        g   gradient of the other samples of the probe set
    m     the optimizer's EMA, m_{t-1}: g_B is not in it       d   = g_B - sigma m, F-SAM's direction
    Pi    = (<g_B, g> / |g|^2) g, the full-gradient component  n   = g_B - Pi, the batch-specific noise

The batch's samples are left out of the probe set: with them inside, the cosines of g_B come out too large.
All gradients are made as training makes them: batches of its size, their own batch statistics, augmented, and with
dropout and stochastic depth, whose masks count like an augmentation. The full gradient is then the mean over masks;
g is an estimate of it with one mask for each sample, and that noise is part of tr Sigma and so of the predictions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from statistics import fmean

import torch
from torch import Tensor

from fsamlab.data import Batch
from fsamlab.diagnostics import curvature
from fsamlab.diagnostics.noise import GradientNoise, Sampling, ema_cosine, gradient_noise
from fsamlab.diagnostics.objective import Objective, Samples
from fsamlab.diagnostics.vectors import cosine, dot, gaussian, norm
from fsamlab.seeding import derive_seed


class Masks(IntEnum):
    """What a set of masks is for: no two uses share a draw."""

    OTHERS = 0
    INSIDE = 1
    TWINS = 2


@dataclass(frozen=True)
class EmaState:
    """An optimizer's EMA between two steps.

    Attributes:
        m: m_{t-1} (P,); entries of parameters without an average are zero.
        direction: g_B -> d, F-SAM's direction with the optimizer's own sigma and order (sigma 1 where its
            component has none).
        weights: of the gradients in it, float64 (n,), the newest last.
        steps: at which they were taken, int64 (n,).
    """

    m: Tensor
    direction: Callable[[Tensor], Tensor]
    weights: Tensor
    steps: Tensor


class Decomposition:
    """Gradients of the coming batches and of the rest of the probe set, at one w.

    To be built inside :func:`~fsamlab.diagnostics.context.measuring` with `batchnorm="batch", dropout=True`.
    Costs one G over the probe set, and one over the batches.

    Args:
        objective: of the model, with any batches; gives loss and model.
        probe: the probe set, in random order, augmented as in training.
        batches: the batches that training is about to make, of one size; two at least.
        ema: of the optimizer, where it has one.
        sampling: how the batches that fed the EMA were drawn.
        twins: the batches' samples augmented anew, where augmentation or masks make a difference.
        masks: seeds of the masks, where dropout is on: of the batches first, further ones are derived.
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
            raise ValueError("two batches at least: SAM-db perturbs along another one's gradient")
        self.ema, self.sampling, self.num_probe, self.batch_size = ema, sampling, len(probe), len(batches[0])
        taken = torch.isin(probe.indices, torch.cat([b.indices for b in batches]))
        others = (~taken).nonzero().flatten()
        if len(others) % self.batch_size == 1:  # a batch of one has no batch statistics
            others = others[:-1]
        self.masks = masks
        self.others = self._of(objective, chunks(probe, others, self.batch_size), Masks.OTHERS)
        own = [None] * len(batches) if masks is None else [[seed] for seed in masks]
        self.batches = [objective.of([(b.inputs, b.targets)], seeds) for b, seeds in zip(batches, own, strict=True)]
        self.gradients, self.losses = zip(*(b.gradient() for b in self.batches))
        indices = torch.cat([b.indices for b in batches])
        disjoint = len(indices.unique()) == len(indices)  # two epochs' batches need not be
        self.rest, self.noise = self._rest(self.gradients if disjoint else ())
        self.noise = replace(self.noise, trace_augmentation=self._augmentation(twins or []))
        self.full = self._full(objective, probe, taken.nonzero().flatten())

    def _of(self, objective: Objective, batches: list[Samples], use: Masks) -> Objective:
        """Return the objective over these batches, each with masks that no other batch has."""
        if self.masks is None:
            return objective.of(batches)
        return objective.of(batches, [derive_seed(self.masks[0], use, i) for i in range(len(batches))])

    def _rest(self, more: tuple[Tensor, ...]) -> tuple[Tensor, GradientNoise]:
        """Return g over the other samples, and the noise from its batches of full size and from `more`."""
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
        """Return the trace that augmentation and masks add: two draws for a batch differ by twice a batch's share."""
        if not twins:
            return 0.0
        again = self._of(self.others, [(b.inputs, b.targets) for b in twins], Masks.TWINS)
        squares = [norm(a - b) ** 2 for a, (b, _) in zip(self.gradients, again.batch_gradients())]
        return fmean(squares) * self.batch_size / 2

    def _full(self, objective: Objective, probe: Batch, taken: Tensor) -> Tensor:
        """Return the gradient over the whole probe set, which m is compared with."""
        if not len(taken):
            return self.rest
        inside = self._of(objective, chunks(probe, taken, self.batch_size), Masks.INSIDE).gradient()[0]
        share = len(taken) / (len(taken) + self.others.num_samples)
        return self.rest * (1 - share) + inside * share

    def cosines(self) -> dict[str, float]:
        """Return alignments and sizes of the parts, means over the batches, beside what the noise predicts."""
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
        """Return the directions of the variants for the k-th batch, by the variants' names."""
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
        """Return what a step of length rho along each direction does to the batch's loss and to that of others.

        `rise_batch_X` and `rise_other_X`, means over the batches, each with its first-order part <eps, g_B> and
        <eps, g>. A friendly direction raises the first and not the second. Costs for each batch and
        direction one F over the other samples and one over the batch.
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
        """Return the other samples' curvature along each direction of the first batch, `along_X`; a product each."""
        found = curvature.along(self.others, self.directions(0, seed))
        return {f"along_{name}": value for name, value in found.items()}


def chunks(samples: Batch, positions: Tensor, size: int) -> list[Samples]:
    """Return the samples at `positions` in batches of `size`; one that would be left alone joins the batch before it.

    Batch statistics of a single sample do not exist.
    """
    pieces = list(positions.split(size))
    if len(pieces) > 1 and len(pieces[-1]) == 1:
        pieces[-2:] = [torch.cat(pieces[-2:])]
    return [(samples.inputs[p], samples.targets[p]) for p in pieces]
