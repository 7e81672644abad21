"""Third axis: the metric T in eps = rho T^2 d / |T d|."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fsamlab.axes.axis import Choice, table
from fsamlab.checks import number, word

if TYPE_CHECKING:
    from torch import Tensor

    from fsamlab.axes._ops import Ops, Tensors
    from fsamlab.axes.axis import State


@dataclass
class Metric(Choice):
    """T in eps = rho T^2 d / |T d|.

    Attributes:
        is_identity: whether T = 1.
        normalises: whether eps has the length rho; else eps = rho T^2 d, as long as the gradient makes it.
    """

    is_identity: ClassVar[bool] = False
    normalises: ClassVar[bool] = True

    @property
    def by_name(self) -> bool:
        """Whether the metric depends on the names of the parameters."""
        return False

    def prepare(self, a: Tensors, params: Tensors) -> None:
        """Read the ascent gradients, once in each step, before a component reuses their memory.

        Attributes that the metric sets here are scratch memory: no checkpoint has them, the next step overwrites them.
        """

    def stretch(self, xs: Tensors, params: Tensors, weights: Collection[Tensor], state: State, ops: Ops) -> Tensors:
        """Return T x: x itself if T = 1, else new tensors.

        Args:
            xs: one tensor for each parameter.
            params: the parameters, unperturbed, in the order of :meth:`prepare`.
            weights: the parameters with "weight" in their name; empty unless :attr:`by_name`.
            state: of the parameters.
            ops: arithmetic on lists.
        """
        raise NotImplementedError


@dataclass
class L2(Metric):
    """T = 1: eps = rho d / |d|."""

    name = "l2"
    is_identity = True

    def stretch(self, xs: Tensors, params: Tensors, weights: Collection[Tensor], state: State, ops: Ops) -> Tensors:
        """Return x."""
        return xs


@dataclass
class Adaptive(Metric):
    """ASAM's T (arXiv 2102.11600).

    Form `official`: T = |w| + eta for parameters with "weight" in their name, 1 for the others. Form
    `all`: T = |w| + eta for every parameter; with eta = 0 the popular PyTorch port and nblt/F-SAM, which
    need about four times the rho.
    """

    name = "adaptive"
    eta: float = number(0.01, 0, 1e6)
    adaptive_form: str = word("official", "official", "all")

    @property
    def by_name(self) -> bool:
        """Whether the metric depends on the names of the parameters."""
        return self.adaptive_form == "official"

    def stretch(self, xs: Tensors, params: Tensors, weights: Collection[Tensor], state: State, ops: Ops) -> Tensors:
        """Return T x: new tensors for the parameters that T stretches, the given tensors for the others."""
        chosen = [i for i, p in enumerate(params) if not self.by_name or p in weights]
        result = list(xs)
        if chosen:
            stretched = ops.weighted([xs[i] for i in chosen], [params[i] for i in chosen], self.eta)
            for i, x in zip(chosen, stretched):
                result[i] = x
        return result


@dataclass
class Fisher(Metric):
    """T^2 = 1 / (1 + eta a^2): eps = rho P d / sqrt(<d, P d>), P = T^2 (FisherSAM, arXiv 2206.04920).

    The squared ascent gradient of the batch estimates the diagonal of the Fisher matrix, as in the paper. Entries with
    a large gradient are perturbed less.
    """

    name = "fisher"
    eta: float = number(1.0, 0, 1e6)

    def prepare(self, a: Tensors, params: Tensors) -> None:
        """Form T; the component may overwrite a afterwards."""
        self._t = {p: (1 + self.eta * (x * x.conj()).real).rsqrt() for p, x in zip(params, a)}

    def stretch(self, xs: Tensors, params: Tensors, weights: Collection[Tensor], state: State, ops: Ops) -> Tensors:
        """Return T x, new tensors."""
        return [x * self._t[p] for p, x in zip(params, xs)]


@dataclass
class Unnormalised(L2):
    """eps = rho d: the length of the perturbation follows that of the gradient (USAM, arXiv 2206.06232)."""

    name = "unnormalised"
    normalises = False


METRICS: dict[str, type[Metric]] = table(L2, Adaptive, Fisher, Unnormalised)
