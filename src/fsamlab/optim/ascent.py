"""First axis: where the ascent gradient comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fsamlab.config import in_range
from fsamlab.optim._ops import Tensors

State = Mapping[Tensor, dict[str, Any]]


class Ascent:
    """Where the ascent gradient comes from.

    Attributes:
        needs: the extra data its closure runs on; None if it takes no closure of its own.
        data: the same in words.
        has_clean_loss: whether the descent batch is evaluated at the unperturbed weights.
    """

    name: ClassVar[str]
    needs: ClassVar[str | None] = None
    data: ClassVar[str] = ""
    has_clean_loss: ClassVar[bool] = False

    def gradients(self, params: Tensors, state: State, seed: int) -> list[Tensor | None]:
        """Return one tensor for each parameter to build the direction from, None where it has none."""
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


class NoAscent(Ascent):
    """No perturbation: the base optimizer."""

    name = "none"
    has_clean_loss = True


class Batch(Ascent):
    """The descent batch itself (SAM, arXiv 2010.01412)."""

    name = "batch"
    has_clean_loss = True


class OtherBatch(Ascent):
    """A batch other than the descent batch, of the same or another size (SAM-db, SAM-b)."""

    name = "other_batch"
    needs = "other_batch"
    data = "a batch other than the descent batch"


@dataclass
class FullSet(Ascent):
    """The gradient over the full training set, computed every `full_every_steps` steps and kept between."""

    name = "full"
    needs = "full"
    data = "the full training set"
    full_every_steps: int = 1

    def __post_init__(self) -> None:
        in_range("full_every_steps", self.full_every_steps, 1)

    def gradients(self, params: Tensors, state: State, seed: int) -> list[Tensor | None]:
        """Return copies of the stored full gradient (components may write to what they get)."""
        stored = [state.get(p, {}).get("full_gradient") for p in params]
        return [None if g is None else g.clone() for g in stored]


class Gaussian(Ascent):
    """A direction drawn from N(0, I), a function of (seed, step)."""

    name = "gaussian"

    def gradients(self, params: Tensors, state: State, seed: int) -> list[Tensor | None]:
        """Return one draw for each trainable parameter."""
        generator = torch.Generator(params[0].device).manual_seed(seed)
        return [torch.empty_like(p).normal_(generator=generator) if p.requires_grad else None for p in params]
