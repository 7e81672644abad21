"""Extreme eigenvalues of a symmetric operator by Lanczos' method with full re-orthogonalisation.

    V_j  orthonormal basis of span{v, Av, ..., A^(j-1) v}
    T_j = V_j' A V_j, tridiagonal, with eigenpairs (theta_i, s_i)
    r_i = beta_j |last entry of s_i| = |A y_i - theta_i y_i|,  y_i = V_j s_i

Some eigenvalue lies within r_i of theta_i, and within r_i^2 / gap_i where the others are gap_i away
(Parlett, The Symmetric Eigenvalue Problem, theorems 4.5.1 and 11.7.1). The second is far smaller, but gap_i
is read off the Ritz values, and these cannot tell two eigenvalues apart that are closer than r_i: with
neighbours 1 % apart a theta between them passes for exact to 1e-3. It is an estimate, no bound. `strict` goes by
r_i alone.

A chain that starts from one vector sees one direction of a repeated eigenvalue, and no eigenvector that the vector
has almost no part in. No residual tells. Where that matters the search is repeated: a further chain starts from a new
random vector orthogonal to all that is there, and Ritz values are taken over all chains. The result is said to be
converged when a whole further chain has left it as it was. T then holds the chains' tridiagonal blocks and what
couples them: the product of a chain's last vector leaves the chain, and that open end goes into the residuals. An
open end is followed, before a new chain starts, where it keeps a wanted pair from converging.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fsamlab.diagnostics.vectors import dots, gaussian, norm
from fsamlab.seeding import derive_seed

MIN_STEPS = 7  # before the Ritz values' own gaps are worth anything: a start may have next to no part in the first
QUIET_STEPS = 5  # while an end of a chain is still on its way, its residual may be small by chance
SMALLEST = 1e-3  # of the spectral radius: a smaller eigenvalue's error is relative to that, a zero has none


@dataclass(frozen=True)
class Eigenvalues:
    """Extreme eigenvalues.

    Attributes:
        top: the largest, descending.
        bottom: the smallest, ascending.
        top_errors, bottom_errors: of each: the residual norm, which bounds the distance to the nearest eigenvalue
            (`strict`); else an estimate of that distance, which is too small for a few starts in a hundred.
        converged: whether all errors are within the tolerance and, where the search was repeated, a further chain
            has found nothing new.
        num_products: products with the operator.
        radius: the largest |Ritz value|.
        vectors: eigenvectors of `top` then `bottom` (rows, P), where they were asked for.
    """

    top: list[float]
    bottom: list[float]
    top_errors: list[float]
    bottom_errors: list[float]
    converged: bool
    num_products: int
    radius: float = math.nan
    vectors: Tensor | None = None

    @property
    def relative_error(self) -> float:
        """The largest error relative to max(|eigenvalue|, 1e-3 radius): what the tolerance is held against."""
        pairs = zip([*self.top, *self.bottom], [*self.top_errors, *self.bottom_errors])
        return max((error / _scale(value, self.radius) if error else 0.0 for value, error in pairs), default=0.0)


def _scale(value: float, radius: float) -> float:
    return max(abs(value), SMALLEST * radius)


def eigenvalues(
    product: Callable[[Tensor], Tensor],
    like: Tensor,
    *,
    num_top: int = 1,
    num_bottom: int = 0,
    tolerance: float = 1e-3,
    max_steps: int = 100,
    strict: bool = False,
    seed: int = 0,
    start: Tensor | None = None,
    with_vectors: bool = False,
    storage: torch.device | None = None,
) -> Eigenvalues:
    """Return the extreme eigenvalues of a symmetric operator on vectors like `like` (P,).

    The search is repeated from a new vector where `strict`, or where more than one eigenvalue of an end is wanted.

    Args:
        product: v -> A v.
        tolerance: of each eigenvalue, relative to the eigenvalue itself, or to 1e-3 of the spectral radius
            where it is smaller than that (a zero has no relative error).
        max_steps: products at most; the basis takes as many vectors of memory.
        strict: an error is the residual norm, which finds close neighbours apart; else an estimate by the gaps,
            which takes fewer products (2 of 8 for the largest one of a network) and is wrong for a few starts in 100.
        seed: of the random starts; `start` (P,) takes the place of the first.
        storage: device that holds the basis; None is that of `like`.
    """
    size = len(like)
    num_wanted = min(num_top + num_bottom, size)
    repeated = strict or max(num_top, num_bottom) > 1
    max_steps = min(max_steps, size)
    first = gaussian(like, seed) if start is None else start.clone()
    basis = torch.empty(0, size, dtype=like.dtype, device=storage or like.device)
    t = np.zeros((0, 0))
    ends: dict[int, Tensor] = {}  # by basis vector: what its product left outside the basis, orthogonal to the basis
    begin = 0  # where the present chain begins
    quiet = 0  # steps in a row at which the present chain has looked finished
    settled: np.ndarray | None = None  # the values before the present chain
    v = first / norm(first)
    while True:
        j = len(t)
        basis = _grown(basis, j, max_steps)
        basis[j] = v
        rows = basis[: j + 1]
        coefficients, w, beta = _orthogonalised(rows, product(v))
        if not math.isfinite(beta):
            return _unknown(num_top, num_bottom, j + 1)
        for i, left in ends.items():
            ends[i] = left - v * float(coefficients[i])
        t = np.block([[t, coefficients[:j, None]], [coefficients]])
        theta, s = np.linalg.eigh(t)
        radius = float(np.abs(theta).max())
        exhausted = j + 1 == size
        lengths = {i: norm(left) for i, left in ends.items()} | {j: beta}
        negligible = (1e-12 if like.dtype == torch.float64 else 1e-6) * radius
        lengths = {} if exhausted else {i: length for i, length in lengths.items() if length > negligible}
        ends = {i: left for i, left in {**ends, j: w}.items() if i in lengths}
        judge = partial(_judged, tolerance=tolerance, radius=radius, strict=strict)
        result = judge(theta, _residuals(s, lengths), num_top, num_bottom)
        if exhausted:
            break
        found = result.converged and j + 1 >= num_wanted
        values = np.array([*result.top, *result.bottom])
        own_theta, own_s = np.linalg.eigh(t[begin:, begin:])
        own_lengths = {i - begin: length for i, length in lengths.items() if i >= begin}
        own = (own_theta, _residuals(own_s, own_lengths))
        if settled is None:
            quiet = int(found and judge(*own, min(num_top, 1), min(num_bottom, 1)).converged)
            chain_done = quiet > 0 and j + 1 - begin >= MIN_STEPS
        else:
            quiet = quiet + 1 if _nothing_hidden(*own, result, tolerance, radius) else 0
            chain_done = quiet >= QUIET_STEPS and j + 1 - begin >= MIN_STEPS
        chain_done = chain_done or not own_lengths
        if chain_done and found:
            if settled is not None and _same(values, settled, tolerance, radius):
                break
            if not repeated and own_lengths:
                break
        if j + 1 == max_steps:
            result = replace(result, converged=False)
            break
        if chain_done and (found or not ends):  # go on from a new direction
            begin, settled, quiet = j + 1, values, 0
            _, v, length = _orthogonalised(rows, gaussian(like, derive_seed(seed, begin)))
        elif chain_done:
            _, v, length = _orthogonalised(rows, ends.pop(_weightiest(s, lengths, num_top, num_bottom)))
        elif len(own_lengths) == 1 and j in ends:
            v, length = ends.pop(j), beta
        else:
            end = begin + _weightiest(own_s, own_lengths, 1, 1)
            _, v, length = _orthogonalised(rows, ends.pop(end))
        v = v / length
    vectors = None
    if with_vectors:
        chosen = [*range(len(theta) - 1, len(theta) - 1 - len(result.top), -1), *range(len(result.bottom))]
        combination = torch.from_numpy(s[:, chosen].T.copy()).to(basis)
        vectors = combination @ rows
    return replace(result, converged=result.converged and len(t) >= num_wanted, radius=radius, vectors=vectors)


def _unknown(num_top: int, num_bottom: int, num_products: int) -> Eigenvalues:
    """Return what is known of an operator that is not finite: nothing."""
    top, bottom = [math.nan] * num_top, [math.nan] * num_bottom
    return Eigenvalues(top, bottom, list(top), list(bottom), False, num_products)


def _same(a: np.ndarray, b: np.ndarray, tolerance: float, radius: float) -> bool:
    return len(a) == len(b) and np.allclose(a, b, rtol=tolerance, atol=1e-6 * radius)


def _grown(basis: Tensor, used: int, max_steps: int) -> Tensor:
    """Return the basis with room for one more row; it grows by half, so that short runs take little memory."""
    if used < len(basis):
        return basis
    rows = min(max_steps, max(8, used + used // 2))
    grown = basis.new_empty(rows, basis.shape[1])
    grown[:used] = basis[:used]
    return grown


def _orthogonalised(rows: Tensor, w: Tensor) -> tuple[np.ndarray, Tensor, float]:
    """Return the rows' inner products with w, then w without its parts along them (taken out twice), and its norm."""
    total = np.zeros(len(rows))
    for _ in range(2):
        coefficients = dots(rows, w)
        total += coefficients.cpu().numpy()
        w = w - (coefficients.to(rows) @ rows).to(w.device)
    return total, w, norm(w)


