"""The tensors of a step: which parameters are perturbed, their gradients and references, sorted into parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from fsamlab.axes._ops import Number
from fsamlab.axes.ascent import owned_gradient
from fsamlab.axes.axis import Part
from fsamlab.axes.choices import Choices
from fsamlab.optim.state import differ, like

Own = Mapping[Tensor, dict[str, Any]]  # the choices' state of each parameter


def active(groups: list[dict[str, Any]], radii: list[float], numbers: list[Number]) -> list[tuple[Number, Tensor]]:
    """Return (rho, p) of each parameter whose radius is not 0, in the order of the groups; rho is in `numbers`."""
    return [(rho, p) for rho, radius, group in zip(numbers, radii, groups) if radius != 0 for p in group["params"]]


def follow(params: Iterable[Tensor], own: Own) -> None:
    """Convert the choices' state of parameters that model.to() has converted since the last step."""
    for p in params:
        for key, value in own[p].items():
            if isinstance(value, Tensor) and differ(value, p) and value.shape == p.shape:
                own[p][key] = like(p, value)


def kept_gradients(params: Iterable[Tensor], choices: Choices) -> dict[Tensor, Tensor]:
    """Return p.grad of each parameter that has one, for the descent: no component and no backward writes to it."""
    found = {}
    for p in params:
        g = owned_gradient(p)
        if g is not None:
            found[p] = g.clone() if choices.component.linear and g is p.grad else g
    return found


def sorted_parts(
    params: list[tuple[Number, Tensor]], gradients: list[Tensor | None], choices: Choices, own: Own
) -> list[Part]:
    """Return the parameters that have an ascent gradient, in parts of equal rho and form of the reference.

    A radius that is a tensor is that of one group.

    Args:
        params: (rho, p) of each perturbed parameter.
        gradients: the ascent gradient of each, None where there is none.
        choices: whose reference says the form.
        own: the choices' state of each parameter.

    Raises:
        ValueError: `gradients` are not one for each parameter, of the parameter's shape.
    """
    name = choices.ascent.name
    if len(gradients) != len(params):
        raise ValueError(f"ascent={name} returned {len(gradients)} gradients for {len(params)} parameters")
    parts: dict[tuple[Any, ...], Part] = {}
    for (rho, p), a in zip(params, gradients):
        if a is None:
            continue
        if a.shape != p.shape:  # arithmetic would stretch a over p without a word
            shapes = f"{tuple(a.shape)} for a parameter of shape {tuple(p.shape)}"
            raise ValueError(f"ascent={name} returned a gradient of shape {shapes}")
        state = own[p]
        m, on_a, on_m = choices.reference.form(state) if choices.reference else (None, 0.0, 0.0)
        form = rho, on_a, on_m, m is None
        part = parts.get(form)
        if part is None:
            part = parts[form] = Part(rho, on_a, on_m)
        part.params.append(p)
        part.states.append(state)
        part.a.append(a)
        if m is not None:
            part.m.append(m)
    return list(parts.values())


def named_weights(model: nn.Module | None, choices: Choices) -> frozenset[Tensor]:
    """Return the parameters with "weight" in their name, where the metric goes by names.

    Raises:
        ValueError: there is no model to tell the names.
    """
    if not choices.metric.by_name:
        return frozenset()
    if model is None:
        raise ValueError("adaptive_form=official goes by parameter names: pass model=, or use adaptive_form=all")
    return frozenset(p for name, p in model.named_parameters() if "weight" in name)
