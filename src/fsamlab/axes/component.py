"""Second axis: the component d of the ascent gradient that is kept, relative to a reference r."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fsamlab.axes import rules
from fsamlab.axes._ops import Ops, Tensors, global_dot
from fsamlab.axes.axis import Axis, Part, State


class Reference(rules.Reference, Axis):
    """What a component is relative to: r = on_a a + on_m m, m a tensor that the state of the parameter holds."""

    def form(self, state: dict[str, Any]) -> tuple[Tensor | None, float, float]:
        """Return (m or None where there is none yet, on_a, on_m) of r for a parameter with this state."""
        raise NotImplementedError


class Ema(rules.Ema, Reference):
    """Moving average of the raw ascent gradients.

    Starts and counts are per tensor; a tensor without a gradient keeps its average. It has the dtype of its
    parameter.
    """

    state_keys = ("ema", "ema_steps")

    def blank(self, p: Tensor) -> dict[str, Any]:
        """Return an EMA of nothing."""
        return {"ema": torch.zeros_like(p), "ema_steps": 0}

    def form(self, state: dict[str, Any]) -> tuple[Tensor | None, float, float]:
        """Return (m_{t-1} or None, on_a, on_m) of r for a tensor with this state."""
        m, n = state.get("ema"), state.get("ema_steps", 0)
        debiased = self.ema_init == "zero_debiased"
        if self.order == "official":
            return m, 0.0, (1 / (1 - self.lmbda**n) if debiased and n else 1.0)
        if m is None and self.ema_init == "first_gradient":
            return None, 1.0, 0.0
        bias = 1 - self.lmbda ** (n + 1) if debiased else 1.0
        return m, (1 - self.lmbda) / bias, self.lmbda / bias

    def update(self, part: Part, state: State, ops: Ops) -> None:
        """Feed the raw gradients of a part, recovered from part.a = alpha a - beta m where it was reused."""
        new = 1 - self.lmbda
        if part.m:
            keep = 1 - new * (1 - part.beta / part.alpha)
            if keep != 1:
                ops.mul_(part.m, keep)
            ops.add_(part.m, part.a, alpha=new / part.alpha)
        else:
            first = (1.0 if self.ema_init == "first_gradient" else new) / part.alpha
            for p, m in zip(part.params, ops.scaled(part.a, first)):
                state[p]["ema"] = m
        for p in part.params:
            state[p]["ema_steps"] = state[p].get("ema_steps", 0) + 1


class FullGradient(rules.FullGradient, Reference):
    """The gradient over the full training set; SharpnessAware stores it."""

    state_keys = ("full_gradient",)

    def form(self, state: dict[str, Any]) -> tuple[Tensor | None, float, float]:
        """Return (G or None, 0, 1)."""
        return state.get("full_gradient"), 0.0, 1.0


class Component(rules.Component, Axis):
    """Which part of the ascent gradient is kept. Tensors without a reference yet keep all of it."""

    def set_direction(self, parts: list[Part], ops: Ops) -> None:
        """Set part.d of every part.

        `part.a` is read afterwards, by the update of references: it may be written to only as alpha a - beta m, with
        `part.alpha` and `part.beta` set, so that the ascent gradient can be had back.
        """
        raise NotImplementedError


class All(rules.All, Component):
    """d = a."""

    def set_direction(self, parts: list[Part], ops: Ops) -> None:
        """Set d = a."""
        for part in parts:
            part.d = part.a


class Subtract(rules.Subtract, Component):
    """d = a - sigma r (F-SAM, arXiv 2403.12350 and Algorithm 1)."""

    def set_direction(self, parts: list[Part], ops: Ops) -> None:
        """Set d = (1 - sigma on_a) a - sigma on_m m, in the memory of a: one model copy less."""
        for part in parts:
            part.alpha = 1 - self.sigma * part.on_a
            part.beta = self.sigma * part.on_m if part.m else 0.0
            if part.alpha != 1:
                ops.mul_(part.a, part.alpha)
            if part.beta != 0:
                ops.add_(part.a, part.m, alpha=-part.beta)
            part.d = part.a


class _Projection(Component):
    def set_direction(self, parts: list[Part], ops: Ops) -> None:
        """Set d from the joint coefficient c = <a, r> / |r|^2; c = 0 for r = 0."""
        references = [part.reference(ops) for part in parts]
        known = [(part, r) for part, r in zip(parts, references) if r is not None]
        c: Tensor | None = None
        if known:
            r_all = [x for _, r in known for x in r]
            square = global_dot(r_all, r_all)
            c = global_dot([x for part, _ in known for x in part.a], r_all)
            c = torch.where(square == 0, 0.0, c / square)
        for part, r in zip(parts, references):
            part.d = part.a if r is None or c is None else self.kept(part.a, ops.scaled(r, c), ops)

    def kept(self, a: Tensors, projection: Tensors, ops: Ops) -> Tensors:
        """Return d, given a and its projection c r (which may be overwritten)."""
        raise NotImplementedError


class ProjectOut(rules.ProjectOut, _Projection):
    """d = a - (<a, r> / |r|^2) r: the batch-specific noise (SAM-noise)."""

    def kept(self, a: Tensors, projection: Tensors, ops: Ops) -> Tensors:
        """Return a - c r."""
        ops.mul_(projection, -1.0)
        ops.add_(projection, a)
        return projection


class ProjectOn(rules.ProjectOn, _Projection):
    """d = (<a, r> / |r|^2) r: the full-gradient component (SAM-component, Figure 1)."""

    def kept(self, a: Tensors, projection: Tensors, ops: Ops) -> Tensors:
        """Return c r."""
        return projection


class ReferenceOnly(rules.ReferenceOnly, Component):
    """d = r (SAM-full with the EMA as estimate; VaSSO, arXiv 2309.15639)."""

    def set_direction(self, parts: list[Part], ops: Ops) -> None:
        """Set d = r."""
        for part in parts:
            r = part.reference(ops)
            part.d = part.a if r is None else r


REFERENCES: dict[str, type[Reference]] = rules.table(Ema, FullGradient)
COMPONENTS: dict[str, type[Component]] = rules.table(All, Subtract, ProjectOut, ProjectOn, ReferenceOnly)
