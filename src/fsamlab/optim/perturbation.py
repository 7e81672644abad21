"""The axes of the sharpness-aware family: what a perturbation is made of.

    a    the ascent gradient             ASCENTS
    d    the component of a that is kept COMPONENTS, relative to a reference r (REFERENCES)
    eps  = rho T^2 d / |T d|             METRICS

A variant is one choice on each axis. Norms and inner products run over all perturbed tensors jointly.
Names, parameters and what goes together are in fsamlab.axes.rules; a choice in a table here inherits from the
choice of the same name there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from fsamlab.axes import rules
from fsamlab.axes.ascent import ASCENTS, Ascent
from fsamlab.axes.component import COMPONENTS, REFERENCES, Component, Reference
from fsamlab.axes.metric import METRICS, Metric

FULL_GRADIENT = "full_gradient"  # the entry in a parameter's state that SharpnessAware makes

AXES: dict[str, Mapping[str, Any]] = {
    "ascent": ASCENTS,
    "component": COMPONENTS,
    "reference": REFERENCES,
    "metric": METRICS,
}


class Choices(rules.Chosen):
    """One choice on each axis, with its parameters and its state.

    Raises:
        ConfigError: an unknown choice, a value out of range, or choices that mean nothing together.
        TypeError: a parameter that no choice uses.
    """

    ascent: Ascent
    component: Component
    reference: Reference | None
    metric: Metric

    def __init__(
        self, ascent: str, component: str, reference: str | None, metric: str, parameters: dict[str, Any]
    ) -> None:
        names = {"ascent": ascent, "component": component, "reference": reference, "metric": metric}
        chosen = rules.choose(names)
        unused = set(parameters) - {name for choice in chosen.values() for name in choice.of_the_optimizer()}
        if unused:
            raise TypeError(f"no choice made here uses {', '.join(sorted(unused))}")
        made: dict[str, Any] = {"reference": None}
        for axis, rule in chosen.items():
            given = {name: parameters[name] for name in rule.of_the_optimizer() if name in parameters}
            made[axis] = AXES[axis][rule.name](**given)
        super().__init__(**made)
        keys = [key for axis in self.made() for key in axis.state_keys]
        shared = sorted({key for key in keys if keys.count(key) > 1})
        if shared:
            raise TypeError(
                f"two choices made here keep {', '.join(shared)} in a parameter's state: rename one of them"
            )
        self.check()

    @property
    def needs_full(self) -> bool:
        """Whether the gradient over the full training set is kept in each parameter's state."""
        return any(getattr(axis, "needs", None) == rules.FULL for axis in self.made())

    @property
    def full_every_steps(self) -> int:
        """Steps between two passes over the full training set."""
        return next((a.full_every_steps for a in self.made() if hasattr(a, "full_every_steps")), 1)

    @property
    def state_keys(self) -> frozenset[str]:
        """The entries of a parameter's state that belong to the choices."""
        stored = (FULL_GRADIENT,) if self.needs_full else ()
        return frozenset((*stored, *(key for axis in self.made() for key in axis.state_keys)))

    def blank(self, p: Tensor) -> dict[str, Any]:
        """Return the entries of a parameter's state before any step."""
        stored = {FULL_GRADIENT: torch.zeros_like(p)} if self.needs_full else {}
        return {**stored, **{key: value for axis in self.made() for key, value in axis.blank(p).items()}}

    def made(self) -> Iterator[Any]:
        """Iterate over the choices that are made."""
        return (axis for axis in (self.ascent, self.component, self.reference, self.metric) if axis is not None)

    def words(self) -> str:
        """Return where the gradients come from, for messages: `ascent=batch, reference=full`."""
        reference = f", reference={self.reference.name}" if self.reference is not None else ""
        return f"ascent={self.ascent.name}{reference}"

    def _by_axis(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in AXES}

    def state(self) -> dict[str, Any]:
        """Return names, parameters and the choices' own values."""
        parameters = {name: getattr(a, name) for a in self.made() for name in a.of_the_optimizer()}
        values = {axis: {name: getattr(a, name) for name in a.values} for axis, a in self._by_axis().items() if a}
        names = {axis: a.name if a else None for axis, a in self._by_axis().items()}
        return {"choices": names, "parameters": parameters, "values": {k: v for k, v in values.items() if v}}

    def check_state(self, state: dict[str, Any]) -> None:
        """Raise ValueError where `state` is of other choices."""
        mine, theirs = self.state()["choices"], state["choices"]
        differing = [f"{k}={theirs[k]} there, {mine[k]} here" for k in mine if mine[k] != theirs[k]]
        if differing:
            raise ValueError(f"this is the state of another variant: {'; '.join(differing)}")
        for axis, choice in self._by_axis().items():
            missing = set(choice.values if choice else ()) - set(state.get("values", {}).get(axis, {}))
            if missing:
                raise ValueError(f"this state has no {', '.join(sorted(missing))} of {axis}={mine[axis]}")

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore parameters and values; a parameter that is younger than the state keeps its value."""
        for axis, choice in self._by_axis().items():
            if choice is None:
                continue
            for name in choice.of_the_optimizer():
                setattr(choice, name, state["parameters"].get(name, getattr(choice, name)))
            for name in choice.values:
                setattr(choice, name, state["values"][axis][name])
