"""An optimizer's EMA of gradients between two steps, as the decomposition of the perturbation needs the EMA."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fsamlab.axes.axis import Part
from fsamlab.axes.component import subtract
from fsamlab.diagnostics.objective import Objective
from fsamlab.diagnostics.vectors import flatten, views
from fsamlab.optim import SharpnessAware


@dataclass(frozen=True)
class EmaState:
    """An optimizer's EMA between two steps.

    Attributes:
        m: m_{t-1} (P,); zero for parameters without an EMA.
        direction: g_B -> d, F-SAM's direction with the optimizer's own sigma and order (sigma 1 if its component has no
            sigma).
        weights: weights of the gradients in the EMA, float64 (n,), the newest gradient last.
        steps: the steps of these gradients, int64 (n,).
    """

    m: Tensor
    direction: Callable[[Tensor], Tensor]
    weights: Tensor
    steps: Tensor


def ema_state(optimizer: SharpnessAware, objective: Objective, parts: int = 1) -> EmaState | None:
    """Return the EMA that the next step of `optimizer` will read; None if there is no EMA, or no update of it yet.

    Also None if the rule that chooses the perturbed steps cannot name the past ones: the prediction needs the steps.

    Args:
        optimizer: a variant of the family.
        objective: gives the parameters, in the order of the vectors.
        parts: number of updates of the EMA in a step: one, or one for each micro-batch that perturbs by itself.
    """
    reference = optimizer.choices.reference
    if reference is None or not reference.is_average:
        return None
    states = [optimizer.state.get(p, {}) for p in objective.params]
    kept = [reference.average(s) for s in states]
    updates = max((num_updates for _, num_updates in kept), default=0)
    if not updates:
        return None
    weights = reference.average_weights(updates)
    steps = optimizer.choices.when.past(optimizer.num_steps, -(-len(weights) // parts))  # rounded up
    if steps is None:
        return None
    averages = [torch.zeros_like(p) if m is None else m for (m, _), p in zip(kept, objective.params)]
    own = optimizer.choices.component.subtracted
    sigma = 1.0 if own is None else own

    def direction(gradient: Tensor) -> Tensor:
        # With the optimizer's own functions, tensor by tensor: in the order `paper` the reference contains the new
        # gradient, and a tensor without an EMA takes another form of the rule.
        pieces = []
        for a, m, state in zip(views(gradient, averages), averages, states):
            stored, on_a, on_m = reference.form(state)
            part = Part(0.0, on_a, on_m, a=[a.clone()], m=[m] if stored is not None else [])
            subtract(part, sigma, optimizer.ops)
            pieces += part.d
        return flatten(pieces)

    # A step made `parts` updates. The oldest step may have more updates than the weights reach back to.
    each = torch.tensor(steps).repeat_interleave(parts)[-len(weights) :]
    return EmaState(flatten([m.detach() for m in averages]), direction, weights, each)
