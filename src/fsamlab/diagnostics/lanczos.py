"""Extreme eigenvalues of a symmetric operator by Lanczos' method with full re-orthogonalisation.

    V_j  orthonormal basis of span{v, Av, ..., A^(j-1) v}
    T_j = V_j' A V_j, tridiagonal, with eigenpairs (theta_i, s_i)
    r_i = beta_j |last entry of s_i| = |A y_i - theta_i y_i|,  y_i = V_j s_i

Some eigenvalue lies within r_i of theta_i, and within r_i^2 / gap_i where the others are gap_i away
(Parlett, The Symmetric Eigenvalue Problem, theorems 4.5.1 and 11.7.1). The second is far smaller, but gap_i
is read off the Ritz values, and these cannot tell two eigenvalues apart that are closer than r_i: with
neighbours 1 % apart a theta between them passes for exact to 1e-3. `strict` goes by r_i alone. No method
that starts from one vector notices an eigenvector that the vector has almost no part in.
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


@dataclass(frozen=True)
class Eigenvalues:
    """Extreme eigenvalues, largest first.

    Attributes:
        top: the largest, descending.
        bottom: the smallest, ascending.
        top_bounds, bottom_bounds: bounds on their absolute errors, the smaller of r and r^2 / gap; r if strict.
        converged: whether every bound is below the tolerance.
        num_products: products with the operator.
        vectors: eigenvectors of `top` then `bottom` (rows, P), where they were asked for.
    """

    top: list[float]
    bottom: list[float]
    top_bounds: list[float]
    bottom_bounds: list[float]
    converged: bool
    num_products: int
    vectors: Tensor | None = None


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

    Args:
        product: v -> A v.
        tolerance: of each eigenvalue, relative to the eigenvalue itself, or to 1e-3 of the spectral radius
            where it is smaller than that (a zero has no relative error).
        max_steps: products at most; the basis takes as many vectors of memory.
        strict: converged means that the residual r is below the tolerance, which finds close neighbours apart;
            else r^2 / gap, which takes fewer products (2 of 8 for the largest one of a network).
        seed: of the random start; `start` (P,) takes its place.
        storage: device that holds the basis; None is that of `like`.
    """
    size = len(like)
    num_wanted = min(num_top + num_bottom, size)
    max_steps = min(max_steps, size)
    first = gaussian(like, seed) if start is None else start.clone()
    basis = torch.empty(0, size, dtype=like.dtype, device=storage or like.device)
    alphas: list[float] = []
    betas: list[float] = []
    begin = 0  # where the present block of T begins; a further one begins at each invariant subspace
    settled: np.ndarray | None = None  # what the blocks before it held
    v = first / norm(first)
    while True:
        basis = _grown(basis, len(alphas), max_steps)
        basis[len(alphas)] = v
        rows = basis[: len(alphas) + 1]
        alpha, w, beta = _orthogonalised(rows, product(v))
        if not math.isfinite(beta):
            return _unknown(num_top, num_bottom, len(alphas) + 1)
        alphas.append(alpha)
        theta, s = _ritz(alphas, betas)
        radius = float(np.abs(theta).max())
        exhausted = len(alphas) == size
        invariant = beta <= (1e-12 if like.dtype == torch.float64 else 1e-6) * radius
        open_beta = 0.0 if exhausted or invariant else beta
        judge = partial(_judged, tolerance=tolerance, radius=radius, strict=strict)
        result = judge(theta, s, open_beta, num_top, num_bottom)
        ends = judge(*_ritz(alphas[begin:], betas[begin:]), open_beta, min(num_top, 1), min(num_bottom, 1))
        values = np.array([*result.top, *result.bottom])
        complete = len(alphas) >= num_wanted
        if exhausted or len(alphas) == max_steps:
            break
        if invariant and complete and settled is not None and _same(values, settled, tolerance, radius):
            break  # a further invariant subspace has brought nothing new
        mature = not invariant and len(alphas) - begin >= MIN_STEPS
        if mature and complete and result.converged and ends.converged:
            break
        if invariant:  # the start had no part in the rest: go on from a new direction, decoupled in T
            begin, settled = len(alphas), values
            _, w, beta = _orthogonalised(rows, gaussian(like, derive_seed(seed, begin)))
            betas.append(0.0)
        else:
            betas.append(beta)
        v = w / beta
    vectors = None
    if with_vectors:
        chosen = [*range(len(theta) - 1, len(theta) - 1 - len(result.top), -1), *range(len(result.bottom))]
        coefficients = torch.from_numpy(s[:, chosen].T.copy()).to(basis)
        vectors = coefficients @ rows
    return replace(result, converged=result.converged and len(alphas) >= num_wanted, vectors=vectors)


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


def _orthogonalised(rows: Tensor, w: Tensor) -> tuple[float, Tensor, float]:
    """Return <last row, w>, and w without its components along the rows (taken out twice), and its norm."""
    alpha = 0.0
    for _ in range(2):
        coefficients = dots(rows, w)
        alpha += float(coefficients[-1])
        w = w - (coefficients.to(rows) @ rows).to(w.device)
    return alpha, w, norm(w)


def _ritz(alphas: list[float], betas: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return eigenvalues (ascending) and eigenvectors (columns) of the tridiagonal matrix."""
    t = np.diag(alphas) + np.diag(betas, 1) + np.diag(betas, -1)
    theta, s = np.linalg.eigh(t)
    return theta, s


def _judged(
    theta: np.ndarray,
    s: np.ndarray,
    beta: float,
    num_top: int,
    num_bottom: int,
    *,
    tolerance: float,
    radius: float,
    strict: bool,
) -> Eigenvalues:
    """Return the wanted Ritz values with their error bounds."""
    residual = beta * np.abs(s[-1])
    top = [i for i in range(len(theta) - 1, -1, -1)][:num_top]
    bottom = list(range(len(theta)))[:num_bottom]

    def bound(i: int) -> float:
        if strict:
            return float(residual[i])
        # A neighbour may still move towards theta_i by as much as its own residual.
        others = [abs(theta[j] - theta[i]) - residual[j] for j in (i - 1, i + 1) if 0 <= j < len(theta)]
        gap = min(others, default=0.0)
        return float(min(residual[i], residual[i] ** 2 / gap) if gap > 0 else residual[i])

    def allowed(i: int) -> float:
        return tolerance * max(abs(float(theta[i])), 1e-3 * radius)

    converged = all(bound(i) <= allowed(i) for i in (*top, *bottom))
    values = [[float(theta[i]) for i in side] for side in (top, bottom)]
    bounds = [[bound(i) for i in side] for side in (top, bottom)]
    return Eigenvalues(values[0], values[1], bounds[0], bounds[1], converged, len(theta))
