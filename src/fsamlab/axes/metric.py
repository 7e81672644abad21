"""Third axis: the metric T in eps = rho T^2 d / |T d|."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor

from fsamlab.axes import rules
from fsamlab.axes._ops import Ops, Tensors
from fsamlab.axes.axis import Axis, State


class Metric(rules.Metric, Axis):
    """T in eps = rho T^2 d / |T d|."""

    @property
    def by_name(self) -> bool:
        """Whether the parameters' names are needed."""
        return False

    def stretch(self, xs: Tensors, params: Tensors, weights: Collection[Tensor], state: State, ops: Ops) -> Tensors:
        """Return T x: x itself where T is 1, else new tensors.

        Args:
            xs: one tensor for each parameter.
            params: the parameters, at the unperturbed weights.
            weights: the parameters named a weight; empty unless :attr:`by_name`.
            state: of the parameters.
            ops: arithmetic on lists.
        """
        raise NotImplementedError


class L2(rules.L2, Metric):
    """T = 1: eps = rho d / |d|."""

    def stretch(self, xs: Tensors, params: Tensors, weights: Collection[Tensor], state: State, ops: Ops) -> Tensors:
        """Return x."""
        return xs


class Adaptive(rules.Adaptive, Metric):
    """ASAM's T = |w| + eta (arXiv 2102.11600), of weights or of all parameters."""

    @property
    def by_name(self) -> bool:
        """Whether the parameters' names are needed."""
        return self.adaptive_form == "official"

    def stretch(self, xs: Tensors, params: Tensors, weights: Collection[Tensor], state: State, ops: Ops) -> Tensors:
        """Return T x, new tensors where T is not 1."""
        chosen = [i for i, p in enumerate(params) if not self.by_name or p in weights]
        result = list(xs)
        if chosen:
            stretched = ops.weighted([xs[i] for i in chosen], [params[i] for i in chosen], self.eta)
            for i, x in zip(chosen, stretched):
                result[i] = x
        return result


METRICS: dict[str, type[Metric]] = rules.table(L2, Adaptive)
