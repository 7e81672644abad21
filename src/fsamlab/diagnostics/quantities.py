"""The quantities that `diagnostics=...` chooses by name: each is a function of an objective or of a decomposition.

A quantity returns a flat dict of floats; docs/metrics.md explains the keys. A new quantity is a function, a row in the
table of its kind, and its name in config.QUANTITIES.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from torch import Tensor

from fsamlab.axes.metric import Adaptive
from fsamlab.config import DiagnosticsConfig
from fsamlab.diagnostics import curvature, sharpness
from fsamlab.diagnostics.decomposition import Decomposition
from fsamlab.diagnostics.objective import Objective
from fsamlab.diagnostics.sharpness import Rise

Values = dict[str, float]
Memo = Callable[[str, Callable[[], Values]], Values]  # (name, function) -> values, computed now or remembered

# ------------------------------------------------------------------- quantities of one objective


def _metrics(objective: Objective, cfg: DiagnosticsConfig) -> Iterator[tuple[str, float, Tensor | None]]:
    """Yield (suffix of the key, rho, T) for the plain ball and, with diagnostics.adaptive, for the adaptive ball."""
    yield "", cfg.rho, None
    if cfg.adaptive:
        yield "_adaptive", cfg.rho_adaptive, sharpness.adaptive(objective, Adaptive(cfg.eta, "official"))


def _parts(name: str, rise: Rise) -> Values:
    return {name: rise.total, f"{name}_first_order": rise.first_order, f"{name}_curvature": rise.curvature}


def _one_step(objective: Objective, cfg: DiagnosticsConfig, seed: int) -> Values:
    found: Values = {}
    for suffix, rho, t in _metrics(objective, cfg):
        found.update(_parts(f"one_step{suffix}", sharpness.one_step(objective, rho, t)))
    return found


def _m_sharpness(objective: Objective, cfg: DiagnosticsConfig, seed: int) -> Values:
    found: Values = {}
    for suffix, rho, t in _metrics(objective, cfg):
        whole, batches = sharpness.m_sharpness(objective, rho, t)
        found.update({**_parts(f"one_step{suffix}", whole), **_parts(f"m_sharpness{suffix}", batches)})
    return found


def _worst_case(objective: Objective, cfg: DiagnosticsConfig, seed: int) -> Values:
    how = {"num_steps": cfg.num_ascent_steps, "num_restarts": cfg.num_restarts, "seed": seed}
    found: Values = {}
    for suffix, rho, t in _metrics(objective, cfg):
        found.update(_parts(f"worst_case{suffix}", sharpness.worst_case(objective, rho, t, **how)))
    return found


def _m_worst_case(objective: Objective, cfg: DiagnosticsConfig, seed: int) -> Values:
    how = {"num_steps": cfg.num_ascent_steps, "num_restarts": cfg.num_restarts, "seed": seed}
    found: Values = {}
    for suffix, rho, t in _metrics(objective, cfg):
        found.update(_parts(f"m_worst_case{suffix}", sharpness.m_worst_case(objective, rho, t, **how)))
    return found


def _average_case(objective: Objective, cfg: DiagnosticsConfig, seed: int) -> Values:
    found: Values = {}
    for suffix, rho, t in _metrics(objective, cfg):
        sigma = rho / math.sqrt(len(objective.zeros()))  # so that E |delta|^2 = rho^2, the radius of the other kinds
        mean, error = sharpness.average_case(objective, sigma, t, num_pairs=cfg.num_pairs, seed=seed)
        found.update({f"average_case{suffix}": mean, f"average_case{suffix}_stderr": error})
    return found


def _eigenvalues(objective: Objective, cfg: DiagnosticsConfig, seed: int) -> Values:
    return curvature.spectrum(objective, cfg.num_eigenvalues, cfg.tolerance, cfg.max_products, seed)


def _trace(objective: Objective, cfg: DiagnosticsConfig, seed: int) -> Values:
    return curvature.trace(objective, cfg.num_probes, seed)


OF_OBJECTIVE: dict[str, tuple[str, Callable[[Objective, DiagnosticsConfig, int], Values]]] = {
    "one_step": ("sharpness", _one_step),
    "m_sharpness": ("sharpness", _m_sharpness),
    "worst_case": ("sharpness", _worst_case),
    "m_worst_case": ("sharpness", _m_worst_case),
    "average_case": ("sharpness", _average_case),
    "eigenvalues": ("curvature", _eigenvalues),
    "trace": ("curvature", _trace),
}

# -------------------------------------------------------------------- quantities of a decomposition

OF_DECOMPOSITION: dict[str, tuple[str, Callable[[Decomposition, float, int], Values]]] = {
    "decomposition": ("perturbation", lambda parts, rho, seed: parts.cosines()),
    "friendliness": ("perturbation", lambda parts, rho, seed: parts.friendliness(rho, seed)),
    "direction_curvature": ("curvature", lambda parts, rho, seed: parts.curvature(seed)),
    "noise": ("noise", lambda parts, rho, seed: parts.noise.values()),
}


def grouped(
    table: Mapping[str, tuple[str, Callable[..., Values]]],
    chosen: set[str],
    *arguments: object,
    memo: Memo | None = None,
) -> Values:
    """Return the values of the chosen quantities of a table, in the table's order, with keys `group/key`.

    Values that are undefined (NaN) are left out.

    Args:
        table: name -> (group, function).
        chosen: names of quantities.
        arguments: arguments of each function.
        memo: may know the values of a quantity from an interrupted attempt. Each quantity takes its random numbers from
            seeds of its own, so its values do not depend on which other quantities are computed.
    """
    values: Values = {}
    for name, (group, quantity) in table.items():
        if name in chosen:
            compute = partial(quantity, *arguments)
            found = compute() if memo is None else memo(name, compute)
            values.update({f"{group}/{key}": value for key, value in found.items() if not math.isnan(value)})
    return values
