"""Third axis: the metric T in eps = rho T^2 d / |T d|."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fsamlab.config import in_range, one_of
from fsamlab.optim._ops import Ops, Tensors


class L2:
    """T = 1: eps = rho d / |d|."""

    name: ClassVar[str] = "l2"
    by_name: ClassVar[bool] = False

    def stretch(self, xs: Tensors, params: Tensors, weights: Collection[Tensor], ops: Ops) -> Tensors:
        """Return T x (here x itself)."""
        return xs


@dataclass
class Adaptive:
    """ASAM's T (arXiv 2102.11600).

    Form `official`: T = |w| + eta for parameters with "weight" in their name, 1 for the others. Form
    `all`: T = |w| + eta for every parameter; with eta = 0 the popular PyTorch port and nblt/F-SAM, which
    need about four times the rho.
    """

    name: ClassVar[str] = "adaptive"
    eta: float = 0.01
    adaptive_form: str = "official"

    def __post_init__(self) -> None:
        in_range("eta", self.eta, 0)
        one_of("adaptive_form", self.adaptive_form, ("official", "all"))

    @property
    def by_name(self) -> bool:
        """Whether the parameters' names are needed."""
        return self.adaptive_form == "official"

    def stretch(self, xs: Tensors, params: Tensors, weights: Collection[Tensor], ops: Ops) -> Tensors:
        """Return T x, new tensors where T is not 1. `weights` holds the parameters named a weight."""
        chosen = [i for i, p in enumerate(params) if not self.by_name or p in weights]
        result = list(xs)
        if chosen:
            stretched = ops.weighted([xs[i] for i in chosen], [params[i] for i in chosen], self.eta)
            for i, x in zip(chosen, stretched):
                result[i] = x
        return result


Metric = L2 | Adaptive
