"""Extreme eigenvalues of a symmetric operator by Lanczos' method with full re-orthogonalisation.

    V_j  orthonormal basis of span{v, Av, ..., A^(j-1) v}
    T_j = V_j' A V_j, tridiagonal, with eigenpairs (theta_i, s_i)
    r_i = beta_j |last entry of s_i| = |A y_i - theta_i y_i|,  y_i = V_j s_i

Errors. An eigenvalue lies within r_i of theta_i. An eigenvalue also lies within r_i^2 / gap_i of theta_i, if all other
eigenvalues are at least gap_i away (Parlett, The Symmetric Eigenvalue Problem, theorems 4.5.1 and 11.7.1). The second
bound is far smaller, but gap_i has to be estimated from the Ritz values, and Ritz values cannot separate two
eigenvalues that are closer than r_i: if two eigenvalues are 1 % apart, a theta between them seems exact to 1e-3. So
r_i^2 / gap_i is an estimate and not a bound. `strict` uses r_i alone.

Chains. A chain is the sequence of basis vectors that starts from one vector. A chain finds only one eigenvector of a
repeated eigenvalue, and misses every eigenvector that is almost orthogonal to its start. No residual shows this. Where
it matters, the search is repeated: a further chain starts from a new random vector orthogonal to the whole basis, and
the Ritz values are taken over all chains. The search has converged when a whole further chain has not changed the
result.

Open ends. T holds the tridiagonal block of each chain and the entries that couple the chains. The product of a chain's
last vector with A has a part outside the basis. This part is an open end; its norm enters the residuals. If an open end
keeps a wanted pair from converging, it is followed before a new chain starts.
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

MIN_STEPS = 7  # a start may be almost orthogonal to the first eigenvector; gaps between earlier Ritz values mislead
QUIET_STEPS = 5  # the residual of a Ritz value that still moves may be small by chance, but not so often in a row
SMALLEST = 1e-3  # errors of eigenvalues below this share of the spectral radius are relative to the share: zeros exist


@dataclass(frozen=True)
class Eigenvalues:
    """Extreme eigenvalues.

    Attributes:
        top: the largest, descending.
        bottom: the smallest, ascending.
        top_errors, bottom_errors: with `strict` the residual norm of each value, which bounds the distance to the
            nearest eigenvalue; otherwise an estimate of that distance, which is too small for a few starts in 100.
        converged: whether all errors are within the tolerance and, if the search was repeated, the last chain has not
            changed the result.
        num_products: products with the operator.
        radius: the largest |Ritz value|, an estimate of the spectral radius.
        vectors: the eigenvectors of `top`, then of `bottom`, as rows (number, P); None unless asked for.
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
        """The largest error relative to max(|eigenvalue|, 1e-3 radius), which is compared with the tolerance."""
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

    The search is repeated from a new vector if `strict`, or if more than one eigenvalue of one end is wanted.

    Args:
        product: v -> A v.
        num_top, num_bottom: how many of the largest and of the smallest eigenvalues.
        tolerance: largest error of an eigenvalue, relative to the eigenvalue, or to 1e-3 of the spectral radius if the
            eigenvalue is smaller than that (an eigenvalue of zero has no relative error).
        max_steps: the largest number of products. The basis needs memory for as many vectors.
        strict: take the residual norm as the error, which separates close eigenvalues. Otherwise the error is an
            estimate from the gaps: it saves products (2 of 8 for the largest eigenvalue of a network), and is wrong for
            a few starts in 100.
        seed: seed of the random starts.
        start: vector (P,) to start from instead of the first random one.
        with_vectors: return the eigenvectors too.
        storage: device of the basis; None means the device of `like`.
    """
    size = len(like)
    num_wanted = min(num_top + num_bottom, size)
    repeated = strict or max(num_top, num_bottom) > 1
    max_steps = min(max_steps, size)
    first = gaussian(like, seed) if start is None else start.clone()
    basis = torch.empty(0, size, dtype=like.dtype, device=storage or like.device)
    t = np.zeros((0, 0))
    ends: dict[int, Tensor] = {}  # index of a basis vector -> the part of its product that is orthogonal to the basis
    begin = 0  # index of the first vector of the present chain
    quiet = 0  # number of steps in a row after which the present chain looked finished
    settled: np.ndarray | None = None  # the wanted values before the present chain; None in the first chain
    v = first / norm(first)
    while True:
        j = len(t)
        basis = _grown(basis, j, max_steps)
        basis[j] = v
        rows = basis[: j + 1]
        coefficients, w, beta = _orthogonalised(rows, product(v))
        if not math.isfinite(beta):
            return _unknown(num_top, num_bottom, j + 1)
        # v is in the basis now, so its part leaves the open ends: <A v_i, v> is their coefficient, as A is symmetric
        for i, left in ends.items():
            ends[i] = left - v * float(coefficients[i])
        t = np.block([[t, coefficients[:j, None]], [coefficients]])
        theta, s = np.linalg.eigh(t)
        radius = float(np.abs(theta).max())
        exhausted = j + 1 == size
        # A product that stays in the basis leaves rounding noise; followed as an open end it would add a random vector.
        lengths = {i: norm(left) for i, left in ends.items()} | {j: beta}
        negligible = (1e-12 if like.dtype == torch.float64 else 1e-6) * radius
        lengths = {} if exhausted else {i: length for i, length in lengths.items() if length > negligible}
        ends = {i: left for i, left in {**ends, j: w}.items() if i in lengths}
        judge = partial(_judged, tolerance=tolerance, radius=radius, strict=strict)
        result = judge(theta, _residuals(s, lengths), num_top, num_bottom)
        if exhausted:
            break
        found = result.converged and j + 1 >= num_wanted
        # Is the present chain done? Its own part of T is judged alone: in the whole of T, what an earlier chain has
        # found would hide that this chain has not seen the ends of the spectrum yet.
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
        # The next basis vector: a new random direction; or the open end that the wanted pairs need; or, the usual case,
        # the plain next vector of this chain.
        if chain_done and (found or not ends):
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
    """Return NaN for each value: the product of the operator was not finite."""
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
    """Return (inner products of the rows with w, w without its parts along the rows, norm of that).

    The parts are subtracted twice, because one subtraction leaves rounding errors of the size of the parts.
    """
    total = np.zeros(len(rows))
    for _ in range(2):
        coefficients = dots(rows, w)
        total += coefficients.cpu().numpy()
        w = w - (coefficients.to(rows) @ rows).to(w.device)
    return total, w, norm(w)


def _residuals(s: np.ndarray, lengths: dict[int, float]) -> np.ndarray:
    """Return a bound on the residual norm of each Ritz pair: its entries at the open ends times their norms."""
    total = np.zeros(len(s))
    for i, length in lengths.items():
        total += length * np.abs(s[i])
    return total


def _weightiest(s: np.ndarray, lengths: dict[int, float], num_top: int, num_bottom: int) -> int:
    """Return the open end with the largest part in the residuals of the wanted pairs."""
    wanted = [*range(max(0, len(s) - num_top), len(s)), *range(min(num_bottom, len(s)))]
    return max(lengths, key=lambda i: lengths[i] * float(np.abs(s[i, wanted]).max()))


def _nothing_hidden(
    theta: np.ndarray, residual: np.ndarray, found: Eigenvalues, tolerance: float, radius: float
) -> bool:
    """Return whether a further chain has shown no eigenvalue beyond the innermost of those found so far.

    The chain's extreme Ritz value must lie inside by two of its residuals, or have converged to a quarter of the
    tolerance.

    Args:
        theta, residual: the chain's own Ritz values, ascending, and their residuals.
        found: the result over all chains.
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
        # A neighbouring Ritz value may still move towards theta_i by its own residual, which makes the gap smaller.
        others = [abs(theta[j] - theta[i]) - residual[j] for j in (i - 1, i + 1) if 0 <= j < len(theta)]
        gap = min(others, default=0.0)
        return float(min(residual[i], residual[i] ** 2 / gap) if gap > 0 else residual[i])

    converged = all(error(i) <= tolerance * _scale(float(theta[i]), radius) for i in (*top, *bottom))
    values = [[float(theta[i]) for i in side] for side in (top, bottom)]
    errors = [[error(i) for i in side] for side in (top, bottom)]
    return Eigenvalues(values[0], values[1], errors[0], errors[1], converged, len(theta))