def _residuals(s: np.ndarray, lengths: dict[int, float]) -> np.ndarray:
    """Return a bound on each Ritz pair's residual norm, from its entries at the open ends and the ends' norms."""
    total = np.zeros(len(s))
    for i, length in lengths.items():
        total += length * np.abs(s[i])
    return total


def _weightiest(s: np.ndarray, lengths: dict[int, float], num_top: int, num_bottom: int) -> int:
    """Return the open end that has most part in the residuals of the wanted pairs."""
    wanted = [*range(max(0, len(s) - num_top), len(s)), *range(min(num_bottom, len(s)))]
    return max(lengths, key=lambda i: lengths[i] * float(np.abs(s[i, wanted]).max()))


def _nothing_hidden(
    theta: np.ndarray, residual: np.ndarray, found: Eigenvalues, tolerance: float, radius: float
) -> bool:
    """Return whether a chain beside the found eigenvalues holds none beyond the innermost of them.

    Args:
        theta, residual: the chain's own Ritz values, ascending.
            With a margin of two residuals, and a quarter of the tolerance.
    """

    def settled(i: int) -> bool:
        return bool(residual[i] <= tolerance / 4 * _scale(float(theta[i]), radius))

    top = not found.top or theta[-1] + 2 * residual[-1] < found.top[-1] or settled(-1)
    bottom = not found.bottom or theta[0] - 2 * residual[0] > found.bottom[-1] or settled(0)
    return bool(top and bottom)


def _judged(
    theta: np.ndarray,
    residual: np.ndarray,
    num_top: int,
    num_bottom: int,
    *,
    tolerance: float,
    radius: float,
    strict: bool,
) -> Eigenvalues:
    """Return the wanted Ritz values with their errors."""
    top = [i for i in range(len(theta) - 1, -1, -1)][:num_top]
    bottom = list(range(len(theta)))[:num_bottom]

    def error(i: int) -> float:
        if strict:
            return float(residual[i])
        # A neighbour may still move towards theta_i by as much as its own residual.
        others = [abs(theta[j] - theta[i]) - residual[j] for j in (i - 1, i + 1) if 0 <= j < len(theta)]
        gap = min(others, default=0.0)
        return float(min(residual[i], residual[i] ** 2 / gap) if gap > 0 else residual[i])

    converged = all(error(i) <= tolerance * _scale(float(theta[i]), radius) for i in (*top, *bottom))
    values = [[float(theta[i]) for i in side] for side in (top, bottom)]
    errors = [[error(i) for i in side] for side in (top, bottom)]
    return Eigenvalues(values[0], values[1], errors[0], errors[1], converged, len(theta))
