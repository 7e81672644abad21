"""The axes of the sharpness-aware family: what a perturbation is made of.

    a    the ascent gradient             ASCENTS
    d    the component of a that is kept COMPONENTS, relative to a reference r (REFERENCES)
    eps  = rho T^2 d / |T d|             METRICS

A variant is one choice on each axis. Norms and inner products run over all perturbed tensors jointly.
Fields of the classes bear the names of the config's fields, so that a table row is all a new choice needs.
"""

from __future__ import annotations

from fsamlab.config import PAPER_SIGMA_LIMIT, ConfigError
from fsamlab.optim.ascent import Ascent, Batch, FullSet, Gaussian, NoAscent, OtherBatch
from fsamlab.optim.component import (
    All,
    Component,
    Ema,
    FullGradient,
    ProjectOn,
    ProjectOut,
    Reference,
    ReferenceOnly,
    Subtract,
)
from fsamlab.optim.metric import L2, Adaptive, Metric

ASCENTS: dict[str, type[Ascent]] = {c.name: c for c in (NoAscent, Batch, OtherBatch, FullSet, Gaussian)}
REFERENCES: dict[str, type[Reference]] = {"ema": Ema, "full": FullGradient}
COMPONENTS: dict[str, type[Component]] = {
    c.name: c for c in (All, Subtract, ProjectOut, ProjectOn, ReferenceOnly)
}
METRICS: dict[str, type[Metric]] = {"l2": L2, "adaptive": Adaptive}


def check_combination(ascent: Ascent, component: Component, reference: Reference | None) -> None:
    """Refuse choices that mean nothing together, by name.

    Raises:
        ConfigError: names the choice and what would be allowed.
    """
    if isinstance(ascent, NoAscent) and not isinstance(component, All):
        raise ConfigError("component", component.name, "ascent=none has no direction; use component=all")
    if isinstance(component, All) != (reference is None):
        given = "none" if reference is None else reference.name
        wanted = "takes no reference" if reference is not None else "needs reference=ema or full"
        raise ConfigError("reference", given, f"component={component.name} {wanted}")
    if reference is not None and isinstance(ascent, Gaussian):
        raise ConfigError("reference", reference.name, "ascent=gaussian has no mean to remove; use component=all")
    if isinstance(reference, FullGradient) and isinstance(ascent, FullSet):
        raise ConfigError("reference", "full", "ascent=full is the full gradient already; use component=all")
    if isinstance(reference, Ema) and isinstance(component, Subtract) and reference.order == "paper":
        limit = 1 / (1 - reference.lmbda)
        if component.sigma >= limit:
            raise ConfigError("sigma", component.sigma, f"{PAPER_SIGMA_LIMIT} (= {limit:g})")
        if component.sigma >= 1 and reference.ema_init != "zero":
            raise ConfigError(
                "ema_init",
                reference.ema_init,
                "order=paper with sigma >= 1 starts with (1 - sigma) times the gradient; use ema_init=zero",
            )
