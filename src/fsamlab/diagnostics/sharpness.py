"""Sharpness as a rise of the loss: L(w + delta) - L(w) for delta in a ball of radius rho.

The ball is |T^-1 delta| <= rho with a diagonal T: 1 (plain) or ASAM's |w| + eta (adaptive). In the coordinates
z = T^-1 delta the ball is plain and the gradient is T g, so nothing is divided by a weight, which may be zero. Each
rise is split into its first-order part <g, delta> and the rest, the contribution of curvature. Early in training nearly
all of a rise is first order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fsamlab.axes._ops import Loop
from fsamlab.axes.metric import Adaptive
from fsamlab.diagnostics.objective import Objective
from fsamlab.diagnostics.vectors import dot, flatten, gaussian, norm
from fsamlab.seeding import derive_seed


def adaptive(objective: Objective, metric: Adaptive) -> Tensor:
    """Return the diagonal of ASAM's T (P,) at the objective's present weights."""
    weights = {p for name, p in objective.model.named_parameters() if "weight" in name}
    ones = [torch.ones_like(p) for p in objective.params]
    with torch.no_grad():
        return flatten(metric.stretch(ones, list[Tensor](objective.params), weights, {}, Loop))


@dataclass(frozen=True)
class Rise:
    """A rise of the mean loss, in nats, and the part of it that the gradient predicts."""

    total: float
    first_order: float

    @property
    def curvature(self) -> float:
        """The rise beyond first order: (1/2) delta'H delta for a quadratic loss."""
        return self.total - self.first_order


def _times(t: Tensor | None, x: Tensor) -> Tensor:
    return x if t is None else t * x


def _ascent_step(gradient: Tensor, t: Tensor | None, rho: float) -> tuple[Tensor, float]:
    """Return delta = rho T^2 g / |T g|, the maximiser of <g, delta> in the ball, and <g, delta> = rho |T g|."""
    stretched = _times(t, gradient)
    length = norm(stretched)
    if length == 0:
        return torch.zeros_like(gradient), 0.0
    return _times(t, stretched) * (rho / length), rho * length


def one_step(objective: Objective, rho: float, t: Tensor | None = None) -> Rise:
    """Return SAM's sharpness S(rho) = L(w + rho T^2 g / |T g|) - L(w) (Foret et al., 2010.01412, eq. 2).

    Costs one G and one F.
    """
    gradient, losses = objective.gradient()
    delta, first = _ascent_step(gradient, t, rho)
    return Rise(objective.rise(delta, losses), first)


def m_sharpness(objective: Objective, rho: float, t: Tensor | None = None) -> tuple[Rise, Rise]:
    """Return (one-step sharpness, m-sharpness) from one loop; m is the size of the objective's batches.

    m-sharpness is a mean over the batches, weighted by size: of the rise of a batch's loss along the gradient of the
    same batch (2010.01412, section 3; 2206.06232). It grows as m shrinks. Costs one G and two F.
    """
    total, all_losses = objective.zeros(), []
    rise = first = 0.0
    for part, (gradient, losses) in zip(objective.parts(), objective.batch_gradients()):
        share = len(losses) / objective.num_samples
        delta, batch_first = _ascent_step(gradient, t, rho)
        rise += share * part.rise(delta, losses)
        first += share * batch_first
        total.add_(gradient, alpha=share)
        all_losses.append(losses)
    delta, whole_first = _ascent_step(total, t, rho)
    whole = Rise(objective.rise(delta, torch.cat(all_losses)), whole_first)
    return whole, Rise(rise, first)


def worst_case(
    objective: Objective,
    rho: float,
    t: Tensor | None = None,
    *,
    num_steps: int = 20,
    num_restarts: int = 2,
    seed: int = 0,
) -> Rise:
    """Return the largest rise over all samples that projected gradient ascent finds; never below :func:`one_step`.

    A step has length alpha along the normalised gradient, and is then projected back into the ball. alpha starts at
    2 rho. If the loss does not rise, the search returns to its best point and halves alpha. The first run starts at w,
    further runs at random points of the ball: at a saddle point the gradient at w is zero, and in a network with
    symmetries the gradient at w only leads to symmetric points.

    Args:
        num_steps: gradient evaluations of each run (the reference code of 2302.07011 uses 20).
        num_restarts: number of runs, the run from w included.

    Costs num_restarts * num_steps (G + F) at most, and one F for each restart.
    """
    gradient, losses = objective.gradient()
    if not math.isfinite(float(losses.sum())):
        return Rise(math.nan, math.nan)
    best_rise, best_z = _ascent(objective, torch.zeros_like(gradient), gradient, losses, rho, t, num_steps)
    for restart in range(1, num_restarts):
        start = gaussian(gradient, derive_seed(seed, restart))
        rise, z = _ascent(objective, start * (rho / norm(start)), None, losses, rho, t, num_steps)
        if rise > best_rise:
            best_rise, best_z = rise, z
    return Rise(best_rise, dot(_times(t, gradient), best_z))


def m_worst_case(
    objective: Objective,
    rho: float,
    t: Tensor | None = None,
    *,
    num_steps: int = 20,
    num_restarts: int = 2,
    seed: int = 0,
) -> Rise:
    """Return the mean of :func:`worst_case` over the objective's batches, weighted by size.

    This is the worst-case sharpness of 2302.07011: each batch of m samples has its own worst point of the ball.
    """
    total = first = 0.0
    for part in objective.parts():
        share = part.num_samples / objective.num_samples
        rise = worst_case(part, rho, t, num_steps=num_steps, num_restarts=num_restarts, seed=seed)
        total += share * rise.total
        first += share * rise.first_order
    return Rise(total, first)


def _ascent(
    objective: Objective,
    z: Tensor,
    gradient: Tensor | None,
    losses: Tensor,
    rho: float,
    t: Tensor | None,
    num_steps: int,
) -> tuple[float, Tensor]:
    """Return (the largest rise found from `z`, the point of that rise); points are in the coordinates z.

    Args:
        gradient: the gradient at w + T z, if it is known.
        losses: the losses at w.
    """
    best = objective.rise(_times(t, z), losses) if gradient is None else 0.0
    alpha, here = 2 * rho, z
    for _ in range(num_steps):
        if gradient is None:
            with objective.moved(_times(t, here)):
                gradient = objective.gradient()[0]
        direction = _times(t, gradient)
        length = norm(direction)
        if length == 0:
            break
        candidate = here + direction * (alpha / length)
        length = norm(candidate)
        if length > rho:
            candidate = candidate * (rho / length)
        rise = objective.rise(_times(t, candidate), losses)
        if rise > best:
            best, here, gradient = rise, candidate, None
        else:
            alpha /= 2  # the search stays at the best point, where the gradient is known already
    return best, here


def average_case(
    objective: Objective, sigma: float, t: Tensor | None = None, *, num_pairs: int = 5, seed: int = 0
) -> tuple[float, float]:
    """Return the mean rise under delta = sigma T z, z ~ N(0, I), and its standard error over the draws.

    Each draw is used with both signs, which removes the first-order part. The curvature remains: for a quadratic loss
    (1/2) sigma^2 tr(T H T). Costs 2 num_pairs + 1 F.
    """
    losses, like = objective.losses(), objective.zeros()
    rises = []
    for k in range(num_pairs):
        delta = _times(t, gaussian(like, derive_seed(seed, k))) * sigma
        rises.append((objective.rise(delta, losses) + objective.rise(-delta, losses)) / 2)
    values = torch.tensor(rises, dtype=torch.float64)
    return float(values.mean()), float(values.std()) / math.sqrt(num_pairs) if num_pairs > 1 else math.nan
