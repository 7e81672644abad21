"""How far a step moves the weights: eps = rho_t T^2 d / |T d|, rho_t by the choice of `radius`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from fsamlab.axes._ops import Number, Ops, Tensors, global_norm, largest, magnitude, number, radius_over_norm
from fsamlab.axes.axis import Part
from fsamlab.axes.choices import Choices

if TYPE_CHECKING:
    from fsamlab.axes.axis import State


@dataclass
class Move:
    """What a step adds to the weights: rho scale T^2 d, with the rho of each part.

    Attributes:
        norm_d: |d|.
        direction: T^2 d of all parts, in their order.
        scale: rho_t / (rho |T d|) times the length of an ascent step, or 0 where |d| is rounding noise.
        floored: 1 in the second case, else 0; on the device if the norms are there.
        rho: the largest rho_t; None where rho_t = rho.
    """

    norm_d: Number
    direction: Tensors
    scale: Number
    floored: Tensor | int
    rho: Number | None


def planned(
    parts: list[Part],
    norm_a: Number,
    step: int,
    choices: Choices,
    weights: Collection[Tensor],
    state: State,
    ops: Ops,
    floor: float,
) -> Move:
    """Return the move of the step after `step` steps; `parts` have the rho that is known before the passes."""
    params = [p for part in parts for p in part.params]
    d = [x for part in parts for x in part.d]
    norm_d = norm_a if not choices.component.changes else number(global_norm(d, ops))
    td = choices.metric.stretch(d, params, weights, state, ops)
    norm_td = norm_d if td is d else number(global_norm(td, ops))
    direction = d if td is d else choices.metric.stretch(td, params, weights, state, ops)
    scale, floored = radius_over_norm(norm_d, norm_td, norm_a, floor)
    if not choices.metric.normalises:
        scale = scale * norm_td  # 1, or 0 where the step is floored
    scale = scale * choices.ascent.length
    rho: Number | None = None if choices.radius.is_constant else largest([magnitude(part.rho) for part in parts])
    if choices.radius.follows_gradient:
        fit = choices.radius.fit(step, parts, td, norm_td, ops)
        scale = scale * fit
        rho = rho if rho is None else rho * fit
    return Move(norm_d, direction, scale, floored, rho)
