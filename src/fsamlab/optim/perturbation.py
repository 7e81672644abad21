"""The axes of the sharpness-aware family: what a perturbation is made of.

    a    the ascent gradient             ASCENTS
    d    the component of a that is kept COMPONENTS, relative to a reference r (REFERENCES)
    eps  = rho T^2 d / |T d|             METRICS

A variant is one choice on each axis. Norms and inner products run over all perturbed tensors jointly.
Fields of the classes bear the names of the config's fields, so that a table row is all a new choice needs.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from fsamlab.config import PAPER_SIGMA_LIMIT, ConfigError, one_of
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
COMPONENTS: dict[str, type[Component]] = {c.name: c for c in (All, Subtract, ProjectOut, ProjectOn, ReferenceOnly)}
METRICS: dict[str, type[Metric]] = {"l2": L2, "adaptive": Adaptive}


def _fields(choice: Any) -> list[str]:
    return [f.name for f in fields(choice)] if is_dataclass(choice) else []


def _choose(table: dict[str, Any], axis: str, name: str, parameters: dict[str, Any]) -> Any:
    one_of(axis, name, tuple(table))
    return table[name](**{k: parameters[k] for k in _fields(table[name]) if k in parameters})


class Choices:
    """One choice on each axis, with its parameters.

    Raises:
        ConfigError: an unknown choice, a value out of range, or choices that mean nothing together.
        TypeError: a parameter that no choice uses.
    """

    def __init__(
        self, ascent: str, component: str, reference: str | None, metric: str, parameters: dict[str, Any]
    ) -> None:
        self.ascent: Ascent = _choose(ASCENTS, "ascent", ascent, parameters)
        self.component: Component = _choose(COMPONENTS, "component", component, parameters)
        self.reference: Reference | None = (
            _choose(REFERENCES, "reference", reference, parameters) if reference else None
        )
        self.metric: Metric = _choose(METRICS, "metric", metric, parameters)
        unused = sorted(set(parameters) - {name for axis in self._axes() for name in _fields(axis)})
        if unused:
            raise TypeError(f"no choice made here uses {', '.join(unused)}")
        check_combination(self.ascent, self.component, self.reference)

    @property
    def full_every_steps(self) -> int:
        """Steps between two passes over the full training set."""
        return next((a.full_every_steps for a in self._axes() if hasattr(a, "full_every_steps")), 1)

    def _axes(self) -> list[Any]:
        return [a for a in (self.ascent, self.component, self.reference, self.metric) if a is not None]

    def state(self) -> dict[str, Any]:
        """Return names and parameters."""
        names = {
            key: getattr(getattr(self, key), "name", None) for key in ("ascent", "component", "reference", "metric")
        }
        return {"choices": names, "parameters": {k: getattr(a, k) for a in self._axes() for k in _fields(a)}}

    def check_state(self, state: dict[str, Any]) -> None:
        """Raise ValueError where `state` is of other choices."""
        mine, theirs = self.state()["choices"], state["choices"]
        differing = [f"{k}={theirs[k]} there, {mine[k]} here" for k in mine if mine[k] != theirs[k]]
        if differing:
            raise ValueError(f"this is the state of another variant: {'; '.join(differing)}")

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore the parameters."""
        for axis in self._axes():
            for name in _fields(axis):
                setattr(axis, name, state["parameters"][name])


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
        if component.sigma * (1 - reference.lmbda) > 1 - 1e-9:
            raise ConfigError("sigma", component.sigma, f"{PAPER_SIGMA_LIMIT} (= {1 / (1 - reference.lmbda):g})")
        if component.sigma >= 1 and reference.ema_init != "zero":
            raise ConfigError(
                "ema_init",
                reference.ema_init,
                "order=paper with sigma >= 1 starts with (1 - sigma) times the gradient; use ema_init=zero",
            )
