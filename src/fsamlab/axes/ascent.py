"""First axis: where the ascent gradient comes from."""

from __future__ import annotations

import torch
from torch import Tensor

from fsamlab.axes import rules
from fsamlab.axes._ops import Tensors
from fsamlab.axes.axis import Axis, State, step_seed
from fsamlab.axes.sharded import normal_like


class Ascent(rules.Ascent, Axis):
    """Where the ascent gradient comes from."""

    def gradients(self, params: Tensors, state: State, seed: int) -> list[Tensor | None]:
        """Return one tensor for each parameter to build the direction from, None where it has none.

        Args:
            params: the parameters that are perturbed, in the order of the groups.
            state: of the parameters.
            seed: of this step.
        """
        return [owned_gradient(p) for p in params]


def owned_gradient(p: Tensor) -> Tensor | None:
    """Return p.grad as a tensor that no later backward or zero_grad writes to.

    Raises:
        ValueError: a sparse gradient.
    """
    grad = p.grad
    if grad is None:
        return None
    if grad.is_sparse:
        raise ValueError("sparse gradients have no joint norm with dense ones: build the embedding with sparse=False")
    # A view belongs to a larger buffer (gradient buckets) that the next backward fills again.
    return grad.clone() if grad._is_view() else grad


class NoAscent(rules.NoAscent, Ascent):
    """No perturbation: the base optimizer."""


class Batch(rules.Batch, Ascent):
    """The descent batch itself (SAM, arXiv 2010.01412)."""


class OtherBatch(rules.OtherBatch, Ascent):
    """A batch other than the descent batch, of the same or another size (SAM-db, SAM-b)."""


class FullSet(rules.FullSet, Ascent):
    """The gradient over the full training set, computed every `full_every_steps` steps and kept between."""

    state_keys = ("full_gradient",)

    def gradients(self, params: Tensors, state: State, seed: int) -> list[Tensor | None]:
        """Return copies of the stored full gradient (components may write to what they get)."""
        stored = [state.get(p, {}).get("full_gradient") for p in params]
        return [None if g is None or not p.requires_grad else g.clone() for p, g in zip(params, stored)]


class Gaussian(rules.Gaussian, Ascent):
    """A direction drawn from N(0, I), a function of (seed, step)."""

    def gradients(self, params: Tensors, state: State, seed: int) -> list[Tensor | None]:
        """Return one draw for each trainable parameter."""
        generators: dict[torch.device, torch.Generator] = {}
        for device in dict.fromkeys(p.device for p in params):
            own = step_seed(seed, len(generators)) if generators else seed  # no two devices draw the same numbers
            generators[device] = torch.Generator(device).manual_seed(own)
        return [normal_like(p, generators[p.device]) if p.requires_grad else None for p in params]


ASCENTS: dict[str, type[Ascent]] = rules.table(NoAscent, Batch, OtherBatch, FullSet, Gaussian)
