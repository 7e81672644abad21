"""Curvature: extreme eigenvalues of the Hessian H, its trace, and v'Hv along given directions."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from fsamlab.diagnostics.lanczos import Eigenvalues, eigenvalues
from fsamlab.diagnostics.objective import Objective
from fsamlab.diagnostics.vectors import dot, rademacher
from fsamlab.seeding import derive_seed

__all__ = ["Eigenvalues", "along", "hessian_eigenvalues", "spectrum", "trace"]


def hessian_eigenvalues(
    objective: Objective,
    *,
    num_top: int = 1,
    num_bottom: int = 0,
    tolerance: float = 1e-3,
    max_steps: int = 100,
    strict: bool = False,
    seed: int = 0,
    with_vectors: bool = False,
    keep_graph: bool | None = None,
) -> Eigenvalues:
    """Return the largest and smallest eigenvalues of the Hessian.

    The arguments are those of :func:`~fsamlab.diagnostics.lanczos.eigenvalues`. Each Lanczos step costs a product (2 to
    3 G); the largest eigenvalue to 1e-3 takes 7 to 10 steps.
    """
    with objective.hessian(keep_graph) as hessian:
        return eigenvalues(
            hessian,
            hessian.like,
            num_top=num_top,
            num_bottom=num_bottom,
            tolerance=tolerance,
            max_steps=max_steps,
            strict=strict,
            seed=seed,
            with_vectors=with_vectors,
        )


def spectrum(
    objective: Objective, num_eigenvalues: int = 5, tolerance: float = 1e-3, max_steps: int = 100, seed: int = 0
) -> dict[str, float]:
    """Return both ends of the spectrum as `lambda_max`, `lambda_2`, ..., `lambda_min`, and their accuracy.

    `lambda_error` is the largest residual norm relative to max(|lambda|, 1e-3 spectral radius); an exact eigenvalue
    lies within this distance. `lambda_converged` is 1 if `lambda_error` is at most the tolerance and a repeated search
    found no further eigenvalue. `lambda_ratio` is lambda_1 / lambda_k of the papers (Jastrzebski et al., 2002.09572,
    use k = 5); it is absent if lambda_k is not positive, or not larger than its error.
    """
    found = hessian_eigenvalues(
        objective,
        num_top=num_eigenvalues,
        num_bottom=1,
        tolerance=tolerance,
        max_steps=max_steps,
        strict=True,
        seed=seed,
    )
    names = ["lambda_max", *(f"lambda_{i}" for i in range(2, len(found.top) + 1))]
    values = dict(zip(names, found.top))
    rounding = 1e-12 if objective.zeros().dtype == torch.float64 else 1e-6
    if len(found.top) > 1 and found.top[-1] > max(found.top_errors[-1], rounding * found.radius):
        values["lambda_ratio"] = found.top[0] / found.top[-1]
    values["lambda_min"] = found.bottom[0]
    values["lambda_error"] = found.relative_error
    values["lambda_converged"] = float(found.converged)
    values["lambda_products"] = float(found.num_products)
    return values


def trace(objective: Objective, num_probes: int = 10, seed: int = 0) -> dict[str, float]:
    """Return Hutchinson's estimate of tr H, the mean of z'Hz over random signs z, and its standard error.

    The variance of one probe is 2 (|H|_F^2 - sum_i H_ii^2) (Hutchinson 1989). Costs a product for each probe.
    """
    with objective.hessian() as hessian:
        probes = (rademacher(hessian.like, derive_seed(seed, k)) for k in range(num_probes))
        values = torch.tensor([dot(z, hessian(z)) for z in probes], dtype=torch.float64)
    error = float(values.std()) / math.sqrt(num_probes) if num_probes > 1 else math.nan
    return {"trace": float(values.mean()), "trace_stderr": error}


def along(objective: Objective, directions: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the Rayleigh quotient v'Hv / |v|^2 of each direction v (P,), NaN for v = 0. Costs a product for each."""
    values = {}
    with objective.hessian() as hessian:
        for name, v in directions.items():
            square = dot(v, v)
            values[name] = dot(v, hessian(v)) / square if square else math.nan
    return values
